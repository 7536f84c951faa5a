"""Power cuts: a real workload is recorded at every change of a file, and what may be left of it is reopened."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pytest
from failing_disk import attempt, open_failing
from oracle import CHUNK_SIZE, Oracle, Planner, Step, do, judge, reopen, shrink, survive, work
from recorded_files import KILL, Cut, Event, FailingRecorder, Recorder, SyncedWrites, build, draw_cut

import structchunk as sc
from structchunk.index import leveldb

NewRoot = Callable[[], str]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr)


def record(root: str, seed: object, steps: int, *, most: int = 24) -> list[Event]:
    """Create a database, work, close it, and return what happened on the way."""
    os.mkdir(root)
    oracle = Oracle()
    recorder = Recorder(root, oracle.mark)
    with recorder, SyncedWrites(recorder):
        with sc.open(root, "x", chunk_size=CHUNK_SIZE) as first:
            db = first
        db = sc.open(root, "r+", chunk_size=CHUNK_SIZE)
        try:
            db = work(db, oracle, Planner(seed, oracle, most=most), steps)
        finally:
            db.close()
    return recorder.events


def check_image(event: Event, cut: Cut, new_root: NewRoot, seed: object) -> bool:
    """Build an image, and check that the database survives; tell whether its index had to be made anew."""
    root = new_root()
    fork = Oracle.fork(event.mark)
    build(event, cut, random.Random(f"{seed}"), root)
    try:
        rebuilt = survive(root, fork, fork.killed if cut == KILL else fork.powered, seed)
    except BaseException as error:
        error.args = (f"{event.label}, {cut}, seed {seed!r}: {error}", *error.args[1:])
        raise
    shutil.rmtree(root)
    return rebuilt


def check_nested(event: Event, cut: Cut, new_root: NewRoot, seed: object) -> int:
    """Build an image, record its recovery and some work, and check images of that; return how many.

    All of the first image is on disk, so the commit that it leads to must never be lost again.
    """
    rng = random.Random(f"nested {seed}")
    root, probe = new_root(), new_root()
    fork = Oracle.fork(event.mark)
    build(event, cut, random.Random(f"{seed}"), root)
    shutil.copytree(root, probe)
    with contextlib.closing(reopen(probe)[0]) as db:
        judge(db, fork, fork.powered)
    shutil.rmtree(probe)
    fork.powered = fork.killed
    recorder = Recorder(root, fork.mark)
    with recorder, SyncedWrites(recorder):
        db, _ = reopen(root)
        try:
            judge(db, fork, fork.powered)
            db = work(db, fork, Planner(seed, fork), rng.choice((0, 1, 3, 6)))
        finally:
            db.close()
    shutil.rmtree(root)
    chosen = rng.choices(recorder.events, k=8)
    for again in chosen:
        check_image(again, draw_cut(rng), new_root, f"{seed} then {again.label}")
    return len(chosen)


class Workload(NamedTuple):
    """A recorded workload."""

    name: str
    events: list[Event]
    rng: random.Random


def workloads(
    seed: int, count: float, new_root: NewRoot, lengths: Sequence[int] = (4, 8, 12, 25), most: int = 24
) -> Iterator[Workload]:
    """Record workloads, of so many steps each."""
    for number in range(max(1, round(count))):
        name = f"{seed} {number}"
        rng = random.Random(name)
        root = new_root()
        events = record(root, name, rng.choice(lengths), most=most)
        shutil.rmtree(root)
        yield Workload(name, events, rng)


@pytest.mark.timeout(0)
def test_power_cuts(seed: int, budget: float, new_root: NewRoot) -> None:
    """Durable commits are there, the rest is a prefix, all is sound, and work goes on."""
    done = rebuilt = 0
    for name, events, rng in workloads(seed, 8 * budget, new_root):
        for at in rng.choices(range(len(events)), k=30):
            cut = draw_cut(rng) if rng.random() < 0.85 else KILL
            rebuilt += check_image(events[at], cut, new_root, f"{name} {at} {done}")
            done += 1
    print(f"{done} images, {rebuilt} of which had lost their index")
    assert 0 < rebuilt < done / 2


@pytest.mark.timeout(0)
def test_power_cuts_while_recovering(seed: int, budget: float, new_root: NewRoot) -> None:
    """Power is cut, and cut again while the database recovers or does its first work."""
    done = 0
    for name, events, rng in workloads(seed + 1, 6 * budget, new_root):
        for at in rng.choices(range(len(events)), k=5):
            done += check_nested(events[at], draw_cut(rng), new_root, f"{name} {at}")
    print(f"{done} images of recoveries")


@pytest.mark.timeout(0)
def test_index_is_never_needed(seed: int, budget: float, new_root: NewRoot) -> None:
    """Power is cut and the index is gone: the chunks alone give back all that was durable."""
    for name, events, rng in workloads(seed + 2, 4 * budget, new_root):
        created = next(at for at, event in enumerate(events) if len(event.mark.states) > 1)
        for at in rng.choices(range(created, len(events)), k=25):
            cut = draw_cut(rng)._replace(index="lose")
            assert check_image(events[at], cut, new_root, f"{name} {at}")


@pytest.mark.timeout(0)
def test_logs_of_leveldb_are_lost_unequally(
    seed: int, budget: float, new_root: NewRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LevelDB rotates its logs: one may lose its end while the next is whole, and zeros may stand in between."""
    monkeypatch.setitem(leveldb._OPTIONS, "write_buffer_size", 64 << 10)
    several = 0
    for name, events, rng in workloads(seed + 3, 2 * budget, new_root, (25, 40), 500):
        chosen = [at for at, event in enumerate(events) if count_logs(event) > 1]
        several += len(chosen)
        for at in rng.sample(chosen, min(15, len(chosen))) + rng.choices(range(len(events)), k=10):
            cut = Cut(rng.choice(("new", "files")), "new", rng.choice(("prefix", "hole")))
            check_image(events[at], cut, new_root, f"{name} {at}")
    print(f"{several} moments with several logs")


