"""append(): records get longer, without a copy for each, and nothing that was got before changes."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
from conftest import OpenDB
from live_copy import copy_live
from mapping_contract import Pair

import structchunk as sc
from structchunk.chunks.allocator import Allocator
from structchunk.disk import files
from structchunk.engine import growing
from structchunk.runs.extent import ROW, unpack_row

BIG = np.arange(700.0)


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of records that were copied to be made longer."""
    sizes: list[int] = []
    put_longer = Allocator.put_longer

    def note(self: Allocator, key: int, base: Any, data: bytes, *, is_growing: bool) -> Any:
        sizes.append(base[2] * self.heap.item_size)
        return put_longer(self, key, base, data, is_growing=is_growing)

    monkeypatch.setattr(Allocator, "put_longer", note)
    return sizes


def test_readers_and_snapshots_see_what_was_there(open_db: OpenDB) -> None:
    db = open_db(sync=False)
    store = db.array_store("a", "f8")
    store.put(1, [1, 2])
    held, snapshot, reader = store[1], db.snapshot(), open_db("r")
    since = db.last_commit
    for number in range(5):
        store.append(1, [number])
    assert store[1].tolist() == [1, 2, 0, 1, 2, 3, 4]
    assert held.tolist() == snapshot["a"][1].tolist() == reader["a"][1].tolist() == [1, 2]
    assert reader.refresh()
    assert reader["a"][1].tolist() == store[1].tolist()
    changes = list(db.changes(since))
    assert [change.batch()[0].tolist() for change in changes] == [[1, 2, *range(n + 1)] for n in range(5)]
    (net,) = db.changes(since, net=True)
    assert net.batch()[0].tolist() == store[1].tolist()
    snapshot.close()


def test_views_that_a_transaction_handed_out_stay(db: sc.Database) -> None:
    """Also those of records that are made longer where they lie."""
    store = db.array_store("a", "i8")
    held = []
    with db.transaction() as txn:
        for number in range(300):
            txn["a"].append(7, [number])
            if number % 3 == 0:
                held.append(txn["a"][7])
    assert all(array.tolist() == list(range(len(array))) for array in held)
    assert [len(array) for array in held] == list(range(1, 301, 3))
    assert store[7].tolist() == list(range(300))


def test_reads_in_between_cost_no_copy_for_each(db: sc.Database, copied: list[int]) -> None:
    """Of one that is the last of its chunk, nor of several that grow in turn."""
    store = db.array_store("a", "i8")
    store.put_many(range(3), np.zeros((3, 1)))
    with db.transaction() as txn:
        for number in range(1, 1000):
            txn["a"].append(0, [number])
            assert txn["a"][0][-1] == number
        for number in range(1, 500):
            for key in (1, 2):
                txn["a"].append(key, [number])
                assert txn["a"][key][-1] == number
    assert [store[key].tolist() for key in range(3)] == [list(range(1000)), list(range(500)), list(range(500))]
    assert sum(copied) < 3 * 2000 * 8
    assert len(copied) < 30


def test_savepoints_that_are_taken_back_cost_no_copy_for_each(db: sc.Database, copied: list[int]) -> None:
    """Unless the record was made longer where it lies: others may see that, so it goes on elsewhere."""
    store = db.array_store("a", "i8")
    store.put(7, np.arange(1000))
    held = []
    with db.transaction() as txn:
        for number in range(60):
            with txn.savepoint() as savepoint:
                txn["a"].append(7, [number])
                if number % 20 == 19:
                    held.append(txn["a"][7])
                if number % 2:
                    savepoint.rollback()
    assert len(copied) == 2
    assert store[7].tolist() == [*range(1000), *range(0, 60, 2)]
    assert [array[-2:].tolist() for array in held] == [[18, 19], [38, 39], [58, 59]]


def test_room_that_was_taken_back_is_for_others(db: sc.Database) -> None:
    """Also where a record lies then at the place of the one that had it, and is as long."""
    store = db.array_store("a", "i8")
    store.put_many([7, 8], [[0], [8]])
    with db.transaction() as txn:
        with txn.savepoint() as savepoint:
            txn["a"].append(7, [1])
            len(txn["a"])  # for which the record is copied, with room behind it
            savepoint.rollback()
        txn["a"][7] = [0, 1]
        txn["a"][9] = [9, 9]
        len(txn["a"])  # for which both get their places
        txn["a"].append(7, [2])
    assert {key: array.tolist() for key, array in store.items()} == {7: [0, 1, 2], 8: [8], 9: [9, 9]}


