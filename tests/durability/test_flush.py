"""Writing to disk that is begun before a durable commit waits for it: when, of what, and what becomes of errors."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import itertools
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import OpenDB
from failing_disk import leave_free

import structchunk as sc
from structchunk.chunks import allocator
from structchunk.disk import files
from structchunk.index.index import Index

DISK_ERRORS = (errno.EIO, errno.ENOSPC)
START_SIZE = 20_000
COUNT, WIDTH = 3000, 16
KEYS = np.arange(COUNT, dtype=np.uint64)
VALUES = np.random.default_rng(5).random((COUNT, WIDTH))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "START_SIZE", START_SIZE)
    monkeypatch.setattr(allocator, "SPILL_SIZE", START_SIZE // 8)


class Started:
    """What was started, and what was flushed, in order: ``(path, offset, end)``, and ``(path,)``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._start, self._flush = files.start_flush, files.flush
        monkeypatch.setattr(files, "start_flush", self._on_start)
        monkeypatch.setattr(files, "flush", self._on_flush)

    def _on_start(self, path: str, offset: int, size: int) -> None:
        self.calls.append((path, offset, offset + size))
        self._start(path, offset, size)

    def _on_flush(self, path: str) -> None:
        self.calls.append((path,))
        self._flush(path)

    def stretches(self, path: str) -> list[tuple[int, int]]:
        """Return what was started of a file, which must be before the file was flushed."""
        mine = [call[1:] for call in self.calls if call[0] == path]
        started = [call for call in mine if call]
        assert mine[: len(started)] == started
        return started


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    return Started(monkeypatch)


def load_at_once(store: Any) -> None:
    store.put_many(KEYS, VALUES)


def load_in_pieces(store: Any) -> None:
    for start in range(0, COUNT, 75):
        store.put_many(KEYS[start : start + 75], VALUES[start : start + 75])


def load_singly(store: Any) -> None:
    for key, values in zip(KEYS.tolist(), VALUES, strict=True):
        store.put(key, values)


LOADS = [load_at_once, load_in_pieces, load_singly]


@pytest.mark.parametrize("load", LOADS)
def test_a_durable_load_is_started_early(open_db: OpenDB, started: Started, load: Callable[[Any], None]) -> None:
    """Each byte once, in long stretches, before the flush; full chunks before the commit is begun."""
    db = open_db(chunk_size=64 << 10)
    db.array_store("a", np.float64)
    started.calls.clear()
    with db.transaction(sync=True) as txn:
        load(txn["a"])
        before = {call[0] for call in started.calls}
    chunks = list(db._storage.heaps["a"].chunks.values())
    assert len(chunks) > 2
    assert before >= {chunk.path for chunk in chunks[:-1]}
    for each in chunks:
        end = each.header.data_offset
        for low, high in started.stretches(each.path):
            assert low == end
            assert high - low >= START_SIZE
            end = high
        assert each.free - START_SIZE < end <= each.free


@pytest.mark.parametrize(("sync", "count"), [(False, COUNT), (True, 70)])
def test_what_need_not_wait_is_not_started(open_db: OpenDB, started: Started, sync: bool, count: int) -> None:
    db = open_db(chunk_size=64 << 10)
    db.array_store("a", np.float64)
    with db.transaction(sync=True) as txn:  # the one before does not count
        txn["a"].put_many(KEYS, VALUES)
    started.calls.clear()
    with db.transaction(sync=sync) as txn:
        for _ in range(2):
            txn["a"].put_many(KEYS[:count], VALUES[:count])
    assert all(len(call) == 1 for call in started.calls)


def test_after_an_abort_it_is_started_anew(open_db: OpenDB, started: Started) -> None:
    db = open_db(chunk_size=2 << 20)
    db.array_store("a", np.float64)
    found = []
    for end in ("abort", "commit"):
        started.calls.clear()
        transaction = db.transaction(sync=True)
        for _ in range(3):
            transaction["a"].put_many(KEYS, VALUES)
        getattr(transaction, end)()
        found.append([call for call in started.calls if len(call) > 1])
    aborted, committed = found
    assert len(aborted) == 2  # the third is left to the commit
    assert committed[:2] == aborted
    assert np.array_equal(db["a"].get_many(KEYS).values, VALUES.ravel())


