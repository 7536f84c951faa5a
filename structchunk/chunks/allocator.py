"""Allocator: where the records of one transaction go in the chunks of one store. It goes when the transaction ends.

Nothing of a heap or of its committed chunks changes until the commit, so that an abort has nothing to take back but
the chunk files that were made. Small records are collected in memory, and written with one call for many.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..disk import files
from ..disk.reserve import Reserve
from ..runs.extent import ROW, ROW_SIZE, TOMBSTONE, Extent, RowArray, make_rows
from ..runs.packed import Packed
from ..runs.run import ContiguousRun, Keys, Run
from .chunk import Chunk
from .heap import Heap
from .segment import MOST_ROWS, SEGMENT_SIZE

SPARSE_SIZE = 1 << 16
"""A zeroed record of more bytes than this is left sparse: its blocks are taken when it is written."""
SPILL_SIZE = 1 << 20
"""So many bytes of records are collected before they are written."""
STEP_SIZE = 16 << 20
"""How many bytes of a sparse record are copied at a time."""
START_SIZE = 8 << 20
"""Writing to disk is begun, ahead of the flush that waits for it, with this many bytes at least."""


class Space(Protocol):
    """The storage, as an allocator sees it."""

    @property
    def store_lock(self) -> Any:
        """Is held while bytes are stored, so that nobody closes the files meanwhile."""

    def check_writable(self) -> None:
        """Raise if the files are not to be written any more; the caller holds the lock."""

    @property
    def exposed(self) -> dict[int, Chunk]:
        """Takes the chunks in which a transaction must not be followed by another: views were handed out."""

    def create_chunk(self, heap: Heap, size: int, last_size: int) -> Chunk:
        """Make a store's next chunk, with room for a record of `size` bytes, behind one of `last_size` bytes."""

    def give_back(self, chunk: Chunk) -> None:
        """Remove a chunk file that a transaction has made and does not need any more."""

    @property
    def reserve(self) -> Reserve:
        """Disk space that is released when the disk is full, for what frees space."""


class RoomMark(NamedTuple):
    """How far a transaction had come in the chunk that it was writing to; no chunk if it had written to none."""

    room: Room | None
    free: int
    limit: int


class Written(NamedTuple):
    """The rows of all that a chunk has, which are in its directory ahead of the commit."""

    rows: Packed
    run: Run


class Room:
    """The part of one chunk that a transaction writes.

    ``free`` is the next free byte. What lies between ``stored`` and it is still in ``pending``, by offset.
    ``limit`` is how far data may reach: it goes down by ``ROW_SIZE`` for every row that the segment will have. It
    begins where the directory does, or where no record of `size` bytes and ``MOST_ROWS`` rows would reach.
    ``written`` are its rows, if they were written ahead of the commit.
    """

    __slots__ = ("chunk", "free", "is_new", "limit", "pending", "started", "stored", "written")

    def __init__(self, chunk: Chunk, size: int, *, is_new: bool) -> None:
        if not is_new:
            chunk.prepare()
        self.chunk = chunk
        self.is_new = is_new
        self.free = self.stored = self.started = chunk.free
        self.limit = min(chunk.directory - 2 * SEGMENT_SIZE, chunk.free + size + MOST_ROWS * ROW_SIZE)
        self.pending: dict[int, bytes] = {}
        self.written: Written | None = None

    def has_changed(self) -> bool:
        """Tell whether there is anything to commit: bytes, or the chunk itself."""
        return self.is_new or self.free != self.chunk.committed

    def start_flush(self) -> None:
        """Have the system begin to write what was stored to disk, where that is much; see ``files.start_flush``."""
        if self.stored - self.started >= START_SIZE:
            self.chunk.map_source()  # so that an error of this writing is kept for the flush
            files.start_flush(self.chunk.path, self.started, self.stored - self.started)
            self.started = self.stored

    def rewind(self, free: int, limit: int) -> None:
        """Take back what was stored from an offset on; of what views were handed out stays as a gap."""
        free = max(free, self.chunk.free)
        self.chunk.clear(free)  # first: who commits less than was stored says that nothing lies beyond
        while self.pending and next(reversed(self.pending)) >= free:  # the last one lies last
            self.pending.popitem()
        self.stored, self.started = min(self.stored, free), min(self.started, free)
        self.free, self.limit = free, limit


