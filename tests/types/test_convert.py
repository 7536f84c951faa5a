"""What is taken for a store's dtype, and what is refused because a value would change."""

from __future__ import annotations

import array
import collections
import ctypes
import datetime
import decimal
import enum
import fractions
import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import label

from structchunk.errors import SchemaError
from structchunk.types.blocks import as_block
from structchunk.types.convert import as_items, as_key, as_keys, as_record, as_records
from structchunk.types.objects import Array, Object
from structchunk.types.schema import array_schema, object_schema, schema_from_descriptor

FEW = settings(max_examples=200, deadline=None, derandomize=True)
PADDED = np.dtype([("a", "u1"), ("b", "f8")], align=True)


class Inner(Object):
    _fields_ = [("u", ctypes.c_uint8), ("v", ctypes.c_double * 2)]


class Record(Object):
    _fields_ = [("x", ctypes.c_int32), ("i", Inner), ("t", ctypes.c_char * 4), ("q", Inner * 2)]


RECORDS = object_schema(Record)
TRIPLES = object_schema(Array.of(3, ctypes.c_double))
TUPLE = (1, (2, (3, 4)), b"ab", [(1, (2, 3)), {"u": 4, "v": [5, 6]}])
DICT = dict(zip(["x", "i", "t", "q"], TUPLE, strict=True))
INSTANCE = Record(1, Inner(2, (3, 4)), b"ab", (Inner(1, (2, 3)), Inner(4, (5, 6))))


def same(items: np.ndarray, dtype: Any, values: Any) -> None:
    dtype = np.dtype(dtype)
    assert type(items) is np.ndarray and items.dtype == dtype and items.dtype.str == dtype.str
    assert items.flags.c_contiguous
    expected = np.array(values, dtype)
    assert items.shape == expected.shape
    assert items.tobytes() == expected.tobytes()


# -- as_items: plain


@pytest.mark.parametrize("dtype", ["f8", "?", "S4", "M8[s]", PADDED], ids=str)
def test_the_right_array_is_passed_through(dtype: Any) -> None:
    values = np.zeros(5, dtype)
    assert as_items(values, np.dtype(dtype)) is values
    values.flags.writeable = False
    assert as_items(values, np.dtype(dtype)) is values


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([1, 2.5], "f8", [1, 2.5]),
        ((1, 2), ">i2", [1, 2]),
        ([1.0, 2.0], "i4", [1, 2]),
        ([2**63, 1.0], "u8", [2**63, 1]),
        ([2**60 + 1, 1.0], "i8", [2**60 + 1, 1]),
        ([2**64 - 1, 0], "u8", [2**64 - 1, 0]),
        ([-(2**63), 5.0], "i8", [-(2**63), 5]),
        ([True, 2], "u1", [1, 2]),
        ([True, 1.0], "i8", [1, 1]),
        ([1, 0.0, 1.0], "?", [True, False, True]),
        ([fractions.Fraction(4, 2)], "i8", [2]),
        ([1 + 0j, 2], "f4", [1, 2]),
        ([1 + 2j, 3], ">c8", [1 + 2j, 3]),
        ([0.1], "f4", [0.1]),
        ([2**70], "f8", [2.0**70]),
        ([2**100, -1, 0.5], "f4", [2.0**100, -1, 0.5]),
        ([2**63, -1, 1j], "c16", [2**63, -1, 1j]),
        ([math.inf, -math.inf], "f2", [math.inf, -math.inf]),
        ([1e-320], "f4", [0.0]),
        (range(5, -1, -2), "f4", [5, 3, 1]),
        (range(2**63, 2**63 + 2), "u8", [2**63, 2**63 + 1]),
        (range(-(2**63), -(2**63) + 1), "i8", [-(2**63)]),
        (range(0), "S3", []),
        (np.arange(6, dtype="i8")[::2], "i8", [0, 2, 4]),
        (np.arange(3, dtype=">i8"), "i8", [0, 1, 2]),
        (np.arange(3, dtype="u8"), "f2", [0, 1, 2]),
        (np.float16([65504]), "i4", [65504]),
        (np.longdouble([1.5]), "f8", [1.5]),
        (np.ma.array([1, 2]), "i4", [1, 2]),
        (np.array([1.0, 2.0]).view(np.matrix).A1, "f4", [1, 2]),
        (array.array("h", [1, -2]), "i8", [1, -2]),
        (memoryview(b"ab"), "u1", [97, 98]),
        (bytearray(b"ab"), "i4", [97, 98]),
        (b"ab", "u1", [97, 98]),
        ((ctypes.c_double * 2)(1, 2), "f4", [1, 2]),
        ((ctypes.c_double * 0)(), "f4", []),
        (["a", "bcd"], "S3", [b"a", b"bcd"]),
        ([b"a", "bcd"], "U3", ["a", "bcd"]),
        ([b"\xff"], "S1", [b"\xff"]),
        ([b"\xff", "a"], "S3", [b"\xff", b"a"]),
        (["é"], ">U1", ["é"]),
        (np.array(["ab"], "U9"), "S2", [b"ab"]),
        (np.array(["2020-01-01"], "M8[D]"), "M8[ns]", ["2020-01-01"]),
        (np.array(["NaT", "2020"], "M8[s]"), "M8[Y]", ["NaT", "2020"]),
        ([np.timedelta64(2, "h"), np.timedelta64(60, "s")], ">m8[m]", [120, 1]),
        ([b"abc", np.void(b"de\0")], "V3", [b"abc", b"de\0"]),
        *(([], dtype, []) for dtype in ("f8", "i4", "?", "S3", "U2", "M8[s]", "V3", "c8")),
        (np.array([], object), "i4", []),
    ],
    ids=label,
)
def test_taken(values: Any, dtype: str, expected: list[Any]) -> None:
    same(as_items(values, np.dtype(dtype)), dtype, expected)


