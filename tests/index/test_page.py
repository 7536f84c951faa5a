"""Pages to the byte, round trips, and the refusal of every damaged one."""

from __future__ import annotations

import contextlib
import struct
from itertools import accumulate

import numpy as np
import pytest
from even_rows import SIZE, even_rows
from hypothesis import given
from hypothesis import strategies as st
from support import alive, models, rows_of, rows_of_model

from structchunk.index.near_keys import NEAR_2, NEAR_4
from structchunk.index.page import TRAILER, count_rows, find_in_short, is_short, pack_pages, unpack_pages
from structchunk.runs.extent import MUTABLE, ROW, TOMBSTONE, Extent, RowArray
from structchunk.runs.packed import ALL, EVEN, HEAD, KEYS
from structchunk.runs.run import ArrayRun, ContiguousRun, Run, portions, shorten
from structchunk.runs.streams import joined

MOST = 512


def rows_back(pages: list[tuple[int, bytes]]) -> list[Extent]:
    rows: list[Extent] = joined(unpack_pages(pages, SIZE, MOST)).tolist()
    return rows


@given(
    st.one_of(even_rows(), models().map(lambda model: rows_of_model(alive(model)))),
    st.integers(1, 9),
    st.sampled_from([ArrayRun, lambda rows: shorten(rows, SIZE)]),
)
def test_round_trip(rows: RowArray, row_count: int, form: type[ArrayRun]) -> None:
    pages = pack_pages([form(rows)] if len(rows) else [], SIZE, row_count)
    assert rows_back(pages) == rows.tolist()
    keys = rows["key"].tolist()
    assert [last for last, _ in pages] == keys[row_count - 1 :: row_count] + (
        keys[-1:] if len(rows) % row_count else []
    )
    assert all(count_rows(page) == row_count for _, page in pages[:-1])
    assert all(len(page) <= 32 * count_rows(page) for _, page in pages)


@given(even_rows(), st.integers(1, 4), st.integers(1, 9))
def test_each_run_begins_a_page(rows: RowArray, run_size: int, row_count: int) -> None:
    runs: list[Run] = list(portions(ArrayRun(rows), run_size))
    pages = pack_pages(runs, SIZE, row_count)
    assert rows_back(pages) == rows.tolist()
    assert {int(run.keys[-1]) for run in runs} <= {last for last, _ in pages}


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


def near_rows(count: int, gap: int) -> list[Extent]:
    return [(gap * at + at % 3, 4096 + 8 * at, 1, 1, 2) for at in range(count)]


@pytest.mark.parametrize(
    ("gap", "golden"),
    [
        (7, "1d00000000000000 0000 0800 0d00 1500" + "00" * 24 + "040003"),
        (2**15, "0100020000000000 00000000 01800000 ffff0000 00800100" + "00" * 16 + "040004"),
    ],
)
def test_bytes_of_pages_that_are_put_together(gap: int, golden: str) -> None:
    """If keys of eight pages or more are near one another; distances take two bytes if all of them can."""
    rows = near_rows(4 * 8, gap)
    pages = pack_pages([shorten(rows_of(rows), SIZE)], SIZE, 4)
    head = "2010000000000000 0100000000000000 01000000 02000000"
    assert (pages[1][0], pages[1][1].hex()) == (rows[7][0], f"{head}{golden}".replace(" ", ""))
    assert rows_back(pages) == rows
    assert pages == pack_pages([ArrayRun(rows_of(rows))], SIZE, 4)
    assert {page[-1] for _, page in pack_pages([shorten(rows_of(rows[:-1]), SIZE)], SIZE, 4)} == {KEYS}


@pytest.mark.parametrize(
    ("span", "form"), [(2**16 - 1, NEAR_2), (2**16, NEAR_4), (2**32 - 1, NEAR_4), (2**32, KEYS)]
)
def test_a_form_reaches_as_far_as_its_bytes(span: int, form: int) -> None:
    """With eight pages, the others of which are near: those beyond any distance stay as they are, alone."""
    keys = [at**2 for at in range(28)]
    keys += [10**6, 10**6 + 1, 10**6 + 5, 10**6 + span]
    rows = [(key, 4096 + 8 * at, 1, 1, 0) for at, key in enumerate(keys)]
    pages = pack_pages([shorten(rows_of(rows), SIZE)], SIZE, 4)
    assert pages[-1][1][-1] == form
    assert {page[-1] for _, page in pages[:-1]} == {NEAR_2 if form == KEYS else form}
    assert rows_back(pages) == rows


PLAIN, SINGLE, SPACED = (bytes.fromhex(golden) for _, golden in GOLDEN.values())


