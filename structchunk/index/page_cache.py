"""The cache of decoded pages that point reads and scans of the index go through, and what it may hold. No I/O."""

from __future__ import annotations

import random
import weakref
from bisect import bisect_left
from collections.abc import Sequence
from itertools import chain
from operator import attrgetter

from ..runs.extent import KEY_END
from ..runs.short_keys import least_size
from .cached_pages import AnyPages, CachedPages, are_alike, shorten
from .short_pages import OVERHEAD, ShortPages

CACHE_SIZE = 256 << 20
"""How many bytes the caches of all stores of a database may hold. When it is reached, pages are kept shorter."""
EAGER_AFTER = 8
MOST_TOGETHER = 1 << 20
"""Pages of so many rows take in no others: the fewer pages there are, the sooner many keys are looked up."""
MOST_REPLACED = 128
"""So many small ones, on either side, are looked at to find out what may be replaced by pages read together."""
SAMPLED = 32
"""So many are looked at to tell how much of a store was read."""
SMALL_COST = 8
"""How much longer it takes to read rows one page at a time."""
MUCH = 4
"""The rest is read many pages at a time after as long as one part in so many of all would have taken that way."""


class Budget:
    """What all caches of a database hold together, and which they are.

    Attributes
    ----------
    size, least_size : int
        Bytes of memory that all pages take, and that they take at least, once those that can be are shortened.
    """

    def __init__(self) -> None:
        self.size = self.least_size = 0
        self.caches: weakref.WeakSet[PageCache] = weakref.WeakSet()

    def is_full(self) -> bool:
        """Tell whether further pages would drive others out: then single keys are not worth any."""
        return self.least_size > CACHE_SIZE - CACHE_SIZE // 8

    def add(self, pages: Sequence[AnyPages]) -> None:
        """Count pages that a cache has added."""
        self.size += sum(each.size for each in pages)
        self.least_size += sum(each.least_size for each in pages)

    def remove(self, pages: Sequence[AnyPages]) -> None:
        """Count pages that a cache has removed."""
        self.size -= sum(each.size for each in pages)
        self.least_size -= sum(each.least_size for each in pages)

    def enforce(self) -> None:
        """Shorten pages of any cache at random, and drop some if that is not enough, until all are small enough."""
        if self.size > CACHE_SIZE:  # an interrupt may have come between pages and their figure
            self.size = self.least_size = 0
            for cache in list(self.caches):
                self.add(cache.index[1])
        while self.size > CACHE_SIZE:
            caches = [cache for cache in self.caches if cache.index[1]]
            random.shuffle(caches)
            if self.least_size > CACHE_SIZE or not any(cache.shorten_any() for cache in caches):
                caches[0].drop_any()


