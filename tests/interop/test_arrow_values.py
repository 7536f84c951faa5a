"""Arrow values as those of NumPy: what is taken, from which types, and what is refused."""

from __future__ import annotations

import contextlib
import ctypes
import math
import re
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import structchunk as sc

Point = sc.Object.of(x=ctypes.c_double, n=ctypes.c_int32)


def keyed(values: pa.Array, keys: Any = (1, 2), name: str = "values") -> pa.Table:
    return pa.table({"key": keys, name: values})


# ---------------------------------------------------------------- text and bytes


TEXTS = [pa.string(), pa.large_string(), pa.string_view()]
BINARIES = [pa.binary(), pa.large_binary(), pa.binary_view()]


@pytest.mark.parametrize("kind", [*TEXTS, *BINARIES], ids=str)
def test_texts_of_any_length_are_taken(db: sc.Database, kind: pa.DataType) -> None:
    items = pa.array([b"x", b"abc", b"", b"a\0b", b"d"], kind)
    for dtype in ("S3", "U3"):
        store = db.array_store(dtype, dtype)
        store.from_arrow(keyed(pa.ListArray.from_arrays([1, 4, 5], items)))
        assert np.concatenate([*store.values()]).tolist() == np.array([b"abc", b"", b"a\0b", b"d"], dtype).tolist()
        for bad in ([b"abcd"], [b"d", b"abcdefghijklmn"], [b"a", b"a\0"], [b"\0"]):
            with pytest.raises(ValueError, match="found"):
                store.from_arrow(keyed(pa.ListArray.from_arrays([0, 0, len(bad)], pa.array(bad, kind))))
    assert len(db["S3"]) == 2


@pytest.mark.parametrize("kind", TEXTS, ids=str)
def test_text_beyond_ascii_is_for_unicode_only(db: sc.Database, kind: pa.DataType) -> None:
    column = keyed(pa.array([["a"], ["äöü"]], pa.list_(kind)))
    db.array_store("U3", "U3").from_arrow(column)
    assert db["U3"][2].tolist() == ["äöü"]
    with pytest.raises(ValueError, match="values: found 'äöü'"):
        db.array_store("S6", "S6").from_arrow(column)
    with pytest.raises(ValueError, match="found"):
        db["U3"].from_arrow(keyed(pa.array([["a"], ["äö".encode()]])))


@pytest.mark.parametrize("kind", [*BINARIES, pa.binary(2)], ids=str)
def test_bytes_are_taken_if_they_are_as_many(db: sc.Database, kind: pa.DataType) -> None:
    items = pa.array([b"xx", b"a\0", b"\0\0", b"bc"], kind)
    store = db.array_store("V2", "V2")
    store.from_arrow(keyed(pa.LargeListArray.from_arrays([1, 3, 4], items)))
    assert [value.tobytes() for value in store.values()] == [b"a\0\0\0", b"bc"]
    with pytest.raises((ValueError, TypeError), match=r"values: found (2 bytes|Arrow values of .*), expected .*3"):
        db.array_store("V3", "V3").from_arrow(keyed(pa.LargeListArray.from_arrays([1, 3, 4], items)))


def test_bytes_of_a_fixed_width_keep_their_last_nul_or_are_refused(db: sc.Database) -> None:
    store = db.array_store("S2", "S2")
    store.from_arrow(keyed(pa.array([[b"ab"], [b"\0c"]], pa.list_(pa.binary(2)))))
    assert [value.tolist() for value in store.values()] == [[b"ab"], [b"\0c"]]
    with pytest.raises(ValueError, match="lose the last NUL"):
        store.from_arrow(keyed(pa.array([[b"ab"], [b"c\0"]], pa.list_(pa.binary(2)))))


def test_invalid_utf8_is_refused(db: sc.Database) -> None:
    texts = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], "i4")), pa.py_buffer(b"\xff\xfe")]
    )
    with pytest.raises(ValueError, match="values: found text that is no valid UTF-8"):
        db.array_store("U3", "U3").from_arrow(keyed(pa.ListArray.from_arrays([0, 1], texts), [1]))


# ---------------------------------------------------------------- what is taken depends on types


def coded(values: pa.Array) -> list[pa.Array]:
    """Return the same values in ways that are not of their own type."""
    count = len(values)
    return [
        pa.DictionaryArray.from_arrays(pa.array(range(count), pa.uint8()), values),
        pa.DictionaryArray.from_arrays(pa.array([0, *range(count)]), values).slice(1),
        pa.RunEndEncodedArray.from_arrays(pa.array(range(1, count + 1), pa.int16()), values),
        pa.RunEndEncodedArray.from_arrays(pa.array(range(3, count + 3), pa.int64()), values).slice(2),
    ]


