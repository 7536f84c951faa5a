"""What callers hand in, as arrays of exactly a store's dtype; refused if that would change a value.

Padding bytes of whatever is made here are zero. An array that already has the store's dtype is passed
through, with the padding that its owner gave it.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import SchemaError
from .casts import exact, is_exact, refuse
from .coerce import as_source, as_tuple, check_names, listed, named_columns, schema_of
from .keys import as_key, as_keys
from .objects import path_of
from .schema import ITEMS, Schema, explain_difference

__all__ = [
    "as_array",
    "as_items",
    "as_key",
    "as_keys",
    "as_new",
    "as_record",
    "as_records",
    "fill",
    "from_columns",
]

_Array = npt.NDArray[Any]

_CHAR = np.dtype("S1")
_MAX_CHAR = 255


def as_items(values: object, dtype: np.dtype[Any]) -> _Array:
    """Return the items of one record.

    Parameters
    ----------
    values : array-like, 1-D; with the dimensions of an item, if items have a shape
        An array, a list or another sequence, a range, a buffer, a ctypes array, or a column of pyarrow,
        Polars or pandas. For a structured dtype, an array with the same fields, or a list of tuples, dicts,
        structured scalars or ctypes structures. Each item of a list is taken by its own type. Times are
        also taken from ``datetime`` objects, and moments from text of ISO 8601; with a time zone, as they are in
        UTC.
    dtype : numpy.dtype
        Of the store.

    Returns
    -------
    ndarray of `dtype`, shape (n,)
        C-contiguous, of the shape ``(n, *shape)`` if items have a shape. May be `values`, or share its memory.

    Raises
    ------
    ValueError
        If `values` is not 1-D, or one value would change: a fraction or NaN for an integer, an integer out
        of range or that a float cannot hold, an overflow to infinity, text that is too long or not ASCII; or
        is missing: masked, or a null (of times, nulls are NaT). Floats are rounded to a shorter float.
    TypeError
        If values of that type are never taken, as text for numbers, None, or arrays of Python objects.
    """
    if (
        type(values) is np.ndarray
        and (values.dtype is dtype or values.dtype == dtype)
        and values.strides == (dtype.itemsize,)
    ):
        return values
    return as_array(values, dtype, ndim=1)


def as_array(values: object, dtype: np.dtype[Any], ndim: int) -> _Array:
    """Return values as a C-contiguous array of items, in so many dimensions; raise as `as_items` does."""
    base, shape = dtype.base, dtype.shape
    all_dims = ndim + len(shape)
    source = as_source(values, base, all_dims)
    if source.ndim != all_dims and source.ndim <= ndim and source.size == 0:  # no item shows its shape
        source = source.reshape(source.shape + (0,) * (ndim - source.ndim) + shape)
    if source.ndim != all_dims:
        single = f"a single {type(values).__name__}"
        found = f"{source.ndim}-D values of shape {source.shape}" if source.ndim else single
        whole = ", ".join([*("records", "length")[-ndim:], *map(str, shape)])
        of_shape = f" of the shape ({whole})" if shape else ""
        raise ValueError(f"found {found}, expected {all_dims}-D values of {base}{of_shape}")
    if source.shape[ndim:] != shape:
        if 0 not in source.shape[:ndim]:
            raise ValueError(f"found items of the shape {source.shape[ndim:]}, expected {shape}, of {base}")
        source = source.reshape(source.shape[:ndim] + shape)
    if base.names is None:
        return np.ascontiguousarray(exact(source, base))
    if source.dtype == base and source.flags.c_contiguous:
        return np.ascontiguousarray(source)
    out = np.zeros(source.shape, base)
    fill(out, source, "")
    return out


def as_record(obj: Any, schema: Schema) -> _Array:
    """Return the bytes of one object, as a structured array of one.

    Parameters
    ----------
    obj : object
        An instance of the store's class or of another one with an equal schema; a structured scalar or
        array of one; a dict with all fields; a tuple of them. For an array type also a list or array.
    schema : Schema
        Of an object store.

    Returns
    -------
    ndarray of ``schema.dtype``, shape (1,)
        C-contiguous. May share the memory of `obj`.

    Raises
    ------
    SchemaError
        If `obj` is a ctypes instance of another layout; says how it differs. It is a TypeError.
    TypeError, ValueError
        As `as_items`.
    """
    if isinstance(obj, (ctypes.Structure, ctypes.Array)):
        if type(obj) is not schema.ctype:
            _check_same(obj, schema)
        return np.frombuffer(memoryview(obj), schema.dtype)
    if _is_wrapped(obj, schema):
        return _wrapped([obj], schema)
    if isinstance(obj, np.ndarray) and obj.size == 1:
        return as_array(obj.reshape(1), schema.dtype, ndim=1)
    return as_array([obj], schema.dtype, ndim=1)


def as_records(records: object, schema: Schema) -> _Array:
    """Return the bytes of many objects, as a structured array.

    Parameters
    ----------
    records : array-like, 1-D
        A structured array with the same fields, a ctypes array of instances, or an iterable of whatever
        `as_record` takes. For an array type also an array of one dimension more. Or columns, as
        `from_columns` takes them: a dict, a data frame, a table, a column of structs.
    schema : Schema
        Of an object store.

    Returns
    -------
    ndarray of ``schema.dtype``, shape (n,)
        C-contiguous. May be `records`, or share its memory.

    Raises
    ------
    SchemaError, TypeError, ValueError
        As `as_record`.
    """
    if isinstance(records, np.ndarray):
        return _wrapped(records, schema) if _is_wrapped(records, schema) else as_items(records, schema.dtype)
    columns = named_columns(records)
    if columns is not None:
        return from_columns(columns, schema.dtype)
    if isinstance(records, (str, bytes, ctypes.Structure)):
        raise TypeError(f"found {type(records).__name__}, expected a sequence of records, or columns")
    rows: list[Any] = list(records)  # type: ignore[call-overload]
    if any(isinstance(row, (ctypes.Structure, ctypes.Array)) or _is_wrapped(row, schema) for row in rows):
        same = all(type(row) is schema.ctype for row in rows)
        parts = rows if same else [as_record(row, schema).tobytes() for row in rows]
        return np.frombuffer(b"".join(parts), schema.dtype)
    return as_array(rows, schema.dtype, ndim=1)


def as_new(fields: Mapping[str, Any], cls: type[Any], dtype: np.dtype[Any]) -> _Array:
    """Return the bytes of an object of which some fields are given, and the others zero.

    Parameters
    ----------
    fields : mapping
        Values by name, each as in a dict that `as_record` takes.
    cls : type
        The object's, whose anonymous fields are looked into.
    dtype : numpy.dtype
        Of the store.

    Returns
    -------
    ndarray of `dtype`, shape (1,)

    Raises
    ------
    TypeError, ValueError
        As `as_items`; and if `cls` has no such field.
    """
    out = np.zeros(1, dtype)
    for name, value in fields.items():
        field, path = out, path_of(cls, name)  # type: ignore[arg-type]
        for part in path:
            field = field[part]
        _fill_column(field, (value,), out.shape, f".{'.'.join(path)}")
    return out


def from_columns(
    columns: Iterable[tuple[str, Any]], dtype: np.dtype[Any], take: Callable[[_Array, Any, str], None] | None = None
) -> _Array:
    """Return columns as a structured array.

    Parameters
    ----------
    columns : iterable of (str, array_like)
        One for each field, all of one length. In place of a field with fields, or of one that is an array, there
        may be columns for what is in it, named as ``Store.to_pandas`` names them: ``position.x``, ``v[0]``.
    dtype : numpy.dtype
        Of the store, with fields.
    take : callable, optional
        Stores the values of a column into the zeroed field, exactly; by default as `as_items` takes them.

    Raises
    ------
    ValueError, TypeError
        There are other columns, or they are of unequal length; or as `as_items`.
    """
    found = [part for name, column in columns for part in _flat(name, column)]
    lengths = {len(column): name for name, column in found}
    if len(lengths) > 1:
        shown = ", ".join(f"{count} in {name!r}" for count, name in lengths.items())
        raise ValueError(f"found columns of unequal length, {shown}; every record has all fields")
    left = dict(found)
    out = np.zeros(next(iter(lengths), 0), dtype)
    missing = [path for path, field in _leaves(out, "", left) if not _take(field, left, path, take)]
    if missing or left or len({name for name, _ in found}) < len(found):
        names = ", ".join(str(name) for name, _ in found)
        wanted = f"; there is none for {', '.join(missing)}" if missing else ""
        raise ValueError(f"found the columns {names}, expected {', '.join(dtype.names or ())}{wanted}")
    return out


def _flat(name: str, column: Any) -> Iterator[tuple[str, Any]]:
    """Yield a column, or those that it has within."""
    inner = named_columns(column)
    if inner is not None:
        for part, values in inner:
            yield from _flat(f"{name}.{part}", values)
    elif isinstance(column, (str, bytes)) or not isinstance(column, Iterable):
        raise TypeError(f"{_prefix(f'.{name}')}found a single {type(column).__name__}, expected a column of values")
    else:
        yield name, column if hasattr(column, "__len__") else list(column)


def _leaves(out: _Array, path: str, columns: Mapping[str, Any]) -> Iterator[tuple[str, _Array]]:
    """Yield the fields that have a column, and of the others what is in them."""
    if path in columns or (out.ndim == 1 and out.dtype.names is None):
        yield path, out
    elif out.ndim > 1:
        for place in itertools.product(*map(range, out.shape[1:])):
            items = np.moveaxis(out, 0, -1)[place]
            yield from _leaves(items, f"{path}[{','.join(map(str, place))}]", columns)
    else:
        for name in out.dtype.names or ():
            yield from _leaves(out[name], f"{path}.{name}" if path else name, columns)


def _take(field: _Array, columns: dict[str, Any], path: str, take: Callable[..., None] | None) -> bool:
    """Store a column into a field, and tell whether there is one."""
    if path not in columns:
        return False
    (take or _take_column)(field, columns.pop(path), path)
    return True


def _take_column(field: _Array, column: Any, path: str) -> None:
    values = listed(column)
    if isinstance(values, (list, tuple)):
        if len(values):
            _fill_column(field, values, field.shape[:1], f".{path}")
    else:
        fill(field, as_source(values, field.dtype, field.ndim, _prefix(f".{path}")), f".{path}")


def _check_same(obj: Any, schema: Schema) -> None:
    given = schema_of(obj)
    if given != schema:
        name, difference = type(obj).__name__, explain_difference(schema, given)
        raise SchemaError(f"instances of {name} are not laid out as those of this store: {difference}")


def _is_wrapped(values: object, schema: Schema) -> bool:
    """Whether these are plain values for a store of an array type, and not structured already."""
    names = values.dtype.names if isinstance(values, (np.ndarray, np.void)) else None
    return schema.ctype is not None and issubclass(schema.ctype, ctypes.Array) and names is None


def _wrapped(values: Any, schema: Schema) -> _Array:
    out = np.zeros(len(values), schema.dtype)
    items = out[ITEMS]
    fill(items, as_source(values, items.dtype, items.ndim), "")
    return out


def fill(out: _Array, source: _Array, path: str) -> None:
    """Store values into zeroed memory, exactly, field by field, so that padding stays zero."""
    if source.shape != out.shape:
        raise ValueError(f"{_prefix(path)}found values of shape {source.shape}, expected {out.shape}")
    if source.size == 0:
        return
    if out.dtype.names is None:
        out[...] = exact(source, out.dtype, _prefix(path))
    elif source.dtype.names is not None:
        check_names(source.dtype.names, out.dtype.names, _prefix(path))
        for name in out.dtype.names:
            fill(out[name], source[name], f"{path}.{name}")
    else:
        _fill_records(out, source, path)


def _fill_records(out: _Array, records: _Array, path: str) -> None:
    """Store an array of Python objects, each of them a record."""
    names = out.dtype.names or ()
    columns = zip(*(as_tuple(record, names, _prefix(path)) for record in records.flat), strict=True)
    for name, column in zip(names, columns, strict=True):
        _fill_column(out[name], column, out.shape, f"{path}.{name}")


def _fill_column(field: _Array, column: Sequence[Any], shape: tuple[int, ...], path: str) -> None:
    """Store the values of one field of records, given in a flat list, into an array of records of some shape."""
    if len(column) == 1 and is_exact(column[0], field.dtype) and field.shape == shape:
        field[...] = column[0]
        return
    where = _prefix(path)
    values = [_as_char(item, where) for item in column] if field.dtype == _CHAR else list(column)
    source = as_source(values, field.dtype, field.ndim - len(shape) + 1, where)
    fill(field, source.reshape(shape + source.shape[1:]), path)


def _as_char(item: Any, where: str) -> Any:
    """Return one byte as the text that has it: ctypes takes it as an integer too, and gives a NUL back as text."""
    if isinstance(item, (int, np.integer)) and not isinstance(item, (bool, np.timedelta64)):
        if not 0 <= item <= _MAX_CHAR:
            refuse(item, _CHAR, where)
        item = bytes([item])
    return b"" if isinstance(item, (str, bytes)) and len(item) == 1 and ord(item) == 0 else item


def _prefix(path: str) -> str:
    return f"field {path[1:]!r}: " if path else ""
