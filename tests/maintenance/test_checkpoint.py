"""checkpoint(): a copy that is whole, as of one commit, and shares no byte which either database may change."""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copied import Point, write_little, write_much
from kill_workers import Killer
from oracle import CHUNK_SIZE, Oracle, Planner, contents, number, reopen, shrink, work
from recorded_files import Recorder, Seam, SyncedWrites, build, draw_cut
from support import run_python

import structchunk as sc
from structchunk.chunks.chunk import Chunk
from structchunk.chunks.segment import survey
from structchunk.disk import files
from structchunk.disk.superblock import read_superblock
from structchunk.maintenance.backup import copy_storage
from structchunk.maintenance.chunk_copies import Source
from structchunk.runs.extent import MUTABLE
from structchunk.runs.run import ArrayRun, ContiguousRun

NewRoot = Callable[[], str]
OpenDB = Callable[..., sc.Database]
KILLED = -9


def fill(db: sc.Database) -> None:
    """Make stores of every kind, most of them over several chunks."""
    plain = db.array_store("plain", "f8")
    for start in range(0, 4000, 500):
        plain.put_many(range(start, start + 500), np.arange(start * 3, start * 3 + 1500.0).reshape(500, 3))
    plain.delete_range(100, 300)
    plain.put(5, [5.0])
    points = db.object_store("points", Point)
    points.put_many(range(2000), [(key, -key) for key in range(2000)])
    mixed = db.array_store("mixed", "i4")
    mixed.new(1, 10)[:] = 7
    mixed.put_many(range(10, 3010), np.arange(9000).reshape(3000, 3))
    db.array_store("empty", "u1")
    db.array_store("gone", "u1").put(1, [1])
    db.drop_store("gone")


def chunk_files(root: str) -> dict[str, os.stat_result]:
    return {entry.name: entry.stat() for entry in sorted(os.scandir(f"{root}/chunks"), key=lambda e: e.name)}


def linked(root: str) -> set[str]:
    """Return the chunk files that have another name somewhere."""
    return {name for name, status in chunk_files(root).items() if status.st_nlink > 1}


def digests(root: str) -> dict[str, str]:
    """Return what all chunk files of a database hold."""
    return {name: hashlib.sha256(Path(root, "chunks", name).read_bytes()).hexdigest() for name in chunk_files(root)}


def read(root: str, mode: str = "r+") -> dict[str, dict[int, bytes]]:
    """Return what a database holds, having checked it."""
    with sc.open(root, mode) as db:
        assert db.verify() == []
        return contents(db)


def rebuilt(root: str) -> dict[str, dict[int, bytes]]:
    """Return what the chunks of a database alone give back."""
    sc.rebuild_index(root)
    return read(root)


# ---------------------------------------------------------------------- what the copy is


def test_copy_is_the_same(db: sc.Database, tmp_path: Path) -> None:
    fill(db)
    dest = str(tmp_path / "copy.sc")
    assert db.checkpoint(dest) is None
    assert read_superblock(f"{dest}/superblock")[3:7] == db._storage.superblock[3:7]
    expected = contents(db)
    assert read(dest) == expected
    assert rebuilt(dest) == expected
    with sc.open(dest) as copy:
        assert number(copy) == number(db)
        assert {name: len(copy[name]) for name in copy} == {name: len(db[name]) for name in db}
        stats, others = copy.stats(), db.stats()
        assert {name: (stats[name].live, stats[name].garbage) for name in stats} == {
            name: (others[name].live, others[name].garbage) for name in others
        }
    assert sorted(os.listdir(tmp_path)) == ["copy.sc", "test.sc"]
    assert os.stat(dest).st_mode & 0o777 == 0o700


def test_only_frozen_chunks_are_linked(db: sc.Database, tmp_path: Path) -> None:
    fill(db)
    db.checkpoint(tmp_path / "copy.sc")
    names = {
        name: [os.path.basename(c.path) for c in heap.chunks.values()] for name, heap in db._storage.heaps.items()
    }
    assert all(len(names[name]) > 1 for name in ("plain", "points", "mixed"))
    expected = {*sorted(names["plain"])[:-1], *sorted(names["mixed"])[1:-1]}  # the first one holds the live array
    assert linked(db.path) == expected
    assert linked(str(tmp_path / "copy.sc")) == expected
    assert len(expected) > 2


