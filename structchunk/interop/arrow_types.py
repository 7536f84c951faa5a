"""NumPy types as Arrow types, and NumPy arrays as Arrow arrays: no copy where both lay the values out alike.

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

from ..errors import SchemaError, missing_extra

try:
    import pyarrow as pa
except ImportError as error:
    raise missing_extra("this needs pyarrow", "arrow") from error

__all__ = ["arrow_type", "pa", "to_arrow"]  # pa: imported here, with a message if it is missing

_Array = npt.NDArray[Any]

_UNITS = ("s", "ms", "us", "ns")
_COARSE = {"M": ("Y", "M", "W", "D", "h", "m"), "m": ("W", "D", "h", "m")}


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
    if dtype.kind in "SU":
        return pa.large_binary() if dtype.kind == "S" else pa.large_string()
    if dtype.kind == "V":
        return pa.binary(dtype.itemsize)
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


def to_arrow(values: _Array, *, copy: bool = False) -> pa.Array:
    """Return items as an Arrow array, which keeps them, and the file that they lie in, for as long as it lives.

    Parameters
    ----------
    values : ndarray
    copy : bool
        Whether to share no memory with them, as they may change.

    Raises
    ------
    SchemaError
        As :func:`arrow_type`.
    ValueError
        A time is out of the range of the Arrow type, or text is no Unicode.
    """
    dtype = values.dtype
    made = arrow_type(dtype)
    if values.ndim == 1 and dtype.names is not None:
        columns = [to_arrow(values[name], copy=copy) for name in dtype.names]
        return pa.StructArray.from_arrays(columns, fields=list(made))
    values = values.copy() if copy else np.ascontiguousarray(values)
    if values.ndim > 1:
        return _as_lists(to_arrow(values.reshape(-1)), values.shape[1:])
    if dtype.kind == "V":
        return pa.Array.from_buffers(made, len(values), [None, pa.py_buffer(values.view(np.uint8))])
    if dtype.kind in "SU":
        return _as_texts(values, made)
    values = values.astype(dtype.newbyteorder("="), copy=False)
    if dtype.kind == "c":
        return _as_lists(to_arrow(values.view(f"f{dtype.itemsize // 2}")), (2,))
    return pa.array(_in_range(values, made) if dtype.kind in "mM" else values, made)


def _as_lists(items: pa.Array, shape: tuple[int, ...]) -> pa.Array:
    for length in reversed(shape):
        items = pa.FixedSizeListArray.from_arrays(items, length)
    return items


def _as_texts(values: _Array, made: pa.DataType) -> pa.Array:
    """Return text or bytes without the NULs that fill up each item; those within stay, where pyarrow would end."""
    if values.dtype.kind == "U":
        try:
            return pa.array(values.tolist(), made)
        except ValueError as error:  # half of a surrogate pair, or beyond Unicode
            raise ValueError(f"found text that Arrow cannot hold: {error}") from error
    lengths = np.char.str_len(values)
    offsets = np.append(0, np.cumsum(lengths, dtype=np.int64))
    padded = values.view(np.uint8).reshape(len(values), values.itemsize)
    data = padded[np.arange(values.itemsize) < lengths[:, np.newaxis]]
    return pa.Array.from_buffers(made, len(values), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


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
