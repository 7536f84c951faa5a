"""Stores by name, by type, and by another handle's store."""

from __future__ import annotations

import ctypes
import pickle
from typing import Any

import numpy as np
import pytest
from conftest import OpenDB
from mapping_contract import ARRAYS, KINDS, Kind, Pair, fill, kinds

import structchunk as sc


class Same(ctypes.Structure):
    """Laid out as `Pair`."""

    _fields_ = [("x", ctypes.c_double), ("n", ctypes.c_int32)]


class Other(sc.Object):
    _fields_ = [("x", ctypes.c_double), ("n", ctypes.c_uint32)]


# -- by another handle's store


@kinds
def test_a_store_names_itself_to_any_handle(db: sc.Database, kind: Kind) -> None:
    store = kind.open(db)
    with db.transaction() as txn:
        inner = txn[store]
        assert type(inner) is type(store)
        fill(inner, kind)
        assert (len(inner), len(store)) == (10, 0)
    with db.snapshot() as snapshot:
        store.clear()
        assert len(snapshot[store]) == 10
        assert len(db[snapshot[store]]) == 0
        with pytest.raises(sc.ReadOnlyError):
            snapshot[store].clear()


def test_it_keeps_the_class_of_its_objects(db: sc.Database) -> None:
    store = db.object_store("pairs", Pair)
    store[1] = Pair(1, 2)
    as_same = db.object_store("pairs", Same)
    with db.transaction() as txn, db.snapshot() as snapshot:
        for handle in (txn, snapshot, db):
            assert type(handle[store][1]) is Pair
            assert type(handle[as_same][1]) is Same


@kinds
def test_dropped_stores_and_those_of_other_databases_are_refused(open_db: OpenDB, kind: Kind) -> None:
    with open_db(sync=False) as db, open_db(name="other.sc", sync=False) as other:
        store, foreign = kind.open(db), kind.open(other)
        assert store.name == foreign.name
        with db.snapshot() as snapshot, db.transaction() as txn:
            for handle in (db, snapshot, txn):
                with pytest.raises(sc.StoreNotFound, match="another database"):
                    handle[foreign]
        db.drop_store(store.name)
        with pytest.raises(sc.StoreNotFound):
            db[store]
        again = kind.open(db)
        with pytest.raises(sc.StoreNotFound, match="was dropped"):
            db[store]
        assert len(db[again]) == 0


@kinds
def test_it_is_the_same_for_all_processes(open_db: OpenDB, kind: Kind) -> None:
    with open_db(sync=False) as db:
        written = kind.open(db)
        fill(written, kind)
        with open_db("r") as reader:
            assert len(reader[written]) == 10
            kept = reader[written]
            written.clear()
            db.compact(kind.name)
            written[5] = kind.make(2)
            db.sync()
            reader.refresh()
            assert len(reader[kept]) == len(reader[written]) == len(db[kept]) == 1


@kinds
def test_of_processes_that_take_turns(open_db: OpenDB, kind: Kind) -> None:
    with open_db(shared=True) as db, open_db(shared=True) as other:
        store = kind.open(db)
        with other.transaction() as txn:
            fill(txn[store], kind)
        assert len(store) == len(other[store]) == 10


# -- by type


def test_snapshots_open_stores_by_type(db: sc.Database) -> None:
    for kind in KINDS:
        fill(kind.open(db), kind)
    with db.snapshot() as snapshot:
        db.array_store("late", "f8")
        assert snapshot.array_store("array", np.int64).dtype == np.int64
        assert type(snapshot.object_store("object", Same)[3]) is Same
        assert type(snapshot.object_store("object")[3]) is Pair
        refused: list[tuple[type[Exception], Any]] = [
            (sc.SchemaError, lambda: snapshot.array_store("array", "f4")),
            (sc.SchemaError, lambda: snapshot.object_store("object", Other)),
            (sc.StoreExists, lambda: snapshot.object_store("array")),
            (sc.StoreNotFound, lambda: snapshot.array_store("late")),
            (sc.ReadOnlyError, lambda: snapshot.array_store("late", "f8")),
            (sc.ReadOnlyError, lambda: snapshot.object_store("more", Pair)),
        ]
        for error, attempt in refused:
            with pytest.raises(error):
                attempt()
    for attempt in (lambda: snapshot.array_store("array"), lambda: snapshot.object_store("object", Pair)):
        with pytest.raises(sc.ClosedError):
            attempt()


