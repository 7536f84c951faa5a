"""Binding and Writer: what a store reads and writes through. Databases, transactions and shards have one each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import Error, MovedError
from ..runs.extent import Extent, RowArray
from ..runs.run import Run
from .attributes import Attributes
from .batches import MappedStore
from .notebook import StoreFigures

T = TypeVar("T")


class Edited(Protocol):
    """A private copy of an object."""

    @property
    def object(self) -> Any:
        """The object, whose bytes replace its record."""


class Writer(Protocol):
    """What a transaction changes in one store: rows that nobody else sees before it commits."""

    @property
    def edits(self) -> Mapping[int, Edited]:
        """The objects that are edited, by key."""

    def check_usable(self) -> None:
        """Raise if the transaction has ended, or can only be aborted. put() and append() do so themselves."""

    def staged(self, key: int) -> Extent | None:
        """Return the changed row of a key, a tombstone too, or None if the transaction has not touched it."""

    def find(self, key: int) -> Extent | None:
        """Return the extent of a key as the transaction sees it, or None."""

    def put(self, key: int, items: npt.NDArray[Any], flags: int = 0) -> None:
        """Store one record."""

    def put_zeros(self, key: int, length: int) -> Extent:
        """Allocate one zeroed record that may change in place."""

    def put_many(
        self,
        keys: npt.NDArray[np.uint64],
        items: npt.NDArray[Any],
        lengths: npt.NDArray[np.int64],
        flags: int = 0,
    ) -> None:
        """Store many records; of equal keys the last one stays."""

    def append(self, key: int, items: npt.NDArray[Any]) -> None:
        """Make a record longer, or make it."""

    def add_edit(self, key: int, private: Any) -> None:
        """Take an object whose bytes, if they change, replace its record."""

    def delete(self, key: int) -> bool:
        """Delete one record, and tell whether there was one."""

    def delete_range(self, start: int, stop: int) -> int:
        """Delete the records of a key range, and return how many there were."""

    def delete_many(self, keys: npt.NDArray[np.uint64]) -> int:
        """Delete the records of ascending keys, none of them twice, and return how many there were."""

    def check_storable(self) -> None:
        """Raise if nothing can be stored any more."""


class Binding(Protocol):
    """What a store reads and writes through: the latest commit, a transaction or a snapshot."""

    @property
    def heap(self) -> MappedStore:
        """Where its records lie."""

    def find(self, key: int) -> Extent | None:
        """Return the extent of a key, or None."""

    def finder_of_records(self, kind: type[Any]) -> Callable[[int], Any]:
        """Return what finds the record of a key, of a kind: it returns that, or else its extent, or None."""

    def lookup(self, keys: npt.NDArray[np.uint64]) -> RowArray:
        """Return one row per key, in ascending order, repeated or not; a tombstone for the key that has none."""

    def runs(self, start: int, stop: int, *, reverse: bool = False) -> Iterator[Run]:
        """Yield the live rows of a key range as consecutive runs."""

    def end_key(self, *, reverse: bool) -> int | None:
        """Return the lowest key, or the highest; None if there is no record."""

    def record_count(self) -> int:
        """Return how many records the store has."""

    def figures(self) -> StoreFigures | None:
        """Return what the store holds, in bytes, or None where only the latest commit has such figures."""

    def attributes(self) -> Attributes:
        """Return the store's attributes."""

    def version(self) -> int:
        """Return a number that changes whenever the answers above may have."""

    def writing(self) -> AbstractContextManager[Writer]:
        """Enter the transaction that a write belongs to; one of its own outside of any."""

    @property
    def writer(self) -> Writer | None:
        """What the transaction writes through that this belongs to, which may have ended; None outside of one."""

    def at_one_commit(self) -> Binding:
        """Return what reads the store as of one commit, in any thread; raise Error where nothing can."""

    def home(self) -> Any:
        """Return the database; raise TypeError where what is seen of it could not be found again."""

    def live_array(self, extent: Extent) -> npt.NDArray[Any] | None:
        """Return an extent's items for changing in place, or None where that is not allowed."""

    def maker_of_objects(self, cls: type[Any]) -> Callable[[Extent], Any] | None:
        """Return what makes an object of a ctypes type of an extent; None where that depends on the transaction."""


def array_in_place(binding: Binding, writer: Writer, extent: Extent) -> npt.NDArray[Any]:
    """Return a record that was just made through a binding, to be changed in place; raise if it may not be."""
    array = binding.live_array(extent)
    if array is None:
        writer.check_storable()  # a signal handler may have closed the database meanwhile
        raise Error(
            "other processes write this database too, so what changes in place lives in a transaction only: "
            "with db.transaction() as txn: txn[name].new(...); or use put()"
        )
    return array


def maker_of_copies(heap: MappedStore, cls: Any) -> Callable[[Extent], Any]:
    """Return what makes a private copy of the object at an extent."""
    arrays, copy_from = heap.arrays, cls.from_buffer_copy
    if heap.is_remote:
        return lambda extent: copy_from(heap.array(extent).tobytes())
    return lambda extent: copy_from(arrays[extent[3]], extent[1])


def live_object(binding: Binding, cls: Any, extent: Extent) -> Any:
    """Return the object at an extent, to be changed in place; a copy where that is not allowed."""
    live = binding.live_array(extent)
    if live is None:
        return maker_of_copies(binding.heap, cls)(extent)
    return cls.from_buffer(live.view(np.uint8))


def until_found(read: Callable[[], T]) -> T:
    """Return what is read, rows and then their records, again if compaction has moved records in between."""
    while True:
        try:
            return read()
        except MovedError:
            continue
