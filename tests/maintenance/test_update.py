"""checkpoint(dest, update=True): a copy brought forward is what a new one would be, and costs what changed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copied import Point, write_little, write_much
from live_copy import copy_live
from oracle import CHUNK_SIZE, Contents, Oracle, Planner, contents, number, shrink, work

import structchunk as sc
from structchunk.disk.superblock import read_superblock
from structchunk.index import change, store_index
from structchunk.maintenance.chunk_copies import Source

NewRoot = Callable[[], str]
OpenDB = Callable[..., sc.Database]


def fill(db: sc.Database) -> None:
    """Make stores of every kind, most of them over several chunks."""
    plain = db.array_store("plain", "f8")
    for start in range(0, 4000, 500):
        plain.put_many(range(start, start + 500), np.arange(start * 3, start * 3 + 1500.0).reshape(500, 3))
    plain.delete_range(100, 300)
    db.object_store("points", Point).put_many(range(2000), [(key, -key) for key in range(2000)])
    mixed = db.array_store("mixed", "i4")
    mixed.new(1, 10)[:] = 7
    mixed.put_many(range(10, 3010), np.arange(9000).reshape(3000, 3))
    db.array_store("empty", "u1")
    db.array_store("gone", "u1").put(1, [1])
    db.drop_store("gone")


def look(root: str) -> Contents:
    """Return what a database holds, having checked it, without opening it for writing."""
    with sc.open(root, "r") as db:
        assert db.verify() == []
        return contents(db)


def check_equal(root: str, db: sc.Database) -> None:
    """Fail unless a copy is what a new one would be; so is one whose index is made from its chunks alone."""
    expected = contents(db)
    assert look(root) == expected
    with sc.open(root, "r") as copy:
        assert number(copy) == number(db)
        mine, theirs = copy.stats(), db.stats()
        for name in theirs:
            assert mine[name].records == theirs[name].records == len(copy[name])
            assert (mine[name].live, mine[name].garbage) == (theirs[name].live, theirs[name].garbage)
            assert [chunk._replace(disk_size=0) for chunk in mine[name].chunks] == [
                chunk._replace(disk_size=0) for chunk in theirs[name].chunks
            ]
    alone = f"{root}-alone"
    shutil.copytree(root, alone)
    with sc.open(alone, "r+") as copy:
        assert copy.verify() == []
        assert contents(copy) == expected
    sc.rebuild_index(alone)
    assert look(alone) == expected
    shutil.rmtree(alone)


# ---------------------------------------------------------------------- what is brought forward


def abort_much(db: sc.Database) -> None:
    """A view of what was stored makes the abort leave a gap."""
    with contextlib.suppress(ZeroDivisionError), db.transaction() as transaction:
        for name in ("plain", "mixed"):
            transaction[name].put_many(range(10**6, 10**6 + 400), np.full((400, 3), 8))
            dict(transaction[name].items())
        _ = 1 / 0
    write_little(db)


def change_in_place(db: sc.Database) -> None:
    for point in db["points"].values():
        point.n = 99
    db["mixed"][1][3:] = 99


def make_sparse(db: sc.Database) -> None:
    db["mixed"].new(2, 40_000)[20_000] = 5


def compact(db: sc.Database) -> None:
    db["plain"].delete_range(0, 1000)
    db.compact()
    write_little(db)


def compact_twice(db: sc.Database) -> None:
    """Chunks that were made in between are in no copy, and tombstones are gone."""
    db["plain"].delete_range(0, 1500)
    db.compact()
    write_much(db)
    db["points"].delete_range(0, 10000)
    db["plain"].delete_range(0, 2000)
    db.compact()


def drop(db: sc.Database) -> None:
    for name in ("plain", "points"):
        db.drop_store(name)
    db.array_store("new", "u1").put(1, [1])


def drop_and_create(db: sc.Database) -> None:
    """A store of the same name, of another type."""
    db.drop_store("plain")
    db.object_store("plain", Point).put_many(range(3000), [(key, key) for key in range(3000)])
    db["plain"].delete(5)


def nothing(_: sc.Database) -> None:
    """Change nothing at all."""


ACTIONS = [
    *(nothing, write_little, write_much, abort_much, change_in_place, make_sparse),
    *(compact, compact_twice, drop, drop_and_create),
]


@pytest.mark.parametrize("action", ACTIONS)
def test_copy_is_what_a_new_one_would_be(db: sc.Database, tmp_path: Path, action: Callable[..., None]) -> None:
    fill(db)
    dest = str(tmp_path / "copy.sc")
    db.checkpoint(dest, update=True)
    for _ in range(2):
        action(db)
        assert db.checkpoint(dest, update=True) is None
        check_equal(dest, db)
        if action in (drop, drop_and_create):
            break
    write_much_where_possible(db)
    db.checkpoint(dest, update=True)
    check_equal(dest, db)
    assert sorted(os.listdir(tmp_path)) == ["copy.sc", "test.sc"]
    assert not os.path.lexists(f"{dest}/update")


def write_much_where_possible(db: sc.Database) -> None:
    for name in db:
        if db[name].dtype == "f8":
            db[name].put_many(range(10**6, 10**6 + 3000), np.full((3000, 3), 3))


def test_copies_are_independent_after_an_update(db: sc.Database, tmp_path: Path) -> None:
    """Whatever is written to either, the other does not change: not what is linked, nor what was appended."""
    fill(db)
    dest = str(tmp_path / "copy.sc")
    db.checkpoint(dest)
    write_much(db)
    db.checkpoint(dest, update=True)
    expected = contents(db)
    with sc.open(dest, chunk_size=CHUNK_SIZE) as copy:
        write_much(copy)
        copy["plain"].put(1, [77.0])
        change_in_place(copy)
        compact(copy)
    assert contents(db) == expected
    with sc.open(dest) as copy:
        expected = contents(copy)
        compact(db)
        change_in_place(db)
        assert contents(copy) == expected
        assert copy.verify() == []


def test_changes_in_place_are_copied_by_block(disk_db: sc.Database, disk_path: Path) -> None:
    db = disk_db
    store = db.array_store("a", "u1")
    array = store.new(1, 1 << 22)
    store.put(2, [2] * 1000)
    array[0], array[1 << 21] = 1, 1
    dest = str(disk_path / "copy.sc")
    db.checkpoint(dest)
    array[(1 << 21) + 5] = 9
    array[(1 << 22) - 1] = 9
    db.sync()
    before = written()
    db.checkpoint(dest, update=True)
    assert written() - before < 64 << 10
    check_equal(dest, db)
    assert sum(entry.stat().st_blocks for entry in os.scandir(f"{dest}/chunks")) * 512 < 1 << 20


def test_where_chunks_cannot_be_linked(db: sc.Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str, **_: Any) -> None:
        raise OSError(18, os.strerror(18), source, None, target)

    fill(db)
    dest = str(tmp_path / "copy.sc")
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        db.checkpoint(dest)
        for action in (write_much, change_in_place, compact, write_little):
            action(db)
            db.checkpoint(dest, update=True)
    check_equal(dest, db)


def test_copy_is_made_if_there_is_none(db: sc.Database, tmp_path: Path) -> None:
    fill(db)
    db.checkpoint(tmp_path / "copy.sc", update=True)
    check_equal(str(tmp_path / "copy.sc"), db)


def test_nothing_new_writes_next_to_nothing(db: sc.Database, tmp_path: Path) -> None:
    fill(db)
    dest = str(tmp_path / "copy.sc")
    db.checkpoint(dest)
    db.checkpoint(dest, update=True)
    before = read_superblock(f"{dest}/superblock")
    db.checkpoint(dest, update=True)
    assert read_superblock(f"{dest}/superblock") == before


def test_after_the_database_was_opened_again(tmp_path: Path) -> None:
    """Each time there is another epoch."""
    dest = str(tmp_path / "copy.sc")
    for turn in range(5):
        with sc.open(tmp_path / "test.sc", chunk_size=CHUNK_SIZE) as db:
            db.array_store("a", "i8").put_many(range(turn * 900, turn * 900 + 1000), np.full((1000, 1), turn))
            db.checkpoint(dest, update=True)
            db["a"].put(5, [turn])
            db.checkpoint(dest, update=True)
            check_equal(dest, db)


@pytest.mark.parametrize("how", [{"mode": "r"}, {"shared": True}])
def test_from_a_reader_and_a_shared_handle(open_db: OpenDB, tmp_path: Path, how: dict[str, Any]) -> None:
    writer = open_db(chunk_size=CHUNK_SIZE, sync=False)
    fill(writer)
    dest = str(tmp_path / "copy.sc")
    writer.checkpoint(dest)
    for action in (write_little, write_much, compact, change_in_place, drop):
        action(writer)
        with sc.open(writer.path, **how) as reader:
            expected = contents(reader)
            if how.get("mode"):
                write_much_where_possible(writer)
            reader.checkpoint(dest, update=True)
        assert look(dest) == expected
        writer.checkpoint(dest, update=True)
        check_equal(dest, writer)


def test_copy_of_a_copy(db: sc.Database, tmp_path: Path) -> None:
    fill(db)
    first, second = str(tmp_path / "first.sc"), str(tmp_path / "second.sc")
    for action in (nothing, write_much, compact, change_in_place, write_much):
        action(db)
        db.checkpoint(first, update=True)
        with sc.open(first, "r") as copy:
            copy.checkpoint(second, update=True)
        check_equal(second, db)
    write_little(db)
    db.checkpoint(second, update=True)  # past the first
    check_equal(second, db)


def test_while_a_transaction_is_open(db: sc.Database, tmp_path: Path) -> None:
    """It is not in the copy; once it has ended, the next update has it."""
    fill(db)
    dest = str(tmp_path / "copy.sc")
    db.checkpoint(dest)
    expected = contents(db)
    transaction = db.transaction()
    transaction["plain"].put_many(range(10**6, 10**6 + 3000), np.ones((3000, 3)))
    transaction.array_store("other", "f8").put(1, [1.0])
    db.checkpoint(dest, update=True)
    assert look(dest) == expected
    transaction.commit()
    db.checkpoint(dest, update=True)
    check_equal(dest, db)


def test_chunks_are_unlinked_while_they_are_copied(
    db: sc.Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(db)
    dest = str(tmp_path / "copy.sc")
    db.checkpoint(dest)
    write_much(db)
    expected = contents(db)
    copy = Source.copy
    calls = 0

    def copy_late(source: Source, *args: Any) -> None:
        nonlocal calls
        if not calls:
            db.drop_store("plain")
            db["points"].delete_range(0, 1000)
            db.compact()
        calls += 1
        copy(source, *args)

    monkeypatch.setattr(Source, "copy", copy_late)
    db.checkpoint(dest, update=True)
    assert calls > 3
    assert look(dest) == expected
    db.checkpoint(dest, update=True)
    check_equal(dest, db)


@pytest.mark.timeout(0)
def test_random_histories(seed: int, budget: float, new_root: NewRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workload of the crash tests: drops, compactions, objects, sparse arrays, many commits between updates."""
    shrink(monkeypatch.setattr, has_hundreds_of_rows=True)
    monkeypatch.setattr(store_index, "DELTA_SIZE", 1)
    for turn in range(round(2 * budget)):
        rng = random.Random(f"{seed} {turn}")
        oracle, dest = Oracle(), new_root()
        db = sc.open(new_root(), chunk_size=CHUNK_SIZE)
        try:
            for step in range(12):
                planner = Planner(f"{seed} {turn} {step}", oracle, most=rng.choice((24, 900)))
                db = work(db, oracle, planner, rng.choice((1, 3, 10, 40)))
                if rng.random() < 0.3:
                    db.sync()
                    with sc.open(db.path, "r") as reader:
                        reader.checkpoint(dest, update=True)
                else:
                    db.checkpoint(dest, update=True)
                check_equal(dest, db)
                assert db.verify() == []
        finally:
            db.close()


