"""The stored schema: what reads back equal, what is refused, and what damaged descriptors do."""

from __future__ import annotations

import ctypes
import json
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from structchunk.errors import CorruptionError, SchemaError
from structchunk.types.objects import Array, Object
from structchunk.types.schema import (
    Schema,
    array_schema,
    explain_difference,
    object_schema,
    schema_from_descriptor,
)

FEW = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


class Inner(Object):
    _fields_ = [("u", ctypes.c_uint8), ("v", ctypes.c_double * 3)]


class Plain(ctypes.Structure):
    _fields_ = [("x", ctypes.c_double), ("n", ctypes.c_long)]


class Base(Object):
    _fields_ = [("a", ctypes.c_double), ("b", ctypes.c_uint8)]


class Derived(Base):
    _fields_ = [("c", ctypes.c_uint8), ("inner", Inner)]


class Packed(Object):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("a", ctypes.c_uint8), ("b", ctypes.c_uint64)]


class NaturalOnPacked(Packed):
    _pack_ = 0
    _fields_ = [("c", ctypes.c_uint8), ("d", ctypes.c_uint64)]


class Big(ctypes.BigEndianStructure):
    _fields_ = [("a", ctypes.c_uint32), ("v", ctypes.c_float * 2), ("inner", Inner), ("t", ctypes.c_char * 5)]


class Anonymous(Object):
    _anonymous_ = ["inner"]
    _fields_ = [("inner", Inner), ("z", ctypes.c_int16)]


class Texts(Object):
    _fields_ = [
        ("c", ctypes.c_char),
        ("c1", ctypes.c_char * 1),
        ("t", ctypes.c_char * 8),
        ("ts", ctypes.c_char * 8 * 3),
        ("cs", ctypes.c_char * 1 * 3),
    ]


class Matrix(Object):
    _fields_ = [("m", ctypes.c_int16 * 3 * 2), ("inners", Inner * 2 * 2), ("flag", ctypes.c_bool)]


CLASSES = [Inner, Plain, Base, Derived, Packed, NaturalOnPacked, Big, Anonymous, Texts, Matrix]
ARRAY_TYPES = [
    Array.of(3, ctypes.c_double),
    ctypes.c_double * 3,
    ctypes.c_uint16.__ctype_be__ * 2 * 3,
    ctypes.c_char * 8,
    ctypes.c_char * 1,
    Inner * 2,
    ctypes.c_char * 4 * 2,
]
DTYPES = [
    *("?", "i1", "u8", "<i4", ">i4", "f2", ">f8", "c8", ">c16", "S1", "S8", "U3", ">U3", "V5"),
    *("M8[D]", "M8[25s]", ">M8[ns]", "m8[us]"),
    float,
    np.int16,
    [("x", "f8"), ("y", ">f4")],
    np.dtype([("a", "u1"), ("b", "f8")], align=True),
    {"names": ["x", "y"], "formats": ["f8", "i2"], "offsets": [8, 0], "itemsize": 32},
    [("a b", "S3"), ("sub", [("é", "f8", (2, 3)), ("t", "M8[D]")], (4,)), ("v", "V3", (2,))],
    np.dtype((np.record, [("x", "f8")])),
]


def read_back(schema: Schema) -> Schema:
    return schema_from_descriptor(json.loads(json.dumps(schema.descriptor)), "file")


def check_round_trip(schema: Schema) -> Schema:
    again = read_back(schema)
    assert again == schema and hash(again) == hash(schema)
    assert again.descriptor == schema.descriptor
    assert again.dtype == schema.dtype and again.item_size == schema.item_size == schema.dtype.itemsize
    assert explain_difference(schema, again) == "no difference"
    assert (again.ctype is None) == (schema.ctype is None)
    return again


def offsets(cls: type) -> list[tuple[str, int, int]]:
    names = [name for level in reversed(cls.__mro__) for name, *_ in level.__dict__.get("_fields_", ())]
    return [(name, getattr(cls, name).offset, getattr(cls, name).size) for name in names]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_read_back(dtype: object) -> None:
    schema = array_schema(dtype)
    assert schema.kind == "array" and schema.ctype is None
    assert schema.dtype == np.dtype(dtype)  # type: ignore[call-overload]
    check_round_trip(schema)


