"""One's way in the directory of a chunk, by the records of its segments alone: no rows are read.

A directory grows down, so it is read from the end of the file, or from a position that is known. Who wants the
last of many segments would pass all others: so they are looked for from the lower end upwards, too. There a segment
begins with its rows, whose size only the record above them tells, and which may hold any bytes; what is taken for
that record has its magic and CRC, and says the very size that leads back to where the search began.

Segments of one size stand at equal distances, as single writes leave them: those are looked at together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..runs.extent import ROW_SIZE
from ..runs.packed import size_of
from .segment import MAGIC, MOST_ROWS, REPLACES, SEGMENT_SIZE, Record, read_record

RECORD = np.dtype("<u4, <u4, <u4, <u4, <u8, <u8, <u8, <u8, <u4, <u4, <u4, <u4")
RECORD.names = (*Record._fields, "crc")
assert RECORD.itemsize == SEGMENT_SIZE
NEAR = 256
"""So many segments are passed, at the most, before the search from the other end begins."""


class Raw(Protocol):
    """A chunk file, mapped."""

    def __buffer__(self, flags: int, /) -> memoryview:
        """Return its bytes."""

    def find(self, sub: bytes, start: int = ..., stop: int = ..., /) -> int:
        """Return where some bytes stand, or -1."""


class Records(NamedTuple):
    """Segments that follow one another, the oldest first, without their rows.

    Attributes
    ----------
    positions : ndarray of int64
        Where the record of each ends.
    commits, parts : ndarray of int64
        The commit of each, and how many chunks that touched.
    moved : ndarray of bool
        Whether the commit moved records from other chunks, and did nothing else.
    low : int
        Where the last one ends.
    """

    positions: npt.NDArray[np.int64]
    commits: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]
    moved: npt.NDArray[np.bool_]
    low: int

    def between(self, since: int, upto: int) -> Records:
        """Return those of the commits after one, up to another."""
        low, high = np.searchsorted(self.commits, (since, upto), side="right").tolist()
        end = self.low if high == len(self.commits) else int(self.positions[high])
        part = slice(low, high)
        return Records(self.positions[part], self.commits[part], self.parts[part], self.moved[part], end)

    def followed_by(self, other: Records) -> Records:
        """Return these and the ones that follow."""
        return Records(
            np.concatenate([self.positions, other.positions]),
            np.concatenate([self.commits, other.commits]),
            np.concatenate([self.parts, other.parts]),
            np.concatenate([self.moved, other.moved]),
            other.low,
        )


class First(NamedTuple):
    """The first commit of a chunk, and whether it moved records from other chunks, and did nothing else."""

    commit: int
    is_moved: bool


def first_of(raw: Raw, position: int, chunk: int) -> First | None:
    """Return which commit made the segment whose record ends at a position, or None if there is none."""
    record = read_record(memoryview(raw), position, chunk)
    return None if record is None else First(record.commit, bool(record.form & REPLACES))


def count_of_only(raw: Raw, position: int, low: int, chunk: int) -> int | None:
    """Return how many rows a directory between two positions has, if it is one segment; else None."""
    if _size_below(raw, position, low, chunk) != position - low:
        return None
    record = read_record(memoryview(raw), position, chunk)
    return None if record is None else record.row_count


def later_than(raw: Raw, position: int, low: int, commit: int, chunk: int) -> Records:
    """Return the segments between two positions that are of later commits than one.

    Parameters
    ----------
    raw : Raw
    position, low : int
        The directory's part to look at. If `low` in the result is another one, it ends there.
    commit, chunk : int
    """
    near = _walk(raw, position, low, chunk, NEAR)
    if len(near.commits) < NEAR or near.low == low:
        return near.between(commit, _ANY)
    if near.commits[-1] > commit:
        rest = _walk(raw, near.low, low, chunk, _ANY)
        return near.followed_by(rest).between(commit, _ANY)
    start = _find_start(raw, low, near.low, commit, chunk)
    return _walk(raw, start, low, chunk, _ANY).between(commit, _ANY)


_ANY = 1 << 62


def _walk(raw: Raw, position: int, low: int, chunk: int, most: int) -> Records:
    """Return segments from a position downwards: about as many as are asked for, or until they end."""
    found: list[npt.NDArray[Any]] = []
    positions: list[npt.NDArray[np.int64]] = []
    count, window = 0, 1
    while count < most and (size := _size_below(raw, position, low, chunk)):
        alike = min(window, (position - low) // size)
        lowest = position - SEGMENT_SIZE - (alike - 1) * size
        records = _prefix(_strided(raw, lowest, size, alike)[::-1])
        found.append(records)
        positions.append(position - size * np.arange(len(records)))
        position -= len(records) * size
        count += len(records)
        window = 2 * window if len(records) == window else 1
    return _columns(found, positions, position)


def _columns(found: Sequence[npt.NDArray[Any]], positions: Sequence[npt.NDArray[np.int64]], low: int) -> Records:
    # With its type given: else NumPy compares the types of all parts, field by field.
    records = np.concatenate(found, dtype=RECORD) if found else np.empty(0, RECORD)
    where = np.concatenate(positions) if positions else np.empty(0, np.int64)
    commits, parts = records["commit"].astype(np.int64), records["parts"].astype(np.int64)
    return Records(where, commits, parts, records["form"] & REPLACES != 0, low)


def _find_start(raw: Raw, low: int, top: int, commit: int, chunk: int) -> int:
    """Return where the segments after a commit begin, having gone up from `low` to there, at most to `top`."""
    position, window = low, 1
    while position < top:
        end = record_above(raw, position, top, chunk)
        if not end:
            return top
        size = end - position
        alike = min(window, (top - position) // size)
        records = _prefix(_strided(raw, end - SEGMENT_SIZE, size, alike))
        older = np.flatnonzero(records["commit"] <= np.uint64(commit))
        if len(older):
            return position + int(older[0]) * size
        position += len(records) * size
        window = 2 * window if len(records) == window else 1
    return top


def record_above(raw: Raw, position: int, top: int, chunk: int) -> int:
    """Return where the record ends of the segment whose lowest byte is at a position, or 0 if none is found."""
    at = position
    while (at := raw.find(MAGIC, at, top)) >= 0:
        end = at + SEGMENT_SIZE
        is_aligned = end <= top and not (at - position) % ROW_SIZE
        if is_aligned and _size_below(raw, end, position, chunk) == end - position:
            return end
        at += 1
    return 0


def _size_below(raw: Raw, position: int, low: int, chunk: int) -> int:
    """Return the size of the segment whose record ends at a position, or 0 if none stands there, above `low`."""
    if position - SEGMENT_SIZE < low:
        return 0
    record = read_record(memoryview(raw), position, chunk)
    if record is None or record.row_count > MOST_ROWS:
        return 0
    try:
        size = SEGMENT_SIZE + size_of(record.form & ~REPLACES, record.row_count)
    except ValueError:
        return 0
    return size if position - size >= low else 0


def _strided(raw: Raw, lowest: int, size: int, count: int) -> npt.NDArray[Any]:
    """Return what would be the records of segments of one size, from the lowest one on."""
    return np.ndarray((count,), RECORD, memoryview(raw), lowest, (size,))


def _prefix(records: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the records as far as they are, and are of segments of the size of the first one."""
    if len(records) == 1:
        return records
    first = records[0]
    alike = np.ones(len(records), bool)
    for name in ("magic", "row_count", "form"):
        alike &= records[name] == first[name]
    return records if alike.all() else records[: int(np.argmin(alike))]
