"""A stored type, as plain JSON, and the NumPy and ctypes types that are built from it.

A *node* describes one type, for programs and for people who look at a chunk's header::

    node  := "<f8"                                 a scalar: NumPy's dtype.str, so with its byte order
           | {"array": [3, 2], "of": node}         a fixed-size array in C order; "of" is no array
           | {"size": 16, "fields": [field, ...]}  a struct; bytes that no field covers are padding
    field := {"name": "x", "offset": 0, "type": node}

The node of an array store is an array if its items have a shape. A ``c_char`` array is a scalar, the text
``"|S8"``; ``c_char`` and ``c_char * 1`` both are ``"|S1"``, which reads back as ``c_char``. The node of a
ctypes structure also has ``"class"``, its name, and where it needs
them ``"pack"`` (``_pack_``), ``"anonymous"`` (``_anonymous_``) and ``"base"``, the node of the class that it
inherits fields from.

Nodes are read from disk, so :func:`dtype_of` believes nothing; what it accepted, :func:`ctype_of` may use.
"""

from __future__ import annotations

import ctypes
import math
import re
from typing import Any

import numpy as np

from .objects import Object

__all__ = [
    "MAX_DEPTH",
    "MAX_DIMS",
    "MAX_SIZE",
    "all_fields",
    "ctype_of",
    "dtype_of",
    "is_reserved",
    "scalar_dtype",
]

MAX_DEPTH = 32
MAX_DIMS = 16
MAX_SIZE = 2**31 - 1  # NumPy keeps item sizes in a C int

_UNITS = "Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as"
_SCALAR = re.compile(
    r"[<>|](?:b1|[iu][1248]|f[248]|c8|c16|[SV][1-9][0-9]{0,9}|U[1-9][0-9]{0,8}"
    rf"|[mM]8\[(?:[1-9][0-9]{{0,9}})?(?:{_UNITS})\])"
)
_CTYPES: dict[str, type[Any]] = {
    **{"b1": ctypes.c_bool, "S1": ctypes.c_char, "f4": ctypes.c_float, "f8": ctypes.c_double},
    **{"i1": ctypes.c_int8, "i2": ctypes.c_int16, "i4": ctypes.c_int32, "i8": ctypes.c_int64},
    **{"u1": ctypes.c_uint8, "u2": ctypes.c_uint16, "u4": ctypes.c_uint32, "u8": ctypes.c_uint64},
}
# A field of such a name would change what ctypes makes of the class.
_CTYPES_NAMES = frozenset(
    f"_{word}_"
    for word in (
        *("fields", "pack", "anonymous", "align", "layout", "swappedbytes", "abstract"),
        *("length", "type", "b_base", "b_needsfree"),
    )
)


def is_reserved(name: str) -> bool:
    """Whether Python or ctypes would give a meaning of its own to a field of this name."""
    return name in _CTYPES_NAMES or (name.startswith("__") and name.endswith("__"))


def scalar_dtype(text: str) -> np.dtype[Any]:
    """Build the dtype of a scalar node, or raise ValueError or TypeError."""
    _require(_SCALAR.fullmatch(text) is not None, "a scalar type such as '<f8'")
    dtype = np.dtype(text)
    _require(dtype.str == text, f"a scalar type in NumPy's own spelling, {dtype.str!r}")
    return dtype


def dtype_of(node: object, depth: int = 0) -> np.dtype[Any]:
    """Build the dtype that a node describes.

    Parameters
    ----------
    node : object
        Anything at all.
    depth : int
        How many nodes this one lies in.

    Raises
    ------
    ValueError, TypeError
        If it is not a node, or asks for more than NumPy can do.
    """
    _require(depth <= MAX_DEPTH, f"a type nested at most {MAX_DEPTH} deep")
    if isinstance(node, str):
        return scalar_dtype(node)
    _require(isinstance(node, dict), "a type")
    assert isinstance(node, dict)
    if "array" in node:
        return _array_dtype(node, depth)
    return _struct_dtype(node, depth)


