"""Ways to disturb an operation at one point of it: by signals, errors, or the garbage collector."""

from __future__ import annotations

import abc
import errno
import faulthandler
import functools
import gc
import json
import os
import random
import signal
import sys
import traceback
import zlib
from collections.abc import Callable
from typing import Any, Self

from failures import GROWING, LOSSLESS, READING, Disk, Fault, Memory, caught
from garbage import GARBAGE, check_writer, other_path
from interrupts import Interrupter
from operations import Judge, Operation, Scene, Stage, Violation

import structchunk as sc

WATCH = 12
"""Seconds after which an attempt that has found nothing is stuck."""


def draw(every: list[Any], way: str, job: dict[str, Any]) -> list[Any]:
    """Return as many of all points as a job asks for."""
    rng = random.Random(f"{job['seed']} {job['operation']} {way}")
    count = min(len(every), job["counts"][way])
    return [every[at] for at in sorted(rng.sample(range(len(every)), count))]


def tell(**finding: Any) -> None:
    """Hand a finding on."""
    os.write(1, json.dumps(finding).encode() + b"\n")


# ---------------------------------------------------------------------- attempts


class Way(abc.ABC):
    """A way to disturb a call, at one point of it; entered before what the call works with is made.

    Attributes
    ----------
    name : str
    allowed : tuple of type
        What the call may raise then.
    """

    name: str
    allowed: tuple[type[BaseException], ...]
    closes = False
    """Whether it may close the database."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    @property
    @abc.abstractmethod
    def where(self) -> object:
        """Where the point was, for messages."""

    @abc.abstractmethod
    def run(self, scene: Scene, call: Callable[[], object]) -> BaseException | None:
        """Make the call, disturb it, and return what it raised, holding nothing."""

    def judge(self, scene: Scene) -> None:  # noqa: B027
        """Raise if what is not the operation's is not as it must be."""


def attempt_at(stage: Stage, operation: Operation, point: Any, way: Way) -> None:
    """Disturb an operation, judge, and tell; if something is wrong the process is of no more use."""
    faulthandler.dump_traceback_later(WATCH, exit=True)
    verdict = ""
    tell(trying=point, way=way.name)
    try:
        with way, stage.scene(operation) as scene:
            error = way.run(scene, functools.partial(finish, operation, scene))
            if error is not None and not isinstance(error, way.allowed):
                raise Violation(f"it raises {error!r}") from error
            judge = Judge(scene, operation, returned=scene.returned, closes=way.closes)
            judge.judge(thorough=zlib.crc32(repr(point).encode()) % 8 == 0)
            way.judge(scene)
    except Violation as violation:
        verdict = str(violation)
    except Exception as error:
        verdict = f"judging raises {error!r}: {traceback.format_exc()[-1500:]}"
    tell(tried=point, way=way.name, where=way.where, verdict=verdict)
    if verdict:
        os._exit(3)  # what is left of it could harm the next attempts


def finish(operation: Operation, scene: Scene) -> None:
    """Do an operation, and note that it was done to the end."""
    operation.act(scene)
    scene.returned = True


def warm_up(stage: Stage, operation: Operation) -> None:
    """Let an operation do what it does once in a process."""
    with stage.scene(operation) as scene:
        operation.act(scene)
        Judge(scene, operation, returned=True).judge(thorough=True)


# ---------------------------------------------------------------------- interrupts


class Interrupted(Way):
    """By Ctrl-C at these instants; the frames of the exception are kept, if this is asked for."""

    allowed = (KeyboardInterrupt,)

    def __init__(self, *numbers: int, keep: bool = False) -> None:
        self.name = "keep" if keep else "interrupt"
        self._numbers = numbers
        self.interrupter = Interrupter(keep=keep)

    @property
    def where(self) -> list[tuple[str, ...]]:
        """The innermost frames of each interrupt."""
        return [raised.where[:6] for raised in self.interrupter.raised]

    def run(self, scene: Scene, call: Callable[[], object]) -> BaseException | None:
        """Interrupt the call."""
        error = self.interrupter.interrupt(call, *self._numbers, note=len(self._numbers) == 1)
        if any(raised.entered in ENDING for raised in self.interrupter.raised):
            self.interrupter.kept = None
        return error


