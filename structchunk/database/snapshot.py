"""Snapshot: the stores as of one commit, and what a store is bound to within one. Nothing is written here."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ..chunks.heap import Heap
from ..engine.storage import Storage
from ..errors import ClosedError, ReadOnlyError, StoreNotFound
from ..index.index_snapshot import IndexSnapshot
from ..runs.extent import KEY_END, Extent, RowArray
from ..runs.key_ranges import GRAIN, KeyRange, split, split_samples, weight
from ..runs.run import Run
from ..stores.attributes import Attributes
from ..stores.binding import maker_of_copies
from ..stores.change import Change
from ..stores.collection import StoreCollection
from ..types.keys import as_key
from .attribute_records import ATTRIBUTES, attributes_of, read_text
from .feed import changes_since, first_change_of


class SnapshotBinding:
    """Binding of a store to a snapshot."""

    writer = None

    def __init__(self, snapshot: Snapshot, heap: Heap) -> None:
        self.heap = heap
        self._snapshot = snapshot

    def find(self, key: int) -> Extent | None:
        """Return the extent of a key, or None."""
        return self._snapshot._index_snapshot().find(self.heap.store, as_key(key))

    def finder_of_records(self, kind: type[Any]) -> Callable[[int], Extent | None]:
        """Return what finds the extent of a key."""
        return self.find

    def lookup(self, keys: npt.NDArray[np.uint64]) -> RowArray:
        """Return one row per ascending key; the key that has none gets a tombstone."""
        return self._snapshot._index_snapshot().lookup(self.heap.store, keys)

    def runs(self, start: int, stop: int, *, reverse: bool = False) -> Iterator[Run]:
        """Yield the live rows of a key range as consecutive runs."""
        return self._snapshot._index_snapshot().runs(self.heap.store, start, stop, reverse=reverse)

    def end_key(self, *, reverse: bool) -> int | None:
        """Return the lowest key, or the highest; None if there is no record."""
        return self._snapshot._index_snapshot().end_key(self.heap.store, reverse=reverse)

    def record_count(self) -> int:
        """Return how many records the store has."""
        return self._snapshot._index_snapshot().record_count(self.heap.store)

    def figures(self) -> None:
        """Return None: the figures that are kept are those of the latest commit."""

    def attributes(self) -> Attributes:
        """Return the store's attributes."""
        return attributes_of(self._snapshot, self.heap)

    def version(self) -> int:
        """Return the same number always."""
        self._snapshot._index_snapshot()
        return 0

    def writing(self) -> NoReturn:
        """Refuse."""
        raise ReadOnlyError("a snapshot cannot be written; write through the database or a transaction")

    def at_one_commit(self) -> SnapshotBinding:
        """Return this, which is."""
        return self

    def home(self) -> Snapshot:
        """Return the snapshot."""
        return self._snapshot

    def maker_of_objects(self, cls: type[Any]) -> Callable[[Extent], Any]:
        """Return what makes a copy of an object."""
        return maker_of_copies(self.heap, cls)

    def live_array(self, extent: Extent) -> None:
        """Return None: nothing may be changed through a snapshot."""


