"""Extents and runs: where records lie, and the algebra of sorted rows. Pure NumPy: no I/O, no ctypes.

An *extent* is one 32-byte row ``(key, offset, length, chunk, flags)``, little-endian. ``offset`` is bytes from
the start of the chunk file, ``length`` is items. A *run* is an array of extents sorted by key, no key twice.
The overlay of a newer run on an older one is written here once, and serves delta over pages, transaction over
index, and compaction.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

RowArray: TypeAlias = npt.NDArray[Any]
Extent: TypeAlias = tuple[int, int, int, int, int]

EXTENT_DTYPE = np.dtype([("key", "<u8"), ("offset", "<u8"), ("length", "<u8"), ("chunk", "<u4"), ("flags", "<u4")])
ROW = struct.Struct("<QQQII")
ROW_SIZE = 32
assert EXTENT_DTYPE.itemsize == ROW.size == ROW_SIZE

_ROW_BYTES = np.dtype((np.void, ROW_SIZE))
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

KEY_END = 2**64
"""One above the largest key: the stop of a range that has none."""


def empty_run(count: int = 0) -> RowArray:
    """Return `count` zeroed rows."""
    return np.zeros(count, EXTENT_DTYPE)


def run_from_bytes(rows: bytes | bytearray | memoryview) -> RowArray:
    """Return packed rows as an array over the same bytes."""
    return np.frombuffer(rows, EXTENT_DTYPE)


def unpack_row(row: bytes) -> Extent:
    """Return a packed row as an extent."""
    extent: Extent = ROW.unpack(row)
    return extent


def make_run(keys: npt.NDArray[np.uint64], offsets: Any, lengths: Any, chunks: Any, flags: int = 0) -> RowArray:
    """Return rows with these columns; scalars are spread over all rows."""
    run = np.empty(len(keys), EXTENT_DTYPE)
    run["key"], run["offset"], run["length"], run["chunk"], run["flags"] = keys, offsets, lengths, chunks, flags
    return run


def concatenate(runs: Sequence[RowArray]) -> RowArray:
    """Return runs end to end; of one alone, itself."""
    if len(runs) == 1:
        return runs[0]
    return np.concatenate([run.view(_ROW_BYTES) for run in runs]).view(EXTENT_DTYPE) if runs else empty_run()


def is_sorted(keys: npt.NDArray[np.uint64]) -> bool:
    """Tell whether keys rise strictly."""
    return bool((keys[1:] > keys[:-1]).all())


def last_wins(rows: RowArray) -> RowArray:
    """Return rows, given in the order of writing, as a run: of equal keys the last one stays."""
    if is_sorted(rows["key"]):
        return rows
    rows = rows.take(np.argsort(rows["key"], kind="stable"))
    keys = rows["key"]
    is_last = np.append(keys[1:] != keys[:-1], True)
    return rows if is_last.all() else rows.compress(is_last)


def without_tombstones(run: RowArray) -> RowArray:
    """Return the run without its tombstones."""
    dead = run["flags"] & np.uint32(TOMBSTONE)
    return run.compress(dead == 0) if dead.any() else run


def overlay(newer: RowArray, older: RowArray) -> RowArray:
    """Return both runs as one; where both have a key, the newer row stays. Tombstones are kept."""
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
    """Merge two runs that share no key."""
    slots = np.searchsorted(older["key"], newer["key"]) + np.arange(len(newer))
    merged = np.empty(len(newer) + len(older), EXTENT_DTYPE)
    from_older = np.ones(len(merged), bool)
    from_older[slots] = False
    places = merged.view(_ROW_BYTES)
    places[slots] = newer.view(_ROW_BYTES)
    places[from_older] = older.view(_ROW_BYTES)
    return merged


def find_equal(run: RowArray, keys: npt.NDArray[np.uint64], where: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Tell for which keys the run's row at `where` (from ``searchsorted``) has that very key."""
    if not len(run):
        return np.zeros(len(keys), bool)
    found: npt.NDArray[np.bool_] = run["key"][np.minimum(where, len(run) - 1)] == keys
    return found & (where < len(run))


def find_one(run: RowArray, key: int) -> Extent | None:
    """Return the run's row of one key, or None."""
    at = int(np.searchsorted(run["key"], np.uint64(key)))
    # As Python's integers: NumPy before 2.0 compares its own with those as floats.
    if at == len(run) or int(run["key"][at]) != key:
        return None
    extent: Extent = run[at].item()
    return extent


def clip(run: RowArray, start: int, stop: int) -> RowArray:
    """Return the rows with ``start <= key < stop``, as a view."""
    low = _count_below(run, start)
    part: RowArray = run[low : max(low, _count_below(run, stop))]
    return part


def _count_below(run: RowArray, bound: int) -> int:
    """Return how many rows have a key below `bound`, which may be ``KEY_END``."""
    return int(np.searchsorted(run["key"], np.uint64(bound))) if bound < KEY_END else len(run)


