"""The change feed: every commit since one, whole and in order, or HistoryLost exactly where some of it is gone."""

from __future__ import annotations

import ctypes
import pickle
import random
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import OpenDB
from feed_oracle import FeedModel, Workload, check_feed
from live_copy import copy_live

import structchunk as sc
from structchunk.chunks import directory, segment
from structchunk.engine import drafts


class Point(sc.Object):
    _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_double)]


def said(changes: Any) -> list[tuple[int, str, str, list[int], list[int]]]:
    return [
        (change.commit, change.store, change.kind, change.keys.tolist(), change.deleted.tolist())
        for change in changes
    ]


# ---------------------------------------------------------------------- against the oracle


@pytest.mark.parametrize("number", range(4))
def test_it_says_what_each_commit_did(number: int, open_db: OpenDB, seed: int) -> None:
    work = Workload(open_db(chunk_size=16 << 10, sync=False), 1000 * seed + number)
    for _ in range(50):
        work.step()
        last = work.model.commit
        check_feed(
            work.db, work.model, {last, max(last - 1, 0), work.random.randrange(last + 1)}, chance=work.random
        )
    check_feed(work.db, work.model)


@pytest.mark.parametrize("number", range(2))
def test_other_handles_say_the_same(number: int, open_db: OpenDB, tmp_path: Path, seed: int) -> None:
    """Reopened, with a rebuilt index, copied; readers, shared handles and snapshots as of their own commit."""
    db = open_db(chunk_size=16 << 10, sync=False)
    work = Workload(db, 2000 * seed + number)
    reader, seen = open_db("r"), FeedModel()
    snapshots = []
    for count in range(60):
        work.step()
        chance = work.random.random()
        if chance < 0.2:
            reader.refresh()
            seen = work.model.copy()
        elif chance < 0.3:
            source = work.random.choice([work.db, reader])
            model = seen if source is reader else work.model
            snapshots.append((source.snapshot(), model.copy()))
        elif chance < 0.35 and snapshots:
            snapshots.pop(0)[0].close()
        elif chance < 0.4:
            work.db.close()
            if work.random.random() < 0.5:
                sc.rebuild_index(db.path)
                work.model.rebuild()
                snapshots = []  # those of the reader lose the notes of drops, too, once it refreshes
            work.db = open_db("r+", chunk_size=16 << 10, sync=False)
            snapshots = [(snapshot, model) for snapshot, model in snapshots if not snapshot._database.closed]
        if count % 5 == 0:
            check_feed(work.db, work.model, sample(work.random, work.model), chance=work.random)
            check_feed(reader, seen, sample(work.random, seen), chance=work.random)
            for snapshot, model in snapshots:
                check_feed(snapshot, model, sample(work.random, model), chance=work.random)
    check_feed(work.db, work.model)
    source = work.random.choice([work.db, reader])
    source.checkpoint(tmp_path / "copy.sc")
    with sc.open(tmp_path / "copy.sc") as copy:
        model = seen.copy() if source is reader else work.model.copy()
        check_feed(copy, model, chance=work.random)
        later = Workload(copy, number)
        later.model = model
        for _ in range(20):
            later.step()
        check_feed(copy, model, sample(later.random, model))
        assert copy.verify() == []
    reader.refresh()
    check_feed(reader, work.model, chance=work.random)
    with pickle.loads(pickle.dumps(reader)) as unpickled:
        check_feed(unpickled, work.model, sample(work.random, work.model))
    work.db.close()
    with sc.open(db.path, shared=True) as shared:
        check_feed(shared, work.model, sample(work.random, work.model))
        work.db = shared
        for _ in range(10):
            work.step()
        check_feed(shared, work.model, sample(work.random, work.model))


def sample(chance: random.Random, model: FeedModel) -> set[int]:
    return {model.commit, model.lost(0), *(chance.randrange(model.commit + 1) for _ in range(3))}


@pytest.mark.parametrize("net", [False, True])
def test_a_replica_is_equal_after_every_commit(net: bool, db: sc.Database, open_db: OpenDB) -> None:
    work = Workload(db, 7 + net)
    reader, replica = open_db("r"), Replica()
    for _ in range(80):
        work.step()
        reader.refresh()
        with reader.snapshot() as snapshot:
            replica.follow(snapshot, net=net)
    assert replica.starts < 30


def contents(store: Any) -> dict[int, bytes]:
    return {int(key): items.tobytes() for key, items in store.read()}


