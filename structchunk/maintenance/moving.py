"""Moving: records of one store, copied in order of key into new chunks, and their rows. Nothing is committed here.

Records are copied some at a time. No new chunk gets more than ``MOST_ROWS``: its rows are in memory until it is
full, and then in its directory, which is mapped. So memory does not grow with the number of records; it does
with that of those which may change in place and do not lie back to back, by 32 bytes each, and by 8 for the keys of
others.

Copies of records that were born as zeros are under a CRC, for until the checkpoint recovery must be able to tell
them from what a crash left of them; where such a record is sparse, so is its copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..chunks.allocator import SPARSE_SIZE, Allocator, Room, Written
from ..chunks.chunk import Chunk
from ..chunks.header import PAGE
from ..chunks.retired import Retired
from ..engine.losses import going_with
from ..engine.storage import Storage
from ..runs.extent import (
    MUTABLE,
    ROW_SIZE,
    TOMBSTONE,
    ZERO,
    RowArray,
    breaks,
    chunks_of,
    without_tombstones,
)
from ..runs.gather import gather_values
from ..runs.packed import pack, unpack
from ..runs.run import ArrayRun, Run, shorten
from ..runs.streams import put_together, run_of_chunk

MOST_ROWS = 1 << 22
STEP_SIZE = 16 << 20
"""How many bytes are gathered at a time."""

Progress = Callable[[int], object]


class Survey:
    """What rows to keep, given some at a time in order of key, are together.

    Attributes
    ----------
    size : int
        Bytes of the records.
    portions : list of int
        Bytes of the records and of their rows, at most, of each ``MOST_ROWS`` rows.
    counts : dict of int to int
        How many rows there are in each chunk.
    breaks : int
        How often records stop lying back to back.
    """

    def __init__(self, item_size: int) -> None:
        self.size = self.breaks = 0
        self.portions: list[int] = []
        self.counts: dict[int, int] = {}
        self._item_size = item_size
        self._end: tuple[int, int] | None = None

    @property
    def count(self) -> int:
        """How many rows there are."""
        return sum(self.counts.values())

    def add(self, rows: RowArray) -> None:
        """Add rows."""
        self._add_needed(rows)
        for chunk in chunks_of(rows):
            self.counts[chunk] = self.counts.get(chunk, 0) + int(np.count_nonzero(rows["chunk"] == chunk))
        rows = without_tombstones(rows)
        rows = rows[rows["length"] > 0]
        if not len(rows):
            return
        self.size += int(rows["length"].sum()) * self._item_size
        _, first, _, chunk, _ = rows[0].item()
        _, offset, length, last_chunk, _ = rows[-1].item()
        is_break = self._end is not None and self._end != (chunk, first)
        self.breaks += len(breaks(rows, self._item_size)) + is_break
        self._end = last_chunk, offset + length * self._item_size

    def _add_needed(self, rows: RowArray) -> None:
        needed, count = needed_sizes(rows, self._item_size), self.count
        bounds = [0, *range(-count % MOST_ROWS or MOST_ROWS, len(rows), MOST_ROWS), len(rows)]
        for low, high in pairwise(bounds):
            if (count + low) % MOST_ROWS == 0:
                self.portions.append(0)
            self.portions[-1] += int(needed[low:high].sum())


def needed_sizes(rows: RowArray, item_size: int) -> npt.NDArray[np.int64]:
    """Return how many bytes each record takes with its row, at most."""
    return rows["length"].astype(np.int64) * item_size + ROW_SIZE


class Moved:
    """The rows of what was copied, and of what may change in place where it was before.

    Attributes
    ----------
    runs : list of Run
        One for each new chunk; all of them ascend.
    """

    def __init__(self, item_size: int) -> None:
        self.runs: list[Run] = []
        self._item_size = item_size
        self._parts: list[Run] = []
        self._changeable: list[Run] = []

    def add(self, old: RowArray, new: RowArray) -> None:
        """Add rows that were copied to the newest chunk."""
        self._parts.append(shorten(new, self._item_size))
        is_changeable = old["flags"] & (MUTABLE | TOMBSTONE) == MUTABLE
        if is_changeable.any():
            self._changeable.append(shorten(old[is_changeable], self._item_size))

    def finish(self, room: Room) -> None:
        """Make one run of what was copied to a chunk, and write it to the directory, where it stays."""
        packed = pack(put_together(self._parts, self._item_size), self._item_size)
        self._parts = []
        room.chunk.reserve_directory(len(packed.body), exact=True)
        rows = packed._replace(body=room.chunk.write_rows(packed.body))
        run = unpack(rows, self._item_size)
        room.written = Written(rows, run)
        self.runs += [run] if len(run) else []

    def retire(self, chunk: Chunk) -> Retired:
        """Return a chunk that was replaced."""
        parts = (run_of_chunk([run], chunk.id) for run in self._changeable)
        return Retired(chunk, [part for part in parts if len(part)], self.runs)


class Target:
    """The new chunk that records are copied to: one after another, at least one.

    Parameters
    ----------
    allocator : Allocator
    create : callable
        Makes a chunk file that has room for a first record of some bytes, and for so many bytes of all.
    moved : Moved
    survey : Survey
        Of all that is to be copied.

    Attributes
    ----------
    room : Room or None
    """

    def __init__(
        self, allocator: Allocator, create: Callable[[int, int], Chunk], moved: Moved, survey: Survey
    ) -> None:
        self.room: Room | None = None
        self._allocator = allocator
        self._create = create
        self._moved = moved
        self._portions = survey.portions
        self._position = 0
        self._space = self._rows_left = 0

    def begin_for(self, rows: RowArray) -> tuple[Room, int]:
        """Return a chunk, another one if the last is full, and how many of some rows go there: one or more."""
        upto = np.cumsum(needed_sizes(rows, self._allocator.heap.item_size))
        room, count = self.room, self._fitting(upto)
        if room is None or not count:
            room = self._begin(int(upto[0]) - ROW_SIZE)
            count = self._fitting(upto)
        self._space -= int(upto[count - 1])
        self._rows_left -= count
        self._position += count
        return room, count

    def _fitting(self, upto: npt.NDArray[np.int64]) -> int:
        return min(int(np.searchsorted(upto, self._space, side="right")), self._rows_left)

    def _begin(self, first_size: int) -> Room:
        self._finish()
        portion, rest = divmod(self._position, MOST_ROWS)
        size = sum(self._portions[portion : portion + (2 if rest else 1)])
        room = self._allocator.begin(self._create(first_size, size), first_size)
        self.room, self._space, self._rows_left = room, room.limit - room.free, MOST_ROWS
        return room

    def _finish(self) -> None:
        if self.room is not None:
            self._moved.finish(self.room)

    def end(self) -> None:
        """Finish the last one, which is empty if nothing was copied."""
        if self.room is None:
            self._begin(0)
        self._finish()


def copy(
    storage: Storage,
    allocator: Allocator,
    parts: Iterable[RowArray],
    survey: Survey,
    chunks: list[Chunk],
    progress: Progress,
) -> Moved:
    """Copy records into as many new chunks as they need, at least one, and return their rows.

    Parameters
    ----------
    storage : Storage
    allocator : Allocator
        Of the transaction.
    parts : iterable of RowArray
        The records' rows, in order of key.
    survey : Survey
        Of the same rows.
    chunks : list of Chunk
        Those that the new ones take the place of.
    progress : callable
        Called with the number of bytes copied so far.
    """
    heap, moved, done = allocator.heap, Moved(allocator.heap.item_size), 0
    others, history = tuple(sorted(chunk.id for chunk in chunks)), going_with(chunks, storage.index.last)
    with storage.store_lock:
        storage.reserve.spend_a_part(sum(survey.portions) + 4 * PAGE)
    create = partial(storage.create_replacement, heap, replaces=others, history=history)
    target = Target(allocator, create, moved, survey)
    for rows in parts:
        left = rows
        while len(left):
            room, count = target.begin_for(left)
            for size in _fill(allocator, room, left[:count], moved):
                done += size
                progress(done)
            left = left[count:]
    target.end()
    return moved


def _fill(allocator: Allocator, room: Room, rows: RowArray, moved: Moved) -> Iterator[int]:
    """Copy records, back to back, into a new chunk that has room for them; yield the size of each step."""
    heap, offset = allocator.heap, room.free
    sizes = rows["length"].astype(np.int64) * heap.item_size
    ends = offset + np.cumsum(sizes)
    new = rows.copy()
    new["flags"] &= np.uint32(~ZERO & 0xFFFFFFFF)
    new["chunk"] = room.chunk.id
    new["offset"] = np.where(rows["flags"] & TOMBSTONE != 0, 0, ends - sizes)
    moved.add(rows, new)
    filled = sizes > 0
    rows, sizes = rows[filled], sizes[filled]
    for low, high in pairwise(_steps(rows, sizes)):
        size = int(sizes[low:high].sum())
        if _is_sparse(rows[low:high], sizes[low:high]).any():
            source = heap.chunks[int(rows["chunk"][low])]
            allocator.place_sparse(room, offset, source, int(rows["offset"][low]), size)
        else:
            allocator.place(room, offset, gather_values(heap, [ArrayRun(rows[low:high])]), size)
        offset += size
        yield size


def _steps(rows: RowArray, sizes: npt.NDArray[np.int64]) -> list[int]:
    """Return where the steps of copying begin, and where the last one ends; large records make one each."""
    portion = np.cumsum(sizes) // STEP_SIZE
    alone = np.flatnonzero((sizes > STEP_SIZE) | _is_sparse(rows, sizes))
    cuts = [np.flatnonzero(portion[1:] != portion[:-1]) + 1, alone, alone + 1, np.array([0, len(rows)])]
    bounds: list[int] = np.unique(np.concatenate(cuts)).tolist()
    return bounds


def _is_sparse(rows: RowArray, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Tell which records may have holes."""
    sparse: npt.NDArray[np.bool_] = (rows["flags"] & MUTABLE != 0) & (sizes > SPARSE_SIZE)
    return sparse
