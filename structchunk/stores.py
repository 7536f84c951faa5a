"""Opening a store by name: which class it gets, and whether it is of the type that was asked for."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

from .array_store import ArrayStore
from .errors import SchemaError, StoreExists, StoreNotFound
from .object_store import ObjectStore
from .schema import Schema, array_schema, explain_difference, object_schema
from .store import Binding

AnyStore: TypeAlias = Any
"""An ArrayStore or an ObjectStore: which one, only the database knows."""

MAX_NAME_LENGTH = 1024


class Handle(Protocol):
    """A database or a transaction."""

    def __getitem__(self, name: str) -> AnyStore:
        """Return a store."""

    def schema(self, name: str) -> Schema | None:
        """Return the type of a store, or None if there is no such store."""

    def create(self, name: str, schema: Schema) -> None:
        """Create a store."""


class Catalogue:
    """The stores of a database or a transaction, opened or created by type."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def array_store(self, name: str, dtype: Any) -> ArrayStore:
        """Open an array store, or create it if a type is given."""
        asked = None if dtype is None else array_schema(dtype)
        self._prepare(name, "array", asked)
        store: ArrayStore = self._handle[name]
        return store

    def object_store(self, name: str, cls: Any) -> ObjectStore[Any]:
        """Open an object store, or create it if a class is given."""
        asked = None if cls is None else object_schema(cls)
        self._prepare(name, "object", asked)
        store: ObjectStore[Any] = self._handle[name]
        return store if cls is None else store.of_class(cls)

    def _prepare(self, name: str, kind: str, asked: Schema | None) -> None:
        stored = self._handle.schema(check_store_name(name))
        if stored is None and asked is not None:
            self._handle.create(name, asked)
            stored = self._handle.schema(name)  # another thread may have been faster, with another type
        if stored is None:
            raise StoreNotFound(f"no store {name!r}; give its type to create it")
        check_schema(name, stored, kind, asked)


def bind(binding: Binding) -> AnyStore:
    """Return the store of a binding, of the class that its records need."""
    schema = binding.heap.schema
    if schema.kind == "array":
        return ArrayStore(binding)
    assert schema.ctype is not None  # schema.py makes one for every object store
    return ObjectStore(binding, schema.ctype)


def check_schema(name: str, stored: Schema, kind: str, asked: Schema | None) -> None:
    """Raise unless a stored type is of a kind, and equal to the one asked for."""
    if stored.kind != kind:
        raise StoreExists(f"{name!r} is an {stored.kind} store; open it with {stored.kind}_store()")
    if asked is not None and stored != asked:
        raise SchemaError(f"store {name!r} is of another type: {explain_difference(stored, asked)}")


def check_store_name(name: object) -> str:
    """Return a store's name if it is one.

    Raises
    ------
    TypeError, ValueError
        It is not a string, is empty, or is very long.
    """
    if not isinstance(name, str):
        raise TypeError(f"a store's name is a string, found {type(name).__name__}")
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        raise ValueError(f"a store's name has 1 to {MAX_NAME_LENGTH} characters, found {len(name)}")
    return name
