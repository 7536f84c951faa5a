"""Pools of processes that unpickle readers beside a writer: one commit for all of them, or a clear refusal."""

from __future__ import annotations

import ctypes
import errno
import gc
import itertools
import json
import multiprocessing
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import OpenDB
from pooled import COUNT, hold, load_and_read, of_database, of_snapshot, of_store, read_part, values_of
from support import count_descriptors, in_child

import structchunk as sc
from structchunk.chunks.chunk import Chunk
from structchunk.chunks.header import HeaderFields
from structchunk.database import pickling
from structchunk.disk import files
from structchunk.maintenance.chunk_map import map_chunks
from structchunk.readers import copies
from structchunk.readers.copies import KEPT

METHODS = ["spawn", "fork", "forkserver"]


class Point(sc.Object):
    _fields_ = [("x", ctypes.c_double), ("n", ctypes.c_int64)]


WRITER = """
import itertools, os, sys, numpy as np, structchunk as sc
db = sc.open(sys.argv[1], sync=False, chunk_size=16 << 10)
with db.transaction() as txn:
    store = txn.array_store("a", "f8")
    if 0 not in store:
        store.put_many(range(1000), np.ones((1000, 1)))
store, parent, rng = db["a"], os.getppid(), np.random.default_rng(1)
print("ready", flush=True)
for number in itertools.count():
    if os.getppid() != parent:
        break
    i, j = rng.choice(1000, 2, replace=False)
    store.put_many([i, j], [store[i] - 1, store[j] + 1])
    if number % 20 == 0:
        db.array_store(f"extra {number}", "i8").put_many(range(100), np.full((100, 3), number))
        db.drop_store(f"extra {number}")
    if number % 50 == 0:
        db.compact("a")
"""


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[str]:
    """A path to which another process writes: it moves amounts about, which add up to 1000, compacts and drops."""
    path = str(tmp_path / "test.sc")
    process = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield path
    assert process.poll() is None, "the writer failed"
    process.kill()
    process.communicate()
    with sc.open(path) as db:
        assert db.verify() == []
    assert leftovers(path) == []


@pytest.fixture(autouse=True)
def no_handles() -> Iterator[None]:
    """Close what a test has unpickled in this process."""
    yield
    pickling._handles.close()
    pickling._handles = pickling.Handles()


def leftovers(path: Any) -> list[str]:
    return sorted(set(os.listdir(os.path.join(path, "readers"))) - {"writer"})


def check_pool(
    run: Callable[[list[Any]], list[tuple[bytes, int]]], thing: Any, store_of: Any, wanted: bytes
) -> None:
    parts = run([(thing, store_of, start, start + 100) for start in range(0, COUNT, 100)])
    assert b"".join(part for part, _ in parts) == wanted
    assert os.getpid() not in {pid for _, pid in parts}


# -- every door, beside a writing process


@pytest.mark.parametrize("method", METHODS)
def test_every_worker_sees_the_commit_that_was_pickled(writing: str, method: str) -> None:
    context = multiprocessing.get_context(method)
    with sc.open(writing, "r") as db, context.Pool(2) as pool, db.snapshot() as old:
        for _ in range(3):
            with db.snapshot() as snapshot:
                doors = [(db, of_database), (db["a"], of_store), (snapshot, of_snapshot), (snapshot["a"], of_store)]
                now = values_of(db["a"], 0, COUNT)
                assert np.frombuffer(now).sum() == COUNT
                for thing, store_of in doors:
                    check_pool(lambda tasks: pool.map(read_part, tasks, 1), thing, store_of, now)
                check_pool(
                    lambda tasks: pool.map(read_part, tasks, 1), old, of_snapshot, values_of(old["a"], 0, COUNT)
                )
            db.refresh()
        assert values_of(db["a"], 0, COUNT) != values_of(old["a"], 0, COUNT), "the writer hardly moved"