class Replica:
    """What a follower has: it starts from a snapshot, and again where history is lost."""

    def __init__(self) -> None:
        self.stores: dict[str, dict[int, bytes]] = {}
        self.done = -1
        self.starts = 0

    def follow(self, snapshot: sc.Snapshot, *, net: bool) -> None:
        """Bring it to a snapshot, and compare it."""
        try:
            if self.done < 0:
                raise sc.HistoryLost("there is none yet", 0)
            for change in snapshot.changes(self.done, net=net):
                if change.kind == "dropped":
                    del self.stores[change.store]
                    continue
                records = self.stores.setdefault(change.store, {})
                records.update({int(key): items.tobytes() for key, items in change.batch()})
                for key in change.deleted.tolist():
                    records.pop(key, None)
        except sc.HistoryLost:
            self.starts += 1
            self.stores = {name: contents(snapshot[name]) for name in snapshot}
        self.done = snapshot.last_commit
        assert self.stores == {name: contents(snapshot[name]) for name in snapshot}


@pytest.mark.parametrize("number", range(3))
def test_after_a_crash_it_says_the_same(number: int, open_db: OpenDB, tmp_path: Path) -> None:
    """Whether a reader comes first, or who writes; what was lost is no change."""
    work = Workload(open_db(chunk_size=16 << 10, sync=False), 31 + number)
    for count in range(6):
        for _ in range(9):
            work.step()
        crashed = tmp_path / f"crashed-{count}.sc"
        copy_live(work.db.path, crashed, "readers")
        with sc.open(crashed, "r") as reader:
            check_feed(reader, work.model, sample(work.random, work.model), chance=work.random)
        with sc.open(crashed, "r+", chunk_size=16 << 10, sync=False) as db:
            check_feed(db, work.model, sample(work.random, work.model), chance=work.random)
            later = Workload(db, count)
            later.model = work.model.copy()
            for _ in range(4):
                later.step()
            check_feed(db, later.model, sample(work.random, later.model), chance=work.random)
            assert db.verify() == []


@pytest.mark.parametrize("net", [False, True])
def test_while_another_thread_writes(net: bool, db: sc.Database) -> None:
    work, ended, replica = Workload(db, 5 + net), threading.Event(), Replica()

    def write() -> None:
        for _ in range(150):
            work.step()
        ended.set()

    thread = threading.Thread(target=write)
    thread.start()
    is_last = False
    while not is_last:
        is_last = ended.is_set()
        with db.snapshot() as snapshot:
            replica.follow(snapshot, net=net)
        assert 0 <= db.first_change <= db.last_commit
    thread.join()
    assert replica.done == work.model.commit
    check_feed(db, work.model, sample(work.random, work.model))


WRITE = """
import random, sys
import structchunk as sc
chance = random.Random(3)
with sc.open(sys.argv[1], "r+", sync=False) as db:
    for number in range(600):
        name = chance.choice("abc")
        store = db.array_store(name, "f8")
        if number % 100 == 99:
            db.drop_store(name)
        elif number % 40 == 39:
            db.compact()
        elif number % 3:
            store.put(chance.randrange(50), [number])
        else:
            store.delete_range(number % 50, number % 50 + 5)
"""


def test_beside_another_process(open_db: OpenDB) -> None:
    open_db(sync=False).close()
    reader, replica = open_db("r"), Replica()
    with subprocess.Popen([sys.executable, "-c", WRITE, reader.path]) as process:
        is_last = False
        while not is_last:
            is_last = process.poll() is not None
            reader.refresh()
            with reader.snapshot() as snapshot:
                replica.follow(snapshot, net=False)
    assert process.returncode == 0
    assert replica.done > 500 > replica.starts


# ---------------------------------------------------------------------- single commits


def test_a_commit_over_stores_is_a_change_of_each(db: sc.Database) -> None:
    a, b = db.array_store("a", "f8"), db.array_store("b", "i4")
    before = db.last_commit
    with db.transaction() as txn:
        txn[b].put(7, [1])
        txn[a].put_many([5, 3, 5], [[1.0], [2.0], [3.0]])
        txn[b].put(7, [2, 3])
    changes = list(db.changes(before))
    assert said(changes) == [(3, "a", "records", [3, 5], []), (3, "b", "records", [7], [])]
    assert [change.batch().values.tolist() for change in changes] == [[2.0, 3.0], [2, 3]]
    assert repr(changes[0]) == "<Change of commit 3: store 'a', records, 2 put, 0 deleted>"
    assert said(db.changes(before, "b", "b")) == [(3, "b", "records", [7], [])]


def test_created_and_put_in_one_commit(db: sc.Database) -> None:
    with db.transaction() as txn:
        txn.array_store("a", "f8").put(1, [1.0])
        txn.array_store("b", "f8")
    assert said(db.changes(0)) == [(1, "a", "created", [1], []), (1, "b", "created", [], [])]
    assert said(db.changes(0, net=True)) == said(db.changes(0))
    assert said(db.changes(1)) == []


