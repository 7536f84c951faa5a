"""Snapshot: one commit, whatever comes after it."""

from __future__ import annotations

import gc
import random

import numpy as np
import pytest
from conftest import OpenDB
from mapping_contract import (
    KINDS,
    Kind,
    Model,
    Pair,
    all_raise,
    check_reading,
    check_refuses_writes,
    fill,
    kinds,
    reads,
)

import structchunk as sc


@pytest.fixture
def store(db: sc.Database) -> sc.ArrayStore:
    store = db.array_store("floats", "f8")
    store.put_many(range(10), np.arange(10.0)[:, None])
    return store


def test_keeps_showing_its_commit(db: sc.Database, store: sc.ArrayStore) -> None:
    with db.snapshot() as snapshot:
        assert type(snapshot) is sc.Snapshot
        number = snapshot.last_commit
        store[3] = [33.0]
        del store[4]
        store.put_many(range(100, 2000), np.zeros((1900, 1)))
        db.sync()
        seen = snapshot["floats"]
        assert [value.tolist() for value in seen.values()] == [[key] for key in range(10)]
        assert len(seen) == 10
        assert 100 not in seen
        assert snapshot.last_commit == number
    with db.snapshot() as later:
        assert later.last_commit > number
        assert later["floats"][3].tolist() == [33]
        assert len(later["floats"]) == 9 + 1900


def test_shows_no_open_transaction(db: sc.Database, store: sc.ArrayStore) -> None:
    with db.transaction() as txn, db.snapshot() as snapshot:
        txn["floats"][100] = [1.0]
        txn.array_store("made", "f8")
        assert len(snapshot["floats"]) == 10
        with db.snapshot() as another:
            assert len(another["floats"]) == 10
            assert "made" not in another
        txn.commit()
        assert 100 not in snapshot["floats"]
        assert "made" not in snapshot


def test_does_not_wait_for_a_writer(db: sc.Database, store: sc.ArrayStore) -> None:
    with db.transaction() as txn:
        txn["floats"].clear()
        with db.snapshot() as snapshot:
            assert len(snapshot["floats"]) == 10


def test_stores_are_those_of_the_commit(db: sc.Database, store: sc.ArrayStore) -> None:
    with db.snapshot() as snapshot:
        db.array_store("later", "f8")
        assert list(snapshot) == ["floats"]
        assert "later" not in snapshot
        with pytest.raises(sc.StoreNotFound, match="later"):
            snapshot["later"]
        with pytest.raises(sc.StoreNotFound):
            snapshot["none"]


def test_a_dropped_store_can_still_be_read(db: sc.Database, store: sc.ArrayStore) -> None:
    with db.snapshot() as snapshot:
        db.drop_store("floats")
        again = db.array_store("floats", "i4")
        again[1] = [7]
        seen = snapshot["floats"]
        assert seen.dtype == np.float64
        assert [value.tolist() for value in seen.values()] == [[key] for key in range(10)]
        assert seen[3].tolist() == [3]
        assert len(seen) == 10
        assert seen.get_many(range(10)).values.tolist() == list(range(10))
    assert again[1].tolist() == [7]


def test_live_records_show_their_present_bytes(db: sc.Database, store: sc.ArrayStore) -> None:
    pairs = db.object_store("pairs", Pair)
    made, live = pairs.new(1, n=1), store.new(20, 2)
    with db.snapshot() as snapshot:
        made.n = 2
        live[:] = 3
        assert snapshot["pairs"][1].n == 2
        assert snapshot["floats"][20].tolist() == [3, 3]
        assert not snapshot["floats"][20].flags.writeable


def test_closed_snapshots_refuse(db: sc.Database, store: sc.ArrayStore) -> None:
    snapshot = db.snapshot()
    seen = snapshot["floats"]
    kept, batch = seen[3], seen.get_many([4, 5])
    single = [attempt for attempt in reads(seen) if attempt.__name__ == "<lambda>"]
    attempts = [*single, lambda: snapshot["floats"], lambda: snapshot.last_commit, snapshot.__enter__]
    snapshot.close()
    snapshot.close()
    all_raise(attempts, sc.ClosedError, "snapshot")
    with pytest.raises(sc.ReadOnlyError):
        seen.put(1, [1.0])
    assert (kept.tolist(), batch.values.tolist()) == ([3], [4, 5])


def test_a_sweep_outlives_its_snapshot_or_says_so(db: sc.Database, store: sc.ArrayStore) -> None:
    snapshot = db.snapshot()
    sweep = snapshot["floats"].scan(batch_size=2)
    (first, second) = next(sweep).keys.tolist()
    snapshot.close()
    store.clear()
    try:
        rest = [key for batch in sweep for key in batch.keys.tolist()]
    except sc.ClosedError:
        return
    assert [first, second, *rest] == list(range(10))


def test_closing_the_database_ends_its_snapshots(open_db: OpenDB) -> None:
    db = open_db()
    db.array_store("floats", "f8")[1] = [1.0]
    snapshot = db.snapshot()
    seen = snapshot["floats"]
    db.close()
    for attempt in (lambda: seen[1], lambda: list(seen), lambda: seen.get_many([1]), lambda: len(seen)):
        with pytest.raises(sc.ClosedError):
            attempt()
    snapshot.close()
    with pytest.raises(sc.ClosedError):
        db.snapshot()


def test_a_forgotten_snapshot_does_no_harm(db: sc.Database, store: sc.ArrayStore) -> None:
    for _ in range(20):
        seen = db.snapshot()["floats"]
    gc.collect()
    assert len(seen) == 10
    store.clear()
    assert len(seen) == 10


@kinds
@pytest.mark.parametrize("fold_rows", [1, 8, 32768])
def test_many_snapshots_over_many_commits(
    db: sc.Database, kind: Kind, fold_rows: int, seed: int, budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("structchunk.index.change.MIN_FOLD_ROWS", fold_rows)
    monkeypatch.setattr("structchunk.index.stored_rows.PAGE_ROWS", 4)
    rng = random.Random(seed)
    store, model = kind.open(db), {}
    held: list[tuple[sc.Snapshot, Model]] = []
    for _ in range(int(60 * budget)):
        for key in rng.choices(range(60), k=rng.choice([1, 2, 20])):
            if rng.random() < 0.3:
                store.delete(key)
                model.pop(key, None)
            else:
                store[key] = kind.make(number := rng.randrange(50))
                model[key] = number
        if rng.random() < 0.2:
            held.append((db.snapshot(), dict(model)))
        snapshot, then = rng.choice(held) if held else (None, {})
        if snapshot is not None:
            assert kind.contents(snapshot[kind.name]) == {key: kind.result(then[key]) for key in sorted(then)}
    for snapshot, then in held[:1] + held[-1:]:
        check_reading(snapshot[kind.name], kind, then)
    for snapshot, _ in held:
        snapshot.close()
    check_reading(store, kind, model)


def test_refuses_all_writes(db: sc.Database) -> None:
    models = {kind.name: fill(kind.open(db), kind) for kind in KINDS}
    with db.snapshot() as snapshot:
        for kind in KINDS:
            check_refuses_writes(snapshot[kind.name], kind, models[kind.name])
