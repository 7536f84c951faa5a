"""Rows of several runs in order of key, without the rows: the same as with them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from structchunk.runs.extent import KEY_END
from structchunk.runs.gather import gather, gather_interleaved
from structchunk.runs.interleaved import (
    BLOCK_ROWS,
    InterleavedRun,
    RepeatedKey,
    _places_by_counting,
    _places_by_sorting,
    merge,
)
from structchunk.runs.key_ranges import split, weight
from structchunk.runs.run import ArrayRun, ContiguousRun, clip_run, read_only


def dealt(lengths: Any, shares: int, seed: int = 1) -> list[ContiguousRun]:
    """Deal records of these lengths to runs at random, each of which has a chunk of its own."""
    owner = np.random.default_rng(seed).integers(0, shares, len(lengths))
    runs = []
    for chunk in range(shares):
        mine = np.flatnonzero(owner == chunk)
        starts = np.concatenate([[64], 64 + np.cumsum(lengths[mine])])
        even = len(set(lengths[mine].tolist())) == 1 and lengths[mine][0]
        places = range(64, int(starts[-1]) + 1, int(lengths[mine][0])) if even else starts
        runs.append(ContiguousRun(read_only(mine.astype(np.uint64) * np.uint64(3)), places, chunk, 0, 8))
    return runs


def mapped(runs: list[ContiguousRun]) -> Any:
    """Return chunks for these runs: items that say which one they are."""
    arrays = {run.chunk: np.arange(run.items.stop + 9) + run.chunk * 1_000_000.0 for run in runs}
    return SimpleNamespace(
        arrays=arrays,
        dtype=np.dtype(np.float64),
        item_size=8,
        fetched=lambda rows: arrays,
    )


LENGTHS = {
    "one each": np.ones(500, int),
    "three each": np.full(500, 3),
    "none": np.zeros(500, int),
    "ragged": np.random.default_rng(2).integers(0, 5, 500),
    "ragged and long": np.random.default_rng(2).integers(500, 2_000, 50),
}


def merged(runs: list[ContiguousRun], *, reverse: bool = False) -> InterleavedRun:
    (found,) = (run for run in merge([iter([run]) for run in runs], reverse=reverse) if len(run) > 40)
    assert isinstance(found, InterleavedRun)
    return found


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize("reverse", [False, True])
def test_is_the_rows_in_order_of_key(lengths: Any, reverse: bool) -> None:
    runs = dealt(lengths, 3)
    run = merged(runs, reverse=reverse)
    rows = np.concatenate([one.rows for one in runs])
    rows = np.sort(rows[np.isin(rows["key"], run.keys)], order="key")
    assert np.array_equal(run.rows, rows)
    assert [run.extent(at) for at in range(len(run))] == rows.tolist()
    assert np.array_equal(run.part(7, 31).rows, rows[7:31])
    assert len(run.part(9, 9)) == 0
    assert np.array_equal(run.offsets, np.concatenate([[0], np.cumsum(rows["length"])]))
    assert np.array_equal(run.take(np.array([5, 2, 30])), rows[[5, 2, 30]])
    assert np.array_equal(clip_run(run, 10, 90).rows, rows[(rows["key"] >= 10) & (rows["key"] < 90)])


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_records_are_those_of_the_rows(lengths: Any) -> None:
    runs = dealt(lengths, 3)
    for run in (merged(runs), merged(runs).part(3, 33)):
        found, expected = gather_interleaved(mapped(runs), run), gather(mapped(runs), run.rows, run.keys)
        assert all(np.array_equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def test_size_is_that_of_one_copy_of_the_keys() -> None:
    for lengths, starts in ((LENGTHS["three each"], 0), (LENGTHS["ragged"], 8)):
        run = merged(dealt(lengths, 3))
        assert run.size == len(run) * (8 + 8 + starts) + (24 if starts else 0)
        assert all(isinstance(part.spacing, range) for part in run.parts)


def test_other_rows_are_merged_too_and_a_key_twice_is_refused() -> None:
    runs = dealt(np.ones(500, int), 2)
    given = [iter([ArrayRun(runs[0].rows)]), iter([runs[1]])]
    assert np.concatenate([run.keys for run in merge(given)]).tolist() == list(range(0, 1500, 3))
    with pytest.raises(RepeatedKey) as refused:
        list(merge([iter([runs[0]]), iter([runs[1]]), iter([runs[0].part(4, 5)])]))
    assert refused.value.key == runs[0].extent(4)[0]


def test_blocks_end_where_any_stream_has_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("structchunk.runs.interleaved.BLOCK_ROWS", 20)
    monkeypatch.setattr("structchunk.runs.interleaved.FEWEST_ROWS", 1)
    runs = dealt(np.ones(500, int), 3)
    for reverse in (False, True):
        streams = []
        for run in runs:
            halves = [run.part(0, 50), run.part(50, len(run))]
            streams.append(iter(halves[::-1] if reverse else halves))
        found = list(merge(streams, reverse=reverse))
        assert max(map(len, found)) <= 40
        keys = np.concatenate([run.keys for run in (found[::-1] if reverse else found)])
        assert keys.tolist() == list(range(0, 1500, 3))


END = (1 << 64) - 1
SPACINGS: dict[str, Any] = {
    "back to back": np.arange(900),
    "even": np.arange(900) * 37,
    "even but for a little": (1 << 62) + np.arange(900) * 1000 + np.random.default_rng(4).integers(0, 300, 900),
    "even but for two": np.append(np.arange(900) * 1000, 400_001),
    "random": np.random.default_rng(5).integers(0, 1 << 50, 900),
    "far apart": np.append(np.arange(899), 1 << 60),
    "to the last key": np.uint64(END) - np.arange(900, dtype=np.uint64) * np.uint64(END // 899),
    "few": np.array([7, 9, 12]),
}


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("shares", [2, 3, 7])
def test_order_is_the_same_however_it_is_found(spacing: str, shares: int) -> None:
    keys = np.unique(SPACINGS[spacing].astype(np.uint64))
    owner = np.random.default_rng(shares).integers(0, shares, len(keys))
    columns = [keys[owner == share] for share in range(shares) if (owner == share).any()]
    every = np.concatenate(columns)
    places = np.searchsorted(keys, every)
    assert np.array_equal(_places_by_sorting(every), places)
    counted = _places_by_counting(columns, every)
    assert (counted is None) == (spacing in ("even but for two", "random", "far apart"))
    assert counted is None or np.array_equal(counted, places)


def test_keys_that_are_spaced_evenly_are_not_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("structchunk.runs.interleaved._places_by_sorting", None)
    found = list(merge([iter([run]) for run in dealt(np.ones(90_000, int), 2)]))
    assert max(map(len, found)) > 1 << 15
    assert np.array_equal(np.concatenate([run.keys for run in found]), 3 * np.arange(90_000))


@pytest.mark.parametrize("power", [1, 2])
def test_blocks_of_many_streams_may_be_large(power: int) -> None:
    runs = [run.over(read_only(run.keys**power)) for run in dealt(np.ones(90_000, int), 80)]
    found = list(merge([iter([run]) for run in runs]))
    assert max(map(len, found)) > BLOCK_ROWS
    expected = (3 * np.arange(90_000, dtype=np.uint64)) ** power
    assert np.array_equal(np.concatenate([run.keys for run in found]), expected)


def test_a_key_that_is_there_twice_has_no_place_among_slots() -> None:
    column = np.arange(0, 900, 3, dtype=np.uint64)
    for columns in ([column, column[70:71]], [column, column], [column[:1], column[:1]]):
        every = np.concatenate(columns)
        assert _places_by_counting(columns, every) is None
        with pytest.raises(RepeatedKey):
            _places_by_sorting(every)


def test_ranges_are_cut_alike_with_rows_and_without() -> None:
    keys = np.arange(5000, dtype=np.uint64) ** 2
    run = ContiguousRun(keys, range(0, 15001, 3), 1, 0, 8)
    size = weight(5000, 5000 * 24)
    for count in (1, 3, 7):
        cut = split([(run, 8)], size, count)
        assert cut == split([(ArrayRun(run.rows), 8)], size, count)
        assert (cut[0][0], cut[-1][1], len(cut)) == (0, KEY_END, count)
