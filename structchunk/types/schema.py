"""What a store holds: NumPy dtype or ctypes layout to stored schema and back.

The stored form is a *descriptor*: ``{"kind": "array", "type": node}``, or the same with ``"object"``.
:mod:`types.descriptor` has the grammar of nodes, :mod:`types.describe` what is refused and why.
An object store of an array type has the name of that type beside it, as ``"class"``. A type is accepted
only if its descriptor, read back, describes itself.
"""

from __future__ import annotations

import ctypes
import operator
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import CorruptionError, SchemaError
from .describe import ctype_node, dtype_node, refuse, structure_of
from .descriptor import all_fields, ctype_of, dtype_of
from .objects import Array

__all__ = [
    "ITEMS",
    "Schema",
    "array_schema",
    "check_same",
    "explain_difference",
    "object_schema",
    "readable",
    "schema_from_descriptor",
]

ITEMS = "items"
"""The one field in the dtype of an array type: so n records always are an array of shape (n,)."""

_CDATA: Any = ctypes.Structure.__base__
_NUMBERS = frozenset(np.dtype(f"{order}{code}").str for code in "?bhilqBHILQefdFD" for order in "<>")
"""The scalars of which there are few, and that can be stored."""
_NOT_READ_BACK = (TypeError, ValueError, KeyError, AttributeError, OverflowError)


@dataclass(frozen=True, eq=False)
class Schema:
    """The type of the records of one store.

    Two schemas are equal if they are of one kind and lay out the same named fields at the same bytes. Names
    of classes are labels: renaming a class, or writing inherited fields out, does not change its schema.

    Attributes
    ----------
    kind : str
        ``"array"`` or ``"object"``.
    dtype : numpy.dtype
        Of one item of an array store, of a sub-array if items have a shape; of one record of an object store,
        always a structured one (that of an array type has the one field ``"items"``).
    ctype : type or None
        The ctypes type that it was made from, or one that was rebuilt; None if there was none.
    descriptor : dict
        Plain JSON, to be stored. Not to be changed.
    """

    kind: str
    dtype: np.dtype[Any]
    ctype: type[Any] | None
    descriptor: dict[str, Any]

    @property
    def item_size(self) -> int:
        """Bytes of one item, or of one object."""
        return self.dtype.itemsize

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schema):
            return NotImplemented
        return self is other or (self.kind == other.kind and _outline(self) == _outline(other))

    def __hash__(self) -> int:
        return hash((self.kind, *_outline(self)))


def array_schema(dtype: object, shape: object = ()) -> Schema:
    """Return the schema of an array store.

    Parameters
    ----------
    dtype : dtype-like or ctypes type
        Type of one item: whatever ``np.dtype`` takes, or a ctypes structure or simple type.
    shape : int or tuple of int
        Of one item, which then is an array of that type.

    Raises
    ------
    SchemaError
        If items of this type cannot be stored; names the field.

    Notes
    -----
    Byte order and time units are kept. A dtype's metadata and alignment flag do not change its bytes, and
    are dropped.
    """
    if dtype is None:
        raise SchemaError("None is not a dtype (NumPy would take it for float64): name one")
    if shape != ():
        return _checked("array", _with_shape(array_schema(dtype).dtype, shape))
    if isinstance(dtype, type) and issubclass(dtype, _CDATA):
        return _checked("array", dtype)
    try:
        wanted: np.dtype[Any] = np.dtype(dtype)  # type: ignore[call-overload]
    except (TypeError, ValueError, SyntaxError) as error:
        raise SchemaError(f"{dtype!r} is not a NumPy dtype or a ctypes type: {error}") from error
    return _scalar_schema(wanted.str) if wanted.str in _NUMBERS else _checked("array", wanted)


