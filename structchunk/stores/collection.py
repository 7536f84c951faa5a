"""StoreCollection: stores by name, of which class each is, whether it is of the type asked for, and their joins."""

from __future__ import annotations

import abc
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

import numpy as np

from ..errors import ReadOnlyError, StoreExists, StoreNotFound
from ..types.schema import Schema, array_schema, check_same, object_schema
from .array_store import ArrayStore
from .batch import Batch
from .batches import BATCH_SIZE
from .binding import Binding
from .join import KeyRanges, Swept, scan_aligned, scan_arrow, sweep
from .mapping import heap_of
from .object_store import ObjectStore
from .store import Store

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.dataset import Dataset

AnyStore: TypeAlias = Any
"""An ArrayStore or an ObjectStore: which one, only the database knows."""

S = TypeVar("S", bound=Store[Any])
T = TypeVar("T")
MAX_NAME_LENGTH = 1024


class StoreCollection(abc.ABC):
    """Stores by name, opened or created by type: what databases, transactions, snapshots and shards share."""

    @abc.abstractmethod
    def _names(self) -> Collection[str]:
        """Return the names of the stores, in any order."""

    @abc.abstractmethod
    def _binding(self, name: str) -> Binding:
        """Return what a store reads and writes through; raise StoreNotFound if there is none of this name."""

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names()))

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

    def _schema(self, name: str) -> Schema | None:
        """Return the type of a store, or None if there is no such store."""
        try:
            return self._binding(name).heap.schema
        except StoreNotFound:
            return None

    def _create(self, name: str, schema: Schema) -> None:
        """Create a store."""
        raise ReadOnlyError(f"there is no store {name!r} here, and none can be created; do so through the database")

    def array_store(self, name: str, dtype: Any = None, shape: int | tuple[int, ...] = ()) -> ArrayStore:
        """Open an array store, or create it if this handle can write.

        Parameters
        ----------
        name : str
        dtype : dtype or ctypes type, optional
            Type of the items: any of fixed size. Without it the store must exist.
        shape : int or tuple of int, optional
            Of one item, if that is an array: of records of the shape ``(length, *shape)``. A dtype of sub-arrays,
            ``np.dtype(("f4", (384,)))``, says the same.

        Raises
        ------
        SchemaError
            The type cannot be stored, or is not that of the existing store; a shape was given without a type.
        StoreNotFound
            No type was given, and there is no such store.
        StoreExists
            There is an object store of this name.
        ReadOnlyError
            The store does not exist, and this is for reading only.
        """
        asked = None if dtype is None and shape == () else array_schema(dtype, shape)
        self._prepare(name, "array", asked)
        store: ArrayStore = self[name]
        return store

    @overload
    def object_store(self, name: str, cls: None = None) -> ObjectStore[Any]: ...
    @overload
    def object_store(self, name: str, cls: type[T]) -> ObjectStore[T]: ...
    @overload
    def object_store(self, name: str, cls: np.dtype[Any]) -> ObjectStore[Any]: ...
    def object_store(self, name: str, cls: Any = None) -> ObjectStore[Any]:
        """Open an object store, or create it if this handle can write.

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
        stored = self._schema(check_store_name(name))
        if stored is None and asked is not None:
            self._create(name, asked)
            stored = self._schema(name)  # another thread may have been faster, with another type
        if stored is None:
            raise StoreNotFound(f"no store {name!r}; give its type to create it")
        check_schema(name, stored, kind, asked)

    # ------------------------------------------------------------------ joins

    def _at_one_commit(self) -> StoreCollection:
        """Return the same stores, all as of one commit, so that they can be swept side by side."""
        return self

    def _aligned(self, names: tuple[str, ...]) -> list[Binding]:
        stores = self._at_one_commit()
        return [stores._binding(name) for name in names]

    def scan(
        self, *names: str, start: int | None = None, stop: int | None = None, batch_size: int = BATCH_SIZE
    ) -> Iterator[tuple[Batch, ...]]:
        """Sweep stores that share keys side by side: an inner join on the keys, in ascending order.

        Parameters
        ----------
        *names : str
            Stores, of any kind.
        start, stop : int, optional
            Range of keys.
        batch_size : int
            Records of each store in a batch, at most. A batch is smaller where the records of a store stop
            lying back to back for long.

        Yields
        ------
        tuple of Batch
            One for each name, in that order, with the same keys: ``for time, value in db.scan("time",
            "value")``. A view of the file where the records lie back to back, else a copy.

        Raises
        ------
        StoreNotFound
            There is no such store.
        ValueError
            No store was named.

        Notes
        -----
        All batches of all stores are as of one commit; of a database, it is the last one before the call. Batches
        stay valid for as long as the caller holds them.
        """
        return scan_aligned(self._aligned(names), start, stop, batch_size)

    def to_arrow(
        self, *names: str, start: int | None = None, stop: int | None = None, batch_size: int = BATCH_SIZE
    ) -> pa.RecordBatchReader:
        """Sweep stores side by side as :meth:`scan` does, as a stream of Arrow record batches.

        Parameters
        ----------
        *names, start, stop, batch_size
            As in :meth:`scan`; no store twice.

        Returns
        -------
        pyarrow.RecordBatchReader
            With ``key: uint64`` and a column for each store, of its name: of (large) lists, or of structs for
            object stores. Copied only where ``Store.to_arrow`` copies, or where the keys of the stores differ.

        Raises
        ------
        StoreNotFound, ValueError
            As :meth:`scan`.
        SchemaError, ImportError
            As ``Store.to_arrow``.
        """
        return scan_arrow(self._aligned(names), start, stop, batch_size)

    def dataset(self, *names: str) -> Dataset:
        """Return stores side by side, an inner join on their keys, as a dataset of Arrow.

        Parameters
        ----------
        *names : str
            Stores, of any kind; no store twice.

        Returns
        -------
        pyarrow.dataset.Dataset
            With ``key`` and a column for each store. See ``Store.dataset``: DuckDB, Polars and pyarrow push filters
            and columns down to it. All keys are joined, whichever columns are read.

        Raises
        ------
        StoreNotFound, ValueError
            As :meth:`scan`; or a store is named twice.
        SchemaError, ImportError, Error
            As ``Store.dataset``.
        """
        from ..interop.dataset import StoreDataset  # noqa: PLC0415

        stores = {one.heap.name: one.heap.schema for one in self._at_commit(names)}
        if len(stores) < len(names) or not names:
            raise ValueError("name at least one store, and none twice, as its column has one name only")
        return StoreDataset(stores, partial(self._sweep, names), (type(self).dataset, (self, *names)))

    def _at_commit(self, names: tuple[str, ...]) -> list[Binding]:
        return [binding.at_one_commit() for binding in self._aligned(names)]

    def _sweep(self, joined: tuple[str, ...], names: Sequence[str], ranges: KeyRanges, batch_size: int) -> Swept:
        return sweep(self._at_commit(joined), names, ranges, batch_size)


def open_store(stores: StoreCollection, name: str, schema: Schema) -> AnyStore:
    """Open a store of a type, or create it if this handle can write; see ``array_store`` and ``object_store``."""
    stores._prepare(name, schema.kind, schema)
    return stores[name]


def bind(binding: Binding) -> AnyStore:
    """Return the store of a binding, of the class that its records need."""
    schema = binding.heap.schema
    if schema.kind == "array":
        return ArrayStore(binding)
    assert schema.ctype is not None  # types/schema.py makes one for every object store
    return ObjectStore(binding, schema.ctype)


def _bind_again(binding: Binding, store: AnyStore) -> AnyStore:
    """Return a store as seen through another binding, with its objects of the same class."""
    if binding.heap.identity != heap_of(store).identity:
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
