"""Packed rows: the bytes in which sorted rows of one store are kept, in the shortest of three forms. No I/O.

Rows whose records have one length and lie back to back differ in their keys only; so only the keys are kept of
them. All numbers are little-endian; every form is filled up with zeros to a multiple of 32 bytes::

    form 0, ALL     32 bytes for each row (see ``extent.py``)
    form 1, KEYS    u8 offset, u8 length (at least 1), u4 chunk, u4 flags: of the first row; then u8 key for each
    form 2, EVEN    the same 24 bytes; then u8 first key, u8 step from key to key

A chunk's directory and the pages of the index have rows in these forms; pages in two more, ``index/near_keys.py``.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .extent import ROW_SIZE, TOMBSTONE, Extent, is_sorted, rows_from_bytes
from .run import ArrayRun, ContiguousRun, Keys, Run, read_only, regular, spacing

ALL, KEYS, EVEN = range(3)
HEAD = struct.Struct("<QQII")
KEY_SIZE = 8
_ENDS = struct.Struct("<QQ")
FEWEST = 3
"""Of fewer rows no other form than ALL is shorter."""


class Packed(NamedTuple):
    """Rows as bytes: their form, how many they are, and a whole number of ``ROW_SIZE`` bytes."""

    form: int
    row_count: int
    body: bytes | memoryview


def pack(run: Run, item_size: int) -> Packed:
    """Return rows in their shortest form."""
    run = shortest(run, item_size)
    if isinstance(run, ArrayRun):
        return Packed(ALL, len(run), np.ascontiguousarray(run.rows).view(np.uint8).data)
    head = HEAD.pack(run.span.start, run.length, run.chunk, run.flags)
    keys = run.spacing
    if isinstance(keys, range):
        return Packed(EVEN, len(run), _filled(head, _ENDS.pack(keys.start, keys.step)))
    return Packed(KEYS, len(run), _filled(head, keys.data))


def packed_size(run: Run, item_size: int) -> int:
    """Return how many bytes rows take in their shortest form."""
    run = shortest(run, item_size)
    if isinstance(run, ArrayRun):
        return size_of(ALL, len(run))
    return size_of(EVEN if isinstance(run.spacing, range) else KEYS, len(run))


def size_of(form: int, count: int) -> int:
    """Return how many bytes rows take.

    Raises
    ------
    ValueError
        There is no such form.
    """
    if form == ALL:
        return count * ROW_SIZE
    if form not in (KEYS, EVEN) or not count:
        raise ValueError(f"{count} rows of form {form}")
    return -(-(HEAD.size + (count * KEY_SIZE if form == KEYS else _ENDS.size)) // ROW_SIZE) * ROW_SIZE


def flags_of(packed: Packed) -> int:
    """Return the flags that any of some rows has, which are sound."""
    form, count, body = packed
    if form == ALL and count != 1:
        return int(np.bitwise_or.reduce(rows_from_bytes(body)["flags"], initial=0))
    flags: int = HEAD.unpack_from(body, KEY_SIZE if form == ALL else 0)[3]  # a row is its key and the same fields
    return flags


def shortest(run: Run, item_size: int) -> Run:
    """Return rows as a ContiguousRun of one length, keys in the shortest form; an ArrayRun if there are none."""
    if len(run) < FEWEST:
        return ArrayRun(run.rows)
    if isinstance(run, ArrayRun):
        run = regular(run.rows, item_size)
    if isinstance(run, ArrayRun) or not run.length:
        return ArrayRun(run.rows)
    return run if isinstance(run.spacing, range) else run.over(spacing(run.spacing))


def _filled(head: bytes, rest: bytes | memoryview) -> bytes:
    size = len(head) + (rest.nbytes if isinstance(rest, memoryview) else len(rest))
    return b"".join([head, rest, bytes(-size % ROW_SIZE)])


def unpack(packed: Packed, item_size: int) -> Run:
    """Return the rows that some bytes are, over the same memory.

    Raises
    ------
    ValueError
        They are none: the size is another one, keys do not ascend, or regular records would be none. Of rows of
        form ALL nothing but the size and the keys is checked.
    """
    form, count, body = packed
    if len(body) != size_of(form, count):
        raise ValueError(f"{len(body)} bytes for {count} rows of form {form}")
    if form == ALL:
        rows = rows_from_bytes(body)
        if count > 1 and not is_sorted(rows["key"]):
            raise ValueError("keys out of order")
        return ArrayRun(rows)
    keys = _even_keys(body, count) if form == EVEN else _single_keys(body, count)
    return contiguous(keys, head_of(body, count, item_size), count, item_size)


def head_of(body: bytes | memoryview, count: int, item_size: int) -> Extent:
    """Return the first row of rows of one length that lie back to back, but for its key.

    Raises
    ------
    ValueError
        There can be no such records.
    """
    offset, length, chunk, flags = HEAD.unpack_from(body)
    if not length or offset % item_size or offset + count * length * item_size >= 1 << 63 or flags & TOMBSTONE:
        raise ValueError(f"records of {length} items at {offset}, flags {flags}")
    return 0, offset, length, chunk, flags


def contiguous(keys: Keys, first: Extent, count: int, item_size: int) -> ContiguousRun:
    """Return rows of which the first one is given, but for its key."""
    _, offset, length, chunk, flags = first
    start = offset // item_size
    return ContiguousRun(keys, range(start, start + count * length + 1, length), chunk, flags, item_size)


def find_packed(packed: Packed, last: int, key: int, item_size: int) -> Extent | None:
    """Return the row of one key, or None, of rows of forms KEYS and EVEN, up to key `last`.

    Raises
    ------
    ValueError
        They are none, or their last key is another one. The order of the keys is not checked.
    """
    form, count, body = packed
    if len(body) != size_of(form, count):
        raise ValueError(f"{len(body)} bytes for {count} rows of form {form}")
    _, offset, length, chunk, flags = head_of(body, count, item_size)
    keys: Sequence[int]
    if form == EVEN:
        keys = even = _even_keys(body, count)
        at = -((even.start - key) // even.step)
    else:
        keys = memoryview(body)[HEAD.size : HEAD.size + count * KEY_SIZE].cast("Q")
        at = bisect_left(keys, key)
    if keys[-1] != last:
        raise ValueError(f"keys up to {keys[-1]}, expected {last}")
    if not 0 <= at < count or keys[at] != key:
        return None
    return key, offset + at * length * item_size, length, chunk, flags


def unpack_alike(
    form: int, count: int, bodies: Sequence[bytes], item_size: int, *, rest_size: int
) -> ContiguousRun | None:
    """Return consecutive rows, given in parts of `count` rows each, as one run: all at once, over other memory.

    `rest_size` bytes behind the rows of each part are passed over. Returns None if the parts are not rows of that
    form and count, if the records of one do not lie behind those of the one before, or if the keys of form EVEN do
    not go on in the same steps.

    Raises
    ------
    ValueError
        There can be no such records as the first part says.
    """
    if form not in (KEYS, EVEN) or set(map(len, bodies)) != {size_of(form, count) + rest_size}:
        return None
    table = np.frombuffer(b"".join(bodies), _layout(form, count, rest_size))
    if not heads_go_on(table, count, item_size):
        return None
    keys = _keys_of_all(table, count) if form == KEYS else _even_keys_of_all(table, count)
    return None if keys is None else contiguous(keys, head_of(bodies[0], count, item_size), len(keys), item_size)


def heads_go_on(table: npt.NDArray[Any], count: int, item_size: int) -> bool:
    """Tell whether records of parts of `count` rows are alike, and lie behind those of the part before."""
    size = int(table["length"][0]) * count * item_size
    if int(table["offset"][0]) + len(table) * size >= 1 << 63 or not _goes_on(table["offset"], size):
        return False
    alike = all((table[name] == table[name][0]).all() for name in ("length", "chunk", "flags"))
    return alike and not table["filling"].any()


@lru_cache(maxsize=16)
def _layout(form: int, count: int, rest_size: int) -> np.dtype[Any]:
    keys = [("key", "<u8", (count,))] if form == KEYS else [("key", "<u8"), ("step", "<u8")]
    return layout_of(keys, rest_size)


def layout_of(keys: Sequence[Any], rest_size: int) -> np.dtype[Any]:
    """Return the type of rows that have these fields behind what they have in common, filled up, and of a rest."""
    head = [("offset", "<u8"), ("length", "<u8"), ("chunk", "<u4"), ("flags", "<u4"), *keys]
    filling = -np.dtype(head).itemsize % ROW_SIZE
    return np.dtype([*head, ("filling", "u1", (filling,)), ("rest", "u1", (rest_size,))])


def _goes_on(column: npt.NDArray[np.uint64], step: int) -> bool:
    """Tell whether numbers rise by a step, which may be larger than any number if there is one number."""
    return len(column) == 1 or (step < 1 << 64 and bool((column[1:] - column[:-1] == np.uint64(step)).all()))


def _keys_of_all(table: npt.NDArray[Any], count: int) -> Keys | None:
    keys = np.ascontiguousarray(table["key"]).reshape(len(table) * count)
    return read_only(keys) if is_sorted(keys) else None


def _even_keys_of_all(table: npt.NDArray[Any], count: int) -> Keys | None:
    first, step = int(table["key"][0]), int(table["step"][0])
    end = first + step * (len(table) * count - 1) + 1
    if not step or end > 1 << 64 or not _goes_on(table["step"], 0) or not _goes_on(table["key"], step * count):
        return None
    return range(first, end, step)


def _even_keys(body: bytes | memoryview, count: int) -> range:
    first, step = _ENDS.unpack_from(body, HEAD.size)
    if not step or first + step * (count - 1) >= 1 << 64 or any(body[HEAD.size + _ENDS.size :]):
        raise ValueError(f"{count} keys from {first} in steps of {step}")
    return range(first, first + step * (count - 1) + 1, step)


def _single_keys(body: bytes | memoryview, count: int) -> npt.NDArray[np.uint64]:
    keys = np.frombuffer(body, np.uint64, count, HEAD.size)
    if not is_sorted(keys) or any(body[HEAD.size + count * KEY_SIZE :]):
        raise ValueError("keys out of order")
    return keys
