"""Keys given in bulk, and what is said to those who ask for many as they would a sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import structchunk as sc
from structchunk.types.keys import as_key, as_keys, distinct, key_or_none, keys_among


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (np.array([3, 2**64 - 1, 0], object), [3, 2**64 - 1, 0]),
        (np.array([np.uint8(3), 2**63], object), [3, 2**63]),
        (np.array([], object), []),
        (np.ma.array([1, 2]), [1, 2]),
        (np.ma.array([1, 2], mask=[False, False]), [1, 2]),
        (pd.Series([1, 2**63]), [1, 2**63]),
        (pd.Series([1, 2], dtype="Int64"), [1, 2]),
        (pd.Index([5, 6]), [5, 6]),
    ],
)
def test_arrays_of_any_making(keys: Any, expected: list[int]) -> None:
    found = as_keys(keys)
    assert (found.dtype, type(found), found.tolist()) == (np.uint64, np.ndarray, expected)


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        (np.array([1, -1], object), ValueError),
        (np.array([1, 2**64], object), ValueError),
        (np.array([1, True], object), TypeError),
        (np.array([1, 1.0], object), TypeError),
        (np.array([1, None], object), TypeError),
        (np.array([1, "1"], object), TypeError),
        (np.array([[1, 2]], object), ValueError),
        (np.ma.array([1, 2], mask=[False, True]), ValueError),
        (np.ma.array([1, 2], mask=True), ValueError),
        (pd.Series([1, None], dtype="Int64"), ValueError),
    ],
)
def test_arrays_refused(keys: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="key"):
        as_keys(keys)


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        (slice(10, 20), r"scan\(10, 20\) .*delete_range\(10, 20\)"),
        (slice(None), r"scan\(\) .*delete_range\(\)"),
        (slice(5, None), r"scan\(5\) .*delete_range\(5\)"),
        (slice(None, 5, 1), r"scan\(None, 5\) .*delete_range\(None, 5\)"),
        (slice(5, 20, 2), r"a step is not supported: scan\(5, 20\) reads all records"),
        (slice(None, None, 2), r"a step is not supported: scan\(\) reads all records"),
        (slice(None, None, -1), r"a step is not supported: items\(start, stop, reverse=True\)"),
        ([1, 2], r"get_many\(\).*put_many\(\).*delete_many\(\)"),
        (np.array([1, 2]), r"get_many\(\)"),
        (..., r"read\(\)"),
        ((1, 2), "tuple$"),
        ("x", "str$"),
    ],
)
def test_what_is_no_key_names_the_call_that_is_meant(key: Any, advice: str) -> None:
    with pytest.raises(TypeError, match=f"a key is an integer, found .*{advice}"):
        as_key(key)


def test_key_or_none() -> None:
    assert [key_or_none(key) for key in (5, np.uint8(5), 2**64 - 1)] == [5, 5, 2**64 - 1]
    for key in (-1, 2**64, "a", None, 1.0, True, [], slice(3), np.array([3])):
        assert key_or_none(key) is None


integers = st.one_of(st.integers(-3, 9), st.integers(2**64 - 3, 2**64 + 3), st.integers(-(2**70), 2**70))


@given(st.lists(integers))
def test_keys_among_integers(numbers: list[int]) -> None:
    expected = [number for number in numbers if key_or_none(number) is not None]
    for source in (numbers, np.array(numbers, object), iter(numbers)):
        keys, is_key = keys_among(source)
        assert (keys.dtype, is_key.dtype, len(keys)) == (np.uint64, np.bool_, len(numbers))
        assert keys[is_key].tolist() == expected
        assert is_key.tolist() == [number in expected for number in numbers]


@given(integers, st.integers(0, 20), st.sampled_from([1, -1, 2, -3, 2**62, -(2**65)]))
def test_keys_among_ranges(start: int, count: int, step: int) -> None:
    numbers = range(start, start + count * step, step)
    keys, is_key = keys_among(numbers)
    assert is_key.tolist() == [key_or_none(number) is not None for number in numbers]
    assert keys.tolist() == [number % 2**64 for number in numbers]


def test_integers_of_any_type_are_or_are_not_contained(db: sc.Database) -> None:
    store = db.array_store("floats", "f8")
    store.put_many([1, 255, 2**64 - 1], np.ones((3, 1)))
    for dtype in ("i1", "i2", ">i4", "i8"):
        assert store.contains_many(np.array([-1, 1, 2, -128], dtype)).tolist() == [False, True, False, False]
    assert store.contains_many(np.array([2**64 - 1, 0], ">u8")).tolist() == [True, False]
    assert store.contains_many(np.arange(-10, 2)[::2]).tolist() == [False] * 6
    assert store.contains_many(range(3, -3, -1)).tolist() == [False, False, True, False, False, False]
    assert store.contains_many(pd.Series([-1, 1])).tolist() == [False, True]
    assert store.contains_many(np.array([])).shape == store.contains_many(range(0)).shape == (0,)
    for keys in (np.array([1.0]), np.array(["1"]), "1", [1, "1"], [-1, 1.0], np.array([True]), [2**64, None], 1):
        with pytest.raises(TypeError, match="key"):
            store.contains_many(keys)
    for keys in (np.ma.array([-1, 2], mask=[0, 1]), pd.Series([-1, None], dtype="Int64"), np.array([[-1]])):
        with pytest.raises(ValueError, match="key"):
            store.contains_many(keys)


@given(st.lists(st.one_of(st.integers(0, 9), st.integers(0, 2**64 - 1))))
def test_distinct(keys: list[int]) -> None:
    assert distinct(np.array(keys, np.uint64)).tolist() == sorted(set(keys))


def test_views_of_keys_are_keys(db: sc.Database) -> None:
    floats, others = db.array_store("floats", "f8"), db.array_store("others", "f8")
    floats.put_many([2**64 - 1, 3, 5], np.ones((3, 1)))
    found = as_keys(floats.keys(reverse=True))
    assert (found.dtype, found.tolist()) == (np.uint64, [2**64 - 1, 5, 3])
    others.put_many(floats.keys(), np.ones((3, 1)))
    assert list(others) == list(floats)
    assert others.get_many(floats.keys(4)).keys.tolist() == [5, 2**64 - 1]
    assert pd.Index(floats.keys()).tolist() == [3, 5, 2**64 - 1]
    assert np.isin([3, 4], floats.keys()).tolist() == [True, False]


def test_arrays_of_views_are_the_callers_own(db: sc.Database) -> None:
    store = db.array_store("floats", "f8")
    store.put_many([1, 2, 4], np.ones((3, 1)))
    for array in (np.asarray(store.keys()), np.array(store.keys()), np.array(store.keys(), copy=True)):
        array[0] = 9
    assert list(store) == np.asarray(store.keys()).tolist() == [1, 2, 4]
    assert np.asarray(store.keys(), "f4").dtype == np.float32
    assert np.asarray(store.keys(50)).dtype == np.uint64
    store[2**63] = [1.0]
    for dtype in ("i8", "u4", "i1"):
        assert np.asarray(store.keys(0, 9), dtype).dtype == dtype
        with pytest.raises(OverflowError, match=str(2**63)):
            np.asarray(store.keys(), dtype)
    assert np.asarray(store.keys(), object).tolist() == [1, 2, 4, 2**63]
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        with pytest.raises(ValueError, match="copy"):
            np.array(store.keys(), copy=False)
