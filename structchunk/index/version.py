"""The lock of the index, and the counter that tells which state of it a read belongs to. No rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakMethod

from ..process.mutex import Mutex


class IndexState(Protocol):
    """One state of the index: a plyvel snapshot, and the number of the IndexVersion when it was taken.

    The number of the commit would not do: a fold, which is no commit, moves rows from the delta into pages, and
    the delta of after it does not go with the pages of before it.
    """

    @property
    def version(self) -> int:
        """The number of the IndexVersion."""

    @property
    def leveldb_snapshot(self) -> Any:
        """The plyvel snapshot."""


class IndexVersion:
    """The lock, the last commit, and a count of all changes.

    Attributes
    ----------
    mutex : Mutex
    last : int
        The last commit.
    number : int
        Counts changes.
    is_changing : bool
        A change is being made, by the thread that holds the lock.
    is_torn : bool
        A change was cut short: what is cached may be of before it, or of after it.
    mend : WeakMethod
        Makes the caches good again; the caller holds the lock. It is weak, so that a lost index goes at once.
    """

    def __init__(self, last: int, mend: WeakMethod[Callable[[], None]] | None = None) -> None:
        self.mutex = Mutex()
        self.last = last
        self.number = 0
        self.is_changing = False
        self.is_torn = False
        self.mend = mend

    @property
    def lock(self) -> Any:
        """The lock, to be taken by ``with`` after :meth:`check`."""
        return self.mutex.lock

    def check(self) -> None:
        """Make the caches good again if a change was cut short.

        Raises
        ------
        LockedError
            This call interrupts a change that its own thread is making.
        """
        if self.is_changing and self.mutex.is_mine():
            self.mutex.refuse_mine()
        if self.is_torn:
            with self.lock:
                mend = self.mend and self.mend()
                if self.is_torn and mend:
                    mend()
                    self.is_torn = False
