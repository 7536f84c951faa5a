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
How one is brought forward later is in ``update.py``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import NamedTuple

from ..chunks.chunk import Chunk
from ..chunks.heap import Gone, Heap, Place
from ..chunks.segment import survey
from ..disk import files
from ..disk.paths import AnyPath, Paths, absolute
from ..disk.superblock import Superblock, crc_of_heads, create_superblock
from ..engine.flushing import flush_chunks
from ..engine.storage import Storage
from ..index.index import Prepared, copy_snapshot
from ..index.index_snapshot import IndexSnapshot
from ..index.stored_state import Catalog
from .chunk_copies import Source, copy_chunk, flags_of_rows, may_change


class Taken(NamedTuple):
    """A database as of one commit.

    ``superblock`` is that of a copy. ``places`` says how far every chunk reaches, ``sources`` which ones were not
    linked, and are not the very files that the copy has.
    """

    snapshot: IndexSnapshot
    superblock: Superblock
    catalog: Catalog
    heaps: dict[int, Heap]
    places: dict[int, Place]
    sources: dict[int, Source]
    gone: list[Gone]

    def heads(self) -> dict[int, tuple[int, int]]:
        """Return the free and directory offset of every chunk."""
        return {chunk: (place.free, place.directory) for chunk, place in self.places.items()}


def destination(paths: Paths, dest: AnyPath, *, may_exist: bool = False) -> str:
    """Return the absolute path of a copy that is to be made, having checked that it may be.

    Raises
    ------
    FileExistsError
        It exists.
    ValueError
        It lies inside the database.
    """
    path = absolute(dest)
    is_there = files.exists(path)
    if os.path.lexists(dest) and not (may_exist and is_there):
        raise FileExistsError(f"{path} exists; a copy must have a name of its own")
    if os.path.isabs(paths.root) and os.path.commonpath([paths.root, path]) == paths.root:
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
    frozen = frozen_chunks(storage)
    with contextlib.ExitStack() as held:
        taken = take(storage, frozen, {}, draft, held)
        copies = [copy_chunk(source, draft.chunk(chunk)) for chunk, source in taken.sources.items()]
        flush_chunks(copies)
        flags = {copy.id: (copy.directory, flags_of_rows(copy)) for copy in copies}
        files.flush_directory(draft.chunks)
        _copy_index(taken, draft, flags)
    files.flush_directory(draft.root)
    create_superblock(draft.superblock, taken.superblock)
    files.flush_directory(draft.root)


# ---------------------------------------------------------------------- what may be linked


def frozen_chunks(storage: Storage, but: Container[int] = ()) -> set[int]:
    """Return the chunks that neither database will ever write to again, but for some that need not be looked at."""
    return {chunk for heap in list(storage.heaps.values()) for chunk in _frozen_chunks(storage, heap, but)}


def _frozen_chunks(storage: Storage, heap: Heap, but: Container[int]) -> list[int]:
    heads, chunks = dict(storage.index.heads), dict(heap.chunks)  # others may commit meanwhile
    known = [chunk for chunk in sorted(chunks.keys() & heads.keys())[:-1] if chunk not in but]
    return [chunk for chunk in known if _is_frozen(chunks[chunk].path, heads[chunk])]


def _is_frozen(path: str, head: tuple[int, int]) -> bool:
    """Tell whether a chunk whose head is on disk has nothing that may change in place, or is to be put right."""
    try:
        chunk = Chunk.open(path)  # another one: this mapping is not to stay
        source = chunk.source
    except FileNotFoundError:  # compaction or a drop has just unlinked it
        return False
    surveyed = survey(memoryview(source)[head[1] :])
    if surveyed is None or may_change(surveyed[0]):
        return False
    last = next(chunk.segments(head[1] + surveyed[1]), None)
    return last is not None and (last.end, last.low) == head == chunk.working_offsets()


# ---------------------------------------------------------------------- one commit


def take(
    storage: Storage, frozen: set[int], mine: Mapping[int, Chunk], draft: Paths, held: contextlib.ExitStack
) -> Taken:
    """Link chunks, or map them, and fix the commit. Commits wait meanwhile, so nothing here may take long.

    Parameters
    ----------
    storage : Storage
    frozen : set of int
        The chunks that may be linked.
    mine : mapping of int to Chunk
        Those that the copy has already.
    draft : Paths
        Where to link them.
    held : ExitStack
        What is open until it is left.
    """
    with storage.committing():
        storage.check_not_failed()
        snapshot = storage.index.snapshot()
        held.callback(snapshot.close)
        heaps = {heap.store: heap for heap in storage.heaps.values()}
        places = {
            place.chunk.id: place for heap in heaps.values() for place in storage.places(heap, snapshot.commit)
        }
        linkable = {place.chunk.id for place in _hidden(places.values(), heaps)} & frozen
        sources = {
            place.chunk.id: Source(place.chunk, memoryview(place.chunk.map_source()), place.free, place.directory)
            for place in _lacking(places.values(), mine, draft, linkable)
        }
        superblock = _superblock(storage, snapshot.commit, places)
        return Taken(snapshot, superblock, storage.index.catalog, heaps, places, sources, list(storage.gone))


def _hidden(places: Iterable[Place], heaps: Mapping[int, Heap]) -> list[Place]:
    """Return those of chunks of which nobody holds a view that may be written to."""
    return [place for place in places if not heaps[place.chunk.header.store].is_exposed(place.chunk.id)]


def _lacking(
    places: Iterable[Place], mine: Mapping[int, Chunk], draft: Paths, linkable: Container[int]
) -> Iterator[Place]:
    """Yield those of chunks that the copy neither has nor could be given by a link."""
    for place in places:
        chunk = place.chunk
        if not _is_had(chunk, mine, draft.chunk(chunk.id), may_link=chunk.id in linkable):
            yield place


def _superblock(storage: Storage, commit: int, places: Mapping[int, Place]) -> Superblock:
    heads = crc_of_heads({chunk: place.directory for chunk, place in places.items()})
    database, next_chunk, epoch = storage.superblock.database, storage.next_chunk, storage.newest_epoch()
    return Superblock(database, 1, 1, commit, epoch, next_chunk, heads, ())


def _is_had(chunk: Chunk, mine: Mapping[int, Chunk], target: str, *, may_link: bool) -> bool:
    """Tell whether the copy has the very file of a chunk, or was given it just now."""
    if chunk.id in mine:
        return files.are_same(chunk.path, mine[chunk.id].path)
    return may_link and files.link(chunk.path, target)


# ---------------------------------------------------------------------- copying


def _copy_index(taken: Taken, draft: Paths, flags: Mapping[int, tuple[int, int]]) -> None:
    superblock = taken.superblock
    path = draft.index(superblock.generation)
    index = copy_snapshot(taken.snapshot, path, superblock.database, superblock.next_chunk)
    try:
        nothing = Prepared({}, {})
        index.advance(superblock.checkpoint, nothing, superblock.next_chunk, taken.heads(), taken.gone, flags)
    finally:
        index.close()