def test_net_changes_are_of_the_last_row_of_each_key(db: sc.Database) -> None:
    store = db.array_store("a", "f8")
    store.put_many(range(6), np.zeros((6, 1)))
    before = db.last_commit
    store.put(1, [1.0])
    store.put(2, [2.0])
    store.delete(1)
    store.put(9, [9.0])
    store.delete_many([9, 5])
    store.put(5, [5.0, 5.0])
    (change,) = db.changes(before, net=True)
    assert said([change]) == [(db.last_commit, "a", "records", [2, 5], [1, 9])]
    assert change.batch().values.tolist() == [2.0, 5.0, 5.0]


def test_since_is_a_commit_that_is_shown(db: sc.Database) -> None:
    db.array_store("a", "f8")
    for since in (-1, 2, 2**70):
        with pytest.raises(ValueError, match="this shows commit 1"):
            db.changes(since)
    with pytest.raises(TypeError):
        db.changes(0.5)  # type: ignore[arg-type]
    assert said(db.changes(np.int64(0))) == [(1, "a", "created", [], [])]
    with pytest.raises(sc.StoreNotFound, match="'b'"):
        db.changes(0, "b")


def test_a_new_database_has_none(db: sc.Database) -> None:
    assert (db.last_commit, db.first_change, list(db.changes(0)), list(db.changes(0, net=True))) == (0, 0, [], [])


def test_changes_in_place_are_none(db: sc.Database) -> None:
    points = db.object_store("points", Point)
    before = db.last_commit
    point = points.new(1, x=1.0)
    made = db.last_commit
    point.y = 2.0
    assert said(db.changes(made)) == []
    change, *_ = db.changes(before)
    batch = change.batch()
    assert batch.in_place and batch.values["y"].tolist() == [2.0]


def test_what_a_call_returns_is_as_of_the_call(db: sc.Database) -> None:
    store = db.array_store("a", "f8")
    store.put(1, [1.0])
    changes = db.changes(1)
    store.put(2, [1.0])
    assert said(changes) == [(2, "a", "records", [1], [])]


def test_changes_outlive_compaction_a_drop_and_the_handle(open_db: OpenDB) -> None:
    db = open_db(sync=False)
    store = db.array_store("a", "f8")
    for key in range(5):
        store.put(key, [key])
    lazy, held = db.changes(1), list(db.changes(1))
    store.put_many(range(5), np.full((5, 1), 9.0))
    db.compact()
    expected = [[float(key)] for key in range(5)]
    assert [change.batch().values.tolist() for change in held] == expected
    db.drop_store("a")
    db.close()
    assert [change.batch().values.tolist() for change in held] == expected
    assert [change.batch().values.tolist() for change in lazy] == expected
    with pytest.raises(sc.ClosedError):
        db.changes(0)
    for name in ("last_commit", "first_change"):
        with pytest.raises(sc.ClosedError):
            getattr(db, name)


# ---------------------------------------------------------------------- what is gone


def test_the_message_says_what_went_and_what_to_do(db: sc.Database) -> None:
    store = db.array_store("a", "f8")
    for key in range(4):
        store.put(key, [1.0])
    db.compact()
    assert (db.last_commit, db.first_change) == (6, 5)
    with pytest.raises(sc.HistoryLost, match=r"'a' up to commit 5 .*compacted; take a snapshot") as caught:
        db.changes(4)
    assert isinstance(caught.value, sc.Error) and caught.value.upto == 5
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.upto) == (str(caught.value), 5)
    assert said(db.changes(5)) == []
    db.drop_store("a")
    with pytest.raises(sc.HistoryLost, match=r"up to commit 5 .*dropped.*the name 'a'"):
        db.changes(4, "a")
    with pytest.raises(sc.HistoryLost, match=r"up to commit 5 .*dropped;"):
        db.changes(4)
    for names in ((), ("a",)):
        assert said(db.changes(5, *names)) == [(7, "a", "dropped", [], [])]
    with pytest.raises(sc.StoreNotFound):
        db.changes(7, "a")


