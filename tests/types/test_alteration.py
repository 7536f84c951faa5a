"""Records of one type as those of another: every value stays, or the types are refused."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

import structchunk as sc
from structchunk.types.alteration import alteration, asked_schema
from structchunk.types.schema import array_schema, object_schema

WIDENINGS = [
    *[("?", new) for new in ("i1", "u8", "f2", "f8", "c8", "?")],
    *[("i1", new) for new in ("i2", "i8", "f2", "f4", "c8")],
    *[("u1", new) for new in ("u2", "i2", "u8", "f2", ">f4")],
    *[("i2", new) for new in (">i2", "i4", "f4", "c8")],
    *[("u4", new) for new in ("i8", "u8", "f8", "c16")],
    *[("i8", new) for new in (">i8",)],
    *[("f2", new) for new in ("f4", "f8", "c8")],
    *[("f4", new) for new in ("f8", "c8", ">f4")],
    *[("f8", new) for new in ("c16", ">f8")],
    *[("c8", new) for new in ("c16",)],
    *[("S4", new) for new in ("S8", "S4")],
    *[("U4", new) for new in ("U8", ">U4")],
    *[("M8[s]", new) for new in (">M8[s]",)],
    *[("V3", new) for new in ("V3",)],
]
NARROWINGS = [
    *[("i4", new) for new in ("i2", "u8", "f4", "S4", "?", "M8[s]", "c8")],
    *[("i8", new) for new in ("f8", "c16", "u8")],
    *[("u8", new) for new in ("i8", "f8")],
    *[("f8", new) for new in ("f4", "i8", "c8")],
    *[("S8", new) for new in ("S4", "U8", "V8")],
    *[("U4", new) for new in ("S16", "U3")],
    *[("M8[s]", new) for new in ("M8[ms]", "i8")],
    ("m8[D]", "m8[s]"),
    ("c8", "f4"),
    ("V3", "V4"),
]


def altered(old: Any, new: Any, items: Any, **options: Any) -> np.ndarray:
    """Return items of an array store as those of another type."""
    stored, asked = array_schema(old), array_schema(new)
    made = alteration("store", stored, asked, options.get("fill"), options.get("drop", ()))
    return made.convert(np.asarray(items, stored.dtype.base))


def extremes(dtype: np.dtype[Any]) -> np.ndarray:
    """Return the values of a type that are the hardest to keep."""
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return np.array([info.min, info.max, info.max - 1, info.max // 3, 0], dtype)
    if dtype.kind in "fc":
        numbers = np.finfo(dtype)
        return np.array([numbers.max, numbers.min, numbers.tiny, -0.0, np.inf, 1 / 3], dtype)
    if dtype.kind in "SU":
        return np.array(["", "a", "abcd", "ab"], dtype)
    if dtype.kind == "b":
        return np.array([1, 0], dtype)
    return np.frombuffer(bytes(range(1, 1 + 4 * dtype.itemsize)), dtype)


@pytest.mark.parametrize(("old", "new"), WIDENINGS)
def test_every_value_is_kept(old: str, new: str) -> None:
    values = extremes(np.dtype(old))
    found = altered(old, new, values)
    assert found.dtype == np.dtype(new)
    if found.dtype.kind == "V":
        assert found.tobytes() == values.tobytes()
    else:
        assert (found == values).all()
        back = found.real if found.dtype.kind == "c" and values.dtype.kind != "c" else found
        assert (back.astype(old) == values).all()


@pytest.mark.parametrize(("old", "new"), NARROWINGS)
def test_what_may_change_is_refused(old: str, new: str) -> None:
    words = f"each item: stored {np.dtype(old)}, asked for {np.dtype(new)}, which does not hold all of its values"
    with pytest.raises(sc.SchemaError) as caught:
        altered(old, new, [])
    assert words in str(caught.value)
    assert "store 'store' cannot be altered" in str(caught.value)


def test_fields_are_matched_by_name() -> None:
    old = np.dtype([("x", "f4"), ("n", "i2"), ("s", "S3")])
    new = np.dtype([("s", "S5"), ("q", "u1"), ("n", "i8"), ("x", "f8")], align=True)
    items = np.array([(1.5, -3, b"abc"), (0.1, 7, b"")], old)
    found = altered(old, new, items)
    assert found.tolist() == [(b"abc", 0, -3, 1.5), (b"", 0, 7, float(np.float32(0.1)))]
    mask = np.zeros(1, new)
    for name in new.names or ():
        mask[name] = np.frombuffer(b"\xff" * new[name].itemsize, new[name])[0]
    padding = ~np.frombuffer(mask.tobytes(), "u1")
    assert not (np.frombuffer(found.tobytes(), "u1") & np.tile(padding, 2)).any()


def test_fields_of_structs_within() -> None:
    inner = np.dtype([("x", "f4"), ("y", "f4")])
    wider = np.dtype([("y", "f8"), ("x", "f8"), ("z", "f8", (2,))])
    old, new = np.dtype([("p", inner), ("v", inner, (3,))]), np.dtype([("v", wider, (3,)), ("p", wider)])
    items = np.zeros(2, old)
    items["p"]["x"], items["v"]["y"] = 7, [[1, 2, 3], [4, 5, 6]]
    found = altered(old, new, items, fill={"p.z": [8, 9], "v[].z": [1, 2]})
    assert found["p"]["x"].tolist() == [7, 7]
    assert found["v"]["y"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert found["p"]["z"].tolist() == [[8, 9]] * 2
    assert found["v"]["z"].tolist() == [[[1, 2]] * 3] * 2


def test_items_of_a_shape() -> None:
    items = np.arange(12, dtype="i2").reshape(2, 2, 3)
    found = altered(np.dtype(("i2", (2, 3))), np.dtype(("f4", (2, 3))), items)
    assert (found.dtype, found.tolist()) == (np.dtype("f4"), items.tolist())
    for shape in ((3, 2), (6,), ()):
        with pytest.raises(
            sc.SchemaError, match=r"each item: stored of shape \(2, 3\), asked for of .*shapes stay"
        ):
            altered(np.dtype(("i2", (2, 3))), np.dtype(("i2", shape)), items)


def test_shapes_of_fields_stay() -> None:
    with pytest.raises(sc.SchemaError, match=r"field 'v': stored of shape \(2,\), asked for of shape \(3,\)"):
        altered([("v", "f4", (2,))], [("v", "f4", (3,))], [])
    with pytest.raises(sc.SchemaError, match="field 'v': stored float32, asked for"):
        altered([("v", "f4")], [("v", [("x", "f4")])], [])
    with pytest.raises(sc.SchemaError, match="each item: stored float32, asked for"):
        altered("f4", [("v", "f4")], [])


def test_no_field_is_lost_that_was_not_named() -> None:
    old, new = [("a", "i4"), ("p", [("x", "f4"), ("y", "f4")]), ("b", "f8")], [("p", [("y", "f4")])]
    with pytest.raises(sc.SchemaError) as caught:
        altered(old, new, [], drop=["b"])
    assert "field 'a': stored int32, not asked for; to lose it, name it in drop=" in str(caught.value)
    assert "field 'p.x': stored float32" in str(caught.value)
    assert "'b'" not in str(caught.value)
    found = altered(old, new, [(1, (2, 3), 4)], drop=("a", "b", "p.x"))
    assert found.tolist() == [((3,),)]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"drop": ["a", "x"]}, ValueError, "drop names 'x', which is no field that only the stored type has"),
        ({"drop": ["a", "a.b"]}, ValueError, "drop names 'a.b'"),
        ({"drop": "a"}, TypeError, r"drop=\('a',\)"),
        ({"drop": ["a"], "fill": {"x": 1}}, ValueError, "fill names 'x', which is no new field"),
        ({"drop": ["a"], "fill": {"a": 1}}, ValueError, "fill names 'a'"),
        ({"drop": ["a"], "fill": {"q": 300}}, ValueError, "fill of field 'q': found 300"),
        ({"drop": ["a"], "fill": {"q": "x"}}, TypeError, "fill of field 'q': found str"),
    ],
)
def test_what_drop_and_fill_may_name(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        altered([("x", "f4"), ("a", "f4")], [("x", "f4"), ("q", "u1")], [], **options)


def test_objects() -> None:
    class Old(sc.Object):
        _fields_ = [("x", ctypes.c_float), ("name", ctypes.c_char * 4)]

    class Base(sc.Object):
        _fields_ = [("name", ctypes.c_char * 8)]

    class New(Base):
        _fields_ = [("x", ctypes.c_double), ("flag", ctypes.c_bool)]

    stored = object_schema(Old)
    asked = asked_schema(stored, New)
    made = alteration("points", stored, asked, {"flag": True}, ())
    assert not made.keeps_zeros
    items = np.array([(1.5, b"ab")], stored.dtype)
    assert made.convert(items).tolist() == [(b"ab", 1.5, True)]
    assert alteration("points", stored, asked, {"flag": False}, ()).keeps_zeros
    with pytest.raises(sc.SchemaError, match="holds instances of a ctypes Structure"):
        asked_schema(stored, "f8")
    arrays = object_schema(ctypes.c_int16 * 3)
    made = alteration("a", arrays, object_schema(ctypes.c_int64 * 3), None, ())
    assert made.convert(np.array([([1, 2, 3],)], arrays.dtype))["items"].tolist() == [[1, 2, 3]]
    with pytest.raises(sc.SchemaError, match="field 'items': stored of shape"):
        alteration("a", arrays, object_schema(ctypes.c_int16 * 4), None, ())