def _with_shape(dtype: np.dtype[Any], shape: Any) -> np.dtype[Any]:
    """Return the type of arrays of a shape; refuse what is no shape."""
    try:
        lengths = tuple(map(operator.index, shape)) if isinstance(shape, Iterable) else (operator.index(shape),)
    except TypeError as error:
        raise SchemaError(f"a shape is a tuple of integers, found {shape!r}") from error
    if any(length < 1 for length in lengths):
        raise SchemaError(f"items of the shape {lengths} have no size: each length is at least 1")
    try:
        return np.dtype((dtype.base, lengths + dtype.shape))
    except (TypeError, ValueError) as error:
        raise SchemaError(f"NumPy has no type for items of {dtype} of the shape {lengths}: {error}") from error


def object_schema(cls: object) -> Schema:
    """Return the schema of an object store.

    Parameters
    ----------
    cls : type or numpy.dtype
        A ctypes ``Structure`` or array type of fixed size; `Object` and `Array` are such. Or a dtype with fields,
        for which an `Object` subclass is made.

    Raises
    ------
    SchemaError
        If its instances cannot be stored; names the field.

    Notes
    -----
    Integers are stored by size, so that ``c_long`` is an int64 where it has 8 bytes. Arrays of ``c_char``
    are texts: ``c_char * 8`` has the dtype ``S8``.
    """
    return _checked("object", structure_of(cls) if isinstance(cls, np.dtype) else cls)


def schema_from_descriptor(descriptor: object, where: str) -> Schema:
    """Return the schema that a descriptor from disk describes.

    Parameters
    ----------
    descriptor : object
        Decoded JSON of any shape.
    where : str
        The file that it was read from.

    Returns
    -------
    Schema
        Equal to the one whose descriptor was stored, with an equivalent ctypes class if it had one.

    Raises
    ------
    CorruptionError
        If it is not the descriptor of a schema.
    """
    try:
        text = _scalar_in(descriptor)
        return _scalar_schema(text) if text else _schema(descriptor)
    except _NOT_READ_BACK as error:
        expected = f"a stored schema (one with {error})"
        raise CorruptionError(where, found=_abbreviated(descriptor), expected=expected) from error


def _scalar_in(descriptor: object) -> str:
    """Return the type of scalars that a descriptor names, and nothing else; or ""."""
    if not isinstance(descriptor, dict) or descriptor.keys() != {"kind", "type"}:
        return ""
    text = descriptor["type"]
    return text if descriptor["kind"] == "array" and isinstance(text, str) else ""


@lru_cache
def _scalar_schema(text: str) -> Schema:
    """Return the schema of an array store of scalars, made once for all stores of them; or raise as `_schema`."""
    return _schema({"kind": "array", "type": text})


def explain_difference(stored: Schema, asked: Schema) -> str:
    """Say field by field how two schemas differ.

    Parameters
    ----------
    stored, asked : Schema
        What the store has, and what somebody tried to open it as.

    Returns
    -------
    str
        One clause for each difference, joined by ``"; "``.
    """
    if stored.kind != asked.kind:
        return f"stored as an {stored.kind} store, asked for as an {asked.kind} store"
    old, new = readable(stored), readable(asked)
    paths = [path for path in {**old, **new} if path] + [""]
    differences = [_difference(path, old.get(path), new.get(path)) for path in paths]
    found = [difference for difference in differences if difference]
    if not found and list(old) != list(new):
        found = [f"fields stored in the order {', '.join(filter(None, old))}, asked for in another"]
    return "; ".join(found) or "no difference"


def check_same(name: str, stored: Schema, asked: Schema) -> None:
    """Raise a `SchemaError` unless the type of the store `name` is the one asked for."""
    if stored != asked:
        raise SchemaError(f"store {name!r} is of another type: {explain_difference(stored, asked)}")


def _checked(kind: str, type_: Any) -> Schema:
    """Return the schema of a type, if what is stored of it reads back as that type."""
    descriptor = _descriptor(kind, type_)
    try:
        rebuilt = _schema(descriptor)
    except _NOT_READ_BACK as error:
        raise SchemaError(f"{type_!r} cannot be stored, because it cannot be read back: {error}") from error
    if isinstance(type_, np.dtype) and rebuilt.dtype != type_:
        refuse("", type_, "it does not read back as itself")
    return Schema(kind, rebuilt.dtype, type_ if rebuilt.ctype else None, descriptor)


