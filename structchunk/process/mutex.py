"""Mutex: a lock of which a signal handler or finaliser can tell that its own thread holds it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..errors import LockedError


class Mutex:
    """A lock; who may be waiting for itself asks first.

    ``lock`` is taken by ``with mutex.lock``, never by a method: Python takes and frees a lock that is written in C
    within one instruction, so that no interrupt can leave it locked. ``is_mine()`` tells whether this thread
    holds it.

    Notes
    -----
    A signal handler, or a finaliser that the garbage collector runs, interrupts its thread anywhere. If that thread
    holds the lock then, the state under it may be half changed, and waiting for it would be for ever.
    """

    def __init__(self) -> None:
        self.lock: Any = threading.RLock()
        self.is_mine: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined]

    def refuse_mine(self) -> None:
        """Raise LockedError if this thread holds the lock."""
        if self.is_mine():
            raise interrupts_itself()


def interrupts_itself() -> LockedError:
    """Return the error for a call that would wait for its own thread."""
    return LockedError(
        "this call interrupts another one of the same thread, from a signal handler, a finaliser or a progress "
        "callback; make it when that one has returned"
    )
