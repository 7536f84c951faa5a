"""rebuild_index(): from the chunk files alone, exactly the last committed state."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from live_copy import copy_live
from oracle import CHUNK_SIZE, Oracle, Planner, act, judge, shrink, work

import structchunk as sc
from structchunk.disk import files, superblock
from structchunk.engine import checkpoint, roll_forward
from structchunk.runs.extent import empty_rows
from structchunk.runs.run import ArrayRun

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
        copy_live(db.path, image)
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


def written(count: int) -> Any:
    """Return what says which rows were written to a store: so many."""
    return SimpleNamespace(runs=lambda: [ArrayRun(empty_rows(count))])


def test_small_stores_are_loaded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as memory is meant to hold; of a large one, a portion after the other."""
    monkeypatch.setattr(roll_forward, "LOAD_ROWS", 10)
    groups = roll_forward._in_groups({store: written(count) for store, count in enumerate((4, 4, 4, 6, 25))})
    assert [{store: sum(map(len, parts)) for store, parts in group.items()} for group in groups] == [
        {0: 4, 1: 4},
        {2: 4, 3: 6},
        {4: 10},
        {4: 10},
        {4: 5},
    ]


def test_refuses_an_open_database(new_root: NewRoot) -> None:
    with sc.open(new_root()) as db, pytest.raises(sc.LockedError):
        sc.rebuild_index(db.path)


