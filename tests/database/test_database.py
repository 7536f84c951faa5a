"""Database: opening, its stores, closing, and all that is refused on the way."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import OpenDB
from mapping_contract import (
    KINDS,
    OBJECTS,
    Kind,
    Pair,
    all_raise,
    check_mapping,
    check_reading,
    fill,
    kinds,
    uses,
    writes,
)
from support import run_python

import structchunk as sc


def chunk_files(db: sc.Database) -> list[str]:
    return sorted(os.listdir(os.path.join(db.path, "chunks")))


# -- modes


def test_modes_of_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "test.sc"
    for mode in ("r", "r+"):
        with pytest.raises(FileNotFoundError, match=r"test\.sc"):
            sc.open(path, mode)
        assert not path.exists()
    for mode in ("a", "x"):
        with sc.open(tmp_path / mode, mode) as db:
            assert db.mode == mode
            assert list(db) == []
            assert db.verify() == []


@pytest.mark.parametrize("mode", ["r", "r+", "a", "x"])
def test_nothing_is_written_to_a_directory_of_something_else(tmp_path: Path, mode: str) -> None:
    (tmp_path / "chunks").mkdir()
    files = [tmp_path / "lock", tmp_path / "chunks" / "data.txt", tmp_path / "precious"]
    for file in files:
        file.write_text("text")
    for _ in files[1:]:
        with pytest.raises((FileNotFoundError, FileExistsError), match="database"):
            sc.open(tmp_path, mode)
        with pytest.raises(FileNotFoundError):
            sc.rebuild_index(tmp_path)
        assert all(file.read_text() == "text" for file in files)
        files.pop().unlink()  # then there is but a lock, and a directory of chunks with something else in it


def test_modes_of_what_exists(open_db: OpenDB) -> None:
    with open_db() as db:
        db.array_store("floats", "f8")[1] = [1.0]
    with pytest.raises(FileExistsError, match=r"test\.sc"):
        open_db("x")
    for mode in ("r", "r+", "a"):
        with open_db(mode) as db:
            assert db.mode == mode
            assert db["floats"][1].tolist() == [1]


def test_a_directory_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for mode in ("r", "r+"):
        with pytest.raises(FileNotFoundError):
            sc.open(tmp_path / "empty", mode)
    assert not any((tmp_path / "empty").iterdir())
    (tmp_path / "file").write_text("text")
    for mode in ("r", "r+", "a", "x"):
        with pytest.raises(OSError, match="file"):
            sc.open(tmp_path / "file", mode)
    assert (tmp_path / "file").read_text() == "text"
    with sc.open(tmp_path / "empty", "x") as db:
        assert db.verify() == []


@pytest.mark.parametrize("mode", ["w", "", "rb", "R", None, 1])
def test_bad_modes(tmp_path: Path, mode: Any) -> None:
    with pytest.raises(ValueError, match="mode"):
        sc.open(tmp_path / "test.sc", mode)
    assert not (tmp_path / "test.sc").exists()


@pytest.mark.parametrize("size", [0, -1, 1000, 2**62, 1.5e6, "64M", None])
def test_bad_chunk_sizes(tmp_path: Path, size: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        sc.open(tmp_path / "test.sc", chunk_size=size)
    assert not (tmp_path / "test.sc").exists()


def test_path_is_absolute_and_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tmp_path / "real é.sc"
    with sc.open(real) as db:
        assert db.path == str(real)
    (tmp_path / "link").symlink_to(real)
    monkeypatch.chdir(tmp_path)
    for path in ("link", "./link/", b"link".decode(), Path("link"), f"{tmp_path}/real é.sc/../link"):
        with sc.open(path, "r+") as db:
            assert db.path == str(real)
            assert not db.closed
            assert repr(str(real)) in repr(db)
            assert db.verify() == []


def test_defaults_of_sync(open_db: OpenDB, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    monkeypatch.setattr("structchunk.disk.files.flush", flushed.append)
    for default in (True, False):
        with open_db(name=str(default), sync=default) as db:
            store = db.array_store("floats", "f8")
            store[0] = [0.0]
            for asked in (None, True, False):
                flushed.clear()
                with db.transaction(sync=asked) as txn:
                    txn["floats"][1] = [1.0]
                assert bool(flushed) == (default if asked is None else asked)
            flushed.clear()
            store[2] = [2.0]
            assert bool(flushed) == default
            store.new(3, 1)[0] = 3.0
            db.sync()
            assert flushed


# -- one opener


def test_a_second_opener_of_this_process_is_refused(open_db: OpenDB, tmp_path: Path) -> None:
    db = open_db()
    store = db.array_store("floats", "f8")
    store[1] = [1.0]
    (tmp_path / "link").symlink_to(db.path)
    for path in (db.path, db.path + "/", tmp_path / "link", os.path.relpath(db.path)):
        for mode in ("r+", "a"):
            with pytest.raises(sc.LockedError, match="has the database open"):
                sc.open(path, mode)
    with pytest.raises((sc.LockedError, FileExistsError)):
        sc.open(db.path, "x")
    with pytest.raises(sc.LockedError):
        sc.rebuild_index(db.path)
    store[2] = [2.0]
    db.close()
    assert list(open_db()["floats"]) == [1, 2]


def test_a_second_process_is_refused_and_told_by_whom(open_db: OpenDB) -> None:
    db = open_db()
    done = run_python("import sys, structchunk\nstructchunk.open(sys.argv[1], 'r+')", db.path)
    assert f"LockedError: {db.path}/lock: process {os.getpid()} has" in done.stderr


def test_a_failed_open_leaves_no_lock(open_db: OpenDB) -> None:
    with open_db() as db:
        index = next(name for name in os.listdir(db.path) if name.startswith("index"))
    index_path = os.path.join(db.path, index)
    os.rename(index_path, index_path + ".away")
    for _ in range(2):
        with pytest.raises(sc.CorruptionError, match="rebuild_index"):
            open_db("r+")
    os.rename(index_path + ".away", index_path)
    open_db("r+")


# -- stores


def test_stores_by_name(db: sc.Database) -> None:
    assert (list(db), len(db), "floats" in db) == ([], 0, False)
    floats = db.array_store("floats", "f8")
    pairs = db.object_store("a pair", Pair)
    assert (list(db), len(db), "floats" in db, "none" in db, 5 in db) == (
        ["a pair", "floats"],
        2,
        True,
        False,
        False,
    )
    assert type(floats) is type(db["floats"]) is sc.ArrayStore
    assert type(pairs) is type(db["a pair"]) is sc.ObjectStore
    assert (db["floats"].name, db["floats"].dtype) == ("floats", np.float64)
    assert db.array_store("floats").dtype == db.array_store("floats", float).dtype == np.float64
    assert "2 stores" in repr(db)


def test_unknown_stores(db: sc.Database) -> None:
    db.array_store("floats", "f8")
    attempts = (lambda: db["none"], lambda: db.array_store("none"), lambda: db.object_store("none"))
    for attempt in (*attempts, lambda: db.drop_store("none")):
        with pytest.raises(sc.StoreNotFound, match="none"):
            attempt()
    assert issubclass(sc.StoreNotFound, KeyError)
    assert list(db) == ["floats"]


@pytest.mark.parametrize("name", ["", None, 5, b"floats", "x" * 1025])
def test_bad_names(db: sc.Database, name: Any) -> None:
    for attempt in (
        lambda: db.array_store(name, "f8"),
        lambda: db.object_store(name, Pair),
        lambda: db.drop_store(name),
    ):
        with pytest.raises((TypeError, ValueError)):
            attempt()
    assert list(db) == []


def test_any_text_is_a_name(open_db: OpenDB) -> None:
    names = sorted(
        ["../up", "a/b", ".", "é", "日本", "nul\0nul", " ", "x" * 1024, "M", "chunks", '"', "\n", "😀" * 300]
    )
    with open_db(chunk_size=16 << 10, sync=False) as db:
        for number, name in enumerate(names):
            db.array_store(name, "i8")[1] = [number]
    with open_db("r") as db:
        assert list(db) == names
        assert [db[name][1].tolist() for name in names] == [[number] for number in range(len(names))]


def test_the_other_kind(db: sc.Database) -> None:
    db.array_store("array", "f8")
    db.object_store("object", Pair)
    with pytest.raises(sc.StoreExists, match=r"array_store\(\)"):
        db.object_store("array", Pair)
    with pytest.raises(sc.StoreExists, match=r"array_store\(\)"):
        db.object_store("array")
    with pytest.raises(sc.StoreExists, match=r"object_store\(\)"):
        db.array_store("object", "f8")
    with pytest.raises(sc.StoreExists, match=r"object_store\(\)"):
        db.array_store("object")


def test_another_type_shows_the_fields(open_db: OpenDB) -> None:
    with open_db() as db:
        db.array_store("floats", "f8")
        db.array_store("rows", [("a", "i4"), ("b", "f8")])
        db.object_store("pairs", Pair)
    with open_db() as db:
        with pytest.raises(sc.SchemaError, match="stored float64, asked for float32"):
            db.array_store("floats", "f4")
        with pytest.raises(sc.SchemaError, match="stored float64, asked for big-endian float64"):
            db.array_store("floats", ">f8")
        with pytest.raises(sc.SchemaError, match=r"field 'b': stored float64 .*asked for float32"):
            db.array_store("rows", [("a", "i4"), ("b", "f4")])
        with pytest.raises(sc.SchemaError, match=r"field 'c': not stored, asked for int8"):
            db.array_store("rows", [("a", "i4"), ("b", "f8"), ("c", "i1")])
        with pytest.raises(sc.SchemaError, match=r"field 'n': stored int32.* not asked for"):
            db.object_store("pairs", sc.Object.of(x=ctypes.c_double))
        with pytest.raises(sc.SchemaError, match=r"field 'n': stored int32.*asked for int64"):
            db.object_store("pairs", sc.Object.of(x=ctypes.c_double, n=ctypes.c_int64))
        same = db.object_store("pairs", sc.Object.of(x=ctypes.c_double, n=ctypes.c_int32))
        same.new(1, n=5)
    assert issubclass(sc.SchemaError, TypeError)


def test_another_thread_makes_the_store_first(db: sc.Database) -> None:
    found: list[Any] = []

    def make(dtype: str) -> None:
        try:
            found.append(db.array_store("made", dtype).dtype)
        except sc.SchemaError as error:
            found.append(str(error))

    for dtype in ("f8", "i4"):
        with db.transaction() as txn:
            txn.array_store("made", "f8")
            thread = threading.Thread(target=make, args=(dtype,))
            thread.start()
            thread.join(0.1)
        thread.join(10)
        db.drop_store("made")
    assert found[0] == np.float64
    assert "stored float64, asked for int32" in found[1]


@pytest.mark.parametrize(
    ("dtype", "field"),
    [
        ("O", None),
        ([("a", "f8"), ("b", "O")], "b"),
        ([("a", "f8"), ("b", [("deep", "O")])], "deep"),
        ("V0", None),
        ("S0", None),
        ("U0", None),
        ([], None),
        (("f8", (3, 0)), None),
        (ctypes.c_void_p, None),
        (ctypes.POINTER(ctypes.c_int), None),
        ("no such type", None),
    ],
    ids=str,
)
def test_refused_dtypes(db: sc.Database, dtype: Any, field: str | None) -> None:
    with pytest.raises(sc.SchemaError, match=field):
        db.array_store("refused", dtype)
    assert "refused" not in db


def test_hundreds_of_stores(open_db: OpenDB) -> None:
    with open_db(chunk_size=16 << 10, sync=False) as db:
        for first in range(0, 300, 100):
            with db.transaction() as txn:
                for number in range(first, first + 100):
                    txn.array_store(f"store {number:03}", "i8").put_many([number, 0], [[number], [1]])
        db["store 007"][7] = [70]
        assert len(db) == 300
    with open_db("r+") as db:
        assert list(db) == [f"store {number:03}" for number in range(300)]
        assert all(len(db[name]) == 2 - (name == "store 000") for name in db)
        assert [db[f"store {number:03}"][number][0] for number in (5, 7, 299)] == [5, 70, 299]


# -- drop


@kinds
def test_drop_store(open_db: OpenDB, kind: Kind) -> None:
    with open_db(chunk_size=16 << 10, sync=False) as db:
        db.array_store("kept", "f8")[1] = [1.0]
        before = chunk_files(db)
        fill(kind.open(db), kind)
        db[kind.name].put_many(range(1000), [kind.make(3)] * 1000)
        old, attempts = kind.open(db), uses(db, kind)
        db.drop_store(kind.name)
        assert list(db) == ["kept"]
        assert chunk_files(db) == before
        with pytest.raises(sc.StoreNotFound):
            db[kind.name]
        all_raise(attempts, sc.StoreNotFound, "dropped")
        again = kind.open(db)
        again[1] = kind.make(5)
        all_raise([*writes(old, kind), lambda: old[1], lambda: list(old)], sc.StoreNotFound, "dropped")
        check_reading(again, kind, {1: 5})
    with open_db("r") as db:
        assert list(db) == sorted([kind.name, "kept"])
        check_reading(kind.open(db), kind, {1: 5})
        assert db["kept"][1].tolist() == [1]


def test_drop_and_recreate_over_and_over(open_db: OpenDB) -> None:
    with open_db(chunk_size=16 << 10, sync=False) as db:
        for number in range(6):
            kind = KINDS[number % len(KINDS)]
            store = kind.open(db, "store")
            check_reading(store, kind, {})
            model = fill(store, kind)
            if number < 5:
                db.drop_store("store")
        assert len(chunk_files(db)) == 1
        check_reading(db["store"], kind, model)
    with open_db() as db:
        check_reading(kind.open(db, "store"), kind, model)
        db.drop_store("store")
        assert chunk_files(db) == []
        check_mapping(kind.open(db, "store"), kind)


# -- reading only


def test_read_only(open_db: OpenDB) -> None:
    with open_db() as db:
        db.array_store("floats", "f8")[1] = [1.0]
    with open_db("r") as db:
        attempts = [
            db.transaction,
            db.sync,
            lambda: db.array_store("more", "f8"),
            lambda: db.object_store("more", Pair),
            lambda: db.drop_store("floats"),
            lambda: db["floats"].put(1, [2.0]),
            lambda: db["floats"].new(1, 2),
        ]
        for attempt in attempts:
            with pytest.raises(sc.ReadOnlyError, match="mode='r"):
                attempt()
        assert db.array_store("floats", "f8")[1].tolist() == [1]
        assert db.verify() == []
        with db.snapshot() as snapshot:
            assert snapshot["floats"][1].tolist() == [1]


# -- closing


@kinds
def test_closed_databases_refuse(open_db: OpenDB, kind: Kind) -> None:
    with open_db(sync=False) as db:
        store = kind.open(db)
        fill(store, kind)
        snapshot, cursor = db.snapshot(), store.cursor()
        cursor.first()
        attempts = [
            *uses(db, kind),
            lambda: db[kind.name],
            lambda: kind.open(db),
            lambda: kind.name in db,
            lambda: list(db),
            lambda: len(db),
            lambda: db.array_store("more", "f8"),
            lambda: db.object_store("more", Pair),
            lambda: db.drop_store(kind.name),
            lambda: snapshot[kind.name][3],
            db.transaction,
            db.snapshot,
            db.sync,
            db.verify,
            db.__enter__,
        ]
        assert not db.closed
    db.close()
    assert db.closed
    assert "closed" in repr(db)
    assert db.path.endswith("test.sc")
    assert (store.name, cursor.valid, cursor.key) == (kind.name, True, 0)
    all_raise(attempts, sc.ClosedError, "open it again")


def test_close_aborts_the_open_transaction(open_db: OpenDB) -> None:
    db = open_db()
    db.array_store("floats", "f8")[1] = [1.0]
    txn = db.transaction()
    inner = txn["floats"]
    inner[2] = [2.0]
    db.close()
    for attempt in (lambda: inner[1], txn.commit, lambda: txn["floats"]):
        with pytest.raises(sc.ClosedError):
            attempt()
    txn.abort()
    assert list(open_db()["floats"]) == [1]


def test_close_waits_for_a_transaction_of_another_thread(open_db: OpenDB) -> None:
    db = open_db()
    db.array_store("floats", "f8")
    begun, go_on = threading.Event(), threading.Event()

    def write() -> None:
        with db.transaction() as txn:
            begun.set()
            go_on.wait(10)
            txn["floats"][1] = [1.0]

    writer = threading.Thread(target=write)
    writer.start()
    begun.wait(10)
    closer = threading.Thread(target=db.close)
    closer.start()
    closer.join(0.2)
    assert closer.is_alive()
    go_on.set()
    writer.join(10)
    closer.join(10)
    assert db.closed
    assert list(open_db()["floats"]) == [1]


def test_readers_in_flight_end_well_when_it_closes(open_db: OpenDB) -> None:
    for _ in range(5):
        db = open_db(sync=False)
        store = db.array_store("floats", "f8")
        store.put_many(range(5000), np.ones((5000, 3)))
        failures: list[BaseException] = []

        def read(store: sc.ArrayStore = store, failures: list[BaseException] = failures) -> None:
            try:
                while True:
                    assert sum(batch.values.sum() for batch in store.scan()) == 15_000
                    assert store[77].tolist() == [1, 1, 1]
                    assert store.get_many(range(50)).values.sum() == 150
            except sc.ClosedError:
                pass
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        db.close()
        for thread in threads:
            thread.join(20)
        assert not failures


def test_an_exception_closes_too(open_db: OpenDB) -> None:
    with pytest.raises(ZeroDivisionError), open_db() as db:
        db.array_store("floats", "f8")[1] = [1.0]
        raise ZeroDivisionError
    assert db.closed
    assert list(open_db()["floats"]) == [1]


def test_a_forgotten_database_warns_and_closes(tmp_path: Path) -> None:
    sc.open(tmp_path / "test.sc").close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        db = sc.open(tmp_path / "test.sc")
        db.array_store("floats", "f8")[1] = [1.0]
        del db
        gc.collect()
    assert [warning.category for warning in caught] == [ResourceWarning]
    with sc.open(tmp_path / "test.sc", "r+") as db:
        assert list(db["floats"]) == [1]
        assert db.verify() == []


# -- the rest


def test_verify_tells_its_progress(db: sc.Database) -> None:
    db.array_store("floats", "f8").put_many(range(1000), np.ones((1000, 20)))
    steps: list[tuple[int, int]] = []
    assert db.verify(progress=lambda done, total: steps.append((done, total))) == []
    assert steps[-1][0] == steps[-1][1] == len(chunk_files(db))
    assert steps == sorted(steps)


def test_rebuild_index(open_db: OpenDB) -> None:
    with open_db(chunk_size=16 << 10, sync=False) as db:
        models = {kind.name: check_mapping(kind.open(db), kind) for kind in KINDS}
        OBJECTS.open(db, "gone").new(1)
        db.drop_store("gone")
        path = db.path
    steps: list[tuple[int, int]] = []
    sc.rebuild_index(path, progress=lambda done, total: steps.append((done, total)))
    assert steps
    with open_db("r+") as db:
        assert list(db) == sorted(kind.name for kind in KINDS)
        for kind in KINDS:
            check_reading(kind.open(db), kind, models[kind.name])


def test_rebuild_index_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sc.rebuild_index(tmp_path / "none")
    assert not (tmp_path / "none").exists()


FORK = """
import os, sys, traceback, numpy as np, structchunk as sc
db = sc.open(sys.argv[1], sync=False)
store = db.array_store("floats", "f8")
store[1] = [1.0]
txn = db.transaction()
inner = txn["floats"]
inner[2] = [2.0]
snapshot, view, cursor = db.snapshot(), store[1], store.cursor()
seen = snapshot["floats"]
cursor.first()
attempts = [
    lambda: db["floats"], lambda: list(db), lambda: len(db), lambda: "floats" in db, db.transaction, db.snapshot,
    db.sync, db.verify, lambda: db.array_store("more", "f8"), lambda: db.drop_store("floats"),
    lambda: store[1], lambda: len(store), lambda: list(store), lambda: list(store.scan()),
    lambda: store.get_many([1]), lambda: store.put(3, [3.0]), lambda: store.new(3, 3), lambda: store.delete(1),
    txn.commit, lambda: txn["floats"], lambda: inner[1], lambda: inner.put(3, [3.0]),
    lambda: seen[1], lambda: list(seen), lambda: len(seen), cursor.next, lambda: cursor.value,
]
child = os.fork()
if not child:
    try:
        for number, attempt in enumerate(attempts):
            try:
                attempt()
            except sc.ClosedError as error:
                if "fork" not in str(error):
                    raise
            else:
                raise AssertionError(f"attempt {number} was not refused")
        assert view.tolist() == [1]
        db.close()
        txn.abort()
        snapshot.close()
        try:
            sc.open(sys.argv[1])
        except sc.LockedError as error:
            assert str(os.getppid()) in str(error)
        else:
            raise AssertionError("opened twice")
        del db, txn, store, inner, snapshot, seen, cursor
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
txn.commit()
store[3] = [3.0]
assert list(store) == [1, 2, 3]
assert db.verify() == []
snapshot.close()
db.close()
child = os.fork()
if not child:
    try:
        sc.open(sys.argv[1], "r+")
    except sc.ClosedError as error:  # LevelDB's thread stayed behind
        os._exit("spawn" not in str(error))
    os._exit(1)