SECONDS, NANOS = np.datetime64("3000-01-01", "s"), np.datetime64("2020-01-01", "ns")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # NumPy 2.5 is about to refuse times without a unit
    NAT = np.timedelta64("NaT")
NATS = [NAT, np.timedelta64("NaT", "7Y"), np.timedelta64("NaT", "s"), np.timedelta64("NaT", "ms")]
BIG = 2**53 + 1


class Whole(enum.IntEnum):
    SMALL = 7
    LARGE = 2**63


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([SECONDS, NANOS], "M8[s]", ["3000-01-01", "2020-01-01"]),
        (NATS, "m8[ms]", ["NaT"] * 4),
        ([NAT, np.timedelta64(2**40, "D")], "m8[h]", ["NaT", 2**40 * 24]),
        ([2**62, 0.5], "f8", [2.0**62, 0.5]),
        ([BIG, 1.0], "i8", [BIG, 1]),
        ([BIG, 1 + 0j], "i8", [BIG, 1]),
        ([np.int64(BIG), np.float32(1)], "i8", [BIG, 1]),
        ([np.uint64(2**64 - 1), np.int8(3)], "u8", [2**64 - 1, 3]),
        ([np.longdouble(2**63), True], "u8", [2**63, 1]),
        ([Whole.SMALL, Whole.LARGE], "u8", [7, 2**63]),
        ([math.nan, 2**60], "f8", [math.nan, 2.0**60]),
        ([math.inf, 1], "f2", [math.inf, 1]),
        ([np.array(BIG), 1.0], "i8", [BIG, 1]),
        ([ctypes.c_int(5), 1.0], "i8", [5, 1]),
        (collections.deque([BIG, 1.0]), "i8", [BIG, 1]),
        (collections.UserList([BIG, 1.0]), "i8", [BIG, 1]),
        (["a\0b", b"c"], "U3", ["a\0b", "c"]),
        (["\0a"], "S2", [b"\0a"]),
        ([np.str_("é"), "a"], "U1", ["é", "a"]),
    ],
    ids=str,
)
def test_lists_are_taken_item_by_item(values: Any, dtype: str, expected: list[Any]) -> None:
    same(as_items(values, np.dtype(dtype)), dtype, expected)
    same(as_items(tuple(values), np.dtype(dtype)), dtype, expected)
    rows, counts = as_block([values, list(values)], None, np.dtype(dtype))
    same(rows, dtype, expected * 2)
    assert counts.tolist() == [len(expected)] * 2


