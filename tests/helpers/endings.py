"""Processes that end in the middle of an operation, as a signal has them end, with all their finalisers.

Each is a child of its own, for which what it needs is made by others: who has opened a database may not fork.
"""

from __future__ import annotations

import faulthandler
import functools
import os
import pickle
import signal
import time
from collections.abc import Callable
from typing import Any

from interrupts import Interrupter
from operations import OPERATIONS, Judge, Operation, Scene, Stage, Violation
from oracle import Contents
from ways import STATUS, Handled, count_instants, draw, finish, tell, warm_up

PATIENCE = 10
"""Seconds that a process may take to end; what it takes is some tens of milliseconds."""
REACTIONS = ("exit", "leave", "raise")
"""The handler closes the database and exits, or just exits; or there is none, and nobody catches Ctrl-C."""
EXPECTED = (0, 1, STATUS, -signal.SIGINT)


class Ending(BaseException):
    """Carries what a process is to do last up to where nothing else is left."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__()
        self.work = work


def do_endings(job: dict[str, Any]) -> None:
    """End processes in the middle of an operation, and judge what they leave."""
    operation = OPERATIONS[job["operation"]]
    answer = os.path.join(job["base"], "answer")
    check(fork(functools.partial(prepare, operation, job["base"], answer)), "preparing")
    with open(answer, "rb") as file:
        instants, before, model = pickle.load(file)
    points = job["points"]
    if points is None:
        every = [[reaction, at] for at in instants for reaction in REACTIONS]
        points = [["end", point] for point in draw(every, "end", job)]
        tell(points=points, totals={"end": len(every)})
    stage = Stage(job["base"], {operation.template: before})
    for number, (way, point) in enumerate(points):
        tell(number=number, trying=point, way=way)
        scene = stage.make(operation)
        pid = os.fork()
        if not pid:
            raise Ending(functools.partial(end, operation, scene, *point))
        status = wait(pid)
        if status not in EXPECTED:
            tell(tried=point, way="end", where="", verdict=f"the process ended with {status}")
            os._exit(3)
        scene.model = model
        check(fork(functools.partial(judge, scene, operation, point, returned=status == 0)), "judging")
        stage.remove(scene)


def prepare(operation: Operation, base: str, answer: str) -> None:
    """Build the template; write down the instants, what it holds, and what an operation begins with."""
    stage = Stage(base)
    warm_up(stage, operation)
    instants = count_instants(stage, operation)
    with stage.scene(operation) as scene:
        model: Contents = scene.model
        Judge(scene, operation, returned=False).judge(thorough=False)
    with open(answer, "wb") as file:
        pickle.dump((instants, stage.models[operation.template], model), file)


def end(operation: Operation, scene: Scene, reaction: str, at: int) -> None:
    """Work until the signal comes, and let what it raises end this process."""
    faulthandler.dump_traceback_later(PATIENCE - 2)
    operation.prepare(scene)
    call = functools.partial(finish, operation, scene)
    if reaction == "raise":
        interrupter = Interrupter(keep=True)
        error = interrupter.interrupt(call, at)
    else:
        error = Handled(reaction, at).run(scene, call)
    if error is not None:
        raise error


def judge(scene: Scene, operation: Operation, point: list[Any], *, returned: bool) -> None:
    """Say what a process left."""
    faulthandler.dump_traceback_later(PATIENCE - 2)
    verdict = ""
    try:
        Judge(scene, operation, returned=returned).judge(thorough=False)
    except Violation as violation:
        verdict = str(violation)
    tell(tried=point, way="end", where="", verdict=verdict)
    if verdict:
        raise SystemExit(3)


def fork(work: Callable[[], object]) -> int:
    """Do something in a child, and return its status."""
    pid = os.fork()
    if pid:
        return wait(pid)
    code = 1
    try:
        work()
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        if code == 1:
            faulthandler.dump_traceback()
        os._exit(code)


def wait(pid: int) -> int:
    """Return how a child ended; one that does not end is killed."""
    deadline = time.monotonic() + PATIENCE
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def check(status: int, what: str) -> None:
    """Leave if a child did not do as it should."""
    if status:
        os.write(2, f"{what} ended with {status}\n".encode())
        os._exit(status)