def rows_with(run: RowArray, keys: npt.NDArray[np.uint64]) -> RowArray:
    """Return the run's rows that have one of these ascending keys."""
    if not len(run) or not len(keys):
        return empty_run()
    run = clip(run, int(keys[0]), int(keys[-1]) + 1)
    shared: RowArray
    if len(run) < len(keys):
        where = np.searchsorted(keys, run["key"])
        shared = run[keys[np.minimum(where, len(keys) - 1)] == run["key"]]
    else:
        where = np.searchsorted(run["key"], keys)
        shared = run[where[find_equal(run, keys, where)]]
    return shared


def intersect(runs: Sequence[RowArray]) -> list[RowArray]:
    """Return of each run the rows whose keys all runs have."""
    keys = min(runs, key=len)["key"]
    if all(np.array_equal(run["key"], keys) for run in runs):
        return list(runs)
    for run in runs:
        keys = np.ascontiguousarray(rows_with(run, keys)["key"])
    return [rows_with(run, keys) for run in runs]


def breaks(run: RowArray, item_size: int) -> npt.NDArray[np.intp]:
    """Return where the records of the run stop lying back to back: positions in ``(0, len(run))``."""
    if len(run) < 2:
        return np.empty(0, np.intp)
    size = run["length"] * np.uint64(item_size)
    offset = run["offset"]
    chunk = run["chunk"]
    apart = (offset[1:] != offset[:-1] + size[:-1]) | (chunk[1:] != chunk[:-1])
    return np.flatnonzero(apart) + 1


def uniform_length(run: RowArray, item_size: int) -> int:
    """Return the length that all records have, if they lie back to back in one chunk as well, else 0."""
    if not len(run):
        return 0
    length, offset = int(run["length"][0]), run["offset"]
    if not length or int(offset[-1]) - int(offset[0]) != length * item_size * (len(run) - 1):
        return 0  # without a look at each row
    alike = (run["length"] == length).all() and (run["chunk"] == run["chunk"][0]).all()
    even = alike and (offset[1:] - offset[:-1] == length * item_size).all()
    return length if even else 0


def coalesce(run: RowArray, item_size: int) -> RowArray:
    """Return the stretches of records that lie back to back: one row each, with the first row's key.

    The input may be in any order; neighbours in that order are joined. ``length`` is the sum of lengths.
    """
    if not len(run):
        return run
    starts = np.concatenate([[0], breaks(run, item_size)])
    joined: RowArray = run[starts]
    joined["length"] = np.add.reduceat(run["length"], starts)
    return joined


def chunks_of(run: RowArray) -> list[int]:
    """Return the ids of a run's chunks, ascending: of long runs these are few, and change rarely."""
    chunks = run["chunk"]
    changes = chunks[1:][chunks[1:] != chunks[:-1]]
    return sorted({*chunks[:1].tolist(), *np.unique(changes).tolist()})


def rows_in_chunk(run: RowArray, chunk: int) -> RowArray:
    """Return the rows of one chunk, as a view where they stand together."""
    mine = run["chunk"] == chunk
    count = int(np.count_nonzero(mine))
    first = int(np.argmax(mine)) if count else 0
    together: RowArray = run[first : first + count]
    if bool(mine[first : first + count].all()):
        return together
    picked: RowArray = run[mine]
    return picked


def by_offset(run: RowArray) -> RowArray:
    """Return the rows of one chunk in the order in which their bytes lie."""
    offset = run["offset"]
    if bool((offset[1:] >= offset[:-1]).all()):
        return run
    return run.take(np.argsort(offset, kind="stable"))


def misplaced(run: RowArray, low: int, high: int, item_size: int) -> npt.NDArray[np.bool_]:
    """Tell which records do not lie, aligned, within bytes ``[low, high)``. No sum here can wrap around."""
    if uniform_length(run, item_size) and not (run["flags"] & ~np.uint32(ALL_FLAGS)).any():
        ends = run[[0, -1]]  # between them offsets rise evenly, in steps of whole items
        if not misplaced_one_by_one(ends, low, high, item_size).any():
            return np.zeros(len(run), bool)
    return misplaced_one_by_one(run, low, high, item_size)


def misplaced_one_by_one(run: RowArray, low: int, high: int, item_size: int) -> npt.NDArray[np.bool_]:
    """Tell the same as :func:`misplaced`, looking at every row."""
    offset, length = run["offset"], run["length"]
    outside = (offset < np.uint64(low)) | (offset > np.uint64(high)) | (offset % np.uint64(item_size) != 0)
    room = (np.uint64(high) - np.minimum(offset, np.uint64(high))) // np.uint64(item_size)
    unknown = run["flags"] & ~np.uint32(ALL_FLAGS) != 0
    bad: npt.NDArray[np.bool_] = outside | (length > room) | unknown
    return bad
