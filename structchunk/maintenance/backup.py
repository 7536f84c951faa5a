"""A copy of a database, whole, as of one commit, and independent of it, made while writers work.

Chunks that neither database will ever write to again are hard-linked; all others are copied. Such a chunk is
*frozen*:

- As of the checkpoint it is not the last chunk of its store: only the last one grows, and no crash leads back to
  before the checkpoint. What a transaction has begun since does not count: if it aborts, the chunk before is the
  last one again.
- No record of its directory may change in place, dead ones neither: a view of one may still be held. Nor is a
  view of it held otherwise, as of the gap that an aborted transaction left.
- Its head is where the directory ends, and where the header says so: recovery finds nothing to put right.

Of the last chunk of a store just what the commit knows is copied, data and directory. Were it linked, the copy
would take what the original appends later for its own: the commits follow one another, and the epoch is the same.

The headers of linked chunks hold the database's uuid, so the copy has the same one: nothing tells a chunk of the
one from a chunk of the other. The copy is built under another name, with the superblock last, and then renamed.
"""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from ..chunks.chunk import Chunk
from ..chunks.heap import Gone, Heap
from ..chunks.segment import survey
from ..disk import files
from ..disk.paths import AnyPath, Paths, absolute
from ..disk.superblock import Superblock, crc_of_heads, create_superblock
from ..engine.storage import Storage
from ..index.index import copy_snapshot
from ..index.index_snapshot import IndexSnapshot
from ..runs.extent import MUTABLE


class Source(NamedTuple):
    """A chunk that is to be copied, as far as a commit knows it; held open, for it may be unlinked meanwhile."""

    chunk: Chunk
    fd: int
    free: int
    directory: int


class Taken(NamedTuple):
    """A database as of one commit.

    ``heads`` has the free and directory offset of every chunk, ``sources`` those that were not linked.
    """

    snapshot: IndexSnapshot
    superblock: Superblock
    heads: dict[int, tuple[int, int]]
    sources: list[Source]
    gone: list[Gone]


def destination(paths: Paths, dest: AnyPath) -> str:
    """Return the absolute path of a copy that is to be made, having checked that it may be.

    Raises
    ------
    FileExistsError
        It exists.
    ValueError
        It lies inside the database.
    """
    path = absolute(dest)
    if os.path.lexists(dest) or os.path.lexists(path):
        raise FileExistsError(f"{path} exists; a copy must have a name of its own")
    if os.path.commonpath([paths.root, path]) == paths.root:
        raise ValueError(f"{path} lies inside the database; a copy must lie outside of it")
    return path


def copy_storage(storage: Storage, dest: str) -> None:
    """Make a copy of a database, as of its latest commit.

    Parameters
    ----------
    storage : Storage
        Chunks that were filled since its last checkpoint are copied, not linked.
    dest : str
        Where to make it.
    """
    draft = Paths(f"{dest}.part-{os.urandom(4).hex()}")
    files.make_directory(draft.root)
    try:
        _build(storage, draft)
        files.rename(draft.root, dest)
    except BaseException:
        with contextlib.suppress(OSError):
            files.remove_tree(draft.root)
        raise
    files.flush_directory(os.path.dirname(dest))


def _build(storage: Storage, draft: Paths) -> None:
    files.make_directory(draft.chunks)
    frozen = {chunk for heap in list(storage.heaps.values()) for chunk in _frozen_chunks(storage, heap)}
    with contextlib.ExitStack() as held:
        taken = _take(storage, frozen, draft, held)
        for source in taken.sources:
            _copy_chunk(source, draft.chunk(source.chunk.id))
        files.flush_directory(draft.chunks)
        _copy_index(taken, draft)
    files.flush_directory(draft.root)
    heads = crc_of_heads({chunk: directory for chunk, (_, directory) in taken.heads.items()})
    create_superblock(draft.superblock, taken.superblock._replace(heads=heads))
    files.flush_directory(draft.root)


# ---------------------------------------------------------------------- what may be linked


def _frozen_chunks(storage: Storage, heap: Heap) -> list[int]:
    """Return the chunks of a store that neither database will ever write to again."""
    heads, chunks = dict(storage.index.heads), dict(heap.chunks)  # others may commit meanwhile
    known = sorted(chunks.keys() & heads.keys())
    return [chunk for chunk in known[:-1] if _is_frozen(chunks[chunk].path, heads[chunk])]


def _is_frozen(path: str, head: tuple[int, int]) -> bool:
    """Tell whether a chunk whose head is on disk has nothing that may change in place, or is to be put right."""
    try:
        chunk = Chunk.open(path)  # another one: this mapping is not to stay
        source = chunk.source
    except FileNotFoundError:  # compaction or a drop has just unlinked it
        return False
    surveyed = survey(memoryview(source)[head[1] :])
    if surveyed is None or surveyed[0] & MUTABLE:
        return False
    last = next(chunk.segments(head[1] + surveyed[1]), None)
    return last is not None and (last.end, last.low) == head == chunk.working_offsets()


# ---------------------------------------------------------------------- one commit


def _take(storage: Storage, frozen: set[int], draft: Paths, held: contextlib.ExitStack) -> Taken:
    """Link chunks, or open them, and fix the commit. Commits wait meanwhile, so nothing here may take long."""
    with storage.committing():
        storage.check_not_failed()
        snapshot = storage.index.snapshot()
        held.callback(snapshot.close)
        superblock = Superblock(
            storage.superblock.database, 1, 1, snapshot.commit, storage.newest_epoch(), storage.next_chunk
        )
        taken = Taken(snapshot, superblock, {}, [], list(storage.gone))
        for heap in storage.heaps.values():
            _take_chunks(storage, heap, frozen, draft, held, taken)
    return taken


def _take_chunks(
    storage: Storage, heap: Heap, frozen: set[int], draft: Paths, held: contextlib.ExitStack, taken: Taken
) -> None:
    for chunk, *ends in storage.places(heap, taken.snapshot.commit):
        taken.heads[chunk.id] = head = (ends[0], ends[1])
        linkable = chunk.id in frozen and not heap.is_exposed(chunk.id)
        if not linkable or not files.link(chunk.path, draft.chunk(chunk.id)):
            with files.advised(chunk.path):
                fd = held.enter_context(files.opened(chunk.path))
            taken.sources.append(Source(chunk, fd, *head))


# ---------------------------------------------------------------------- copying


def _copy_chunk(source: Source, path: str) -> None:
    """Copy the data and the directory of a chunk as a commit knows them; what is a hole stays one."""
    size = source.chunk.header.file_size
    files.create(path, size)
    files.copy(source.fd, path, 0, source.free)
    files.copy(source.fd, path, source.directory, size)
    copy = Chunk.open(path)
    copy.seek(source.free, source.directory)
    copy.mend()  # the header was copied with the offsets of a later commit
    copy.flush()


def _copy_index(taken: Taken, draft: Paths) -> None:
    superblock = taken.superblock
    path = draft.index(superblock.generation)
    index = copy_snapshot(taken.snapshot, path, superblock.database, superblock.next_chunk)
    try:
        index.write_checkpoint(superblock.next_chunk, taken.heads, taken.gone)
    finally:
        index.close()
