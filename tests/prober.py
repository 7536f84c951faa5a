"""A process that tries operations in children, and answers for those that hang or die. Run as a script.

It has opened no database itself, and so may fork. It reads one job a line, as JSON; the child that does it writes
its findings as lines, and the process a last one, with ``end``. A child that does nothing for long shows where its
threads are, and is gone.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import faulthandler
import functools
import gc
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from crash import shrink
from failures import LOSSLESS, READING, Disk, Fault, Memory
from interrupts import Interrupter
from operations import OPERATIONS, Judge, Operation, Scene, Stage, Violation

import structchunk as sc

if TYPE_CHECKING:
    from typing_extensions import Self

WATCH = 30
"""Seconds after which a child that has found nothing is stuck."""


class Prober:
    """The process, from outside."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, **job: Any) -> list[dict[str, Any]]:
        """Have a job done, and return the findings; the last one tells how the child ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        findings: list[dict[str, Any]] = []
        while not findings or "end" not in findings[-1]:
            findings.append(json.loads(self._process.stdout.readline()))
        findings[-1]["done"] = 1 + max(
            (finding["number"] for finding in findings if "number" in finding), default=0
        )
        return findings

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@contextlib.contextmanager
def started() -> Iterator[Prober]:
    """Start the process, and end it."""
    prober = Prober()
    try:
        yield prober
    finally:
        prober.close()


class Sweep(NamedTuple):
    """What came of trying an operation at some of its points."""

    tried: int
    points: int
    all_points: int
    violations: list[str]


def sweep(prober: Prober, task: str, operation: str, count: float, seed: object, **options: Any) -> Sweep:
    """Disturb an operation at all of its points, or at so many, in as many children as it takes."""
    counted = prober.run(task=task, operation=operation, **options)
    assert "points" in counted[0], counted[-1]["errors"]
    points = counted[0]["points"]
    chosen = sorted(random.Random(f"{seed} {operation}").sample(points, min(len(points), round(count))))
    tried, violations = 0, []
    rest = list(chosen)
    while rest:
        findings = prober.run(task=task, operation=operation, points=rest, seed=f"{seed}", **options)
        tried += sum("tried" in finding for finding in findings)
        if findings[-1]["end"] == 0:
            break
        at: Any = next((finding["trying"] for finding in reversed(findings) if "trying" in finding), None)
        assert at is not None, findings[-1]["errors"]
        violations.append(_told(at, findings))
        rest = rest[findings[-1]["done"] :]
    return Sweep(tried, len(chosen), len(points), violations)


def _told(at: list[Any], findings: list[dict[str, Any]]) -> str:
    last = findings[-2]
    if last.get("verdict"):
        return f"{at}: {last['verdict']}; interrupted in {last['where']}"
    return f"{at}: the process ended with {findings[-1]['end']}: {findings[-1]['errors']}"


# ---------------------------------------------------------------------- inside


def serve() -> None:
    """Do jobs until there are no more."""
    shrink()
    for line in sys.stdin:
        print(json.dumps(supervise(json.loads(line))), flush=True)


def supervise(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job in a child, and return how it ended."""
    with tempfile.TemporaryFile() as errors:
        pid = os.fork()
        if not pid:
            os.dup2(errors.fileno(), 2)
            attempt(job)
        _, status = os.waitpid(pid, 0)
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    return {"end": os.waitstatus_to_exitcode(status), "errors": said[-6000:]}


def attempt(job: dict[str, Any]) -> None:
    """Do a job, in this child, and leave."""
    code = 1
    try:
        warnings.simplefilter("ignore")
        gc.disable()  # else it would make each attempt another one
        do(job)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def do(job: dict[str, Any]) -> None:
    """Tell the points of an operation, or try some."""
    count, attempt_one = TASKS[job["task"]]
    operation = OPERATIONS[job["operation"]]
    stage = Stage(tempfile.mkdtemp(dir=job["base"]))
    warm_up(stage, operation)
    if "points" not in job:
        tell(points=count(stage, operation, job))
        return
    for number, point in enumerate(job["points"]):
        tell(number=number)
        attempt_one(stage, operation, point, job)
        if number % 16 == 15:
            gc.collect()


def tell(**finding: Any) -> None:
    """Hand a finding on."""
    os.write(1, json.dumps(finding).encode() + b"\n")


# ---------------------------------------------------------------------- attempts


class Way(abc.ABC):
    """A way to disturb a call, at one point of it; entered before what the call works with is made.

    Attributes
    ----------
    allowed : tuple of type
        What the call may raise then.
    """

    allowed: tuple[type[BaseException], ...]

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


