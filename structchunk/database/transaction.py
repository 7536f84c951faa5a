"""Transaction: an atomic change of stores, and what a store is bound to within one."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ..chunks.allocator import Allocator
from ..chunks.heap import Heap
from ..engine.staging import Staging
from ..engine.storage import Storage
from ..errors import ClosedError, Error, StoreNotFound
from ..runs.extent import DROPPED, TOMBSTONE, Extent, RowArray
from ..runs.run import Run
from ..stores.attributes import Attributes
from ..stores.collection import StoreCollection, check_store_name
from ..types.keys import as_key
from ..types.schema import Schema
from .attribute_records import ATTRIBUTES, SCHEMA, attributes_of
from .savepoint import Guard, Savepoint, Savepoints

CLOSED = "was aborted when the database was closed"


class Ticket:
    """The place of a transaction in the queue of writers, from when it is asked for until it ends.

    Attributes
    ----------
    thread : int
        Who asked.
    transaction : weakref.ref or None
        What got it; None before, and later it may have gone as garbage.
    has_ended : bool
        Given up. Setting it is one assignment, which nothing can interrupt, and takes no lock.
    """

    def __init__(self, end: Callable[[Ticket], None]) -> None:
        self.thread = threading.get_ident()
        self.transaction: weakref.ref[Transaction] | None = None
        self.has_ended = False
        self._wakeup: threading.Lock | None = None
        self._end = end

    def is_held(self) -> bool:
        """Tell whether anyone holds it, or is about to."""
        if self.has_ended:
            return False
        return self.transaction is None or self.transaction() is not None

    def close(self) -> None:
        """Abort the transaction, if it has begun, because the database is closed; give the ticket up."""
        if (transaction := self._holder()) is not None:
            transaction._close()
        self.has_ended = True

    def disown(self) -> None:
        """End the transaction in a forked child, where it is the parent's."""
        if (transaction := self._holder()) is not None:
            transaction._disown()

    def _holder(self) -> Transaction | None:
        """Return the transaction, if it has begun and is not gone."""
        return None if self.transaction is None else self.transaction()

    def sleep(self, timeout: float) -> None:
        """Wait until it is called, some seconds at most."""
        wakeup = self._wakeup
        if wakeup is None:  # a lock in C: an interrupt inside threading.Condition would raise another error
            wakeup = threading.Lock()
            wakeup.acquire()
            self._wakeup = wakeup
        wakeup.acquire(timeout=timeout)

    def call(self) -> None:
        """Wake who waits with it."""
        if self._wakeup is not None:
            with contextlib.suppress(RuntimeError):  # it was woken before
                self._wakeup.release()

    def end(self) -> None:
        """Give it up."""
        self._end(self)


class TransactionBinding:
    """Binding of a store to a transaction."""

    def __init__(self, transaction: Transaction, staging: Staging) -> None:
        self.heap = staging.heap
        self.writer = staging
        self._transaction = transaction

    def _usable(self) -> Staging:
        self.writer.check_usable()
        return self.writer

    def find(self, key: int) -> Extent | None:
        """Return the extent of a key, or None."""
        return self._usable().find(as_key(key))

    def finder_of_records(self, kind: type[Any]) -> Callable[[int], Extent | None]:
        """Return what finds the extent of a key."""
        return self.find

    def lookup(self, keys: npt.NDArray[np.uint64]) -> RowArray:
        """Return one row per ascending key; the key that has none gets a tombstone."""
        return self._usable().lookup(keys)

    def runs(self, start: int, stop: int, *, reverse: bool = False) -> Iterator[Run]:
        """Yield the live rows of a key range as consecutive runs."""
        runs = self._usable().runs(start, stop, reverse=reverse)
        return self._while_open(runs)

    def _while_open(self, runs: Iterator[Run]) -> Iterator[Run]:
        for run in runs:
            yield run
            self._transaction._check_open()

    def end_key(self, *, reverse: bool) -> int | None:
        """Return the lowest key, or the highest; None if there is no record."""
        return self._usable().end_key(reverse=reverse)

    def record_count(self) -> int:
        """Return how many records the store has."""
        return self._usable().record_count()

    def figures(self) -> None:
        """Return None: the figures that are kept are those of the latest commit."""

    def attributes(self) -> Attributes:
        """Return the store's attributes."""
        return attributes_of(self._transaction, self.heap)

    def version(self) -> int:
        """Return a number that changes with every write."""
        return self._usable().changes

    @contextlib.contextmanager
    def writing(self) -> Iterator[Staging]:
        """Enter the transaction; leaving does not commit it."""
        yield self._usable()

    def at_one_commit(self) -> NoReturn:
        """Refuse: a transaction changes, and its thread would do so while others scan."""
        raise Error("a transaction has no dataset, as threads of Arrow scan it: take the database's, or to_arrow()")

    def home(self) -> NoReturn:
        """Refuse."""
        raise TypeError("a store of a transaction cannot be pickled; pickle one of a database open with mode='r'")

    def maker_of_objects(self, cls: type[Any]) -> None:
        """Return None: an object may be one that the transaction edits."""

    def live_array(self, extent: Extent) -> npt.NDArray[Any] | None:
        """Return an extent's items for changing in place."""
        return self._transaction._storage.live_array(self.heap, extent)


