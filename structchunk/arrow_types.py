"""NumPy types as Arrow types, and arrays from one to the other: no copy where both lay the values out alike.

========================================  =======================================  =========================
NumPy                                     Arrow                                    copied
========================================  =======================================  =========================
integers, floats                          the same                                 if big-endian
bool                                      bool, a bit each                         always
datetime64, timedelta64 of s to ns        timestamp, duration; NaT is null         no
datetime64[D]                             date32                                   always
other units, if coarser                   timestamp, duration of the next unit     always
``S`` and ``V``                           fixed_size_binary                        no
``U``                                     large_string                             always
complex                                   fixed_size_list of two floats            no
sub-arrays                                fixed_size_list                          no
structured                                struct: columns, one for each field      if there are more than one
========================================  =======================================  =========================
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import SchemaError, missing_extra

try:
    import pyarrow as pa
except ImportError as error:
    raise missing_extra("this needs pyarrow", "arrow") from error

__all__ = ["arrow_type", "from_arrow", "pa", "to_arrow"]  # pa: imported here, with a message if it is missing

_Array = npt.NDArray[Any]

_UNITS = ("s", "ms", "us", "ns")
_COARSE = {"M": ("Y", "M", "W", "D", "h", "m"), "m": ("W", "D", "h", "m")}
_TEXTS = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
)
_TIMES = (pa.types.is_timestamp, pa.types.is_duration, pa.types.is_date)
_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)


def arrow_type(dtype: np.dtype[Any], path: str = "") -> pa.DataType:
    """Return the Arrow type of items of a dtype.

    Raises
    ------
    SchemaError
        Arrow has none that can hold all its values; names the field.
    """
    if dtype.subdtype is not None:
        item, shape = dtype.subdtype
        return _fixed_lists(arrow_type(item, path), shape)
    if dtype.names is not None:
        return pa.struct([(name, arrow_type(dtype[name], f"{path}.{name}")) for name in dtype.names])
    if dtype.kind in "SV":
        return pa.binary(dtype.itemsize)
    if dtype.kind == "U":
        return pa.large_string()
    if dtype.kind == "c":
        return pa.list_(pa.from_numpy_dtype(f"f{dtype.itemsize // 2}"), 2)
    if dtype.kind in "mM":
        return _time_type(dtype, path)
    return pa.from_numpy_dtype(dtype.newbyteorder("="))


def _fixed_lists(item: pa.DataType, shape: tuple[int, ...]) -> pa.DataType:
    for length in reversed(shape):
        item = pa.list_(item, length)
    return item


def _time_type(dtype: np.dtype[Any], path: str) -> pa.DataType:
    unit, count = np.datetime_data(dtype)
    if (dtype.kind, unit, count) == ("M", "D", 1):
        return pa.date32()
    if unit in _COARSE[dtype.kind]:
        unit = "s"
    if unit not in _UNITS:
        where = f"field {path[1:]!r}: " if path else ""
        raise SchemaError(f"{where}found {dtype}, which Arrow cannot hold; it has times in s, ms, us and ns")
    return pa.timestamp(unit) if dtype.kind == "M" else pa.duration(unit)


# ---------------------------------------------------------------- to Arrow


def to_arrow(values: _Array) -> pa.Array:
    """Return items as an Arrow array, which keeps them, and the file that they lie in, for as long as it lives.

    Raises
    ------
    SchemaError
        As :func:`arrow_type`.
    ValueError
        A time is out of the range of the Arrow type.
    """
    if values.ndim > 1:
        items = to_arrow(np.ascontiguousarray(values).reshape(-1))
        for length in reversed(values.shape[1:]):
            items = pa.FixedSizeListArray.from_arrays(items, length)
        return items
    dtype = values.dtype
    made = arrow_type(dtype)
    if dtype.names is not None:
        return pa.StructArray.from_arrays([to_arrow(values[name]) for name in dtype.names], fields=list(made))
    if dtype.kind in "SV":
        packed = np.ascontiguousarray(values).view(np.uint8)
        return pa.Array.from_buffers(made, len(values), [None, pa.py_buffer(packed)])
    if dtype.kind == "c":
        parts = np.ascontiguousarray(values).astype(dtype.newbyteorder("="), copy=False)
        return to_arrow(parts.view(f"f{dtype.itemsize // 2}").reshape(-1, 2))
    values = values.astype(dtype.newbyteorder("="), copy=False)
    return pa.array(_in_range(values, made) if dtype.kind in "mM" else values, made)


def _in_range(values: _Array, made: pa.DataType) -> _Array:
    """Return times in the unit of an Arrow type, which is not coarser than theirs."""
    if pa.types.is_date(made):
        found, back = values, values.astype(np.int64).astype(np.int32).astype(values.dtype)
    else:
        try:
            found = values.astype(f"{values.dtype.kind}8[{made.unit}]", copy=False)
        except OverflowError as error:  # before NumPy 2.5 the time changes instead
            raise ValueError(f"found a time that is out of the range of {made}: {error}") from error
        if found is values:
            return values
        back = found.astype(values.dtype)
    changed = (back != values) & ~np.isnat(values)
    if changed.any():
        raise ValueError(f"found {values[changed][0]!r}, which is out of the range of {made}")
    return found


# ---------------------------------------------------------------- from Arrow


def from_arrow(array: pa.Array, dtype: np.dtype[Any], path: str = "") -> _Array:
    """Return an Arrow array as a NumPy array that still has the values' own type.

    Parameters
    ----------
    array : pyarrow.Array
    dtype : numpy.dtype
        What the values are to become; where Arrow has several types for it, this tells them apart.
    path : str
        The column and field, for messages.

    Raises
    ------
    ValueError
        There are nulls, other than of times.
    SchemaError
        No values of such a type can become `dtype`.
    """
    kind = array.type
    is_time = any(test(kind) for test in _TIMES)
    if array.null_count and not (is_time and dtype.kind in "mM"):
        raise ValueError(f"{path}: found {array.null_count} nulls, which cannot be stored: fill or drop them first")
    if pa.types.is_struct(kind) and dtype.names is not None:
        return _from_struct(array, dtype, path)
    if pa.types.is_fixed_size_list(kind) and (dtype.subdtype or dtype.kind == "c"):
        return _from_fixed_lists(array, dtype, path)
    if pa.types.is_fixed_size_binary(kind) and dtype.kind in "SV":
        item = np.dtype((np.bytes_ if dtype.kind == "S" else np.void, kind.byte_width))
        return np.ndarray(len(array), item, array.buffers()[1], array.offset * kind.byte_width)
    if any(test(kind) for test in _TEXTS) and dtype.kind in "SU":
        return _from_texts(array)
    if (is_time or any(test(kind) for test in _NUMBERS)) and dtype.kind in "biufmM":
        numbers: _Array = array.to_numpy(zero_copy_only=False)
        return numbers
    raise SchemaError(f"{path}: found Arrow values of {kind}, expected {arrow_type(dtype)}")


def _from_struct(array: pa.Array, dtype: np.dtype[Any], path: str) -> _Array:
    found = [field.name for field in array.type]
    if sorted(found) != sorted(dtype.names or ()):
        raise SchemaError(f"{path}: found the fields {', '.join(found)}, expected {', '.join(dtype.names or ())}")
    columns = {name: from_arrow(array.field(name), dtype[name], f"{path}.{name}") for name in found}
    records = np.empty(len(array), [(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
    for name, column in columns.items():
        records[name] = column
    return records


def _from_fixed_lists(array: pa.Array, dtype: np.dtype[Any], path: str) -> _Array:
    size = array.type.list_size
    if dtype.subdtype is None:
        pairs = from_arrow(array.flatten(), np.dtype(f"f{dtype.itemsize // 2}"), path)
        if size != 2 or pairs.dtype.itemsize * 2 != dtype.itemsize:
            raise SchemaError(f"{path}: found Arrow values of {array.type}, expected {arrow_type(dtype)}")
        return np.ascontiguousarray(pairs).view(f"c{dtype.itemsize}")
    item, shape = dtype.subdtype
    inner = np.dtype((item, shape[1:])) if shape[1:] else item
    values = from_arrow(array.flatten(), inner, path)
    return values.reshape(len(array), size, *values.shape[1:])


def _from_texts(array: pa.Array) -> _Array:
    is_text = any(test(array.type) for test in _TEXTS[:3])
    texts: _Array = array.to_numpy(zero_copy_only=False).astype("U" if is_text else "S")
    return texts
