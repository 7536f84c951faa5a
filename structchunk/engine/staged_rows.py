"""StagedRows: the rows that a transaction has changed in one store, however they came. No files here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..runs.extent import (
    KEY_END,
    Extent,
    RowArray,
    clip,
    concatenate,
    empty_rows,
    find_equal,
    find_one,
    last_wins,
    overlay,
    rows_from_bytes,
    unpack_row,
)
from ..runs.run import ArrayRun, Run, clip_run, first_key, last_key
from ..runs.streams import find_in, in_key_order, joined

_MANY_RUNS = 1 << 10
_MANY_UNCOUNTED = 1 << 20
"""More rows than this are not kept for the next count, which begins anew."""


class Chain(NamedTuple):
    """Rows, those that came before them, and how many they are together."""

    rows: RowArray
    before: Chain | None
    total: int


class Counted(NamedTuple):
    """Rows whose records were counted, and how many records the store has more by them, or fewer."""

    tiers: tuple[RowArray, ...]
    net: int


class RowsMark(NamedTuple):
    """What was staged at a moment, to come back to."""

    packed: dict[int, bytes]
    undo_count: int
    appended: list[Run]
    appended_count: int
    tiers: tuple[RowArray, ...]
    uncounted: Chain | None
    counted: Counted | None
    first: int
    stop: int


class StagedRows:
    """Rows, tombstones too, of which the later one of a key counts.

    Those that come alone collect in a dictionary of packed rows; many at a time, and that dictionary when it has
    grown, become sorted arrays, its *tiers*. One that is not much smaller than the one before it is merged into it,
    so that n rows cost n log n however they come. Ascending runs stay contiguous, *appended*, until others must be
    laid over them: then there are no tiers.

    No run and no tier is changed. Of the dictionary the rows of before are noted while a mark is held. So to mark
    what is staged takes no time by what there is, and to come back to it takes time by what was done since.

    Attributes
    ----------
    packed : dict of int to bytes
        The newest rows. Call :meth:`prepare` before one is put into it.
    tiers : tuple of RowArray
        The oldest one first. Replaced together with ``uncounted``.
    first, stop : int
        No record has a key below the first one, or from the second one on.
    counted : Counted or None
        How many records there are by the rows of some time ago, if that was asked for.
    uncounted : tuple or None
        The rows since then that are in tiers.
    """

    def __init__(self, item_size: int) -> None:
        self.packed: dict[int, bytes] = {}
        self.tiers: tuple[RowArray, ...] = ()
        self.first, self.stop = 0, KEY_END
        self.counted: Counted | None = None
        self.uncounted: Chain | None = None
        self._appended: list[Run] = []
        self._item_size = item_size
        self._undo: list[tuple[dict[int, bytes], int, bytes | None]] = []
        self._mark_count = 0
        self._merged = 0

    # ------------------------------------------------------------------ writing

    def prepare(self, key: int) -> None:
        """Make ready for a row of a key."""
        if self._mark_count:
            self._undo.append((self.packed, key, self.packed.get(key)))
        self._widen(key, key)

    def _widen(self, low: int, high: int) -> None:
        if not self.first <= low <= high < self.stop:
            self.first, self.stop = min(self.first, low), max(self.stop, high + 1)

    @property
    def has_runs(self) -> bool:
        """Whether there are ascending runs that others were not laid over."""
        return bool(self._appended)

    def is_beyond(self, keys: npt.NDArray[np.uint64]) -> bool:
        """Tell whether ascending keys go on where appended runs ended, and nothing else is staged."""
        if self.packed or self.tiers:
            return False
        return not self._appended or not len(keys) or last_key(self._appended[-1]) < int(keys[0])

    def append(self, runs: Sequence[Run]) -> None:
        """Add ascending runs, beyond all that is staged."""
        if runs:
            self._widen(first_key(runs[0]), last_key(runs[-1]))
            self._appended += runs
        if len(self._appended) > _MANY_RUNS:
            self._join_appended()

    def _join_appended(self) -> None:
        """Make fewer runs of many: longer ones, or an array like those of other writes."""
        self._appended = in_key_order(self._appended, self._item_size)
        if len(self._appended) > _MANY_RUNS // 2 or isinstance(self._appended[0], ArrayRun):
            self.add_tiers()

    def with_tier(self, rows: RowArray) -> tuple[tuple[RowArray, ...], Chain | None]:
        """Return what ``tiers`` and ``uncounted`` become with newer rows, once :meth:`add_tiers` was called."""
        if not len(rows):
            return self.tiers, self.uncounted
        self._widen(int(rows["key"][0]), int(rows["key"][-1]))
        return (*self.tiers, rows), self._chained(rows)

    def _chained(self, rows: RowArray) -> Chain | None:
        before = self.uncounted
        count = len(rows) + (0 if before is None else before.total)
        if count > _MANY_UNCOUNTED:
            self.counted = None
        return None if self.counted is None else Chain(rows, before, count)

    def add_tiers(self) -> None:
        """Make tiers of all that is not in one."""
        if self._appended:  # older than all else
            tiers, uncounted = self.with_tier(joined(self._appended))
            self.tiers, self.uncounted, self._appended = tiers, uncounted, []
        if self.packed:
            tiers, uncounted = self.with_tier(last_wins(rows_from_bytes(b"".join(self.packed.values()))))
            self.tiers, self.uncounted, self.packed = tiers, uncounted, {}
            self.merge()

    def merge(self) -> None:
        """Merge tiers that are not much smaller than the one before."""
        while len(self.tiers) > 1 and 2 * len(self.tiers[-1]) >= len(self.tiers[-2]):
            self._merge_last()

    def _merge_last(self) -> None:
        *older, one, newer = self.tiers
        self.tiers = (*older, overlay(newer, one))

    # ------------------------------------------------------------------ reading

    def all(self) -> RowArray:
        """Return all rows."""
        self.add_tiers()
        while len(self.tiers) > 1:
            self._merge_last()
        return self.tiers[0] if self.tiers else empty_rows()

    def runs(self) -> list[Run]:
        """Return all rows as consecutive runs."""
        if self._appended and not self.packed:
            self._appended = in_key_order(self._appended, self._item_size)  # which need not be done again
            return list(self._appended)
        rows = self.all()
        return [ArrayRun(rows)] if len(rows) else []

    def only_row(self) -> bytes | None:
        """Return the row if there is just one, which came alone."""
        alone = len(self.packed) == 1 and not self.tiers and not self._appended
        return next(iter(self.packed.values())) if alone else None

    def between(self, start: int, stop: int) -> RowArray:
        """Return the rows with ``start <= key < stop``."""
        self.add_tiers()
        if len(self.tiers) > 1:
            parts = [clip(rows, start, stop) for rows in self.tiers]
            self._merged += sum(map(len, parts))
            if self._merged < len(self.tiers[0]):
                return _overlaid(parts)
            self._merged = 0  # all that was merged for parts would have done for the whole
        return clip(self.all(), start, stop)

    def find(self, key: int) -> Extent | None:
        """Return the row of a key, or None."""
        row = self.packed.get(key)
        if row is not None:
            return unpack_row(row)
        if self._appended:
            return find_in(self._appended, key)
        for rows in reversed(self.tiers):
            extent = find_one(rows, key)
            if extent is not None:
                return extent
        return None

    def lookup(self, keys: npt.NDArray[np.uint64]) -> tuple[RowArray, npt.NDArray[np.bool_]]:
        """Return one row per ascending key, and which of them there are."""
        self.add_tiers()
        return lookup_in(self.tiers, keys)

    def end(self, start: int, stop: int, count: int, *, reverse: bool) -> tuple[RowArray, int, int]:
        """Return rows from one end of a range of keys on, and between which keys they are all.

        About `count` of each tier are looked at.
        """
        parts = [self._appended_end(start, stop, count, reverse=reverse)] if self._appended else []
        if not parts or self.packed:
            self.add_tiers()
            parts = [_end_of(clip(rows, start, stop), count, reverse=reverse) for rows in self.tiers]
        full = [part for part in parts if len(part) == count]
        if full and reverse:
            start = max(int(part["key"][0]) for part in full)
        elif full:
            stop = min(int(part["key"][-1]) for part in full) + 1
        return _overlaid([clip(part, start, stop) for part in parts]), start, stop

    def _appended_end(self, start: int, stop: int, count: int, *, reverse: bool) -> RowArray:
        found: list[Run] = []
        left = count
        for run in reversed(self._appended) if reverse else self._appended:
            part = clip_run(run, start, stop)
            part = part.part(max(0, len(part) - left), len(part)) if reverse else part.part(0, left)
            found.append(part)
            left -= len(part)
            if not left:
                break
        return joined(reversed(found) if reverse else found)

    def uncounted_rows(self) -> RowArray:
        """Return the rows since those that were counted, all of which are in tiers."""
        found, chain = [], self.uncounted
        while chain is not None:
            found.append(chain.rows)
            chain = chain.before
        return last_wins(concatenate(found[::-1]))

    # ------------------------------------------------------------------ marks

    def mark(self) -> RowsMark:
        """Return what is staged now, to come back to; end it by :meth:`rewind` or :meth:`release`."""
        self._mark_count += 1
        appended = self._appended, len(self._appended)
        ends = self.first, self.stop
        return RowsMark(self.packed, len(self._undo), *appended, self.tiers, self.uncounted, self.counted, *ends)

    def rewind(self, mark: RowsMark) -> None:
        """Come back to what was marked. Cut short, it can be done again."""
        for packed, key, row in reversed(self._undo[mark.undo_count :]):
            if row is not None:
                packed[key] = row
            else:
                packed.pop(key, None)
        del mark.appended[mark.appended_count :]
        self.packed, self._appended, self.tiers = mark.packed, mark.appended, mark.tiers
        self.counted, self.uncounted = mark.counted, mark.uncounted
        self.first, self.stop = mark.first, mark.stop
        del self._undo[mark.undo_count :]
        self.release()

    def release(self) -> None:
        """Let the newest mark go."""
        self._mark_count -= 1
        if not self._mark_count:
            self._undo = []


def lookup_in(tiers: Sequence[RowArray], keys: npt.NDArray[np.uint64]) -> tuple[RowArray, npt.NDArray[np.bool_]]:
    """Return one row per ascending key, and which of them there are, in sorted rows, the oldest first."""
    rows, found = empty_rows(len(keys)), np.zeros(len(keys), bool)
    for tier in tiers:
        where = np.searchsorted(tier["key"], keys)
        here = find_equal(tier, keys, where)
        rows[here] = tier[where[here]]
        found |= here
    return rows, found


def _overlaid(parts: Sequence[RowArray]) -> RowArray:
    """Return sorted rows, the oldest first, as one array."""
    rows = empty_rows()
    for part in reversed(parts):  # small ones first
        rows = overlay(rows, part)
    return rows


def _end_of(rows: RowArray, count: int, *, reverse: bool) -> RowArray:
    part: RowArray = rows[-count:] if reverse else rows[:count]
    return part