def test_delta_is_folded(db: sc.Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not grow with each update, though none reads it."""
    monkeypatch.setattr(change, "MIN_FOLD_ROWS", 500)
    fill(db)
    dest = str(tmp_path / "copy.sc")
    db.checkpoint(dest)
    rng = np.random.default_rng(0)
    sizes = []
    for _ in range(30):
        db["plain"].put_many(rng.choice(10**6, 100, replace=False), np.ones((100, 40)))
        db.checkpoint(dest, update=True)
        with sc.open(dest, "r") as copy:
            sizes.append(len(copy._storage.index.store_index(copy._storage.heaps["plain"].store).delta_rows()))
    assert max(sizes) > 500
    assert any(size < before for before, size in pairwise(sizes))
    check_equal(dest, db)


# ---------------------------------------------------------------------- what it costs


def written() -> int:
    """Return how many bytes this process has given to the system to write."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except FileNotFoundError:
        pytest.skip("needs /proc/self/io")
    return int(next(line.split()[1] for line in lines if line.startswith("wchar")))


@pytest.mark.parametrize("keys", ["new", "old"])
def test_cost_is_by_what_changed(new_root: NewRoot, keys: str) -> None:
    """Ten updates of a thousand records each, new ones or any, cost the same whatever there is."""
    costs = []
    for count in (20_000, 1_000_000):
        rng = np.random.default_rng(count)
        dest = new_root()
        with sc.open(new_root(), sync=False) as db:
            store = db.array_store("a", "f8")
            for start in range(0, count, 10_000):
                store.put_many(range(start, start + 10_000), np.ones((10_000, 4)))
            db.checkpoint(dest)
            total = 0
            for turn in range(10):
                chosen = range(count + 1000 * turn, count + 1000 * turn + 1000)
                store.put_many(
                    chosen if keys == "new" else rng.choice(count, 1000, replace=False), np.ones((1000, 4))
                )
                db.sync()
                before = written()
                db.checkpoint(dest, update=True)
                total += written() - before
                assert written() - before < 1 << 20
            expected = db["a"].read()
            with sc.open(dest, "r") as copy:
                assert copy.verify() == []
                found = copy["a"].read()
            for name in ("keys", "offsets", "values"):
                assert np.array_equal(getattr(found, name), getattr(expected, name)), name
        costs.append(total)
    assert costs[1] < 3 * costs[0]


# ---------------------------------------------------------------------- who reads, and who writes, meanwhile


def test_readers_of_the_copy(db: sc.Database, tmp_path: Path) -> None:
    """They go on with what they showed, and are at the new commit after refresh()."""
    fill(db)
    dest = str(tmp_path / "copy.sc")
    db.checkpoint(dest)
    old = contents(db)
    with sc.open(dest, "r") as reader, sc.open(dest, "r") as lazy:
        for action in (write_much, compact_twice, drop):
            action(db)
            new = contents(db)
            db.checkpoint(dest, update=True)
            assert contents(reader) == old
            assert reader.verify() == []
            reader.refresh()
            assert contents(reader) == new
            assert reader.verify() == []
            old = new
        lazy.refresh()
        assert contents(lazy) == new


def test_a_writer_of_the_copy_keeps_others_away(db: sc.Database, tmp_path: Path) -> None:
    fill(db)
    dest = str(tmp_path / "copy.sc")
    db.checkpoint(dest)
    write_little(db)
    with sc.open(dest), pytest.raises(sc.LockedError, match="has the database open"):
        db.checkpoint(dest, update=True)
    db.checkpoint(dest, update=True)  # it was opened, and nothing was written
    check_equal(dest, db)


# ---------------------------------------------------------------------- refused


def check_refused(db: sc.Database, dest: Any, match: str) -> None:
    """Fail unless an update is refused, and changes nothing that counts."""

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in [Path(dest, "superblock"), *Path(dest, "chunks").iterdir()]}

    before = files()
    with pytest.raises(sc.NotACopy, match=match):
        db.checkpoint(dest, update=True)
    assert files() == before
    assert not os.path.lexists(f"{dest}/update")