@pytest.mark.parametrize(
    ("values", "dtype", "shown"),
    [
        ([BIG, 0.5], "f8", "9007199254740993"),
        ([0.5, np.int64(BIG)], "f8", "9007199254740993"),
        ([BIG, 0.5j], "c16", "9007199254740993"),
        ([2**24 + 1, 0.5], "f4", "16777217"),
        ([2**60, 2**60 + 0.0, 2**60 + 1], "f8", str(2**60 + 1)),
        ([300, 1.0], "u1", "300"),
        ([300.0, 1], "u1", r"300\.0"),
        ([-1, 2**63], "u8", "-1"),
        ([-1, 2**63], "i8", str(2**63)),
        ([-1, 2**63], "?", "-1"),
        ([1e39, 1], "f4", r"1e\+39"),
        ([np.datetime64("3000"), NANOS], "M8[ns]", "3000"),
        ([np.datetime64(1, "s"), np.datetime64(1, "D")], "M8[D]", "1970-01-01T00:00:01"),
        ([np.timedelta64(1, "s"), np.timedelta64(1, "m")], "m8[m]", "1 seconds"),
        ([True, 10**400], "f8", "an integer of 1329 bits"),
        (["a", "bcd" * 100], "U3", "and 200 more"),
        ([np.arange(2) + BIG, np.ones(2)], "f8", "9007199254740993"),
        ([[BIG, 1], [0.5, 1]], "f8", "9007199254740993"),
        ([range(BIG, BIG + 2), [0.5, 1]], "f8", "9007199254740993"),
        ([np.ma.masked, 1.0], "f8", "masked"),
        ([np.ma.array([1, 2], mask=[0, 1]), np.ones(2)], "f8", "masked"),
    ],
    ids=str,
)
def test_lists_are_refused_by_the_item_that_would_change(values: Any, dtype: str, shown: str) -> None:
    ndim = 2 if isinstance(values[0], (list, range)) or np.ndim(values[0]) else 1
    with pytest.raises(ValueError, match=f"found {shown}|{shown}"):
        as_block(values if ndim == 2 else [values], None, np.dtype(dtype))
    if ndim == 1:
        with pytest.raises(ValueError, match=shown):
            as_items(values, np.dtype(dtype))


@pytest.mark.parametrize(
    "values",
    [
        [datetime.date(2020, 1, 1)],
        [1, None],
        [{}],
        [1, Record()],
        [np.void(b"ab")],
        [np.datetime64(1, "s"), 2],
        [{1}],
    ],
    ids=str,
)
def test_lists_of_other_things_are_refused(values: Any) -> None:
    for dtype in ("f8", "i4", "?", "c8"):
        with pytest.raises(TypeError, match="found"):
            as_items(values, np.dtype(dtype))


def test_lists_that_are_no_block() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for values in (
        endless,
        [[[1]]],
        [[1, 2], 3],
        [np.ones(2), np.ones((1, 3))],
        [[1, [2]]],
        [[np.ones(2)], [np.ones(3)]],
    ):
        with pytest.raises(ValueError, match="found"):
            as_block(values, None, np.dtype("f8"))
    rows, _ = as_block(
        [np.ones(2, "i1"), (2, BIG), range(2), np.ma.ones(2), bytearray(b"ab")], None, np.dtype("i8")
    )
    assert rows.tolist() == [1, 1, 2, BIG, 0, 1, 1, 1, 97, 98]


def test_records_are_taken_field_by_field() -> None:
    pair = np.dtype([("a", "f8"), ("b", "M8[s]")])
    items = as_items([(2**60, SECONDS), {"a": 0.5, "b": NANOS}], pair)
    assert items["a"].tolist() == [2.0**60, 0.5] and items["b"].tolist() == [
        SECONDS.item(),
        datetime.datetime(2020, 1, 1),
    ]
    with pytest.raises(ValueError, match=f"field 'a': found {BIG}"):
        as_items([(BIG, NANOS), (0.5, NANOS)], pair)
    hidden = np.ma.array([(1.0, SECONDS)], pair, mask=[(True, False)])
    for values in (hidden, [hidden[0]], collections.deque([hidden[0]])):
        with pytest.raises(ValueError, match="masked"):
            as_items(values, pair)


SINGLE = [3, 2.5, True, "abc", np.float64(1), np.array(5), {"a": 1}, Record()]
NOT_FLAT = [[[1]], [[]], np.zeros((2, 2)), np.zeros((0, 3)), [[1, 2], [3]], [1, [2]]]


PAIR = np.dtype([("a", "i4"), ("b", "f8")])


@pytest.mark.parametrize("mask", [None, [(0, 0)]])
def test_structs_of_a_masked_array_that_hides_none(mask: Any) -> None:
    values = np.ma.array([(1, 2.0)], PAIR, mask=mask)
    assert as_items(values, PAIR).tolist() == [(1, 2.0)]


