"""alter_store(): a store of another type, in one commit, whoever reads meanwhile."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import structchunk as sc
from structchunk.chunks import allocator
from structchunk.engine.storage import Storage
from structchunk.maintenance import altering


class Point(sc.Object):
    _fields_ = [("x", ctypes.c_float), ("n", ctypes.c_int16)]


class Wide(sc.Object):
    _fields_ = [("n", ctypes.c_int64), ("x", ctypes.c_double), ("q", ctypes.c_double)]


@pytest.fixture(params=["small steps", "large steps"])
def steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How much is copied at a time."""
    if request.param == "small steps":
        monkeypatch.setattr(altering, "STEP_SIZE", 100)
        monkeypatch.setattr(altering, "STEP_ROWS", 7)
        monkeypatch.setattr(altering, "SPARSE_SIZE", 200)
        monkeypatch.setattr(allocator, "SPARSE_SIZE", 200)
    return str(request.param)


def contents(store: Any) -> dict[int, Any]:
    return {key: np.asarray(value).tolist() for key, value in store.items()}


def records(store: Any) -> dict[int, tuple[Any, ...]]:
    return dict(zip(store.keys(), store.records().tolist(), strict=True))


def filled(db: sc.Database) -> sc.ArrayStore:
    """Return a store whose rows are of every kind: in order, scattered, deleted, empty, large, in place."""
    store = db.array_store("temps", "i2")
    store.put_many(np.arange(300), np.arange(900).reshape(300, 3))
    store.put_many([400, 399, 5, 398], np.arange(10), [1, 4, 0, 5])
    for key in range(500, 520):
        store.put(key, np.arange(key % 7))
    store.delete_range(10, 60)
    store.put(1000, np.arange(9000))
    live = store.new(2000, 50)
    live[:] = 7
    sparse = store.new(2001, 20_000)
    sparse[17_000] = 9
    store.new(2002, 0)
    store[2**64 - 1] = [-1]
    return store


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("dtype", ["i8", "f4", ">i2", "c8"])
def test_all_records_are_there(db: sc.Database, dtype: str) -> None:
    before = contents(filled(db))
    commits = db.last_commit
    db.alter_store("temps", dtype)
    assert db.last_commit == commits + 1
    assert (db["temps"].dtype, len(db["temps"])) == (np.dtype(dtype), len(before))
    assert contents(db["temps"]) == before
    assert db.verify() == []
    path = db.path
    db.close()
    with sc.open(path, "r+") as again:
        assert contents(again.array_store("temps", dtype)) == before
    sc.rebuild_index(path)
    with sc.open(path, "r+") as again:
        assert (contents(again["temps"]), again["temps"].dtype) == (before, np.dtype(dtype))
        assert again.verify() == []
        again["temps"].put(3, [1])
        again.compact()
        assert contents(again["temps"]) == {**before, 3: [1]}


@pytest.mark.usefixtures("steps")
def test_what_changes_in_place_still_does(db: sc.Database) -> None:
    filled(db)
    gc.collect()
    db.alter_store("temps", "i4")
    live = db["temps"][2000]
    assert (live.flags.writeable, live.tolist()) == (True, [7] * 50)
    live[3] = 70_000
    assert db["temps"][2000][3] == 70_000
    assert not db["temps"][1000].flags.writeable


def test_objects(db: sc.Database) -> None:
    points = db.object_store("points", Point)
    points.put_many(range(200), [(key / 2, -key) for key in range(200)])
    points.new(500, x=1.5)
    db.alter_store("points", Wide, fill={"q": 0.5})
    wide = db.object_store("points", Wide)
    assert records(wide) == {**{key: (-key, key / 2, 0.5) for key in range(200)}, 500: (0, 1.5, 0.5)}
    wide[3].n = 2**40
    assert wide[3].n == 2**40
    db.alter_store("points", np.dtype([("x", "f8")]), drop=("n", "q"))
    assert records(db["points"])[4] == (2,)
    with pytest.raises(sc.SchemaError, match="field 'n': not stored, asked for int64"):
        db.object_store("points", Wide)


def test_items_of_a_shape(db: sc.Database) -> None:
    store = db.array_store("vectors", "f4", shape=(3,))
    store.put_many(range(50), np.arange(450).reshape(50, 3, 3))
    before = contents(store)
    db.alter_store("vectors", np.dtype(("f8", (3,))))
    assert db.array_store("vectors", "f8", shape=(3,)).dtype == np.dtype(("f8", (3,)))
    assert contents(db["vectors"]) == before


