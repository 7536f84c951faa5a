"""Cursor: where it moves, where it stays, and what it sees of changes under it."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import numpy as np
import pytest
from mapping_contract import EDGES, Kind, kinds

import structchunk as sc


class Walker:
    """What a cursor must do, over a sorted list."""

    def __init__(self) -> None:
        self.key: int | None = None

    def move(self, keys: list[int], how: str, to: int = 0) -> bool:
        low = 0 if self.key is None else self.key + 1
        high = 2**64 if self.key is None else self.key
        found = {
            "seek": [key for key in keys if key >= to][:1],
            "first": keys[:1],
            "last": keys[-1:],
            "next": [key for key in keys if key >= low][:1],
            "prev": [key for key in keys if key < high][-1:],
        }[how]
        if found:
            self.key = found[0]
        return bool(found)


def agree(cursor: Any, walker: Walker) -> None:
    assert cursor.valid == (walker.key is not None)
    if walker.key is not None:
        assert cursor.key == walker.key
        assert type(cursor.key) is int
    else:
        with pytest.raises(sc.KeyNotFound, match="first"):
            _ = cursor.key
        with pytest.raises(sc.KeyNotFound):
            _ = cursor.value


@pytest.fixture
def store(db: sc.Database) -> sc.ArrayStore:
    store = db.array_store("floats", "f8")
    store.put_many([*EDGES, 5, 7], np.arange(6.0)[:, None])
    return store


def test_starts_on_no_record(store: sc.ArrayStore) -> None:
    agree(store.cursor(), Walker())


def test_walks_both_ways(store: sc.ArrayStore) -> None:
    cursor, keys = store.cursor(), list(store)
    assert [cursor.key for _ in range(9) if cursor.next()] == keys
    assert cursor.key == keys[-1]
    assert [cursor.key for _ in range(9) if cursor.prev()] == keys[-2::-1]
    assert cursor.key == 0
    assert cursor.value.tolist() == [0]


def test_next_and_prev_of_no_record_begin_at_the_ends(store: sc.ArrayStore) -> None:
    cursor = store.cursor()
    assert cursor.next()
    assert cursor.key == 0
    cursor = store.cursor()
    assert cursor.prev()
    assert cursor.key == 2**64 - 1


def test_seeks_the_key_or_just_above(store: sc.ArrayStore) -> None:
    cursor = store.cursor()
    for key, found in [(0, 0), (1, 5), (5, 5), (6, 7), (8, 2**32), (np.uint64(2**63 + 1), 2**64 - 1)]:
        assert cursor.seek(key)
        assert cursor.key == found
    del store[2**64 - 1]
    assert not cursor.seek(2**63 + 1)
    assert cursor.key == 2**64 - 1


def test_moves_nowhere_in_an_empty_store(db: sc.Database) -> None:
    cursor = db.array_store("none", "f8").cursor()
    assert not any([cursor.first(), cursor.last(), cursor.next(), cursor.prev(), cursor.seek(0)])
    agree(cursor, Walker())


def test_keeps_the_key_of_a_deleted_record(store: sc.ArrayStore) -> None:
    cursor = store.cursor()
    cursor.seek(5)
    del store[5]
    assert cursor.valid
    assert cursor.key == 5
    with pytest.raises(sc.KeyNotFound, match="5"):
        _ = cursor.value
    assert cursor.next()
    assert cursor.key == 7
    store[5] = [1.0]
    store[6] = [1.0]
    assert cursor.prev()
    assert cursor.key == 6


def test_reads_the_present_value(store: sc.ArrayStore) -> None:
    cursor = store.cursor()
    cursor.seek(5)
    store[5] = [1, 2]
    assert cursor.value.tolist() == [1, 2]


def test_of_a_snapshot_sees_its_commit(db: sc.Database, store: sc.ArrayStore) -> None:
    with db.snapshot() as snapshot:
        cursor = snapshot["floats"].cursor()
        store.clear()
        assert [cursor.key for _ in range(9) if cursor.next()] == sorted({*EDGES, 5, 7})
        assert cursor.value.tolist() == [3]
    with pytest.raises(sc.ClosedError):
        cursor.prev()


def test_of_a_transaction_sees_its_writes(db: sc.Database, store: sc.ArrayStore) -> None:
    with db.transaction() as txn:
        cursor = txn["floats"].cursor()
        assert cursor.seek(6)
        del txn["floats"][7]
        txn["floats"][6] = [9.0]
        assert cursor.prev()
        assert (cursor.key, cursor.value.tolist()) == (6, [9])
        assert cursor.next()
        assert cursor.key == 2**32
    with pytest.raises(sc.ClosedError):
        cursor.next()
    assert cursor.key == 2**32


@pytest.mark.parametrize("then", ["nothing", "get", "len", "append", "savepoint", "taken back"])
def test_of_a_transaction_sees_each_record_that_is_put(db: sc.Database, then: str) -> None:
    """Wherever such records are meanwhile."""
    db.array_store("a", "i8").put_many(range(0, 300, 10), np.zeros((30, 1)))
    with db.transaction() as txn:
        store = txn["a"]
        cursor = store.cursor()
        assert cursor.seek(0)
        for key in range(0, 290, 10):
            with txn.savepoint() if then == "taken back" else contextlib.nullcontext() as savepoint:
                store.put(key + 5, [1])
                if then == "get":
                    assert store.get(key + 5) is not None
                elif then == "len":
                    assert len(store) > 30
                elif then == "append":
                    store.append(1000, [1])
                elif then == "savepoint":
                    with txn.savepoint():
                        assert 1 not in store
                assert cursor.next() and cursor.key == key + 5
                if isinstance(savepoint, sc.Savepoint):
                    savepoint.rollback()
                    assert cursor.prev() and cursor.key == key
                    assert cursor.next() and cursor.key == key + 10
                    continue
            store.delete(key + 5) if key % 20 else store.put(key + 7, [2])
            assert cursor.next() and cursor.key == (key + 10 if key % 20 else key + 7)
            assert cursor.seek(key + 10)


@kinds
@pytest.mark.parametrize("page_rows", [2, 512])
@pytest.mark.parametrize("inside", [False, True])
def test_random_walks(
    db: sc.Database, kind: Kind, page_rows: int, inside: bool, seed: int, budget: float, monkeypatch: Any
) -> None:
    monkeypatch.setattr("structchunk.index.stored_rows.PAGE_ROWS", page_rows)
    monkeypatch.setattr("structchunk.index.store_index.GROUP_PAGES", 2)
    monkeypatch.setattr("structchunk.index.change.MIN_FOLD_ROWS", 8)
    rng = random.Random(seed)
    keys: set[int] = set()
    kind.open(db)
    txn = db.transaction() if inside else None
    store = kind.open(txn or db)
    cursor, walker = store.cursor(), Walker()
    for _ in range(int(600 * budget)):
        key = rng.choice([rng.randrange(40), rng.choice(EDGES)])
        how = rng.choice(["seek", "first", "last", *["next", "prev"] * 4, "put", "delete"])
        if how == "put":
            store[key] = kind.make(key % 7)
            keys.add(key)
        elif how == "delete":
            assert store.delete(key) == (key in keys)
            keys.discard(key)
        else:
            moved = getattr(cursor, how)(*([key] if how == "seek" else []))
            assert moved == walker.move(sorted(keys), how, key)
            agree(cursor, walker)
            if walker.key in keys:
                assert kind.plain(cursor.value) == kind.result(walker.key % 7)
    if txn is not None:
        txn.commit()
    assert list(db[kind.name]) == sorted(keys)