@pytest.mark.parametrize("method", METHODS)
def test_executors_beside_a_writing_thread(open_db: OpenDB, method: str) -> None:
    """The process that pickles is the one that writes, and refreshes its reader while tasks are under way."""
    writer, stop = open_db(sync=False, chunk_size=16 << 10), threading.Event()
    store = writer.array_store("a", "f8")
    store.put_many(range(COUNT), np.zeros((COUNT, 1)))

    def write() -> None:
        for number in itertools.count(1):
            if stop.is_set():
                return
            store.put_many(range(COUNT), np.full((COUNT, 1), number))
            if number % 5 == 0:
                writer.compact()

    thread = threading.Thread(target=write)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool, open_db("r") as db:
        thread.start()
        try:
            seen = set()
            for _ in range(6):
                blobs, wanted = [pickle.dumps(db["a"])] * 4, db["a"][0].tolist()
                found = pool.map(load_and_read, blobs)
                db.refresh()
                for values in found:
                    assert set(np.frombuffer(values)) == set(wanted)
                seen.add(wanted[0])
            assert len(seen) > 1, "the writer hardly moved"
        finally:
            stop.set()
            thread.join()


# -- what a reader keeps, and what is gone


def overwrite(writer: sc.Database, number: int) -> None:
    """Write all records anew, and leave nothing of the old ones."""
    writer.array_store("a", "f8").put_many(range(COUNT), np.full((COUNT, 1), number))
    writer.compact()


def first(store: Any) -> float:
    return float(store[0][0])


@pytest.fixture
def writer(open_db: OpenDB) -> sc.Database:
    db = open_db(sync=False, chunk_size=16 << 10)
    overwrite(db, 0)
    return db


def test_it_is_kept_until_the_reader_is_closed(open_db: OpenDB, writer: sc.Database) -> None:
    blobs, figures = [], []
    with open_db("r") as db:
        for number in range(4):
            blobs.append(pickle.dumps(db["a"]))
            figures.append(db.stats())
            overwrite(writer, number + 1)
            db.refresh()
        stores = [pickle.loads(blob) for blob in blobs]
        assert [first(store) for store in stores] == [0, 1, 2, 3]
        assert [pickle.loads(pickle.dumps(store))[5] for store in stores] == [0, 1, 2, 3]
        for store, wanted in zip(stores, figures, strict=True):
            assert store._binding.home().verify() == []
            assert same(store._binding.home().stats(), wanted)
    assert [first(store) for store in stores] == [0, 1, 2, 3]
    assert first(pickle.loads(blobs[3])) == 3  # it is still open here
    assert in_child(lambda: pickle.loads(blobs[0])).startswith(f"CommitGone: {writer.path} is at commit")


def test_what_is_written_down_is_checked(open_db: OpenDB, writer: sc.Database) -> None:
    with open_db("r") as db:
        blob = pickle.dumps(db["a"])
        overwrite(writer, 1)
        (path,) = Path(writer.path, "readers").glob("*/index-*/chunks")
        chunk, *_ = min(json.loads(path.read_text()))
        for text in ("", "[", "7", "[[1, 2]]", f"[[{chunk}, 1, 2]]", "[[77, 4096, 8192]]", "[" * 100_000, "[]"):
            path.write_text(text)
            with pytest.raises(sc.CommitGone) as caught:
                pickle.loads(blob)
            assert isinstance(caught.value.__cause__, sc.CorruptionError)


def test_of_many_commits_the_last_ones_are_kept(open_db: OpenDB, writer: sc.Database) -> None:
    blobs = []
    with open_db("r") as db:
        for number in range(KEPT + 2):
            blobs.append(pickle.dumps(db["a"]))
            assert pickle.dumps(db["a"]) == blobs[-1]
            overwrite(writer, number + 1)
            db.refresh()
        for number, blob in enumerate(blobs):
            if number < 2:
                with pytest.raises(sc.CommitGone, match="keep it open until all have unpickled"):
                    pickle.loads(blob)
            else:
                assert first(pickle.loads(blob)) == number
        mine = Path(db._storage._lock.directory.path)  # type: ignore[attr-defined]
        assert len(list(mine.glob("index-*"))) == KEPT + 1