class PageCache:
    """Pages of one store, disjoint and sorted, beside the last key of each. The caller locks, but for finding.

    ``index`` is both lists. They are never changed, only replaced together, so that who looks needs no lock.
    """

    def __init__(self, budget: Budget) -> None:
        self.index: tuple[list[int], list[AnyPages]] = ([], [])
        self.budget = budget
        self._inserted = 0
        budget.caches.add(self)

    def wanted(self, usual: int) -> int:
        """Return how many pages to read for one key: one at first, and more for who has missed often."""
        return usual << min(self._inserted // EAGER_AFTER, 4) if self._inserted else 1

    def find(self, key: int) -> AnyPages | None:
        """Return the pages that answer for a key, or None."""
        lasts, cached = self.index
        at = bisect_left(lasts, key)
        return cached[at] if at < len(cached) and cached[at].floor <= key else None

    def room(self, key: int, few: int) -> tuple[int, int]:
        """Return the range of keys around a key in which no cached pages have more than `few` rows."""
        lasts, cached = self.index
        first = upto = bisect_left(lasts, key)
        while first and cached[first - 1].count <= few and upto - first < MOST_REPLACED:
            first -= 1
        while upto < len(cached) and cached[upto].count <= few and upto - first < 2 * MOST_REPLACED:
            upto += 1
        return lasts[first - 1] + 1 if first else 0, cached[upto].floor if upto < len(cached) else KEY_END

    def beginning(self, key: int, row_count: int) -> int:
        """Return where the pages before a key end, if about so many rows or fewer are in between; else the key."""
        lasts, cached = self.index
        at = bisect_left(lasts, key)
        before = cached[at - 1] if at else None
        if before is None or (key - before.last) * before.count > (before.last - before.floor) * row_count:
            return key
        return before.last + 1

    def is_much_read(self, few: int) -> bool:
        """Tell whether so much of the store was read that it is time to read the rest of it many pages at a time.

        Small pages, of `few` rows or fewer, were read one by one, which takes longer.
        """
        cached = self.index[1]
        if len(cached) < SAMPLED:
            return False
        some = cached[1 : -1 : len(cached) // SAMPLED]
        cost = sum((pages.last - pages.floor) * (SMALL_COST if pages.count <= few else 1) for pages in some)
        return cost * len(cached) * MUCH > (cached[-1].floor - cached[0].last) * len(some)

    def insert(self, pages: CachedPages) -> None:
        """Add pages in place of those that they overlap; drop others at random when there are too many."""
        self.drop(pages.floor, pages.last)
        if pages.size > CACHE_SIZE:
            return
        self._inserted += 1
        self._put(*self._joined(pages))
        self.budget.enforce()

    def _joined(self, pages: CachedPages) -> tuple[int, int, CachedPages]:
        """Return pages with those that they go on from, and that go on from them, and which places these have."""
        lasts, cached = self.index
        first = upto = bisect_left(lasts, pages.last)
        before, after = cached[first - 1 : first], cached[upto : upto + 1]
        if before and isinstance(before[0], CachedPages) and (longer := before[0].joined(pages)):
            pages, first = longer, first - 1
        if after and (longer := pages.joined(after[0])):
            pages, upto = longer, upto + 1
        return first, upto, pages

    def insert_new(self, pages: Sequence[CachedPages]) -> None:
        """Add pages, but for those whose last key others answer for."""
        self.insert_all([each for each in pages if self.find(each.last) is None])

    def insert_all(self, pages: Sequence[CachedPages]) -> None:
        """Add disjoint pages, as :meth:`insert` does: all at once, as the lists are copied."""
        for each in pages:
            self.drop(each.floor, each.last)
        together: list[AnyPages] = sorted([*self.index[1], *pages], key=attrgetter("last"))
        self.index = [each.last for each in together], together
        self._inserted += 1
        self.budget.add(pages)
        self.budget.enforce()

    def drop(self, low: int, high: int) -> None:
        """Remove the pages that answer for any key in ``[low, high]``."""
        lasts, cached = self.index
        first = upto = bisect_left(lasts, low)
        while upto < len(cached) and cached[upto].floor <= high:
            upto += 1
        if first < upto:
            ends = {
                id(pages): pages for pages in (cached[first], cached[upto - 1]) if isinstance(pages, CachedPages)
            }
            self._put(first, upto, *(kept for pages in ends.values() for kept in pages.outside(low, high)))

    def drop_any(self) -> None:
        """Remove what was inserted at one time."""
        at = random.randrange(len(self.index[1]))
        self._put(at, at + 1)

    def shorten_any(self) -> bool:
        """Shorten what was inserted at one time, and tell whether there was any that can be."""
        cached = self.index[1]
        begin = random.randrange(len(cached))
        for at in chain(range(begin, len(cached)), range(begin)):
            if cached[at].can_be_shortened():
                first, upto = self._those_with(at)
                self._put(first, upto, shorten(cached[first:upto]))
                return True
        return False

    def _those_with(self, at: int) -> tuple[int, int]:
        """Return the places of the pages that are to be shortened together with those at a place."""
        cached = self.index[1]
        first, upto, join = at, at + 1, _Join(cached[at])
        while upto < len(cached) and are_alike(*cached[upto - 1 : upto + 1]) and join.takes_in(cached[upto]):
            upto += 1
        while first and are_alike(*cached[first - 1 : first + 1]) and join.takes_in(cached[first - 1]):
            first -= 1
        return first, upto

    def clear(self) -> None:
        """Remove all pages."""
        self._put(0, len(self.index[1]))

    def _put(self, first: int, upto: int, *pages: AnyPages) -> None:
        """Put pages in place of those at some places."""
        lasts, cached = self.index
        added = [each.last for each in pages]
        self.index = [*lasts[:first], *added, *lasts[upto:]], [*cached[:first], *pages, *cached[upto:]]
        self.budget.remove(cached[first:upto])
        self.budget.add(pages)


class _Join:
    """Pages that are to be shortened together: how many rows they have, and bytes apart from one another."""

    def __init__(self, pages: AnyPages) -> None:
        self._count, self._size, self._ends = pages.count, pages.least_size, pages.ends

    def takes_in(self, pages: AnyPages) -> bool:
        """Take in pages that go on at either end, if that is worth it, and tell whether it is.

        Those that are short already are written again only if they at least double by that: so no row is often.
        Where keys leave a wide gap, both would take more bytes together than apart.
        """
        if self._count >= MOST_TOGETHER or (isinstance(pages, ShortPages) and pages.count > self._count):
            return False
        count, size = self._count + pages.count, self._size + pages.least_size
        ends = min(self._ends[0], pages.ends[0]), max(self._ends[1], pages.ends[1])
        if OVERHEAD + least_size(count, ends[1] - ends[0]) > size:
            return False
        self._count, self._size, self._ends = count, size, ends
        return True
