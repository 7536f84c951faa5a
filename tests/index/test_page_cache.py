"""Decoded pages: a key is found where a plain search finds it, in few steps, whatever the keys."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from itertools import accumulate
from math import log2

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from structchunk.index import page_cache
from structchunk.index.buckets import CROWD, make_buckets, search_in_buckets
from structchunk.index.cached_pages import (
    FAR_BETWEEN,
    FEWEST_LOOKUPS,
    KEYS_PER_LOOKUP,
    MANY_KEYS,
    WORTH_KEYS,
    AnyPages,
    CachedPages,
)
from structchunk.index.cached_pages import shorten as shorten_pages
from structchunk.index.short_pages import ShortPages
from structchunk.index.takers import Searched, Taker, not_yet, taker
from structchunk.runs.compact import FEWEST, CompactRun
from structchunk.runs.extent import KEY_END, RowArray, make_rows
from structchunk.runs.run import ContiguousRun, Run, shorten
from structchunk.runs.streams import joined

SIZE = 8

clusters = st.tuples(
    st.sampled_from([0, 1, 2**32, 2**63, KEY_END - 1, KEY_END - 50]) | st.integers(0, KEY_END - 1),
    st.sampled_from([1, 2, 3, 2**40, 2**58]) | st.integers(1, 2**63),
    st.integers(1, 3 * CROWD),
)


@st.composite
def key_sets(draw: st.DrawFn) -> list[int]:
    """Draw keys that lie in clusters, anywhere from 0 to 2**64-1."""
    drawn = draw(st.lists(clusters, max_size=4))
    return sorted({key for base, gap, count in drawn for key in range(base, KEY_END, gap)[:count]})


def rows_at(keys: list[int], *, scattered: bool) -> RowArray:
    """Return one row for each key, back to back, or with one that is elsewhere."""
    offsets = 4096 + 2 * SIZE * np.arange(len(keys), dtype=np.uint64)
    if scattered and len(keys):
        offsets[0] = 0
    return make_rows(np.array(keys, np.uint64), offsets, 2, 1, 0)


def lookups_before_buckets(count: int) -> int:
    """Return how often so many keys are looked up without buckets."""
    return FEWEST_LOOKUPS + count // WORTH_KEYS


def pages_of(keys: list[int], *, scattered: bool = False) -> CachedPages:
    """Return pages that answer for all keys."""
    return CachedPages(shorten(rows_at(keys, scattered=scattered), SIZE), 0, KEY_END - 1)


@given(key_sets(), st.lists(st.integers(0, KEY_END - 1), max_size=9), st.booleans())
def test_a_key_is_found_where_a_plain_search_finds_it(keys: list[int], others: list[int], scattered: bool) -> None:
    pages = pages_of(keys, scattered=scattered)
    model = {row[0]: row for row in rows_at(keys, scattered=scattered).tolist()}
    near = {key + step for key in keys for step in (-1, 0, 1)}
    for key in sorted(near | {0, KEY_END - 1} | set(others)):
        if 0 <= key < KEY_END:
            assert pages.find(key) == model.get(key)


@given(key_sets(), st.booleans())
def test_records_are_taken_where_they_are_found(keys: list[int], even: bool) -> None:
    keys = list(range(5, 5 + 3 * len(keys), 3)) if even else keys
    pages = pages_of(keys)
    records = [f"record of {key}" for key in keys]
    model = dict(zip(keys, records, strict=True))
    near = {key + step for key in keys for step in (-1, 0, 1) if 0 <= key + step < KEY_END} | {0, KEY_END - 1}
    for _ in range(FEWEST_LOOKUPS):
        for key in sorted(near):
            pages.prepare("text", lambda _, searched: taker(searched, records))
            assert (pages.find(key) is not None) is (key in model)
            if pages.taken[0] == "text":
                assert pages.taken[1](key) == model.get(key)
    assert pages.is_prepared


@given(
    st.integers(0, KEY_END - 10**6),
    st.lists(st.sampled_from([1, 2, 40, 300, 3000]), min_size=100, max_size=200),
    st.lists(st.integers(0, KEY_END - 1), max_size=9),
)
def test_records_are_taken_from_short_pages_too(first: int, gaps: list[int], others: list[int]) -> None:
    keys = [*accumulate([first, *gaps])]
    pages = pages_of(keys)
    assume(pages.can_be_shortened())
    short = shorten_pages([pages])
    records = [f"record of {key}" for key in keys]
    model = dict(zip(keys, records, strict=True))
    short.prepare("text", lambda *_: not_yet)
    assert (short.is_prepared, short.taken[0]) == (False, None)
    short.prepare("text", lambda _, searched: taker(searched, records))
    assert (short.is_prepared, short.taken[0]) == (True, "text")
    for key in sorted({key + step for key in keys for step in (-1, 0, 1)} | {0, KEY_END, 2**70, -1} | set(others)):
        assert short.taken[1](key) == model.get(key)
    short.prepare("other", lambda *_: None)
    assert short.taken[0] == "text"


def test_nothing_is_made_of_rows_whose_records_cannot_be() -> None:
    pages = pages_of(list(range(0, 300, 3)))
    pages.prepare("text", lambda *_: None)
    assert pages.is_prepared
    assert pages.taken[0] is None


def test_what_cannot_be_taken_yet_is_tried_again() -> None:
    keys = list(range(0, 300, 3))
    pages = pages_of(keys)
    pages.prepare("text", lambda *_: not_yet)
    assert not pages.is_prepared
    assert pages.taken[0] is None
    pages.prepare("text", lambda _, searched: taker(searched, keys))
    assert pages.taken[0] == "text"
    assert pages.taken[1](9) == 9


def test_records_are_made_once_some_keys_were_looked_up() -> None:
    keys = [3 * key + key % 2 for key in range(3 * WORTH_KEYS)]
    few = lookups_before_buckets(len(keys))
    pages, asked = pages_of(keys), []

    def make(run: Run, searched: Searched) -> Taker | None:
        asked.append(run)
        return taker(searched, keys)

    for key in keys[:few]:
        pages.prepare("number", make)
        assert pages.find(key) is not None
    assert not asked
    assert pages.find(keys[few]) is not None
    pages.prepare("number", make)
    assert asked
    assert pages.taken[0] == "number"
    assert pages.taken[1](keys[7]) == keys[7]


@given(key_sets())
def test_buckets_are_small(keys: list[int]) -> None:
    numbers = np.array(keys, np.uint64)
    _, _, starts, is_crowded = make_buckets(numbers)
    assert len(starts) * starts.itemsize <= numbers.nbytes // 4 + 2 * starts.itemsize
    assert starts.tolist() == sorted(starts)
    assert is_crowded is bool(np.diff(starts, prepend=0).max(initial=0) > CROWD)


class Counted:
    """Keys that count how often one is looked at."""

    def __init__(self, keys: list[int]) -> None:
        self._keys = array("Q", keys)
        self.looks = 0

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, at: int) -> int:
        self.looks += 1
        return self._keys[at]


@pytest.mark.parametrize(
    "keys",
    [
        np.cumsum(np.random.default_rng(1).integers(1, 8, 5000)).tolist(),
        np.unique(np.random.default_rng(1).integers(0, 2**63, 5000)).tolist(),
        [*range(5000), KEY_END - 1],
        [0, *range(KEY_END - 5000, KEY_END)],
        [*range(0, 7500, 3), *range(KEY_END - 2500, KEY_END)],
        [2**power for power in range(64)],
    ],
    ids=["gaps", "random", "one far above", "one far below", "two clusters", "steep"],
)
def test_a_key_is_found_in_few_steps(keys: list[int]) -> None:
    pages = pages_of(keys)
    for key in (keys * 2)[: lookups_before_buckets(len(keys)) + 1]:
        pages.find(key)
    pages._keys = counted = Counted(keys)
    for key in keys[::7]:
        for wanted in (key, min(key + 1, KEY_END - 1)):
            counted.looks = 0
            pages.find(wanted)
            assert counted.looks <= max(CROWD + 1, log2(len(keys)) + 3)


def test_buckets_are_made_once_they_are_worth_it() -> None:
    keys = [key * key for key in range(3 * WORTH_KEYS)]
    few = lookups_before_buckets(len(keys))
    pages = pages_of(keys)
    size = pages.size
    pages.search(np.array(keys, np.uint64))
    for key in keys[:few]:
        assert pages.find(key) is not None
        assert pages._buckets is None
    assert pages.find(keys[few]) is not None
    assert pages._buckets is not None
    assert pages.size == size


@given(key_sets(), st.lists(st.integers(0, KEY_END - 1), max_size=9))
def test_many_keys_are_found_in_buckets(keys: list[int], others: list[int]) -> None:
    buckets = make_buckets(np.array(keys, np.uint64))
    assume(keys and not buckets[3])
    near = {key + step for key in keys for step in (-1, 0, 1) if 0 <= key + step < KEY_END}
    asked = sorted(near | {0, KEY_END - 1} | set(others))
    where, found = search_in_buckets(np.array(keys, np.uint64), buckets, np.array(asked, np.uint64))
    assert found.tolist() == [key in keys for key in asked]
    assert where[found].tolist() == list(range(len(keys)))


def test_keys_far_between_make_buckets_once_they_were_many() -> None:
    keys = [3 * key + key % 2 for key in range(64 * FAR_BETWEEN * MANY_KEYS)]
    pages = pages_of(keys)
    asked = np.array(keys[:: 64 * FAR_BETWEEN], np.uint64)
    asked[::2] += np.uint64(1)  # which are not there
    expected = np.isin(asked, keys).tolist()
    searches = 0
    while pages._buckets is None:
        searches += 1
        where, found = pages.search(asked)
        assert found.tolist() == expected
    counted = MANY_KEYS // KEYS_PER_LOOKUP + 1  # by each search
    assert searches == lookups_before_buckets(len(keys)) // counted + 1
    assert searches > 1
    where, found = pages.search(asked)
    assert found.tolist() == expected
    assert pages.rows_at(where[found], asked[found])["key"].tolist() == asked[found].tolist()


def test_a_key_is_found_before_there_are_buckets() -> None:
    keys = [1, *range(3, 4 * WORTH_KEYS, 3), KEY_END - 1]
    rows = {row[0]: row for row in rows_at(keys, scattered=False).tolist()}
    for key in (0, 1, 2, 3, 4, keys[-2], keys[-2] + 1, KEY_END - 2, KEY_END - 1):
        pages = pages_of(keys)
        assert pages.find(key) == rows.get(key)
        assert pages._buckets is None


@given(
    st.integers(0, KEY_END - 1_000_000),
    st.lists(st.integers(1, 900), min_size=FEWEST, max_size=200),
    st.booleans(),
    st.data(),
)
def test_shortened_pages_answer_as_others(
    first: int, steps: list[int], scattered: bool, data: st.DataObject
) -> None:
    keys = list(accumulate([first, *steps]))
    pages = pages_of(keys, scattered=scattered)
    assume(isinstance(pages.run, (ContiguousRun, CompactRun)) and len(pages.keys))
    short = shorten_pages([pages])
    for key in {key + step for key in keys for step in (-1, 0, 1)}:
        if 0 <= key < KEY_END:
            assert short.find(key) == pages.find(key)
    bounds = st.sampled_from([0, KEY_END, *keys]) | st.integers(0, KEY_END)
    start, stop = data.draw(bounds), data.draw(bounds)
    assert joined(short.clip(start, stop)).tolist() == joined(pages.clip(start, stop)).tolist()
    assert short.has_any(start, stop) is pages.has_any(start, stop)
    asked = np.array(keys, np.uint64)
    for each in (pages, short):
        where, found = each.search(asked)
        assert found.all()
        assert each.rows_at(where, asked).tolist() == rows_at(keys, scattered=scattered).tolist()


def near(first: int, count: int) -> CachedPages:
    """Return pages of records that lie back to back, with keys that are near each other."""
    keys = [key for key in range(first, first + 3 * count) if key % 3 < 2 or key % 7 == 0][:count]
    rows = make_rows(np.array(keys, np.uint64), 8 * np.arange(first, first + count, dtype=np.uint64), 1, 1, 0)
    return CachedPages(shorten(rows, SIZE), first, first + 3 * count - 1)


def test_a_full_cache_keeps_pages_shorter_before_it_drops_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_cache, "CACHE_SIZE", 200_000)
    budget = page_cache.Budget()
    cache = page_cache.PageCache(budget)
    for first in range(0, 300_000, 6000):
        cache.insert(near(first, 2000))
        assert budget.size <= 200_000
        assert cache.find(0) is not None
        assert not budget.is_full()
    assert all(cache.find(first) is not None for first in range(0, 300_000, 6000))
    assert any(isinstance(pages, ShortPages) for pages in cache.index[1])
    assert budget.size == sum(pages.size for pages in cache.index[1])
    assert budget.least_size == sum(pages.least_size for pages in cache.index[1])
    for first in range(300_000, 1_500_000, 6000):
        cache.insert(near(first, 2000))
    assert budget.size <= 200_000
    assert budget.is_full()


def test_pages_that_go_on_are_shortened_together(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = page_cache.Budget()
    cache = page_cache.PageCache(budget)
    rows = rows_at([key for key in range(9000) if key % 5], scattered=False)
    whole = CachedPages(shorten(rows, SIZE), 0, KEY_END - 1)
    for low in range(0, 9000, 500):
        [run] = whole.clip(low, low + 500)
        cache.insert(CachedPages(run, low, low + 499))
    monkeypatch.setattr(page_cache, "CACHE_SIZE", 60_000)
    budget.enforce()
    [pages] = cache.index[1]
    assert isinstance(pages, ShortPages)
    assert (pages.floor, pages.last) == (0, 8999)
    assert [pages.find(key) for key in range(9000)] == [whole.find(key) for key in range(9000)]


def test_short_pages_take_in_those_beside_them_that_are_not_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that in the end they are few, and no row was shortened often."""
    budget = page_cache.Budget()
    cache = page_cache.PageCache(budget)
    rows = rows_at([key for key in range(64 * 500) if key % 5], scattered=False)
    whole = CachedPages(shorten(rows, SIZE), 0, KEY_END - 1)
    sizes = []

    def counted(pages: Sequence[AnyPages]) -> ShortPages:
        sizes.append(sum(each.count for each in pages))
        return shorten_pages(pages)

    monkeypatch.setattr(page_cache, "shorten", counted)
    monkeypatch.setattr(page_cache, "random", random.Random(1))
    monkeypatch.setattr(page_cache, "CACHE_SIZE", 100_000)
    for at in np.random.default_rng(1).permutation(64).tolist():
        [run] = whole.clip(500 * at, 500 * at + 500)
        cache.insert(CachedPages(run, 500 * at, 500 * at + 499))
        assert budget.size == sum(pages.size for pages in cache.index[1]) <= 100_000
    assert sum(pages.count for pages in cache.index[1]) == len(rows)
    assert sum(isinstance(pages, ShortPages) for pages in cache.index[1]) < 20
    assert sum(sizes) < 6 * len(rows)
    for pages in cache.index[1]:
        bounds = pages.floor, pages.last + 1
        expected = joined(whole.clip(*bounds))
        assert joined(pages.clip(*bounds)).tolist() == expected.tolist()
        assert [pages.find(key) for key in range(*bounds)] == [whole.find(key) for key in range(*bounds)]


