"""The chunk files of one store: where the next record goes, and the bytes of an extent. Keys mean nothing here.

A heap never decides whether a record is current; that is the index's. It allocates, rolls over to new chunks,
takes back what an aborted transaction used, and turns extents into arrays.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from .chunk import Chunk
from .errors import CorruptionError, MovedError
from .extent import ROW, ROW_SIZE, TOMBSTONE, Extent, Run, chunks_of, find_one, make_run, misplaced
from .piece import Keys, Stretch
from .schema import Schema

SPARSE_SIZE = 1 << 16
"""A zeroed record of more bytes than this is left sparse: its blocks are taken when it is written."""


class Arrays(dict[int, npt.NDArray[Any]]):
    """Each chunk of a heap as one array of items, mapped when first asked for."""

    def __init__(self, heap: Heap, *, writable: bool) -> None:
        super().__init__()
        self._heap = heap
        self._writable = writable

    def __missing__(self, chunk: int) -> npt.NDArray[Any]:
        heap = self._heap
        found = heap.chunks.get(chunk)
        if found is None:
            return heap.retired_items(chunk, writable=self._writable)
        try:
            array = self.setdefault(chunk, found.items(heap.schema.dtype, writable=self._writable))
        except FileNotFoundError:
            if chunk in heap.chunks:
                raise
            return heap.retired_items(chunk, writable=self._writable)
        if heap.chunks.get(chunk) is not found:  # it was retired meanwhile, and is not to be kept
            self.pop(chunk, None)
        return array


class Retired:
    """A chunk that compaction replaced, for those who go on reading it.

    Parameters
    ----------
    chunk : Chunk
    old, new : Run
        Its records that may change in place, and the same ones where they are now.
    """

    def __init__(self, chunk: Chunk, old: Run, new: Run) -> None:
        chunk.map_source()  # while it has a name
        self.chunk = chunk
        self._old = old
        self._new = new

    def moved(self, extent: Extent) -> Extent | None:
        """Return where a record is now; None if it was not current any more when the others were moved."""
        if find_one(self._old, extent[0]) != extent:
            return None
        return find_one(self._new, extent[0])


class Heap:
    """The chunks of one store.

    Parameters
    ----------
    store : int
        The store's id.
    name : str
        The store's name.
    schema : Schema
        The type of its items.
    create_chunk : callable
        ``create_chunk(heap, size)`` makes the store's next chunk, with room for a record of `size` bytes.

    Notes
    -----
    Any number of threads may read; one writes. ``touched`` and ``created`` are what the open transaction used, and
    ``durable`` says whether its commit will wait for the disk.
    """

    def __init__(self, store: int, name: str, schema: Schema, create_chunk: Callable[[Heap, int], Chunk]) -> None:
        self.store = store
        self.name = name
        self.schema = schema
        self.item_size = schema.item_size
        self.chunks: dict[int, Chunk] = {}
        self.arrays = Arrays(self, writable=False)
        self.live_arrays = Arrays(self, writable=True)
        self.retired: WeakValueDictionary[int, Retired] = WeakValueDictionary()
        self._retired_bounds: dict[int, tuple[int, int]] = {}
        self.touched: dict[int, Chunk] = {}
        self.created: set[int] = set()
        self.durable = False
        self._create_chunk = create_chunk
        self._open: Chunk | None = None

    def add(self, chunk: Chunk) -> None:
        """Add a chunk file; the one with the highest id is the one that grows."""
        self.chunks[chunk.id] = chunk

    def adopt(self, chunks: Mapping[int, Chunk]) -> None:
        """Take these chunks, of a newer commit; those that are here already stay, as far as they reach now."""
        for number, chunk in chunks.items():
            mine = self.chunks.get(number)
            if mine is not None and mine.header == chunk.header:
                self._go_on(mine, chunk)
                continue
            if mine is not None:  # never committed: a later writer used its number again
                self.remove(number)
            self.add(chunk)

    def _go_on(self, mine: Chunk, newer: Chunk) -> None:
        """Let a chunk reach as far as another object of the same file does."""
        if newer.is_mapped and newer.directory != mine.directory:
            # On an overlay file system the mapping of before may never show what was written since.
            self.chunks[mine.id] = newer
            self.arrays.pop(mine.id, None)
        else:
            mine.seek(newer.committed, newer.directory)
            newer.unmap()  # two of each file until the garbage collector comes would be many descriptors

    def remove(self, chunk: int) -> Chunk:
        """Forget a chunk; its views stay valid."""
        removed = self.chunks.pop(chunk)
        self.arrays.pop(chunk, None)
        self.live_arrays.pop(chunk, None)
        return removed

    def retire(self, retired: Retired) -> None:
        """Forget a chunk that was replaced, but for those who still hold it."""
        chunk = retired.chunk
        self._retired_bounds[chunk.id] = (chunk.header.data_offset, chunk.free)
        self.retired[chunk.id] = retired
        self.remove(chunk.id)

    def retired_chunk(self, chunk: int) -> Retired:
        """Return a chunk that was replaced.

        Raises
        ------
        MovedError
            No view as old as its extents is left, so that it was let go.
        """
        found = self.retired.get(chunk)
        if found is None:
            raise MovedError(f"chunk {chunk} of store {self.name!r} was replaced by compaction")
        return found

    def close(self) -> None:
        """Let the mappings go that no view holds."""
        self.arrays.clear()
        self.live_arrays.clear()
        for chunk in self.chunks.values():
            chunk.close()

    # ------------------------------------------------------------------ reading

    def array(self, extent: Extent) -> npt.NDArray[Any]:
        """Return an extent's items, read-only, without a copy."""
        start = extent[1] // self.item_size
        return self.arrays[extent[3]][start : start + extent[2]]

    def live_array(self, extent: Extent) -> npt.NDArray[Any]:
        """Return an extent's items, writable: a change goes to the file."""
        start = extent[1] // self.item_size
        return self.live_arrays[extent[3]][start : start + extent[2]]

    def retired_items(self, chunk: int, *, writable: bool) -> npt.NDArray[Any]:
        """Return a replaced chunk as one array of items, which is not kept; a change to it would be lost."""
        retired = self.retired_chunk(chunk)
        if writable:
            raise MovedError(f"chunk {chunk} of store {self.name!r} was replaced by compaction")
        return retired.chunk.items(self.schema.dtype)

    def is_lent(self, chunk: int) -> bool:
        """Tell whether anyone holds a writable view of a chunk."""
        # Every view of it holds the array of the whole chunk; the dictionary and this call hold it, too.
        return chunk in self.live_arrays and sys.getrefcount(self.live_arrays[chunk]) > 2

    def check(self, run: Run) -> None:
        """Raise CorruptionError unless all extents of a run lie inside this heap's chunks."""
        chunks = run["chunk"]
        ids = chunks_of(run)
        for chunk_id in ids:
            rows = run if len(ids) == 1 else run[chunks == chunk_id]
            low, high = self._bounds(chunk_id, rows)
            bad = misplaced(rows, low, high, self.item_size)
            if bad.any():
                row = rows[np.argmax(bad)]
                found = f"key {row['key']} with {row['length']} items, flags {row['flags']}"
                expected = f"whole items inside bytes {low} to {high}"
                chunk = self.chunks.get(chunk_id)
                path = chunk.path if chunk else self.name
                raise CorruptionError(path, offset=int(row["offset"]), found=found, expected=expected)

    def _bounds(self, chunk_id: int, rows: Run) -> tuple[int, int]:
        """Return where the data of a chunk begins and ends, of a replaced one too: old snapshots name it."""
        chunk = self.chunks.get(chunk_id)
        if chunk is not None:
            return chunk.header.data_offset, chunk.free
        bounds = self._retired_bounds.get(chunk_id)
        if bounds is None:
            found = f"key {rows['key'][0]} in chunk {chunk_id}"
            raise CorruptionError(self.name, found=found, expected=f"one of the chunks {sorted(self.chunks)}")
        return bounds

    # ------------------------------------------------------------------ writing

    def roll(self, size: int = 0) -> Chunk:
        """Start a new chunk, with room for a record of `size` bytes."""
        return self.begin(self._create_chunk(self, size))

    def begin(self, chunk: Chunk) -> Chunk:
        """Add a chunk that the open transaction made, and go on there."""
        self.add(chunk)
        self.created.add(chunk.id)
        self.touched[chunk.id] = chunk
        self._open = chunk
        return chunk

    def _room(self, size: int) -> Chunk:
        """Return a chunk that can take a record of `size` bytes and its row."""
        chunk = self._open
        if chunk is None and self.chunks:
            chunk = self.chunks[max(self.chunks)]
            chunk.prepare()
            self._open = self.touched[chunk.id] = chunk
        elif chunk is not None and self.durable:
            chunk.start_flush()
        if chunk is None or chunk.free + size + ROW_SIZE > chunk.limit:
            chunk = self.roll(size)
        return chunk

    def put(self, key: int, items: npt.NDArray[Any], flags: int = 0) -> bytes:
        """Store one record and return its packed row.

        Raises
        ------
        OSError
            ENOSPC when the disk is full; then nothing changed.
        """
        size = items.nbytes
        chunk = self._open
        if chunk is None or chunk.free + size + ROW_SIZE > chunk.limit:
            chunk = self._room(size)
        offset = chunk.free
        end = offset + size
        if end > chunk.reserved:
            chunk.reserve(end)
        chunk.free = end  # first: should the store fail, its bytes are a gap, and what is above stays zeros
        chunk.limit -= ROW_SIZE
        if size:
            chunk.store(offset, items, size)
        return ROW.pack(key, offset, len(items), chunk.id, flags)

    def put_zeros(self, key: int, length: int, flags: int) -> bytes:
        """Allocate one zeroed record and return its packed row; a large one stays sparse."""
        size = length * self.item_size
        chunk = self._room(size)
        offset = chunk.free
        if size <= SPARSE_SIZE:
            chunk.reserve(offset + size)
        chunk.free = offset + size
        chunk.limit -= ROW_SIZE
        return ROW.pack(key, offset, length, chunk.id, flags)

    def put_many(
        self, keys: Keys, items: npt.NDArray[Any], lengths: npt.NDArray[np.int64], flags: int = 0
    ) -> list[Stretch]:
        """Store many records back to back, over as many chunks as they need, and return their rows in order."""
        starts = _starts(lengths)
        stretches = []
        first, last = 0, len(keys)
        while first < last:
            chunk = self._room(int(lengths[first]) * self.item_size)
            needed = partial(_needed, starts, first, self.item_size)
            upto = bisect_right(range(last + 1), chunk.limit - chunk.free, lo=first, key=needed) - 1
            start = self._put_some(chunk, items[starts[first] : starts[upto]], upto - first)
            moved = _moved(starts[first : upto + 1], start - int(starts[first]))
            stretches.append(Stretch(keys[first:upto], moved, chunk.id, flags, self.item_size))
            first = upto
        return stretches

    def _put_some(self, chunk: Chunk, items: npt.NDArray[Any], row_count: int) -> int:
        """Store the items of some records, for which a chunk has room, and return where, in items."""
        offset, size = chunk.free, items.nbytes
        chunk.reserve(offset + size)
        chunk.free = offset + size
        chunk.limit -= ROW_SIZE * row_count
        if size:
            chunk.store(offset, items, size)
        return offset // self.item_size

    def bury(self, keys: npt.NDArray[np.uint64], flags: int = TOMBSTONE) -> Run:
        """Return tombstones for these keys, with room made for them in the directories."""
        runs = []
        first = 0
        while first < len(keys):
            chunk = self._room(0)
            upto = min(len(keys), first + (chunk.limit - chunk.free) // ROW_SIZE)
            chunk.limit -= ROW_SIZE * (upto - first)
            runs.append(make_run(keys[first:upto], 0, 0, chunk.id, flags))
            first = upto
        return np.concatenate(runs) if runs else make_run(keys, 0, 0, 0)

    def bury_one(self, key: int, flags: int = TOMBSTONE) -> bytes:
        """Return one packed tombstone."""
        chunk = self._room(0)
        chunk.limit -= ROW_SIZE
        return ROW.pack(key, 0, 0, chunk.id, flags)

    def start_flush(self) -> None:
        """Have the system begin to write what the open transaction stored."""
        for chunk in self.touched.values():
            chunk.start_flush()

    def settle(self) -> None:
        """Forget what the open transaction used: it was committed."""
        for chunk in self.touched.values():
            chunk.seek(chunk.free, chunk.directory)
        self.touched = {}
        self.created = set()
        self._open = None

    def rewind(self, *, keep: bool) -> list[Chunk]:
        """Take back what the open transaction used, and return the chunks that it made.

        With `keep`, views of its records were handed out: their bytes stay as they are.
        """
        made = [self.remove(self.touched.pop(chunk).id) for chunk in sorted(self.created)]
        for chunk in self.touched.values():
            chunk.rewind(keep=keep)
        self.settle()
        return made


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
