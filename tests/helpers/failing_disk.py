"""A workload on a disk that fails: what may happen to each step, and to the database afterwards."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from oracle import CHUNK_SIZE, Oracle, Planner, Step, assert_state, contents, do, judge, number, shrink, survive
from recorded_files import Seam

import structchunk as sc

FAULTS = (errno.ENOSPC, errno.EIO)


def open_failing(root: str) -> sc.Database | None:
    """Open a database, or return None if the disk does not let that be."""
    try:
        return sc.open(root, chunk_size=CHUNK_SIZE)
    except OSError as error:
        assert error.errno in FAULTS, error
        return None


def attempt(db: sc.Database, oracle: Oracle, step: Step) -> tuple[sc.Database, bool]:
    """Do a step, which may fail as a disk fails, and in no other way; tell whether it did not."""
    failed = bool(db._storage.failure)
    before = oracle.states
    oracle.states = list(before)
    oracle.begin(step)
    try:
        db = do(db, step)
    except (sc.FailedError, sc.KeyNotFound, sc.StoreNotFound):  # a step may build on one that failed
        assert failed or db._storage.failure
    except OSError as error:
        assert error.errno in FAULTS, error
        assert not failed or step.kind == "reopen", "an OSError again, where FailedError was due"
    else:
        if failed:
            assert step.kind in ("reopen", "abort")
            if step.kind == "reopen":
                judge(db, oracle, oracle.killed)
        else:
            oracle.acknowledge(step)
        return db, True
    if failed:  # then nothing more was done
        oracle.states = before
    if not db.closed:
        last = number(db)
        if not db._storage.failure:  # a clean abort, unless only what came after the commit failed
            oracle.states = oracle.states[: last + 1]
            oracle.killed = last
        assert_state(contents(db), oracle.states[last], oracle.tick)
    return db, False


def endure(root: str, seed: object, steps: int, heal: Callable[[], object]) -> tuple[int, int]:
    """Work until the disk has failed a few times, heal it, reopen and judge; return steps done and failed."""
    oracle = Oracle()
    planner = Planner(seed, oracle)
    db = open_failing(root)
    done = failed = 0
    while db is not None and not db.closed and done < steps and failed < 4:
        db, good = attempt(db, oracle, planner.next())
        done += good
        failed += not good
    try:
        if db is not None:
            db.close()
    except OSError as error:
        assert error.errno in FAULTS, error
    heal()
    survive(root, oracle, oracle.killed, seed)
    return done, failed


class Fault(Seam):
    """Raises an OSError in place of the operation at a given event."""

    def __init__(self, at: int, number: int = errno.EIO) -> None:
        super().__init__(self._maybe_fail)
        self.count = 0
        self._at = at
        self._number = number

    def _maybe_fail(self, operation: str, args: tuple[Any, ...], done: bool) -> None:
        can_fail = not done and "store" not in operation and operation not in ("append_segment", "LevelDB.close")
        self.count += can_fail
        if can_fail and self.count == self._at:
            raise OSError(self._number, os.strerror(self._number), operation)


# ---------------------------------------------------------------------- on a small file system


def leave_free(directory: str, size: int) -> None:
    """Fill a file system up to a number of free bytes."""
    status = os.statvfs(directory)
    excess = status.f_bavail * status.f_bsize - size
    with open(os.path.join(directory, "ballast"), "wb") as file:
        if excess > 0:
            os.posix_fallocate(file.fileno(), 0, excess)


def fill_and_free(directory: str, seed: int, sizes: list[int]) -> None:
    """For each number of free bytes create, fill up, free, reopen and judge; say what happened."""
    shrink()
    for size in sizes:
        root = os.path.join(directory, f"{size}")
        os.mkdir(root)
        leave_free(directory, size)
        try:
            done, failed = endure(root, f"{seed} {size}", 60, lambda: os.unlink(os.path.join(directory, "ballast")))
        except BaseException:
            print(f"with {size} bytes free")
            traceback.print_exc(file=sys.stdout)
            raise SystemExit(1) from None
        print(f"with {size} bytes free {done} steps done, {failed} failed", flush=True)
        for base, _, names in os.walk(root, topdown=False):
            for name in names:
                os.unlink(os.path.join(base, name))
            os.rmdir(base)


if __name__ == "__main__":
    pytest.importorskip("structchunk")
    fill_and_free(sys.argv[1], int(sys.argv[2]), [int(size) for size in sys.argv[3:]])
