"""Values and keys that pyarrow, Polars and pandas hold: taken exactly, and refused where one is missing."""

from __future__ import annotations

import ctypes
import datetime
import decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import OpenDB

import structchunk as sc
from structchunk.types.blocks import as_block
from structchunk.types.convert import as_items, as_keys
from structchunk.types.foreign import has_nulls

BIG = 2**53 + 1
DAY = datetime.datetime(2020, 1, 1)
DICTIONARY = pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array([BIG, None]))
RUNS = pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array([BIG, None]))

NULLS = {
    "pyarrow": pa.array([BIG, None]),
    "pyarrow of nulls": pa.nulls(2),
    "pyarrow chunked": pa.chunked_array([[BIG], [None]], pa.int64()),
    "pyarrow floats": pa.array([0.5, None]),
    "pyarrow booleans": pa.array([True, None]),
    "pyarrow dictionary": DICTIONARY,
    "pyarrow runs": RUNS,
    "Polars": pl.Series([BIG, None]),
    "Polars of nulls": pl.Series([None, None]),
    "Polars floats": pl.Series([0.5, None]),
    "pyarrow chunked dictionary": pa.chunked_array([DICTIONARY]),
    "pandas array": pd.array([BIG, None], dtype="Int64"),
    "pandas series": pd.Series([0.5, None], dtype="Float64"),
    "pandas index": pd.Index([BIG, None], dtype="Int64"),
    "pandas of Arrow": pd.Series([BIG, None], dtype="int64[pyarrow]"),
    "pandas categories": pd.Series(pd.Categorical([BIG, None])),
}
BLOCKS = {
    "pandas frame": pd.DataFrame({"a": pd.array([BIG, None], dtype="Int64"), "b": [1, 2]}),
    "Polars frame": pl.DataFrame({"a": [BIG, None], "b": [1, 2]}),
    "Polars arrays": pl.Series([[BIG, None], [1, 2]], dtype=pl.Array(pl.Int64, 2)),
    "Polars structs": pl.Series([{"a": BIG, "b": 1}, None]),
    "pyarrow table": pa.table({"a": [BIG, None], "b": [1, 2]}),
    "pyarrow batch": pa.record_batch({"a": [BIG, None], "b": [1, 2]}),
    "Polars lists": pl.Series([[BIG, None], [1, 2]]),
    "Polars lists of lists": pl.Series([[[BIG], [None]], [[], []]], dtype=pl.List(pl.List(pl.Int64))),
    "pyarrow lists": pa.array([[BIG, None], [1, 2]]),
    "pyarrow chunked lists": pa.chunked_array([[[BIG, None], [1, 2]]]),
    "pyarrow large lists": pa.array([[BIG, None], [1, 2]], pa.large_list(pa.int64())),
    "pyarrow lists of one length": pa.array([[BIG, None], [1, 2]], pa.list_(pa.int64(), 2)),
    "pyarrow list views": pa.array([[BIG, None], [1, 2]], pa.list_view(pa.int64())),
    "pyarrow lists of lists": pa.array([[[BIG], [None]], [[], []]]),
    "pyarrow lists of dictionaries": pa.ListArray.from_arrays([0, 2, 2], DICTIONARY),
    "pyarrow structs": pa.array([{"a": BIG}, {"a": None}]),
    "pyarrow maps": pa.array([[("a", BIG)], [("b", None)]], pa.map_(pa.string(), pa.int64())),
    "a list of dictionaries": [DICTIONARY, [1, 2]],
    "a list of them": [pa.array([BIG, None]), pa.array([1, 2])],
    "a list of rows": [[1.0, 2.0], pd.array([1, None], dtype="Int64")],
}


@pytest.mark.parametrize("values", NULLS.values(), ids=NULLS)
@pytest.mark.parametrize("dtype", ["f8", "i8", "?", "U3", "c16", "V8"])
def test_nulls_are_refused(values: Any, dtype: str) -> None:
    assert has_nulls(values)
    for given in (values, [values]):
        with pytest.raises((ValueError, TypeError), match="nulls"):
            as_block(given, [2], np.dtype(dtype)) if given is values else as_block(given, None, np.dtype(dtype))
    with pytest.raises(ValueError, match="nulls"):
        as_keys(values)
    with pytest.raises(ValueError, match="nulls"):
        as_block([1.0], values, np.dtype("f8"))


WHOLE_LISTS = (
    pl.Series([[BIG], [1, 2], []]),
    pl.Series([[[BIG]], [[], [2]]], dtype=pl.List(pl.List(pl.Int64))),
    pa.array([[BIG], [1, 2], []]),
    pa.array([[None], [BIG]])[1:],
    pa.chunked_array([[[BIG]], [[1, 2]]]),
    pa.array([[BIG, 1]], pa.list_(pa.int64(), 2)),
    pa.array([[BIG]], pa.large_list(pa.int64())),
    pd.Series([[BIG], [1]], dtype=pd.ArrowDtype(pa.list_(pa.int64()))),
)