assert os.waitpid(child, 0)[1] == 0
with sc.open(sys.argv[1], "r+") as db:
    db["floats"][4] = [4.0]
print("fine")
"""


def test_a_forked_child_is_refused(open_db: OpenDB, tmp_path: Path) -> None:
    done = run_python(FORK, str(tmp_path / "test.sc"))
    assert done.stdout == "fine\n", done.stdout + done.stderr
    assert list(open_db("r+")["floats"]) == [1, 2, 3, 4]


def test_sync_false_survives_the_end_of_the_process(open_db: OpenDB, tmp_path: Path) -> None:
    code = (
        "import os, sys, structchunk as sc\n"
        "db = sc.open(sys.argv[1], sync=False)\n"
        "store = db.array_store('floats', 'f8')\n"
        "for key in range(100): store[key] = [key]\n"
        "os._exit(0)\n"
    )
    assert run_python(code, str(tmp_path / "test.sc")).returncode == 0
    assert list(open_db("r+")["floats"]) == list(range(100))


def test_public_names() -> None:
    assert all(hasattr(sc, name) for name in sc.__all__)
    assert sc.__all__ == sorted(sc.__all__)
    public = [getattr(sc, name) for name in sc.__all__]
    errors = [item for item in public if isinstance(item, type) and issubclass(item, Exception)]
    assert len(errors) == 13
    assert all(issubclass(error, sc.Error) for error in errors)
