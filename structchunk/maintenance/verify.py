"""verify(): what is wrong in a database, where, and what to do about it. It changes nothing and repairs nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import pairwise, takewhile
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..chunks.header import Header
from ..chunks.header_file import read_header
from ..chunks.heap import Heap, Place
from ..chunks.segment import FEW_ROWS, Segment, bounding_rows, data_crc
from ..engine.storage import Storage
from ..engine.written_rows import WrittenRows
from ..errors import ClosedError, Error
from ..index.index_snapshot import IndexSnapshot
from ..index.leveldb import REBUILD
from ..runs.extent import (
    KEY_END,
    MUTABLE,
    TOMBSTONE,
    ZERO,
    Extent,
    RowArray,
    blocks,
    by_offset,
    chunks_of,
    is_by_offset,
    rows_in_chunk,
)
from ..runs.run import ContiguousRun, Run, clip_run, first_key
from ..runs.streams import joined

Progress = Callable[[int, int], object]
REOPEN = "close the database and open it again"
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

    Notes
    -----
    Files are mapped, and rows are compared in pieces of ascending keys, 262,144 rows at a time. So memory does not
    grow with the number of records, but with that of commits: for each of 1,024 rows or more by some hundred bytes,
    for each row of smaller ones by 40, until the store is compacted. The cache of the index takes up to 256 MiB.
    """
    if displaced := storage.displaced():
        return [Problem(displaced, storage.paths.root, REOPEN)]
    with storage.committing():
        if unfinished := storage.index.unfinished:
            what = f"commit {unfinished} was cut short, and the index has a part of its rows"
            return [Problem(what, storage.paths.root, REOPEN)]
        snapshot = storage.index.snapshot()
        stores = [(heap, storage.places(heap, snapshot.commit)) for heap in storage.heaps.values()]
    # Beside a writer that may have gone on, and after a write that failed, what each commit changes says nothing.
    is_settled = not (storage.is_copy or storage.failure)
    problems = list(_check_files(storage)) if is_settled else []
    total = sum(len(places) for _, places in stores)
    done = 0
    for heap, places in stores:
        written = WrittenRows()
        for place in places:
            problems += _check_chunk(storage, heap, place, written, is_settled=is_settled)
            done += 1
            if progress is not None:
                progress(done, total)
        problems += _check_index(storage, heap, places, written, snapshot)
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


def _check_chunk(
    storage: Storage, heap: Heap, place: Place, written: WrittenRows, *, is_settled: bool
) -> Iterator[Problem]:
    """Check header, directory and records of a chunk; yield what is wrong, and add what its segments say."""
    chunk = place.chunk
    end = chunk.header.data_offset
    header: Header | None = chunk.header
    try:
        header = chunk.header if chunk.is_unlinked() else read_header(chunk.path)
    except (Error, OSError) as error:
        # Else it was dropped or compacted meanwhile: only its mapping is left.
        if storage.heaps.get(heap.name) is heap and chunk.id in heap.chunks:
            yield Problem(str(error), chunk.path, RESTORE)
            header = None
    if header is not None:
        if header != chunk.header:
            yield Problem("a header of another chunk", chunk.path, RESTORE)
        end = yield from _check_segments(storage, heap, place, written)
    if is_settled:
        yield from _check_working_fields(place, end)


def _check_segments(
    storage: Storage, heap: Heap, place: Place, written: WrittenRows
) -> Generator[Problem, None, int]:
    """Check the segments of a chunk, and return where the data of the last one ends."""
    chunk = place.chunk
    reached, end = chunk.header.file_size, chunk.header.data_offset
    commit = epoch = 0
    before: Segment | None = None
    for segment in takewhile(lambda segment: segment.low >= place.directory, chunk.segments()):
        reached = segment.low
        written.add(segment)
        if segment.commit <= commit or segment.epoch < epoch or segment.start < end:
            what = f"commit {segment.commit} of epoch {segment.epoch} after commit {commit} of epoch {epoch}"
            yield Problem(what, f"{chunk.path} at byte {segment.low}", RESTORE)
            continue  # what lies over what was read already is not read again: it could be any number of times
        commit, epoch, end = segment.commit, segment.epoch, segment.end
        # As late as may be: other threads may change records in place once a checkpoint has them.
        checkpoint = math.inf if storage.is_copy else storage.index.checkpoint
        yield from _check_records(heap, place, segment, checkpoint)
        yield from _check_longer(heap, place, segment, before)
        before = segment if segment.end > segment.start else before
    if reached != place.directory:
        what = f"a directory that ends at byte {reached}, expected {place.directory}"
        yield Problem(what, f"{chunk.path} at byte {reached}", RESTORE)
    if end > place.free:
        yield Problem(f"data up to byte {end}, expected {place.free}", chunk.path, RESTORE)
    return end


