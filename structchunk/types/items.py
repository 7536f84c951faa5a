"""Flat lists of Python's and NumPy's scalars as arrays, each item by its own type.

Left to itself, NumPy chooses one type for a whole list first, and changes what that type cannot hold: large
integers beside a float, times in several units. So items of one type go together; where all of them are small,
NumPy can tell at once that nothing changes.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import numbers
import operator
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .casts import EXACT_UP_TO, exact, refuse
from .times import LENGTHS, MOMENTS, as_time, as_times

__all__ = ["REALS", "from_groups", "from_items"]

_Array = npt.NDArray[Any]
_Items = Sequence[Any]

REALS = frozenset([bool, int, float, np.bool_, *(np.dtype(code).type for code in "bBhHiIlLqQefd")])
"""Types whose values float64 rounds correctly, and holds exactly if they are small."""
_ALIKE: dict[type[Any], Any] = {bool: np.bool_, float: np.float64, complex: np.complex128}


def from_items(items: _Items, kinds: set[type[Any]], dtype: np.dtype[Any], where: str = "") -> _Array:
    """Return a flat list as an array, to be cast to `dtype`.

    Parameters
    ----------
    items : list or tuple
        Of scalars.
    kinds : set of type
        All types of the items.
    dtype : numpy.dtype
        What they are to become, without fields.
    where : str
        Begins the messages.

    Returns
    -------
    ndarray, shape (n,)
        Of the items' own type, or already of `dtype`; nothing was changed.

    Raises
    ------
    TypeError
        If items of one type are never taken for `dtype`.
    ValueError
        If an item would change, or is not whole; the message shows it as it was given.
    """
    for kind in kinds:
        if not _fits(kind, dtype):
            raise TypeError(
                f"{where}found {kind.__name__}, expected {_EXPECTED.get(dtype.kind, 'values of')} {dtype}"
            )
    if not kinds:
        return np.zeros(0, dtype)
    if dtype.kind in _MAKERS:
        return _MAKERS[dtype.kind](items, dtype, where)
    return _numbers(items, kinds, dtype, where)


def from_groups(
    items: _Items,
    keys: Sequence[Hashable],
    make: Callable[[_Items, Any], _Array],
    dtype: np.dtype[Any],
    where: str,
    shape: tuple[int, ...] = (),
) -> _Array:
    """Return items as an array of `dtype`, cast group by group.

    Parameters
    ----------
    items : sequence
    keys : sequence
        One for each item. Items of equal keys are of one type.
    make : callable
        Returns the items of one group, given with their key, as an array of that type.
    dtype : numpy.dtype
    where : str
        Begins the messages.
    shape : tuple of int
        Of one item.
    """
    if all(map(operator.eq, keys, itertools.repeat(keys[0]))):
        return make(items, keys[0])
    codes = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    found = np.fromiter(map(codes.__getitem__, keys), np.intp, len(keys))
    out = np.zeros((len(items), *shape), dtype)
    for key, code in codes.items():
        mine = found == code
        out[mine] = exact(make(list(itertools.compress(items, mine.tolist())), key), dtype, where)
    return out


def _fits(kind: type[Any], dtype: np.dtype[Any]) -> bool:
    """Whether items of a type are taken for a dtype at all."""
    if dtype.kind in _TAKEN:
        return issubclass(kind, _TAKEN[dtype.kind])
    if kind in REALS:
        return True
    # A timedelta64 is an integer to NumPy; a Decimal is a number, but none of the numeric tower.
    is_number = issubclass(kind, (numbers.Complex, np.bool_)) and not issubclass(kind, np.timedelta64)
    is_plain = issubclass(kind, (int, float, complex, np.generic))
    return is_number and (is_plain or dtype.kind in "iu")


# ---------------------------------------------------------------- numbers


def _numbers(items: _Items, kinds: set[type[Any]], dtype: np.dtype[Any], where: str) -> _Array:
    if len(kinds) == 1:
        return _alike(items, next(iter(kinds)), dtype, where)
    if kinds <= REALS:
        small = _small(items, dtype)
        if small is not None:
            # What it refuses is refused again below, where it is still as it was given.
            with contextlib.suppress(ValueError):
                return exact(small, dtype, where)
    each = list(map(type, items))
    return from_groups(items, each, lambda group, kind: _alike(group, kind, dtype, where), dtype, where)


def _small(items: _Items, dtype: np.dtype[Any]) -> _Array | None:
    """Return items as float64 if all are so small that neither it nor `dtype` changes an integer among them."""
    part = {"f": dtype.itemsize, "c": dtype.itemsize // 2}.get(dtype.kind, 8)
    try:
        array = np.array(items, np.float64)
    except OverflowError:
        return None
    return None if (np.abs(array) >= EXACT_UP_TO[part]).any() else array


def _alike(items: _Items, kind: type[Any], dtype: np.dtype[Any], where: str) -> _Array:
    """Return numbers that are all of one type."""
    if kind in _ALIKE:
        return np.array(items, _ALIKE[kind])
    if issubclass(kind, np.generic):
        return np.array(items, items[0].dtype)
    for plain in (float, complex):
        if issubclass(kind, plain):
            return np.array(items, plain)
    return _integers(items if issubclass(kind, int) else _whole(items, dtype, where), dtype, where)


def _whole(items: _Items, dtype: np.dtype[Any], where: str) -> list[int]:
    """Return numbers of other libraries, and fractions, as integers."""
    for item in items:
        if not isinstance(item, numbers.Integral) and not (math.isfinite(item) and item == int(item)):
            refuse(item, dtype, where)
    return list(map(int, items))


def _integers(items: _Items, dtype: np.dtype[Any], where: str) -> _Array:
    with contextlib.suppress(OverflowError):
        return np.array(items, np.int64)
    if min(items) >= 0:  # NumPy before 2 makes large integers of negative ones
        with contextlib.suppress(OverflowError):
            return np.array(items, np.uint64)
    if dtype.kind in "fc":
        return _large(items, dtype, where)
    low, high = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    refuse(next(item for item in items if not low <= item <= high), dtype, where)


def _large(items: _Items, dtype: np.dtype[Any], where: str) -> _Array:
    """Return integers that no integer type of NumPy holds as floats, if those are equal to them."""
    part = np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype
    with np.errstate(over="ignore"):
        array = _nearest(items).astype(part)
    equal = list(map(operator.eq, items, array.tolist()))  # compared exactly
    if not all(equal):
        refuse(items[equal.index(False)], dtype, where)
    return array


def _nearest(items: _Items) -> _Array:
    with contextlib.suppress(OverflowError):
        return np.array(items, np.float64)
    limit = int(np.finfo(np.float64).max)
    return np.array([min(max(item, -limit), limit) for item in items], np.float64)


# ---------------------------------------------------------------- text, bytes, times


def _texts(items: _Items, dtype: np.dtype[Any], where: str) -> _Array:
    width = dtype.itemsize if dtype.kind == "S" else dtype.itemsize // 4
    lengths = np.fromiter(map(len, items), np.int64, len(items))
    if lengths.max() > width:  # before an array is made in which each item takes as much as the longest
        refuse(items[int(lengths.argmax())], dtype, where)
    is_text = {kind: issubclass(kind, str) for kind in set(map(type, items))}
    array = from_groups(
        items, [*map(is_text.__getitem__, map(type, items))], lambda group, _: np.array(group), dtype, where
    )
    cut = np.char.str_len(array) != lengths
    if cut.any():
        found = items[int(cut.argmax())]
        raise ValueError(f"{where}found {found!r}, of which {dtype} would lose the last NUL")
    return array


def _voids(items: _Items, dtype: np.dtype[Any], where: str) -> _Array:
    for item in items:
        size = len(item) if isinstance(item, bytes) else item.nbytes
        if size != dtype.itemsize:
            raise ValueError(f"{where}found {size} bytes, expected {dtype.itemsize}")
    return np.frombuffer(b"".join(items), dtype)


def _times(items: _Items, dtype: np.dtype[Any], where: str) -> _Array:
    kinds = set(map(type, items))
    alike = as_times(items, *kinds) if len(kinds) == 1 else None
    if alike is not None:
        return alike
    if any(not issubclass(kind, np.generic) or issubclass(kind, str) for kind in kinds):
        items = [as_time(item, where) for item in items]
    units = list(map(operator.attrgetter("dtype"), items))
    return from_groups(items, units, np.array, dtype, where)


_MAKERS = {"S": _texts, "U": _texts, "V": _voids, "M": _times, "m": _times}
_TAKEN: dict[str, Any] = {
    "S": (str, bytes),
    "U": (str, bytes),
    "V": (bytes, np.void),
    "M": MOMENTS,
    "m": LENGTHS,
}
_EXPECTED = {"S": "text for", "U": "text for", "V": "bytes for", "M": "times for", "m": "timedeltas for"}
