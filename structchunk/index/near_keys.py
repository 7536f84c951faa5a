"""Short pages whose keys are near one another: of each key its distance from the first one is kept. No I/O.

There are two forms beside those of ``runs/packed.py``, for records of one length that lie back to back, too. All
numbers are little-endian; both are filled up with zeros to a multiple of 32 bytes::

    form 3, NEAR_2  u8 offset, u8 length (at least 1), u4 chunk, u4 flags: of the first row; u8 first key; then for
                    each key u2, how far it is from the first: 0 for that one, ascending
    form 4, NEAR_4  the same, with u4 for each key

They take a quarter and half of the bytes of form KEYS, and less time to be read.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..runs.extent import ROW_SIZE, Extent
from ..runs.packed import HEAD, Packed, contiguous, head_of, heads_go_on, layout_of
from ..runs.run import ContiguousRun, read_only

NEAR_2, NEAR_4 = 3, 4
FORMS = (NEAR_2, NEAR_4)
_WIDTH = {NEAR_2: 2, NEAR_4: 4}
_CODE: dict[int, Literal["H", "I"]] = {NEAR_2: "H", NEAR_4: "I"}
_FIRST = struct.Struct("<Q")
_BEGIN = HEAD.size + _FIRST.size
FEWEST_PAGES = 8
"""Fewer pages that are put together stay in form KEYS: to make their keys short takes longer than it saves, and
where forms change from page to page, each one is unpacked alone."""


def pack_near(run: ContiguousRun, count: int) -> list[Packed | None]:
    """Return rows in parts of `count` rows each; None for a part that has to be, or is better, in another form.

    Parameters
    ----------
    run : ContiguousRun
        Records of one length, a whole number of times `count` of them, whose keys are an array.
    count : int
        At least 2.
    """
    keys = run.keys.reshape(-1, count)
    spans = keys[:, -1] - keys[:, 0]
    are_near = (spans < 1 << 32) & ~_are_even(keys, spans)
    if not are_near.any():
        return [None] * len(keys)
    widest = int(spans[are_near].max())
    form = NEAR_2 if widest < 1 << 16 else NEAR_4
    parts = np.zeros(len(keys), _layout(form, count, 0))
    parts["offset"] = run.span.start + np.arange(len(keys)) * (count * run.length * run.item_size)
    parts["length"], parts["chunk"], parts["flags"] = run.length, run.chunk, run.flags
    parts["first"] = keys[:, 0]
    np.subtract(keys, keys[:, :1], out=parts["apart"], casting="unsafe")
    bodies = zip(parts.view(np.uint8).reshape(len(parts), -1), are_near.tolist(), strict=True)
    return [Packed(form, count, body.data) if is_near else None for body, is_near in bodies]


def _are_even(keys: npt.NDArray[np.uint64], spans: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Tell of each row of keys, given with what lies between its ends, whether they rise by the same step."""
    steps = keys[:, 1] - keys[:, 0]
    are_even: npt.NDArray[np.bool_] = spans == steps * np.uint64(keys.shape[1] - 1)
    at = np.flatnonzero(are_even)  # as far as the ends tell
    are_even[at] = (keys[at, 1:] - keys[at, :-1] == steps[at, None]).all(1)
    return are_even


@lru_cache(maxsize=16)
def _layout(form: int, count: int, rest_size: int) -> np.dtype[Any]:
    return layout_of([("first", "<u8"), ("apart", f"<u{_WIDTH[form]}", (count,))], rest_size)


def _size_of(form: int, count: int) -> int:
    return -(-(_BEGIN + count * _WIDTH[form]) // ROW_SIZE) * ROW_SIZE


def unpack_near(
    form: int, count: int, bodies: Sequence[bytes | memoryview], item_size: int, *, rest_size: int = 0
) -> ContiguousRun | None:
    """Return consecutive rows, given in parts of `count` rows each, as one run.

    `rest_size` bytes behind the rows of each part are passed over. Returns None if the parts are not rows of that
    form and count, or if the records of one do not lie behind those of the one before.

    Raises
    ------
    ValueError
        The first part has no such records.
    """
    if set(map(len, bodies)) != {_size_of(form, count) + rest_size}:
        return None
    table = np.frombuffer(b"".join(bodies), _layout(form, count, rest_size))
    if not heads_go_on(table, count, item_size):
        return None
    first, apart = table["first"], table["apart"]
    if apart[:, 0].any() or not (apart[:, 1:] > apart[:, :-1]).all():
        return None
    keys = first[:, None] + apart
    lasts = keys[:, -1]
    if (lasts < first).any() or (first[1:] <= lasts[:-1]).any():  # a sum that is too large wraps around
        return None
    return contiguous(read_only(keys.reshape(-1)), head_of(bodies[0], count, item_size), keys.size, item_size)


def unpack_one(packed: Packed, item_size: int) -> ContiguousRun:
    """Return the rows that some bytes are.

    Raises
    ------
    ValueError
        They are none.
    """
    form, count, body = packed
    run = unpack_near(form, count, [body], item_size)
    if run is None:
        raise ValueError(f"{len(body)} bytes that are not {count} rows of form {form}")
    return run


def find_near(packed: Packed, last: int, key: int, item_size: int) -> Extent | None:
    """Return the row of one key, or None, of rows up to key `last`.

    Raises
    ------
    ValueError
        They are none, or their last key is another one. Neither the order of the keys is checked, nor the zeros.
    """
    form, count, body = packed
    if len(body) != _size_of(form, count):
        raise ValueError(f"{len(body)} bytes for {count} rows of form {form}")
    _, offset, length, chunk, flags = head_of(body, count, item_size)
    (first,) = _FIRST.unpack_from(body, HEAD.size)
    apart = memoryview(body)[_BEGIN : _BEGIN + count * _WIDTH[form]].cast(_CODE[form])
    if first + apart[-1] != last:
        raise ValueError(f"keys up to {first + apart[-1]}, expected {last}")
    at = bisect_left(apart, key - first)
    if at == count or apart[at] != key - first:
        return None
    return key, offset + at * length * item_size, length, chunk, flags
