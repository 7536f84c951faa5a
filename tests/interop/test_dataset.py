"""Datasets: what is read of a store, and that engines get what the store has."""

from __future__ import annotations

import ctypes
import pickle
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pytest
from conftest import OpenDB

import structchunk as sc
from structchunk.stores import collection, join
from structchunk.stores import store as store_module

Point = sc.Object.of(x=ctypes.c_double, n=ctypes.c_int32, name=ctypes.c_char * 8)
KEY = pc.field("key")
LARGE = 2**63


@pytest.fixture
def points(db: sc.Database) -> sc.ObjectStore[Any]:
    store = db.object_store("points", Point)
    store.put_many([*range(100), LARGE, LARGE + 7], [(n / 2, n, b"n%d" % n) for n in range(102)])
    return store


@pytest.fixture
def temps(db: sc.Database) -> sc.ArrayStore:
    store = db.array_store("temps", "f8")
    store.put_many(range(50, 150), np.arange(200.0), np.arange(100) % 2 * 4)
    return store


@pytest.fixture
def swept(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Collect which stores and ranges are read."""
    found: list[tuple[Any, ...]] = []

    def sweep(bindings: Any, names: Any, ranges: Any, batch_size: int) -> Any:
        found.append((list(names), list(ranges)))
        return join.sweep(bindings, names, ranges, batch_size)

    monkeypatch.setattr(store_module, "sweep", sweep)
    monkeypatch.setattr(collection, "sweep", sweep)
    return found


def keys_of(table: pa.Table) -> list[int]:
    return table.column("key").to_pylist()


def test_a_dataset_has_what_the_store_has(points: sc.ObjectStore[Any], temps: sc.ArrayStore) -> None:
    assert temps.dataset().to_table().equals(temps.to_arrow().read_all())
    table = points.dataset().to_table()
    assert table.schema == points.dataset().schema
    assert table.schema.field("points").type.field("name").type == pa.large_string()
    assert table.column("points")[-1].as_py() == {"x": 50.5, "n": 101, "name": "n101"}
    assert points.dataset().count_rows() == len(points)
    assert keys_of(points.dataset().head(2)) == [0, 1]
    assert keys_of(points.dataset().take([3, 1])) == [3, 1]
    assert keys_of(points.dataset().sort_by([("key", "descending")]).head(1)) == [LARGE + 7]


def test_only_ranges_of_keys_are_read(points: sc.ObjectStore[Any], swept: list[Any]) -> None:
    dataset = points.dataset()
    x = pc.field("points", "x")
    for filter, ranges, count in [
        ((KEY >= 5) & (KEY < 9), [(5, 9)], 4),
        ((KEY < 5) | KEY.isin([7, 9]) & (x > 4), [(0, 5), (7, 8), (9, 10)], 6),
        ((pa.scalar(LARGE, pa.uint64()) <= KEY) & (x > 50.2), [(LARGE, 2**64)], 1),
        (KEY > 200, [(201, 2**64)], 2),
    ]:
        assert dataset.count_rows(filter=filter) == dataset.to_table(filter=filter).num_rows == count
        assert swept[-1] == (["points"], ranges)
    assert dataset.filter(KEY < 9).filter(x > 1).to_table(filter=KEY > 2).num_rows == 6
    assert swept[-1][1] == [(3, 9)]


def test_only_columns_that_are_named_are_read(
    db: sc.Database, points: sc.ObjectStore[Any], temps: sc.ArrayStore, swept: list[Any]
) -> None:
    dataset = db.dataset("points", "temps")
    named: list[tuple[Any, list[str]]] = [
        (["key"], []),
        (["temps"], ["temps"]),
        (["points.x", "key"], ["points"]),
        ({"half": pc.field("points", "n"), "twice": KEY + KEY}, ["points"]),
        (None, ["points", "temps"]),
        ([], []),
        ({"x": pc.field(2)}, ["points", "temps"]),
    ]
    for columns, stores in named:
        assert dataset.to_table(columns=columns).num_rows == 50
        assert swept[-1][0] == stores
    assert dataset.to_table(columns=["points.x"]).to_pydict() == {"x": [n / 2 for n in range(50, 100)]}
    assert dataset.to_table(columns=["key"], filter=pc.list_value_length(pc.field("temps")) > 0).num_rows == 25
    assert swept[-1][0] == ["temps"]


def test_only_the_fields_that_are_named_are_read(points: sc.ObjectStore[Any]) -> None:
    dataset = points.dataset()
    read = dataset._column("points", {"n"})  # the column that batches are made for
    assert [field.name for field in read.type] == ["n"]
    columns = {"sum": pc.field("points", "n") + 1}
    found = dataset.to_table(columns=columns, filter=pc.field("points", "name") == "n7")
    assert found.to_pydict() == {"sum": [8]}
    assert dataset.to_table(columns={"one": pc.struct_field(pc.field("points"), [1])}).column("one")[7].as_py() == 7


def test_duckdb(db: sc.Database, points: sc.ObjectStore[Any], temps: sc.ArrayStore, swept: list[Any]) -> None:
    both = db.dataset("points", "temps")
    con = duckdb.connect()
    con.register("both_of", both)
    con.register("points", points.dataset())
    queries = [
        ("select count(*) from points", [(102,)]),
        ("select points.name from points where key between 5 and 6 order by key", [("n5",), ("n6",)]),
        ("select sum(points.n) from points where key in (5, 7, 2000)", [(12,)]),
        ("select key from points where points.name = 'n9' or points.name like '%01'", [(9,), (LARGE + 7,)]),
        ("select points.n from points where key > 9223372036854775808", [(101,)]),
        ("select sum(len(temps)) from both_of where key < 60 and points.x > 27", [(12,)]),
        ("select count(*) from points a join points b using (key) where a.key < 10", [(10,)]),
    ]
    for query, rows in queries:
        assert con.execute(query).fetchall() == rows, query
    con.execute("select points.n from points where key = 5 or key = 6")
    assert swept[-1][1] == [(5, 7)]
    con.close()


def test_polars(points: sc.ObjectStore[Any], swept: list[Any]) -> None:
    frame = pl.scan_pyarrow_dataset(points.dataset())
    name = pl.col("points").struct.field("name")
    assert frame.filter(pl.col("key").is_between(5, 6)).select(name).collect().to_series().to_list() == ["n5", "n6"]
    assert swept[-1][1] == [(5, 7)]
    assert frame.filter((pl.col("key") > 98) & (name != "n99")).select("key").collect().to_series().to_list() == [
        LARGE,
        LARGE + 7,
    ]
    assert frame.filter(name == "n7").select("key").collect().item() == 7
    assert frame.head(3).collect().height == 3


def test_arrays_of_text_are_text(db: sc.Database) -> None:
    store = db.array_store("words", "S4")
    store.put_many([1, 2], [b"a", b"\xc3\xa4", b"b\0c"], [2, 1])
    dataset = store.dataset()
    assert dataset.to_table().column("words").to_pylist() == [["a", "ä"], ["b\0c"]]
    nested = db.array_store("nested", [("a", "S2", (2,)), ("b", "V2")])
    nested[1] = [((b"x", b"y"), b"\xff\xff")]
    assert nested.dataset().to_table().column("nested").to_pylist() == [[{"a": ["x", "y"], "b": b"\xff\xff"}]]
    store[3] = [b"\xff"]
    assert dataset.to_table(filter=KEY < 3).num_rows == 2
    assert dataset.to_table(columns=["key"]).num_rows == 3
    with pytest.raises(ValueError, match=r"words: found bytes that are no UTF-8.*to_arrow\(\)"):
        dataset.to_table()


def test_each_scan_is_of_one_commit(db: sc.Database, temps: sc.ArrayStore) -> None:
    dataset = temps.dataset()
    scanner = dataset.scanner(filter=(KEY < 60) | (KEY > 140))
    temps.delete_range(55, 145)
    assert keys_of(scanner.to_table()) == [*range(50, 60), *range(141, 150)]
    assert keys_of(dataset.to_table()) == [*range(50, 55), *range(145, 150)]
    with db.snapshot() as snapshot:
        temps.clear()
        assert snapshot[temps].dataset().count_rows() == snapshot.dataset("temps").count_rows() == 10
    assert dataset.count_rows() == 0


def test_large_batches_are_cut(db: sc.Database, temps: sc.ArrayStore, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = temps.dataset().to_table()
    monkeypatch.setattr(join, "PART_SIZE", 100)
    batches = list(temps.dataset().to_batches())
    assert len(batches) > 10
    assert pa.Table.from_batches(batches).equals(whole)
    other = db.array_store("other", "f8")
    other.put_many(range(100), np.arange(1000.0).reshape(100, 10))
    batches = list(db.dataset("temps", "other").to_batches())
    assert [number for batch in batches for number in batch.column("key").to_pylist()] == list(range(50, 100))


def test_where_there_is_no_dataset(open_db: OpenDB) -> None:
    db = open_db()
    temps = db.array_store("temps", "f8")
    with db.transaction() as txn:
        for make in (txn[temps].dataset, lambda: txn.dataset("temps")):
            with pytest.raises(sc.Error, match="transaction"):
                make()
    for names in [(), ("temps", "temps")]:
        with pytest.raises(ValueError, match="at least one store, and none twice"):
            db.dataset(*names)
    with pytest.raises(sc.StoreNotFound):
        db.dataset("none")
    dataset = temps.dataset()
    db.close()
    with pytest.raises(sc.ClosedError):
        dataset.to_table()


def test_pyarrow_never_takes_it_for_an_empty_one(temps: sc.ArrayStore) -> None:
    """What goes past the scanner finds a file that is not there, and its name says what to do."""
    dataset = temps.dataset()
    with pytest.raises(FileNotFoundError, match=r"scanner\(\), to_table\(\)"):
        pads.dataset([dataset, dataset]).to_table()
    assert repr(dataset.filter(KEY < 5)) == "<dataset of 'temps' where (key < 5)>"


def test_a_dataset_of_a_reader_is_pickled(open_db: OpenDB) -> None:
    with open_db() as db:
        db.array_store("temps", "f8").put_many(range(9), np.ones((9, 2)))
        db.array_store("others", "f8").put_many(range(5), np.ones((5, 2)))
        with pytest.raises(TypeError):
            pickle.dumps(db["temps"].dataset())
    reader = open_db("r")
    for dataset, count in [(reader["temps"].dataset(), 9), (reader.dataset("temps", "others"), 5)]:
        assert pickle.loads(pickle.dumps(dataset)).count_rows() == count
        assert pickle.loads(pickle.dumps(dataset.filter(KEY < 3))).count_rows() == 3


def test_a_shared_database_and_shards(open_db: OpenDB, tmp_path: Any) -> None:
    with open_db(shared=True) as db:
        db.array_store("temps", "f8").put_many(range(9), np.ones((9, 2)))
        assert (
            db["temps"].dataset().count_rows(filter=KEY > 5) == db.dataset("temps").count_rows(filter=KEY > 5) == 3
        )
