"""Short keys: what is asked of them is answered as by the keys themselves, in less memory where keys are near."""

from __future__ import annotations

import tracemalloc
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from structchunk.runs.extent import KEY_END
from structchunk.runs.short_keys import WINDOW, ShortKeys, least_size

gaps = st.tuples(st.sampled_from([1, 2, 255, 256, 65535, 2**16, 2**20, 2**33]), st.integers(1, 3 * WINDOW))


@st.composite
def near_keys(draw: st.DrawFn) -> npt.NDArray[np.uint64]:
    """Draw ascending keys, of which ShortKeys do not take much more memory than the keys."""
    first = draw(st.sampled_from([0, 1, 2**32 - 3, 2**63 - 5]) | st.integers(0, KEY_END - 1))
    steps = [gap for gap, count in draw(st.lists(gaps, min_size=1, max_size=4)) for _ in range(count)]
    listed = [key for key in accumulate([first, *steps]) if key < KEY_END]
    assume(least_size(len(listed), listed[-1] - listed[0]) < 1 << 20)
    return np.array(listed, np.uint64)


@given(near_keys(), st.lists(st.integers(0, KEY_END - 1), max_size=5))
def test_a_key_is_where_a_plain_search_finds_it(keys: npt.NDArray[np.uint64], others: list[int]) -> None:
    short = ShortKeys(keys)
    assert short.size <= least_size(len(keys), int(keys[-1] - keys[0]))
    places = {key: at for at, key in enumerate(keys.tolist())}
    asked = sorted({key + step for key in places for step in (-1, 0, 1, 256)} | {0, KEY_END - 1} | set(others))
    asked = [key for key in asked if 0 <= key < KEY_END]
    assert [short.find(key) for key in asked] == [places.get(key) for key in asked]
    take = short.taker([f"item of {key}" for key in places])
    assert [take(key) for key in asked] == [f"item of {key}" if key in places else None for key in asked]
    below = np.searchsorted(keys, np.array(asked, np.uint64)).tolist()
    assert [short.count_below(key) for key in asked] == below
    assert short.count_below(KEY_END) == len(keys)
    for few in (asked, asked[:3], asked[-3:]):
        where, found = short.search(np.array(few, np.uint64))
        assert found.tolist() == [key in places for key in few]
        assert where[found].tolist() == [places[key] for key in few if key in places]


@given(near_keys(), st.data())
def test_parts_are_the_keys(keys: npt.NDArray[np.uint64], data: st.DataObject) -> None:
    low = data.draw(st.integers(0, len(keys)))
    high = data.draw(st.integers(low, len(keys)))
    part = ShortKeys(keys).part(low, high)
    assert part.dtype == np.uint64
    assert part.tolist() == keys[low:high].tolist()


@pytest.mark.parametrize(("gap", "most"), [(1, 1.1), (16, 1.3), (64, 2.1), (1000, 2.1), (2**20, 4.1)])
def test_near_keys_take_little(gap: int, most: float) -> None:
    count = 1 << 16
    keys = np.cumsum(np.random.default_rng(gap).integers(1, 2 * gap, count), dtype=np.uint64)
    assert ShortKeys(keys).size < most * count


def test_no_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="0 keys"):
        ShortKeys(np.empty(0, np.uint64))


def test_a_low_part_of_another_bucket_is_not_found() -> None:
    keys = np.r_[0:40_000:100, 115_536:130_536:100, 131_079:191_072:100].astype(np.uint64)
    assert ShortKeys(keys).find(50_000) is None
    assert ShortKeys(keys).find(115_536) == 400


@pytest.mark.parametrize("gap", [16, 1000, 2**20])
def test_size_is_what_is_taken(gap: int) -> None:
    keys = np.cumsum(np.random.default_rng(gap).integers(1, 2 * gap, 1 << 17), dtype=np.uint64)
    tracemalloc.start()
    try:
        short = ShortKeys(keys)
        assert tracemalloc.get_traced_memory()[0] < 1.1 * short.size + 10_000
    finally:
        tracemalloc.stop()