ENDING = ("__enter__", "__exit__", "commit")
"""Interrupted before their first instruction, these have not ended a transaction; what is kept holds it open.

The language calls them once, so this cannot be helped; the README says so. The exception is not kept then.
"""


def count_instants(stage: Stage, operation: Operation) -> list[Any]:
    """Return the instants at which an operation can be interrupted."""
    if operation.name not in stage.instants:
        with stage.scene(operation) as scene:
            instants = Interrupter().watch(lambda: operation.act(scene))
            scene.close()
        stage.instants[operation.name] = [instant.number for instant in instants]
    return stage.instants[operation.name]


def interrupt(stage: Stage, operation: Operation, number: int, job: dict[str, Any]) -> None:
    """Interrupt an operation at an instant, and again while that interrupt is dealt with."""
    way = Interrupted(number)
    attempt_at(stage, operation, [number], way)
    again = way.interrupter.instants
    rng = random.Random(f"{job['seed']} {number}")
    for second in rng.sample(again, min(job["again"], len(again))):
        attempt_at(stage, operation, [number, second.number], Interrupted(number, second.number))


def count_kept(stage: Stage, operation: Operation) -> list[Any]:
    """Return the instants after which nothing is open that the exception could keep so."""
    return [] if operation.begins else count_instants(stage, operation)


def keep(stage: Stage, operation: Operation, number: int, job: dict[str, Any]) -> None:
    """Interrupt an operation at an instant, and keep the exception, as an interactive session does."""
    attempt_at(stage, operation, [number], Interrupted(number, keep=True))


# ---------------------------------------------------------------------- errors


class Starved(Way):
    """By want of memory at one call."""

    name = "starve"
    allowed = (MemoryError, sc.FailedError)

    def __init__(self, at: int) -> None:
        self._memory = Memory(at)

    @property
    def where(self) -> str:
        """The call."""
        return self._memory.where

    def run(self, scene: Scene, call: Callable[[], object]) -> BaseException | None:
        """Let one call fail."""
        return caught(functools.partial(self._memory.run, call))


def count_calls(stage: Stage, operation: Operation) -> list[Any]:
    """Return the numbers of the calls that may want memory."""
    memory = Memory()
    with stage.scene(operation) as scene:
        memory.run(lambda: operation.act(scene))
        scene.close()
    return list(range(1, memory.count + 1))


def starve(stage: Stage, operation: Operation, at: int, job: dict[str, Any]) -> None:
    """Let an operation want memory at a call."""
    attempt_at(stage, operation, [at], Starved(at))


class Failing(Way):
    """By a disk, one call of which fails, or all from one on."""

    name = "fail"
    allowed = (OSError, sc.FailedError)

    def __init__(self, fault: Fault | None = None) -> None:
        self.disk = Disk(fault)

    def __enter__(self) -> Self:
        self.disk.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.disk.__exit__(*exc)

    @property
    def where(self) -> list[str]:
        """The calls that failed, and those before."""
        return [*self.disk.calls[-8:], "failed:", *self.disk.failed[:3]]

    def run(self, scene: Scene, call: Callable[[], object]) -> BaseException | None:
        """Let calls fail."""
        return self.disk.run(call)


def count_disk_calls(stage: Stage, operation: Operation) -> list[Any]:
    """Return what may fail: of each call once, before and after it is done, and all from there on."""
    way = Failing()
    with way, stage.scene(operation) as scene:
        way.run(scene, lambda: operation.act(scene))
        scene.close()
    return [
        [at, error, done, lasting]
        for at, name in enumerate(way.disk.calls, 1)
        for error, done, lasting in FAULTS
        if (not done or name not in (*LOSSLESS, *READING)) and (name in GROWING or error == errno.EIO)
    ]


FAULTS = (
    (errno.EIO, False, False),
    (errno.EIO, True, False),
    (errno.ENOSPC, False, False),
    (errno.ENOSPC, False, True),
)


