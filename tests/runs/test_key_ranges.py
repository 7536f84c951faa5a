"""Cutting the key space: the ranges cover it, and hold about as many bytes each."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from conftest import OpenDB
from hypothesis import given
from hypothesis import strategies as st
from support import keys, rows_of_model

import structchunk as sc
from structchunk.runs.key_ranges import KeyRange, split, weight
from structchunk.runs.run import ArrayRun, shorten

Ranges = list[KeyRange]


def check_cover(ranges: Ranges, count: int) -> None:
    assert 1 <= len(ranges) <= count
    assert ranges[0][0] == 0
    assert ranges[-1][1] == 2**64
    assert all(start < stop for start, stop in ranges)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))


def sizes(store: Any, ranges: Ranges) -> list[int]:
    return [
        sum(weight(len(batch), batch.values.nbytes) for batch in store.scan(start, stop)) for start, stop in ranges
    ]


lengths = st.dictionaries(keys, st.integers(0, 50), max_size=40)


@given(st.lists(lengths, min_size=1, max_size=3), st.integers(1, 9), st.integers(0, 10**6), st.booleans())
def test_whatever_the_figures_say_the_key_space_is_covered(
    models: list[dict[int, int]], count: int, size: int, contiguous: bool
) -> None:
    runs = []
    for model in models:
        offsets = itertools.accumulate(model.values(), initial=0)
        rows = {
            key: (key, 8 * offset, model[key], 1, 0) for key, offset in zip(sorted(model), offsets, strict=False)
        }
        array = rows_of_model(rows)
        if len(array):
            runs.append((shorten(array, 8) if contiguous else ArrayRun(array), 8))
    check_cover(split(runs, size, count), count)


@given(st.dictionaries(keys, st.integers(0, 50), min_size=1, max_size=60), st.integers(1, 9))
def test_no_range_is_further_from_its_share_than_one_record(model: dict[int, int], count: int) -> None:
    rows = {key: (key, 0, length, 1, 0) for key, length in model.items()}
    weights = {key: weight(1, 8 * length) for key, length in model.items()}
    total = sum(weights.values())
    ranges = split([(ArrayRun(rows_of_model(rows)), 8)], total, count)
    check_cover(ranges, count)
    for start, stop in ranges:
        inside = sum(size for key, size in weights.items() if start <= key < stop)
        assert inside <= total / count + max(weights.values())


def test_ranges_of_ragged_records_hold_as_many_bytes(open_db: OpenDB) -> None:
    db = open_db(sync=False)
    rng = np.random.default_rng(1)
    counts = np.where(np.arange(20_000) < 1000, 200, rng.integers(0, 5, 20_000))
    numbers = np.cumsum(rng.integers(1, 1 << 40, 20_000)).astype(np.uint64)
    store = db.array_store("a", "f8")
    store.put_many(numbers, np.zeros(counts.sum()), counts)
    with db.snapshot() as snapshot:
        ranges = snapshot.split("a", count=7)
    check_cover(ranges, 7)
    assert len(ranges) == 7
    found = sizes(store, ranges)
    assert max(found) - min(found) <= 2 * weight(1, 200 * 8)


def test_stores_are_balanced_together(db: sc.Database) -> None:
    low, high = db.array_store("low", "f8"), db.array_store("high", "f4")
    low.put_many(range(1000), np.zeros((1000, 4)))
    high.put_many(range(500, 2500, 2), np.zeros((1000, 16)))
    with db.snapshot() as snapshot:
        ranges = snapshot.split("low", "high", count=5)
    both = [sum(pair) for pair in zip(sizes(low, ranges), sizes(high, ranges), strict=True)]
    assert len(both) == 5
    assert max(both) / min(both) < 1.1


def test_one_record_may_outweigh_all_others(db: sc.Database) -> None:
    store = db.array_store("a", "f8")
    store.put(1, np.zeros(900))
    store.put_many(range(2, 12), np.zeros((10, 1)))
    store.put(2**64 - 1, np.zeros(900))
    with db.snapshot() as snapshot:
        assert snapshot.split("a", count=2) in ([(0, key), (key, 2**64)] for key in range(2, 12))
        assert snapshot.split("a", count=3)[0] == (0, 2)
        check_cover(snapshot.split("a", count=100), 100)


def test_a_store_of_little_makes_few_ranges(db: sc.Database) -> None:
    db.array_store("empty", "f8")
    db.array_store("a", "f8").put_many([3, 5], [[1.0], [2.0]])
    with db.snapshot() as snapshot:
        assert snapshot.split("empty", count=4) == [(0, 2**64)]
        assert snapshot.split("a", count=1) == [(0, 2**64)]
        assert snapshot.split("a", count=2) == [(0, 5), (5, 2**64)]
        with pytest.raises(sc.StoreNotFound):
            snapshot.split("b", count=2)
        with pytest.raises(ValueError, match="at least 1"):
            snapshot.split("a", count=0)


def test_records_without_items_are_work_too(db: sc.Database) -> None:
    store = db.array_store("a", "f8")
    store.put_many(range(100), np.zeros(0), np.zeros(100, int))
    with db.snapshot() as snapshot:
        assert [len(store.keys(*bounds)) for bounds in snapshot.split("a", count=4)] == [25] * 4


def test_a_large_index_is_sampled_and_ranges_are_about_even(
    open_db: OpenDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 120_000
    random = np.random.default_rng(4)
    with open_db() as db:
        gaps, lengths = random.integers(1, 99, count), np.arange(count) // 20_000
        db.array_store("gaps", "u1").put_many(np.cumsum(gaps), np.zeros(lengths.sum(), "u1"), lengths)
        keys = np.cumsum(gaps[: count // 2]) + 3_000_000
        db.array_store("other", "u1").put_many(keys, np.zeros((len(keys), 200), "u1"))
        db.array_store("none", "u1")
        db.compact()  # so that LevelDB has all of it in tables
        path = db.path
    monkeypatch.setattr("structchunk.index.sampling.LEAST_SIZE", 1)
    monkeypatch.setattr("structchunk.index.sampling.LEAST_PIECE", 1)
    with sc.open(path, "r") as db, db.snapshot() as snapshot:
        for names in (["gaps"], ["gaps", "other"], ["other"], ["none"], ["gaps", "none"]):
            for parts in (1, 2, 5):
                ranges = snapshot.split(*names, count=parts)
                check_cover(ranges, parts)
                found = [sum(each) for each in zip(*(sizes(db[name], ranges) for name in names), strict=True)]
                assert max(found) <= 1.2 * sum(found) / parts
        with pytest.raises(ValueError, match="must be at least 1"):
            snapshot.split("gaps", count=0)
    monkeypatch.setattr("structchunk.index.sampling.LEAST_SIZE", 1 << 40)
    with sc.open(path, "r") as db, db.snapshot() as snapshot:
        (exact,) = {len(db["other"].keys(*bounds)) for bounds in snapshot.split("other", count=5)}
        assert exact == count // 10
