"""Columns of object stores: what is stored of dicts, data frames and flat tables, and that they come back."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import structchunk as sc

Inner = sc.Object.of(a=ctypes.c_int32, b=ctypes.c_char * 4)
Record = sc.Object.of(
    x=ctypes.c_double, v=ctypes.c_int16 * 3, i=Inner, m=(ctypes.c_float * 2) * 2, c=ctypes.c_char, j=Inner * 2
)
ROWS = [
    (1.5, (1, 2, 3), (7, b"ab"), ((1, 2), (3, 4)), b"x", [(1, b"a"), (2, b"")]),
    (-2.5, (4, 5, 6), (8, b""), ((5, 6), (7, 8)), b"", [(3, b"cd"), (4, b"e")]),
]
COLUMNS: dict[str, Any] = {
    "x": [1.5, -2.5],
    "v": np.array([[1, 2, 3], [4, 5, 6]]),
    "i": {"a": range(7, 9), "b": ["ab", ""]},
    "m": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]],
    "c": [b"x", b"\0"],
    "j": [[{"a": 1, "b": "a"}, {"a": 2, "b": ""}], [{"a": 3, "b": "cd"}, {"a": 4, "b": "e"}]],
}
LISTS = {**COLUMNS, "v": COLUMNS["v"].tolist(), "i": [{"a": 7, "b": "ab"}, {"a": 8, "b": ""}], "c": ["x", ""]}


@pytest.fixture
def store(db: sc.Database) -> sc.ObjectStore[Any]:
    return db.object_store("store", Record)


@pytest.fixture
def wanted(db: sc.Database) -> bytes:
    other = db.object_store("wanted", Record)
    other.put_many([1, 2], ROWS)
    return other.records().tobytes()


@pytest.mark.parametrize(
    "columns",
    [
        COLUMNS,
        dict(reversed(COLUMNS.items())),
        {**COLUMNS, "x": (float(text) for text in ("1.5", "-2.5"))},
        pl.DataFrame(LISTS),
        pl.DataFrame(LISTS).to_arrow(),
        pa.RecordBatch.from_pylist(
            [dict(zip(LISTS, row, strict=True)) for row in zip(*LISTS.values(), strict=True)]
        ),
        pl.DataFrame(LISTS).to_struct(),
        pa.table(LISTS).to_struct_array(),
    ],
    ids=lambda columns: type(columns).__name__,
)
def test_put_many_takes_columns(store: sc.ObjectStore[Any], wanted: bytes, columns: Any) -> None:
    store.put_many([1, 2], columns)
    assert store.records().tobytes() == wanted
    assert list(store) == [1, 2]


def test_what_to_pandas_returns_comes_back(store: sc.ObjectStore[Any], wanted: bytes) -> None:
    store.put_many([1, 2], ROWS)
    frame = store.to_pandas()
    assert list(frame.columns[-3:]) == ["j[0].b", "j[1].a", "j[1].b"]
    store.clear()
    store.put_many(frame.index, frame)
    assert store.records().tobytes() == wanted
    for source in (frame, frame.reset_index(), pl.from_pandas(frame.reset_index()), pa.Table.from_pandas(frame)):
        store.clear()
        store.from_arrow(source)
        assert store.records().tobytes() == wanted
    store.clear()
    store.from_arrow(frame[:0])
    assert len(store) == 0


@pytest.mark.parametrize("kind", ["?", "i1", ">u8", "f4", ">f8", "S3", "u1", "S1"])
def test_every_type_comes_back(db: sc.Database, kind: str) -> None:
    values = {"S3": [b"a\0b", b""], "S1": [b"a", b""], "f4": [0.5, np.nan]}.get(kind, [1, 0])
    records = np.zeros(2, [("a", kind), ("b", kind, (2,))])
    records["a"], records["b"] = values, [values, values]
    store = db.object_store("objects", records.dtype)
    store.put_many([1, 2], records)
    frame = store.to_pandas()
    store.clear()
    store.put_many(frame.index, frame)
    assert store.records().tobytes() == records.tobytes()
    store.clear()
    store.from_arrow(frame)
    assert store.records().tobytes() == records.tobytes()


def test_a_table_of_one_field_is_no_column_of_records(db: sc.Database) -> None:
    one = db.object_store("x", sc.Object.of(x=ctypes.c_double))
    one.from_arrow(pa.table({"key": [1, 2], "x": [0.5, 1.5]}))
    one.from_arrow(pa.table({"key": [3], "anything": [{"x": 2.5}]}))
    one.from_arrow(pa.table({"x": pa.array([3]).dictionary_encode(), "key": [4]}))
    assert one.records()["x"].tolist() == [0.5, 1.5, 2.5, 3]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"q": [1, 2]}, ValueError, "found the columns x, .*, q, expected x, v, i, m, c, j$"),
        ({"i.a": [1, 2]}, ValueError, r"i\.a.*expected x"),
        ({"x": [1.0]}, ValueError, "unequal length, 1 in 'x', 2 in"),
        ({"x": 1.0}, TypeError, "field 'x': found a single float, expected a column"),
        ({"c": "ab"}, TypeError, "field 'c': found a single str"),
        ({"x": ["a", "b"]}, TypeError, "field 'x': found str, expected values of float64"),
        ({"x": pd.Series([1, None], dtype="Int64")}, ValueError, "field 'x': found nulls"),
        ({"x": np.ma.array([1.0, 2.0], mask=[0, 1])}, ValueError, "field 'x': found masked values"),
        ({"v": np.full((2, 3), 2**20)}, ValueError, "field 'v': found 1048576, which int16 cannot"),
        ({"v": np.zeros((2, 4))}, ValueError, r"field 'v': found values of shape \(2, 4\), expected \(2, 3\)"),
        ({"i": {"a": [1, 2**40], "b": ["", ""]}}, ValueError, r"field 'i\.a': found 1099511627776"),
        ({"i": {"a": [1, 2]}}, ValueError, r"there is none for i\.b"),
    ],
)
def test_refused(store: sc.ObjectStore[Any], changes: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        store.put_many([1, 2], {**COLUMNS, **changes})
    with pytest.raises(ValueError, match="3 keys for 2 records"):
        store.put_many([1, 2, 3], COLUMNS)
    assert len(store) == 0


def test_flat_tables_are_refused_as_a_whole(store: sc.ObjectStore[Any]) -> None:
    store.put_many([1, 2], ROWS)
    table = pa.Table.from_pandas(store.to_pandas())
    names = [*table.column_names]
    for bad, error, message in [
        (table.drop_columns(["i.b"]), ValueError, r"there is none for i\.b"),
        (table.append_column("q", pa.array([1, 2])), ValueError, "expected x, v"),
        (table.set_column(0, names[0], pa.array(["a", "b"])), sc.SchemaError, "x: found Arrow values of string"),
        (table.set_column(0, names[0], pa.array([1, None])), ValueError, "x: found 1 nulls"),
        (table.set_column(1, names[1], pa.array([1, 2**40])), ValueError, r"field 'v\[0\]': found 1099511627776"),
        (table.drop_columns(["key"]), ValueError, "'key' and 'store', or one other beside it, or one for each"),
    ]:
        with pytest.raises(error, match=message):
            store.from_arrow(bad)
