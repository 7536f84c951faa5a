"""One segment of a chunk's directory: bytes to :class:`Segment` and back, and the walk down the directory.

The layout is specified in ``chunk.py``. Nothing here raises on damage: a directory ends at the first slot that
does not hold a valid segment, because that is what a crash leaves behind.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..runs.extent import (
    ALL_FLAGS,
    BLOCK_ROWS,
    MUTABLE,
    ROW_SIZE,
    TOMBSTONE,
    ZERO,
    Extent,
    RowArray,
    blocks,
    by_offset,
    coalesce,
    is_by_offset,
    misplaced,
)
from ..runs.packed import Packed, flags_of, size_of, unpack
from ..runs.run import ArrayRun, ContiguousRun, Run

MAGIC = b"SEGM"
SEGMENT = struct.Struct("<4sIIIQQQQIII")
OWN_CRC = struct.Struct("<I")
SEGMENT_SIZE = 64
REPLACES = 1 << 8
"""Beside the form of the rows: this commit replaces the chunks that the header names."""
MOST_ROWS = 1 << 28
"""No commit has as many rows in one chunk: 64 bytes in a sparse file could ask for any amount of memory else."""
FEW_ROWS = 32
"""Up to so many rows are looked at one by one: most commits have no more, and of these arrays take longer."""
assert SEGMENT.size + OWN_CRC.size == SEGMENT_SIZE


class Record(NamedTuple):
    """The record of a segment, as it is in the file."""

    magic: bytes
    parts: int
    part: int
    row_count: int
    commit: int
    epoch: int
    start: int
    end: int
    data_crc: int
    rows_crc: int
    form: int


class Segment(NamedTuple):
    """What one commit appended to one chunk.

    ``start`` and ``end`` bound the commit's bytes in the file, ``low`` is the lowest byte of the segment's
    rows, which lie just below its record; ``parts`` counts the chunks that the commit touched. ``run`` is over
    the bytes that it was read from. ``replaces`` tells whether the commit replaces the chunks that the header
    names.
    """

    chunk: int
    commit: int
    epoch: int
    parts: int
    part: int
    start: int
    end: int
    data_crc: int
    run: Run
    low: int
    replaces: bool = False


def pack_record(
    chunk: int,
    commit: int,
    epoch: int,
    parts: int,
    part: int,
    start: int,
    end: int,
    data_crc: int,
    rows: Packed,
    *,
    replaces: bool = False,
) -> bytes:
    """Return the record that stands above a segment's rows."""
    form, count, body = rows
    form |= REPLACES * replaces
    head = SEGMENT.pack(MAGIC, parts, part, count, commit, epoch, start, end, data_crc, zlib.crc32(body), form)
    return head + OWN_CRC.pack(zlib.crc32(head, chunk))


def data_crc(raw: memoryview, run: Run, start: int, item_size: int) -> int:
    """Return the CRC of the bytes of all records but ``ZERO`` ones, in the order in which they lie.

    A commit's bytes begin at `start`; a record that it made longer lies partly below, where others had written it.
    """
    if isinstance(run, ContiguousRun):
        return 0 if run.flags & (TOMBSTONE | ZERO) else zlib.crc32(raw[max(start, run.span.start) : run.span.stop])
    if len(run.rows) <= FEW_ROWS:
        return _crc_of_few(raw, run.rows.tolist(), start, item_size)
    return _crc_of_many(raw, run.rows, start, item_size)


def _crc_of_few(raw: memoryview, rows: list[Extent], start: int, item_size: int) -> int:
    """Return the CRC of the records of rows without arrays."""
    covered = sorted(
        (offset, offset + length * item_size)
        for _, offset, length, _, flags in rows
        if length and not flags & (TOMBSTONE | ZERO)
    )
    crc = 0
    for first, end in covered:
        crc = zlib.crc32(raw[max(start, first) : end], crc)
    return crc


def _crc_of_many(raw: memoryview, rows: RowArray, start: int, item_size: int) -> int:
    if len(rows) > BLOCK_ROWS and is_by_offset(rows):
        crc = 0
        for part in blocks(rows):
            crc = _crc_of_covered(raw, part, start, item_size, crc)
        return crc
    return _crc_of_covered(raw, rows, start, item_size, 0)


def _crc_of_covered(raw: memoryview, rows: RowArray, start: int, item_size: int, crc: int) -> int:
    covered = rows[(rows["flags"] & (TOMBSTONE | ZERO) == 0) & (rows["length"] > 0)]
    if not len(covered):
        return crc
    offset, size = covered["offset"], covered["length"] * np.uint64(item_size)
    first, end = int(offset.min()), int((offset + size).max())
    if int(size.sum()) == end - first:  # no gaps, so there is no need to sort
        return zlib.crc32(raw[max(start, first) : end], crc)
    for _, offset, length, _, _ in coalesce(by_offset(covered), item_size).tolist():
        crc = zlib.crc32(raw[max(start, offset) : offset + length * item_size], crc)
    return crc


def read_record(raw: memoryview, position: int, chunk: int) -> Record | None:
    """Return the record that ends at `position`, or None if no valid one stands there, whatever its rows are."""
    top = position - SEGMENT_SIZE
    head = bytes(raw[top : top + SEGMENT.size])
    record = Record(*SEGMENT.unpack(head))
    if record.magic != MAGIC or OWN_CRC.unpack_from(raw, top + SEGMENT.size)[0] != zlib.crc32(head, chunk):
        return None
    return record


