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


@pytest.mark.parametrize(
    ("dtype", "made"),
    [
        *(("M8[ms]", "M8[ms]"), (">M8[us]", "M8[us]"), ("M8[M]", "M8[s]"), ("M8[h]", "M8[s]")),
        *(("M8[10ms]", "M8[ms]"), ("m8[ns]", "m8[ns]"), ("m8[W]", "m8[s]"), ("m8[25us]", "m8[us]")),
    ],
)
def test_times_keep_what_they_mean(db: sc.Database, dtype: str, made: str) -> None:
    store = db.array_store("times", dtype)
    items = np.array([1, -2, "NaT"], dtype)
    store.put(1, items)
    series = store.to_pandas()
    assert series.dtype == np.dtype(made)
    np.testing.assert_array_equal(series.to_numpy(), items.astype(made))


@pytest.mark.parametrize("dtype", ["M8[ps]", "m8[as]", "m8[Y]", [("when", "M8[fs]")]])
def test_times_that_pandas_would_round_are_refused(db: sc.Database, dtype: Any) -> None:
    store = db.array_store("times", dtype)
    with pytest.raises(sc.SchemaError, match="pandas cannot hold"):
        store.to_pandas()


@pytest.mark.parametrize("dtype", ["M8[W]", "M8[D]", "m8[h]"])
def test_a_time_out_of_range_is_refused(db: sc.Database, dtype: str) -> None:
    store = db.array_store("times", dtype)
    store.put(1, np.array([2**62], dtype))
    with pytest.raises(ValueError, match="times: found"):
        store.to_pandas()


@pytest.mark.parametrize(("dtype", "item"), [("S3", b"a\0b"), ("U3", "a\0b"), ("V2", b"a\0")])
def test_text_and_bytes_are_whole(db: sc.Database, dtype: str, item: Any) -> None:
    store = db.array_store("texts", dtype)
    store.put(1, [item])
    series = store.to_pandas()
    assert series.tolist() == [item]
    if isinstance(item, bytes):
        series.iloc[0] = b"longer than before"
        assert series.tolist() == [b"longer than before"]


def test_results_are_the_callers_own(db: sc.Database) -> None:
    store = db.array_store("temps", "f8")
    store.put_many([1, 2], np.ones((2, 3)))
    series = store.to_pandas()
    series.iloc[0] = 5
    series[series < 2] = 0
    assert series.tolist() == [5.0, *[0.0] * 5]
    items = db.array_store("items", [("a", "f4"), ("b", "i4")])
    items.put(1, np.ones(2, items.dtype))
    frame = items.to_pandas()
    frame.loc[(1, 0), "a"] = 7
    frame[frame < 2] = 3
    assert frame.to_numpy().tolist() == [[7, 3], [3, 3]]
    assert store[1].tolist() == [1.0] * 3 and items[1].tolist() == [(1.0, 1)] * 2


def test_keys_are_the_callers_own(db: sc.Database) -> None:
    points = db.object_store("points", Point)
    points.put_many([1, 2], [(1.5, 1), (2.5, 2)])
    frame = points.to_pandas().reset_index()
    frame.loc[0, "key"] = 9
    assert frame["key"].tolist() == [9, 2]


def test_later_changes_in_place_do_not_show(db: sc.Database) -> None:
    points = db.object_store("points", Point)
    points.put_many([1, 2], [(1.5, 1), (2.5, 2)])
    array = db.array_store("temps", "f8").new(1, 3)
    vectors = db.object_store("vectors", sc.Array.of(2, ctypes.c_double))
    vectors.put(1, [1.0, 2.0])
    found = [db[name].to_pandas() for name in ("points", "temps", "vectors")]
    before = [data.copy() for data in found]
    points[1].x = array[:] = vectors[1][0] = 9
    for data, expected in zip(found, before, strict=True):
        assert data.equals(expected)


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
    monkeypatch.delitem(sys.modules, "structchunk.interop.pandas", raising=False)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[pandas\]'"):
        db.array_store("temps", "f8").to_pandas()