class Transaction(StoreCollection):
    """An atomic change of any number of stores, all or nothing.

    Made by ``db.transaction()``. As a context manager it commits at the end, and aborts on any exception.

    Notes
    -----
    There is one write transaction at a time; beginning another one waits. Use a transaction from one thread at
    a time. Stores got from it (``txn[name]``) read its own writes, and refuse to work once it has ended.
    Commit returns when the change is on disk, or with ``sync=False`` when it is with the operating system.
    """

    def __init__(self, storage: Storage, ticket: Ticket, *, sync: bool) -> None:
        self._storage = storage
        self._ticket = ticket
        self._sync = sync
        self._stagings: dict[str, Staging] = {}
        self._created: dict[str, Heap] = {}
        self._dropped: Staging | None = None
        self._ended = ""
        self._guard = Guard(self)
        self._savepoints = Savepoints(self._guard)
        self._record_count = storage.index.record_count

    def __repr__(self) -> str:
        state = f"which {self._ended}" if self._ended else "open"
        return f"<Transaction of {self._storage.paths.root!r}, {state}>"

    # ------------------------------------------------------------------ stores

    def _binding(self, name: str) -> TransactionBinding:
        heap = self._heap(name)
        if heap is None or name == ATTRIBUTES:
            raise StoreNotFound(f"no store {name!r}; create it with array_store() or object_store()")
        return TransactionBinding(self, self._staging(heap))

    def _names(self) -> Collection[str]:
        self._check_open()
        created = {name: heap for name, heap in self._created.items() if name != ATTRIBUTES}
        return ChainMap(created, self._storage.stores)

    def _create(self, name: str, schema: Schema) -> None:
        """Create a store in this transaction."""
        self._check_open()
        self._add_store(check_store_name(name), schema)

    def _add_store(self, name: str, schema: Schema) -> None:
        heap = self._storage.new_heap(name, schema)
        allocator = self._allocator(heap)
        allocator.roll()
        self._storage.index.add_new_store(heap.store, heap.item_size, heap.check)
        staging = self._new_staging(allocator)
        self._savepoints.note_created(name)
        self._stagings[name], self._created[name] = staging, heap

    def _heap(self, name: str) -> Heap | None:
        self._check_open()
        return self._created.get(name) or self._storage.heaps.get(name)

    def _staging(self, heap: Heap) -> Staging:
        staging = self._stagings.get(heap.name)
        if staging is None:
            staging = self._stagings[heap.name] = self._new_staging(self._allocator(heap))
        return staging

    def _allocator(self, heap: Heap) -> Allocator:
        return Allocator(heap, self._storage, durable=self._sync)

    def _new_staging(self, allocator: Allocator) -> Staging:
        index = self._storage.index.store_index(allocator.heap.store)
        return Staging(allocator, index, self._record_count, self._guard)

    # ------------------------------------------------------------------ savepoints

    def savepoint(self) -> Savepoint:
        """Return a savepoint, to begin by ``with``: what is done in its block can be taken back by itself.

        Returns
        -------
        Savepoint
            An exception that leaves the block, or its ``rollback()``, takes back what was done in it.

        Raises
        ------
        ClosedError
            The transaction has ended.

        Notes
        -----
        It takes time by how many objects of ``edit()`` there are, and by nothing else that was done before.
        """
        self._check_open()
        return Savepoint(self._savepoints)

    def _use(self, staging: Staging) -> None:
        """Raise if a store is not to be used any more; mark it if a savepoint is open."""
        self._check_open()
        self._savepoints.use(staging)

    # ------------------------------------------------------------------ attributes

    @property
    def attrs(self) -> Attributes:
        """The database's attributes, as this transaction sees and changes them; see ``Database.attrs``."""
        self._check_open()
        return attributes_of(self)

    def _check_there(self, heap: Heap) -> None:
        mine = self._heap(heap.name)
        if mine is None or mine.store != heap.store:
            raise StoreNotFound(f"store {heap.name!r} was dropped or altered; get it again by its name")

    def _changing_attributes(self) -> AbstractContextManager[Transaction]:
        self._check_open()
        return contextlib.nullcontext(self)

    def _attribute_text(self, owner: int) -> bytes:
        heap = self._heap(ATTRIBUTES)
        if heap is None:
            return b""
        staging = self._staging(heap)
        extent = staging.staged(owner) or staging.index.find(owner)
        if extent is None or extent[4] & TOMBSTONE:
            return b""
        staging.allocator.flush()  # not exposed: what is read is a copy
        return heap.array(extent).tobytes()

    def _put_attribute_text(self, owner: int, text: bytes) -> None:
        self._check_open()
        heap = self._heap(ATTRIBUTES)
        if heap is None:
            if not text:
                return
            self._add_store(ATTRIBUTES, SCHEMA)
            heap = self._created[ATTRIBUTES]
        staging = self._staging(heap)
        self._use(staging)
        if text:
            staging.put(owner, np.frombuffer(text, np.uint8))
        else:
            staging.delete(owner)

    # ------------------------------------------------------------------ end

    def _check_open(self) -> None:
        """Raise ClosedError if the transaction has ended, Error if it can only be aborted."""
        if self._ended:
            raise ClosedError(f"the transaction {self._ended}; begin another with db.transaction()")
        if self._savepoints.unfinished:
            raise Error(f"{self._savepoints.unfinished} was interrupted: abort the transaction, and begin another")

    def commit(self) -> None:
        """Make the changes permanent and visible to all.

        Raises
        ------
        OSError
            ENOSPC and the like, before anything was committed: the transaction is aborted.
        FailedError
            An earlier write failed half-way: reopen the database.
        """
        try:
            self._check_open()
            dropped = [] if self._dropped is None else [self._dropped]
            self._storage.commit(
                [*self._stagings.values(), *dropped],
                sync=self._sync,
                created=self._created.values(),
                dropped=None if self._dropped is None else self._dropped.heap,
            )
        except BaseException:
            self.abort()
            raise
        self._ended, self._guard.is_needed, self._ticket.has_ended = "was committed", True, True
        self._ticket.end()
        # Who keeps this object keeps no store by it, which keeps the disk space of its files.
        self._stagings, self._created, self._dropped = {}, {}, None
        self._savepoints = Savepoints(self._guard)

    def abort(self) -> None:
        """Take all changes back. Idempotent; after a commit it does nothing."""
        if self._ticket.has_ended:
            return
        try:
            self._ended, self._guard.is_needed = self._ended or "was aborted", True
            self._storage.discard()
        finally:
            self._ticket.has_ended = True
        self._ticket.end()

    def _close(self) -> None:
        """Abort it because the database is closed: leaving its ``with`` block then tells so."""
        self._ended, self._guard.is_needed = CLOSED, True
        self.abort()

    def _disown(self) -> None:
        """End it in a forked child, where it is the parent's, without touching anything."""
        self._ended, self._guard.is_needed = "was begun before fork()", True
        self._ticket.has_ended = True

    def __enter__(self) -> Transaction:
        try:
            self._check_open()
        except BaseException:
            self.abort()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._ended in ("", CLOSED):
            self.commit()
        else:
            self.abort()

    def __del__(self) -> None:
        # No lock, no file: the garbage collector may interrupt whoever holds them. The next one clears away.
        if hasattr(self, "_ticket"):
            self._ticket.has_ended = True


