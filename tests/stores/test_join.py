"""Aligned scans: what a join of dictionaries gives, as of one commit, without a copy where that is possible."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from conftest import OpenDB
from hypothesis import given
from hypothesis import strategies as st
from support import keys, rows_of_model

import structchunk as sc
from structchunk.runs.extent import RowArray, clip, intersect
from structchunk.runs.run import Run, shorten
from structchunk.stores.join import _collect, _join

Rows = list[tuple[int, tuple[list[Any], ...]]]


def rows_of(scan: Iterable[tuple[sc.Batch, ...]]) -> Rows:
    """Return what a scan yields, key by key, having checked that its batches are aligned."""
    rows: Rows = []
    for batches in scan:
        assert type(batches) is tuple
        assert all(np.array_equal(batch.keys, batches[0].keys) for batch in batches)
        assert len(batches[0])
        rows += [
            (key, tuple(batch[i].tolist() for batch in batches)) for i, key in enumerate(batches[0].keys.tolist())
        ]
    assert [key for key, _ in rows] == sorted(dict(rows))
    return rows


def join(*stores: dict[int, list[Any]], start: int = 0, stop: int = 2**64) -> Rows:
    shared = set(stores[0]).intersection(*stores)
    return [(key, tuple(store[key] for store in stores)) for key in sorted(shared) if start <= key < stop]


def fill(db: sc.Database, *models: dict[int, list[Any]]) -> list[str]:
    """Make a store of each dictionary, and return their names."""
    names = [f"store {i}" for i in range(len(models))]
    for name, model in zip(names, models, strict=True):
        store = db.array_store(name, "f8")
        store.put_many(
            list(model), [item for items in model.values() for item in items], [*map(len, model.values())]
        )
    return names


def spread(start: int, stop: int, step: int, length: int) -> dict[int, list[float]]:
    return {key: [float(key + i) for i in range(length)] for key in range(start, stop, step)}


# ---------------------------------------------------------------- the join


model_lists = st.lists(st.dictionaries(keys, st.just((4096, 1, 1, 0)), max_size=30), min_size=1, max_size=4)


@given(model_lists)
def test_intersect_is_the_intersection(models: list[dict[int, Any]]) -> None:
    made = [rows_of_model({key: (key, *row) for key, row in model.items()}) for model in models]
    expected = sorted(set(models[0]).intersection(*models))
    for rows in intersect(made):
        assert rows["key"].tolist() == expected


def runs_of(rows: RowArray, cuts: list[int]) -> Iterator[Run]:
    bounds = [0, *sorted(cuts), 2**64]
    parts = [clip(rows, low, high) for low, high in itertools.pairwise(bounds)]
    return iter([shorten(part, 8) for part in parts if len(part)])


@given(model_lists, st.lists(st.lists(keys, max_size=4), min_size=4, max_size=4), st.integers(0, 12))
def test_join_of_streams_is_the_intersection(
    models: list[dict[int, Any]], cuts: list[list[int]], row_count: int
) -> None:
    made = [rows_of_model({key: (key, *row) for key, row in model.items()}) for model in models]
    streams = [runs_of(rows, at) for rows, at in zip(made, cuts, strict=False)]
    joined = list(_collect(_join(streams), row_count))
    assert all(len(parts[0]) > row_count for parts in joined[:-1])
    for i in range(len(made)):
        found = [key for parts in joined for key in parts[i].keys.tolist()]
        assert found == sorted(set(models[0]).intersection(*models))


records = st.dictionaries(keys, st.lists(st.integers(-9, 9).map(float), max_size=3), max_size=25)


@given(
    models=st.lists(records, min_size=1, max_size=3),
    staged=st.lists(records, min_size=3, max_size=3),
    bounds=st.tuples(keys, keys).map(sorted),
    batch_size=st.integers(1, 30),
)
def test_is_the_join_of_dictionaries(
    tmp_path_factory: pytest.TempPathFactory,
    models: list[dict[int, Any]],
    staged: list[dict[int, Any]],
    bounds: list[int],
    batch_size: int,
) -> None:
    start, stop = bounds
    with sc.open(tmp_path_factory.mktemp("join") / "db", chunk_size=16 << 10, sync=False) as db:
        names = fill(db, *models)
        before = join(*models, start=start, stop=stop)
        with db.snapshot() as snapshot, db.transaction() as txn:
            fill(txn, *staged[: len(models)])  # type: ignore[arg-type]
            merged = [model | new for model, new in zip(models, staged, strict=False)]
            options: dict[str, Any] = dict(start=start, stop=stop, batch_size=batch_size)
            assert rows_of(txn.scan(*names, **options)) == join(*merged, start=start, stop=stop)
            assert rows_of(snapshot.scan(*names, **options)) == before
            assert rows_of(db.scan(*names, **options)) == before
        assert rows_of(db.scan(*names)) == join(*merged)
        assert db.verify() == []


# ---------------------------------------------------------------- batches


def test_batches_are_views_where_keys_agree(db: sc.Database) -> None:
    names = fill(db, spread(0, 200, 1, 2), spread(0, 200, 1, 1))
    (batches,) = db.scan(*names)
    for name, batch in zip(names, batches, strict=True):
        (alone,) = db[name].scan()
        assert np.shares_memory(batch.values, alone.values)
        assert not batch.values.flags.writeable
    assert batches[0].keys is batches[1].keys


def test_batches_are_views_where_the_shared_records_lie_together(db: sc.Database) -> None:
    names = fill(db, spread(0, 200, 1, 2), spread(50, 150, 1, 1))
    (batches,) = db.scan(*names)
    assert batches[0].keys.tolist() == list(range(50, 150))
    (alone,) = db[names[0]].scan()
    assert np.shares_memory(batches[0].values, alone.values)


def test_no_batch_has_more_records_than_asked_for(db: sc.Database) -> None:
    models = spread(0, 1000, 1, 1), spread(0, 1000, 3, 2)
    names = fill(db, *models)
    sizes = [len(time) for time, _ in db.scan(*names, batch_size=100)]
    assert sum(sizes) == 334
    assert max(sizes) == 100
    assert len(sizes) == 4
    assert rows_of(db.scan(*names, batch_size=100)) == join(*models)


def test_few_matches_come_in_few_batches(open_db: OpenDB) -> None:
    db = open_db(sync=False)
    dense, sparse = db.array_store("dense", "f8"), db.array_store("sparse", "f8")
    dense.put_many(range(300_000), np.arange(300_000.0)[:, None])
    sparse.put_many(range(0, 300_000, 10_000), np.zeros((30, 1)))
    (batches,) = db.scan("dense", "sparse")
    assert batches[0].values.tolist() == list(range(0, 300_000, 10_000))


def test_a_store_may_be_of_objects_or_empty_or_named_alone(db: sc.Database) -> None:
    names = fill(db, spread(0, 10, 1, 2), {})
    points = db.object_store("points", sc.Object.of(x=ctypes.c_double))
    points.put_many([3, 30, 5], [(3.0,), (30.0,), (5.0,)])
    ((values, objects),) = db.scan(names[0], "points")
    assert values.keys.tolist() == [3, 5]
    assert objects.values["x"].tolist() == [3.0, 5.0]
    assert list(db.scan(*names)) == []
    ((alone,),) = db.scan(names[0])
    assert len(alone) == 10


# ---------------------------------------------------------------- which commit


def test_all_stores_are_as_of_one_commit(db: sc.Database) -> None:
    names = fill(db, spread(0, 5000, 1, 1), spread(0, 5000, 1, 1))
    scan = db.scan(*names, batch_size=500)
    before = db[names[0]][4000].tolist()
    with db.transaction() as txn:
        for name in names:
            txn[name].put_many(range(5000), np.zeros((5000, 2)))
            txn[name].delete_range(4500)
    db.drop_store(names[1])
    rows = rows_of(scan)
    assert rows == join(spread(0, 5000, 1, 1), spread(0, 5000, 1, 1))
    assert dict(rows)[4000] == (before, before)


def test_outlives_compaction_and_its_batches_outlive_the_database(db: sc.Database) -> None:
    names = fill(db, spread(0, 2000, 1, 3), spread(0, 2000, 1, 1))
    db[names[0]].delete_range(0, 100)
    expected = rows_of(db.scan(*names))
    scan = db.scan(*names, batch_size=300)
    first = next(scan)
    db.compact()
    rest = list(scan)
    db.close()
    assert rows_of([first, *rest]) == expected


def test_ends_with_its_snapshot_transaction_or_database(db: sc.Database) -> None:
    names = ["left", "right"]
    for name in names:
        db.array_store(name, "f8").put_many(np.arange(300_000), np.zeros((300_000, 1)))
    with db.snapshot() as snapshot:
        of_snapshot = snapshot.scan(*names)
        next(of_snapshot)
    with pytest.raises(sc.ClosedError, match="snapshot"):
        list(of_snapshot)
    with db.transaction() as txn:
        of_transaction = txn.scan(*names, batch_size=10)
        next(of_transaction)
    with pytest.raises(sc.ClosedError, match="transaction"):
        list(of_transaction)
    of_database = db.scan(*names)
    next(of_database)
    db.close()
    with pytest.raises(sc.ClosedError):
        list(of_database)


def test_arguments_are_checked_at_the_call(db: sc.Database) -> None:
    (name,) = fill(db, spread(0, 3, 1, 1))
    with db.snapshot() as snapshot, db.transaction() as txn:
        for handle in (db, snapshot, txn):
            with pytest.raises(sc.StoreNotFound, match="nothing"):
                handle.scan(name, "nothing")
            with pytest.raises(ValueError, match="name at least one"):
                handle.scan()
            with pytest.raises(ValueError, match="batch_size is 0"):
                handle.scan(name, batch_size=0)
            with pytest.raises(TypeError, match="a key is an integer"):
                handle.scan(name, start="a")  # type: ignore[arg-type]
