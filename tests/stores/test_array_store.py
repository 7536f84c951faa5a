"""ArrayStore: what goes in comes out, of every type; who may change it, and how long it lives."""

from __future__ import annotations

import ctypes
import gc
import os
import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from conftest import OpenDB
from hypothesis import given, settings
from hypothesis import strategies as st
from support import files_below

import structchunk as sc

DTYPES = [
    *"?bBhHiIqQ",
    *("f2", "f4", "f8", "c8", "c16"),
    *(">i2", ">u4", ">i8", ">f4", ">f8", ">c16"),
    *("M8[ns]", "M8[D]", ">M8[s]", "m8[us]"),
    *("S1", "S7", "U1", "U5", ">U3", "V3"),
    np.dtype([("a", "u1"), ("b", "<f8")]),
    np.dtype([("a", "u1"), ("b", "<f8")], align=True),
    np.dtype([("a", ">u2"), ("b", [("c", "S3"), ("d", "f4", (2, 3))])]),
    np.dtype({"names": ["late"], "formats": ["u2"], "offsets": [5], "itemsize": 11}),
]


class Sample(ctypes.Structure):
    _fields_ = [("tag", ctypes.c_uint8), ("value", ctypes.c_double), ("name", ctypes.c_char * 5)]


class BigEndian(ctypes.BigEndianStructure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("tag", ctypes.c_uint8), ("value", ctypes.c_uint64)]


CTYPES = [ctypes.c_int8, ctypes.c_uint16, ctypes.c_float, ctypes.c_double, ctypes.c_bool, Sample, BigEndian]


@pytest.fixture
def store(db: sc.Database) -> sc.ArrayStore:
    return db.array_store("floats", np.float64)


def some_items(dtype: np.dtype[Any], count: int) -> np.ndarray:
    """Return items that have most of their bits set, and all of their padding zero."""
    small = np.arange(1, count * 20 + 1)
    if dtype.names is not None:
        items = np.zeros(count, dtype)
        for name in dtype.names:
            part = items[name]
            part[...] = some_items(part.dtype, part.size).reshape(part.shape)
        return items
    if dtype.kind in "SUV":
        return small[:count].astype("S").astype(dtype)
    return small[:count].astype(dtype)


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


# -- types


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_goes_in_and_out(open_db: OpenDB, dtype: Any) -> None:
    dtype = np.dtype(dtype)
    items = some_items(dtype, 9)
    with open_db(chunk_size=16 << 10, sync=False) as db:
        store = db.array_store("items", dtype)
        assert store.dtype == dtype
        store.put(1, items)
        store.put_many([2, 3], items[:8].reshape(2, 4))
        store.put_many([4, 5], items, [0, 9])
        live = store.new(6, 3)
        live[:] = items[:3]
    with open_db(sync=False) as db:
        store = db.array_store("items", dtype)
        assert store.dtype == db["items"].dtype == dtype
        expected = [items, items[:4], items[4:8], items[:0], items, items[:3]]
        for key, wanted in enumerate(expected, 1):
            assert store[key].dtype == dtype
            assert store[key].tobytes() == wanted.tobytes()
        (batch,) = [store.get_many([1, 2, 3, 4, 5, 6])]
        assert batch.values.dtype == dtype
        assert [value.tobytes() for _, value in batch] == [wanted.tobytes() for wanted in expected]
        assert b"".join(part.values.tobytes() for part in store.scan()) == batch.values.tobytes()


@pytest.mark.parametrize("ctype", CTYPES, ids=lambda ctype: ctype.__name__)
def test_every_ctype_goes_in_and_out(open_db: OpenDB, ctype: Any) -> None:
    with open_db(sync=False) as db:
        store = db.array_store("items", ctype)
        items = some_items(store.dtype, 5)
        store[1] = items
        store[2] = (ctype * 5).from_buffer_copy(items)
    with open_db(sync=False) as db:
        assert db.array_store("items", ctype)[1].tobytes() == items.tobytes()
        assert db.array_store("items", store.dtype)[2].tobytes() == items.tobytes()


