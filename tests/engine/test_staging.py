"""What one transaction has changed: records that are put alone get their places many at a time."""

from __future__ import annotations

import errno
import os
import random
from typing import Any

import numpy as np
import pytest
from conftest import OpenDB

from structchunk.chunks import allocator
from structchunk.database.transaction import stagings_by_name
from structchunk.disk import files
from structchunk.engine import staging
from structchunk.runs.run import ContiguousRun

KEYS = 300


def check(store: Any, expected: dict[int, list[int]]) -> None:
    """Find the records in order, and each by its key."""
    assert {key: array.tolist() for key, array in store.items()} == expected
    assert len(store) == len(expected)
    assert [store[key].tolist() for key in expected] == list(expected.values())


class Steps:
    """Writes of all kinds in one transaction, and the same to a dictionary."""

    def __init__(self, store: Any, state: dict[int, list[int]], rng: random.Random) -> None:
        self.store = store
        self.state = state
        self.rng = rng

    def record(self) -> list[int]:
        return [self.rng.randrange(256) for _ in range(self.rng.choice([0, 1, 3, 50]))]

    def keys(self, most: int) -> list[int]:
        count = self.rng.randrange(1, most)
        if self.rng.random() < 0.5:
            return self.rng.choices(range(KEYS), k=count)
        first = self.rng.randrange(KEYS)
        return list(range(first, min(KEYS, first + count)))

    def put(self) -> None:
        for key in self.keys(self.rng.choice([3, 20, 500])):
            self.store[key] = self.state[key] = self.record()

    def put_large(self) -> None:
        key = self.keys(2)[0]
        self.store[key] = np.full(70_000, 8, "u1")
        self.state[key] = [8] * 70_000

    def put_many(self) -> None:
        keys = self.keys(40)
        self.store.put_many(keys, np.full((len(keys), 2), len(keys)))
        self.state.update((key, [len(keys)] * 2) for key in keys)

    def new(self) -> None:
        key = self.keys(2)[0]
        self.store.new(key, 3)[:] = 5
        self.state[key] = [5] * 3

    def delete(self) -> None:
        for key in self.keys(5):
            if key in self.state:
                del self.store[key], self.state[key]

    def delete_many(self) -> None:
        keys = self.keys(30)
        self.store.delete_many(keys)
        for key in keys:
            self.state.pop(key, None)

    def delete_range(self) -> None:
        start, stop = sorted(self.keys(20)[:1] * 2)
        self.store.delete_range(start, stop + 30)
        for key in range(start, stop + 30):
            self.state.pop(key, None)

    def get(self) -> None:
        for key in self.keys(10):
            found = self.store.get(key)
            assert (None if found is None else found.tolist()) == self.state.get(key)

    def scan(self) -> None:
        check(self.store, dict(sorted(self.state.items())))


