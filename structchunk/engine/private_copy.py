"""Private copies of an index, opened for reading at their last whole commit. No file of the database is changed.

It is recovery's way, but for what that writes. Beside a writer that is past recovery there is nothing to recover.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..disk.paths import Paths
from ..disk.superblock import Superblock
from ..errors import CorruptionError
from ..index.index import Index
from ..index.leveldb import REBUILD
from .commit_log import (
    Log,
    check_complete,
    check_heads,
    find_good,
    no_such_chunk,
    read_ends,
    read_given_ends,
    read_log,
    read_whole_log,
    replaced_chunks,
    rewind,
)
from .roll_forward import Make, S, add_heaps, bring_forward, checked_index, index_anew
from .storage import Storage


def open_copy(paths: Paths, superblock: Superblock, make: Make[S], *, is_sound: bool, published: int | None) -> S:
    """Open a private copy of the index for reading, at its last whole commit. Only the copy is ever written.

    Parameters
    ----------
    paths : Paths
        Of the copy: its index has the superblock's generation. Its chunks are the database's own files.
    superblock : Superblock
        Read before the index was copied.
    make : callable
        Makes the storage from superblock and index.
    is_sound : bool
        Whether a writer that was past recovery was there before the index was copied: then nothing is lost of
        what the index names. If not, a crash may have come first, and all since the checkpoint is checked, as
        opening for writing does.
    published : int, optional
        The last commit that counts, if somebody may be appending others.

    Raises
    ------
    CorruptionError
        The index is lost, or chunks are damaged or missing; or a writer came in between, and then the
        superblock is another now.
    """
    path = paths.index(superblock.generation)
    index = checked_index(Index.open_private(path, is_sound=is_sound), superblock)
    try:
        if is_sound and not index.unfinished:
            return _as_it_stands(paths, superblock, index, make)
        is_growing = is_sound or published is not None
        log = read_log(paths, superblock, index, None, rewrite=False, is_growing=is_growing)
        upto = published if published is None else max(published, index.last, index.unfinished)
        find_good(log, upto)
        if published is not None and log.good < published:  # what is published has been written: that is damage
            log = read_log(paths, superblock, index, None, rewrite=False)
            find_good(log, upto)
        check_complete(paths, index, log)
        rewind(log)
        if index.can_reach(log.good):
            storage = make(superblock, index)
            bring_forward(storage, log)
            return storage
        if is_sound:  # chunks that commits since the checkpoint wrote were replaced, and unlinked, since
            raise _no_such_commit(index, log)
        check_heads(index, log)
    except BaseException:
        index.close()
        raise
    index.close()
    log = read_whole_log(paths, superblock, log.good, None)
    return index_anew(paths, superblock, log, make, private=True)[0]


def _no_such_commit(index: Index, log: Log) -> CorruptionError:
    found, expected = f"the commits up to {log.good}", f"commit {index.unfinished}, of which the index has rows"
    return CorruptionError(index.leveldb.path, found=found, expected=expected, advice=REBUILD)


def open_settled_copy(
    paths: Paths, superblock: Superblock, ends: Mapping[int, tuple[int, int]], make: Make[S]
) -> S:
    """Open a private copy of an index that :func:`open_copy` has brought to its last whole commit.

    Parameters
    ----------
    paths, superblock, make
        As for :func:`open_copy`.
    ends : mapping
        Free and directory offset of all chunks that it found.

    Raises
    ------
    CorruptionError
        Index or chunks are damaged, or missing.
    """
    path = paths.index(superblock.generation)
    index = checked_index(Index.open_private(path, is_sound=True), superblock)
    try:
        log = read_given_ends(paths, superblock, ends)
        storage = make(superblock, index)
        add_heaps(storage, index.catalog, log)
        _check_live(paths, storage)
    except BaseException:
        index.close()
        raise
    return storage


def _as_it_stands(paths: Paths, superblock: Superblock, index: Index, make: Make[S]) -> S:
    """Open a copy that needs no replay: its chunks reach at least as far as it says."""
    log = read_ends(paths, superblock, index)
    check_complete(paths, index, log)
    storage = make(superblock, index)
    add_heaps(storage, index.catalog, log, without=replaced_chunks(log, index.last))
    _check_live(paths, storage)
    return storage


def _check_live(paths: Paths, storage: Storage) -> None:
    """Raise if a chunk that has live records is not there."""
    for heap in storage.heaps.values():
        for chunk, count in storage.index.live[heap.store].items():
            if count.record_count and chunk not in heap.chunks:
                raise no_such_chunk(paths, chunk)
