"""Batch: a ragged block, and its sums by record."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import structchunk as sc

RECORDS = [[1, 2, 3], [], [4], [5, 6]]


def make(records: list[list[Any]], dtype: Any = "f8") -> sc.Batch:
    lengths = [len(record) for record in records]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    values = np.array([item for record in records for item in record], dtype)
    return sc.Batch(np.arange(10, 10 + len(records), dtype=np.uint64), offsets, values)


def test_is_what_a_store_returns(db: sc.Database) -> None:
    store = db.array_store("floats", "f8")
    store.put_many([10, 11, 12, 13], range(1, 7), [3, 0, 1, 2])
    for batch in (*store.scan(), store.get_many([10, 11, 12, 13])):
        assert type(batch) is sc.Batch
        assert batch.keys.dtype == np.uint64
        assert batch.offsets.dtype == np.int64
        assert batch.values.dtype == np.float64
        assert batch.keys.tolist() == [10, 11, 12, 13]
        assert batch.offsets.tolist() == [0, 3, 3, 4, 6]
        assert batch.values.tolist() == [1, 2, 3, 4, 5, 6]
    empty = store.get_many([])
    assert (empty.keys.shape, empty.offsets.tolist(), empty.values.shape) == ((0,), [0], (0,))
    assert (empty.keys.dtype, empty.offsets.dtype, empty.values.dtype) == (np.uint64, np.int64, np.float64)
    assert list(store.scan(50)) == []


def test_batches_of_a_store_are_read_only(db: sc.Database) -> None:
    even, ragged = db.array_store("even", "f8"), db.array_store("ragged", "f8")
    even.put_many(range(5000), np.ones((5000, 2)))
    ragged.put_many(range(5000), np.ones(2500), np.arange(5000) % 2)
    ragged[5001] = []
    for key in range(0, 5000, 3):
        ragged.delete(key)
    batches = [*even.scan(), *ragged.scan(), *ragged.scan(5001), *(pair[1] for pair in db.scan("even", "ragged"))]
    batches += [
        even.get_many([]),
        even.get_many([1]),
        even.get_many([1, 2]),
        even.get_many([9, 4]),
        ragged.get_many([5001]),
    ]
    for batch in batches:
        assert not any(array.flags.writeable for array in (batch.keys, batch.offsets, batch.values))


def test_length_lengths_and_repr() -> None:
    batch = make(RECORDS)
    assert len(batch) == 4
    assert batch.lengths.tolist() == [3, 0, 1, 2]
    assert repr(batch) == "Batch(4 records, 6 items of float64)"
    assert len(make([])) == 0
    assert make([]).lengths.tolist() == []


def test_iterates_over_keys_and_arrays() -> None:
    pairs = list(make(RECORDS))
    assert [key for key, _ in pairs] == [10, 11, 12, 13]
    assert {type(key) for key, _ in pairs} == {int}
    assert [value.tolist() for _, value in pairs] == RECORDS
    assert list(make([])) == []


def test_index_is_a_position() -> None:
    batch = make(RECORDS)
    assert [batch[at].tolist() for at in range(4)] == RECORDS
    assert [batch[at].tolist() for at in range(-4, 0)] == RECORDS
    assert batch[np.int64(3)].tolist() == [5, 6]
    assert np.shares_memory(batch[0], batch.values)
    for at in (4, -5, 10):
        with pytest.raises(IndexError, match="4 records"):
            batch[at]


def test_slices_are_batches_over_the_same_memory() -> None:
    batch = make(RECORDS)
    part = batch[1:4]
    assert type(part) is sc.Batch
    assert [(key, value.tolist()) for key, value in part] == [(11, []), (12, [4]), (13, [5, 6])]
    assert part.offsets.tolist() == [0, 0, 1, 3]
    assert part.reduce(np.add).tolist() == [0, 4, 11]
    assert np.shares_memory(part.keys, batch.keys)
    assert np.shares_memory(part.values, batch.values)
    assert np.shares_memory(batch[:2].offsets, batch.offsets)
    assert [len(batch[at]) for at in (slice(2, 99), slice(-1, None), slice(3, 1), slice(9, None))] == [2, 1, 0, 0]
    assert len(make([])[:3]) == 0
    assert sc.Batch(batch.keys, batch.offsets, batch.values, "object")[1:].kind == "object"
    for step in (2, -1):
        with pytest.raises(ValueError, match=f"steps of {step}"):
            batch[::step]


def test_refuses_other_positions() -> None:
    for position in ("x", 1.0, None, [1], np.array([0, 1]), np.array([True] * 4), (0, 1)):
        with pytest.raises(TypeError, match="an integer or a slice"):
            make(RECORDS)[position]


def test_a_field_is_a_batch() -> None:
    batch = make([[(1, (2.5, 3))], [], [(2, (3.5, 1)), (4, (5, 6))]], [("n", "i4"), ("x", "f8", (2,))])
    assert batch["n"].reduce(np.add).tolist() == [1, 0, 6]
    assert batch["x"].reduce(np.add).tolist() == [[2.5, 3], [0, 0], [8.5, 7]]
    assert batch[:0]["x"].reduce(np.add).shape == (0, 2)
    assert batch["n"].to_arrow().column("value").to_pylist() == [[1], [], [2, 4]]
    assert np.shares_memory(batch["n"].values, batch.values)
    with pytest.raises(ValueError, match="no field 'y'; theirs are n, x"):
        batch["y"]


def test_is_neither_an_array_nor_a_container() -> None:
    batch = make([[1.0], [2.0]])
    for attempt in (np.asarray, np.mean, np.sum):
        with pytest.raises(TypeError, match="values, keys, offsets"):
            attempt(batch)
    with pytest.raises(TypeError):
        assert 10 in batch
    with pytest.raises(TypeError):
        reversed(batch)


def test_reduce() -> None:
    batch = make([[1, 2, 3], [4], [5, 6]])
    assert batch.reduce(np.add).tolist() == [6, 4, 11]
    assert batch.reduce(np.maximum).tolist() == [3, 4, 6]
    assert batch.reduce(np.multiply).tolist() == [6, 4, 30]
    assert batch.reduce(np.add, dtype=np.int8).dtype == np.int8


def test_reduce_of_empty_records_gives_the_identity() -> None:
    for records in ([[]], [[], []], [[], [1.0, 2.0]], [[1.0], []], [[], [2.0], []], RECORDS):
        assert make(records).reduce(np.add).tolist() == [sum(record) for record in records]
        assert make(records).reduce(np.multiply).tolist() == [float(np.prod(record)) for record in records]
    assert make(RECORDS, bool).reduce(np.logical_and).tolist() == [True] * 4
    assert make([[], [True]], bool).reduce(np.logical_or).tolist() == [False, True]


@pytest.mark.parametrize(
    "function", [sum, np.sum, np.mean, np.sin, np.divmod, np.matmul, np.add.reduce, "add", None, 5, np.add.outer]
)
@pytest.mark.parametrize("records", [[], [[]], [[1.0], []], [[1.0]]])
def test_reduce_refuses_all_but_binary_ufuncs(function: Any, records: list[list[float]]) -> None:
    with pytest.raises(TypeError, match=r"binary NumPy ufunc.*np\.add.*found .*/ batch\.lengths"):
        make(records).reduce(function)


def test_reduce_takes_ufuncs_of_any_making() -> None:
    longest = np.frompyfunc(max, 2, 1)
    assert make([[1, 2], [3]]).reduce(longest).tolist() == [2, 3]


@pytest.mark.parametrize("records", [[], [[]], [[(1, 2.5)], []], [[(1, 2.5)], [(2, 3.5), (3, 4.5)]]])
@pytest.mark.parametrize("ufunc", [np.add, np.logical_and])
def test_reduce_of_values_with_fields_names_them(ufunc: np.ufunc, records: list[Any]) -> None:
    with pytest.raises(
        TypeError, match=rf"{ufunc.__name__} takes no values with the fields n, x;.*batch\['n'\]\.reduce"
    ):
        make(records, [("n", "i4"), ("x", "f8")]).reduce(ufunc)
    with pytest.raises(TypeError, match="ufunc 'add' cannot use"):
        make([[1], [2]], "M8[s]").reduce(np.add)


@pytest.mark.parametrize("ufunc", [np.maximum, np.minimum, np.fmax])
def test_reduce_of_an_empty_record_without_identity_names_it(ufunc: np.ufunc) -> None:
    with pytest.raises(ValueError, match=rf"{ufunc.__name__}.*key 11"):
        make(RECORDS).reduce(ufunc)
    assert make([]).reduce(ufunc).shape == (0,)


@pytest.mark.parametrize("dtype", ["i1", "u1", "f4", "f8", ">i4", "c16", "?", "m8[s]"])
def test_reduce_has_the_dtype_of_numpy(dtype: str) -> None:
    for records in ([[1, 0], [1]], [[1, 0], [], [1]], [[]], []):
        expected = np.add.reduce(np.zeros(0, dtype)).dtype
        found = make(records, dtype).reduce(np.add)
        assert found.shape == (len(records),)
        assert found.dtype == expected


@given(
    st.lists(st.lists(st.integers(-100, 100), max_size=5), max_size=8), st.sampled_from(["i2", "f4", "f8", "i8"])
)
def test_reduce_is_reduce_of_each(records: list[list[int]], dtype: str) -> None:
    batch = make(records, dtype)
    expected = [np.add.reduce(np.array(record, dtype)) for record in records]
    found = batch.reduce(np.add)
    assert found.tolist() == [item.item() for item in expected]
    assert all(found.dtype == item.dtype for item in expected)


def test_reduce_over_a_scan(db: sc.Database) -> None:
    store = db.array_store("floats", "f8")
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 9, 3000)
    store.put_many(range(3000), rng.random(lengths.sum()), lengths)
    store.put_many(range(0, 3000, 7), rng.random((429, 2)))
    sums = np.concatenate([batch.reduce(np.add) for batch in store.scan(batch_size=500)])
    assert np.allclose(sums, [value.sum() for value in store.values()], rtol=1e-14, atol=0)