@pytest.mark.parametrize(
    ("values", "dtype", "error"),
    [
        *((value, "f8", ValueError) for value in (*SINGLE, *NOT_FLAT)),
        (b"abc", "S3", ValueError),
        (None, "f8", TypeError),
        ([None], "f8", TypeError),
        ([1, None], "i8", TypeError),
        ({1, 2}, "i8", TypeError),
        ((x for x in [1]), "i8", TypeError),
        (object(), "f8", TypeError),
        (np.array([1], object), "i8", TypeError),
        (np.ma.array([1, 2], mask=[0, 1]), "i8", ValueError),
        (np.ma.array([(1, 2.0)], PAIR, mask=[(0, 1)]), PAIR, ValueError),
        ([Record()], "f8", TypeError),
        ([1.5], "i8", ValueError),
        (np.array([1.5]), "i8", ValueError),
        ([math.nan], "i8", ValueError),
        ([math.inf], "u8", ValueError),
        (np.array([math.nan]), "i8", ValueError),
        (np.array([math.inf]), "u8", ValueError),
        ([2.0**63], "i8", ValueError),
        (np.array([2.0**63]), "i8", ValueError),
        (np.array([2.0**64]), "u8", ValueError),
        ([-1], "u8", ValueError),
        ([256], "u1", ValueError),
        ([-129], "i1", ValueError),
        (np.array([256]), "u1", ValueError),
        ([2**64], "u8", ValueError),
        ([10**400], "i8", ValueError),
        ([2**70 + 1], "f8", ValueError),
        ([10**400], "f8", ValueError),
        ([2**1023 + 1, 0.5], "c16", ValueError),
        ([2**130], "f4", ValueError),
        (range(2**64, 2**64 + 1), "u8", ValueError),
        ([2**53 + 1], "f8", ValueError),
        ([2**64 - 1], "f8", ValueError),
        ([2049], "f2", ValueError),
        ([70000], "f2", ValueError),
        ([1e39], "f4", ValueError),
        ([70000.0], "f2", ValueError),
        ([1e39j], "c8", ValueError),
        ([2**53 + 1], "c16", ValueError),
        ([1j], "f8", ValueError),
        ([1j], "i8", ValueError),
        ([2], "?", ValueError),
        ([math.nan], "?", ValueError),
        (["1"], "f8", TypeError),
        (["1"], "i8", TypeError),
        ([b"1"], "i8", TypeError),
        ([1, "a"], "f8", TypeError),
        ([1, "a"], "U8", TypeError),
        (["a", 1], "S8", TypeError),
        ([True, "a"], "U8", TypeError),
        ([1], "U8", TypeError),
        (["abcd"], "S3", ValueError),
        (["abcd"], "U3", ValueError),
        (["é"], "S3", ValueError),
        ([b"\xff"], "U3", ValueError),
        ([b"\xff", "a"], "U3", ValueError),
        ([b"a", "\xff"], "S3", ValueError),
        (["a\0"], "S3", ValueError),
        ([b"a\0"], "U3", ValueError),
        ([b"ab"], "V3", ValueError),
        ([5], "V3", TypeError),
        ([1], "M8[s]", TypeError),
        ([datetime.timedelta(1)], "M8[s]", TypeError),
        (["1"], "m8[s]", TypeError),
        (np.array([1], "m8[s]"), "M8[s]", TypeError),
        (np.array([1], "m8[s]"), "i8", TypeError),
        (np.array([1], "m8[D]"), "m8[M]", TypeError),
        (np.array(["2020-01-01T01"], "M8[h]"), "M8[D]", ValueError),
        (np.array(["9999"], "M8[Y]"), "M8[ns]", ValueError),
        ([decimal.Decimal(1)], "i8", TypeError),
        ([fractions.Fraction(1, 2)], "i8", ValueError),
        ([fractions.Fraction(1, 2)], "f8", TypeError),
        (np.zeros(2, PADDED), "f8", TypeError),
    ],
    ids=label,
)
def test_refused(values: Any, dtype: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="found") as caught:
        as_items(values, np.dtype(dtype))
    assert len(str(caught.value)) < 400


def test_times_without_a_unit() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy is about to give them up
        values = np.zeros(2, "i8").view("m8")
        with pytest.raises(TypeError, match="without a unit"):
            as_items(values, np.dtype("m8[s]"))
        values[:] = np.timedelta64("NaT")
        same(as_items(values, np.dtype("m8[s]")), "m8[s]", ["NaT", "NaT"])


def test_messages() -> None:
    with pytest.raises(ValueError, match=r"^found 1\.5, which int32 cannot hold without changing it$"):
        as_items(np.array([1.0, 1.5]), np.dtype("i4"))
    with pytest.raises(ValueError, match=r"^found 2-D values of shape \(2, 3\), expected 1-D values of float64$"):
        as_items(np.zeros((2, 3)), np.dtype("f8"))
    with pytest.raises(ValueError, match=r"field 'i\.u': found 2\.5, which uint8"):
        as_record({**DICT, "i": (2.5, (3, 4))}, RECORDS)


def changes(value: Any, source: np.dtype, dtype: np.dtype) -> bool:
    """Whether NumPy's own cast changes a value; Python compares integers and floats exactly."""
    with np.errstate(all="ignore"):
        return bool(np.array(value, source).astype(dtype).item() != value)