def record_load(root: str, rng: random.Random, *, sync: bool) -> list[Event]:
    """Record transactions that fill several chunks each, aborted, then committed."""
    os.mkdir(root)
    oracle = Oracle()
    recorder = Recorder(root, oracle.mark)
    with recorder, SyncedWrites(recorder), sc.open(root, "x", chunk_size=CHUNK_SIZE) as db:
        loads = [
            [("put_many", "floats", list(range(start, start + 40)), [64] * 40, rng.randbytes(40 * 64 * 8))]
            for start in (0, 60, 20)
        ]
        for step in (
            Step("create", [("create", "floats")], commits=True, durable=True),
            Step("abort", [*loads[0], *loads[1]]),
            Step("transaction", loads[2], sync, commits=True, durable=sync),
            Step("transaction", [*loads[1], *loads[0]], commits=True, durable=True),
        ):
            oracle.begin(step)
            do(db, step)
            oracle.acknowledge(step)
    return recorder.events


@pytest.mark.timeout(0)
@pytest.mark.parametrize("sync", [True, False])
def test_power_cuts_of_a_load(seed: int, budget: float, new_root: NewRoot, sync: bool) -> None:
    """What the system was told to begin with is not on disk before it was flushed; once it was, all is."""
    rng = random.Random(f"{seed} {sync}")
    events = record_load(new_root(), rng, sync=sync)
    started = [at for at, event in enumerate(events) if event.label.startswith("after start_flush")]
    assert len(started) > 4
    acknowledged = next(at for at, event in enumerate(events) if event.mark.powered == 3)
    for at in [*started, acknowledged, *rng.choices(range(len(events)), k=round(15 * budget))]:
        for cut in (Cut("old", "new", "none"), draw_cut(rng)):
            check_image(events[at], cut, new_root, f"{seed} {sync} {at}")


