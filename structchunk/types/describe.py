"""Types as nodes of a descriptor, or a `SchemaError` that says which field cannot be stored and why."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np

from ..errors import SchemaError
from .descriptor import MAX_DEPTH, MAX_DIMS, MAX_SIZE, ctype_of, dtype_of, is_reserved, scalar_dtype
from .objects import fields_of

__all__ = ["ctype_node", "dtype_node", "refuse", "structure_of"]

_CODES = {"?": "b", "c": "S", "f": "f", "d": "f"} | dict.fromkeys("bhilq", "i") | dict.fromkeys("BHILQ", "u")
_POINTER_CODES = frozenset("PzZOX")


def dtype_node(dtype: np.dtype[Any], path: str, depth: int = 0) -> Any:
    """Describe a dtype, or refuse it."""
    _check_depth(dtype, path, depth)
    if dtype.subdtype is not None:
        item, shape = dtype.subdtype
        return _array_node(dtype, path, shape, dtype_node(item, path, depth + 1))
    if dtype.names is not None:
        return _fields_node(dtype, path, depth)
    if dtype.hasobject:
        refuse(path, dtype, "it holds references to objects in memory")
    if dtype.char in "gG":
        refuse(path, dtype, "long doubles differ from machine to machine")
    if dtype.itemsize == 0:
        refuse(path, dtype, "it has no size: give a width, as in 'S8' or 'U8'")
    if dtype.kind in "mM" and np.datetime_data(dtype)[0] == "generic":
        refuse(path, dtype, "it has no unit: give one, as in 'M8[ns]'")
    return _scalar_node(dtype, path)


def _scalar_node(dtype: np.dtype[Any], path: str) -> str:
    try:
        known = scalar_dtype(dtype.str) == dtype
    except (TypeError, ValueError):
        known = False
    if not known:
        refuse(path, dtype, "it does not read back as itself")
    return str(dtype.str)


def _fields_node(dtype: np.dtype[Any], path: str, depth: int) -> dict[str, Any]:
    assert dtype.names is not None and dtype.fields is not None
    fields: list[dict[str, Any]] = []
    end = 0
    for name in dtype.names:
        part, offset, *title = dtype.fields[name]
        inner = _join(path, name)
        if title:
            refuse(inner, part, "titles of fields are not stored")
        fields.append({"name": name, "offset": offset, "type": dtype_node(part, inner, depth + 1)})
    if not fields:
        refuse(path, dtype, "it has no fields")
    for field in sorted(fields, key=lambda field: field["offset"]):
        if field["offset"] < end:
            refuse(_join(path, field["name"]), dtype, "it overlaps another field")
        end = field["offset"] + dtype.fields[field["name"]][0].itemsize
    return {"size": dtype.itemsize, "fields": fields}


def ctype_node(ctype: Any, path: str, depth: int = 0) -> Any:
    """Describe a ctypes type, or refuse it."""
    _check_depth(ctype, path, depth)
    if issubclass(ctype, ctypes.Structure):
        return _class_node(ctype, path, depth)
    if issubclass(ctype, ctypes.Array):
        return _ctype_array_node(ctype, path, depth)
    if issubclass(ctype, ctypes.Union):
        refuse(path, ctype, "nothing says which member of a union is meant")
    return _simple_node(ctype, path)


def _simple_node(ctype: Any, path: str) -> str:
    code = getattr(ctype, "_type_", None)
    if not issubclass(ctype, ctypes._SimpleCData) or code in _POINTER_CODES:
        refuse(path, ctype, "pointers mean nothing in a file")
    if code == "g":
        refuse(path, ctype, "long doubles differ from machine to machine")
    if code not in _CODES:
        refuse(path, ctype, "its size or meaning differs from machine to machine")
    is_big = getattr(ctype, "__ctype_be__", None) is ctype
    return str(np.dtype(f"{'>' if is_big else '<'}{_CODES[code]}{ctypes.sizeof(ctype)}").str)


def _ctype_array_node(ctype: Any, path: str, depth: int) -> Any:
    if ctype._type_ is ctypes.c_char and ctype._length_ > 0:
        return f"|S{ctype._length_}"
    return _array_node(ctype, path, (ctype._length_,), ctype_node(ctype._type_, path, depth + 1))


def _class_node(cls: Any, path: str, depth: int) -> dict[str, Any]:
    """Describe a structure: its own fields, and those it inherits as its base."""
    _check_depth(cls, path, depth)
    levels = [level for level in cls.__mro__ if level.__dict__.get("_fields_")]
    if not levels:
        refuse(path, cls, "it has no fields")
    level, *bases = levels
    twice = [name for name, count in Counter(name for name, _ in fields_of(cls)).items() if count > 1]
    if twice:
        refuse(_join(path, twice[0]), cls, "two fields have this name")
    node: dict[str, Any] = {"class": cls.__name__, "size": ctypes.sizeof(cls)}
    if pack := getattr(level, "_pack_", 0):
        node["pack"] = pack
    if anonymous := level.__dict__.get("_anonymous_"):
        node["anonymous"] = list(anonymous)
    if not all(issubclass(bases[0], base) for base in bases):
        refuse(path, cls, "it inherits fields from two classes, which lie over each other")
    if bases:
        node["base"] = _class_node(bases[0], path, depth + 1)
    return {**node, "fields": [_field_node(level, field, path, depth) for field in level._fields_]}


def _field_node(cls: Any, field: tuple[Any, ...], path: str, depth: int) -> dict[str, Any]:
    name, ctype, *bits = field
    inner = _join(path, name)
    if bits:
        refuse(inner, ctype, "bit fields are laid out differently by different compilers")
    if is_reserved(name):
        refuse(inner, ctype, "ctypes or Python gives this name a meaning of its own")
    return {"name": name, "offset": getattr(cls, name).offset, "type": ctype_node(ctype, inner, depth + 1)}


def structure_of(dtype: np.dtype[Any]) -> type[Any]:
    """Return an `Object` subclass that is laid out as a structured dtype, or refuse it."""
    if dtype.names is None:
        why = "an object store holds instances of a ctypes Structure or array type: give a dtype with fields"
        refuse("", dtype, f"{why}, or make an array store")
    made: type[Any] = ctype_of(_structure_node(dtype_node(dtype, ""), ""))
    return made


def _structure_node(node: Any, path: str) -> Any:
    """Return the node of a dtype as the node of a ctypes type of the same layout."""
    if isinstance(node, str):
        _ctype_like(node, path)
        return node
    if "array" in node:
        return {**node, "of": _structure_node(node["of"], path)}
    fields = [
        {**field, "type": _structure_node(field["type"], _join(path, field["name"]))} for field in node["fields"]
    ]
    for packing in ({}, {"pack": 1}):
        made = {"class": "Record", "size": node["size"], **packing, "fields": fields}
        if ctype_node(_ctype_like(made, path), path) == made:
            return made
    why = "ctypes would lay its fields out in another way; make the dtype with align=True, or packed"
    refuse(path, dtype_of(node), why)


def _ctype_like(node: Any, path: str) -> type[Any]:
    try:
        return ctype_of(node)
    except (TypeError, ValueError, AttributeError) as error:
        why = f"no ctypes type is like it ({error}); an array store takes the dtype as it is"
        refuse(path, dtype_of(node), why)


def _array_node(kind: object, path: str, shape: Iterable[int], item: Any) -> dict[str, Any]:
    lengths = list(shape)
    if isinstance(item, dict) and "array" in item:
        lengths, item = lengths + item["array"], item["of"]
    if 0 in lengths:
        refuse(path, kind, "it has no size")
    if len(lengths) > MAX_DIMS:
        refuse(path, kind, f"it has more than {MAX_DIMS} dimensions")
    return {"array": lengths, "of": item}


def _check_depth(kind: Any, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        refuse(path, kind, f"it is nested more than {MAX_DEPTH} deep")
    if isinstance(kind, type) and _size(kind) > MAX_SIZE:
        refuse(path, kind, f"it has more than {MAX_SIZE} bytes")


def _size(ctype: type[Any]) -> int:
    try:
        return ctypes.sizeof(ctype)
    except TypeError:  # ctypes.Structure itself, and other abstract classes
        return 0


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def refuse(path: str, kind: object, why: str) -> NoReturn:
    """Raise the `SchemaError` for the type `kind` of the field at `path` (empty for the whole)."""
    name = kind.__name__ if isinstance(kind, type) else repr(kind)
    raise SchemaError(f"{f'field {path!r} of type' if path else 'type'} {name} cannot be stored: {why}")
