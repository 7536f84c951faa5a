"""Transaction: an atomic change of stores, and what a store is bound to within one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from .aligned import Aligned
from .errors import ClosedError, StoreNotFound
from .extent import DROPPED, TOMBSTONE, Extent, Run
from .heap import Heap
from .keys import as_key
from .piece import Piece
from .schema import Schema
from .staging import Staging
from .storage import Storage
from .stores import check_store_name

if TYPE_CHECKING:
    pass

CLOSED = "was aborted when the database was closed"


class InTransaction:
    """Binding of a store to a transaction."""

    def __init__(self, transaction: Transaction, staging: Staging) -> None:
        self.heap = staging.heap
        self._transaction = transaction
        self._staging = staging

    def open_staging(self) -> Staging:
        """Return the transaction's staging, unless the transaction has ended."""
        self._transaction.check_open()
        return self._staging

    def find(self, key: int) -> Extent | None:
        """Return the extent of a key, or None."""
        return self.open_staging().find(as_key(key))

    def lookup(self, keys: npt.NDArray[np.uint64]) -> Run:
        """Return one row per ascending key; the key that has none gets a tombstone."""
        return self.open_staging().lookup(keys)

    def pieces(self, start: int, stop: int, *, reverse: bool = False) -> Iterator[Piece]:
        """Yield the live rows of a key range as consecutive pieces."""
        pieces = self.open_staging().pieces(start, stop, reverse=reverse)
        return self._while_open(pieces)

    def _while_open(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            yield piece
            self._transaction.check_open()

    def record_count(self) -> int:
        """Return how many records the store has."""
        return self.open_staging().record_count()

    def version(self) -> int:
        """Return a number that changes with every write."""
        return self.open_staging().changes

    @contextlib.contextmanager
    def writing(self) -> Iterator[Staging]:
        """Enter the transaction; leaving does not commit it."""
        yield self.open_staging()

    def home(self) -> NoReturn:
        """Refuse."""
        raise TypeError("a store of a transaction cannot be pickled; pickle one of a database open with mode='r'")

    def live_array(self, extent: Extent) -> npt.NDArray[Any] | None:
        """Return an extent's items for changing in place."""
        return self._transaction.storage.live_array(self.heap, extent)


class Transaction(Aligned):
    """An atomic change of any number of stores, all or nothing.

    Made by ``db.transaction()``. As a context manager it commits at the end, and aborts on any exception.

    Notes
    -----
    There is one write transaction at a time; beginning another one waits. Use a transaction from one thread at
    a time. Stores got from it (``txn[name]``) read its own writes, and refuse to work once it has ended.
    Commit returns when the change is on disk, or with ``sync=False`` when it is with the operating system.
    """

    def __init__(self, storage: Storage, *, sync: bool, release: Callable[[], None]) -> None:
        self.storage = storage
        self._sync = sync
        self._release = release
        self._stagings: dict[str, Staging] = {}
        self._created: dict[str, Heap] = {}
        self._dropped: Heap | None = None
        self._ended = ""

    def __repr__(self) -> str:
        state = f"which {self._ended}" if self._ended else "open"
        return f"<Transaction of {self.storage.paths.root!r}, {state}>"

    # ------------------------------------------------------------------ stores

    def _binding(self, name: str) -> InTransaction:
        heap = self._heap(name)
        if heap is None:
            raise StoreNotFound(f"no store {name!r}; create it with array_store() or object_store()")
        return InTransaction(self, self._staging(heap))

    def __contains__(self, name: object) -> bool:
        self.check_open()
        return name in self._created or name in self.storage.heaps

    def __iter__(self) -> Iterator[str]:
        self.check_open()
        return iter(sorted([*self.storage.heaps, *self._created]))

    def create(self, name: str, schema: Schema) -> None:
        """Create a store in this transaction."""
        self.check_open()
        heap = self.storage.new_heap(check_store_name(name), schema)
        self._created[name] = heap
        self._staging(heap)

    def drop(self, heap: Heap) -> None:
        """Drop a committed store; a transaction drops one store, and nothing else."""
        staging = self.staging(heap)
        staging.rows[0] = heap.bury_one(0, TOMBSTONE | DROPPED)
        self._dropped = heap

    def schema(self, name: str) -> Schema | None:
        """Return the type of a store, or None if there is no such store."""
        self.check_open()
        heap = self._heap(name)
        return None if heap is None else heap.schema

    def _heap(self, name: str) -> Heap | None:
        self.check_open()
        return self._created.get(name) or self.storage.heaps.get(name)

    def _staging(self, heap: Heap) -> Staging:
        staging = self._stagings.get(heap.name)
        if staging is None:
            index = self.storage.index
            staging = Staging(heap, index.table(heap.store), partial(index.record_count, heap.store))
            self._stagings[heap.name] = staging
            heap.durable = self._sync
        return staging

    def staging(self, heap: Heap) -> Staging:
        """Return what this transaction has changed in a committed store, by whichever heap it is known."""
        self.check_open()
        mine = self.storage.heaps.get(heap.name)
        if mine is None or mine.store != heap.store:
            raise StoreNotFound(f"store {heap.name!r} was dropped")
        return self._staging(mine)

    # ------------------------------------------------------------------ end

    def check_open(self) -> None:
        """Raise ClosedError if the transaction has ended."""
        if self._ended:
            raise ClosedError(f"the transaction {self._ended}; begin another with db.transaction()")

    def commit(self) -> None:
        """Make the changes permanent and visible to all.

        Raises
        ------
        OSError
            ENOSPC and the like, before anything was committed: the transaction is aborted.
        FailedError
            An earlier write failed half-way: reopen the database.
        """
        self.check_open()
        try:
            self.storage.commit(
                self._stagings.values(),
                sync=self._sync,
                created=self._created.values(),
                dropped=self._dropped,
            )
        except BaseException:
            self.abort()
            raise
        self._end("was committed")

    def abort(self) -> None:
        """Take all changes back. Idempotent; after a commit it does nothing."""
        if self._ended:
            return
        try:
            self.storage.discard(self._stagings.values(), self._created.values())
        finally:
            self._end("was aborted")

    def _end(self, how: str) -> None:
        self._ended = how
        self._release()

    def close(self) -> None:
        """Abort it because the database is closed: leaving its ``with`` block then tells so."""
        self.abort()
        self._ended = CLOSED

    def disown(self) -> None:
        """End it in a forked child, where it is the parent's, without touching anything."""
        self._ended = "was begun before fork()"

    def __enter__(self) -> Transaction:
        self.check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._ended in ("", CLOSED):
            self.commit()
        else:
            self.abort()

    def __del__(self) -> None:
        if not getattr(self, "_ended", "was never begun"):
            with contextlib.suppress(Exception):
                self.abort()