def test_what_a_transaction_makes_lies_back_to_back(db: sc.Database) -> None:
    """Nothing is wasted where records are not read in between, in whichever order they grow."""
    store = db.array_store("a", "i8")
    with db.transaction() as txn:
        for number in range(10):
            for key in (5, 3, 9, 1):
                txn["a"].append(key, [number] * (key + 1))
    (batch,) = store.scan()
    assert batch.keys.tolist() == [1, 3, 5, 9]
    assert db.stats()["a"].garbage == 0
    assert {key: array.tolist() for key, array in batch} == {
        key: [number for number in range(10) for _ in range(key + 1)] for key in (1, 3, 5, 9)
    }


def test_room_is_given_back_by_compaction(db: sc.Database) -> None:
    store = db.array_store("a", "f8")
    with db.transaction() as txn:
        for _ in range(20):
            for key in range(3):
                txn["a"].append(key, BIG[:100])
                _ = txn["a"][key]
    assert db.stats()["a"].garbage > 0
    before = {key: array.tolist() for key, array in store.items()}
    db.compact("a")
    assert db.stats()["a"].garbage == 0
    assert {key: array.tolist() for key, array in store.items()} == before
    store.append(1, [1])
    assert store[1].tolist() == [*before[1], 1]


def test_more_than_is_kept_in_memory(db: sc.Database, monkeypatch: pytest.MonkeyPatch, copied: list[int]) -> None:
    monkeypatch.setattr(growing, "MUCH", 4000)
    store = db.array_store("a", "f8")
    store.put(3, BIG)
    with db.transaction() as txn:
        for number in range(4000):
            txn["a"].append(number % 5, [number])
    expected = {key: [float(number) for number in range(4000) if number % 5 == key] for key in range(5)}
    expected[3] = [*BIG, *expected[3]]
    assert {key: array.tolist() for key, array in store.items()} == expected
    assert sum(copied) < 3 * (4000 + 700) * 8
    store.append(2, BIG)  # more than that at once
    assert store[2].tolist() == [*expected[2], *BIG]


def test_new_records_get_places_many_at_a_time(db: sc.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "MUCH", 2000)
    placed: list[int] = []
    forget = growing.Growing.forget

    def note(self: growing.Growing, keys: Collection[int]) -> None:
        placed.append(len(keys))
        forget(self, keys)

    monkeypatch.setattr(growing.Growing, "forget", note)
    store = db.array_store("a", "f8")
    with db.transaction() as txn:
        for number in range(600):
            txn["a"].append(number, [number])
    assert placed == [250, 250, 100]
    assert len(store) == 600


