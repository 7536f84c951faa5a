"""What a store of a database reads and writes through: the latest commit, and a transaction for each write."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..chunks.heap import Heap
from ..engine.live_objects import maker_of_objects, taking_objects
from ..engine.staging import Staging
from ..engine.storage import Storage
from ..index.takers import taking_records
from ..maintenance.stats import StoreStats
from ..runs.extent import Extent, RowArray
from ..runs.run import Run
from ..stores.attributes import Attributes
from ..stores.binding import live_object, maker_of_copies
from .attribute_records import Holder, attributes_of
from .snapshot import Snapshot, SnapshotBinding
from .transaction import Transaction, staging_of


class Writable(Holder, Protocol):
    """What is needed of a database."""

    _storage: Storage

    @property
    def mode(self) -> str:
        """The mode that it was opened with."""

    def _check_open(self) -> None:
        """Raise ClosedError once it is closed."""

    def transaction(self) -> Transaction:
        """Begin a write transaction."""

    def snapshot(self) -> Snapshot:
        """Return the stores as of the last commit."""

    def stats(self) -> dict[str, StoreStats]:
        """Return what each store holds."""


class OwnTransaction:
    """The transaction of a single write; entering it gives the staging of the one store that is written."""

    def __init__(self, database: Writable, heap: Heap) -> None:
        self._database = database
        self._heap = heap

    def __enter__(self) -> Staging:
        self._transaction = self._database.transaction()
        try:
            return staging_of(self._transaction, self._heap)
        except BaseException:
            self._transaction.abort()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transaction.__exit__(kind, error, trace)


class AutocommitBinding:
    """Binding of a store to the latest commit; every write is a transaction of its own."""

    writer = None

    def __init__(self, database: Writable, heap: Heap) -> None:
        self.heap = heap
        self._database = database
        self._index = database._storage.index
        # Straight to the index: this is the path of every single read.
        self.find: Callable[[int], Extent | None] = self._index.store_index(heap.store).find

    def finder_of_records(self, kind: type[Any]) -> Callable[[int], Any]:
        """Return what finds the record of a key: an array, or an object of a type; or else its extent, or None."""
        if kind is np.ndarray:
            make = taking_records(self.heap.records)
        elif self._database.mode == "r":
            return self.find
        else:
            make = taking_objects(self._database._storage.in_place, self.heap, kind)
        return self._index.store_index(self.heap.store).finder(kind, make)

    def lookup(self, keys: npt.NDArray[np.uint64]) -> RowArray:
        """Return one row per ascending key; the key that has none gets a tombstone."""
        with contextlib.closing(self._index.snapshot()) as snapshot:
            return snapshot.lookup(self.heap.store, keys)

    def runs(self, start: int, stop: int, *, reverse: bool = False) -> Iterator[Run]:
        """Yield the live rows of a key range, all as of the present commit, as consecutive runs."""
        return self._index.snapshot().runs(self.heap.store, start, stop, reverse=reverse)

    def end_key(self, *, reverse: bool) -> int | None:
        """Return the lowest key, or the highest; None if there is no record."""
        with contextlib.closing(self._index.snapshot()) as snapshot:
            return snapshot.end_key(self.heap.store, reverse=reverse)

    def record_count(self) -> int:
        """Return how many records the store has."""
        self._database._check_open()
        return self._index.record_count(self.heap.store)

    def figures(self) -> StoreStats | None:
        """Return what the store holds, in bytes."""
        return self._database.stats().get(self.heap.name)

    def attributes(self) -> Attributes:
        """Return the store's attributes."""
        return attributes_of(self._database, self.heap)

    def version(self) -> int:
        """Return the number of the last commit."""
        self._database._check_open()
        return self._index.last

    def writing(self) -> OwnTransaction:
        """Return a transaction that is committed at the end."""
        return OwnTransaction(self._database, self.heap)

    def at_one_commit(self) -> SnapshotBinding:
        """Return what reads the store as of the last commit."""
        return SnapshotBinding(self._database.snapshot(), self.heap)

    def home(self) -> Writable:
        """Return the database."""
        return self._database

    def maker_of_objects(self, cls: type[Any]) -> Callable[[Extent], Any]:
        """Return what makes an object over an extent, or a copy if the database is open for reading."""
        if self._database.mode == "r":
            return maker_of_copies(self.heap, cls)
        return maker_of_objects(self._database._storage.in_place, self.heap, cls, partial(live_object, self, cls))

    def live_array(self, extent: Extent) -> npt.NDArray[Any] | None:
        """Return an extent's items for changing in place, or None if the database is open for reading."""
        database = self._database
        return None if database.mode == "r" else database._storage.live_array(self.heap, extent)
