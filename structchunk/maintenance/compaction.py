"""Compaction: a store's live records, rewritten in order of key into new chunks, in place of the old ones.

It is one commit, of one store, or of several that are small. The headers of the new chunks name the chunks that
they replace, so that the commit alone tells recovery which of them count; the old files are unlinked once a
checkpoint has it on disk. Records are copied some at a time. As it is one commit, its rows are all in memory: next
to nothing where records have one length and their keys rise evenly; where keys do not, their 8 bytes about seven
times, for the rows, the directory, and the pages of the index, which LevelDB takes as one batch; where lengths
differ, 32 bytes as often.

Tombstones stay only where a chunk stays behind in which the key's record might still stand. Copies of records
that were born as zeros are under a CRC, for until the checkpoint recovery must be able to tell them from what a
crash left of them; where such a record is sparse, so is its copy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, pairwise
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
    chunks_of,
    concatenate,
    empty_rows,
    make_rows,
    overlay,
    rows_in_chunk,
    without_tombstones,
)
from ..runs.gather import gather_values
from ..runs.packed import packed_size
from ..runs.run import ArrayRun, Run, portions, shorten
from ..runs.streams import put_together
from .stats import StoreStats, store_stats

STEP_ROWS = 1 << 16
"""How many rows are looked at, and copied, at a time."""
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
    is_whole = len(chunks) == len(heap.chunks)
    read = partial(staging.index.runs, 0, KEY_END) if is_whole else _reading(_rows_to_keep(staging, chunks))
    survey = Survey(heap.item_size)
    for part in _in_portions(read()):
        survey.add(part)
    if not chunks or _is_compact(heap, survey, read, chunks):
        return False
    moved = _copy(storage, staging.allocator, _in_portions(read()), survey.needed, chunks, progress)
    staging.replace([moved.retire(chunk) for chunk in chunks], moved.runs, is_whole=is_whole)
    return True


class Survey:
    """What rows to keep, given some at a time in order of key, are together.

    Attributes
    ----------
    size : int
        Bytes of the records.
    needed : int
        Bytes of the records and of their rows, at most.
    breaks : int
        How often records stop lying back to back.
    """

    def __init__(self, item_size: int) -> None:
        self.size = self.needed = self.breaks = 0
        self._item_size = item_size
        self._end: tuple[int, int] | None = None

    def add(self, rows: RowArray) -> None:
        """Add rows."""
        self.needed += ROW_SIZE * len(rows)
        rows = without_tombstones(rows)
        rows = rows[rows["length"] > 0]
        if not len(rows):
            return
        size = int(rows["length"].sum()) * self._item_size
        self.size += size
        self.needed += size
        _, first, _, chunk, _ = rows[0].item()
        _, offset, length, last_chunk, _ = rows[-1].item()
        is_break = self._end is not None and self._end != (chunk, first)
        self.breaks += len(breaks(rows, self._item_size)) + is_break
        self._end = last_chunk, offset + length * self._item_size


def _reading(rows: RowArray) -> Callable[[], Iterator[Run]]:
    return lambda: iter([ArrayRun(rows)])


def _in_portions(runs: Iterable[Run]) -> Iterator[RowArray]:
    """Yield the rows of consecutive runs, some at a time."""
    return (part.rows for run in runs for part in portions(run, STEP_ROWS))


# ---------------------------------------------------------------------- what to keep


def _rows_to_keep(staging: Staging, chunks: list[Chunk]) -> RowArray:
    """Return the rows of some chunks, not all, that must not be lost with them: of live records, and tombstones."""
    runs = staging.index.runs(0, KEY_END)
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


def _is_compact(heap: Heap, survey: Survey, read: Callable[[], Iterator[Run]], chunks: list[Chunk]) -> bool:
    """Tell whether rewriting chunks would change nothing that matters."""
    size = survey.size
    used = sum(chunk.committed - chunk.header.data_offset for chunk in chunks)
    directory = sum(chunk.header.file_size - chunk.directory for chunk in chunks)
    if used != size or survey.breaks >= max(len(chunks), 1):
        return False
    if len(chunks) > 1 and size + directory < MAX_CHUNK_SIZE:
        return False
    if directory != _directories_size(heap, read(), chunks):
        return False
    needed = size + directory + sum(chunk.header.data_offset for chunk in chunks)
    slack = needed // 20 + 4 * PAGE * len(chunks)
    return sum(files.disk_size(chunk.path) for chunk in chunks) <= needed + slack


def _directories_size(heap: Heap, runs: Iterable[Run], chunks: Iterable[Chunk]) -> int:
    """Return the size of the directories of chunks, each written by one commit with the rows that are kept."""
    parts: dict[int, list[Run]] = {chunk.id: [] for chunk in chunks}
    for rows in _in_portions(runs):
        for chunk in chunks_of(rows):
            parts[chunk].append(shorten(rows_in_chunk(rows, chunk), heap.item_size))
    together = (put_together(each, heap.item_size) for each in parts.values())
    return sum(SEGMENT_SIZE + packed_size(run, heap.item_size) for run in together)


# ---------------------------------------------------------------------- copying


class Moved:
    """The rows of what was copied, and of what may change in place where it was before.

    Attributes
    ----------
    runs : list of Run
        One for each new chunk.
    """

    def __init__(self, item_size: int) -> None:
        self.runs: list[Run] = []
        self._item_size = item_size
        self._parts: list[Run] = []
        self._changeable: list[tuple[RowArray, RowArray]] = []

    def add(self, old: RowArray, new: RowArray) -> None:
        """Add rows that were copied to the newest chunk."""
        self._parts.append(shorten(new, self._item_size))
        is_changeable = old["flags"] & (MUTABLE | TOMBSTONE) == MUTABLE
        if is_changeable.any():
            self._changeable.append((old[is_changeable], new[is_changeable]))

    def finish(self, chunk: Chunk) -> None:
        """Make one run of what was copied to a chunk, and reserve room for it in the directory."""
        run = put_together(self._parts, self._item_size)
        self._parts = []
        chunk.reserve_directory(packed_size(run, self._item_size), exact=True)
        self.runs += [run] if len(run) else []

    def retire(self, chunk: Chunk) -> Retired:
        """Return a chunk that was replaced."""
        pairs = [(old, new, old["chunk"] == chunk.id) for old, new in self._changeable]
        old, new = ([pair[at][pair[2]] for pair in pairs] for at in (0, 1))
        return Retired(chunk, concatenate(old), concatenate(new))


def _copy(
    storage: Storage,
    allocator: Allocator,
    parts: Iterable[RowArray],
    total: int,
    chunks: list[Chunk],
    progress: Progress,
) -> Moved:
    """Copy records into as many new chunks as they need, at least one, and return their rows.

    ``total`` is how many bytes they and their rows take, at most.
    """
    heap, moved = allocator.heap, Moved(allocator.heap.item_size)
    others = tuple(sorted(chunk.id for chunk in chunks)), going_with(chunks, storage.index.last)
    with storage.store_lock:
        storage.reserve.spend_a_part(total + 4 * PAGE)
    room: Room | None = None
    space = done = 0
    for part in chain(parts, [empty_rows()]):
        rows = part
        while len(rows) or room is None:
            needed = np.cumsum(rows["length"].astype(np.int64) * heap.item_size + ROW_SIZE)
            count = int(np.searchsorted(needed, space, side="right")) if room else 0
            if room is None or not count:
                if room is not None:
                    moved.finish(room.chunk)
                size = int(rows["length"][0]) * heap.item_size if len(rows) else 0
                room = allocator.begin(storage.create_replacement(heap, size, total, *others), size)
                space = room.limit - room.free
                continue
            for size in _fill(allocator, room, rows[:count], moved):
                done += size
                progress(done)
            space, total, rows = space - int(needed[count - 1]), total - int(needed[count - 1]), rows[count:]
    if room is not None:
        moved.finish(room.chunk)
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
