"""kill -9, at random moments and at every change of a file: what was acknowledged is there, the rest is whole."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import kill_workers
import pytest
from kill_workers import Killer
from oracle import CHUNK_SIZE, Oracle, Planner, shrink, survive

import structchunk as sc

NewRoot = Callable[[], str]
KILLED = -9


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    with contextlib.closing(Killer()) as killer:
        yield killer


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr)


def replay(seed: object, acknowledged: int, steps: int) -> Oracle:
    """Return the oracle of a workload that was killed after so many acknowledged steps: one more may be done."""
    oracle = Oracle()
    planner = Planner(seed, oracle)
    for done in range(min(acknowledged + 1, steps)):
        step = planner.next()
        oracle.begin(step)
        if done < acknowledged:
            oracle.acknowledge(step)
    return oracle


def check_survival(root: str, oracle: Oracle, seed: object) -> None:
    """Fail unless a killed database is there with all that was acknowledged, at most one commit more, and works."""
    acknowledged = oracle.killed
    assert not survive(root, oracle, acknowledged, seed), "the index was lost"


# ---------------------------------------------------------------------- at every event


def test_killed_at_every_change(killer: Killer, seed: int, budget: float, new_root: NewRoot) -> None:
    """From before the database is there until it is closed."""
    steps = 7
    events = killer.run(task="workload", root=new_root(), seed=seed, steps=steps)["events"]
    assert events > 100
    for at in sample(events, 110 * budget, seed):
        root = new_root()
        end = killer.run(task="workload", root=root, seed=seed, steps=steps, stop_at=at)
        assert end["status"] == KILLED
        check_survival(root, replay(seed, end["acknowledged"], steps), f"{seed} {at}")
        shutil.rmtree(root)


def sample(events: int, count: float, seed: object) -> list[int]:
    """Return the numbers of all events, or of so many."""
    numbers = range(1, events + 1)
    return sorted(random.Random(f"{seed}").sample(numbers, round(count))) if count < events else list(numbers)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("task", ["recovery", "rebuild"])
def test_killed_while_recovering(killer: Killer, seed: int, budget: float, new_root: NewRoot, task: str) -> None:
    """Killed while a killed database recovers, and once more, and then it is as it was."""
    rng = random.Random(f"{seed} {task}")
    steps = 12
    events = killer.run(task="workload", root=new_root(), seed=seed, steps=steps)["events"]
    for at in sample(events, 3 * budget, seed + 1):
        first = new_root()
        end = killer.run(task="workload", root=first, seed=seed, steps=steps, stop_at=at)
        if task == "rebuild" and not os.path.exists(os.path.join(first, "superblock")):
            continue
        oracle = replay(seed, end["acknowledged"], steps)
        whole = shutil.copytree(first, new_root())
        recovery = killer.run(task=task, root=whole)
        assert recovery["status"] == 0
        for second in sample(recovery["events"], 12 * budget, f"{seed} {at}"):
            root = shutil.copytree(first, new_root())
            assert killer.run(task=task, root=root, stop_at=second)["status"] == KILLED
            again = killer.run(task=task, root=root, stop_at=rng.randint(1, 2 * recovery["events"]))
            assert again["status"] in (0, KILLED)
            fork = Oracle.fork(oracle.mark())
            survive(root, fork, fork.killed, f"{seed} {at} {second}")
            shutil.rmtree(root)
        shutil.rmtree(first)
        shutil.rmtree(whole)


# ---------------------------------------------------------------------- at random moments


@pytest.mark.timeout(0)
@pytest.mark.parametrize("sync", ["on", "off", "both"])
def test_killed_at_random_moments(killer: Killer, seed: int, budget: float, new_root: NewRoot, sync: str) -> None:
    """Several stores in each transaction, the same database killed again and again."""
    root = new_root()
    rng = random.Random(f"{seed} {sync}")
    expected = commits = 0
    for turn in range(round(8 * budget)):
        end = killer.run(task="counter", root=root, seed=turn, sync=sync, seconds=rng.uniform(0.01, 0.2))
        assert end["status"] == KILLED
        commits += end["acknowledged"]
        with sc.open(root, chunk_size=CHUNK_SIZE) as db:
            expected = check_counter(db, expected + end["acknowledged"])
    print(f"{sync}: {commits} commits acknowledged")


def check_counter(db: sc.Database, expected: int) -> int:
    """Fail unless the counter's stores are of one commit, this one or the next; return which."""
    assert db.verify() == []
    if not all(name in db and 0 in db[name] for name in ("left", "middle", "right")):
        assert expected == 0
        return 0
    found = {int(db[name][0][0]) for name in ("left", "middle", "right")}
    assert len(found) == 1, found
    last = found.pop()
    assert expected <= last <= expected + 1
    for name in ("left", "middle", "right"):
        for key, record in db[name].items():
            if key:
                newest = last - (last - key + 1) % 50
                assert (record == newest).all(), (name, key, record, newest)
    return last


# ---------------------------------------------------------------------- at system calls

CALLS = ("fdatasync", "fsync", "pwrite64", "write", "ftruncate", "rename", "unlink", "fallocate", "mkdir", "openat")


def trace(root: str, seed: int, steps: int, log: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    """Run a workload under strace."""
    job = json.dumps({"root": root, "seed": seed, "steps": steps})
    script = str(Path(kill_workers.__file__))
    command = ["strace", "-f", "-qq", "-o", str(log), *options, sys.executable, script, job]
    return subprocess.run(command, capture_output=True, timeout=100, check=False)


def count_calls(log: Path) -> Counter[str]:
    """Return how often each system call was made, once there was a database to speak of."""
    return Counter(line.split()[1].partition("(")[0] for line in log.read_text().splitlines())


@pytest.mark.timeout(0)
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_killed_at_system_calls(seed: int, budget: float, new_root: NewRoot, tmp_path: Path) -> None:
    """Those of LevelDB and its thread, too."""
    steps = 10
    log = tmp_path / "log"
    whole = trace(new_root(), seed, steps, log, "-e", f"trace={','.join(CALLS)}")
    if whole.returncode:
        pytest.skip(f"strace does not work here: {whole.stderr[-200:]!r}")
    counts = count_calls(log)
    rng = random.Random(f"{seed}")
    for _ in range(round(10 * budget)):
        call = rng.choice([call for call in CALLS if counts[call]])
        root = new_root()
        at = rng.randint(counts[call] // 2 if call == "openat" else 1, counts[call])
        end = trace(root, seed, steps, log, "-e", f"inject={call}:signal=SIGKILL:when={at}")
        assert end.returncode in (0, KILLED), (call, at, end.stderr)
        acknowledged = end.stdout.count(b"done")
        if os.path.isdir(root):
            check_survival(root, replay(seed, acknowledged, steps), f"{seed} {call} {at}")