@pytest.mark.parametrize("make", [array_schema, object_schema])
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_structures_read_back(cls: type, make: object) -> None:
    schema = make(cls)  # type: ignore[operator]
    assert schema.ctype is cls and schema.item_size == ctypes.sizeof(cls)
    again = check_round_trip(schema)
    assert again.ctype is not None and issubclass(again.ctype, Object)
    assert again.ctype.__name__ == cls.__name__
    assert offsets(again.ctype) == offsets(cls)
    raw = bytes(range(1, 256)) * 2
    old, new = cls.from_buffer_copy(raw), again.ctype.from_buffer_copy(raw)
    if cls is not Matrix:  # a bool of any other byte than 0 or 1 is True
        assert bytes(old) == bytes(new)
    assert new == old


@pytest.mark.parametrize("cls", ARRAY_TYPES, ids=lambda cls: cls.__name__)
def test_array_types_read_back(cls: type) -> None:
    schema = object_schema(cls)
    assert schema.dtype.names == ("items",) and schema.item_size == ctypes.sizeof(cls)
    again = check_round_trip(schema)
    assert again.ctype is not None and issubclass(again.ctype, Array)
    assert again.ctype.__name__ == cls.__name__
    raw = bytes(range(1, 200))
    assert again.ctype.from_buffer_copy(raw) == cls.from_buffer_copy(raw)


def test_golden_descriptors() -> None:
    assert array_schema("f8").descriptor == {"kind": "array", "type": "<f8"}
    assert array_schema([("x", "u1"), ("y", ">f4", (2,))]).descriptor == {
        "kind": "array",
        "type": {
            "size": 9,
            "fields": [
                {"name": "x", "offset": 0, "type": "|u1"},
                {"name": "y", "offset": 1, "type": {"array": [2], "of": ">f4"}},
            ],
        },
    }
    for made in (array_schema("f4", (384,)), array_schema(np.dtype(("f4", (384,)))), array_schema("f4", 384)):
        assert made.descriptor == {"kind": "array", "type": {"array": [384], "of": "<f4"}}
    assert array_schema([("x", "u1")], (2, 3)).descriptor == {
        "kind": "array",
        "type": {"array": [2, 3], "of": {"size": 1, "fields": [{"name": "x", "offset": 0, "type": "|u1"}]}},
    }
    assert object_schema(Derived).descriptor == {
        "kind": "object",
        "type": {
            "class": "Derived",
            "size": 56,
            "base": {
                "class": "Base",
                "size": 16,
                "fields": [
                    {"name": "a", "offset": 0, "type": "<f8"},
                    {"name": "b", "offset": 8, "type": "|u1"},
                ],
            },
            "fields": [
                {"name": "c", "offset": 16, "type": "|u1"},
                {
                    "name": "inner",
                    "offset": 24,
                    "type": {
                        "class": "Inner",
                        "size": 32,
                        "fields": [
                            {"name": "u", "offset": 0, "type": "|u1"},
                            {"name": "v", "offset": 8, "type": {"array": [3], "of": "<f8"}},
                        ],
                    },
                },
            ],
        },
    }
    assert object_schema(Packed).descriptor["type"]["pack"] == 1
    assert object_schema(Anonymous).descriptor["type"]["anonymous"] == ["inner"]
    assert object_schema(ctypes.c_char * 8).descriptor == {
        "kind": "object",
        "class": "c_char_Array_8",
        "type": "|S8",
    }


def test_texts_are_texts() -> None:
    dtype = object_schema(Texts).dtype
    assert [dtype[name].base.str for name in dtype.names or ()] == ["|S1", "|S1", "|S8", "|S8", "|S1"]
    assert dtype["ts"].shape == (3,)


def test_anonymous_fields_are_reached() -> None:
    again = read_back(object_schema(Anonymous)).ctype
    assert again is not None and again(u=7).inner.u == 7


