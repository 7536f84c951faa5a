"""Compaction: a store's live records, rewritten in order of key into new chunks, in place of the old ones.

It is one commit, of one store, or of several that are small. The headers of the new chunks name the chunks that
they replace, so that the commit alone tells recovery which of them count; the old files are unlinked once a
checkpoint has it on disk. Memory does not grow with the number of records (``moving.py``), but where a chunk must
stay as it was with that of the records that are moved.

Tombstones stay only where a chunk stays behind in which the key's record might still stand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..chunks.chunk import Chunk
from ..chunks.directory import count_of_only
from ..chunks.header import PAGE
from ..chunks.heap import Heap
from ..disk import files
from ..engine.drafts import MAX_CHUNK_SIZE
from ..engine.in_place import NOTHING
from ..engine.staging import Staging
from ..engine.storage import Storage
from ..runs.extent import (
    KEY_END,
    ROW_SIZE,
    TOMBSTONE,
    RowArray,
    empty_rows,
    make_rows,
    overlay,
)
from ..runs.run import ArrayRun, Run, portions
from .moving import Progress, Survey, copy
from .stats import StoreStats, store_stats

STEP_ROWS = 1 << 16
"""How many rows are looked at, and copied, at a time."""
GROUP_SIZE = 16 << 20
"""Stores whose records and rows take fewer bytes than this together are compacted by one commit."""
GROUP_STORES = 1 << 10
"""And not more stores than this."""
EXPOSED = "a view through which its records can be changed in place is still held"


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
    if not chunks or _is_compact(survey, chunks):
        return False
    moved = copy(storage, staging.allocator, _in_portions(read()), survey, chunks, progress)
    staging.replace([moved.retire(chunk) for chunk in chunks], moved.runs, is_whole=is_whole)
    return True


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


def _is_compact(survey: Survey, chunks: list[Chunk]) -> bool:
    """Tell whether rewriting chunks would change nothing that matters."""
    size = survey.size
    used = sum(chunk.committed - chunk.header.data_offset for chunk in chunks)
    directory = sum(chunk.header.file_size - chunk.directory for chunk in chunks)
    if used != size or survey.breaks >= max(len(chunks), 1):
        return False
    if len(chunks) > max(len(survey.portions), 1) and size + directory < MAX_CHUNK_SIZE:
        return False
    if any(_count_of_only(chunk) != survey.counts.get(chunk.id, 0) for chunk in chunks):
        return False
    needed = size + directory + sum(chunk.header.data_offset for chunk in chunks)
    slack = needed // 20 + 4 * PAGE * len(chunks)
    return sum(files.disk_size(chunk.path) for chunk in chunks) <= needed + slack


def _count_of_only(chunk: Chunk) -> int | None:
    """Return how many rows a chunk's directory has, if one commit wrote all of it."""
    return count_of_only(chunk.source, chunk.header.file_size, chunk.directory, chunk.id)
