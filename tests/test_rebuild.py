"""rebuild_index(): from the chunk files alone, exactly the last committed state."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from crash import CHUNK_SIZE, Oracle, Planner, act, judge, shrink, work

import structchunk as sc

NewRoot = Callable[[], str]


def index_of(root: str) -> str:
    """Return the path of the index directory, which is alone."""
    (index,) = Path(root).glob("index-*")
    return str(index)


def remove(root: str, earlier: str) -> None:
    shutil.rmtree(index_of(root))


def damage(root: str, earlier: str) -> None:
    for name in Path(index_of(root)).iterdir():
        if name.suffix in (".ldb", ".log") or name.name.startswith("MANIFEST"):
            name.write_bytes(b"\xff" * 100 + name.read_bytes()[100:])


def behead(root: str, earlier: str) -> None:
    os.unlink(os.path.join(index_of(root), "CURRENT"))


def age(root: str, earlier: str) -> None:
    if os.path.isdir(earlier):
        shutil.rmtree(index_of(root))
        shutil.copytree(earlier, os.path.join(root, os.path.basename(earlier)))


def keep(root: str, earlier: str) -> None:
    pass


@pytest.mark.timeout(0)
@pytest.mark.parametrize("spoil", [keep, remove, damage, behead, age])
def test_random_histories(
    seed: int, budget: float, new_root: NewRoot, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[str, str], None]
) -> None:
    """Stores of both kinds, dropped and made again, deletes, aborts; and an open transaction at the end."""
    shrink(monkeypatch.setattr)
    for turn in range(round(6 * budget)):
        name = f"{seed} {spoil.__name__} {turn}"
        rng = random.Random(name)
        root, earlier = new_root(), new_root()
        oracle = Oracle()
        planner = Planner(name, oracle)
        with sc.open(root, chunk_size=CHUNK_SIZE) as db:
            db = work(db, oracle, planner, 10)
            db.close()
        earlier = shutil.copytree(index_of(root), os.path.join(new_root(), os.path.basename(index_of(root))))
        db = work(sc.open(root, chunk_size=CHUNK_SIZE), oracle, planner, rng.randint(1, 20))
        if rng.random() < 0.5:
            image = leave_uncommitted(db, planner, new_root())
            db.close()
        else:
            db.close()
            image = root
        spoil(image, earlier)
        sc.rebuild_index(image)
        with sc.open(image, "r+", chunk_size=CHUNK_SIZE) as db:
            judge(db, oracle, len(oracle.states) - 1)
            work(db, oracle, planner, 2).close()


def leave_uncommitted(db: sc.Database, planner: Planner, image: str) -> str:
    """Return a copy of a database as a kill would leave it, with a transaction half-way."""
    step = planner.next()
    while step.kind != "transaction":
        step = planner.next()
    with db.transaction() as transaction:
        for action in step.actions:
            act(transaction, action)
        shutil.copytree(db.path, image)
        transaction.abort()
    return image


def test_progress_is_told(new_root: NewRoot) -> None:
    root = new_root()
    with sc.open(root, chunk_size=CHUNK_SIZE) as db:
        for name in "abc":
            db.array_store(name, "u1").put_many(range(100), np.zeros((100, 300), "u1"))
    told: list[tuple[int, int]] = []
    sc.rebuild_index(root, progress=lambda done, total: told.append((done, total)))
    chunks = len(os.listdir(os.path.join(root, "chunks")))
    assert told == [(done, chunks) for done in range(chunks + 1)]


def test_a_million_records(tmp_path: Path) -> None:
    root = tmp_path / "million.sc"
    with sc.open(root, sync=False) as db:
        store = db.array_store("a", "<f8")
        for first in range(4):
            part = np.arange(first, 1_000_000, 4, np.uint64)
            store.put_many(part, part.astype("<f8").repeat(2), [2] * len(part))
        store.delete_range(10, 1000)
    shutil.rmtree(index_of(str(root)))
    sc.rebuild_index(root)
    with sc.open(root, "r+") as db:
        store = db["a"]
        assert len(store) == 1_000_000 - 990
        for batch in store.scan():
            assert (batch.values[::2] == batch.keys).all()
            assert (batch.lengths == 2).all()
        assert 10 not in store
        assert db.verify() == []


def test_refuses_an_open_database(new_root: NewRoot) -> None:
    with sc.open(new_root()) as db, pytest.raises(sc.LockedError):
        sc.rebuild_index(db.path)


def test_needs_a_database(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sc.rebuild_index(tmp_path)