def test_a_started_file_is_held(open_db: OpenDB, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the system may forget the file, and with it that writing failed, before the flush asks."""
    db = open_db()
    db.array_store("a", np.float64)
    (only,) = db._storage.heaps["a"].chunks.values()
    monkeypatch.setattr(files, "start_flush", lambda *args: held.append(only._source is not None))
    held: list[bool] = []
    only.unmap()
    with db.transaction(sync=True) as txn:
        txn["a"].put_many(KEYS, VALUES)
    assert held == [True]


def test_the_system_is_asked_in_a_thread_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def ask(fd: int, offset: ctypes.c_int64, size: ctypes.c_int64, flags: int) -> None:
        asked.append((os.fstat(fd).st_size, offset.value, size.value, flags, threading.current_thread().name))

    wait_for_starts()  # those that the test before has left
    monkeypatch.setattr(files, "_sync_file_range", ask)
    path = tmp_path / "file"
    path.write_bytes(bytes(9))
    files.start_flush(str(path), 2, 5)
    files.start_flush(str(tmp_path / "gone"), 2, 5)
    wait_for_starts()
    assert asked == [(9, 2, 5, 2, files.START_FLUSH)]


def wait_for_starts() -> None:
    """Return once the system has been asked for all that it is to begin."""
    for thread in threading.enumerate():
        if thread.name == files.START_FLUSH:
            thread.join(10)


def no_thread(*args: Any, **options: Any) -> threading.Thread:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (files, "_sync_file_range", None),
        (files, "_sync_file_range", lambda *args: -1),
        (threading, "Thread", no_thread),
    ],
    ids=["missing", "failing", "no thread"],
)
def test_a_system_that_cannot_start(
    open_db: OpenDB, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, value: Any
) -> None:
    monkeypatch.setattr(owner, name, value)
    db = open_db()
    with db.transaction(sync=True) as txn:
        txn.array_store("a", np.float64).put_many(KEYS, VALUES)
    assert len(db["a"]) == COUNT


# ---------------------------------------------------------------------- on a disk that fails


def run(*command: str) -> str:
    """Run a command that needs rights which not everybody has."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs the right to mount a file system: {done.stderr.strip()}")
    return done.stdout.strip()