CODED: list[tuple[Any, pa.Array]] = [
    ("i8", pa.array([3, 1, 2])),
    ("f4", pa.array([0.5, 1, 2], pa.float32())),
    ("?", pa.array([True, False])),
    ("M8[us]", pa.array([1, 2], pa.timestamp("us"))),
    ("S3", pa.array(["a", "abc", "b\0b"])),
    ("U3", pa.array(["a", "äbc"], pa.string_view())),
    ("S3", pa.array([b"a", b"abc"], pa.binary_view())),
    ("V2", pa.array([b"ab", b"c\0"], pa.binary(2))),
    ("u2", pa.array([Decimal(3), Decimal(1)], pa.decimal128(38, 0))),
    ("c16", pa.array([[1.0, 2.0]], pa.list_(pa.float64(), 2))),
    ([("x", "f8"), ("n", "i4")], pa.array([{"x": 1.5, "n": 2}, {"x": 2.5, "n": 3}])),
]


@pytest.mark.parametrize(("dtype", "values"), CODED, ids=[str(values.type) for _, values in CODED])
def test_dictionaries_and_runs_stand_for_their_values(db: sc.Database, dtype: Any, values: pa.Array) -> None:
    store = db.array_store("values", dtype)
    plain = pa.ListArray.from_arrays([0, len(values)], values)
    store.from_arrow(keyed(plain, [0]))
    for key, array in enumerate(coded(values), 1):
        store.from_arrow(keyed(pa.ListArray.from_arrays([0, len(array)], array), [key]))
    assert len({value.tobytes() for value in store.values()}) == 1 and len(store) == 5


def test_nulls_of_dictionaries_are_refused(db: sc.Database) -> None:
    store = db.array_store("values", "U3")
    names = pa.array(["a", None])
    for coded_names in (
        pa.DictionaryArray.from_arrays(pa.array([0, 1]), names),
        pa.DictionaryArray.from_arrays(pa.array([0, None]), names),
        pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), names).slice(1),
    ):
        with pytest.raises(ValueError, match="values: found 1 nulls"):
            store.from_arrow(keyed(pa.ListArray.from_arrays([0, 2], coded_names), [1]))


def test_records_in_dictionaries_are_taken(db: sc.Database) -> None:
    lists = pa.array([[1, 2], [3]])
    for array in coded(lists):
        db.array_store("lists", "i8").from_arrow(keyed(array))
        assert [value.tolist() for value in db["lists"].values()] == [[1, 2], [3]]
    for array in coded(pa.array([{"n": 1, "x": 0.5}, {"n": 2, "x": 1.5}])):
        db.object_store("points", Point).from_arrow(keyed(array))
        assert db["points"].records().tolist() == [(0.5, 1), (1.5, 2)]
    views = pa.DictionaryArray.from_arrays(pa.array([0]), pa.array([["a"]], pa.list_(pa.string_view())))
    with pytest.raises(sc.SchemaError, match="texts: found Arrow types that pyarrow cannot convert"):
        db.array_store("texts", "U3").from_arrow(keyed(views, [1]))


def test_categories_of_pandas_and_polars_are_taken(db: sc.Database) -> None:
    store = db.array_store("names", "U5")
    enum = pl.Series(["a", "bc", "a"], dtype=pl.Enum(["bc", "a"]))
    categories = pl.Series(["a", "bc", "a"], dtype=pl.Categorical)
    for series in (enum, categories):
        store.clear()
        store.from_arrow(keyed(pa.ListArray.from_arrays([0, 2, 3], series.to_arrow())))
        assert [value.tolist() for value in store.values()] == [["a", "bc"], ["a"]]
    names = db.object_store("things", sc.Object.of(name=ctypes.c_char * 3))
    categorical = pa.array(pd.Categorical(["x", "yz"]))
    names.from_arrow(keyed(pa.StructArray.from_arrays([categorical], ["name"])))
    assert names.records()["name"].tolist() == [b"x", b"yz"]


