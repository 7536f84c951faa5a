"""Savepoints: what was done since is taken back, in all stores, and nothing else; misuse is told."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import random
import tracemalloc
from typing import Any

import numpy as np
import pytest
from conftest import OpenDB
from interrupts import Interrupter
from mapping_contract import Pair

import structchunk as sc
from structchunk.disk import files

BIG = np.arange(700.0)


@pytest.fixture
def txn(db: sc.Database) -> sc.Transaction:
    db.array_store("a", "f8").put_many(range(10), np.arange(10.0)[:, None])
    db.object_store("p", Pair).put_many(range(5), [(n, n) for n in range(5)])
    return db.transaction()


def contents(store: Any) -> dict[int, list[float]]:
    return {key: array.tolist() for key, array in store.items()}


def pairs(store: Any) -> dict[int, tuple[float, int]]:
    return {key: (pair.x, pair.n) for key, pair in store.items()}


def change_all(txn: sc.Transaction) -> None:
    """Write in every way that there is, in two stores and a new one."""
    store = txn["a"]
    store.put(3, [33])
    store.append(4, [44])
    store.append(50, [1])
    store.put_many(range(20, 60), np.ones((40, 2)))
    store.put_many([7, 5], np.zeros((2, 1)))
    store.new(100, 3)[:] = 1
    store.delete(1)
    store.delete_range(8, 30)
    store.delete_many([2, 55])
    for key in range(200, 220):
        store[key] = [key]
    for key in range(300, 304):
        store.put(key, BIG)
    txn["p"].put(9, Pair(9, 9))
    txn["p"].edit(2).n = 22
    txn["p"].new(8, x=8)
    txn.array_store("made", "u1")[1] = [1]


@pytest.mark.parametrize("before", ["nothing", "puts", "appends", "bulk", "all"])
@pytest.mark.parametrize("is_read", [False, True])
@pytest.mark.parametrize("way", ["rollback", "exception", "nested"])
def test_all_that_was_done_since_is_taken_back(
    db: sc.Database, txn: sc.Transaction, before: str, is_read: bool, way: str
) -> None:
    with txn:
        if before in ("puts", "all"):
            for key in range(30):
                txn["a"].put(2 * key, [key])
        if before in ("appends", "all"):
            for key in range(30):
                txn["a"].append(key % 12, [key])
        if before in ("bulk", "all"):
            txn["a"].put_many(range(1000, 1100), np.ones((100, 1)))
            txn["p"].put(1, Pair(11, 11))
            txn["p"].edit(3).n = 33
        expected = contents(txn["a"]) if is_read else None
        with contextlib.suppress(ZeroDivisionError), txn.savepoint() as savepoint:
            with txn.savepoint():
                change_all(txn)
            if is_read:
                assert txn["a"][4].tolist()[-1] == 44
                assert len(txn["a"]) == len(list(txn["a"]))
            if way == "nested":
                with txn.savepoint():
                    change_all(txn)
            if way == "exception":
                _ = 1 // 0
            savepoint.rollback()
        assert "made" not in txn
        found, objects, length = contents(txn["a"]), pairs(txn["p"]), len(txn["a"])
        assert expected is None or found == expected
        assert length == len(found)
        assert (txn["a"].first_key, txn["a"].last_key) == (min(found), max(found))
        txn["a"].put(5000, [1])
    assert contents(db["a"]) == found | {5000: [1]}
    assert pairs(db["p"]) == objects
    assert objects[2] == (2, 2)
    model = {key: [float(key)] for key in range(10)}
    if before in ("puts", "all"):
        model |= {2 * key: [float(key)] for key in range(30)}
    if before in ("appends", "all"):
        for key in range(30):
            model[key % 12] = [*model.get(key % 12, []), float(key)]
    if before in ("bulk", "all"):
        model |= {key: [1.0] for key in range(1000, 1100)}
        assert (objects[1], objects[3]) == ((11, 11), (3, 33))
    assert found == model


def test_ascending_bulk_writes(db: sc.Database, txn: sc.Transaction) -> None:
    """They stay contiguous, and are taken back one by one."""
    with txn:
        for first in range(100, 500, 100):
            txn["a"].put_many(range(first, first + 50), np.full((50, 1), first))
            with contextlib.suppress(ZeroDivisionError), txn.savepoint():
                txn["a"].put_many(range(first + 50, first + 80), np.zeros((30, 1)))
                if first == 300:
                    txn["a"].put_many([1], np.zeros((1, 1)))
                _ = 1 // 0
            assert txn["a"].last_key == first + 49
            assert txn["a"].get(first + 50) is None
    assert list(db["a"]) == [
        *range(10),
        *(key for first in range(100, 500, 100) for key in range(first, first + 50)),
    ]


def test_any_order_of_savepoints(open_db: OpenDB, seed: int, budget: float) -> None:
    """Whatever is written, marked and taken back in turn, a transaction is as a stack of dictionaries."""
    db = open_db(sync=False, chunk_size=16 << 10)
    store = db.array_store("a", "u1")
    state: dict[int, list[int]] = {}
    for turn in range(int(40 * budget)):
        rng = random.Random(f"{seed} {turn}")
        with db.transaction() as txn:
            saved: list[tuple[sc.Savepoint, dict[int, list[int]]]] = []
            for _ in range(rng.randrange(60)):
                write_any(rng, txn["a"], state)
                what = rng.random()
                if what < 0.2:
                    saved.append((txn.savepoint().__enter__(), dict(state)))
                elif what < 0.3 and saved:
                    saved.pop()[0].__exit__(None, None, None)
                elif what < 0.5 and saved:
                    savepoint, state = saved.pop()
                    savepoint.rollback()
                elif what < 0.6:
                    assert contents(txn["a"]) == dict(sorted(state.items()))
                    assert len(txn["a"]) == len(state)
        assert contents(store) == dict(sorted(state.items()))


def write_any(rng: random.Random, store: Any, state: dict[int, list[int]]) -> None:
    """Write a little, into a store and a dictionary."""
    key, value = rng.randrange(40), [rng.randrange(256)] * rng.choice([0, 1, 5, 200])
    what = rng.randrange(6)
    if what == 0:
        store.put(key, value)
        state[key] = value
    elif what == 1:
        store.append(key, value)
        state[key] = state.get(key, []) + value
    elif what == 2:
        keys = range(key, key + rng.choice([1, 30]))
        store.put_many(keys, np.ones((len(keys), 2)))
        state.update((key, [1, 1]) for key in keys)
    elif what == 3:
        assert store.delete(key) == (state.pop(key, None) is not None)
    elif what == 4:
        for other in range(key, key + 20):
            store[other] = state[other] = [other]
    else:
        assert store.get(key, np.empty(0)).tolist() == state.get(key, [])


def test_space_is_used_again(db: sc.Database, txn: sc.Transaction) -> None:
    """What was taken back, files too, takes no space; but for what views were handed out of."""
    with txn:
        txn["a"].put(0, [1])
        for _ in range(50):
            with txn.savepoint() as savepoint:
                txn["a"].put_many(range(20), np.zeros((20, 700)))
                assert len(os.listdir(os.path.join(db.path, "chunks"))) == 5
                savepoint.rollback()
            assert len(os.listdir(os.path.join(db.path, "chunks"))) == 2
        txn["a"].put(11, BIG)
    assert db.stats()["a"].garbage < 100


def test_views_stay_valid(db: sc.Database, txn: sc.Transaction) -> None:
    """As after an abort: what was handed out keeps its bytes, in whichever file they lie."""
    with txn:
        txn["a"].put(0, [5])
        with txn.savepoint() as savepoint:
            txn["a"].append(0, [6])
            txn["a"].put(1, BIG)
            txn["a"].put_many(range(2, 9), np.ones((7, 700)))
            live = txn["a"].new(10, 2)
            held = [txn["a"][key] for key in range(9)]
            savepoint.rollback()
        for number in range(9):
            txn["a"].put(number, BIG * 3)
            txn["a"].append(0, BIG)
        live[:] = 7
    gc.collect()
    assert held[0].tolist() == [5, 6]
    assert held[1].tolist() == BIG.tolist()
    assert all((array == 1).all() for array in held[2:])
    assert live.tolist() == [7, 7]
    assert db["a"][1].tolist() == (BIG * 3).tolist()


def test_new_records_are_zeros_where_others_were_taken_back(db: sc.Database, txn: sc.Transaction) -> None:
    with txn:
        with txn.savepoint() as savepoint:
            txn["a"].put_many(range(3), np.ones((3, 300)))
            txn["a"].put(1, np.ones(200))
            txn["a"].delete_range(0, 1)
            savepoint.rollback()
        assert not txn["a"].new(3, 200).any()
    assert not db["a"].new(4, 200).any()


def test_objects_that_are_edited_have_the_values_of_then(db: sc.Database, txn: sc.Transaction) -> None:
    with txn:
        before = txn["p"].edit(1)
        before.n = 100
        with txn.savepoint():
            before.n = 101
        with txn.savepoint() as savepoint:
            before.n, since = 102, txn["p"].edit(2)
            since.n = 200
            assert pairs(txn["p"])[1] == (1, 102)
            savepoint.rollback()
        assert before.n == 101
        since.n = 201
        assert txn["p"].edit(1) is before
        before.x = 5
    assert (pairs(db["p"])[1], pairs(db["p"])[2]) == ((5, 101), (2, 2))


def test_changes_in_place_are_not_taken_back(db: sc.Database, txn: sc.Transaction) -> None:
    """As by an abort: they are stores to memory."""
    with txn:
        made = txn["a"].new(20, 1)
        with txn.savepoint() as savepoint:
            made[0] = 4
            txn["p"][1].n = 77
            savepoint.rollback()
    assert (db["a"][20].tolist(), db["p"][1].n) == ([4], 77)


def test_stores_that_were_created_since_refuse_to_work(db: sc.Database, txn: sc.Transaction) -> None:
    with txn:
        with txn.savepoint() as savepoint:
            made = txn.array_store("made", "u1")
            made[1] = [1]
            savepoint.rollback()
        for attempt in (lambda: made[1], lambda: made.put(1, [1]), lambda: len(made), lambda: list(made)):
            with pytest.raises(sc.StoreNotFound, match="taken back"):
                attempt()
        with pytest.raises(sc.StoreNotFound):
            txn["made"]
        with txn.savepoint():
            txn.object_store("made", Pair)[2] = Pair(1, 2)
        assert list(txn) == ["a", "made", "p"]
    assert pairs(db["made"]) == {2: (1, 2)}


def test_cursors_and_views_of_ranges_see_what_is_left(txn: sc.Transaction) -> None:
    with txn:
        cursor, keys = txn["a"].cursor(), txn["a"].keys(100)
        with txn.savepoint() as savepoint:
            txn["a"].put_many(range(100, 105), np.ones((5, 1)))
            assert cursor.seek(100)
            assert cursor.next()
            assert len(keys) == 5
            savepoint.rollback()
        assert not cursor.next()
        assert cursor.prev()
        assert cursor.key == 9
        assert not list(keys)


@pytest.mark.parametrize("end", ["rollback", "abort"])
def test_iterators_do_not_go_on_with_what_was_taken_back(txn: sc.Transaction, end: str) -> None:
    store = txn["a"]
    with txn, txn.savepoint() as savepoint:
        store.put_many(range(100), np.ones((100, 300)))
        started = [iter(store.items()), iter(store.values()), store.scan(batch_size=3)]
        for iterator in started:
            next(iterator)
        savepoint.rollback() if end == "rollback" else txn.abort()
        for iterator in started:
            with pytest.raises(sc.Error, match=r"taken back|aborted"):
                list(iterator)


def test_misuse_is_told(db: sc.Database, txn: sc.Transaction) -> None:
    savepoint = txn.savepoint()
    with pytest.raises(sc.Error, match="has not begun: use it as with"):
        savepoint.rollback()
    with savepoint:
        assert repr(savepoint) == "<Savepoint, which is open>"
        with txn.savepoint() as inner:
            with pytest.raises(sc.Error, match="began later is still open"):
                savepoint.rollback()
            txn["a"].put(1, [10])
        with pytest.raises(sc.Error, match="has ended"):
            inner.rollback()
        with pytest.raises(sc.Error, match="has begun before"), inner:
            pass
        savepoint.rollback()
        with pytest.raises(sc.Error, match="was taken back"):
            savepoint.rollback()
        txn["a"].put(2, [20])
    with txn.savepoint() as last:
        txn["a"].put(3, [30])
        txn.commit()
    with pytest.raises(sc.ClosedError, match="was committed"):
        last.rollback()
    with pytest.raises(sc.ClosedError, match="was committed"):
        txn.savepoint()
    with pytest.raises(sc.ClosedError, match="was committed"), savepoint:
        pass
    assert [db["a"][key].tolist() for key in (1, 2, 3)] == [[1], [20], [30]]
    with db.transaction() as other, other.savepoint():
        other["a"].put(4, [40])
        other.abort()
    with pytest.raises(ZeroDivisionError), db.transaction() as other, other.savepoint():
        other.commit()
        _ = 1 // 0
    assert db["a"][4].tolist() == [4]


def test_a_transaction_that_nobody_holds_ends_at_once(db: sc.Database, txn: sc.Transaction) -> None:
    txn.abort()
    gc.disable()
    try:
        savepoint = db.transaction().savepoint()
        db["a"].put(1, [2])  # by this thread, which has none open
        with pytest.raises(sc.ClosedError, match="given up"), savepoint:
            pass
    finally:
        gc.enable()


def test_one_that_is_left_with_another_open(db: sc.Database, txn: sc.Transaction) -> None:
    """By an exception both are taken back; without one that is an error, which aborts the transaction."""
    with pytest.raises(ZeroDivisionError), txn.savepoint():
        inner = txn.savepoint().__enter__()
        txn["a"].put(1, [10])
        _ = 1 // 0
    with pytest.raises(sc.Error, match="was taken back"):
        inner.rollback()
    txn["a"].put(2, [20])
    txn.commit()
    with pytest.raises(sc.Error, match="still open"), db.transaction() as other, other.savepoint():
        other.savepoint().__enter__()
        other["a"].put(3, [30])
    assert [db["a"][key].tolist() for key in (1, 2, 3)] == [[1], [20], [3]]


def test_a_savepoint_takes_no_memory_by_what_was_staged(db: sc.Database) -> None:
    db.array_store("a", "f8")
    with db.transaction() as txn:
        txn["a"].put_many(np.random.default_rng(0).permutation(200_000), np.zeros((200_000, 1)))
        for key in range(50_000):
            txn["a"].put(10**6 + key, [1])
        with txn.savepoint():
            txn["a"].get(5)  # what was put gets its place once
        tracemalloc.start()
        try:
            for key in range(100):
                with txn.savepoint() as savepoint:
                    txn["a"].put(key, [1])
                    txn["a"].get(key)
                    if key % 2:
                        savepoint.rollback()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 200_000
        txn.abort()


def test_taking_back_takes_no_memory_by_what_is_not_yet_in_the_file(open_db: OpenDB) -> None:
    db = open_db(sync=False)
    db.array_store("a", "f8")
    with db.transaction() as txn:
        for key in range(6000):
            with txn.savepoint():
                txn["a"].put(key, [1])
        tracemalloc.start()
        try:
            for key in range(10):
                with txn.savepoint() as savepoint:
                    txn["a"].put(key, [2])
                    with txn.savepoint():
                        txn["a"].put(key, [3])
                    savepoint.rollback()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 100_000
    assert (db["a"].read().values == 1).all()
    assert len(db["a"]) == 6000


def test_a_full_disk_in_a_savepoint(db: sc.Database, txn: sc.Transaction, monkeypatch: pytest.MonkeyPatch) -> None:
    """What found no space is taken back with the rest, and the transaction goes on."""

    def refuse(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with txn:
        txn["a"].put(1, [10])
        with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"), txn.savepoint():
            txn["a"].put(2, [20])
            patched.setattr(files, "reserve", refuse)
            txn["a"].put_many(range(100), np.ones((100, 700)))
        txn["a"].put(3, [30])
    assert [db["a"][key].tolist() for key in (1, 2, 3)] == [[10], [2], [30]]


@pytest.mark.parametrize("at", ["clear", "unlink"])
def test_taking_back_that_fails_leaves_a_transaction_that_can_only_be_aborted(
    db: sc.Database, txn: sc.Transaction, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(sc.Error, match="taking back a savepoint was interrupted: abort"), txn:
        txn["a"].put(1, [10])
        with txn.savepoint() as savepoint:
            change_all(txn)
            txn["a"].put_many(range(100), np.ones((100, 700)))
            with monkeypatch.context() as patched:
                patched.setattr(files, at, refuse)
                with pytest.raises(OSError, match="Input/output"):
                    savepoint.rollback()
            with pytest.raises(sc.Error, match="abort the transaction"):
                txn["a"].put(2, [20])
            with pytest.raises(sc.Error, match="abort the transaction"):
                savepoint.rollback()
    assert contents(db["a"]) == {key: [key] for key in range(10)}
    db["a"].put(2, [21])


@pytest.mark.parametrize("kind", ["taken back", "kept"])
def test_interrupts_that_the_transaction_survives(
    open_db: OpenDB, kind: str, seed: int, budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A savepoint is there whole or not at all, or the transaction goes no further, wherever Ctrl-C comes."""
    db = open_db(sync=False, chunk_size=16 << 10)
    db.array_store("a", "f8")
    db.object_store("p", Pair)
    interrupter = Interrupter()
    base = {key: [float(key)] for key in range(10)}

    def reset() -> None:
        with db.transaction() as txn:
            for name in ("a", "p"):
                txn[name].clear()
            txn["a"].put_many(range(10), np.arange(10.0)[:, None])
            txn["p"].put_many(range(5), [(n, n) for n in range(5)])
        if "made" in db:
            db.drop_store("made")

    def attempt() -> None:
        with db.transaction() as txn:
            txn["a"].append(0, [1])
            try:
                with txn.savepoint() as savepoint:
                    change_all(txn)
                    _ = txn["a"][4]
                    if kind == "taken back":
                        savepoint.rollback()
            except KeyboardInterrupt:
                pass
            txn["a"].append(0, [2])

    reset()
    count = interrupter.watch(attempt)[-1].number
    whole = contents(db["a"])
    without = base | {0: [0.0, 1.0, 2.0]}
    assert (whole == without) == (kind == "taken back")
    for at in random.Random(seed).sample(range(1, count + 1), min(count, int(60 * budget))):
        reset()
        error = interrupter.interrupt(attempt, at)
        assert error is None or isinstance(error, KeyboardInterrupt | sc.Error)
        if error is not None:
            del error
            db.close()  # a commit may have been cut short
            db = open_db(sync=False, chunk_size=16 << 10)
        found, has_made = contents(db["a"]), "made" in db
        if found not in (base, without):
            assert found == whole
            assert kind == "kept"
        assert has_made == (found not in (base, without))
        assert db.verify() == []


