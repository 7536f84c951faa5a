"""Store: the mapping face that array stores and object stores share. What a record looks like is theirs."""

from __future__ import annotations

import abc
import operator
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from .batch import Batch
from .cursor import Cursor
from .errors import Error, KeyNotFound, MovedError
from .extent import KEY_END, TOMBSTONE, Extent, Run, empty_run
from .gather import Mapped, batches, gather
from .keys import as_bound, as_key, as_keys
from .piece import Piece, joined
from .ranges import Items, Keys, Range, Values
from .staging import Staging

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

R = TypeVar("R")
BATCH_SIZE = 1 << 16


class Binding(Protocol):
    """What a store reads and writes through: the latest commit, a transaction or a snapshot."""

    @property
    def heap(self) -> Mapped:
        """Where its records lie."""

    def find(self, key: int) -> Extent | None:
        """Return the extent of a key, or None."""

    def lookup(self, keys: npt.NDArray[np.uint64]) -> Run:
        """Return one row per key, in ascending order, repeated or not; a tombstone for the key that has none."""

    def pieces(self, start: int, stop: int, *, reverse: bool = False) -> Iterator[Piece]:
        """Yield the live rows of a key range as consecutive pieces."""

    def record_count(self) -> int:
        """Return how many records the store has."""

    def version(self) -> int:
        """Return a number that changes whenever the answers above may have."""

    def writing(self) -> AbstractContextManager[Staging]:
        """Enter the transaction that a write belongs to; one of its own outside of any."""

    def open_staging(self) -> Staging | None:
        """Return the open transaction's staging, or None outside of one."""

    def home(self) -> Any:
        """Return the database; raise TypeError where what is seen of it could not be found again."""

    def live_array(self, extent: Extent) -> npt.NDArray[Any] | None:
        """Return an extent's items for changing in place, or None where that is not allowed."""