class Snapshot(StoreCollection):
    """The database as of one commit, for reading. Made by ``db.snapshot()``.

    Notes
    -----
    Any number of threads may use one. Keep it short: until it is closed, LevelDB keeps old index tables. What
    was read from it stays valid after it is closed. Records that may change in place (objects, arrays made
    by ``new()``) show their present bytes.

    One of a database that is open with ``mode="r"`` can be pickled, as that can; see :func:`open`.
    """

    def __init__(
        self, index_snapshot: IndexSnapshot, heaps: dict[str, Heap], database: object, storage: Storage
    ) -> None:
        self._database = database  # which stays open for as long as this lives
        self._taken: IndexSnapshot | None = index_snapshot
        self._heaps = dict(heaps)
        self._stores = {name: heap for name, heap in heaps.items() if name != ATTRIBUTES}
        self._storage = storage
        self._finalizer = weakref.finalize(self, index_snapshot.close)

    def __repr__(self) -> str:
        if self._taken is None:
            return "<Snapshot, closed>"
        return f"<Snapshot of commit {self._taken.commit}, {len(self._stores)} stores>"

    @property
    def last_commit(self) -> int:
        """Number of the last commit that this snapshot shows."""
        return self._index_snapshot().commit

    @property
    def first_change(self) -> int:
        """The lowest commit that :meth:`changes` can be asked since; see ``Database.first_change``."""
        return first_change_of(self._storage, self._heaps, self._index_snapshot().commit)

    def changes(self, since: int, *names: str, net: bool = False) -> Iterator[Change]:
        """Return what was changed since a commit, up to that of this snapshot; see ``Database.changes``."""
        commit = self._index_snapshot().commit
        return changes_since(self._storage, since, names, net=net, heaps=self._heaps, commit=commit)

    def _index_snapshot(self) -> IndexSnapshot:
        """Return the index as of the snapshot's commit."""
        if self._taken is None:
            raise ClosedError("the snapshot is closed; take another with db.snapshot()")
        return self._taken

    def _names(self) -> Collection[str]:
        return self._stores

    def _binding(self, name: str) -> SnapshotBinding:
        self._index_snapshot()
        heap = self._stores.get(name)
        if heap is None:
            raise StoreNotFound(f"the snapshot has no store {name!r}; it has {sorted(self._stores)}")
        return SnapshotBinding(self, heap)

    # ------------------------------------------------------------------ attributes

    @property
    def attrs(self) -> Attributes:
        """The database's attributes as of the commit; see ``Database.attrs``. They cannot be changed here."""
        return attributes_of(self)

    def _check_there(self, heap: Heap) -> None:
        """Do nothing: what a snapshot shows stays."""

    def _attribute_text(self, owner: int) -> bytes:
        index, heap = self._index_snapshot(), self._heaps.get(ATTRIBUTES)
        return b"" if heap is None else read_text(heap, lambda: index.find(heap.store, owner))

    def _changing_attributes(self) -> NoReturn:
        raise ReadOnlyError("a snapshot's attributes cannot be set; set them through the database or a transaction")

    def split(self, *names: str, count: int) -> list[KeyRange]:
        """Cut the key space into ranges of about the same size, for several workers to scan.

        Parameters
        ----------
        *names : str
            The stores that are to be scanned; their bytes are balanced, together.
        count : int
            How many ranges to make; there are fewer if there are few records.

        Returns
        -------
        list of (int, int)
            Start and stop of each range, ascending, each beginning where the one before ends: every key is in
            exactly one.

        Raises
        ------
        StoreNotFound
            There is no such store.

        Notes
        -----
        It reads the index, not the records; of a large index, a small part, so that a range may have more or less
        than its share by some hundredths.
        """
        heaps = [self._binding(name).heap for name in names]
        samples = [self._index_snapshot().sample(heap.store, GRAIN // 2 * max(count, 1)) for heap in heaps]
        if samples and all(samples):
            return split_samples(chain.from_iterable(samples), count)
        live = [count for heap in heaps for count in self._index_snapshot().live(heap.store).values()]
        size = sum(weight(count.record_count, count.size) for count in live)
        runs = (
            (run, heap.item_size) for heap in heaps for run in self._index_snapshot().runs(heap.store, 0, KEY_END)
        )
        return split(runs, size, count)

    def close(self) -> None:
        """Let the snapshot go. Idempotent."""
        self._taken = None
        self._finalizer()

    def __enter__(self) -> Snapshot:
        self._index_snapshot()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def origin(snapshot: Snapshot) -> tuple[object, IndexSnapshot]:
    """Return what a snapshot was taken of, and the index as of its commit."""
    return snapshot._database, snapshot._index_snapshot()