def test_records_lie_at_multiples_of_the_item_size(db: sc.Database) -> None:
    store = db.array_store("odd", "V7")
    store.put_many(range(3000), np.zeros((3000, 2), "V7"))
    assert {address(value) % 1 for value in store.values()} == {0}
    store = db.array_store("wide", np.dtype([("a", "f8", (37,))]))
    store.put_many(range(300), np.zeros((300, 2), store.dtype))
    first = store[0]
    assert {(address(value) - address(first)) % store.dtype.itemsize for value in store.values(0, 10)} == {0}


# -- put


def test_put_replaces(store: sc.ArrayStore) -> None:
    store.put(1, [1, 2, 3])
    store[1] = range(5)
    assert store[1].tolist() == [0, 1, 2, 3, 4]
    assert len(store) == 1


def test_empty_records(store: sc.ArrayStore) -> None:
    store[1] = []
    store[2] = np.empty(0)
    assert store[1].shape == store[2].shape == (0,)
    assert store[1].dtype == np.float64
    assert 1 in store


def test_put_stores_a_copy(store: sc.ArrayStore) -> None:
    values = np.arange(3.0)
    store[1] = values
    values[:] = -1
    assert store[1].tolist() == [0, 1, 2]
    store.put_many([2], values[None])
    values[:] = -2
    assert store[2].tolist() == [-1] * 3


def test_put_of_strided_and_own_values(store: sc.ArrayStore) -> None:
    store[1] = np.arange(10.0)[::-3]
    assert store[1].tolist() == [9, 6, 3, 0]
    store[2] = store[1]
    store[1] = store[1][1:]
    assert (store[1].tolist(), store[2].tolist()) == ([6, 3, 0], [9, 6, 3, 0])
    store.put_many([3, 4], np.arange(12.0).reshape(3, 4).T[:2])
    assert store[4].tolist() == [1, 5, 9]


@pytest.mark.parametrize(
    ("dtype", "values", "error"),
    [
        ("f8", [[1.0]], ValueError),
        ("f8", 1.0, (TypeError, ValueError)),
        ("f8", None, (TypeError, ValueError)),
        ("f8", "text", (TypeError, ValueError)),
        ("f8", ["text"], (TypeError, ValueError)),
        ("f8", [2**53 + 1], ValueError),
        ("f4", [1e300], ValueError),
        ("i4", [1.5], ValueError),
        ("i4", [2**31], ValueError),
        ("i4", [np.nan], ValueError),
        ("u1", [-1], ValueError),
        ("S2", ["abc"], ValueError),
        ([("a", "i4")], [{"b": 1}], (TypeError, ValueError)),
    ],
)
def test_values_that_do_not_fit_change_nothing(db: sc.Database, dtype: Any, values: Any, error: Any) -> None:
    store = db.array_store("items", dtype)
    store[1] = np.zeros(2, dtype)
    before = store[1].tobytes()
    with pytest.raises(error):
        store.put(1, values)
    with pytest.raises(error):
        store[2] = values
    with pytest.raises(error):
        store.put_many([1], [values])
    with pytest.raises(error):
        store.update({3: np.zeros(1, dtype), 1: values})
    assert list(store) == [1]
    assert store[1].tobytes() == before


def test_one_record_larger_than_a_chunk(open_db: OpenDB) -> None:
    with open_db(chunk_size=16 << 10) as db:
        store = db.array_store("big", "u1")
        large = np.arange(100_000).astype("u1")
        store[1] = large[:10]
        store[2] = large
        store[3] = large[:10]
        store.put_many([4, 5, 6], np.concatenate([large[:10], large, large[:10]]), [10, 100_000, 10])
    with open_db(sync=False) as db:
        expected = dict.fromkeys([1, 3, 4, 6], large[:10].tobytes()) | dict.fromkeys([2, 5], large.tobytes())
        assert {key: value.tobytes() for key, value in db["big"].items()} == expected