def _check_records(heap: Heap, place: Place, segment: Segment, checkpoint: float) -> Iterator[Problem]:
    """Yield what is wrong with the bytes of the records of one segment."""
    chunk = place.chunk
    raw = memoryview(chunk.source)
    crc = data_crc(raw, segment.run, segment.start, heap.item_size) if _is_covered(segment, checkpoint) else None
    if crc not in (None, segment.data_crc):
        what = f"records of commit {segment.commit} that do not match their CRC"
        yield Problem(what, f"{chunk.path}, bytes {segment.start} to {segment.end}", RESTORE)
    over = 0 if isinstance(segment.run, ContiguousRun) else _count_over(segment.run.rows, heap.item_size)
    if over:
        what = f"{over} records of commit {segment.commit} over one another"
        yield Problem(what, f"{chunk.path}, bytes {segment.start} to {segment.end}", REBUILD)


def _check_longer(heap: Heap, place: Place, segment: Segment, before: Segment | None) -> Iterator[Problem]:
    """Yield a problem if a record begins below the commit's bytes, and is not the last one of `before`, longer."""
    for key, offset, *_ in _records_below(bounding_rows(segment.run), segment.start):
        last = before and _last_record(before)
        expected = last and (last[0], last[1], last[1] + last[2] * heap.item_size)
        if (key, offset, segment.start) != expected:
            what = f"record {key} of commit {segment.commit}, over others"
            yield Problem(what, f"{place.chunk.path} at byte {offset}", RESTORE)


def _records_below(rows: RowArray, start: int) -> Iterator[Extent]:
    """Yield the rows of records that begin below a byte."""
    if len(rows) <= FEW_ROWS:
        yield from (row for row in rows.tolist() if row[1] < start and not row[4] & TOMBSTONE)
        return
    for part in blocks(rows):
        yield from part[(part["offset"] < np.uint64(start)) & (part["flags"] & TOMBSTONE == 0)].tolist()


def _last_record(segment: Segment) -> Extent | None:
    """Return the record that lies behind all others of a segment, if any has bytes."""
    found: Extent | None = None
    for part in blocks(bounding_rows(segment.run)):
        records = part[(part["length"] > 0) & (part["flags"] & TOMBSTONE == 0)]
        if len(records):
            last: Extent = records[records["offset"].argmax()].item()
            found = last if found is None or last[1] > found[1] else found
    return found


def _count_over(rows: RowArray, item_size: int) -> int:
    """Return how many records of one chunk begin before the one ends that lies before them."""
    if len(rows) <= FEW_ROWS:
        records = (row for row in rows.tolist() if row[2] and not row[4] & TOMBSTONE)
        places = sorted((row[1:3] for row in records), key=itemgetter(0))
        return sum(there < at + length * item_size for (at, length), (there, _) in pairwise(places))
    return _count_over_of_many(rows, item_size)


def _count_over_of_many(rows: RowArray, item_size: int) -> int:
    if not is_by_offset(rows) or not all(_have_bytes(part).all() for part in blocks(rows)):
        rows = by_offset(rows[_have_bytes(rows)])
    return sum(int(_are_over(part, item_size).sum()) for part in blocks(rows, 1))


def _have_bytes(rows: RowArray) -> npt.NDArray[np.bool_]:
    """Tell which rows are records that are not empty; a damaged tombstone may have any place and length."""
    have: npt.NDArray[np.bool_] = (rows["length"] > 0) & (rows["flags"] & TOMBSTONE == 0)
    return have


def _are_over(rows: RowArray, item_size: int) -> npt.NDArray[np.bool_]:
    ends = rows["offset"] + rows["length"] * np.uint64(item_size)
    over: npt.NDArray[np.bool_] = rows["offset"][1:] < ends[:-1]
    return over


def _is_covered(segment: Segment, checkpoint: float) -> bool:
    """Tell whether a segment's CRC must hold: records that changed in place since a checkpoint do not match it."""
    if segment.commit > checkpoint:
        return True
    found = segment.run.flag_values
    if len(found) <= FEW_ROWS:
        return all(flags & (MUTABLE | ZERO | TOMBSTONE) != MUTABLE for flags in found.tolist())
    parts = blocks(found)
    return not any((flags & (MUTABLE | ZERO | TOMBSTONE) == MUTABLE).any() for flags in parts)