class Allocator:
    """Gives the records of one transaction their places in one store.

    Parameters
    ----------
    heap : Heap
    space : Space
    durable : bool
        Whether the commit will wait for the disk.

    Notes
    -----
    One thread uses it. Interrupted anywhere, a call has stored its record whole or not at all: each moves ``free``
    on, or adds to ``pending``, by assignments between which Python takes no interrupt.
    """

    def __init__(self, heap: Heap, space: Space, *, durable: bool) -> None:
        self.heap = heap
        self.rooms: dict[int, Room] = {}
        self._space = space
        self._durable = durable
        self._open: Room | None = None

    # ------------------------------------------------------------------ chunks

    def _room(self, size: int) -> Room:
        """Return what is taken of a chunk that can take a record of `size` bytes and its row."""
        room = self._newest(size)
        if room is None or room.free + size + ROW_SIZE > room.limit:
            room = self.roll(size)
        return room

    def _newest(self, size: int) -> Room | None:
        """Return what is taken of the store's newest chunk, to begin with for a record of `size` bytes, if any."""
        room = self._open
        if room is None and self.heap.chunks:
            chunk = self.heap.chunks[max(self.heap.chunks)]
            with self._space.store_lock:
                self._space.check_writable()
                room = Room(chunk, size, is_new=False)
            self._open = self.rooms[chunk.id] = room
        return room

    def roll(self, size: int = 0) -> Room:
        """Start a new chunk, with room for a record of `size` bytes."""
        last_size = 0 if self._open is None else self._open.chunk.header.file_size
        return self.begin(self._space.create_chunk(self.heap, size, last_size), size)

    def begin(self, chunk: Chunk, size: int) -> Room:
        """Go on in a chunk that this transaction made, with a record of `size` bytes."""
        if self._open is not None:
            self._spill(self._open)
            self._start_flush(self._open)
        self._open = self.rooms[chunk.id] = room = Room(chunk, size, is_new=True)
        return room

    # ------------------------------------------------------------------ records

    def room_for(self, size: int) -> tuple[int, int]:
        """Return where small records begin, the first of `size` bytes, and where they may end with their rows.

        Raises
        ------
        OSError
            ENOSPC when the disk is full; then nothing changed.
        """
        room = self._room(size)
        room.chunk.reserve(room.free + size)
        return room.free, _limit(room)

    def extend(self, end: int) -> int:
        """Return where small records may end, which is before `end` if there are too many; raises likewise."""
        room = self._open
        if room is None or end > min(room.limit, room.free + SPILL_SIZE):
            return 0
        room.chunk.reserve(end)
        return _limit(room)

    def put(self, key: int, data: Any, size: int, flags: int = 0) -> bytes:
        """Store one record, `size` bytes or an array of that size, and return its packed row.

        Raises
        ------
        OSError
            ENOSPC when the disk is full; then nothing changed.
        """
        room = self._room(size)
        offset = room.free
        chunk = room.chunk
        chunk.reserve(offset + size)
        self._add(room, data, size)
        room.limit -= ROW_SIZE
        return ROW.pack(key, offset, size // self.heap.item_size, chunk.id, flags)

    def _add(self, room: Room, data: Any, size: int) -> None:
        """Store records where the others end; small ones are collected."""
        if size > SPILL_SIZE:
            self._spill(room)
            self._store(room, data, size)
        elif size:
            room.pending[room.free] = data if type(data) is bytes else data.tobytes()
            room.free += size
            if room.free - room.stored > SPILL_SIZE:
                self._spill(room)

    def put_longer(self, key: int, base: Extent, data: bytes, *, is_growing: bool) -> tuple[bytes, int]:
        """Store a record of what another one has and some bytes more.

        Parameters
        ----------
        key : int
        base : Extent
            The other one.
        data : bytes
        is_growing : bool
            Leave room behind it, as much as it takes itself, if the disk has it.

        Returns
        -------
        tuple
            Its packed row, and where the room behind it ends.
        """
        before, item_size = base[2] * self.heap.item_size, self.heap.item_size
        size = before + len(data)
        room, end = self._roomy(size, 2 * size if is_growing else size)
        self._spill(room)
        offset, source = room.free, memoryview(self._chunk(base[3]).source)[base[1] : base[1] + before]
        for first in range(0, before, STEP_SIZE):
            part = source[first : first + STEP_SIZE]
            self._write(room, offset + first, part, len(part))
        self._write(room, offset + before, data, len(data))
        room.limit -= ROW_SIZE
        room.free = room.stored = end
        return ROW.pack(key, offset, size // item_size, room.chunk.id, 0), end

    def put_behind(self, base: Extent, data: bytes) -> bytes | None:
        """Store bytes behind a record, and return the packed row of both; None if other records may lie there.

        Raises
        ------
        OSError
            ENOSPC when the disk is full; then nothing changed.
        """
        key, offset, length, chunk, flags = base
        size = len(data)
        room = self._newest(size)  # and no other one: for a copy another chunk may have to be larger
        if room is None or (chunk, self.end_of(base)) != (room.chunk.id, room.free):
            return None
        if room.free + size + ROW_SIZE > room.limit:
            return None
        room.chunk.reserve(room.free + size)
        self._add(room, data, size)
        if offset < room.chunk.committed:  # else this commit had a row for it already
            room.limit -= ROW_SIZE
        return ROW.pack(key, offset, length + size // self.heap.item_size, chunk, flags)

    def end_of(self, extent: Extent) -> int:
        """Return where a record ends."""
        return extent[1] + extent[2] * self.heap.item_size

    def bytes_of(self, extent: Extent) -> bytes:
        """Return what a record holds now."""
        return memoryview(self._chunk(extent[3]).source)[extent[1] : self.end_of(extent)].tobytes()

    def _roomy(self, size: int, wanted: int) -> tuple[Room, int]:
        """Return a room with blocks for a record, of the wanted size if the disk has them, and their end."""
        try:
            room = self._room(wanted)
            room.chunk.reserve(room.free + wanted)
        except OSError:
            room, wanted = self._room(size), size
            room.chunk.reserve(room.free + size)
        return room, room.free + wanted

    def _chunk(self, number: int) -> Chunk:
        """Return a chunk of the store, all of whose records are in the file."""
        if number in self.rooms:
            self._spill(self.rooms[number])
            return self.rooms[number].chunk
        return self.heap.chunks[number]

    def _write(self, room: Room, offset: int, data: Any, size: int) -> None:
        """Write bytes into what the transaction has taken, or is about to take."""
        with self._space.store_lock:
            self._space.check_writable()
            room.chunk.store(offset, data, size)

    def lengthen(self, base: Extent, data: bytes) -> bytes:
        """Store bytes in the room behind a record, and return the packed row of both."""
        key, offset, length, chunk, flags = base
        self._write(self.rooms[chunk], offset + length * self.heap.item_size, data, len(data))
        return ROW.pack(key, offset, length + len(data) // self.heap.item_size, chunk, flags)

    def put_zeros(self, key: int, length: int, flags: int) -> bytes:
        """Allocate one zeroed record and return its packed row; a large one stays sparse."""
        size = length * self.heap.item_size
        room = self._room(size)
        self._spill(room)
        offset, chunk = room.free, room.chunk
        chunk.clear(offset)  # what an interrupted call may have left there
        if size <= SPARSE_SIZE:
            chunk.reserve(offset + size)
        room.free = room.stored = offset + size
        room.limit -= ROW_SIZE
        self.expose()
        return ROW.pack(key, offset, length, chunk.id, flags)

    def put_parts(self, key: int, size: int, parts: Iterable[tuple[int, Any]], flags: int) -> bytes:
        """Store one record of `size` bytes in parts, each with where it begins, and return its packed row.

        What no part has stays a hole.
        """
        room = self._room(size)
        self._spill(room)
        offset = room.free
        for start, data in parts:
            self.place(room, offset + start, data, data.nbytes)
        room.free = room.stored = offset + size
        room.limit -= ROW_SIZE
        return ROW.pack(key, offset, size // self.heap.item_size, room.chunk.id, flags)

    def put_many(
        self, keys: Keys, items: npt.NDArray[Any], lengths: npt.NDArray[np.int64], flags: int = 0
    ) -> list[ContiguousRun]:
        """Store many records back to back, over as many chunks as they need, and return their rows in order."""
        item_size = self.heap.item_size
        starts = _starts(lengths)
        runs = []
        first, last = 0, len(keys)
        while first < last:
            room = self._room(int(lengths[first]) * item_size)
            needed = partial(_needed, starts, first, item_size)
            upto = bisect_right(range(last + 1), room.limit - room.free, lo=first, key=needed) - 1
            start = self._put_some(room, items[starts[first] : starts[upto]], upto - first)
            moved = _moved(starts[first : upto + 1], start - int(starts[first]))
            runs.append(ContiguousRun(keys[first:upto], moved, room.chunk.id, flags, item_size))
            first = upto
        return runs

    def _put_some(self, room: Room, items: npt.NDArray[Any], row_count: int) -> int:
        """Store the items of some records, for which a chunk has room, and return where, in items."""
        offset, size = room.free, items.nbytes
        room.chunk.reserve(offset + size)
        self._add(room, items, size)
        room.limit -= ROW_SIZE * row_count
        return offset // self.heap.item_size

    def _room_for_rows(self) -> Room:
        """Return what is taken of a chunk that can take a row, for which the reserve may be given up."""
        try:
            return self._room(0)
        except OSError:
            with self._space.store_lock:
                return self._space.reserve.spend_on(partial(self._room, 0))

    def tombstones(self, keys: npt.NDArray[np.uint64], flags: int = TOMBSTONE) -> RowArray:
        """Return tombstones for these keys, with room made for them in the directories."""
        parts = []
        first = 0
        while first < len(keys):
            room = self._room_for_rows()
            upto = min(len(keys), first + (room.limit - room.free) // ROW_SIZE)
            room.limit -= ROW_SIZE * (upto - first)
            parts.append(make_rows(keys[first:upto], 0, 0, room.chunk.id, flags))
            first = upto
        return np.concatenate(parts) if parts else make_rows(keys, 0, 0, 0)

    def tombstone(self, key: int, flags: int = TOMBSTONE) -> bytes:
        """Return one packed tombstone."""
        room = self._room_for_rows()
        room.limit -= ROW_SIZE
        return ROW.pack(key, 0, 0, room.chunk.id, flags)

    # ------------------------------------------------------------------ marks

    def mark(self) -> RoomMark:
        """Return how far the transaction has come, to come back to."""
        room = self._open
        return RoomMark(None, 0, 0) if room is None else RoomMark(room, room.free, room.limit)

    def rewind(self, mark: RoomMark) -> None:
        """Take back what was stored since; the chunk files that were made since are removed."""
        numbers = list(self.rooms)
        kept = 0 if mark.room is None else numbers.index(mark.room.chunk.id) + 1
        for number in numbers[kept:]:
            room = self.rooms[number]
            if room.is_new:
                self._space.give_back(room.chunk)
        if mark.room is not None:
            mark.room.rewind(mark.free, mark.limit)
        self.rooms, self._open = {number: self.rooms[number] for number in numbers[:kept]}, mark.room

    # ------------------------------------------------------------------ files

    def check_storable(self) -> None:
        """Raise if nothing can be stored any more: the database was closed meanwhile, or failed."""
        with self._space.store_lock:
            self._space.check_writable()

    def flush(self) -> None:
        """Write what is pending, so that the files hold all that was stored."""
        for room in self.rooms.values():
            self._spill(room)

    def expose(self) -> None:
        """Write what is pending, and let no later transaction store there: views of it are handed out."""
        self.flush()
        for room in self.rooms.values():
            self._space.exposed[room.chunk.id] = room.chunk
            room.chunk.free = max(room.chunk.free, room.free)

    def start_flush(self) -> None:
        """Have the system begin to bring what was stored to disk."""
        for room in self.rooms.values():
            room.start_flush()

    def _start_flush(self, room: Room) -> None:
        if self._durable:
            room.start_flush()

    def place(self, room: Room, offset: int, data: Any, size: int) -> None:
        """Store the next part of records in a chunk that nothing else is stored in, at `offset`."""
        with self._space.store_lock:
            self._space.check_writable()
            room.chunk.place(offset, data, size)
        room.free = room.stored = offset + size

    def place_sparse(self, room: Room, offset: int, source: Chunk, start: int, size: int) -> None:
        """Store what another chunk has from `start` on, likewise; holes stay holes."""
        raw = memoryview(source.source)
        for low, high in files.written(source.path, start, start + size):
            for first in range(low, high, STEP_SIZE):
                upto = min(first + STEP_SIZE, high)
                self.place(room, offset + first - start, raw[first:upto], upto - first)
        room.free = room.stored = offset + size

    def _spill(self, room: Room) -> None:
        if room.pending:
            size = room.free - room.stored
            data = b"".join(room.pending.values())[:size]  # an interrupt may have left a record without its room
            self._store(room, data, size)

    def _store(self, room: Room, data: Any, size: int) -> None:
        """Write bytes that go on where the file ends, so that nothing is pending."""
        self._start_flush(room)
        with self._space.store_lock:
            self._space.check_writable()
            room.chunk.store(room.stored, data, size)
        room.free = room.stored = room.stored + size
        room.pending = {}


def _limit(room: Room) -> int:
    """Return where small records may end that are collected elsewhere before they are stored."""
    return min(room.limit, room.chunk.reserved, room.free + SPILL_SIZE)


def _starts(lengths: npt.NDArray[np.int64]) -> range | npt.NDArray[np.int64]:
    """Return where each record begins among the items of all, and where the last one ends."""
    length = int(lengths[0]) if len(lengths) else 0
    if length and (lengths == length).all():
        return range(0, len(lengths) * length + 1, length)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _moved(starts: range | npt.NDArray[np.int64], by: int) -> range | npt.NDArray[np.int64]:
    if isinstance(starts, range):
        return range(starts.start + by, starts.stop + by, starts.step)
    return starts + by


def _needed(starts: range | npt.NDArray[np.int64], first: int, item_size: int, upto: int) -> int:
    """Return how many bytes records and their rows take, at most."""
    return int(starts[upto] - starts[first]) * item_size + (upto - first) * ROW_SIZE
