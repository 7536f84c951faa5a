"""A process that forks workers and kills them. Never having opened a database itself, it may fork: run as a script.

It reads one job a line, as JSON, and answers each with a line: how the worker ended, and what it had acknowledged.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import threading
from typing import Any

import numpy as np
from oracle import CHUNK_SIZE, Contents, Oracle, Planner, contents, do, reopen, shrink
from recorded_files import Seam

import structchunk as sc


class Killer:
    """The process, from outside."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, **job: Any) -> dict[str, Any]:
        """Run a job in a worker and return how it ended: ``status``, ``acknowledged``, ``events``, ``verdict``."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


# ---------------------------------------------------------------------- inside


def serve() -> None:
    """Answer jobs until there are no more."""
    shrink()
    gc.freeze()  # else each worker looks through all that was imported, and so copies it
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(supervise(job)), flush=True)


def supervise(job: dict[str, Any]) -> dict[str, Any]:
    """Fork a worker for a job, kill it when its time is up, and return what it reported over its pipe."""
    source, sink = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(source)
        work(job, sink)
    os.close(sink)
    timer = threading.Timer(job.get("seconds", 60), os.kill, (pid, signal.SIGKILL))
    timer.start()
    with open(source, "rb") as pipe:
        reported = pipe.read().splitlines()
    _, status = os.waitpid(pid, 0)
    timer.cancel()
    acknowledged = sum(line == b"done" for line in reported)
    events = next((int(line.split()[1]) for line in reported if line.startswith(b"events")), 0)
    verdict = next((line[8:].decode() for line in reported if line.startswith(b"verdict ")), "")
    code = os.waitstatus_to_exitcode(status)
    return {"status": code, "acknowledged": acknowledged, "events": events, "verdict": verdict}


def work(job: dict[str, Any], sink: int) -> None:
    """Do a job, and leave."""
    code = 1
    try:
        if job.get("has_hundreds_of_rows"):
            shrink(has_hundreds_of_rows=True)
        if job["task"] == "counter":
            run_counter(job, sink)
        if job["task"] == "damaged":
            resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        with Countdown(job.get("stop_at", 0)) as countdown:
            TASKS[job["task"]](job, sink)
        os.write(sink, b"events %d\n" % countdown.count)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


class Countdown(Seam):
    """Kills this process at the event with a given number."""

    def __init__(self, stop_at: int) -> None:
        super().__init__(self._count)
        self.count = 0
        self._stop_at = stop_at

    def _count(self, operation: str, args: tuple[Any, ...], done: bool) -> None:
        self.count += 1
        if self.count == self._stop_at:
            os.kill(os.getpid(), signal.SIGKILL)


def run_workload(job: dict[str, Any], sink: int) -> None:
    """Open or create a database and do the steps of a seed, reporting each; then close."""
    db = sc.open(job["root"], chunk_size=CHUNK_SIZE)
    os.write(sink, b"opened\n")
    oracle = Oracle()
    planner = Planner(job["seed"], oracle)
    for _ in range(job["steps"]):
        step = planner.next()
        oracle.begin(step)
        db = do(db, step)
        oracle.acknowledge(step)
        os.write(sink, b"done\n")
    db.close()


def run_recovery(job: dict[str, Any], sink: int) -> None:
    """Open and close a database."""
    db, _ = reopen(job["root"])
    os.write(sink, b"opened\n")
    db.close()


def run_rebuild(job: dict[str, Any], sink: int) -> None:
    """Make the index anew."""
    sc.rebuild_index(job["root"])


def run_checkpoint(job: dict[str, Any], sink: int) -> None:
    """Open a database, copy it to a directory beside it, and close it."""
    with sc.open(job["root"], chunk_size=CHUNK_SIZE) as db:
        db.checkpoint(os.path.join(os.path.dirname(job["root"]), "copy.sc"))


def run_update(job: dict[str, Any], sink: int) -> None:
    """Open a database for reading, and bring the copy that is beside it forward."""
    with sc.open(job["root"], "r") as db:
        db.checkpoint(os.path.join(os.path.dirname(job["root"]), "copy.sc"), update=True)


def run_counter(job: dict[str, Any], sink: int) -> None:
    """Commit to three stores at once, forever, in one of the sync modes or both in turn, reporting each commit."""
    rng = random.Random(job["seed"])
    with sc.open(job["root"], chunk_size=CHUNK_SIZE) as db:
        number = int(db["left"][0][0]) if "left" in db and 0 in db["left"] else 0
        for name in ("left", "middle", "right"):
            db.array_store(name, "<u8")
        while True:
            number += 1
            with db.transaction(sync=(job["sync"] == "both" and rng.random() < 0.1) or job["sync"] == "on") as txn:
                for name in ("left", "middle", "right"):
                    txn[name].put(0, [number])
                    txn[name].put(number % 50 + 1, [number] * rng.randint(0, 40))
            os.write(sink, b"done\n")


def run_turns(job: dict[str, Any], sink: int) -> None:
    """Commit to three stores in turn with others, now and then to a new one, reporting each commit."""
    rng = random.Random(job["seed"])
    with sc.open(job["root"], "r+", shared=True, chunk_size=CHUNK_SIZE) as db:
        for step in range(job["steps"]):
            take_turn(db, rng, sync=job["sync"], step=step)
            os.write(sink, b"done\n")


def take_turn(db: sc.Database, rng: random.Random, *, sync: bool, step: int) -> None:
    """Count one more, in three stores at once; and do something that changes no record."""
    what = rng.choice(("nothing", "abort", "abort", "compact", "make", "sync"))
    if what == "abort":
        with contextlib.suppress(ZeroDivisionError), db.transaction() as txn:
            txn["left"].put(0, [0] * rng.randint(1, 900))
            if rng.random() < 0.5:
                _ = txn["left"][0]
            txn.array_store("aborted", "f8")[1] = [1.0]
            _ = 1 // 0
    if what == "compact":
        db.compact(rng.choice(("left", "middle", "right")))
    if what == "sync":
        db.sync()
    with db.transaction(sync=sync) as txn:
        number = int(txn["left"][0][0]) + 1
        for name in ("left", "middle", "right"):
            txn[name].put(0, [number])
            txn[name].put(number % 50 + 1, [number] * rng.randint(0, 40))
        if what == "make":
            txn.array_store(f"made {number}", "<u8")[number] = [number]


def check_turns(db: sc.Database) -> int:
    """Return the count, having checked that all stores agree on it."""
    with db.snapshot() as snapshot:
        counts = {int(snapshot[name][0][0]) for name in ("left", "middle", "right")}
        assert len(counts) == 1, counts
        number = counts.pop()
        for name in ("left", "middle", "right"):
            for key, values in snapshot[name].items():
                newest = number - (number - key + 1) % 50
                assert not key or set(values.tolist()) <= {newest}, (name, key, number, values)
        for name in snapshot:
            if name.startswith("made"):
                made = int(name.split()[1])
                assert made <= number
                assert snapshot[name][made].tolist() == [made]
        assert "aborted" not in snapshot
    return number


def run_damaged(job: dict[str, Any], sink: int) -> None:
    """Open a damaged database, and report whether that was reported, harmless or silently different."""
    with open(job["expected"], "rb") as file:
        expected: Contents = pickle.load(file)
    os.write(sink, b"verdict %s\n" % examine(job["root"], expected).encode())


def examine(root: str, expected: Contents) -> str:
    """Return what becomes of a damaged database; a rebuild is tried where an error advises it."""
    try:
        return use(root, expected)
    except sc.CorruptionError as error:
        if "rebuild_index" not in str(error):
            return "reported"
    except OSError:
        return "reported"
    try:
        sc.rebuild_index(root)
        verdict = use(root, expected)
    except sc.CorruptionError:
        return "reported"
    return "rebuilt" if verdict == "harmless" else verdict


def use(root: str, expected: Contents) -> str:
    """Verify, read, write, reopen and rebuild; return whether all is as it was."""
    with sc.open(root, chunk_size=CHUNK_SIZE) as db:
        if db.verify():
            return "reported"
        if contents(db) != expected:
            return "different"
        expected = {name: {**records, 7: b"\7" * 12} for name, records in expected.items()}
        for name in expected:
            db[name].put(7, np.frombuffer(b"\7" * 12, db[name].dtype))
    for rebuild in (False, True):
        if rebuild:
            sc.rebuild_index(root)
        with sc.open(root, chunk_size=CHUNK_SIZE) as db:
            if db.verify():
                return "reported late"
            if contents(db) != expected:
                return "different later"
    return "harmless"


TASKS = {
    "workload": run_workload,
    "turns": run_turns,
    "recovery": run_recovery,
    "rebuild": run_rebuild,
    "checkpoint": run_checkpoint,
    "update": run_update,
    "damaged": run_damaged,
}

if __name__ == "__main__":
    if len(sys.argv) > 1:  # one job, in this very process, for a tracer to watch
        shrink()
        run_workload(json.loads(sys.argv[1]), sys.stdout.fileno())
    else:
        serve()
