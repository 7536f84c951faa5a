"""Whatever holds values, as an array that still has the values' own types, or already the one that is wanted.

The casts of :mod:`structchunk.types.casts` come after. What is refused here is what NumPy would change before
they could see it: masks and nulls vanish, columns and lists of several types become one type.
"""

from __future__ import annotations

import ctypes
import datetime
import functools
import itertools
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .casts import exact
from .foreign import are_lists, are_wide, array_of, has_nulls, is_masked, kind_of
from .items import REALS, from_groups, from_items
from .keys import modular
from .schema import ITEMS, Schema, object_schema

__all__ = ["as_source", "as_tuple", "check_names", "is_list", "listed", "named_columns", "schema_of"]

_Array = npt.NDArray[Any]

_ITEMS = (np.generic, numbers.Number, str, bytes, datetime.date, datetime.timedelta)
_NOT_ITEMS = (ctypes.Structure, ctypes.Union, Mapping)
_MASKED = "found masked values, which cannot be stored: fill them first"
_LISTED = {"O": "SUVMm", "T": "SUM", "U": "M"}
"""By the kind of an array, the kinds for which each of its items is taken as that of a list: text, bytes and times
that others have as Python objects, strings of any length, and times that are text."""
_ARRAY_PROTOCOLS = ("__array__", "__array_interface__", "__array_struct__")

_remembered: Any = functools.lru_cache(maxsize=128)(object_schema)


def schema_of(instance: object) -> Schema:
    """Return the schema of the class of a ctypes instance; it is remembered."""
    return _remembered(type(instance))  # type: ignore[no-any-return]


def as_source(values: Any, dtype: np.dtype[Any], ndim: int, where: str = "") -> _Array:
    """Return values as an array, to be cast to `dtype`.

    Parameters
    ----------
    values : array-like
        See `structchunk.types.convert.as_items`.
    dtype : numpy.dtype
        What they are to become.
    ndim : int
        Dimensions of the result, where `values` are lists: a tuple can also be a record.
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
    if hasattr(values, "as_py"):
        values = _from_scalar(values, where)
    if not isinstance(values, (list, tuple)) and is_list(values):
        values = list(values)
    if isinstance(values, (list, tuple)):
        return _from_records(values, ndim, where) if dtype.names else _from_list(values, dtype, ndim, where)
    if isinstance(values, bytes) and dtype.kind not in "SUV":
        values = np.frombuffer(values, np.uint8)
    if isinstance(values, (Mapping, ctypes.Structure)):
        raise ValueError(f"{where}found a single {type(values).__name__}, expected a sequence of records")
    if isinstance(values, np.ndarray) or not hasattr(values, "__array__"):
        return _checked(np.asanyarray(values), values, dtype, where)
    return _from_library(values, dtype, ndim, where)


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
    if is_masked(record):
        raise ValueError(f"{where}{_MASKED}")
    if isinstance(record, np.ndarray) and record.ndim == 0:
        record = np.asarray(record)[()]
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
    if is_masked(array):
        raise ValueError(f"{where}{_MASKED}")
    is_listed = array.ndim and dtype.names is None and dtype.kind in _LISTED.get(array.dtype.kind, "")
    if is_listed and not are_lists(kind_of(values)):
        return _from_list(array.tolist(), dtype, array.ndim, where)
    if array.dtype.kind == "O" and (array.size or not array.ndim):
        raise TypeError(f"{where}found {_described(array, values)}, expected values of {dtype}{_advice(values)}")
    if dtype.names and not array.dtype.names and array.size:
        raise TypeError(f"{where}found {array.dtype}, expected the fields {', '.join(dtype.names)}")
    return np.asarray(array)


def _described(array: _Array, values: object) -> str:
    """Say what it was of which NumPy made Python objects."""
    kind = kind_of(values)
    if not array.ndim:
        return type(values).__name__
    if kind is None or isinstance(kind, np.dtype):
        return f"an array of Python objects (dtype {array.dtype})"
    return f"{type(values).__name__} of the type {kind}"


def _advice(values: object) -> str:
    if not are_lists(kind_of(values)):
        return ""
    return "; put_many() takes lists, one for each key; with lengths it takes their items, end to end"


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


# ---------------------------------------------------------------- lists


def is_list(values: object) -> bool:
    """Whether NumPy would take this for a list: a sequence that says nothing of the type of its items."""
    if isinstance(values, (np.ndarray, str, bytes, Mapping)) or not hasattr(values, "__getitem__"):
        return False
    if not hasattr(values, "__len__") or any(hasattr(values, protocol) for protocol in _ARRAY_PROTOCOLS):
        return False
    try:
        memoryview(values)  # type: ignore[arg-type]
    except TypeError:
        return True
    return False


def _from_list(values: Sequence[Any], dtype: np.dtype[Any], ndim: int, where: str) -> _Array:
    """Return nested lists as an array: lists of equal lengths are opened, until there are items or arrays."""
    kinds = set(map(type, values))
    if kinds <= REALS:
        return from_items(values, kinds, dtype, where)
    shape = [len(values)]
    while kinds and all(issubclass(kind, (list, tuple)) for kind in kinds):
        lengths = set(map(len, values))
        if len(shape) == ndim:
            wanted = "an item" if where else f"an item of {ndim}-D values"
            raise ValueError(f"{where}found {type(values[0]).__name__}, expected {wanted} of {dtype}")
        if len(lengths) > 1:
            raise ValueError(f"{where}found lists of unequal length, expected {ndim}-D values of {dtype}")
        shape.extend(lengths)
        values = list(itertools.chain.from_iterable(values))
        kinds = set(map(type, values))
    if all(issubclass(kind, _ITEMS) for kind in kinds):
        return from_items(values, kinds, dtype, where).reshape(shape)
    rows = _from_rows(values, kinds, dtype, ndim - len(shape), where)
    return rows.reshape(*shape, *rows.shape[1:])


def _from_rows(rows: Sequence[Any], kinds: set[type[Any]], dtype: np.dtype[Any], ndim: int, where: str) -> _Array:
    """Return a list with arrays in it as an array of one dimension more."""
    if kinds != {np.ndarray}:
        rows = [_from_row(row, dtype, ndim, where) for row in rows]
    shapes = {row.shape for row in rows}
    if len(shapes) > 1:
        raise ValueError(f"{where}found items of the shapes {_shown(shapes)}, expected one shape, for {dtype}")
    dtypes = [row.dtype for row in rows]
    return from_groups(rows, dtypes, lambda group, _: _stacked(group, dtype, where), dtype, where, *shapes)


def _stacked(rows: Sequence[Any], dtype: np.dtype[Any], where: str) -> _Array:
    return _checked(np.array(rows), rows, dtype, where)


def _shown(shapes: set[tuple[int, ...]]) -> str:
    first, second, *more = sorted(shapes)
    return f"{first}, {second}{', ...' if more else ''}"


def _from_row(row: Any, dtype: np.dtype[Any], ndim: int, where: str) -> _Array:
    if isinstance(row, _NOT_ITEMS):
        raise TypeError(f"{where}found {type(row).__name__}, expected values of {dtype}")
    if isinstance(row, _ITEMS):
        return exact(from_items([row], {type(row)}, dtype, where), dtype, where).reshape(())
    if ndim == 0 and (isinstance(row, (list, tuple)) or is_list(row)):
        raise ValueError(f"{where}found {type(row).__name__}, expected an item of {dtype}")
    return exact(as_source(row, dtype, ndim, where), dtype, where)


# ---------------------------------------------------------------- arrays and frames of other libraries


def _from_library(values: Any, dtype: np.dtype[Any], ndim: int, where: str) -> _Array:
    """Return what another library makes an array of, if it does so without a change."""
    if _is_plain(values):
        return _checked(array_of(values, where), values, dtype, where)
    columns = named_columns(values)
    if columns is not None and dtype.names is None:
        return _from_columns([column for _, column in columns], len(values), dtype, where)
    if dtype.kind not in "mM" and has_nulls(values):  # of times they are NaT
        raise _nulls(where)
    to_list = _to_list(values) if dtype.kind in "SU" or are_wide(values) else None
    if to_list is not None:  # whose array would cut text at its last NULs, be of objects, or none at all
        return _from_list(to_list(), dtype, ndim, where)
    return _checked(array_of(values, where), values, dtype, where)


def _from_scalar(scalar: Any, where: str) -> Any:
    """Return the array that a list is which is one value of a pyarrow array, and another value as it is."""
    if not scalar.is_valid:
        raise _nulls(where)
    return scalar.values if are_lists(scalar.type) else scalar


def _nulls(where: str) -> ValueError:
    return ValueError(f"{where}found nulls, which cannot be stored: fill or drop them first")


def _is_plain(values: Any) -> bool:
    """Whether all values are of one of NumPy's own types."""
    is_frame = getattr(values, "ndim", 1) == 2 and hasattr(values, "dtypes")
    kinds = set(values.dtypes) if is_frame else {getattr(values, "dtype", None)}
    return len(kinds) == 1 and isinstance(kinds.pop(), np.dtype)