@pytest.mark.parametrize("ends", ["commit", "abort"])
def test_puts_among_all_else(
    open_db: OpenDB, ends: str, seed: int, budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is put, deleted and read in turn, a transaction and what comes of it are as a dictionary."""
    for module in (allocator, staging):
        monkeypatch.setattr(module, "SPILL_SIZE", 1000)
    db = open_db(sync=False, chunk_size=64 << 10)
    store = db.array_store("a", "u1")
    before: dict[int, list[int]] = {}
    for round_ in range(max(1, int(16 * budget))):
        rng = random.Random(f"{seed} {round_} {ends}")
        transaction = db.transaction()
        steps = Steps(transaction["a"], dict(before), rng)
        kinds = [steps.put] * 4 + [
            steps.put_large,
            steps.put_many,
            steps.new,
            steps.delete,
            steps.delete_many,
            steps.delete_range,
        ]
        for _ in range(rng.randrange(1, 25)):
            rng.choice([*kinds, steps.get, steps.get, steps.scan])()
        getattr(transaction, ends)()
        if ends == "commit":
            before = steps.state
        else:
            store[round_] = before[round_] = [round_]
        check(store, dict(sorted(before.items())))


@pytest.mark.parametrize("count", [4000, 4010, 6000])
def test_puts_in_order_of_key_stay_runs(open_db: OpenDB, count: int, monkeypatch: Any) -> None:
    """Wherever a chunk is full, and however few come last: else all rows are copied again and again."""
    monkeypatch.setattr(allocator, "SPILL_SIZE", 1000)
    db = open_db(chunk_size=64 << 10, sync=False)
    store = db.array_store("a", "u1")
    with db.transaction() as txn:
        for key in range(count):
            txn["a"].put(key, [key % 256] * 7)
        _, (changed,) = stagings_by_name(txn, ["a"])
        assert {type(run) for run in changed.all_runs()} == {ContiguousRun}
    check(store, {key: [key % 256] * 7 for key in range(count)})


def test_large_records_are_not_copied_to_be_placed_at_once(open_db: OpenDB, monkeypatch: Any) -> None:
    """Ten of them are as many as are collected."""
    placed: list[int] = []
    put_many = allocator.Allocator.put_many

    def note(self: allocator.Allocator, keys: Any, items: Any, *args: Any) -> Any:
        placed.append(items.nbytes)
        return put_many(self, keys, items, *args)

    monkeypatch.setattr(allocator.Allocator, "put_many", note)
    db = open_db(chunk_size=8 << 20, sync=False)
    store = db.array_store("a", "u1")
    with db.transaction() as txn:
        for key in range(300):
            txn["a"].put(key, np.full(100_000, key % 256, "u1"))
    assert sum(placed) < 1 << 20
    assert [(len(array), array[0], array[-1]) for array in store.values()] == [
        (100_000, key % 256, key % 256) for key in range(300)
    ]


def test_a_record_put_again_takes_the_place_of_the_first(open_db: OpenDB) -> None:
    """Of a key that is put many times only the last record is stored."""
    db = open_db(sync=False)
    store = db.array_store("a", "u1")
    with db.transaction() as transaction:
        for number in range(1000):
            transaction["a"][7] = [number % 256] * 100
    check(store, {7: [999 % 256] * 100})
    assert db.stats()["a"].garbage == 0


def refuse(path: str, offset: int, size: int, file: files.File | None = None) -> None:
    """Reserve no space."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


@pytest.mark.parametrize("count", [1, 100])
def test_a_put_on_a_full_disk_leaves_those_before(open_db: OpenDB, count: int, monkeypatch: Any) -> None:
    """A put that finds no space raises, and those before it in the transaction can be read and committed."""
    db = open_db(sync=False, chunk_size=1 << 20)
    store = db.array_store("a", "u1")
    transaction = db.transaction()
    for key in range(count):
        transaction["a"][key] = [key]

    with monkeypatch.context() as patched:
        patched.setattr(files, "reserve", refuse)
        with pytest.raises(OSError, match="No space left"):
            transaction["a"][count] = [1] * (100 << 10)
    transaction["a"][count] = [2]
    transaction.commit()
    check(store, {**{key: [key] for key in range(count)}, count: [2]})


def test_puts_after_an_interrupted_one_have_their_room(open_db: OpenDB, monkeypatch: Any) -> None:
    """Of records that were put no more collect than there is room for, whatever was cut short before."""
    monkeypatch.setattr(allocator, "SPILL_SIZE", 1000)
    db = open_db(sync=False, chunk_size=1 << 20)
    db.array_store("a", "u1")
    transaction = db.transaction()
    store = transaction["a"]
    for key in range(10):
        store[key] = np.full(30_000, 1, "u1")
    place_many = staging.Staging._place_many

    def cut_short(*args: Any) -> None:
        place_many(*args)
        monkeypatch.setattr(staging.Staging, "_place_many", place_many)
        raise KeyboardInterrupt

    monkeypatch.setattr(staging.Staging, "_place_many", cut_short)
    state: dict[int, list[int]] = {}
    with pytest.raises(KeyboardInterrupt):
        for key in range(100, 1000):
            store[key] = state[key] = [key % 256] * 30
    monkeypatch.setattr(files, "reserve", refuse)
    with pytest.raises(OSError, match="No space left"):
        for key in range(1000, 20_000):
            store[key] = state[key] = [key % 256] * 30
    found = {key: array.tolist() for key, array in store.items(start=100)}
    assert found == state
    transaction.abort()


def test_objects_and_arrays_of_both_kinds(open_db: OpenDB) -> None:
    """Records that may change in place and those that may not keep their kinds, when put in turn."""
    db = open_db(sync=False)
    db.array_store("a", "u1")
    with db.transaction() as transaction:
        for key in range(40):
            transaction["a"][key] = [key]
            if key % 3 == 0:
                transaction["a"].new(key, 1)[:] = [key]
    assert [key for key, array in db["a"].items() if array.flags.writeable] == list(range(0, 40, 3))