def test_after_the_reader_the_latest_commit_will_do_if_it_is_the_same(open_db: OpenDB, writer: sc.Database) -> None:
    with open_db("r") as db, db.snapshot() as snapshot:
        blobs = [pickle.dumps(thing) for thing in (db, db["a"], snapshot, snapshot["a"])]
    assert pickle.loads(blobs[2]).last_commit == writer._storage.index.last
    assert first(pickle.loads(blobs[1])) == first(pickle.loads(blobs[3])) == 0
    writer.close()
    with open_db("r+") as again:
        again.sync()  # of a later epoch
        assert in_child(lambda: first(pickle.loads(blobs[1]))) == "0.0"
        again["a"][0] = [9.0]
    for blob in blobs:
        assert in_child(lambda blob=blob: pickle.loads(blob)).startswith("CommitGone")
    error = pickle.loads(pickle.dumps(sc.CommitGone("what to do")))
    assert (str(error), isinstance(error, LookupError)) == ("what to do", True)


def test_a_commit_that_was_lost_and_made_again_is_another_one(open_db: OpenDB, writer: sc.Database) -> None:
    writer.sync()
    writer["a"][0] = [1.0]
    with open_db("r") as db:
        blob = pickle.dumps(db["a"])
    last = writer._storage.index.last
    chunk = Chunk.open(str(max(Path(writer.path, "chunks").iterdir())))
    segment = next(segment for segment in chunk.segments() if segment.commit == last)
    writer._storage.failure = "the disk failed"
    writer.close()
    with open(chunk.path, "r+b") as file:
        file.seek(segment.start)
        file.write(bytes(segment.end - segment.start))
    with open_db("r+", sync=False) as again:
        assert again["a"][0] == [0]
        again["a"][0] = [2.0]
        assert again._storage.index.last == last
    with pytest.raises(sc.CommitGone, match=f"is at commit {last} now, and what was pickled at commit {last}"):
        pickle.loads(blob)


def test_another_database_at_the_path(open_db: OpenDB, writer: sc.Database, tmp_path: Path) -> None:
    with open_db("r") as db:
        blob = pickle.dumps(db["a"])
    writer.close()
    os.rename(writer.path, tmp_path / "old")
    with pytest.raises(FileNotFoundError, match="no database at"):
        pickle.loads(blob)
    overwrite(open_db(sync=False, chunk_size=16 << 10), 0)
    with pytest.raises(sc.CommitGone):
        pickle.loads(blob)


CRASH = """
import os, sys, numpy as np, structchunk as sc
db = sc.open(sys.argv[1], sync=False, chunk_size=16 << 10)
store = db.array_store("a", "f8")
store.put_many(range(1000), np.ones((1000, 1)))
db.sync()
for number in range(300):
    store.put_many([number, 999 - number], [store[number] - 1, store[999 - number] + 1])
os.kill(os.getpid(), 9)
"""


