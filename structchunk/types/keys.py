"""Keys: integers in [0, 2**64), whatever they are handed in as."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from .foreign import are_wide, array_of, has_nulls, is_masked

__all__ = ["MAX_KEY", "as_bound", "as_key", "as_keys", "distinct", "key_or_none", "keys_among", "modular"]

MAX_KEY = 2**64 - 1

_Keys = npt.NDArray[np.uint64]
_UINT64 = np.dtype(np.uint64)


def as_key(key: object) -> int:
    """Return one key as a plain int.

    Parameters
    ----------
    key : int or NumPy integer
        Anything with ``__index__``, but no bool.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is not in ``[0, 2**64)``.
    """
    if type(key) is int and 0 <= key <= MAX_KEY:
        return key
    number = _as_integer(key)
    if not 0 <= number <= MAX_KEY:
        raise ValueError(f"a key is in the range 0 to 2**64 - 1, found {_shown(number)}")
    return number


def key_or_none(key: object) -> int | None:
    """Return one key as a plain int, or None for what can be no key, as it is neither an integer nor in range."""
    try:
        return as_key(key)
    except (TypeError, ValueError):
        return None


def as_bound(bound: object, default: int) -> int:
    """Return one end of a range of keys: an int in ``[0, 2**64]``, or the default for None.

    Raises
    ------
    TypeError, ValueError
        As `as_key`; but ``2**64``, the end of all keys, is allowed.
    """
    if bound is None:
        return default
    if type(bound) is int and bound == MAX_KEY + 1:
        return bound
    return as_key(bound)


def as_keys(keys: object) -> _Keys:
    """Return many keys as an array.

    Parameters
    ----------
    keys : iterable of int
        A NumPy array of integers or of Python objects, a range, or any iterable of what `as_key` takes.

    Returns
    -------
    ndarray of uint64, shape (n,)
        Contiguous; `keys` itself if it is such an array.

    Raises
    ------
    TypeError
        If they are not integers.
    ValueError
        If one is not in ``[0, 2**64)``, is masked or a null, or the array is not 1-D.
    """
    if type(keys) is np.ndarray and keys.dtype == _UINT64 and keys.ndim == 1 and keys.flags.c_contiguous:
        return cast("_Keys", keys)
    if isinstance(keys, range):
        return _from_range(keys)
    found = _integers(keys)
    if isinstance(found, list):
        return _from_list(found)
    if found.size:
        as_key(found.min())  # no unsigned 64-bit array has a maximum out of range
    return np.ascontiguousarray(found, dtype=np.uint64)


def keys_among(numbers: object) -> tuple[_Keys, npt.NDArray[np.bool_]]:
    """Return many integers, which may be out of the range of keys, as an array, and tell which are not.

    Parameters
    ----------
    numbers : iterable of int
        As for `as_keys`.

    Returns
    -------
    keys : ndarray of uint64, shape (n,)
        The integers modulo ``2**64``.
    is_key : ndarray of bool, shape (n,)
        Which of them are in ``[0, 2**64)``.

    Raises
    ------
    TypeError, ValueError
        As for `as_keys`, but for integers out of range.
    """
    if isinstance(numbers, range):
        return modular(numbers), _in_range(numbers)
    found = _integers(numbers)
    if not isinstance(found, list):
        return np.ascontiguousarray(found).astype(np.uint64, copy=False), np.asarray(found >= 0)
    try:
        return _from_list(found), np.ones(len(found), np.bool_)
    except ValueError:
        integers = [_as_integer(number) for number in found]
    is_key = np.array([0 <= number <= MAX_KEY for number in integers])
    return np.array([number & MAX_KEY for number in integers], np.uint64), is_key


def distinct(keys: _Keys) -> _Keys:
    """Return keys in ascending order, each once; unlike ``np.unique``, which hashes them, in the time of a sort."""
    ascending: _Keys = np.sort(keys)
    is_first = np.ones(len(keys), np.bool_)
    is_first[1:] = ascending[1:] != ascending[:-1]
    return ascending[is_first]


def modular(values: range) -> _Keys:
    """Return a range as uint64 modulo 2**64, in which what is negative is large and nothing overflows."""
    first, step = np.uint64(values.start % 2**64), np.uint64(values.step % 2**64)
    numbers: _Keys = first + step * np.arange(len(values), dtype=np.uint64)
    return numbers


def _as_integer(key: object) -> int:
    if isinstance(key, (bool, np.bool_)):
        raise TypeError(f"a key is an integer, found the bool {key}")
    if is_masked(key):
        raise TypeError("a key is an integer, found a masked value")
    try:
        return operator.index(key)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"a key is an integer, found {type(key).__name__}{_advice(key)}") from None


def _from_range(keys: range) -> _Keys:
    for end in (*keys[:1], *keys[-1:]):
        as_key(end)
    return modular(keys)


def _in_range(numbers: range) -> npt.NDArray[np.bool_]:
    """Tell which numbers of a range are keys."""
    rising = numbers if numbers.step > 0 else numbers[::-1]
    first, stop = (len(range(rising.start, min(rising.stop, end), rising.step)) for end in (0, MAX_KEY + 1))
    is_key = np.zeros(len(numbers), np.bool_)
    is_key[first:stop] = True
    return is_key if rising is numbers else is_key[::-1]


def _integers(keys: object) -> npt.NDArray[Any] | list[Any]:
    """Return many keys as a 1-D array of integers, of whatever type, or as a list of anything."""
    if hasattr(keys, "__array__") and (is_masked(keys) or has_nulls(keys)):
        raise ValueError("found masked keys or nulls among the keys; every record has a key")
    if not hasattr(keys, "__array__") or are_wide(keys):
        if isinstance(keys, (str, bytes, bytearray)) or not isinstance(keys, Iterable):
            raise TypeError(f"keys are an iterable of integers, found {type(keys).__name__}")
        return list(keys)
    array = array_of(keys)
    if array.ndim != 1:
        raise ValueError(f"keys are a 1-D array, found {array.ndim}-D of shape {array.shape}")
    if array.size == 0:
        return np.empty(0, np.uint64)
    if array.dtype.kind == "O":
        objects: list[Any] = array.tolist()
        return objects
    if array.dtype.kind not in "iu":
        raise TypeError(f"keys are integers, found an array of {array.dtype}")
    return np.asarray(array)


def _from_list(keys: list[Any]) -> _Keys:
    if not set(map(type, keys)) <= {int} or min(keys, default=0) < 0:
        keys = list(map(as_key, keys))  # NumPy before 2 would make a large key of a negative one
    try:
        # Told the dtype: left to itself, NumPy makes floats of small and large integers together.
        return np.array(keys, dtype=np.uint64)
    except OverflowError:
        return np.array(list(map(as_key, keys)), dtype=np.uint64)


def _advice(key: object) -> str:
    """Return how to ask for many records, for those who did so as for the items of a sequence."""
    if isinstance(key, slice):
        return _advice_on_slice(key)
    if key is ...:
        return "; read() reads all records"
    if isinstance(key, (list, np.ndarray)):
        return "; get_many() reads many keys, put_many() stores them, delete_many() deletes them"
    return ""


def _advice_on_slice(keys: slice) -> str:
    bounds = f"({keys.start!r}, {keys.stop!r})"
    if keys.stop is None:
        bounds = "()" if keys.start is None else f"({keys.start!r})"
    if keys.step is None or keys.step == 1:
        return f"; scan{bounds} reads a range of keys, delete_range{bounds} deletes one"
    if isinstance(keys.step, int) and keys.step < 0:
        return "; a step is not supported: items(start, stop, reverse=True) reads a range of keys backwards"
    return f"; a step is not supported: scan{bounds} reads all records of a range of keys"


def _shown(number: int) -> str:
    return str(number) if number.bit_length() < 128 else f"one of {number.bit_length()} bits"
