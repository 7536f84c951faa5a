"""Stores as pandas data: a row for each item or object, indexed by key."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest

import structchunk as sc

Point = sc.Object.of(x=ctypes.c_double, n=ctypes.c_int32)


def test_an_object_store_is_a_frame_by_key(db: sc.Database) -> None:
    points = db.object_store("points", Point)
    points.put_many([2**64 - 1, 3], [(1.5, 1), (2.5, 2)])
    expected = pd.DataFrame(
        {"x": [2.5, 1.5], "n": np.array([2, 1], "i4")}, pd.Index(np.array([3, 2**64 - 1], "u8"), name="key")
    )
    pd.testing.assert_frame_equal(points.to_pandas(), expected)
    pd.testing.assert_frame_equal(points.to_pandas(0, 4), expected[:1])


def test_an_array_store_is_a_series_of_items(db: sc.Database) -> None:
    store = db.array_store("temps", "f4")
    store.put_many([7, 9, 2], [1.0, 2.0, 3.0, 4.0], [3, 0, 1])
    series = store.to_pandas()
    assert (series.name, series.dtype, series.index.names) == ("temps", np.float32, ["key", "position"])
    assert [*series.items()] == [((2, 0), 4.0), ((7, 0), 1.0), ((7, 1), 2.0), ((7, 2), 3.0)]
    assert series.groupby("key").sum().to_dict() == {2: 4.0, 7: 6.0}
    assert series.loc[7].tolist() == [1.0, 2.0, 3.0]
    assert series.index.get_level_values("key").dtype == np.uint64
    assert store.to_pandas(3, 8).index.get_level_values("key").unique().tolist() == [7]


def test_records_of_one_length_unstack_to_a_row_each(db: sc.Database) -> None:
    store = db.array_store("temps", "i8")
    store.put_many([5, 6], [[1, 2, 3], [4, 5, 6]])
    wide = store.to_pandas().unstack()
    assert wide.to_dict("index") == {5: {0: 1, 1: 2, 2: 3}, 6: {0: 4, 1: 5, 2: 6}}


@pytest.mark.parametrize("batches", [1, 3])
def test_scattered_records_come_in_order_of_key(db: sc.Database, batches: int) -> None:
    store = db.array_store("temps", "f8")
    expected: dict[int, list[float]] = {}
    for seed in range(batches):
        rng = np.random.default_rng(seed)
        keys, lengths = rng.permutation(60), rng.integers(0, 4, 60)
        values = rng.random(lengths.sum())
        store.put_many(keys, values, lengths)
        parts = np.split(values, np.cumsum(lengths)[:-1])
        expected |= {int(key): part.tolist() for key, part in zip(keys, parts, strict=True)}
    rows = [((key, i), item) for key in sorted(expected) for i, item in enumerate(expected[key])]
    assert [*store.to_pandas().items()] == rows


def test_fields_in_fields_are_columns_by_path(db: sc.Database) -> None:
    nested = np.dtype([("at", Point), ("m", "i2", (2, 2)), ("ps", Point, (2,))])
    items = np.arange(1, 1 + 2 * nested.itemsize, dtype="u1").view(nested)
    store = db.array_store("items", nested)
    store.put(1, items)
    frame = store.to_pandas()
    paths = ["at.x", "at.n", *(f"m[{i},{j}]" for i in (0, 1) for j in (0, 1))]
    paths += [f"ps[{i}].{name}" for i in (0, 1) for name in ("x", "n")]
    assert list(frame.columns) == paths
    assert frame["m[1,0]"].tolist() == items["m"][:, 1, 0].tolist()
    assert frame["ps[1].n"].tolist() == items["ps"]["n"][:, 1].tolist()
    assert frame.index.tolist() == [(1, 0), (1, 1)]


def test_an_object_store_of_arrays_has_a_column_for_each_item(db: sc.Database) -> None:
    store = db.object_store("vectors", sc.Array.of(2, ctypes.c_double))
    store.put_many([1, 2], [[1.0, 2.0], [3.0, 4.0]])
    assert store.to_pandas().to_dict("index") == {
        1: {"items[0]": 1.0, "items[1]": 2.0},
        2: {"items[0]": 3.0, "items[1]": 4.0},
    }


@pytest.mark.parametrize("dtype", [">i4", ">f8", "M8[D]", "m8[ms]", "S3", "U3", "?", "c16", "u8"])
def test_values_of_every_type_are_those_of_numpy(db: sc.Database, dtype: str) -> None:
    store = db.array_store("values", dtype)
    items = np.array([1, 0, 2], "i4").astype(dtype)
    store.put(1, items)
    series = store.to_pandas()
    assert series.tolist() == pd.Series(items.astype(items.dtype.newbyteorder("="))).tolist()


def test_values_back_to_back_are_not_copied(db: sc.Database) -> None:
    store = db.array_store("temps", "f8")
    store.put_many([1, 2], np.ones((2, 3)))
    (batch,) = store.scan()
    assert np.shares_memory(store.to_pandas().to_numpy(), batch.values)


def test_empty_stores(db: sc.Database) -> None:
    assert db.object_store("points", Point).to_pandas().shape == (0, 2)
    store = db.array_store("temps", "f8")
    for _ in range(2):
        assert store.to_pandas().shape == (0,)
        assert store.to_pandas().index.names == ["key", "position"]
        store.put(1, [])


def test_sees_what_its_handle_sees(db: sc.Database) -> None:
    db.array_store("temps", "f8").put(1, [1.0])
    with db.snapshot() as snapshot, db.transaction() as txn:
        txn["temps"].put(2, [2.0])
        found: list[Any] = [len(handle["temps"].to_pandas()) for handle in (snapshot, txn, db)]
    assert found == [1, 2, 1]


def test_says_what_to_install_if_pandas_is_missing(db: sc.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "structchunk.frames", raising=False)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[pandas\]'"):
        db.array_store("temps", "f8").to_pandas()