def parse_segment(raw: memoryview, position: int, chunk: int, data_offset: int, item_size: int) -> Segment | None:
    """Return the segment whose record ends at `position`, or None if no valid one stands there."""
    top = position - SEGMENT_SIZE
    if top < data_offset:
        return None
    record = read_record(raw, position, chunk)
    if record is None:
        return None
    _, parts, part, count, commit, epoch, start, end, crc, rows_crc, form = record
    replaces, form = bool(form & REPLACES), form & ~REPLACES
    try:
        low = top - size_of(form, count)
        highest = min(low, top - count * ROW_SIZE)  # so that rows in memory are never more than the file's size
        if part >= parts or count > MOST_ROWS or not data_offset <= start <= end <= highest:
            return None
        if zlib.crc32(raw[low:top]) != rows_crc:
            return None
        run = unpack(Packed(form, count, raw[low:top]), item_size)
    except ValueError:
        return None
    if not _are_sound(run, chunk, Bounds(data_offset, start, end, item_size)):
        return None
    return Segment(chunk, commit, epoch, parts, part, start, end, crc, run, low, replaces)


class Bounds(NamedTuple):
    """Where the data of a chunk begins, where a commit's bytes in it begin and end, and the size of an item."""

    data_offset: int
    start: int
    end: int
    item_size: int

    def own_part(self, offset: int, length: int) -> tuple[int, int]:
        """Return the part of a record from ``start`` on, if it begins below and goes on there; else all of it."""
        if offset >= self.start:
            return offset, length
        below, rest = divmod(self.start - offset, self.item_size)
        is_longer = self.data_offset <= offset and not rest and length > below
        return (self.start, length - below) if is_longer else (offset, length)


def _are_sound(run: Run, chunk: int, bounds: Bounds) -> bool:
    """Tell whether the records of rows, whose keys ascend, lie in a commit's bytes of this chunk."""
    rows = bounding_rows(run)
    size = (_size_of_few if len(rows) <= FEW_ROWS else _size_of_many)(rows, chunk, bounds)
    # More bytes than there are would be records over one another, and each of them would have to be read.
    return size is not None and (isinstance(run, ContiguousRun) or size <= bounds.end - bounds.start)


def _size_of_few(rows: RowArray, chunk: int, bounds: Bounds) -> float | None:
    """Return how many bytes records have, or None if one does not lie in a commit's bytes; without arrays."""
    size = longer_count = 0
    for row in rows.tolist():
        if not _is_sound(row, chunk, bounds):
            return None
        _, offset, length, _, flags = row
        if not flags & TOMBSTONE:
            longer_count += offset < bounds.start
            size += bounds.own_part(offset, length)[1] * bounds.item_size
    return size if longer_count <= 1 else None


def _size_of_many(rows: RowArray, chunk: int, bounds: Bounds) -> float | None:
    """Return the same, summed as floats, which no sum makes wrap around, and which are exact for any file."""
    size, longer_count = 0.0, 0
    for part in blocks(rows):
        records = part[part["flags"] & TOMBSTONE == 0]
        longer_count += _own_parts(records, bounds)
        if longer_count > 1 or not _is_part_sound(part, records, chunk, bounds):
            return None
        size += float(records["length"].sum(dtype=np.float64)) * bounds.item_size
    return size


def bounding_rows(run: Run) -> RowArray:
    """Return the rows that tell where the records of a run lie: all, or the ends if offsets rise between them."""
    return run.rows if isinstance(run, ArrayRun) else run.ends


def _is_part_sound(rows: RowArray, records: RowArray, chunk: int, bounds: Bounds) -> bool:
    flags = rows["flags"]
    zero_alone = (flags & ZERO != 0) & (flags & MUTABLE == 0)
    return (
        bool((rows["chunk"] == chunk).all())
        and not bool(zero_alone.any())
        and not bool(misplaced(records, bounds.start, bounds.end, bounds.item_size).any())
    )


def _own_parts(records: RowArray, bounds: Bounds) -> int:
    """Take from records what lies below the commit's bytes, and return how many of them begin there."""
    longer = np.flatnonzero(records["offset"] < np.uint64(bounds.start))
    if len(longer) == 1:
        _, offset, length, _, _ = records[longer[0]].item()
        records["offset"][longer], records["length"][longer] = bounds.own_part(offset, length)
    return len(longer)


def _is_sound(row: Extent, chunk: int, bounds: Bounds) -> bool:
    """Tell the same of one row."""
    _, offset, length, found, flags = row
    if found != chunk or flags & (ZERO | MUTABLE) == ZERO:
        return False
    offset, length = bounds.own_part(offset, length)
    is_inside = bounds.start <= offset and offset + length * bounds.item_size <= bounds.end
    return bool(flags & TOMBSTONE) or (is_inside and not offset % bounds.item_size and not flags & ~ALL_FLAGS)


def survey(directory: memoryview) -> tuple[int, int] | None:
    """Return the flags that any row of a directory has, and the size of its last segment, from records alone.

    That takes a small part of the time of :func:`walk`, which checks all rows.

    Parameters
    ----------
    directory : memoryview
        All of one.

    Returns
    -------
    tuple or None
        None if the sizes in the records do not add up to the directory's.
    """
    flags = size = 0
    bottom = len(directory)
    try:
        while bottom:
            top = bottom - SEGMENT_SIZE
            _, _, _, count, *_, form = SEGMENT.unpack_from(directory, top)
            low = top - size_of(form & ~REPLACES, count)
            flags |= flags_of(Packed(form & ~REPLACES, count, directory[low:top]))
            size, bottom = bottom - low, low
    except (ValueError, struct.error):
        return None
    return flags, size


def walk(raw: memoryview, position: int, chunk: int, data_offset: int, item_size: int) -> Iterator[Segment]:
    """Yield the directory's segments from `position` downwards, in the order of their commits."""
    while (segment := parse_segment(raw, position, chunk, data_offset, item_size)) is not None:
        yield segment
        position = segment.low
