"""compact() and stats(): what is rewritten, what is given back, who goes on reading, and what a crash leaves."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_copy import copy_live
from rewriting import at_each_batch, fail_between_batches
from support import bytes_of_files, copy_file, copy_tree

import structchunk as sc
from structchunk.chunks import segment
from structchunk.chunks.header import History
from structchunk.disk import files, superblock
from structchunk.engine import drafts, storage
from structchunk.index import change, leveldb, stored_rows
from structchunk.index.stored_state import REWRITING
from structchunk.maintenance import compaction, moving
from structchunk.readers import copies

CHUNK_SIZE = 16 << 10
Model = dict[int, list[float]]


class Point(sc.Object):
    _fields_ = [("x", ctypes.c_double), ("n", ctypes.c_int64)]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sc.Database]:
    with sc.open(tmp_path / "test.sc", chunk_size=CHUNK_SIZE, sync=False) as db:
        yield db
        if not db.closed:
            gc.collect()
            assert db.verify() == []
    check_whole(db.path)


def check_whole(path: Any) -> None:
    """Fail unless a closed database verifies, and is the same when its index is made anew."""
    with sc.open(path) as db:
        assert db.verify() == []
        before = contents(db)
    sc.rebuild_index(path)
    with sc.open(path) as db:
        assert db.verify() == []
        assert contents(db) == before


def contents(db: sc.Database) -> dict[str, dict[int, bytes]]:
    """Return the bytes of all records, read through a snapshot, which gives nothing to be changed."""
    with db.snapshot() as snapshot:
        return {name: {key: bytes(record) for key, record in snapshot[name].items()} for name in snapshot}


def scatter(store: sc.ArrayStore, count: int = 2000, *, seed: int = 0) -> Model:
    """Fill a store in random order, replace and delete; return what it holds."""
    rng = np.random.default_rng(seed)
    model: Model = {}
    for keys in np.array_split(rng.permutation(count), 10):
        rows = {int(key): [float(key)] * int(rng.integers(0, 6)) for key in keys}
        store.update(rows)
        model |= rows
    for key in rng.choice(count, count // 4, replace=False).tolist():
        del store[key], model[key]
    replaced = {key: [-1.0, key] for key in sorted(model)[::3]}
    store.update(replaced)
    return model | replaced


def as_model(store: Any) -> Model:
    return {key: record.tolist() for key, record in store.items()}


def files_of(db: sc.Database) -> list[str]:
    return sorted(os.listdir(db._storage.paths.chunks))


def check_contiguous(db: sc.Database, name: str) -> None:
    """Fail unless a scan of a store is one batch, of the very bytes of the file."""
    (batch,) = db[name].scan()
    ((chunk, _),) = db._storage.heaps[name].chunks.items()
    assert np.shares_memory(batch.values, db._storage.heaps[name].arrays[chunk])


# ---------------------------------------------------------------------- what it does


def test_scattered_records_become_one_sweep(db: sc.Database) -> None:
    store = db.array_store("a", "f8")
    model = scatter(store)
    before = db.stats()["a"]
    assert len(list(store.scan())) > 1 or len(before.chunks) > 1
    (report,) = db.compact("a")
    assert report == db.compact("a")[0]._replace(
        bytes_before=report.bytes_before, chunks_before=report.chunks_before
    )
    assert as_model(store) == model
    check_contiguous(db, "a")
    after = db.stats()["a"]
    assert (report.records, report.skipped, report.chunks_after) == (len(model), (), 1)
    assert (report.bytes_before, report.bytes_after) == (before.disk_size, after.disk_size)
    assert (report.chunks_before, len(files_of(db))) == (len(before.chunks), 1)
    assert after.garbage == 0 and before.garbage > 0 and after.records == len(model)


def test_disk_use_is_that_of_what_is_live(tmp_path: Path) -> None:
    with sc.open(tmp_path / "db", sync=False) as db:
        store = db.array_store("a", "f8")
        order = np.random.default_rng(0).permutation(20000)
        for keys in np.array_split(order, 5):
            store.put_many(keys, np.repeat(keys[:, None], 16, axis=1))
        store.put_many(order[::2], np.zeros((10000, 16)))
        store.delete_range(15000)
        (report,) = db.compact()
        (chunk,) = db.stats()["a"].chunks
        assert chunk.live == 15000 * 16 * 8
        assert report.bytes_after <= 1.05 * (chunk.live + chunk.directory)
        assert report.bytes_before > 1.5 * report.bytes_after
        on_disk = sum(os.stat(entry).st_blocks * 512 for entry in os.scandir(db._storage.paths.chunks))
        assert on_disk == report.bytes_after
        assert db.verify() == []
    check_whole(tmp_path / "db")


def test_writing_goes_on_in_the_new_chunk(db: sc.Database) -> None:
    store = db.array_store("a", "f8")
    model = scatter(store)
    db.compact()
    kept = files_of(db)
    store[5000] = model[5000] = [1.0]
    assert files_of(db) == kept
    model |= scatter(store, 2500, seed=1) | {5000: [1.0]}
    model = {key: value for key, value in model.items() if key in store}
    db.compact()
    assert as_model(store) == model
    check_contiguous(db, "a")


def test_several_new_chunks(db: sc.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (drafts, compaction):
        monkeypatch.setattr(module, "MAX_CHUNK_SIZE", CHUNK_SIZE)
    monkeypatch.setattr(moving, "STEP_SIZE", 1000)
    store = db.array_store("a", "f8")
    model = scatter(store) | {10000: [1.0] * 5000}
    store[10000] = model[10000]
    (report,) = db.compact()
    assert 3 < report.chunks_after < report.chunks_before
    assert as_model(store) == model
    assert db.compact()[0].chunks_before == report.chunks_after
    chunks = db._storage.heaps["a"].chunks.values()
    assert len({chunk.header.replaces for chunk in chunks}) == 1


def test_empty_stores(db: sc.Database) -> None:
    store = db.array_store("emptied", "f8")
    db.array_store("never filled", "f8")
    scatter(store)
    store.clear()
    reports = db.compact()
    assert [(report.records, report.chunks_after) for report in reports] == [(0, 1), (0, 1)]
    assert len(files_of(db)) == 2 and len(store) == 0
    assert db.stats()["emptied"].garbage == 0
    store[1] = [2.0]
    assert as_model(store) == {1: [2.0]}


def test_several_stores(db: sc.Database) -> None:
    models = {name: scatter(db.array_store(name, "f4"), 500, seed=ord(name)) for name in "abc"}
    points = db.object_store("points", Point)
    points.put_many([3, 1, 2], [(3.0, 3), (1.0, 1), (2.0, 2)])
    said: list[tuple[int, int]] = []
    assert [report.name for report in db.compact("b", "a", "b")] == ["b", "a"]
    reports = db.compact(progress=lambda done, total: said.append((done, total)))
    assert [report.name for report in reports] == ["a", "b", "c", "points"]
    assert said == sorted(said) and said[-1][0] == said[-1][1] > 0
    assert {name: as_model(db[name]) for name in "abc"} == models
    assert points.records()["n"].tolist() == [1, 2, 3]
    check_contiguous(db, "points")


def uneven(seed: int) -> list[int]:
    """Return lengths of records, the longest first."""
    rng = np.random.default_rng(seed)
    lengths: list[int] = np.sort(rng.integers(0, 400, int(rng.integers(40, 300))))[::-1].tolist()
    return lengths


@pytest.mark.parametrize(
    "lengths",
    [
        *map(uneven, range(8)),
        *(np.repeat(part, 391).tolist() for part in ([700, 1], [1, 700], [1], [700, 1, 1, 1, 90])),
    ],
    ids=lambda lengths: f"{len(lengths)}, {sum(lengths)}",
)
def test_chunks_are_as_few_as_can_be(db: sc.Database, monkeypatch: pytest.MonkeyPatch, lengths: list[int]) -> None:
    """Wherever the long records are: else the store would never be compact, and be copied each time."""
    monkeypatch.setattr(moving, "MOST_ROWS", 50)
    store = db.array_store("a", "f8")
    model = {7 * number: [float(number)] * length for number, length in enumerate(lengths)}
    keys = np.random.default_rng(len(lengths)).permutation(list(model)).tolist()
    store.put_many(keys, [model[key] for key in keys])
    (report,) = db.compact()
    assert report.chunks_after == -(-len(model) // moving.MOST_ROWS)
    before = files_of(db)
    db.compact()
    assert files_of(db) == before
    assert as_model(store) == model
    assert db.verify() == []


def test_what_is_refused(db: sc.Database, tmp_path: Path) -> None:
    store = db.array_store("a", "f8")
    model = scatter(store, 100)
    with pytest.raises(sc.StoreNotFound):
        db.compact("a", "b")
    with db.transaction(), pytest.raises(sc.LockedError):
        db.compact("a")
    assert db.stats()["a"].garbage > 0 and as_model(store) == model
    db.close()
    for call in (db.compact, db.stats):
        with pytest.raises(sc.ClosedError):
            call()
    with sc.open(db.path, "r") as reader, pytest.raises(sc.ReadOnlyError):
        reader.compact()


@pytest.mark.parametrize("failing", ["create", "reserve", "write"])
def test_a_full_disk_changes_nothing(db: sc.Database, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    monkeypatch.setattr(moving, "STEP_SIZE", 1000)
    store = db.array_store("a", "f8")
    model = scatter(store)
    before = files_of(db)
    real, calls = getattr(files, failing), []

    def full(*args: Any) -> None:
        calls.append(args)
        if len(calls) == (3 if failing == "reserve" else 1):
            raise OSError(28, "No space left on device")
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(files, failing, full)
        with pytest.raises(OSError, match="No space"):
            db.compact()
    assert files_of(db) == before and as_model(store) == model
    assert db.verify() == []
    assert db.compact()[0].chunks_after == 1
    assert as_model(store) == model


def test_sparse_arrays_stay_sparse(disk_db: sc.Database) -> None:
    db = disk_db
    store = db.array_store("a", "f8")
    store[1] = [1.0]
    big = store.new(2, 10_000_000)
    big[5], big[5_000_000], big[-1] = 1, 2, 3
    small = store.new(3, 10)
    small[:] = 7
    del big, small, store[1]
    (report,) = db.compact()
    assert report.skipped == () and report.bytes_after < 1 << 20
    assert np.flatnonzero(store[2]).tolist() == [5, 5_000_000, 9_999_999] and store[2][5_000_000] == 2
    store[3][0] = 8
    assert store[3].tolist() == [8.0] + [7.0] * 9


# ---------------------------------------------------------------------- who goes on reading


def deleted_mappings(db: sc.Database) -> int:
    """Return how many files of a database are mapped, though they were unlinked."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return len({line.split()[-2] for line in lines if db.path in line and line.endswith(".chunk (deleted)")})


