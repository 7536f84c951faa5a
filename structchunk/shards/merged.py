"""MergedRuns: what merging shards gave, kept in memory for the scans that come after. Shards do not change."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Hashable, Iterable, Iterator, Sequence

from ..runs.run import Run, clip_run, first_key, last_key

MOST_KEPT = 256 << 20
"""How many bytes the merged runs of all stores of some shards may take: the oldest ones go first."""


class MergedRuns:
    """Consecutive runs by what they were merged from. Any number of threads may use it."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Sequence[Run]] = {}
        self._lock = threading.Lock()

    def find(self, source: Hashable) -> Sequence[Run] | None:
        """Return all runs of a source, if they are kept."""
        return self._kept.get(source)

    def keeping(self, source: Hashable, runs: Iterable[Run]) -> Iterator[Run]:
        """Yield all runs of a source, and keep them once all were yielded, if they are small enough."""
        kept: list[Run] = []
        size = 0
        for run in runs:
            size += run.size
            if size <= MOST_KEPT:
                kept.append(run)
            else:
                kept.clear()
            yield run
        if kept:
            self._keep(source, kept)

    def _keep(self, source: Hashable, runs: Sequence[Run]) -> None:
        with self._lock:
            self._kept = _newest({**self._kept, source: runs})

    def clear(self) -> None:
        """Keep none of them any more."""
        self._kept = {}


def _newest(kept: dict[Hashable, Sequence[Run]]) -> dict[Hashable, Sequence[Run]]:
    """Return what is left when the oldest have gone, so that the rest may be kept."""
    while _size(kept) > MOST_KEPT:
        del kept[next(iter(kept))]
    return kept


def _size(kept: dict[Hashable, Sequence[Run]]) -> int:
    return sum(run.size for runs in kept.values() for run in runs)


def runs_between(runs: Sequence[Run], start: int, stop: int, *, reverse: bool = False) -> Iterator[Run]:
    """Return the rows with ``start <= key < stop`` of consecutive runs."""
    low, high = bisect_left(runs, start, key=last_key), bisect_left(runs, stop, key=first_key)
    found = runs[low:high]
    parts = (clip_run(run, start, stop) for run in (reversed(found) if reverse else found))
    return filter(len, parts)
