"""Decoded pages: a key is found where a plain search finds it, in few steps, whatever the keys."""

from __future__ import annotations

from array import array
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from structchunk.index.buckets import CROWD, make_buckets
from structchunk.index.page_cache import WORTH_KEYS, CachedPages
from structchunk.runs.extent import KEY_END, RowArray, make_rows
from structchunk.runs.run import Run, shorten

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
    for _ in range(2):
        for key in sorted(near):
            pages.prepare(lambda _: records)
            assert (pages.find(key) is not None) is (key in model)
            if pages.take is not None:
                assert pages.take(key) == model.get(key)
    assert pages.is_prepared


def test_nothing_is_made_of_rows_whose_records_cannot_be() -> None:
    pages = pages_of(list(range(0, 300, 3)))
    pages.prepare(lambda _: None)
    assert pages.is_prepared
    assert pages.take is None


def test_records_are_made_once_some_keys_were_looked_up() -> None:
    keys = [3 * key + key % 2 for key in range(3 * WORTH_KEYS)]
    pages, asked = pages_of(keys), []

    def make(run: Run) -> list[int]:
        asked.append(run)
        return keys

    for key in keys[:3]:
        pages.prepare(make)
        assert pages.find(key) is not None
    assert not asked
    assert pages.find(keys[3]) is not None
    pages.prepare(make)
    assert asked
    assert pages.take is not None
    assert pages.take(keys[7]) == keys[7]


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
    for key in keys[: len(keys) // WORTH_KEYS + 1]:
        pages.find(key)
    pages._keys = counted = Counted(keys)
    for key in keys[::7]:
        for wanted in (key, min(key + 1, KEY_END - 1)):
            counted.looks = 0
            pages.find(wanted)
            assert counted.looks <= max(CROWD + 1, log2(len(keys)) + 3)


def test_buckets_are_made_once_they_are_worth_it() -> None:
    keys = [key * key for key in range(3 * WORTH_KEYS)]
    pages = pages_of(keys)
    size = pages.size
    pages.search(np.array(keys, np.uint64))
    for key in keys[:3]:
        assert pages.find(key) is not None
        assert pages._buckets is None
    assert pages.find(keys[3]) is not None
    assert pages._buckets is not None
    assert pages.size == size


def test_a_key_is_found_before_there_are_buckets() -> None:
    keys = [1, *range(3, 4 * WORTH_KEYS, 3), KEY_END - 1]
    rows = {row[0]: row for row in rows_at(keys, scattered=False).tolist()}
    for key in (0, 1, 2, 3, 4, keys[-2], keys[-2] + 1, KEY_END - 2, KEY_END - 1):
        pages = pages_of(keys)
        assert pages.find(key) == rows.get(key)
        assert pages._buckets is None
