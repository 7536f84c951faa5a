"""StoreIndex: pages and delta of one store, read and changed as runs through caches. Nothing of other stores."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import StoreNotFound
from ..runs.extent import (
    EXTENT_DTYPE,
    KEY_END,
    ROW,
    TOMBSTONE,
    Extent,
    RowArray,
    clip,
    concatenate,
    empty_rows,
    find_equal,
    make_rows,
    overlay,
    rows_with,
    without_tombstones,
)
from ..runs.key_ranges import Sample
from ..runs.run import ArrayRun, Run, clip_run, first_key, last_key, portions
from ..runs.streams import end_key, joined, overlay_runs
from ..types.keys import as_key
from .cached_pages import AnyPages, CachedPages
from .change import (
    Change,
    Rewrite,
    is_fold_due,
    put_into_pages,
    put_row,
    put_rows,
    put_unread,
    replace_all,
    rewrite,
)
from .delta import Delta
from .first_pages import FirstPages
from .leveldb import LevelDB
from .page_cache import Budget, PageCache
from .sampling import is_worth_sampling, sample
from .stored_rows import StoredRows
from .takers import Maker, Taker
from .version import IndexState, IndexVersion

POINT_PAGES = 8
"""How many pages are read to find one key: the fixed cost of decoding one would outweigh its rows."""
GROUP_PAGES = 128
"""How many pages are read, or rewritten by a fold, at a time."""
DELTA_SIZE = 64
"""About how many bytes a row of the delta takes in LevelDB's tables."""
END_ROWS = 256
"""How many rows of a delta that is not in memory are read at a time for the first live key."""
FEW_KEYS = 32
FEW_TOGETHER = 8
"""So few keys are looked up in the same pages one by one: what NumPy begins with takes longer."""
DENSE_KEYS = 4
"""Where more looked-up keys than this meet the pages that were read, the next are read many at a time."""
MOST_KEYS = 1 << 13
"""So many keys are looked up at a time: arrays of them stay in the caches of a processor."""
GROUP_KEYS = 32
"""So many looked-up keys are worth reading a group of pages, unless the cache is full."""
ROW_KEYS = GROUP_PAGES
"""And so many, if no more is decoded than their rows: a page of a group takes about as long as such a row."""
_NO_ROWS = CachedPages(ArrayRun(empty_rows()), 0, KEY_END - 1)


