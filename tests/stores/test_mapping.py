"""The mapping contract: both kinds of store, of databases, transactions and snapshots."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from conftest import OpenDB
from mapping_contract import ARRAYS, KINDS, Kind, check_mapping, check_reading, check_refuses_writes, fill, kinds

import structchunk as sc


@pytest.fixture(params=[1, 32768], ids=["fold always", "fold late"])
def fold_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep rows in the delta, or move them to pages of two rows as soon as may be."""
    monkeypatch.setattr("structchunk.index.change.MIN_FOLD_ROWS", request.param)
    if request.param == 1:
        monkeypatch.setattr("structchunk.index.stored_rows.PAGE_ROWS", 2)


@kinds
@pytest.mark.usefixtures("fold_rows")
def test_from_a_transaction(db: sc.Database, kind: Kind) -> None:
    with db.transaction() as txn:
        model = check_mapping(kind.open(txn), kind)
    check_reading(db[kind.name], kind, model)
    with db.transaction() as txn:
        check_reading(txn[kind.name], kind, model)
        txn[kind.name].clear()
        check_mapping(txn[kind.name], kind)
        txn.abort()
    check_reading(db[kind.name], kind, model)


@kinds
@pytest.mark.usefixtures("fold_rows")
def test_from_a_snapshot(db: sc.Database, kind: Kind) -> None:
    store = kind.open(db)
    model = fill(store, kind)
    with db.snapshot() as snapshot:
        check_refuses_writes(snapshot[kind.name], kind, model)
        store.clear()
        store[1] = kind.make(9)
        check_refuses_writes(snapshot[kind.name], kind, model)
    check_reading(store, kind, {1: 9})


@kinds
@pytest.mark.usefixtures("fold_rows")
def test_from_a_database_and_reopened(open_db: OpenDB, kind: Kind) -> None:
    with open_db(chunk_size=16 << 10, sync=False) as db:
        model = check_mapping(kind.open(db), kind)
    with open_db("r") as db:
        check_refuses_writes(db[kind.name], kind, model)
        check_reading(kind.open(db), kind, model)
    with open_db("r+") as db:
        check_reading(db[kind.name], kind, model)
        db[kind.name].clear()
        check_mapping(db[kind.name], kind)


@pytest.mark.usefixtures("fold_rows")
def test_both_kinds_in_one_transaction(db: sc.Database) -> None:
    with db.transaction() as txn:
        models: dict[str, Any] = {kind.name: check_mapping(kind.open(txn), kind) for kind in KINDS}
    for kind in KINDS:
        check_reading(db[kind.name], kind, models[kind.name])


# -- threads


@kinds
def test_pop_returns_what_it_deletes(db: sc.Database, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    store = kind.open(db)
    store[1] = kind.make(2)
    read = store._record

    def late(extent: Any) -> Any:
        """Read a record, and have another thread replace it then."""
        record = read(extent)
        monkeypatch.undo()
        store[1] = kind.make(3)
        return record

    monkeypatch.setattr(store, "_record", late)
    assert kind.plain(store.pop(1)) == kind.result(3)
    assert 1 not in store


@kinds
def test_setdefault_returns_what_another_thread_stored(
    db: sc.Database, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = kind.open(db)
    convert = store._items

    def late(value: Any) -> Any:
        """Convert a value, when another thread has stored its own."""
        monkeypatch.undo()
        store[1] = kind.make(3)
        return convert(value)

    monkeypatch.setattr(store, "_items", late)
    assert kind.plain(store.setdefault(1, kind.make(2))) == kind.result(3)


def test_many_threads_take_each_record_once(db: sc.Database) -> None:
    store = db.array_store("queue", "i8")
    store.put_many(range(200), np.arange(200)[:, None])
    taken: list[int] = []
    missed: list[Any] = []

    def take(first: int) -> None:
        for key in range(first, first + 100):
            found = store.pop(key, None)
            (missed if found is None else taken).append(key)
        while True:
            try:
                key, record = store.popitem()
            except sc.KeyNotFound:
                return
            assert record.tolist() == [key]
            taken.append(key)

    threads = [threading.Thread(target=take, args=[first]) for first in (0, 0, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(200))
    assert len(store) == 0


# -- what is shown


@kinds
def test_everything_can_be_shown_after_its_end(open_db: OpenDB, kind: Kind) -> None:
    with open_db(sync=False) as db:
        store = kind.open(db)
        fill(store, kind)
        txn, snapshot, cursor = db.transaction(), db.snapshot(), store.cursor()
        cursor.first()
        handles = [store, txn[kind.name], snapshot[kind.name]]
        views = [
            view for handle in handles for view in (handle.keys(), handle.values(3, 9), handle.items(reverse=True))
        ]
        batch, found = store.read(), store[3]
        assert "10 records" in repr(store)
        assert repr(txn).endswith("open>")
        assert "1 stores" in repr(snapshot)
        txn.abort()
        snapshot.close()
        assert repr(txn).endswith("which was aborted>")
        assert repr(snapshot) == "<Snapshot, closed>"
        assert "closed" in repr(handles[1])
        assert "closed" in repr(handles[2])
    for handle in handles:
        assert repr(handle) == f"<{type(handle).__name__} {kind.name!r} of {store.dtype}, closed>"
    assert all(repr(view).endswith(", closed>") for view in views)
    assert repr(cursor) == "<Cursor at key 0>"
    assert repr(batch).startswith("Batch(10 records")
    assert repr(db).endswith("closed>")
    assert repr(found)


def test_dropped_stores_can_be_shown(db: sc.Database) -> None:
    store = ARRAYS.open(db)
    view = store.keys(3, 9)
    db.drop_store("array")
    assert "dropped" in repr(store)
    assert "dropped" in repr(view)
