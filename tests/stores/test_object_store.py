"""ObjectStore: live objects, private copies, and classes that come back without being named."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import numpy as np
import pytest
from conftest import OpenDB
from support import label

import structchunk as sc


class Point(sc.Object):
    _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_double)]


class Padded(sc.Object):
    _fields_ = [("a", ctypes.c_uint8), ("b", ctypes.c_double), ("c", ctypes.c_uint16)]


class Packed(sc.Object):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("a", ctypes.c_uint8), ("b", ctypes.c_double), ("c", ctypes.c_uint16)]


class BigEndian(ctypes.BigEndianStructure):
    _fields_ = [("a", ctypes.c_uint16), ("b", ctypes.c_double), ("c", ctypes.c_int32 * 2)]


class Nested(sc.Object):
    _fields_ = [
        ("name", ctypes.c_char * 8),
        ("corners", Point * 2),
        ("grid", ctypes.c_int16 * 2 * 3),
        ("packed", Packed),
        ("flag", ctypes.c_bool),
    ]


class Derived(Point):
    _fields_ = [("z", ctypes.c_double)]


class Plain(ctypes.Structure):
    _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_double)]


GRID = ((1, 2), (3, 4), (5, 6))
SAMPLES = [
    Point(1, 2),
    Padded(1, 2, 3),
    Packed(1, 2, 3),
    BigEndian(1, 2.5, (3, -4)),
    Nested(b"name", (Point(1, 2), Point(3, 4)), GRID, Packed(9, 8, 7), True),
    Derived(1, 2, 3),
    Plain(1, 2),
    sc.Object.of(x=ctypes.c_int8, y=Point)(1, Point(2, 3)),
    sc.Array.of(3, ctypes.c_double)(1, 2, 3),
    sc.Array.of(2, Point)(Point(1, 2), Point(3, 4)),
    sc.Array.of(2, ctypes.c_uint8 * 2)((1, 2), (3, 4)),
    (ctypes.c_char * 6)(*b"abc"),
    (ctypes.c_int32.__ctype_be__ * 3)(1, -2, 3),
]
samples = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)


@pytest.fixture
def points(db: sc.Database) -> sc.ObjectStore[Point]:
    return db.object_store("points", Point)


def shown(value: Any) -> Any:
    """Return a ctypes value as plain Python objects, whatever its class."""
    if isinstance(value, ctypes.Structure):
        return {name: shown(getattr(value, name)) for name in fields(type(value))}
    if isinstance(value, ctypes.Array):
        return value.value if value._type_ is ctypes.c_char else list(map(shown, value))
    return value


def fields(cls: type[Any]) -> list[str]:
    return [name for level in reversed(cls.__mro__) for name, _ in level.__dict__.get("_fields_", ())]


# -- types


@samples
def test_every_type_goes_in_and_out(open_db: OpenDB, sample: Any) -> None:
    cls = type(sample)
    with open_db(sync=False) as db:
        store = db.object_store("things", cls)
        assert store.cls is cls
        assert store.dtype.itemsize == ctypes.sizeof(cls)
        assert store.dtype.names is not None
        store[1] = sample
        store.put_many([3, 2], [sample, sample])
        ctypes.memmove(ctypes.addressof(store.new(4)), ctypes.addressof(sample), ctypes.sizeof(cls))
        assert all(type(thing) is cls and bytes(thing) == bytes(sample) for thing in store.values())
    with open_db(sync=False) as db:
        store = db.object_store("things", cls)
        assert all(type(thing) is cls and bytes(thing) == bytes(sample) for thing in store.values())
        assert store.records().tobytes() == bytes(sample) * 4


@samples
def test_the_class_is_rebuilt(open_db: OpenDB, sample: Any) -> None:
    with open_db(sync=False) as db:
        db.object_store("things", type(sample))[1] = sample
    with open_db(sync=False) as db:
        for store in (db["things"], db.object_store("things"), db.snapshot()["things"]):
            rebuilt = store.cls
            assert rebuilt is not type(sample)
            assert issubclass(rebuilt, (ctypes.Structure, ctypes.Array))
            assert ctypes.sizeof(rebuilt) == ctypes.sizeof(sample)
            assert shown(store[1]) == shown(sample)
        db["things"][2] = rebuilt.from_buffer_copy(sample)
        db["things"][3] = sample
        assert all(bytes(thing) == bytes(sample) for thing in db["things"].values())
        assert type(db.object_store("things", rebuilt)[2]) is rebuilt
        assert type(db.object_store("things", type(sample))[2]) is type(sample)


def test_object_conveniences_come_back(open_db: OpenDB) -> None:
    with open_db(sync=False) as db:
        db.object_store("points", Point).new(1, x=2.5)
    with open_db(sync=False) as db:
        point = db["points"][1]
        assert repr(point) == "Point(x=2.5, y=0.0)"
        assert point == Point(2.5, 0)
        copied = point.copy()
        copied.x = 1.0
        assert point.x == 2.5


# -- new


def test_new_is_zeros_but_for_the_given_fields(points: sc.ObjectStore[Point]) -> None:
    assert points.new(1) == Point(0, 0)
    assert points.new(2, y=3) == Point(0, 3)
    points[3] = Point(8, 9)
    assert points.new(3, x=1) == Point(1, 0)
    assert [point.y for point in points.values()] == [0, 3, 0]


def test_new_takes_nested_values(db: sc.Database) -> None:
    store = db.object_store("nested", Nested)
    made = store.new(1, name=b"abc", corners=(Point(1, 2), Point(3, 4)), grid=GRID, flag=True)
    assert store[1] == made
    assert (made.name, made.corners[1].y, made.grid[2][1], made.packed.b) == (b"abc", 4, 6, 0)


def test_new_refuses_and_changes_nothing(db: sc.Database, points: sc.ObjectStore[Point]) -> None:
    points[1] = Point(1, 2)
    for given in ({"z": 1}, {"x": "text"}, {"x": None}):
        with pytest.raises(TypeError):
            points.new(1, **given)
        with pytest.raises(TypeError):
            points.new(2, **given)
    nested = db.object_store("nested", Nested)
    with pytest.raises((TypeError, ValueError)):
        nested.new(1, name=b"far too long a name")
    assert list(points) == [1]
    assert points[1] == Point(1, 2)
    assert len(nested) == 0


class Mixed(sc.Object):
    _anonymous_ = ["inner"]
    _fields_ = [
        ("n", ctypes.c_int32),
        ("v", ctypes.c_uint8 * 2),
        ("f", ctypes.c_float),
        ("c", ctypes.c_char),
        ("b", ctypes.c_bool),
        ("u", ctypes.c_uint64),
        ("s", ctypes.c_char * 4),
        ("big", ctypes.c_int16.__ctype_be__),
        ("inner", sc.Object.of(x=ctypes.c_double, y=ctypes.c_int8)),
        ("points", Point * 2),
    ]


ZERO = {"n": 0, "v": (0, 0), "f": 0, "c": b"", "b": False, "u": 0, "s": b"", "big": 0}
ZERO |= {"inner": (0, 0), "points": [(0, 0), (0, 0)]}  # type: ignore[dict-item]

TAKEN: list[tuple[dict[str, Any], Any]] = [
    ({"n": np.int64(2**31 - 1)}, 2**31 - 1),
    ({"n": 3.0}, 3),
    ({"n": True}, 1),
    ({"u": 2**64 - 1}, 2**64 - 1),
    ({"u": np.float32(2**63)}, 2**63),
    ({"big": np.int8(-2)}, -2),
    ({"v": [1, 2]}, [1, 2]),
    ({"v": np.array([1, 2], "u1")}, [1, 2]),
    ({"v": (ctypes.c_uint8 * 2)(1, 2)}, [1, 2]),
    ({"v": (1.0, np.uint64(255))}, [1, 255]),
    ({"f": np.float64(0.5)}, 0.5),
    ({"f": np.array(0.5)}, 0.5),
    ({"f": 2**24}, 2.0**24),
    ({"c": 65}, b"A"),
    ({"c": np.uint8(255)}, b"\xff"),
    ({"c": "A"}, b"A"),
    ({"c": b"\0"}, b"\0"),
    ({"c": 0}, b"\0"),
    ({"b": 1}, True),
    ({"b": np.bool_(True)}, True),
    ({"s": "abcd"}, b"abcd"),
    ({"s": (ctypes.c_char * 4)(*b"ab")}, b"ab"),
    ({"points": [(1, 2), {"x": 3, "y": 4}]}, [{"x": 1, "y": 2}, {"x": 3, "y": 4}]),
    ({"points": np.ones(2, [("x", "f8"), ("y", "f8")])}, [{"x": 1, "y": 1}] * 2),
    ({"points": (Plain(1, 2), Point(3, 4))}, [{"x": 1, "y": 2}, {"x": 3, "y": 4}]),
    ({"inner": (1.5, 2)}, {"x": 1.5, "y": 2}),
]


@pytest.mark.parametrize(("given", "expected"), TAKEN)
def test_fields_are_taken_alike_through_every_door(db: sc.Database, given: dict[str, Any], expected: Any) -> None:
    store = db.object_store("mixed", Mixed)
    whole = {**ZERO, **given}
    store.new(0, **given)
    store.put(1, whole)
    store.put(2, tuple(whole.values()))
    store.put_many([3, 4], [whole, tuple(whole.values())])
    store.update({5: whole})
    with db.transaction() as txn:
        txn["mixed"].new(6, **given)
    assert len(store) == 7
    for made in store.values():
        (name,) = given
        assert shown(getattr(made, name)) == expected
        assert bytes(made) == bytes(store[0])


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"n": np.int64(2**31)}, ValueError),
        ({"n": 2**31}, ValueError),
        ({"n": 0.5}, ValueError),
        ({"n": "1"}, TypeError),
        ({"n": None}, TypeError),
        ({"u": -1}, ValueError),
        ({"big": 2**15}, ValueError),
        ({"v": (300, 1)}, ValueError),
        ({"v": (1,)}, ValueError),
        ({"v": 1}, ValueError),
        ({"v": np.array([1.5, 1])}, ValueError),
        ({"v": np.ma.array([1, 2], mask=[0, 1])}, ValueError),
        ({"f": 1e300}, ValueError),
        ({"f": 2**24 + 1}, ValueError),
        ({"c": 256}, ValueError),
        ({"c": -1}, ValueError),
        ({"c": True}, TypeError),
        ({"c": b"ab"}, ValueError),
        ({"c": "é"}, ValueError),
        ({"b": 2}, ValueError),
        ({"b": "x"}, TypeError),
        ({"s": "abcde"}, ValueError),
        ({"s": b"ab\0"}, ValueError),
        ({"s": 65}, TypeError),
        ({"inner": (1.5, 300)}, ValueError),
        ({"inner": (1.5,)}, ValueError),
        ({"points": [(1, 2)]}, ValueError),
        ({"points": [(1, 2), (3, None)]}, TypeError),
    ],
)
def test_fields_are_refused_alike_through_every_door(
    db: sc.Database, given: dict[str, Any], error: type[Exception]
) -> None:
    store = db.object_store("mixed", Mixed)
    (name,) = given
    whole = {**ZERO, **given}
    doors: list[Any] = [
        lambda: store.new(1, **given),
        lambda: store.put(1, whole),
        lambda: store.put(1, tuple(whole.values())),
        lambda: store.put_many([1], [whole]),
        lambda: store.update({1: whole}),
    ]
    for door in doors:
        with pytest.raises(error, match=rf"field '{name}[.\w]*'"):
            door()
    assert len(store) == 0


def test_new_reaches_through_anonymous_fields(db: sc.Database) -> None:
    store = db.object_store("mixed", Mixed)
    made = store.new(1, inner=(1.5, 2), y=3)
    assert (made.x, made.y, made.inner.y) == (1.5, 3, 3)
    with pytest.raises(ValueError, match=r"field 'inner\.y': found 300"):
        store.new(1, y=300)
    with pytest.raises(TypeError, match="no field 'z'"):
        store.new(1, z=300)


def test_a_wrong_name_on_a_live_object_is_an_error(open_db: OpenDB) -> None:
    with open_db(sync=False) as db:
        points = db.object_store("points", Point)
        for point in (points.new(1), points[1], points[1].copy(), Point()):
            with pytest.raises(AttributeError, match="z"):
                point.z = 5  # type: ignore[attr-defined]
    with open_db(sync=False) as db, pytest.raises(AttributeError, match="z"):
        db["points"][1].z = 5


def test_new_of_an_array_type(db: sc.Database) -> None:
    store = db.object_store("triples", sc.Array.of(3, ctypes.c_double))
    triple = store.new(1)
    triple[1] = 5.0
    assert list(store[1]) == [0, 5, 0]
    with pytest.raises(TypeError):
        store.new(2, items=1)


# -- live


def test_an_object_is_live_through_all_handles(open_db: OpenDB) -> None:
    with open_db(sync=False) as db:
        points = db.object_store("points", Point)
        made = points.new(1, x=1)
        points[2] = Point(5, 6)
        points.put_many([3], [(7, 8)])
        for key in (1, 2, 3):
            points[key].y = 10 + key
        assert made.y == 11
        snapshot = db.snapshot()
        made.y = 21
        assert points[1].y == snapshot["points"][1].y == points.records()["y"][0] == 21
        assert next(iter(points.values())).y == points.get_many([1]).values["y"][0] == 21
        with db.transaction() as txn:
            txn["points"][1].x = 99
            assert made.x == 99
            txn.abort()
        assert made.x == 99
        snapshot.close()
    with open_db("r") as db:
        assert db["points"].records().tolist() == [(99, 21), (5, 12), (7, 13)]
    with open_db("r+") as db:
        db["points"][3].x = -1
    with open_db(sync=False) as db:
        assert db["points"][3].x == -1


def test_read_only_handles_give_private_copies(open_db: OpenDB) -> None:
    with open_db(sync=False) as db:
        points = db.object_store("points", Point)
        points[1] = Point(1, 2)
        with db.snapshot() as snapshot:
            snapshot["points"][1].x = 9
        assert points[1].x == 1
    with open_db("r") as db:
        db["points"][1].x = 9
        assert db["points"][1].x == 1


def test_a_live_object_outlives_everything(open_db: OpenDB) -> None:
    db = open_db()
    points = db.object_store("points", Point)
    made = points.new(1, x=1)
    stored = points[2] = Point(3, 4)
    stored = points[2]
    points.clear()
    db.drop_store("points")
    db.close()
    del db, points
    gc.collect()
    made.y = 2
    stored.y = 5
    assert (made, stored) == (Point(1, 2), Point(3, 5))


def test_put_replaces_and_leaves_the_old_object_be(points: sc.ObjectStore[Point]) -> None:
    old = points.new(1, x=1)
    points[1] = Point(2, 2)
    old.x = 7
    assert points[1] == Point(2, 2)
    points[1] = points[1]
    assert points[1] == Point(2, 2)


# -- put and put_many


@pytest.mark.parametrize(
    "given",
    [
        Point(1, 2),
        Plain(1, 2),
        {"x": 1, "y": 2},
        {"y": 2, "x": 1},
        (1, 2),
        np.array([(1, 2)], [("x", "f8"), ("y", "f8")])[0],
        np.array([(1, 2)], [("x", "i4"), ("y", "f4")])[0],
        np.array((1, 2), [("x", "f8"), ("y", "f8")]),
    ],
    ids=label,
)
def test_put_takes(points: sc.ObjectStore[Point], given: Any) -> None:
    points.put(1, given)
    points[2] = given
    points.put_many([4, 3], [given, Point(3, 4)])
    points.update({5: given})
    assert [(point.x, point.y) for point in points.values()] == [(1, 2), (1, 2), (3, 4), (1, 2), (1, 2)]


@pytest.mark.parametrize(
    "given",
    [
        Padded(1, 2, 3),
        BigEndian(),
        {"x": 1},
        {"x": 1, "y": 2, "z": 3},
        (1,),
        (1, 2, 3),
        ("a", "b"),
        None,
        5,
        "text",
        b"0123456789abcdef",
        object(),
        np.zeros(1, [("x", "f8"), ("z", "f8")])[0],
    ],
    ids=lambda given: type(given).__name__,
)
def test_put_refuses_and_changes_nothing(points: sc.ObjectStore[Point], given: Any) -> None:
    points[1] = Point(1, 2)
    for key in (1, 2):
        with pytest.raises((TypeError, ValueError)):
            points.put(key, given)
        with pytest.raises((TypeError, ValueError)):
            points.put_many([key, 3], [Point(5, 6), given])
        with pytest.raises((TypeError, ValueError)):
            points.update({3: Point(1, 1), key: given})
    assert points.records().tolist() == [(1, 2)]


def test_put_of_another_class_shows_the_fields(points: sc.ObjectStore[Point]) -> None:
    with pytest.raises(sc.SchemaError, match=r"field 'a'.*field 'x'|field 'x'.*field 'a'"):
        points.put(1, Padded())


def test_put_many_over_several_chunks(db: sc.Database, points: sc.ObjectStore[Point]) -> None:
    rows = np.zeros(3000, points.dtype)
    rows["x"] = np.arange(3000)
    points.put_many(range(3000), rows)
    assert (points.records()["x"] == np.arange(3000)).all()
    assert points[2999].x == 2999
    points[2999].y = 1
    assert points.records(2999)["y"].tolist() == [1]


def test_put_many_of_equal_keys_keeps_the_last(points: sc.ObjectStore[Point]) -> None:
    points.put_many([2, 1, 2], [(1, 1), (2, 2), (3, 3)])
    assert points.records().tolist() == [(2, 2), (3, 3)]
    points.put_many([], [])
    assert len(points) == 2
    with pytest.raises(ValueError, match="one key per record"):
        points.put_many([1, 2], [(1, 1)])


# -- records


def test_records_are_a_view_where_they_lie_back_to_back(points: sc.ObjectStore[Point]) -> None:
    points.put_many(range(10), np.ones(10, points.dtype))
    rows = points.records()
    assert rows.dtype == points.dtype
    assert rows.shape == (10,)
    assert not rows.flags.writeable
    points[3].x = 7
    assert rows["x"][3] == 7
    assert np.shares_memory(rows[2:4], points.records(2, 4))
    points[3] = Point(8, 8)
    assert points.records()["x"].tolist() == [1, 1, 1, 8, *[1] * 6]
    assert points.records(2, 5)["x"].tolist() == [1, 8, 1]


def test_records_of_nothing_and_of_array_types(db: sc.Database, points: sc.ObjectStore[Point]) -> None:
    assert points.records().shape == points.records(5, 3).shape == (0,)
    assert points.records().dtype == points.dtype
    store = db.object_store("triples", sc.Array.of(3, ctypes.c_double))
    store.put_many([1, 2], [(1, 2, 3), (4, 5, 6)])
    assert store.records()["items"].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_scan_and_get_many_give_one_row_a_record(points: sc.ObjectStore[Point]) -> None:
    points.put_many(range(100), np.ones(100, points.dtype))
    points[5] = Point(6, 6)
    assert sum(batch.values["x"].sum() for batch in points.scan(batch_size=7)) == 105
    batch = points.get_many([5, 1, 5])
    assert batch.values["x"].tolist() == [6, 1, 6]
    assert batch.offsets.tolist() == [0, 1, 2, 3]
    assert not batch.values.flags.writeable


# -- edit


def test_edit_replaces_at_commit(db: sc.Database, points: sc.ObjectStore[Point]) -> None:
    points[1] = Point(1, 2)
    with db.transaction() as txn:
        edited = txn["points"].edit(1)
        edited.x = 9
        assert points[1].x == 1
        assert txn["points"][1].x == 9
        assert txn["points"].edit(1) is edited
        assert [point.x for point in txn["points"].values()] == [9]
        assert txn["points"].records()["x"].tolist() == [9]
        assert txn["points"].get_many([1]).values["x"].tolist() == [9]
        edited.y = 8
    assert points[1] == Point(9, 8)
    edited.x = 5
    assert points[1].x == 9


def test_edit_is_forgotten_by_abort(db: sc.Database, points: sc.ObjectStore[Point]) -> None:
    points[1] = Point(1, 2)
    with db.transaction() as txn:
        txn["points"].edit(1).x = 9
        txn.abort()
    with pytest.raises(ZeroDivisionError), db.transaction() as txn:
        txn["points"].edit(1).x = 9
        raise ZeroDivisionError
    assert points[1] == Point(1, 2)


def test_edit_without_a_change_commits_nothing(db: sc.Database, points: sc.ObjectStore[Point]) -> None:
    points[1] = Point(1, 2)
    with db.snapshot() as before, db.transaction() as txn:
        txn["points"].edit(1).x = 1
        txn.commit()
        with db.snapshot() as after:
            assert after.last_commit == before.last_commit


def test_edit_needs_a_transaction_and_a_record(db: sc.Database, points: sc.ObjectStore[Point]) -> None:
    points[1] = Point(1, 2)
    with pytest.raises(sc.Error, match="transaction"):
        points.edit(1)
    with db.snapshot() as snapshot, pytest.raises(sc.Error, match="transaction"):
        snapshot["points"].edit(1)
    with db.transaction() as txn:
        with pytest.raises(sc.KeyNotFound, match="2"):
            txn["points"].edit(2)
        txn["points"][3] = Point(3, 3)
        txn["points"].edit(3).y = 4
        txn["points"].new(4, x=4)
        txn["points"].edit(4).y = 5
    assert points.records().tolist() == [(1, 2), (3, 4), (4, 5)]


@pytest.mark.parametrize("how", ["put", "put_many", "update", "new", "delete", "delete_range"])
def test_a_later_write_wins_over_an_edit(db: sc.Database, points: sc.ObjectStore[Point], how: str) -> None:
    points[1] = Point(1, 2)
    with db.transaction() as txn:
        store = txn["points"]
        edited = store.edit(1)
        edited.x = 9
        {
            "put": lambda: store.put(1, Point(3, 3)),
            "put_many": lambda: store.put_many([1], [(3, 3)]),
            "update": lambda: store.update({1: (3, 3)}),
            "new": lambda: store.new(1, x=3, y=3),
            "delete": lambda: store.delete(1),
            "delete_range": lambda: store.delete_range(0, 5),
        }[how]()
        edited.x = 10
    assert points.records().tolist() == ([] if how.startswith("delete") else [(3, 3)])


def test_objects_put_by_a_transaction_are_its_private_copies(
    db: sc.Database, points: sc.ObjectStore[Point]
) -> None:
    with db.transaction() as txn:
        store = txn["points"]
        store[1] = Point(1, 2)
        store[1].x = 5
        assert store[1].x == 5
        made = store.new(2, x=7)
        made.y = 8
        assert store[2].y == 8
    assert points.records().tolist() == [(5, 2), (7, 8)]
    made.x = 9
    assert points[2].x == 9


# -- refused types


def node_type() -> type[ctypes.Structure]:
    class Node(ctypes.Structure):
        pass

    Node._fields_ = [("value", ctypes.c_int), ("follows", ctypes.POINTER(Node))]
    return Node


@pytest.mark.parametrize(
    ("cls", "field"),
    [
        (sc.Object.of(a=ctypes.c_int, b=ctypes.py_object), "b"),
        (sc.Object.of(a=ctypes.c_void_p), "a"),
        (sc.Object.of(a=ctypes.c_char_p), "a"),
        (sc.Object.of(a=ctypes.c_wchar_p), "a"),
        (sc.Object.of(a=ctypes.CFUNCTYPE(None)), "a"),
        (sc.Object.of(a=Point, b=sc.Object.of(deep=ctypes.POINTER(ctypes.c_int))), "deep"),
        (node_type(), "follows"),
        (sc.Object.of(), None),
        (sc.Object.of(a=ctypes.c_int * 0), None),
        (sc.Array.of(0, ctypes.c_int), None),
        (ctypes.c_int, None),
        (np.float64, None),
        (int, None),
        ("f8", None),
        (Point(1, 2), None),
        (sc.Object, None),
    ],
    ids=repr,
)
def test_refused_types(db: sc.Database, cls: Any, field: str | None) -> None:
    with pytest.raises(sc.SchemaError, match=field):
        db.object_store("refused", cls)
    assert "refused" not in db


class Flat(sc.Object):
    _fields_ = (("number", ctypes.c_int64), ("name", ctypes.c_char * 8))


class Around(sc.Object):
    _fields_ = (("inner", Flat), ("pair", ctypes.c_int16 * 2))


@pytest.mark.parametrize("cls", [Flat, Around])
def test_whoever_holds_an_object_is_seen_by_compaction(open_db: OpenDB, cls: type[Any]) -> None:
    db = open_db()
    store = db.object_store("objects", cls)
    store.put_many(range(0, 100, 2), [cls()] * 50)
    store.put_many(range(1, 100, 2), [cls()] * 50)
    held = store[7]
    assert [len(report.skipped) for report in db.compact()] == [1]
    (held if isinstance(held, Flat) else held.inner).number = 5
    if isinstance(held, Around):
        held.inner, held.pair = Flat(5, b"abc"), (1, 2)
    assert bytes(store[7]) == bytes(held) == bytes(db.snapshot()["objects"][7]) != bytes(store[8])
    del held
    gc.collect()
    assert [len(report.skipped) for report in db.compact()] == [0]
    assert (store[7] if cls is Flat else store[7].inner).number == 5
