"""What is given back: the disk space that LevelDB holds, what readers replay of its log, memory of what is left."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import files_below

import structchunk as sc
from structchunk.disk import files
from structchunk.index import leveldb
from structchunk.index.leveldb import LevelDB

ROW_COUNT = 100_000


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sc.Database]:
    with sc.open(tmp_path / "d.sc", sync=False) as db:
        yield db
        assert db.verify() == []
    with sc.open(tmp_path / "d.sc") as db:
        assert db.verify() == []


def index_size(db: sc.Database, suffix: str = "") -> int:
    [directory] = Path(db.path).glob("index-*")
    return sum(status.st_size for status in files_below(directory, suffix))


def fill(db: sc.Database, name: str, seed: int = 0) -> None:
    keys = np.random.default_rng(seed).permutation(ROW_COUNT).astype("u8")
    db.array_store(name, "f8").put_many(keys, np.ones((ROW_COUNT, 1)))


@pytest.mark.parametrize("step_size", [32 << 20, 1 << 18])
@pytest.mark.parametrize("names", [(), ("a",)])
def test_compact_gives_back_what_the_index_held(
    db: sc.Database, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], step_size: int
) -> None:
    monkeypatch.setattr(leveldb, "_STEP_SIZE", step_size)
    for seed in range(3):
        fill(db, "a", seed)
    fill(db, "b")
    kept = dict(db["b"].items(stop=100))
    db["a"].delete_range(100, ROW_COUNT)
    db.sync()
    assert index_size(db) > 6 << 20
    db.compact(*names)
    assert index_size(db) < (4 << 20 if names else 1 << 20)
    assert len(db["a"]) == 100
    assert len(db["b"]) == ROW_COUNT
    assert db["b"].get_many(list(kept)).values.tolist() == [1] * 100


def test_compact_gives_back_what_the_index_held_of_dropped_stores(db: sc.Database) -> None:
    fill(db, "a")
    fill(db, "b")
    db.drop_store("a")
    db.drop_store("b")
    db.compact()
    assert index_size(db) < 1 << 20


def test_compact_leaves_the_index_where_there_is_no_room(db: sc.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(db, "a")
    fill(db, "a", 1)
    before = index_size(db, ".ldb")
    monkeypatch.setattr(files, "free_size", lambda path: 0)
    db.compact()
    assert index_size(db, ".ldb") >= before
    db["a"][1] = [1.0]


def test_compacting_an_index_again_does_nothing(tmp_path: Path) -> None:
    made = LevelDB.create(str(tmp_path / "index"))
    made.write([(b"%07d" % number, bytes(100)) for number in range(50_000)])
    made.compact(b"0", b"9")
    tables = sorted(path.name for path in (tmp_path / "index").glob("*.ldb"))
    made.compact(b"0", b"9")
    assert sorted(path.name for path in (tmp_path / "index").glob("*.ldb")) == tables
    assert made.read(b"0000007", b"0000009", 9) == [(b"0000007", bytes(100)), (b"0000008", bytes(100))]
    made.close()


def test_a_reader_has_little_to_replay(tmp_path: Path) -> None:
    """Beside the log that is written there are the one that becomes a table, and one that is to be removed."""
    made = LevelDB.create(str(tmp_path / "index"))
    for number in range(80):
        made.write([(b"%07d" % key, bytes(100)) for key in range(1000 * number, 1000 * (number + 1))])
        assert sum(files.disk_size(str(path)) for path in (tmp_path / "index").glob("*.log")) < 7 << 20
    made.close()


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize(
    "start",
    [
        lambda store: store.scan(),
        lambda store: iter(store.items()),
        lambda store: iter(store.keys()),
        lambda store: iter(store.values()),
        reversed,
    ],
    ids=["scan", "items", "keys", "values", "reversed"],
)
def test_what_is_left_half_way_holds_little(
    db: sc.Database, start: Callable[[Any], Iterator[Any]], *, scattered: bool
) -> None:
    if scattered:
        fill(db, "a")
    else:
        db.array_store("a", "f8").put_many(np.arange(ROW_COUNT, dtype="u8"), np.ones((ROW_COUNT, 1)))
    store = db["a"]

    def begin() -> Iterator[Any]:
        reading = start(store)
        next(reading)
        return reading

    begin()
    gc.collect()
    tracemalloc.start()
    try:
        left = [begin() for _ in range(10)]
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] / len(left) < 200_000
    finally:
        tracemalloc.stop()
