"""Pages: the bytes in which LevelDB keeps sorted rows of one store, made from rows and read back. No I/O.

A page has one of two forms, little-endian. Any rows are kept as they are, 32 bytes each (see ``extent.py``). Rows
that differ in their keys alone, as their records have one length and lie back to back, are a *short* page::

    0    u8  offset of the first record, in bytes
    8    u8  length of each record, in items, at least 1
    16   u8  step from key to key, or 0 if it varies
    24   u4  chunk
    28   u4  flags
    32   u4  count of rows, at least 1
    36   u4  zero
    40   u8  the first key; or, if the step varies, all keys
    ...  u1  form = 1

The size tells them apart: that of a short page is odd. The last key is in LevelDB's own key, too.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from .extent import ROW_SIZE, TOMBSTONE, Run
from .piece import Keys, Stretch

SHORT = struct.Struct("<QQQIIII")
FORM = b"\1"
KEY_SIZE = 8
assert SHORT.size == 40


def pack_pages(rows: Run, item_size: int, row_count: int) -> list[tuple[int, bytes]]:
    """Return rows as pages of `row_count`, each with its last key."""
    packed = np.ascontiguousarray(rows).view(np.uint8).data
    keys = np.ascontiguousarray(rows["key"])
    apart, bends = _apart(rows, item_size), _bends(keys)
    pages = []
    for first in range(0, len(rows), row_count):
        upto = min(first + row_count, len(rows))
        if not rows["length"][first] or apart[first + 1 : upto].any():
            page = bytes(packed[first * ROW_SIZE : upto * ROW_SIZE])
        else:
            page = _short(rows[first].item(), keys[first:upto], is_even=not bends[first + 2 : upto].any())
        pages.append((int(keys[upto - 1]), page))
    return pages


def _apart(rows: Run, item_size: int) -> npt.NDArray[np.bool_]:
    """Tell which rows do not go on where the ones before them end, or are of another length or flags."""
    apart = np.ones(len(rows), bool)
    if len(rows):
        length, offset = rows["length"], rows["offset"]
        apart[1:] = offset[1:] != offset[:-1] + length[:-1] * np.uint64(item_size)
        for column in (length, rows["chunk"], rows["flags"]):
            apart[1:] |= column[1:] != column[:-1]
    return apart


def _bends(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Tell which keys do not rise by the step of the ones before them."""
    bends = np.zeros(len(keys), bool)
    steps = keys[1:] - keys[:-1]
    bends[2:] = steps[1:] != steps[:-1]
    return bends


def _short(first: tuple[int, ...], keys: npt.NDArray[np.uint64], *, is_even: bool) -> bytes:
    key, offset, length, chunk, flags = first
    step = 0
    if is_even:
        step = int(keys[1]) - key if len(keys) > 1 else 1
    kept = keys[:1] if is_even else keys
    return SHORT.pack(offset, length, step, chunk, flags, len(keys), 0) + kept.tobytes() + FORM


def is_short(page: bytes) -> bool:
    """Tell which form a page has."""
    return len(page) % ROW_SIZE != 0


def count_rows(page: bytes) -> int:
    """Return how many rows a page has, or says that it has."""
    return len(page) // ROW_SIZE if not is_short(page) else int.from_bytes(page[32:36], "little")


def unpack_short(page: bytes, last: int, item_size: int, row_count: int) -> Stretch:
    """Return the rows of a short page.

    Raises
    ------
    ValueError
        It is not one of up to `row_count` rows, or its last key is not `last`.
    """
    kept, rest = divmod(len(page) - SHORT.size - len(FORM), KEY_SIZE)
    if kept < 1 or rest or page[-1:] != FORM:
        raise ValueError(f"{len(page)} bytes that end in {page[-1:]!r}")
    offset, length, step, chunk, flags, count, zero = SHORT.unpack_from(page)
    if zero or not 1 <= count <= row_count or kept != (1 if step else count):
        raise ValueError(f"{count} rows and {kept} keys")
    if not length or offset % item_size or offset + count * length * item_size >= 1 << 63 or flags & TOMBSTONE:
        raise ValueError(f"records of {length} items at {offset}, flags {flags}")
    start = offset // item_size
    keys = _keys(np.frombuffer(page, np.uint64, kept, SHORT.size), step, count, last)
    return Stretch(keys, range(start, start + count * length + 1, length), chunk, flags, item_size)


def _keys(kept: npt.NDArray[np.uint64], step: int, count: int, last: int) -> Keys:
    if step:
        first = int(kept[0])
        if first + step * (count - 1) != last:
            raise ValueError(f"keys from {first} in steps of {step}")
        return range(first, last + 1, step)
    if int(kept[-1]) != last or not bool((kept[1:] > kept[:-1]).all()):
        raise ValueError("keys out of order")
    return kept
