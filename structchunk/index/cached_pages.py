"""CachedPages: decoded pages of one store, as reads want them; and how they are kept in less memory. No I/O."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..runs.compact import CompactRun, compact
from ..runs.extent import Extent, RowArray
from ..runs.run import ContiguousRun, Run, clip_run, read_only
from ..runs.short_keys import least_size
from ..runs.streams import even_run, goes_on, numbered
from .buckets import Buckets, make_buckets, search_in_buckets
from .short_pages import OVERHEAD, ShortPages
from .takers import Bucketed, Maker, Searched, Steps, Taking

FEWEST_LOOKUPS = 4
WORTH_KEYS = 2_000
"""Buckets are made after a few look-ups, and one more for each so many keys.

By then the lack of them has cost about a third of what making them takes, and who looks up single keys goes on.
"""
KEYS_PER_LOOKUP = 48
"""So many keys that are looked up together count as one look-up: buckets save less time for each of them."""
MANY_KEYS = 32
FAR_BETWEEN = 16
"""So many keys, or more, are looked up in buckets together, if they are one in so many, or fewer."""
WORTH_SHORTENING = 4
"""Pages are shortened if they would take less by one part in so many."""


class CachedPages(Taking):
    """Consecutive pages of one store, decoded: all its rows with ``floor <= key <= last``. Immutable.

    ``run`` has all rows, for finding some. ``runs`` has them for scans, cut where records stop lying back to
    back, so that a scan need not look at each row.

    Two kinds of data are common and need few memory accesses: keys that rise by the same step need no search, and
    records of one length that lie back to back need no rows. Other keys are put into buckets once some were looked
    up.
    """

    __slots__ = (
        "_buckets",
        "_first",
        "_keys",
        "_length",
        "_lookups",
        "_origin",
        "_step",
        "count",
        "floor",
        "keys",
        "last",
        "least_size",
        "run",
        "runs",
        "size",
    )

    def __init__(self, run: Run, floor: int, last: int, runs: Sequence[Run] = ()) -> None:
        super().__init__()
        self.floor = floor
        self.last = last
        self.count = len(run)
        self._first = self._step = self._length = self._lookups = 0
        self._buckets: Buckets | None = None
        self.keys = np.empty(0, np.uint64)
        if isinstance(run, ContiguousRun) and isinstance(run.spacing, range):
            self._first, self._step = run.spacing.start, run.spacing.step
        else:
            self.keys = _alone(run.keys)
        self._keys = self.keys.data  # which gives single numbers fastest
        if isinstance(run, ContiguousRun):
            self._length = run.length
            self._origin = (run.span.start, self._length * run.item_size, run.chunk, run.flags)
            run = run if self._step else run.over(self.keys)
        else:
            run = compact(run, self.keys)
        self.run = run
        self.runs = runs if len(runs) > 1 else [run]
        self.size = OVERHEAD + run.size + (0 if isinstance(run, ContiguousRun) else self.keys.nbytes)
        self.size += self.keys.nbytes // 4  # what buckets take, but for two of them
        self.size += sum(part.size for part in self.runs if part is not run)
        self.least_size = self._least_size()

    def joined(self, after: AnyPages) -> CachedPages | None:
        """Return these pages and those behind them as one, if keys and records go on evenly; else None."""
        if not (self._step and isinstance(after, CachedPages) and after.floor == self.last + 1):
            return None
        run = even_run([self.run, after.run])
        return None if run is None else CachedPages(run, self.floor, after.last)

    def outside(self, low: int, high: int) -> list[CachedPages]:
        """Return what is worth keeping of these pages when those between two keys go: of even ones, all else."""
        if not self._step:
            return []
        bounds = [(self.floor, low - 1), (high + 1, self.last)]
        return [
            CachedPages(clip_run(self.run, floor, last + 1), floor, last)
            for floor, last in bounds
            if floor <= last and self.has_any(floor, last + 1)
        ]

    def _least_size(self) -> int:
        """Return how many bytes these pages take once they are shortened, if they can be."""
        if not len(self.keys) or not isinstance(self.run, (ContiguousRun, CompactRun)):
            return self.size
        rest = self.run.without_keys().size
        least = OVERHEAD + rest + least_size(self.count, int(self.keys[-1]) - int(self.keys[0]))
        return least if least < self.size - self.size // WORTH_SHORTENING else self.size

    def can_be_shortened(self) -> bool:
        """Tell whether these pages would take less memory with their keys kept short."""
        return self.least_size < self.size

    @property
    def ends(self) -> tuple[int, int]:
        """The lowest and the highest key, of pages that can be shortened."""
        return int(self.keys[0]), int(self.keys[-1])

    def all_keys(self) -> npt.NDArray[np.uint64]:
        """Return the keys of pages that can be shortened."""
        return self.keys

    def find(self, key: int) -> Extent | None:
        """Return the extent of a key that these pages answer for, or None."""
        if self._step:
            at, rest = divmod(key - self._first, self._step)
            if rest or not 0 <= at < self.count:
                return None
        else:
            keys = self._keys
            first, shift, starts, is_crowded = self._buckets or self._make_buckets()
            bucket = (key - first) >> shift
            try:
                at = starts[bucket]  # of any bucket, if this one is before the first: no key will be equal
                if is_crowded:
                    at = bisect_left(keys, key, at, starts[bucket + 1])
                while (found := keys[at]) < key:
                    at += 1
            except IndexError:
                return None  # beyond the last key
            if found != key:
                return None
        if self._length:
            offset, size, chunk, flags = self._origin
            return key, offset + at * size, self._length, chunk, flags
        return self.run.extent(at)

    def _make_buckets(self) -> Buckets:
        """Return a bucket of all keys, until so many were looked up that smaller ones are worth their making."""
        self._lookups += 1
        if self._lookups <= FEWEST_LOOKUPS + self.count // WORTH_KEYS:
            return 0, 64, (0, self.count), True
        # One assignment of what is never changed needs no lock: at worst, two threads make the same.
        self._buckets = buckets = make_buckets(self.keys)
        return buckets

    def prepare(self, kind: object, make: Maker) -> None:
        """Make what takes records of one kind, once keys are found in few steps."""
        if not self._step and self._buckets is None:
            return
        searched = self._searched()
        self.take_by(kind, None if searched is None else make(self.run, searched))

    def _searched(self) -> Searched | None:
        """Return how a key is found in few steps, or None if it takes more."""
        if self._step:
            return Steps(self._first, self._step, self.count)
        buckets = self._buckets
        return None if buckets is None or buckets[3] else Bucketed(self._keys, buckets)

    def search(self, keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Return where in the run each of many keys is, and whether it is there at all."""
        if self._step:
            where, rest = np.divmod(keys - np.uint64(self._first), np.uint64(self._step))
            return where.astype(np.intp), (rest == 0) & (where < self.count)  # what is below first wraps around
        if not self.count:
            return np.zeros(len(keys), np.intp), np.zeros(len(keys), bool)
        if MANY_KEYS <= len(keys) <= self.count // FAR_BETWEEN:
            self._lookups += len(keys) // KEYS_PER_LOOKUP
            buckets = self._buckets or self._make_buckets()
            if not buckets[3]:
                return search_in_buckets(self.keys, buckets, keys)
        where = self.keys.searchsorted(keys)
        return where, self.keys.take(where, mode="clip") == keys

    def rows_at(self, where: npt.NDArray[np.intp], keys: npt.NDArray[np.uint64]) -> RowArray:
        """Return the rows at many positions, at which these keys are."""
        return self.run.take_known(where, keys)

    def clip(self, start: int, stop: int) -> list[Run]:
        """Return the rows with ``start <= key < stop`` as consecutive runs, as scans want them."""
        return [clip_run(run, start, stop) for run in self.runs]

    def has_any(self, start: int, stop: int) -> bool:
        """Tell whether there is a row with ``start <= key < stop``."""
        return len(clip_run(self.run, start, stop)) > 0


def _alone(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return keys, read-only, in memory that nothing else is kept in."""
    whole = keys if keys.base is None else keys.base
    if isinstance(whole, np.ndarray) and whole.nbytes == keys.nbytes and not keys.flags.writeable:
        return keys
    return read_only(keys.copy())


AnyPages: TypeAlias = "CachedPages | ShortPages"


def shorten(pages: Sequence[AnyPages]) -> ShortPages:
    """Return pages, each of which goes on from the one before, as one in less memory."""
    first, last = pages[0], pages[-1]
    runs = [each.run for each in pages if isinstance(each.run, (ContiguousRun, CompactRun))]
    run = runs[0] if len(runs) == 1 else numbered([each for each in runs if isinstance(each, ContiguousRun)])
    return ShortPages(run, np.concatenate([each.all_keys() for each in pages]), first.floor, last.last)


def are_alike(before: AnyPages, after: AnyPages) -> bool:
    """Tell whether pages, each of which is short or can be shortened, go on from one to the other."""
    are_short = all(isinstance(each, ShortPages) or each.can_be_shortened() for each in (before, after))
    return are_short and before.last + 1 == after.floor and goes_on(before.run, after.run)
