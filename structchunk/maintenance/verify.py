"""verify(): what is wrong in a database, where, and what to do about it. It changes nothing and repairs nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ..chunks.chunk import read_header
from ..chunks.heap import Heap, Place
from ..chunks.segment import Segment, data_crc
from ..engine.storage import Storage
from ..errors import ClosedError, Error
from ..index.index_snapshot import IndexSnapshot
from ..index.leveldb import REBUILD
from ..runs.extent import MUTABLE, TOMBSTONE, ZERO, RowArray, by_offset, last_wins, misplaced, without_tombstones
from ..runs.run import joined

Progress = Callable[[int, int], object]
RESTORE = "restore this file from a copy of the database"
HARMLESS = "nothing: the next commit to this chunk writes it anew"


class Problem(NamedTuple):
    """One thing that is wrong.

    Attributes
    ----------
    what : str
        What was found, and what was expected.
    where : str
        File, and byte offset where there is one.
    advice : str
        What to do.
    """

    what: str
    where: str
    advice: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.advice}"


def verify_storage(storage: Storage, progress: Progress | None = None) -> list[Problem]:
    """Check all files of an open database, as of its latest commit.

    Parameters
    ----------
    storage : Storage
    progress : callable, optional
        Called with the number of chunks checked, and of all chunks.
    """
    if displaced := storage.displaced():
        return [Problem(displaced, storage.paths.root, "close the database and open it again")]
    with storage.committing():
        snapshot = storage.index.snapshot()
        stores = [(heap, storage.places(heap, snapshot.commit)) for heap in storage.heaps.values()]
    # Beside a writer that may have gone on, and after a write that failed, what each commit changes says nothing.
    is_settled = not (storage.is_copy or storage.failure)
    problems = list(_check_files(storage)) if is_settled else []
    total = sum(len(places) for _, places in stores)
    done = 0
    for heap, places in stores:
        segments: list[Segment] = []
        for place in places:
            found, chunk_segments = _check_chunk(storage, heap, place)
            problems += found
            if is_settled:
                problems += _check_working_fields(place, chunk_segments)
            segments += chunk_segments
            done += 1
            if progress is not None:
                progress(done, total)
        problems += _check_index(storage, heap, places, segments, snapshot)
    snapshot.close()
    return [Problem(storage.original(what), storage.original(where), advice) for what, where, advice in problems]


# ---------------------------------------------------------------------- files


def _check_files(storage: Storage) -> Iterator[Problem]:
    """Yield what is in the database's directory and should not be, and what is not and should."""
    paths = storage.paths
    entries = list(os.scandir(paths.chunks))
    # In this order: what is there is being made, or is known by now, or was unlinked since.
    known = set(storage.drafts)
    known |= {chunk for heap in list(storage.heaps.values()) for chunk in list(heap.chunks)}
    known |= {gone.chunk for gone in list(storage.gone)}
    names = {os.path.basename(paths.chunk(chunk)) for chunk in known}
    for entry in entries:
        if not os.path.lexists(entry.path):
            continue
        if not entry.is_file(follow_symlinks=False):
            yield Problem("a link or special file", entry.path, "put a regular file in its place")
        elif entry.name not in names:
            yield Problem("a file that no store knows", entry.path, "move it out of the database")


# ---------------------------------------------------------------------- one chunk


def _check_chunk(storage: Storage, heap: Heap, place: Place) -> tuple[list[Problem], list[Segment]]:
    """Check header, directory and records of a chunk; return what is wrong, and its segments."""
    chunk = place.chunk
    try:
        header = chunk.header if chunk.is_unlinked() else read_header(chunk.path)
    except (Error, OSError) as error:
        if storage.heaps.get(heap.name) is heap and chunk.id in heap.chunks:
            return [Problem(str(error), chunk.path, RESTORE)], []
        header = chunk.header  # it was dropped or compacted meanwhile: only its mapping is left
    problems = []
    if header != chunk.header:
        problems.append(Problem("a header of another chunk", chunk.path, RESTORE))
    segments = list(chunk.segments())
    segments = [segment for segment in segments if segment.low >= place.directory]
    reached = segments[-1].low if segments else header.file_size
    if reached != place.directory:
        what = f"a directory that ends at byte {reached}, expected {place.directory}"
        problems.append(Problem(what, f"{chunk.path} at byte {reached}", RESTORE))
    # As late as may be: other threads may change records in place once a checkpoint has them.
    checkpoint = math.inf if storage.is_copy else storage.index.checkpoint
    problems += _check_segments(heap, place, segments, checkpoint)
    return problems, segments


