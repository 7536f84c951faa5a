"""WriterQueue: who may write, one transaction at a time among the threads of a database handle. No files here.

It takes no lock, so that a signal handler or a finaliser of a thread that is just in it finds none held. Tickets
stand in a deque, whose methods are each one step. A ticket is given up by one assignment, also in the middle of
being made; others remove it. What a transaction leaves behind that was given up is the next one's to clear away.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable

from ..engine.storage import Storage
from ..errors import ClosedError, LockedError
from ..process import forks
from .transaction import CLOSED, Ticket, Transaction

POLL = 0.02
"""Seconds after which who waits looks again: a transaction that is garbage-collected wakes nobody."""


class WriterQueue:
    """The write transactions of one handle, one after the other, in the order of asking.

    Parameters
    ----------
    begin : callable
        Returns the files that a transaction changes, once what an earlier one left is cleared away.
    end : callable
        Lets them go.
    """

    def __init__(self, begin: Callable[[], Storage], end: Callable[[], None]) -> None:
        self._begin = begin
        self._end = end
        self._tickets: deque[Ticket] = deque()
        forks.on_fork(self)

    def take(self, *, sync: bool) -> Transaction:
        """Begin a transaction, once those of other threads have ended.

        Raises
        ------
        LockedError
            This thread has one open already.
        ClosedError
            The database was closed meanwhile.
        """
        ticket = Ticket(self._end_turn)
        try:
            if self.is_mine():
                raise LockedError("this thread has a write transaction open: write through that, or end it first")
            self._wait(ticket, None)
            transaction = Transaction(self._begin(), ticket, sync=sync)
            ticket.transaction = weakref.ref(transaction)
            return transaction
        except BaseException:
            ticket.has_ended = True
            raise

    def close(self, close: Callable[[], None], timeout: float) -> None:
        """Call `close` while nobody writes.

        Aborts the transaction that this thread has open; waits for that of another thread, `timeout` seconds, and
        then aborts it, too.
        """
        ticket = Ticket(self._end_turn)
        try:
            self._abort(self._mine())
            self._wait(ticket, time.monotonic() + timeout)
            self._abort(other for other in list(self._tickets) if other.transaction)
            close()
        finally:
            ticket.has_ended = True

    def is_mine(self) -> bool:
        """Tell whether this thread has a transaction open."""
        return bool(self._tickets) and bool(self._mine())

    def _mine(self) -> list[Ticket]:
        """Return the tickets that this thread holds, or is just waiting with when something interrupts it."""
        thread = threading.get_ident()
        return [ticket for ticket in list(self._tickets) if ticket.thread == thread and ticket.is_held()]

    @staticmethod
    def _abort(tickets: Iterable[Ticket]) -> None:
        for ticket in tickets:
            ticket.close()

    def _wait(self, mine: Ticket, deadline: float | None) -> None:
        self._tickets.append(mine)
        while self._first() is not mine:
            if mine.has_ended:  # a signal handler has closed the database
                raise ClosedError(f"the transaction {CLOSED}")
            if deadline is not None and time.monotonic() > deadline:
                return
            mine.sleep(POLL)

    def _first(self) -> Ticket | None:
        """Return whose turn it is, having removed those who gave up."""
        while self._tickets:
            first = self._tickets[0]
            if first.is_held():
                return first
            with contextlib.suppress(ValueError):  # another thread did
                self._tickets.remove(first)
        return None

    def _end_turn(self, ticket: Ticket) -> None:
        try:
            self._end()
        finally:
            ticket.has_ended = True
        following = self._first()
        if following is not None:
            following.call()

    def disown(self) -> None:
        """End the open transaction in a forked child, where it is the parent's."""
        for ticket in self._tickets:
            ticket.disown()
        self._tickets = deque()
