"""What the directories of all chunks say after a crash: which commits are whole, where each chunk's last one ends.

The directories are the log of the database. This module reads it and decides; acting on it is ``recovery.py``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ..chunks.chunk import Chunk
from ..chunks.debris import is_unfinished
from ..chunks.header import Header
from ..chunks.segment import SEGMENT, SEGMENT_SIZE, Segment, data_crc, parse_segment
from ..disk.paths import Paths
from ..disk.superblock import Superblock
from ..errors import CorruptionError
from ..index.index import Index
from ..index.leveldb import REBUILD
from ..runs.extent import DROPPED
from ..runs.run import Run
from ..runs.streams import in_key_order

Progress = Callable[[int, int], object]


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


# ---------------------------------------------------------------------- reading the log


def read_log(
    paths: Paths,
    superblock: Superblock,
    index: Index | None,
    progress: Progress | None,
    *,
    rewrite: bool,
    is_growing: bool = False,
) -> Log:
    """Read the directories from their heads as of the checkpoint; from the ends of the files if there is none.

    With `rewrite`, which only the writer may ask for, what is behind the checkpoint is rewritten first: a flush
    that failed may have left it in the page cache only, marked as written. With `is_growing` others may be writing:
    a header that is not valid yet is being written, unless a checkpoint has counted its chunk.
    """
    if index is None:
        return read_whole_log(paths, superblock, None, progress)
    log = Log(index.checkpoint, False)
    for chunk_id in paths.list_chunks():
        next_chunk = max(index.next_chunk, superblock.next_chunk)
        chunk = _open_chunk(paths, superblock, chunk_id, next_chunk, log, is_growing=is_growing)
        if chunk is None:
            continue
        head = index.heads.get(chunk_id)
        if head is not None:
            _check_head(chunk, head)
            _check_reach(chunk, head)
            chunk.seek(*head)
            if index.checkpoint == superblock.checkpoint:  # else a rebuild would check what lies behind the older
                chunk.settled = chunk.free
        log.segments += _segments(chunk, superblock, log, rewrite=rewrite)
    if index.checkpoint > superblock.checkpoint:
        check_epochs(paths, superblock, log)
    return log


def check_epochs(paths: Paths, superblock: Superblock, log: Log) -> None:
    """Raise if the superblock is an old one: a crash before it was written leaves no commit of a later epoch."""
    epoch = max((segment.epoch for chunk in log.chunks.values() for segment in chunk.segments()), default=0)
    if epoch > superblock.epoch:
        found, expected = f"a superblock of epoch {superblock.epoch}", f"epoch {epoch}, as a chunk has it"
        raise CorruptionError(paths.superblock, found=found, expected=expected, advice=REBUILD)


def read_ends(paths: Paths, superblock: Superblock, index: Index) -> Log:
    """Return the chunks as far as their headers say that they reach, beside a writer that is past recovery."""
    log = Log(index.checkpoint, False)
    for chunk_id in paths.list_chunks():
        chunk = _open_chunk(paths, superblock, chunk_id, index.next_chunk, log, is_growing=True)
        if chunk is not None:
            offsets = chunk.offsets_found
            _check_head(chunk, offsets)
            _check_reach(chunk, index.heads.get(chunk_id, offsets))
            chunk.seek(*offsets)
    return log


def read_given_ends(paths: Paths, superblock: Superblock, ends: Mapping[int, tuple[int, int]]) -> Log:
    """Return some chunks as far as it is given for each: free and directory offset.

    Raises
    ------
    CorruptionError
        One is damaged, or missing, or does not reach as far.
    """
    log = Log(0, False)
    for chunk_id, end in ends.items():
        chunk = _open_chunk(paths, superblock, chunk_id, chunk_id + 1, log)
        if chunk is None:
            raise no_such_chunk(paths, chunk_id)
        _check_head(chunk, end)
        chunk.seek(*end)
    return log


def ends_at(chunk: Chunk, head: tuple[int, int] | None, commit: int) -> tuple[int, int]:
    """Return free and directory offset of a chunk as of a commit, which is not older than a head that can be."""
    header = chunk.header
    free, directory = head if head and _is_possible(header, head) else (header.data_offset, header.file_size)
    for segment in chunk.segments(directory):
        if segment.commit > commit:
            break
        free, directory = segment.end, segment.low
    return free, directory


def read_whole_log(paths: Paths, superblock: Superblock, good: int | None, progress: Progress | None) -> Log:
    """Read all directories from the ends of the files; up to commit `good`, if that is known already."""
    log = Log(superblock.checkpoint if good is None else good, True)
    ids = paths.list_chunks()
    for done, chunk_id in enumerate(ids):
        if progress is not None:
            progress(done, len(ids))
        if chunk_id in (superblock.left or ()):
            log.debris.append(chunk_id)
            continue
        chunk = _open_chunk(paths, superblock, chunk_id, superblock.next_chunk, log)
        if chunk is not None:
            segments = _segments(chunk, superblock, log, rewrite=good is None)
            end = segments[-1].low if segments else chunk.header.file_size
            _check_end(chunk, end, superblock.checkpoint)
            log.segments += segments
    if progress is not None:
        progress(len(ids), len(ids))
    if good is not None:
        log.good = good
        log.segments = [segment for segment in log.segments if segment.commit <= good]
        rewind(log)
    return log


def _open_chunk(
    paths: Paths,
    superblock: Superblock,
    chunk_id: int,
    next_chunk: int,
    log: Log,
    *,
    is_growing: bool = False,
) -> Chunk | None:
    """Open a chunk file; one that a crash left half-made, or that is being made now, is noted as debris."""
    path = paths.chunk(chunk_id)
    try:
        chunk = Chunk.open(path, is_written=paths.is_written)
        if not paths.owns_chunks:
            chunk.map_source()
    except FileNotFoundError:
        return None  # unlinked since it was listed, by a writer beside this reader
    except CorruptionError:
        is_counted = chunk_id < next_chunk
        if not (is_growing and not is_counted) and not is_unfinished(path, is_counted=is_counted):
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


def _is_possible(header: Header, head: tuple[int, int]) -> bool:
    return header.data_offset <= head[0] <= head[1] <= header.file_size


def _check_head(chunk: Chunk, head: tuple[int, int]) -> None:
    free, directory = head
    header = chunk.header
    if not _is_possible(header, head):
        found = f"free offset {free} and directory offset {directory} in the index"
        expected = f"offsets in {header.data_offset} to {header.file_size}"
        raise CorruptionError(chunk.path, found=found, expected=expected, advice=REBUILD)


def _check_reach(chunk: Chunk, head: tuple[int, int]) -> None:
    """Raise if a chunk's directory ends before its head: an older copy of the file is in its place.

    The header went to disk with the head, or a later one, so unless that says less there is nothing to look for.
    """
    if chunk.offsets_found[1] > head[1]:
        _walk_to(chunk, head)


def _walk_to(chunk: Chunk, head: tuple[int, int]) -> None:
    """Raise if a chunk's directory, read from the end of the file, does not lead to its head."""
    position, commit = chunk.header.file_size, 0
    for segment in chunk.segments():
        if segment.low < head[1]:
            break
        position, commit = segment.low, segment.commit
    if position != head[1]:
        raise CorruptionError(
            chunk.path,
            offset=position,
            found=f"a directory that ends with commit {commit}",
            expected=f"one that goes on to byte {head[1]}",
            advice="put back the newest copy of this file",
        )