def look_while_compacting(db: sc.Database) -> tuple[Any, list[float]]:
    """Hold a snapshot, scans and batches over two compactions; return a view from before, and its value."""
    store = db.array_store("a", "f8")
    model = scatter(store)
    key = next(key for key, value in model.items() if len(value) == 2)
    view, snapshot = store[key], db.snapshot()
    scan, items = store.scan(batch_size=10), iter(store.items())
    first, (low, _) = next(scan), next(items)
    many = store.get_many(sorted(model))
    db.compact()
    store.update({key: [0.0] for key in model})
    db.compact()
    old = snapshot["a"]
    assert as_model(old) == model
    assert old[key].tolist() == model[key]
    assert old.get_many([key]).values.tolist() == model[key]
    assert {key: row.tolist() for batch in [first, *scan] for key, row in batch} == model
    assert {low: model[low], **{key: row.tolist() for key, row in items}} == model
    assert {key: row.tolist() for key, row in many} == model
    assert db.verify() == []
    assert deleted_mappings(db) > 1
    snapshot.close()
    with pytest.raises(sc.ClosedError):
        old[key]
    return view, model[key]


def test_views_snapshots_and_scans_live_on(db: sc.Database) -> None:
    held = [look_while_compacting(db)]
    gc.collect()
    assert held[0][0].tolist() == held[0][1]
    assert deleted_mappings(db) == 1  # the view's
    held.clear()
    gc.collect()
    assert deleted_mappings(db) == 0