numbers = st.integers(-(2**65), 2**65) | st.floats() | st.booleans() | st.sampled_from([0.0, -0.0, 1, 255, 2**53])
number_types = st.sampled_from([*"?bBhHiIlLefd", ">i4", ">f8"]).map(np.dtype)


@FEW
@given(st.lists(numbers, max_size=4), number_types)
def test_lists_keep_every_number(values: list[Any], dtype: np.dtype) -> None:
    try:
        items = as_items(values, dtype)
    except (ValueError, TypeError):
        return
    assert len(items) == len(values) and items.dtype == dtype
    for value, item in zip(values, items.tolist(), strict=True):
        if dtype.kind == "f" and any(isinstance(other, float) for other in values):
            with np.errstate(all="ignore"):
                assert np.array_equal(np.array(value, np.float64).astype(dtype), item, equal_nan=True)
        else:
            assert item == value


@FEW
@given(st.lists(numbers, min_size=1, max_size=4), number_types, number_types)
def test_arrays_keep_every_number(values: list[Any], source: np.dtype, dtype: np.dtype) -> None:
    with np.errstate(all="ignore"):
        given_ = np.array([float(value) for value in values]).astype(source)
    try:
        items = as_items(given_, dtype)
    except ValueError:
        assert any(changes(value, source, dtype) for value in given_.tolist())
        return
    for value, item in zip(given_.tolist(), items.tolist(), strict=True):
        if source.kind == dtype.kind == "f":
            assert math.isnan(item) == math.isnan(value) and math.isinf(item) == math.isinf(value)
        else:
            assert item == value


# -- as_items: structured


def test_structured_lists() -> None:
    instance = type("S", (ctypes.Structure,), {"_fields_": [("a", ctypes.c_uint8), ("b", ctypes.c_double)]})(7, 8)
    other = np.array([(9, 10)], [("b", "f4"), ("a", "i8")])[0]
    items = as_items([(1, 2.5), {"b": 3, "a": 4}, instance, other, np.array((1, 2), PADDED)], PADDED)
    same(items["a"].copy(), "u1", [1, 4, 7, 10, 1])
    same(items["b"].copy(), "f8", [2.5, 3, 8, 9, 2])
    raw = items.view("u1").reshape(5, 16)
    assert not raw[:, 1:8].any()


def test_padding_is_zero_whatever_is_copied() -> None:
    dirty = np.frombuffer(b"\xff" * 64, PADDED)
    other = np.array([(1.0, 255)] * 4, [("b", "f8"), ("a", "i8")])
    for values in (dirty[::2], other[::2], list(dirty), dirty.view(np.recarray)[::2]):
        raw = as_items(values, PADDED).view("u1").reshape(-1, 16)
        assert not raw[:, 1:8].any() and raw[:, 0].all()
    flat, _ = as_block(dirty.reshape(2, 2)[:, ::-1], None, PADDED)
    assert not flat.view("u1").reshape(-1, 16)[:, 1:8].any()


def test_structured_arrays_match_by_name() -> None:
    source = np.array([(1, 2), (3, 4)], [("b", "i2"), ("a", "f8")])
    items = as_items(source, PADDED)
    assert items["a"].tolist() == [2, 4] and items["b"].tolist() == [1, 3]
    assert as_items(source.view(np.recarray), PADDED).tobytes() == items.tobytes()
    ready = items.view(np.recarray)
    assert as_items(ready, PADDED).base is not None  # no copy
    structs = (Inner * 2)(Inner(1, (2, 3)), Inner(4, (5, 6)))
    assert as_items(structs, array_schema(Inner).dtype)["v"].tolist() == [[2, 3], [5, 6]]


@pytest.mark.parametrize(
    ("values", "error", "match"),
    [
        ((1, 2.0), TypeError, "found int, expected a record"),
        ([[1, 2.0]], TypeError, "found list"),
        ([(1,)], ValueError, "tuple of 1"),
        ([{"a": 1}], ValueError, "fields a, expected a, b"),
        ([{"a": 1, "b": 2, "c": 3}], ValueError, "fields a, b, c"),
        ([(1.5, 2)], ValueError, r"field 'a': found 1\.5"),
        ([(300, 2)], ValueError, "field 'a': found 300"),
        ([(1, "x")], TypeError, "field 'b'"),
        ([(1, None)], TypeError, "field 'b': found NoneType"),
        ([(1, [2])], ValueError, "field 'b': found list, expected an item of float64"),
        ([None], TypeError, "found NoneType"),
        ({"a": 1, "b": 2}, ValueError, "a single dict"),
        (np.zeros(2), TypeError, "found float64, expected the fields a, b"),
        (np.zeros(2, [("a", "u1")]), ValueError, "fields a, expected a, b"),
        (np.zeros((2, 2), PADDED), ValueError, "2-D"),
        (np.zeros((), PADDED), ValueError, "a single"),
        (np.array([(math.nan, 1)], [("a", "f8"), ("b", "f8")]), ValueError, "field 'a': found nan"),
        ("ab", TypeError, "found <U2"),
    ],
    ids=str,
)
def test_structured_refused(values: Any, error: type[Exception], match: str) -> None:
    if isinstance(values, str):
        error = (TypeError, ValueError)  # type: ignore[assignment]
        match = "found"
    with pytest.raises(error, match=match):
        as_items(values, PADDED)