@pytest.mark.parametrize("values", WHOLE_LISTS, ids=lambda values: type(values).__name__)
@pytest.mark.parametrize("dtype", ["f8", "i8", "M8[s]"])
def test_lists_are_refused_as_such(values: Any, dtype: str) -> None:
    assert not has_nulls(values)
    with pytest.raises(TypeError, match=r"of the type .*[Ll]ist.*, expected values of .*put_many\(\)"):
        as_items(values, np.dtype(dtype))


LISTS = {
    "pyarrow": pa.array([[1, 2], [], [BIG]]),
    "pyarrow, a part": pa.array([[0], [1, 2], [], [BIG], [9]])[1:4],
    "pyarrow large": pa.array([[1, 2], [], [BIG]], pa.large_list(pa.int64())),
    "pyarrow chunked": pa.chunked_array([[[1, 2]], [], [[], [BIG]]], pa.list_(pa.int64())),
    "pyarrow views": pa.array([[1, 2], [], [BIG]], pa.list_view(pa.int64())),
    "pyarrow dictionaries": pa.ListArray.from_arrays([0, 2, 2, 3], pa.array([1, 2, BIG]).dictionary_encode()),
    "Polars": pl.Series([[1, 2], [], [BIG]]),
    "Polars wide": pl.Series([[1, 2], [], [BIG]], dtype=pl.List(pl.Int128)),
    "pandas of Arrow": pd.Series([[1, 2], [], [BIG]], dtype=pd.ArrowDtype(pa.list_(pa.int64()))),
    "pandas of objects": pd.Series([[1, 2], [], [BIG]]),
    "arrays": [np.array([1, 2]), np.array([], np.int64), np.array([BIG])],
    "arrays of several types": [np.array([1, 2], ">i2"), np.array([]), np.array([BIG])],
    "strided arrays": [np.arange(3)[2:0:-1][::-1], np.arange(0), np.array([BIG, 0])[::2]],
    "an array of arrays": np.array([np.array([1, 2]), np.array([], np.int64), np.array([BIG])], object),
    "lists": [[1, 2], (), [BIG]],
    "all kinds": (pa.array([1, 2]), pl.Series([], dtype=pl.Int64), pd.Series([BIG])),
}