class Disk:
    """A file system on a disk that can be made to fail: the disk is a sparse file that gets no more blocks."""

    def __init__(self, base: Path, device: str) -> None:
        self.path = str(base / "disk")
        self._base = base / "base"
        self._device = device
        self._inflight = Path("/sys/block") / os.path.basename(device) / "inflight"

    def break_down(self) -> None:
        """Fail all writing to where nothing was written yet."""
        leave_free(str(self._base), 0)

    def heal(self) -> None:
        """Stop failing, once all that was begun is done."""
        wait_for_starts()
        deadline = time.monotonic() + 10
        while self._inflight.read_text().split() != ["0", "0"]:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        os.unlink(self._base / "ballast")

    def forget(self) -> None:
        """Leave nothing in memory of what is not on the disk."""
        gc.collect()  # files that are still mapped would keep it busy
        subprocess.run(["umount", self.path], check=True)
        subprocess.run(["mount", self._device, self.path], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Return a disk, where one can be made."""
    if not all(map(shutil.which, ("mount", "losetup", "mkfs.ext4"))):
        pytest.skip("needs mount, losetup and mkfs.ext4")
    for name in ("base", "disk"):
        os.mkdir(tmp_path / name)
    image = str(tmp_path / "base" / "image")
    device = ""
    run("mount", "-t", "tmpfs", "-o", "size=64m", "structchunk-test", str(tmp_path / "base"))
    try:
        run("truncate", "-s", "48m", image)
        run("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "nodiscard", image)
        device = run("losetup", "--find", "--show", image)
        run("mount", device, str(tmp_path / "disk"))
        yield Disk(tmp_path, device)
    finally:
        for undo in (
            ["umount", str(tmp_path / "disk")],
            ["losetup", "-d", device],
            ["umount", str(tmp_path / "base")],
        ):
            subprocess.run(undo, capture_output=True, check=False)


@contextlib.contextmanager
def losing(disk: Disk, root: str, first: Any, second: Any) -> Iterator[tuple[sc.Database, sc.Transaction]]:
    """Open a database with a transaction that put much under some keys, which the disk lost, and under others."""
    with sc.open(root, chunk_size=4 << 20) as db:
        db.array_store("a", np.float64)[1] = [1.0]
        db.sync()
        transaction = db.transaction(sync=True)
        transaction["a"].put_many(first, VALUES)
        disk.break_down()
        transaction["a"].put_many(second, VALUES)  # starts what was put before
        disk.heal()
        yield db, transaction


def test_an_error_of_what_was_started_fails_the_commit(disk: Disk) -> None:
    """Though the disk is well again by then: the bytes are lost, and no later writing brings them back."""
    root = os.path.join(disk.path, "test.sc")
    with losing(disk, root, KEYS + 10, KEYS + 9000) as (db, transaction):
        assert failure_of(transaction.commit) in DISK_ERRORS
        with pytest.raises(sc.FailedError):
            db["a"][2] = [2.0]
        assert list(db["a"]) == [1]
    disk.forget()
    with sc.open(root, "r+") as db:
        assert list(db["a"]) == [1]
        assert db.verify() == []
        db["a"].put_many(KEYS + 10, VALUES)
        assert db.verify() == []


def refuse(root: str, disk: Disk, *, early: bool) -> None:
    """Have a commit of two stores fail; if `early` then only what was started before it."""
    with sc.open(root, chunk_size=4 << 20) as db:
        db.array_store("a", np.float64)[1] = [1.0]
        db.sync()
        transaction = db.transaction(sync=True)
        transaction["a"].put_many(KEYS + 10, VALUES)
        _ = transaction.array_store("b", np.float64)
        transaction["b"].put_many(KEYS, VALUES)
        disk.break_down()
        transaction["a"].put_many(KEYS + 9000, VALUES)
        transaction["b"].put_many(KEYS, VALUES)
        if early:
            disk.heal()
        assert failure_of(transaction.commit) in DISK_ERRORS
        if not early:
            disk.heal()


@pytest.mark.parametrize("early", [False, True])
def test_a_commit_that_was_refused_and_is_found_again_is_on_disk(disk: Disk, early: bool) -> None:
    """The system shows what it could not write, and takes it for written: what is built on it must not be lost."""
    root = os.path.join(disk.path, "test.sc")
    refuse(root, disk, early=early)
    failures = until_open(root)
    assert failures <= 1  # one file's error was told to the commit
    with sc.open(root, "r+") as db:
        assert (len(db["a"]), len(db["b"])) == (1 + 2 * COUNT, COUNT)
        db["a"][2] = [2.0]
        db["b"][2] = [3.0]
    disk.forget()
    with sc.open(root, "r+") as db:
        assert db.verify() == []
        assert (db["a"][2], db["b"][2]) == (2.0, 3.0)
        assert np.array_equal(db["a"].get_many(KEYS + 9000).values, VALUES.ravel())


def until_open(root: str) -> int:
    """Open a database until the system has told of all errors, and return how often that failed."""
    for failures in itertools.count():
        if failure_of(lambda: sc.open(root, "r+").close()) == 0:
            return failures
    raise AssertionError


def test_space_of_an_aborted_transaction_is_fit_for_use(disk: Disk) -> None:
    """Writing it failed, of which nobody was told: ext4 takes the blocks for initialised from then on."""
    root = os.path.join(disk.path, "test.sc")
    with losing(disk, root, KEYS, KEYS) as (_, transaction):
        transaction.abort()
    with sc.open(root, "r+") as db:
        assert failure_of(lambda: db["a"].put_many(KEYS, VALUES)) in DISK_ERRORS
        db["a"].put_many(KEYS, VALUES)
    disk.forget()
    with sc.open(root, "r+") as db:
        assert db.verify() == []
        assert np.array_equal(db["a"].get_many(KEYS).values, VALUES.ravel())


def test_an_index_is_on_disk_once_it_is_opened(disk: Disk) -> None:
    """LevelDB finds in memory what it could not write, and writes all of that anew as it opens."""
    root = os.path.join(disk.path, "test.sc")
    with sc.open(root, chunk_size=4 << 20) as db:
        db.array_store("a", np.float64)
        db.sync()
        before = db._storage.index.checkpoint
        with db.transaction(sync=False) as transaction:
            lengths = np.random.default_rng(1).integers(1, 4, COUNT)
            transaction["a"].put_many(KEYS, VALUES.ravel()[: lengths.sum()], lengths)
        (only,) = db._storage.heaps["a"].chunks.values()
        only.flush()
        disk.break_down()
        assert failure_of(db.sync) in DISK_ERRORS
        disk.heal()
    index = Index.open(os.path.join(root, "index-000001"))
    last = index.last
    index.close()
    disk.forget()
    with sc.open(root, "r+") as db:
        assert db._storage.index.last == last == before + 1
        assert len(db["a"]) == COUNT
        assert db.verify() == []


def failure_of(commit: Callable[[], None]) -> int | None:
    """Return the number of the OSError that this raises; a traceback that was kept would hold mapped files."""
    try:
        commit()
    except OSError as error:
        return error.errno
    return 0
