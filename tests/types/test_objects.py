"""Object and Array: printed, copied, compared, and made in one line."""

from __future__ import annotations

import copy
import ctypes
import math
import pickle
import weakref
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from structchunk.types.objects import Array, Object, check_fields, fields_of


class Point(Object):
    _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_double)]


class Box(Object):
    _anonymous_ = ["corner"]
    _fields_ = [
        ("corner", Point),
        ("sizes", ctypes.c_int16 * 2),
        ("name", ctypes.c_char * 8),
        ("points", Point * 2),
    ]


class Loose(Object):
    """Has padding."""

    _fields_ = [("a", ctypes.c_uint8), ("b", ctypes.c_uint64)]


def test_positional_and_keyword() -> None:
    point = Point(1, y=2)
    assert (point.x, point.y) == (1.0, 2.0)
    assert Point().x == 0.0
    assert Box(x=3.0, sizes=(1, 2)).corner.x == 3.0  # through the anonymous field
    assert Object.of(self=ctypes.c_int, cls=ctypes.c_int)(self=1, cls=2).self == 1


@pytest.mark.parametrize(
    "init",
    [
        lambda: Point(z=1),
        lambda: Point(1, x=2),
        lambda: Point(1, 2, 3),
        lambda: Point("text"),
        lambda: Point(copy=1),
        lambda: Box(corner=5),
    ],
)
def test_init_refuses(init: object) -> None:
    with pytest.raises((TypeError, RuntimeError)):
        init()  # type: ignore[operator]


def test_unknown_field_names_the_known() -> None:
    with pytest.raises(TypeError, match=r"Point has no field 'z'; its fields are: x, y"):
        Point(z=1)
    with pytest.raises(TypeError, match="its fields are: none"):
        check_fields(Object, ["x"])
    check_fields(Box, ["corner", "x", "name"])
    assert [name for name, _ in fields_of(type("P3", (Point,), {"_fields_": [("z", ctypes.c_int)]}))] == [
        *("x", "y", "z")
    ]


def test_repr_shows_all() -> None:
    assert repr(Point(1, 2)) == "Point(x=1.0, y=2.0)"
    box = Box(Point(1, 2), (3, 4), b"abc", (Point(5, 6),))
    assert repr(box) == (
        "Box(corner=Point(x=1.0, y=2.0), sizes=(3, 4), name=b'abc', "
        "points=(Point(x=5.0, y=6.0), Point(x=0.0, y=0.0)))"
    )
    assert eval(repr(box)) == box
    assert repr(Object.of(n=ctypes.c_int)(5)) == "Object(n=5)"
    assert repr(Array.of(1, ctypes.c_double)(1.5)) == "c_double_Array_1(1.5,)"
    assert repr(Array.of(2, ctypes.c_char * 2)()) == "c_char_Array_2_Array_2((*b''), (*b''))"
    assert repr(Array.of(40, ctypes.c_int8)()).endswith("0, 0, ... 8 more)")
    text = Array.of(8, ctypes.c_char)
    assert repr(text(*b"ab")) == "c_char_Array_8(*b'ab')"
    assert eval(repr(text(*b"ab")), {"c_char_Array_8": text}) == text(*b"ab")


def test_copy_is_independent() -> None:
    memory = bytearray(bytes(Box(Point(1, 2), (3, 4), b"abc")))
    live = Box.from_buffer(memory)
    for private in (live.copy(), copy.copy(live), copy.deepcopy(live)):
        assert type(private) is Box and private == live
        private.x = 7.0
        private.points[0].x = 8.0
        assert live.x == 1.0 and live.points[0].x == 0.0 and private != live
    live.x = 9.0
    assert Box.from_buffer(memory).x == 9.0


class Methods:
    def twice(self) -> float:
        return 2 * self.x  # type: ignore[attr-defined, no-any-return]


class Kept(Object):
    __slots__ = ("cache",)
    _fields_ = [("x", ctypes.c_double)]

    @property
    def half(self) -> float:
        return float(self.x / 2)

    @half.setter
    def half(self, value: float) -> None:
        self.x = value * 2


class Mixed(Methods, Object):
    _fields_ = [("x", ctypes.c_double)]


class MixedLast(Object, Methods):
    _fields_ = [("x", ctypes.c_double)]


class Further(Mixed):
    _fields_ = [("y", ctypes.c_double)]


class Late(Object):
    pass


Late._fields_ = [("x", ctypes.c_double)]


class Swapped(Object, ctypes.BigEndianStructure):
    _fields_ = [("x", ctypes.c_double)]


class SwappedLater(ctypes.BigEndianStructure, Object):
    pass


SwappedLater._fields_ = [("x", ctypes.c_double)]


class Open(Object):
    __slots__ = ("__dict__",)
    _fields_ = [("x", ctypes.c_double)]


