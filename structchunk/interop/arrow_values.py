"""Arrow arrays as NumPy arrays that still have the values' own type; the casts of `types.casts` come after.

Which Arrow types are taken for a dtype depends on the types alone, so that a stream is not refused in its second
batch for what its first one happened to hold.

=========================================  ====================================================================
NumPy                                      Arrow
=========================================  ====================================================================
integers, floats, bool                     the same; for integers decimals too
datetime64                                 timestamp (of a time zone: the UTC time), date, strings (ISO 8601)
timedelta64                                duration
``S`` and ``U``                            strings and binaries of all kinds
``V``                                      binaries
complex and sub-arrays                     lists of all kinds, of that length; sub-arrays ``fixed_shape_tensor`` too
structured                                 struct
any                                        null, where there are no items; for times null is NaT
=========================================  ====================================================================

In place of any of these there may be a dictionary or run-end encoded array of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ..errors import SchemaError
from ..types.casts import exact
from ..types.convert import as_items
from .arrow_types import arrow_type, pa

__all__ = [
    "check_nulls",
    "decoded",
    "from_arrow",
    "from_decimals",
    "is_list",
    "list_parts",
    "translated_errors",
]

_Array = npt.NDArray[Any]
_Take = Callable[[pa.Array, "np.dtype[Any]", str], _Array]

_types = pa.types
_TRANSPARENT = ("arrow.uuid", "arrow.bool8", "arrow.json")
"""Extensions that mean what they are stored as."""


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
        There are nulls, other than of times, or values that cannot become `dtype`.
    SchemaError
        No values of such a type can become `dtype`.
    """
    array = decoded(array)
    if isinstance(array.type, pa.FixedShapeTensorType):
        return _from_tensors(array, dtype, path)
    take = _way(array.type, dtype)
    if take is None:
        raise SchemaError(f"{path}: found Arrow values of {array.type}, expected {arrow_type(dtype)}")
    if dtype.kind not in "mM":
        check_nulls(array, path)
    return take(array, dtype, path)


def check_nulls(array: pa.Array, path: str) -> None:
    """Raise ValueError if there are nulls."""
    if array.null_count:
        raise ValueError(f"{path}: found {array.null_count} nulls, which cannot be stored: fill or drop them first")


@contextlib.contextmanager
def translated_errors(path: str) -> Iterator[None]:
    """Raise SchemaError for types that pyarrow can do nothing with, ValueError for what is wrong with data."""
    try:
        yield
    except pa.ArrowNotImplementedError as error:
        raise SchemaError(f"{path}: found Arrow types that pyarrow cannot convert: {error}") from error
    except pa.ArrowMemoryError:
        raise
    except pa.ArrowException as error:
        raise ValueError(f"{path}: found Arrow data that pyarrow cannot read: {error}") from error


def decoded(array: pa.Array) -> pa.Array:
    """Return an array as one of its values: not of numbers in a dictionary, of runs or of views."""
    kind = array.type
    if _types.is_dictionary(kind):
        return decoded(array.dictionary).take(array.indices)
    if _types.is_run_end_encoded(kind):
        positions = np.arange(array.offset, array.offset + len(array))
        return decoded(array.values).take(pa.array(np.searchsorted(array.run_ends, positions, side="right")))
    if _types.is_string_view(kind):
        return array.cast(pa.large_string())
    if _types.is_binary_view(kind):
        return array.cast(pa.large_binary())
    if isinstance(kind, pa.BaseExtensionType) and kind.extension_name in _TRANSPARENT:
        return array.storage
    return array


def _way(kind: pa.DataType, dtype: np.dtype[Any]) -> _Take | None:
    """Return how values of an Arrow type become those of a dtype, or None if they never do."""
    if _types.is_null(kind):
        return _from_nulls
    if dtype.names is not None:
        return _from_struct if _types.is_struct(kind) else None
    if dtype.subdtype is not None or dtype.kind == "c":
        return _from_lists if is_list(kind) else None
    if dtype.kind in "SU":
        return _from_texts if _is_text(kind) or _is_binary(kind, dtype) else None
    if dtype.kind == "V":
        return _from_binaries if _is_binary(kind, dtype) else None
    if _types.is_decimal(kind):
        return from_decimals if dtype.kind in "iu" else None
    if dtype.kind == "M" and _is_text(kind):
        return _from_iso
    return _from_numbers if _is_number(kind, dtype) else None


