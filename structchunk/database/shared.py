"""SharedDatabase: a database that several processes write in turn, holding it only while a transaction is open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..chunks.heap import Heap
from ..disk.superblock import Watch
from ..engine.storage import Storage
from ..process import leftovers
from ..readers.read_storage import ReadStorage
from ..runs.extent import Extent, RowArray
from ..runs.run import Run
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

    def live_array(self, extent: Extent) -> npt.NDArray[Any] | None:
        """Return None: what another process moves or replaces must not change in place here."""
        return None


class SharedDatabase(Database):
    """A database that several processes write in turn. Made by ``open(path, shared=True)``.

    Notes
    -----
    A transaction takes the writer's lock, opens the files, and at its end brings all to disk and lets them go, so
    that it costs some milliseconds: put much into one. Processes that want one take turns; waiting for the others
    may end in a LockedError.
    Every transaction is durable when it has ended, whatever its `sync`.

    Reads outside of transactions see the last transaction that any process has ended, through a clone of the
    index that is renewed when there is a newer one. Objects are private copies there, and arrays are read-only;
    those of a transaction may be changed in place until it ends.
    """

    def __init__(self, storage: ReadStorage, open_in_turn: Callable[[], Storage], *, mode: str, sync: bool) -> None:
        super().__init__(storage, mode=mode, sync=sync)
        self._reading = storage
        self._writing: Storage | None = None
        self._open_in_turn = open_in_turn
        self._watch = Watch(storage.paths.superblock)
        self._seen = b""

    def _check_open(self) -> None:
        """Raise ClosedError after :meth:`close`, and in a forked child; catch up with the other processes."""
        super()._check_open()
        state = self._watch.state()
        if state != self._seen:
            with self._reading.committing():
                self._catch_up(state)
                self._seen = state  # last: until then other threads wait here, too

    def _catch_up(self, state: bytes) -> None:
        """Show the newest commit, unless it is shown already."""
        self._reading.check_place()
        if not state:  # another file has the superblock's path: one that was made anew, or of another database
            self._watch = Watch(self._reading.paths.superblock)
        if self._reading.newest_superblock().checkpoint != self._reading.index.last:
            self._reading.catch_up()

    def _latest(self, heap: Heap) -> AutocommitBinding:
        return SharedBinding(self, heap)

    def _begin_writing(self) -> Storage:
        leftovers.clear()  # of what was opened to write, and given up at once
        self._end_writing()  # of a transaction that was given up
        self._check_same()
        try:
            storage = self._open_in_turn()
        except OSError:
            self._check_same()
            raise
        try:
            self._check_same()
        except BaseException:
            storage.close()
            raise
        self._writing = storage
        return storage

    def _check_same(self) -> None:
        """Raise if the path leads to another database by now, or to none."""
        self._reading.check_place()
        self._reading.newest_superblock()

    def _end_writing(self) -> None:
        storage = self._writing
        if storage is not None:
            storage.close()
            if self._writing is storage:
                self._writing = None

    def _is_entered(self) -> bool:
        return super()._is_entered() or (self._writing is not None and self._writing.is_entered())

    def _close_storage(self) -> None:
        self._end_writing()
        super()._close_storage()

    def sync(self) -> None:
        """Do nothing: what a transaction wrote is on disk when it has ended."""
        self._check_writable()
