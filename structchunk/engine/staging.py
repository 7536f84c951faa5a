"""What one transaction has changed in one store: rows that no one else sees yet, laid over the index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..chunks.allocator import SPILL_SIZE, Allocator
from ..chunks.heap import Retired
from ..index.store_index import StoreIndex
from ..runs.extent import (
    MUTABLE,
    ROW_SIZE,
    TOMBSTONE,
    ZERO,
    Extent,
    RowArray,
    clip,
    empty_rows,
    find_equal,
    find_one,
    is_sorted,
    last_wins,
    overlay,
    rows_from_bytes,
    unpack_row,
    without_tombstones,
)
from ..runs.run import (
    ArrayRun,
    Keys,
    Run,
    in_key_order,
    joined,
    last_key,
    overlay_runs,
    read_only,
    spacing,
)

_MANY_ROWS = 1 << 16
_FEW_PUTS = 16
"""So many records or fewer get their places one by one."""
_MANY_RUNS = 1 << 10


class Edit(NamedTuple):
    """A private copy of an object that replaces its record, and its bytes when it was last stored."""

    object: Any
    stored: bytes


class Staging:
    """The uncommitted rows of one store.

    Records that are put alone collect in a dictionary and get their places many at a time: when they are read,
    when anything else is written, or when there are many. Other single writes collect in a dictionary of packed
    rows; bulk writes, and that dictionary when it has grown, become sorted arrays, its *tiers*. One that is not
    much smaller than the one before it is merged into it, so that n rows cost n log n however they come. Ascending
    bulk writes stay contiguous until a read or another write needs them merged.

    Whatever interrupts a call, what it changes is staged whole or not at all: each change is one assignment.

    Attributes
    ----------
    changes : int
        Counts writes.
    """

    def __init__(self, allocator: Allocator, index: StoreIndex, record_count: Callable[[], int]) -> None:
        self.heap = allocator.heap
        self.allocator = allocator
        self.index = index
        self.changes = 0
        self.packed: dict[int, bytes] = {}
        self._puts: dict[int, bytes] = {}
        self._put_flags = 0  # the same for all records that are put in a store
        # Where the records that were put alone will end at most, with a row for each, and may end.
        self._end = self._limit = 0
        self.edits: dict[int, Edit] = {}
        self.replaced: list[Retired] = []
        self._appended: list[Run] = []
        self._tiers: list[RowArray] = []
        self._record_count = record_count

    # ------------------------------------------------------------------ writing

    def check_storable(self) -> None:
        """Raise if nothing can be stored any more."""
        self.allocator.check_storable()

    def put(self, key: int, items: npt.NDArray[Any], flags: int = 0) -> None:
        """Store one record.

        Raises
        ------
        OSError
            ENOSPC when the disk is full; then nothing changed.
        """
        size = items.nbytes
        end = self._end + size + ROW_SIZE
        if end > self._limit or self.edits:
            if size > SPILL_SIZE or self.edits:
                self._place()
                self._stage(key, self.allocator.put(key, items, size, flags))
                return
            end = self._go_on(end, size, flags)
        self._end = end
        self._puts[key] = items.tobytes()
        self.changes += 1

    def _go_on(self, end: int, size: int, flags: int) -> int:
        """Take more room for records that are put alone, one of `size` bytes at least; return where those end."""
        limit = self.allocator.extend(end) if self._puts else 0
        if limit < end:
            self._place()
            self._put_flags = flags
            start, limit = self.allocator.room_for(size)
            end = start + size + ROW_SIZE
        self._limit = limit
        return end

    def _place(self) -> None:
        """Give the records that were put alone their places. What else takes room does this first."""
        self._end = self._limit = 0
        if not self._puts:
            return
        puts, flags = self._puts, self._put_flags
        if len(puts) > _FEW_PUTS:
            self._place_many(puts, flags)
        else:
            for key, data in puts.items():
                self.packed[key] = self.allocator.put(key, data, len(data), flags)
        self._puts = {}
        if len(self.packed) > _MANY_ROWS:
            self._add_tiers()

    def _place_many(self, puts: dict[int, bytes], flags: int) -> None:
        keys = np.fromiter(puts, np.uint64, len(puts))
        sizes = np.fromiter(map(len, puts.values()), np.int64, len(puts))
        items = np.frombuffer(b"".join(puts.values()), self.heap.schema.dtype)
        self._put_many(keys, items, sizes // self.heap.item_size, flags)

    def put_zeros(self, key: int, length: int) -> Extent:
        """Allocate one zeroed record that may change in place."""
        self._place()
        row = self.allocator.put_zeros(key, length, MUTABLE | ZERO)
        self._stage(key, row)
        return unpack_row(row)

    def put_parts(self, key: int, size: int, parts: Iterable[tuple[int, Any]], flags: int) -> None:
        """Store one record of `size` bytes in parts, each with where it begins; what none has stays a hole."""
        self._place()
        self._stage(key, self.allocator.put_parts(key, size, parts, flags))

    def _stage(self, key: int, row: bytes) -> None:
        """Take a packed row in place of what the key had, an edited object too."""
        edits = {other: edit for other, edit in self.edits.items() if other != key}
        self.packed[key], self.edits = row, edits
        self.changes += 1

    def put_many(
        self,
        keys: npt.NDArray[np.uint64],
        items: npt.NDArray[Any],
        lengths: npt.NDArray[np.int64],
        flags: int = 0,
    ) -> None:
        """Store many records; of equal keys the last one stays."""
        self._place()
        self._put_many(keys, items, lengths, flags)
        self.changes += 1

    def _put_many(
        self, keys: npt.NDArray[np.uint64], items: npt.NDArray[Any], lengths: npt.NDArray[np.int64], flags: int
    ) -> None:
        if is_sorted(keys) and self._is_beyond(keys):
            self._appended += self.allocator.put_many(_own(keys), items, lengths, flags)
            if len(self._appended) > _MANY_RUNS:
                self._join_appended()
        else:
            self._add(last_wins(joined(self.allocator.put_many(keys, items, lengths, flags))))

    def _is_beyond(self, keys: npt.NDArray[np.uint64]) -> bool:
        """Tell whether ascending keys go on where those of bulk writes ended, and nothing else was staged."""
        if self.packed or self._tiers or self.edits:
            return False
        return not self._appended or not len(keys) or last_key(self._appended[-1]) < int(keys[0])

    def _join_appended(self) -> None:
        """Make fewer runs of many: longer ones, or an array like those of other writes."""
        self._appended = in_key_order(self._appended, self.heap.item_size)
        if len(self._appended) > _MANY_RUNS // 2 or isinstance(self._appended[0], ArrayRun):
            self._add_tiers()

    def replace(self, replaced: list[Retired], rows: RowArray) -> None:
        """Take these rows for all that is worth keeping of some chunks, which go with the commit."""
        self.replaced = replaced
        self._add(rows)
        self.changes += 1

    def delete(self, key: int) -> bool:
        """Delete one record, and tell whether there was one."""
        self._place()
        row = self.staged(key) or self.index.find(key)
        if row is None or row[4] & TOMBSTONE:
            return False
        self._stage(key, self.allocator.tombstone(key))
        return True

    def delete_range(self, start: int, stop: int) -> int:
        """Delete the records of a key range, and return how many there were."""
        found = [run.keys for run in self._runs(start, stop, reverse=False)]
        if not found:
            return 0
        keys = np.concatenate(found)
        self._add(self.allocator.tombstones(keys))
        self.changes += 1
        return len(keys)

    def delete_many(self, keys: npt.NDArray[np.uint64]) -> int:
        """Delete the records of ascending keys, none of them twice, and return how many there were."""
        there = keys[self._lookup(keys)[0]["flags"] & TOMBSTONE == 0]
        if len(there):
            self._add(self.allocator.tombstones(there))
            self.changes += 1
        return len(there)

    def add_edit(self, key: int, private: Any) -> None:
        """Note an object whose bytes, if they change, replace its record."""
        self.edits[key] = Edit(private, bytes(private))

    def store_edits(self) -> None:
        """Store the objects whose bytes changed since they were last stored."""
        if self.edits:
            self._place()
        for key, (private, stored) in list(self.edits.items()):
            now = bytes(private)
            if now != stored:
                self.packed[key] = self.allocator.put(key, now, len(now), MUTABLE)
                self.edits[key] = Edit(private, now)
                self.changes += 1

    def _add(self, rows: RowArray) -> None:
        self._add_tiers()
        edits = {key: edit for key, edit in self.edits.items() if find_one(rows, key) is None}
        tiers = [*self._tiers, rows] if len(rows) else self._tiers
        self._tiers, self.edits = tiers, edits
        self._merge_tiers()

    def _add_tiers(self) -> None:
        if self._appended:  # older than all else
            tiers = [joined(self._appended), *self._tiers]
            self._tiers, self._appended = tiers, []
        if self.packed:
            tiers = [*self._tiers, last_wins(rows_from_bytes(b"".join(self.packed.values())))]
            self._tiers, self.packed = tiers, {}
            self._merge_tiers()

    def _merge_tiers(self) -> None:
        while len(self._tiers) > 1 and 2 * len(self._tiers[-1]) >= len(self._tiers[-2]):
            self._merge_last()

    def _merge_last(self) -> None:
        *older, one, newer = self._tiers
        self._tiers = [*older, overlay(newer, one)]

    def rows(self) -> RowArray:
        """Return all staged rows, tombstones included."""
        self.store_edits()
        self._place()
        self._add_tiers()
        while len(self._tiers) > 1:
            self._merge_last()
        return self._tiers[0] if self._tiers else empty_rows()

    def is_changed(self) -> bool:
        """Tell whether there is anything to commit: rows, or a chunk that the store does not have yet."""
        self.store_edits()
        self._place()
        return bool(self.allocator.rooms)

    def only_row(self) -> bytes | None:
        """Return the staged row if there is just one, put alone."""
        self._place()
        alone = len(self.packed) == 1 and not self._tiers and not self._appended
        return next(iter(self.packed.values())) if alone else None

    def all_runs(self) -> list[Run]:
        """Return all staged rows, tombstones included, as consecutive runs."""
        self._place()
        if self._appended and not self.packed and not self.edits:
            self._appended = in_key_order(self._appended, self.heap.item_size)  # which need not be done again
            return list(self._appended)
        rows = self.rows()
        return [ArrayRun(rows)] if len(rows) else []

    # ------------------------------------------------------------------ reading

    def staged(self, key: int) -> Extent | None:
        """Return the staged row of a key, tombstone or not, or None if the key was not touched."""
        if key in self._puts:
            self._place()
        row = self.packed.get(key)
        if row is not None:
            return unpack_row(row)
        if self._appended:
            self._add_tiers()
        for rows in reversed(self._tiers):
            extent = find_one(rows, key)
            if extent is not None:
                return extent
        return None

    def find(self, key: int) -> Extent | None:
        """Return the extent of a key as this transaction sees it, or None."""
        row = self.staged(key)
        if row is None:
            return self.index.find(key)
        if row[4] & TOMBSTONE:
            return None
        self.allocator.expose()
        return row

    def lookup(self, keys: npt.NDArray[np.uint64]) -> RowArray:
        """Return one row per ascending key; the key that has none gets a tombstone."""
        rows, found = self._lookup(keys)
        if found.any():
            self.allocator.expose()
        return rows

    def _lookup(self, keys: npt.NDArray[np.uint64]) -> tuple[RowArray, npt.NDArray[np.bool_]]:
        """Return one row per ascending key, and which of them are staged."""
        staged = self.rows()
        where = np.searchsorted(staged["key"], keys)
        found = find_equal(staged, keys, where)
        rows = self.index.lookup(keys)
        rows[found] = staged[where[found]]
        return rows, found

    def runs(self, start: int, stop: int, *, reverse: bool = False) -> Iterator[Run]:
        """Yield the live rows of a key range, as this transaction sees it, as consecutive runs."""
        if len(clip(self.rows(), start, stop)):
            self.allocator.expose()
        return self._runs(start, stop, reverse=reverse)

    def _runs(self, start: int, stop: int, *, reverse: bool) -> Iterator[Run]:
        older = self.index.runs(start, stop, reverse=reverse)
        return overlay_runs(clip(self.rows(), start, stop), older, reverse=reverse)

    def record_count(self) -> int:
        """Return how many records the store has, as this transaction sees it."""
        staged = self.rows()
        replaced = self.index.existing(staged["key"])
        return self._record_count() - len(replaced) + len(without_tombstones(staged))


def _own(keys: npt.NDArray[np.uint64]) -> Keys:
    """Return ascending keys as a range, or as a copy, which the caller cannot change."""
    spaced = spacing(keys)
    return spaced if isinstance(spaced, range) else read_only(spaced.copy())