def put_one(copy: sc.Database) -> None:
    copy["plain"].put(1, [1.0])


def read_an_object(copy: sc.Database) -> None:
    copy["points"][3].n = 3


@pytest.mark.parametrize("write", [put_one, read_an_object, sc.Database.sync, sc.Database.compact])
def test_a_copy_that_was_written_to(db: sc.Database, tmp_path: Path, write: Callable[..., object]) -> None:
    fill(db)
    dest = str(tmp_path / "copy.sc")
    db.checkpoint(dest)
    with sc.open(dest, chunk_size=CHUNK_SIZE) as copy:
        write(copy)
    write_little(db)
    check_refused(db, dest, r"copy\.sc was written to after .* to make a new copy")
    with sc.open(dest, "r") as copy:
        assert copy.verify() == []


def test_an_index_that_was_made_anew(db: sc.Database, tmp_path: Path) -> None:
    fill(db)
    dest = str(tmp_path / "copy.sc")
    db.checkpoint(dest)
    sc.rebuild_index(dest)
    check_refused(db, dest, "was written to after")


def test_another_database(db: sc.Database, tmp_path: Path) -> None:
    fill(db)
    with sc.open(tmp_path / "other.sc") as other:
        fill(other)
        other.checkpoint(tmp_path / "copy.sc")
    check_refused(db, tmp_path / "copy.sc", "not a copy of")
    with pytest.raises(sc.NotACopy, match="was written to after it was made by checkpoint"):
        copy_live(db.path, tmp_path / "by_hand.sc")
        db.checkpoint(tmp_path / "by_hand.sc", update=True)


