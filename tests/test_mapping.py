"""The mapping contract, against both kinds of store, got in every way."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import OpenDB
from mapping import KINDS, Kind, check_mapping, check_reading, check_refuses_writes, fill, kinds

import structchunk as sc


@pytest.fixture(params=[1, 32768], ids=["fold always", "fold late"])
def fold_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep rows in the delta, or move them to pages of two rows as soon as may be."""
    monkeypatch.setattr("structchunk.table.MIN_FOLD_ROWS", request.param)
    if request.param == 1:
        monkeypatch.setattr("structchunk.table.PAGE_ROWS", 2)


@kinds
@pytest.mark.usefixtures("fold_rows")
def test_from_a_database(db: sc.Database, kind: Kind) -> None:
    check_mapping(kind.open(db), kind)


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
def test_reopened(open_db: OpenDB, kind: Kind) -> None:
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
