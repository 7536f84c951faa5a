"""A copy that was made earlier, brought forward by what is new.

The copy is opened as a writer opens it, with its lock and recovery, and written in this order:

1. The superblock, with an epoch above that of any commit to come, unless it has such a one. Segments behind the
   checkpoint of a lower epoch count for nothing: so what follows is not there yet, for readers and for recovery.
2. Chunks that grew: data and directory are appended as they are. Records that change in place: blocks that differ.
   New chunks, whole, or linked; each gets its name when it is on disk. Then all of this is flushed.
3. The index: rows of the new segments, stores, heads, the last commit and the checkpoint, as one synced batch. From
   here on the copy opens as of the new commit.
4. The superblock, as of the new commit. It names the chunks that are not part of the copy any more: these may be
   needed until here, and without an index nothing else would tell that they are not needed from here on.
5. Those chunks are unlinked.

Rows come from the new segments. Of a store from which compaction took chunks that the copy has, all rows are taken
from the index instead: rows of the chunks in between are lost, and tombstones with them.

What changes in place is under no commit, and written before the new commit is there: if an update is cut short,
such records of the old commit may be as they were, or as they are. No other byte that the old commit knows is
written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import NamedTuple

import numpy as np

from ..chunks.chunk import Chunk
from ..chunks.heap import Gone, Heap
from ..chunks.segment import Segment
from ..disk import files
from ..disk.lock import Lock
from ..disk.paths import Paths
from ..disk.superblock import MOST_LEFT, read_superblock
from ..engine import checkpoint
from ..engine.recovery import open_storage
from ..engine.storage import Storage
from ..index.change import Change
from ..index.counts import Counts, LiveCount
from ..index.drop_notes import Note
from ..process import leftovers
from ..runs.streams import in_key_order
from . import lineage
from .backup import Taken, frozen_chunks, take
from .chunk_copies import copy_chunk, copy_in_place, extend_chunk, flags_of_rows, flush_chunk, may_change

KEY_END = 1 << 64
Flags = dict[int, tuple[int, int]]


class News(NamedTuple):
    """What a copy lacks: segments of chunks that it has, and of others; and the chunks that are to go.

    ``mutable`` are chunks that it has in which records may change in place; ``flags`` are those of all rows that a
    chunk has in the copy, as far as they are needed.
    """

    grown: dict[int, list[Segment]]
    new: dict[int, list[Segment]]
    gone: list[Gone]
    mutable: set[int]
    flags: dict[int, int]


def update_copy(storage: Storage, dest: str) -> None:
    """Bring a copy of a database forward to its latest commit.

    Parameters
    ----------
    storage : Storage
        The database.
    dest : str
        The copy.

    Raises
    ------
    NotACopy
        It is not an earlier copy of the database, or was written to.
    LockedError
        It is open for writing, or being brought forward.
    """
    leftovers.clear()
    paths = Paths(dest)
    lineage.check_database(paths)
    lock, copy = Lock(paths.lock), None
    try:
        lineage.check_untouched(paths, read_superblock(paths.superblock), storage.superblock.database)
        copy = open_storage(paths, lock, 0)
        copy.failure = "it is a copy that is being brought forward"  # so that closing makes no checkpoint
        _update(storage, copy, Paths(os.path.join(dest, "update")))
    finally:
        leftovers.finish(lock.release if copy is None else copy.close)


def _update(storage: Storage, copy: Storage, draft: Paths) -> None:
    try:
        _clear(draft)
        files.make_directory(draft.root)
        files.make_directory(draft.chunks)
        _bring_forward(storage, copy, draft)
    finally:
        with contextlib.suppress(OSError):
            _clear(draft)


def _clear(draft: Paths) -> None:
    """Remove what an update made that was cut short."""
    if files.exists(draft.root):
        files.remove_tree(draft.root)


def _bring_forward(storage: Storage, copy: Storage, draft: Paths) -> None:
    mine = {chunk: found for heap in copy.heaps.values() for chunk, found in heap.chunks.items()}
    frozen = frozen_chunks(storage, but=mine)
    with contextlib.ExitStack() as held:
        taken = take(storage, frozen, mine, draft, held)
        news = _compare(taken, copy, mine)
        _begin(copy, taken)
        flags = _write_chunks(copy, taken, mine, news, draft)
        if taken.snapshot.commit != copy.index.last or news.grown:
            notes = storage.index.notes(copy.index.last, taken.snapshot.commit)
            _advance(copy, taken, news, flags, notes)
            _finish(copy, taken, news)


# ---------------------------------------------------------------------- what is new


def _compare(taken: Taken, copy: Storage, mine: dict[int, Chunk]) -> News:
    """Return what a copy lacks, having checked that its commit is in the history of what was taken."""
    paths, last = copy.paths, copy.index.last
    if last > taken.snapshot.commit:
        raise lineage.not_in_history(paths, last, f"the last one is {taken.snapshot.commit}")
    gone = [Gone(mine[chunk].header.store, chunk) for chunk in sorted(mine.keys() - taken.places)]
    news = News({}, {}, gone, set(), {})
    known = copy.index.read_flags()
    for chunk, place in taken.places.items():
        if chunk not in mine:
            news.new[chunk] = lineage.segments_since(paths, place, place.chunk.header.file_size, last)
            continue
        has_grown = (mine[chunk].committed, mine[chunk].directory) != (place.free, place.directory)
        if chunk in taken.sources:
            lineage.check_same(paths, taken.sources[chunk], mine[chunk], last)
            directory, flags = known.get(chunk, (0, 0))
            news.flags[chunk] = flags if directory == mine[chunk].directory else flags_of_rows(mine[chunk])
            if may_change(news.flags[chunk]):
                news.mutable.add(chunk)
        elif has_grown:
            raise lineage.not_in_history(paths, last, f"chunk {chunk} is the same file, and goes on")
        if has_grown:
            news.grown[chunk] = lineage.segments_since(paths, place, mine[chunk].directory, last)
    if last == taken.snapshot.commit and (news.gone or news.new):
        raise lineage.not_in_history(paths, last, "it has other chunks there")
    for chunk in news.grown.keys() | news.mutable:
        lineage.check_alone(paths, mine[chunk].path)
    return news


# ---------------------------------------------------------------------- writing


def _begin(copy: Storage, taken: Taken) -> None:
    """Let nothing count that is about to be written; and end an update that was cut short near its end."""
    old, index = copy.superblock, copy.index
    if old.epoch > taken.superblock.epoch and old.checkpoint == index.checkpoint:
        return
    copy.superblock = old._replace(
        sequence=old.sequence + 1,
        checkpoint=index.checkpoint,
        epoch=max(old.epoch, taken.superblock.epoch + 1),
        next_chunk=max(old.next_chunk, index.next_chunk),
        heads=checkpoint.crc_of_index(index),
        left=_left(copy.gone),
    )
    copy.superblock.write(copy.paths.superblock)
    checkpoint.unlink(copy.paths, copy.gone)


def _left(gone: list[Gone]) -> tuple[int, ...]:
    return tuple(chunk for _, chunk in gone[:MOST_LEFT])


def _write_chunks(copy: Storage, taken: Taken, mine: dict[int, Chunk], news: News, draft: Paths) -> Flags:
    """Write what is new to the chunks, all on disk on return; return the flags of rows that are known now."""
    flags, dirty = Flags(), dict(copy.dirty)
    for chunk in news.mutable:
        if copy_in_place(taken.sources[chunk], mine[chunk]):
            dirty[chunk] = mine[chunk]
    for chunk, segments in news.grown.items():
        extend_chunk(taken.sources[chunk], mine[chunk], segments)
        dirty[chunk] = mine[chunk]
        flags[chunk] = mine[chunk].directory, news.flags[chunk] | _flags_of(segments)
    for written in dirty.values():
        flush_chunk(written)
    for chunk in news.new:
        if chunk in taken.sources:
            made = copy_chunk(taken.sources[chunk], draft.chunk(chunk))
            made.flush()
            flags[chunk] = made.directory, flags_of_rows(made)
        files.rename(draft.chunk(chunk), copy.paths.chunk(chunk))
    if news.new or copy.entries_dirty:
        files.flush_directory(copy.paths.chunks)
    return flags


def _flags_of(segments: list[Segment]) -> int:
    return int(reduce(or_, (np.bitwise_or.reduce(segment.run.flag_values) for segment in segments), 0))


# ---------------------------------------------------------------------- index and superblock


def _advance(copy: Storage, taken: Taken, news: News, flags: Flags, notes: list[Note]) -> None:
    """Bring the index forward, on disk."""
    index, catalog = copy.index, taken.catalog
    index.fold(heap.store for heap in copy.heaps.values())
    for name, entry in catalog.items():
        heap = taken.heaps.get(entry["store"])
        if heap is not None and heap.store not in index.live:
            copy.add_heap(Heap(heap.store, name, heap.schema))
    changes = _changes(copy, taken, news)
    counts = {store: _counts(taken, store, index.live[store]) for store in changes}
    changed = catalog if catalog != index.catalog else None
    prepared = index.prepare({}, changed)._replace(changes=changes, counts=counts)
    heads = {chunk: head for chunk, head in taken.heads().items() if index.heads.get(chunk) != head}
    next_chunk = max(taken.superblock.next_chunk, index.next_chunk)
    index.advance(taken.snapshot.commit, prepared, next_chunk, heads, news.gone, flags, notes)


def _changes(copy: Storage, taken: Taken, news: News) -> dict[int, Change]:
    """Return what changes in the tables of stores."""
    written: dict[int, list[Segment]] = {}
    for chunk, segments in [*news.grown.items(), *news.new.items()]:
        written.setdefault(taken.places[chunk].chunk.header.store, []).extend(segments)
    anew = {gone.store for gone in news.gone}
    changes = {}
    for store in taken.heaps:
        store_index = copy.index.store_index(store)
        if store in anew:
            changes[store] = store_index.replace_unread(taken.snapshot.runs(store, 0, KEY_END))
        elif store in written:
            rows = [segment.run for segment in sorted(written[store], key=lambda segment: segment.commit)]
            changes[store] = store_index.put_unread(in_key_order(rows, taken.heaps[store].item_size))
    return changes


def _counts(taken: Taken, store: int, before: Iterable[int]) -> Counts:
    """Return what is live in each chunk of a store, also in those that had any before in the copy."""
    live = dict.fromkeys(before, LiveCount(0, 0)) | taken.snapshot.live(store)
    return {chunk: count for chunk, count in live.items() if chunk in taken.places}


def _finish(copy: Storage, taken: Taken, news: News) -> None:
    """Say in the superblock that the new commit is on disk; then let go what only the old one needed."""
    index, old = copy.index, copy.superblock
    copy.superblock = old._replace(
        sequence=old.sequence + 1,
        checkpoint=index.checkpoint,
        next_chunk=index.next_chunk,
        heads=taken.superblock.heads,
        left=_left(news.gone),
    )
    copy.superblock.write(copy.paths.superblock)
    checkpoint.unlink(copy.paths, news.gone)