def test_needs_a_database(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sc.rebuild_index(tmp_path)


# ---------------------------------------------------------------------- what is missing


def chunk_path(root: str, number: int) -> str:
    return os.path.join(root, "chunks", f"{number:08d}.chunk")


def put(db: sc.Database, *names: str, count: int = 1) -> None:
    """Make commits of one record in each of some stores, which are created if need be."""
    for name in names:
        db.array_store(name, "u1")
    for _ in range(count):
        with db.transaction() as transaction:
            for name in names:
                transaction[name].put(len(db[name]), [1] * 100)


def grow(root: str, *names: str) -> list[str]:
    """Make ten commits of several stores at once, then ten more; return copies of the chunk files between them."""
    with sc.open(root, chunk_size=CHUNK_SIZE) as db:
        put(db, *names, count=10)
    older = shutil.copytree(os.path.join(root, "chunks"), f"{root}.chunks")
    with sc.open(root, chunk_size=CHUNK_SIZE) as db:
        put(db, *names, count=10)
    return [os.path.join(older, name) for name in sorted(os.listdir(older))]


def check_refused(root: str, what: str, path: str, *, lose: bool) -> None:
    """Fail unless a database's index cannot be made anew, for a reason, and nothing changed."""
    if lose:
        shutil.rmtree(index_of(root))
    before = {path: path.read_bytes() for path in Path(root, "chunks").iterdir()}
    with pytest.raises(sc.CorruptionError, match=what) as caught:
        sc.rebuild_index(root)
    assert caught.value.path == path
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("lose", [True, False])
def test_an_older_copy_of_a_chunk_file(new_root: NewRoot, *, lose: bool) -> None:
    """Of one store alone: its commits are missing; beside another store in the same commits: parts of them."""
    alone, both = new_root(), new_root()
    (older,) = grow(alone, "a")
    shutil.copyfile(older, chunk_path(alone, 1))
    check_refused(
        alone, "commits 12 to 21, or parts of them, missing from 00000001", chunk_path(alone, 1), lose=lose
    )
    older = grow(both, "a", "b")[1]
    shutil.copyfile(older, chunk_path(both, 2))
    check_refused(both, "commits 13 to 22, or parts of them, missing from 00000002", chunk_path(both, 2), lose=lose)


def test_an_older_copy_of_a_chunk_file_beside_the_index(new_root: NewRoot) -> None:
    root = new_root()
    older = grow(root, "a", "b")[1]
    shutil.copyfile(older, chunk_path(root, 2))
    for mode in ("r", "r+"):
        with pytest.raises(sc.CorruptionError, match="ends with commit 12") as caught:
            sc.open(root, mode)
        assert caught.value.path == chunk_path(root, 2)


def test_a_commit_whose_segment_reads_as_zeros(new_root: NewRoot) -> None:
    root = new_root()
    grow(root, "a", "b")
    with open(chunk_path(root, 2), "r+b") as file:
        file.seek(CHUNK_SIZE - 64 - 10 * 96)
        file.write(bytes(96))
    check_refused(root, "commits 12 to 22, or parts of them, missing from 00000002", chunk_path(root, 2), lose=True)


def test_a_chunk_of_which_all_segments_read_as_zeros(new_root: NewRoot) -> None:
    """The first commit, which created its store, is missed from it, and not from others."""
    root = new_root()
    with sc.open(root, chunk_size=CHUNK_SIZE) as db:
        put(db, "a", "b")
    with open(chunk_path(root, 1), "r+b") as file:
        file.seek(CHUNK_SIZE // 2)
        file.write(bytes(CHUNK_SIZE // 2))
    check_refused(root, "missing from 00000001.chunk, expected", chunk_path(root, 1), lose=True)


def test_parts_of_two_histories(new_root: NewRoot) -> None:
    """A copy has the same database's uuid, and may have gone on in another way."""
    root, other = new_root(), new_root()
    with sc.open(root, chunk_size=CHUNK_SIZE) as db:
        put(db, "a", "b", count=3)
    shutil.copytree(root, other)
    with sc.open(root, chunk_size=CHUNK_SIZE) as db:
        put(db, "a", "b")
    with sc.open(other, chunk_size=CHUNK_SIZE) as db:
        put(db, "b")
    shutil.copyfile(chunk_path(other, 2), chunk_path(root, 2))
    what = "parts of different commits 6 in 00000001.chunk or 00000002.chunk"
    check_refused(root, what, chunk_path(root, 1), lose=True)


@pytest.mark.parametrize("how", ["compact", "drop", "copy"])
def test_chunks_that_went_for_good_are_not_missed(new_root: NewRoot, how: str) -> None:
    root = new_root()
    grow(root, "a", "b", "c")
    with sc.open(root, chunk_size=CHUNK_SIZE) as db:
        db["b"].delete_range(0, 7)
        for _ in range(3):
            db.compact("b")
            db["b"][100] = [1]
        if how != "compact":
            db.drop_store("a")
            put(db, "d", "c")
        if how == "copy":
            root = new_root()
            db.checkpoint(root)
    with sc.open(root) as db:
        expected = {name: list(db[name]) for name in db}
    shutil.rmtree(index_of(root))
    sc.rebuild_index(root)
    with sc.open(root, "r+") as db:
        assert {name: list(db[name]) for name in db} == expected
        assert db.verify() == []


def test_a_crash_before_the_superblock_tells_of_a_checkpoint(
    new_root: NewRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunks that it needs are found, and those that it let go do not come back."""
    root, image = new_root(), new_root()
    write_superblock = checkpoint.write_superblock

    def copy_before(*args: Any, **options: Any) -> superblock.Superblock:
        copy_live(root, image)
        return write_superblock(*args, **options)

    with sc.open(root, chunk_size=CHUNK_SIZE) as db:
        put(db, "a", "b", count=10)
        db["b"].delete_range(0, 7)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write_superblock", copy_before)
            db.compact("b")
    sc.rebuild_index(image)
    with sc.open(image, "r+") as db:
        assert {name: list(db[name]) for name in db} == {"a": list(range(10)), "b": [7, 8, 9]}
        assert db.verify() == []


@pytest.mark.parametrize("says_heads", [True, False])
@pytest.mark.parametrize("how", ["compact", "drop", "drop first"])
def test_an_older_copy_beside_chunks_that_went_for_good(
    new_root: NewRoot, monkeypatch: pytest.MonkeyPatch, how: str, *, says_heads: bool
) -> None:
    """Without the superblock's word that is missed which these cannot have had."""
    if not says_heads:
        forget_heads(monkeypatch)
    root = new_root()
    with sc.open(root, chunk_size=CHUNK_SIZE) as db:
        if how == "drop first":
            put(db, "c", "d")
            db.drop_store("c")
        put(db, "a", "b", count=5)
        if how == "compact":
            db["b"].delete_range(0, 3)
            db.compact("b")
    number = 3 if how == "drop first" else 1
    shutil.copyfile(chunk_path(root, number), f"{root}.older")
    with sc.open(root, chunk_size=CHUNK_SIZE) as db:
        put(db, "a", "b", count=5)
        if how == "drop":
            put(db, "c")
            db.drop_store("c")
    shutil.copyfile(f"{root}.older", chunk_path(root, number))
    shutil.rmtree(index_of(root))
    if not says_heads and how != "compact":
        sc.rebuild_index(root)  # for all that the commits say, the chunk that went had them
        return
    path = os.path.join(root, "chunks") if how == "drop first" else chunk_path(root, number)
    check_refused(root, f"commits .* missing from .*0000000{number}", path, lose=False)


def copy_at_each_unlink(root: str, work: Callable[[], object]) -> list[str]:
    """Do something, and return copies of the database as they are before each chunk file is unlinked, and after."""
    copies: list[str] = []
    unlink = files.unlink

    def copying(path: str) -> None:
        if path.endswith(".chunk"):
            copies.append(str(copy_live(root, f"{root}-{len(copies)}")))
        unlink(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "unlink", copying)
        work()
    return [*copies, str(copy_live(root, f"{root}-{len(copies)}"))]


def test_a_dropped_store_stays_dropped_while_its_chunks_go(new_root: NewRoot) -> None:
    """What says so is in the last one of them, which goes last: else the others would bring it back."""
    root = new_root()
    with sc.open(root, chunk_size=CHUNK_SIZE) as db:
        put(db, "kept", "a", count=CHUNK_SIZE // 40)
        copies = copy_at_each_unlink(root, lambda: [db.drop_store("a"), db.sync()])
    assert len(copies) > 3
    for copy in copies:
        remove(copy, "")
        sc.rebuild_index(copy)
        with sc.open(copy) as db:
            assert list(db) == ["kept"]
            assert db.verify() == []


def forget_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write superblocks as earlier versions did."""
    monkeypatch.setattr(superblock, "_with_heads", lambda slot, heads: slot)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_chunk_file_that_is_not_there(new_root: NewRoot, number: int) -> None:
    root = new_root()
    grow(root, "a", "b", "c")
    os.unlink(chunk_path(root, number))
    check_refused(root, "missing from", os.path.join(root, "chunks"), lose=True)
