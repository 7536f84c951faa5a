"""``Object`` and ``Array``: ctypes types that can be printed, copied and compared.

Both are plain ctypes types in every other way, so that their instances can be made over mapped bytes.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

__all__ = ["Array", "Object", "check_fields", "fields_of", "has_plain_fields", "path_of"]

_MAX_SHOWN = 32
_KINDS = {**dict.fromkeys("bhilq", "i"), **dict.fromkeys("BHILQ", "u")}


class _Probe(ctypes.Structure):
    _fields_ = (("x", ctypes.c_byte),)


_FIELD = type(_Probe.x)

_O = TypeVar("_O", bound="Object")
_A = TypeVar("_A", bound="Array")
_V = TypeVar("_V", bound="_Value")


class _Value:
    """What ``Object`` and ``Array`` add to a ctypes type."""

    __slots__ = ()
    # The value of an instance can change at any time.
    __hash__: ClassVar[None]  # type: ignore[assignment]
    __hash__ = None

    def copy(self: _V) -> _V:
        """Return an instance with the same bytes in memory of its own."""
        return type(self).from_buffer_copy(self)  # type: ignore[attr-defined, no-any-return]

    def __eq__(self, other: object) -> bool:
        """Whether `other` has the same layout, and each of its fields the same value.

        Values compare as Python compares them: a NaN differs from everything, 0.0 equals -0.0, and text
        (``c_char`` arrays) ends at its first NUL. Padding and the names of classes do not count.
        """
        if not isinstance(other, (ctypes.Structure, ctypes.Array)):
            return NotImplemented
        mine: type[object] = type(self)
        alike = mine is type(other) or _layout(mine) == _layout(type(other))
        return alike and _values(self) == _values(other)

    def __repr__(self) -> str:
        """Show all fields, nested ones too; long arrays are cut."""
        if isinstance(self, ctypes.Array):
            return type(self).__name__ + _shown_items(self)
        return _shown(self)


_StructureType: Any = type(ctypes.Structure)
_SWAPPED = ctypes.LittleEndianStructure if sys.byteorder == "big" else ctypes.BigEndianStructure
_SwappedType: Any = type(_SWAPPED)


class _ObjectType(_SwappedType):  # type: ignore[misc]
    """Makes classes whose instances have no other attributes than fields and what ``__slots__`` names.

    It derives from the type of structures in the other byte order, so that a class can derive from them too.
    """

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any], **options: Any) -> Any:
        made = super().__new__(cls, name, bases, {"__slots__": (), **body}, **options)
        others = [level for base in bases if not isinstance(base, _ObjectType) for level in base.__mro__]
        if made.__setattr__ is object.__setattr__ and any("__dict__" in vars(level) for level in others):
            made.__setattr__ = _set_known
        return made

    def __setattr__(cls, name: str, value: Any) -> None:
        # What it derives from would swap the bytes of all fields.
        if issubclass(cls, _SWAPPED):
            super().__setattr__(name, value)
        else:
            _StructureType.__setattr__(cls, name, value)


def _set_known(self: Any, name: str, value: object) -> None:
    """Set an attribute that the class knows, where a base of another kind would let instances take any."""
    if not hasattr(type(self), name):
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
    object.__setattr__(self, name, value)


if TYPE_CHECKING:  # a checker knows no class that types of structures have in common
    _Structure = ctypes.Structure
else:
    _Structure = _ObjectType("_Structure", (ctypes.Structure,), {})


class Object(_Value, _Structure):
    """A ``ctypes.Structure`` with a readable ``repr``, ``copy()`` and equality by value.

    Parameters
    ----------
    *args, **fields
        Initial values, in the order of the fields or by name; the rest is zero.

    Raises
    ------
    TypeError
        If a keyword is not the name of a field (a plain ctypes structure would take it silently).

    Notes
    -----
    A field named ``copy`` or ``of`` hides the method of that name. An instance over mapped bytes is plain
    memory: a store to a field is visible at once to all who map the same bytes, and locks nothing.

    To set an attribute that is no field is an AttributeError, as it would be lost with the instance. A subclass
    that wants some names them: ``__slots__ = ("cache",)``. This does not hold for a field that is a plain
    ``ctypes.Structure``: ``p.inner.typo = 5`` is lost without an error, unless ``inner`` is an ``Object`` too.
    """

    __slots__ = ("__weakref__",)

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        """Nothing: ctypes pickles and copies this beside the bytes."""
        return {}

    def __init__(self, /, *args: Any, **fields: Any) -> None:
        check_fields(type(self), fields)
        super().__init__(*args, **fields)

    @classmethod
    def of(cls: type[_O], /, **fields: Any) -> type[_O]:
        """Make a type in one line: ``Object.of(x=ctypes.c_double, n=ctypes.c_int32)``.

        Parameters
        ----------
        **fields : ctypes type
            The fields in order. Called on a subclass with fields of its own, they follow those.

        Returns
        -------
        type
            A new subclass with the name of this class. Types made twice alike have equal schemas.
        """
        return type(cls.__name__, (cls,), {"_fields_": list(fields.items())})


class Array(_Value, ctypes.Array):  # type: ignore[type-arg]
    """A ctypes array with a readable ``repr``, ``copy()`` and equality by value. Make types with `of`."""

    # ctypes wants both in every array class; subclasses set their own.
    _length_: ClassVar[int] = 0
    _type_: ClassVar[type[Any]] = ctypes.c_ubyte

    @classmethod
    def of(cls: type[_A], length: int, item: type[Any]) -> type[_A]:
        """Make a type in one line: ``Array.of(3, ctypes.c_double)``.

        Parameters
        ----------
        length : int
            Number of items.
        item : ctypes type
            Type of one item; an array type for more dimensions.

        Returns
        -------
        type
            A new array class, named as ctypes names its own (``c_double_Array_3``).
        """
        return type(f"{item.__name__}_Array_{length}", (cls,), {"_length_": length, "_type_": item})


def fields_of(cls: type[Any]) -> Iterator[tuple[str, type[Any]]]:
    """Yield name and type of the fields of a structure, inherited ones first.

    Parameters
    ----------
    cls : type
        A ctypes structure or union type.
    """
    for level in reversed(cls.__mro__):
        for name, ctype, *_bits in level.__dict__.get("_fields_", ()):
            yield name, ctype


def has_plain_fields(cls: type[Any]) -> bool:
    """Tell whether this is a structure all of whose fields are numbers and text, so that no field is an object."""
    return _has_fields(cls) and all(_is_plain(ctype) for _, ctype in fields_of(cls))


def _is_plain(ctype: Any) -> bool:
    is_text = issubclass(ctype, ctypes.Array) and ctype._type_ is ctypes.c_char
    return is_text or issubclass(ctype, ctypes._SimpleCData)


@functools.lru_cache(maxsize=1024)
def path_of(cls: type[Any], name: str) -> tuple[str, ...]:
    """Return the names that lead to a field of a structure: its own, after those of anonymous fields around it.

    Parameters
    ----------
    cls : type
        A ctypes structure type.
    name : str

    Raises
    ------
    TypeError
        As `check_fields`.
    """
    check_fields(cls, [name])
    fields = dict(fields_of(cls))
    if name in fields:
        return (name,)
    around = itertools.chain.from_iterable(vars(level).get("_anonymous_", ()) for level in cls.__mro__)
    outer = next(outer for outer in around if hasattr(fields[outer], name))
    return (outer, *path_of(fields[outer], name))  # type: ignore[arg-type]


def check_fields(cls: type[Any], names: Iterable[str]) -> None:
    """Refuse names that are not fields of `cls`; those reached through anonymous fields are.

    Parameters
    ----------
    cls : type
        A ctypes structure type.
    names : iterable of str
        What somebody means to assign.

    Raises
    ------
    TypeError
        Naming the known fields.
    """
    for name in names:
        if type(getattr(cls, name, None)) is not _FIELD:
            known = ", ".join(known for known, _ in fields_of(cls))
            raise TypeError(f"{cls.__name__} has no field {name!r}; its fields are: {known or 'none'}")


def _has_fields(ctype: Any) -> bool:
    return issubclass(ctype, (ctypes.Structure, ctypes.Union))


def _layout(ctype: Any) -> object:
    """Return what must be equal for the bytes of two types to mean the same."""
    if _has_fields(ctype):
        parts = tuple((name, getattr(ctype, name).offset, _layout(part)) for name, part in fields_of(ctype))
        return ctypes.sizeof(ctype), parts
    if issubclass(ctype, ctypes.Array):
        item: Any = ctype._type_
        # c_char and c_char * 1 are stored as the same text of one byte.
        return ("c", ctype._length_, False) if item is ctypes.c_char else (ctype._length_, _layout(item))
    code: Any = getattr(ctype, "_type_", ctype)
    size = ctypes.sizeof(ctype)
    return _KINDS.get(code, code), size, size > 1 and getattr(ctype, "__ctype_be__", None) is ctype


def _values(value: Any) -> Any:
    """Return a value as plain Python objects, nested as it is."""
    if _has_fields(type(value)):
        return tuple(_values(getattr(value, name)) for name, _ in fields_of(type(value)))
    if isinstance(value, ctypes.Array):
        return value.value if value._type_ is ctypes.c_char else tuple(map(_values, value))
    value = value.value if isinstance(value, ctypes._SimpleCData) else value
    return value.rstrip(b"\0") if isinstance(value, bytes) else value


def _shown(value: Any) -> str:
    if _has_fields(type(value)):
        fields = (f"{name}={_shown(getattr(value, name))}" for name, _ in fields_of(type(value)))
        return f"{type(value).__name__}({', '.join(fields)})"
    return _shown_items(value) if isinstance(value, ctypes.Array) else repr(value)


def _shown_items(array: ctypes.Array[Any]) -> str:
    """Show the items as a tuple, which ctypes takes as the value of an array field."""
    if array._type_ is ctypes.c_char:
        return f"(*{array.value!r})"
    items = [_shown(item) for item in array[:_MAX_SHOWN]]
    if len(array) > _MAX_SHOWN:
        items.append(f"... {len(array) - _MAX_SHOWN} more")
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
