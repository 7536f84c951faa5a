"""Where attributes are kept: records of a store of bytes that users do not see, each the JSON of one owner.

It is called "" and is made when the first attribute is set. Its keys are ids of stores, and 0 for the database;
each record is a JSON object in UTF-8. A store that is dropped loses its record in the same commit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from ..chunks.heap import ATTRIBUTES, Heap
from ..engine.storage import Storage
from ..runs.extent import Extent
from ..stores.attributes import Attributes
from ..stores.binding import until_found
from ..types.schema import array_schema

__all__ = ["ATTRIBUTES", "OF_DATABASE", "SCHEMA", "Holder", "Writer", "attributes_of", "read_text"]

OF_DATABASE = 0
"""The key of the database's own record: no store has this id."""
SCHEMA = array_schema("u1")


class Holder(Protocol):
    """A database, a transaction or a snapshot."""

    _storage: Storage

    def _check_there(self, heap: Heap) -> None:
        """Raise StoreNotFound unless a store is there."""

    def _attribute_text(self, owner: int) -> bytes:
        """Return the record of an owner, empty if there is none."""

    def _changing_attributes(self) -> AbstractContextManager[Writer]:
        """Return the transaction that a change belongs to; raise ReadOnlyError if nothing can be changed."""


class Writer(Holder, Protocol):
    """A transaction."""

    def _put_attribute_text(self, owner: int, text: bytes) -> None:
        """Replace the record of an owner; delete it if the text is empty."""


class _Record:
    """The attributes of one owner, as a database, a transaction or a snapshot shows them."""

    def __init__(self, holder: Holder, heap: Heap | None) -> None:
        self._holder = holder
        self._heap = heap
        self._owner = OF_DATABASE if heap is None else heap.store

    @property
    def where(self) -> str:
        """The path of the database."""
        return self._holder._storage.paths.root

    def text(self) -> bytes:
        """Return the text."""
        return self.text_in(self._holder)

    def transaction(self) -> AbstractContextManager[Writer]:
        """Return the transaction that a change belongs to, one of its own outside of any."""
        return self._holder._changing_attributes()

    def text_in(self, transaction: Holder) -> bytes:
        """Return the text as a transaction sees it."""
        if self._heap is not None:
            transaction._check_there(self._heap)
        return transaction._attribute_text(self._owner)

    def put_in(self, transaction: Writer, text: bytes) -> None:
        """Replace the text."""
        if self._heap is not None:
            transaction._check_there(self._heap)
        transaction._put_attribute_text(self._owner, text)


def attributes_of(holder: Holder, heap: Heap | None = None) -> Attributes:
    """Return the attributes of a store, or of the database."""
    return Attributes(_Record(holder, heap))


def read_text(heap: Heap, find: Callable[[], Extent | None]) -> bytes:
    """Return a record of the store of attributes; empty if there is none."""

    def read() -> bytes:
        extent = find()
        return b"" if extent is None else heap.array(extent).tobytes()

    return until_found(read)