# -- how long arrays live, and who may change them


def test_what_put_stored_is_read_only_for_good(db: sc.Database) -> None:
    store = db.array_store("floats", "f8")
    store[1] = [1, 2]
    store.put_many([2], [[3.0, 4.0]])
    (batch,) = store.scan()
    copied = store.get_many([2, 1]).values
    assert not copied.flags.writeable
    for array in (store[1], store.get(2), *store.values(), batch.values, next(store.scan(batch_size=1)).values):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 9
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
    with db.transaction() as txn:
        txn["floats"][3] = [5.0]
        assert not txn["floats"][3].flags.writeable
        assert not txn["floats"][1].flags.writeable
    assert [value.tolist() for value in store.values()] == [[1, 2], [3, 4], [5]]


def test_arrays_outlive_record_store_and_database(open_db: OpenDB) -> None:
    db = open_db(chunk_size=16 << 10)
    store = db.array_store("floats", "f8")
    values = np.arange(400.0)
    for key in range(20):
        store[key] = values + key
    live = store.new(99, 400)
    live[:] = values
    held = {key: store[key] for key in range(0, 20, 3)}
    batch = store.get_many([5, 6])
    (sweep, *_) = store.scan(7, 9)
    store[0] = [1.0]
    del store[3]
    store.delete_range(5, 10)
    del store[99]
    db.drop_store("floats")
    other = db.array_store("floats", "f8")
    other.put_many(range(50), np.ones((50, 400)))
    db.close()
    del db, store, other
    gc.collect()
    assert all((array == values + key).all() for key, array in held.items())
    assert [array[0] for _, array in batch] == [5, 6]
    assert [array[0] for _, array in sweep] == [7, 8]
    live[0] = 5
    assert live[:2].tolist() == [5, 1]


# -- new


def test_new_is_zeroed_writable_and_seen_by_all(open_db: OpenDB) -> None:
    with open_db(sync=False) as db:
        store = db.array_store("floats", "f8")
        live = store.new(1, 1000)
        assert live.shape == (1000,)
        assert live.dtype == np.float64
        assert not live.any()
        assert live.flags.writeable
        snapshot = db.snapshot()
        live[5] = 1.5
        again = store[1]
        again[6] = 2.5
        assert live[5:7].tolist() == [1.5, 2.5]
        with db.transaction() as txn:
            txn["floats"][1][7] = 3.5
        for seen in (store[1], snapshot["floats"][1], next(store.scan()).values, store.get_many([1])[0]):
            assert seen[5:8].tolist() == [1.5, 2.5, 3.5]
        with pytest.raises(ValueError, match="read-only"):
            snapshot["floats"][1][0] = 1
        snapshot.close()
    with open_db("r") as db:
        assert db["floats"][1][5:8].tolist() == [1.5, 2.5, 3.5]
        with pytest.raises(ValueError, match="read-only"):
            db["floats"][1][0] = 1
    with open_db("r+") as db:
        db["floats"][1][5] = -1.0
    with open_db(sync=False) as db:
        assert db["floats"][1][5:8].tolist() == [-1, 2.5, 3.5]


def test_new_replaces_and_is_replaced(store: sc.ArrayStore) -> None:
    store[1] = [1, 2, 3]
    live = store.new(1, 2)
    assert store[1].tolist() == [0, 0]
    live[:] = 7
    store[1] = [4.0]
    live[:] = 8
    assert store[1].tolist() == [4]
    assert not store[1].flags.writeable
    assert live.tolist() == [8, 8]


def test_what_is_on_disk_changes_without_another_checkpoint(db: sc.Database) -> None:
    """Also the last record of a chunk; what compaction copied is not as `new` left it."""
    store = db.array_store("a", "i8")
    store.new(1, 1)[:] = 5
    store[2] = [1]
    del store[2]
    db.compact()
    before = db._storage.superblock.sequence
    store[1][:] = 6
    assert db._storage.superblock.sequence == before
    assert store[1].tolist() == [6]


