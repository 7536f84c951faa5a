"""Opening a store by name: which class it gets, and whether it is of the type that was asked for."""

from __future__ import annotations

import abc
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np

from ..errors import ReadOnlyError, StoreExists, StoreNotFound
from ..types.schema import Schema, array_schema, check_same, object_schema
from .array_store import ArrayStore
from .binding import Binding
from .object_store import ObjectStore
from .store import Store

AnyStore: TypeAlias = Any
"""An ArrayStore or an ObjectStore: which one, only the database knows."""

S = TypeVar("S", bound=Store[Any])
T = TypeVar("T")
MAX_NAME_LENGTH = 1024


class Catalogue(abc.ABC):
    """Stores by name, opened or created by type: what databases, transactions and snapshots have in common."""

    @abc.abstractmethod
    def _binding(self, name: str) -> Binding:
        """Return what a store reads and writes through; raise StoreNotFound if there is none of this name."""

    @overload
    def __getitem__(self, name: str) -> AnyStore: ...
    @overload
    def __getitem__(self, name: S) -> S: ...
    def __getitem__(self, name: Any) -> Any:
        """Return a store.

        Parameters
        ----------
        name : str or Store
            Its name; or the store itself, got from the database or from anything else of it: so
            ``transaction[store]`` is the same store, of the same type, bound to the transaction.

        Raises
        ------
        StoreNotFound
            There is none of this name; or the store was dropped, or is one of another database.
        """
        return _bind_again(self._binding(name.name), name) if isinstance(name, Store) else bind(self._binding(name))

    def schema(self, name: str) -> Schema | None:
        """Return the type of a store, or None if there is no such store."""
        try:
            return self._binding(name).heap.schema
        except StoreNotFound:
            return None

    def create(self, name: str, schema: Schema) -> None:
        """Create a store."""
        raise ReadOnlyError(f"there is no store {name!r} here, and none can be created; do so through the database")

    def array_store(self, name: str, dtype: Any = None) -> ArrayStore:
        """Open an array store, or create it where that is possible.

        Parameters
        ----------
        name : str
        dtype : dtype or ctypes type, optional
            Type of the items: any of fixed size. Without it the store must exist.

        Raises
        ------
        SchemaError
            The type cannot be stored, or is not that of the existing store.
        StoreNotFound
            No type was given, and there is no such store.
        StoreExists
            There is an object store of this name.
        ReadOnlyError
            The store does not exist, and this is for reading only.
        """
        self._prepare(name, "array", None if dtype is None else array_schema(dtype))
        store: ArrayStore = self[name]
        return store

    @overload
    def object_store(self, name: str, cls: None = None) -> ObjectStore[Any]: ...
    @overload
    def object_store(self, name: str, cls: type[T]) -> ObjectStore[T]: ...
    @overload
    def object_store(self, name: str, cls: np.dtype[Any]) -> ObjectStore[Any]: ...
    def object_store(self, name: str, cls: Any = None) -> ObjectStore[Any]:
        """Open an object store, or create it where that is possible.

        Parameters
        ----------
        name : str
        cls : type or numpy.dtype, optional
            A subclass of ``Object``, or any ctypes structure or array type of fixed size. For a dtype with fields
            an ``Object`` subclass is made. Without it the store must exist, and its objects are instances of an
            equivalent class made from the stored schema.

        Raises
        ------
        SchemaError, StoreNotFound, StoreExists, ReadOnlyError
            As for :meth:`array_store`.
        """
        self._prepare(name, "object", None if cls is None else object_schema(cls))
        store: ObjectStore[Any] = self[name]
        return store.of_class(cls) if isinstance(cls, type) else store

    def _prepare(self, name: str, kind: str, asked: Schema | None) -> None:
        """Create the store if there is none, and a type is given; raise unless it then is of that type."""
        stored = self.schema(check_store_name(name))
        if stored is None and asked is not None:
            self.create(name, asked)
            stored = self.schema(name)  # another thread may have been faster, with another type
        if stored is None:
            raise StoreNotFound(f"no store {name!r}; give its type to create it")
        check_schema(name, stored, kind, asked)


def bind(binding: Binding) -> AnyStore:
    """Return the store of a binding, of the class that its records need."""
    schema = binding.heap.schema
    if schema.kind == "array":
        return ArrayStore(binding)
    assert schema.ctype is not None  # types/schema.py makes one for every object store
    return ObjectStore(binding, schema.ctype)


def _bind_again(binding: Binding, store: AnyStore) -> AnyStore:
    """Return a store as seen through another binding, with its objects of the same class."""
    if binding.heap.identity != store._heap.identity:
        raise StoreNotFound(
            f"the store {store.name!r} that was given was dropped since, or is one of another database; "
            "to have the one of this name, give the name"
        )
    found = bind(binding)
    return found.of_class(store.cls) if isinstance(store, ObjectStore) else found


def check_schema(name: str, stored: Schema, kind: str, asked: Schema | None) -> None:
    """Raise unless a stored type is of a kind, and equal to the one asked for."""
    if stored.kind != kind:
        raise StoreExists(f"{name!r} is an {stored.kind} store; open it with {stored.kind}_store()")
    if asked is not None:
        check_same(name, stored, asked)


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