def test_after_a_crash_a_reader_keeps_what_it_found(tmp_path: Path) -> None:
    """With no writer there, what chunks say of themselves is not relied on; then one comes, and goes on."""
    path = tmp_path / "test.sc"
    subprocess.run([sys.executable, "-c", CRASH, path], check=False)
    log = next(path.glob("index-*/*.log"))
    os.truncate(log, log.stat().st_size // 2)  # as after a power cut: the rest comes out of the chunks
    chunk = Chunk.open(str(max((path / "chunks").iterdir())))
    early = (chunk.header.data_offset, chunk.header.file_size)  # an old page, in which there is no commit yet
    files.write(chunk.path, HeaderFields.free_offset.offset, struct.pack("<QQ", *early))
    with sc.open(path, "r") as db:
        blob, wanted = pickle.dumps(db["a"]), values_of(db["a"], 0, COUNT)
        assert db["a"][299] == [0]
        early = pickle.loads(blob)
        assert values_of(early, 0, COUNT) == wanted
        assert early._binding.home().verify() == []
        early._binding.home().close()
        with sc.open(path, sync=False) as writer:
            writer["a"].put_many(range(COUNT), np.zeros((COUNT, 1)))
            writer.compact()
            assert values_of(pickle.loads(blob), 0, COUNT) == wanted
            assert pickle.loads(blob)._binding.home().verify() == []
            db.refresh()
            assert set(np.frombuffer(values_of(pickle.loads(pickle.dumps(db["a"])), 0, COUNT))) == {0}
            assert writer.verify() == []


def test_what_is_open_for_writing_is_refused(open_db: OpenDB, writer: sc.Database) -> None:
    with writer.snapshot() as snapshot, writer.transaction() as txn:
        for thing in (writer, writer["a"], snapshot, snapshot["a"], txn["a"]):
            with pytest.raises(TypeError, match=r"mode='r'|transaction"):
                pickle.dumps(thing)
    db = open_db("r")
    snapshot = db.snapshot()
    store = snapshot["a"]
    snapshot.close()
    with pytest.raises(sc.ClosedError, match="snapshot is closed"):
        pickle.dumps(store)
    snapshot = db.snapshot()
    db.close()
    for thing in (db, snapshot):
        with pytest.raises(sc.ClosedError, match="database is closed"):
            pickle.dumps(thing)


def test_objects_keep_their_class(open_db: OpenDB, writer: sc.Database) -> None:
    writer.object_store("points", Point).put(1, Point(2.5, 3))
    with open_db("r") as db, db.snapshot() as snapshot:
        blob = pickle.dumps([db.object_store("points", Point), snapshot["points"].of_class(Point)])
        writer["points"][1] = Point(0, 0)
        for store in pickle.loads(blob):
            assert type(store[1]) is Point
            assert store[1] == Point(2.5, 3)


# -- one handle for each commit in a process


def test_handles_are_shared_and_go_when_they_are_not_used(open_db: OpenDB, writer: sc.Database) -> None:
    def load() -> Any:
        return pickle.loads(pickle.dumps(db["a"]))

    def home(store: Any) -> sc.Database:
        database = store._binding.home()
        assert isinstance(database, sc.Database)
        return database

    def held() -> int:
        gc.collect()
        return count_descriptors()

    with open_db("r") as db:
        oldest = load()
        assert home(oldest) is home(load()) is pickle.loads(pickle.dumps(db))
        assert home(pickle.loads(pickle.dumps(oldest))) is not db
        gc.disable()
        try:
            for number in range(1, 6):
                overwrite(writer, number)
                db.refresh()
                assert first(load()) == number
                assert len(leftovers(writer.path)) <= 1 + 1 + pickling._IDLE
        finally:
            gc.enable()
        before = held()
        for number in range(6, 16):
            overwrite(writer, number)
            db.refresh()
            assert first(load()) == number
        assert held() <= before + 4
        assert first(oldest) == 0
        assert home(load()) is home(load())
        home(load()).close()
        assert first(load()) == 15
        moved = load()
        overwrite(writer, 16)
        home(moved).refresh()
        assert (first(moved), first(load())) == (16, 15)
    del moved, oldest
    pickling._handles.close()
    assert leftovers(writer.path) == []


def test_a_snapshot_or_a_scan_outlives_what_it_was_taken_of(open_db: OpenDB, writer: sc.Database) -> None:
    with open_db("r") as db:
        snapshot = pickle.loads(pickle.dumps(db)).snapshot()
        scan = pickle.loads(pickle.dumps(db)).scan("a", batch_size=10)
        values = pickle.loads(pickle.dumps(db["a"])).values()
        for number in range(1, 5):
            overwrite(writer, number)
            db.refresh()
            assert first(pickle.loads(pickle.dumps(db["a"]))) == number
    assert first(snapshot["a"]) == 0
    assert {float(value) for (batch,) in scan for value in batch.values} == {0.0}
    assert {float(value[0]) for value in values} == {0.0}


def test_threads_unpickle_one_handle(open_db: OpenDB, writer: sc.Database) -> None:
    with open_db("r") as db, ThreadPoolExecutor(8) as pool:
        blob = pickle.dumps(db["a"])
        overwrite(writer, 1)
        homes = list(pool.map(lambda _: pickle.loads(blob)._binding.home(), range(32)))
        assert len(set(map(id, homes))) == 1


def test_threads_pickle_while_it_refreshes(open_db: OpenDB, writer: sc.Database) -> None:
    db, stop = open_db("r"), threading.Event()
    failures: list[BaseException] = []

    def pickle_and_load() -> None:
        try:
            while not stop.is_set():
                with db.snapshot() as snapshot:
                    wanted = snapshot["a"][0].tolist()
                    again = pickle.loads(pickle.dumps(snapshot))
                    assert set(np.frombuffer(values_of(again["a"], 0, COUNT))) == set(wanted)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=pickle_and_load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(1, 12):
        overwrite(writer, number)
        db.refresh()
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not failures


# -- nothing is left, and nothing is taken by halves


def load_or_refuse(blob: bytes) -> str:
    try:
        values = np.frombuffer(values_of(pickle.loads(blob), 0, COUNT))
    except sc.CommitGone:
        return "gone"
    assert len(values) == COUNT
    assert values.sum() == COUNT
    return "whole"


@pytest.mark.timeout(3600)
def test_a_reader_that_closes_while_workers_open(writing: str, budget: float) -> None:
    """Each sees all of it, or is told that it is gone."""
    said = []
    with multiprocessing.get_context("fork").Pool(3) as pool:
        for number in range(int(10 * budget)):
            with sc.open(writing, "r") as db:
                results = [pool.apply_async(load_or_refuse, (pickle.dumps(db["a"]),)) for _ in range(3)]
                time.sleep(number % 10 / 200)
            said += [result.get(60) for result in results]
    assert set(said) <= {"whole", "gone"}


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_killed_workers_leave_nothing_after_the_next_open(
    open_db: OpenDB, writer: sc.Database, method: str
) -> None:
    with open_db("r") as db:
        blob = pickle.dumps(db["a"])
        for _ in range(2):
            process = multiprocessing.get_context(method).Process(target=hold, args=(blob,))
            process.start()
            process.join(60)
            assert process.exitcode == -signal.SIGKILL
        assert len(leftovers(writer.path)) == 2  # the second one removed what the first one had left
        assert first(pickle.loads(blob)) == 0
        assert len(leftovers(writer.path)) == 2
    pickling._handles.close()
    assert leftovers(writer.path) == []


PICKLES = """
import os, pickle, sys, structchunk as sc
db = sc.open(sys.argv[1], "r")
sys.stdout.buffer.write(pickle.dumps(db["a"]))
sys.stdout.flush()
os.kill(os.getpid(), 9)
"""


def test_a_killed_reader_keeps_nothing(open_db: OpenDB, writer: sc.Database) -> None:
    command = [sys.executable, "-c", PICKLES, writer.path]
    blob = subprocess.run(command, capture_output=True, check=False).stdout
    assert len(leftovers(writer.path)) == 1
    overwrite(writer, 1)
    with pytest.raises(sc.CommitGone):
        pickle.loads(blob)
    assert leftovers(writer.path) == []


def test_what_was_unpickled_is_closed_at_exit(open_db: OpenDB, writer: sc.Database, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(pickle.dumps(open_db("r")["a"]))
    code = "import pickle, sys; store = pickle.load(open(sys.argv[1], 'rb')); assert store[0] == [0]"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "blob")], check=True)
    assert len(leftovers(writer.path)) == 1


