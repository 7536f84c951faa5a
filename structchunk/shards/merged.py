"""MergedRuns: what merging shards gave, kept in memory for the scans that come after. Shards do not change."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Generator, Hashable, Iterable, Iterator, Sequence

from ..runs.run import ContiguousRun, Run, first_key, last_key

MOST_KEPT = 256 << 20
"""How many bytes the merged runs of all stores of some shards may take. What there is no room for is not kept."""


class InMemoryRun(ContiguousRun):
    """Rows whose records are in memory for this run alone, and counted with it."""

    __slots__ = ()

    @property
    def size(self) -> int:
        """Bytes of memory that rows and records take."""
        return int(self.keys.nbytes + self.span.stop - self.span.start)


class MergedRuns:
    """Consecutive runs by what they were merged from. Any number of threads may use it.

    Who looks needs no lock: a source has all of its runs, or none.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, list[Run]] = {}
        self._size = 0
        self._closed = False
        self._coming: set[Hashable] = set()
        self._lock = threading.Lock()

    def find(self, source: Hashable) -> list[Run] | None:
        """Return all runs of a source, if they are kept."""
        return self._kept.get(source)

    def keeping(self, source: Hashable, runs: Iterable[Run]) -> Iterator[Run]:
        """Yield all runs of a source, and keep them once all were yielded, if there is room for them."""
        if source in self._coming:  # else each of many that are read at a time would hold them
            yield from runs
            return
        self._coming.add(source)
        try:
            collected = yield from self._collecting(runs)
            if collected:
                self._keep(source, collected)
        finally:
            self._coming.discard(source)

    def _collecting(self, runs: Iterable[Run]) -> Generator[Run, None, list[Run]]:
        """Yield runs, and return them in the end; none of them if there is no room for all."""
        collected: list[Run] = []
        size = 0
        for run in runs:
            size += run.size
            if size <= self._room():
                collected.append(run)
            else:
                collected.clear()
            yield run
        return collected

    def has_room(self, size: int) -> bool:
        """Tell whether so many bytes more may be kept."""
        return size <= self._room()

    def replace(self, runs: list[Run], at: int, run: InMemoryRun) -> InMemoryRun:
        """Put a run in place of one that is kept, with the same records, and return which is there then."""
        with self._lock:
            there = runs[at]
            if isinstance(there, InMemoryRun):  # of another thread
                return there
            self._size += run.size - there.size
            runs[at] = run
            return run

    def _keep(self, source: Hashable, runs: list[Run]) -> None:
        size = sum(run.size for run in runs)
        with self._lock:
            if size <= self._room() and source not in self._kept:
                self._size += size
                self._kept[source] = runs

    def _room(self) -> int:
        return 0 if self._closed else MOST_KEPT - self._size

    def close(self) -> None:
        """Keep none of them, and none that come."""
        with self._lock:
            self._closed = True
            self._kept.clear()


def places_between(runs: Sequence[Run], start: int, stop: int) -> range:
    """Return which of consecutive runs may have rows with ``start <= key < stop``."""
    return range(bisect_left(runs, start, key=last_key), bisect_left(runs, stop, key=first_key))
