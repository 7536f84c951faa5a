"""IndexSnapshot: the index as of one commit, and what stays alive as long as a snapshot may read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import ClosedError, StoreNotFound
from ..runs.extent import Extent, RowArray
from ..runs.key_ranges import Sample
from ..runs.run import Run
from .counts import LiveCount
from .leveldb import LevelDB, Pair
from .store_index import StoreIndex

COPY_PAIRS = 256
"""How many pairs are read at a time."""


class Pin:
    """Keeps alive what was current and is not any more, for the snapshots that go on reading it.

    Every snapshot holds the pin of its time, and every pin the next one, so that what is kept goes with the last
    snapshot that might read it.
    """

    def __init__(self) -> None:
        self.kept: list[object] = []
        self.next: Pin | None = None


class Source(Protocol):
    """The index that a snapshot was taken of."""

    leveldb: LevelDB
    pin: Pin

    def read_live(self, store: int, snapshot: Any = None) -> dict[int, LiveCount]:
        """Return what is live in each chunk of a store, from LevelDB."""


class IndexSnapshot:
    """The index as of one commit.

    Notes
    -----
    Any number of threads may read. It holds a LevelDB snapshot until :meth:`close`, which keeps LevelDB from
    dropping old tables: keep it short.
    """

    def __init__(
        self, source: Source, store_indexes: Mapping[int, StoreIndex], commit: int, version: int, snapshot: Any
    ) -> None:
        self._store_indexes = dict(store_indexes)  # a store that is dropped later stays readable here
        self.commit = commit
        self.version = version
        self._leveldb_snapshot = snapshot
        self._source = source
        self._pin = source.pin

    @property
    def leveldb_snapshot(self) -> Any:
        """The plyvel snapshot.

        Raises
        ------
        ClosedError
            It was let go, so that a range that is still being read cannot go on as of another commit.
        """
        if self._leveldb_snapshot is None:
            raise ClosedError("the snapshot is closed; take another with db.snapshot()")
        return self._leveldb_snapshot

    def find(self, store: int, key: int) -> Extent | None:
        """Return the extent of a key, or None."""
        return store_index_of(self._store_indexes, store).find_at(key, self)

    def lookup(self, store: int, keys: npt.NDArray[np.uint64]) -> RowArray:
        """Return one row per ascending key; the key that has none gets a tombstone."""
        return store_index_of(self._store_indexes, store).lookup(keys, self)

    def runs(self, store: int, start: int, stop: int, *, reverse: bool = False) -> Iterator[Run]:
        """Yield the live rows of a key range as consecutive runs."""
        return self._held(store_index_of(self._store_indexes, store).runs(start, stop, self, reverse=reverse))

    def sample(self, store: int, piece_count: int) -> list[Sample]:
        """Return how rows are spread over the keys, in about so many pieces; [] if all are read as soon."""
        return store_index_of(self._store_indexes, store).sample(piece_count, self.leveldb_snapshot)

    def end_key(self, store: int, *, reverse: bool) -> int | None:
        """Return the lowest key of a store, or the highest; None if it has none."""
        return store_index_of(self._store_indexes, store).end_key(self, reverse=reverse)

    def _held(self, runs: Iterator[Run]) -> Iterator[Run]:
        """Pass runs on, so that this snapshot, and what it pins, lives until the last of them has been read."""
        yield from runs

    def record_count(self, store: int) -> int:
        """Return how many records the store has."""
        return sum(count.record_count for count in self.live(store).values())

    def live(self, store: int) -> dict[int, LiveCount]:
        """Return what is live in each chunk of a store."""
        return self._source.read_live(store, self.leveldb_snapshot)

    def pairs(self, start: bytes, stop: bytes) -> Iterator[list[Pair]]:
        """Yield what LevelDB holds in a range of keys, some pairs at a time."""
        while pairs := self._source.leveldb.read(start, stop, COPY_PAIRS, self.leveldb_snapshot):
            yield pairs
            start = pairs[-1][0] + b"\0"

    def close(self) -> None:
        """Let the snapshot go."""
        self._leveldb_snapshot = None


def store_index_of(store_indexes: Mapping[int, StoreIndex], store: int) -> StoreIndex:
    """Return the index of a store.

    Raises
    ------
    StoreNotFound
        The store was dropped.
    """
    store_index = store_indexes.get(store)
    if store_index is None:
        raise StoreNotFound("the store was dropped or altered; get it again by its name")
    return store_index
