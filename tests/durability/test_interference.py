"""Two things that happen at once: a handle and a drop, a crash and a live view, a failure and a reader."""

from __future__ import annotations

import ctypes
import errno
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import OpenDB
from live_copy import copy_live

import structchunk as sc
from structchunk.disk import files
from structchunk.engine.storage import Storage
from structchunk.maintenance.chunk_map import map_chunks


class P(sc.Object):
    """A point."""

    _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_double)]


def crash(source: Path, target: Path) -> Path:
    """Copy an open database: what a killed process would leave."""
    return copy_live(source, target)


def test_a_live_view_waits_for_a_checkpoint_that_a_rebuild_knows(tmp_path: Path) -> None:
    """The index is a checkpoint ahead of the superblock: what lies between is still under its CRC."""
    root = tmp_path / "a.sc"
    with sc.open(root) as db:
        db.object_store("o", P)
        db.sync()
        db["o"][1], db["o"][2] = P(1, 2), P(3, 4)
        superblock = (root / "superblock").read_bytes()
        db.sync()
        image = crash(root, tmp_path / "b.sc")
    (image / "superblock").write_bytes(superblock)
    with sc.open(image) as db:
        db["o"][1].x = 99
        image = crash(image, tmp_path / "c.sc")
    for index in image.glob("index-*"):
        shutil.rmtree(index)
    sc.rebuild_index(image)
    with sc.open(image) as db:
        assert {key: (p.x, p.y) for key, p in db["o"].items()} == {1: (99, 2), 2: (3, 4)}
        assert db.verify() == []


def test_iterating_a_store_that_is_dropped_harms_nothing(open_db: OpenDB) -> None:
    db = open_db()
    store = db.object_store("o", P)
    store.put_many(range(3), [(1, 2)] * 3)
    items = iter(store.items())
    next(items)
    db.drop_store("o")
    assert next(items)[1] == P(1, 2)
    db.sync()
    db.array_store("a", int)[1] = [1]


def test_a_stale_handle_leaves_no_lock_behind(open_db: OpenDB) -> None:
    db = open_db()
    stale = db.array_store("a", np.int64)
    db.drop_store("a")
    try:
        stale.put(1, [1])
    except sc.StoreNotFound:
        db.array_store("a", np.int64)[1] = [2]
    assert db["a"][1].tolist() == [2]


def test_an_interrupt_just_after_the_commit_loses_nothing(open_db: OpenDB, monkeypatch: pytest.MonkeyPatch) -> None:
    db = open_db()

    def interrupted(self: Storage) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Storage, "_go_on", interrupted)
    with pytest.raises(KeyboardInterrupt), db.transaction() as txn:
        txn.array_store("a", np.int64)[1] = [1]
    monkeypatch.undo()
    assert db["a"][1].tolist() == [1]
    db["a"][2] = [2]


def test_objects_are_read_after_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "a.sc"
    db = sc.open(root)
    store = db.object_store("o", P)
    store[1] = P(1, 2)

    def broken(path: str) -> None:
        raise OSError(errno.EIO, "broken", path)

    monkeypatch.setattr(files, "flush", broken)
    with pytest.raises(OSError, match="broken"):
        store[2] = P(3, 4)
    assert store[1] == P(1, 2)
    assert next(iter(store.values())) == P(1, 2)
    with pytest.raises(sc.FailedError):
        store[3] = P(5, 6)
    db.close()
    monkeypatch.undo()
    with sc.open(root) as db:
        assert db["o"][1] == P(1, 2)
        assert db.verify() == []


def test_verify_beside_stores_that_come_and_go(open_db: OpenDB) -> None:
    db = open_db(sync=False)
    problems: list[sc.Problem] = []
    done = threading.Event()

    def verify() -> None:
        while not done.is_set():
            problems.extend(db.verify())

    thread = threading.Thread(target=verify)
    thread.start()
    for number in range(20):
        db.array_store(f"s{number}", np.int64).put_many(range(50), np.ones((50, 3), int))
        db.drop_store(f"s{number}")
    done.set()
    thread.join()
    assert problems == []


def test_values_that_a_field_cannot_hold(open_db: OpenDB) -> None:
    store = open_db().object_store("o", sc.Object.of(small=ctypes.c_uint8))
    with pytest.raises(ValueError, match="field 'small': found 300"):
        store.new(1, small=300)
    assert 1 not in store


def test_stores_are_equal_to_themselves_only(open_db: OpenDB) -> None:
    db = open_db()
    store = db.array_store("a", np.int64)
    same = store
    assert store == same
    assert store != db["a"]
    assert len({store, db["a"]}) == 2


@pytest.fixture
def growing(db: sc.Database) -> sc.Transaction:
    """A transaction that has made a chunk of a store "a", which holds a record, and stores with a chunk each."""
    for name in "abc":
        db.array_store(name, np.float64)[0] = np.ones(10)
    transaction = db.transaction()
    transaction["a"].put(1, np.ones(20_000))
    return transaction


def test_verify_beside_a_transaction_that_aborts(db: sc.Database, growing: sc.Transaction) -> None:
    assert db.verify(lambda done, total: growing.abort()) == []


def test_stats_and_maps_leave_out_what_an_open_transaction_made(db: sc.Database, growing: sc.Transaction) -> None:
    assert len(db.stats()["a"].chunks) == 1
    maps = map_chunks(db._storage, ["b", "a"])
    next(maps)
    growing.abort()
    assert [found.chunk for found in maps] == [1]


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("of_snapshot", [False, True])
@pytest.mark.parametrize("kind", ["scan", "items", "values", "to_arrow", "reversed"])
def test_who_goes_on_reading_after_close_is_told_so(
    tmp_path: Path, mode: str, kind: str, *, of_snapshot: bool
) -> None:
    with sc.open(tmp_path / "d.sc", chunk_size=16 << 10, sync=False) as db:
        store = db.array_store("a", np.float64)
        for start in range(0, 2000, 100):
            store.put_many(range(start, start + 100), np.ones((100, 20)))
    with sc.open(tmp_path / "d.sc", mode) as db:
        store = db.snapshot()["a"] if of_snapshot else db["a"]
        reading = {
            "scan": lambda: store.scan(batch_size=100),
            "items": lambda: iter(store.items()),
            "values": lambda: iter(store.values()),
            "to_arrow": lambda: iter(store.to_arrow(batch_size=100)),
            "reversed": lambda: iter(store.items(reverse=True)),
        }[kind]()
        first = next(reading)
    with pytest.raises(sc.ClosedError):
        list(reading)
    assert first is not None
    with sc.open(tmp_path / "d.sc", "r") as db:
        assert db.verify() == []


def test_a_read_in_the_middle_of_a_checkpoint_may_hand_out_a_view(open_db: OpenDB) -> None:
    """As a finaliser makes it: of a chunk that nobody had a live object of before."""
    db = open_db(sync=False)
    one, other = db.object_store("one", P), db.object_store("other", P)
    one.new(1)
    other.put(1, P())
    db.sync()

    class Unlinked(set[int]):
        def __contains__(self, chunk: object) -> bool:
            assert other[1] is not None
            return super().__contains__(chunk)

    assert one[1] is not None
    db._storage._unlinked = Unlinked()
    db.sync()