def test_empty_database(db: sc.Database, tmp_path: Path) -> None:
    db.checkpoint(tmp_path / "copy.sc")
    assert read(str(tmp_path / "copy.sc")) == {}


def test_copy_of_a_copy(db: sc.Database, tmp_path: Path) -> None:
    fill(db)
    db.checkpoint(tmp_path / "first.sc")
    with sc.open(tmp_path / "first.sc", chunk_size=CHUNK_SIZE) as first:
        first["plain"][10**6] = [1.0]
        first.checkpoint(tmp_path / "second.sc")
        expected = contents(first)
    assert read(str(tmp_path / "second.sc")) == expected
    assert max(status.st_nlink for status in chunk_files(db.path).values()) == 3


def test_read_only(open_db: OpenDB, tmp_path: Path) -> None:
    with open_db(chunk_size=CHUNK_SIZE) as db:
        fill(db)
        expected = contents(db)
    with sc.open(db.path, "r") as reader:
        superblock = Path(db.path, "superblock").read_bytes()
        reader.checkpoint(tmp_path / "copy.sc")
        assert Path(db.path, "superblock").read_bytes() == superblock
    assert read(str(tmp_path / "copy.sc")) == expected
    assert linked(db.path)


def test_sparse_arrays_stay_sparse(db: sc.Database, tmp_path: Path) -> None:
    store = db.array_store("a", "f8")
    array = store.new(1, 50_000_000)
    array[0], array[25_000_000], array[-1] = 1.0, 2.0, 3.0
    store[2] = [4.0]
    db.checkpoint(tmp_path / "copy.sc")
    assert sum(status.st_blocks for status in chunk_files(str(tmp_path / "copy.sc")).values()) * 512 < 1 << 20
    with sc.open(tmp_path / "copy.sc") as copy:
        found = copy["a"][1]
        assert (found[0], found[25_000_000], found[-1], copy["a"][2][0]) == (1.0, 2.0, 3.0, 4.0)
        assert np.count_nonzero(found) == 3


def test_live_records_are_independent(db: sc.Database, tmp_path: Path) -> None:
    """Of objects and arrays, in the last chunk of a store and in one before."""
    fill(db)
    array, first, last = db["mixed"][1], db["points"][0], db["points"][1999]
    first.x = last.x = array[0] = 10
    db.checkpoint(tmp_path / "copy.sc")
    first.x = last.x = array[0] = 20
    with sc.open(tmp_path / "copy.sc") as copy:
        others = copy["mixed"][1], copy["points"][0], copy["points"][1999]
        assert (others[0][0], others[1].x, others[2].x) == (10, 10, 10)
        others[1].x = others[2].x = others[0][0] = 30
        copy.sync()
        assert (array[0], first.x, last.x) == (20, 20, 20)
        del others
        assert copy.verify() == []


def test_dead_live_record_that_is_still_held(db: sc.Database, tmp_path: Path) -> None:
    store = db.array_store("a", "f8")
    held = store.new(1, 10)
    del store[1]
    store.put_many(range(10, 2010), np.ones((2000, 3)))
    db.checkpoint(tmp_path / "copy.sc")
    before = digests(str(tmp_path / "copy.sc"))
    held[:] = 9.0
    db.sync()
    assert len(db._storage.heaps["a"].chunks) > 2
    assert digests(str(tmp_path / "copy.sc")) == before


def test_view_of_an_aborted_record_that_is_still_held(db: sc.Database, tmp_path: Path) -> None:
    store = db.array_store("a", "f8")
    transaction = db.transaction()
    held = transaction["a"].new(1, 10)
    transaction.abort()
    store.put_many(range(10, 2010), np.ones((2000, 3)))
    db.checkpoint(tmp_path / "copy.sc")
    before = digests(str(tmp_path / "copy.sc"))
    held[:] = 9.0
    assert digests(str(tmp_path / "copy.sc")) == before
    del held
    gc.collect()
    db.checkpoint(tmp_path / "again.sc")
    assert min(db._storage.heaps["a"].chunks) in map(int, (name[:8] for name in linked(str(tmp_path / "again.sc"))))


