"""What opening a database for writing does after a crash, and to make a lost index again from the chunks.

Opening finds the last commit that is whole, rewinds every chunk behind it, and has the index brought to it
(``roll_forward.py``). The README of the package has the steps in order; each is there because without it data would
be lost.
"""

from __future__ import annotations

import os
from collections.abc import Container

from ..chunks.chunk import Chunk
from ..chunks.heap import Gone
from ..disk import files
from ..disk.lock import Hold
from ..disk.paths import Paths
from ..disk.presence import check_free
from ..disk.superblock import Superblock, create_superblock, read_superblock
from ..errors import CorruptionError
from ..index.index import Index
from .checkpoint import crc_of_index
from .commit_log import (
    Log,
    Progress,
    check_complete,
    check_heads,
    find_good,
    read_log,
    read_whole_log,
    rewind,
)
from .completeness import check_commits
from .roll_forward import bring_forward, checked_index, index_anew, remove_index
from .storage import Storage


def create_storage(paths: Paths, lock: Hold, chunk_size: int) -> Storage:
    """Make a new, empty database. The superblock comes last: without one there is nothing yet."""
    import uuid  # noqa: PLC0415

    check_free(paths)
    for generation in paths.list_indexes():
        remove_index(paths.index(generation))
    if not files.exists(paths.chunks):
        files.make_directory(paths.chunks)
    files.check_directory(paths.chunks)
    database = uuid.uuid4().bytes
    first = Superblock(database, 1, 1, 0, 1, 1)
    index = Index.create(paths.index(1), database)
    try:
        index.write_checkpoint(1, {})
        files.flush_directory(paths.root)  # else the superblock might be found alone
        create_superblock(paths.superblock, first)
        files.flush_directory(paths.root)
        files.flush_directory(os.path.dirname(paths.root))
        storage = Storage(paths, lock, first, index, chunk_size)
    except BaseException:
        index.close()
        raise
    storage.epoch_pending = False
    return storage


def open_storage(
    paths: Paths, lock: Hold, chunk_size: int, *, rebuild: bool = False, progress: Progress | None = None
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
    files.check_directory(paths.chunks)
    superblock = _superblock_for_rebuild(paths) if rebuild else _read_superblock(paths)
    index = None if rebuild else checked_index(Index.open(paths.index(superblock.generation)), superblock)
    try:
        log = read_log(paths, superblock, index, progress, rewrite=True)
        find_good(log)
        if index is not None:
            check_complete(paths, index, log)
        else:
            check_commits(paths, log, superblock)
        rewind(log)
        if index is None or not index.can_reach(log.good):
            if index is not None:
                check_heads(index, log)
                index.close()
                log = read_whole_log(paths, superblock, log.good, progress)
            storage = _with_new_index(paths, lock, superblock, log, chunk_size)
        else:
            storage = _with_index(paths, lock, superblock, index, log, chunk_size)
    except BaseException:
        if index is not None:
            index.close()
        raise
    for other in paths.list_indexes():  # replaced just now, or left by a rebuild that was cut short
        if other != storage.superblock.generation:
            remove_index(paths.index(other))
    return storage


def _with_index(
    paths: Paths, lock: Hold, superblock: Superblock, index: Index, log: Log, chunk_size: int
) -> Storage:
    """Open the storage with the index brought forward to the last good commit."""
    storage = Storage(paths, lock, superblock, index, chunk_size)
    dropped, replaced = bring_forward(storage, log)
    _take_over(storage, log, dropped, replaced)
    return storage


def _with_new_index(paths: Paths, lock: Hold, superblock: Superblock, log: Log, chunk_size: int) -> Storage:
    """Open the storage with an index made anew."""

    def make(superblock: Superblock, index: Index) -> Storage:
        return Storage(paths, lock, superblock, index, chunk_size)

    storage, dropped, replaced = index_anew(paths, superblock, log, make)
    try:
        _take_over(storage, log, dropped, replaced)
        files.flush_directory(paths.root)
        storage.checkpoint()
    except BaseException:
        storage.index.close()
        raise
    return storage


def _take_over(storage: Storage, log: Log, dropped: set[int], replaced: Container[int] = ()) -> None:
    """Mend the chunks' ends, note what is not known to be on disk, and what is to be unlinked.

    Debris goes before the next checkpoint, which counts its ids as taken: a header that never reached the disk
    would be damage from then on. Chunks that hold commits go after it: the index might have to be made anew.
    """
    is_ahead = storage.index.checkpoint > storage.superblock.checkpoint
    for debris in log.debris:
        chunk = log.chunks.get(debris)
        if is_ahead and chunk is not None and _was_let_go(chunk, storage.index):
            storage.gone.append(Gone(chunk.header.store, debris))  # should the index be lost, it is needed
        else:
            files.unlink(storage.paths.chunk(debris))
    heads = storage.index.heads
    for chunk in log.chunks.values():
        if chunk.id in log.debris:
            continue
        has_changed = heads.get(chunk.id) != (chunk.committed, chunk.directory)
        if chunk.id in replaced or chunk.header.store in dropped:
            storage.gone.append(Gone(chunk.header.store, chunk.id))
        else:
            has_changed |= chunk.mend()
        if has_changed:
            storage.dirty[chunk.id] = chunk
    storage.gone.sort(key=lambda gone: gone.chunk)
    storage.next_chunk = max([storage.next_chunk, *(chunk + 1 for chunk in [*log.chunks, *log.debris])])
    storage.entries_dirty = True


def _read_superblock(paths: Paths) -> Superblock:
    superblock = read_superblock(paths.superblock)
    superblock.flush(paths.superblock)  # a killed process may have left the newest slot unsynced
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
    except (CorruptionError, FileNotFoundError) as error:
        if index is None:
            found, advice = (
                "neither it nor the index can be read",
                "restore one of them from a copy of the database",
            )
            raise CorruptionError(
                paths.superblock, found=found, expected="one of the two", advice=advice
            ) from error
        superblock = Superblock(index.database, max(paths.list_indexes()), 1, 0, 1, 1)
        create_superblock(paths.superblock, superblock)
    chunks = [chunk for chunk in map(_try_chunk, map(paths.chunk, paths.list_chunks())) if chunk is not None]
    mine = [chunk for chunk in chunks if chunk.header.database == superblock.database]
    if index is not None and index.database == superblock.database:
        is_ahead = index.checkpoint > superblock.checkpoint
        superblock = superblock.at_least(index.checkpoint, index.next_chunk)
        if is_ahead:  # a crash came just before the superblock was to say so
            left = tuple(chunk.id for chunk in mine if _was_let_go(chunk, index))
            superblock = superblock._replace(heads=crc_of_index(index), left=left)
    commits = [(segment.epoch, segment.commit) for chunk in mine for segment in chunk.segments()]
    newest = max((epoch for epoch, _ in commits), default=0)
    if newest <= superblock.epoch:
        return superblock
    # The checkpoint that began an epoch is on disk before the first commit of it.
    first = min(commit for epoch, commit in commits if epoch == newest)
    return superblock.at_least(first - 1, superblock.next_chunk)._replace(epoch=newest)


def _was_let_go(chunk: Chunk, index: Index) -> bool:
    """Tell whether a chunk holds commits and the checkpoint of the index does not need it any more."""
    if chunk.id in index.heads:
        return False
    first = next(chunk.segments(), None)
    return first is not None and first.commit <= index.checkpoint


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