class StoreIndex:
    """Key to extent, for one store.

    ``at=None`` reads the latest state. Point reads of it go through a cache; so do reads at a commit for as
    long as that is the latest one, and LevelDB's own snapshot after that.

    Parameters
    ----------
    leveldb, version : LevelDB, IndexVersion
        Shared by the indexes of all stores.
    store, item_size : int
        The store's id, and the bytes of one of its items.
    check : callable
        Raises CorruptionError if rows, read from disk, point outside the store's chunks.
    budget : Budget
        Of the caches of all stores.
    """

    def __init__(
        self,
        leveldb: LevelDB,
        version: IndexVersion,
        store: int,
        item_size: int,
        check: Callable[[RowArray], None],
        budget: Budget,
    ) -> None:
        self._version = version
        self._stored = StoredRows(leveldb, store, item_size, check)
        self._cache = PageCache(budget)
        self._delta = Delta()
        self._delta_loaded = False
        self._dropped = ""

    def sample(self, piece_count: int, snapshot: Any) -> list[Sample]:
        """Return how rows are spread over the keys, in about so many pieces; [] if all are read as soon."""
        if not is_worth_sampling(self._stored, piece_count):
            return []
        return list(sample(self._stored, piece_count, snapshot))

    def begin_empty(self) -> None:
        """Take it that LevelDB has nothing of this store: it is a new one."""
        self._delta_loaded = True
        self._cache.insert(_NO_ROWS)

    # ------------------------------------------------------------------ point reads

    def find(self, key: int) -> Extent | None:
        """Return the extent of a key as of the latest commit, or None. The hot path: no lock, no LevelDB."""
        packed = self._delta.packed
        if packed and (row := packed.get(key)) is not None:
            extent: Extent = ROW.unpack(row)
            return None if extent[4] & TOMBSTONE else extent
        lasts, cached = self._cache.index
        try:
            pages = cached[bisect_left(lasts, key)]
        except IndexError:
            return self._find_uncached(key)
        return pages.find(key) if pages.floor <= key else self._find_uncached(key)

    def finder(self, kind: object, make: Maker) -> Taker:
        """Return what finds single records, the path of every single read; it takes a key, as :meth:`find` does.

        What `make` makes for pages is what the record of a key is taken from; of any other one the extent is found,
        or None. Pages keep that for records of one `kind`, the first that was asked for.
        """
        cache = self._cache

        def find(key: int) -> Any:
            packed = self._delta.packed
            if packed and (row := packed.get(key)) is not None:
                extent: Extent = ROW.unpack(row)
                return None if extent[4] & TOMBSTONE else extent
            lasts, cached = cache.index
            try:
                pages = cached[bisect_left(lasts, key)]
            except IndexError:
                return self._find_uncached(key)
            if pages.floor > key:
                return self._find_uncached(key)
            of_kind, take = pages.taken
            if of_kind is kind:
                return take(key)
            if not pages.is_prepared:
                pages.prepare(kind, make)
            return pages.find(key)

        return find

    def _find_uncached(self, key: int) -> Extent | None:
        as_key(key)  # the hot path leaves this to here: no cache answers for what is out of range
        if not self._delta_loaded:
            self._load_delta()
            return self.find(key)
        if self._cache.budget.is_full():
            return self._stored.find_in_page(key, None)
        return self._cached_pages(key, None).find(key)

    def find_at(self, key: int, at: IndexState) -> Extent | None:
        """Return the extent of a key as of a commit, or None."""
        if at.version == self._version.number:
            extent = self.find(key)
            if at.version == self._version.number:  # else a commit came in between, and may be what was seen
                return extent
        extent = self._stored.find_delta(key, at.leveldb_snapshot)
        if extent is not None:
            return None if extent[4] & TOMBSTONE else extent
        return self._stored.find_in_page(key, at.leveldb_snapshot)

    def lookup(self, keys: npt.NDArray[np.uint64], at: IndexState | None = None) -> RowArray:
        """Return one row per key, in ascending order, repeated or not; a tombstone for the key that has none."""
        if len(keys) <= FEW_KEYS:
            return np.array([self._row(key, at) for key in keys.tolist()], EXTENT_DTYPE)
        rows = make_rows(keys, 0, 0, 0, TOMBSTONE)
        for pages, first, upto in self._pages_of(keys, at):
            _look_up(pages, keys[first:upto], rows[first:upto])
        delta = self.delta_rows(at)
        where = np.searchsorted(delta["key"], keys)
        found = find_equal(delta, keys, where)
        rows[found] = delta[where[found]]
        return rows

    def _row(self, key: int, at: IndexState | None) -> Extent:
        extent = self.find(key) if at is None else self.find_at(key, at)
        return (key, 0, 0, 0, TOMBSTONE) if extent is None else extent

    def existing(self, keys: npt.NDArray[np.uint64], *, once: bool = False) -> RowArray:
        """Return the live rows that these ascending keys have now, without those that have none.

        With `once` they are not likely to be asked for again: few pages are cached where few keys meet each.
        """
        if len(keys) <= FEW_KEYS:
            extents = [extent for key in keys.tolist() if (extent := self.find(key)) is not None]
            return np.array(extents, EXTENT_DTYPE)
        parts = []
        for pages, first, upto in self._pages_of(keys, None, once=once):
            mine = keys[first:upto]
            where, found = pages.search(mine)
            parts.append(pages.rows_at(where[found], mine[found]))
        return without_tombstones(overlay(rows_with(self.delta_rows(), keys), concatenate(parts)))

    def replaced(self, runs: Iterable[Run], *, once: bool = False) -> RowArray:
        """Return the live rows that runs with the same keys take the place of; `once` as for :meth:`existing`."""
        met = (run for run in runs if len(run) and self._is_met(run))
        return concatenate([self.existing(run.keys, once=once) for run in met])

    def _is_met(self, run: Run) -> bool:
        """Tell whether there may be live rows among the keys of a run: appended keys mostly have none."""
        if len(run) <= FEW_KEYS:
            return True
        start, stop = first_key(run), last_key(run) + 1
        if len(clip(self.delta_rows(), start, stop)):
            return True
        pages = self._cached_pages(start, None)
        return pages.last < stop - 1 or pages.has_any(start, stop)

    def _pages_of(
        self, keys: npt.NDArray[np.uint64], at: IndexState | None, *, once: bool = False
    ) -> Iterator[tuple[AnyPages, int, int]]:
        """Yield the pages that answer for ascending keys, and between which positions among these they do.

        Where few keys meet each page, pages are read one by one, and cached together at the end, until these are
        many. With `once` most of them are not decoded, but for the rows of the keys.
        """
        self._version.check()  # else what is cached may be half-changed
        number, single = self._version.number, list[CachedPages]()
        together = not once and (at is None or at.version == number) and self._is_rest_worth_it()
        first, wide, alone = 0, together, not together
        while first < len(keys):
            key = int(keys[first])
            pages = self._known_pages(key, at) if alone else None
            if alone and pages is None:
                (pages,) = self._stored.load(key, 1, _snapshot_of(at))
                single.append(pages)
            pages = pages or self._cached_pages(key, at, wide=wide)
            upto = first + int(keys[first : first + MOST_KEYS].searchsorted(np.uint64(pages.last), side="right"))
            yield pages, first, upto
            together = together and not self._cache.budget.is_full()
            are_many = together or self._is_group_worth_it(keys[upto:], pages, ROW_KEYS if once else GROUP_KEYS)
            alone = not are_many and (upto - first) * self._stored.page_rows <= DENSE_KEYS * pages.count
            wide = are_many or upto - first > DENSE_KEYS
            first = upto
            if once and alone and first < len(keys):
                upto = min(first + GROUP_KEYS, len(keys))
                yield self._stored.load_rows(keys[first:upto], _snapshot_of(at)), first, upto
                first = upto
        self._keep(single, number, at)

    def _is_rest_worth_it(self) -> bool:
        """Tell whether all that is not in memory yet is worth reading many pages at a time."""
        return self._cache.is_much_read(self._few_rows) and not self._cache.budget.is_full()

    def _is_group_worth_it(self, keys: npt.NDArray[np.uint64], before: AnyPages, least: int) -> bool:
        """Tell whether `least` of some keys are likely to meet the group of pages that follows on others."""
        if len(keys) < least or not before.count or self._cache.budget.is_full():
            return False
        end = before.last + (before.last - before.floor) * GROUP_PAGES * self._stored.page_rows // before.count
        return int(keys[least - 1]) <= end

    def _keep(self, pages: list[CachedPages], number: int, at: IndexState | None) -> None:
        """Cache pages that were read at a version, or after it, if they are still the latest ones."""
        with self._version.lock:
            latest = self._version.number if at is None else at.version
            if pages and latest == number == self._version.number and not self._cache.budget.is_full():
                self._load_delta()
                self._cache.insert_new(pages)

    # ------------------------------------------------------------------ range reads

    def runs(self, start: int, stop: int, at: IndexState | None = None, *, reverse: bool = False) -> Iterator[Run]:
        """Yield the live rows with ``start <= key < stop`` as consecutive runs, in either direction."""
        delta = clip(self.delta_rows(at), start, stop)
        return overlay_runs(delta, self._page_runs(start, stop, at, reverse=reverse), reverse=reverse)

    def _page_runs(self, start: int, stop: int, at: IndexState | None, *, reverse: bool) -> Iterator[Run]:
        while start < stop:
            at_key = stop - 1 if reverse else start
            pages = self._cached_pages(at_key, at, wide=stop - start > 1, reverse=reverse)
            runs = pages.clip(start, stop)
            for run in reversed(runs) if reverse else runs:
                yield from portions(run, GROUP_PAGES * self._stored.page_rows, reverse=reverse)
            if reverse:
                stop = pages.floor
            else:
                start = pages.last + 1

    def end_key(self, at: IndexState | None = None, *, reverse: bool = False) -> int | None:
        """Return the lowest key, or the highest, or None of an empty store."""
        return end_key(self.end_runs(at, reverse=reverse), reverse=reverse)

    def end_runs(
        self, at: IndexState | None = None, *, start: int = 0, stop: int = KEY_END, reverse: bool = False
    ) -> Iterator[Run]:
        """Yield the live rows of a range of keys as consecutive runs, for those who want the first of them only.

        Until there is a live one, no more is read than the page at that end.
        """
        while start < stop:
            delta, low, high = self._delta_end(start, stop, at, reverse=reverse)
            yield from overlay_runs(delta, self._end_pages(low, high, at, reverse=reverse), reverse=reverse)
            start, stop = (start, low) if reverse else (high, stop)

    def _delta_end(
        self, start: int, stop: int, at: IndexState | None, *, reverse: bool
    ) -> tuple[RowArray, int, int]:
        """Return rows of the delta from one end of a range of keys on, and between which keys they are all."""
        self._version.check()
        with self._version.lock:
            if self._delta_loaded and (at is None or at.version == self._version.number):
                return clip(self._delta.rows(), start, stop), start, stop
        snapshot = _snapshot_of(at)
        rows = self._stored.delta_end(start, stop, END_ROWS, snapshot, reverse=reverse)
        if len(rows) < END_ROWS:
            return rows, start, stop
        return (rows, int(rows["key"][0]), stop) if reverse else (rows, start, int(rows["key"][-1]) + 1)

    def _end_pages(self, start: int, stop: int, at: IndexState | None, *, reverse: bool) -> Iterator[Run]:
        """Yield the rows of the pages in a range of keys: those of one page, and if they are not enough of many."""
        count = 1
        while start < stop:
            key = stop - 1 if reverse else start
            pages = self._known_pages(key, at)
            if not isinstance(pages, CachedPages):  # of short ones all keys would be made, for the first of them
                (pages,) = self._stored.load(key, count, _snapshot_of(at), reverse=reverse)
            yield from portions(clip_run(pages.run, start, stop), self._stored.page_rows, reverse=reverse)
            count = GROUP_PAGES if pages.count else count
            if reverse:
                stop = pages.floor
            else:
                start = pages.last + 1

    def _known_pages(self, key: int, at: IndexState | None) -> AnyPages | None:
        """Return the pages in memory that answer for a key, if there are any that hold at a commit."""
        with self._version.lock:
            latest = at is None or at.version == self._version.number
            return self._cache.find(key) if latest else None

    def _cached_pages(
        self, key: int, at: IndexState | None, *, wide: bool = False, reverse: bool = False
    ) -> AnyPages:
        """Return pages of which one answers for a key; with `wide` many, if there are many."""
        version = self._version
        version.check()
        few = self._few_rows if wide else -1
        with version.lock:
            number = version.number
            latest = at is None or at.version == number
            pages = self._cache.find(key) if latest else None
            if pages is not None and pages.count > few:
                return pages
            start, stop = self._cache.room(key, few) if latest else (0, KEY_END)
            if pages is not None and (pages.floor == start if reverse else pages.last == stop - 1):
                return pages  # as there are larger ones behind them
            count = GROUP_PAGES if wide else self._cache.wanted(POINT_PAGES)
            first = key if reverse or not latest else self._first_wanted(key, pages, count)
        load = partial(self._stored.load, stop=stop, in_pieces=latest)  # else the other pieces would be for nothing
        loaded = load(first, count, _snapshot_of(at), reverse=reverse)
        if loaded[0].floor < start if reverse else loaded[-1].last < key:
            loaded = load(start if reverse else key, count, _snapshot_of(at))
        with version.lock:
            if latest and number == version.number:
                self._load_delta()  # find() trusts cached pages where the delta has no row
                for each in loaded:
                    self._cache.insert(each)
        return next((each for each in loaded if key <= each.last), loaded[-1])

    @property
    def _few_rows(self) -> int:
        """How many rows pages have, at most, that are read again together with those behind them."""
        return POINT_PAGES * self._stored.page_rows

    def _first_wanted(self, key: int, small: AnyPages | None, count: int) -> int:
        """Return from where on to read pages for a key: from the end of others, so that few are left between."""
        if small is not None:
            return small.floor
        return self._cache.beginning(key, count * self._stored.page_rows // 2)

    # ------------------------------------------------------------------ the delta

    def delta_rows(self, at: IndexState | None = None) -> RowArray:
        """Return the delta, tombstones included, as of a commit or the latest one."""
        self._version.check()
        with self._version.lock:
            if at is None or at.version == self._version.number:
                self._load_delta()
                return self._delta.rows()
        return self._stored.decoder.delta(self._stored.delta(at.leveldb_snapshot))

    def _load_delta(self) -> None:
        if self._dropped:
            raise StoreNotFound(f"store {self._dropped!r} was dropped or altered; get it again by its name")
        self._version.check()
        with self._version.lock:
            if not self._delta_loaded:
                pairs = self._stored.delta()
                keys = self._stored.decoder.delta(pairs)["key"].tolist()
                delta = Delta(zip(keys, (row for _, row in pairs), strict=True))
                self._delta, self._delta_loaded = delta, True

    def drop(self, name: str) -> None:
        """Answer every further call with StoreNotFound."""
        self._dropped = name
        self.forget()

    def forget(self) -> None:
        """Drop all that is cached, so that the next read asks LevelDB."""
        with self._version.lock:
            self._cache.clear()  # first: find() takes no lock, and pages without the delta may be out of date
            delta = Delta()
            self._delta, self._delta_loaded = delta, False

    def follow(self, leveldb: LevelDB) -> None:
        """Read from another LevelDB, which holds a newer state of the same store."""
        with self._version.lock:
            self._stored = self._stored.over(leveldb)
            self.forget()

    def first_pages(self) -> FirstPages:
        """Return what keeps the rows that are put first, of a store that has none."""
        return FirstPages(self._stored, self._cache.budget)

    def remember(self, first: FirstPages) -> None:
        """Answer from the rows that were put first, and that nothing has changed yet."""
        with self._version.lock:
            self._load_delta()
            self._cache.insert_all(first.pages)

    # ------------------------------------------------------------------ changes

    def put(self, runs: Iterable[Run]) -> Change:
        """Return what putting runs, tombstones included, changes."""
        self._load_delta()
        return put_rows(self._stored, runs, self._shared)

    def _shared(self, runs: Sequence[Run]) -> list[int]:
        return self._delta.shared(joined(runs)) if self._delta.packed else []

    def put_one(self, key: int, row: bytes) -> Change:
        """Return what putting one packed row changes."""
        self._load_delta()
        return put_row(self._stored, key, row)

    def put_all(self, runs: Sequence[Run]) -> Change:
        """Return what putting runs changes if all of the store is written anew, as pages.

        No row stays that another one shadows: it may point into a chunk that is to be unlinked.
        """
        rows = without_tombstones(overlay(joined(runs), joined(self.runs(0, KEY_END))))
        return replace_all(self._stored, [ArrayRun(rows)], list(self._delta.packed))

    def put_whole(self, runs: Sequence[Run]) -> Change:
        """Return what changes if consecutive runs of live rows become all there is."""
        self._load_delta()
        return replace_all(self._stored, runs, list(self._delta.packed))

    def rewrite(self, runs: Sequence[Run]) -> Rewrite:
        """Return how consecutive runs of live rows become all there is, if they are too many for one change."""
        return rewrite(self._stored, runs, self.delta_rows())

    def put_unread(self, runs: Iterable[Run]) -> Change:
        """Return what :meth:`put` does, without reading the delta: no read may follow before :meth:`forget`."""
        return put_unread(self._stored, runs)

    def replace_unread(self, runs: Iterable[Run]) -> Change:
        """Return what changes if consecutive runs of live rows become all there is; as :meth:`put_unread`."""
        return replace_all(self._stored, runs, [])

    def apply(self, change: Change) -> None:
        """Bring the caches up to date with a change that LevelDB has taken. The caller holds the lock."""
        for key, row in change.delta_rows:
            self._delta.put(key, row)
        if change.low <= change.high:
            self._cache.drop(change.low, change.high)
            if change.folded:
                self._delta.remove(change.folded)

    def needs_fold(self, record_count: Callable[[], int]) -> bool:
        """Tell whether the delta has outgrown its fraction of the store; its size is asked for only then."""
        return is_fold_due(len(self._delta.packed), record_count)

    def may_need_fold(self, record_count: int) -> bool:
        """Tell whether the delta may have outgrown it, by the size of LevelDB's tables, without reading it."""
        size = self._stored.leveldb.size_of(self._stored.key(b"D", 0), self._stored.end(b"D"))
        return is_fold_due(size // DELTA_SIZE, lambda: record_count)

    def fold(self) -> Iterator[Change]:
        """Yield changes that move the delta into pages, a group at a time; apply each before the next."""
        rest = self.delta_rows()
        while len(rest):
            low = int(rest["key"][0])
            pages = self._stored.pages_from(low, GROUP_PAGES)
            stop = KEY_END if len(pages) < GROUP_PAGES else self._stored.decoder.last_key(pages[-1]) + 1
            part = clip(rest, low, stop)
            rest = rest[len(part) :]
            yield put_into_pages(self._stored, [ArrayRun(part)], pages, part["key"].tolist())


def _look_up(pages: AnyPages, keys: npt.NDArray[np.uint64], rows: RowArray) -> None:
    """Set the rows of ascending keys that pages answer for, which are tombstones, to those that there are."""
    if len(keys) <= FEW_TOGETHER:
        rows[:] = [pages.find(key) or (key, 0, 0, 0, TOMBSTONE) for key in keys.tolist()]
        return
    where, found = pages.search(keys)
    if np.count_nonzero(found) == len(keys):
        rows[:] = pages.rows_at(where, keys)
    else:
        rows[found] = pages.rows_at(where[found], keys[found])


def _snapshot_of(at: IndexState | None) -> Any:
    """Return LevelDB's snapshot of a state, or None for the latest one."""
    return at.leveldb_snapshot if at else None