def staging_of(transaction: Transaction, heap: Heap) -> Staging:
    """Return what a transaction has changed in a committed store, by whichever heap it is known."""
    transaction._check_open()
    mine = transaction._storage.heaps.get(heap.name)
    if mine is None or mine.store != heap.store:
        raise StoreNotFound(f"store {heap.name!r} was dropped or altered; get it again by its name")
    return transaction._staging(mine)


def stagings_by_name(transaction: Transaction, names: Iterable[str]) -> tuple[Storage, list[Staging]]:
    """Return the files that a transaction changes, and what it has changed in committed stores."""
    return transaction._storage, [_staging_by_name(transaction, name) for name in names]


def _staging_by_name(transaction: Transaction, name: str) -> Staging:
    heap = transaction._heap(name)
    if heap is None:
        raise StoreNotFound(f"store {name!r} was dropped")
    return transaction._staging(heap)


def drop_store(transaction: Transaction, name: str) -> None:
    """Drop a committed store, and its attributes; a transaction drops one store, and nothing else."""
    dropped = _begin_drop(transaction, name)
    if transaction._attribute_text(dropped.heap.store):
        transaction._put_attribute_text(dropped.heap.store, b"")


def replace_store(transaction: Transaction, name: str, schema: Schema) -> tuple[Staging, Staging]:
    """Drop a committed store for a new one of its name, which takes its attributes; return what changes in each."""
    dropped = _begin_drop(transaction, name)
    transaction._add_store(name, schema)
    made, old = transaction._created[name].store, dropped.heap.store
    if text := transaction._attribute_text(old):
        transaction._put_attribute_text(old, b"")
        transaction._put_attribute_text(made, text)
    return dropped, transaction._stagings[name]


def _begin_drop(transaction: Transaction, name: str) -> Staging:
    heap = transaction._heap(check_store_name(name))
    if heap is None:
        raise StoreNotFound(f"{transaction._storage.paths.root} has no store {name!r}")
    staging = transaction._staging(heap)
    staging.stage_drop(staging.allocator.tombstone(0, TOMBSTONE | DROPPED))
    transaction._dropped = transaction._stagings.pop(name)
    return staging