def fail(stage: Stage, operation: Operation, fault: list[Any], job: dict[str, Any]) -> None:
    """Let an operation work on a disk that fails."""
    attempt_at(stage, operation, fault, Failing(Fault(*fault)))


# ---------------------------------------------------------------------- the collector


class Collected(Way):
    """By a collection at one instant, of what makes a cycle: finalisers run in the middle of the call.

    The instant 0 stands for a collection at every allocation.
    """

    name = "collect"

    def __init__(self, kind: str, at: int) -> None:
        self._kind = kind
        self._at = at
        self._interrupter = Interrupter(strike=gc.collect)
        self.closes = kind == "closing_last"
        self.allowed = (sc.ClosedError,) if self.closes else ()

    @property
    def where(self) -> str:
        """What was collected."""
        return f"a collection of {self._kind}"

    def run(self, scene: Scene, call: Callable[[], object]) -> BaseException | None:
        """Leave garbage, and have it collected."""
        GARBAGE[self._kind](scene)
        if self._at:
            error = self._interrupter.interrupt(call, self._at)
            gc.collect()  # beside another reader a call may take fewer steps, so that the instant did not come
            return error
        thresholds = gc.get_threshold()
        gc.set_threshold(1)
        gc.enable()
        try:
            return caught(call)
        finally:
            gc.disable()
            gc.set_threshold(*thresholds)

    def judge(self, scene: Scene) -> None:
        """Raise if another database is not as it was."""
        gc.collect()
        if os.path.exists(other_path(scene)):
            check_writer(scene)


def count_collections(stage: Stage, operation: Operation) -> list[Any]:
    """Return when what may be collected."""
    instants = [0, *count_instants(stage, operation)]
    return [[kind, at] for kind in GARBAGE for at in instants]


def collect(stage: Stage, operation: Operation, point: list[Any], job: dict[str, Any]) -> None:
    """Let finalisers run in the middle of an operation."""
    attempt_at(stage, operation, point, Collected(*point))


# ---------------------------------------------------------------------- signal handlers


class Handled(Way):
    """By a signal at one instant, whose handler closes the database, and then leaves, or goes on."""

    name = "handle"
    closes = True

    def __init__(self, reaction: str, at: int) -> None:
        self._reaction = reaction
        self._at = at
        self._interrupter = Interrupter(signal.SIGTERM, self._react)
        self._scene: Scene | None = None
        self.allowed = (SystemExit, sc.ClosedError, sc.LockedError, sc.FailedError)

    @property
    def where(self) -> list[tuple[str, ...]]:
        """Where the signal came."""
        return [raised.where[:6] for raised in self._interrupter.raised]

    def _react(self) -> None:
        assert self._scene is not None
        for db in (self._scene.db, self._scene.other):
            if db is not None and self._reaction != "leave":
                db.close()
        if self._reaction != "go on":
            sys.exit(STATUS)

    def run(self, scene: Scene, call: Callable[[], object]) -> BaseException | None:
        """Interrupt the call."""
        self._scene = scene
        error = self._interrupter.interrupt(call, self._at)
        self._scene = None
        return error


STATUS = 7
"""With this a signal handler exits."""


def count_signals(stage: Stage, operation: Operation) -> list[Any]:
    """Return when a signal may come, and what its handler does then."""
    instants = count_instants(stage, operation)
    return [[reaction, at] for at in instants for reaction in ("exit", "go on")]


def handle(stage: Stage, operation: Operation, point: list[Any], job: dict[str, Any]) -> None:
    """Let a signal's handler run in the middle of an operation."""
    attempt_at(stage, operation, point, Handled(*point))


WAYS: dict[str, tuple[Callable[..., list[Any]], Callable[..., None]]] = {
    "interrupt": (count_instants, interrupt),
    "keep": (count_kept, keep),
    "starve": (count_calls, starve),
    "fail": (count_disk_calls, fail),
    "collect": (count_collections, collect),
    "handle": (count_signals, handle),
}