def test_gap_at_the_end_of_a_chunk(db: sc.Database, tmp_path: Path) -> None:
    """Recovery would correct the header of such a chunk, so it must not be linked."""
    store = db.array_store("a", "u1")
    transaction = db.transaction()
    held = transaction["a"].put(1, [1] * 10000)
    dict(transaction["a"].items())
    transaction.abort()
    del held
    store[2] = [2] * 10000
    assert len(db._storage.heaps["a"].chunks) == 2
    dest = str(tmp_path / "copy.sc")
    db.checkpoint(dest)
    before = digests(db.path)
    for look in (read, rebuilt):
        assert look(dest) == {"a": {2: b"\2" * 10000}}
        assert digests(db.path) == before


# ---------------------------------------------------------------------- writing to either


def abort_much(db: sc.Database) -> None:
    transaction = db.transaction()
    for name in ("plain", "mixed"):
        transaction[name].put_many(range(10**6, 10**6 + 9000), np.full((9000, 3), 8))
        dict(transaction[name].items())
    transaction.abort()
    write_little(db)


def change_in_place(db: sc.Database) -> None:
    for point in db["points"].values():
        point.n = 99
    db["mixed"][1][:] = 99
    db.sync()


def compact(db: sc.Database) -> None:
    db["plain"].delete_range(0, 1000)
    db.compact()
    write_little(db)


def drop(db: sc.Database) -> None:
    for name in ("plain", "points"):
        db.drop_store(name)
    db.array_store("new", "u1").put(1, [1])


def reopen_and_rebuild(db: sc.Database) -> None:
    write_little(db)
    db.close()
    shutil.rmtree(db._storage.paths.index(max(db._storage.paths.list_indexes())))
    sc.rebuild_index(db.path)


