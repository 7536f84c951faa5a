"""What one transaction has changed in one store: rows that no one else sees yet, laid over the index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..chunks.allocator import SPILL_SIZE, Allocator, RoomMark
from ..chunks.retired import Retired
from ..index.store_index import StoreIndex
from ..runs.extent import (
    MUTABLE,
    ROW_SIZE,
    TOMBSTONE,
    ZERO,
    Extent,
    RowArray,
    find_one,
    is_sorted,
    last_wins,
    unpack_row,
)
from ..runs.run import Keys, Run, read_only, spacing
from ..runs.streams import joined, overlay_runs
from .growing import Growing
from .staged_rows import RowsMark, StagedRows
from .staged_view import end_key_over, net_count

_MANY_ROWS = 1 << 16
_MOST_COLLECTED = 1 << 10
"""Records of more bytes do not begin to collect: to copy them twice takes longer than to give each its place."""
_FEW_PUTS = 16
"""So many records or fewer get their places one by one."""
_FEW_BYTES = SPILL_SIZE // 8
"""More bytes than these, of few records, are not copied to be stored in one step."""


class Edit(NamedTuple):
    """A private copy of an object that replaces its record, and its bytes when it was last stored."""

    object: Any
    stored: bytes


class Mark(NamedTuple):
    """What was staged at a moment, to come back to."""

    rows: RowsMark
    room: RoomMark
    growing: int
    edits: dict[int, Edit]


class Guard(Protocol):
    """What tells whether the stores of a transaction may be used."""

    is_needed: bool
    """Whether there is anything to check."""

    def check(self, staging: Staging) -> None:
        """Raise if a store is not to be used any more; do what there is to do before it is."""


class Staging:
    """The uncommitted rows of one store.

    Records that are put alone collect in a dictionary and get their places many at a time: when they are read,
    when anything else is written, or when there are many. Of records that are made longer, what is added collects
    likewise, each by itself. All else has its place, and its row in ``_rows``.

    Whatever interrupts a call, what it changes is staged whole or not at all: each change is one assignment.

    Parameters
    ----------
    allocator : Allocator
    index : StoreIndex
    record_count : callable
        Returns how many records a store has without what is staged.
    guard : Guard
        What is asked before it is used from outside.
    """

    def __init__(
        self,
        allocator: Allocator,
        index: StoreIndex,
        record_count: Callable[[int], int],
        guard: Guard,
    ) -> None:
        self.heap = allocator.heap
        self.allocator = allocator
        self.index = index
        self._guard = guard
        self._changes = 0
        self._rows = StagedRows(self.heap.item_size)
        self._puts: dict[int, bytes] = {}
        self._put_flags = 0  # the same for all records that are put in a store
        # Where the records that were put alone will end at most, with a row for each, and may end.
        self._end = self._limit = 0
        self._growing = Growing(allocator)
        self._tails = self._growing.tails
        self.edits: dict[int, Edit] = {}
        self.replaced: Sequence[Retired] = ()
        self.is_rewritten = False
        self._record_count = record_count

    @property
    def changes(self) -> int:
        """A number that is another one after each write."""
        return self._changes + self._end

    def check_usable(self) -> None:
        """Raise if nothing is to be read or changed any more. :meth:`put` and :meth:`append` do so themselves."""
        if self._guard.is_needed:
            self._guard.check(self)

    # ------------------------------------------------------------------ writing

    def check_storable(self) -> None:
        """Raise if nothing can be stored any more."""
        self.allocator.check_storable()

    def put(self, key: int, items: npt.NDArray[Any], flags: int = 0) -> None:
        """Store one record, whose items may lie anywhere in memory.

        Raises
        ------
        OSError
            ENOSPC when the disk is full; then nothing changed.
        """
        if self._guard.is_needed:
            self._guard.check(self)
        size = items.nbytes
        end = self._end + size + ROW_SIZE
        if end > self._limit or self.edits or self._tails:
            if size > _MOST_COLLECTED or self.edits or key in self._tails:
                self._place()
                self._stage(key, self.allocator.put(key, np.ascontiguousarray(items), size, flags))
                return
            if end > self._limit:
                end = self._go_on(end, size, flags)
        self._end = end
        self._puts[key] = items.tobytes()

    def _go_on(self, end: int, size: int, flags: int) -> int:
        """Take more room for records that are put alone, one of `size` bytes at least; return where those end."""
        limit = self.allocator.extend(end) if self._limit else 0  # else there are none, or _place() was cut short
        if limit < end:
            # Not a few large ones, which fill what is collected: so few rows need not stay runs.
            self._place(at_once=self._is_little())
            self._put_flags = flags
            start, limit = self.allocator.room_for(size)
            end = start + size + ROW_SIZE
        self._limit = limit
        return end

    def _is_little(self) -> bool:
        return len(self._puts) <= _FEW_PUTS and sum(map(len, self._puts.values())) <= _FEW_BYTES

    def _stop_collecting(self) -> None:
        self._changes += self._end  # which begins anew: what was said of changes is not said again
        self._end = self._limit = 0

    def _place(self, *, at_once: bool = False) -> None:
        """Give the records that were put alone their places. What else takes room does this first.

        ``at_once`` tells to do it in one step even if they are few, because they are the end of many: where a chunk
        has no more room, or the transaction ends. Then the rows of all that were put in order of key stay runs.
        """
        self._stop_collecting()
        if not self._puts:
            return
        if at_once:
            self._place_many(self._puts, self._put_flags)
        else:
            self._place_records(self._puts, self._put_flags)
        self._puts = {}
        if len(self._rows.packed) > _MANY_ROWS:
            self._rows.add_tiers()

    def _place_records(self, records: dict[int, bytes], flags: int) -> None:
        if len(records) > _FEW_PUTS:
            self._place_many(records, flags)
            return
        for key, data in records.items():
            row = self.allocator.put(key, data, len(data), flags)
            self._rows.prepare(key)
            self._rows.packed[key] = row

    def _place_many(self, records: dict[int, bytes], flags: int) -> None:
        keys = np.fromiter(records, np.uint64, len(records))
        sizes = np.fromiter(map(len, records.values()), np.int64, len(records))
        items = np.frombuffer(b"".join(records.values()), self.heap.schema.dtype)
        self._put_many(keys, items, sizes // self.heap.item_size, flags)

    def _place_all(self, *, is_last: bool = False) -> None:
        """Give all records their places, those that were made longer too; `is_last` if no more is to be stored."""
        self._place(at_once=is_last and self._rows.has_runs)
        if self._tails:
            for records in self._growing.made():
                self._place_records(records, 0)
                self._growing.forget(records)
            for key in list(self._tails):
                self._place_longer(key, is_growing=not is_last)

    def _place_longer(self, key: int, *, is_growing: bool) -> None:
        """Give a record that was made longer its place."""
        row = self._growing.place(key, is_growing=is_growing)
        self._stage(key, row)

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

    def append(self, key: int, items: npt.NDArray[Any]) -> None:
        """Make a record longer, or make it.

        Raises
        ------
        OSError
            ENOSPC when the disk is full; then nothing changed.
        """
        self.check_usable()
        growing, size = self._growing, items.nbytes
        if size > growing.left:
            self._place_all()
        tail = self._tails.get(key)
        if tail is None:
            self._begin_tail(key, items.tobytes())
        else:
            tail.data += items.tobytes()
        growing.left -= size
        self._changes += 1

    def _begin_tail(self, key: int, data: bytes) -> None:
        put = self._puts.get(key)
        if put is not None:
            self._growing.make(key, put + data)
            return
        row = self._rows.find(key) or self.index.find(key)
        if row is None or row[4] & TOMBSTONE:
            self._growing.make(key, data)
        elif data:
            self._growing.begin(row, data)

    def _stage(self, key: int, row: bytes) -> None:
        """Take a packed row in place of what the key had, what was added to that and an edited object too."""
        rows, tails, edits = self._rows, self._tails, self.edits
        rows.prepare(key)
        # From here on no call is made, so that nothing can interrupt it.
        rows.packed[key] = row
        if key in tails:
            del tails[key]
        if key in edits:
            del edits[key]
        self._changes += 1

    def stage_drop(self, row: bytes) -> None:
        """Take the row that says that the store was dropped."""
        self._stage(0, row)

    def put_many(
        self,
        keys: npt.NDArray[np.uint64],
        items: npt.NDArray[Any],
        lengths: npt.NDArray[np.int64],
        flags: int = 0,
    ) -> None:
        """Store many records; of equal keys the last one stays."""
        self._place_all()
        self._put_many(keys, items, lengths, flags)
        self._changes += 1

    def _put_many(
        self, keys: npt.NDArray[np.uint64], items: npt.NDArray[Any], lengths: npt.NDArray[np.int64], flags: int
    ) -> None:
        if not self.edits and is_sorted(keys) and self._rows.is_beyond(keys):
            self._rows.append(self.allocator.put_many(_own(keys), items, lengths, flags))
        else:
            self._add(last_wins(joined(self.allocator.put_many(keys, items, lengths, flags))))

    def replace(self, replaced: Sequence[Retired], runs: list[Run], *, is_whole: bool) -> None:
        """Take consecutive runs for all that is worth keeping of some chunks, which go with the commit.

        ``is_whole`` tells whether these were all chunks of the store, of which nothing else was staged.
        """
        self.replaced, self.is_rewritten = replaced, is_whole
        if is_whole:
            self._rows.append(runs)
        else:
            self._add(joined(runs))
        self._changes += 1

    def delete(self, key: int) -> bool:
        """Delete one record, and tell whether there was one."""
        self._place()
        if key not in self._tails:
            row = self._rows.find(key) or self.index.find(key)
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
        self._changes += 1
        return len(keys)

    def delete_many(self, keys: npt.NDArray[np.uint64]) -> int:
        """Delete the records of ascending keys, none of them twice, and return how many there were."""
        there = keys[self._lookup(keys)[0]["flags"] & TOMBSTONE == 0]
        if len(there):
            self._add(self.allocator.tombstones(there))
            self._changes += 1
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
                row = self.allocator.put(key, now, len(now), MUTABLE)
                self._rows.prepare(key)
                self._rows.packed[key] = row
                self.edits[key] = Edit(private, now)
                self._changes += 1

    def _add(self, rows: RowArray) -> None:
        staged = self._rows
        staged.add_tiers()
        edits = {key: edit for key, edit in self.edits.items() if find_one(rows, key) is None}
        tiers, uncounted = staged.with_tier(rows)
        staged.tiers, staged.uncounted, self.edits = tiers, uncounted, edits
        staged.merge()

    # ------------------------------------------------------------------ what there is to commit

    def is_changed(self) -> bool:
        """Tell whether there is anything to commit: rows, or a chunk that the store does not have yet."""
        self.store_edits()
        self._place_all(is_last=True)
        return bool(self.allocator.rooms)

    def only_row(self) -> bytes | None:
        """Return the staged row if there is just one, put alone."""
        self._place_all(is_last=True)
        return self._rows.only_row()

    def all_runs(self) -> list[Run]:
        """Return all staged rows, tombstones included, as consecutive runs."""
        self.store_edits()
        self._place_all(is_last=True)
        return self._rows.runs()

    # ------------------------------------------------------------------ reading

    def staged(self, key: int) -> Extent | None:
        """Return the staged row of a key, tombstone or not, or None if the key was not touched."""
        if key in self._puts:
            self._place()
        if key in self._tails:
            self._place_longer(key, is_growing=True)
        return self._rows.find(key)

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
        self._make_readable()
        staged, found = self._rows.lookup(keys)
        rows = self.index.lookup(keys)
        rows[found] = staged[found]
        return rows, found

    def _make_readable(self) -> None:
        """Give a row to all that was changed."""
        self.store_edits()
        self._place_all()

    def runs(self, start: int, stop: int, *, reverse: bool = False) -> Iterator[Run]:
        """Yield the live rows of a key range, as this transaction sees it, as consecutive runs."""
        self._make_readable()
        rows = self._rows.between(start, stop)
        if len(rows):
            self.allocator.expose()
        return overlay_runs(rows, self.index.runs(start, stop, reverse=reverse), reverse=reverse)

    def _runs(self, start: int, stop: int, *, reverse: bool) -> Iterator[Run]:
        self._make_readable()
        older = self.index.runs(start, stop, reverse=reverse)
        return overlay_runs(self._rows.between(start, stop), older, reverse=reverse)

    def end_key(self, *, reverse: bool) -> int | None:
        """Return the lowest key, or the highest, as this transaction sees it; None if there is no record."""
        self._place_all()
        return end_key_over(self._rows, self.index, reverse=reverse)

    def record_count(self) -> int:
        """Return how many records the store has, as this transaction sees it."""
        self._place_all()
        return self._record_count(self.heap.store) + net_count(self._rows, self.index)

    # ------------------------------------------------------------------ marks

    def mark(self) -> Mark:
        """Return what is staged now, to come back to; end it by :meth:`rewind` or :meth:`release`."""
        self._make_readable()
        return Mark(self._rows.mark(), self.allocator.mark(), self._growing.mark(), dict(self.edits))

    def rewind(self, mark: Mark) -> None:
        """Come back to what was marked. Cut short, it leaves what is staged undefined."""
        self._puts = {}
        self._stop_collecting()
        self._growing.rewind(mark.growing)
        self._rows.rewind(mark.rows)
        for private, stored in mark.edits.values():
            np.frombuffer(private, np.uint8)[:] = np.frombuffer(stored, np.uint8)
        self.edits = mark.edits
        self.allocator.rewind(mark.room)
        self._changes += 1

    def release(self) -> None:
        """Let the newest mark go."""
        self._rows.release()

    def give_back(self) -> None:
        """Remove all that was made for a store that the transaction has created, and takes back."""
        self.allocator.rewind(RoomMark(None, 0, 0))


def _own(keys: npt.NDArray[np.uint64]) -> Keys:
    """Return ascending keys as a range, or as a copy, which the caller cannot change."""
    spaced = spacing(keys)
    return spaced if isinstance(spaced, range) else read_only(spaced.copy())
