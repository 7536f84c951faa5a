"""Turns: who may write, one transaction at a time among the threads of a database handle."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator

from .errors import LockedError
from .storage import Storage
from .transaction import Transaction


class Turns:
    """The write transactions of one handle, one after the other.

    Parameters
    ----------
    begin : callable
        Returns the files that a transaction changes.
    end : callable
        Lets them go.
    """

    def __init__(self, begin: Callable[[], Storage], end: Callable[[], None]) -> None:
        self._begin = begin
        self._end = end
        self._lock = threading.Lock()
        self._thread = 0
        self._transaction: weakref.ref[Transaction] | None = None

    def take(self, *, sync: bool) -> Transaction:
        """Begin a transaction, once that of any other thread has ended.

        Raises
        ------
        LockedError
            This thread has one open already.
        """
        thread = threading.get_ident()
        if self._thread == thread:
            raise LockedError("this thread has a write transaction open: write through that, or end it first")
        self._lock.acquire()
        try:
            transaction = Transaction(self._begin(), sync=sync, release=self._release)
            self._transaction = weakref.ref(transaction)
        except BaseException:
            self._lock.release()
            raise
        self._thread = thread
        return transaction

    def _release(self) -> None:
        self._transaction = None
        self._thread = 0
        try:
            self._end()
        finally:
            self._lock.release()

    def _open(self) -> Transaction | None:
        return None if self._transaction is None else self._transaction()

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Abort the transaction that this thread has open, and begin no other while the body runs."""
        transaction = self._open()
        if transaction is not None and self._thread == threading.get_ident():
            transaction.close()
        with self._lock:
            yield

    def disown(self) -> None:
        """End the open transaction in a forked child, where it is the parent's."""
        self._lock = threading.Lock()
        self._thread = 0
        transaction = self._open()
        if transaction is not None:
            transaction.disown()
