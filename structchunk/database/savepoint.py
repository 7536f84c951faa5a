"""Savepoints: what a transaction has done since some moment, to be taken back without the rest."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Protocol

from ..chunks.heap import Heap
from ..engine.staging import Mark, Staging
from ..errors import ClosedError, Error, StoreNotFound

_NEW = "has not begun: use it as with txn.savepoint() as savepoint: ..."


class Owner(Protocol):
    """A transaction."""

    _ended: str
    _stagings: dict[str, Staging]
    _created: dict[str, Heap]

    def _check_open(self) -> None:
        """Raise if it has ended, or can only be aborted."""

    def _use(self, staging: Staging) -> None:
        """Raise if a store is not to be used any more; mark it if a savepoint is open."""


class Guard:
    """What must be looked at before a store of a transaction is used: whether that has ended, and savepoints.

    All that is staged knows it, and not the transaction: one that nobody holds ends at once, without the garbage
    collector.

    Attributes
    ----------
    is_needed : bool
        Whether there is anything to look at.
    """

    def __init__(self, owner: Owner) -> None:
        self.is_needed = False
        self._ref = weakref.ref(owner)

    @property
    def owner(self) -> Owner:
        """The transaction; raises ClosedError if it is gone."""
        owner = self._ref()
        if owner is None:
            raise ClosedError("the transaction was given up; begin another with db.transaction()")
        return owner

    def has_ended(self) -> bool:
        """Tell whether the transaction has ended."""
        owner = self._ref()
        return owner is None or bool(owner._ended)

    def check(self, staging: Staging) -> None:
        """Raise if a store is not to be used any more; mark it if a savepoint is open."""
        self.owner._use(staging)


class Savepoint:
    """A moment in a transaction. Made by ``txn.savepoint()``; it begins and ends with its ``with`` block.

    Notes
    -----
    An exception that leaves the block takes back what was done in it, in all stores, and goes on; so does
    :meth:`rollback`, without an exception. Else what was done stays part of the transaction, which may be aborted
    yet. Savepoints may be nested. Use one from the thread that uses the transaction.
    """

    def __init__(self, savepoints: Savepoints) -> None:
        self._savepoints = savepoints
        self._state = _NEW
        self._marks: dict[Staging, Mark] = {}
        self._made: list[str] = []

    def __repr__(self) -> str:
        return f"<Savepoint, which {self._state or 'is open'}>"

    def rollback(self) -> None:
        """Take back what was done since it began, and end it. What is done then belongs to what is around it.

        Raises
        ------
        Error
            It has not begun, or has ended; or one that began later is still open.
        ClosedError
            The transaction has ended.

        Notes
        -----
        It takes time by what was done since. Space is used again, but for that of views that were handed out, which
        stay valid, as after an abort. Objects of ``edit()`` that were got before have the values of then; those got
        since are not part of the transaction any more. Changes in place to other objects, and to arrays of
        ``new()``, are not taken back, as by an abort. Stores that were created since refuse to work. Iterators may
        go on with what was taken back, or raise an Error.
        """
        self._savepoints.check_newest(self)
        self._savepoints.take_back(self)

    def __enter__(self) -> Savepoint:
        self._savepoints.begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._state or self._savepoints.has_ended():
            return
        if kind is not None:
            if not self._savepoints.unfinished:  # else the transaction is to be aborted, by this very exception
                self._savepoints.take_back(self)
        else:
            self._savepoints.check_newest(self)
            self._savepoints.release(self)


class Savepoints:
    """The open savepoints of a transaction.

    A store is marked when it is first used after a savepoint began; at once if objects of it are edited, which may
    change without any call. So a savepoint takes no time by what was done before.

    Attributes
    ----------
    unfinished : str
        What was cut short, so that the transaction can only be aborted.
    """

    def __init__(self, guard: Guard) -> None:
        self.unfinished = ""
        self._guard = guard
        self._open: tuple[Savepoint, ...] = ()
        self._withdrawn: set[Staging] = set()

    def has_ended(self) -> bool:
        """Tell whether the transaction has ended."""
        return self._guard.has_ended()

    def use(self, staging: Staging) -> None:
        """Mark a store that is about to be read or changed.

        Raises
        ------
        StoreNotFound
            Its creation was taken back.
        """
        if staging in self._withdrawn:
            raise StoreNotFound(
                f"store {staging.heap.name!r} was created in a savepoint that was taken back; create it again"
            )
        if self._open and staging not in self._open[-1]._marks:
            self._open[-1]._marks[staging] = staging.mark()

    def note_created(self, name: str) -> None:
        """Note that a store was created."""
        if self._open:
            self._open[-1]._made.append(name)

    def begin(self, savepoint: Savepoint) -> None:
        """Begin a savepoint."""
        self._guard.owner._check_open()
        if savepoint._state is not _NEW:
            raise Error("this savepoint has begun before; txn.savepoint() makes another one")
        stagings = self._guard.owner._stagings.values()
        savepoint._marks = {staging: staging.mark() for staging in stagings if staging.edits}
        self._guard.is_needed = True
        savepoint._state, self._open = "", (*self._open, savepoint)

    def check_newest(self, savepoint: Savepoint) -> None:
        """Raise unless a savepoint is open, and is the last one that began."""
        self._guard.owner._check_open()
        if savepoint._state:
            raise Error(f"this savepoint {savepoint._state}")
        if savepoint is not self._open[-1]:
            raise Error("a savepoint that began later is still open; leave its with block, or take that back first")

    def release(self, savepoint: Savepoint) -> None:
        """End a savepoint, and leave what was done to the one around it."""
        self.unfinished = "the end of a savepoint"
        outer = self._open[-2] if len(self._open) > 1 else None
        for staging, mark in savepoint._marks.items():
            if outer is None or staging in outer._marks:
                staging.release()
            else:
                outer._marks[staging] = mark
        if outer is not None:
            outer._made += savepoint._made
        self._end(savepoint, "has ended")

    def take_back(self, savepoint: Savepoint) -> None:
        """Take back what was done since a savepoint began, and end it, with those that began later."""
        self._guard.owner._check_open()
        self.unfinished = "taking back a savepoint"
        for later in reversed(self._open[self._open.index(savepoint) :]):
            self._withdraw(later._made)
            for staging, mark in later._marks.items():
                if staging not in self._withdrawn:
                    staging.rewind(mark)
            self._end(later, "was taken back", is_last=later is savepoint)

    def _withdraw(self, names: Iterable[str]) -> None:
        """Take back the creation of stores."""
        for name in names:
            staging = self._guard.owner._stagings.pop(name)
            self._withdrawn.add(staging)
            del self._guard.owner._created[name]
            staging.give_back()

    def _end(self, savepoint: Savepoint, state: str, *, is_last: bool = True) -> None:
        savepoint._state, self._open = state, self._open[:-1]
        savepoint._marks = {}
        self._guard.is_needed = bool(self._guard.owner._ended or self._open or self._withdrawn)
        if is_last:
            self.unfinished = ""
