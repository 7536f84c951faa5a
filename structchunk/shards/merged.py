"""MergedRuns: what merging shards gave, kept in memory for the scans that come after. Shards do not change."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Hashable, Iterable, Iterator, Sequence

from ..runs.run import Run, clip_run, first_key, last_key

MOST_KEPT = 256 << 20
"""How many bytes the merged runs of all stores of some shards may take. What there is no room for is not kept."""


class MergedRuns:
    """Consecutive runs by what they were merged from. Any number of threads may use it.

    Who looks needs no lock: a source has all of its runs, or none.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, Sequence[Run]] = {}
        self._size = 0
        self._closed = False
        self._coming: set[Hashable] = set()
        self._lock = threading.Lock()

    def find(self, source: Hashable) -> Sequence[Run] | None:
        """Return all runs of a source, if they are kept."""
        return self._kept.get(source)

    def keeping(self, source: Hashable, runs: Iterable[Run]) -> Iterator[Run]:
        """Yield all runs of a source, and keep them once all were yielded, if there is room for them."""
        if source in self._coming:  # else each of many that are read at a time would hold them
            yield from runs
            return
        self._coming.add(source)
        try:
            yield from self._collecting(source, runs)
        finally:
            self._coming.discard(source)

    def _collecting(self, source: Hashable, runs: Iterable[Run]) -> Iterator[Run]:
        kept: list[Run] = []
        size = 0
        for run in runs:
            size += run.size
            if self._has_room(size):
                kept.append(run)
            else:
                kept.clear()
            yield run
        if kept:
            self._keep(source, kept, size)

    def _keep(self, source: Hashable, runs: Sequence[Run], size: int) -> None:
        with self._lock:
            if self._has_room(size) and source not in self._kept:
                self._size += size
                self._kept[source] = runs

    def _has_room(self, size: int) -> bool:
        return not self._closed and self._size + size <= MOST_KEPT

    def close(self) -> None:
        """Keep none of them, and none that come."""
        with self._lock:
            self._closed = True
            self._kept.clear()


def runs_between(runs: Sequence[Run], start: int, stop: int, *, reverse: bool = False) -> Iterator[Run]:
    """Return the rows with ``start <= key < stop`` of consecutive runs."""
    low, high = bisect_left(runs, start, key=last_key), bisect_left(runs, stop, key=first_key)
    found = runs[low:high]
    parts = (clip_run(run, start, stop) for run in (reversed(found) if reverse else found))
    return filter(len, parts)
