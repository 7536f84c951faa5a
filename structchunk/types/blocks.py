"""The items of many records, end to end: of blocks, of items with lengths, and of rows of any lengths.

Where the rows are one array of offsets and items (of pyarrow, Polars, pandas or Awkward Array), or NumPy arrays of
one dtype, no step of Python is made for each. If some do not fit, all are tried again, by halves, until it is clear
which is the first.
"""

from __future__ import annotations

import ctypes
import itertools
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from .coerce import is_list
from .convert import as_array, as_items
from .foreign import array_of, has_nulls, is_masked, list_parts, lists_of

__all__ = ["as_block"]

_Array = npt.NDArray[Any]
_Block = tuple[_Array, npt.NDArray[np.int64]]

_NO_ROWS = (np.generic, numbers.Number, str, bytes, Mapping, ctypes.Structure)


def as_block(
    values: object, lengths: object, dtype: np.dtype[Any], keys: npt.NDArray[np.uint64] | Sequence[int] = ()
) -> _Block:
    """Return the items of many records, end to end.

    Parameters
    ----------
    values : array-like
        One record a row: 2-D; or a sequence or column of arrays or lists of any lengths. If `lengths` says where
        each record ends, all their items, 1-D.
    lengths : array-like of int, shape (n,), or None
        Items of each record. Their sum is the length of `values`.
    dtype : numpy.dtype
        Of the store.
    keys : sequence of int
        Of the records, for messages.

    Returns
    -------
    items : ndarray of `dtype`, shape (sum(lengths),)
        C-contiguous, with the shape of an item behind that, if it has one. May be `values`, or share its memory.
    lengths : ndarray of int64, shape (n,)
        Of the rows of a block all are one number in memory.

    Raises
    ------
    ValueError, TypeError
        As `as_items`; of rows with the position of the first one that does not fit, and its key; and if `lengths`
        are not integers, are negative or do not add up.
    """
    if lengths is not None:
        items = as_items(values, dtype)
        return items, _as_lengths(lengths, len(items))
    if type(values) is np.ndarray and values.dtype.char != "O":
        return _even(values, dtype)
    lists = lists_of(values)
    if lists is not None:
        return _from_rows(lists, lambda rows: _from_lists(rows, dtype), keys)
    rows = _rows_of(values)
    if rows is None:
        return _even(values, dtype)
    return _from_rows(rows, lambda part: _from_sequence(part, dtype), keys)


def _even(values: object, dtype: np.dtype[Any]) -> _Block:
    """Return the rows of a block."""
    rows = as_array(values, dtype, ndim=2)
    # As np.broadcast_to() would do it, which takes longer than all else that storing few records does.
    return rows.reshape(-1, *dtype.shape), np.ndarray(
        rows.shape[:1], np.int64, np.int64(rows.shape[1]), strides=(0,)
    )


def _rows_of(values: Any) -> Sequence[Any] | None:
    """Return a sequence of rows, or None of anything else: arrays, frames, sequences of items."""
    if getattr(getattr(values, "dtype", None), "char", "") == "O" and values.ndim == 1:
        values = values.tolist()
    elif not isinstance(values, (list, tuple)) and is_list(values):
        values = list(values)
    if not isinstance(values, (list, tuple)):
        return None
    are_rows = any(not issubclass(kind, _NO_ROWS) for kind in set(map(type, values)))
    return values if are_rows else None


def _from_rows(rows: Any, convert: Callable[[Any], _Block], keys: npt.NDArray[np.uint64] | Sequence[int]) -> _Block:
    try:
        return convert(rows)
    except (TypeError, ValueError) as error:
        at, why = _first_misfit(rows, convert, error)
        if at is None:
            raise
        _refuse(at, why, keys)


def _first_misfit(rows: Any, convert: Callable[[Any], _Block], error: Exception) -> tuple[int | None, Exception]:
    """Return the position of the first row that cannot be converted, and why; None if each can be, alone."""
    low, high = 0, len(rows)  # all before low can be converted
    while high - low > 1:
        middle = (low + high) // 2
        try:
            convert(rows[low:middle])
            low = middle
        except (TypeError, ValueError) as found:
            high, error = middle, found
    try:
        convert(rows[low : low + 1])
    except (TypeError, ValueError) as found:
        return low, found
    return None, error


