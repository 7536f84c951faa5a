"""Compaction: a store's live records, rewritten in order of key into new chunks, in place of the old ones.

It is one commit, of one store, or of several that are small. The headers of the new chunks name the chunks that
they replace, so that the commit alone tells recovery which of them count; the old files are unlinked once a
checkpoint has it on disk. Records are copied a few megabytes at a time; their rows, 32 bytes each, are all in
memory.

Tombstones stay only where a chunk stays behind in which the key's record might still stand. Copies of records
that were born as zeros are under a CRC, for until the checkpoint recovery must be able to tell them from what a
crash left of them; where such a record is sparse, so is its copy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..chunks.allocator import SPARSE_SIZE, Allocator, Room
from ..chunks.chunk import Chunk
from ..chunks.header import PAGE
from ..chunks.heap import Heap, Retired
from ..chunks.segment import SEGMENT_SIZE
from ..disk import files
from ..engine.drafts import MAX_CHUNK_SIZE
from ..engine.in_place import NOTHING
from ..engine.losses import going_with
from ..engine.staging import Staging
from ..engine.storage import Storage
from ..runs.extent import (
    KEY_END,
    MUTABLE,
    ROW_SIZE,
    TOMBSTONE,
    ZERO,
    RowArray,
    breaks,
    empty_rows,
    make_rows,
    overlay,
    rows_in_chunk,
    without_tombstones,
)
from ..runs.gather import gather_values
from ..runs.packed import packed_size
from ..runs.run import ArrayRun, joined
from .stats import StoreStats, store_stats

STEP_SIZE = 16 << 20
"""How many bytes are gathered at a time."""
GROUP_SIZE = 16 << 20
"""Stores whose records and rows take fewer bytes than this together are compacted by one commit."""
GROUP_STORES = 1 << 10
"""And not more stores than this."""
EXPOSED = "a view through which its records can be changed in place is still held"

Progress = Callable[[int], object]


class Skipped(NamedTuple):
    """A chunk that compaction left as it was.

    Attributes
    ----------
    chunk : int
        Its id.
    why : str
        What kept it from being rewritten.
    """

    chunk: int
    why: str


class CompactionReport(NamedTuple):
    """What compaction did to one store.

    Attributes
    ----------
    name : str
        The store's name.
    records : int
        How many records it has.
    bytes_before, bytes_after : int
        What its files took on the disk, and take now.
    chunks_before, chunks_after : int
        How many files they were, and are.
    skipped : tuple of Skipped
        The chunks that could not be rewritten. A store that is compact already is left alone, with none skipped.
    """

    name: str
    records: int
    bytes_before: int
    bytes_after: int
    chunks_before: int
    chunks_after: int
    skipped: tuple[Skipped, ...]


def in_groups(stores: Iterable[StoreStats]) -> Iterator[list[str]]:
    """Yield the names of stores, in their order, in groups that are to be compacted together."""
    group: list[str] = []
    size = 0
    for store in stores:
        added = store.live + ROW_SIZE * store.records
        if group and (size + added > GROUP_SIZE or len(group) == GROUP_STORES):
            yield group
            group, size = [], 0
        group.append(store.name)
        size += added
    if group:
        yield group


def compact_stores(
    storage: Storage,
    stagings: Sequence[Staging],
    commit: Callable[[], None],
    checkpoint: Callable[[], None],
    progress: Progress,
) -> list[CompactionReport]:
    """Compact stores by one commit; their stagings must be empty.

    Parameters
    ----------
    storage : Storage
    stagings : sequence of Staging
        Of a transaction.
    commit : callable
        Commits the transaction, and waits for the disk.
    checkpoint : callable
        Unlinks what was replaced, once that is safe.
    progress : callable
        Called with the number of bytes copied so far.
    """
    heaps = [staging.heap for staging in stagings]
    before = [_stats(storage, heap) for heap in heaps]
    done, has_staged = 0, False
    try:
        chunks_of = storage.in_place.begin_moving(heaps)
        skipped = [_skipped(heap, chunks) for heap, chunks in zip(heaps, chunks_of, strict=True)]
        for staging, chunks, stats in zip(stagings, chunks_of, before, strict=True):
            has_staged |= _stage(storage, staging, chunks, partial(_advance, progress, done))
            done += stats.live
        if has_staged:
            commit()
    finally:
        storage.in_place.moving = NOTHING
    if has_staged:
        checkpoint()
    after = [_stats(storage, heap) for heap in heaps]
    return list(map(_report, before, after, skipped))


def _skipped(heap: Heap, chunks: Iterable[Chunk]) -> tuple[Skipped, ...]:
    free = {chunk.id for chunk in chunks}
    return tuple(Skipped(chunk, EXPOSED) for chunk in sorted(heap.chunks.keys() - free))


def _advance(progress: Progress, before: int, done: int) -> None:
    progress(before + done)


def _report(before: StoreStats, after: StoreStats, skipped: tuple[Skipped, ...]) -> CompactionReport:
    sizes = before.disk_size, after.disk_size, len(before.chunks), len(after.chunks)
    return CompactionReport(after.name, after.records, *sizes, skipped)


def _stats(storage: Storage, heap: Heap) -> StoreStats:
    return store_stats(heap.name, storage.places(heap, storage.index.last), storage.index.live[heap.store])


def compact_index(storage: Storage, names: Collection[str]) -> None:
    """Give back what the index of stores took that were rewritten; with no names, that of dropped stores too.

    Where processes share writing, this process has the index only while it writes: there LevelDB does so in time.
    """
    if not storage.is_copy:
        storage.check_place()
        heaps = (storage.heaps.get(name) for name in names)
        storage.index.compact([heap.store for heap in heaps if heap is not None] if names else None)
        storage.renew_reserve()


def _stage(storage: Storage, staging: Staging, chunks: list[Chunk], progress: Progress) -> bool:
    """Stage the rewriting of some chunks of a store, and tell whether there is anything to gain from it."""
    heap = staging.heap
    rows = _rows_to_keep(staging, chunks)
    if not chunks or _is_compact(heap, rows, chunks):
        return False
    moved = _copy(storage, staging.allocator, rows, chunks, progress)
    staging.replace([_retire(chunk, rows, moved) for chunk in chunks], moved)
    return True


def _retire(chunk: Chunk, rows: RowArray, moved: RowArray) -> Retired:
    changeable = (rows["chunk"] == chunk.id) & (rows["flags"] & (MUTABLE | TOMBSTONE) == MUTABLE)
    return Retired(chunk, rows[changeable], moved[changeable])


# ---------------------------------------------------------------------- what to keep


def _rows_to_keep(staging: Staging, chunks: list[Chunk]) -> RowArray:
    """Return the rows of chunks that must not be lost with them: of live records, and tombstones."""
    runs = staging.index.runs(0, KEY_END)
    if len(chunks) == len(staging.heap.chunks):
        return joined(runs)
    ids = np.array([chunk.id for chunk in chunks], np.uint32)
    alive = np.concatenate(
        [empty_rows(), *(rows[np.isin(rows["chunk"], ids)] for rows in (run.rows for run in runs))]
    )
    return overlay(alive, _tombstones(staging, chunks))


def _tombstones(staging: Staging, chunks: list[Chunk]) -> RowArray:
    """Return tombstones for what chunks say was deleted, and still is; each is in the last chunk that says so."""
    deleted = empty_rows()
    for chunk in chunks:
        deleted = overlay(make_rows(_deleted_keys(chunk), 0, 0, chunk.id, TOMBSTONE), deleted)
    dead = staging.index.lookup(deleted["key"])["flags"] & TOMBSTONE != 0
    return deleted.compress(dead)


def _deleted_keys(chunk: Chunk) -> npt.NDArray[np.uint64]:
    """Return the keys of the tombstones in a chunk's directory."""
    runs = [segment.run for segment in chunk.segments() if segment.low >= chunk.directory]
    arrays = [run.rows for run in runs if isinstance(run, ArrayRun)]  # no others have any
    keys = [rows["key"][rows["flags"] & TOMBSTONE != 0] for rows in arrays]
    found: npt.NDArray[np.uint64] = np.unique(np.concatenate([np.empty(0, "<u8"), *keys]))
    return found