def _is_text(kind: pa.DataType) -> bool:
    return bool(_types.is_string(kind) or _types.is_large_string(kind))


def _is_binary(kind: pa.DataType, dtype: np.dtype[Any]) -> bool:
    """Tell whether values are of any length, or of one that a dtype has room for."""
    if _types.is_fixed_size_binary(kind):
        width = dtype.itemsize // (4 if dtype.kind == "U" else 1)
        return bool(kind.byte_width == width if dtype.kind == "V" else kind.byte_width <= width)
    return bool(_types.is_binary(kind) or _types.is_large_binary(kind))


def _is_number(kind: pa.DataType, dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "M":
        return bool(_types.is_timestamp(kind) or _types.is_date(kind))
    if dtype.kind == "m":
        return bool(_types.is_duration(kind)) and np.datetime_data(dtype)[0] not in ("Y", "M")
    return bool(_types.is_integer(kind) or _types.is_floating(kind) or _types.is_boolean(kind))


# ---------------------------------------------------------------- one way for each


def _from_nulls(array: pa.Array, dtype: np.dtype[Any], path: str) -> _Array:
    return np.full(len(array), "NaT", dtype) if dtype.kind in "mM" else np.empty(0, dtype)


def _from_numbers(array: pa.Array, dtype: np.dtype[Any], path: str) -> _Array:
    numbers: _Array = array.to_numpy(zero_copy_only=False)
    return numbers


def _from_iso(array: pa.Array, dtype: np.dtype[Any], path: str) -> _Array:
    try:
        return as_items(array.fill_null("NaT").to_pylist(), dtype)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def from_decimals(array: pa.Array, dtype: np.dtype[Any], path: str) -> _Array:
    """Return decimals as integers of a dtype.

    Raises
    ------
    ValueError
        One has a fraction, or is out of range.
    """
    wide = array if _types.is_decimal256(array.type) else array.cast(pa.decimal128(38, array.type.scale))
    try:
        numbers: _Array = wide.cast(pa.from_numpy_dtype(dtype.newbyteorder("="))).to_numpy()
    except pa.ArrowInvalid as error:
        low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        bad = next(number for number in array.to_pylist() if number != int(number) or not low <= number <= high)
        raise ValueError(f"{path}: found {bad}, which {dtype} cannot hold without changing it") from error
    return numbers


def _from_struct(array: pa.Array, dtype: np.dtype[Any], path: str) -> _Array:
    found = [field.name for field in array.type]
    if sorted(found) != sorted(dtype.names or ()):
        raise SchemaError(f"{path}: found the fields {', '.join(found)}, expected {', '.join(dtype.names or ())}")
    columns = {name: from_arrow(array.field(name), dtype[name], f"{path}.{name}") for name in found}
    records = np.empty(len(array), [(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
    for name, column in columns.items():
        records[name] = column
    return records


# ---------------------------------------------------------------- lists


def is_list(kind: pa.DataType) -> bool:
    """Tell whether values of a type are lists of any kind."""
    return bool(
        _types.is_list(kind)
        or _types.is_large_list(kind)
        or _types.is_fixed_size_list(kind)
        or _types.is_list_view(kind)
        or _types.is_large_list_view(kind)
    )


def list_parts(array: pa.Array) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Return the items of lists, of which none is null, end to end, and the length of each list."""
    kind = array.type
    lengths: npt.NDArray[np.int64]
    if _types.is_fixed_size_list(kind):
        lengths = np.full(len(array), kind.list_size, np.int64)
    elif _types.is_list_view(kind) or _types.is_large_list_view(kind):
        lengths = array.sizes.to_numpy().astype(np.int64)
    else:
        lengths = np.diff(array.offsets.to_numpy()).astype(np.int64, copy=False)
    return array.flatten(), lengths


def _from_lists(array: pa.Array, dtype: np.dtype[Any], path: str) -> _Array:
    """Return lists of one length as complex numbers or sub-arrays."""
    item, shape = dtype.subdtype or (np.dtype(f"f{dtype.itemsize // 2}"), (2,))
    if _types.is_fixed_size_list(array.type) and array.type.list_size != shape[0]:
        raise SchemaError(f"{path}: found Arrow values of {array.type}, expected {arrow_type(dtype)}")
    flat, lengths = list_parts(array)
    others = np.flatnonzero(lengths != shape[0])
    if len(others):
        raise ValueError(f"{path}: found a list of {lengths[others[0]]} items, expected {shape[0]}")
    values = from_arrow(flat, np.dtype((item, shape[1:])) if shape[1:] else item, path)
    if dtype.subdtype is None:
        return np.ascontiguousarray(exact(values, item)).view(f"c{dtype.itemsize}")
    return values.reshape(len(array), shape[0], *values.shape[1:])


def _from_tensors(array: pa.Array, dtype: np.dtype[Any], path: str) -> _Array:
    """Return tensors of one shape as sub-arrays of that shape."""
    kind = array.type
    if dtype.subdtype is None or tuple(kind.shape) != dtype.shape or _is_permuted(kind):
        raise SchemaError(f"{path}: found Arrow values of {kind}, expected {arrow_type(dtype)}")
    check_nulls(array, path)
    values = from_arrow(array.storage.flatten(), dtype.base, path)
    return values.reshape(len(array), *dtype.shape)


def _is_permuted(kind: Any) -> bool:
    """Tell whether the axes of tensors are in another order in memory."""
    return kind.permutation is not None and list(kind.permutation) != list(range(len(kind.shape)))


# ---------------------------------------------------------------- text and bytes


def _from_texts(array: pa.Array, dtype: np.dtype[Any], path: str) -> _Array:
    data, lengths = _bytes_of(array)
    filled = np.flatnonzero(lengths)
    cut = filled[data[np.cumsum(lengths)[filled] - 1] == 0]
    if len(cut):
        raise ValueError(f"{path}: found {array[cut[0]].as_py()!r}, of which {dtype} would lose the last NUL")
    too_long = np.flatnonzero(lengths > dtype.itemsize)  # U has as many bytes for a character as UTF-8 at most
    if len(too_long):
        _refuse(array, too_long[0], dtype, path)
    if dtype.kind == "U" and _is_text(array.type):
        return _from_utf8(array, path)
    width = int(lengths.max(initial=1))
    padded = np.zeros((len(array), width), np.uint8)
    padded[np.arange(width) < lengths[:, np.newaxis]] = data
    if _is_text(array.type) and (padded > 127).any():
        _refuse(array, (padded > 127).any(axis=1).argmax(), dtype, path)
    return padded.view(f"S{width}").reshape(-1)


def _from_utf8(array: pa.Array, path: str) -> _Array:
    try:
        texts: _Array = array.to_numpy(zero_copy_only=False).astype("U")
    except (UnicodeError, pa.ArrowException) as error:
        raise ValueError(f"{path}: found text that is no valid UTF-8: {error}") from error
    return texts


def _refuse(array: pa.Array, at: Any, dtype: np.dtype[Any], path: str) -> NoReturn:
    raise ValueError(f"{path}: found {array[int(at)].as_py()!r}, which {dtype} cannot hold without changing it")


def _from_binaries(array: pa.Array, dtype: np.dtype[Any], path: str) -> _Array:
    data, lengths = _bytes_of(array)
    others = np.flatnonzero(lengths != dtype.itemsize)
    if len(others):
        raise ValueError(f"{path}: found {lengths[others[0]]} bytes, expected {dtype.itemsize}")
    return data.view(dtype)


def _bytes_of(array: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the bytes of all items end to end, and how many each item has."""
    count = len(array)
    if not count:
        return np.empty(0, np.uint8), np.empty(0, np.int64)
    if _types.is_fixed_size_binary(array.type):
        width, start = array.type.byte_width, array.offset
        return _memory(array.buffers()[1])[start * width : (start + count) * width], np.full(count, width, np.int64)
    array = array.cast(pa.large_binary())
    bounds = _memory(array.buffers()[1]).view(np.int64)[array.offset : array.offset + count + 1]
    return _memory(array.buffers()[2])[bounds[0] : bounds[-1]], np.diff(bounds)


def _memory(buffer: pa.Buffer | None) -> npt.NDArray[np.uint8]:
    return np.ndarray(0 if buffer is None else buffer.size, np.uint8, buffer)