def test_an_empty_store(db: sc.Database) -> None:
    db.array_store("temps", "i2")
    db.alter_store("temps", "i4")
    db["temps"][1] = [70_000]
    assert contents(db.array_store("temps", "i4")) == {1: [70_000]}


def test_sparse_arrays_stay_sparse(disk_db: sc.Database) -> None:
    db = disk_db
    sparse = db.array_store("sparse", "f4").new(1, 1 << 24)
    sparse[1 << 23] = 1.5
    del sparse
    db.alter_store("sparse", "f8")
    assert db["sparse"][1][1 << 23] == 1.5
    assert db["sparse"][1].nbytes == 1 << 27
    assert db.stats()["sparse"].disk_size < 1 << 20


def test_the_same_type_changes_nothing(db: sc.Database) -> None:
    store = filled(db)
    before = db.last_commit
    db.alter_store("temps", "i2")
    assert db.last_commit == before
    assert len(store)


# ---------------------------------------------------------------------- what is refused


def test_refusals_change_nothing(db: sc.Database) -> None:
    store = filled(db)
    before, commits = contents(store), db.last_commit
    for type_ in ("i1", "u8", np.dtype(("i4", (2,))), [("x", "i4")], object, Point):
        with pytest.raises(sc.SchemaError):
            db.alter_store("temps", type_)
    with pytest.raises(sc.StoreNotFound, match="no store 'other'"):
        db.alter_store("other", "i4")
    with pytest.raises(ValueError, match="characters"):
        db.alter_store("", "i4")
    with pytest.raises(ValueError, match="drop names 'x'"):
        db.alter_store("temps", "i4", drop=["x"])
    with db.transaction(), pytest.raises(sc.LockedError, match="this thread"):
        db.alter_store("temps", "i4")
    assert (contents(store), db.last_commit) == (before, commits)
    with sc.open(db.path, "r") as reader, pytest.raises(sc.ReadOnlyError):
        reader.alter_store("temps", "i4")


def test_a_view_that_is_held_is_no_loss(db: sc.Database) -> None:
    """What is written through it would go to a file that nobody reads."""
    points = db.object_store("points", Point)
    points.put(1, (1, 1))
    held = points[1]
    before = db.last_commit
    with pytest.raises(sc.LockedError, match=r"'points' cannot be altered: .*still held; let go of it"):
        db.alter_store("points", Wide)
    held.n = 5
    assert (points[1].n, db.last_commit) == (5, before)
    del held
    db.alter_store("points", Wide)
    assert db["points"].records()["n"].tolist() == [5]