def ctype_of(node: Any) -> type[Any]:
    """Build the ctypes type that a node describes, which :func:`dtype_of` accepted.

    Structures derive from `Object`. Byte order is that of each field, so they never need to derive from
    ``BigEndianStructure``.

    Raises
    ------
    ValueError, TypeError, AttributeError
        If no ctypes type is like that.
    """
    if isinstance(node, str):
        return _simple_ctype(node)
    if "array" in node:
        # c_char * 1 * n is n texts of one byte, c_char * n would be one of n.
        item = ctypes.c_char * 1 if node["of"] == "|S1" else ctype_of(node["of"])
        for length in reversed(node["array"]):
            item = item * length
        return item
    return _struct_ctype(node)


def all_fields(node: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the fields of a struct node, inherited ones first."""
    inherited = all_fields(node["base"]) if "base" in node else []
    return [*inherited, *node["fields"]]


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def _is_int(number: object, low: int, high: int) -> bool:
    return type(number) is int and low <= number <= high


def _is_name(name: object) -> bool:
    """Whether a name can be stored in UTF-8 and be the name of a class or of a field."""
    return isinstance(name, str) and bool(name) and "\0" not in name and name.isprintable()


def _array_dtype(node: dict[str, Any], depth: int) -> np.dtype[Any]:
    shape = node["array"]
    _require(isinstance(shape, list) and 0 < len(shape) <= MAX_DIMS, f"1 to {MAX_DIMS} dimensions")
    _require(all(_is_int(length, 1, MAX_SIZE) for length in shape), "lengths above zero")
    item = dtype_of(node.get("of"), depth + 1)
    _require(math.prod(shape) * item.itemsize <= MAX_SIZE, f"at most {MAX_SIZE} bytes")
    return np.dtype((item, tuple(shape)))


def _struct_dtype(node: dict[str, Any], depth: int) -> np.dtype[Any]:
    formats = _check_struct(node, depth)
    fields = all_fields(node)
    names, offsets = [field["name"] for field in fields], [field["offset"] for field in fields]
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": node["size"]})


def _check_struct(node: object, depth: int) -> list[np.dtype[Any]]:
    """Check a struct and the classes it inherits from; return the dtypes of all fields."""
    _require(isinstance(node, dict) and depth <= MAX_DEPTH, "a struct")
    assert isinstance(node, dict)
    _require(_is_int(node.get("size"), 1, MAX_SIZE), f"a size of 1 to {MAX_SIZE} bytes")
    _require(_is_name(node.get("class", "ok")), "the name of a class")
    _require(_is_int(node.get("pack", 1), 1, 2**15), "a packing of at least 1")
    anonymous, fields = node.get("anonymous", []), node.get("fields")
    _require(isinstance(anonymous, list) and all(map(_is_name, anonymous)), "names of anonymous fields")
    _require(isinstance(fields, list) and len(fields) > 0, "fields")
    inherited = _check_struct(node["base"], depth + 1) if "base" in node else []
    return inherited + [_check_field(field, depth) for field in fields or ()]


def _check_field(field: object, depth: int) -> np.dtype[Any]:
    _require(isinstance(field, dict) and _is_name(field.get("name")), "a field with a name")
    assert isinstance(field, dict)
    _require(_is_int(field.get("offset"), 0, MAX_SIZE), "the offset of a field")
    return dtype_of(field.get("type"), depth + 1)


def _simple_ctype(text: str) -> type[Any]:
    order, code = text[0], text[1:]
    if code[0] == "S" and code != "S1":
        return ctypes.c_char * int(code[1:])
    _require(code in _CTYPES, f"a type that ctypes has, not {text!r}")
    ctype: Any = _CTYPES[code]
    if order == "|":
        return ctype  # type: ignore[no-any-return]
    return ctype.__ctype_be__ if order == ">" else ctype.__ctype_le__  # type: ignore[no-any-return]


def _struct_ctype(node: dict[str, Any]) -> type[Any]:
    _require("class" in node, "the name of a class")
    base = _struct_ctype(node["base"]) if "base" in node else Object
    _require(not any(is_reserved(field["name"]) for field in node["fields"]), "names free to use")
    body: dict[str, Any] = {"_anonymous_": node["anonymous"]} if "anonymous" in node else {}
    if node.get("pack", 0) != getattr(base, "_pack_", 0):
        # The layout is the only one that packs; Python 3.14 wants it named.
        body |= {"_pack_": node.get("pack", 0), "_layout_": "ms"}
    body["_fields_"] = [(field["name"], ctype_of(field["type"])) for field in node["fields"]]
    return type(node["class"], (base,), body)