SIMPLE: list[tuple[list[pa.DataType], Any]] = [
    ([pa.float16()], np.float16(0)),
    ([pa.int8(), pa.uint64(), pa.float64(), pa.date32(), pa.date64(), pa.duration("s")], 0),
    ([pa.timestamp("us"), pa.timestamp("ns", "Europe/Paris"), pa.time32("s")], 0),
    ([pa.bool_()], True),
    ([pa.bool8()], 1),
    ([pa.decimal128(5, 1), pa.decimal256(60, 0), pa.decimal128(38, 0)], Decimal(1)),
    ([*TEXTS, pa.dictionary(pa.int8(), pa.string())], "12"),
    ([*BINARIES, pa.binary(2)], b"12"),
    ([pa.list_(pa.float32()), pa.list_(pa.float32(), 2), pa.list_view(pa.float32())], [1.0, 2.0]),
    ([pa.list_(pa.float32(), 3)], [1.0, 2.0, 3.0]),
    ([pa.list_(pa.string(), 2)], ["a", "b"]),
    ([pa.struct([("m", pa.list_(pa.int8(), 2))])], {"m": [1, 2]}),
    ([pa.struct([("m", pa.list_(pa.int8(), 3))])], {"m": [1, 2, 3]}),
    ([pa.struct([("n", pa.int8())])], {"n": 1}),
    ([pa.uuid()], b"0123456789abcdef"),
    ([pa.month_day_nano_interval()], (1, 2, 3)),
    ([pa.map_(pa.string(), pa.int8())], [("a", 1)]),
]
DTYPES = [
    *("i8", "u1", "f4", "f8", "?", "c8", "M8[us]", "M8[M]", "m8[h]", "m8[Y]", "S2", "U2", "V2"),
    [("m", "f4", (2,))],
]


def is_taken(store: Any, column: pa.Array) -> bool:
    store.clear()
    try:
        store.from_arrow(keyed(column, np.arange(len(column))))
    except TypeError as error:
        assert not isinstance(error, pa.ArrowException)
        return False
    except ValueError as error:  # text is taken for times, but this one is none
        assert "ISO 8601" in str(error)
        return True
    assert [len(value) for value in store.values()] == [len(item) for item in column]
    return True


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_taken_depends_on_types_alone(db: sc.Database, dtype: Any) -> None:
    store = db.array_store("values", dtype)
    for kind, item in [(kind, item) for kinds, item in SIMPLE for kind in kinds]:
        is_extension = isinstance(kind, pa.BaseExtensionType)
        items = pa.array([item], kind.storage_type if is_extension else kind)
        items = pa.ExtensionArray.from_storage(kind, items) if is_extension else items
        filled, empty = (pa.ListArray.from_arrays([0, count], items) for count in (1, 0))
        assert is_taken(store, filled) == is_taken(store, empty) == is_taken(store, filled[:0]), kind
    assert is_taken(store, pa.array([[]]))


def test_lists_of_nothing_are_empty_records(db: sc.Database) -> None:
    store = db.array_store("x", "f8")
    frame = pd.DataFrame({"key": [1, 2, 3, 4], "x": [[1.0], [2.0], [], []]})
    for part in (frame[:2], frame[2:], frame[:0]):
        store.from_arrow(pa.table(part.reset_index(drop=True)))
    assert {key: value.tolist() for key, value in store.items()} == {1: [1.0], 2: [2.0], 3: [], 4: []}
    times = db.array_store("times", "M8[s]")
    times.from_arrow(keyed(pa.array([[None], []])))
    assert np.isnat(times[1]).tolist() == [True] and times[2].tolist() == []
    with pytest.raises(ValueError, match="x: found 1 nulls"):
        store.from_arrow(keyed(pa.array([[None], []]), name="x"))
    with pytest.raises(ValueError, match="x: found 2 nulls"):
        store.from_arrow(keyed(pa.array([None, None]), name="x"))
    nothing = pa.table({"key": pa.array([]), "x": pa.array([])})
    for each in (store, db.object_store("points", Point)):
        each.from_arrow(nothing)
    assert len(store) == 4 and len(db["points"]) == 0


@pytest.mark.parametrize("kind", [pa.decimal128(38, 0), pa.decimal256(60, 2), pa.decimal128(21, 1)], ids=str)
def test_decimals_are_integers_if_they_are_whole(db: sc.Database, kind: pa.DataType) -> None:
    store = db.array_store("values", "i8")
    ends = pa.array([[Decimal(-(2**63)), Decimal(2**63 - 1)], []], pa.list_(kind))
    store.from_arrow(keyed(ends, pa.array([Decimal(7), Decimal(2**64 - 1)], kind)))
    assert {key: value.tolist() for key, value in store.items()} == {7: [-(2**63), 2**63 - 1], 2**64 - 1: []}
    for bad in (-1, 2**64):
        with pytest.raises(ValueError, match=f"key: found {bad}"):
            store.from_arrow(keyed(ends, pa.array([Decimal(1), Decimal(bad)], kind)))
    with pytest.raises(ValueError, match="values: found 9223372036854775808"):
        store.from_arrow(keyed(pa.array([[], [Decimal(2**63)]], pa.list_(kind))))
    if kind.scale:
        with pytest.raises(ValueError, match=r"key: found 1\.5"):
            store.from_arrow(keyed(ends, pa.array([Decimal(1), Decimal("1.5")], kind)))


