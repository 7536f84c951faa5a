"""Stores as a dataset of Arrow: DuckDB, Polars and pyarrow ask it for columns and filters, again and again.

A scan reads the ranges of keys in which its filter can be true, and the stores and fields that it names. Arrow
applies what is left of the filter, exactly: the engines do not apply it again. Knows columns, not stores.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow.dataset as pads
from pyarrow import fs

from ..types.schema import Schema
from .arrow import KEY, Records, column_of, stream_schema
from .arrow_expressions import fields_of, parse
from .arrow_types import pa
from .key_filter import KeyRanges, key_ranges, with_exact_keys

__all__ = ["StoreDataset"]

_READ_ONLY_SO = "a dataset of structchunk is read by its scanner(), to_table() and to_batches(), not as files"
_Path = tuple[str, ...]
Swept: TypeAlias = Iterator[tuple[npt.NDArray[np.uint64], Sequence[Records]]]


class Sweep(Protocol):
    """Stores side by side, swept as often as it is called, each time as of one commit."""

    def __call__(self, names: Sequence[str], ranges: KeyRanges, batch_size: int) -> Swept:
        """Yield the keys in some ranges that all stores have, and the records of the stores that are named."""


class StoreDataset(pads.UnionDataset):  # type: ignore[misc]
    """Stores as a ``pyarrow.dataset.Dataset``. Made by ``store.dataset()`` and ``db.dataset(*names)``.

    Parameters
    ----------
    stores : mapping of str to Schema
        The columns beside ``key``.
    sweep : Sweep
        Reads them.
    again : tuple of callable and arguments
        Makes this dataset again, where it is unpickled.
    filter : pyarrow.compute.Expression, optional
        That of all scans.
    """

    def __init__(
        self,
        stores: Mapping[str, Schema],
        sweep: Sweep,
        again: tuple[Callable[..., Any], tuple[Any, ...]],
        filter: Any = None,
    ) -> None:
        self._stores = dict(stores)
        self._sweep = sweep
        self._again = again
        schema = _with_text(stream_schema(stores))
        super().__init__(schema, [_unreadable(schema)])
        if filter is not None:
            self._scan_options = {"filter": filter}

    def __repr__(self) -> str:
        filtered = f" where {self._scan_options['filter']}" if self._scan_options else ""
        return f"<dataset of {', '.join(map(repr, self._stores))}{filtered}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (*self._again, self._scan_options.get("filter"))

    def scanner(self, columns: Any = None, filter: Any = None, batch_size: int = 1 << 16, **options: Any) -> Any:
        """Return a scan, of the commit that is the latest by now; see ``pyarrow.dataset.Dataset.scanner``.

        Parameters
        ----------
        columns : list of str or dict of str to Expression, optional
            ``"points.x"`` is a field of a store of objects. What is not asked for is not read.
        filter : Expression, optional
            Comparisons of ``key`` with integers become ranges of keys.
        batch_size : int
            Records in a batch, at most; there are fewer if they are large.
        **options
            As there.

        Returns
        -------
        pyarrow.dataset.Scanner
            It can be read once, in constant memory.
        """
        merged = self._scanner_options({"filter": filter})["filter"]
        columns = self.schema.names if columns is None else columns
        fields = self._fields(columns, merged)
        ranges, is_exact = ([(0, 1 << 64)], True) if merged is None else key_ranges(merged)
        schema = pa.schema([self.schema.field(KEY), *itertools.starmap(self._column, fields.items())])
        batches = _batches(schema, self._sweep(list(fields), ranges, batch_size))
        return pads.Scanner.from_batches(
            pa.RecordBatchReader.from_batches(schema, batches),
            columns=columns,
            filter=None if is_exact else with_exact_keys(merged),
            batch_size=batch_size,
            **options,
        )

    def filter(self, expression: Any) -> StoreDataset:
        """Return the dataset of the records that fit an expression, and the present one."""
        merged = self._scanner_options({"filter": expression})["filter"]
        return StoreDataset(self._stores, self._sweep, self._again, merged)

    def count_rows(self, filter: Any = None, **options: Any) -> int:
        """Return how many records fit, of which only what the filter names is read."""
        count: int = self.scanner([KEY], filter, **options).count_rows()
        return count

    def sort_by(self, sorting: Any, **options: Any) -> Any:
        """Return a dataset in memory, sorted."""
        return pads.InMemoryDataset(self.to_table()).sort_by(sorting, **options)

    # ------------------------------------------------------------------ what a scan reads

    def _fields(self, columns: Any, filter: Any) -> dict[str, set[str] | None]:
        """Return the stores that are named, and of each the fields that are, or None for all of it."""
        paths = _paths(columns, self.schema.names)
        more = iter(()) if filter is None else fields_of(parse(filter))
        if paths is None or more is None:
            return dict.fromkeys(self._stores)
        found: dict[str, set[str] | None] = {}
        for name, *inner in (*paths, *more):
            known = found.setdefault(name, set())
            found[name] = {*known, inner[0]} if inner and known is not None else None
        return {name: found[name] for name in self._stores if name in found}  # none that Arrow itself makes

    def _column(self, name: str, wanted: set[str] | None) -> pa.Field:
        column = self.schema.field(name)
        if wanted is None or not pa.types.is_struct(column.type):
            return column
        return pa.field(name, pa.struct([field for field in column.type if field.name in wanted]))


def _batches(schema: pa.Schema, swept: Swept) -> Iterator[pa.RecordBatch]:
    for keys, batches in swept:
        columns = [_column_of(batch, field) for batch, field in zip(batches, list(schema)[1:], strict=True)]
        yield pa.RecordBatch.from_arrays([pa.array(keys), *columns], schema=schema)


def _made_again(function: Callable[..., Any], arguments: tuple[Any, ...], filter: Any) -> Any:
    made = function(*arguments)
    return made if filter is None else made.filter(filter)


def _unreadable(schema: pa.Schema) -> Any:
    """Return a dataset that fails when it is read, for what pyarrow does past :meth:`StoreDataset.scanner`."""
    fragment = pads.IpcFileFormat().make_fragment(_READ_ONLY_SO, fs.LocalFileSystem())
    return pads.FileSystemDataset([fragment], schema, pads.IpcFileFormat(), fs.LocalFileSystem())


def _paths(columns: Any, names: Sequence[str]) -> list[_Path] | None:
    """Return which fields the columns of a scan are made of, or None if that is not known."""
    if not isinstance(columns, Mapping):
        return [_path(column, names) for column in columns]
    found = [fields_of(parse(expression)) for expression in columns.values()]
    return None if None in found else [path for paths in found if paths is not None for path in paths]


def _path(column: str, names: Sequence[str]) -> _Path:
    """Return the path of a column, which has one as ``store.field`` if there is none of its name."""
    return (column,) if column in names else tuple(column.removeprefix(".").split("."))


# ---------------------------------------------------------------- text


def _with_text(schema: pa.Schema) -> pa.Schema:
    """Return a schema with text where it has bytes of any length: those of ``S``, whose items are text."""
    return pa.schema([pa.field(field.name, _text_type(field.type)) for field in schema])


def _text_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_binary(kind):
        return pa.large_string()
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _text_type(field.type)) for field in kind])
    if pa.types.is_large_list(kind):
        return pa.large_list(_text_type(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_text_type(kind.value_type), kind.list_size)
    return kind


def _column_of(batch: Records, field: pa.Field) -> pa.Array:
    column = column_of(batch, field.type)
    if column.type == field.type:
        return column
    try:
        return column.cast(field.type)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{field.name}: found bytes that are no UTF-8, expected text, as S is in a dataset; to_arrow() has "
            f"them as binary, and V is the type for bytes: {error}"
        ) from error