KILL = """
import os, signal, sys, numpy as np, structchunk as sc
db = sc.open(sys.argv[1], chunk_size=16 << 10, sync=False)
for name in ("plain", "mixed"):
    db[name].put_many(range(10**6, 10**6 + 3000), np.full((3000, 3), 8))
transaction = db.transaction()
transaction["plain"].put_many(range(10**7, 10**7 + 3000), np.full((3000, 3), 8))
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(db: sc.Database) -> None:
    db.close()
    assert run_python(KILL, db.path).returncode == KILLED
    with sc.open(db.path) as again:
        assert 10**6 in again["plain"] and 10**7 not in again["plain"]


ACTIONS = [write_much, write_little, abort_much, change_in_place, compact, drop, reopen_and_rebuild, killed]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("which", ["original", "copy"])
def test_writing_to_one_leaves_the_other(db: sc.Database, tmp_path: Path, which: str, action: Any) -> None:
    """Bit by bit; and both work on, and come back from their chunks alone."""
    fill(db)
    dest = str(tmp_path / "copy.sc")
    db.checkpoint(dest)
    expected = contents(db)
    assert len(linked(dest)) > 2
    if which == "original":
        before = digests(dest)
        action(db)
        assert digests(dest) == before
        db.close()
    else:
        before = digests(db.path)
        with sc.open(dest, chunk_size=CHUNK_SIZE, sync=False) as copy:
            action(copy)
        assert digests(db.path) == before
        assert db.verify() == []
        assert contents(db) == expected
        db.close()
    changed, other = (db.path, dest) if which == "original" else (dest, db.path)
    after = read(changed)
    before = digests(changed)
    assert read(other) == rebuilt(other) == expected
    with sc.open(other, chunk_size=CHUNK_SIZE) as copy:
        write_much(copy)
    assert digests(changed) == before
    assert read(changed) == rebuilt(changed) == after


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_transaction_is_open(db: sc.Database, tmp_path: Path, end: str) -> None:
    """It is not in the copy; and the last chunk may become the last one again, by aborting it."""
    store = db.array_store("a", "f8")
    store.put_many(range(100), np.ones((100, 3)))
    expected = contents(db)
    transaction = db.transaction()
    transaction["a"].put_many(range(1000, 4000), np.ones((3000, 3)))
    transaction.array_store("b", "f8").put(1, [1.0])
    dest = str(tmp_path / "copy.sc")
    db.checkpoint(dest)
    assert linked(dest) == set()
    assert len(chunk_files(dest)) == 1 < len(chunk_files(db.path))
    before = digests(dest)
    getattr(transaction, end)()
    store.put_many(range(5000, 8000), np.ones((3000, 3)))
    assert digests(dest) == before
    assert read(dest) == rebuilt(dest) == expected


def test_random_work_on_both(seed: int, budget: float, new_root: NewRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workload of the crash tests goes on in a database, its copy, and a copy of one of them."""
    shrink(monkeypatch.setattr, has_hundreds_of_rows=True)
    shared = 0
    for turn in range(round(3 * budget)):
        rng = random.Random(f"{seed} {turn}")
        sides: list[tuple[sc.Database, Oracle]] = [(sc.open(new_root(), chunk_size=CHUNK_SIZE), Oracle())]
        try:
            for step in range(8):
                at = rng.randrange(len(sides))
                db, oracle = sides[at]
                planner = Planner(f"{seed} {turn} {step}", oracle, most=900)
                sides[at] = work(db, oracle, planner, 10 if step else 40), oracle
                if len(sides) < 3:
                    root = new_root()
                    sides[at][0].checkpoint(root)
                    shared += len(linked(root))
                    sides.append((sc.open(root, chunk_size=CHUNK_SIZE), Oracle.fork(oracle.mark())))
                for db, oracle in sides:
                    state = {
                        name: {key: value.at(oracle.tick)[-1] for key, value in records.items()}
                        for name, records in oracle.state.items()
                    }
                    assert contents(db) == state, f"seed {seed}, turn {turn}"
                    assert db.verify() == []
        finally:
            for db, _ in sides:
                db.close()
        for db, oracle in sides:
            with contextlib.closing(sc.open(db.path)) as again:
                found = contents(again)
            assert rebuilt(db.path) == found
            assert number_of(db.path) == len(oracle.states) - 1
    assert shared > 0


def number_of(root: str) -> int:
    with sc.open(root) as db:
        return number(db)


# ---------------------------------------------------------------------- where links are not to be had