@pytest.mark.parametrize("values", [["7"], [b"7"], [True], [7.0], [[7]], [{"a": 7}], [np.datetime64(7, "s")]])
def test_keys_of_other_types_are_refused_in_our_words(db: sc.Database, values: list[Any]) -> None:
    store = db.array_store("values", "f8")
    keys = pa.array(values)
    for each in (keys, *coded(keys), keys[:0]):
        found = (
            rf"key: found a column of {re.escape(str(each.type))}; keys are integers, decimals that are whole, or"
        )
        with pytest.raises(TypeError, match=found):
            store.from_arrow(keyed(pa.array([[1.0]] * len(each), pa.list_(pa.float64())), each))


WIDE = [getattr(pl, name) for name in ("Int128", "UInt128") if hasattr(pl, name)]


@pytest.mark.parametrize("kind", WIDE, ids=str)
def test_integers_of_128_bits_are_taken_if_they_fit(db: sc.Database, kind: Any) -> None:
    store, points = db.array_store("values", "u8"), db.object_store("points", Point)

    def frame(keys: list[int | None], values: list[Any], inner: Any = None) -> pl.DataFrame:
        return pl.DataFrame({"key": pl.Series(keys, dtype=kind), "values": pl.Series(values, dtype=inner)})

    whole = frame([1, 2**64 - 1], [[2**64 - 1, 5], []], pl.List(kind))
    for source in (whole, whole.to_struct()):
        store.clear()
        store.from_arrow(source)
        assert {key: value.tolist() for key, value in store.items()} == {1: [2**64 - 1, 5], 2**64 - 1: []}
    points.from_arrow(frame([3], [{"x": 0.5, "n": 7}], pl.Struct({"x": pl.Float64, "n": kind})))
    assert points[3] == Point(0.5, 7)
    store.from_arrow(frame([4], [[6, 7]], pl.Array(kind, 2)))
    assert store[4].tolist() == [6, 7]
    for bad in (2**64, 10**37, 2**127 - 1):
        with pytest.raises(ValueError, match=f"found .*{bad}"):
            store.from_arrow(frame([5, bad], [[1], [1]]))
    for bad in (2**64, 10**37):
        with pytest.raises(ValueError, match=f"found .*{bad}"):
            store.from_arrow(frame([5, 6], [[1], [bad]], pl.List(kind)))
    with pytest.raises(ValueError, match="key: found 1 nulls"):
        store.from_arrow(frame([5, None], [[1], [1]]))
    with pytest.raises(ValueError, match="values: found 1 nulls"):
        store.from_arrow(frame([5, 6], [[1], [None]], pl.List(kind)))
    assert len(store) == 3


def test_keys_of_a_dictionary_are_taken(db: sc.Database) -> None:
    store = db.array_store("values", "f8")
    for keys in coded(pa.array([2**64 - 1, 3], pa.uint64())):
        store.clear()
        store.from_arrow(keyed(pa.array([[1.0], [2.0]]), keys))
        assert {key: value.tolist() for key, value in store.items()} == {3: [2.0], 2**64 - 1: [1.0]}
    nothing = pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array([1, None]))
    with pytest.raises(ValueError, match="key: found 1 nulls"):
        store.from_arrow(keyed(pa.array([[1.0], [2.0]]), nothing))


@pytest.mark.parametrize(
    "source", [pa.array([1.0]), pa.chunked_array([[1.0]]), pl.Series([1.0])], ids=["a", "c", "p"]
)
def test_what_has_no_columns_is_refused_in_our_words(db: sc.Database, source: Any) -> None:
    with pytest.raises(TypeError, match="expected an Arrow table, batch or stream of columns") as raised:
        db.array_store("values", "f8").from_arrow(source)
    assert not isinstance(raised.value, pa.ArrowException)


def test_a_row_that_is_null_is_refused_in_our_words(db: sc.Database) -> None:
    rows = pa.array([{"key": 1, "values": [1.0]}, None])
    for source in (rows, pa.chunked_array([rows])):
        with pytest.raises((ValueError, TypeError), match="found") as raised:
            db.array_store("values", "f8").from_arrow(source)
        assert not isinstance(raised.value, pa.ArrowException)