def test_what_is_no_database(db: sc.Database, tmp_path: Path) -> None:
    fill(db)
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("there", "file"):
        with pytest.raises(sc.NotACopy, match="is not a database"):
            db.checkpoint(tmp_path / name, update=True)
    with pytest.raises(FileExistsError):
        db.checkpoint(tmp_path / "link", update=True)
    for dest in (db.path, f"{db.path}/copy"):
        with pytest.raises(ValueError, match="inside the database"):
            db.checkpoint(dest, update=True)
    assert os.listdir(tmp_path / "there") == []
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "test.sc", "there"]
    with pytest.raises(FileExistsError, match="a name of its own"):
        db.checkpoint(tmp_path / "there")


def test_a_copy_that_is_newer(tmp_path: Path) -> None:
    """The database was put back from an older copy, and may have gone on from there."""
    root, dest = str(tmp_path / "test.sc"), str(tmp_path / "copy.sc")
    with sc.open(root, chunk_size=CHUNK_SIZE) as db:
        fill(db)
    shutil.copytree(root, f"{root}-old")
    with sc.open(root, chunk_size=CHUNK_SIZE) as db:
        write_little(db)
        db.checkpoint(dest)
    with sc.open(f"{root}-old", chunk_size=CHUNK_SIZE) as db:
        check_refused(db, dest, "not in this database's history: the last one is")
        for turn in range(4):
            db["plain"].put(10, [turn])
            if number_of(dest) <= number(db):
                check_refused(db, dest, "not in this database's history: chunk")


