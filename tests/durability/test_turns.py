"""Writers that take turns, killed at any change of a file or at random, and with the power cut: nothing is lost.

A kill of one is noticed by the next; what was acknowledged is there, in both levels of durability.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from forker import Forker
from kill_workers import Killer, check_turns, take_turn
from oracle import CHUNK_SIZE, Action, Oracle, Planner, Step, act, do, shrink, survive
from recorded_files import KILL, Event, Recorder, SyncedWrites, build, draw_cut
from support import in_child

import structchunk as sc
from structchunk.disk import files
from structchunk.engine.storage import Storage
from structchunk.readers import shared_storage

NewRoot = Callable[[], str]
KILLED = -9
LENDING = ("new", "edit", "kept")
"""What hands out views, or may."""


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    with contextlib.closing(Killer()) as killer:
        yield killer


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr)
    monkeypatch.setattr(shared_storage, "TURN_COMMITS", 20)


def make(root: str) -> None:
    with sc.open(root, "x", chunk_size=CHUNK_SIZE) as db, db.transaction() as txn:
        for name in ("left", "middle", "right"):
            txn.array_store(name, "<u8").put(0, [0])


def share(root: str) -> sc.Database:
    return sc.open(root, "r+", shared=True, chunk_size=CHUNK_SIZE, timeout=60)


def check_whole(root: str, last: int) -> None:
    for mode in ("r", "r+"):
        with sc.open(root, mode) as db:
            assert check_turns(db) == last
            assert db.verify() == []


# ---------------------------------------------------------------------- kills


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("alone", [True, False])
def test_killed_at_any_change(
    killer: Killer, seed: int, budget: float, new_root: NewRoot, *, sync: bool, alone: bool
) -> None:
    """One that was killed leaves its turn to the next: to another that lives meanwhile, or to a new one."""
    rng, root = random.Random(f"{seed} {sync} {alone}"), new_root()
    make(root)
    living = None if alone else share(root)
    reader = sc.open(root, "r")
    last, killed = 0, 0
    for number in range(round(25 * budget)):
        job = {"task": "turns", "root": root, "seed": f"{seed} {number}", "steps": 4, "sync": sync}
        ended = killer.run(**job, stop_at=rng.choice((rng.randint(1, 60), rng.randint(1, 500))))
        assert ended["status"] in (0, KILLED)
        killed += ended["status"] == KILLED
        reader.refresh()
        seen = check_turns(reader)
        db = living or share(root)
        take_turn(db, rng, sync=sync, step=number)
        now = check_turns(db)
        least = last + ended["acknowledged"]
        assert least <= now - 1 <= least + 1, (number, least, now)
        assert least <= seen <= now, (number, least, seen, now)
        last = now
        assert db.verify() == []
        if alone:
            db.close()
    assert killed
    reader.close()
    if living is not None:
        living.close()
    check_whole(root, last)


WRITER = """
import os, random, sys
from kill_workers import take_turn
from oracle import shrink
import structchunk as sc
shrink()
rng = random.Random(sys.argv[2])
print(os.getpid(), flush=True)
with sc.open(sys.argv[1], "r+", shared=True, chunk_size=16384) as db:
    for step in range(1 << 30):
        take_turn(db, rng, sync=rng.random() < 0.3, step=step)
        os.write(1, b".")