def test_names_of_classes_are_labels() -> None:
    flat = Object.of(a=ctypes.c_double, b=ctypes.c_uint8)
    assert object_schema(flat) == object_schema(Object.of(a=ctypes.c_double, b=ctypes.c_uint8))
    assert object_schema(flat) == object_schema(Base)
    assert array_schema(Base) == array_schema(object_schema(Base).dtype)
    assert array_schema(Base) != object_schema(Base)
    assert object_schema(Base) != "x"


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ([("x", "f8")], [("x", ">f8")]),
        ([("x", "f8")], [("y", "f8")]),
        ([("x", "f8")], {"names": ["x"], "formats": ["f8"], "offsets": [0], "itemsize": 16}),
        ([("x", "f8"), ("y", "f4")], [("x", "f8")]),
        ("M8[s]", "M8[ns]"),
        ("S8", "S9"),
        ("V8", "S8"),
        ([("x", "f8", (2, 3))], [("x", "f8", (6,))]),
        ([("x", "f8", (1,))], [("x", "f8")]),
        (
            {"names": ["x", "y"], "formats": ["f8", "f8"], "offsets": [0, 8]},
            {"names": ["y", "x"], "formats": ["f8", "f8"], "offsets": [8, 0]},
        ),
    ],
)
def test_other_layouts_are_unequal(stored: object, asked: object) -> None:
    one, other = array_schema(stored), array_schema(asked)
    assert one != other
    assert explain_difference(one, other) != "no difference"


def test_explain_difference() -> None:
    stored = array_schema([("x", "f8"), ("y", "f8"), ("z", "u1"), ("s", [("t", "S3")], (2,))])
    asked = array_schema([("x", "f8"), ("y", "f4"), ("w", ">i4"), ("s", [("t", "S4")], (2,))])
    assert explain_difference(stored, asked).split("; ") == [
        "field 'y': stored float64 at byte 8, asked for float32 at byte 8",
        "field 'z': stored uint8 at byte 16, not asked for",
        "field 's': stored array [2] at byte 17, asked for array [2] at byte 16",
        "field 's[]': stored struct of 3 bytes at byte 17, asked for struct of 4 bytes at byte 16",
        "field 's[].t': stored S3 at byte 17, asked for S4 at byte 16",
        "field 'w': not stored, asked for big-endian int32 at byte 12",
        "each item: stored struct of 23 bytes, asked for struct of 24 bytes",
    ]
    assert explain_difference(array_schema("f8"), array_schema("f4")) == (
        "each item: stored float64, asked for float32"
    )
    assert "object store" in explain_difference(array_schema(Base), object_schema(Base))


class ABitField(Object):
    _fields_ = [("ok", ctypes.c_uint8), ("bad", ctypes.c_uint8, 3)]


class AUnion(ctypes.Union):
    _fields_ = [("i", ctypes.c_int), ("f", ctypes.c_float)]


class TwoOfAName(ctypes.Structure):
    _fields_ = [("bad", ctypes.c_int), ("bad", ctypes.c_double)]


class Late(ctypes.Structure):
    pass