@pytest.mark.parametrize("values", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("dtype", ["<i8", ">i8", "<u8"])
def test_lists_of_any_lengths_are_records(values: Any, dtype: str) -> None:
    items, lengths = as_block(values, None, np.dtype(dtype))
    assert items.dtype == np.dtype(dtype)
    assert items.flags.c_contiguous
    assert (items.tolist(), lengths.tolist()) == ([1, 2, BIG], [2, 0, 1])


@pytest.mark.parametrize("values", LISTS.values(), ids=LISTS)
def test_the_first_record_that_misfits_is_named(values: Any) -> None:
    """By its position and key, whatever it lies in; 2**53 + 1 is no float."""
    with pytest.raises(ValueError, match=rf"^record at position 2 \(key 30\): .*{BIG}"):
        as_block(values, None, np.dtype("f8"), [10, 20, 30])


@pytest.mark.parametrize(
    "values",
    [
        pa.array([[1], [2, 3], None]),
        pa.array([[1], [2, 3], [None]]),
        pa.chunked_array([[[1], [2, 3]], [None]]),
        pa.array([[1, 2], [2, 3], None], pa.list_(pa.int64(), 2)),
        pl.Series([[1], [2, 3], None]),
        pl.Series([[1], [2, 3], [None]]),
        pd.Series([[1], [2, 3], None], dtype=pd.ArrowDtype(pa.list_(pa.int64()))),
        [[1], [2, 3], None],
        [[1], [2, 3], [None]],
        [[1], [2, 3], np.ma.masked_array([1], [True])],
        [[1], [2, 3], pa.array([None], pa.int64())],
    ],
    ids=lambda values: type(values).__name__,
)
def test_missing_values_in_lists_are_named(values: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^record at position 2 \(key 7\): .*(null|None|masked)"):
        as_block(values, None, np.dtype("i8"), [5, 6, 7])


def test_missing_times_in_lists_are_not_a_time() -> None:
    for values in (pa.array([[DAY, None], []]), pl.Series([[DAY, None], []], dtype=pl.List(pl.Datetime("us")))):
        items, lengths = as_block(values, None, np.dtype("M8[us]"))
        assert (items[0], np.isnat(items).tolist(), lengths.tolist()) == (np.datetime64(DAY), [False, True], [2, 0])


def test_records_in_lists_keep_no_stray_padding() -> None:
    pair = np.dtype([("a", "u1"), ("b", "f8")], align=True)
    rows: list[Any] = [np.zeros(2, pair), [(1, 2.0)], np.zeros(0, pair)]
    items, lengths = as_block(rows, None, pair)
    assert (items.tolist(), lengths.tolist()) == ([(0, 0.0), (0, 0.0), (1, 2.0)], [2, 1, 0])
    assert items.view("u1").reshape(3, 16)[:, 1:8].sum() == 0


def test_awkward_arrays() -> None:
    ak = pytest.importorskip("awkward")
    items, lengths = as_block(ak.Array([[1, 2], [], [BIG]]), None, np.dtype("i8"))
    assert (items.tolist(), lengths.tolist()) == ([1, 2, BIG], [2, 0, 1])
    for values in ([[1], [2, 3], None], [[1], [2, 3], [None]], [[1], [2, 3], [0.5]]):
        with pytest.raises(ValueError, match=r"^record at position 2 \(key 7\): found"):
            as_block(ak.Array(values), None, np.dtype("i8"), [5, 6, 7])


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pl.Series([decimal.Decimal(1)]), r"Series of the type Decimal\("),
        (pa.array([decimal.Decimal(1)]), r"Decimal128Array of the type decimal128\(1, 0\)"),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "MapArray of the type map<"),
        (pd.Series([BIG, "a"], dtype=object), "an array of Python objects"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_numpy_makes_objects_of_is_named(values: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=f"found {kind}.*, expected values of int64$"):
        as_items(values, np.dtype("i8"))


@pytest.mark.parametrize("values", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize("dtype", ["f8", "i8"])
def test_nulls_in_blocks_are_refused(values: Any, dtype: str) -> None:
    with pytest.raises(ValueError, match="nulls"):
        as_block(values, None, np.dtype(dtype))


def test_nothing_is_stored_where_a_value_is_missing(open_db: OpenDB) -> None:
    db = open_db(sync=False)
    store = db.array_store("f", "f8")
    points = db.object_store("p", sc.Object.of(x=ctypes.c_double * 2))
    for values in NULLS.values():
        with pytest.raises(ValueError, match="nulls"):
            store.put(1, values)
        with pytest.raises(ValueError, match="nulls"):
            store.put_many([1], values, [2])
        with pytest.raises(ValueError, match="nulls"):
            store.put_many(values, [1.0, 2.0], [1, 1])
        for put in (lambda x: points.put(1, {"x": x}), lambda x: points.new(1, x=x), lambda x: points.put(1, (x,))):
            with pytest.raises(ValueError, match="field 'x': found nulls"):
                put(values)
    assert len(store) == len(points) == 0


@pytest.mark.parametrize(
    "values",
    [
        pa.array([BIG, 1]),
        pa.chunked_array([[BIG], [1]]),
        pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array([BIG, 1])),
        pl.Series([BIG, 1]),
        pl.Series([BIG, 1], dtype=pl.UInt64),
        pd.array([BIG, 1], dtype="Int64"),
        pd.Series([BIG, 1]),
        pd.Series([BIG, 1], dtype="uint64[pyarrow]"),
        pd.Series(pd.Categorical([BIG, 1])),
        pd.Index([BIG, 1]),
    ],
    ids=lambda values: type(values).__name__,
)
def test_whole_columns_are_taken(values: Any) -> None:
    assert as_items(values, np.dtype("i8")).tolist() == [BIG, 1]
    assert as_keys(values).tolist() == [BIG, 1]
    rows, _ = as_block([values, [2, 3.0]], None, np.dtype("i8"))
    assert rows.tolist() == [BIG, 1, 2, 3]
    with pytest.raises(ValueError, match=f"found {BIG}"):
        as_items(values, np.dtype("f8"))


@pytest.mark.parametrize("kind", [getattr(pl, name) for name in ("Int128", "UInt128") if hasattr(pl, name)])
def test_integers_of_128_bits_are_taken_if_they_fit(kind: Any) -> None:
    most = pl.Series([2**64 - 1, 0], dtype=kind)
    assert as_keys(most).tolist() == as_items(most, np.dtype("u8")).tolist() == [2**64 - 1, 0]
    with pytest.raises(ValueError, match=f"found {2**64 - 1}"):
        as_items(most, np.dtype("f8"))
    more = pl.Series([1, 2**64], dtype=kind)
    for convert in (as_keys, lambda values: as_items(values, np.dtype("u8"))):
        with pytest.raises(ValueError, match=f"found {2**64}"):
            convert(more)
    with pytest.raises(ValueError, match="nulls"):
        as_keys(pl.Series([1, None], dtype=kind))


def test_a_nan_is_a_value() -> None:
    for values in (pa.array([np.nan]), pl.Series([np.nan]), pd.Series([np.nan]), pd.Index([np.nan])):
        assert np.isnan(as_items(values, np.dtype("f4"))[0])
    frame = pd.DataFrame({"a": [np.nan], "b": [1.5]})
    assert np.isnan(as_block(frame, None, np.dtype("f8"))[0][0])


def test_missing_times_are_nat() -> None:
    days = [pd.Series([DAY, None]), pa.array([DAY, None]), pl.Series([DAY, None]), pl.Series([DAY.date(), None])]
    for values in days:
        items = as_items(values, np.dtype("M8[s]"))
        assert items[0] == np.datetime64(DAY) and np.isnat(items[1])
        with pytest.raises((TypeError, ValueError), match="found"):
            as_items(values, np.dtype("i8"))
    with pytest.raises(TypeError, match="found"):
        as_items(pl.Series([None, None]), np.dtype("M8[s]"))


def structs(columns: Any) -> pl.Series:
    return pl.DataFrame(columns).to_struct()


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, structs, pa.table, pa.record_batch])
def test_frames_go_column_by_column(make: Any) -> None:
    columns = {"a": np.array([BIG, 1]), "b": np.array([0.0, 2.0])}
    assert as_block(make(columns), None, np.dtype("i8"))[0].tolist() == [BIG, 0, 1, 2]
    with pytest.raises(ValueError, match=f"found {BIG}"):
        as_block(make(columns), None, np.dtype("f8"))
    with pytest.raises(TypeError, match="expected the fields"):
        as_block(make(columns), None, np.dtype([("a", "f8"), ("b", "f8")]))
    with pytest.raises(ValueError, match="2-D"):
        as_items(make(columns), np.dtype("i8"))
    for count in (0, 2):
        empty = make({"a": np.zeros(count, "i8"), "b": np.zeros(count)})
        assert as_block(empty, None, np.dtype("i8"))[1].tolist() == [2] * count


