"""Stores whose items are arrays of a shape: every way in and out, and what is refused."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import OpenDB

import structchunk as sc

SHAPES: list[tuple[int, ...]] = [(1,), (3,), (2, 3), (384,)]
TYPES = ["f4", ">i2", "?", "M8[s]", "S5", "U2", "c8", np.dtype([("a", "u1"), ("b", "<f8")], align=True)]


def some_items(dtype: Any, shape: tuple[int, ...], count: int) -> np.ndarray:
    numbers = np.arange(count * int(np.prod(shape))).reshape(count, *shape) % 100
    items = np.zeros(numbers.shape, dtype)
    if items.dtype.names:
        items["a"], items["b"] = numbers, numbers / 2
    else:
        items[...] = numbers.astype("S") if items.dtype.kind in "SU" else numbers.astype(items.dtype)
    return items


def contents(store: Any) -> dict[int, bytes]:
    return {key: value.tobytes() for key, value in store.items()}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_way_in_and_out(open_db: OpenDB, dtype: Any, shape: tuple[int, ...]) -> None:
    items = some_items(dtype, shape, 9)
    of_items = np.dtype((dtype, shape))
    with open_db(chunk_size=64 << 10, sync=False) as db:
        store = db.array_store("store", dtype, shape=shape)
        assert store.dtype == db.array_store("store", of_items).dtype == of_items
        store.put(1, items)
        store[2] = items[:0]
        store[3] = []
        store.put_many([4, 5], items[:8].reshape(2, 4, *shape))
        store.put_many([6, 7], items, [0, 9])
        store.put_many([8, 9], [items[:1], items[4:]])
        store.put_many([10, 11], [list(items[:2]), list(items[5:6])])
        store.update({12: items[::2], 13: items[:1]})
        live = store.new(14, 3)
        assert live.shape == (3, *shape)
        live[1:] = items[:2]
        assert store.setdefault(15, items[:3]).tobytes() == items[:3].tobytes()
        with db.transaction() as txn:
            txn[store].put(16, items[1:])
            assert txn[store][16].shape == (8, *shape)
            assert txn[store].read(15, 17).values.shape == (11, *shape)
    zero = np.concatenate([np.zeros((1, *shape), dtype), items[:2]])
    first = [items, items[:0], items[:0], items[:4], items[4:8], items[:0], items, items[:1], items[4:]]
    more = [items[:2], items[5:6], items[::2], items[:1], zero, items[:3], items[1:]]
    expected = dict(enumerate([*first, *more], 1))
    with open_db(sync=False) as db:
        store = db.array_store("store", of_items)
        for key, wanted in expected.items():
            found = store[key]
            assert (found.shape, found.dtype) == (wanted.shape, np.dtype(dtype))
            assert np.array_equal(found, wanted)
            assert found.flags.writeable == (key == 14)
        for asked in ([*expected], [16, 3, 1, 1, 9, 14], [4, 5], [5, 4], [2, 3], []):
            batch = store.get_many(asked)
            assert batch.values.shape == (sum(len(expected[key]) for key in asked), *shape)
            assert [(key, value.tobytes()) for key, value in batch] == [
                (key, store[key].tobytes()) for key in asked
            ]
        assert store.get_many([99, 1], missing="empty")[0].shape == (0, *shape)
        assert {key: value.tobytes() for batch in store.scan() for key, value in batch} == contents(store)
        before = contents(store)
        db.compact("store")
        assert contents(store) == before
        assert db.verify() == []


def test_many_records_of_every_length_are_copied_as_they_are(db: sc.Database) -> None:
    store = db.array_store("store", "u2", shape=(2, 2))
    lengths = np.arange(3000) % 5
    items = some_items("u2", (2, 2), int(lengths.sum()))
    order = np.random.default_rng(1).permutation(3000)
    store.put_many(np.arange(3000), items, lengths)
    ends = np.cumsum(lengths)
    expected = [items[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    assert np.array_equal(store.get_many(order).values, np.concatenate([expected[key] for key in order]))
    even = np.flatnonzero(lengths == 3)[::-1]
    assert np.array_equal(store.get_many(even).dense(), np.stack([expected[key] for key in even]))
    store[7] = np.ones((2000, 2, 2))
    assert np.array_equal(store.get_many([9, 7, 8]).values[len(expected[9]) :][:2000], np.ones((2000, 2, 2)))
    assert db.verify() == []


def test_the_shape_survives_a_rebuild_and_copies(open_db: OpenDB, tmp_path: Path) -> None:
    with open_db() as db:
        store = db.array_store("store", "f4", shape=(2, 3))
        store[1] = np.arange(12).reshape(2, 2, 3)
        path, before = db.path, contents(store)
        db.checkpoint(tmp_path / "copy.sc")
    for index in Path(path).glob("index-*"):
        shutil.rmtree(index)
    sc.rebuild_index(path)
    for again in (path, tmp_path / "copy.sc"):
        with sc.open(again, "r") as db:
            assert (db["store"].dtype, contents(db["store"])) == (np.dtype(("f4", (2, 3))), before)
            assert db.array_store("store", "f4", shape=[2, 3])[1].shape == (2, 2, 3)  # type: ignore[arg-type]
            assert db.verify() == []


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda db: db.array_store("v", "f4"), r"stored float32 of shape \(3,\), asked for float32$"),
        (
            lambda db: db.array_store("v", "f4", 4),
            r"stored float32 of shape \(3,\), asked for float32 of shape \(4,\)",
        ),
        (lambda db: db.array_store("v", "f8", (3,)), r"float32 of shape \(3,\), asked for float64 of shape \(3,\)"),
        (lambda db: db.array_store("v", "f4", (1, 3)), r"asked for float32 of shape \(1, 3\)"),
        (lambda db: db.array_store("flat", "f4", 3), r"stored float32, asked for float32 of shape \(3,\)"),
        (lambda db: db.array_store("v", shape=(3,)), "None is not a dtype"),
        (lambda db: db.array_store("new", "f4", (0,)), r"\(0,\) have no size"),
        (lambda db: db.array_store("new", "f4", (2, -1)), "have no size"),
        (lambda db: db.array_store("new", "f4", "abc"), "a tuple of integers, found 'abc'"),
        (lambda db: db.array_store("new", "f4", 1.5), "a tuple of integers, found 1.5"),
        (lambda db: db.array_store("new", "f4", (2**40, 2**20)), "NumPy has no type"),
        (lambda db: db.array_store("new", "f4", (1,) * 20), "dimensions"),
        (lambda db: db.array_store("new", "O", (2,)), "objects"),
        (lambda db: db.array_store("new", [("a", "O")], (2,)), "field 'a'"),
        (lambda db: db.array_store("new", ctypes.c_float * 3), r"shape=\(length,\)"),
    ],
)
def test_other_types_are_refused(db: sc.Database, attempt: Callable[[Any], Any], message: str) -> None:
    db.array_store("v", "f4", shape=(3,))
    db.array_store("flat", "f4")
    with pytest.raises(sc.SchemaError, match=message):
        attempt(db)
    assert list(db) == ["flat", "v"]


@pytest.mark.parametrize("dtype", ["f4", "S3", np.dtype([("a", "u1")])], ids=str)
def test_empty_records_alone_show_no_shape(db: sc.Database, dtype: Any) -> None:
    store = db.array_store("store", dtype, shape=(2, 3))
    for rows in ([[], []], ((), (), ()), pd.Series([[], []]), []):
        store.clear()
        store.put_many(range(len(rows)), rows)
        assert [value.shape for value in store.values()] == [(0, 2, 3)] * len(rows)
    for value in ([[], []], np.zeros((2, 0), store.dtype.base), np.zeros((2, 0, 3), store.dtype.base)):
        with pytest.raises(ValueError, match=r"of the shape \((length, 2, 3|0, 3|0, 0)\)"):
            store.put(1, value)


def test_shapes_add_up(db: sc.Database) -> None:
    assert db.array_store("a", np.dtype(("f4", (3,))), shape=(2,)).dtype == np.dtype(("f4", (2, 3)))
    sample = np.dtype([("x", "f4"), ("y", "i2", (2,))])
    store = db.array_store("b", sample, shape=2)
    store[1] = np.ones((4, 2), sample)
    assert (store[1]["y"].shape, store[1]["y"].sum()) == ((4, 2, 2), 16)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda v: v.put(1, [1, 2, 3]), r"1-D values of shape \(3,\), expected 2-D .* of the shape \(length, 3\)"),
        (lambda v: v.put(1, np.zeros((2, 4))), r"items of the shape \(4,\), expected \(3,\)"),
        (lambda v: v.put(1, 5), "a single int"),
        (lambda v: v.put(1, [[1, 2, 1e300]]), "1e\\+300"),
        (lambda v: v.put_many([1, 2], np.zeros((2, 3))), r"expected 3-D .* \(records, length, 3\)"),
        (lambda v: v.put_many([1, 2], np.zeros((2, 4)), [1, 1]), r"items of the shape \(4,\)"),
        (lambda v: v.put_many([1, 2], np.zeros((2, 3)), [1, 2]), "add up to 3, but there are 2"),
        (lambda v: v.put_many([1, 8], [np.zeros((2, 3)), np.zeros((1, 4))]), r"position 1 \(key 8\).*shape \(4,\)"),
        (lambda v: v.put_many([1, 8], [np.zeros((2, 3)), np.zeros(3)]), r"position 1 \(key 8\).*1-D"),
        (lambda v: v.put_many([1, 8], [[[1, 2, 3]], [[1, 2], [3, 4]]]), r"position 1 \(key 8\).*shape \(2,\)"),
        (lambda v: v.put_many([1, 8], pa.array([[[1.0, 2.0, 3.0]], [[1.0]]])), r"position 1 \(key 8\).*length 1"),
        (lambda v: v.put_many([1, 8], pl.Series([[[1.0, 2.0, 3.0]], [None]])), r"position 1 \(key 8\).*null"),
    ],
)
def test_values_of_other_shapes_are_refused(db: sc.Database, attempt: Callable[[Any], Any], message: str) -> None:
    store = db.array_store("v", "f4", shape=(3,))
    with pytest.raises(ValueError, match=message):
        attempt(store)
    assert len(store) == 0


# -- batches


def test_reduce_keeps_the_shape(db: sc.Database) -> None:
    store = db.array_store("v", "f4", shape=(2, 3))
    items = some_items("f4", (2, 3), 6)
    store.put_many([1, 2, 3], items, [2, 0, 4])
    batch = store.read()
    sums = batch.reduce(np.add)
    assert sums.shape == (3, 2, 3)
    assert np.array_equal(sums, np.stack([items[:2].sum(0), np.zeros((2, 3)), items[2:].sum(0)]))
    assert np.array_equal(store.get_many([1, 3]).reduce(np.maximum), np.stack([items[1], items[5]]))
    assert store.get_many([]).reduce(np.add).shape == store.get_many([]).reduce(np.maximum).shape == (0, 2, 3)
    assert store.get_many([2]).reduce(np.add).shape == (1, 2, 3)
    with pytest.raises(ValueError, match="key 2 is empty"):
        batch.reduce(np.maximum)
    assert repr(batch) == "Batch(3 records, 6 items of ('<f4', (2, 3)))"


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)], ids=str)
def test_dense_is_a_view(db: sc.Database, shape: tuple[int, ...]) -> None:
    store = db.array_store("v", "i4", shape=shape)
    block = np.arange(60 * int(np.prod(shape))).reshape(12, 5, *shape)
    store.put_many(range(12), block)
    for batch in (*store.scan(), store.get_many([3, 1, 2]), store.read()[4:7]):
        dense = batch.dense()
        assert dense.shape == (len(batch), 5, *shape)
        assert np.shares_memory(dense, batch.values)
        assert np.array_equal(dense, block[batch.keys.astype(int)])
        assert not dense.flags.writeable
    assert store.get_many([]).dense().shape == (0, 0, *shape)
    store[20] = store[21] = block[0][:0]
    assert store.get_many([20, 21]).dense().shape == (2, 0, *shape)
    with pytest.raises(ValueError, match="that of key 3 has 5 items, that of key 20 has 0"):
        store.get_many([3, 4, 20, 21]).dense()
    assert db.verify() == []


# -- others


@pytest.mark.parametrize("dtype", ["f4", ">i2", "?", "M8[s]", "S5", "U2", "c8", "i4,f8"], ids=str)
@pytest.mark.parametrize("shape", [(3,), (2, 3)], ids=str)
def test_arrow_there_and_back(db: sc.Database, dtype: str, shape: tuple[int, ...]) -> None:
    store, copy = db.array_store("from", dtype, shape=shape), db.array_store("to", dtype, shape=shape)
    base = np.dtype(dtype)
    items = np.zeros((6, *shape), dtype) if base.names else some_items(dtype, shape, 6)
    store.put_many([1, 2, 3], items, [2, 0, 4])
    table = store.to_arrow().read_all()
    table.validate(full=True)
    kind = table.schema.field("from").type.value_type
    assert [kind.list_size, table["from"].to_pylist()[1]] == [shape[0], []]
    assert store.read().to_arrow().column("value").type == table.schema.field("from").type
    for source in (table, table.slice(1), pl.from_arrow(table), *(store,)):
        copy.clear()
        copy.from_arrow(source)
        assert contents(copy) == {key: value for key, value in contents(store).items() if key in copy}
    assert len(copy) == 3


def test_views_of_the_file_are_arrow_data(db: sc.Database) -> None:
    store = db.array_store("v", "f4", shape=(3,))
    store.put_many([1, 2], np.ones((2, 4, 3)))
    values = store.read().values
    (batch,) = store.to_arrow()
    assert batch.column("v").values.values.buffers()[1].address == values.__array_interface__["data"][0]


@pytest.mark.parametrize("permutation", [None, [0, 1]])
def test_tensors_of_arrow_are_items(db: sc.Database, permutation: Any) -> None:
    store = db.array_store("v", "f4", shape=(2, 3))
    items = some_items("f4", (2, 3), 4)
    kind = pa.fixed_shape_tensor(pa.float32(), (2, 3), permutation=permutation)
    tensors = pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(items.reshape(-1), 6))
    lists = pa.LargeListArray.from_arrays(pa.array([0, 1, 4], pa.int64()), tensors)
    store.from_arrow(pa.table({"key": [5, 6], "v": lists}))
    assert np.array_equal(store[5], items[:1]) and np.array_equal(store[6], items[1:])
    assert np.array_equal(pa.FixedShapeTensorArray.from_numpy_ndarray(store[6]).to_numpy_ndarray(), items[1:])


@pytest.mark.parametrize("kind", [((3, 2), None), ((6,), None), ((2, 3), [1, 0])], ids=str)
def test_other_tensors_are_refused(db: sc.Database, kind: Any) -> None:
    shape, permutation = kind
    store = db.array_store("v", "f4", shape=(2, 3))
    made = pa.fixed_shape_tensor(pa.float32(), shape, permutation=permutation)
    tensors = pa.ExtensionArray.from_storage(made, pa.FixedSizeListArray.from_arrays(pa.array(np.ones(6, "f4")), 6))
    table = pa.table({"key": [5], "v": pa.LargeListArray.from_arrays(pa.array([0, 1], pa.int64()), tensors)})
    for other in (store, db.array_store("flat", "f4")):
        with pytest.raises(sc.SchemaError, match="fixed_shape_tensor"):
            other.from_arrow(table)


@pytest.mark.parametrize(
    "make",
    [
        pa.array,
        lambda rows: pa.array(rows, pa.large_list(pa.list_(pa.float32(), 3))),
        pl.Series,
        lambda rows: pl.Series(rows, dtype=pl.List(pl.Array(pl.Float32, 3))),
        lambda rows: pd.Series(rows, dtype=pd.ArrowDtype(pa.list_(pa.list_(pa.float64())))),
        pd.Series,
    ],
)
def test_columns_of_lists_of_lists(db: sc.Database, make: Callable[[Any], Any]) -> None:
    store = db.array_store("v", "f4", shape=(3,))
    rows = [[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [], [[7.0, 8.0, 9.0]]]
    store.put_many([1, 2, 3], make(rows))
    assert [value.tolist() for value in store.values()] == rows


def test_pandas_has_a_row_for_each_item(db: sc.Database) -> None:
    store = db.array_store("v", "f4", shape=(2, 2))
    store.put_many([1, 3], some_items("f4", (2, 2), 3), [2, 1])
    frame = store.to_pandas()
    assert list(frame.columns) == ["v[0,0]", "v[0,1]", "v[1,0]", "v[1,1]"]
    assert frame.index.tolist() == [(1, 0), (1, 1), (3, 0)]
    assert np.array_equal(frame.to_numpy().reshape(3, 2, 2), store.read().values)
    pairs = db.array_store("pairs", "i4,f8", shape=2)
    pairs[1] = np.zeros((1, 2), "i4,f8")
    assert list(pairs.to_pandas().columns) == ["pairs[0].f0", "pairs[0].f1", "pairs[1].f0", "pairs[1].f1"]


def test_joins_snapshots_and_readers(db: sc.Database) -> None:
    store, times = db.array_store("v", "f4", shape=(3,)), db.array_store("times", "M8[s]")
    store.put_many(range(5), np.ones((5, 2, 3)))
    times.put_many(range(2, 9), np.zeros((7, 2), "M8[s]"))
    ((vectors, _),) = db.scan("v", "times")
    assert vectors.dense().shape == (3, 2, 3)
    db.sync()
    with db.snapshot() as snapshot, sc.open(db.path, "r") as reader:
        store.clear()
        for seen in (snapshot["v"], reader["v"]):
            assert seen.read().dense().shape == (5, 2, 3)
            assert seen.dtype == store.dtype
