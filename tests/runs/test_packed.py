"""Packed rows: the same rows come back from whatever form, the shortest one is taken, and no other bytes pass."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from even_rows import SIZE, even_rows
from hypothesis import given
from support import rows_of

from structchunk.runs.extent import MUTABLE, TOMBSTONE, ZERO, RowArray
from structchunk.runs.packed import ALL, EVEN, HEAD, KEYS, Packed, flags_of, pack, packed_size, size_of, unpack
from structchunk.runs.run import ArrayRun, ContiguousRun, Run, shorten


def head(offset: int = 4096, length: int = 2, chunk: int = 1, flags: int = 0) -> bytes:
    return HEAD.pack(offset, length, chunk, flags)


def padded(*parts: bytes) -> bytes:
    whole = b"".join(parts)
    return whole + bytes(-len(whole) % 32)


def numbers(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


@given(even_rows())
def test_round_trip(rows: RowArray) -> None:
    runs: list[Run] = [ArrayRun(rows), shorten(rows, SIZE)]
    for packed in (pack(run, SIZE) for run in runs):
        assert packed.row_count == len(rows)
        assert len(packed.body) == size_of(packed.form, len(rows)) <= len(rows) * 32
        assert unpack(packed._replace(body=bytes(packed.body)), SIZE).rows.tolist() == rows.tolist()
        assert {packed_size(run, SIZE) for run in runs} == {len(packed.body)}


@pytest.mark.parametrize(
    ("rows", "form", "size"),
    [
        ([], ALL, 0),
        ([(1, 4096, 2, 1, 0)], ALL, 32),
        ([(1, 4096, 2, 1, 0), (2, 4112, 2, 1, 0)], ALL, 64),
        ([(key, 4096 + 16 * key, 2, 1, 0) for key in range(9)], EVEN, 64),
        ([(key**2, 4096 + 16 * key, 2, 1, 0) for key in range(9)], KEYS, 96),
        ([(key, 4096 + 24 * key, 2, 1, 0) for key in range(9)], ALL, 288),
        ([(key, 4096, 0, 1, 0) for key in range(9)], ALL, 288),
        ([(key, 0, 0, 1, TOMBSTONE) for key in range(9)], ALL, 288),
        ([(key, 4096 + 16 * key, 2, 1, 2 * (key == 4)) for key in range(9)], ALL, 288),
        ([(key, 4096 + 16 * key, 2, 1 + (key == 8), 0) for key in range(9)], ALL, 288),
        ([(0, 4096, 2, 1, 0), (1, 4112, 1, 1, 0), (2, 4120, 2, 1, 0)], ALL, 96),
    ],
)
def test_form(rows: list[tuple[int, ...]], form: int, size: int) -> None:
    packed = pack(ArrayRun(rows_of(rows)), SIZE)
    assert (packed.form, len(packed.body)) == (form, size)


@pytest.mark.parametrize("count", [0, 1, 2, 9])
@pytest.mark.parametrize("length", [0, 2])
def test_flags_are_those_that_any_row_has(count: int, length: int) -> None:
    for flags, last in ((0, 0), (MUTABLE, MUTABLE), (0, ZERO), (MUTABLE, ZERO)):
        rows = rows_of([(key, 4096 + SIZE * length * key, length, 1, flags) for key in range(count)])
        rows["flags"][-1:] = last
        expected = flags * (count > 1) | last * (count > 0)
        assert flags_of(pack(ArrayRun(rows), SIZE)) == expected


def test_even_keys_may_go_up_to_the_last_one() -> None:
    first = 2**64 - 1 - 2 * 7
    run = unpack(Packed(EVEN, 3, padded(head(), numbers(first, 7))), SIZE)
    assert run.keys.tolist() == [first, first + 7, 2**64 - 1]
    with pytest.raises(ValueError, match="3 keys"):
        unpack(Packed(EVEN, 3, padded(head(), numbers(first + 1, 7))), SIZE)


def test_keys_are_over_the_same_memory() -> None:
    body = padded(head(), numbers(3, 9, 10))
    run = unpack(Packed(KEYS, 3, body), SIZE)
    assert isinstance(run, ContiguousRun)
    assert np.shares_memory(run.keys, np.frombuffer(body, np.uint8))


@pytest.mark.parametrize(
    "packed",
    [
        Packed(ALL, 1, bytes(31)),
        Packed(ALL, 2, bytes(64)),  # a key twice
        Packed(3, 3, padded(head(), numbers(3, 9, 10))),
        Packed(KEYS, 0, padded(head())),
        Packed(EVEN, 0, padded(head(), numbers(3, 1))),
        Packed(KEYS, 4, padded(head(), numbers(3, 9, 10))),
        Packed(KEYS, 2, padded(head(), numbers(3, 9, 10))),
        Packed(KEYS, 3, padded(head(), numbers(3, 10, 9))),
        Packed(KEYS, 3, padded(head(), numbers(3, 3, 9))),
        Packed(KEYS, 3, padded(head(), numbers(3, 9, 10))[:-1] + b"\1"),
        Packed(KEYS, 3, padded(head(length=0), numbers(3, 9, 10))),
        Packed(KEYS, 3, padded(head(length=2**63), numbers(3, 9, 10))),
        Packed(KEYS, 3, padded(head(offset=4097), numbers(3, 9, 10))),
        Packed(KEYS, 3, padded(head(offset=2**64 - 8), numbers(3, 9, 10))),
        Packed(KEYS, 3, padded(head(flags=TOMBSTONE), numbers(3, 9, 10))),
        Packed(EVEN, 3, padded(head(), numbers(3, 0))),
        Packed(EVEN, 3, padded(head(), numbers(3, 2**63))),
        Packed(EVEN, 3, padded(head(), numbers(3, 1, 1))),
        Packed(EVEN, 2**32 - 1, padded(head(length=2**31), numbers(3, 1))),
    ],
)
def test_others_are_refused(packed: Packed) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        unpack(packed, SIZE)