def test_transactions_of_shared_handles(open_db: OpenDB) -> None:
    """Another process sees nothing of what was taken back, nor does who follows the log."""
    mine, other = open_db(shared=True, chunk_size=16 << 10), open_db(shared=True)
    mine.array_store("a", "f8").put_many(range(10), np.arange(10.0)[:, None])
    mine.object_store("p", Pair).put_many(range(5), [(n, n) for n in range(5)])
    expected = {key: [float(key)] for key in range(10)}
    for db, number in ((mine, 100), (other, 101), (mine, 102)):
        with db.transaction() as txn:
            with txn.savepoint() as savepoint:
                change_all(txn)
                held = txn["a"][300]
                savepoint.rollback()
            txn["a"].put(number, [number])
        expected[number] = [float(number)]
        assert held.tolist() == BIG.tolist()
        for handle in (mine, other):
            assert contents(handle["a"]) == expected
            assert "made" not in handle
    assert len(os.listdir(os.path.join(mine.path, "chunks"))) == 2


def test_room_behind_records_goes_with_them(db: sc.Database, txn: sc.Transaction) -> None:
    """Another record of the same place and length has no room behind it."""
    store = txn["a"]

    def put(key: int, values: list[float]) -> None:
        store.put(key, values)
        len(store)  # gives it its place, and hands out no view

    with txn:
        with txn.savepoint() as savepoint:
            put(5, [1])
            store.append(5, [2])
            len(store)
            savepoint.rollback()
        put(4, [1])
        put(5, [1, 2])
        put(6, [7])
        store.append(5, [3])
    assert [db["a"][key].tolist() for key in (4, 5, 6)] == [[1], [1, 2, 3], [7]]