structured = st.sampled_from(
    [
        PADDED,
        np.dtype([("a", ">i2"), ("s", "S3")]),
        np.dtype([("p", PADDED, (2,)), ("m", "f4", (2, 2)), ("t", "M8[s]")], align=True),
        np.dtype([("n", [("o", PADDED), ("k", "?")]), ("c", "c8")]),
    ]
)


@FEW
@given(structured, st.integers(0, 4), st.data())
def test_structured_round_trip(dtype: np.dtype, count: int, data: st.DataObject) -> None:
    raw = data.draw(st.lists(st.integers(0, 1), min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    values = np.frombuffer(bytes(raw), dtype) if count else np.zeros(0, dtype)
    # Voids, as tolist() would turn times into objects.
    items = as_items(list(values), dtype)
    assert items.dtype == dtype and items.shape == (count,)
    assert np.array_equal(items, values)
    assert as_items(items.tolist() if "t" not in (dtype.names or ()) else items, dtype).tobytes() == items.tobytes()
    block, lengths = as_block([list(values), list(values)], None, dtype)
    assert lengths.tolist() == [count, count] and block.tobytes() == items.tobytes() * 2


# -- as_block


@pytest.mark.parametrize(
    ("values", "lengths", "flat", "expected"),
    [
        ([[1, 2], [3, 4]], None, [1, 2, 3, 4], [2, 2]),
        (np.arange(6).reshape(2, 3).T, None, [0, 3, 1, 4, 2, 5], [2, 2, 2]),
        (np.zeros((3, 0)), None, [], [0, 0, 0]),
        (np.zeros((0, 3)), None, [], []),
        ([], None, [], []),
        ([[], []], None, [], [0, 0]),
        ([np.arange(2), np.arange(2)], None, [0, 1, 0, 1], [2, 2]),
        ((ctypes.c_int * 2 * 2)((1, 2), (3, 4)), None, [1, 2, 3, 4], [2, 2]),
        ([1, 2, 3], [1, 0, 2], [1, 2, 3], [1, 0, 2]),
        ([1, 2, 3], np.array([3], "u1"), [1, 2, 3], [3]),
        ([1, 2, 3], range(3), [1, 2, 3], [0, 1, 2]),
        ([], [], [], []),
        ([], [0, 0], [], [0, 0]),
    ],
)
@pytest.mark.parametrize("dtype", ["f4", ">i8"])
def test_blocks(values: Any, lengths: Any, flat: Any, expected: Any, dtype: str) -> None:
    items, counts = as_block(values, lengths, np.dtype(dtype))
    same(items, dtype, flat)
    assert (counts.dtype, counts.tolist()) == (np.int64, list(expected))


def test_blocks_are_not_copied() -> None:
    values = np.zeros((5, 3))
    assert np.shares_memory(as_block(values, None, np.dtype("f8"))[0], values)
    assert as_block(values[0], [3], np.dtype("f8"))[0] is not None


@pytest.mark.parametrize(
    ("values", "lengths", "error"),
    [
        ([1, 2, 3], None, ValueError),
        ([[1, 2], [[3]]], None, ValueError),
        ([[1, 2], 3], None, ValueError),
        (np.zeros((2, 2, 2)), None, ValueError),
        ([[1.5]], None, ValueError),
        ([["a"]], None, TypeError),
        (None, None, TypeError),
        ([1, 2, 3], [1, 1], ValueError),
        ([1, 2, 3], [4, -1], ValueError),
        ([1, 2, 3], [[3]], ValueError),
        ([1, 2, 3], [3.0], TypeError),
        ([1], [True], TypeError),
        ([1, 2, 3], 3, TypeError),
        ([1], [None], TypeError),
        ([1], [2**64], TypeError),
        (np.zeros((2, 2)), [2, 2], ValueError),
    ],
)
def test_blocks_refused(values: Any, lengths: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        as_block(values, lengths, np.dtype("i4"))


# -- keys


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([1, 2**64 - 1], [1, 2**64 - 1]),
        ([2**63, 1], [2**63, 1]),
        ([], []),
        ((), []),
        (np.array([]), []),
        (range(0), []),
        (range(3, -1, -1), [3, 2, 1, 0]),
        (range(2**64 - 3, 2**64, 2), [2**64 - 3, 2**64 - 1]),
        (range(2**64 - 1, -1, -(2**63)), [2**64 - 1, 2**63 - 1]),
        (np.array([1, 2], ">u2"), [1, 2]),
        (np.ma.array([1, 2]), [1, 2]),
        (np.array([1, 2])[::-1], [2, 1]),
        ([np.uint64(2**64 - 1), 3, np.int8(4)], [2**64 - 1, 3, 4]),
        ({3: 1}.keys(), [3]),
        ((i for i in (1, 2)), [1, 2]),
        (array.array("Q", [5]), [5]),
    ],
)
def test_keys(keys: Any, expected: list[int]) -> None:
    same(as_keys(keys), "u8", expected)


def test_keys_are_passed_through() -> None:
    keys = np.arange(5, dtype="u8")
    assert as_keys(keys) is keys


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ([-1], ValueError),
        ([2**64], ValueError),
        ([1, 2**64], ValueError),
        ([True], TypeError),
        ([1, True], TypeError),
        ([1.0], TypeError),
        ([1, 2.0**63], TypeError),
        (["1"], TypeError),
        ([None], TypeError),
        ([[1]], TypeError),
        (np.array([-1]), ValueError),
        (np.array([1.0]), TypeError),
        (np.array([True]), TypeError),
        (np.array(["1"]), TypeError),
        (np.zeros((1, 1), "u8"), ValueError),
        (np.zeros((0, 2), "u8"), ValueError),
        (np.array(5), ValueError),
        (np.ma.array([1, 2], mask=[0, 1]), ValueError),
        ([np.ma.masked], TypeError),
        ([1, np.ma.array(2, mask=True)], TypeError),
        (range(2, -2, -1), ValueError),
        (range(2**64, 2**64 + 1), ValueError),
        ("12", TypeError),
        (b"12", TypeError),
        (5, TypeError),
        (None, TypeError),
    ],
    ids=str,
)
def test_keys_refused(keys: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="key"):
        as_keys(keys)


