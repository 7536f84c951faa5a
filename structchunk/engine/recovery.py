"""What opening a database does after a crash, and how a lost index is made again from the chunks.

The directories of the chunks are the log; the index is derived from them. Opening finds the last commit that is
whole, rewinds every chunk behind it, and brings the index to it. The README of the package has the steps in order;
each is there because without it data would be lost.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Container, Iterator, Mapping
from typing import TypeAlias, TypeVar

from ..chunks.chunk import Chunk
from ..chunks.heap import Gone, Heap
from ..disk import files
from ..disk.lock import Hold
from ..disk.paths import Paths
from ..disk.presence import check_free
from ..disk.superblock import Superblock, create_superblock, read_superblock
from ..errors import CorruptionError
from ..index.index import Index
from ..index.leveldb import REBUILD
from ..index.stored_state import Catalog
from ..runs.run import Run, portions
from ..types.schema import schema_from_descriptor
from .checkpoint import crc_of_index
from .commit_log import (
    Log,
    Progress,
    catalog_entry,
    check_complete,
    check_heads,
    dropped_stores,
    find_good,
    good_chunks,
    no_such_chunk,
    read_ends,
    read_given_ends,
    read_log,
    read_whole_log,
    replaced_chunks,
    rewind,
)
from .completeness import check_commits
from .storage import Storage
from .written_rows import WrittenRows

S = TypeVar("S", bound=Storage)
Make: TypeAlias = Callable[[Superblock, Index], S]
LOAD_ROWS = 1 << 20


def create_storage(paths: Paths, lock: Hold, chunk_size: int) -> Storage:
    """Make a new, empty database. The superblock comes last: without one there is nothing yet."""
    import uuid  # noqa: PLC0415

    check_free(paths)
    for generation in paths.list_indexes():
        _remove_index(paths.index(generation))
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
    index = None if rebuild else _checked_index(Index.open(paths.index(superblock.generation)), superblock)
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
            _remove_index(paths.index(other))
    return storage


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
    index = _checked_index(Index.open_private(path, is_sound=is_sound), superblock)
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
            _bring_forward(storage, log)
            return storage
        if is_sound:  # chunks that commits since the checkpoint wrote were replaced, and unlinked, since
            raise _no_such_commit(index, log)
        check_heads(index, log)
    except BaseException:
        index.close()
        raise
    index.close()
    log = read_whole_log(paths, superblock, log.good, None)
    return _index_anew(paths, superblock, log, make, private=True)[0]


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
    index = _checked_index(Index.open_private(path, is_sound=True), superblock)
    try:
        log = read_given_ends(paths, superblock, ends)
        storage = make(superblock, index)
        _add_heaps(storage, index.catalog, log)
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
    _add_heaps(storage, index.catalog, log, without=replaced_chunks(log, index.last))
    _check_live(paths, storage)
    return storage


def _check_live(paths: Paths, storage: Storage) -> None:
    """Raise if a chunk that has live records is not there."""
    for heap in storage.heaps.values():
        for chunk, count in storage.index.live[heap.store].items():
            if count.record_count and chunk not in heap.chunks:
                raise no_such_chunk(paths, chunk)


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


def _checked_index(index: Index, superblock: Superblock) -> Index:
    """Return an index that was just opened, if it is that of the superblock and not older; else close it."""
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
    raise CorruptionError(index.leveldb.path, found=found, expected=expected, advice=REBUILD)


# ---------------------------------------------------------------------- bringing the index to it


def _with_index(
    paths: Paths, lock: Hold, superblock: Superblock, index: Index, log: Log, chunk_size: int
) -> Storage:
    """Open the storage with the index brought forward to the last good commit."""
    storage = Storage(paths, lock, superblock, index, chunk_size)
    dropped, replaced = _bring_forward(storage, log)
    _take_over(storage, log, dropped, replaced)
    return storage


def _bring_forward(storage: Storage, log: Log) -> tuple[set[int], set[int]]:
    """Bring the index to the last good commit; return the stores dropped on the way, and the chunks replaced."""
    index = storage.index
    dropped = dropped_stores(log, log.good)
    catalog = {name: entry for name, entry in index.catalog.items() if entry["store"] not in dropped}
    known = {entry["store"] for entry in catalog.values()}
    catalog |= {
        chunk.header.about["name"]: catalog_entry(chunk.header)
        for chunk in good_chunks(log)
        if chunk.header.store not in known | dropped
    }
    _add_heaps(storage, catalog, log)
    replaced = replaced_chunks(log, log.good)
    if log.good > log.base:
        written = _written_rows(log, dropped)
        compacted = {log.chunks[chunk].header.store for chunk in replaced & log.chunks.keys()} & written.keys()
        index.put(log.good, {}, catalog if catalog != index.catalog else None)
        for group in _in_groups(written):
            index.put(log.good, group)  # cut short, all of it is put again: the checkpoint has none of it
        index.merge(compacted)  # a row that another one shadows may lie in a chunk that is to be unlinked
    for heap in storage.heaps.values():
        for chunk in replaced & heap.chunks.keys():  # only now: until here the index named them
            heap.remove(chunk)
    return dropped, replaced


def _with_new_index(paths: Paths, lock: Hold, superblock: Superblock, log: Log, chunk_size: int) -> Storage:
    """Open the storage with an index made anew."""

    def make(superblock: Superblock, index: Index) -> Storage:
        return Storage(paths, lock, superblock, index, chunk_size)

    storage, dropped, replaced = _index_anew(paths, superblock, log, make)
    try:
        _take_over(storage, log, dropped, replaced)
        files.flush_directory(paths.root)
        storage.checkpoint()
    except BaseException:
        storage.index.close()
        raise
    return storage


def _index_anew(
    paths: Paths, superblock: Superblock, log: Log, make: Make[S], *, private: bool = False
) -> tuple[S, set[int], set[int]]:
    """Make the index anew, in a new directory, from all good chunks that no other one replaces.

    Returns the storage, the stores that were dropped, and the chunks that were replaced.
    """
    replaced = replaced_chunks(log, log.good)
    dropped = dropped_stores(log, log.good)
    kept = [chunk for chunk in good_chunks(log) if chunk.id not in replaced and chunk.header.store not in dropped]
    log.segments = [segment for segment in log.segments if segment.chunk not in replaced]
    generation = superblock.generation + 1
    path = paths.index(generation)
    if files.exists(path):
        _remove_index(path)
    next_chunk = max([superblock.next_chunk, *(chunk + 1 for chunk in log.chunks)])
    index = Index.create(path, superblock.database, log.good, next_chunk, private=private)
    try:
        storage = make(superblock._replace(generation=generation), index)
        catalog = {chunk.header.about["name"]: catalog_entry(chunk.header) for chunk in kept}
        _add_heaps(storage, catalog, log, without=replaced)
        index.begin_empty()
        index.put(log.good, {}, catalog)
        for group in _in_groups(_written_rows(log, dropped)):
            index.put(log.good, group)
    except BaseException:
        index.close()
        raise
    return storage, dropped, replaced


def _written_rows(log: Log, dropped: Container[int]) -> dict[int, WrittenRows]:
    """Return the rows of the log, by the stores that were not dropped."""
    written: dict[int, WrittenRows] = {}
    for segment in log.segments:
        store = log.chunks[segment.chunk].header.store
        if store not in dropped:
            written.setdefault(store, WrittenRows()).add(segment)
    return written


def _in_groups(written: Mapping[int, WrittenRows]) -> Iterator[dict[int, list[Run]]]:
    """Yield the rows of stores in portions that memory holds: of many small stores together."""
    group: dict[int, list[Run]] = {}
    count = 0
    for store, rows in written.items():
        for part in (part for run in rows.runs() for part in portions(run, LOAD_ROWS)):
            if count + len(part) > LOAD_ROWS and group:
                yield group
                group, count = {}, 0
            group.setdefault(store, []).append(part)
            count += len(part)
    if group:
        yield group


def _remove_index(path: str) -> None:
    """Remove an index directory, or what stands in its place."""
    if stat.S_ISDIR(os.lstat(path).st_mode):
        files.remove_tree(path)
    else:
        files.unlink(path)


def _add_heaps(storage: Storage, catalog: Catalog, log: Log, without: Container[int] = ()) -> None:
    """Make the catalog's stores known, with their chunks."""
    by_store: dict[int, list[Chunk]] = {}
    for chunk in good_chunks(log):
        if chunk.id not in without:
            by_store.setdefault(chunk.header.store, []).append(chunk)
    live = storage.index.read_all_live()
    for name, entry in catalog.items():
        store, path = entry["store"], storage.paths.root
        chunks = by_store.get(store, [])
        schema = schema_from_descriptor(entry["schema"], chunks[0].path if chunks else path)
        heap = Heap(store, name, schema)
        for chunk in chunks:
            if chunk.header.item_size != heap.item_size:
                found = f"items of {chunk.header.item_size} bytes"
                expected = f"{heap.item_size}, as its type says"
                raise CorruptionError(chunk.path, offset=40, found=found, expected=expected)
            heap.add(chunk)
        storage.add_heap(heap, live.get(store, {}))


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