@pytest.mark.parametrize("wrap", [pa.array, pl.Series, pd.array, lambda x: pd.Series(x, dtype="string")])
def test_text_keeps_its_nuls(wrap: Any) -> None:
    assert as_items(wrap(["a\0b", "é"]), np.dtype("U3")).tolist() == ["a\0b", "é"]
    assert as_items(wrap(["a", "bc"]), np.dtype("S2")).tolist() == [b"a", b"bc"]
    with pytest.raises(ValueError, match="last NUL"):
        as_items(wrap(["a\0", "b"]), np.dtype("U3"))
    with pytest.raises(TypeError, match="found"):
        as_items(wrap(["a", "b"]), np.dtype("f8"))


def test_bytes_of_other_libraries() -> None:
    for values in (pa.array([b"ab", b"c"]), pl.Series([b"ab", b"c"]), pa.array([b"ab", b"c\0"], pa.binary(2))):
        with pytest.raises((TypeError, ValueError), match="found"):
            as_items(values, np.dtype("U1"))
    assert as_items(pl.Series([b"ab", b"c"]), np.dtype("S2")).tolist() == [b"ab", b"c"]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([decimal.Decimal(BIG)]),
        pl.Series([decimal.Decimal(BIG)]),
        pa.array([{"a": BIG, "b": 0.5}]),
        pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]),
        pd.Series([BIG, "a"], dtype=object),
        pd.interval_range(0, 2),
    ],
    ids=lambda values: f"{type(values).__name__}-{getattr(values, 'dtype', getattr(values, 'type', None))}",
)
def test_other_columns_are_refused_with_our_words(values: Any) -> None:
    for dtype in ("f8", "i8"):
        with pytest.raises((TypeError, ValueError), match="found"):
            as_items(values, np.dtype(dtype))
        with pytest.raises((TypeError, ValueError), match="found"):
            as_block(values, None, np.dtype(dtype))


def test_one_list_of_an_arrow_array_is_a_record() -> None:
    """What indexing a pyarrow array of lists gives is taken as the array that it is."""
    for kind in (pa.list_(pa.float64()), pa.large_list(pa.float64()), pa.list_(pa.float64(), 2)):
        lists = pa.array([[0.5, 1.0], [2.0, 3.0]], kind)
        assert as_items(lists[1], np.dtype("f8")).tolist() == [2.0, 3.0]
    for null in (pa.array([[0.5, None]])[0], pa.array([[0.5], None])[1], pa.scalar(None, pa.float64())):
        with pytest.raises(ValueError, match="found nulls"):
            as_items(null, np.dtype("f8"))
    with pytest.raises(TypeError, match="StringArray"):
        as_items(pa.array([["text"]])[0], np.dtype("f8"))