def _is_compact(heap: Heap, rows: RowArray, chunks: list[Chunk]) -> bool:
    """Tell whether rewriting chunks would change nothing that matters."""
    records = without_tombstones(rows)
    records = records[records["length"] > 0]
    size = int(records["length"].sum()) * heap.item_size
    used = sum(chunk.committed - chunk.header.data_offset for chunk in chunks)
    directory = sum(chunk.header.file_size - chunk.directory for chunk in chunks)
    if used != size or directory != sum(_directory_size(heap, rows_in_chunk(rows, chunk.id)) for chunk in chunks):
        return False
    if len(chunks) > 1 and size + directory < MAX_CHUNK_SIZE:
        return False
    if len(breaks(records, heap.item_size)) >= max(len(chunks), 1):
        return False
    needed = size + directory + sum(chunk.header.data_offset for chunk in chunks)
    slack = needed // 20 + 4 * PAGE * len(chunks)
    return sum(files.disk_size(chunk.path) for chunk in chunks) <= needed + slack


def _directory_size(heap: Heap, rows: RowArray) -> int:
    """Return the size of the directory of a chunk that was written by one commit, with these rows."""
    return SEGMENT_SIZE + packed_size(ArrayRun(rows), heap.item_size)


# ---------------------------------------------------------------------- copying


def _copy(
    storage: Storage, allocator: Allocator, rows: RowArray, chunks: list[Chunk], progress: Progress
) -> RowArray:
    """Copy records into as many new chunks as they need, at least one, and return their new rows."""
    heap = allocator.heap
    others = tuple(sorted(chunk.id for chunk in chunks)), going_with(chunks, storage.index.last)
    moved = rows.copy()
    moved["flags"] &= np.uint32(~ZERO & 0xFFFFFFFF)
    sizes = rows["length"].astype(np.int64) * heap.item_size
    needed = np.cumsum(sizes + ROW_SIZE)
    total = int(needed[-1]) if len(rows) else 0
    with storage.store_lock:
        storage.reserve.spend_a_part(total + 4 * PAGE)
    first = done = 0
    while first < len(rows) or not allocator.rooms:
        before = int(needed[first - 1]) if first else 0
        size = int(sizes[first]) if len(rows) else 0
        room = allocator.begin(storage.create_replacement(heap, size, total - before, *others), size)
        upto = int(np.searchsorted(needed, before + room.limit - room.free, side="right"))
        for size in _fill(allocator, room, rows[first:upto], moved[first:upto]):
            done += size
            progress(done)
        first = upto
    return moved


def _fill(allocator: Allocator, room: Room, rows: RowArray, moved: RowArray) -> Iterator[int]:
    """Copy records, back to back, into an empty chunk that has room for them all; yield the size of each step."""
    heap, chunk = allocator.heap, room.chunk
    sizes = rows["length"].astype(np.int64) * heap.item_size
    ends = room.free + np.cumsum(sizes)
    moved["chunk"] = chunk.id
    moved["offset"] = np.where(rows["flags"] & TOMBSTONE != 0, 0, ends - sizes)
    chunk.reserve_directory(packed_size(ArrayRun(moved), heap.item_size), exact=True)
    filled = sizes > 0
    rows, sizes, offset = rows[filled], sizes[filled], room.free
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
