"""Readers beside a writer: whole commits only, whatever it does, in every process, and nothing left behind."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import gc
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pooled
import pytest
from conftest import OpenDB
from forker import Forker, kill
from pooled import look, total
from support import bytes_of_files, count_descriptors, in_child

import structchunk as sc
from structchunk.chunks.chunk import Chunk
from structchunk.index.leveldb import LevelDB
from structchunk.process.leftovers import clear
from structchunk.readers import copies, directory, read_storage
from structchunk.readers.directory import sweep


class Point(sc.Object):
    _fields_ = [("x", ctypes.c_double), ("n", ctypes.c_int64)]


def leftovers(path: Any) -> list[str]:
    return sorted(set(os.listdir(os.path.join(path, "readers"))) - {"writer"})


def fill(db: sc.Database, count: int = 1000) -> None:
    db.array_store("floats", "f8").put_many(range(count), np.arange(count * 4.0).reshape(count, 4))


# -- one reader


def test_a_reader_keeps_its_commit_until_refresh(open_db: OpenDB) -> None:
    writer = open_db(sync=False, chunk_size=16 << 10)
    fill(writer)
    points = writer.object_store("points", Point)
    points.put(1, Point(1.5, 2))
    with open_db("r") as db:
        floats, view = db["floats"], db["floats"][5]
        cursor, snapshot = floats.cursor(), db.snapshot()
        scan, old = floats.scan(batch_size=100), snapshot["floats"]
        first = next(scan)
        del writer["floats"][5]
        writer["floats"].put_many(range(1000, 3000), np.ones((2000, 4)))
        writer.array_store("more", "i4")[1] = [7]
        writer.drop_store("points")
        assert (len(floats), list(db), floats[5].tolist()) == (1000, ["floats", "points"], [20, 21, 22, 23])
        assert db["points"][1] == Point(1.5, 2)
        assert db.verify() == []
        db.refresh()
        assert (len(floats), list(db), 5 in floats) == (2999, ["floats", "more"], False)
        assert (len(old), old[5].tolist(), list(snapshot)) == (1000, view.tolist(), ["floats", "points"])
        assert snapshot["points"][1].x == 1.5
        assert len(first) + sum(len(batch) for batch in scan) == 1000
        assert db["more"][1].tolist() == [7]
        assert cursor.last()
        assert cursor.key == 2999
        with pytest.raises(sc.StoreNotFound):
            db["points"]
        assert db.verify() == []
        snapshot.close()
    assert view.tolist() == [20, 21, 22, 23]
    assert leftovers(writer.path) == []


def test_refresh_gives_back_what_is_not_needed(open_db: OpenDB) -> None:
    writer = open_db(sync=False, chunk_size=16 << 10)
    fill(writer)
    with open_db("r") as db:
        snapshot = db.snapshot()
        mine = os.path.join(writer.path, "readers", leftovers(writer.path)[0])
        for number in range(6):
            fill(writer)
            writer.drop_store("floats")
            writer.array_store("other", "i8")[1] = [number]
            db.refresh()
        assert len(snapshot["floats"]) == 1000
        assert len(list(Path(mine).glob("index-*"))) == 2
        snapshot.close()
        for number in range(2):
            writer["other"][1] = [number]
            db.refresh()
        assert len(list(Path(mine).glob("index-*"))) == 1
        assert sorted(os.listdir(f"{mine}/chunks")) == sorted(os.listdir(f"{writer.path}/chunks"))
        before = os.listdir(mine)
        db.refresh()
        assert os.listdir(mine) == before  # nothing new, nothing done


@pytest.mark.parametrize(
    "where",
    [
        "structchunk.readers.copies.clone_leveldb",
        "structchunk.readers.copies.open_copy",
        "structchunk.index.index.Index.follow",
    ],
)
def test_a_refresh_that_fails_is_done_again(open_db: OpenDB, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    writer = open_db(sync=False)
    fill(writer)
    with open_db("r") as db:
        mine = Path(writer.path, "readers", leftovers(writer.path)[0])
        writer["floats"][5000] = [1.0]
        writer.array_store("dropped", "f8")
        writer.drop_store("dropped")  # which takes another clone
        for _ in range(3):
            with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
                patch.setattr(where, fail)
                db.refresh()
            clear()  # what the garbage collector found
            assert len(list(mine.glob("index-*"))) == 1
            assert len(db["floats"]) == 1000
        db.refresh()
        assert len(db["floats"]) == 1001


def test_refresh_does_not_read_all_commits(open_db: OpenDB, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = open_db(sync=False)
    store, read, found = writer.array_store("a", "i8"), LevelDB.read, []

    def count(*args: Any) -> list[Any]:
        found.append(pairs := read(*args))
        return pairs

    with open_db("r") as db:
        for number in range(500):
            store[number % 5] = [number]
        monkeypatch.setattr(LevelDB, "read", count)
        db.refresh()
        assert db["a"][4].tolist() == [499]
        assert sum(map(len, found)) < 20


def test_refresh_of_a_writer_does_nothing(db: sc.Database) -> None:
    fill(db)
    db.refresh()
    assert len(db["floats"]) == 1000
    db.close()
    with pytest.raises(sc.ClosedError):
        db.refresh()


def test_writing_is_refused_beside_a_writer(open_db: OpenDB) -> None:
    writer = open_db(sync=False)
    fill(writer)
    writer["floats"].new(7, 3)
    with open_db("r") as db:
        for write in (
            lambda: db["floats"].put(1, [1.0]),
            lambda: db["floats"].delete(1),
            lambda: db["floats"].new(1, 2),
            lambda: db.drop_store("floats"),
            lambda: db.array_store("new", "f8"),
            db.transaction,
            db.sync,
            db._storage.checkpoint,
        ):
            with pytest.raises(sc.ReadOnlyError, match="mode='r"):
                write()
        with pytest.raises(ValueError, match="read-only"):
            db["floats"][7][0] = 1
    assert 7 in writer["floats"]


def test_a_chunk_number_that_is_used_again(open_db: OpenDB) -> None:
    """A chunk that a reader linked, and that was never committed, is another file the next time."""
    writer = open_db(sync=False, chunk_size=16 << 10)
    writer.array_store("a", "f8")[1] = [1.0]
    writer.sync()
    with writer.transaction() as txn:
        txn["a"].put_many(range(5000), np.ones((5000, 4)))
        reader = open_db("r")
        txn.abort()
    writer.close()
    with open_db(sync=False, chunk_size=16 << 10) as writer:
        writer.array_store("b", "i8").put_many(range(5000), np.full((5000, 4), 2))
        reader.refresh()
        assert reader["b"][77].tolist() == [2] * 4
        assert reader["a"][1].tolist() == [1]
        assert reader.verify() == []


def test_threads_read_while_it_refreshes(open_db: OpenDB) -> None:
    writer = open_db(sync=False)
    store = writer.array_store("a", "i8")
    store.put_many(range(500), np.zeros((500, 1), "i8"))
    db, stop, failures = open_db("r"), threading.Event(), []

    def read() -> None:
        mine = db["a"]
        try:
            while not stop.is_set():
                assert len({int(batch.values[0]) for batch in mine.scan(batch_size=10)}) == 1
                assert len(set(mine.get_many(range(200)).values.tolist())) == 1
                assert mine[77][0] >= 0
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(30):
        store.put_many(range(500), np.full((500, 1), number))
        db.refresh()
    stop.set()
    for thread in threads:
        thread.join(20)
    assert not failures


# -- after a crash


CRASH = """
import os, sys, numpy as np, structchunk as sc
db = sc.open(sys.argv[1], sync=False, chunk_size=16384)
for name in "ab": db.array_store(name, "i8")[0] = [0]
db.sync()
for number in range(1, 301):
    with db.transaction() as txn:
        for name in "ab": txn[name].put(number, [number] * 10)
