"""A process that tries operations in children, and reports those that hang or die. Run as a script.

It has opened no database itself, and so may fork. It reads one job a line, as JSON; the child that does it writes
its findings as lines, and the process a last one, with ``end``. A child that does nothing for long shows where its
threads are, and is gone.
"""

from __future__ import annotations

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
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from endings import Ending, do_endings
from operations import OPERATIONS, Stage
from oracle import shrink
from ways import WAYS, draw, tell, warm_up


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


class Sweep(NamedTuple):
    """What came of trying an operation: how often it was tried, at how many points of how many, in each way."""

    tried: Counter[str]
    points: Counter[str]
    all_points: dict[str, int]
    violations: list[str]

    def __str__(self) -> str:
        ways = self.points.items()
        return ", ".join(
            f"{way} {self.tried[way]} times at {count} of {self.all_points[way]}" for way, count in ways
        )


def whole_counts(counts: dict[str, float], rng: random.Random) -> dict[str, int]:
    """Round counts, their sum too; which are rounded up is drawn, and those of 0 are left out."""
    upto = rng.random()
    found = {}
    for way in rng.sample(sorted(counts), len(counts)):
        before, upto = int(upto), upto + counts[way]
        found[way] = int(upto) - before
    return {way: count for way, count in found.items() if count}


def sweep(prober: Prober, operation: str, counts: dict[str, float], seed: object, **options: Any) -> Sweep:
    """Disturb an operation in some ways, at so many points each or at all, in as many children as it takes."""
    job: dict[str, Any] = {"operation": operation, "seed": f"{seed}", **options}
    job["counts"] = whole_counts(counts, random.Random(f"{seed} {operation}"))
    told = prober.run(**job, points=None)
    assert "points" in told[0], told[-1]["errors"]
    points, totals = told[0]["points"], told[0]["totals"]
    tried: Counter[str] = Counter()
    violations = []
    rest = points
    while True:
        tried.update(finding["way"] for finding in told if "tried" in finding)
        if told[-1]["end"] == 0:
            return Sweep(tried, Counter(way for way, _ in points), totals, violations)
        at: Any = next((finding for finding in reversed(told) if "trying" in finding), None)
        assert at is not None, told[-1]["errors"]
        violations.append(_told(at, told))
        rest = rest[told[-1]["done"] :]
        told = prober.run(**job, points=rest)


def _told(at: dict[str, Any], findings: list[dict[str, Any]]) -> str:
    last = findings[-2]
    if last.get("verdict"):
        return f"{at['way']} {at['trying']}: {last['verdict']}; disturbed in {last['where']}"
    return f"{at['way']} {at['trying']}: the process ended with {findings[-1]['end']}: {findings[-1]['errors']}"


# ---------------------------------------------------------------------- inside


def serve() -> None:
    """Do jobs until there are no more."""
    shrink()
    gc.freeze()  # else each child looks through all that was imported, and so copies it
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
        (do_endings if "end" in job["counts"] else do)(job)
    except Ending:
        raise
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)


def do(job: dict[str, Any]) -> None:
    """Try an operation at some points: the given ones, or so many of all, which are told first."""
    operation = OPERATIONS[job["operation"]]
    stage = Stage(tempfile.mkdtemp(dir=job["base"]))
    warm_up(stage, operation)
    points = job["points"]
    if points is None:
        found = {way: WAYS[way][0](stage, operation) for way in job["counts"]}
        points = [[way, point] for way in found for point in draw(found[way], way, job)]
        tell(points=points, totals={way: len(every) for way, every in found.items()})
    for number, (way, point) in enumerate(points):
        tell(number=number)
        WAYS[way][1](stage, operation, point, job)
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