def test_new_after_abort_is_zeroed(db: sc.Database, store: sc.ArrayStore) -> None:
    with db.transaction() as txn:
        txn["floats"].put_many(range(100), np.ones((100, 50)))
        txn.abort()
    assert not store.new(1, 5000).any()


@pytest.mark.parametrize(
    ("length", "error"), [(-1, ValueError), (1.0, TypeError), (None, TypeError), (2**62, ValueError)]
)
def test_new_refuses_lengths(store: sc.ArrayStore, length: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        store.new(1, length)
    assert len(store) == 0
    assert store.new(1, 0).shape == (0,)
    assert store.new(2, np.int64(3)).shape == (3,)


def test_a_sparse_array_takes_disk_only_where_it_is_written(open_db: OpenDB) -> None:
    with open_db(sync=False) as db:
        live = db.array_store("sparse", "f8").new(1, 50_000_000)
        live[10] = 1.0
        live[49_999_999] = 2.0
        db.sync()
        assert disk_use(db.path) < 1_000_000
    with open_db(sync=False) as db:
        live = db["sparse"][1]
        assert (live[10], live[11], live[49_999_999]) == (1, 0, 2)
        assert disk_use(db.path) < 1_000_000


def disk_use(path: str) -> int:
    return sum(512 * status.st_blocks for status in files_below(path))


# -- put_many


def test_put_many_over_several_chunks(open_db: OpenDB) -> None:
    values = np.arange(6000.0).reshape(1000, 6)
    with open_db(chunk_size=16 << 10) as db:
        store = db.array_store("floats", "f8")
        store.put_many(range(1000), values)
        lengths = np.arange(1000) % 13
        store.put_many(np.arange(1000, 2000), np.arange(lengths.sum(), dtype=float), lengths)
        assert len(os.listdir(os.path.join(db.path, "chunks"))) > 3
    with open_db("r") as db:
        store = db["floats"]
        assert all((store[key] == values[key]).all() for key in range(1000))
        ends = np.cumsum(lengths)
        for key, end, length in zip(range(1000, 2000), ends.tolist(), lengths.tolist(), strict=True):
            assert store[key].tolist() == list(range(end - length, end))


@pytest.mark.parametrize("unsorted", [False, True])
def test_put_many_of_equal_keys_keeps_the_last(store: sc.ArrayStore, unsorted: bool) -> None:
    keys = np.array([1, 1, 2, 5, 5, 5, 2**64 - 1] if not unsorted else [5, 1, 2**64 - 1, 5, 2, 1, 5], np.uint64)
    store.put_many(keys, np.arange(7.0)[:, None])
    last = {int(key): [float(number)] for number, key in enumerate(keys)}
    assert {key: value.tolist() for key, value in store.items()} == dict(sorted(last.items()))
    assert len(store) == len(last)
    store.put_many([], np.empty((0, 3)))
    store.put_many([], [], [])
    store.put_many([], [])
    assert len(store) == len(last)


@pytest.mark.parametrize(
    "keys",
    [
        [3, 1],
        (3, 1),
        np.array([3, 1]),
        np.array([3, 1], "u1"),
        np.array([3, 1], ">i8"),
        range(3, 0, -2),
        {3: 0, 1: 0},
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    ("values", "lengths"),
    [
        ([[1, 2], [3, 4]], None),
        (np.array([[1, 2], [3, 4]], "i2"), None),
        ([1, 2, 3, 4], [2, 2]),
        (np.arange(1, 5), np.array([2, 2], "u1")),
        (range(1, 5), (2, 2)),
    ],
    ids=repr,
)
def test_put_many_takes(store: sc.ArrayStore, keys: Any, values: Any, lengths: Any) -> None:
    store.put_many(keys, values, lengths)
    assert {key: value.tolist() for key, value in store.items()} == {1: [3, 4], 3: [1, 2]}


@pytest.mark.parametrize(
    ("keys", "values", "lengths", "error"),
    [
        ([1, 2], [[1.0]], None, ValueError),
        ([1], [[1.0], [2.0]], None, ValueError),
        ([1, 2], [1.0, 2.0], None, ValueError),
        ([1], [[[1.0]]], None, ValueError),
        ([1, 2], [[1.0], [2.0, [3.0]]], None, ValueError),
        ([1], [[1.0], [2.0, 3.0]], None, ValueError),
        ([1, 2], [1.0, 2.0], [1], ValueError),
        ([1, 2], [1.0, 2.0], [1, 2], ValueError),
        ([1, 2], [1.0, 2.0], [3, -1], ValueError),
        ([1, 2], [1.0, 2.0], [1.0, 1.0], TypeError),
        ([1, 2], [[1.0], [2.0]], [1, 1], ValueError),
        ([1, 2], [1.0, 2.0], 1, TypeError),
        ([[1, 2]], [[1.0], [2.0]], None, TypeError),
        (np.array([[1, 2]]), [[1.0], [2.0]], None, ValueError),
        ([1.0, 2.0], [[1.0], [2.0]], None, TypeError),
        ([1, -2], [[1.0], [2.0]], None, ValueError),
        ([1, 2**64], [[1.0], [2.0]], None, ValueError),
        (np.array([True, False]), [[1.0], [2.0]], None, TypeError),
        (5, [[1.0]], None, TypeError),
        ("12", [[1.0], [2.0]], None, TypeError),
        ([1, 2], [["a"], ["b"]], None, (TypeError, ValueError)),
    ],
)
def test_put_many_refuses(
    db: sc.Database, store: sc.ArrayStore, keys: Any, values: Any, lengths: Any, error: Any
) -> None:
    store[1] = [9.0]
    with pytest.raises(error):
        store.put_many(keys, values, lengths)
    with db.transaction() as txn:
        with pytest.raises(error):
            txn["floats"].put_many(keys, values, lengths)
        assert list(txn["floats"]) == [1]
    assert [value.tolist() for value in store.values()] == [[9]]


def test_put_many_of_unequal_lengths(db: sc.Database, store: sc.ArrayStore) -> None:
    rows = [np.arange(3.0), [], [0.5], np.array([7], "i2"), range(2)]
    store.put_many([4, 1, 9, 2, 1], rows)
    assert {key: value.tolist() for key, value in store.items()} == {1: [0, 1], 2: [7], 4: [0, 1, 2], 9: [0.5]}
    before = store.read()
    with pytest.raises(ValueError, match=r"record at position 1 \(key 8\): found 9007199254740993"):
        store.put_many([4, 8, 9], [[1, 2], [3, 2**53 + 1, 5], ["text"]])
    with pytest.raises(ValueError, match="2 keys for 3 records"):
        store.put_many([4, 8], [[1, 2], [3], []])
    assert np.array_equal(store.read().values, before.values)
    assert db.verify() == []


# -- get_many


def test_get_many_keeps_order_and_repeats(store: sc.ArrayStore) -> None:
    store.put_many(range(0, 2000, 2), np.arange(1000.0)[:, None])
    store[10] = [5, 5, 5]
    store[12] = []
    keys = np.random.default_rng(0).choice(np.arange(0, 2000, 2), 3000)
    for asked in (keys, keys[:20], [10, 12, 10, 8], [], (6,), range(8, 14, 2)):
        batch = store.get_many(asked)
        assert batch.keys.tolist() == list(asked)
        assert batch.keys.dtype == np.uint64
        assert batch.offsets.dtype == np.int64
        assert [value.tolist() for _, value in batch] == [store[key].tolist() for key in asked]


def test_get_many_names_the_first_missing(store: sc.ArrayStore) -> None:
    store.put_many(range(100), np.zeros((100, 1)))
    with pytest.raises(sc.KeyNotFound, match=r"777 \(2 are missing"):
        store.get_many([5, 777, 300])
    with pytest.raises(sc.KeyNotFound, match=r"777 \(2 are missing"):
        store.get_many([*range(100), 777, 300])
    with pytest.raises(sc.KeyNotFound, match="0"):
        store.get_many([2**64 - 1])


# -- scan


def test_scan_does_not_copy(store: sc.ArrayStore) -> None:
    store.put_many(range(100), np.arange(300.0).reshape(100, 3))
    (batch,) = store.scan()
    assert address(batch.values) == address(store[0])
    assert np.shares_memory(batch.values, store[50])
    assert address(batch[50]) == address(store[50])
    (part,) = store.scan(20, 40)
    assert (len(part), address(part.values)) == (20, address(store[20]))
    assert address(store.get_many(range(30, 60)).values) == address(store[30])


def test_scan_of_mixed_lengths_does_not_copy_either(store: sc.ArrayStore) -> None:
    lengths = np.arange(100) % 7
    store.put_many(range(100), np.arange(lengths.sum(), dtype=float), lengths)
    (batch,) = store.scan()
    assert address(batch.values) == address(store[1])
    assert batch.lengths.tolist() == lengths.tolist()


def test_scan_copies_what_is_scattered(store: sc.ArrayStore) -> None:
    store.put_many(range(100), np.arange(300.0).reshape(100, 3))
    store[50] = [7, 8]
    batches = list(store.scan())
    assert [key for batch in batches for key in batch.keys.tolist()] == list(range(100))
    assert np.concatenate([batch.values for batch in batches])[148:154].tolist() == [148, 149, 7, 8, 153, 154]
    assert not any(batch.values.flags.writeable for batch in batches)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 10, 11, 1000])