def test_a_forked_child_has_handles_of_its_own(open_db: OpenDB, writer: sc.Database) -> None:
    with open_db("r") as db:
        blob = pickle.dumps(db["a"])
        inherited = pickle.loads(blob)
        overwrite(writer, 1)
        assert in_child(lambda: first(pickle.loads(blob))) == "0.0"
        assert in_child(lambda: first(inherited)).startswith("ClosedError")
        assert in_child(lambda: pickle.dumps(inherited)).startswith("ClosedError")
        assert first(inherited) == 0


# -- where nothing can be linked


@pytest.mark.parametrize("number", [errno.EPERM, errno.EXDEV])
def test_without_links_a_commit_is_kept_until_its_files_go(
    open_db: OpenDB, writer: sc.Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        with open_db("r") as db:
            blob = pickle.dumps(db["a"])
            writer["a"][0] = [1.0]
            assert in_child(lambda: first(pickle.loads(blob))) == "0.0"
            writer.compact()
            assert first(db["a"]) == 0
            assert in_child(lambda: first(pickle.loads(blob))).startswith("CommitGone")
            db.refresh()
            again = pickle.loads(pickle.dumps(db["a"]))
        assert first(again) == 1
        again._binding.home().close()
    with open_db("r"):
        assert len(os.listdir(tmp_path / "temporary")) <= 2  # those of the children
    assert not [name for name in os.listdir(tmp_path / "temporary") if name.startswith(f"{os.getpid()}-")]


def test_a_worker_that_cannot_link_takes_the_files_that_are_there(
    open_db: OpenDB, writer: sc.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EXDEV, "no links")

    with open_db("r") as db:
        blob = pickle.dumps(db["a"])
        writer["a"][0] = [1.0]
        monkeypatch.setattr(os, "link", refuse)
        store = pickle.loads(blob)
        assert first(store) == 0
        assert not store._binding.home()._storage._copies.link
        store._binding.home().refresh()
        assert first(store) == 1


# -- figures


def test_figures_are_those_of_its_commit(open_db: OpenDB, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a writer does between the cloning of the index and the look at the chunks is none of the reader's."""
    writer = open_db(sync=False, chunk_size=16 << 10)
    store = writer.array_store("a", "f8")
    clone, figures = copies.clone_leveldb, []

    def work() -> None:
        store.put_many(range(0, 300, 3), np.ones((100, 5)))
        store.delete_range(0, 50)
        store[7] = [1.0]

    def clone_and_work(*args: Any, **kwargs: Any) -> None:
        clone(*args, **kwargs)
        figures.append(writer.stats())
        work()

    work()
    monkeypatch.setattr(copies, "clone_leveldb", clone_and_work)
    with open_db("r") as db:
        assert same(db.stats(), figures[-1])
        assert db.refresh()
        assert same(db.stats(), writer.stats())  # it has followed
        garbage = {name: sum(drawn(part.garbage) for part in map_chunks(db._storage, [name])) for name in db}
        assert garbage == {name: stats.garbage for name, stats in writer.stats().items()}
        again = pickle.loads(pickle.dumps(db))
        assert same(again.stats(), db.stats())
        assert db.refresh()  # what was pickled is kept, so that this takes another clone
        assert same(db.stats(), figures[-1])
        writer.sync()
        assert db.refresh()
        assert same(db.stats(), writer.stats())
        writer.close()
    assert len(figures) == 3


def drawn(ranges: np.ndarray) -> int:
    return int((ranges[:, 1] - ranges[:, 0]).sum())


def same(mine: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Tell whether figures are equal, but for the space on the disk, which is that of now."""

    def without_disk(stats: Any) -> list[tuple[int, ...]]:
        return [chunk[:-1] for chunk in stats.chunks]

    assert mine.keys() == theirs.keys()
    return all(without_disk(mine[name]) == without_disk(theirs[name]) for name in mine)
