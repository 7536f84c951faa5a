"""Roll-forward: an index is brought to the last good commit of the log, or made anew from it.

The directories of the chunks are the log; the index is derived from them. Who opens a database, or a private copy
of its index, does this with a log that was read and rewound. Which commit is good is not decided here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Container, Iterator, Mapping
from typing import TypeAlias, TypeVar

from ..chunks.chunk import Chunk
from ..chunks.heap import Heap
from ..disk import files
from ..disk.paths import Paths
from ..disk.superblock import Superblock
from ..errors import CorruptionError
from ..index.index import Index
from ..index.leveldb import REBUILD
from ..index.stored_state import Catalog
from ..runs.run import Run, portions
from ..types.schema import schema_from_descriptor
from .commit_log import (
    Log,
    catalog_entry,
    dropped_stores,
    good_chunks,
    replaced_chunks,
)
from .storage import Storage
from .written_rows import WrittenRows

S = TypeVar("S", bound=Storage)
Make: TypeAlias = Callable[[Superblock, Index], S]
LOAD_ROWS = 1 << 20
"""So many rows are put into the index together."""


def checked_index(index: Index, superblock: Superblock) -> Index:
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


def bring_forward(storage: Storage, log: Log) -> tuple[set[int], set[int]]:
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
    add_heaps(storage, catalog, log)
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


def index_anew(
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
        remove_index(path)
    next_chunk = max([superblock.next_chunk, *(chunk + 1 for chunk in log.chunks)])
    index = Index.create(path, superblock.database, log.good, next_chunk, private=private)
    try:
        storage = make(superblock._replace(generation=generation), index)
        catalog = {chunk.header.about["name"]: catalog_entry(chunk.header) for chunk in kept}
        add_heaps(storage, catalog, log, without=replaced)
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


def remove_index(path: str) -> None:
    """Remove an index directory, or what stands in its place."""
    if stat.S_ISDIR(os.lstat(path).st_mode):
        files.remove_tree(path)
    else:
        files.unlink(path)


def add_heaps(storage: Storage, catalog: Catalog, log: Log, without: Container[int] = ()) -> None:
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