def trailed(body: bytes, count: int, form: int) -> bytes:
    return body + TRAILER.pack(count, form)


def near(
    offset: int = 4096,
    length: int = 2,
    flags: int = 0,
    first: int = 3,
    apart: tuple[int, int, int] = (0, 6, 7),
    filling: bytes = b"\0",
) -> bytes:
    body = HEAD.pack(offset, length, 1, flags) + struct.pack("<Q3I", first, *apart)
    return trailed(body.ljust(63, b"\0") + filling, 3, NEAR_4)


NEAR = near()


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
        (trailed(SINGLE[:-3], 3, 5), 10),
        (NEAR, 9),
        (NEAR[:-3] + bytes(32) + NEAR[-3:], 10),
        (NEAR[:-1], 10),
        (NEAR[1:], 10),
        (trailed(NEAR[:-3], 2, NEAR_4), 9),
        (trailed(NEAR[:-3], 3, NEAR_2), 10),
        (trailed(NEAR[:-3], 3, NEAR_2), 3),
        (trailed(NEAR[:-3], 0, NEAR_4), 3),
        (trailed(NEAR[:-3], MOST + 1, NEAR_4), 10),
        (near(first=3, apart=(1, 6, 7)), 10),
        (near(first=3, apart=(0, 7, 6)), 9),
        (near(first=3, apart=(0, 7, 7)), 10),
        (near(first=2**64 - 7, apart=(0, 6, 7)), 0),
        (near(first=2**64 - 7, apart=(0, 6, 7)), 2**64),
        (near(filling=b"\1"), 10),
        (near(length=0), 10),
        (near(offset=4097), 10),
        (near(flags=TOMBSTONE), 10),
        (trailed(SINGLE[:-3], MOST + 1, KEYS), 10),
        (trailed(SPACED[:-3], 0, EVEN), 15),
        (trailed(SPACED[:-3], 4, EVEN), 15),
        (trailed(SPACED[:-3], MOST + 1, EVEN), 3 + 6 * MOST),
        (trailed(HEAD.pack(4096, 2, 1, 0) + struct.pack("<QQ24x", 0, 2**63 + 1), 3, EVEN), 2**64 - 1),
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


def test_pages_beside_one_another_are_refused_or_read_as_each_alone() -> None:
    """Records of the second one lie behind those of the first, keys or more may not."""
    behind = 4096 + 3 * 2 * SIZE
    (run,) = unpack_pages([(10, NEAR), (18, near(behind, first=11))], SIZE, MOST)
    assert run.keys.tolist() == [3, 9, 10, 11, 17, 18]
    for first in (3, 9, 10):
        with pytest.raises(ValueError, match="overlap"):
            unpack_pages([(10, NEAR), (first + 7, near(behind, first=first))], SIZE, MOST)
    for page in (
        near(behind, length=3, first=11),
        near(behind, flags=MUTABLE, first=11),
        near(behind + 8, first=11),
    ):
        runs = unpack_pages([(10, NEAR), (18, page)], SIZE, MOST)
        alone = unpack_pages([(10, NEAR)], SIZE, MOST) + unpack_pages([(18, page)], SIZE, MOST)
        assert [run.rows.tolist() for run in runs] == [run.rows.tolist() for run in alone]
    longer = near(behind, first=11)
    with pytest.raises(ValueError, match="bytes"):
        unpack_pages([(10, NEAR), (18, longer[:-3] + bytes(32) + longer[-3:])], SIZE, MOST)


