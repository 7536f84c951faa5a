"""Rows in few bytes: the same rows, whatever is asked of them."""

from __future__ import annotations

import numpy as np
import pytest

from structchunk.index.cached_pages import CachedPages
from structchunk.index.short_pages import OVERHEAD
from structchunk.runs.compact import FEWEST, CompactRun, compact
from structchunk.runs.extent import MUTABLE, RowArray, make_rows
from structchunk.runs.run import ArrayRun, clip_run, first_key, last_key, portions

COUNT = 300
HIGHEST = 2**64 - 1


def scattered(chunks: int) -> RowArray:
    rng = np.random.default_rng(chunks)
    keys = np.unique(rng.integers(0, 2**64, COUNT, np.uint64))
    keys[-1] = HIGHEST
    rows = make_rows(keys, 0, 3, 0, MUTABLE)
    rows["offset"] = rng.permutation(COUNT) * 24
    rows["chunk"] = rng.integers(0, chunks, COUNT) * 7 + 2
    return rows


@pytest.mark.parametrize("chunks", [1, 3, 256])
def test_has_the_same_rows(chunks: int) -> None:
    rows = scattered(chunks)
    plain, run = ArrayRun(rows), compact(ArrayRun(rows), np.ascontiguousarray(rows["key"]))
    assert isinstance(run, CompactRun) and run.size * 6 < plain.size
    assert (first_key(run), last_key(run), len(run)) == (int(rows["key"][0]), HIGHEST, COUNT)
    assert run.rows.tolist() == rows.tolist()
    assert run.keys.tolist() == plain.keys.tolist() == run.key_column.tolist()
    assert {*run.flag_values.tolist()} == {*plain.flag_values.tolist()}
    where = np.array([0, COUNT - 1, 5, 5, 7])
    assert run.take(where).tolist() == plain.take(where).tolist()
    assert [run.extent(at) for at in range(COUNT)] == rows.tolist()
    assert {type(number) for number in run.extent(3)} == {int}
    for low, high in ((0, 0), (0, COUNT), (17, 90), (COUNT, COUNT)):
        assert run.part(low, high).rows.tolist() == rows[low:high].tolist()
    for start, stop in ((0, 2**64), (int(rows["key"][4]), int(rows["key"][90])), (HIGHEST, 2**64), (5, 5)):
        assert clip_run(run, start, stop).rows.tolist() == clip_run(plain, start, stop).rows.tolist()
    assert [part.rows.tolist() for part in portions(run, 70, reverse=True)][-1] == rows[:70].tolist()


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [("length", 5, 4), ("flags", 7, 0), ("offset", 9, 2**32), ("chunk", slice(None), np.arange(COUNT))],
)
def test_rows_that_differ_are_kept_as_they_are(name: str, at: int, value: int) -> None:
    rows = scattered(1)
    rows[name][at] = value
    run = ArrayRun(rows)
    assert compact(run, run.keys) is run
    few = ArrayRun(scattered(1)[: FEWEST - 1])
    assert compact(few, few.keys) is few


def test_cached_pages_find_and_give_them() -> None:
    rows = scattered(4)
    pages = CachedPages(ArrayRun(rows), 0, HIGHEST)
    assert isinstance(pages.run, CompactRun) and pages.size < 16 * COUNT + OVERHEAD
    for row in rows.tolist():
        assert pages.find(row[0]) == row
        assert row[0] == HIGHEST or pages.find(row[0] + 1) is None
    where, found = pages.search(rows["key"])
    assert found.all() and pages.run.take(where).tolist() == rows.tolist()
    assert [run.rows.tolist() for run in pages.runs] == [rows.tolist()]
