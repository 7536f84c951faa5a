"""Packed rows: the bytes in which sorted rows of one store are kept, in the shortest of three forms. No I/O.

Rows whose records have one length and lie back to back differ in their keys only; so only the keys are kept of
them. All numbers are little-endian; every form is filled up with zeros to a multiple of 32 bytes::

    form 0, ALL     32 bytes for each row (see ``extent.py``)
    form 1, KEYS    u8 offset, u8 length (at least 1), u4 chunk, u4 flags: of the first row; then u8 key for each
    form 2, EVEN    the same 24 bytes; then u8 first key, u8 step from key to key

A chunk's directory and the pages of the index have rows in these forms.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .extent import ROW_SIZE, TOMBSTONE, is_sorted, rows_from_bytes
from .run import ArrayRun, ContiguousRun, Keys, Run, regular, spacing

ALL, KEYS, EVEN = range(3)
HEAD = struct.Struct("<QQII")
KEY_SIZE = 8
_ENDS = struct.Struct("<QQ")
_FEWEST = 3
"""Of fewer rows no other form than ALL is shorter."""


class Packed(NamedTuple):
    """Rows as bytes: their form, how many they are, and a whole number of ``ROW_SIZE`` bytes."""

    form: int
    row_count: int
    body: bytes | memoryview


def pack(run: Run, item_size: int) -> Packed:
    """Return rows in their shortest form."""
    run = _shortest(run, item_size)
    if isinstance(run, ArrayRun):
        return Packed(ALL, len(run), np.ascontiguousarray(run.rows).view(np.uint8).data)
    head = HEAD.pack(run.span.start, run.length, run.chunk, run.flags)
    keys = run.spacing
    if isinstance(keys, range):
        return Packed(EVEN, len(run), _filled(head, _ENDS.pack(keys.start, keys.step)))
    return Packed(KEYS, len(run), _filled(head, keys.data))


def packed_size(run: Run, item_size: int) -> int:
    """Return how many bytes rows take in their shortest form."""
    run = _shortest(run, item_size)
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


def _shortest(run: Run, item_size: int) -> Run:
    """Return rows as a ContiguousRun of one length, keys in the shortest form; an ArrayRun if there are none."""
    if len(run) < _FEWEST:
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
    offset, length, chunk, flags = HEAD.unpack_from(body)
    if not length or offset % item_size or offset + count * length * item_size >= 1 << 63 or flags & TOMBSTONE:
        raise ValueError(f"records of {length} items at {offset}, flags {flags}")
    keys = _even_keys(body, count) if form == EVEN else _single_keys(body, count)
    start = offset // item_size
    return ContiguousRun(keys, range(start, start + count * length + 1, length), chunk, flags, item_size)


def _even_keys(body: bytes | memoryview, count: int) -> Keys:
    first, step = _ENDS.unpack_from(body, HEAD.size)
    if not step or first + step * (count - 1) >= 1 << 64 or any(body[HEAD.size + _ENDS.size :]):
        raise ValueError(f"{count} keys from {first} in steps of {step}")
    return range(first, first + step * (count - 1) + 1, step)


def _single_keys(body: bytes | memoryview, count: int) -> npt.NDArray[np.uint64]:
    keys = np.frombuffer(body, np.uint64, count, HEAD.size)
    if not is_sorted(keys) or any(body[HEAD.size + count * KEY_SIZE :]):
        raise ValueError("keys out of order")
    return keys