def test_compaction_of_what_did_not_change_takes_nothing(db: sc.Database) -> None:
    """A view keeps one chunk back, so that the others are moved twice; nothing was changed between."""
    store, other = db.array_store("a", "f8"), db.array_store("b", "f8")
    live = store.new(0, 1500)
    store.put(1, np.zeros(1500))
    store.put(2, np.zeros(1500))
    for key in (1, 2):
        store.put(key, [1.0])
    model = FeedModel(db.last_commit)
    changed = db.last_commit
    (report,) = db.compact("a")
    assert report.skipped and db.last_commit == changed + 1
    other.put(1, [1.0])
    del live
    (report,) = db.compact("a")
    assert not report.skipped and db.last_commit == changed + 3
    other.put(2, [1.0])
    assert db.first_change == changed
    assert said(db.changes(changed)) == [
        (changed + 2, "b", "records", [1], []),
        (changed + 4, "b", "records", [2], []),
    ]
    with pytest.raises(sc.HistoryLost):
        db.changes(changed - 1)
    assert model.commit == changed


def test_what_a_chunk_that_was_left_knows_is_there(db: sc.Database) -> None:
    """Compaction takes only what was in the chunks that it replaced."""
    store = db.array_store("a", "f8")
    store.put(1, np.zeros(1500))
    store.put(2, np.zeros(1500))
    store.put(1, [1.0])
    low = db.last_commit
    live = store.new(0, 2500)
    store.put(3, [1.0])
    last = db.last_commit
    (report,) = db.compact("a")
    assert report.skipped
    assert db.first_change == low
    assert [commit for commit, *_ in said(db.changes(low))] == [low + 1, last]
    assert live is not None


def test_a_snapshot_of_before_knows_what_compaction_took(db: sc.Database, open_db: OpenDB) -> None:
    store = db.array_store("a", "f8")
    for key in range(4):
        store.put(key, [1.0])
    reader = open_db("r")
    with db.snapshot() as before, reader.snapshot() as read:
        expected = said(before.changes(0))
        db.compact()
        reader.refresh()
        store.put(9, [1.0])
        for handle in (db, reader):
            with pytest.raises(sc.HistoryLost):
                handle.changes(4)
        for snapshot in (before, read):
            assert said(snapshot.changes(0)) == expected
            assert (snapshot.first_change, snapshot.last_commit) == (0, 5)


def test_a_store_of_a_name_that_was_another_ones(db: sc.Database) -> None:
    db.array_store("a", "f8").put(1, [1.0])
    other = db.array_store("b", "f8")
    db.drop_store("a")
    dropped = db.last_commit
    other.put(1, [1.0])
    db.array_store("a", "i4").put(1, [1])
    made = [(6, "a", "created", [], []), (7, "a", "records", [1], [])]
    for names in ((), ("a",)):
        with pytest.raises(sc.HistoryLost) as caught:
            db.changes(1, *names)
        assert caught.value.upto == 2
        found = [change for change in said(db.changes(2, *names)) if change[1] == "a"]
        assert found == [(dropped, "a", "dropped", [], []), *made]
    assert said(db.changes(2, "a", net=True)) == [(7, "a", "dropped", [], []), (7, "a", "created", [1], [])]
    assert said(db.changes(0, "a")) == said(db.changes(dropped, "a")) == made
    assert [commit for commit, *_ in said(db.changes(0, "b"))] == [3, 5]
    with pytest.raises(sc.HistoryLost):
        db.changes(1, "b")  # there may have been another store of that name


@pytest.mark.parametrize("kind", ["f8", [("x", "f4")], Point])
def test_a_store_that_was_dropped_has_empty_batches_of_its_type(kind: Any, db: sc.Database) -> None:
    make = db.object_store if kind is Point else db.array_store
    dtype = make("a", kind).dtype
    before = db.last_commit
    db.drop_store("a")
    (change,) = db.changes(before)
    assert (change.kind, len(change.batch()), change.batch().values.dtype) == ("dropped", 0, dtype)


def test_a_rebuilt_index_has_forgotten_what_was_dropped(open_db: OpenDB) -> None:
    db = open_db(sync=False)
    db.array_store("a", "f8").put(1, [1.0])
    db.array_store("b", "f8")
    db.drop_store("a")
    assert db.first_change == 2
    db.close()
    sc.rebuild_index(db.path)
    db = open_db("r+", sync=False)
    assert db.first_change == 4
    with pytest.raises(sc.HistoryLost, match="up to commit 4 are gone of a store that was dropped"):
        db.changes(3)
    assert said(db.changes(4)) == []