def _check_working_fields(place: Place, end: int) -> Iterator[Problem]:
    chunk = place.chunk
    free, directory = found = chunk.working_offsets()
    # An aborted transaction may have left a gap, which no commit has counted yet.
    sound = end <= free <= place.free and directory == place.directory
    if not sound and (chunk.committed, chunk.directory) == place[1:]:
        what = f"free and directory offset {found}, expected {(place.free, place.directory)}"
        yield Problem(what, f"{chunk.path} at byte 88", HARMLESS)


# ---------------------------------------------------------------------- index against chunks


def _check_index(
    storage: Storage, heap: Heap, places: list[Place], written: WrittenRows, snapshot: IndexSnapshot
) -> Iterator[Problem]:
    """Compare the index rows of a store with its directories, both ways."""
    where = f"{storage.index.leveldb.path}, store {heap.name!r}"
    difference, live = Difference(), dict.fromkeys((place.chunk.id for place in places), (0, 0))
    try:
        # None of a chunk that another one here replaces: with the commit that replaces it, it leaves the heap.
        for rows, expected in _side_by_side(snapshot.runs(heap.store, 0, KEY_END), written.pieces()):
            difference.add(rows, expected)
            _count_live(live, rows, heap.item_size)
        counts = snapshot.live(heap.store)
    except ClosedError:  # closed by another thread meanwhile: that is no damage
        raise
    except (Error, OSError) as error:
        yield Problem(str(error), where, REBUILD)
        return
    for what in difference.found():
        yield Problem(what, where, REBUILD)
    for chunk, actual in live.items():
        if tuple(counts.get(chunk, (0, 0))) != actual:
            what = f"live records and bytes {tuple(counts.get(chunk, (0, 0)))}, expected {actual}"
            yield Problem(what, f"{where}, chunk {chunk}", REBUILD)


def _side_by_side(
    runs: Iterator[Run], pieces: Iterable[tuple[int, RowArray]]
) -> Iterator[tuple[RowArray, RowArray]]:
    """Yield the rows of consecutive runs beside those of pieces, each up to the same key."""
    run = next(runs, None)
    for stop, expected in pieces:
        mine: list[Run] = []
        while run is not None and first_key(run) < stop:
            mine.append(clip_run(run, 0, stop))
            count = len(mine[-1])
            run = run.part(count, len(run)) if count < len(run) else next(runs, None)
        yield joined(mine), expected


def _count_live(live: dict[int, tuple[int, int]], rows: RowArray, item_size: int) -> None:
    """Add records and their bytes to those of each chunk."""
    for chunk in chunks_of(rows):
        mine = rows_in_chunk(rows, chunk)
        count, size = live.get(chunk, (0, 0))
        live[chunk] = count + len(mine), size + int(mine["length"].sum()) * item_size


class Difference:
    """In what the rows of an index and those of the directories differ, piece by piece."""

    def __init__(self) -> None:
        self._missing = self._surplus = _NONE
        self._other: int | None = None

    def add(self, rows: RowArray, expected: RowArray) -> None:
        """Compare the rows of a piece with those that there should be."""
        if len(rows) == len(expected) and np.array_equal(rows.view("<u8"), expected.view("<u8")):
            return
        missing = np.setdiff1d(expected["key"], rows["key"])
        surplus = np.setdiff1d(rows["key"], expected["key"])
        self._missing, self._surplus = self._missing.and_those(missing), self._surplus.and_those(surplus)
        if not len(missing) and not len(surplus) and self._other is None:
            self._other = int(rows["key"][np.argmax(rows != expected)])

    def found(self) -> Iterator[str]:
        """Yield what was found, in words."""
        if self._missing.number:
            yield f"{self._missing.number} keys of the chunks are not in the index, first {self._missing.first}"
        if self._surplus.number:
            yield f"{self._surplus.number} keys of the index are not in the chunks, first {self._surplus.first}"
        if self._other is not None:
            yield f"another extent than the chunk's directory has, first for key {self._other}"


class _Keys(NamedTuple):
    """How many keys there are, and the first one."""

    number: int
    first: int

    def and_those(self, keys: npt.NDArray[np.uint64]) -> _Keys:
        return _Keys(self.number + len(keys), self.first if self.number or not len(keys) else int(keys[0]))


_NONE = _Keys(0, 0)