os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database whose writer was killed, of which each test takes a copy."""
    path = tmp_path_factory.mktemp("crashed") / "test.sc"
    done = subprocess.run([sys.executable, "-c", CRASH, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    return path


def check_whole(db: sc.Database, last: int) -> None:
    assert list(db["a"]) == list(db["b"]) == list(range(last + 1))
    for name in "ab":
        assert all(values.tolist() == [key] * 10 for key, values in db[name].items() if key)
    assert db.verify() == []


def test_a_killed_writer(crashed: Path, tmp_path: Path) -> None:
    shutil.copytree(crashed, tmp_path / "test.sc")
    before = bytes_of_files(tmp_path / "test.sc", without="readers/*")
    with sc.open(tmp_path / "test.sc", "r") as db:
        check_whole(db, 300)
    assert bytes_of_files(tmp_path / "test.sc", without="readers/*") == before


def test_commits_that_the_index_lost(crashed: Path, tmp_path: Path) -> None:
    """As after a power cut: durable commits are in the chunks, and the tail of LevelDB's log is not there."""
    path = tmp_path / "test.sc"
    shutil.copytree(crashed, path)
    log = next(path.glob("index-*/*.log"))
    for size in (log.stat().st_size * 2 // 3, log.stat().st_size // 2):
        os.truncate(log, size)
        before = bytes_of_files(path, without="readers/*")
        with sc.open(path, "r") as db:
            check_whole(db, 300)
        assert bytes_of_files(path, without="readers/*") == before
    with sc.open(path, "r+") as db:
        check_whole(db, 300)


@pytest.mark.parametrize("forked", [False, True])
def test_an_index_that_is_ahead_of_the_chunks(crashed: Path, tmp_path: Path, *, forked: bool) -> None:
    """As after a power cut: unsynced records are lost, and the index names them."""
    path = tmp_path / "test.sc"
    shutil.copytree(crashed, path)
    chunk = Chunk.open(str(max((path / "chunks").iterdir())))
    segment = list(chunk.segments())[5]
    with open(chunk.path, "r+b") as file:
        file.seek(segment.start)
        file.write(bytes(segment.end - segment.start))
    before = bytes_of_files(path, without="readers/*")

    def read() -> None:
        with sc.open(path, "r") as db:
            check_whole(db, segment.commit - 5)
            db.refresh()
            check_whole(db, segment.commit - 5)

    if forked:
        assert in_child(read) == "None"
    else:
        read()
    assert bytes_of_files(path, without="readers/*") == before
    with sc.open(path, "r+") as db:
        check_whole(db, segment.commit - 5)


@pytest.mark.parametrize("alive", [False, True])
def test_a_lost_index(open_db: OpenDB, *, alive: bool) -> None:
    with open_db() as db:
        fill(db)
        path = db.path
    if alive:
        open_db()
    index = next(Path(path).glob("index-*"))
    hidden = Path(path).parent / "hidden"
    index.rename(hidden)
    with pytest.raises(sc.CorruptionError, match=rf"{index}.*rebuild_index"):
        open_db("r")
    assert leftovers(path) == []
    hidden.rename(index)


def test_a_lost_chunk(open_db: OpenDB) -> None:
    with open_db() as db:
        fill(db)
        path = db.path
    chunk = next(Path(path, "chunks").iterdir())
    hidden = Path(path).parent / "hidden"
    chunk.rename(hidden)
    with pytest.raises(sc.CorruptionError, match=rf"{chunk}.*found no such file"):
        open_db("r")
    hidden.rename(chunk)


# -- beside a writer at full speed


WRITER = """
import itertools, os, sys, numpy as np, structchunk as sc
db = sc.open(sys.argv[1], sync=False, chunk_size=16384)
names, parent = ["a", "b", "c"], os.getppid()
with db.transaction() as txn:
    for name in names:
        if 0 not in txn.array_store(name, "i8"):
            txn[name].put(0, [0] * 5)
db.object_store("objects", sc.Object.of(n=sc.Array.of(3, __import__("ctypes").c_int64)))
print(os.getpid(), flush=True)
for number in itertools.count(int(db["a"][0][0]) + 1):
    if os.getppid() != parent:
        break
    with db.transaction() as txn:
        for name in names:
            txn[name].put(0, [number] * 5)
            txn[name].put(number % 64 + 1, [number] * (number % 7))
            txn[name].delete((number + 13) % 64 + 1)
    if number % 40 == 0:
        with db.transaction() as txn:
            extra = txn.array_store(f"extra {number}", "i8")
            extra.put_many(range(100), np.full((100, 3), number))
        db.drop_store(f"extra {number}")
    if number % 500 == 0:
        db.sync()
"""
READER = """
import sys, structchunk as sc
sys.path += sys.argv[3:]
from pooled import look
db = sc.open(sys.argv[1], "r")
last = seen = number = 0
while number < int(sys.argv[2]) or seen <= int(sys.argv[2]) // 2:  # on a busy machine who writes may be behind
    number += 1
    if number % 2:
        db.close()
        db = sc.open(sys.argv[1], "r")
    else:
        db.refresh()
    last, before = look(db), last
    assert last >= before, (last, before)
    seen += last > before
    if number % 10 == 0:
        assert db.verify() == []
db.close()
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    with contextlib.closing(Forker()) as forker:
        yield forker


@contextlib.contextmanager
def started(forker: Forker, code: str, path: str) -> Iterator[None]:
    """Have a process run code that tells its number once it has begun, and kill it in the end."""
    with forker.start(code, path) as pipe:
        pid = int(pipe.readline())
        try:
            yield
            os.kill(pid, 0)  # it is there
        finally:
            kill(pid)


@pytest.mark.timeout(3600)
def test_readers_beside_a_writer(forker: Forker, tmp_path: Path, budget: float) -> None:
    path, count = tmp_path / "test.sc", max(4, int(20 * budget))
    with started(forker, WRITER, str(path)):
        readers = [start(READER, path, count, os.path.dirname(pooled.__file__)) for _ in range(3)]
        for reader in readers:
            _, err = reader.communicate(timeout=3600)
            assert reader.returncode == 0, err
    with sc.open(path, "r") as db:
        last = look(db)
    with sc.open(path, "r+") as db:
        assert look(db) == last
        assert db.verify() == []
    assert leftovers(path) == []


def test_readers_while_writers_come_and_go(forker: Forker, tmp_path: Path) -> None:
    path = tmp_path / "test.sc"
    last = 0
    for _ in range(4):
        with started(forker, WRITER, str(path)):
            for _ in range(4):
                with sc.open(path, "r") as db:
                    last = look(db)
        with sc.open(path, "r") as db:
            assert look(db) >= last


# -- what dead readers leave


HOLD = """
import os, sys, time, structchunk as sc
db = sc.open(sys.argv[1], "r")
print(os.getpid(), flush=True)
time.sleep(99)
"""


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_killed_readers_leave_nothing_after_the_next_open(forker: Forker, open_db: OpenDB, mode: str) -> None:
    with open_db() as db:
        fill(db)
        path = db.path
    alive = open_db("r")
    with contextlib.ExitStack() as readers:
        for _ in range(3):
            readers.enter_context(started(forker, HOLD, path))
        assert len(leftovers(path)) == 4
    assert len(leftovers(path)) == 4
    open_db(mode).close()
    assert len(leftovers(path)) == 1
    assert len(alive["floats"]) == 1000


def test_what_is_left_half_removed(tmp_path: Path) -> None:
    for name, has_lock in (("12-0123abcd", True), ("13-0123abcd", False), ("notes", True)):
        (tmp_path / name / "chunks").mkdir(parents=True)
        if has_lock:
            (tmp_path / name / "lock").touch()
        else:
            (tmp_path / name / "chunks").rmdir()
    sweep(str(tmp_path))
    assert os.listdir(tmp_path) == ["notes"]


def test_one_that_was_swept_by_a_process_that_was_killed_meanwhile(
    open_db: OpenDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new directory has another name when its lock is had."""
    open_db().close()
    flock, taken = fcntl.flock, []

    def flock_late(fd: int, operation: int) -> None:
        if not taken:
            taken.append(os.path.dirname(os.readlink(f"/proc/self/fd/{fd}")))
            os.rename(taken[0], f"{taken[0][:-8]}ffffffff")
        flock(fd, operation)

    monkeypatch.setattr(directory, "fcntl", SimpleNamespace(flock=flock_late, LOCK_EX=fcntl.LOCK_EX, LOCK_NB=0))
    with open_db("r") as db:
        assert leftovers(db.path) != [os.path.basename(taken[0])]
    monkeypatch.undo()
    with open_db("r+") as db:
        assert leftovers(db.path) == []


def test_what_others_have_put_there_is_left(tmp_path: Path) -> None:
    """Among temporary files, anybody may make a link, to a database that is closed, say."""
    victim, folder = tmp_path / "victim", tmp_path / "temporary"
    with sc.open(victim) as db:
        fill(db)
    before = bytes_of_files(victim, without="readers/*")
    folder.mkdir()
    (folder / "12-0123abcd").symlink_to(victim)
    (folder / "13-0123abcd").touch()
    if os.getuid() == 0:
        (folder / "14-0123abcd").mkdir()
        os.chown(folder / "14-0123abcd", 65534, 65534)
    names = sorted(os.listdir(folder))
    sweep(str(folder))
    assert sorted(os.listdir(folder)) == names
    assert bytes_of_files(victim, without="readers/*") == before


def test_makers_and_sweepers_at_once(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom structchunk.readers.directory import ReaderDirectory, sweep\nimport os\n"
        "for _ in range(300):\n"
        "    mine = ReaderDirectory(sys.argv[1])\n    sweep(sys.argv[1])\n"
        "    assert os.path.exists(mine.path + '/lock')\n    mine.release()\n"
    )
    for process in [start(code, tmp_path) for _ in range(3)]:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    sweep(str(tmp_path))
    assert os.listdir(tmp_path) == []


# -- where nothing can be linked


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "temporary").mkdir(mode=0o777)
    (tmp_path / "temporary").chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def refuse_links(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EXDEV])