@pytest.mark.parametrize(("written", "lost"), [("now", 4), ("without a history", 7), ("as version 1", 8)])
def test_chunks_of_before_that_do_not_say_what_went(
    written: str, lost: int, open_db: OpenDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of such a chunk all may have gone that was before it; of version 1 its own first commit may be a change."""
    if written != "now":
        original = drafts.new_header
        monkeypatch.setattr(drafts, "new_header", lambda *args: original(*args[:4]))
    if written == "as version 1":
        monkeypatch.setattr(drafts, "Header", partial(drafts.Header, is_marked=False))
        monkeypatch.setattr(segment, "REPLACES", 0)
    db = open_db(sync=False)
    store, other = db.array_store("a", "f8"), db.array_store("b", "f8")
    store.put(1, [1.0])
    store.put(1, [2.0])
    for key in range(3):
        other.put(key, [1.0])
    db.compact("a")
    monkeypatch.undo()
    db.close()
    db = open_db("r+", sync=False)
    assert (db.last_commit, db.first_change) == (8, lost)
    with pytest.raises(sc.HistoryLost):
        db.changes(lost - 1, "a")
    assert said(db.changes(lost, "a")) == []
    assert len(said(db.changes(0, "b"))) == 4
    db["a"].put(1, [3.0])
    db.compact("a")
    assert db.first_change == 9


def test_a_damaged_directory_is_told(open_db: OpenDB) -> None:
    db = open_db(sync=False)
    store = db.array_store("a", "f8")
    for key in range(20):
        store.put(key, [1.0])
    heap = db._storage.heaps["a"]
    (chunk,) = heap.chunks.values()
    with open(chunk.path, "r+b", buffering=0) as file:
        for position in (chunk.header.file_size - 64 - 5 * 96 + 60, chunk.header.file_size - 64 - 5 * 96 + 8):
            file.seek(position)
            byte = file.read(1)
            file.seek(position)
            file.write(bytes([byte[0] ^ 1]))
            with pytest.raises(sc.CorruptionError):
                list(db.changes(0))
            with pytest.raises(sc.CorruptionError):
                list(db.changes(0, "a"))
            file.seek(position)
            file.write(byte)
    assert len(list(db.changes(0))) == 21


def test_compaction_of_a_damaged_directory_takes_all_of_its_history(open_db: OpenDB) -> None:
    db = open_db(sync=False)
    store, other = db.array_store("a", "f8"), db.array_store("b", "f8")
    for key in range(20):
        store.put(key, [1.0])
    other.put(1, [1.0])
    (chunk,) = db._storage.heaps["a"].chunks.values()
    with open(chunk.path, "r+b", buffering=0) as file:
        file.seek(chunk.header.file_size - 64 - 5 * 96 + 32)
        file.write(b"\xff")
    before = db.last_commit
    db.compact("a")
    assert (db.first_change, db.last_commit) == (before, before + 1)


# ---------------------------------------------------------------------- finding one's way in a directory


@pytest.mark.parametrize("shape", ["single", "mixed", "bulk first", "bulk last"])
def test_later_segments_are_found_from_both_ends(
    shape: str, open_db: OpenDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the sizes of segments are, and whatever keys look like records."""
    monkeypatch.setattr(directory, "NEAR", 5)
    db = open_db(sync=False)
    store = db.array_store("a", "u1")
    chance = random.Random(3)
    like = np.frombuffer(b"SEGM" * 100, np.uint64)
    for number in range(60):
        if shape == "mixed":
            count = chance.choice([1, 1, 1, 2, 5, 40])
        else:
            count = 3000 if number == {"bulk first": 0, "bulk last": 59}.get(shape) else 1
        keys = {like[0] + np.uint64(chance.randrange(1 << 40)) for _ in range(count)}
        store.put_many(sorted(keys), np.zeros((len(keys), 1), "u1"))
    last = db.last_commit
    expected = said(db.changes(0))
    assert [commit for commit, *_ in expected] == list(range(1, last + 1))
    for since in range(last + 1):
        for chunk in db._storage.heaps["a"].chunks.values():
            chunk.passed = 0, chunk.header.file_size
        db._storage.index.checkpoint = last  # so that the heads are of no use
        assert said(db.changes(since)) == expected[since:]


def test_the_last_of_many_commits_does_not_cost_by_all_of_them(
    open_db: OpenDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = open_db(sync=False)
    store = db.array_store("a", "f8")
    for number in range(3000):
        store.put_many(range(1 + number % 7), np.zeros((1 + number % 7, 1)))
    db.close()
    looked: list[int] = []
    original = directory.read_record
    monkeypatch.setattr(directory, "read_record", lambda *args: looked.append(1) or original(*args))
    for mode in ("r+", "r"):
        db = open_db(mode)
        for since in (db.last_commit, db.last_commit - 1, db.last_commit - 10):
            looked.clear()
            assert len(list(db.changes(since))) == db.last_commit - since
            assert len(looked) < 2 * directory.NEAR
        looked.clear()
        assert list(db.changes(db.last_commit)) == []
        assert not looked
        db.close()
