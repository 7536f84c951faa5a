"""Whatever holds values, as an array that still has the values' own type.

The casts of :mod:`structchunk.exact` come after. What is refused here is what NumPy would change before
they could see it: a list of numbers and text becomes text, large integers become floats, masks vanish.
"""

from __future__ import annotations

import ctypes
import functools
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .keys import modular
from .schema import ITEMS, Schema, object_schema

__all__ = ["as_source", "as_tuple", "check_names", "schema_of"]

_Array = npt.NDArray[Any]

_remembered: Any = functools.lru_cache(maxsize=128)(object_schema)


def schema_of(instance: object) -> Schema:
    """Return the schema of the class of a ctypes instance; it is remembered."""
    return _remembered(type(instance))  # type: ignore[no-any-return]


def as_source(values: Any, dtype: np.dtype[Any], ndim: int, where: str = "") -> _Array:
    """Return values as an array, to be cast to `dtype`.

    Parameters
    ----------
    values : array-like
        See `structchunk.convert.as_items`.
    dtype : numpy.dtype
        What they are to become.
    ndim : int
        Dimensions of the result, where `values` are lists of records: a tuple can be either.
    where : str
        Begins the messages.

    Returns
    -------
    ndarray
        Of any shape. For a structured dtype, a structured array or one of objects, each of them a record.
    """
    if isinstance(values, ctypes.Array):
        values = _from_ctypes(values)
    if isinstance(values, range):
        values = _from_range(values)
    if isinstance(values, (list, tuple)):
        return _from_records(values, ndim, where) if dtype.names else _from_list(values, dtype, where)
    if isinstance(values, bytes) and dtype.kind not in "SUV":
        values = np.frombuffer(values, np.uint8)
    if isinstance(values, (Mapping, ctypes.Structure)):
        raise ValueError(f"{where}found a single {type(values).__name__}, expected a sequence of records")
    return _checked(np.asanyarray(values), values, dtype, where)


def as_tuple(record: Any, names: tuple[str, ...], where: str) -> tuple[Any, ...]:
    """Return the fields of one record in the order of `names`.

    Parameters
    ----------
    record : tuple, dict, structured scalar or ctypes structure
        With exactly these fields.
    names : tuple of str
        The fields of the store.
    where : str
        Begins the messages.

    Raises
    ------
    TypeError
        If it is no record.
    ValueError
        If it has other fields.
    """
    if isinstance(record, ctypes.Structure):
        record = np.frombuffer(memoryview(record), schema_of(record).dtype)[0]
    if isinstance(record, np.ndarray) and record.ndim == 0:
        record = record[()]
    if isinstance(record, np.void) and record.dtype.names is not None:
        check_names(record.dtype.names, names, where)
        return tuple(record[name] for name in names)
    if isinstance(record, Mapping):
        check_names(record, names, where)
        return tuple(record[name] for name in names)
    if not isinstance(record, tuple):
        raise TypeError(f"{where}found {type(record).__name__}, expected a record, as a tuple or dict")
    if len(record) != len(names):
        raise ValueError(f"{where}found a tuple of {len(record)}, expected the fields {', '.join(names)}")
    return record


def check_names(found: Iterable[str], names: tuple[str, ...], where: str) -> None:
    """Refuse records with other fields than `names`, in any order."""
    if set(found) != set(names):
        raise ValueError(f"{where}found the fields {', '.join(map(str, found))}, expected {', '.join(names)}")


def _checked(array: _Array, values: object, dtype: np.dtype[Any], where: str) -> _Array:
    if isinstance(array, np.ma.MaskedArray) and _is_masked(array):
        raise ValueError(f"{where}found masked values, which cannot be stored: fill them first")
    if array.dtype.kind == "O" and (array.size or not array.ndim):
        what = f"an array of Python objects (dtype {array.dtype})" if array.ndim else type(values).__name__
        raise TypeError(f"{where}found {what}, expected values of {dtype}")
    if dtype.names and not array.dtype.names and array.size:
        raise TypeError(f"{where}found {array.dtype}, expected the fields {', '.join(dtype.names)}")
    return np.asarray(array)


def _is_masked(array: _Array) -> bool:
    ma: Any = np.ma  # NumPy 2.2 has no types for its functions
    mask = np.ascontiguousarray(ma.getmaskarray(array))  # with a truth for each field, of structured arrays
    return bool(mask.view(np.bool_).any())


def _from_ctypes(array: Any) -> _Array:
    if len(array) == 0:
        return np.empty(0)
    return np.asarray(np.frombuffer(array, schema_of(array).dtype)[ITEMS][0])