def test_short_pages_beside_others_that_are_as_large_take_them_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second page first, then those between."""
    budget = page_cache.Budget()
    cache = page_cache.PageCache(budget)
    count = 64
    rows = rows_at([key for key in range(count * 500) if key % 5], scattered=False)
    whole = CachedPages(shorten(rows, SIZE), 0, KEY_END - 1)
    monkeypatch.setattr(page_cache, "MOST_TOGETHER", 3000)
    for at in [*range(0, count, 2), *range(1, count, 2)]:
        [run] = whole.clip(500 * at, 500 * at + 500)
        cache.insert(CachedPages(run, 500 * at, 500 * at + 499))
        monkeypatch.setattr(page_cache, "CACHE_SIZE", budget.least_size)  # so that all are shortened
        budget.enforce()
        monkeypatch.setattr(page_cache, "CACHE_SIZE", 10**6)
    found = [pages.count for pages in cache.index[1]]
    assert sum(found) == len(rows)
    assert len(found) < count // 4
    assert max(found) <= 2 * 3000
    assert all(isinstance(pages, ShortPages) for pages in cache.index[1])


@pytest.mark.parametrize("gap", [2**20, 2**40, 2**56, 2**60])
def test_pages_with_a_gap_between_them_are_not_joined_if_that_takes_more(
    monkeypatch: pytest.MonkeyPatch, gap: int
) -> None:
    """Of a gap each bucket in it would take memory, which there is not for the widest."""
    budget = page_cache.Budget()
    cache = page_cache.PageCache(budget)
    keys = [gap * cluster + key for cluster in range(8) for key in range(4000) if key % 5]
    whole = CachedPages(shorten(rows_at(keys, scattered=False), SIZE), 0, KEY_END - 1)
    for cluster in range(8):
        low, high = gap * cluster, gap * (cluster + 1)
        [run] = whole.clip(low, high)
        cache.insert(CachedPages(run, low, high - 1))
    before, least = budget.size, budget.least_size
    monkeypatch.setattr(page_cache, "CACHE_SIZE", least)
    budget.enforce()
    assert sum(pages.count for pages in cache.index[1]) == len(keys)
    assert budget.size <= least < before
    assert [cache.find(key).find(key) for key in keys[::7]] == [whole.find(key) for key in keys[::7]]  # type: ignore[union-attr]


def test_pages_that_others_would_come_between_are_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = page_cache.Budget()
    cache = page_cache.PageCache(budget)
    for first in (0, 9000):
        rows = rows_at([first + key for key in range(3000) if key % 5], scattered=False)
        rows["offset"] += np.uint64(2 * SIZE * 2400 * (first > 0))  # as if the one went on from the other
        cache.insert(CachedPages(shorten(rows, SIZE), first, first + 2999))
    monkeypatch.setattr(page_cache, "CACHE_SIZE", budget.least_size)
    budget.enforce()
    assert [(pages.floor, pages.last) for pages in cache.index[1]] == [(0, 2999), (9000, 11_999)]
    assert cache.find(4000) is None


def test_even_pages_are_not_made_short_with_others(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = page_cache.Budget()
    cache = page_cache.PageCache(budget)
    keys = [*(key for key in range(30_000) if key % 5), *range(30_000, 60_000)]
    whole = CachedPages(shorten(rows_at(keys, scattered=False), SIZE), 0, KEY_END - 1)
    for low, high in ((0, 15_000), (15_000, 30_000), (30_000, 60_000)):
        [run] = whole.clip(low, high)
        cache.insert(CachedPages(shorten(run.rows, SIZE), low, high - 1))
    monkeypatch.setattr(page_cache, "CACHE_SIZE", 50_000)
    budget.enforce()
    short, even = cache.index[1]
    assert isinstance(short, ShortPages)
    assert (short.floor, short.last, even.floor, even.last) == (0, 29_999, 30_000, 59_999)
    assert isinstance(even, CachedPages)
    assert not even.can_be_shortened()


def test_even_pages_are_one_whatever_their_number() -> None:
    """And what is dropped of them leaves the rest."""
    budget = page_cache.Budget()
    cache = page_cache.PageCache(budget)
    rows = rows_at(list(range(0, 90_000, 3)), scattered=False)
    whole = CachedPages(shorten(rows, SIZE), 0, KEY_END - 1)
    for low in [0, 6000, 3000, *range(87_000, 6000, -3000)]:
        [run] = whole.clip(low, low + 3000)
        cache.insert(CachedPages(run, low, low + 2999))
    [pages] = cache.index[1]
    assert (pages.floor, pages.last, pages.count) == (0, 89_999, 30_000)
    assert budget.size < 2000
    cache.drop(30_001, 30_005)
    assert [(each.floor, each.last, each.count) for each in cache.index[1]] == [
        (0, 30_000, 10_001),
        (30_006, 89_999, 19_998),
    ]
    for key in (0, 29_999, 30_000, 30_006, 30_007, 89_997):
        found = cache.find(key)
        assert found is not None
        assert found.find(key) == whole.find(key)
