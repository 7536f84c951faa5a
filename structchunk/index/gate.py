"""Gate: one call of a LevelDB handle at a time, none once it is closed; and its snapshots.

What is behind it may crash or hang if it is closed while a call is in flight, or in a forked child.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable
from typing import Any

from ..errors import ClosedError
from ..process import forks
from ..process.mutex import Mutex
from .private_directory import PrivateDirectory

FORKED = "this database was opened before fork(); open it again in this process"


class Gate:
    """Gives out a handle until it is shut: ``with gate.lock, gate as handle``. Leaving translates errors.

    One thread at a time goes in, so that no call is in flight when the gate is shut. The lock is taken by its own
    ``with``: whatever Ctrl-C interrupts, it is let go. A finaliser or signal handler that interrupts a call may
    make another one, but for shutting.

    Parameters
    ----------
    path : str
    handle : plyvel.DB
    translate : callable
        Returns the error to be raised in place of one that a call has raised; the same one if it is to be raised.
    """

    def __init__(self, path: str, handle: Any, translate: Callable[[str, BaseException], BaseException]) -> None:
        self.mutex = Mutex()
        self.lock = self.mutex.lock
        self._path = path
        self._handle = handle
        self._translate = translate
        self._refusal = ""
        self._discarded: deque[Any] = deque()
        self.directory: PrivateDirectory | None = None
        forks.on_fork(self)

    def check(self) -> None:
        """Raise ClosedError once the gate is shut."""
        if self._refusal:
            raise ClosedError(self._refusal)

    def is_open(self) -> bool:
        """Tell whether it was not shut yet."""
        return not self._refusal

    def is_held(self) -> bool:
        """Tell whether the handle was not let go yet."""
        return self._handle is not None

    def __enter__(self) -> Any:
        self.check()
        if self._discarded:
            self._discarded.clear()
        return self._handle

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None and (translated := self._translate(self._path, error)) is not error:
            raise translated from error

    def shut(self, refusal: str) -> Any:
        """Refuse further calls, and return the handle, to be closed; None once that was done."""
        self.mutex.refuse_mine()
        with self.lock:
            self._refusal = self._refusal or refusal  # from here on no snapshot goes before the handle is closed
            return self._handle

    def forget(self) -> None:
        """Let the handle go, which was closed."""
        self._handle = None

    def disown(self) -> None:
        """Give the handle up without touching it: in a forked child, closing it would hang."""
        for given_up in (self._handle, *self._discarded):
            leak(given_up)
        self._handle = None
        self.mutex = Mutex()
        self.lock = self.mutex.lock
        self._refusal = FORKED

    def discard(self, snapshot: Any) -> None:
        """Let a plyvel snapshot go: with the next call, for plyvel crashes if one goes while it closes.

        Takes no lock, since the garbage collector may call it at any time.
        """
        if self._refusal == FORKED:
            leak(snapshot)
        else:
            self._discarded.append(snapshot)


def leak(thing: Any) -> None:
    """Keep an object from ever being destroyed."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


class LevelDBSnapshot:
    """The state of a LevelDB at one time, for as long as this object lives."""

    __slots__ = ("_gate", "inner")

    def __init__(self, gate: Gate, inner: Any) -> None:
        self._gate = gate
        self.inner = inner

    def __del__(self) -> None:
        if hasattr(self, "inner"):  # else its making was cut short
            self._gate.discard(self.inner)

    @property
    def directory(self) -> PrivateDirectory | None:
        """What keeps the files, if it is of a private LevelDB."""
        return self._gate.directory