def test_space_comes_back_at_once_if_no_one_looks(db: sc.Database) -> None:
    store = db.array_store("a", "f8")
    model = scatter(store)
    for _ in range(3):
        assert as_model(store) == model
        store.update(model)
        db.compact()
        assert deleted_mappings(db) == 0


def test_a_chunk_of_a_held_object_is_skipped(db: sc.Database) -> None:
    store = db.object_store("points", Point)
    store.put_many(range(1000), [(key, key) for key in range(1000)])
    point = store[500]
    heap = db._storage.heaps["points"]
    chunk = next(chunk for chunk in heap.chunks if heap.is_exposed(chunk))
    store.put_many(range(0, 1000, 2), [(-key, key) for key in range(0, 1000, 2)])
    point = store[501]
    (report,) = db.compact()
    assert chunk in [skipped.chunk for skipped in report.skipped]
    assert all("view" in skipped.why for skipped in report.skipped)
    point.x = 7.5
    assert store[501].x == 7.5
    assert [p.n for p in store.values()] == list(range(1000))
    del point
    (report,) = db.compact()
    assert report.skipped == ()
    check_contiguous(db, "points")
    assert store[501].x == 7.5 and store[500].x == -500
    store[501].x = 8.5
    db.close()
    with sc.open(db.path) as again:
        assert again["points"][501].x == 8.5