def test_progress(db: sc.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(altering, "STEP_SIZE", 1000)
    filled(db)
    live = db.stats()["temps"].live
    seen: list[tuple[int, int]] = []
    db.alter_store("temps", "i4", progress=lambda done, total: seen.append((done, total)))
    assert len(seen) > 5
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {live}
    assert seen[-1][0] == live


def test_what_progress_raises_aborts(db: sc.Database) -> None:
    before = contents(filled(db))

    def give_up(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        db.alter_store("temps", "i4", progress=give_up)
    assert (contents(db["temps"]), db["temps"].dtype) == (before, np.dtype("i2"))
    gc.collect()
    db.alter_store("temps", "i4")
    assert contents(db["temps"]) == before


def test_a_full_disk_changes_nothing(db: sc.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(filled(db))
    count = iter(range(2))

    def create(*args: Any) -> Any:
        if next(count, None) is None:
            raise OSError(28, "No space left on device")
        return made(*args)

    made = Storage.create_chunk
    monkeypatch.setattr(Storage, "create_chunk", create)
    with pytest.raises(OSError, match="No space"):
        db.alter_store("temps", "c16")
    monkeypatch.undo()
    assert contents(db["temps"]) == before
    assert db.verify() == []


# ---------------------------------------------------------------------- who else is there


def test_what_was_got_before(db: sc.Database) -> None:
    store = filled(db)
    before, array, batch = contents(store), store[5], store.read(0, 10)
    cursor, stored = store.cursor(), array.tolist()
    assert cursor.first()
    with db.snapshot() as snapshot:
        scan = snapshot["temps"].scan()
        first = next(scan)
        db.alter_store("temps", "f8")
        assert (contents(snapshot["temps"]), snapshot["temps"].dtype) == (before, np.dtype("i2"))
        assert [first.values.dtype, *(batch.values.dtype for batch in scan)][-1] == np.dtype("i2")
        db.compact()
        assert contents(snapshot["temps"]) == before
    assert array.tolist() == stored
    assert batch.values.dtype == np.dtype("i2")
    for use in (
        lambda: store[5],
        lambda: len(store),
        lambda: store.get_many([5]),
        lambda: list(store.scan()),
        lambda: store.put(5, [1]),
        lambda: store.delete(5),
        lambda: store.attrs.update(a=1),
        lambda: dict(store.attrs),
        cursor.next,
        lambda: db[store],
    ):
        with pytest.raises(sc.StoreNotFound, match="was dropped"):
            use()
    assert contents(db["temps"]) == before


def test_old_files_go(db: sc.Database) -> None:
    filled(db)
    gc.collect()
    chunks = Path(db.path, "chunks")
    before = set(chunks.iterdir())
    db.alter_store("temps", "i4")
    assert not before & set(chunks.iterdir())


def test_a_thread_that_waits_for_an_object(db: sc.Database) -> None:
    """It gets no view of a file that has gone."""
    points = db.object_store("points", Point)
    points.put_many(range(100), [(1, 1)] * 100)
    said: list[Any] = []

    def change() -> None:
        try:
            points[7].n = 5
        except sc.StoreNotFound as error:
            said.append(str(error))

    thread = threading.Thread(target=change)

    def progress(done: int, total: int) -> None:
        if not thread.is_alive():
            thread.start()
            thread.join(0.1)
            assert thread.is_alive()

    db.alter_store("points", Wide, progress=progress)
    thread.join()
    assert len(said) == 1
    assert "altered" in said[0]
    assert db["points"][7].n == 1


def test_readers(db: sc.Database) -> None:
    before = contents(filled(db))
    gc.collect()
    with sc.open(db.path, "r") as reader:
        store, snapshot = reader["temps"], reader.snapshot()
        db.alter_store("temps", "f4")
        assert (contents(store), store.dtype) == (before, np.dtype("i2"))
        assert reader.refresh()
        assert (contents(reader["temps"]), reader["temps"].dtype) == (before, np.dtype("f4"))
        assert contents(snapshot["temps"]) == before
        with pytest.raises(sc.StoreNotFound):
            store[5]
        snapshot.close()


def test_shared_handles(tmp_path: Path) -> None:
    with sc.open(tmp_path / "a.sc", shared=True) as one, sc.open(tmp_path / "a.sc", shared=True) as other:
        one.array_store("temps", "i2").put_many(np.arange(300), np.arange(900).reshape(300, 3))
        before = contents(one["temps"])
        one["temps"].attrs["unit"] = "K"
        theirs = other["temps"]
        assert contents(theirs) == before
        one.alter_store("temps", "i4")
        assert (contents(other["temps"]), other["temps"].dtype) == (before, np.dtype("i4"))
        assert dict(other["temps"].attrs) == {"unit": "K"}
        with pytest.raises(sc.StoreNotFound):
            theirs.put(1, [1])
        other.alter_store("temps", "i8")
        one["temps"].put(1, [2**40])
        assert contents(other["temps"]) == {**before, 1: [2**40]}
        assert one.verify() == other.verify() == []


def test_copies(db: sc.Database, tmp_path: Path) -> None:
    before = contents(filled(db))
    db["temps"].attrs["unit"] = "K"
    gc.collect()
    copy = tmp_path / "copy.sc"
    db.checkpoint(copy)
    db.alter_store("temps", "i4")
    db["temps"][3] = [70_000]
    for _ in range(2):
        db.checkpoint(copy, update=True)
        with sc.open(copy, "r") as found:
            assert (contents(found["temps"]), found["temps"].dtype) == ({**before, 3: [70_000]}, np.dtype("i4"))
            assert dict(found["temps"].attrs) == {"unit": "K"}
            assert found.verify() == []


def changes(found: Iterator[sc.Change]) -> list[tuple[str, str, int]]:
    return [(change.store, change.kind, len(change.keys)) for change in found]


def test_the_feed_has_it_dropped_and_made_again(db: sc.Database) -> None:
    count = len(filled(db))
    gc.collect()
    db.array_store("other", "u1")[1] = [1]
    since = db.last_commit
    db.alter_store("temps", "i4")
    db["temps"][1] = [1]
    expected = [("temps", "dropped", 0), ("temps", "created", count)]
    assert changes(db.changes(since)) == [*expected, ("temps", "records", 1)]
    assert changes(db.changes(since, "temps", net=True)) == expected
    (_, made, _) = db.changes(since)
    assert made.batch().values.dtype == np.dtype("i4")
    with pytest.raises(sc.HistoryLost):
        db.changes(1)
