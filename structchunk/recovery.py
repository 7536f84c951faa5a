"""What opening a database does after a crash, and how a lost index is made again from the chunks.

The directories of the chunks are the log; the index is derived from them. Opening finds the last commit that is
whole, rewinds every chunk behind it, and brings the index to it. The rules are those of the design's section 5;
each is there because dropping it loses data.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field

import numpy as np

from . import files
from .chunk import Chunk
from .errors import CorruptionError
from .extent import DROPPED, Run, last_wins
from .heap import Heap
from .index import Catalog, Index
from .leveldb import REBUILD
from .lock import Lock
from .paths import Paths
from .schema import schema_from_descriptor
from .segment import SEGMENT, SEGMENT_SIZE, Segment, data_crc, parse_segment
from .storage import Gone, Storage
from .superblock import Superblock, create_superblock, read_superblock

Progress = Callable[[int, int], object]
LOAD_ROWS = 1 << 20


@dataclass
class Log:
    """What the directories of all chunks say.

    ``base`` is the checkpoint that it was read from; ``segments`` are those behind it, or, if the index is
    lost, all of them; ``good`` is the last whole commit.
    """

    base: int
    lost: bool
    chunks: dict[int, Chunk] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)
    debris: list[int] = field(default_factory=list)
    good: int = 0


def create_storage(paths: Paths, lock: Lock, chunk_size: int) -> Storage:
    """Make a new, empty database. The superblock comes last: without one there is nothing yet."""
    _check_nothing_there(paths)
    for generation in paths.list_indexes():
        shutil.rmtree(paths.index(generation))
    if not os.path.isdir(paths.chunks):
        files.make_directory(paths.chunks)
    database = uuid.uuid4().bytes
    index = Index.create(paths.index(1), database)
    index.write_checkpoint(1, {})
    files.flush_directory(paths.root)  # else the superblock might be found alone
    first = Superblock(database, 1, 1, 0, 1, 1)
    create_superblock(paths.superblock, first)
    files.flush_directory(paths.root)
    files.flush_directory(os.path.dirname(paths.root))
    storage = Storage(paths, lock, first, index, chunk_size)
    storage.epoch_pending = False
    return storage


def _check_nothing_there(paths: Paths) -> None:
    strangers = set(os.listdir(paths.root)) - {"lock", "chunks", "superblock.new", "readers"}
    strangers -= {os.path.basename(paths.index(generation)) for generation in paths.list_indexes()}
    if strangers:
        raise FileExistsError(
            f"{paths.root} is not a structchunk database, and not empty: it holds {sorted(strangers)[0]!r}"
        )
    if os.path.isdir(paths.chunks) and os.listdir(paths.chunks):
        advice = "restore the superblock from a copy, or run structchunk.rebuild_index(path)"
        raise CorruptionError(
            paths.superblock, found="no superblock", expected="one beside the chunks", advice=advice
        )


def open_storage(
    paths: Paths, lock: Lock, chunk_size: int, *, rebuild: bool = False, progress: Progress | None = None
) -> Storage:
    """Open an existing database for writing, at its last whole commit.

    Parameters
    ----------
    rebuild : bool
        Make a new index from the chunks, whatever state the present one is in.
    progress : callable, optional
        Called with the number of chunks read, and of all chunks.

    Raises
    ------
    CorruptionError
        The index is lost and `rebuild` was not asked for, or chunks are damaged or missing.
    """
    superblock = _superblock_for_rebuild(paths) if rebuild else _read_superblock(paths)
    index = None if rebuild else _open_index(paths, superblock)
    try:
        log = _read_log(paths, superblock, index, progress)
        _find_good(log)
        if index is not None:
            _check_complete(paths, index, log)
        _rewind(log)
        ahead = index is not None and index.last > log.good
        if index is None or ahead:
            if index is not None:
                index.close()
                log = _read_whole_log(paths, superblock, log.good, progress)
            return _with_new_index(paths, lock, superblock, log, chunk_size)
        return _with_index(paths, lock, superblock, index, log, chunk_size)
    except BaseException:
        if index is not None:
            index.close()
        raise


def _read_superblock(paths: Paths) -> Superblock:
    superblock = read_superblock(paths.superblock)
    files.flush(paths.superblock)  # a killed process may have left the newest slot unsynced
    return superblock


def _superblock_for_rebuild(paths: Paths) -> Superblock:
    """Return the superblock, put right by what index and chunks say if its newest slot, or all of it, is lost.

    Raises
    ------
    CorruptionError
        The superblock is lost, and so is the index: nothing says up to which commit all must be there.
    """
    index = _try_index(paths)
    try:
        superblock = _read_superblock(paths)
    except (CorruptionError, FileNotFoundError):
        if index is None:
            raise
        superblock = Superblock(index.database, max(paths.list_indexes()), 1, 0, 1, 1)
        create_superblock(paths.superblock, superblock)
    if index is not None and index.database == superblock.database:
        superblock = superblock._replace(
            checkpoint=max(superblock.checkpoint, index.checkpoint),
            next_chunk=max(superblock.next_chunk, index.next_chunk),
        )
    chunks = [chunk for chunk in map(_try_chunk, map(paths.chunk, paths.list_chunks())) if chunk is not None]
    epochs = [segment.epoch for chunk in chunks for segment in chunk.segments()]
    return superblock._replace(epoch=max([superblock.epoch, *epochs]))


def _try_index(paths: Paths) -> Index | None:
    """Return what the newest index says, closed again, or None if it cannot be read."""
    try:
        index = Index.open(paths.index(max(paths.list_indexes())))
    except (CorruptionError, OSError, ValueError):
        return None
    index.close()
    return index


def _try_chunk(path: str) -> Chunk | None:
    try:
        return Chunk.open(path)
    except (CorruptionError, OSError):
        return None


def _open_index(paths: Paths, superblock: Superblock) -> Index:
    path = paths.index(superblock.generation)
    index = Index.open(path)
    if index.database != superblock.database:
        found, expected = f"the index of database {index.database.hex()}", superblock.database.hex()
    elif index.checkpoint < superblock.checkpoint:
        found, expected = (
            f"an index as of commit {index.checkpoint}",
            f"commit {superblock.checkpoint} or later",
        )
    else:
        return index
    index.close()
    raise CorruptionError(path, found=found, expected=expected, advice=REBUILD)


# ---------------------------------------------------------------------- reading the log


def _read_log(paths: Paths, superblock: Superblock, index: Index | None, progress: Progress | None) -> Log:
    """Read the directories from their heads as of the checkpoint; from the ends of the files if there is none."""
    if index is None:
        return _read_whole_log(paths, superblock, None, progress)
    log = Log(index.checkpoint, False)
    for chunk_id in paths.list_chunks():
        chunk = _open_chunk(paths, superblock, chunk_id, max(index.next_chunk, superblock.next_chunk), log)
        if chunk is None:
            continue
        head = index.heads.get(chunk_id)
        if head is not None:
            _check_head(chunk, head)
            chunk.seek(*head)
            chunk.settled = chunk.free
        log.segments += _tail(chunk, superblock, log)
    return log


def _read_whole_log(paths: Paths, superblock: Superblock, good: int | None, progress: Progress | None) -> Log:
    """Read all directories from the ends of the files; up to commit `good`, if that is known already."""
    log = Log(superblock.checkpoint if good is None else good, True)
    ids = paths.list_chunks()
    for done, chunk_id in enumerate(ids):
        if progress is not None:
            progress(done, len(ids))
        chunk = _open_chunk(paths, superblock, chunk_id, superblock.next_chunk, log)
        if chunk is not None:
            segments = list(_tail(chunk, superblock, log))
            end = segments[-1].low if segments else chunk.header.file_size
            _check_end(chunk, end, superblock.checkpoint)
            log.segments += segments
    if progress is not None:
        progress(len(ids), len(ids))
    if good is not None:
        log.good = good
        log.segments = [segment for segment in log.segments if segment.commit <= good]
        _rewind(log)
    return log


def _open_chunk(paths: Paths, superblock: Superblock, chunk_id: int, next_chunk: int, log: Log) -> Chunk | None:
    """Open a chunk file; one that a crash left half-made is noted as debris."""
    path = paths.chunk(chunk_id)
    try:
        chunk = Chunk.open(path)
    except CorruptionError:
        if chunk_id < next_chunk:
            raise
        log.debris.append(chunk_id)
        return None
    header = chunk.header
    if header.chunk != chunk_id or header.database != superblock.database:
        found = f"chunk {header.chunk} of database {header.database.hex()}"
        expected = f"chunk {chunk_id} of database {superblock.database.hex()}"
        advice = "put back the file that belongs here"
        raise CorruptionError(path, offset=16, found=found, expected=expected, advice=advice)
    log.chunks[chunk_id] = chunk
    return chunk


def _check_head(chunk: Chunk, head: tuple[int, int]) -> None:
    free, directory = head
    header = chunk.header
    if not header.data_offset <= free <= directory <= header.file_size:
        found = f"free offset {free} and directory offset {directory} in the index"
        expected = f"offsets in {header.data_offset} to {header.file_size}"
        raise CorruptionError(chunk.path, found=found, expected=expected, advice=REBUILD)


def _tail(chunk: Chunk, superblock: Superblock, log: Log) -> Iterator[Segment]:
    """Yield the segments from the chunk's present position that belong to this line of commits."""
    commit, epoch = (0, 0) if log.lost else (log.base, superblock.epoch)
    end = chunk.free
    for segment in chunk.segments(chunk.directory):
        if segment.epoch > superblock.epoch:
            # An epoch is on disk before the first commit of it, so the newest slot was there, and is damaged.
            found = f"a commit of epoch {segment.epoch}"
            expected = f"epoch {superblock.epoch}, the superblock's"
            raise CorruptionError(chunk.path, offset=segment.low, found=found, expected=expected, advice=REBUILD)
        if segment.commit > log.base and segment.epoch != superblock.epoch:
            return
        if segment.commit <= commit or segment.epoch < epoch or segment.start < end:
            return
        commit, epoch, end = segment.commit, segment.epoch, segment.end
        yield segment