"""


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_several_that_are_killed_at_random(seed: int, budget: float, new_root: NewRoot) -> None:
    root, rng = new_root(), random.Random(seed)
    make(root)
    acknowledged = kills = last = 0
    with contextlib.closing(Forker()) as forker, share(root) as db, sc.open(root, "r") as reader:
        for turn in range(round(3 * budget)):
            writers = [forker.start(WRITER, root, f"{seed} {turn} {number}") for number in range(3)]
            pids = [int(writer.readline()) for writer in writers]
            until = time.monotonic() + rng.uniform(0.3, 2)
            while time.monotonic() < until:
                reader.wait(0.1)
                now = check_turns(reader)
                assert now >= last
                last = now
                take_turn(db, rng, sync=False, step=turn)
                acknowledged += 1
            for pid, writer in zip(pids, writers, strict=True):
                time.sleep(rng.uniform(0, 0.2))
                os.kill(pid, signal.SIGKILL)
                with writer:
                    acknowledged += len(writer.read())
                kills += 1
            take_turn(db, rng, sync=True, step=turn)
            acknowledged += 1
            assert acknowledged <= check_turns(db) <= acknowledged + kills
            assert db.verify() == []
        last = check_turns(db)
    check_whole(root, last)
    print(f"{last} commits")


# ---------------------------------------------------------------------- power cuts


def without_views(action: Action) -> Action:
    """Return an action; of what is taken back only what hands out no views, for the same reason as of an abort."""
    what, name, *rest = action
    if what == "kept":
        return what, name, list(map(without_views, rest[0]))
    if what != "undone":
        return action
    return what, name, [inner for inner in rest[0] if inner[0] not in LENDING], False


def do_in_turn(handles: list[sc.Database], step: Step, rng: random.Random) -> None:
    """Do a step through one of several handles."""
    at = rng.randrange(len(handles))
    db, step = handles[at], step._replace(actions=list(map(without_views, step.actions)))
    if step.kind == "reopen":
        db.close()
        handles[at] = share(db.path)
    elif step.kind == "single":
        with db.transaction(sync=True) as txn:
            act(txn, step.actions[0])
    elif step.kind == "change":
        with db.transaction() as txn:
            for _, name, key, data in step.actions:
                ctypes.memmove(ctypes.addressof(txn[name][key]), data, len(data))
        db.sync()
    elif step.kind == "abort":  # without views, for which there would be a commit that the oracle does not know
        do(db, step._replace(sync=False, actions=[action for action in step.actions if action[0] not in LENDING]))
    else:
        do(db, step)


def record(root: str, seed: object, steps: int) -> list[Event]:
    """Work through two handles in turn, and return what happened on the way."""
    os.mkdir(root)
    oracle, rng = Oracle(), random.Random(f"{seed}")
    planner, recorder = Planner(seed, oracle), Recorder(root, oracle.mark)
    with recorder, SyncedWrites(recorder):
        sc.open(root, "x", chunk_size=CHUNK_SIZE).close()
        handles = [share(root), share(root)]
        for _ in range(steps):
            step = planner.next()
            oracle.begin(step)
            do_in_turn(handles, step, rng)
            oracle.acknowledge(step)
        for handle in handles:
            handle.close()
    return recorder.events


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_power_cuts(seed: int, budget: float, new_root: NewRoot) -> None:
    """Durable commits are there, whoever made those before them, and the page is not relied on."""
    for number in range(max(1, round(6 * budget))):
        name = f"{seed} turns {number}"
        rng, root = random.Random(name), new_root()
        events = record(root, name, rng.choice((6, 10, 20)))
        shutil.rmtree(root)
        for at in rng.choices(range(len(events)), k=20):
            cut = draw_cut(rng) if rng.random() < 0.8 else KILL
            image, fork = new_root(), Oracle.fork(events[at].mark)
            build(events[at], cut, random.Random(f"{name} {at}"), image)
            try:
                if cut.index == "keep" and os.path.exists(f"{image}/superblock") and rng.random() < 0.5:
                    try_to_share(image)
                survive(image, fork, fork.killed if cut == KILL else fork.powered, f"{name} {at}")
            except BaseException as error:
                error.args = (f"{events[at].label}, {cut}, {name} {at}: {error}", *error.args[1:])
                raise
            shutil.rmtree(image)


def try_to_share(root: str) -> None:
    """Have the first turn of a shared handle recover the database, unless its index is lost."""
    try:
        with share(root) as db:
            db.transaction().abort()
    except (sc.CorruptionError, FileNotFoundError):
        pass


# ---------------------------------------------------------------------- turns


def test_views_of_what_was_aborted_are_not_overwritten(new_root: NewRoot) -> None:
    root = new_root()
    make(root)
    with share(root) as db, share(root) as other:
        views = []
        for number in range(5):
            txn = db.transaction()
            txn["left"].put(7, [number] * 20)
            views.append(txn["left"][7])
            txn.abort()
            other["left"].put(number + 10, [99] * 20)
            db["left"].put(number + 20, [98] * 20)
        assert [set(view.tolist()) for view in views] == [{number} for number in range(5)]
        assert 7 not in other["left"]
        assert db.verify() == other.verify() == []
    with sc.open(root) as db:
        assert db.verify() == []
        assert len(db["left"]) == 11


def test_an_index_that_is_brought_forward(new_root: NewRoot) -> None:
    """Others go on, and take another clone."""
    root = new_root()
    make(root)
    with share(root) as db, share(root) as other, sc.open(root, "r") as reader:
        for number in range(1, 70):
            (db, other)[number % 2]["left"].put(
                0,
                [number],
            )
            assert db["left"][0].tolist() == other["left"][0].tolist() == [number]
            reader.refresh()
            assert reader["left"][0].tolist() == [number]
        assert db.verify() == other.verify() == reader.verify() == []


@pytest.mark.parametrize("how", ["commits", "compact"])
def test_an_index_that_is_not_brought_forward_to_the_end(
    new_root: NewRoot, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Another epoch has begun, which the page does not say: who writes next must not go on in the old one."""
    root = new_root()
    make(root)
    monkeypatch.setattr(shared_storage, "TURN_COMMITS", 1 << 30)
    with share(root) as db, share(root) as other:
        for handle in (db, other, db):
            handle["left"].put(1, [1])

        def fail(_: Storage) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patched, contextlib.suppress(OSError):
            patched.setattr(Storage, "begin_publishing", fail)
            patched.setattr(shared_storage, "TURN_COMMITS", 1)
            _ = db["left"].put(2, [2]) if how == "commits" else db.compact("left")
        for key in (3, 4):
            other["left"].put(key, [key])
        other.sync()
        db["left"].put(5, [5])
        assert list(other["left"]) == [0, 1, *([2] if how == "commits" else []), 3, 4, 5]
        assert db.verify() == other.verify() == []
    with sc.open(root, "r+") as db:
        assert {3, 4, 5} <= set(db["left"])
        assert db.verify() == []


