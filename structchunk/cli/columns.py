"""Stores as Arrow IPC and Parquet files: a column of keys and one of the store's name. Needs pyarrow."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..errors import missing_extra
from ..types.schema import Schema, array_schema
from .progress import Report
from .source import STEP, Source, schema_from_text, schema_text

METADATA = b"structchunk"
"""Under which a file's schema has the store's type."""


@contextlib.contextmanager
def _arrow() -> Iterator[Any]:
    """Yield pyarrow, and make its errors those that commands report."""
    try:
        import pyarrow  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise missing_extra("Arrow and Parquet files need pyarrow", "arrow") from error
    try:
        yield pyarrow
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from error


def export_arrow(store: Any, schema: Schema, path: str, report: Report) -> None:
    """Write a store as an Arrow IPC file."""
    with _arrow() as pyarrow, pyarrow.OSFile(path, "wb") as sink:
        _export(store, schema, lambda columns: pyarrow.ipc.new_file(sink, columns), report)


def export_parquet(store: Any, schema: Schema, path: str, report: Report) -> None:
    """Write a store as a Parquet file."""
    with _arrow():
        from pyarrow import parquet  # noqa: PLC0415

        _export(store, schema, lambda columns: parquet.ParquetWriter(path, columns), report)


def _export(store: Any, schema: Schema, open_writer: Callable[[Any], Any], report: Report) -> None:
    total, done = len(store), 0
    reader = store.to_arrow()
    columns = reader.schema.with_metadata({**(reader.schema.metadata or {}), METADATA: schema_text(schema)})
    with open_writer(columns) as writer:
        for batch in reader:
            writer.write_batch(batch)
            done += batch.num_rows
            report(done, total)


@contextlib.contextmanager
def open_arrow(path: str) -> Iterator[Source]:
    """Open an Arrow IPC file."""
    with _arrow() as pyarrow, pyarrow.OSFile(path) as file, pyarrow.ipc.open_file(file) as reader:
        total = sum(batch.num_rows for batch in _batches(reader))  # pyarrow 26 can count, and reads all for it, too
        yield ArrowSource(reader.schema, _batches(reader), total, path)


def _batches(reader: Any) -> Iterator[Any]:
    return (reader.get_batch(number) for number in range(reader.num_record_batches))


@contextlib.contextmanager
def open_parquet(path: str) -> Iterator[Source]:
    """Open a Parquet file."""
    with _arrow():
        from pyarrow import parquet  # noqa: PLC0415

        with parquet.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=STEP)
            yield ArrowSource(file.schema_arrow, batches, file.metadata.num_rows, path)


class ArrowSource:
    """Batches of two columns."""

    def __init__(self, columns: Any, batches: Iterator[Any], total: int, path: str) -> None:
        about = (columns.metadata or {}).get(METADATA)
        self.stated = None if about is None else schema_from_text(about, path)
        self._columns = columns
        self._batches = batches
        self._total = total
        self._path = path

    def guessed(self) -> Schema:
        """Return the type of an array store of such lists."""
        others = [field for field in self._columns if field.name != "key"]
        with _arrow():
            dtype = _dtype_of_items(others[0].type) if len(others) == 1 else None
            if dtype is None:
                found = ", ".join(f"{field.name} ({field.type})" for field in self._columns)
                expected = "key, and one of lists of numbers or times; for other types create the store first"
                raise ValueError(f"{self._path}: found the columns {found}; expected {expected}")
            return array_schema(dtype)

    def load(self, store: Any, report: Report) -> int:
        """Put all records into a store of a transaction, and return how many there were."""
        with _arrow() as pyarrow:
            store.from_arrow(pyarrow.RecordBatchReader.from_batches(self._columns, self._reported(report)))
        return self._total

    def _reported(self, report: Report) -> Iterator[Any]:
        done = 0
        for batch in self._batches:
            batch.validate(full=True)  # else damaged offsets are followed wherever they point
            yield batch
            done += batch.num_rows
            report(done, self._total)


def _dtype_of_items(kind: Any) -> np.dtype[Any] | None:
    """Return the dtype that holds all items of lists of an Arrow type, or None if the type alone does not tell."""
    import pyarrow  # noqa: PLC0415

    types = pyarrow.types
    if not hasattr(kind, "value_field"):  # which lists of all kinds have, and nothing else
        return None
    item = kind.value_type
    if isinstance(item, pyarrow.FixedShapeTensorType):
        inner = _dtype_of_items(pyarrow.list_(item.value_type))
        return None if inner is None else np.dtype((inner, tuple(item.shape)))
    if types.is_fixed_size_list(item):
        inner = _dtype_of_items(item)
        return None if inner is None else np.dtype((inner.base, (item.list_size, *inner.shape)))
    if types.is_fixed_size_binary(item):
        return np.dtype((np.void, item.byte_width))
    is_time = types.is_timestamp(item) or types.is_duration(item) or types.is_date(item)
    if is_time or types.is_integer(item) or types.is_floating(item) or types.is_boolean(item):
        dtype: np.dtype[Any] = pyarrow.nulls(0, item).to_numpy(zero_copy_only=False).dtype
        return dtype
    return None