def test_no_hard_links(open_db: OpenDB, monkeypatch: pytest.MonkeyPatch, temporary: Path, number: int) -> None:
    writer = open_db(sync=False, chunk_size=16 << 10)
    fill(writer)
    refuse_links(monkeypatch, number)
    db = open_db("r")
    assert (len(os.listdir(temporary)), leftovers(writer.path)) == (1, [])
    snapshot = db.snapshot()
    writer.drop_store("floats")
    writer.array_store("more", "i4")[1] = [1]
    assert db["floats"][999].tolist() == [3996, 3997, 3998, 3999]
    assert db.verify() == []
    db.refresh()
    assert list(db) == ["more"]
    assert snapshot["floats"][999].tolist() == [3996, 3997, 3998, 3999]
    assert db.verify() == []
    snapshot.close()
    db.close()
    assert os.listdir(temporary) == []
    assert in_child(lambda: os._exit(0) if sc.open(writer.path, "r") else 0) == ""
    assert len(os.listdir(temporary)) == 1  # it died with it open
    open_db("r").close()
    assert os.listdir(temporary) == []


def test_descriptors_without_links(open_db: OpenDB, monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    """Every chunk is mapped anew by every refresh; what is not kept goes at once, not with the garbage."""
    writer = open_db(sync=False)
    for number in range(20):
        writer.array_store(f"store {number}", "i8")[0] = [number]
    refuse_links(monkeypatch, errno.EPERM)
    db = open_db("r")
    before = count_descriptors()
    gc.disable()
    try:
        for number in range(5):
            writer["store 0"][0] = [number]
            db.refresh()
            assert db["store 0"][0] == [number]
            assert count_descriptors() <= before + 2
    finally:
        gc.enable()


def test_a_header_that_is_being_written(open_db: OpenDB, tmp_path: Path) -> None:
    """Of a chunk that a process makes which shares the database: others see its first bytes before the rest."""
    open_db().close()
    with open_db("r+", shared=True) as db:
        db.array_store("a", "u8")[1] = [1]
        first, second = (tmp_path / f"test.sc/chunks/0000000{number}.chunk" for number in (1, 2))
        whole = first.read_bytes()
        torn = whole[:100].ljust(len(whole), b"\0")
        second.write_bytes(torn)
        with open_db("r") as reader:
            assert reader["a"][1].tolist() == [1]
        second.unlink()
        first.write_bytes(torn)  # whose commit is published: this is damage
        with pytest.raises(sc.CorruptionError, match="00000001"):
            open_db("r")
        first.write_bytes(whole)


@pytest.mark.parametrize("found", [None, b"", bytes(5000), b"whole"])
def test_the_number_of_a_chunk_that_was_never_committed(open_db: OpenDB, found: bytes | None) -> None:
    """Without links, the writer may be unlinking a chunk, or making one of the same number, at that moment."""
    writer = open_db(sync=False)
    fill(writer)
    chunk = next(iter(writer._storage.heaps["floats"].chunks.values()))
    other = Path(writer.path).parent / "other"
    if found is not None:
        other.write_bytes(Path(chunk.path).read_bytes() if found == b"whole" else found)
    assert read_storage._was_renumbered(Chunk(str(other), chunk.header, 0, 0)) == (found in (b"", bytes(5000)))


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become another user")
def test_a_directory_that_may_not_be_written(temporary: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as base:
        os.chmod(base, 0o755)
        path = os.path.join(base, "test.sc")
        with sc.open(path) as db:
            fill(db)
        for folder, _, names in os.walk(path):
            os.chmod(folder, 0o755)
            for name in names:
                os.chmod(os.path.join(folder, name), 0o644)

        def read() -> int:
            tempfile.tempdir = base + "/temporary"
            os.setgid(65534)
            os.setuid(65534)
            with sc.open(path, "r") as db:
                assert len(os.listdir(tempfile.tempdir)) == 1
                assert db.verify() == []
                return int(db["floats"][7].sum())

        os.mkdir(f"{base}/temporary")
        os.chmod(f"{base}/temporary", 0o777)
        before = bytes_of_files(path, without="readers/*")
        assert in_child(read) == "118"
        assert bytes_of_files(path, without="readers/*") == before
        assert os.listdir(f"{base}/temporary") == []


# -- other processes


def check_sums(run: Callable[[list[Any]], list[tuple[float, int]]], store: Any) -> None:
    tasks = [(store, start, start + 125) for start in range(0, 1000, 125)]
    parts = run(tasks)
    assert sum(part for part, _ in parts) == sum(range(4000))
    assert os.getpid() not in {pid for _, pid in parts}


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
@pytest.mark.parametrize("writing", [False, True])
def test_pools(open_db: OpenDB, method: str, *, writing: bool) -> None:
    """The parent has used LevelDB, and may be writing: forked children open the database all the same."""
    writer = open_db(sync=False)
    fill(writer)
    if not writing:
        writer.close()
    with open_db("r") as db:
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            check_sums(lambda tasks: list(pool.map(total, tasks)), db["floats"])
        with context.Pool(2) as workers:
            check_sums(lambda tasks: workers.map(total, tasks), db["floats"])
    with open_db("r"):
        assert len(leftovers(writer.path)) == 1


def work_in_child(path: str) -> int:
    with sc.open(path, "r") as db:
        assert db.verify() == []
        snapshot = db.snapshot()
        db.refresh()
        assert len(snapshot["floats"]) == len(db["floats"]) == 1000
        with pytest.raises(sc.ClosedError, match="spawn"):
            sc.open(path + ".new", "a")
    return 0


def test_forked_children_open_while_the_parent_writes(open_db: OpenDB, budget: float) -> None:
    writer, stop = open_db(sync=False), threading.Event()
    fill(writer)

    def write() -> None:
        store = writer.array_store("noise", "f8")
        while not stop.is_set():
            store.put_many(range(2000), np.ones((2000, 1)))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        with open_db("r") as inherited:
            for _ in range(max(1, int(10 * budget))):
                assert in_child(lambda: work_in_child(writer.path)) == "0"
            said = in_child(lambda: inherited["floats"])
            assert said.startswith("ClosedError: this database was opened before fork()")
            assert len(inherited["floats"]) == 1000
    finally:
        stop.set()
        thread.join()


def test_pickles(open_db: OpenDB) -> None:
    writer = open_db(sync=False)
    fill(writer)
    writer.object_store("points", Point).put(1, Point(2.5, 3))
    for thing in (writer, writer["floats"]):
        with pytest.raises(TypeError, match="mode='r'"):
            pickle.dumps(thing)
    with open_db("r") as db:
        again, floats, points, typed = pickle.loads(
            pickle.dumps([db, db["floats"], db["points"], db.object_store("points", Point)])
        )
        assert (again.path, again.mode, len(floats)) == (db.path, "r", 1000)
        assert points[1].x == 2.5
        assert type(typed[1]) is Point
        with db.snapshot() as snapshot:
            assert len(pickle.loads(pickle.dumps(snapshot["floats"]))) == 1000
        writer["floats"][5000] = [1.0]
        assert len(pickle.loads(pickle.dumps(db["floats"]))) == 1000
        db.refresh()
        assert len(pickle.loads(pickle.dumps(db["floats"]))) == 1001
        again.close()
        assert len(pickle.loads(pickle.dumps(db["floats"]))) == 1001
        pickle.loads(pickle.dumps(db)).close()


def test_a_pickle_of_a_database_that_replaced_another_shows_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "test.sc"
    found = []
    for records in ({1: [1.0], 2: [1.0]}, {1: [2.0]}):  # the new one has no more commits than the old one
        with sc.open(path, "x", sync=False) as db:
            db.array_store("floats", "f8").update(records)
        with sc.open(path, "r") as db:
            store = pickle.loads(pickle.dumps(db["floats"]))
        found.append((store, {key: value.tolist() for key, value in store.items()}))
        assert found[-1][1] == records
        shutil.rmtree(path)
    old = found[0][0]
    assert old[2].tolist() == [1.0]  # who has the old one goes on with it
    for store, _ in found:
        store._binding.home().close()


def test_a_reader_does_not_hold_up_a_writer(open_db: OpenDB) -> None:
    with open_db() as db:
        fill(db)
        path = db.path
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            sc.open(path, "r").close()

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(20):
            with sc.open(path, "r+") as writer:
                assert copies.is_held(os.path.join(path, "readers", "writer"))
                writer["floats"][number] = [1.0]
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_opening_takes_little(open_db: OpenDB) -> None:
    with open_db(sync=False) as db:
        fill(db, 100_000)
    took = []
    for _ in range(10):
        begun = time.perf_counter()
        db = open_db("r")
        took.append(time.perf_counter() - begun)
        db.close()
    assert min(took) < 0.1
