"""A database that is removed, moved or replaced while handles have it open: none of them harms the new one."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
import pytest
from forker import Forker

import structchunk as sc
from structchunk.disk import files
from structchunk.disk.lock import Lock, is_held
from structchunk.readers import copies

CHUNK_SIZE = 16 << 10
SUCCESSOR = """
import sys
import numpy as np
import structchunk as sc
with sc.open(sys.argv[1], chunk_size=16 << 10) as db:
    store = db.array_store("a", np.float64)
    store.put_many(range(300), np.full((300, 50), 7.0))
    print("open", flush=True)
    sys.stdin.readline()
    store[300] = np.full(50, 7.0)
    assert db.verify() == []
with sc.open(sys.argv[1]) as db:
    assert db.verify() == []
    assert list(db) == ["a"]
    for batch in db["a"].scan():
        assert (batch.values == 7).all()
    assert len(db["a"]) == 301
print("whole", flush=True)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A database with a store "a" of one record."""
    path = tmp_path / "d.sc"
    with sc.open(path, chunk_size=CHUNK_SIZE) as db:
        db.array_store("a", np.float64)[1] = np.ones(10)
    return path


def remove(root: Path) -> None:
    shutil.rmtree(root)


def move(root: Path) -> None:
    root.rename(root.with_suffix(".old"))


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    with contextlib.closing(Forker()) as forker:
        yield forker


@pytest.fixture(params=[remove, move], ids=["removed", "moved"])
def succeed(request: pytest.FixtureRequest, forker: Forker, root: Path) -> Iterator[Callable[[], None]]:
    """Return what lets another process make a database in place of the one that is there; it must stay whole."""
    processes: list[TextIO] = []

    def replace() -> None:
        request.param(root)
        process = forker.start(SUCCESSOR, str(root))
        processes.append(process)
        assert process.readline() == "open\n"

    yield replace
    for process in processes:
        with process:
            process.write("go on\n")
            process.flush()
            assert process.read() == "whole\n"


def put(db: sc.Database) -> None:
    db["a"][2] = np.ones(10)


def put_large(db: sc.Database) -> None:
    db["a"][2] = np.ones(300_000)


def put_many(db: sc.Database) -> None:
    db["a"].put_many(range(1000), np.ones((1000, 50)))


def create(db: sc.Database) -> None:
    db.array_store("b", "i4")


def drop(db: sc.Database) -> None:
    db.drop_store("a")


def compact(db: sc.Database) -> None:
    db.compact()


def sync(db: sc.Database) -> None:
    db.sync()


WRITES = [put, put_large, put_many, create, drop, compact, sync]


@pytest.mark.parametrize("write", WRITES)
def test_a_write_through_an_old_handle_is_refused(
    write: Callable[[sc.Database], None], root: Path, succeed: Callable[[], None]
) -> None:
    db = sc.open(root, sync=False)
    db["a"][5] = np.ones(10)  # so that closing has something to bring to disk
    succeed()
    for _ in range(2):
        with pytest.raises(sc.FailedError, match="close the database and open it again"):
            write(db)
    assert list(db["a"][5]) == [1] * 10
    db.close()


def test_compacting_what_is_compact_through_an_old_handle_is_refused(
    root: Path, succeed: Callable[[], None]
) -> None:
    db = sc.open(root)
    db.compact()
    succeed()
    with pytest.raises(sc.FailedError):
        db.compact()
    db.close()


def test_closing_an_old_handle_writes_nothing(root: Path, succeed: Callable[[], None]) -> None:
    db = sc.open(root, sync=False)
    for key in range(2000):  # more than closing leaves in LevelDB's log
        db["a"][key] = np.ones(1)
    succeed()
    with pytest.raises(sc.FailedError, match="another database has taken its place"):
        db.close()
    assert db.closed


def test_closing_an_old_handle_that_has_nothing_to_write_is_fine(root: Path) -> None:
    db = sc.open(root)
    shutil.rmtree(root)
    db.close()


@pytest.mark.parametrize("end", ["commit", "abort", "close"])
def test_an_open_transaction_harms_nothing(end: str, root: Path, succeed: Callable[[], None]) -> None:
    db = sc.open(root, sync=False)
    transaction = db.transaction()
    transaction["a"].put_many(range(100, 200), np.ones((100, 10)))
    succeed()
    if end == "commit":
        with pytest.raises(sc.FailedError):
            transaction.commit()
    elif end == "abort":
        transaction.abort()
    db.close()


def test_a_transaction_that_goes_on_writes_to_no_other_file(root: Path, succeed: Callable[[], None]) -> None:
    with sc.open(root, chunk_size=64 << 20) as db:
        db.array_store("large", np.float64)
    db = sc.open(root, sync=False)
    transaction = db.transaction()
    transaction["large"][1] = np.ones(1000)
    succeed()
    with pytest.raises(sc.FailedError):
        transaction["large"][2] = np.ones(300_000)  # by pwrite, not through a mapping
    transaction.abort()
    db.close()


@pytest.mark.parametrize("length", [1, 2000, 300_000])
def test_a_transaction_that_begins_to_write_only_now_writes_to_no_other_file(
    length: int, root: Path, succeed: Callable[[], None]
) -> None:
    db = sc.open(root, sync=False)
    transaction = db.transaction()
    store = transaction["a"]
    succeed()
    with pytest.raises(sc.FailedError):
        store[2] = np.ones(length)
        transaction.commit()
    transaction.abort()
    db.close()


def test_a_chunk_that_was_replaced_is_not_taken_for_the_one_of_before(root: Path) -> None:
    """Neither by who reads it for the first time, nor by who writes."""
    other = root.with_name("other.sc")
    with sc.open(other, chunk_size=CHUNK_SIZE) as db:
        db.array_store("a", np.float64)[1] = np.full(10, 7.0)
    db = sc.open(root)
    os.replace(other / "chunks/00000001.chunk", root / "chunks/00000001.chunk")
    with pytest.raises(sc.FailedError, match="another file than the one that was opened"):
        db["a"][1]
    with pytest.raises(sc.FailedError, match="another file than the one that was opened"):
        db["a"][2] = np.ones(3)
    db.close()


def test_verify_says_so(root: Path) -> None:
    with sc.open(root) as db:
        shutil.rmtree(root)
        [problem] = db.verify()
        assert "was there when it was opened" in problem.what


def test_this_process_may_not_open_the_successor_before_it_closed(root: Path) -> None:
    db = sc.open(root)
    shutil.rmtree(root)
    with pytest.raises(sc.LockedError, match="close that handle first"):
        sc.open(root)
    db.close()
    with sc.open(root) as db:
        assert list(db) == []
        assert db.verify() == []


# ---------------------------------------------------------------------- readers


@pytest.fixture(params=["linked", "copied"])
def read(request: pytest.FixtureRequest, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sc.Database]:
    """A reader, with its own files beside the database's or elsewhere."""
    if request.param == "copied":

        def refuse(source: str, target: str) -> None:
            raise PermissionError(1, "no links here", source)

        monkeypatch.setattr(copies, "link_file", refuse)
    with sc.open(root, "r") as db:
        yield db


