"""What a commit has that the newest publication has not: blocks of chunks, and rows of the index."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import NamedTuple

import numpy as np

from ..chunks.heap import Place
from ..chunks.segment import Segment, survey
from ..disk.paths import Paths
from ..errors import NotACopy
from ..maintenance.backup import Taken
from ..maintenance.chunk_copies import UNKNOWN, may_change
from ..maintenance.lineage import not_in_history, segments_since
from ..runs.extent import KEY_END
from ..runs.streams import in_key_order
from .chunk_drafts import ChunkDraft, header_bytes, layout_of
from .chunk_files import ChunkFiles
from .layout import Layout, block_size
from .manifest import LOOKED_BACK, Manifest, PublishedChunk
from .rows import Entry, anew, entry_of


class ComparedChunk(NamedTuple):
    """A chunk as it is to be published: its blocks, its header, the flags that its rows have."""

    draft: ChunkDraft
    raw: bytes
    flags: int


class Comparison(NamedTuple):
    """What is to be published.

    ``segments`` are the new ones of each store; the rows of those in ``anew`` are all new. ``dropped`` are stores
    that were published and are not there any more.
    """

    chunks: dict[int, ComparedChunk]
    segments: dict[int, list[Segment]]
    anew: set[int]
    dropped: set[int]


def compare(taken: Taken, files: ChunkFiles, newest: Manifest | None, where: str) -> Comparison:
    """Compare a commit with the newest publication.

    Raises
    ------
    NotACopy
        The publication is not in the history of the commit; the message names `where` it is.
    """
    paths = Paths(where)
    if newest is None:
        chunks = {chunk: _new_chunk(files, place) for chunk, place in taken.places.items()}
        return Comparison(chunks, {}, set(taken.heaps), set())
    _check_commit(paths, newest, taken)
    gone = {prior.store for chunk, prior in newest.chunks.items() if chunk not in taken.places}
    known = {chunk.store for chunk in newest.chunks.values()}
    found = Comparison(
        {}, {}, (gone | (taken.heaps.keys() - known)) & taken.heaps.keys(), known - taken.heaps.keys()
    )
    for chunk, place in taken.places.items():
        prior = newest.chunks.get(chunk)
        if prior is None:
            segments = segments_since(paths, place, place.chunk.header.file_size, newest.commit)
            found.chunks[chunk] = _new_chunk(files, place)
        else:
            _check_same(paths, newest.commit, files, place, prior)
            segments = segments_since(paths, place, prior.layout.directory, newest.commit)
            found.chunks[chunk] = _known_chunk(files, place, prior, segments)
        if segments:
            found.segments.setdefault(place.chunk.header.store, []).extend(segments)
    if newest.commit == taken.snapshot.commit and (gone or newest.chunks.keys() != taken.places.keys()):
        raise not_in_history(paths, newest.commit, "it has other chunks there")
    return found


def new_entries(taken: Taken, compared: Comparison) -> list[Entry]:
    """Return the rows that are not published yet, of each store of the commit."""
    entries = []
    for store, heap in taken.heaps.items():
        if store in compared.anew:
            entries += all_rows(taken, [store])
        elif store in compared.segments:
            rows = [segment.run for segment in sorted(compared.segments[store], key=lambda each: each.commit)]
            entries += [entry_of(store, run, heap.item_size) for run in in_key_order(rows, heap.item_size)]
    return entries


def all_rows(taken: Taken, stores: Iterable[int]) -> list[Entry]:
    """Return all live rows of some stores, in place of those that were published."""
    entries = []
    for store in stores:
        entries.append(anew(store))
        runs = taken.snapshot.runs(store, 0, KEY_END)
        entries += [entry_of(store, run, taken.heaps[store].item_size) for run in runs if len(run)]
    return entries


def end_of(files: ChunkFiles, chunk: int, layout: Layout) -> int:
    """Return the CRC-32 of the lower end of a directory."""
    size = min(LOOKED_BACK, layout.file_size - layout.directory)
    return zlib.crc32(files.read(chunk, layout.directory, size))


# ---------------------------------------------------------------------- one history


def _check_commit(paths: Paths, newest: Manifest, taken: Taken) -> None:
    if newest.database != taken.superblock.database:
        advice = "give another URL, or the database that is published there"
        raise NotACopy(
            f"{paths.root} is database {newest.database.hex()}, not {taken.superblock.database.hex()}; {advice}"
        )
    if newest.commit > taken.snapshot.commit:
        why = f"the last one is {taken.snapshot.commit}, unless this handle has newer ones to see; try refresh()"
        raise not_in_history(paths, newest.commit, why)


def _check_same(paths: Paths, commit: int, files: ChunkFiles, place: Place, prior: PublishedChunk) -> None:
    """Raise unless a chunk begins as what was published of it."""
    if (
        prior.header != place.chunk.header
        or place.free < prior.layout.free
        or place.directory > prior.layout.directory
    ):
        raise not_in_history(paths, commit, f"chunk {prior.id} is another one there")
    if end_of(files, prior.id, prior.layout) != prior.end:
        raise not_in_history(paths, commit, f"chunk {prior.id} holds other commits there")


# ---------------------------------------------------------------------- chunks


def _new_chunk(files: ChunkFiles, place: Place) -> ComparedChunk:
    header = place.chunk.header
    raw = header_bytes(header, files.read(header.chunk, 0, header.header_size))
    directory = files.read(header.chunk, place.directory, header.file_size - place.directory)
    surveyed = survey(memoryview(directory))
    flags = UNKNOWN if surveyed is None else surveyed[0]
    draft = ChunkDraft(header, layout_of(place, block_size(header.file_size)), None)
    return ComparedChunk(draft, raw, flags)


def _known_chunk(files: ChunkFiles, place: Place, prior: PublishedChunk, segments: list[Segment]) -> ComparedChunk:
    draft = ChunkDraft(prior.header, layout_of(place, prior.layout.block), prior)
    # What an aborted transaction left between two segments may have been taken for used before.
    draft.note_growth(min([prior.layout.free, *(segment.start for segment in segments)]), prior.layout)
    flags = prior.flags | _flags_of(segments)
    if may_change(flags):
        draft.note_changes(files)
    return ComparedChunk(draft, prior.header_bytes, flags)


def _flags_of(segments: list[Segment]) -> int:
    return int(reduce(or_, (np.bitwise_or.reduce(segment.run.flag_values) for segment in segments), 0))
