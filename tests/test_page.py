"""Pages to the byte, round trips, and the refusal of every damaged one."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import alive, models, rows_of, run_of
from test_piece import SIZE, runs

from structchunk.extent import LIVE, ROW, TOMBSTONE, Extent, Run
from structchunk.page import SHORT, count_rows, is_short, pack_pages, unpack_short


def rows_back(last: int, page: bytes) -> list[Extent]:
    if not is_short(page):
        return [ROW.unpack_from(page, at) for at in range(0, len(page), ROW.size)]
    rows: list[Extent] = unpack_short(page, last, SIZE, 512).run.tolist()
    return rows


@given(st.one_of(runs(), models().map(lambda model: run_of(alive(model)))), st.integers(1, 9))
def test_round_trip(run: Run, row_count: int) -> None:
    pages = pack_pages(run, SIZE, row_count)
    assert [row for page in pages for row in rows_back(*page)] == run.tolist()
    assert [last for last, _ in pages] == run["key"].tolist()[row_count - 1 :: row_count] + (
        run["key"].tolist()[-1:] if len(run) % row_count else []
    )
    assert all(count_rows(page) == row_count for _, page in pages[:-1])
    for _, page in pages:
        assert len(page) <= max(32 * count_rows(page), SHORT.size + 9)


GOLDEN = {
    "any rows": (
        [(3, 4096, 2, 1, 0), (9, 4120, 2, 1, 2)],
        "0300000000000000 0010000000000000 0200000000000000 01000000 00000000"
        "0900000000000000 1810000000000000 0200000000000000 01000000 02000000",
    ),
    "back to back": (
        [(3, 4096, 2, 1, 2), (9, 4112, 2, 1, 2), (10, 4128, 2, 1, 2)],
        "0010000000000000 0200000000000000 0000000000000000 01000000 02000000 03000000 00000000"
        "0300000000000000 0900000000000000 0a00000000000000 01",
    ),
    "evenly spaced": (
        [(3, 4096, 2, 1, 0), (9, 4112, 2, 1, 0), (15, 4128, 2, 1, 0)],
        "0010000000000000 0200000000000000 0600000000000000 01000000 00000000 03000000 000000000300000000000000 01",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_bytes(name: str) -> None:
    rows, golden = GOLDEN[name]
    ((last, page),) = pack_pages(rows_of(rows), SIZE, 512)
    assert (last, page.hex()) == (rows[-1][0], golden.replace(" ", ""))
    assert rows_back(last, bytes.fromhex(golden)) == rows


def short(
    offset: int = 4096,
    length: int = 2,
    step: int = 6,
    chunk: int = 1,
    flags: int = 0,
    count: int = 3,
    zero: int = 0,
) -> bytes:
    return struct.pack("<QQQIIII", offset, length, step, 1, flags, count, zero)


KEYS = struct.pack("<QQQ", 3, 9, 10)


@pytest.mark.parametrize(
    ("page", "last"),
    [
        (b"", 15),
        (b"\1", 15),
        (short() + b"\1", 15),
        (short() + KEYS[:8] + b"\2", 15),
        (short() + KEYS[:8] + b"\0\1", 15),
        (short() + KEYS[:8] + b"\1", 16),
        (short(step=7) + KEYS[:8] + b"\1", 15),
        (short(step=2**64 - 1) + KEYS[:8] + b"\1", 1),
        (short(step=0) + KEYS[:8] + b"\1", 15),
        (short(step=0) + KEYS + b"\1", 11),
        (short(step=0) + KEYS[8:16] + KEYS[:8] + KEYS[16:] + b"\1", 10),
        (short(step=0) + KEYS[16:] * 3 + b"\1", 10),
        (short(count=0) + KEYS[:8] + b"\1", 15),
        (short(count=4) + KEYS[:8] + b"\1", 15),
        (short(step=0, count=513) + KEYS * 171 + b"\1", 10),
        (short(step=1, count=513) + KEYS[:8] + b"\1", 515),
        (short(length=0) + KEYS[:8] + b"\1", 15),
        (short(length=2**63) + KEYS[:8] + b"\1", 15),
        (short(offset=2**64 - 8) + KEYS[:8] + b"\1", 15),
        (short(offset=4097) + KEYS[:8] + b"\1", 15),
        (short(flags=TOMBSTONE) + KEYS[:8] + b"\1", 15),
        (short(zero=1) + KEYS[:8] + b"\1", 15),
    ],
)
def test_damaged_ones_are_refused(page: bytes, last: int) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        unpack_short(page, last, SIZE, 512)


def test_sound_ones_are_not_refused() -> None:
    assert unpack_short(short() + KEYS[:8] + b"\1", 15, SIZE, 512).keys.tolist() == [3, 9, 15]
    assert unpack_short(short(step=0, flags=LIVE) + KEYS + b"\1", 10, SIZE, 512).keys.tolist() == [3, 9, 10]


@given(st.binary(max_size=90), st.integers(0, 2**64 - 1))
def test_any_bytes_are_rows_or_refused(page: bytes, last: int) -> None:
    try:
        piece = unpack_short(page, last, SIZE, 512)
    except ValueError:
        return
    assert int(piece.keys[-1]) == last
