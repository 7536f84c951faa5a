"""A process that tries operations in children, and answers for those that hang or die. Run as a script.

It has opened no database itself, and so may fork. It reads one job a line, as JSON; the child that does it writes
its findings as lines, and the process a last one, with ``end``. A child that does nothing for long shows where its
threads are, and is gone.
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from crash import shrink
from endings import Ending, do_endings
from operations import OPERATIONS, Stage
from ways import TASKS, tell, warm_up


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
    job: dict[str, Any] = {
        "task": task,
        "operation": operation,
        "seed": f"{seed}",
        "count": round(count),
        **options,
    }
    tried, violations = 0, []
    points, total = None, 0
    while points is None or points:
        findings = prober.run(**job, points=points)
        if points is None:
            assert "points" in findings[0], findings[-1]["errors"]
            points, total = findings[0]["points"], findings[0]["total"]
            chosen = len(points)
        tried += sum("tried" in finding for finding in findings)
        if findings[-1]["end"] == 0:
            break
        at: Any = next((finding["trying"] for finding in reversed(findings) if "trying" in finding), None)
        assert at is not None, findings[-1]["errors"]
        violations.append(_told(at, findings))
        points = points[findings[-1]["done"] :]
    return Sweep(tried, chosen, total, violations)


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
    code = 0
    try:
        warnings.simplefilter("ignore")
        gc.disable()  # else it would make each attempt another one
        (do_endings if job["task"] == "end" else do)(job)
    except Ending:
        raise
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)


def do(job: dict[str, Any]) -> None:
    """Try an operation at some points: the given ones, or so many of all, which are told first."""
    find, attempt_one = TASKS[job["task"]]
    operation = OPERATIONS[job["operation"]]
    stage = Stage(tempfile.mkdtemp(dir=job["base"]))
    warm_up(stage, operation)
    points = job["points"]
    if points is None:
        found = find(stage, operation, job)
        rng = random.Random(f"{job['seed']} {job['operation']}")
        points = [found[at] for at in sorted(rng.sample(range(len(found)), min(len(found), job["count"])))]
        tell(points=points, total=len(found))
    for number, point in enumerate(points):
        tell(number=number)
        attempt_one(stage, operation, point, job)
        if number % 16 == 15:
            gc.collect()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    last: Callable[[], object] | None = None
    try:
        serve()
    except Ending as ending:
        last = ending.work
    if last is not None:
        last()
