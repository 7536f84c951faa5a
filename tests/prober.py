"""A process that tries operations in children, and answers for those that hang or die. Run as a script.

It has opened no database itself, and so may fork. It reads one job a line, as JSON; the child that does it writes
its findings as lines, and the process a last one, with ``end``. A child that does nothing for long shows where its
threads are, and is gone.
"""

from __future__ import annotations

import contextlib
import faulthandler
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
from collections.abc import Iterator, Sequence
from typing import Any

from crash import shrink
from interrupts import Instant, Interrupter
from operations import OPERATIONS, Judge, Operation, Scene, Stage, Violation

WATCH = 30
"""Seconds after which a child that has found nothing is stuck."""
ALLOWED = (KeyboardInterrupt,)


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


def sweep(
    prober: Prober, task: str, operation: str, instants: Sequence[int], **options: Any
) -> tuple[int, list[str]]:
    """Try an operation at some instants, in as many children as it takes; return how often, and what was wrong."""
    tried, violations = 0, []
    rest = list(instants)
    while rest:
        findings = prober.run(task=task, operation=operation, instants=rest, **options)
        tried += sum("numbers" in finding for finding in findings)
        if findings[-1]["end"] == 0:
            break
        at: Any = next((finding["trying"] for finding in reversed(findings) if "trying" in finding), None)
        assert at is not None, findings[-1]["errors"]
        violations.append(_told(at, findings))
        rest = [number for number in rest if number > at[0]]
    return tried, violations


def _told(at: list[int], findings: list[dict[str, Any]]) -> str:
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
        TASKS[job["task"]](job)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def tell(**finding: Any) -> None:
    """Hand a finding on."""
    os.write(1, json.dumps(finding).encode() + b"\n")


# ---------------------------------------------------------------------- interrupts


def count(job: dict[str, Any]) -> None:
    """Tell at which instants an operation can be interrupted."""
    operation = OPERATIONS[job["operation"]]
    stage = Stage(tempfile.mkdtemp(dir=job["base"]))
    for _ in range(2):  # what is done once in a process is done with then
        with stage.scene(operation) as scene:
            instants = Interrupter().watch(lambda: operation.act(scene))
            Judge(scene, operation, returned=True).judge(thorough=True)
    tell(instants=[instant.number for instant in instants], labels=list(map(str, instants)))


def interrupt(job: dict[str, Any]) -> None:
    """Interrupt an operation at some instants, each by itself, and again while the interrupt is dealt with."""
    operation = OPERATIONS[job["operation"]]
    stage = Stage(tempfile.mkdtemp(dir=job["base"]))
    warm_up(stage, operation)
    rng = random.Random(job["seed"])
    keep = bool(job.get("keep"))
    for number in job["instants"]:
        again = interrupt_once(stage, operation, number, keep=keep)
        for second in rng.sample(again, min(job["again"], len(again))):
            interrupt_once(stage, operation, number, second.number, keep=keep)


def warm_up(stage: Stage, operation: Operation) -> None:
    """Let an operation do what it does once in a process."""
    with stage.scene(operation) as scene:
        operation.act(scene)
        Judge(scene, operation, returned=True).judge(thorough=False)


def interrupt_once(stage: Stage, operation: Operation, *numbers: int, keep: bool) -> Sequence[Instant]:
    """Interrupt an operation, judge, tell, and return the instants that there were after the first one."""
    faulthandler.dump_traceback_later(WATCH, exit=True)
    interrupter = Interrupter(keep=keep)
    verdict, scene, returned = "", None, False
    tell(trying=numbers)
    try:
        with stage.scene(operation) as scene:
            error = interrupter.interrupt(lambda: finish(operation, scene), *numbers, note=len(numbers) == 1)
            returned = scene.returned
            check_error(error)
            error = None  # what its traceback holds goes
            Judge(scene, operation, returned=returned).judge(thorough=sum(numbers) % 8 == 0)
    except Violation as violation:
        verdict = str(violation)
    except Exception as error:
        verdict = f"judging raises {error!r}: {traceback.format_exc()[-1500:]}"
    where = [raised.where[:6] for raised in interrupter.raised]
    tell(numbers=numbers, where=where, verdict=verdict)
    if verdict:
        os._exit(3)  # what is left of it could harm the next attempts
    gc.collect() if sum(numbers) % 16 == 0 else None
    return interrupter.instants if len(numbers) == 1 else []


def finish(operation: Operation, scene: Scene) -> None:
    """Do an operation, and note that it was done to the end."""
    operation.act(scene)
    scene.returned = True


def check_error(error: BaseException | None) -> None:
    """Raise unless an operation that was interrupted said so."""
    if error is not None and not isinstance(error, ALLOWED):
        raise Violation(f"it raises {error!r}") from error


TASKS = {"count": count, "interrupt": interrupt}

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    serve()