@pytest.mark.parametrize("kind", [pa.list_, pa.list_view, pa.large_list_view])
def test_lists_of_one_length_are_sub_arrays(db: sc.Database, kind: Any) -> None:
    store = db.object_store("vectors", sc.Object.of(m=ctypes.c_float * 2))
    store.from_arrow(keyed(pa.array([{"m": [1, 2]}, {"m": [3, 4]}], pa.struct([("m", kind(pa.int8()))]))))
    assert store.records()["m"].tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match=r"values\.m: found a list of 1 items, expected 2"):
        store.from_arrow(keyed(pa.array([{"m": [1, 2]}, {"m": [3]}], pa.struct([("m", kind(pa.int8()))]))))


# ---------------------------------------------------------------- exactly, or not at all


def numbers_of(kind: pa.DataType) -> list[Any]:
    """Return numbers at the edges of what types can hold, those of them that an Arrow type has."""
    powers = [2**bits + near for bits in (0, 1, 7, 8, 11, 24, 31, 53, 63, 64) for near in (-1, 0, 1)]
    edges = [*powers, *(-number for number in powers)]
    if pa.types.is_floating(kind):
        dtype = kind.to_pandas_dtype()
        with np.errstate(over="ignore"):
            return [dtype(number) for number in [*edges, 0.5, 0.1, 65504, 1e38, 1e39, 1e308, np.inf, -np.inf]]
    found = []
    for number in edges:
        with contextlib.suppress(pa.ArrowInvalid, OverflowError):
            found.append(pa.scalar(Decimal(number) if pa.types.is_decimal(kind) else number, kind).as_py())
    return found


def is_exact(number: Any, dtype: np.dtype[Any]) -> bool:
    """Tell by Python's own arithmetic whether a dtype can hold a number; floats may be rounded, not to infinity."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            made = dtype.type(number)
        if isinstance(number, np.floating):
            return bool(np.isinf(made) == np.isinf(number))
        return bool(np.isfinite(made)) and int(made) == number
    number = number.item() if isinstance(number, np.floating) else number
    low, high = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    return math.isfinite(number) and low <= number <= high and number == int(number)


INTEGERS = [pa.int8(), pa.uint8(), pa.int32(), pa.int64(), pa.uint64()]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]


@pytest.mark.parametrize("kind", [*INTEGERS, *FLOATS, pa.decimal128(21, 1), pa.decimal256(60, 0)], ids=str)
def test_numbers_come_in_exactly_or_are_refused(db: sc.Database, kind: pa.DataType) -> None:
    is_decimal = pa.types.is_decimal(kind)
    for name in ("?", "i1", "u2", "i8", "u8", *(() if is_decimal else ("f2", "f4", "f8"))):
        dtype = np.dtype(name)
        if is_decimal and name == "?":
            continue
        with db.transaction() as txn:
            store = txn.array_store(name, dtype)
            for number in numbers_of(kind):
                column = keyed(pa.ListArray.from_arrays([0, 1], pa.array([number], kind)), [1])
                if is_exact(number, dtype):
                    store.from_arrow(column)
                    assert store[1].tolist() == [dtype.type(number if dtype.kind == "f" else int(number))]
                else:
                    with pytest.raises(ValueError, match="cannot hold"):
                        store.from_arrow(column)


@pytest.mark.parametrize(
    "dtype", ["S1", "S5", "U1", "U4", "V1", "V6", [("a", "S3"), ("b", "U2", (2,)), ("c", "V2")]]
)
def test_random_text_and_bytes_there_and_back(db: sc.Database, dtype: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    items = np.zeros(500, dtype)
    for path in (items[name] for name in items.dtype.names) if items.dtype.names else [items]:
        width = path.dtype.itemsize // 4 if path.dtype.kind == "U" else path.dtype.itemsize
        codes = random.choice([0, 0, 65, 97], (*path.shape, width))
        path[...] = codes.astype("u4" if path.dtype.kind == "U" else "u1").view(path.dtype)[..., 0]
    lengths = random.multinomial(500, np.full(50, 1 / 50))
    store, copy = db.array_store("store", dtype), db.array_store("copy", dtype)
    store.put_many(range(50), items, lengths)
    for source in (store, pa.table(store).to_batches(max_chunksize=7)[3], pl.from_arrow(pa.table(store))):
        copy.clear()
        copy.from_arrow(source)
        assert len(copy) in (50, 7)
        for key, value in copy.items():
            assert value.tobytes() == store[key].tobytes()
