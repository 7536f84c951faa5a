"""Provision: the space that is taken before a commit or a checkpoint, against what is written then."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

import structchunk as sc
from structchunk.disk import files
from structchunk.engine import provision
from structchunk.index.index import Index, Prepared

STORES = 50


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes of LevelDB's log each commit has taken space for."""
    taken: list[int] = []
    batch_size = provision._batch_size

    def note(prepared: Prepared) -> int:
        taken.append(batch_size(prepared))
        return taken[-1]

    monkeypatch.setattr(provision, "_batch_size", note)
    return taken


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many it has written there."""
    logged: list[int] = []
    apply = Index.apply

    def note(index: Index, commit: int, prepared: Prepared) -> None:
        before = index.leveldb.growth.logged
        apply(index, commit, prepared)
        logged.append(index.leveldb.growth.logged - before)

    monkeypatch.setattr(Index, "apply", note)
    return logged


def steps(db: sc.Database) -> Iterator[Callable[[], object]]:
    """Yield commits of each kind that changes much in the index."""
    names = [f"s{number}" for number in range(STORES)]

    def create() -> None:
        with db.transaction() as transaction:
            for name in names:
                transaction.array_store(name, "f8").put(1, [1.0])

    def put() -> None:
        with db.transaction() as transaction:
            for name in names:
                transaction[name].put(2, [1.0])

    yield create
    yield put
    yield lambda: db["s0"].put_many(np.random.default_rng(0).permutation(5000), np.ones((5000, 1)))
    yield lambda: db["s0"].delete_range(0, 4000)
    yield lambda: db.compact("s0")
    yield lambda: db.drop_store("s0")


def test_a_commit_takes_the_space_of_what_it_logs(db: sc.Database, taken: list[int], logged: list[int]) -> None:
    db.sync()
    for step in steps(db):
        step()
    assert len(taken) == len(logged) == 6
    assert all(size <= most <= 1.5 * size for size, most in zip(logged, taken, strict=True))


def test_who_closes_leaves_a_reserve_that_was_given_up(db: sc.Database) -> None:
    """Also after a write that failed, so that no checkpoint makes it anew before."""
    storage = db._storage
    db.array_store("s", "f8").put(1, [1.0])
    assert storage.reserve.give_up()
    storage.failure = "an earlier write failed"
    db.close()
    assert files.disk_size(storage.paths.reserve) >= provision.BASE_SIZE
