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
import numpy.typing as npt

from .extent import (
    LIVE,
    ROW_SIZE,
    TOMBSTONE,
    ZERO,
    Run,
    by_offset,
    coalesce,
    is_sorted,
    misplaced,
    run_from_bytes,
)

MAGIC = b"SEGM"
SEGMENT = struct.Struct("<4sIIIQQQQIII")
OWN_CRC = struct.Struct("<I")
SEGMENT_SIZE = 64
assert SEGMENT.size + OWN_CRC.size == SEGMENT_SIZE


class Segment(NamedTuple):
    """What one commit appended to one chunk.

    ``start`` and ``end`` bound the commit's bytes in the file, ``low`` is the lowest byte of the segment's
    rows, which lie just below its record; ``parts`` counts the chunks that the commit touched.
    """

    chunk: int
    commit: int
    epoch: int
    parts: int
    part: int
    start: int
    end: int
    data_crc: int
    rows: Run
    low: int


def pack_record(
    chunk: int,
    commit: int,
    epoch: int,
    parts: int,
    part: int,
    start: int,
    end: int,
    data_crc: int,
    rows: bytes | memoryview,
) -> bytes:
    """Return the record that stands above a segment's rows."""
    count = len(rows) // ROW_SIZE
    head = SEGMENT.pack(MAGIC, parts, part, count, commit, epoch, start, end, data_crc, zlib.crc32(rows), 0)
    return head + OWN_CRC.pack(zlib.crc32(head, chunk))


def data_crc(raw: memoryview, rows: Run, item_size: int) -> int:
    """Return the CRC of the bytes of all records but ``ZERO`` ones, in the order in which they lie."""
    covered = rows[(rows["flags"] & (TOMBSTONE | ZERO) == 0) & (rows["length"] > 0)]
    if not len(covered):
        return 0
    offset, size = covered["offset"], covered["length"] * np.uint64(item_size)
    start, end = int(offset.min()), int((offset + size).max())
    if int(size.sum()) == end - start:  # no gaps, so there is no need to sort
        return zlib.crc32(raw[start:end])
    crc = 0
    for _, offset, length, _, _ in coalesce(by_offset(covered), item_size).tolist():
        crc = zlib.crc32(raw[offset : offset + length * item_size], crc)
    return crc


def parse_segment(raw: memoryview, position: int, chunk: int, data_offset: int, item_size: int) -> Segment | None:
    """Return the segment whose record ends at `position`, or None if no valid one stands there."""
    top = position - SEGMENT_SIZE
    if top < data_offset:
        return None
    head = bytes(raw[top : top + SEGMENT.size])
    magic, parts, part, count, commit, epoch, start, end, crc, rows_crc, reserved = SEGMENT.unpack(head)
    if magic != MAGIC or OWN_CRC.unpack_from(raw, top + SEGMENT.size)[0] != zlib.crc32(head, chunk):
        return None
    low = top - count * ROW_SIZE
    if reserved or part >= parts or not data_offset <= start <= end <= low:
        return None
    rows = run_from_bytes(raw[low:top])
    if zlib.crc32(raw[low:top]) != rows_crc or not rows_are_sound(rows, chunk, start, end, item_size):
        return None
    return Segment(chunk, commit, epoch, parts, part, start, end, crc, rows, low)


def rows_are_sound(rows: Run, chunk: int, start: int, end: int, item_size: int) -> bool:
    """Tell whether rows are a run whose records lie in ``[start, end)`` of this chunk."""
    flags = rows["flags"]
    records = rows[flags & TOMBSTONE == 0]
    zero_alone = (flags & ZERO != 0) & (flags & LIVE == 0)
    return (
        bool((rows["chunk"] == chunk).all())
        and is_sorted(rows["key"])
        and not bool(zero_alone.any())
        and not bool(misplaced(records, start, end, item_size).any())
    )


def survey(directory: memoryview) -> tuple[npt.NDArray[np.uint32], int] | None:
    """Return the flags of all rows of a directory, and the size of its last segment, without walking it.

    Parameters
    ----------
    directory : memoryview
        All of one, and sound.

    Returns
    -------
    tuple or None
        None if rows and records cannot be told apart for sure.
    """
    units = run_from_bytes(
        directory
    )  # a record is two units, its row count the upper half of the first one's offset
    is_record = units["key"].astype(np.uint32) == int.from_bytes(MAGIC, "little")
    records = np.flatnonzero(is_record)
    # What looks like a record and is none makes this sum too large.
    if not len(records) or 2 * len(records) + int((units["offset"][records] >> np.uint64(32)).sum()) != len(units):
        return None
    is_record[records + 1] = True
    return units["flags"][~is_record], int(records[0]) * ROW_SIZE + SEGMENT_SIZE


def walk(raw: memoryview, position: int, chunk: int, data_offset: int, item_size: int) -> Iterator[Segment]:
    """Yield the directory's segments from `position` downwards, in the order of their commits."""
    while (segment := parse_segment(raw, position, chunk, data_offset, item_size)) is not None:
        yield segment
        position = segment.low
