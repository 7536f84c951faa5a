"""Transaction: all or nothing, seeing its own writes, one at a time."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import random
import threading
import time
from typing import Any

import numpy as np
import pytest
from conftest import OpenDB
from mapping_contract import ARRAYS, KINDS, OBJECTS, Kind, Pair, all_raise, check_reading, fill, kinds, uses, writes

import structchunk as sc
from structchunk.engine import staged_rows
from structchunk.runs import run, streams


@pytest.fixture
def store(db: sc.Database) -> sc.ArrayStore:
    return db.array_store("floats", "f8")


def values_of(store: Any) -> dict[int, list[float]]:
    return {key: value.tolist() for key, value in store.items()}


def chunk_files(db: sc.Database) -> set[str]:
    return set(os.listdir(os.path.join(db.path, "chunks")))


def disk_state(db: sc.Database) -> tuple[Any, ...]:
    """Return what a transaction that leaves nothing must leave as it is."""
    with db.snapshot() as snapshot:
        return snapshot.last_commit, sorted(db), chunk_files(db), {name: len(db[name]) for name in db}


# -- all


def test_commit_shows_everything_at_once(db: sc.Database, store: sc.ArrayStore) -> None:
    pairs = db.object_store("pairs", Pair)
    txn = db.transaction()
    txn["floats"][1] = [1.0]
    txn["pairs"].new(2, n=2)
    txn.array_store("made", "i4")[3] = [3]
    assert (len(store), len(pairs), "made" in db) == (0, 0, False)
    txn.commit()
    assert values_of(store) == {1: [1]}
    assert pairs[2].n == 2
    assert values_of(db["made"]) == {3: [3]}


def test_the_with_statement_commits(db: sc.Database, store: sc.ArrayStore) -> None:
    with db.transaction() as txn:
        assert type(txn) is sc.Transaction
        txn["floats"][1] = [1.0]
    assert values_of(store) == {1: [1]}
    with db.transaction() as txn:
        txn["floats"][2] = [1.0]
        txn.commit()
    with db.transaction() as txn:
        txn["floats"][3] = [1.0]
        txn.abort()
    assert list(store) == [1, 2]


def test_commits_survive_reopening(open_db: OpenDB) -> None:
    for sync in (True, False, None):
        with open_db() as db:
            store = db.array_store("floats", "f8")
            with db.transaction(sync=sync) as txn:
                txn["floats"][len(store)] = [1.0]
    with open_db("r") as db:
        assert list(db["floats"]) == [0, 1, 2]


def test_a_commit_of_nothing_is_no_commit(db: sc.Database, store: sc.ArrayStore) -> None:
    store[1] = [1.0]
    before = disk_state(db)
    with db.transaction():
        pass
    with db.transaction() as txn:
        assert txn["floats"][1].tolist() == [1]
        assert not txn["floats"].delete(7)
        assert txn["floats"].delete_range(5, 9) == 0
        txn["floats"].put_many([], np.empty((0, 2)))
        txn["floats"].update({})
    store.delete(7)
    assert disk_state(db) == before


def test_a_big_transaction(open_db: OpenDB) -> None:
    with open_db(chunk_size=16 << 10, sync=False) as db:
        db.array_store("floats", "f8")
        with db.transaction() as txn:
            store = txn["floats"]
            for key in range(70_000):  # more than one dictionary of rows
                store[key] = [key]
            store.put_many(range(60_000, 100_000), np.arange(40_000.0)[:, None])
            assert store.delete_range(0, 10_000) == 10_000
            for key in range(0, 20_000, 5):
                store[key] = []
            assert len(store) == 90_000 + 2000
            assert store[65_000].tolist() == [5000]
        expected = [key for key in range(100_000) if key >= 10_000 or key % 5 == 0]
        assert list(db["floats"]) == expected
    with open_db("r+") as db:
        store = db["floats"]
        assert list(store) == expected
        assert sum(float(batch.values.sum()) for batch in store.scan()) == sum(
            key - 60_000 * (key >= 60_000) for key in expected if key >= 20_000 or key % 5
        )


# -- or nothing


def write_all_ways(txn: sc.Transaction) -> None:
    """Change all that a transaction can change."""
    floats, pairs = txn["floats"], txn["pairs"]
    floats[1] = [9.0]
    floats.new(2, 5)[:] = 9
    floats.put_many(range(3, 3000), np.full((2997, 3), 9.0))
    floats.delete(0)
    floats.delete_range(5, 8)
    pairs.put(1, Pair(9, 9))
    pairs.new(2, n=9)
    pairs.edit(0).n = 9
    pairs.put_many([3, 4], [Pair(9, 9), Pair(9, 9)])
    txn.array_store("more", "f8")[1] = [9.0]
    txn.object_store("others", Pair).new(1)


@pytest.mark.parametrize("how", ["abort", "exception", "garbage"])
@pytest.mark.parametrize("look", [False, True])
def test_abort_leaves_nothing(db: sc.Database, store: sc.ArrayStore, how: str, look: bool) -> None:
    models = {kind.name: fill(kind.open(db), kind) for kind in KINDS}
    db.object_store("pairs", Pair)[0] = Pair(1, 1)
    store[0] = [1.0]
    before = disk_state(db)
    for _ in range(3):
        txn = db.transaction()
        write_all_ways(txn)
        if look:
            assert all(len(list(txn[name].values())) == len(txn[name]) for name in txn)
        if how == "abort":
            txn.abort()
        elif how == "exception":
            with pytest.raises(ZeroDivisionError), txn:
                raise ZeroDivisionError
        else:
            del txn
            gc.collect()
            db.transaction().abort()  # finalisers touch no file: the next transaction clears away
        assert disk_state(db) == before
        assert values_of(store) == {0: [1]}
        assert [(pair.x, pair.n) for pair in db["pairs"].values()] == [(1, 1)]
        for kind in KINDS:
            check_reading(db[kind.name], kind, models[kind.name])
    store[5] = [2.0]
    assert values_of(store) == {0: [1], 5: [2]}


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, GeneratorExit, SystemExit])
def test_any_exception_aborts_and_passes(db: sc.Database, store: sc.ArrayStore, error: type[BaseException]) -> None:
    with pytest.raises(error), db.transaction() as txn:
        txn["floats"][1] = [1.0]
        raise error
    assert len(store) == 0
    with pytest.raises(sc.ClosedError, match="was aborted"):
        txn.commit()


def test_a_failed_write_aborts_nothing_by_itself(db: sc.Database, store: sc.ArrayStore) -> None:
    with db.transaction() as txn:
        txn["floats"][1] = [1.0]
        with pytest.raises(ValueError, match="1-D"):
            txn["floats"][2] = [[1.0]]
        with pytest.raises(sc.KeyNotFound):
            del txn["floats"][3]
    assert list(store) == [1]


def test_views_exposed_by_an_aborted_transaction_stay_intact(db: sc.Database, store: sc.ArrayStore) -> None:
    txn = db.transaction()
    floats = txn["floats"]
    floats.put_many(range(100), np.arange(10_000.0).reshape(100, 100))
    live = txn["floats"].new(200, 50)
    live[:] = 3
    views = [floats[5], next(iter(floats.values(50))), floats.get_many([7]).values, next(floats.scan(90)).values]
    copies = [view.copy() for view in views]
    txn.abort()
    store.put_many(range(300), np.full((300, 100), -1.0))
    assert all((view == copy).all() for view, copy in zip(views, copies, strict=True))
    assert (live == 3).all()
    live[:] = 4
    assert (store.get_many(range(300)).values == -1).all()


@kinds
@pytest.mark.parametrize(("end", "word"), [("commit", "was committed"), ("abort", "was aborted")])
def test_ended_transactions_refuse(db: sc.Database, kind: Kind, end: str, word: str) -> None:
    fill(kind.open(db), kind)
    txn = db.transaction()
    inner, made = kind.open(txn), kind.open(txn).new(1, *([3] if kind.is_array else []))
    attempts = [
        *uses(txn, kind),
        lambda: inner.edit(1) if kind is OBJECTS else inner[1],
        lambda: txn[kind.name],
        lambda: kind.open(txn),
        lambda: txn.array_store("more", "f8"),
        lambda: txn.object_store("more", Pair),
        txn.commit,
        txn.__enter__,
    ]
    getattr(txn, end)()
    all_raise(attempts, sc.ClosedError, word)
    txn.abort()
    memoryview(made).cast("B")[0] = 1
    assert (inner.name, inner.dtype) == (kind.name, db[kind.name].dtype)
    assert issubclass(sc.ClosedError, ValueError)


# -- reading its own writes


@kinds
def test_reads_its_own_writes(db: sc.Database, kind: Kind) -> None:
    model = fill(kind.open(db), kind)
    with db.transaction() as txn:
        inner = txn[kind.name]
        inner[5] = kind.make(5)
        inner[7] = kind.make(77)
        del inner[4]
        after = dict(model) | {5: 5, 7: 77}
        del after[4]
        check_reading(inner, kind, after)
        check_reading(txn[kind.name], kind, after)
        check_reading(db[kind.name], kind, model)
        with db.snapshot() as snapshot:
            check_reading(snapshot[kind.name], kind, model)
    check_reading(db[kind.name], kind, after)


def test_iterators_inside_see_the_state_they_began_with(db: sc.Database, store: sc.ArrayStore) -> None:
    store.put_many(range(10), np.zeros((10, 1)))
    with db.transaction() as txn:
        inner = txn["floats"]
        for key in inner:
            inner[key + 100] = [1.0]
        assert len(inner) == 20
        for key in list(inner):
            del inner[key]
        assert list(inner) == []


# -- stores


def test_a_store_made_inside_is_there_only_after_commit(db: sc.Database) -> None:
    with db.transaction() as txn:
        made = txn.array_store("made", "f8")
        assert "made" in txn
        assert "made" in list(txn)
        assert "made" not in db
        made[1] = [1.0]
        assert txn["made"][1].tolist() == txn.array_store("made")[1].tolist() == [1]
        with pytest.raises(sc.SchemaError):
            txn.array_store("made", "f4")
        with pytest.raises(sc.StoreExists):
            txn.object_store("made", Pair)
        with pytest.raises(sc.StoreNotFound):
            db["made"]
    assert values_of(db["made"]) == {1: [1]}
    before = chunk_files(db)
    with db.transaction() as txn:
        txn.object_store("gone", Pair).new(1)
        txn.abort()
    assert "gone" not in db
    assert chunk_files(db) == before
    db.array_store("gone", "i2")[1] = [1]


def test_an_empty_store_can_be_made(open_db: OpenDB) -> None:
    with open_db() as db, db.transaction() as txn:
        txn.array_store("empty", ">f4")
    with open_db("r") as db:
        assert db["empty"].dtype == ">f4"
        assert len(db["empty"]) == 0


def test_unknown_stores(db: sc.Database) -> None:
    with db.transaction() as txn:
        assert "none" not in txn
        with pytest.raises(sc.StoreNotFound, match="none"):
            txn["none"]
        with pytest.raises(sc.StoreNotFound, match="none"):
            txn.array_store("none")
        with pytest.raises(sc.SchemaError):
            txn.object_store("none", sc.Object.of(a=ctypes.c_void_p))
        assert list(txn) == []


# -- one at a time


def test_a_second_one_in_the_same_thread_is_refused(db: sc.Database, store: sc.ArrayStore) -> None:
    fill(ARRAYS.open(db), ARRAYS)
    attempts = [
        *writes(db["array"], ARRAYS),
        lambda: db.array_store("more", "f8"),
        lambda: db.drop_store("floats"),
        db.transaction,
    ]
    with db.transaction() as txn:
        txn["floats"][5] = [1.0]
        all_raise(attempts, sc.LockedError, "this thread")
    store[1] = [1.0]
    assert list(store) == [1, 5]


def test_transactions_of_two_threads_wait_for_each_other(db: sc.Database, store: sc.ArrayStore) -> None:
    store[0] = [0.0]
    order: list[str] = []

    def second() -> None:
        order.append("waits")
        with db.transaction() as txn:
            order.append("begins")
            txn["floats"][0] = txn["floats"][0] + 1

    with db.transaction() as txn:
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        txn["floats"][0] = [10.0]
        order.append("ends")
        assert store[0].tolist() == [0]
    thread.join(10)
    assert order == ["waits", "ends", "begins"]
    assert store[0].tolist() == [11]


def test_no_update_is_lost_between_threads(db: sc.Database, store: sc.ArrayStore) -> None:
    store[0] = [0.0]
    failures: list[BaseException] = []

    def count() -> None:
        try:
            for _ in range(50):
                with db.transaction() as txn:
                    txn["floats"][0] = txn["floats"][0] + 1
                assert store[0][0] >= 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert store[0].tolist() == [200]


def test_a_transaction_may_end_in_another_thread(db: sc.Database, store: sc.ArrayStore) -> None:
    txn = db.transaction()
    txn["floats"][1] = [1.0]
    thread = threading.Thread(target=txn.commit)
    thread.start()
    thread.join(10)
    store[2] = [1.0]
    assert list(store) == [1, 2]


def test_an_abandoned_transaction_lets_others_in(db: sc.Database, store: sc.ArrayStore) -> None:
    def abandon() -> None:
        db.transaction()["floats"][1] = [1.0]

    thread = threading.Thread(target=abandon)
    thread.start()
    thread.join(10)
    gc.collect()
    store[2] = [1.0]
    assert list(store) == [2]


def test_a_store_keeps_its_transaction_from_being_abandoned(db: sc.Database) -> None:
    db.array_store("floats", "f8")
    inner = db.transaction()["floats"]
    gc.collect()
    inner[1] = [1.0]
    with pytest.raises(sc.LockedError):
        db.transaction()
    del inner
    gc.collect()
    assert list(db["floats"]) == []


def numbers_in(store: Any) -> set[int]:
    return {number for batch in store.scan() for number in batch.values.tolist()}


def test_readers_see_whole_commits(db: sc.Database) -> None:
    stores = [db.array_store(name, "i8") for name in ("left", "right")]
    keys = np.arange(50)

    def write(number: int) -> None:
        with db.transaction() as txn:
            for name in ("left", "right"):
                txn[name].put_many(keys, np.full((50, 1), number))

    write(0)
    done = threading.Event()
    torn: list[Any] = []

    def read() -> None:
        while not done.is_set():
            with db.snapshot() as snapshot:
                seen = numbers_in(snapshot["left"]) | numbers_in(snapshot["right"])
            seen_by_one = numbers_in(stores[0])
            many = set(stores[1].get_many(keys).values.tolist())
            if max(len(seen), len(seen_by_one), len(many)) > 1:
                torn.append((seen, seen_by_one, many))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(60):
        write(number)
    done.set()
    for thread in threads:
        thread.join(30)
    assert not torn


def test_views_exposed_by_an_aborted_transaction_survive_reopening(open_db: OpenDB) -> None:
    with open_db(sync=False) as db:
        db.array_store("floats", "f8")[1] = [1.0]
        db.sync()
        txn = db.transaction()
        txn["floats"][2] = [2.0, 3.0]
        exposed = txn["floats"][2]
        txn.abort()
    with open_db(sync=False) as db:
        db["floats"].put_many([2, 3], [[4.0, 5.0], [6.0, 7.0]])
        assert exposed.tolist() == [2, 3]


def test_closing_the_database_inside_tells_so(open_db: OpenDB) -> None:
    db = open_db()
    db.array_store("a", np.int64)
    with pytest.raises(sc.ClosedError, match="aborted when the database was closed"), db.transaction() as txn:
        txn["a"].put(1, [1])
        db.close()


# ---------------------------------------------------------------------- bulk writes, and what else is written


def bulk(rng: random.Random, first: int) -> tuple[list[int], list[list[int]]]:
    """Return keys from `first` on, and records: mostly of one length, in mostly even steps."""
    count, length, step = rng.choice([1, 9, 300]), rng.randint(0, 3), rng.choice([1, 1, 7])
    steps = [step if rng.random() < 0.997 else 2 for _ in range(count)]
    keys = list(itertools.accumulate(steps, initial=first))[:count]
    if rng.random() < 0.2:
        rng.shuffle(keys)
    return keys, [[rng.randrange(99)] * (length if rng.random() < 0.997 else 1) for _ in keys]


def write_once(transaction: Any, model: dict[int, list[int]], rng: random.Random) -> None:
    """Write something to a store and to a model of it, or read it, as it comes."""
    store = transaction["a"]
    kind = rng.choice(["append"] * 6 + ["bulk", "put", "delete", "range", "get", "scan", "many", "count", "ends"])
    key = rng.randrange(max(model, default=0) + 2)
    if kind in ("append", "bulk"):
        keys, records = bulk(rng, max(model, default=-1) + 1 if kind == "append" else key)
        store.put_many(
            keys,
            np.array([item for record in records for item in record], np.int64),
            [len(record) for record in records],
        )
        model.update(zip(keys, records, strict=True))
    elif kind == "put":
        store[key] = model[key] = [rng.randrange(99)]
    elif kind == "delete":
        assert store.delete(key) == (model.pop(key, None) is not None)
    elif kind == "range":
        gone = [other for other in model if key <= other < key + 9]
        assert store.delete_range(key, key + 9) == len(gone)
        for other in gone:
            del model[other]
    elif kind == "get":
        found = store.get(key)
        assert (None if found is None else found.tolist()) == model.get(key)
    elif kind == "scan":
        assert {other: array.tolist() for other, array in store.items()} == model
    elif kind == "many" and model:
        keys = rng.choices(list(model), k=50)
        assert [array.tolist() for _, array in store.get_many(keys)] == [model[other] for other in keys]
    elif kind == "count":
        assert len(store) == len(model)
    elif kind == "ends":
        assert (store.first_key, store.last_key) == (min(model, default=None), max(model, default=None))


@pytest.mark.parametrize("turn", range(30))
def test_bulk_writes_among_others(open_db: OpenDB, monkeypatch: pytest.MonkeyPatch, seed: int, turn: int) -> None:
    """Whatever is written and read between bulk writes, and where chunks end, what counts is what came last."""
    monkeypatch.setattr(run, "LONG_RUN", 2)
    monkeypatch.setattr(streams, "WORTH_JOINING", 2)
    monkeypatch.setattr(staged_rows, "_MANY_RUNS", 3)
    rng = random.Random(f"{seed} {turn}")
    db = open_db(chunk_size=16384)
    db.array_store("a", "i8")
    model: dict[int, list[int]] = {}
    for _ in range(rng.randint(1, 4)):
        draft = dict(model)
        transaction = db.transaction()
        for _ in range(rng.randint(1, 12)):
            write_once(transaction, draft, rng)
        if rng.random() < 0.2:
            transaction.abort()
        else:
            transaction.commit()
            model = draft
        assert {key: array.tolist() for key, array in db["a"].items()} == model
        assert db.verify() == []
    db.close()
    sc.rebuild_index(db.path)
    with sc.open(db.path) as again:
        assert {key: array.tolist() for key, array in again["a"].items()} == model