def _refuse(at: int, why: Exception, keys: npt.NDArray[np.uint64] | Sequence[int]) -> NoReturn:
    of_key = f" (key {keys[at]})" if at < len(keys) else ""
    kind = TypeError if isinstance(why, TypeError) else ValueError
    raise kind(f"record at position {at}{of_key}: {why}") from why


def _from_lists(lists: Any, dtype: np.dtype[Any]) -> _Block:
    """Return the items of lists of another library."""
    flat, lengths = _parts(lists)
    items = _from_inner(flat, dtype)
    return items, _as_lengths(lengths, len(items))


def _from_inner(values: Any, dtype: np.dtype[Any]) -> _Array:
    """Return the items of lists, which are lists themselves if items have a shape."""
    lists = lists_of(values) if dtype.shape else None
    if lists is None:
        return as_items(values, dtype)
    flat, lengths = _parts(lists)
    counts = np.asarray(lengths)
    others = np.flatnonzero(counts != dtype.shape[0])
    if len(others):
        raise ValueError(f"found an item of the length {counts[others[0]]}, expected {dtype.shape[0]}")
    return _from_inner(flat, np.dtype((dtype.base, dtype.shape[1:]))).reshape(-1, *dtype.shape)


def _parts(lists: Any) -> tuple[Any, Any]:
    flat, lengths = list_parts(lists)
    if is_masked(lengths) or has_nulls(lengths):
        raise ValueError("found nulls, which cannot be stored: fill or drop them first")
    return flat, lengths


def _from_sequence(rows: Sequence[Any], dtype: np.dtype[Any]) -> _Block:
    kinds = set(map(type, rows))
    are_lists, are_arrays = kinds <= {list, tuple}, kinds == {np.ndarray}
    if not (are_lists or are_arrays) or (are_arrays and any(row.ndim != 1 + dtype.ndim for row in rows)):
        return _one_by_one(rows, dtype)
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    if len(rows) > 1 and (lengths == lengths[0]).all():
        return _even(rows, dtype)
    if are_lists:
        return as_items(list(itertools.chain.from_iterable(rows)), dtype), lengths
    if len({row.dtype for row in rows}) > 1:  # NumPy would make one type of them first
        return _one_by_one(rows, dtype)
    return as_items(np.concatenate(rows), dtype), lengths


def _one_by_one(rows: Sequence[Any], dtype: np.dtype[Any]) -> _Block:
    parts = [as_items(row, dtype) for row in rows]
    # Not np.concatenate(), which would give them the machine's byte order.
    items = np.frombuffer(b"".join([part.tobytes() for part in parts]), dtype)
    return items, np.fromiter(map(len, parts), np.int64, len(parts))


def _as_lengths(lengths: Any, total: int) -> npt.NDArray[np.int64]:
    if not isinstance(lengths, Iterable):
        raise TypeError(f"lengths are integers, one for each record, found {type(lengths).__name__}")
    if is_masked(lengths) or has_nulls(lengths):
        raise ValueError("found masked lengths or nulls among the lengths; every record has a length")
    counts = np.asarray(array_of(lengths) if hasattr(lengths, "__array__") else list(lengths))
    if counts.ndim != 1:
        raise ValueError(f"lengths are a 1-D array, found {counts.ndim}-D of shape {counts.shape}")
    if counts.size and counts.dtype.kind not in "iu":
        raise TypeError(f"lengths are integers, found {counts.dtype}")
    if counts.size and not 0 <= int(counts.min()) <= int(counts.max()) <= total:
        raise ValueError(f"lengths are in the range 0 to {total}, found {counts.min()} to {counts.max()}")
    if counts.sum() != total:
        raise ValueError(f"lengths add up to {counts.sum()}, but there are {total} values")
    return np.ascontiguousarray(counts, dtype=np.int64)
