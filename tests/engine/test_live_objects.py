"""Objects by key: what is kept of a chunk is handed out for as long as its objects may be changed in place."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import structchunk as sc
from structchunk.chunks.heap import Heap
from structchunk.engine.live_objects import taking_objects
from structchunk.index.takers import Steps
from structchunk.runs.run import ContiguousRun

OpenDB = Callable[..., sc.Database]
COUNT = 2_000
KEYS = {
    "even": np.arange(7, 7 + 3 * COUNT, 3).tolist(),
    "uneven": np.cumsum(np.random.default_rng(5).integers(1, 9, COUNT)).tolist(),
    "crowded": [*range(COUNT - 1), 2**60],
}


class Point(sc.Object):
    _fields_ = (("x", ctypes.c_double), ("n", ctypes.c_int64))


class Other(sc.Object):
    _fields_ = (("x", ctypes.c_double), ("n", ctypes.c_int64))


@pytest.fixture(params=KEYS)
def keys(request: pytest.FixtureRequest) -> list[int]:
    found: list[int] = KEYS[request.param]
    return found


def fill(db: sc.Database, keys: list[int]) -> sc.ObjectStore[Point]:
    """Store a point for each key, and read all, so that they are found in few steps from now on."""
    store = db.object_store("points", Point)
    values = np.zeros(len(keys), store.dtype)
    values["x"] = keys
    store.put_many(keys, values)
    read(store, keys)
    return store


def read(store: sc.ObjectStore[Any], keys: list[int]) -> None:
    """Read all points, and find what was stored."""
    for key in keys:
        point = store[key]
        assert type(point) is store.cls
        assert point.x == key


def taken(db: sc.Database) -> set[object]:
    """Return what kinds of records are taken from the cached pages."""
    index = db._storage.index.store_index(db["points"]._heap.store)
    return {pages.taken[0] for pages in index._cache.index[1]}


def test_objects_are_found_and_live(open_db: OpenDB, keys: list[int]) -> None:
    db = open_db()
    store = fill(db, keys)
    assert taken(db) == ({None} if keys[-1] == 2**60 else {Point})
    assert store._heap.live_objects(Point).keys() == store._heap.chunks.keys()
    for number, key in enumerate(keys):
        store[key].n = number
    assert db.snapshot()["points"].records()["n"].tolist() == list(range(len(keys)))
    near = {key + step for key in keys for step in (-1, 1)} | {0, 2**60 + 1, 2**64 - 1}
    for key in near - set(keys) - {-1}:
        with pytest.raises(sc.KeyNotFound):
            store[key]
    for wrong in (-1, 2**64):
        with pytest.raises(ValueError, match="key"):
            store[wrong]
    db.close()
    with pytest.raises(sc.ClosedError):
        store[keys[0]]
    assert str(db.path) not in Path("/proc/self/maps").read_text()  # as nobody holds an object
    again = open_db("r+")["points"]
    assert [again[key].n for key in keys] == list(range(len(keys)))


def test_each_class_gets_its_own(open_db: OpenDB) -> None:
    db = open_db()
    store = fill(db, KEYS["even"])
    read(store.of_class(Other), KEYS["even"])
    read(store, KEYS["even"])
    assert taken(db) == {Point}
    store.of_class(Other)[7].n = 3
    assert store[7].n == 3


def test_what_is_put_deleted_and_made_anew_is_seen(db: sc.Database) -> None:
    keys = KEYS["even"]
    store = fill(db, keys)
    held = store[keys[1]]
    store.put(keys[1], {"x": 5, "n": 0})
    del store[keys[2]]
    store.new(keys[3], x=6).n = 7
    assert store[keys[1]].x == 5
    assert keys[2] not in store
    assert (store[keys[3]].x, store[keys[3]].n) == (6, 7)
    assert held.x == keys[1]


def test_records_that_a_crash_would_check_are_not_changed(open_db: OpenDB) -> None:
    """Recovery compares a commit with its CRC until a checkpoint; who gets an object may change it at once."""
    db, (first, *some), half = open_db(sync=False), KEYS["even"], COUNT // 2
    store = fill(db, [first, *some[: half - 1]])
    store.put_many(some[half - 1 :], np.zeros(half, store.dtype))
    assert sum(len(batch) for batch in store.scan()) == COUNT  # so that all are in the same pages
    (chunk,) = store._heap.chunks.values()
    for key in (first, some[0], first):
        store[key].n = 1
    assert chunk.settled < chunk.committed
    store[some[-1]].n = 1
    assert chunk.settled == chunk.committed
    assert store[some[-2]].n == 0
    assert taken(db) == {Point}


def test_after_a_write_that_failed_objects_are_copies(open_db: OpenDB, keys: list[int]) -> None:
    db = open_db()
    store = fill(db, keys)
    db._storage.failure = "an earlier write failed"
    store[keys[0]].n = 1
    assert store[keys[0]].n == 0
    db.close()


def test_others_find_what_is_taken(db: sc.Database, keys: list[int]) -> None:
    """Where no object is kept of it."""
    made = db.object_store("made", Point)
    for key in keys[:50]:
        made.new(key, x=key)
    for store, some in ((fill(db, keys), keys), (made, keys[:50])):
        for key in some:
            store._heap.live_objects(Point).clear()
            assert store._find_record(key) == store._find(key)
            assert store[key].x == key


def test_what_is_kept_will_be_flushed(db: sc.Database) -> None:
    """First: an interrupt may come between the two."""
    store = fill(db, KEYS["even"])
    in_place = db._storage.in_place

    class Kept(dict[int, Any]):
        def __setitem__(self, chunk: int, objects: Any) -> None:
            assert chunk in in_place.chunks
            super().__setitem__(chunk, objects)

    kept = store._heap._live_objects[Other] = Kept()
    in_place.chunks.clear()
    read(store.of_class(Other), KEYS["even"])
    assert kept


@pytest.mark.parametrize("how", ["reader", "snapshot", "shared"])
def test_others_get_copies(open_db: OpenDB, keys: list[int], how: str) -> None:
    with open_db() as db:
        fill(db, keys)
    other = open_db("r") if how == "reader" else open_db("r+", shared=how == "shared")
    store: sc.ObjectStore[Point] = (other.snapshot() if how == "snapshot" else other)["points"]  # type: ignore[assignment]
    for _ in range(2):
        for key in keys:
            store[key].n = 1
            assert store[key].n == 0


@pytest.mark.parametrize("is_live", [False, True])
def test_what_was_found_before_the_store_was_altered(db: sc.Database, is_live: bool) -> None:
    """It is not handed out after that: a change to it would be lost with the file."""
    store = fill(db, KEYS["even"])
    extent = store._find(KEYS["even"][3])
    assert extent is not None
    db.alter_store("points", np.dtype([("x", "f8"), ("n", "i8"), ("z", "i4")]))
    with pytest.raises(sc.StoreNotFound):
        store._binding.live_array(extent) if is_live else store._make(extent)  # type: ignore[misc]
    assert not store._heap.live_objects(Point)


def test_a_store_whose_alteration_failed_was_not_altered(db: sc.Database) -> None:
    store = fill(db, KEYS["even"])

    def fail(*_: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        db.alter_store("points", np.dtype([("x", "f8"), ("n", "i8"), ("z", "i4")]), progress=fail)
    items = iter(store.items())
    next(items)
    db.drop_store("points")
    assert len(list(items)) == COUNT - 1


def test_compaction_moves_what_was_only_read(db: sc.Database, keys: list[int]) -> None:
    store = fill(db, keys)
    del store[keys[0]]
    before = set(store._heap.chunks)
    held = store[keys[1]]
    assert [len(report.skipped) for report in db.compact()] == [1]
    held.n = 5
    del held
    gc.collect()
    assert [len(report.skipped) for report in db.compact()] == [0]
    assert not before & set(store._heap.chunks)
    read(store, keys[1:])
    assert store[keys[1]].n == 5


def test_records_of_several_items_are_none_of_objects(db: sc.Database) -> None:
    heap = fill(db, KEYS["even"])._heap
    run = ContiguousRun(range(0, 9, 3), range(0, 8, 2), heap.store, 0, heap.item_size)
    assert taking_objects(db._storage.in_place, heap, Point)(run, Steps(0, 3, 3)) is None


@pytest.mark.parametrize("is_over", [False, True])
def test_nothing_is_kept_of_a_chunk_that_is_moved(
    db: sc.Database, monkeypatch: pytest.MonkeyPatch, is_over: bool
) -> None:
    """Whoever gets at the bytes of a chunk while its records are moved keeps no objects of it."""
    keys = KEYS["even"]
    store = fill(db, keys)
    del store[keys[0]]
    assert not db.compact()[0].skipped  # so that nothing is kept
    del store[keys[1]]
    is_moving, has_made, is_done = threading.Event(), threading.Event(), threading.Event()
    made = []

    def progress(*_: int) -> None:
        is_moving.set()
        assert has_made.wait(30)

    def objects(heap: Heap, cls: type[Any], chunk: int, make: Any = Heap.objects) -> Any:
        if not made:
            assert is_moving.wait(30)
            made.append(chunk)
            found = make(heap, cls, chunk)
            has_made.set()
            assert not is_over or is_done.wait(30)
            return found
        return make(heap, cls, chunk)

    def change() -> None:
        store[keys[2]].n = 5

    monkeypatch.setattr(Heap, "objects", objects)
    mover = threading.Thread(target=db.compact, kwargs={"progress": progress})
    changer = threading.Thread(target=change)
    changer.start()  # looks for what is kept before records are moved, and goes on then
    mover.start()
    mover.join()
    is_done.set()
    changer.join()
    assert made[0] not in store._heap.chunks
    assert made[0] not in store._heap.live_objects(Point)
    assert store[keys[2]].n == 5


def test_changes_beside_compactions_are_not_lost(db: sc.Database) -> None:
    keys, rounds, errors = KEYS["uneven"], 3, list[BaseException]()
    store = fill(db, keys)

    def count(mine: list[int]) -> None:
        try:
            for _ in range(rounds):
                for key in mine:
                    store[key].n += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=count, args=(keys[number::2],)) for number in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        store.put(0, {"x": 1, "n": 0})  # so that there is something to move
        db.compact()
    assert not errors
    assert {store[key].n for key in keys} == {rounds}
