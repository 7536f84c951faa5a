"""MergedRuns: what merging shards gave, kept in memory for the scans that come after. Shards do not change."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Hashable, Iterable, Iterator, Sequence

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

    Who looks needs no lock: a source has all of its runs, or none. A run of them may be replaced by one of the same
    records in memory.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, list[Run]] = {}
        self._size = 0
        self._closed = False
        self._collectors: dict[Hashable, object] = {}
        self._lock = threading.Lock()

    def find(self, source: Hashable) -> list[Run] | None:
        """Return all runs of a source, if they are kept."""
        return self._kept.get(source)

    def keeping(self, source: Hashable, runs: Iterable[Run]) -> Iterator[Run]:
        """Yield all runs of a source, and keep them once all were yielded, if there is room for them.

        Of those that are under way at a time the last one that began collects them.
        """
        collector = self._collectors[source] = object()
        collected: list[Run] | None = []
        size = 0
        for run in runs:
            size += run.size
            if not self.has_room(size) or self._collectors.get(source) is not collector:
                collected = None
            if collected is not None:
                collected.append(run)
            yield run
        if collected:
            self._keep(source, collected)

    def _keep(self, source: Hashable, runs: list[Run]) -> None:
        with self._lock:
            if source not in self._kept and self.has_room(_size(runs)):
                self._kept[source] = runs
                self._size = sum(map(_size, self._kept.values()))  # anew, whatever an interrupt has left

    def replace(self, runs: list[Run], at: int, run: InMemoryRun) -> Run:
        """Put a run in place of one that is kept, of the same records, if there is room; return which is there."""
        with self._lock:
            there = runs[at]
            more = run.size - there.size
            if not isinstance(there, InMemoryRun) and self.has_room(more):
                self._size += more  # first: an interrupt between the two leaves a figure that is safe
                there = runs[at] = run
            return there

    def has_room(self, size: int) -> bool:
        """Tell whether so many bytes more may be kept."""
        return not self._closed and self._size + size <= MOST_KEPT

    def close(self) -> None:
        """Keep none of them, and none that come."""
        with self._lock:
            self._closed = True
            self._kept.clear()
            self._collectors.clear()


def _size(runs: Iterable[Run]) -> int:
    return sum(run.size for run in runs)


def places_between(runs: Sequence[Run], start: int, stop: int) -> range:
    """Return which of consecutive runs may have rows with ``start <= key < stop``."""
    return range(bisect_left(runs, start, key=last_key), bisect_left(runs, stop, key=first_key))