def test_a_rebuild_that_ends_before_it_has_written_the_page(
    new_root: NewRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = new_root()
    make(root)
    with share(root) as db:
        db["left"].put(1, [1])

        def fail(_: Storage) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patched, pytest.raises(OSError, match="Input/output"):
            patched.setattr(Storage, "begin_publishing", fail)
            patched.setattr(Storage, "_end_publishing", lambda _: None)
            sc.rebuild_index(root)
        db["left"].put(2, [2])
        db["left"].put(3, [3])
    with sc.open(root, "r+") as db:
        assert list(db["left"]) == [0, 1, 2, 3]
        assert db.verify() == []


def test_what_is_changed_in_place_is_on_disk_first(new_root: NewRoot) -> None:
    """A record that a checksum covers may change only when no recovery checks it any more."""
    root = new_root()
    make(root)
    kind = sc.Object.of(x=ctypes.c_int64)
    with share(root) as db, share(root) as other:
        db.object_store("o", kind).put(1, kind(5))
        with other.transaction(sync=False) as txn:
            txn["left"].put(1, [1])
            txn["o"][1].x = 6
            txn["left"].put(2, [2])
        assert db["o"][1].x == 6
        assert db["left"][2].tolist() == [2]
        with db.transaction(sync=False) as txn:
            txn["o"][1].x = 7
    with sc.open(root) as db:
        assert db["o"][1].x == 7
        assert db.verify() == []


def test_a_durable_commit_flushes_those_of_others(new_root: NewRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    root, flushed = new_root(), []
    make(root)
    flush = files.flush
    with share(root) as db, share(root) as other:
        for handle, name in itertools.product((db, other), ("left", "middle", "right")):
            handle[name].put(1, [1])  # the first time it clears what may be left in the chunk
        monkeypatch.setattr(files, "flush", lambda path: (flushed.append(os.path.basename(path)), flush(path)))
        with other.transaction(sync=False) as txn:
            txn["left"].put(2, [2])
            txn["middle"].put(2, [2])
        assert flushed == []
        with db.transaction(sync=True) as txn:
            txn["right"].put(3, [3])
        assert sorted(flushed) == ["00000001.chunk", "00000002.chunk", "00000003.chunk"]
        flushed.clear()
        with other.transaction(sync=True) as txn:
            txn["right"].put(4, [4])
        assert flushed == ["00000003.chunk"]


def test_exclusive_and_shared_handles_take_turns(new_root: NewRoot) -> None:
    root, rng = new_root(), random.Random(0)
    make(root)
    with share(root) as db:
        for number in range(1, 6):
            take_turn(db, rng, sync=False, step=number)
            with sc.open(root) as other:
                take_turn(other, rng, sync=False, step=number)
                with pytest.raises(sc.LockedError), sc.open(root, shared=True, timeout=0) as third:
                    third.transaction()
            assert check_turns(db) == 2 * number
        assert db.verify() == []


def test_a_process_may_fork_in_its_turn(new_root: NewRoot) -> None:
    root = new_root()
    make(root)
    with share(root) as db, db.transaction() as txn:
        txn["left"].put(0, [1])
        assert in_child(lambda: None) == "None"
        txn["right"].put(0, [1])
    with sc.open(root) as db:
        assert db["left"][0].tolist() == db["right"][0].tolist() == [1]


@pytest.mark.parametrize("torn", [b"", b"x" * 92, b"x" * 4096])
def test_a_page_that_is_damaged(new_root: NewRoot, torn: bytes) -> None:
    root, rng = new_root(), random.Random(0)
    make(root)
    with share(root) as db, share(root) as other:
        for number, handle in enumerate((db, other, db), 1):
            take_turn(handle, rng, sync=False, step=number)
            assert check_turns(db) == check_turns(other) == number
            with open(f"{root}/tail", "r+b") as file:
                file.write(torn)
        os.unlink(f"{root}/tail")
        take_turn(other, rng, sync=False, step=4)
        take_turn(db, rng, sync=False, step=5)
        assert check_turns(db) == check_turns(other) == 5
        assert db.verify() == []