def test_tombstones_stay_beside_a_skipped_chunk(db: sc.Database) -> None:
    """A key that a skipped chunk still has must not come back when the index is made anew."""
    store = db.array_store("a", "f8")
    exposed = store.new(0, 3)
    store.update({key: [float(key)] * 10 for key in range(1, 100)})
    heap = db._storage.heaps["a"]
    skipped = max(heap.chunks)
    while max(heap.chunks) == skipped:
        store[1000] = [0.0] * 100
    for key in range(1, 50):
        del store[key]
    store[7] = [7.5]
    model = as_model(store)
    (report,) = db.compact()
    assert [chunk for chunk, _ in report.skipped] == [skipped]
    assert as_model(store) == model and db.verify() == []
    chunks = set(heap.chunks)
    db.compact()
    assert set(heap.chunks) == chunks  # it was compact already
    exposed[0] = model[0][0] = 4.0
    db.close()
    check_whole(db.path)
    with sc.open(db.path) as again:
        assert as_model(again["a"]) == model
        (report,) = again.compact()
        assert report.skipped == () or not again._storage.heaps["a"].is_exposed(skipped)
        assert as_model(again["a"]) == model
        assert again.verify() == []


def test_a_range_in_progress_exposes_what_was_moved(db: sc.Database) -> None:
    store = db.object_store("points", Point)
    store.put_many(range(100), [(key, key) for key in range(100)])
    values = iter(store.items())
    next(values)
    gc.collect()
    assert db.compact()[0].skipped == ()
    store.put(50, Point(-1, -1))
    for key, point in values:
        point.n += 1
        assert point.x == key
    del point
    assert [point.n for point in store.values()] == [0, *range(2, 51), -1, *range(52, 101)]