def test_another_class_must_have_the_layout_that_is_stored(db: sc.Database) -> None:
    store = db.object_store("pairs", Pair)
    store[1] = Pair(0.5, -1)
    assert type(store.of_class(Same)[1]) is Same
    assert store.of_class(Same)[1].n == -1
    for cls in (Other, sc.Object.of(x=ctypes.c_double), sc.Array.of(2, ctypes.c_double), ctypes.c_double, int):
        with pytest.raises(sc.SchemaError):
            store.of_class(cls)
    with pytest.raises(sc.SchemaError, match="'n': stored int32 at byte 8, asked for uint32"):
        store.of_class(Other)


def test_stores_of_a_class_are_pickled_with_it(open_db: OpenDB) -> None:
    with open_db(sync=False) as db:
        db.object_store("pairs", Pair)[1] = Pair(1, 2)
    with open_db("r") as db:
        store = pickle.loads(pickle.dumps(db.object_store("pairs", Same)))
        assert type(store[1]) is Same


DTYPES = [
    [("x", "f8"), ("n", "i4")],
    [("n", "u1"), ("x", "f8")],
    [("a", [("b", "S8"), ("c", ">i2", (2, 3))]), ("d", "?"), ("e", "S1", (2,))],
    [("only", "u8")],
]


@pytest.mark.parametrize("fields", DTYPES, ids=str)
@pytest.mark.parametrize("align", [False, True])
def test_structured_dtypes_make_object_stores(open_db: OpenDB, fields: Any, align: bool) -> None:
    dtype = np.dtype(fields, align=align)
    rows = np.frombuffer(np.arange(3 * dtype.itemsize, dtype=np.uint8).data, dtype)
    with open_db(sync=False) as db:
        store = db.object_store("rows", dtype)
        assert store.dtype == dtype
        assert issubclass(store.cls, sc.Object)
        store.put_many([1, 2, 3], rows)
        made = store.new(4)
        assert bytes(made) == bytes(dtype.itemsize)
        assert db.object_store("rows", dtype).records(1, 4).tobytes() == rows.tobytes()
    with open_db() as db:
        assert db["rows"].dtype == dtype
        assert db.object_store("rows", dtype).records(1, 4).tobytes() == rows.tobytes()
        with pytest.raises(sc.SchemaError, match="another type"):
            db.object_store("rows", np.dtype([("x", "f4")]))


def test_a_dtype_opens_what_a_class_made(db: sc.Database) -> None:
    db.object_store("pairs", Pair)[1] = Pair(1, 2)
    found = db.object_store("pairs", np.dtype([("x", "f8"), ("n", "i4")], align=True))
    assert type(found[1]) is Pair
    with pytest.raises(sc.SchemaError, match="12 bytes"):
        db.object_store("pairs", np.dtype([("x", "f8"), ("n", "i4")]))


@pytest.mark.parametrize(
    ("dtype", "match"),
    [
        (np.dtype([("t", "M8[s]")]), "'t'.*array store takes the dtype"),
        (np.dtype([("a", [("half", "f2")])]), "'a.half'.*array store takes the dtype"),
        (np.dtype([("_pack_", "i4")]), "array store takes the dtype"),
        (np.dtype({"names": ["a"], "formats": ["i4"], "offsets": [8], "itemsize": 20}), "align=True, or packed"),
        (np.dtype("f8"), "make an array store"),
        (np.dtype(("f8", (3,))), "make an array store"),
        (np.dtype([("a", "O")]), "'a'.*references"),
        ([("x", "f8")], r"np\.dtype\(\[\.\.\.\]\)"),
    ],
    ids=str,
)
def test_dtypes_that_no_structure_is_like(db: sc.Database, dtype: Any, match: str) -> None:
    with pytest.raises(sc.SchemaError, match=match):
        db.object_store("refused", dtype)
    assert "refused" not in db


def test_arrays_and_objects_are_told_apart(db: sc.Database) -> None:
    ARRAYS.open(db, "one")
    with pytest.raises(sc.StoreExists, match=r"array_store\(\)"):
        db.object_store("one", Pair)
