"""Extents and rows: where records lie, and the algebra of sorted rows. Pure NumPy: no I/O, no ctypes.

An *extent* is one 32-byte row ``(key, offset, length, chunk, flags)``, little-endian. ``offset`` is bytes from
the start of the chunk file, ``length`` is items. *Rows* are an array of extents, sorted by key, no key twice,
unless a function says otherwise. The overlay of newer rows on older ones is written here once, and serves delta
over pages, transaction over index, and compaction.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

RowArray: TypeAlias = npt.NDArray[Any]
Extent: TypeAlias = tuple[int, int, int, int, int]

EXTENT_DTYPE = np.dtype([("key", "<u8"), ("offset", "<u8"), ("length", "<u8"), ("chunk", "<u4"), ("flags", "<u4")])
ROW = struct.Struct("<QQQII")
KEY_OF_ROW = struct.Struct("<Q")
ROW_SIZE = 32
assert EXTENT_DTYPE.itemsize == ROW.size == ROW_SIZE

ROW_BYTES = np.dtype((np.void, ROW_SIZE))
"""NumPy moves a row of these as one; one with fields, by an index, field by field and ten times slower."""

TOMBSTONE = 1
"""The key was deleted."""
MUTABLE = 2
"""The record may change in place: made by ``new()``, or in an object store."""
ZERO = 4
"""The record was born as zeros by ``new()``: no checksum covers it."""
DROPPED = 8
"""On a tombstone: the whole store was dropped by this commit."""
ALL_FLAGS = TOMBSTONE | MUTABLE | ZERO | DROPPED

BLOCK_ROWS = 1 << 18
"""So many rows are looked at together, where that takes memory for each."""

KEY_END = 2**64
"""One above the largest key: the stop of a range that has none."""


def empty_rows(count: int = 0) -> RowArray:
    """Return `count` zeroed rows."""
    return np.zeros(count, EXTENT_DTYPE)


def rows_from_bytes(rows: bytes | bytearray | memoryview) -> RowArray:
    """Return packed rows as an array over the same bytes."""
    return np.frombuffer(rows, EXTENT_DTYPE)


def unpack_row(row: bytes) -> Extent:
    """Return a packed row as an extent."""
    extent: Extent = ROW.unpack(row)
    return extent


def make_rows(keys: npt.NDArray[np.uint64], offsets: Any, lengths: Any, chunks: Any, flags: int = 0) -> RowArray:
    """Return rows with these columns; scalars are spread over all rows."""
    rows = np.empty(len(keys), EXTENT_DTYPE)
    rows["key"], rows["offset"], rows["length"], rows["chunk"], rows["flags"] = (
        keys,
        offsets,
        lengths,
        chunks,
        flags,
    )
    return rows


def concatenate(parts: Sequence[RowArray]) -> RowArray:
    """Return arrays of rows end to end; of one alone, itself."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([rows.view(ROW_BYTES) for rows in parts]).view(EXTENT_DTYPE) if parts else empty_rows()


def blocks(array: npt.NDArray[Any], overlap: int = 0) -> Iterator[npt.NDArray[Any]]:
    """Yield an array in parts, of each of which something is calculated in little memory.

    Each begins with so many items of the one before, if there is one.
    """
    for first in range(0, len(array), BLOCK_ROWS - overlap):
        yield array[max(first - overlap, 0) : first + BLOCK_ROWS - overlap]


def is_sorted(keys: npt.NDArray[np.uint64]) -> bool:
    """Tell whether keys rise strictly."""
    if len(keys) <= BLOCK_ROWS:
        return bool((keys[1:] > keys[:-1]).all())
    return all(map(is_sorted, blocks(keys, 1)))


def last_wins(rows: RowArray) -> RowArray:
    """Return rows, given in the order of writing, sorted by key: of equal keys the last one stays."""
    if is_sorted(rows["key"]):
        return rows
    rows = rows.take(np.argsort(rows["key"], kind="stable"))
    keys = rows["key"]
    is_last = np.append(keys[1:] != keys[:-1], True)
    return rows if is_last.all() else rows.compress(is_last)


def without_tombstones(rows: RowArray) -> RowArray:
    """Return the rows that are not tombstones."""
    dead = rows["flags"] & np.uint32(TOMBSTONE)
    return rows.compress(dead == 0) if dead.any() else rows


