"""Store: what array and object stores share: many records at once, and the ways to NumPy, Arrow and pandas."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import Error, KeyNotFound
from ..process.in_order import count_workers, in_order
from ..runs.extent import KEY_END, ROW_BYTES, TOMBSTONE, RowArray, empty_rows
from ..runs.run import Run
from ..types.keys import as_bound, as_keys, distinct, keys_among
from .batch import Batch
from .batches import (
    BATCH_SIZE,
    MappedStore,
    batch_of,
    batch_of_found,
    batch_of_part,
    batch_of_runs,
    batches,
    check_batch_size,
    parts_of,
)
from .binding import until_found
from .join import KeyRanges, Swept, sweep
from .mapping import RecordMapping
from .notebook import note, store_html

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from pyarrow.dataset import Dataset

R = TypeVar("R")
T = TypeVar("T")
Missing: TypeAlias = Literal["raise", "skip", "empty"]


class Store(RecordMapping[R], Generic[R]):
    """A named, typed, ordered map from ``uint64`` keys to records.

    Notes
    -----
    A store reads and writes through what it was got from. From a database: every read sees the latest commit,
    every write is a transaction of its own. From a transaction: it reads the transaction's own writes. From a
    snapshot: it reads one commit, and cannot write.

    Any number of threads may use one. A range read (iteration, ``scan``, ``get_many``) sees one commit from
    beginning to end.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a store of a database that is open for reading as that and its name."""
        return operator.getitem, (self._binding.home(), self.name)

    def _repr_html_(self) -> str:
        """Return the store, with its size and chunks, for a notebook; it reads no record."""
        try:
            figures, count = self._binding.figures(), len(self)
        except (Error, OSError):
            return note(repr(self))  # which says why
        return store_html(
            type(self).__name__, self.name, self._heap.schema, count, figures, self._shown_attributes()
        )

    def _shown_attributes(self) -> dict[str, Any]:
        try:
            return dict(self.attrs.items())
        except Error:  # shards have none, and what is damaged is not shown
            return {}

    # ------------------------------------------------------------------ bulk

    def get_many(self, keys: Iterable[int] | npt.NDArray[Any], missing: Missing = "raise") -> Batch:
        """Return the records of many keys, in the order of the keys, which may repeat.

        Parameters
        ----------
        keys : array_like of int, shape (n,)
        missing : {"raise", "skip", "empty"}
            What to do about keys that have no record: raise, leave them out, or give each an empty record, which
            objects cannot be.

        Returns
        -------
        Batch
            A copy, unless the records happen to lie back to back.

        Raises
        ------
        KeyNotFound
            A key has no record; the message names the first such.
        ValueError
            `missing` is another word, or it is ``"empty"`` in an object store.
        """
        wanted = as_keys(keys)
        if missing == "raise":
            return until_found(lambda: batch_of(self._heap, self._existing(wanted)))
        check_missing(missing, self._heap.schema.kind)
        is_empty = missing == "empty"
        return until_found(lambda: batch_of_found(self._heap, self._lookup(wanted), missing_as_empty=is_empty))

    def _existing(self, keys: npt.NDArray[np.uint64]) -> RowArray:
        """Return the rows of keys, in their order; raise KeyNotFound if one has none."""
        rows = self._lookup(keys)
        missing = rows["flags"] & TOMBSTONE != 0
        if missing.any():
            first, count = keys[np.argmax(missing)], int(missing.sum())
            raise KeyNotFound(f"store {self.name!r} has no record {first} ({count} are missing)")
        return rows

    def contains_many(self, keys: Iterable[int] | npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Tell which keys have a record.

        Parameters
        ----------
        keys : array_like of int, shape (n,)
            In any order; they may repeat. Integers that can be no keys, negative ones and those from ``2**64``
            on, have no record, as ``-1 in store`` is False.

        Returns
        -------
        ndarray of bool, shape (n,)

        Raises
        ------
        TypeError, ValueError
            They are not all integers (``"a" in store`` is False, but an array of text is taken for a mistake), are
            masked or nulls, or not 1-D.
        """
        wanted, is_key = keys_among(keys)
        found: npt.NDArray[np.bool_] = is_key & (self._lookup(wanted)["flags"] & TOMBSTONE == 0)
        return found

    def _lookup(self, keys: npt.NDArray[np.uint64]) -> RowArray:
        """Return one row per key, in their order; a tombstone for the key that has none."""
        order = np.argsort(keys)
        rows = empty_rows(len(keys))
        rows.view(ROW_BYTES)[order] = self._binding.lookup(keys[order]).view(ROW_BYTES)
        return rows

    def delete_many(self, keys: Iterable[int] | npt.NDArray[Any]) -> int:
        """Delete the records of many keys, in one transaction, and return how many there were.

        Parameters
        ----------
        keys : array_like of int, shape (n,)
            In any order; they may repeat. Those that have no record are passed over.

        Raises
        ------
        TypeError, ValueError
            They are not all integers in ``[0, 2**64)``; nothing was changed.
        ReadOnlyError
            As for :meth:`delete`.
        """
        unwanted = distinct(as_keys(keys))
        with self._binding.writing() as writer:
            return writer.delete_many(unwanted)

    def read(self, start: int | None = None, stop: int | None = None) -> Batch:
        """Return the records with keys in ``[start, stop)`` as one batch, in ascending order of key.

        Parameters
        ----------
        start, stop : int, optional
            Range of keys.

        Returns
        -------
        Batch
            A view of the file where all the records lie back to back, else a copy of them all: :meth:`scan`
            sweeps what is more than memory holds.
        """
        low, high = as_bound(start, 0), as_bound(stop, KEY_END)
        return until_found(lambda: batch_of_runs(self._heap, list(self._binding.runs(low, high))))

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
        yield from batches(self._heap, self._binding.runs(start, stop), batch_size)

    def map_batches(
        self,
        function: Callable[[Batch], T],
        workers: int | None = None,
        *,
        start: int | None = None,
        stop: int | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[T]:
        """Call a function with each batch of a scan, in several threads, and yield what it returns, in order.

        Parameters
        ----------
        function : callable
            Of one Batch. NumPy lets other threads run while it works on arrays; what is Python code does not.
        workers : int, optional
            How many threads, of which the caller's is one while it waits for a result; one for each core, unless
            told. With 1 there is no other, and nothing is done ahead.
        start, stop, batch_size : int, optional
            As in :meth:`scan`.

        Yields
        ------
        object
            What `function` returned, batch by batch, in ascending order of key.

        Raises
        ------
        ValueError, TypeError
            `workers` is not an integer of at least 1; or as :meth:`scan`.
        Exception
            What `function` raises, in the turn of that batch; it is called for no batch after that.

        Notes
        -----
        All batches are as of one commit; in a transaction they are the transaction's own state when the first one
        is asked for. The threads make the batches, too, and are ahead by at most two batches each.

        Threads end with the iterator: when it is exhausted, closed or dropped, or ended by an exception or an
        interrupt. Then calls that are in progress are waited for, and no others begin.

        The sums of all records over all cores:
        ``np.concatenate(list(store.map_batches(lambda batch: batch.reduce(np.add))))``. For a pool of processes cut
        the keys into ranges with ``Snapshot.split`` and send the store, of a database open with ``mode="r"``, with
        each of them.
        """
        low, high, size = as_bound(start, 0), as_bound(stop, KEY_END), check_batch_size(batch_size)
        return self._map_batches(function, count_workers(workers), low, high, size)

    def _map_batches(
        self, function: Callable[[Batch], T], workers: int, start: int, stop: int, batch_size: int
    ) -> Iterator[T]:
        # What a commit has let go is there for as long as this is, also when all rows were read.
        in_transaction = self._binding.writer is not None
        binding = self._binding if in_transaction else self._binding.at_one_commit()
        heap = binding.heap
        parts = parts_of(heap, binding.runs(start, stop), batch_size)
        yield from in_order((partial(_call_with, function, heap, part) for part in parts), workers)

    # ------------------------------------------------------------------ NumPy, Arrow and pandas

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        """Refuse: NumPy would take a store for the sequence of its keys."""
        raise TypeError(
            "a store is a mapping, not an array: np.asarray(store.keys()) is the array of its keys, "
            "store.read().values that of all items of its records; store.scan() sweeps them batch by batch, "
            "and store.to_pandas() makes a frame or series"
        )

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
            structs. Items that have a shape are fixed-size lists, one in another. Batches of records that lie back
            to back are views of the file; copied are the fields of structs, which Arrow has side by side, booleans,
            text, and records that may change in place (objects, arrays made by ``new()``). ``S`` is binary without
            the NULs at the end, in an SQL query equal to ``'abc'``.

        Raises
        ------
        SchemaError
            Arrow has no type for the records, or the store is called ``key``.
        ImportError
            pyarrow is missing, which the extra ``arrow`` brings.

        Notes
        -----
        It reads as it is read: one commit, that of the first batch. What was read stays as it is, whatever is
        changed in place later, and valid past ``close()``. A store has the Arrow PyCapsule interface, so that
        DuckDB, Polars, pandas and pyarrow take the store itself: ``duckdb.sql("select ... from store")``,
        ``pyarrow.table(store)``, ``pandas.DataFrame.from_arrow(store)``; ``polars.from_arrow(store)`` is a series
        of structs, ``polars.DataFrame(store.to_arrow())`` a frame.
        """
        from ..interop.arrow import record_batch_reader  # noqa: PLC0415

        scan = self.scan(start, stop, batch_size=batch_size)
        return record_batch_reader({self.name: self._heap.schema}, ((batch,) for batch in scan))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return all records as an Arrow stream; see the Arrow PyCapsule interface."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        """Return the type of that stream."""
        from ..interop.arrow import stream_schema  # noqa: PLC0415

        return stream_schema({self.name: self._heap.schema}).__arrow_c_schema__()

    def dataset(self) -> Dataset:
        """Return the store as a dataset of Arrow, which DuckDB, Polars and pyarrow push their filters down to.

        Returns
        -------
        pyarrow.dataset.Dataset
            With the columns of :meth:`to_arrow`, but for ``S``, which is text here.

        Raises
        ------
        SchemaError, ImportError
            As :meth:`to_arrow`.
        Error
            The store is one of a transaction.

        Notes
        -----
        ``duckdb.sql("select ... from dataset where key between 5 and 9")`` and
        ``polars.scan_pyarrow_dataset(dataset).filter(...)`` read the keys from 5 to 9 only: of a filter,
        comparisons of ``key`` with integers by ``=``, ``<>``, ``<``, ``<=``, ``>``, ``>=``, ``between`` and ``in``,
        under ``and``, ``or`` and ``not``, become ranges of keys. The rest of it is applied to each batch, exactly.
        Only the columns that are named are read, and of objects the fields (``columns=["points.x"]``, or those that
        an expression names; SQL asks for a whole column).

        It can be scanned any number of times, by several threads; each scan is of one commit, the latest one when
        it begins, in constant memory; ``sort_by`` is done in memory, and Arrow joins no lists or structs. Where the
        store can be pickled, so can the dataset.

        Bytes of ``S`` that are no UTF-8 are a ValueError in the scan that reads them; :meth:`to_arrow` has them as
        binary.
        """
        from ..interop.dataset import StoreDataset  # noqa: PLC0415

        self._binding.at_one_commit()  # raises where there is none
        return StoreDataset({self.name: self._heap.schema}, self._sweep, (Store.dataset, (self,)))

    def _sweep(self, names: Sequence[str], ranges: KeyRanges, batch_size: int) -> Swept:
        return sweep([self._binding.at_one_commit()], names, ranges, batch_size)

    def from_arrow(self, source: Any) -> None:
        """Store the records of an Arrow stream, in one transaction; of equal keys the last one stays.

        Parameters
        ----------
        source : object
            Whatever has the Arrow PyCapsule interface: a pyarrow table, batch or reader, a Polars or pandas
            data frame, a DuckDB relation, another store. It has a column ``key`` of integers (of 128 bits
            too, or decimals that are whole) and one of the store's name, or just one other: of lists of any kind,
            or in an object store of structs with its fields. For an object store there may be a column for each
            field in place of structs, as in what :meth:`to_pandas` returns. Dictionaries, as of categories, stand
            for their values.

        Raises
        ------
        ValueError
            There are nulls, other columns, or values that the store's type cannot hold exactly; nothing was
            changed.
        TypeError
            It is no Arrow stream, or one of other types; nothing was changed.
        ImportError
            pyarrow is missing, which the extra ``arrow`` brings.

        Notes
        -----
        What is taken depends on the types, and then on each value: never on what else the stream holds. Times
        with a time zone are stored as they are in UTC.

        Batches are stored one by one as they are read, so that a stream may be larger than memory, which takes
        some hundred bytes a record. Within a transaction a failure leaves the batches before it in that
        transaction: abort it.
        """
        from ..interop.arrow import read_blocks  # noqa: PLC0415

        with self._binding.writing() as writer:
            for keys, items, lengths in read_blocks(source, self.name, self._heap.schema):
                # What is read may have begun a savepoint meanwhile, which must know.
                writer.check_usable()
                writer.put_many(keys, items, lengths, self._put_flags)

    def to_pandas(self, start: int | None = None, stop: int | None = None) -> pd.Series[Any] | pd.DataFrame:
        """Return the records with keys in ``[start, stop)`` as pandas data.

        Returns
        -------
        pandas.DataFrame
            Of an object store: a row for each record, indexed by ``key``, and a column for each field. Fields
            of inner structures are named by their path, ``position.x``, items of inner arrays ``v[0]``.
        pandas.Series
            Of an array store: a row for each *item*, indexed by ``key`` and ``position`` in the record (a
            DataFrame if the items have fields, or a shape: then with a column for each place in it,
            ``vectors[0]``). Records of no items have no rows. ``unstack()`` makes a row for
            each record of it, ``groupby("key")`` works on each record.

        Raises
        ------
        SchemaError
            There are times of a unit that pandas does not have.
        ImportError
            pandas is missing, which the extra ``pandas`` brings.

        Notes
        -----
        All of it is the caller's own, to be changed at will: nothing of it is a view of the file. It takes memory
        for the index of all items and twice for the values where they do not lie back to back. ``S`` and ``V``
        become objects, ``bytes``; times in units that pandas does not have become seconds or a unit that is finer.
        """
        from ..interop.pandas import to_pandas  # noqa: PLC0415

        return to_pandas(self.read(start, stop), self.name)


def check_missing(missing: object, kind: str) -> None:
    """Raise unless this says what to do about keys that have no record, and records of a kind can be so."""
    if missing not in ("raise", "skip", "empty"):
        raise ValueError(f"missing is 'raise', 'skip' or 'empty', found {missing!r}")
    if missing == "empty" and kind == "object":
        raise ValueError("an object cannot be empty: with missing='skip' batch.keys has those that were found")


def _call_with(function: Callable[[Batch], T], heap: MappedStore, part: Run) -> T:
    return function(batch_of_part(heap, part))