def _check_end(chunk: Chunk, position: int, checkpoint: int) -> None:
    """Raise if what ends the directory at `position` is damage to a commit that was on disk for sure."""
    source = memoryview(chunk.source)
    top = position - SEGMENT_SIZE
    if top < chunk.header.data_offset or _is_torn(source[top:position]):
        return
    commit = SEGMENT.unpack_from(source, top)[4]
    if commit <= checkpoint or _follows_durable(chunk, source, top, checkpoint):
        raise CorruptionError(
            chunk.path,
            offset=top,
            found="a damaged segment",
            expected=f"the segment of a commit up to {checkpoint}",
            advice="restore this chunk from a copy; nothing was changed",
        )


def _is_torn(record: memoryview) -> bool:
    """Tell whether a segment's record was never written, or not to its end, or only the half beyond a sector's."""
    return not any(record[-4:]) or not any(record[: SEGMENT_SIZE // 2])


def _follows_durable(chunk: Chunk, source: memoryview, below: int, checkpoint: int) -> bool:
    """Tell whether a whole segment of a durable commit stands somewhere below a position."""
    header = chunk.header
    at = below
    while (at := chunk.source.rfind(b"SEGM", header.data_offset, at)) >= 0:
        segment = parse_segment(source, at + SEGMENT_SIZE, chunk.id, header.data_offset, header.item_size)
        if segment is not None and segment.commit <= checkpoint:
            return True
    return False


# ---------------------------------------------------------------------- deciding


def _find_good(log: Log) -> None:
    """Set ``good``: the checkpoint, and then every next commit of which all parts are there and sound."""
    commits: dict[int, list[Segment]] = {}
    for segment in log.segments:
        if segment.commit > log.base:
            commits.setdefault(segment.commit, []).append(segment)
    log.good = log.base
    while _is_whole(commits.get(log.good + 1, []), log):
        log.good += 1
    log.segments = [segment for segment in log.segments if segment.commit <= log.good]


def _is_whole(parts: list[Segment], log: Log) -> bool:
    if not parts or sorted(part.part for part in parts) != list(range(parts[0].parts)):
        return False
    return all(_data_is_sound(part, log.chunks[part.chunk]) for part in parts)


def _data_is_sound(segment: Segment, chunk: Chunk) -> bool:
    return data_crc(memoryview(chunk.source), segment.rows, chunk.header.item_size) == segment.data_crc


def _check_complete(paths: Paths, index: Index, log: Log) -> None:
    """Raise if a chunk that the index knows is not there."""
    for chunk in index.heads:
        if chunk not in log.chunks:
            advice = "put the file back from a copy of the database"
            raise CorruptionError(paths.chunk(chunk), found="no such file", expected="a chunk", advice=advice)


def _rewind(log: Log) -> None:
    """Position every chunk behind its last good segment; those without one are debris."""
    for segment in log.segments:
        chunk = log.chunks[segment.chunk]
        chunk.seek(segment.end, segment.low)
    for chunk in list(log.chunks.values()):
        if chunk.directory == chunk.header.file_size:
            log.debris.append(chunk.id)


# ---------------------------------------------------------------------- acting


def _with_index(
    paths: Paths, lock: Lock, superblock: Superblock, index: Index, log: Log, chunk_size: int
) -> Storage:
    """Bring the index forward to the last good commit."""
    dropped = _dropped_stores(log)
    catalog = {name: entry for name, entry in index.catalog.items() if entry["store"] not in dropped}
    known = {entry["store"] for entry in catalog.values()}
    catalog |= {
        chunk.header.about["name"]: _entry(chunk)
        for chunk in _good_chunks(log)
        if chunk.header.store not in known | dropped
    }
    storage = Storage(paths, lock, superblock, index, chunk_size)
    _add_heaps(storage, catalog, log)
    replaced = _replaced_chunks(log)
    if log.good > log.base:
        runs = {store: run for store, run in _runs(log).items() if store not in dropped}
        compacted = {log.chunks[chunk].header.store for chunk in replaced & log.chunks.keys()}
        index.put(log.good, runs, catalog if catalog != index.catalog else None, compacted)
    for heap in storage.heaps.values():
        for chunk in replaced & heap.chunks.keys():  # only now: until here the index named them
            heap.remove(chunk)
    _take_over(storage, log, dropped, replaced)
    return storage


def _with_new_index(paths: Paths, lock: Lock, superblock: Superblock, log: Log, chunk_size: int) -> Storage:
    """Make the index anew, in a new directory, from all good chunks that no other one replaces."""
    replaced = _replaced_chunks(log)
    dropped = _dropped_stores(log)
    kept = [chunk for chunk in _good_chunks(log) if chunk.id not in replaced and chunk.header.store not in dropped]
    log.segments = [segment for segment in log.segments if segment.chunk not in replaced]
    generation = superblock.generation + 1
    path = paths.index(generation)
    if os.path.lexists(path):
        shutil.rmtree(path)
    next_chunk = max([superblock.next_chunk, *(chunk + 1 for chunk in log.chunks)])
    index = Index.create(path, superblock.database, log.good, next_chunk)
    try:
        storage = Storage(paths, lock, superblock._replace(generation=generation), index, chunk_size)
        catalog = {chunk.header.about["name"]: _entry(chunk) for chunk in kept}
        _add_heaps(storage, catalog, log, without=replaced)
        index.put(log.good, {}, catalog)
        for store, run in _runs(log).items():
            if store not in dropped:
                for first in range(0, len(run), LOAD_ROWS):
                    index.put(log.good, {store: run[first : first + LOAD_ROWS]})
        _take_over(storage, log, dropped, replaced)
        files.flush_directory(paths.root)
        storage.checkpoint()
    except BaseException:
        index.close()
        raise
    for old in paths.list_indexes():
        if old != generation:
            shutil.rmtree(paths.index(old))
    return storage


def _good_chunks(log: Log) -> list[Chunk]:
    return [chunk for chunk in log.chunks.values() if chunk.id not in log.debris]


def _replaced_chunks(log: Log) -> set[int]:
    """Return the chunks that compaction has replaced: by a commit that is whole, or its new chunks were no good."""
    return {old for chunk in _good_chunks(log) for old in chunk.header.replaces}


def _entry(chunk: Chunk) -> dict[str, object]:
    about = chunk.header.about
    return {"store": chunk.header.store, "kind": about["kind"], "schema": about["schema"]}


def _dropped_stores(log: Log) -> set[int]:
    marked = {segment.chunk for segment in log.segments if (segment.rows["flags"] & DROPPED).any()}
    return {log.chunks[chunk].header.store for chunk in marked}


def _runs(log: Log) -> dict[int, Run]:
    """Return what the log's segments leave of each store, the later commit winning; tombstones included."""
    rows: dict[int, list[Run]] = {}
    for segment in sorted(log.segments, key=lambda segment: segment.commit):
        rows.setdefault(log.chunks[segment.chunk].header.store, []).append(segment.rows)
    return {store: last_wins(np.concatenate(runs)) for store, runs in rows.items()}


def _add_heaps(storage: Storage, catalog: Catalog, log: Log, without: Container[int] = ()) -> None:
    """Make the catalog's stores known, with their chunks."""
    by_store: dict[int, list[Chunk]] = {}
    for chunk in _good_chunks(log):
        if chunk.id not in without:
            by_store.setdefault(chunk.header.store, []).append(chunk)
    for name, entry in catalog.items():
        store, path = entry["store"], storage.paths.root
        chunks = by_store.get(store, [])
        schema = schema_from_descriptor(entry["schema"], chunks[0].path if chunks else path)
        heap = Heap(store, name, schema, storage.create_chunk)
        for chunk in chunks:
            if chunk.header.item_size != heap.item_size:
                found = f"items of {chunk.header.item_size} bytes"
                expected = f"{heap.item_size}, as its type says"
                raise CorruptionError(chunk.path, offset=40, found=found, expected=expected)
            heap.add(chunk)
        storage.add_heap(heap)


def _take_over(storage: Storage, log: Log, dropped: set[int], replaced: Container[int] = ()) -> None:
    """Mend the chunks' ends, note what is not known to be on disk, and what is to be unlinked.

    Debris goes only after the next checkpoint: until then the index might still have to be made anew.
    """
    heads = storage.index.heads
    for chunk in log.chunks.values():
        unwanted = chunk.id in log.debris or chunk.id in replaced or chunk.header.store in dropped
        if unwanted:
            storage.gone.append(Gone(chunk.header.store, chunk.id))
        elif chunk.mend() or heads.get(chunk.id) != (chunk.committed, chunk.directory):
            storage.dirty[chunk.id] = chunk
    storage.gone += [Gone(0, chunk) for chunk in log.debris if chunk not in log.chunks]
    storage.gone.sort(key=lambda gone: gone.chunk)
    storage.next_chunk = max([storage.next_chunk, *(chunk + 1 for chunk in [*log.chunks, *log.debris])])
    storage.directory_dirty = True