@FEW
@given(st.lists(st.integers(0, 2**64 - 1)))
def test_any_keys(keys: list[int]) -> None:
    assert as_keys(keys).tolist() == keys


@FEW
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(1, 6))
def test_any_range(start: int, stop: int, count: int) -> None:
    step = (stop - start) // count or 1
    keys = range(start, stop, step)[:100]
    assert as_keys(keys).tolist() == list(keys)
    same(as_items(keys, np.dtype("u8")), "u8", list(keys))


@pytest.mark.parametrize("key", [0, 5, 2**64 - 1, np.uint64(2**64 - 1), np.int8(7), np.array(3)])
def test_a_key(key: Any) -> None:
    assert as_key(key) == int(key) and type(as_key(key)) is int


@pytest.mark.parametrize(
    ("key", "error"),
    [
        *((key, ValueError) for key in (-1, 2**64, 10**5000, np.int64(-1))),
        *((key, TypeError) for key in (True, np.bool_(1), 1.0, np.float64(1), "1", None, np.array([3]))),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_key_refused(key: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="key"):
        as_key(key)


# -- records


def test_one_record() -> None:
    ctype = schema_from_descriptor(RECORDS.descriptor, "").ctype
    assert ctype is not None
    rebuilt = ctype.from_buffer_copy(INSTANCE)
    expected = bytes(INSTANCE)
    structured_ = np.frombuffer(expected, RECORDS.dtype)
    narrow = np.zeros(1, [(name, RECORDS.dtype[name]) for name in ("t", "x", "q", "i")])
    for name in ("t", "x", "q", "i"):
        narrow[name] = structured_[name]
    arrays = (structured_, structured_.reshape(()), structured_[0], narrow, narrow[0])
    for obj in (INSTANCE, rebuilt, TUPLE, DICT, *arrays):
        record = as_record(obj, RECORDS)
        assert record.shape == (1,) and record.dtype == RECORDS.dtype and record.flags.c_contiguous
        assert record.tobytes() == expected
    instances = [INSTANCE, rebuilt, TUPLE, DICT, structured_[0]]
    for records in (
        instances,
        [TUPLE, DICT] * 2,
        [INSTANCE] * 3,
        [rebuilt] * 2,
        (Record * 2)(INSTANCE, INSTANCE),
    ):
        many = as_records(records, RECORDS)
        assert many.dtype == RECORDS.dtype and many.shape == (len(records),)
        assert many.tobytes() == expected * len(records)
    assert as_records(iter([INSTANCE]), RECORDS).tobytes() == expected
    assert as_records([], RECORDS).shape == (0,)
    assert as_records(structured_, RECORDS) is structured_
    assert as_records(narrow, RECORDS).tobytes() == expected


@pytest.mark.parametrize(
    ("obj", "error"),
    [
        (None, TypeError),
        (5, TypeError),
        ("text", TypeError),
        ([1, 2, 3, 4], TypeError),
        ({"x": 1}, ValueError),
        ({**DICT, "z": 1}, ValueError),
        ((1, 2), ValueError),
        ({**DICT, "x": 2**31}, ValueError),
        ({**DICT, "t": b"abcde"}, ValueError),
        ({**DICT, "i": (2, (3, 4, 5))}, ValueError),
        ({**DICT, "i": 5}, TypeError),
        ({**DICT, "q": [(1, (2, 3))]}, ValueError),
        ({**DICT, "q": (1, (2, 3))}, TypeError),
        (Inner(), SchemaError),
        (Record, TypeError),
        (np.zeros(1), TypeError),
        (np.zeros(2, RECORDS.dtype), TypeError),
    ],
    ids=str,
)
def test_records_refused(obj: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        as_record(obj, RECORDS)
    with pytest.raises(error):
        as_records([obj], RECORDS)


@pytest.mark.parametrize(
    "records", [None, 5, DICT, INSTANCE, "text", b"text", np.zeros(2), np.zeros((1, 1), RECORDS.dtype)]
)
def test_no_records(records: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        as_records(records, RECORDS)


def test_layouts_are_explained() -> None:
    with pytest.raises(SchemaError, match=r"instances of Inner.*field 'x': stored int32 at byte 0, not asked for"):
        as_record(Inner(), RECORDS)


def test_array_types() -> None:
    expected = np.array([1, 2, 3], "f8").tobytes()
    ctype = TRIPLES.ctype
    assert ctype is not None
    one: list[Any] = [ctype(1, 2, 3), (ctypes.c_double * 3)(1, 2, 3), [1, 2, 3], (1, 2, 3), np.arange(1, 4)]
    for obj in [*one, np.frombuffer(expected, TRIPLES.dtype)[0]]:
        record = as_record(obj, TRIPLES)
        assert record.shape == (1,) and record.dtype == TRIPLES.dtype and record.tobytes() == expected
    for records in (
        one,
        [[1, 2, 3]] * 2,
        np.array([[1, 2, 3]] * 2),
        np.frombuffer(expected * 2, TRIPLES.dtype),
    ):
        assert as_records(records, TRIPLES).tobytes() == expected * len(records)
    assert as_records([], TRIPLES).shape == as_records(np.zeros((0, 3)), TRIPLES).shape == (0,)
    for wrong in ([1, 2], 5, None, [1, 2, "x"], (ctypes.c_float * 3)(1, 2, 3), np.zeros((3, 1))):
        with pytest.raises((TypeError, ValueError)):
            as_record(wrong, TRIPLES)
    grid = object_schema(ctypes.c_int16.__ctype_be__ * 3 * 2)
    instance = grid.ctype((1, 2, 3), (4, 5, 6))  # type: ignore[misc]
    assert as_record(instance, grid)["items"].tolist() == [[[1, 2, 3], [4, 5, 6]]]
    assert as_record([[1, 2, 3], [4, 5, 6]], grid).tobytes() == bytes(instance)
    text = object_schema(ctypes.c_char * 4)
    assert as_record(b"ab", text).tobytes() == b"ab\0\0"
    assert as_records([b"ab", "c"], text).tobytes() == b"ab\0\0c\0\0\0"
    inners = object_schema(Inner * 2)
    assert as_record([(1, (2, 3)), Inner(4, (5, 6))], inners)["items"]["u"].tolist() == [[1, 4]]


@pytest.mark.parametrize("dtype", ["f4", "f8", "c16"])
def test_integers_that_only_a_float_holds(dtype: str) -> None:
    largest = int(np.finfo(np.float64).max)
    good = [2**70, -(2**64), 2**100, 3] if dtype == "f4" else [largest, -largest, 2**70, 3]
    assert as_items(good, np.dtype(dtype)).tolist() == good
    for bad in (2**70 + 1, largest + 1, -(10**400), 2**1024):
        for items in ([bad], [*good, bad, 5], [bad, *good]):
            with pytest.raises(ValueError, match=r"which .* cannot hold without changing it"):
                as_items(items, np.dtype(dtype))
