"""Signals at chosen instants: at any bytecode instruction of a call; CPython takes them where it always would.

A trace function counts the instructions that are about to be executed. At a chosen one it trips the signal and
takes itself out, so that the interpreter meets the signal at its own next check: on entering a function, after a
call of a built-in one, at a jump backwards. An exception raised by the trace function itself would come at
instructions where no signal ever comes. The signal's handler puts the trace function back, so that a second signal
may be tripped while the first one is being cleaned up after.
"""

from __future__ import annotations

import ctypes
import dis
import signal
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, NamedTuple

_trip = ctypes.PyDLL(None)["PyErr_SetInterruptEx"]
_trip.argtypes = [ctypes.c_int]
_trip.restype = None


class _Trip:
    """Trips a signal when ``now`` is read, which, unlike a call, takes the interpreter to no check of its own."""

    now = property(_trip)

    def __init__(self, signum: int) -> None:
        self._as_parameter_ = signum


class Instant(NamedTuple):
    """An instruction after which CPython takes a signal, before it gets to the next such instruction.

    ``number`` counts the instructions of the whole call, from 1.
    """

    number: int
    code: CodeType
    offset: int

    def __str__(self) -> str:
        lines = {offset: line for offset, line in dis.findlinestarts(self.code) if line is not None}
        line = max((line for offset, line in lines.items() if offset <= self.offset), default=0)
        return f"{self.code.co_filename.rpartition('/')[2]}:{line} {self.code.co_name} #{self.number}"


class Raised(NamedTuple):
    """Where a signal was taken: after how many instructions of the call, and in which frames, innermost first."""

    number: int
    where: tuple[str, ...]
    entered: str
    """The function that was just being entered, and had done nothing yet; else empty."""


class Interrupter:
    """Makes calls, and interrupts them.

    Parameters
    ----------
    signum : int
    react : callable
        What the signal's handler does; by default it raises KeyboardInterrupt.
    strike : callable, optional
        What to do at a chosen instant, there and then, in place of tripping a signal.
    keep : bool
        Keep what the call raised, with the frames that it came through, as an interactive session does.
    """

    def __init__(
        self,
        signum: int = signal.SIGINT,
        react: Callable[[], object] | None = None,
        *,
        strike: Callable[[], object] | None = None,
        keep: bool = False,
    ) -> None:
        self._strike = strike
        self.kept: object = None
        self._keep = keep
        self._armed = _Trip(signum)
        self._signum = signum
        self._react = react or _raise_interrupt
        self._targets: list[int] = []
        self._count = 0
        self._last: tuple[CodeType, int] | None = None
        # Kept: CPython may call it once more when, in the middle of a call, a finaliser has taken it out.
        self._trace: Callable[..., Any] = self._enter
        self.instants: list[Instant] = []
        self.raised: list[Raised] = []

    def watch(self, call: Callable[[], object]) -> list[Instant]:
        """Make a call, and return the instants at which it can be interrupted."""
        self._run(_nothing, (), self._step)  # Python 3.12 and later count nothing the first time
        self.instants = []
        self._run(call, (), self._step_and_note)
        return self.instants

    def interrupt(self, call: Callable[[], object], *numbers: int, note: bool = False) -> BaseException | None:
        """Make a call, trip the signal at these instructions, in order, and return what the call raised.

        That comes without its traceback and its context, so that it keeps nothing alive; with them it is
        ``kept`` until the next call, if this was asked for. With `note`, ``instants`` are those after the first
        signal.
        """
        self.instants = []
        self.raised = []
        return self._run(call, numbers, self._step_and_note if note else self._step)

    def _run(self, call: Callable[[], object], targets: tuple[int, ...], step: Any) -> BaseException | None:
        self._targets = sorted(targets, reverse=True)
        self._next = self._targets.pop() if targets else -1
        self._count = 0
        self._last = None
        self._stepping = step if not targets else self._step
        self._after = step
        former = signal.signal(self._signum, self._take)
        caught: BaseException | None = None
        try:
            sys.settrace(self._trace)
            call()
            sys.settrace(None)
        except BaseException as error:
            sys.settrace(None)
            self.kept = (error, error.__traceback__, error.__context__, error.__cause__) if self._keep else None
            caught = error.with_traceback(None)
            caught.__context__ = caught.__cause__ = None
        finally:
            self._next = -1
            signal.signal(self._signum, former)
        return caught

    def _take(self, signum: int, frame: FrameType | None) -> None:
        """Note where the signal came, go on counting, and react."""
        self.raised.append(Raised(self._count, _chain(frame), _entered(frame)))
        self._next = self._targets.pop() if self._targets else -1
        self._stepping = self._after
        self._last = None
        if frame is not None and frame.f_code.co_filename == __file__:
            return  # the call has ended
        while frame is not None and frame.f_code.co_filename != __file__:
            frame.f_trace_opcodes, frame.f_trace_lines, frame.f_trace = True, False, self._stepping
            frame = frame.f_back
        del frame  # else it would be in a circle with the exception
        sys.settrace(self._trace)
        self._react()

    def _enter(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename == __file__:
            return None
        if self._last is not None:
            self._note()
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._stepping

    def _step(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode":
            self._count += 1
            if self._count == self._next:
                sys.settrace(None)
                if self._strike is None:
                    return self._armed.now
                self._strike()
        return None

    def _step_and_note(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode":
            self._count += 1
            if self._count == self._next:
                sys.settrace(None)
                return self._armed.now
            self._last = frame.f_code, frame.f_lasti
            if frame.f_lasti in _checking(frame.f_code):
                self._note()
        return None

    def _note(self) -> None:
        assert self._last is not None
        if not self.instants or self.instants[-1].number != self._count:
            self.instants.append(Instant(self._count, *self._last))


def _nothing() -> None:
    """Do nothing."""


def _raise_interrupt() -> None:
    raise KeyboardInterrupt


def _chain(frame: FrameType | None) -> tuple[str, ...]:
    """Return the frames of a stack, innermost first, as file, line and function."""
    found = []
    while frame is not None and frame.f_code.co_filename != __file__:
        name = frame.f_code.co_filename.rpartition("/")[2]
        found.append(f"{name}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return tuple(found)


def _entered(frame: FrameType | None) -> str:
    if frame is None or frame.f_lineno != frame.f_code.co_firstlineno:
        return ""
    return frame.f_code.co_name


_CHECKING = frozenset(
    opcode for name, opcode in dis.opmap.items() if name.startswith("CALL") or "JUMP_BACKWARD" in name
)
_checking_of: dict[CodeType, frozenset[int]] = {}


def _checking(code: CodeType) -> frozenset[int]:
    """Return the offsets of the instructions of a function that take signals; entering a function does besides."""
    found = _checking_of.get(code)
    if found is None:
        # Two bytes each; those that the interpreter keeps behind some of them are none of these: co_code has zeros.
        found = frozenset(2 * at for at, opcode in enumerate(code.co_code[::2]) if opcode in _CHECKING)
        _checking_of[code] = found
    return found