def _descriptor(kind: str, type_: Any) -> dict[str, Any]:
    """Describe a dtype or ctypes type, or refuse it."""
    is_ctype = isinstance(type_, type)
    is_array = is_ctype and issubclass(type_, ctypes.Array)
    if kind == "object" and not (is_array or (is_ctype and issubclass(type_, ctypes.Structure))):
        why = "an object store holds instances of a ctypes Structure or array type; np.dtype([...]) makes one, too"
        refuse("", type_, why)
    if kind == "array" and is_array:
        refuse("", type_, "an item is no ctypes array: give the type of its items, and shape=(length,)")
    label = {"class": type_.__name__} if is_array else {}
    return {"kind": kind, **label, "type": ctype_node(type_, "") if is_ctype else dtype_node(type_, "")}


def _schema(descriptor: Any) -> Schema:
    """Build a schema from what may be a descriptor, or raise one of `_NOT_READ_BACK`."""
    if not isinstance(descriptor, dict) or descriptor.get("kind") not in ("array", "object"):
        raise ValueError("a descriptor has the kind 'array' or 'object'")
    kind, node = descriptor["kind"], descriptor.get("type")
    dtype = dtype_of(node)
    ctype = _ctype(kind, node, descriptor.get("class"))
    if ctype is not None and issubclass(ctype, ctypes.Array):
        dtype = np.dtype([(ITEMS, dtype)])
    canonical = _descriptor(kind, ctype or dtype)
    if canonical != descriptor:
        raise ValueError("a descriptor describes itself")
    return Schema(kind, dtype, ctype, canonical)


def _ctype(kind: str, node: Any, label: Any) -> type[Any] | None:
    """Build the ctypes type of a store from a node that is known to be one, if it has one."""
    if isinstance(node, dict) and "fields" in node:
        return ctype_of(node) if kind == "object" or "class" in node else None
    if kind == "array":
        return None
    array: Any = ctypes.c_char * 1 if node == "|S1" else ctype_of(node)
    return type(label, (Array,), {"_length_": array._length_, "_type_": array._type_})


def readable(schema: Schema) -> dict[str, str]:
    """Return what is at each path of a type, in words; the empty path is the whole."""
    return {path: f"{what} at byte {start}" if path else what for path, what, start in _outline(schema)}


def _difference(path: str, old: str | None, new: str | None) -> str:
    if old == new:
        return ""
    name = f"field {path!r}" if path else "each item"
    if new is None:
        return f"{name}: stored {old}, not asked for"
    return f"{name}: {f'stored {old}' if old else 'not stored'}, asked for {new}"


def _outline(schema: Schema) -> tuple[tuple[str, str, int], ...]:
    return tuple(_parts(schema.descriptor["type"]))


def _parts(node: Any, path: str = "", start: int = 0) -> Iterator[tuple[str, str, int]]:
    """Yield (path, type, byte) of all that the layout consists of, names of classes left out.

    Two types lay out their bytes alike exactly if their outlines are equal.

    Parameters
    ----------
    node : node
        A valid one.
    path : str
        Where it lies, as ``"a.b[].c"``; empty for the whole.
    start : int
        The byte at which it lies.
    """
    if isinstance(node, str):
        yield path, _scalar_name(node), start
    elif "array" in node and not path and isinstance(node["of"], str):
        yield path, f"{_scalar_name(node['of'])} of shape {tuple(node['array'])}", start
    elif "array" in node:
        yield path, f"array {node['array']}", start
        yield from _parts(node["of"], f"{path}[]", start)
    else:
        yield path, f"struct of {node['size']} bytes", start
        for field in all_fields(node):
            inner = f"{path}.{field['name']}" if path else field["name"]
            yield from _parts(field["type"], inner, start + field["offset"])


def _scalar_name(text: str) -> str:
    """Spell a scalar type as people do, without losing anything."""
    dtype = np.dtype(text)
    name = text[1:] if dtype.kind in "SUV" else dtype.name
    return f"big-endian {name}" if text[0] == ">" else name


def _abbreviated(value: object) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # an integer of more digits than Python will print
        return f"a {type(value).__name__} too large to show"