@pytest.mark.parametrize("ends", ["commit", "abort"])
def test_among_all_else(
    open_db: OpenDB, ends: str, seed: int, budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is done to a key before and after, and when it is read, a store is as a dictionary of lists."""
    monkeypatch.setattr(growing, "MUCH", 600)
    db = open_db(sync=False, chunk_size=16 << 10)
    store = db.array_store("a", "u1")
    before: dict[int, list[int]] = {}
    for turn in range(int(20 * budget)):
        rng = random.Random(f"{seed} {turn} {ends}")
        txn, state = db.transaction(), dict(before)
        for _ in range(rng.randrange(1, 120)):
            do_any(rng, txn["a"], state)
        assert {key: array.tolist() for key, array in txn["a"].items()} == dict(sorted(state.items()))
        getattr(txn, ends)()
        before = state if ends == "commit" else before
        do_any(rng, store, before)
        assert {key: array.tolist() for key, array in store.items()} == dict(sorted(before.items()))


def do_any(rng: random.Random, store: Any, state: dict[int, list[int]]) -> None:
    key, value = rng.randrange(12), [rng.randrange(256)] * rng.choice([0, 1, 5, 40])
    what = rng.choice(["append", "append", "append", "put", "new", "delete", "bulk", "range", "get", "len", "many"])
    if what == "append":
        store.append(key, value)
        state[key] = state.get(key, []) + value
    elif what == "put":
        store[key] = state[key] = value
    elif what == "new":
        store.new(key, 3)[:] = 4
        state[key] = [4, 4, 4]
    elif what == "delete":
        assert store.delete(key) == (state.pop(key, None) is not None)
    elif what == "bulk":
        store.put_many(range(key, key + 3), np.ones((3, 2)))
        state.update((other, [1, 1]) for other in range(key, key + 3))
    elif what == "range":
        gone = [other for other in state if key <= other < key + 2]
        assert store.delete_range(key, key + 2) == len(gone)
        for other in gone:
            del state[other]
    elif what == "get":
        assert store.get(key, np.empty(0)).tolist() == state.get(key, [])
        assert (key in store) == (key in state)
    elif what == "len":
        assert len(store) == len(state)
        assert (store.first_key, store.last_key) == (min(state, default=None), max(state, default=None))
    else:
        assert store.get_many(sorted(state)).values.tolist() == [
            item for _, v in sorted(state.items()) for item in v
        ]


def test_items_with_a_shape_and_structs(db: sc.Database) -> None:
    grid = db.array_store("grid", "i4", shape=(2, 3))
    grid.append(1, np.ones((2, 2, 3), "i4"))
    grid.append(1, np.full((1, 2, 3), 2))
    assert grid[1].shape == (3, 2, 3)
    assert grid[1][:, 0, 0].tolist() == [1, 1, 2]
    with pytest.raises(ValueError, match="shape"):
        grid.append(1, [1, 2])
    ticks = db.array_store("ticks", [("at", "M8[s]"), ("price", "f8")])
    with db.transaction() as txn:
        for price in range(3):
            txn["ticks"].append(5, [("2024-01-01", price)])
    assert ticks[5]["price"].tolist() == [0, 1, 2]


def test_nothing_appended(db: sc.Database) -> None:
    """It makes a record that is not there, and leaves one that is there as it is."""
    store = db.array_store("a", "f8")
    store.append(1, [])
    assert store[1].tolist() == []
    live = store.new(2, 2)
    last = db.last_commit
    store.append(2, [])
    store.append(1, [])
    assert db.last_commit == last
    live[:] = 5
    assert store[2].tolist() == [5, 5]
    assert store[2].flags.writeable


def test_a_record_of_new_is_taken_as_it_is(db: sc.Database) -> None:
    store = db.array_store("a", "f8")
    with db.transaction() as txn:
        live = txn["a"].new(2, 2)
        live[:] = 3
        txn["a"].append(2, [4])
        live[:] = 0
        assert txn["a"][2].tolist() == [3, 3, 4]
    live = store.new(1, 2)
    live[:] = 3
    store.append(1, [4])
    live[:] = 0
    assert store[1].tolist() == [3, 3, 4]
    assert not store[1].flags.writeable


def test_larger_than_a_chunk(db: sc.Database) -> None:
    store = db.array_store("a", "u1")
    with db.transaction() as txn:
        for _ in range(5):
            txn["a"].append(1, np.full(30_000, 7, "u1"))
            assert len(txn["a"][1]) % 30_000 == 0
    store.append(1, np.full(3 << 20, 8, "u1"))
    assert len(store[1]) == 150_000 + (3 << 20)
    assert (store[1][:150_000] == 7).all()
    assert (store[1][150_000:] == 8).all()


def test_a_full_disk_leaves_what_was_there(db: sc.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The read or commit that finds no space says so; what was appended can be committed when there is some."""
    store = db.array_store("a", "f8")
    store.put(1, [1])

    def refuse(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    txn = db.transaction()
    txn["a"].append(1, BIG)
    txn["a"].append(2, np.tile(BIG, 20))
    with monkeypatch.context() as patched:
        patched.setattr(files, "reserve", refuse)
        with pytest.raises(OSError, match="No space left"):
            txn["a"][2]
    txn["a"].append(1, [5])
    txn.commit()
    assert (len(store[1]), len(store[2])) == (702, 14_000)
    with monkeypatch.context() as patched:
        patched.setattr(files, "reserve", refuse)
        with pytest.raises(OSError, match="No space left"):
            store.append(1, np.tile(BIG, 20))
    assert len(store[1]) == 702


def test_a_rebuilt_index_and_a_copy_have_it(open_db: OpenDB) -> None:
    db = open_db(sync=False)
    store = db.array_store("a", "f8")
    store.put(1, [1])
    copy = f"{db.path}-copy"
    db.checkpoint(copy)
    with db.transaction() as txn:
        for number in range(50):
            txn["a"].append(1, [number])
            txn["a"].append(2, [number])
            _ = txn["a"][1 + number % 2]
    store.append(1, [99])
    expected = {key: array.tolist() for key, array in store.items()}
    db.checkpoint(copy, update=True)
    db.close()
    sc.rebuild_index(db.path)
    for path in (db.path, copy):
        with sc.open(path, "r+") as again:
            assert {key: array.tolist() for key, array in again["a"].items()} == expected
            assert again.verify() == []


def test_objects_are_not_made_longer(db: sc.Database) -> None:
    store = db.object_store("p", Pair)
    store[1] = Pair(1, 1)
    with pytest.raises(TypeError, match="is one object"):
        store.append(1, [Pair(2, 2)])


def test_the_last_record_is_made_longer_where_it_lies(open_db: OpenDB, copied: list[int]) -> None:
    """A commit for each call: no copy, no garbage, and each commit checks its own bytes alone."""
    db = open_db(sync=False)
    store = db.array_store("a", "f8")
    store.put_many([1, 2, 3], BIG.reshape(1, -1).repeat(3, axis=0))
    held, snapshot = store[3], db.snapshot()
    for number in range(100):
        store.append(3, [number, -number])
    with db.transaction() as txn:
        txn["a"].append(3, [7])
        assert txn["a"][3][-1] == 7
        txn["a"].append(3, [8])
    expected = [*BIG, *(value for number in range(100) for value in (number, -number)), 7, 8]
    assert copied == []
    assert db.stats()["a"].garbage == 0
    assert store[3].tolist() == expected
    assert held.tolist() == snapshot["a"][3].tolist() == BIG.tolist()
    snapshot.close()
    assert db.verify() == []
    db.close()
    sc.rebuild_index(db.path)
    db = open_db("r")
    assert db["a"][3].tolist() == expected


def test_a_record_behind_which_others_lie_is_copied(db: sc.Database, copied: list[int]) -> None:
    store = db.array_store("a", "f8")
    store.put(1, BIG)
    store.put(2, BIG)
    store.append(1, [1])  # this one is the last now
    store.append(1, [2])
    store.append(2, [3])
    assert copied == [BIG.nbytes, BIG.nbytes]
    assert store[1].tolist() == [*BIG, 1, 2]
    assert store[2].tolist() == [*BIG, 3]


def test_a_chunk_that_is_full_ends_a_record(db: sc.Database, copied: list[int]) -> None:
    store = db.array_store("a", "u1")
    store.put(1, np.zeros(1000, "u1"))
    with db.transaction() as txn:
        txn["a"].put(2, np.zeros(1000, "u1"))
    size = 1 << 20
    for _ in range(20):
        store.append(2, np.ones(size, "u1"))
    assert len(store[2]) == 1000 + 20 * size
    assert store[2][1000:].all()


def test_views_of_what_was_aborted_are_not_written_over(db: sc.Database, copied: list[int]) -> None:
    store = db.array_store("a", "i8")
    store.put(1, [1])
    with pytest.raises(KeyError), db.transaction() as txn:
        txn["a"].append(1, [2])
        held = txn["a"][1]
        raise KeyError
    store.append(1, [3])
    assert held.tolist() == [1, 2]
    assert store[1].tolist() == [1, 3]
    assert copied == [8]


def test_a_record_that_goes_on_from_another_one_is_found(db: sc.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    store = db.array_store("a", "f8")
    store.put_many([1, 2], np.arange(4.0).reshape(2, 2))
    put_behind = Allocator.put_behind

    def reach_too_low(self: Allocator, base: Any, data: bytes) -> bytes | None:
        key, offset, length, chunk, flags = unpack_row(put_behind(self, base, data) or b"")
        return ROW.pack(key, offset - 8, length + 1, chunk, flags)

    monkeypatch.setattr(Allocator, "put_behind", reach_too_low)
    store.append(2, [9])
    assert store[2].tolist() == [1, 2, 3, 9]
    problems = [problem.what for problem in db.verify()]
    assert problems == ["record 2 of commit 3, over others"]
    monkeypatch.undo()
    db.drop_store("a")


@pytest.mark.parametrize("times", [1, 3])
def test_an_only_record_that_a_savepoint_saw_shorter_survives_a_crash(open_db: OpenDB, times: int) -> None:
    """Its parts are written together, and checked as one."""
    db = open_db()
    db.array_store("a", "i8")
    with db.transaction() as txn:
        txn["a"].put(1, [1, 2])
        for number in range(times):
            with txn.savepoint():
                txn["a"].append(1, [number])
    assert db.verify() == []
    crashed = copy_live(db.path, f"{db.path}-crashed")
    with sc.open(crashed, "r+") as copy:
        assert copy.verify() == []
        assert copy["a"][1].tolist() == [1, 2, *range(times)]
