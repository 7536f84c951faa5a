"""SharedDatabase: a database that several processes write in turn, holding it only while a transaction is open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..chunks.heap import Heap
from ..engine.storage import Storage
from ..process import leftovers
from ..readers.shared_storage import SharedStorage
from ..runs.extent import Extent, RowArray
from ..runs.run import Run
from ..stores.binding import maker_of_copies
from .autocommit import AutocommitBinding
from .database import Database


class SharedBinding(AutocommitBinding):
    """Binding of a store to the latest commit of any process; every write is a transaction of its own."""

    def __init__(self, database: SharedDatabase, heap: Heap) -> None:
        super().__init__(database, heap)
        self._catch_up = database._check_open
        self._find = self.find
        self.find = self._find_latest

    def _find_latest(self, key: int) -> Extent | None:
        self._catch_up()
        return self._find(key)

    def finder_of_records(self, kind: type[Any]) -> Callable[[int], Extent | None]:
        """Return what finds the extent of a key."""
        return self.find

    def lookup(self, keys: npt.NDArray[np.uint64]) -> RowArray:
        """Return one row per ascending key; the key that has none gets a tombstone."""
        self._catch_up()
        return super().lookup(keys)

    def runs(self, start: int, stop: int, *, reverse: bool = False) -> Iterator[Run]:
        """Yield the live rows of a key range, all as of the present commit, as consecutive runs."""
        self._catch_up()
        return super().runs(start, stop, reverse=reverse)

    def end_key(self, *, reverse: bool) -> int | None:
        """Return the lowest key, or the highest; None if there is no record."""
        self._catch_up()
        return super().end_key(reverse=reverse)

    def maker_of_objects(self, cls: type[Any]) -> Callable[[Extent], Any]:
        """Return what makes a copy of an object."""
        return maker_of_copies(self.heap, cls)

    def live_array(self, extent: Extent) -> npt.NDArray[Any] | None:
        """Return None: what another process moves or replaces must not change in place here."""
        return None


class SharedDatabase(Database):
    """A database that several processes write in turn. Made by ``open(path, shared=True)``.

    Notes
    -----
    A transaction takes the writer's lock, reads what others have committed meanwhile, and lets the lock go when it
    has ended. Processes that want one take turns; waiting for the others may end in a LockedError. After a process
    was killed in its turn, the next one recovers the database first, which takes some milliseconds; so does every
    one in some thousand commits, which brings the index forward.

    Reads outside of transactions see the last commit of any process. Objects are private copies there, and arrays
    are read-only; those of a transaction may be changed in place until it ends. To change a record in place that
    was committed of late, all is brought to disk first.
    """

    def __init__(self, storage: SharedStorage, *, mode: str, sync: bool) -> None:
        super().__init__(storage, mode=mode, sync=sync)
        self._shared = storage

    def _check_open(self) -> None:
        """Raise ClosedError after :meth:`close`, and in a forked child; catch up with the other processes."""
        super()._check_open()
        self._shared.refresh()

    def refresh(self) -> bool:
        """Move to the newest commit, as every read does; tell whether there was one."""
        super()._check_open()
        return self._shared.refresh()

    def _latest(self, heap: Heap) -> AutocommitBinding:
        return SharedBinding(self, heap)

    def _begin_writing(self) -> Storage:
        leftovers.clear()  # of what was opened to recover it, and given up at once
        self._check_same()
        try:
            self._shared.begin()
        except OSError:
            self._check_same()
            raise
        return self._shared

    def _check_same(self) -> None:
        """Raise if the path leads to another database by now, or to none."""
        self._shared.check_place()
        if not self._shared.is_followed:
            self._shared.newest_superblock()

    def _end_writing(self) -> None:
        self._shared.end()

    def _prepare_copy(self) -> None:
        """Do nothing: a copy is made as by a reader, without waiting for a turn."""

    def sync(self) -> None:
        """Bring everything to disk: all commits of all processes, and the index."""
        if self._queue.is_mine():
            return self._shared.checkpoint()
        transaction = self.transaction()
        try:
            self._shared.checkpoint()
        finally:
            transaction.abort()