def test_ends_that_were_deleted_come_back(txn: sc.Transaction) -> None:
    with txn:
        for end, key in (("first_key", 0), ("last_key", 9)):
            with txn.savepoint() as savepoint:
                txn["a"].delete(key)
                assert getattr(txn["a"], end) != key
                savepoint.rollback()
            assert getattr(txn["a"], end) == key


@pytest.mark.parametrize("had_any", [False, True])
def test_attributes_are_taken_back(db: sc.Database, had_any: bool) -> None:
    db.array_store("a", "f8")
    if had_any:
        db.attrs["unit"], db["a"].attrs["unit"] = "K", "V"
    before = dict(db.attrs), dict(db["a"].attrs)
    with db.transaction() as txn:
        with txn.savepoint() as savepoint:
            txn.attrs["unit"] = "m"
            txn["a"].attrs["place"] = [1, 2]
            txn.array_store("made", "u1").attrs["unit"] = "s"
            assert dict(txn.attrs) == {"unit": "m"}
            savepoint.rollback()
        assert (dict(txn.attrs), dict(txn["a"].attrs)) == before
        with txn.savepoint():
            txn.attrs["kept"] = True
    assert (dict(db.attrs), dict(db["a"].attrs)) == (before[0] | {"kept": True}, before[1])