def lent(array: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """Return what a binding lends of a record that it has just made; raise if it lends nothing."""
    if array is None:
        raise Error(
            "other processes write this database too, so what changes in place lives in a transaction only: "
            "with db.transaction() as txn: txn[name].new(...); or use put()"
        )
    return array


class Store(MutableMapping[int, R], Generic[R]):
    """A named, typed, ordered map from ``uint64`` keys to records.

    Notes
    -----
    A store reads and writes through what it was got from. From a database: every read sees the latest commit,
    every write is a transaction of its own. From a transaction: it reads the transaction's own writes. From a
    snapshot: it reads one commit, and cannot write.

    Any number of threads may use one. A range read (iteration, ``scan``, ``get_many``) sees one commit from
    beginning to end.
    """

    _put_flags = 0

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self._heap = binding.heap
        self._find = binding.find

    @property
    def name(self) -> str:
        """The store's name."""
        return self._heap.name

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one item, in an object store of one record."""
        return self._heap.schema.dtype

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} of {self.dtype}, {len(self)} records>"

    # Comparing all records would be a scan that `==` should not hide; a store is equal to itself.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a store of a database that is open for reading as that and its name."""
        return operator.getitem, (self._binding.home(), self.name)

    # ------------------------------------------------------------------ one record

    @abc.abstractmethod
    def _record(self, extent: Extent) -> R:
        """Return the record at an extent."""

    @abc.abstractmethod
    def put(self, key: int, value: Any) -> None:
        """Store one record, replacing what the key had."""

    def __getitem__(self, key: int) -> R:
        extent = self._find(key if type(key) is int else as_key(key))
        if extent is None:
            raise KeyNotFound(f"store {self.name!r} has no record {key}")
        try:
            return self._record(extent)
        except MovedError:
            return self[key]

    def get(self, key: int, default: Any = None) -> Any:
        """Return the record of a key, or the default if it has none."""
        extent = self._find(key if type(key) is int else as_key(key))
        try:
            return default if extent is None else self._record(extent)
        except MovedError:
            return self.get(key, default)

    def __setitem__(self, key: int, value: Any) -> None:
        self.put(key, value)

    def __contains__(self, key: object) -> bool:
        return self._find(as_key(key)) is not None

    def __delitem__(self, key: int) -> None:
        if not self.delete(key):
            raise KeyNotFound(f"store {self.name!r} has no record {key}")

    def delete(self, key: int) -> bool:
        """Delete a record, and tell whether there was one.

        Raises
        ------
        ReadOnlyError
            The store is bound to a snapshot, or the database is open for reading.
        """
        key = as_key(key)
        with self._binding.writing() as staging:
            return staging.delete(key)

    # ------------------------------------------------------------------ ranges

    def __len__(self) -> int:
        return self._binding.record_count()

    def __iter__(self) -> Iterator[int]:
        return iter(self.keys())

    def __reversed__(self) -> Iterator[int]:
        return iter(self.keys(reverse=True))

    def keys(self, start: int | None = None, stop: int | None = None, *, reverse: bool = False) -> Keys:
        """Return a view of the keys in ``[start, stop)``, ascending unless `reverse`."""
        return Keys(self._range(start, stop, reverse=reverse))

    def values(self, start: int | None = None, stop: int | None = None, *, reverse: bool = False) -> Values[R]:
        """Return a view of the records with keys in ``[start, stop)``."""
        return Values(self._range(start, stop, reverse=reverse))

    def items(self, start: int | None = None, stop: int | None = None, *, reverse: bool = False) -> Items[R]:
        """Return a view of the pairs of key and record with keys in ``[start, stop)``."""
        return Items(self._range(start, stop, reverse=reverse))

    def _range(self, start: int | None, stop: int | None, *, reverse: bool) -> Range[R]:
        low, high = as_bound(start, 0), as_bound(stop, KEY_END)
        return Range(self._binding, self._record, low, high, reverse=reverse)

    def delete_range(self, start: int | None = None, stop: int | None = None) -> int:
        """Delete all records with keys in ``[start, stop)``, and return how many there were."""
        low, high = as_bound(start, 0), as_bound(stop, KEY_END)
        with self._binding.writing() as staging:
            return staging.delete_range(low, high)

    def clear(self) -> None:
        """Delete all records, in one transaction."""
        self.delete_range()

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Store many records in one transaction, as ``dict.update`` does (use ``put_many`` for arrays)."""
        records = [(as_key(key), self._items(value)) for key, value in dict(*args, **kwargs).items()]
        with self._binding.writing() as staging:
            for key, items in records:
                staging.put(key, items, self._put_flags)

    @abc.abstractmethod
    def _items(self, value: Any) -> npt.NDArray[Any]:
        """Return what ``put`` takes as items of the store's dtype."""

    def cursor(self) -> Cursor[R]:
        """Return a cursor, which starts on no record."""
        return Cursor(self._binding, self.__getitem__)

    # ------------------------------------------------------------------ bulk

    def get_many(self, keys: Iterable[int] | npt.NDArray[Any]) -> Batch:
        """Return the records of many keys, in the order of the keys, which may repeat.

        Parameters
        ----------
        keys : array_like of int, shape (n,)

        Returns
        -------
        Batch
            A copy, unless the records happen to lie back to back.

        Raises
        ------
        KeyNotFound
            A key has no record; the message names the first such.
        """
        wanted = as_keys(keys)
        order = np.argsort(wanted)
        rows = empty_run(len(wanted))
        rows[order] = self._binding.lookup(wanted[order])
        missing = rows["flags"] & TOMBSTONE != 0
        if missing.any():
            first, count = wanted[np.argmax(missing)], int(missing.sum())
            raise KeyNotFound(f"store {self.name!r} has no record {first} ({count} are missing)")
        try:
            return gather(self._heap, rows)
        except MovedError:
            return self.get_many(wanted)

    def scan(
        self, start: int | None = None, stop: int | None = None, *, batch_size: int = BATCH_SIZE
    ) -> Iterator[Batch]:
        """Sweep the records with keys in ``[start, stop)`` in ascending order.

        Parameters
        ----------
        start, stop : int, optional
            Range of keys.
        batch_size : int
            Records in a batch, at most. A batch is smaller where records stop lying back to back for long.

        Yields
        ------
        Batch
            A view of the file where records lie back to back, else a copy.
        """
        return self._scan(as_bound(start, 0), as_bound(stop, KEY_END), check_batch_size(batch_size))

    def _scan(self, start: int, stop: int, batch_size: int) -> Iterator[Batch]:
        for piece in self._binding.pieces(start, stop):
            yield from batches(self._heap, piece, batch_size)

    def _gather_range(self, start: int | None, stop: int | None) -> Batch:
        """Return the records with keys in ``[start, stop)`` as one batch."""
        try:
            return gather(self._heap, joined(self._binding.pieces(as_bound(start, 0), as_bound(stop, KEY_END))))
        except MovedError:
            return self._gather_range(start, stop)

    # ------------------------------------------------------------------ Arrow and pandas

    def to_arrow(
        self, start: int | None = None, stop: int | None = None, *, batch_size: int = BATCH_SIZE
    ) -> pa.RecordBatchReader:
        """Sweep the records with keys in ``[start, stop)`` as a stream of Arrow record batches.

        Parameters
        ----------
        start, stop, batch_size : int, optional
            As in :meth:`scan`.

        Returns
        -------
        pyarrow.RecordBatchReader
            With the columns ``key`` and one of the store's name: of (large) lists, or in an object store of
            structs. Batches of records that lie back to back are views of the file; copied are the fields of
            structs, which Arrow has side by side, booleans, text, and records that may change in place (objects,
            arrays made by ``new()``). ``S`` is binary without the NULs at the end, in an SQL query equal to
            ``'abc'``.

        Raises
        ------
        SchemaError
            Arrow has no type for the records, or the store is called ``key``.
        ImportError
            pyarrow is missing: ``pip install 'structchunk[arrow]'``.

        Notes
        -----
        It reads as it is read: one commit, that of the first batch. What was read stays as it is, whatever is
        changed in place later, and valid past ``close()``. A store has the Arrow PyCapsule interface, so that
        DuckDB, Polars, pandas and pyarrow take the store itself: ``duckdb.sql("select ... from store")``,
        ``pyarrow.table(store)``, ``pandas.DataFrame.from_arrow(store)``; ``polars.from_arrow(store)`` is a series
        of structs, ``polars.DataFrame(store.to_arrow())`` a frame.
        """
        from .arrow import record_batch_reader  # noqa: PLC0415

        scan = self.scan(start, stop, batch_size=batch_size)
        return record_batch_reader({self.name: self._heap.schema}, ((batch,) for batch in scan))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return all records as an Arrow stream; see the Arrow PyCapsule interface."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        """Return the type of that stream."""
        from .arrow import stream_schema  # noqa: PLC0415

        return stream_schema({self.name: self._heap.schema}).__arrow_c_schema__()

    def from_arrow(self, source: Any) -> None:
        """Store the records of an Arrow stream, in one transaction; of equal keys the last one stays.

        Parameters
        ----------
        source : object
            Whatever has the Arrow PyCapsule interface: a pyarrow table, batch or reader, a Polars or pandas
            data frame, a DuckDB relation, another store. It has a column ``key`` of integers (or decimals that
            are whole) and one of the store's name, or just one other: of lists of any kind, or in an object store
            of structs with its fields. Dictionaries, as of categories, stand for their values.

        Raises
        ------
        ValueError
            There are nulls, other columns, or values that the store's type cannot hold exactly; nothing was
            changed.
        TypeError
            It is no Arrow stream, or one of other types; nothing was changed.
        ImportError
            pyarrow is missing: ``pip install 'structchunk[arrow]'``.

        Notes
        -----
        What is taken depends on the types, and then on each value: never on what else the stream holds. Times
        with a time zone are stored as they are in UTC.

        Batches are stored one by one as they are read, so that a stream may be larger than memory, which takes
        some hundred bytes a record. Within a transaction a failure leaves the batches before it in that
        transaction: abort it.
        """
        from .arrow import read_blocks  # noqa: PLC0415

        with self._binding.writing() as staging:
            for keys, items, lengths in read_blocks(source, self.name, self._heap.schema):
                staging.put_many(keys, items, lengths, self._put_flags)

    def to_pandas(self, start: int | None = None, stop: int | None = None) -> pd.Series[Any] | pd.DataFrame:
        """Return the records with keys in ``[start, stop)`` as pandas data.

        Returns
        -------
        pandas.DataFrame
            Of an object store: a row for each record, indexed by ``key``, and a column for each field. Fields
            of inner structures are named by their path, ``position.x``, items of inner arrays ``v[0]``.
        pandas.Series
            Of an array store: a row for each *item*, indexed by ``key`` and ``position`` in the record (a
            DataFrame if the items have fields). Records of no items have no rows. ``unstack()`` makes a row for
            each record of it, ``groupby("key")`` works on each record.

        Raises
        ------
        SchemaError
            There are times of a unit that pandas does not have.
        ImportError
            pandas is missing: ``pip install 'structchunk[pandas]'``.

        Notes
        -----
        All of it is the caller's own, to be changed at will: nothing of it is a view of the file. It takes memory
        for the index of all items and twice for the values where they do not lie back to back. ``S`` and ``V``
        become objects, ``bytes``; times in units that pandas does not have become seconds or a unit that is finer.
        """
        from .frames import to_pandas  # noqa: PLC0415

        return to_pandas(self._gather_range(start, stop), self.name)


def check_batch_size(batch_size: int) -> int:
    """Return how many records a batch may have, if it may have any."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    return batch_size