def _to_list(values: Any) -> Any:
    """Return the method that lists the values of a series as plain objects, by its name in pyarrow or another."""
    names = ("to_pylist", "tolist", "to_list")
    return next((getattr(values, name) for name in names if hasattr(values, name)), None)


def named_columns(values: Any) -> list[tuple[str, Any]] | None:
    """Return the columns of a dict, a table, a data frame or a column of structs by their names; else None."""
    if isinstance(values, Mapping):
        return list(values.items())
    if hasattr(getattr(values, "dtype", None), "fields") and hasattr(values, "struct"):  # a series of Polars
        values = values.struct.unnest()
    if hasattr(values, "get_columns"):  # Polars
        return list(zip(values.columns, values.get_columns(), strict=True))
    if hasattr(values, "iloc") and getattr(values, "ndim", 1) == 2:  # pandas
        return [(name, values.iloc[:, number]) for number, name in enumerate(values.columns)]
    if hasattr(values, "column_names") and hasattr(values, "itercolumns"):  # pyarrow
        return list(zip(values.column_names, values.itercolumns(), strict=True))
    if hasattr(getattr(values, "type", None), "get_all_field_indices"):  # structs of pyarrow
        return list(zip([field.name for field in values.type], values.flatten(), strict=True))
    return None


def listed(values: Any) -> Any:
    """Return a column of lists or of Python objects as a list, of which each item is taken by its own type."""
    is_plain_object = getattr(values, "dtype", None) == np.dtype(object)
    to_list = _to_list(values) if is_plain_object or are_lists(kind_of(values)) else None
    return values if to_list is None else to_list()


def _from_columns(columns: list[Any], count: int, dtype: np.dtype[Any], where: str) -> _Array:
    out = np.zeros((count, len(columns)), dtype)
    for number, column in enumerate(columns):
        out[:, number] = exact(as_source(column, dtype, 1, where), dtype, where)
    return out
