"""Pages to the byte, round trips, and the refusal of every damaged one."""

from __future__ import annotations

import pytest
from even_runs import SIZE, runs
from hypothesis import given
from hypothesis import strategies as st
from support import alive, models, rows_of, run_of

from structchunk.index.page import TRAILER, count_rows, is_short, pack_pages, unpack_pages
from structchunk.runs.extent import MUTABLE, ROW, TOMBSTONE, Extent, RowArray
from structchunk.runs.packed import ALL, EVEN, KEYS
from structchunk.runs.run import ArrayRun, Run, joined, portions, shorten

MOST = 512


def rows_back(pages: list[tuple[int, bytes]]) -> list[Extent]:
    rows: list[Extent] = joined(unpack_pages(pages, SIZE, MOST)).tolist()
    return rows


@given(
    st.one_of(runs(), models().map(lambda model: run_of(alive(model)))),
    st.integers(1, 9),
    st.sampled_from([ArrayRun, lambda run: shorten(run, SIZE)]),
)
def test_round_trip(run: RowArray, row_count: int, form: type[ArrayRun]) -> None:
    pages = pack_pages([form(run)] if len(run) else [], SIZE, row_count)
    assert rows_back(pages) == run.tolist()
    keys = run["key"].tolist()
    assert [last for last, _ in pages] == keys[row_count - 1 :: row_count] + (
        keys[-1:] if len(run) % row_count else []
    )
    assert all(count_rows(page) == row_count for _, page in pages[:-1])
    assert all(len(page) <= 32 * count_rows(page) for _, page in pages)


@given(runs(), st.integers(1, 4), st.integers(1, 9))
def test_each_piece_begins_a_page(run: RowArray, piece_size: int, row_count: int) -> None:
    pieces: list[Run] = list(portions(ArrayRun(run), piece_size))
    pages = pack_pages(pieces, SIZE, row_count)
    assert rows_back(pages) == run.tolist()
    assert {int(piece.keys[-1]) for piece in pieces} <= {last for last, _ in pages}


GOLDEN = {
    "any rows": (
        [(3, 4096, 2, 1, 0), (9, 4120, 2, 1, 2)],
        "0300000000000000 0010000000000000 0200000000000000 01000000 00000000"
        "0900000000000000 1810000000000000 0200000000000000 01000000 02000000",
    ),
    "back to back": (
        [(3, 4096, 2, 1, 2), (9, 4112, 2, 1, 2), (10, 4128, 2, 1, 2)],
        "0010000000000000 0200000000000000 01000000 02000000 0300000000000000 0900000000000000 0a00000000000000"
        "0000000000000000 0000000000000000 0300 01",
    ),
    "evenly spaced": (
        [(3, 4096, 2, 1, 0), (9, 4112, 2, 1, 0), (15, 4128, 2, 1, 0)],
        "0010000000000000 0200000000000000 01000000 00000000 0300000000000000 0600000000000000"
        "0000000000000000 0000000000000000 0000000000000000 0300 02",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_bytes(name: str) -> None:
    rows, golden = GOLDEN[name]
    ((last, page),) = pack_pages([ArrayRun(rows_of(rows))], SIZE, MOST)
    assert (last, page.hex()) == (rows[-1][0], golden.replace(" ", ""))
    assert rows_back([(last, bytes.fromhex(golden))]) == rows


PLAIN, SINGLE, SPACED = (bytes.fromhex(golden) for _, golden in GOLDEN.values())


def trailed(body: bytes, count: int, form: int) -> bytes:
    return body + TRAILER.pack(count, form)


@pytest.mark.parametrize(
    ("page", "last"),
    [
        (b"", 9),
        (b"\1", 9),
        (PLAIN[:-1], 9),
        (PLAIN, 10),
        (PLAIN[32:] + PLAIN[:32], 3),
        (PLAIN[:32] * 2, 3),
        (ROW.pack(3, 0, 0, 1, TOMBSTONE), 3),
        (b"".join(ROW.pack(key, 4096, 1, 1, 0) for key in range(MOST + 1)), MOST),
        (SINGLE, 9),
        (SINGLE[:-1], 10),
        (SINGLE[1:], 10),
        (trailed(SINGLE[:-3], 2, KEYS), 9),
        (trailed(SINGLE[:-3], 2, ALL), 10),
        (trailed(SINGLE[:-3], 3, 3), 10),
        (trailed(SINGLE[:-3], MOST + 1, KEYS), 10),
        (trailed(SPACED[:-3], 0, EVEN), 15),
        (trailed(SPACED[:-3], 4, EVEN), 15),
        (trailed(SPACED[:-3], MOST + 1, EVEN), 3 + 6 * MOST),
        (SPACED, 16),
    ],
)
def test_damaged_ones_are_refused(page: bytes, last: int) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        unpack_pages([(last, page)], SIZE, MOST)


@pytest.mark.parametrize("first", [PLAIN, trailed(SINGLE[:-3], 3, KEYS)])
def test_pages_that_overlap_are_refused(first: bytes) -> None:
    last = 9 if first == PLAIN else 10
    assert len(unpack_pages([(last, first), (16, ROW.pack(16, 0, 1, 1, MUTABLE))], SIZE, MOST)) in (1, 2)
    for page in (SPACED, ROW.pack(15, 0, 1, 1, MUTABLE) + PLAIN):
        with pytest.raises(ValueError, match=r"overlap|out of order"):
            unpack_pages([(last, first), (15 if page == SPACED else 9, page)], SIZE, MOST)


@given(st.binary(max_size=90), st.integers(0, 2**64 - 1))
def test_any_bytes_are_rows_or_refused(page: bytes, last: int) -> None:
    count = count_rows(page)  # which a page that is no good says, too
    try:
        pieces = unpack_pages([(last, page)], SIZE, MOST)
    except ValueError:
        return
    rows = joined(pieces)
    assert len(rows) == count
    assert rows["key"][-1] == last
    assert is_short(page) or rows.tobytes() == page
