"""Batches as Arrow record batches, and Arrow streams as blocks to store. Knows columns, not stores.

A store is a column: of large lists for an array store, of structs for an object store. Lists are *large* (64-bit
offsets, as those of a batch) so that nothing is copied, and Polars takes them as they are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import SchemaError
from ..types.convert import as_items, fill, from_columns
from ..types.keys import as_keys
from ..types.schema import Schema
from .arrow_types import arrow_type, pa, to_arrow
from .arrow_values import (
    check_nulls,
    decoded,
    from_arrow,
    from_decimals,
    is_list,
    list_parts,
    translated_errors,
)

__all__ = ["Records", "column_of", "read_blocks", "record_batch", "record_batch_reader", "stream_schema"]

KEY = "key"

Block = tuple[npt.NDArray[np.uint64], npt.NDArray[Any], npt.NDArray[np.int64]]


class Records(Protocol):
    """A batch."""

    kind: str
    keys: npt.NDArray[np.uint64]
    offsets: npt.NDArray[np.int64]
    values: npt.NDArray[Any]
    in_place: bool


def stream_schema(stores: Mapping[str, Schema]) -> pa.Schema:
    """Return the schema of a stream of some stores: ``key``, and a column for each.

    Raises
    ------
    SchemaError
        A type that Arrow cannot hold, or a store whose name is that of the column of keys.
    """
    if KEY in stores:
        raise SchemaError(f"the store {KEY!r} has the name of the column of keys, so its column has none")
    columns = [(name, _column_type(schema.kind, schema.dtype)) for name, schema in stores.items()]
    return pa.schema([(KEY, pa.uint64()), *columns])


def _column_type(kind: str, dtype: np.dtype[Any]) -> pa.DataType:
    return arrow_type(dtype) if kind == "object" else pa.large_list(arrow_type(dtype))


def record_batch_reader(stores: Mapping[str, Schema], scan: Iterable[Sequence[Records]]) -> pa.RecordBatchReader:
    """Return a reader that takes aligned batches, one for each store, from a scan as it is read."""
    schema = stream_schema(stores)
    return pa.RecordBatchReader.from_batches(schema, (_columns(schema, batches) for batches in scan))


def record_batch(batch: Records) -> pa.RecordBatch:
    """Return one batch, with the columns ``key`` and ``value``."""
    schema = pa.schema([(KEY, pa.uint64()), ("value", _column_type(batch.kind, _item_type(batch.values)))])
    return _columns(schema, [batch])


def _item_type(values: npt.NDArray[Any]) -> np.dtype[Any]:
    """Return the type of the items of an array, whose shape is all dimensions but the first."""
    return np.dtype((values.dtype, values.shape[1:]))


def _columns(schema: pa.Schema, batches: Sequence[Records]) -> pa.RecordBatch:
    columns = [column_of(batch, field.type) for batch, field in zip(batches, list(schema)[1:], strict=True)]
    return pa.RecordBatch.from_arrays([pa.array(batches[0].keys), *columns], schema=schema)


def column_of(batch: Records, kind: pa.DataType) -> pa.Array:
    """Return the records of a batch as a column of the type of its store; of objects, of the fields that it has."""
    if batch.kind != "object":
        values = to_arrow(batch.values, copy=batch.in_place)
        return pa.LargeListArray.from_arrays(pa.array(batch.offsets), values)
    names = [field.name for field in kind] if pa.types.is_struct(kind) else []
    is_part = len(names) < len(batch.values.dtype.names or ())
    return to_arrow(batch.values[names] if is_part else batch.values, copy=batch.in_place)


# ---------------------------------------------------------------- from Arrow


def read_blocks(source: Any, name: str, schema: Schema) -> Iterator[Block]:
    """Yield the keys, items and lengths of each batch of an Arrow stream, to be stored.

    Parameters
    ----------
    source : object
        Whatever has the Arrow PyCapsule interface.
    name : str
        The column, unless there is only one beside ``key``; or, of an object store, there is one for each field.
    schema : Schema
        Of the store.

    Raises
    ------
    TypeError, ValueError
        It has no such columns, nulls, or values that do not fit.
    """
    with translated_errors(name):
        reader = _reader(source)
        column = _choose_column(reader.schema, name, schema)
        names = _needed(reader.schema.names, column)
        nothing = {name: pa.nulls(0, reader.schema.field(name).type) for name in names}
        _block(nothing, schema, column)  # to check the types, even if there are no records
        for batch in reader:
            yield _block({name: batch.column(name) for name in names}, schema, column)


def _needed(names: list[str], column: str | None) -> list[str]:
    """Return the names of the columns that are read: all, if none is chosen."""
    return [name for name in names if name in (KEY, column) or column is None]


def _block(columns: dict[str, pa.Array], schema: Schema, column: str | None) -> Block:
    """Return the records of some columns: of one of them, or of a field in each."""
    numbers = _keys(columns.pop(KEY))
    if column is None:
        records = from_columns(
            [(name, decoded(array)) for name, array in columns.items()], schema.dtype, _fill_field
        )
        return numbers, records, np.ones(len(records), np.int64)
    items, lengths = _values(decoded(columns[column]), schema, column)
    return numbers, as_items(items, schema.dtype), lengths


def _fill_field(field: npt.NDArray[Any], array: pa.Array, path: str) -> None:
    kind = np.dtype((field.dtype, field.shape[1:])) if field.ndim > 1 else field.dtype
    fill(field, from_arrow(array, kind, path), f".{path}")


def _reader(source: Any) -> pa.RecordBatchReader:
    is_stream = hasattr(source, "__arrow_c_stream__")
    if not is_stream and not hasattr(source, "__arrow_c_array__"):
        raise TypeError(
            f"found {type(source).__name__}, expected an Arrow table, batch or stream (of a pyarrow dataset take "
            "scanner().to_reader())"
        )
    try:
        if is_stream:
            return pa.RecordBatchReader.from_stream(_with_nans(_without_wide_integers(source)))
        batch = pa.record_batch(source)
    except pa.ArrowInvalid as error:
        found = f"found {type(source).__name__}, expected an Arrow table, batch or stream of columns of known types"
        raise TypeError(f"{found}: {error}") from error
    return pa.RecordBatchReader.from_batches(batch.schema, [batch])


def _without_wide_integers(source: Any) -> Any:
    """Return a frame or structs of Polars with decimals for integers of 128 bits, which Arrow does not have."""
    polars: Any = sys.modules.get("polars")
    if polars is None or not isinstance(source, (polars.DataFrame, polars.Series)):
        return source
    if isinstance(source, polars.Series) and not isinstance(source.dtype, polars.Struct):
        return source
    frame = source.struct.unnest() if isinstance(source, polars.Series) else source
    kinds = {name: _without_wide(kind, polars) for name, kind in frame.schema.items()}
    if kinds == dict(frame.schema):
        return source
    try:
        return frame.cast(kinds).to_arrow()  # as a stream of Polars 1.30 lists would still be of 128 bits
    except polars.exceptions.PolarsError as error:
        raise ValueError(f"found an integer of 128 bits that neither a key nor a value can be: {error}") from error


def _with_nans(source: Any) -> Any:
    """Return a data frame of pandas as a table that has its NaNs, where Arrow would have nulls."""
    pandas: Any = sys.modules.get("pandas")
    if pandas is None or not isinstance(source, pandas.DataFrame) or not source.columns.is_unique:
        return source
    table = pa.Table.from_pandas(source)
    for name, dtype in source.dtypes.items():
        if isinstance(dtype, np.dtype) and dtype.kind == "f" and name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, pa.array(source[name].to_numpy()))
    return table


def _without_wide(kind: Any, polars: Any) -> Any:
    """Return a type of Polars with decimals for integers of 128 bits, within lists and structs too."""
    if str(kind) in ("Int128", "UInt128"):
        return polars.Decimal(38, 0)
    if isinstance(kind, polars.Struct):
        return polars.Struct({field.name: _without_wide(field.dtype, polars) for field in kind.fields})
    if isinstance(kind, polars.List):
        return polars.List(_without_wide(kind.inner, polars))
    if isinstance(kind, polars.Array):
        return polars.Array(_without_wide(kind.inner, polars), kind.size)
    return kind


def _choose_column(found: pa.Schema, name: str, schema: Schema) -> str | None:
    """Return the column of the records, or None if each column beside ``key`` is one of their fields."""
    others = [column for column in found.names if column != KEY]
    if len(set(found.names)) == len(found.names) and KEY in found.names:
        chosen = name if name in others else others[0] if len(others) == 1 else None
        if schema.kind == "array" and chosen is not None:
            return chosen
        if schema.kind == "object" and others:
            return chosen if chosen is not None and _are_records(found.field(chosen), schema.dtype) else None
    expected = f"{KEY!r} and {name!r}, or one other beside it"
    fields = ", or one for each field" if schema.kind == "object" else ""
    raise ValueError(f"found the columns {', '.join(found.names)}; expected {expected}{fields}")


def _are_records(column: pa.Field, dtype: np.dtype[Any]) -> bool:
    """Tell whether a column is of structs, or is meant to be, as it has not the name of a field."""
    kind = decoded(pa.nulls(0, column.type)).type
    names = dtype.names or ()
    is_field = re.split(r"[.\[]", column.name)[0] in names
    has_fields = pa.types.is_struct(kind) and {field.name for field in kind} == set(names)
    return bool(has_fields or pa.types.is_null(kind)) or not is_field


def _keys(found: pa.Array) -> npt.NDArray[np.uint64]:
    array = decoded(found)
    kind = array.type
    if array.null_count:
        raise ValueError(f"{KEY}: found {array.null_count} nulls; every record has a key")
    if pa.types.is_decimal(kind):
        return as_keys(from_decimals(array, np.dtype(np.uint64), KEY))
    if not pa.types.is_integer(kind) and not pa.types.is_null(kind):
        taken = "keys are integers, decimals that are whole, or dictionaries of those"
        raise TypeError(f"{KEY}: found a column of {found.type}; {taken}")
    return as_keys(array.to_numpy(zero_copy_only=False))


def _values(array: pa.Array, schema: Schema, path: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Return the items of a column of records, end to end, and how many each record has."""
    if schema.kind == "object":
        return from_arrow(array, schema.dtype, path), np.ones(len(array), np.int64)
    check_nulls(array, path)
    if pa.types.is_null(array.type):
        return np.empty(0, schema.dtype), np.empty(0, np.int64)
    if not is_list(array.type):
        raise SchemaError(f"{path}: found a column of {array.type}, expected lists of {arrow_type(schema.dtype)}")
    items, lengths = list_parts(array)
    return from_arrow(items, schema.dtype, path), lengths