def _segments(chunk: Chunk, superblock: Superblock, log: Log, *, rewrite: bool) -> list[Segment]:
    """Return a chunk's segments from its present position on.

    With `rewrite`, rewrites the tail to disk first and re-reads it.
    """
    segments = list(_tail(chunk, superblock, log))
    durable = [segment for segment in segments if segment.commit <= log.base]
    if not rewrite or len(durable) == len(segments):
        return segments
    free, directory = (durable[-1].end, durable[-1].low) if durable else (chunk.free, chunk.directory)
    chunk.rewrite(free, directory)
    return list(_tail(chunk, superblock, log))


def _tail(chunk: Chunk, superblock: Superblock, log: Log) -> Iterator[Segment]:
    """Yield the segments from the chunk's present position that belong to this line of commits."""
    commit, epoch = (0, 0) if log.lost else (log.base, superblock.epoch)
    end = chunk.free
    for segment in chunk.segments(chunk.directory):
        if segment.epoch > superblock.epoch:
            # An epoch is on disk before the first commit of it, so the newest slot was there, and is damaged.
            found, expected = (
                f"a commit of epoch {segment.epoch}",
                f"epoch {superblock.epoch}, the superblock's",
            )
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


def find_good(log: Log, upto: int | None = None) -> None:
    """Set ``good``: the checkpoint, then every next commit, up to one, that is there with all parts, and sound."""
    commits: dict[int, list[Segment]] = {}
    for segment in log.segments:
        if segment.commit > log.base:
            commits.setdefault(segment.commit, []).append(segment)
    log.good = log.base
    while log.good != upto and _is_sound(commits.get(log.good + 1, []), log):
        log.good += 1
    log.segments = [segment for segment in log.segments if segment.commit <= log.good]