@pytest.mark.parametrize("compacted", [False, True])
def test_a_copy_of_another_history(tmp_path: Path, *, compacted: bool) -> None:
    """Commits of the same numbers and sizes, of other contents."""
    root, dest = str(tmp_path / "test.sc"), str(tmp_path / "copy.sc")
    with sc.open(root, chunk_size=CHUNK_SIZE) as db:
        fill(db)
    shutil.copytree(root, f"{root}-other")
    with sc.open(root, chunk_size=CHUNK_SIZE) as db:
        db["plain"].put(10, [1.0])
        db.checkpoint(dest)
    with sc.open(f"{root}-other", chunk_size=CHUNK_SIZE) as db:
        db["plain"].put(10, [2.0])
        db["mixed"].put(10, [2])
        if compacted:
            db.compact("mixed")
        check_refused(db, dest, "holds other commits there")


def number_of(root: str) -> int:
    with sc.open(root, "r") as db:
        return number(db)


@pytest.mark.skipif(sys.platform != "linux", reason="cp -al is GNU's")
@pytest.mark.parametrize("what", ["superblock", "chunks"])
def test_files_that_are_hard_linked(db: sc.Database, tmp_path: Path, what: str) -> None:
    """What is written would go to the files of others."""
    fill(db)
    dest = str(tmp_path / "copy.sc")
    db.checkpoint(dest)
    os.mkdir(tmp_path / "others")
    for path in [Path(dest, "superblock")] if what == "superblock" else sorted(Path(dest, "chunks").iterdir()):
        os.link(path, tmp_path / "others" / path.name)
    before = {path: path.read_bytes() for path in (tmp_path / "others").iterdir()}
    write_much(db)
    with pytest.raises(sc.NotACopy, match="hard link to a file that others have"):
        db.checkpoint(dest, update=True)
    assert {path: path.read_bytes() for path in (tmp_path / "others").iterdir()} == before
    with sc.open(dest, "r") as copy:
        assert copy.verify() == []


