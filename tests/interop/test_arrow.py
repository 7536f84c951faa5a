"""Arrow: records as columns and back, without a copy where that is possible, and in the hands of others."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from conftest import OpenDB

import structchunk as sc

Point = sc.Object.of(x=ctypes.c_double, n=ctypes.c_int32)
NESTED = np.dtype([("a", ">u2"), ("b", [("c", "S3"), ("d", "f4", (2, 3))]), ("e", "?")], align=True)
SAMPLES: dict[str, tuple[Any, pa.DataType]] = {
    "?": ([True, False, True], pa.bool_()),
    "u1": ([0, 255, 3], pa.uint8()),
    "i8": ([-(2**63), 2**63 - 1, 0], pa.int64()),
    "u8": ([2**64 - 1, 0, 1], pa.uint64()),
    "f2": ([0.5, -1, 2], pa.float16()),
    "f4": ([0.5, np.nan, np.inf], pa.float32()),
    "f8": ([0.1, np.nan, -0.0], pa.float64()),
    ">i4": ([1, -2, 3], pa.int32()),
    ">f8": ([0.1, np.nan, 3], pa.float64()),
    "c8": ([1 + 2j, 0, np.nan], pa.list_(pa.float32(), 2)),
    ">c16": ([1 + 2j, 0, 3j], pa.list_(pa.float64(), 2)),
    "S3": ([b"abc", b"", b"d"], pa.large_binary()),
    "V2": ([b"ab", b"\0\0", b"c\0"], pa.binary(2)),
    "U3": (["äbc", "", "d"], pa.large_string()),
    "S4": ([b"a\0b", b"\0c", b"\xff\0\0d"], pa.large_binary()),
    "U4": (["a\0b", "\0c", "ä\0\0😀"], pa.large_string()),
    ">U3": (["abc", "", "d"], pa.large_string()),
    "M8[ns]": (["2020-01-01", "1969-12-31T23:59:59.999999999", "NaT"], pa.timestamp("ns")),
    ">M8[s]": (["2020-01-01", "0001-01-01", "NaT"], pa.timestamp("s")),
    "M8[D]": (["2020-01-01", "1900-02-03", "NaT"], pa.date32()),
    "M8[M]": (["2020-01", "1900-02", "NaT"], pa.timestamp("s")),
    "M8[10ms]": ([1, -2, "NaT"], pa.timestamp("ms")),
    "m8[us]": ([1, -2, "NaT"], pa.duration("us")),
    "m8[h]": ([1, -2, "NaT"], pa.duration("s")),
}


def sample(name: str) -> np.ndarray:
    items, _ = SAMPLES[name]
    if name == "V2":
        return np.frombuffer(b"".join(items), name)
    return np.array(items, name)


def record_of(number: int) -> np.ndarray:
    record = np.zeros(number, NESTED)
    record["a"] = range(number)
    record["b"]["c"] = b"xy"
    record["b"]["d"] = np.arange(6).reshape(2, 3)
    record["e"] = True
    return record


def read(store: Any) -> pa.Table:
    return store.to_arrow().read_all()


def records_of(store: Any) -> list[tuple[int, bytes]]:
    return [(key, np.asarray(value).tobytes()) for key, value in store.items()]


# ---------------------------------------------------------------- shapes and types


def test_a_store_is_a_table_of_keys_and_lists(db: sc.Database) -> None:
    store = db.array_store("temps", "f8")
    store.put_many([5, 2**64 - 1, 7], [1.0, 2.0, 3.0], [2, 1, 0])
    table = read(store)
    assert table.schema == pa.schema([("key", pa.uint64()), ("temps", pa.large_list(pa.float64()))])
    assert table.to_pydict() == {"key": [5, 7, 2**64 - 1], "temps": [[1.0, 2.0], [], [3.0]]}
    assert store.to_arrow(6, 8).read_all().to_pydict() == {"key": [7], "temps": [[]]}
    table.validate(full=True)


def test_an_object_store_is_a_table_of_keys_and_structs(db: sc.Database) -> None:
    points = db.object_store("points", Point)
    points.put_many([3, 1], [(3.5, 3), (1.5, 1)])
    table = read(points)
    assert table.schema.field("points").type == pa.struct([("x", pa.float64()), ("n", pa.int32())])
    assert table.to_pydict() == {"key": [1, 3], "points": [{"x": 1.5, "n": 1}, {"x": 3.5, "n": 3}]}
    table.validate(full=True)


def test_an_empty_store_has_a_schema_and_no_records(db: sc.Database) -> None:
    for store in (db.array_store("a", "f4"), db.object_store("o", Point)):
        table = read(store)
        assert table.num_rows == 0
        assert table.schema.names == ["key", store.name]


def test_a_batch_is_a_record_batch(db: sc.Database) -> None:
    store = db.array_store("temps", "f8")
    store.put_many([1, 2], [1.0, 2.0, 3.0], [2, 1])
    (batch,) = store.scan()
    assert batch.to_arrow().to_pydict() == {"key": [1, 2], "value": [[1.0, 2.0], [3.0]]}
    assert store.get_many([]).to_arrow().to_pydict() == {"key": [], "value": []}
    points = db.object_store("points", Point)
    points.put(1, (1.5, 2))
    assert points.get_many([1, 1]).to_arrow().to_pydict() == {"key": [1, 1], "value": [{"x": 1.5, "n": 2}] * 2}
    own = sc.Batch(batch.keys, batch.offsets, -batch.values)
    assert own.to_arrow().column("value").to_pylist() == [[-1.0, -2.0], [-3.0]]


@pytest.mark.parametrize("name", SAMPLES)
def test_every_type_there_and_back(db: sc.Database, name: str) -> None:
    store, copy = db.array_store("from", name), db.array_store("to", name)
    items = sample(name)
    store.put_many([1, 2, 3], np.concatenate([items, items[:1]]), [3, 0, 1])
    table = read(store)
    table.validate(full=True)
    assert table.schema.field("from").type == pa.large_list(SAMPLES[name][1])
    copy.from_arrow(table)
    assert records_of(copy) == records_of(store)


@pytest.mark.parametrize("name", [name for name in SAMPLES if np.dtype(name).kind in "biufM"])
def test_arrow_shows_the_values_of_numpy(db: sc.Database, name: str) -> None:
    store = db.array_store("store", name)
    store.put(1, sample(name))
    values = read(store).column("store").chunk(0).values
    assert values.null_count == (name[-1] == "]" or name.endswith("[s]"))
    np.testing.assert_array_equal(values.to_numpy(zero_copy_only=False), sample(name))


def test_structured_items_there_and_back(db: sc.Database) -> None:
    store, copy = db.array_store("from", NESTED), db.array_store("to", NESTED)
    store.put_many([1, 2, 3], np.concatenate([record_of(2), record_of(1)]), [2, 0, 1])
    table = read(store)
    inner = pa.struct([("c", pa.large_binary()), ("d", pa.list_(pa.list_(pa.float32(), 3), 2))])
    assert table.schema.field("from").type.value_type == pa.struct(
        [("a", pa.uint16()), ("b", inner), ("e", pa.bool_())]
    )
    table.validate(full=True)
    first = {"a": 0, "b": {"c": b"xy", "d": [[0, 1, 2], [3, 4, 5]]}, "e": True}
    assert table.column("from").to_pylist() == [[first, first | {"a": 1}], [], [first]]
    for source in (table, table.slice(0, 1), table.slice(1, 2)):
        copy.clear()
        copy.from_arrow(source)
        keys = source.column("key").to_pylist()
        assert records_of(copy) == [(key, store[key].tobytes()) for key in keys]


@pytest.mark.parametrize("cls", [Point, sc.Array.of(3, ctypes.c_float), sc.Object.of(p=Point, q=Point * 2)])
def test_objects_there_and_back(db: sc.Database, cls: Any) -> None:
    store, copy = db.object_store("from", cls), db.object_store("to", cls)
    for key in (4, 2):
        store.put(key, cls.from_buffer_copy(np.arange(key, key + ctypes.sizeof(cls) // 4, dtype="f4").tobytes()))
    table = read(store)
    table.validate(full=True)
    copy.from_arrow(table)
    assert copy.records().dtype == store.records().dtype
    assert [*copy.values()] == [*store.values()]
    copy.new(5)  # what was loaded is live, as every object
    assert copy[4] == store[4]


@pytest.mark.parametrize("dtype", ["M8[ps]", "m8[as]", "m8[Y]", [("when", "M8[fs]")]])
def test_what_arrow_cannot_hold_is_refused(db: sc.Database, dtype: Any) -> None:
    store = db.array_store("times", dtype)
    with pytest.raises(sc.SchemaError, match="Arrow cannot hold") as raised:
        store.to_arrow()
    assert ("'when'" in str(raised.value)) == isinstance(dtype, list)


@pytest.mark.parametrize("dtype", ["M8[W]", "M8[D]", "m8[h]"])
def test_a_time_out_of_range_is_refused(db: sc.Database, dtype: str) -> None:
    store = db.array_store("times", dtype)
    store.put(1, np.array([2**62], dtype))
    with pytest.raises(ValueError, match="out of the range"):
        read(store)


def test_a_store_called_key_is_refused(db: sc.Database) -> None:
    store = db.array_store("key", "f8")
    for make in (store.to_arrow, lambda: db.to_arrow("key"), lambda: pa.table(store)):
        with pytest.raises(sc.SchemaError, match="name of the column of keys"):
            make()


# ---------------------------------------------------------------- no copy


def addresses(array: pa.Array) -> set[int]:
    return {buffer.address for buffer in array.buffers() if buffer is not None and buffer.size}


@pytest.mark.parametrize("dtype", ["f8", "u1", "M8[us]", "V3", "c16", [("items", "f4", (2,))]])
def test_records_back_to_back_are_not_copied(db: sc.Database, dtype: Any) -> None:
    store = db.array_store("values", dtype)
    store.put_many([1, 2, 3], np.zeros(6, dtype), [1, 2, 3])
    (batch,) = store.scan()
    for table in (read(store), pa.table(store), pa.table({"values": batch.to_arrow().column("value")})):
        assert batch.values.ctypes.data in addresses(table.column("values").chunk(0))
    arrow = batch.to_arrow()
    assert {batch.keys.ctypes.data} == addresses(arrow.column("key"))
    assert batch.offsets.ctypes.data in addresses(arrow.column("value"))


def test_what_is_changed_in_place_later_does_not_show(db: sc.Database) -> None:
    vectors = db.object_store("vectors", sc.Array.of(3, ctypes.c_double))
    vectors.put_many([1, 2], np.zeros(2, vectors.dtype))
    points = db.object_store("points", Point)
    points.put_many([1, 2], [(1.5, 1), (2.5, 2)])
    store = db.array_store("temps", "f8")
    store.put(2, [1.0])
    array = store.new(1, 3)
    with db.snapshot() as snapshot:
        stores = [*(db[name] for name in db), snapshot["temps"]]
        found = [read(each) for each in stores] + [each.get_many([1]).to_arrow() for each in stores]
        found.append(db.to_arrow("temps", "vectors").read_all())
        before = [data.to_pylist() for data in found]
        vectors[1][0] = points[1].x = array[:] = 9
        assert [data.to_pylist() for data in found] == before
        assert [next(each.scan(1, 2)).in_place for each in stores] == [True] * 4
        assert not store.get_many([2]).in_place


def test_aligned_stores_are_not_copied(db: sc.Database) -> None:
    for name in ("a", "b"):
        db.array_store(name, "f8").put_many(range(100), np.ones((100, 2)))
    table = db.to_arrow("a", "b", start=10, stop=60).read_all()
    for name in ("a", "b"):
        (batch,) = db[name].scan(10, 60)
        assert batch.values.ctypes.data in addresses(table.column(name).chunk(0))


def test_arrow_data_outlives_the_database(open_db: OpenDB) -> None:
    db = open_db(sync=False)
    store = db.array_store("temps", "f8")
    store.put_many(range(1000), np.arange(16_000.0).reshape(1000, 16))
    table, batch = read(store), next(store.scan()).to_arrow()
    db.close()
    del store, db
    gc.collect()
    for lists in (table.column("temps").chunk(0), batch.column("value")):
        assert lists.values.to_numpy().tolist() == list(range(16_000))


# ---------------------------------------------------------------- several stores, one commit


def test_stores_with_shared_keys_are_one_table(db: sc.Database) -> None:
    db.array_store("time", "M8[s]").put_many([1, 2, 3], np.zeros((3, 1), "M8[s]"))
    db.array_store("value", "f4").put_many([2, 3, 4], [[2.0], [3.0], [4.0]])
    db.object_store("point", Point).put_many([3, 2, 0], [(3.0, 3), (2.0, 2), (0.0, 0)])
    with db.snapshot() as snapshot, db.transaction() as txn:
        txn["value"].put(1, [1.0])
        txn["point"].put(1, (1.0, 1))
        found = txn.to_arrow("value", "point", "time").read_all()
        assert found.schema.names == ["key", "value", "point", "time"]
        assert found.column("key").to_pylist() == [1, 2, 3]
        assert found.column("point").to_pylist() == [{"x": float(n), "n": n} for n in (1, 2, 3)]
        for handle in (db, snapshot):
            assert handle.to_arrow("value", "time").read_all().column("value").to_pylist() == [[2.0], [3.0]]
            assert handle.to_arrow("value", start=3, stop=4).read_all().column("key").to_pylist() == [3]


def test_names_are_checked(db: sc.Database) -> None:
    db.array_store("a", "f4")
    with pytest.raises(ValueError, match="named twice"):
        db.to_arrow("a", "a")
    with pytest.raises(ValueError, match="name at least one"):
        db.to_arrow()
    with pytest.raises(sc.StoreNotFound):
        db.to_arrow("a", "b")


def test_batches_are_of_the_size_asked_for(db: sc.Database) -> None:
    db.array_store("a", "f4").put_many(range(100), np.zeros((100, 1)))
    for reader in (db["a"].to_arrow(batch_size=30), db.to_arrow("a", batch_size=30)):
        assert [len(batch) for batch in reader] == [30, 30, 30, 10]


def test_a_reader_tells_what_went_wrong(db: sc.Database) -> None:
    db.array_store("a", "f4").put_many(range(300_000), np.zeros((300_000, 1)))
    reader = db["a"].to_arrow()
    reader.read_next_batch()
    db.close()
    with pytest.raises(sc.ClosedError):
        reader.read_all()


# ---------------------------------------------------------------- those who take a store as it is


@pytest.fixture
def temps(db: sc.Database) -> Any:
    store = db.array_store("temps", "f8")
    store.put_many([1, 2, 3], [1.0, 2.0, 3.0, 4.0], [2, 0, 2])
    return store


LISTS = [[1.0, 2.0], [], [3.0, 4.0]]


def test_pyarrow_takes_a_store(temps: Any) -> None:
    for table in (pa.table(temps), pa.RecordBatchReader.from_stream(temps).read_all()):
        assert table.to_pydict() == {"key": [1, 2, 3], "temps": LISTS}
    assert pa.schema(temps) == pa.table(temps).schema


def test_duckdb_takes_a_store(db: sc.Database, temps: Any) -> None:
    found = duckdb.sql("select sum(key), sum(list_sum(temps)) from temps where len(temps) > 0").fetchall()
    assert found == [(4, 10.0)]
    assert duckdb.sql("select a.temps from temps a join temps b using (key) where key = 3").fetchall() == [
        ([3.0, 4.0],)
    ]
    points = db.object_store("points", Point)
    points.put_many([7, 8], [(0.5, 1), (1.5, 2)])
    assert duckdb.sql("select avg(points.x), max(points.n) from points").fetchall() == [(1.0, 2)]
    relation = duckdb.sql("select key + 10 as key, temps || [9.0] as temps from temps")
    temps.from_arrow(relation)
    assert temps[13].tolist() == [3.0, 4.0, 9.0]


def test_text_is_found_in_sql(db: sc.Database) -> None:
    things = db.object_store("things", sc.Object.of(name=ctypes.c_char * 5, n=ctypes.c_int32))
    things.put_many([1, 2, 3], [(b"abc", 1), (b"a\0b", 2), (b"abcde", 3)])
    for name in ("abc", "abcde"):
        found = duckdb.sql(f"select things.n from things where things.name = '{name}'").fetchall()
        assert found == [({"abc": 1, "abcde": 3}[name],)]
    assert duckdb.sql("select things.n from things where things.name = 'a\\x00b'::blob").fetchall() == [(2,)]
    for name, dtype, kind in (("bytes", "S5", "blob"), ("text", "U5", "varchar")):
        store = db.array_store(name, dtype)
        store.put_many([1, 2], np.array(["abc", "x", "abcde"], dtype), [2, 1])
        found = duckdb.sql(f"select key from store where list_contains({name}, 'abc'::{kind})").fetchall()
        assert found == [(1,)]


@pytest.mark.parametrize("dtype", ["S3", "U3", "V3", "i8", "u8", "f4", "?", "M8[ns]", "M8[D]"])
def test_what_polars_and_duckdb_hand_on_comes_back(db: sc.Database, dtype: str) -> None:
    store, copy = db.array_store("store", dtype), db.array_store("copy", dtype)
    items = sample(dtype) if dtype in SAMPLES else np.frombuffer(b"ab\0a\0c\0\0\0", dtype)
    if dtype.startswith(("S", "U")):
        items = np.append(items, np.array(["a\0b"], dtype))
    store.put_many([1, 2], items, [len(items), 0])
    for source in (pl.from_arrow(pa.table(store)), duckdb.sql("select key, store from store")):
        copy.clear()
        copy.from_arrow(source)
        assert records_of(copy) == records_of(store)


def test_polars_takes_a_store(temps: Any) -> None:
    frame = pl.DataFrame(temps.to_arrow())
    assert frame.schema == {"key": pl.UInt64, "temps": pl.List(pl.Float64)}
    assert frame["temps"].to_list() == LISTS
    taken = pl.from_arrow(temps)  # a data frame; of later Polars one column of structs
    columns = taken if isinstance(taken, pl.DataFrame) else taken.struct.unnest()
    assert columns.equals(frame)
    temps.from_arrow(frame.with_columns(pl.col("key") + 10))
    assert temps[11].tolist() == [1.0, 2.0]


def test_pandas_takes_what_a_store_gives(temps: Any) -> None:
    frame = read(temps).to_pandas()
    assert frame["temps"].map(list).tolist() == LISTS
    frame["key"] += 10
    temps.from_arrow(pa.table(frame))
    assert temps[13].tolist() == [3.0, 4.0]


# ---------------------------------------------------------------- loading


def keyed(values: pa.Array, keys: Any = (1, 2), name: str = "values") -> pa.Table:
    return pa.table({"key": keys, name: values})


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float64(), 2), pa.list_(pa.int8())),
        *(pa.list_view(pa.int64()), pa.large_list_view(pa.float32())),
    ],
    ids=str,
)
def test_every_kind_of_list_is_taken(db: sc.Database, kind: pa.DataType) -> None:
    store = db.array_store("values", "f8")
    column = pa.array([[9, 9], [1, 2], [3, 4], [5, 6]], kind)
    whole = keyed(column, np.arange(4))
    for source in (whole.slice(1, 2), whole.slice(1, 2).to_batches()[0], whole.slice(1, 2).to_reader()):
        store.clear()
        store.from_arrow(source)
        assert {key: value.tolist() for key, value in store.items()} == {1: [1, 2], 2: [3, 4]}


def test_the_last_of_equal_keys_stays_and_others_are_kept(db: sc.Database) -> None:
    store = db.array_store("values", "f8")
    store.put_many([1, 5], [[0.0], [5.0]])
    schema = keyed(pa.array([[1.0]]), [1]).schema
    batches = [keyed(pa.array([[float(i)]]), [1]).to_batches()[0].cast(schema) for i in (1, 2, 3)]
    store.from_arrow(pa.RecordBatchReader.from_batches(schema, batches))
    assert {key: value.tolist() for key, value in store.items()} == {1: [3.0], 5: [5.0]}


def test_a_store_can_be_loaded_from_itself_or_a_transaction(db: sc.Database) -> None:
    store = db.array_store("values", "f8")
    store.put_many(range(5000), np.arange(10_000.0).reshape(5000, 2))
    before = records_of(store)
    store.from_arrow(store)
    with db.transaction() as txn:
        txn["values"].delete_range(0, 100)
        txn.array_store("copy", "f8").from_arrow(txn["values"])
    assert records_of(store) == before[100:]
    assert records_of(db["copy"]) == before[100:]


def failing() -> Iterable[pa.RecordBatch]:
    yield keyed(pa.array([[1.0], [2.0]])).to_batches()[0]
    raise OSError("the source is gone")


@pytest.mark.parametrize("then", ["savepoint", "commit"])
def test_what_is_read_uses_the_transaction_itself(db: sc.Database, then: str) -> None:
    """A savepoint that begins between two batches takes back the later one; after the end none is stored."""
    db.array_store("a", "f8")
    txn = db.transaction()
    savepoint = txn.savepoint()

    def read() -> Iterator[pa.RecordBatch]:
        for number, key in enumerate([1, 2]):
            if number:
                savepoint.__enter__() if then == "savepoint" else txn.commit()
            yield keyed(pa.array([[1.0]]), [key]).to_batches()[0]

    source = pa.RecordBatchReader.from_batches(keyed(pa.array([[1.0]]), [1]).schema, read())
    if then == "savepoint":
        txn["a"].from_arrow(source)
        assert list(txn["a"]) == [1, 2]
        savepoint.rollback()
        txn.commit()
    else:
        with pytest.raises(sc.ClosedError, match="was committed"):
            txn["a"].from_arrow(source)
    assert list(db["a"]) == [1]


def test_all_of_a_stream_is_stored_or_nothing(db: sc.Database) -> None:
    store = db.array_store("values", "f8")
    store.put(1, [0.0])
    source = pa.RecordBatchReader.from_batches(keyed(pa.array([[1.0], [2.0]])).schema, failing())
    with pytest.raises(OSError, match="the source is gone"):
        store.from_arrow(source)
    assert {key: value.tolist() for key, value in store.items()} == {1: [0.0]}


NO_FIT: list[tuple[Any, str]] = [
    (keyed(pa.array([[1.0], None])), "values: found 1 nulls"),
    (keyed(pa.array([[1.0, None], [None]])), "values: found 2 nulls"),
    (keyed(pa.array([[1.0], [2.0]]), pa.array([1, None])), "key: found 1 nulls"),
    (keyed(pa.array([[1.0], [2.0]]), [-1, 1]), "range 0 to"),
    (keyed(pa.array([[1.0], [2.0]]), [0.5, 1.0]), "keys are integers"),
    (keyed(pa.array([1.0, 2.0])), "found a column of double, expected lists of double"),
    (keyed(pa.array([["a"], ["b"]])), "found Arrow values of string, expected double"),
    (keyed(pa.array([[2**53 + 1], [1]])), "9007199254740993"),
    (pa.table({"values": pa.array([[1.0]])}), "found the columns values; expected 'key' and 'values'"),
    (
        keyed(pa.array([[1.0], [2.0]])).add_column(0, "other", [[1, 2]]).rename_columns(["a", "key", "b"]),
        "columns a,",
    ),
    ({"key": [1], "values": [[1.0]]}, "found dict, expected an Arrow table"),
]


@pytest.mark.parametrize(("source", "message"), NO_FIT, ids=[message for _, message in NO_FIT])
def test_what_does_not_fit_is_refused(db: sc.Database, source: Any, message: str) -> None:
    store = db.array_store("values", "f8")
    with pytest.raises((ValueError, TypeError), match=message):
        store.from_arrow(source)
    assert len(store) == 0


def test_a_column_is_found_by_name_or_because_there_is_only_one(db: sc.Database) -> None:
    store = db.array_store("values", "f8")
    store.from_arrow(keyed(pa.array([[1.0], [2.0]]), name="something"))
    store.from_arrow(keyed(pa.array([[3.0], [4.0]])).append_column("more", pa.array(["a", "b"])))
    assert [value.tolist() for value in store.values()] == [[3.0], [4.0]]


def test_structs_need_the_fields_of_the_store(db: sc.Database) -> None:
    points = db.object_store("points", Point)
    points.from_arrow(keyed(pa.array([{"n": 1, "x": 1.5}, {"n": 2, "x": 2.5}])))
    assert points.records().tolist() == [(1.5, 1), (2.5, 2)]
    with pytest.raises(sc.SchemaError, match="found the fields x, expected x, n"):
        points.from_arrow(keyed(pa.array([{"x": 1.5}, {"x": 2.5}])))
    with pytest.raises(ValueError, match=r"values\.x: found 1 nulls"):
        points.from_arrow(keyed(pa.array([{"n": 1, "x": None}, {"n": 2, "x": 2.5}])))
    with pytest.raises(ValueError, match="values: found 1 nulls"):
        points.from_arrow(keyed(pa.array([None, {"n": 2, "x": 2.5}])))
    with pytest.raises(sc.SchemaError, match="expected struct"):
        points.from_arrow(keyed(pa.array([1.0, 2.0])))


def test_read_only_handles_do_not_load(db: sc.Database) -> None:
    store = db.array_store("values", "f8")
    store.put(1, [1.0])
    with db.snapshot() as snapshot, pytest.raises(sc.ReadOnlyError):
        snapshot["values"].from_arrow(store)


# ---------------------------------------------------------------- without pyarrow


def test_says_what_to_install_if_pyarrow_is_missing(db: sc.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    store = db.array_store("values", "f8")
    store.put(1, [1.0])
    for module in (
        "structchunk.interop.arrow",
        "structchunk.interop.arrow_values",
        "structchunk.interop.arrow_types",
    ):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (batch,) = store.scan()
    for use in (store.to_arrow, batch.to_arrow, lambda: db.to_arrow("values"), lambda: store.from_arrow(None)):
        with pytest.raises(ImportError, match=r"pip install '\.\[arrow\]'"):
            use()