def test_asking_for_an_object_that_is_being_moved(db: sc.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread waits; the progress callback cannot."""
    store = db.object_store("points", Point)
    store.put_many([2, 1], [(2.0, 2), (1.0, 1)])
    got: list[Any] = []
    threads: list[threading.Thread] = []

    def asked(done: int, total: int) -> None:
        if not threads:
            with pytest.raises(sc.LockedError):
                store[1]
            threads.append(threading.Thread(target=lambda: got.append(store[1])))
            threads[0].start()
            threads[0].join(0.1)
            assert threads[0].is_alive() and not got

    assert db.compact(progress=asked)[0].skipped == ()
    threads[0].join(10)
    got.pop().n = 5
    assert store[1].n == 5


@pytest.mark.timeout(120)
def test_threads_read_and_change_while_it_compacts(tmp_path: Path) -> None:
    with sc.open(tmp_path / "db", chunk_size=CHUNK_SIZE, sync=False) as db:
        arrays, points = db.array_store("a", "i8"), db.object_store("points", Point)
        model = {key: [key] * (key % 5 + 1) for key in range(500)}
        arrays.update(model)
        points.put_many(range(51), [(0, 0)] * 51)
        stop, failures, counts = threading.Event(), [], [0] * 3

        def guarded(work: Callable[[], None]) -> None:
            try:
                while not stop.is_set():
                    work()
            except BaseException as error:
                failures.append(error)
                raise

        def read() -> None:
            for key in range(0, 500, 7):
                assert arrays[key].tolist() == model[key]
            assert arrays.get_many(list(model)).lengths.tolist() == [len(row) for row in model.values()]
            assert sum(len(batch) for batch in arrays.scan(batch_size=64)) == 500
            assert len(points.records()) == 51
            with db.snapshot() as snapshot:
                assert as_model(snapshot["a"]) == model

        def change(which: int) -> None:
            for key in range(which, 50, 3):
                points[key].n += 1
            counts[which] += 1
            time.sleep(0.0005)

        jobs: list[Callable[[], None]] = [read, *(lambda which=which: change(which) for which in range(3))]
        jobs.append(lambda: (found := db.verify()) and pytest.fail(str(found)))
        threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        compacted = 0
        for turn in range(20):
            arrays.update({key: model[key] for key in range(turn % 3, 500, 3)})
            points.put(50, Point(turn, turn))
            compacted += sum(not report.skipped for report in db.compact())
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures and compacted > 20
        assert [points[key].n for key in range(50)] == [counts[key % 3] for key in range(50)]
        assert db.verify() == []
    check_whole(tmp_path / "db")


# ---------------------------------------------------------------------- against a dictionary

lengths = st.one_of(st.integers(0, 5), st.sampled_from([300, 1500]))
actions = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 30), lengths),
    st.tuples(st.just("new"), st.integers(0, 30), lengths),
    st.tuples(st.just("many"), st.integers(0, 30), st.integers(0, 60)),
    st.tuples(st.just("delete"), st.integers(0, 30), st.integers(1, 12)),
    st.tuples(st.just("compact"), st.booleans(), st.booleans()),
    st.tuples(st.just("reopen"), st.booleans(), st.booleans()),
    st.tuples(st.just("hold"), st.integers(0, 30), st.booleans()),
    st.tuples(st.just("abort"), st.integers(0, 30), lengths),
)


class Play:
    """Does actions to a database and to a dictionary."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.model: Model = {}
        self.held: list[tuple[Any, list[float], bool]] = []
        self.snapshots: list[tuple[sc.Snapshot, Model]] = []
        self.count = 0.0
        self.db = sc.open(path, chunk_size=CHUNK_SIZE, sync=False)
        self.store = self.db.array_store("a", "f8")
        self.live: set[int] = set()

    def fresh(self, length: int) -> list[float]:
        self.count += 1
        return [self.count] * length

    def put(self, key: int, length: int) -> None:
        self.store[key] = self.model[key] = self.fresh(length)
        self.live.discard(key)

    def new(self, key: int, length: int) -> None:
        self.model[key] = self.fresh(length)
        self.store.new(key, length)[:] = self.model[key]
        self.live.add(key)

    def many(self, start: int, count: int) -> None:
        rows = {key: self.fresh(key % 4) for key in range(start, start + count)}
        self.store.update(rows)
        self.model |= rows
        self.live -= rows.keys()

    def delete(self, start: int, count: int) -> None:
        self.store.delete_range(start, start + count)
        self.model = {key: value for key, value in self.model.items() if not start <= key < start + count}
        self.live &= self.model.keys()

    def abort(self, key: int, length: int) -> None:
        with contextlib.suppress(KeyError), self.db.transaction() as transaction:
            transaction["a"][key] = self.fresh(length)
            raise KeyError

    def hold(self, key: int, snapshot: bool) -> None:
        if snapshot and not self.live:
            self.snapshots.append((self.db.snapshot(), dict(self.model)))
        elif key in self.model:
            self.held.append((self.store[key], self.model[key], key in self.live))

    def compact(self, let_go: bool, again: bool) -> None:
        if let_go:
            self.held = [held for held in self.held if not held[2]]
        (report,) = self.db.compact("a")
        assert report.records == len(self.model)
        assert not report.skipped or any(live for _, _, live in self.held)
        if not report.skipped:
            assert report.chunks_after == 1 and self.db.stats()["a"].garbage == 0
            assert len(list(self.store.scan())) == bool(self.model)
        if again:
            assert self.db.compact("a")[0].chunks_before == report.chunks_after

    def reopen(self, rebuild: bool, lose: bool) -> None:
        self.check()
        self.held, self.snapshots = [], []
        self.db.close()
        if rebuild:
            if lose:
                shutil.rmtree(self.db._storage.paths.index(max(self.db._storage.paths.list_indexes())))
            sc.rebuild_index(self.path)
        self.db = sc.open(self.path, chunk_size=CHUNK_SIZE, sync=False)
        self.store = self.db["a"]

    def check(self) -> None:
        with self.db.snapshot() as snapshot:
            assert as_model(snapshot["a"]) == dict(sorted(self.model.items()))
        for array, value, _ in self.held:
            assert array.tolist() == value
        for taken, model in self.snapshots:
            assert as_model(taken["a"]) == model
        stats = self.db.stats()["a"]
        assert stats.records == len(self.model)
        assert stats.live == 8 * sum(map(len, self.model.values()))
        assert all(chunk.used == chunk.live + chunk.garbage and chunk.garbage >= 0 for chunk in stats.chunks)
        assert self.db.verify() == []


@settings(max_examples=60, deadline=None)
@given(st.lists(actions, min_size=4, max_size=30))
def test_equals_a_dictionary(script: list[tuple[Any, ...]]) -> None:
    path = tempfile.mkdtemp(suffix=".sc")
    play = Play(path)
    try:
        for action, *args in script:
            getattr(play, action)(*args)
            play.check()
        play.reopen(rebuild=True, lose=True)
        play.check()
    finally:
        play.db.close()
        shutil.rmtree(path)


# ---------------------------------------------------------------------- stats


def test_stats(db: sc.Database) -> None:
    assert db.stats() == {}
    store = db.array_store("a", "i4")
    store.put_many([1, 2, 3], [[1] * 100] * 3)
    del store[1]
    store[2] = [5] * 10
    stats = db.stats()["a"]
    (chunk,) = stats.chunks
    assert (chunk.records, chunk.live, chunk.used, chunk.garbage) == (2, 440, 1240, 800)
    assert chunk.directory == 4 * 64 + 64 + 2 * 32  # of the creation and three commits; keys 1 to 3 in short
    assert chunk.file_size == CHUNK_SIZE == chunk.free + chunk.used + chunk.directory + 4096
    assert chunk.disk_size == os.stat(db._storage.heaps["a"].chunks[chunk.chunk].path).st_blocks * 512
    assert (stats.name, stats.records, stats.live, stats.garbage) == ("a", 2, 440, 800)
    assert stats.disk_size == chunk.disk_size


# ---------------------------------------------------------------------- crashes


def build(path: str) -> None:
    """Make a database with all that matters to compaction."""
    with sc.open(path, chunk_size=CHUNK_SIZE) as db:
        first = db.array_store("first", "f8")
        first.new(2000, 5)[:] = 6.0
        scatter(first, 400)
        points = db.object_store("points", Point)
        points.put_many(range(300), [(key, -key) for key in range(300)])
        points.delete_range(100, 200)
        db.array_store("third", "u1").put(1, [1] * 9)


def do_compact(path: str, mode: str, monkeypatch: pytest.MonkeyPatch, target: str) -> list[str]:
    """Compact a database and close it; return copies as a kill before each event of that would leave it."""
    with monkeypatch.context() as patch:
        with sc.open(path, chunk_size=CHUNK_SIZE, sync=False) as db:
            first = db["first"]
            if mode in {"relaxed", "large"}:
                change_some(db)
            if mode == "large":
                shrink_rewriting(patch.setattr)
            held = first[2000] if mode == "partial" else None
            images = Images(path, target)
            images.leave_before_events(patch)
            db.compact()
            del held
        images.leave()
    return images.paths


class Images:
    """Copies of a database as a kill would leave it: its memory is lost, what it wrote or mapped is not.

    ``count`` is that of the moments, ``paths`` are the copies that are not the same as the one before: a flush
    changes nothing.
    """

    def __init__(self, source: str, target: str) -> None:
        self.count = 0
        self.paths: list[str] = []
        self._source = source
        self._target = target

    def leave_before_events(self, patch: pytest.MonkeyPatch) -> None:
        """Leave a copy before each call of disk/files.py that changes something, and each write of LevelDB."""
        for name in ("create", "write", "reserve", "clear", "flush", "flush_directory", "unlink"):
            patch.setattr(files, name, self._before(getattr(files, name)))
        patch.setattr(leveldb.LevelDB, "write", self._before(leveldb.LevelDB.write))

    def _before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.leave()
            return call(*args, **kwargs)

        return wrapper

    def leave(self) -> None:
        """Leave a copy, unless it is the same as the one before."""
        self.count += 1
        copy = copy_live(self._source, os.path.join(self._target, str(self.count)), copy_function=copy_file)
        if self.paths and bytes_of_files(copy) == bytes_of_files(self.paths[-1]):
            shutil.rmtree(copy)
        else:
            self.paths.append(str(copy))


def shrink_rewriting(set_attribute: Callable[[Any, str, Any], object]) -> None:
    """Make a store of some hundred records too large for one change of the index, and for one chunk."""
    set_attribute(stored_rows, "PAGE_ROWS", 50)
    set_attribute(change, "REWRITE_ROWS", 60)
    set_attribute(moving, "MOST_ROWS", 130)


def change_some(db: sc.Database) -> None:
    """Make changes that no checkpoint covers."""
    with db.transaction() as transaction:
        transaction["first"].put(9999, [9.0] * 50)
        transaction["points"].put(150, Point(1, 1))
    db["first"].delete_range(0, 200)


def expected(path: str, mode: str) -> dict[str, dict[int, bytes]]:
    copy = copy_tree(path, f"{path}.expected")
    with sc.open(copy, chunk_size=CHUNK_SIZE) as db:
        if mode in {"relaxed", "large"}:
            change_some(db)
        return contents(db)


@pytest.mark.parametrize("mode", ["whole", "partial", "relaxed", "large"])
def test_what_a_kill_leaves_at_every_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    source, target = str(tmp_path / "source"), str(tmp_path / "images")
    build(source)
    model = expected(source, mode)
    images = do_compact(source, mode, monkeypatch, target)
    assert len(images) > 15
    chunks: dict[str, bytes] = {}
    for image in images:
        before, chunks = chunks, bytes_of_files(image, without="index-*")
        if chunks != before:
            check_image(copy_tree(image, f"{image}.lost"), model, lose=True)
        check_image(image, model, lose=False)


def check_image(root: str, model: dict[str, dict[int, bytes]], *, lose: bool) -> None:
    """Fail unless a database is as it was, whether its index is there or not; then compact and look again."""
    if lose:
        for name in os.listdir(root):
            if name.startswith("index-"):
                shutil.rmtree(os.path.join(root, name))
        sc.rebuild_index(root)
    with sc.open(root, chunk_size=CHUNK_SIZE) as db:
        assert db.verify() == []
        assert contents(db) == model, root
        db.sync()
        known = {os.path.basename(c.path) for heap in db._storage.heaps.values() for c in heap.chunks.values()}
        assert set(files_of(db)) == known
        assert db.verify() == []
        assert all(report.chunks_after == 1 for report in db.compact())
        assert contents(db) == model
    check_whole(root)


# ---------------------------------------------------------------------- rewritten in several batches


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sc.Database:
    """A database of which each store is too large for one change of the index."""
    shrink_rewriting(monkeypatch.setattr)
    build(str(tmp_path / "large.sc"))
    db = sc.open(tmp_path / "large.sc", chunk_size=CHUNK_SIZE, sync=False)
    db.compact()
    change_some(db)
    return db


def test_readers_that_come_meanwhile(large: sc.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """They see all records, wherever these are by then."""
    model = contents(large)

    def look() -> None:
        with sc.open(large.path, "r") as reader:
            assert contents(reader) == model
            assert reader.verify() == []

    with large, sc.open(large.path, "r") as early:
        calls = at_each_batch(monkeypatch, look)
        reports = large.compact()
        assert len(calls) > 5
        assert max(report.chunks_after for report in reports) > 1
        assert contents(large) == model
        assert large.verify() == []
        assert large._storage.index.leveldb.get(REWRITING) is None
        before = files_of(large)
        large.compact()
        assert files_of(large) == before  # all are compact
        assert early.refresh()
        assert contents(early) == model
        assert early.verify() == []
    check_whole(large.path)


def test_a_reader_that_clones_before_the_last_batch_and_links_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its clone names is unlinked by then, and no checkpoint that it knows has it: it begins again."""
    shrink_rewriting(monkeypatch.setattr)
    cloned, finished = threading.Event(), threading.Event()
    found: list[dict[str, dict[int, bytes]]] = []

    def link(self: copies.Copies, source: Any, chunks: Any, real: Any = copies.Copies._link_chunks) -> None:
        if not cloned.is_set():
            cloned.set()
            assert finished.wait(60)
        real(self, source, source.list_chunks())

    def read() -> None:
        with sc.open(path, "r") as reader:
            found.append(contents(reader))
            assert reader.verify() == []

    path = tmp_path / "test.sc"
    with sc.open(path, chunk_size=CHUNK_SIZE, sync=False) as db:
        db.array_store("b", "f8")[1] = [1.0]
        db.sync()
        scatter(db.array_store("a", "f8"))
        model = contents(db)
        monkeypatch.setattr(copies.Copies, "_link_chunks", link)
        thread = threading.Thread(target=read)

        def clone() -> None:
            if not cloned.is_set():
                thread.start()
                assert cloned.wait(60)

        calls = at_each_batch(monkeypatch, clone)
        db.compact("a")
        finished.set()
        thread.join()
        assert len(calls) > 3
        assert found == [model]
    check_whole(path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "no space")])
def test_cut_short_between_batches(
    large: sc.Database, monkeypatch: pytest.MonkeyPatch, error: BaseException | type[BaseException]
) -> None:
    """What was cut short reads as before, writes no more, and is whole when it is opened again."""
    model = contents(large)
    with large:
        with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, OSError)):
            fail_between_batches(patch, error)
            large.compact()
        assert contents(large) == model
        (problem,) = large.verify()
        assert "open it again" in problem.advice
        with pytest.raises(sc.FailedError):
            large["third"].put(2, [1])
    with sc.open(large.path, "r") as reader:
        assert contents(reader) == model
        assert reader.verify() == []
    monkeypatch.undo()
    with sc.open(large.path, chunk_size=CHUNK_SIZE) as db:
        assert contents(db) == model
        assert db.verify() == []
        assert db._storage.superblock.generation == 1  # the index was brought forward, not made anew
    check_whole(large.path)


def test_cut_short_and_damaged(large: sc.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the commit that was being written its rows are of no use: the index is made anew."""
    model = contents(large)
    with large, pytest.raises(KeyboardInterrupt):
        fail_between_batches(monkeypatch, KeyboardInterrupt)
        large.compact()
    monkeypatch.undo()
    newest = os.path.join(large.path, "chunks", files_of(large)[-1])
    os.truncate(newest, os.path.getsize(newest) - segment.SEGMENT_SIZE)
    os.truncate(newest, os.path.getsize(newest) + segment.SEGMENT_SIZE)
    with sc.open(large.path, "r") as reader:
        assert contents(reader) == model
        assert reader.verify() == []
    with sc.open(large.path, chunk_size=CHUNK_SIZE) as db:
        assert contents(db) == model
        assert db.verify() == []
        assert db._storage.superblock.generation == 2
    check_whole(large.path)


# ---------------------------------------------------------------------- what says that chunks are replaced


def leave_replacement(db: sc.Database, name: str) -> int:
    """Leave what compaction may if it is cut short: a chunk that names those to be replaced, without a commit."""
    heap = db._storage.heaps[name]
    chunk = db._storage.create_replacement(heap, 0, 0, tuple(heap.chunks), History(0))
    heap.settle(chunk)
    db._storage.drafts.clear()
    return chunk.id


@pytest.mark.parametrize("is_marked", [True, False])
@pytest.mark.parametrize("mode", ["open", "read", "rebuild"])
def test_a_header_alone_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, *, is_marked: bool
) -> None:
    """Later commits may go to a chunk that compaction made and did not live to use."""
    if not is_marked:
        write_version_1(monkeypatch)
    path = tmp_path / "test.sc"
    with sc.open(path, chunk_size=CHUNK_SIZE) as db:
        store = db.array_store("a", "f8")
        store[1], store[2] = [1.0], [2.0]
        number = leave_replacement(db, "a")
        store[3] = [3.0]
        assert number in db.stats()["a"]._asdict()["chunks"][-1]
    if mode == "rebuild":
        shutil.rmtree(path / "index-000001")
        sc.rebuild_index(path)
    with sc.open(path, "r" if mode == "read" else "r+") as db:
        assert as_model(db["a"]) == {1: [1.0], 2: [2.0], 3: [3.0]}
        assert db.verify() == []
    with sc.open(path) as db:
        db.compact()
        assert as_model(db["a"]) == {1: [1.0], 2: [2.0], 3: [3.0]}
        assert len(files_of(db)) == 1
    check_whole(path)


def write_version_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write chunks as before their segments said that they replace others, and superblocks as of then."""
    monkeypatch.setattr(drafts, "Header", partial(drafts.Header, is_marked=False))
    monkeypatch.setattr(segment, "REPLACES", 0)
    monkeypatch.setattr(superblock, "_with_heads", lambda slot, heads: slot)


def compact_leaving_images(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, dict[int, bytes]]]:
    """Compact a store of several chunks; leave copies as a crash would, and return what each has to hold."""
    with sc.open(path, chunk_size=CHUNK_SIZE) as db:
        store = db.array_store("a", "f8")
        scatter(store)
        store.new(9999, 3)[:] = 4.0
        held = store[9999]  # so that its chunk stays, and tombstones of what it has are worth keeping
        before = contents(db)
        assert len(files_of(db)) > 2
        for name, at in (("commit", "_write_checkpoint"), ("checkpoint", "_unlink_gone")):
            leave_image(monkeypatch, at, path, path.with_name(name))
        db.compact()
        del held
    names = sorted(os.listdir(path.with_name("checkpoint") / "chunks"))
    gone = [name for name in names if not (path / "chunks" / name).exists()]
    for name in ("first", "last"):
        image = copy_tree(path.with_name("checkpoint"), path.with_name(f"without {name}"))
        os.unlink(Path(image) / "chunks" / gone[0 if name == "first" else -1])
    return dict.fromkeys(("commit", "checkpoint", "without first", "without last", path.name), before)


def leave_image(monkeypatch: pytest.MonkeyPatch, method: str, source: Path, target: Path) -> None:
    """Have a database copied as it is when compaction first calls a method of its storage."""
    call = getattr(storage.Storage, method)

    def copying(self: Any, *args: Any) -> Any:
        if not target.exists() and self.gone:
            copy_tree(source, target)
        return call(self, *args)

    monkeypatch.setattr(storage.Storage, method, copying)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("lose", [True, False])
def test_replacement_is_known_whatever_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, *, lose: bool
) -> None:
    """Of version 1, whose segments do not say it, too: deleted keys would return where a chunk is gone."""
    path = tmp_path / "test.sc"
    with monkeypatch.context() as patch:
        if version == 1:
            write_version_1(patch)
        expected = compact_leaving_images(path, patch)
    for name, model in expected.items():
        root = path.with_name(name)
        headers = [(root / "chunks" / chunk).read_bytes()[8] for chunk in os.listdir(root / "chunks")]
        assert max(headers) == version
        check_image(str(root), model, lose=lose)