def test_another_file_system(disk_path: Path, open_db: OpenDB, new_root: NewRoot) -> None:
    dest = new_root()
    if os.stat(os.path.dirname(dest)).st_dev == os.stat(disk_path).st_dev:
        pytest.skip("needs a second file system")
    db = open_db(name=str(disk_path / "test.sc"), chunk_size=CHUNK_SIZE)
    fill(db)
    db["mixed"].new(10**6, 10**6)
    db.checkpoint(dest)
    assert linked(db.path) == set()
    # Before it is read: in memory, reading a hole fills it.
    assert sum(status.st_blocks for status in chunk_files(dest).values()) * 512 < 1 << 20
    assert read(dest) == rebuilt(dest) == contents(db)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_links_are_refused(db: sc.Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(source: str, target: str, **_: Any) -> None:
        raise OSError(number, os.strerror(number), source, None, target)

    monkeypatch.setattr(os, "link", refuse)
    fill(db)
    db.checkpoint(tmp_path / "copy.sc")
    assert linked(db.path) == set()
    assert read(str(tmp_path / "copy.sc")) == contents(db)


def test_chunks_are_unlinked_while_they_are_copied(
    db: sc.Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By compaction, by a drop, and by the checkpoints that follow."""
    fill(db)
    expected = contents(db)
    copy = Source.copy
    calls = unlinked = 0

    def copy_late(source: Source, *args: Any) -> None:
        nonlocal calls, unlinked
        if not calls:
            db.drop_store("plain")
            write_little_objects(db)
            db.compact()
        calls += 1
        unlinked += not os.path.exists(source.chunk.path)
        copy(source, *args)

    monkeypatch.setattr(Source, "copy", copy_late)
    db.checkpoint(tmp_path / "copy.sc")
    assert calls > 4
    assert unlinked
    assert "plain" not in db
    for name in chunk_files(str(tmp_path / "copy.sc")):
        chunk = Chunk.open(str(tmp_path / "copy.sc/chunks" / name))
        *_, last = chunk.segments()
        assert chunk.working_offsets() == (last.end, last.low)  # for those who read it from outside
    assert read(str(tmp_path / "copy.sc")) == rebuilt(str(tmp_path / "copy.sc")) == expected


def test_compacted_chunks_are_not_unlinked_yet(
    db: sc.Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a compaction's commit and its checkpoint: nothing of the old chunks is in the copy."""
    fill(db)
    db.sync()
    with monkeypatch.context() as patch:
        patch.setattr(db._storage, "checkpoint", lambda: None)
        db.compact("plain")
        copy_storage(db._storage, str(tmp_path / "copy.sc"))
    assert read(str(tmp_path / "copy.sc")) == contents(db)
    with sc.open(tmp_path / "copy.sc") as copy:
        for name, heap in copy._storage.heaps.items():
            assert heap.chunks.keys() == db._storage.heaps[name].chunks.keys()
            assert copy._storage.index.live[heap.store].keys() <= heap.chunks.keys()


def write_little_objects(db: sc.Database) -> None:
    db["points"].delete_range(0, 1000)
    db["mixed"].delete_range(0, 1000)


# ---------------------------------------------------------------------- refused


def test_refused(db: sc.Database, tmp_path: Path) -> None:
    fill(db)
    there = tmp_path / "there"
    there.mkdir()
    file = tmp_path / "file"
    file.touch()
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    for dest in (there, file, link, db.path, f"{there}/"):
        with pytest.raises(FileExistsError, match="a name of its own"):
            db.checkpoint(dest)
    for dest in (f"{db.path}/copy", f"{db.path}/chunks/copy", tmp_path / "there/../test.sc/copy"):
        with pytest.raises(ValueError, match="inside the database"):
            db.checkpoint(dest)
    with pytest.raises(FileNotFoundError):
        db.checkpoint(tmp_path / "missing" / "copy")
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "test.sc", "there"]
    assert os.listdir(there) == []
    db.close()
    with pytest.raises(sc.ClosedError):
        db.checkpoint(tmp_path / "copy.sc")


def test_dest_appears_meanwhile(db: sc.Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(db)
    rename = files.rename

    def rename_late(source: str, target: str) -> None:
        if target.endswith("copy.sc"):
            os.mkdir(target)
            Path(target, "mine").touch()
        rename(source, target)

    monkeypatch.setattr(files, "rename", rename_late)
    with pytest.raises(OSError):
        db.checkpoint(tmp_path / "copy.sc")
    assert os.listdir(tmp_path / "copy.sc") == ["mine"]
    assert sorted(os.listdir(tmp_path)) == ["copy.sc", "test.sc"]


def test_failed_database_is_not_copied(open_db: OpenDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = open_db()
    store = db.array_store("a", "f8")

    def fail(path: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "flush", fail)
        with pytest.raises(OSError):
            store[1] = [1.0]
    with pytest.raises(sc.FailedError):
        db.checkpoint(tmp_path / "copy.sc")
    with pytest.raises(sc.FailedError):  # a commit may fail between the checkpoint and the copy
        copy_storage(db._storage, str(tmp_path / "copy.sc"))
    assert os.listdir(tmp_path) == ["test.sc"]
    db.close()


# ---------------------------------------------------------------------- looking at a directory at once


def test_survey_says_what_a_walk_says(db: sc.Database) -> None:
    fill(db)
    write_little(db)
    count = 0
    forms: set[tuple[type, bool]] = set()
    for heap in db._storage.heaps.values():
        for chunk in heap.chunks.values():
            segments = list(chunk.segments())
            surveyed = survey(memoryview(chunk.source)[chunk.directory :])
            assert surveyed is not None
            flags = np.concatenate([segment.run.rows["flags"] for segment in segments])
            assert surveyed[0] == np.bitwise_or.reduce(flags)
            assert surveyed[1] == segments[-2].low - segments[-1].low if len(segments) > 1 else surveyed[1]
            count += bool(surveyed[0] & MUTABLE)
            forms |= {(type(segment.run), len(segment.run) > 2) for segment in segments}
    assert count > 1
    assert {(ContiguousRun, True), (ArrayRun, False)} <= forms


@pytest.mark.parametrize("is_live", [False, True])
def test_key_that_looks_like_a_record(db: sc.Database, tmp_path: Path, *, is_live: bool) -> None:
    """It is not taken for one: the chunk is linked, unless a record in it may change in place."""
    key = int.from_bytes(b"SEGM", "little")
    store = db.array_store("a", "f8")
    with db.transaction() as transaction:
        transaction["a"].put(key, [1.0])
        if is_live:
            transaction["a"].new(key + 1, 1)
    store.put_many(range(10, 2010), np.ones((2000, 3)))
    first = db._storage.heaps["a"].chunks[min(db._storage.heaps["a"].chunks)]
    surveyed = survey(memoryview(first.source)[first.directory :])
    assert surveyed is not None
    assert bool(surveyed[0] & MUTABLE) == is_live
    db.checkpoint(tmp_path / "copy.sc")
    assert (os.path.basename(first.path) in linked(db.path)) != is_live
    assert read(str(tmp_path / "copy.sc")) == contents(db)


def test_survey_of_what_is_no_whole_directory(db: sc.Database) -> None:
    fill(db)
    chunk = db._storage.heaps["plain"].chunks[min(db._storage.heaps["plain"].chunks)]
    directory = memoryview(chunk.source)[chunk.directory :]
    assert survey(directory[32:]) is None
    assert survey(directory[:-32]) is None


# ---------------------------------------------------------------------- under load


def test_under_load(tmp_path: Path, budget: float) -> None:
    """A thread commits to several stores at once, drops and compacts; every copy is one commit, whole."""
    stop, goes_on = threading.Event(), threading.Event()
    failures: list[BaseException] = []
    with sc.open(tmp_path / "test.sc", chunk_size=CHUNK_SIZE, sync=False) as db:
        for name in ("left", "right"):
            db.array_store(name, "i8").put(0, [0])
        db.object_store("points", Point).new(0, n=0)

        def write() -> None:
            rng = random.Random(0)
            turn = 0
            try:
                while not stop.is_set():
                    turn += 1
                    with db.transaction() as transaction:
                        for name in ("left", "right"):
                            transaction[name].put(0, [turn])
                            transaction[name].put(turn % 300 + 1, [turn] * rng.randint(1, 60))
                            transaction[name].delete((turn + 150) % 300 + 1)
                        transaction["points"].put(0, Point(turn, turn))
                    if turn % 97 == 0:
                        db.compact(rng.choice(("left", "right", "points")))
                    if turn % 41 == 0:
                        db.array_store("passing", "u1").put(turn, [1])
                        db.drop_store("passing")
                    if turn % 100 == 0:
                        goes_on.set()
            except BaseException as error:
                failures.append(error)
                raise

        thread = threading.Thread(target=write)
        thread.start()
        copies = [str(tmp_path / f"copy-{turn}.sc") for turn in range(round(12 * budget))]
        shared = 0
        try:
            for copy in copies:
                assert goes_on.wait(60)  # so much was written that there are chunks to share
                goes_on.clear()
                db.checkpoint(copy)
                shared += len(linked(copy))
        finally:
            stop.set()
            thread.join()
        assert not failures and shared > 0
    last = 0
    for copy in copies:
        found = read(copy)
        turn = int(np.frombuffer(found["left"][0], "i8")[0])
        assert turn >= last
        last = turn
        assert found["left"].keys() == found["right"].keys()
        assert int(np.frombuffer(found["right"][0], "i8")[0]) == turn
        assert turn == 0 or Point.from_buffer_copy(found["points"][0]).n == turn
        for key in found["left"].keys() - {0}:
            written = turn - (turn - key + 1) % 300
            assert set(np.frombuffer(found["left"][key], "i8").tolist()) == {written}
            assert set(np.frombuffer(found["right"][key], "i8").tolist()) == {written}
        assert rebuilt(copy) == found
    assert last > 0


# ---------------------------------------------------------------------- crashes and faults


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    with contextlib.closing(Killer()) as killer:
        yield killer


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a closed database that was worked on, with chunks of every kind."""
    root = str(tmp_path_factory.mktemp("worked") / "test.sc")
    with sc.open(root, chunk_size=CHUNK_SIZE, sync=False) as db:
        fill(db)
        write_little(db)
    return root


def drafts(base: str) -> list[str]:
    return [os.path.join(base, name) for name in os.listdir(base) if ".part-" in name]


def check_dest(base: str, expected: dict[str, dict[int, bytes]]) -> bool:
    """Fail unless there is no copy, or a whole one, under whatever name; tell whether there is one at all."""
    whole = 0
    for root in [*drafts(base), os.path.join(base, "copy.sc")]:
        if os.path.lexists(os.path.join(root, "superblock")):
            assert read(root) == rebuilt(root) == expected
            whole += 1
        else:
            assert not os.path.lexists(root) or ".part-" in root
    return whole > 0


def test_killed_at_every_change(killer: Killer, worked: str, seed: int, budget: float, new_root: NewRoot) -> None:
    base = new_root()
    shutil.copytree(worked, f"{base}/test.sc")
    expected = read(f"{base}/test.sc")
    events = killer.run(task="checkpoint", root=f"{base}/test.sc")["events"]
    assert check_dest(base, expected)
    assert events > 100
    chosen = sorted(random.Random(seed).sample(range(1, events + 1), min(events, round(40 * budget))))
    copies = 0
    for at in chosen:
        base = new_root()
        shutil.copytree(worked, f"{base}/test.sc")
        assert killer.run(task="checkpoint", root=f"{base}/test.sc", stop_at=at)["status"] == KILLED
        copies += check_dest(base, expected)
        assert read(f"{base}/test.sc") == expected
        shutil.rmtree(base)
    assert copies < len(chosen)


class CopyFault(Seam):
    """Raises an OSError in place of an operation of a given number on the copy."""

    def __init__(self, at: int, number: int) -> None:
        super().__init__(self._maybe_fail)
        self.count = 0
        self._at = at
        self._number = number

    def _maybe_fail(self, operation: str, args: tuple[Any, ...], done: bool) -> None:
        paths = [getattr(arg, "path", arg) for arg in args]
        mine = any(isinstance(path, str) and ".part-" in path for path in paths)
        if mine and not done and operation not in ("remove_tree", "LevelDB.close"):
            self.count += 1
            if self.count == self._at:
                raise OSError(self._number, os.strerror(self._number), operation)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_any_operation_fails(worked: str, new_root: NewRoot, seed: int, budget: float, number: int) -> None:
    """Then there is nothing, the database works on, and the next copy succeeds."""
    base = new_root()
    shutil.copytree(worked, f"{base}/test.sc")
    with sc.open(f"{base}/test.sc", chunk_size=CHUNK_SIZE, sync=False) as db:
        expected = contents(db)
        with CopyFault(0, number) as counted:
            db.checkpoint(f"{base}/copy.sc")
        assert counted.count > 50
        shutil.rmtree(f"{base}/copy.sc")
        every = range(1, counted.count + 1)
        for at in sorted(random.Random(seed + number).sample(every, min(len(every), round(60 * budget)))):
            with pytest.raises(OSError) as caught, CopyFault(at, number):
                db.checkpoint(f"{base}/copy.sc")
            assert caught.value.errno == number
            assert os.listdir(base) == ["test.sc"]
            db["plain"].put(1, [at])
            expected["plain"][1] = np.array([at], "f8").tobytes()
        db.checkpoint(f"{base}/copy.sc")
        assert db.verify() == []
    assert read(f"{base}/copy.sc") == read(f"{base}/test.sc") == expected


FULL = """
import os, sys
from failing_disk import leave_free
import structchunk as sc
from oracle import contents
base, sizes = sys.argv[1], map(int, sys.argv[2:])
failed = 0
with sc.open(f"{base}/test.sc", chunk_size=16 << 10) as db:
    db["plain"].put(1, [0.0])
    for size in sizes:
        leave_free(base, size)
        try:
            db.checkpoint(f"{base}/copy.sc")
        except OSError as error:
            assert error.errno == 28, error
            assert not os.path.lexists(f"{base}/copy.sc")
            failed += 1
        assert sorted(set(os.listdir(base)) - {"ballast", "copy.sc"}) == ["test.sc"], os.listdir(base)
        os.unlink(f"{base}/ballast")
        if os.path.lexists(f"{base}/copy.sc"):
            with sc.open(f"{base}/copy.sc") as copy:
                assert copy.verify() == []
                assert contents(copy) == contents(db)
            os.rename(f"{base}/copy.sc", f"{base}/old")
            import shutil; shutil.rmtree(f"{base}/old")
        db["plain"].put(1, [size])
    assert db.verify() == []
print(failed)
"""


def test_full_disk(worked: str, tmp_path: Path) -> None:
    """The disk fills up anywhere in a copy: an error, nothing is left, and the database is not harmed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "structchunk-test", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        shutil.copytree(worked, disk / "test.sc")
        sizes = [str(size) for size in range(16 << 10, 600 << 10, 20 << 10)]
        code = f"import sys; sys.path += {sys.path!r}\n{FULL}"
        end = run_python(code, str(disk), *sizes)
        assert end.returncode == 0, end.stdout + end.stderr
        assert 5 < int(end.stdout) < len(sizes)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_power_cuts(worked: str, seed: int, budget: float, new_root: NewRoot) -> None:
    """There is no copy, or a whole one; and the one that checkpoint() returned from is there."""
    base = new_root()
    shutil.copytree(worked, f"{base}/test.sc")
    done = [False]
    with sc.open(f"{base}/test.sc", chunk_size=CHUNK_SIZE, sync=False) as db:
        db["plain"].put(1, [1.0])
        db["points"].put(1, Point(1, 1))
        db.checkpoint(f"{base}/first.sc")
        shutil.rmtree(f"{base}/first.sc")
        expected = contents(db)
        recorder = Recorder(base, lambda: done[0])
        with recorder, SyncedWrites(recorder):
            db.checkpoint(f"{base}/copy.sc")
            done[0] = True
            write_little(db)
            db.sync()
    rng = random.Random(seed)
    copies = 0
    events = recorder.events
    assert len(events) > 100
    chosen = [*rng.choices(range(len(events)), k=round(20 * budget)), *range(len(events) - 20, len(events), 4)]
    for at in chosen:
        root = new_root()
        build(events[at], draw_cut(rng)._replace(index="keep"), rng, root)
        whole = check_dest(root, expected)
        assert whole or not events[at].mark, events[at].label
        copies += whole
        db, _ = reopen(f"{root}/test.sc")
        with contextlib.closing(db):
            assert db.verify() == []
            assert contents(db).keys() == expected.keys()
        shutil.rmtree(root)
    assert 0 < copies < len(chosen)


@pytest.mark.parametrize("how", [{"mode": "r"}, {"shared": True}])
def test_beside_a_writer(open_db: OpenDB, tmp_path: Path, how: dict[str, Any]) -> None:
    """A reader's copy is as of its own commit, though the chunks that it reads have grown since."""
    writer = open_db(chunk_size=16 << 10, sync=False)
    fill(writer)
    with sc.open(writer.path, **how) as reader:
        before = {name: dict(reader[name].items()) for name in reader}
        write_much(writer)
        if "shared" in how:  # it shows the latest commit, which is not on disk yet
            before = {name: dict(reader[name].items()) for name in reader}
        reader.checkpoint(tmp_path / "copy.sc")
        assert {name: dict(reader[name].items()).keys() for name in reader} == {
            name: records.keys() for name, records in before.items()
        }
    here = digests(writer.path)
    with sc.open(tmp_path / "copy.sc") as copy:
        assert copy.verify() == []
        assert {name: copy[name].keys() for name in copy} == {
            name: records.keys() for name, records in before.items()
        }
        write_much(copy)
        assert copy.verify() == []
    assert digests(writer.path) == here
    rebuilt(str(tmp_path / "copy.sc"))
