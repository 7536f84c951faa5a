"""RecordMapping: what makes a store a mutable mapping, record by record, in order of key."""

from __future__ import annotations

import abc
import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from functools import partial
from typing import Any, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt

from ..errors import KeyNotFound, MovedError
from ..runs.extent import KEY_END, Extent
from ..runs.run import Run
from ..types.keys import as_bound, as_key, key_or_none
from ..types.schema import Schema
from .ahead import fetch_ahead
from .attributes import Attributes
from .batches import MappedStore
from .binding import Binding
from .cursor import Cursor
from .range_views import Items, Keys, Range, Values, counted

R = TypeVar("R")
D = TypeVar("D")
_NOTHING: Any = object()


class RecordMapping(MutableMapping[int, R], Generic[R]):
    """A mutable mapping from ``uint64`` keys to records, in ascending order of key."""

    _put_flags = 0

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self._heap = binding.heap
        self._find = binding.find

    @property
    def name(self) -> str:
        """The store's name."""
        return self._heap.name

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one item, with its shape if it has one; in an object store of one record."""
        return self._heap.schema.dtype

    @property
    def attrs(self) -> Attributes:
        """Named JSON values that the store has beside its records: units, sources, settings.

        Notes
        -----
        A mutable mapping. ``drop_store`` takes them away, ``alter_store`` keeps them.
        """
        return self._binding.attributes()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} of {self.dtype}, {counted(self, 'records', 'closed')}>"

    # Arrays that are compared with a store leave it to the store.
    __array_priority__ = 1000.0

    def __eq__(self, other: object) -> bool:
        """Whether it is this very object: comparing all records would be a scan that ``==`` should not hide."""
        return self is other

    __hash__ = object.__hash__

    # ------------------------------------------------------------------ one record

    @abc.abstractmethod
    def _record(self, extent: Extent) -> R:
        """Return the record at an extent."""

    def _records(self, run: Run, *, reverse: bool) -> Iterable[R]:
        """Return the records of a run, in the direction of the keys or against it."""
        rows = run.rows.tolist()
        return map(self._record, reversed(rows) if reverse else rows)

    @abc.abstractmethod
    def put(self, key: int, value: Any) -> None:
        """Store one record, replacing what the key had."""

    def __getitem__(self, key: int) -> R:
        extent = self._find(key if type(key) is int else as_key(key))
        if extent is None:
            raise KeyNotFound(f"store {self.name!r} has no record {key}")
        try:
            return self._record(extent)
        except MovedError:
            return self[key]

    @overload
    def get(self, key: int, default: None = None) -> R | None: ...
    @overload
    def get(self, key: int, default: D) -> R | D: ...
    def get(self, key: int, default: Any = None) -> Any:
        """Return the record of a key, or the default if it has none."""
        extent = self._find(key if type(key) is int else as_key(key))
        try:
            return default if extent is None else self._record(extent)
        except MovedError:
            return self.get(key, default)

    def __setitem__(self, key: int, value: Any) -> None:
        self.put(key, value)

    def __contains__(self, key: object) -> bool:
        number = key_or_none(key)
        return number is not None and self._find(number) is not None

    def __delitem__(self, key: int) -> None:
        if not self.delete(key):
            raise KeyNotFound(f"store {self.name!r} has no record {key}")

    def delete(self, key: int) -> bool:
        """Delete a record, and tell whether there was one.

        Raises
        ------
        ReadOnlyError
            The store is bound to a snapshot, or the database is open for reading.
        """
        key = as_key(key)
        with self._binding.writing() as writer:
            return writer.delete(key)

    def setdefault(self, key: int, default: Any = None) -> R:
        """Return the record of a key; if it has none, store the default first, as ``put`` does.

        Notes
        -----
        What is returned is what the store has, not `default` itself. Of several threads that store a default
        under one key, one does.
        """
        number = as_key(key)
        if self._find(number) is None:
            items = self._items(default)
            with self._binding.writing() as writer:
                if writer.find(number) is None:  # another thread may have been faster
                    writer.put(number, items, self._put_flags)
        try:
            return self[number]
        except KeyNotFound:  # deleted meanwhile
            return self.setdefault(number, default)

    @overload
    def pop(self, key: int) -> R: ...
    @overload
    def pop(self, key: int, default: D) -> R | D: ...
    def pop(self, key: int, default: Any = _NOTHING) -> Any:
        """Delete a record and return it, or the default if there is none.

        Raises
        ------
        KeyNotFound
            There is no such record, and no default was given.
        ReadOnlyError
            As for :meth:`delete`.

        Notes
        -----
        Of several threads that take one record, one gets it.
        """
        number = as_key(key)
        while (extent := self._find(number)) is not None:
            with contextlib.suppress(MovedError):
                record = self._record(extent)
                if self._delete_at(number, extent):
                    return record
        if default is _NOTHING:
            raise KeyNotFound(f"store {self.name!r} has no record {key}")
        return default

    def popitem(self) -> tuple[int, R]:
        """Delete the record of the lowest key, and return both, as :meth:`pop` does.

        Raises
        ------
        KeyNotFound
            The store is empty.
        """
        while (key := self.first_key) is not None:
            with contextlib.suppress(KeyNotFound):  # another thread may have been faster
                return key, self.pop(key)
        raise KeyNotFound(f"store {self.name!r} is empty")

    def _delete_at(self, key: int, extent: Extent) -> bool:
        """Delete the record of a key if it lies at an extent, and tell whether it did."""
        with self._binding.writing() as writer:
            return writer.find(key) == extent and writer.delete(key)

    # ------------------------------------------------------------------ ranges

    @property
    def first_key(self) -> int | None:
        """The lowest key; None if there is no record.

        Notes
        -----
        It takes about as long whatever the store holds: of the index, the end of it is read.
        """
        return self._binding.end_key(reverse=False)

    @property
    def last_key(self) -> int | None:
        """The highest key; None if there is no record. As quick as :attr:`first_key`."""
        return self._binding.end_key(reverse=True)

    def __len__(self) -> int:
        return self._binding.record_count()

    def __iter__(self) -> Iterator[int]:
        return iter(self.keys())

    def __reversed__(self) -> Iterator[int]:
        return iter(self.keys(reverse=True))

    def keys(self, start: int | None = None, stop: int | None = None, *, reverse: bool = False) -> Keys:
        """Return a view of the keys in ``[start, stop)``, ascending unless `reverse`."""
        return Keys(self._range(start, stop, reverse=reverse))

    def values(self, start: int | None = None, stop: int | None = None, *, reverse: bool = False) -> Values[R]:
        """Return a view of the records with keys in ``[start, stop)``."""
        return Values(self._range(start, stop, reverse=reverse))

    def items(self, start: int | None = None, stop: int | None = None, *, reverse: bool = False) -> Items[R]:
        """Return a view of the pairs of key and record with keys in ``[start, stop)``."""
        return Items(self._range(start, stop, reverse=reverse))

    def _range(self, start: int | None, stop: int | None, *, reverse: bool) -> Range[R]:
        low, high = as_bound(start, 0), as_bound(stop, KEY_END)
        ahead = partial(fetch_ahead, [self._heap])
        return Range(self._binding, self._records, ahead, low, high, reverse=reverse)

    def delete_range(self, start: int | None = None, stop: int | None = None) -> int:
        """Delete all records with keys in ``[start, stop)``, and return how many there were."""
        low, high = as_bound(start, 0), as_bound(stop, KEY_END)
        with self._binding.writing() as writer:
            return writer.delete_range(low, high)

    def clear(self) -> None:
        """Delete all records, in one transaction."""
        self.delete_range()

    def update(self, other: Any = (), /, **kwargs: Any) -> None:
        """Store many records in one transaction, as ``dict.update`` does (use ``put_many`` for arrays)."""
        pairs = itertools.chain(_pairs(other), kwargs.items())
        records = [(as_key(key), self._items(value)) for key, value in pairs]
        with self._binding.writing() as writer:
            for key, items in records:
                writer.put(key, items, self._put_flags)

    @abc.abstractmethod
    def _items(self, value: Any) -> npt.NDArray[Any]:
        """Return what ``put`` takes as items of the store's dtype."""

    def cursor(self) -> Cursor[R]:
        """Return a cursor, which starts on no record."""
        return Cursor(self._binding, self.__getitem__)


def heap_of(store: RecordMapping[Any]) -> MappedStore:
    """Return where the records of a store lie."""
    return store._heap


def schema_of(store: RecordMapping[Any]) -> Schema:
    """Return the type of a store as it is stored."""
    return store._heap.schema


def _pairs(source: Any) -> Iterable[tuple[Any, Any]]:
    """Return the pairs of key and value that ``dict(source)`` would see, those of equal keys too."""
    if isinstance(source, Mapping):
        return source.items()
    keys = getattr(source, "keys", None)  # of a batch they are an array, and it is a sequence of pairs
    return [(key, source[key]) for key in keys()] if callable(keys) else source