def test_files_that_readers_have_linked(db: sc.Database, tmp_path: Path) -> None:
    fill(db)
    dest = str(tmp_path / "copy.sc")
    db.checkpoint(dest)
    with sc.open(dest, "r"), sc.open(dest, "r"):
        write_much(db)
        db.checkpoint(dest, update=True)
    check_equal(dest, db)


def test_unknown_files_stay(db: sc.Database, tmp_path: Path) -> None:
    """Those of the database are not taken, those of the copy are left."""
    fill(db)
    dest = str(tmp_path / "copy.sc")
    Path(db.path, "notes").touch()
    db.checkpoint(dest)
    Path(dest, "mine").touch()
    os.makedirs(f"{dest}/update/chunks")  # of an update that was killed
    Path(dest, "update", "chunks", "00000099.chunk").touch()
    write_much(db)
    db.checkpoint(dest, update=True)
    assert {"notes", "update"}.isdisjoint(os.listdir(dest))
    assert "mine" in os.listdir(dest)
    check_equal(dest, db)


def test_the_feed_of_a_copy_is_that_of_the_database(open_db: OpenDB, tmp_path: Path) -> None:
    """A copy that was brought forward says of every commit what the database says, drops among them."""
    db = open_db(sync=False)
    db.array_store("a", "f8")[1] = [1]
    db.array_store("b", "f8")[1] = [2]
    dest = tmp_path / "copy"
    db.checkpoint(dest, update=True)
    first = db.last_commit
    db["a"].put_many([3, 4], [[3], [4]])
    del db["a"][1]
    db.drop_store("b")
    db["a"][5] = [5]
    db.checkpoint(dest, update=True)
    with sc.open(dest, "r") as copy:
        assert copy.first_change == db.first_change
        for since in range(first, db.last_commit + 1):
            found = [[str(change) for change in each.changes(since)] for each in (db, copy)]
            assert found[0] == found[1]
            assert len(found[0]) == db.last_commit - since
        for each in (db, copy):
            with pytest.raises(sc.HistoryLost):
                each.changes(0)


def test_a_chunk_that_has_nothing_any_more_by_way_of_a_reader(new_root: NewRoot, tmp_path: Path) -> None:
    dest = str(tmp_path / "copy")
    with sc.open(new_root(), shared=True, sync=False) as db:
        store = db.array_store("a", "i8")
        store[1] = [1]
        db.checkpoint(dest)
        del store[1]
        with sc.open(db.path, "r") as reader:  # which reads both commits from the log at once
            reader.checkpoint(dest, update=True)
        check_equal(dest, db)