def attempt_at(stage: Stage, operation: Operation, point: Any, way: Way) -> None:
    """Disturb an operation, judge, and tell; if something is wrong the process is of no more use."""
    faulthandler.dump_traceback_later(WATCH, exit=True)
    verdict = ""
    tell(trying=point)
    try:
        with way, stage.scene(operation) as scene:
            error = way.run(scene, functools.partial(finish, operation, scene))
            if error is not None and not isinstance(error, way.allowed):
                raise Violation(f"it raises {error!r}") from error
            Judge(scene, operation, returned=scene.returned).judge(
                thorough=zlib.crc32(repr(point).encode()) % 8 == 0
            )
    except Violation as violation:
        verdict = str(violation)
    except Exception as error:
        verdict = f"judging raises {error!r}: {traceback.format_exc()[-1500:]}"
    tell(tried=point, where=way.where, verdict=verdict)
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
        self._numbers = numbers
        self.interrupter = Interrupter(keep=keep)

    @property
    def where(self) -> list[tuple[str, ...]]:
        """The innermost frames of each interrupt."""
        return [raised.where[:6] for raised in self.interrupter.raised]

    def run(self, scene: Scene, call: Callable[[], object]) -> BaseException | None:
        """Interrupt the call."""
        return self.interrupter.interrupt(call, *self._numbers, note=len(self._numbers) == 1)


def count_instants(stage: Stage, operation: Operation, job: dict[str, Any]) -> list[Any]:
    """Return the instants at which an operation can be interrupted."""
    with stage.scene(operation) as scene:
        instants = Interrupter().watch(lambda: operation.act(scene))
        Judge(scene, operation, returned=True).judge(thorough=False)
    return [instant.number for instant in instants]


def interrupt(stage: Stage, operation: Operation, number: int, job: dict[str, Any]) -> None:
    """Interrupt an operation at an instant, and again while that interrupt is dealt with."""
    way = Interrupted(number, keep=job.get("keep", False))
    attempt_at(stage, operation, [number], way)
    again = way.interrupter.instants
    rng = random.Random(f"{job['seed']} {number}")
    for second in rng.sample(again, min(job["again"], len(again))):
        attempt_at(stage, operation, [number, second.number], Interrupted(number, second.number))


# ---------------------------------------------------------------------- errors


class Starved(Way):
    """By want of memory at one call."""

    allowed = (MemoryError, sc.FailedError)

    def __init__(self, at: int) -> None:
        self._memory = Memory(at)

    @property
    def where(self) -> str:
        """The call."""
        return self._memory.where

    def run(self, scene: Scene, call: Callable[[], object]) -> BaseException | None:
        """Let one call fail."""
        try:
            self._memory.run(call)
        except BaseException as error:
            return bare(error)
        return None


def count_calls(stage: Stage, operation: Operation, job: dict[str, Any]) -> list[Any]:
    """Return the numbers of the calls that may want memory."""
    memory = Memory()
    with stage.scene(operation) as scene:
        memory.run(lambda: operation.act(scene))
        Judge(scene, operation, returned=True).judge(thorough=False)
    return list(range(1, memory.count + 1))


def starve(stage: Stage, operation: Operation, at: int, job: dict[str, Any]) -> None:
    """Let an operation want memory at a call."""
    attempt_at(stage, operation, [at], Starved(at))


class Failing(Way):
    """By a disk, one call of which fails, or all from one on."""

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
        try:
            self.disk.is_counting = True
            call()
        except BaseException as error:
            return bare(error)
        finally:
            self.disk.is_counting = False
        return None


def count_disk_calls(stage: Stage, operation: Operation, job: dict[str, Any]) -> list[Any]:
    """Return what may fail: of each call once, before and after it is done, and all from there on."""
    way = Failing()
    with way, stage.scene(operation) as scene:
        way.run(scene, lambda: operation.act(scene))
        Judge(scene, operation, returned=True).judge(thorough=False)
    return [
        [at, error, done, lasting]
        for at, name in enumerate(way.disk.calls, 1)
        for error, done, lasting in FAULTS
        if (not done or name not in (*LOSSLESS, *READING)) and (name not in READING or error == errno.EIO)
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


def bare(error: BaseException) -> BaseException:
    """Return an exception without what it holds."""
    error = error.with_traceback(None)
    error.__context__ = error.__cause__ = None
    return error


TASKS: dict[str, tuple[Callable[..., list[Any]], Callable[..., None]]] = {
    "interrupt": (count_instants, interrupt),
    "starve": (count_calls, starve),
    "fail": (count_disk_calls, fail),
}

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    serve()