def _check_segments(heap: Heap, place: Place, segments: list[Segment], checkpoint: float) -> Iterator[Problem]:
    chunk = place.chunk
    raw = memoryview(chunk.source)
    end = chunk.header.data_offset
    commit = epoch = 0
    for segment in segments:
        where = f"{chunk.path} at byte {segment.low}"
        if segment.commit <= commit or segment.epoch < epoch or segment.start < end:
            what = f"commit {segment.commit} of epoch {segment.epoch} after commit {commit} of epoch {epoch}"
            yield Problem(what, where, RESTORE)
            continue  # what lies over what was read already is not read again: it could be any number of times
        commit, epoch, end = segment.commit, segment.epoch, segment.end
        crc = (
            data_crc(raw, segment.run, segment.start, heap.item_size) if _is_covered(segment, checkpoint) else None
        )
        if crc not in (None, segment.data_crc):
            what = f"records of commit {commit} that do not match their CRC"
            yield Problem(what, f"{chunk.path}, bytes {segment.start} to {segment.end}", RESTORE)
    if end > place.free:
        yield Problem(f"data up to byte {end}, expected {place.free}", chunk.path, RESTORE)


def _is_covered(segment: Segment, checkpoint: float) -> bool:
    """Tell whether a segment's CRC must hold: records that changed in place since a checkpoint do not match it."""
    flags = segment.run.flag_values
    changeable = (flags & MUTABLE != 0) & (flags & (ZERO | TOMBSTONE) == 0)
    return segment.commit > checkpoint or not bool(changeable.any())


def _check_working_fields(place: Place, segments: list[Segment]) -> Iterator[Problem]:
    chunk = place.chunk
    free, directory = found = chunk.working_offsets()
    end = segments[-1].end if segments else chunk.header.data_offset
    # An aborted transaction may have left a gap, which no commit has counted yet.
    sound = end <= free <= place.free and directory == place.directory
    if not sound and (chunk.committed, chunk.directory) == place[1:]:
        what = f"free and directory offset {found}, expected {(place.free, place.directory)}"
        yield Problem(what, f"{chunk.path} at byte 88", HARMLESS)


# ---------------------------------------------------------------------- index against chunks


def _check_index(
    storage: Storage, heap: Heap, places: list[Place], segments: list[Segment], snapshot: IndexSnapshot
) -> Iterator[Problem]:
    """Compare the index rows of a store with its directories, both ways."""
    where = f"{storage.index.leveldb.path}, store {heap.name!r}"
    try:
        rows = joined(snapshot.runs(heap.store, 0, 2**64))
        counts = snapshot.live(heap.store)
    except ClosedError:  # closed by another thread meanwhile: that is no damage
        raise
    except (Error, OSError) as error:
        yield Problem(str(error), where, REBUILD)
        return
    # None of a chunk that another one here replaces: with the commit that replaces it, it leaves the heap.
    runs = [segment.run for segment in sorted(segments, key=lambda s: s.commit)]
    expected = without_tombstones(last_wins(joined(runs)))
    yield from _compare(rows, expected, where)
    yield from _check_extents(heap, places, rows)
    for place in places:
        mine = rows[rows["chunk"] == place.chunk.id]
        actual = len(mine), int(mine["length"].sum()) * heap.item_size
        if tuple(counts.get(place.chunk.id, (0, 0))) != actual:
            what = f"live records and bytes {tuple(counts.get(place.chunk.id, (0, 0)))}, expected {actual}"
            yield Problem(what, f"{where}, chunk {place.chunk.id}", REBUILD)


def _compare(rows: RowArray, expected: RowArray, where: str) -> Iterator[Problem]:
    if len(rows) == len(expected) and np.array_equal(rows.view("<u8"), expected.view("<u8")):
        return
    missing = np.setdiff1d(expected["key"], rows["key"])
    surplus = np.setdiff1d(rows["key"], expected["key"])
    if len(missing):
        yield Problem(f"{len(missing)} keys of the chunks are not in the index, first {missing[0]}", where, REBUILD)
    if len(surplus):
        yield Problem(f"{len(surplus)} keys of the index are not in the chunks, first {surplus[0]}", where, REBUILD)
    if not len(missing) and not len(surplus) and (rows != expected).any():
        key = rows["key"][np.argmax(rows != expected)]
        yield Problem(f"another extent than the chunk's directory has, first for key {key}", where, REBUILD)


def _check_extents(heap: Heap, places: list[Place], rows: RowArray) -> Iterator[Problem]:
    """Yield the chunks in which live records lie outside, or over one another."""
    for place in places:
        chunk = place.chunk
        mine = by_offset(rows[rows["chunk"] == chunk.id])
        bad = misplaced(mine, chunk.header.data_offset, place.free, heap.item_size)
        if bad.any():
            key = mine["key"][np.argmax(bad)]
            yield Problem(f"{int(bad.sum())} records outside the data, first key {key}", chunk.path, REBUILD)
            continue
        filled = mine[mine["length"] > 0]
        ends = filled["offset"] + filled["length"] * np.uint64(heap.item_size)
        over = filled["offset"][1:] < ends[:-1]
        if over.any():
            key = filled["key"][1:][np.argmax(over)]
            yield Problem(f"{int(over.sum())} records over one another, first key {key}", chunk.path, REBUILD)