def record_alteration(root: str, rng: random.Random) -> list[Event]:
    """Record how a store of several chunks, with attributes, is altered after a load that was not on disk."""
    os.mkdir(root)
    oracle = Oracle()
    recorder = Recorder(root, oracle.mark)
    with recorder, SyncedWrites(recorder), sc.open(root, "x", chunk_size=CHUNK_SIZE) as db:
        load = ("put_many", "halves", list(range(40)), [500] * 40, rng.randbytes(40 * 500 * 4))
        attributes = [("attribute", "halves", 1), ("attribute", "", 2)]
        for step in (
            Step("create", [("create", "halves")], commits=True, durable=True),
            Step("transaction", [load, *attributes], sync=False, commits=True),
            Step("alter", [("alter", "halves")], commits=True, durable=True),
            Step("transaction", [("put", "halves", 5, bytes(4))], commits=True, durable=True),
        ):
            oracle.begin(step)
            do(db, step)
            oracle.acknowledge(step)
    return recorder.events


@pytest.mark.timeout(0)
def test_cut_short_while_a_store_is_altered(seed: int, budget: float, new_root: NewRoot) -> None:
    """By a kill or a power cut, at every change of a file: the store is of the old type or the new one, whole."""
    rng = random.Random(f"{seed}")
    events = record_alteration(new_root(), rng)
    altering = [at for at, event in enumerate(events) if len(event.mark.states) == 4 and event.mark.powered < 3]
    assert len(altering) > 40
    for at in rng.sample(altering, min(round(40 * budget), len(altering))):
        for cut in (KILL, Cut("old", "new", "none"), draw_cut(rng)):
            check_image(events[at], cut, new_root, f"{seed} {at}")


def record_failures(root: str, rng: random.Random, steps: int) -> tuple[list[Event], int]:
    """Work on a disk of which flushes fail, reopening after each; return what happened, and how many failed."""
    os.mkdir(root)
    oracle = Oracle()
    planner = Planner(rng.random(), oracle)
    recorder = FailingRecorder(root, oracle.mark, rng)
    recorder.is_well = True
    with recorder, SyncedWrites(recorder):
        db = sc.open(root, "x", chunk_size=CHUNK_SIZE)
        for _ in range(steps):
            step = planner.next()
            recorder.is_well = step.kind == "change"  # in place: such bytes are in no log
            db, good = attempt(db, oracle, step)
            if not good:
                db = reopen_failing(db)
                judge(db, oracle, oracle.killed)
        recorder.is_well = True
        db.close()
    return recorder.events, recorder.failures


def reopen_failing(db: sc.Database) -> sc.Database:
    """Close a database that failed, and open it, however often that fails."""
    with contextlib.suppress(OSError):
        db.close()
    while True:
        again = open_failing(db.path)
        if again is not None:
            return again


@pytest.mark.timeout(0)
def test_power_cuts_after_flushes_that_failed(seed: int, budget: float, new_root: NewRoot) -> None:
    """What was refused may come back, and then stays: no commit is built on what was never written."""
    failures = 0
    for number in range(max(1, round(8 * budget))):
        name = f"{seed} {number}"
        rng = random.Random(name)
        root = new_root()
        events, failed = record_failures(root, rng, 20)
        shutil.rmtree(root)
        failures += failed
        for at in rng.choices(range(len(events)), k=20):
            cut = draw_cut(rng)
            if cut != KILL and len(events[at].mark.states) > 1:  # a kill leaves what is shown: another image
                check_image(events[at], cut, new_root, f"{name} {at}")
    print(f"{failures} flushes failed")
    assert failures > 2 * budget


def count_logs(event: Event) -> int:
    """Return how many logs LevelDB has that are not all on disk."""
    logs = [
        inode
        for path, versions in event.entries.items()
        for name, inode in versions[-1].items()
        if path.startswith("index-") and name.endswith(".log")
    ]
    return sum(event.logs.get(inode, 0) < len(event.data[inode][-1]) for inode in logs)


def test_power_cuts_during_creation(seed: int, budget: float, new_root: NewRoot) -> None:
    """There is no database yet, or a whole one."""
    for name, events, rng in workloads(seed + 4, 1, new_root, (1,)):
        for at in range(len(events)):
            for number in range(max(1, round(4 * budget))):
                check_image(events[at], draw_cut(rng), new_root, f"{name} {at} {number}")