def _is_sound(parts: list[Segment], log: Log) -> bool:
    return has_all_parts(parts) and all(data_is_sound(part, log.chunks[part.chunk]) for part in parts)


def has_all_parts(parts: list[Segment]) -> bool:
    """Tell whether these segments of one commit are all that it has."""
    if not parts or len(parts) != parts[0].parts:
        return False
    return sorted(part.part for part in parts) == list(range(len(parts)))


def data_is_sound(segment: Segment, chunk: Chunk) -> bool:
    """Tell whether the records of a segment are what they were when it was written."""
    found = data_crc(memoryview(chunk.source), segment.run, segment.start, chunk.header.item_size)
    return found == segment.data_crc


def check_complete(paths: Paths, index: Index, log: Log) -> None:
    """Raise if a chunk that the index knows is not there."""
    for chunk in index.heads:
        if chunk not in log.chunks:
            raise no_such_chunk(paths, chunk)


def check_heads(index: Index, log: Log) -> None:
    """Raise if a directory, all of which is needed, does not lead to its head as of the checkpoint."""
    for chunk, head in index.heads.items():
        _walk_to(log.chunks[chunk], head)


def no_such_chunk(paths: Paths, chunk: int) -> CorruptionError:
    """Return the error for a chunk that the index names and that is not there."""
    advice = "put the file back from a copy of the database"
    return CorruptionError(paths.chunk(chunk), found="no such file", expected="a chunk", advice=advice)


def rewind(log: Log) -> None:
    """Position every chunk behind its last good segment; those without one are debris."""
    for segment in log.segments:
        chunk = log.chunks[segment.chunk]
        chunk.seek(segment.end, segment.low)
    for chunk in list(log.chunks.values()):
        if chunk.directory == chunk.header.file_size:
            log.debris.append(chunk.id)


# ---------------------------------------------------------------------- what it says


def catalog_entry(header: Header) -> dict[str, object]:
    """Return what the catalog says of the store of a chunk."""
    return {"store": header.store, "kind": header.about["kind"], "schema": header.about["schema"]}


def rows_by_store(segments: Iterable[Segment], chunks: Mapping[int, Chunk]) -> dict[int, list[Run]]:
    """Return what segments of these chunks leave of each store, the later commit winning; tombstones included."""
    rows: dict[int, list[Run]] = {}
    item_sizes = {}
    for segment in sorted(segments, key=lambda segment: segment.commit):
        header = chunks[segment.chunk].header
        rows.setdefault(header.store, []).append(segment.run)
        item_sizes[header.store] = header.item_size
    return {store: in_key_order(runs, item_sizes[store]) for store, runs in rows.items()}


def good_chunks(log: Log) -> list[Chunk]:
    """Return the chunks that are not debris."""
    return [chunk for chunk in log.chunks.values() if chunk.id not in log.debris]


def replaced_chunks(log: Log, commit: int) -> set[int]:
    """Return the chunks that compaction had replaced as of a commit.

    The header of the chunk in their place names them before that commit is made, so it takes a segment to say that
    it was. Of version 1, where none says so, a chunk counts if not all of those that it names are there: they go
    only after a checkpoint. If all are there they stay: what was copied counts as newer. With an index none of
    this is needed, as it has no heads of those that a checkpoint let go.
    """
    replaced: set[int] = set()
    for chunk in good_chunks(log):
        old = set(chunk.header.replaces)
        first = next(chunk.segments(), None) if old else None
        if first is None or first.commit > commit:
            continue
        if first.replaces or not (chunk.header.is_marked or not log.lost or old <= log.chunks.keys()):
            replaced |= old
    return replaced


def dropped_stores(log: Log, commit: int) -> set[int]:
    """Return the stores that had been dropped as of a commit."""
    segments = [segment for segment in log.segments if segment.commit <= commit]
    marked = {segment.chunk for segment in segments if (segment.run.flag_values & DROPPED).any()}
    return {log.chunks[chunk].header.store for chunk in marked}