def test_batch_size(store: sc.ArrayStore, batch_size: int) -> None:
    store.put_many(range(10), np.arange(20.0).reshape(10, 2))
    sizes = [len(batch) for batch in store.scan(batch_size=batch_size)]
    assert sum(sizes) == 10
    assert max(sizes) == min(batch_size, 10)
    assert len(next(store.scan(2, 9, batch_size=batch_size))) == min(batch_size, 7)


@pytest.mark.parametrize("size", [0, -1])
def test_batch_size_is_positive(store: sc.ArrayStore, size: int) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        store.scan(batch_size=size)


def test_a_sweep_sees_one_commit(monkeypatch: pytest.MonkeyPatch, db: sc.Database, store: sc.ArrayStore) -> None:
    monkeypatch.setattr("structchunk.index.store_index.GROUP_PAGES", 1)
    store.put_many(range(0, 4000, 2), np.arange(2000.0)[:, None])
    walks = [store.scan(batch_size=10), iter(store.items()), iter(store.items(reverse=True))]
    seen: list[list[tuple[int, list[float]]]] = [[(key, value.tolist()) for key, value in next(walks[0])]]
    seen += [[(key, value.tolist())] for key, value in (next(walks[1]), next(walks[2]))]
    store.delete_range(1000, 2000)
    store.put_many(range(3001, 3500), np.full((499, 1), -1.0))
    store.update({5: [-1.0], 3990: [-1.0]})
    for batch in walks[0]:
        seen[0] += [(key, value.tolist()) for key, value in batch]
    for number in (1, 2):
        seen[number] += [(key, value.tolist()) for key, value in walks[number]]
    expected = [(key, [key / 2]) for key in range(0, 4000, 2)]
    assert seen[0] == seen[1] == expected
    assert seen[2] == expected[::-1]
    assert len(store) == 2000 - 500 + 250 + 1