class Aligned(ctypes.Structure):
    """As if from a Python or platform that lays it out in another way than this one."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("a", ctypes.c_uint8), ("b", ctypes.c_double)]


Aligned._pack_ = 8  # type: ignore[misc]

BAD_PARTS = [
    ctypes.POINTER(ctypes.c_int),
    ctypes.POINTER(Plain),
    ctypes.py_object,
    ctypes.CFUNCTYPE(None),
    ctypes.c_char_p,
    ctypes.c_wchar_p,
    ctypes.c_void_p,
    ctypes.c_wchar,
    ctypes.c_wchar * 4,
    ctypes.c_longdouble,
    ctypes.c_void_p * 2,
    ctypes.c_double * 0,
    ctypes.c_char * 0,
    Plain * 0,
    AUnion,
    Late,
]


@pytest.mark.parametrize("part", BAD_PARTS, ids=lambda part: part.__name__)
def test_ctypes_refused_with_the_path(part: type) -> None:
    inner = type("In", (ctypes.Structure,), {"_fields_": [("ok", ctypes.c_int), ("next", part)]})
    outer = type("Out", (Object,), {"_fields_": [("ok", ctypes.c_int), ("a", inner)]})
    for make in (object_schema, array_schema):
        with pytest.raises(SchemaError, match=r"field 'a\.next'"):
            make(outer)
    with pytest.raises(SchemaError):
        array_schema(part)
    with pytest.raises(SchemaError):
        object_schema(part)


@pytest.mark.parametrize(
    ("cls", "match"),
    [
        (ABitField, "field 'bad'.*bit fields"),
        (TwoOfAName, "field 'bad'.*two fields"),
        (Late, "no fields"),
        (Aligned, "read back"),
        (ctypes.Structure, "no fields"),
        (Object, "no fields"),
        (Array, "no size"),
        (type("D", (Object,), {"_fields_": [("__init__", ctypes.c_int)]}), "field '__init__'"),
        (type("D", (Object,), {"_fields_": [("_b_base_", ctypes.c_int)]}), "field '_b_base_'"),
        (type("D", (Object,), {"_fields_": [("", ctypes.c_int)]}), "name"),
        (type("D", (Plain, Packed), {"_fields_": [("z", ctypes.c_int)]}), "two classes"),
        (ctypes.c_double, "Structure or array"),
        (Plain(), "Structure or array"),
        (np.dtype("f8"), "Structure or array"),
        (None, "Structure or array"),
        (ctypes.c_uint8 * 2**31, "bytes"),
    ],
)
def test_objects_refused(cls: object, match: str) -> None:
    with pytest.raises(SchemaError, match=match):
        object_schema(cls)


def nested(depth: int) -> object:
    dtype: object = "f8"
    for _ in range(depth):
        dtype = [("a", dtype)]
    return dtype


@pytest.mark.parametrize(
    ("dtype", "match"),
    [
        ("O", "objects"),
        ([("a", "i4"), ("b", [("c", "O")])], r"field 'b\.c'"),
        ([("b", "O", (2,))], "field 'b'"),
        ("g", "long double"),
        ([("b", "G")], "field 'b'.*long double"),
        ("S", "width"),
        (str, "width"),
        ("V0", "size"),
        ("M8", "unit"),
        ([("t", ">m8")], "field 't'.*unit"),
        ([], "no fields"),
        ([("a", [])], "field 'a'"),
        ([("a", "f8", (0,))], "field 'a'.*size"),
        ([("a", "S0")], "field 'a'"),
        (("f8", (3, 0)), "no size"),
        (("O", (3,)), "objects"),
        ([(("title", "x"), "f8")], "field 'x'.*title"),
        ({"names": ["x", "y"], "formats": ["i4", "i4"], "offsets": [0, 2]}, "field 'y'.*overlap"),
        ([("a\nb", "f8")], "read back"),
        ([("a", "f8", (1,) * 20)], "dimensions"),
        (None, "None"),
        ("nonsense", "not a NumPy dtype"),
        (5, "not a NumPy dtype"),
        (nested(40), "nested"),
        (ctypes.c_double * 3, "shape="),
    ],
    ids=str,
)
def test_dtypes_refused(dtype: object, match: str) -> None:
    with pytest.raises(SchemaError, match=match):
        array_schema(dtype)


@pytest.mark.skipif(np.__version__ < "2", reason="StringDType came with NumPy 2")
def test_string_dtype_refused() -> None:
    with pytest.raises(SchemaError, match="memory"):
        array_schema(np.dtypes.StringDType())


def test_simple_ctypes_are_dtypes() -> None:
    assert array_schema(ctypes.c_long).dtype == np.dtype(f"i{ctypes.sizeof(ctypes.c_long)}")
    assert array_schema(ctypes.c_double.__ctype_be__).dtype == np.dtype(">f8")
    assert array_schema(ctypes.c_long).ctype is None


def test_metadata_is_dropped() -> None:
    schema = array_schema(np.dtype("f8", metadata={"unit": "m"}))
    assert schema == array_schema("f8") and schema.dtype.metadata is None


# -- generated types


scalars = st.sampled_from([*"?bBhHiIlLqQefdFD", "S1", "S7", "U2", "V3", "M8[D]", "m8[ns]", ">i4", ">f8", ">U2"])
names = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=4)


@st.composite
def struct_dtypes(draw: st.DrawFn, parts: st.SearchStrategy[np.dtype]) -> np.dtype:
    fields = draw(st.lists(st.tuples(names, parts), min_size=1, max_size=4, unique_by=lambda field: field[0]))
    if draw(st.booleans()):
        return np.dtype(fields, align=draw(st.booleans()))
    starts, end = [], 0
    for _, part in fields:
        starts.append(end + draw(st.integers(0, 3)))
        end = starts[-1] + part.itemsize
    order = draw(st.permutations(range(len(fields))))
    return np.dtype(
        {
            "names": [fields[i][0] for i in order],
            "formats": [fields[i][1] for i in order],
            "offsets": [starts[i] for i in order],
            "itemsize": end + draw(st.integers(0, 3)),
        }
    )


def nested_dtypes(parts: st.SearchStrategy[np.dtype]) -> st.SearchStrategy[np.dtype]:
    shapes = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)
    arrays = st.tuples(parts, shapes).map(np.dtype)
    return struct_dtypes(parts | arrays)


dtypes = st.recursive(scalars.map(np.dtype), nested_dtypes, max_leaves=6)


@FEW
@given(dtypes)
def test_generated_dtypes_read_back(dtype: np.dtype) -> None:
    schema = array_schema(dtype)
    assert schema.dtype == dtype
    check_round_trip(schema)


CTYPES = [
    *(ctypes.c_bool, ctypes.c_char, ctypes.c_int8, ctypes.c_uint16, ctypes.c_int32, ctypes.c_long),
    *(ctypes.c_uint64, ctypes.c_float, ctypes.c_double, ctypes.c_size_t),
    *(ctypes.c_uint32.__ctype_be__, ctypes.c_double.__ctype_be__, ctypes.c_char * 5),
]


@st.composite
def structures(draw: st.DrawFn, parts: st.SearchStrategy[type]) -> type:
    base: type = Object
    count = 0
    for level in range(draw(st.integers(1, 2))):
        fields = []
        for part in draw(st.lists(parts, min_size=1, max_size=4)):
            fields.append((f"f{count}", part))
            count += 1
        body: dict[str, object] = {"_fields_": fields}
        if pack := draw(st.sampled_from([None, None, 0, 1, 2, 4])):
            body |= {"_pack_": pack, "_layout_": "ms"}
        base = type(f"C{level}", (base,), body)
    return base


def nested_ctypes(parts: st.SearchStrategy[type]) -> st.SearchStrategy[type]:
    arrays = st.tuples(parts, st.integers(1, 3)).map(lambda pair: pair[0] * pair[1])
    return structures(parts | arrays)


classes = structures(st.recursive(st.sampled_from(CTYPES), nested_ctypes, max_leaves=6))


@FEW
@given(classes, st.data())
def test_generated_classes_read_back(cls: type, data: st.DataObject) -> None:
    schema = object_schema(cls)
    again = check_round_trip(schema)
    assert again.ctype is not None
    assert offsets(again.ctype) == offsets(cls)
    raw = data.draw(st.binary(min_size=ctypes.sizeof(cls), max_size=ctypes.sizeof(cls)))
    shown = [repr(ctype.from_buffer_copy(raw)) for ctype in (cls, again.ctype)]
    # A c_char * 1 reads back as a c_char, which shows its NUL.
    assert len({text.replace(r"b'\x00'", "b''") for text in shown}) == 1
    # NumPy must see each plain field where ctypes sees it.
    record, instance = np.frombuffer(raw, schema.dtype)[0], cls.from_buffer_copy(raw)
    for name in schema.dtype.names or ():
        value = getattr(instance, name)
        if isinstance(value, (int, float)):
            assert np.array_equal(record[name], value, equal_nan=isinstance(value, float))


# -- damaged descriptors

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
words = st.sampled_from(
    ["kind", "type", "class", "size", "fields", "name", "offset", "array", "of", "base", "pack", "anonymous"]
)
almost = st.recursive(
    st.sampled_from(["array", "object", "<f8", "|S1", "|O", "<f16", "", "x", 0, 1, 8, -1, 2**40, True, None]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=5),
    max_leaves=15,
)
SCHEMAS = [*map(array_schema, DTYPES), *map(object_schema, CLASSES), *map(object_schema, ARRAY_TYPES)]
VALID = [schema.descriptor for schema in SCHEMAS]


def only_schema_or_corruption(descriptor: object) -> None:
    try:
        schema = schema_from_descriptor(descriptor, "some.chunk")
    except CorruptionError as error:
        assert error.path == "some.chunk" and len(str(error)) < 1000
        pickle.loads(pickle.dumps(error))
    else:
        assert schema.descriptor == descriptor
        check_round_trip(schema)


@FEW
@given(json_values | almost)
def test_arbitrary_json(descriptor: object) -> None:
    only_schema_or_corruption(descriptor)


@FEW
@given(st.sampled_from(["array", "object"]), almost)
def test_almost_descriptors(kind: str, node: object) -> None:
    only_schema_or_corruption({"kind": kind, "type": node})


def places(node: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    inside: list[tuple[object, ...]] = [path]
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        inside += places(child, (*path, key))
    return inside


def mutated(descriptor: object, path: tuple[object, ...], value: object, action: str) -> object:
    if not path:
        return value
    copy = json.loads(json.dumps(descriptor))
    target = copy
    for key in path[:-1]:
        target = target[key]
    if action == "delete":
        del target[path[-1]]
    elif action == "add" and isinstance(target, dict):
        target[value if isinstance(value, str) else "extra"] = value
    else:
        target[path[-1]] = value
    return copy


@settings(parent=FEW, max_examples=600)
@given(st.data())
def test_mutated_descriptors(data: st.DataObject) -> None:
    descriptor = data.draw(st.sampled_from(VALID))
    path = data.draw(st.sampled_from(places(descriptor)))
    value = data.draw(almost | json_values | st.sampled_from(VALID))
    action = data.draw(st.sampled_from(["set", "set", "delete", "add"]))
    only_schema_or_corruption(mutated(descriptor, path, value, action))


def deep(depth: int, key: str) -> object:
    node: object = "<f8"
    for _ in range(depth):
        node = {"array": [1], "of": node} if key == "of" else {"size": 8, "fields": [], key: node}
    return node


FIELD = {"name": "x", "offset": 0, "type": "<f8"}
STRUCT = {"class": "P", "size": 8, "fields": [FIELD]}


@pytest.mark.parametrize(
    "node",
    [
        deep(100_000, "of"),
        deep(100_000, "base"),
        {"array": [2**31] * 16, "of": "<f8"},
        {"array": [1] * 10_000, "of": "<f8"},
        {"array": [2**31 - 1, 2**31 - 1], "of": "|u1"},
        {"array": [2, True], "of": "<f8"},
        {"array": [2.0], "of": "<f8"},
        {"array": [2], "of": {"array": [2], "of": "<f8"}},
        *(
            "|S4294967295",
            "<U4294967295",
            "|O",
            "O",
            "<f16",
            "<g",
            "=f8",
            "f8",
            "<f8,<f8",
            "|V0",
            "<M8[0s]",
            "<M8",
        ),
        *("<M8[99999999999s]", "<M8[s/2]", "|S1\n", "<u1", "|f8", "float64", "(2,)f8", "x" * 10**6),
        {**STRUCT, "size": 4},
        {**STRUCT, "size": True},
        {**STRUCT, "size": 2**31},
        {**STRUCT, "size": 16},
        {**STRUCT, "pack": 0},
        {**STRUCT, "pack": True},
        {**STRUCT, "class": ""},
        {**STRUCT, "class": "a\0b"},
        {**STRUCT, "class": "\ud800"},
        {**STRUCT, "anonymous": ["x"]},
        {**STRUCT, "anonymous": ["y"]},
        {**STRUCT, "anonymous": []},
        {**STRUCT, "extra": 1},
        {**STRUCT, "base": STRUCT},
        {**STRUCT, "fields": []},
        {**STRUCT, "fields": [FIELD, FIELD], "size": 16},
        {**STRUCT, "fields": [{**FIELD, "offset": 1}], "size": 16},
        {**STRUCT, "fields": [{**FIELD, "offset": -1}]},
        {**STRUCT, "fields": [{**FIELD, "offset": 0.0}]},
        {**STRUCT, "fields": [{**FIELD, "name": "__init__"}]},
        {**STRUCT, "fields": [{**FIELD, "name": "_fields_"}]},
        {**STRUCT, "fields": [{**FIELD, "type": "<M8[s]"}]},
        {**STRUCT, "fields": [{**FIELD, "name": "x\ud800"}]},
        {**STRUCT, "fields": [{**FIELD, "type": {"size": 8, "fields": [FIELD]}}]},
        {"class": "P", "size": 12, "fields": [FIELD, {**FIELD, "name": "y", "offset": 4}]},
        {"size": 10**5000, "fields": [FIELD]},
    ],
)
def test_crafted_nodes(node: object) -> None:
    for descriptor in (
        {"kind": "object", "type": node},
        {"kind": "array", "type": {**STRUCT, "fields": [{**FIELD, "type": node}]}},
        {"kind": "object", "class": "A", "type": node},
    ):
        with pytest.raises(CorruptionError, match="stored schema"):
            schema_from_descriptor(descriptor, "some.chunk")


def test_many_fields_do_not_hang() -> None:
    fields = [{"name": f"f{i}", "offset": 8 * i, "type": "<f8"} for i in range(5_000)]
    node = {"class": "Wide", "size": 40_000, "fields": fields}
    assert schema_from_descriptor({"kind": "object", "type": node}, "x").item_size == 40_000
    fields[17]["name"] = "f18"
    with pytest.raises(CorruptionError):
        schema_from_descriptor({"kind": "object", "type": node}, "x")
