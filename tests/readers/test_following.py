"""Readers follow the log: what is new is shown without another clone, and what cannot be followed is cloned."""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import OpenDB
from live_copy import copy_live
from oracle import contents
from support import count_descriptors, in_child

import structchunk as sc
from structchunk.disk.files import File
from structchunk.disk.tail import RING, SIZE, Head, Tail, TailView
from structchunk.index.index import Index
from structchunk.readers import copies, read_storage


class Point(sc.Object):
    _fields_ = [("x", ctypes.c_double), ("n", ctypes.c_int64)]


@pytest.fixture
def writer(open_db: OpenDB) -> sc.Database:
    """A database of small chunks that has two stores."""
    db = open_db(sync=False, chunk_size=16 << 10)
    db.array_store("a", "f8").put_many(range(100), np.arange(100.0).reshape(100, 1))
    db.object_store("points", Point).put(1, Point(1.5, 2))
    return db


@pytest.fixture
def reader(open_db: OpenDB, writer: sc.Database) -> sc.Database:
    return open_db("r")


@pytest.fixture
def clones(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the clones that were made since."""
    made: list[str] = []
    clone = copies.clone_leveldb

    def note(source: str, target: str, **options: Any) -> None:
        made.append(target)
        clone(source, target, **options)

    monkeypatch.setattr(copies, "clone_leveldb", note)
    return made


def check_same(reader: sc.Database, writer: sc.Database) -> None:
    assert contents(reader) == contents(writer)
    assert reader.last_commit == writer.last_commit
    assert reader.verify() == []
    assert {name: len(reader[name]) for name in reader} == {name: len(writer[name]) for name in writer}


# -- what is followed


def small(db: sc.Database) -> None:
    db["a"][7] = [1.0, 2.0]


def nothing_there(db: sc.Database) -> None:
    db["a"].delete(max(db["a"]))


def many(db: sc.Database) -> None:
    db["a"].put_many(range(50, 3000), np.ones((2950, 2)))


def several_stores(db: sc.Database) -> None:
    with db.transaction() as txn:
        txn["a"].put(3, [3.0])
        txn["points"].put(5, Point(5, 5))
        txn["a"].delete_range(10, 20)


def new_chunks(db: sc.Database) -> None:
    for key in range(200, 203):
        db["a"].put(key, np.arange(1500.0))


def new_stores(db: sc.Database) -> None:
    db.array_store("more", "i4")[1] = [7]
    with db.transaction() as txn:
        txn.object_store("objects", Point).put(1, Point(1, 1))
        txn.array_store("empty", "u1")


def in_place(db: sc.Database) -> None:
    db["a"].new(300, 5)[:] = 9
    db["points"].new(9, x=3)


def aborted(db: sc.Database) -> None:
    txn = db.transaction()
    txn["a"].put(1, np.ones(3000))
    _ = txn["a"][1]
    txn.array_store("aborted", "u1")
    txn.abort()
    db["a"].put(2, [2.0])


def over_and_over(db: sc.Database) -> None:
    for number in range(100):
        db["a"].put(number % 7, [number] * (number % 5))
        if not number % 10:
            db.sync()


CHANGES = [small, nothing_there, many, several_stores, new_chunks, new_stores, in_place, aborted, over_and_over]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_is_followed(
    reader: sc.Database, writer: sc.Database, clones: list[str], change: Callable[[sc.Database], None]
) -> None:
    assert not reader.refresh()
    for _ in range(2):
        change(writer)
        assert reader.refresh()
        check_same(reader, writer)
        assert not reader.refresh()
    assert clones == []


def test_all_of_it_in_one_refresh(reader: sc.Database, writer: sc.Database, clones: list[str]) -> None:
    for change in CHANGES[:-1]:
        change(writer)
    assert reader.refresh()
    check_same(reader, writer)
    assert clones == []


def test_a_reader_whose_files_cannot_be_linked_follows(
    open_db: OpenDB, writer: sc.Database, clones: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: str, target: str) -> None:
        raise PermissionError(1, "no links here", source)

    monkeypatch.setattr(copies, "link_file", refuse)
    with open_db("r") as reader:
        clones.clear()
        for change in CHANGES:
            change(writer)
            assert reader.refresh()
            check_same(reader, writer)
        assert clones == []


def test_what_was_begun_goes_on_as_of_its_commit(
    reader: sc.Database, writer: sc.Database, clones: list[str]
) -> None:
    store, snapshot, scan = reader["a"], reader.snapshot(), reader["a"].scan(batch_size=10)
    cursor, first = store.cursor(), next(scan)
    cursor.first()
    many(writer)
    new_stores(writer)
    assert reader.refresh()
    assert (len(store), len(snapshot["a"]), sorted(snapshot)) == (3000, 100, ["a", "points"])
    assert [len(first), *map(len, scan)] == [10] * 10
    assert snapshot["a"][60].tolist() == [60]
    assert store[60].tolist() == [1, 1]
    assert cursor.last()
    assert cursor.key == 2999
    assert snapshot.last_commit < reader.last_commit
    snapshot.close()
    assert clones == []


def test_a_writer_in_the_middle_of_a_clone(
    open_db: OpenDB, writer: sc.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunks reach further than the clone of the index, and are followed from where that is."""
    clone = copies.clone_leveldb

    def clone_and_work(*args: Any, **options: Any) -> None:
        clone(*args, **options)
        for change in CHANGES:
            change(writer)

    monkeypatch.setattr(copies, "clone_leveldb", clone_and_work)
    with open_db("r") as reader:
        monkeypatch.setattr(copies, "clone_leveldb", None)
        monkeypatch.setattr(read_storage, "MOST_COMMITS", 1000)
        assert len(reader["a"]) == 100
        assert reader.refresh()
        check_same(reader, writer)


# -- what is not


def compacted(db: sc.Database) -> None:
    db["a"].delete_range(0, 50)
    db.compact()


def dropped(db: sc.Database) -> None:
    db.drop_store("a")
    db.array_store("a", "u1")[1] = b"\1\2"


def far_ahead(db: sc.Database) -> None:
    for number in range(read_storage.MOST_COMMITS + 1):
        db["a"].put(number, [number])


@pytest.mark.parametrize("change", [compacted, dropped, far_ahead], ids=lambda change: change.__name__)
def test_what_takes_another_clone(
    reader: sc.Database, writer: sc.Database, clones: list[str], change: Callable[[sc.Database], None]
) -> None:
    change(writer)
    assert reader.refresh()
    assert len(clones) == 1
    check_same(reader, writer)
    writer["a"].put(5, [5])
    assert reader.refresh()
    check_same(reader, writer)
    assert len(clones) == 1


def test_the_next_writer_takes_another_clone(
    reader: sc.Database, writer: sc.Database, clones: list[str], open_db: OpenDB
) -> None:
    writer.close()
    assert not reader.refresh()
    writer = open_db(sync=False)
    assert not reader.refresh()  # the commit is the same one
    assert len(clones) == 1
    for number in range(3):
        writer["a"].put(number, [5.0])
        assert reader.refresh()
        check_same(reader, writer)
    assert len(clones) == 1


def test_what_was_pickled_stays_as_it_was(open_db: OpenDB, writer: sc.Database, clones: list[str]) -> None:
    with open_db("r") as reader:
        clones.clear()
        snapshots, blobs = [], []
        for number in range(4):
            writer["a"].put(0, [number])
            assert reader.refresh()
            snapshots.append(reader.snapshot())
        assert clones == []
        for _ in range(2):
            blobs += [pickle.dumps(thing) for thing in [*snapshots, reader]]
        assert blobs[:5] == blobs[5:]
        writer["a"].put(0, [4])
        assert reader.refresh()
        for number, blob in enumerate(blobs[:5]):
            value = min(number, 3)
            with pickle.loads(blob) as thing:
                assert thing["a"][0].tolist() == [value]
                assert thing["points"][1] == Point(1.5, 2)
                assert len(thing["a"]) == 100
            assert in_child(lambda blob=blob: pickle.loads(blob)["a"][0].tolist()) == f"[{value}.0]"
        assert reader["a"][0].tolist() == [4]
        for snapshot in snapshots:
            snapshot.close()


def test_what_was_pickled_without_a_chunk_is_not_shown(reader: sc.Database, writer: sc.Database) -> None:
    """The latest state is, as long as it is of the same commit."""
    blob = pickle.dumps(reader)
    (kept,) = Path(writer.path).glob("readers/*/index-*/chunks")
    kept.write_text(json.dumps(json.loads(kept.read_text())[:-1]))
    with pickle.loads(blob) as again:
        check_same(again, writer)
    writer["a"].put(0, [4])
    with pytest.raises(sc.CommitGone):
        pickle.loads(blob)


# -- failures


def test_a_follow_that_fails_is_a_clone_the_next_time(
    reader: sc.Database, writer: sc.Database, clones: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "full")

    writer["a"].put(1, [5.0])
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(Index, "apply", fail)
        reader.refresh()
    assert reader["a"][1].tolist() == [1]
    assert reader.refresh()
    assert len(clones) == 1
    check_same(reader, writer)


def test_a_follow_that_fails_leaves_what_was_shown(
    reader: sc.Database, writer: sc.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer["a"].put(1, [3.0])
    reader.refresh()
    before = contents(reader)
    writer["a"].put(1, [4.0])
    writer["points"].put(2, Point(2.5, 3))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        patch.setattr(reader._storage.index.leveldb, "write", Mock(side_effect=error))
        reader.refresh()
    assert contents(reader) == before
    assert reader.verify() == []
    reader.refresh()
    check_same(reader, writer)


@pytest.mark.parametrize("torn", [b"", b"x" * 92, b"x" * SIZE])
def test_a_page_that_is_damaged(reader: sc.Database, writer: sc.Database, torn: bytes) -> None:
    """It is a hint: what is behind it is found by cloning."""
    small(writer)
    with open(f"{writer.path}/tail", "r+b") as file:
        file.write(torn)
    assert reader.refresh()
    check_same(reader, writer)
    small(writer)
    assert reader.refresh()
    check_same(reader, writer)


@pytest.mark.parametrize("how", ["missing", "a directory", "a link", "short"])
def test_a_page_that_is_none(open_db: OpenDB, how: str, tmp_path: Path) -> None:
    with open_db(sync=False) as db:
        db.array_store("a", "f8")[1] = [1.0]
    tail = Path(db.path, "tail")
    if how == "short":
        os.truncate(tail, 100)
    else:
        tail.unlink()
    if how == "a directory":
        tail.mkdir()
    if how == "a link":
        (tmp_path / "other").write_bytes(b"5" * SIZE)
        tail.symlink_to(tmp_path / "other")
    for _ in range(2):
        with open_db("r") as reader, open_db(sync=False) as writer:
            for number in range(3):
                writer["a"][1] = [number]
                assert reader.refresh()
                assert not reader.refresh()
                check_same(reader, writer)
    assert how == "a directory" or tail.stat().st_size == SIZE
    assert how != "a link" or (tmp_path / "other").read_bytes() == b"5" * SIZE


def test_an_error_of_publishing_is_none_of_the_commit(
    reader: sc.Database, writer: sc.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = File.write

    def fail(file: File, offset: int, data: Any) -> None:
        if file is writer._storage._tail._file:  # type: ignore[union-attr]
            raise OSError(5, "Input/output error")
        write(file, offset, data)

    with monkeypatch.context() as patch:
        patch.setattr(File, "write", fail)
        small(writer)
        assert not reader.refresh()
    writer["a"].put(8, [8.0])
    assert reader.refresh()
    check_same(reader, writer)


def test_who_follows_goes_no_further_than_what_is_published(reader: sc.Database, writer: sc.Database) -> None:
    def stop(*_: object) -> None:
        raise OSError(5, "Input/output error")

    index = writer._storage.index
    index.apply = stop  # type: ignore[method-assign]
    with pytest.raises(OSError, match="Input"):
        small(writer)
    del index.apply
    assert not reader.refresh()
    assert reader["a"][7].tolist() == [7]
    writer.close()
    assert not reader.refresh()
    with sc.open(writer.path) as again:
        assert reader.refresh()
        check_same(reader, again)


def test_the_page_of_a_database_without_a_writer_is_not_trusted(writer: sc.Database, tmp_path: Path) -> None:
    """As after a power cut: it promises commits whose records are lost."""
    writer["a"].put(1, [5.0])
    path = tmp_path / "copy.sc"
    copy_live(writer.path, path, "readers")
    last = writer.last_commit
    chunk = path / "chunks" / "00000001.chunk"
    data = chunk.read_bytes()
    at = data.rindex(np.float64(5).tobytes(), 0, 4096 + 101 * 8)
    chunk.write_bytes(data[:at] + bytes(8) + data[at + 8 :])
    with sc.open(path, "r") as reader:
        assert reader.last_commit == last - 1
        assert not reader.refresh()
        with sc.open(path) as again:
            assert again.last_commit == last - 1
            again["a"].put(1, [6.0])
            assert reader.refresh()
            check_same(reader, again)


# -- the page


def test_the_ring_says_where_to_look(tmp_path: Path) -> None:
    path = str(tmp_path / "tail")
    tail = Tail(path)
    tail.rewrite(Head(1, bytes(16), 1, 0, 0, 0, 0, 0, 1, 1))
    view = TailView(path)
    for commit in range(1, 1001):
        tail.publish(commit, [commit % 5, 9], 10, is_durable=False, committing=0)
        _, head = view.read()
        assert head is not None
        assert view.chunks(head, commit) == {9}
        assert view.chunks(head, commit - 1) == {commit % 5, 9}
        assert view.chunks(head, max(commit - 3, 0)) == {9} | {n % 5 for n in range(max(commit - 2, 1), commit + 1)}
        assert (view.chunks(head, 0) is None) == (2 * commit > RING)
    tail.close()


def test_the_ring_says_once_that_commits_go_on_in_a_chunk(tmp_path: Path) -> None:
    path = str(tmp_path / "tail")
    tail = Tail(path)
    tail.rewrite(Head(1, bytes(16), 1, 0, 0, 0, 0, 0, 1, 1))
    for commit in range(1, 1001):
        tail.publish(commit, [1 + commit // 300], 10, is_durable=False, committing=0)
        again = Tail(path)
        assert again.read() == tail.head
        again.close()
    _, head = TailView(path).read()
    assert head is not None
    assert head.pairs == 4
    for last, expected in ((0, {1, 2, 3, 4}), (299, {1, 2, 3, 4}), (300, {2, 3, 4}), (650, {3, 4}), (950, {4})):
        assert TailView(path).chunks(head, last) == expected
    tail.close()


def test_a_copy_has_no_page(writer: sc.Database, tmp_path: Path) -> None:
    writer.checkpoint(tmp_path / "copy.sc")
    assert not (tmp_path / "copy.sc" / "tail").exists()


def test_it_takes_no_descriptors(open_db: OpenDB, writer: sc.Database) -> None:
    with open_db("r") as reader:
        small(writer)
        reader.refresh()
        gc.collect()
        before = count_descriptors()
        for _ in range(20):
            small(writer)
            assert reader.refresh()
        assert count_descriptors() == before


# -- waiting


def test_wait(reader: sc.Database, writer: sc.Database) -> None:
    small(writer)
    assert reader.wait()
    assert not reader.wait(0)
    assert not reader.wait(timeout=0.01)
    timer = threading.Timer(0.05, small, [writer])
    timer.start()
    assert reader.wait(60)
    check_same(reader, writer)
    timer.join()
    with pytest.raises(TypeError, match="open for writing"):
        writer.wait()


def test_close_ends_waiting(reader: sc.Database) -> None:
    said: list[BaseException] = []

    def wait() -> None:
        try:
            reader.wait()
        except sc.ClosedError as error:
            said.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    reader.close()
    thread.join(60)
    assert len(said) == 1


def test_an_interrupt_ends_waiting(reader: sc.Database, writer: sc.Database) -> None:
    timer = threading.Timer(0.05, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        reader.wait()
    timer.join()
    small(writer)
    assert reader.wait(60)
    check_same(reader, writer)


# -- other processes

WRITER = """
import itertools, os, sys, numpy as np, structchunk as sc
parent = os.getppid()
with sc.open(sys.argv[1], sync=False, chunk_size=16384) as db:
    for name in "ab":
        db.array_store(name, "i8")
    print("ready", flush=True)
    for number in itertools.count(int(db["a"].get(0, [0])[0]) + 1):
        if os.getppid() != parent:
            break
        with db.transaction() as txn:
            for name in "ab":
                txn[name].put(0, [number])
                txn[name].put(number % 50 + 1, [number] * (number % 300))
        if number % 200 == 0:
            db.compact("a")
        if number % 150 == 0:
            db.array_store(f"extra {number}", "i8").put_many(range(50), np.full((50, 1), number))
        if number % 333 == 0:
            db.drop_store(next(name for name in db if name.startswith("extra")))
"""


@pytest.fixture
def start_writer(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start a process that writes, and can be killed."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WRITER, str(tmp_path / "test.sc")]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == "ready\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.timeout(600)
def test_readers_follow_through_everything_and_kills(
    start_writer: Callable[[], subprocess.Popen[str]], tmp_path: Path, budget: float
) -> None:
    process, last, followed = start_writer(), 0, 0
    with sc.open(tmp_path / "test.sc", "r") as reader:
        for turn in range(max(4, int(8 * budget))):
            if turn % 2:
                process.kill()
                process.wait()
                process = start_writer()
            for number in range(60):
                followed += reader.wait(60)
                values = reader["a"].get(0), reader["b"].get(0)
                assert (values[0] is None) == (values[1] is None)
                if values[0] is None:
                    continue
                assert values[0].tolist() == values[1].tolist()
                assert values[0][0] >= last
                last = int(values[0][0])
                if number % 20 == 0:
                    check_commit(reader, last)
                    assert reader.verify() == []
    assert followed > 100


def check_commit(reader: sc.Database, last: int) -> None:
    for name in "ab":
        for key, values in reader[name].items():
            newest = last - (last - key + 1) % 50
            assert not key or values.tolist() == [newest] * (newest % 300), (name, key, last)