def overlay(newer: RowArray, older: RowArray) -> RowArray:
    """Return newer and older rows as one array; where both have a key, the newer row stays. Tombstones are kept."""
    if not len(newer) or not len(older):
        return newer if len(newer) else older
    if newer["key"][0] > older["key"][-1]:
        return concatenate([older, newer])
    where = np.searchsorted(older["key"], newer["key"])
    shadowed = where[find_equal(older, newer["key"], where)]
    if len(shadowed) == len(newer):
        merged = older.copy()
        merged[shadowed] = newer
        return merged
    kept = np.delete(older, shadowed) if len(shadowed) else older
    return _interleave(newer, kept)


def _interleave(newer: RowArray, older: RowArray) -> RowArray:
    """Merge rows that share no key."""
    slots = np.searchsorted(older["key"], newer["key"]) + np.arange(len(newer))
    merged = np.empty(len(newer) + len(older), EXTENT_DTYPE)
    from_older = np.ones(len(merged), bool)
    from_older[slots] = False
    places = merged.view(ROW_BYTES)
    places[slots] = newer.view(ROW_BYTES)
    places[from_older] = older.view(ROW_BYTES)
    return merged


def find_equal(rows: RowArray, keys: npt.NDArray[np.uint64], where: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Tell for which keys the row at `where` (from ``searchsorted``) has that very key."""
    if not len(rows):
        return np.zeros(len(keys), bool)
    found: npt.NDArray[np.bool_] = rows["key"][np.minimum(where, len(rows) - 1)] == keys
    return found & (where < len(rows))


def find_one(rows: RowArray, key: int) -> Extent | None:
    """Return the row of one key, or None."""
    at = int(rows["key"].searchsorted(np.uint64(key)))
    # As Python's integers: NumPy before 2.0 compares its own with those as floats.
    if at == len(rows) or int(rows["key"][at]) != key:
        return None
    extent: Extent = rows[at].item()
    return extent


def find_in_bytes(rows: bytes, key: int) -> Extent | None:
    """Return the row of one key, or None, of sorted rows as bytes: for a few hundred rows faster than an array."""
    low, high = 0, len(rows) // ROW_SIZE
    while low < high:
        middle = (low + high) // 2
        (found,) = KEY_OF_ROW.unpack_from(rows, middle * ROW_SIZE)
        if found < key:
            low = middle + 1
        else:
            high = middle
    if low * ROW_SIZE == len(rows):
        return None
    extent: Extent = ROW.unpack_from(rows, low * ROW_SIZE)
    return extent if extent[0] == key else None


def clip(rows: RowArray, start: int, stop: int) -> RowArray:
    """Return the rows with ``start <= key < stop``, as a view."""
    low = _count_below(rows, start)
    part: RowArray = rows[low : max(low, _count_below(rows, stop))]
    return part


def _count_below(rows: RowArray, bound: int) -> int:
    """Return how many rows have a key below `bound`, which may be ``KEY_END``."""
    return int(rows["key"].searchsorted(np.uint64(bound))) if bound < KEY_END else len(rows)


def rows_with(rows: RowArray, keys: npt.NDArray[np.uint64]) -> RowArray:
    """Return the rows that have one of these ascending keys."""
    if not len(rows) or not len(keys):
        return empty_rows()
    rows = clip(rows, int(keys[0]), int(keys[-1]) + 1)
    shared: RowArray
    if len(rows) < len(keys):
        where = np.searchsorted(keys, rows["key"])
        shared = rows[keys[np.minimum(where, len(keys) - 1)] == rows["key"]]
    else:
        where = np.searchsorted(rows["key"], keys)
        shared = rows[where[find_equal(rows, keys, where)]]
    return shared


def intersect(parts: Sequence[RowArray]) -> list[RowArray]:
    """Return of each array the rows whose keys all of them have."""
    keys = min(parts, key=len)["key"]
    if all(np.array_equal(rows["key"], keys) for rows in parts):
        return list(parts)
    for rows in parts:
        keys = np.ascontiguousarray(rows_with(rows, keys)["key"])
    return [rows_with(rows, keys) for rows in parts]


def breaks(rows: RowArray, item_size: int) -> npt.NDArray[np.intp]:
    """Return where the records of rows stop lying back to back: positions in ``(0, len(rows))``."""
    if len(rows) < 2:
        return np.empty(0, np.intp)
    size = rows["length"] * np.uint64(item_size)
    offset = rows["offset"]
    chunk = rows["chunk"]
    apart = (offset[1:] != offset[:-1] + size[:-1]) | (chunk[1:] != chunk[:-1])
    return np.flatnonzero(apart) + 1


def uniform_length(rows: RowArray, item_size: int) -> int:
    """Return the length that all records have, if they lie back to back in one chunk as well, else 0."""
    if not len(rows):
        return 0
    length, offset = int(rows["length"][0]), rows["offset"]
    if not length or int(offset[-1]) - int(offset[0]) != length * item_size * (len(rows) - 1):
        return 0  # without a look at each row
    alike = (rows["length"] == length).all() and (rows["chunk"] == rows["chunk"][0]).all()
    even = alike and (offset[1:] - offset[:-1] == length * item_size).all()
    return length if even else 0


def coalesce(rows: RowArray, item_size: int) -> RowArray:
    """Return one row for each sequence of records that lie back to back, with the first row's key.

    The input may be in any order; neighbours in that order are joined. ``length`` is the sum of lengths.
    """
    if not len(rows):
        return rows
    starts = np.concatenate([[0], breaks(rows, item_size)])
    joined: RowArray = rows[starts]
    joined["length"] = np.add.reduceat(rows["length"], starts)
    return joined


def chunks_of(rows: RowArray) -> list[int]:
    """Return the ids of the chunks of rows, ascending: even of many rows these are few, and change rarely."""
    chunks = rows["chunk"]
    changes = chunks[1:][chunks[1:] != chunks[:-1]]
    if not len(changes):
        one: list[int] = chunks[:1].tolist()
        return one
    # Not by ``np.unique``, which imports numpy.ma: the first commit of a process would take 10 ms more.
    ascending = np.sort(np.append(chunks[:1], changes))
    found: list[int] = ascending[np.append(True, ascending[1:] != ascending[:-1])].tolist()
    return found


def rows_in_chunk(rows: RowArray, chunk: int) -> RowArray:
    """Return the rows of one chunk, as a view where they stand together."""
    mine = rows["chunk"] == chunk
    count = int(np.count_nonzero(mine))
    first = int(np.argmax(mine)) if count else 0
    together: RowArray = rows[first : first + count]
    if bool(mine[first : first + count].all()):
        return together
    picked: RowArray = rows[mine]
    return picked


def by_offset(rows: RowArray) -> RowArray:
    """Return the rows of one chunk in the order in which their bytes lie."""
    return rows if is_by_offset(rows) else rows.take(np.argsort(rows["offset"], kind="stable"))


def is_by_offset(rows: RowArray) -> bool:
    """Tell whether rows of one chunk come in the order in which their bytes lie."""
    return all(bool((part["offset"][1:] >= part["offset"][:-1]).all()) for part in blocks(rows, 1))


def misplaced(rows: RowArray, low: int, high: int, item_size: int) -> npt.NDArray[np.bool_]:
    """Tell which records do not lie, aligned, within bytes ``[low, high)``. No sum here can wrap around."""
    if uniform_length(rows, item_size) and not (rows["flags"] & ~np.uint32(ALL_FLAGS)).any():
        ends = rows[[0, -1]]  # between them offsets rise evenly, in steps of whole items
        if not misplaced_one_by_one(ends, low, high, item_size).any():
            return np.zeros(len(rows), bool)
    return misplaced_one_by_one(rows, low, high, item_size)


def misplaced_one_by_one(rows: RowArray, low: int, high: int, item_size: int) -> npt.NDArray[np.bool_]:
    """Tell the same as :func:`misplaced`, looking at every row."""
    offset, length = rows["offset"], rows["length"]
    outside = (offset < np.uint64(low)) | (offset > np.uint64(high)) | (offset % np.uint64(item_size) != 0)
    room = (np.uint64(high) - np.minimum(offset, np.uint64(high))) // np.uint64(item_size)
    unknown = rows["flags"] & ~np.uint32(ALL_FLAGS) != 0
    bad: npt.NDArray[np.bool_] = outside | (length > room) | unknown
    return bad