@pytest.mark.parametrize(
    "cls", [Point, Kept, Mixed, MixedLast, Further, Late, Swapped, SwappedLater, Object.of(x=ctypes.c_double)]
)
def test_only_fields_can_be_set(cls: type[Any]) -> None:
    made = cls(x=1.5)
    with pytest.raises(AttributeError, match="z"):
        made.z = 5
    with pytest.raises(AttributeError, match="z"):
        cls.from_buffer(bytearray(bytes(made))).z = 5
    made.x = 2
    assert made.x == 2.0 and weakref.ref(made)() is made
    if cls.__module__ == __name__:
        for copied in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
            assert type(copied) is cls and copied == made


def test_only_fields_can_be_set_of_inner_objects() -> None:
    """Of inner structures that are no objects ctypes takes any attribute, which the documentation says."""
    plain = type("Plain", (ctypes.Structure,), {"_fields_": [("x", ctypes.c_double)]})
    outer: Any = Object.of(point=Point, plain=plain)()
    with pytest.raises(AttributeError, match="typo"):
        outer.point.typo = 5
    outer.plain.typo = 5
    assert not hasattr(outer.plain, "typo")
    assert Object.__doc__ and "p.inner.typo = 5" in Object.__doc__


def test_structures_of_the_other_byte_order() -> None:
    for cls in (Swapped, SwappedLater):
        assert bytes(cls(1.5)) == bytes(Late(1.5))[::-1] and cls(1.5) == cls(1.5) != Late(1.5)


def test_attributes_that_a_class_names_can_be_set() -> None:
    kept, left = Kept(), Open(1)
    kept.half, kept.cache = 3, "kept"
    assert (kept.x, kept.cache) == (6.0, "kept")
    left.note = "kept"
    assert copy.copy(left).note == "kept"
    assert Mixed(2).twice() == MixedLast(2).twice() == 4


def test_equality_is_by_value() -> None:
    assert Point(1, 2) == Point(1, 2) != Point(1, 3)
    assert Point(0.0, 0) == Point(-0.0, 0)
    assert Point(math.nan, 0) != Point(math.nan, 0)
    assert Point(1, 2) != (1.0, 2.0) and Point(1, 2) != 5
    one, other = Loose.from_buffer_copy(b"\x01" + b"\xaa" * 7 + b"\x02" * 8), Loose(1, 0x0202020202020202)
    assert bytes(one) != bytes(other) and one == other
    assert Box(name=b"ab") == Box.from_buffer_copy(bytes(20) + b"ab\0cd" + bytes(ctypes.sizeof(Box) - 25))


def test_equality_looks_at_layout_not_names() -> None:
    def other(*fields: tuple[str, type], base: type = ctypes.Structure) -> object:
        return type("Other", (base,), {"_fields_": fields})(1, 2)

    double = ctypes.c_double
    assert Point(1, 2) == other(("x", double), ("y", double))
    assert Point(1, 2) != other(("x", double), ("z", double))
    assert Point(1, 2) != other(("x", double), ("y", ctypes.c_int64))
    assert Point(1, 2) != other(("x", double), ("y", double), base=ctypes.BigEndianStructure)
    assert Point(1, 2) != other(("x", ctypes.c_float), ("y", ctypes.c_float))
    assert other(("x", double), ("y", double)) == Point(1, 2)


def test_unhashable() -> None:
    for value in (Point(), Box(), Array.of(2, ctypes.c_int)()):
        with pytest.raises(TypeError, match="unhashable"):
            hash(value)


def test_arrays() -> None:
    triple = Array.of(3, ctypes.c_double)
    assert issubclass(triple, Array) and issubclass(triple, ctypes.Array)
    values = triple(1, 2, 3)
    assert values == triple(1, 2, 3) == (ctypes.c_double * 3)(1, 2, 3) != triple(1, 2, 4)
    assert values != Array.of(4, ctypes.c_double)(1, 2, 3) and values != (ctypes.c_float * 3)(1, 2, 3)
    other = values.copy()
    other[0] = 9
    assert type(other) is triple and list(values) == [1.0, 2.0, 3.0]
    points = Array.of(2, Point)(Point(1, 2))
    assert repr(points) == "Point_Array_2(Point(x=1.0, y=2.0), Point(x=0.0, y=0.0))"
    assert points == points.copy() != Array.of(2, Point)()
    assert Array.of(2, triple)()[0] == triple()
    with pytest.raises(ValueError, match="length"):
        Array.of(-1, ctypes.c_int)
    with pytest.raises((TypeError, AttributeError)):
        Array.of(2, "no type")  # type: ignore[arg-type]


def test_of_extends_a_subclass() -> None:
    extended = Point.of(z=ctypes.c_double)
    assert issubclass(extended, Point) and extended.__name__ == "Point"
    assert repr(extended(1, 2, 3)) == "Point(x=1.0, y=2.0, z=3.0)"
    with pytest.raises(TypeError):
        Object.of(x="no type")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(min_size=ctypes.sizeof(Box), max_size=ctypes.sizeof(Box)))
def test_any_bytes(raw: bytes) -> None:
    box = Box.from_buffer_copy(raw)
    numbers = [box.x, box.y, *(value for point in box.points for value in (point.x, point.y))]
    assert (box == box.copy()) is not any(map(math.isnan, numbers))
    assert bytes(box.copy()) == raw
    assert repr(box.copy()) == repr(box)