def _from_range(values: range) -> Any:
    ends = (values[0], values[-1]) if values else (0, 0)
    if not -(2**63) <= min(ends) <= max(ends) < 2**63:
        return list(values)
    return modular(values).view(np.int64)


def _from_records(values: Any, ndim: int, where: str) -> _Array:
    """Return nested sequences of records as an array of objects."""
    if isinstance(values, ctypes.Array):
        values = _from_ctypes(values)
    if not isinstance(values, (list, tuple, np.ndarray)):
        raise ValueError(f"{where}found a single {type(values).__name__}, expected a sequence of records")
    if ndim == 1:
        records = np.empty(len(values), object)
        for index, record in enumerate(values):
            records[index] = record
        return records
    rows = [_from_records(row, ndim - 1, where) for row in values]
    if len({row.shape for row in rows}) > 1:
        raise ValueError(f"{where}found records of unequal length, expected a {ndim}-D block")
    return np.stack(rows) if rows else np.empty((0,) * ndim, object)


def _from_list(values: Any, dtype: np.dtype[Any], where: str) -> _Array:
    if len(values) and isinstance(values[0], (ctypes.Structure, ctypes.Union)):
        raise TypeError(f"{where}found {type(values[0]).__name__}, expected values of {dtype}")
    try:
        array = np.array(values)
    except ValueError as error:
        raise ValueError(f"{where}found a ragged list, expected values of {dtype}: {error}") from error
    if array.size == 0:
        return array
    if dtype.kind in "SU":
        return _from_text(values, dtype, where)
    if dtype.kind == "V":
        return _from_bytes(values, dtype, where)
    if dtype.kind in "iu" and array.dtype.kind in "fO":
        return _from_integers(values, dtype, where)
    if array.dtype.kind == "O":
        _refuse_objects(array, dtype, where)
    return array


def _from_text(values: Any, dtype: np.dtype[Any], where: str) -> _Array:
    items = np.array(values, dtype=object)
    for item in items.flat:
        if not isinstance(item, (str, bytes)):
            raise TypeError(f"{where}found {type(item).__name__}, expected text for {dtype}")
        if item[-1:] in ("\0", b"\0"):
            raise ValueError(f"{where}found {item!r}, of which {dtype} would lose the last NUL")
    if len({isinstance(item, str) for item in items.flat}) == 1:
        return np.array(values)
    texts = [item if isinstance(item, str) else item.decode("ascii") for item in items.flat]
    return np.array(texts).reshape(items.shape)


def _from_bytes(values: Any, dtype: np.dtype[Any], where: str) -> _Array:
    items = np.array(values, dtype=object)
    item: Any
    for item in items.flat:
        if not isinstance(item, (bytes, np.void)):
            raise TypeError(f"{where}found {type(item).__name__}, expected bytes for {dtype}")
        size = len(item) if isinstance(item, bytes) else item.nbytes
        if size != dtype.itemsize:
            raise ValueError(f"{where}found {size} bytes, expected {dtype.itemsize}")
    return np.frombuffer(b"".join(items.flat), dtype).reshape(items.shape)


def _from_integers(values: Any, dtype: np.dtype[Any], where: str) -> _Array:
    """Take each number as it is: NumPy has made floats of them, which cannot tell large integers apart."""
    items = np.array(values, dtype=object)
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    for item in items.flat:
        if not isinstance(item, (numbers.Real, np.bool_)):
            raise TypeError(f"{where}found {type(item).__name__}, expected integers for {dtype}")
        if not _is_whole(item) or not low <= int(item) <= high:  # type: ignore[arg-type]
            raise ValueError(f"{where}found {_shown(item)}, which {dtype} cannot hold without changing it")
    return np.array([int(item) for item in items.flat], dtype).reshape(items.shape)


def _is_whole(number: Any) -> bool:
    if isinstance(number, (numbers.Integral, np.bool_)):
        return True
    return math.isfinite(number) and bool(number == int(number))


def _refuse_objects(array: _Array, dtype: np.dtype[Any], where: str) -> None:
    for item in array.flat:
        if not isinstance(item, numbers.Number):
            raise TypeError(f"{where}found {type(item).__name__}, expected values of {dtype}")
        if isinstance(item, int) and item.bit_length() > 64:
            raise ValueError(f"{where}found {_shown(item)}, expected values of {dtype}")
    raise TypeError(f"{where}found numbers that NumPy has no type for, expected values of {dtype}")


def _shown(number: Any) -> str:
    is_long = isinstance(number, int) and number.bit_length() > 128
    return f"an integer of {number.bit_length()} bits" if is_long else str(number)