def test_a_reader_does_not_move_on_to_another_database(
    read: sc.Database, root: Path, succeed: Callable[[], None]
) -> None:
    assert list(read["a"][1]) == [1] * 10
    succeed()
    for _ in range(2):
        with pytest.raises(sc.FailedError, match="close the database and open it again"):
            read.refresh()
    assert list(read["a"][1]) == [1] * 10


def test_a_reader_tells_another_database_in_the_same_directory(read: sc.Database, root: Path) -> None:
    for path in root.iterdir():
        if path.name != "readers":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with sc.open(root.with_name("other.sc")) as db:
        db.array_store("b", "i4")
    for path in root.with_name("other.sc").iterdir():
        if path.name != "readers":
            path.rename(root / path.name)
    with pytest.raises(sc.FailedError, match="another database has taken the place"):
        read.refresh()


# ---------------------------------------------------------------------- those that share writing


def test_a_shared_handle_does_not_move_on_to_another_database(root: Path, succeed: Callable[[], None]) -> None:
    with sc.open(root, shared=True) as db:
        db["a"][2] = np.ones(2)
        assert list(db["a"]) == [1, 2]
        succeed()
        for use in (lambda: db["a"][1], lambda: list(db["a"]), db.transaction):
            with pytest.raises(sc.FailedError, match="close the database and open it again"):
                use()


def test_a_shared_handle_follows_a_superblock_that_was_made_anew(root: Path) -> None:
    with sc.open(root, shared=True) as db:
        db["a"][2] = np.ones(2)
        (root / "superblock").unlink()
        sc.rebuild_index(root)
        with sc.open(root, shared=True) as other:
            other["a"][3] = np.ones(3)
        assert list(db["a"]) == [1, 2, 3]
        assert db.verify() == []


def test_a_shared_handle_that_waits_for_its_turn_does_not_take_that_of_another_database(root: Path) -> None:
    with sc.open(root, shared=True) as db:
        held = Lock(str(root / "lock"))
        errors: list[Exception] = []

        def write() -> None:
            try:
                db["a"][2] = np.ones(2)
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=write)
        thread.start()
        while not is_held(str(root)):  # who waits has a lock on the directory
            time.sleep(0.001)
        move(root)
        with sc.open(root) as other:
            other.array_store("a", np.float64)
            thread.join()  # it does not wait for this one, either
            held.release()
            other["a"][1] = np.full(10, 7.0)
        assert [type(error) for error in errors] == [sc.FailedError]
    with sc.open(root) as other:
        assert {key: list(value) for key, value in other["a"].items()} == {1: [7] * 10}
        assert other.verify() == []


# ---------------------------------------------------------------------- the check itself


def test_the_check_is_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    opened = files.identity(path.stat())
    assert files.displaced(str(path), opened) == ""
    path.rename(tmp_path / "away")
    assert "is not any more" in files.displaced(str(path), opened)
    path.touch()
    assert "is another file" in files.displaced(str(path), opened)
    path.unlink()
    (tmp_path / "away").rename(path)
    assert files.displaced(str(path), opened) == ""