# -- anything


@settings(max_examples=40)
@given(
    rows=st.lists(st.tuples(st.integers(0, 50), st.lists(st.integers(-9, 9), max_size=5)), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=5),
)
def test_put_many_is_many_puts(rows: list[tuple[int, list[int]]], cuts: list[int], tmp_path_factory: Any) -> None:
    with sc.open(tmp_path_factory.mktemp("many") / "test.sc", chunk_size=16 << 10, sync=False) as db:
        bulk, single = db.array_store("bulk", "i8"), db.array_store("single", "i8")
        bounds = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
        with db.transaction() as txn:
            for key, values in rows:
                txn["single"][key] = values
            for low, high in pairwise(bounds):
                part = rows[low:high]
                items = [item for _, values in part for item in values]
                txn["bulk"].put_many([key for key, _ in part], items, [len(values) for _, values in part])
        assert {key: value.tolist() for key, value in bulk.items()} == dict(sorted(dict(rows).items()))
        assert {key: value.tolist() for key, value in single.items()} == dict(sorted(dict(rows).items()))
        assert db.verify() == []


def test_gathering_from_one_chunk_takes_memory_for_the_result_only(open_db: OpenDB) -> None:
    store = open_db(chunk_size=1 << 20, sync=False).array_store("floats", "f8")
    store.put_many(range(4000), np.arange(64_000.0).reshape(4000, 16))
    store.get_many([0, 2])
    tracemalloc.start()
    batch = store.get_many(range(0, 4000, 2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert batch.values.reshape(2000, 16)[:, 0].tolist() == list(range(0, 64_000, 32))
    assert peak < 8 * batch.values.nbytes


def test_going_through_records_gives_what_single_reads_give(open_db: OpenDB) -> None:
    db = open_db()
    store = db.array_store("floats", "f8")
    store.put_many(range(0, 6000, 2), np.arange(9000.0).reshape(3000, 3))
    store.put_many(range(6000, 9000), np.arange(4500.0), np.arange(3000) % 4)
    for key in range(0, 9000, 7):
        store.delete(key)
    store.put_many(range(1, 6000, 20), np.ones((300, 3)))
    store.new(9001, 2)[:] = 5
    with db.snapshot() as snapshot:
        for source in (store, snapshot["floats"]):
            keys = list(source)
            assert keys == sorted(keys) == np.asarray(source.keys()).tolist()
            assert list(reversed(source)) == keys[::-1] == [key for key, _ in source.items(reverse=True)]
            for (key, array), other in zip(source.items(), source.values(), strict=True):
                assert array.tolist() == other.tolist() == source[key].tolist()
                assert array.flags.writeable == source[key].flags.writeable == (source is store and key == 9001)
            backwards = [array.tolist() for array in source.values(reverse=True)]
            assert backwards == [array.tolist() for array in source.values()][::-1]
    held = list(store.values(0, 100))
    expected = [array.tolist() for array in held]
    store.clear()
    db.compact()
    db.close()
    gc.collect()
    assert [array.tolist() for array in held] == expected


@pytest.mark.parametrize("count", [0, 1, 50, 200_000])
@pytest.mark.parametrize("among", ["nothing", "appends"])
def test_arrays_may_lie_anywhere_in_memory(db: sc.Database, count: int, among: str) -> None:
    table = np.random.default_rng(1).random((max(count, 1), 3))
    arrays = {
        0: table[:count, 1],
        1: table[:count, 2][::-1],
        2: np.broadcast_to(np.float64(7.0), count),
        3: np.asfortranarray(table)[:count, 0],
        4: table.T[1, :count],
    }
    store = db.array_store("a", "f8")
    with db.transaction() as txn:
        if among == "appends":
            txn["a"].append(9, [1.0])
            txn["a"].append(1, [1.0])
        for key, array in arrays.items():
            txn["a"].put(key, array)
        txn["a"].delete(9)
    for key, array in arrays.items():
        store.put(10 + key, array)
    for key, array in store.items():
        assert array.tolist() == arrays[key % 10].tolist()
    assert len(store) == 2 * len(arrays)