@pytest.mark.parametrize(("count", "step"), [(3, 2**63 - 1), (MOST, (2**64 - 1) // (MOST - 1)), (MOST, 2**55)])
def test_keys_in_large_steps(count: int, step: int) -> None:
    """One page may go from the first key to the last one: a step more than all of it is no number of 64 bits."""
    rows = [(at * step, 4096 + 8 * at, 1, 1, 0) for at in range(count)]
    pages = pack_pages([ArrayRun(rows_of(rows))], SIZE, MOST)
    assert pages[0][1][-1] == EVEN
    assert rows_back(pages) == rows
    assert find_in_short(*pages[0], rows[2][0], SIZE, MOST) == rows[2]


@given(st.binary(max_size=90), st.integers(0, 2**64 - 1))
def test_any_bytes_are_rows_or_refused(page: bytes, last: int) -> None:
    count = count_rows(page)  # which a page that is no good says, too
    try:
        runs = unpack_pages([(last, page)], SIZE, MOST)
    except ValueError:
        return
    rows = joined(runs)
    assert len(rows) == count
    assert rows["key"][-1] == last
    assert is_short(page) or rows.tobytes() == page


NEAR_ROWS: list[Extent] = [(3, 4096, 2, 1, 0), (9, 4112, 2, 1, 0), (10, 4128, 2, 1, 0)]


@pytest.mark.parametrize(
    ("page", "rows"),
    [(SINGLE, GOLDEN["back to back"][0]), (SPACED, GOLDEN["evenly spaced"][0]), (NEAR, NEAR_ROWS)],
    ids=["single", "spaced", "near"],
)
def test_one_row_of_a_short_page_is_found_alone(page: bytes, rows: list[Extent]) -> None:
    last = rows[-1][0]
    assert rows_back([(last, page)]) == rows
    found = {row[0]: row for row in rows}
    for key in {key + step for key in found for step in (-1, 0, 1)} | {0, 2**64 - 1}:
        assert find_in_short(last, page, key, SIZE, MOST) == found.get(key)
    longer = page[:-3] + bytes(32) + page[-3:]
    for damaged in (
        page[:-3],
        page[1:],
        longer,
        page[:-3] + TRAILER.pack(MOST + 1, KEYS),
        page[:-3] + TRAILER.pack(3, 9),
    ):
        with pytest.raises(ValueError, match=r"\S"):
            find_in_short(last, damaged, last, SIZE, MOST)
    with pytest.raises(ValueError, match="expected"):
        find_in_short(last + 1, page, last, SIZE, MOST)


@given(st.integers(2, 10), st.sampled_from([2, 9, 200, 10**5, 10**8]), st.booleans(), st.data())
def test_pages_that_go_on_are_unpacked_as_one(count: int, step: int, is_even: bool, data: st.DataObject) -> None:
    """And damage of any byte of one of them is found as it is in one alone."""
    keys = [step * at + (0 if is_even else at % 2) for at in range(count * MOST)]
    rows = [(key, 4096 + 16 * at, 2, 1, 0) for at, key in enumerate(keys)]
    pages = pack_pages([shorten(rows_of(rows), SIZE)], SIZE, MOST)
    runs = unpack_pages(pages, SIZE, MOST)
    assert len(runs) == 1
    assert joined(runs).tolist() == rows
    at = data.draw(st.integers(0, len(pages) - 1))
    last, page = pages[at]
    place = data.draw(st.integers(0, len(page) - 1))
    damaged = page[:place] + bytes([page[place] ^ data.draw(st.integers(1, 255))]) + page[place + 1 :]
    alone = together = None
    with contextlib.suppress(ValueError):
        alone = joined(unpack_pages([(last, damaged)], SIZE, MOST)).tolist()
    with contextlib.suppress(ValueError):
        together = joined(unpack_pages([*pages[:at], (last, damaged), *pages[at + 1 :]], SIZE, MOST)).tolist()
    assert together is None or together == [*rows[: at * MOST], *(alone or []), *rows[(at + 1) * MOST :]]
    assert alone is not None or together is None


GAPS = st.one_of(st.just(1), st.integers(1, 9), st.integers(2**15, 2**17), st.integers(2**31, 2**33))


@given(st.lists(st.tuples(GAPS, st.integers(1, 20)), min_size=1, max_size=12), st.integers(1, 7), st.booleans())
def test_keys_near_and_far_in_turn(gaps: list[tuple[int, int]], row_count: int, is_run: bool) -> None:
    keys = list(accumulate(gap for gap, times in gaps for _ in range(times)))
    rows = [(key, 4096 + 8 * at, 1, 1, 0) for at, key in enumerate(keys)]
    run = shorten(rows_of(rows), SIZE) if is_run else ArrayRun(rows_of(rows))
    pages = pack_pages([run], SIZE, row_count)
    assert rows_back(pages) == rows
    for at, (last, page) in enumerate(pages):
        mine = {row[0]: row for row in rows[at * row_count : (at + 1) * row_count]}
        assert rows_back([(last, page)]) == list(mine.values())
        if is_short(page):
            asked = {key + step for key in mine for step in (-1, 0, 1)} | {0, 2**64 - 1}
            assert all(find_in_short(last, page, key, SIZE, row_count) == mine.get(key) for key in asked)


def test_keys_take_as_few_bytes_as_all_of_them_can() -> None:
    for step, size in [(3, 2), (100, 2), (200, 4), (10**6, 4), (10**7, 8)]:
        keys = np.cumsum(np.random.default_rng(1).integers(1, 2 * step, 20 * MOST)).astype(np.uint64)
        run = ContiguousRun(keys, range(512, 512 + len(keys) + 1), 1, 0, SIZE)
        assert {len(page) for _, page in pack_pages([run], SIZE, MOST)} == {32 + size * MOST + TRAILER.size}
