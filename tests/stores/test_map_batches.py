"""map_batches(): the batches of a scan in several threads, results in order, and no thread that stays."""

from __future__ import annotations

import gc
import multiprocessing
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import OpenDB

import structchunk as sc
from structchunk.process.in_order import AHEAD, in_order

COUNT = 5000
WORKERS = [1, 2, 3]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("structchunk-worker")]


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert threads() == []


@pytest.fixture
def store(db: sc.Database) -> sc.ArrayStore:
    """Records of several lengths, back to back and not."""
    store = db.array_store("floats", "f8")
    store.put_many(range(COUNT), np.arange(COUNT * 2.0), np.arange(COUNT) % 5)
    store.put_many(range(0, COUNT, 70), np.ones((len(range(0, COUNT, 70)), 3)))
    for key in range(5, COUNT, 90):
        store.delete(key)
    return store


def sums(batch: sc.Batch) -> Any:
    return batch.reduce(np.add)


def sum_between(store: sc.ArrayStore, start: int, stop: int) -> float:
    """Return the sum of a range of keys: what a process of a pool does."""
    return float(sum(store.map_batches(lambda batch: batch.values.sum(), 2, start=start, stop=stop)))


@pytest.mark.parametrize("workers", [*WORKERS, None])
def test_is_a_scan_in_order(db: sc.Database, store: sc.ArrayStore, workers: int | None) -> None:
    with db.snapshot() as snapshot, db.transaction() as txn:
        for source in (store, snapshot["floats"], txn["floats"]):
            for options in ({}, {"start": 100, "stop": 4000}, {"batch_size": 64}, {"start": COUNT}):
                expected = [(batch.keys.tolist(), sums(batch).tolist()) for batch in source.scan(**options)]
                found = source.map_batches(
                    lambda batch: (batch.keys.tolist(), sums(batch).tolist()), workers, **options
                )
                assert list(found) == expected
        txn["floats"].put(COUNT + 1, [7.0])
        assert list(txn["floats"].map_batches(sums, workers))[-1][-1] == 7


def test_objects_and_shapes(db: sc.Database) -> None:
    points = db.object_store("points", np.dtype([("x", "f8"), ("n", "i4")]))
    points.put_many(range(100), {"x": np.arange(100.0), "n": np.ones(100, "i4")})
    assert sum(points.map_batches(lambda batch: batch.values["x"].sum(), 2, batch_size=7)) == 4950
    blocks = db.array_store("blocks", "f4", shape=(2,))
    blocks.put_many(range(10), np.ones((10, 3, 2)))
    assert [part.shape for part in blocks.map_batches(sums, 2, batch_size=4)] == [(4, 2), (4, 2), (2, 2)]


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2"])
def test_what_is_no_number_of_workers(store: sc.ArrayStore, workers: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        store.map_batches(sums, workers)


@pytest.mark.parametrize("workers", WORKERS)
def test_what_the_function_raises_comes_in_its_turn(store: sc.ArrayStore, workers: int) -> None:
    called = []

    def fail_at_500(batch: sc.Batch) -> int:
        called.append(int(batch.keys[0]))
        if 500 <= batch.keys[-1] < 520:
            raise ZeroDivisionError
        return called[-1]

    results = store.map_batches(fail_at_500, workers, batch_size=10)
    found = []
    with pytest.raises(ZeroDivisionError):
        found.extend(results)
    assert found == sorted(found) and max(found, default=0) <= 510
    assert threads() == [] and next(results, None) is None
    assert max(called) <= 520 + 20 * AHEAD * workers


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_any_exception_of_the_function(store: sc.ArrayStore, error: type[BaseException]) -> None:
    def fail(batch: sc.Batch) -> None:
        raise error

    with pytest.raises(error):
        list(store.map_batches(fail, 2, batch_size=100))


def test_it_is_ahead_by_a_few_batches_only(store: sc.ArrayStore) -> None:
    called = []
    results = store.map_batches(lambda batch: called.append(batch.keys[0]), 2, batch_size=10)
    assert called == [] and threads() == []
    next(results)
    for _ in range(20):
        time.sleep(0.005)
    assert len(called) <= 2 * AHEAD and len(threads()) <= 2
    results.close()  # type: ignore[attr-defined]
    assert len(called) <= 2 * AHEAD and threads() == []


def test_dropping_it_ends_the_threads(store: sc.ArrayStore) -> None:
    results = store.map_batches(sums, 2, batch_size=10)
    next(results)
    del results
    gc.collect()


def test_several_threads_are_at_work_at_once(store: sc.ArrayStore) -> None:
    both = threading.Barrier(2, timeout=30)
    assert len(list(store.map_batches(lambda batch: both.wait(), 2, stop=1000, batch_size=500))) >= 2


def test_reads_one_commit_whatever_is_compacted(open_db: OpenDB) -> None:
    db = open_db()
    store = db.array_store("floats", "f8")
    store.put_many(range(COUNT), np.ones((COUNT, 2)))
    wait = threading.Event()

    def late(batch: sc.Batch) -> float:
        assert wait.wait(30)
        return float(batch.values.sum())

    results = store.map_batches(late, 2, batch_size=COUNT // 3)
    threading.Timer(0.1, wait.set).start()
    found = [next(results)]
    store.put_many(range(0, COUNT, 2), np.zeros((COUNT // 2, 2)))
    db.compact()
    gc.collect()
    found.extend(results)
    assert sum(found) == 2 * COUNT


def test_closing_the_database_meanwhile(open_db: OpenDB) -> None:
    db = open_db()
    store = db.array_store("floats", "f8")
    store.put_many(range(COUNT), np.ones((COUNT, 2)))
    results = store.map_batches(sums, 2, batch_size=10)
    next(results)
    db.close()
    try:
        for part in results:
            assert (part == 2).all()
    except sc.ClosedError:
        pass


def test_shards(tmp_path: Path) -> None:
    bags, shared = pytest.importorskip("dask.bag"), pytest.importorskip("structchunk.dask")
    parts = bags.from_sequence([(range(low, low + 100), np.ones((100, 2))) for low in (0, 100, 200)], npartitions=3)
    path = tmp_path / "shards"
    with pytest.importorskip("dask").config.set(scheduler="synchronous"):
        shared.write(parts, path, {"floats": "f8"})
    with sc.open_shards(path) as shards:
        assert np.concatenate(list(shards["floats"].map_batches(sums, 2, batch_size=30))).tolist() == [2] * 300


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_pool_of_processes(open_db: OpenDB, tmp_path: Path, method: str) -> None:
    with open_db() as db:
        store = db.array_store("floats", "f8")
        store.put_many(range(COUNT), np.arange(COUNT * 2.0).reshape(COUNT, 2))
    with open_db("r") as reader, reader.snapshot() as snapshot:
        ranges = snapshot.split("floats", count=4)
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            stores = [reader["floats"]] * len(ranges)
            found = list(pool.map(sum_between, stores, *zip(*ranges, strict=True)))
    assert len(found) == 4 and sum(found) == np.arange(COUNT * 2.0).sum()


INTERRUPTED = """
import os, signal, sys, threading, time, numpy as np, structchunk as sc
db = sc.open(sys.argv[1], "r")
def slow(batch):
    time.sleep(0.001)
    return len(batch)
threading.Timer(float(sys.argv[2]), os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    while True:
        for _ in db["floats"].map_batches(slow, 3, batch_size=10):
            pass
except KeyboardInterrupt:
    pass
deadline = time.monotonic() + 30
while any(thread.name.startswith("structchunk-worker") for thread in threading.enumerate()):
    assert time.monotonic() < deadline, "a thread stays"
    time.sleep(0.01)
print("ended")
"""


@pytest.mark.parametrize("after", [0.05, 0.111, 0.173])
def test_an_interrupt_leaves_no_thread(open_db: OpenDB, after: float) -> None:
    with open_db() as db:
        db.array_store("floats", "f8").put_many(range(COUNT), np.ones((COUNT, 2)))
        path = db.path
    command = [sys.executable, "-c", INTERRUPTED, path, str(after)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout.strip(), done.returncode) == ("ended", 0), done.stderr


def test_who_waits_makes_calls_too() -> None:
    both = threading.Barrier(2, timeout=30)

    def call() -> int:
        both.wait()
        return threading.get_ident()

    found = list(in_order([call] * 20, 2))
    assert len(set(found)) == 2
    assert threading.get_ident() in found


def two(call: Callable[[], Any]) -> Iterator[Callable[[], Any]]:
    """Yield a call that another thread begins, and then the same one for who waits for that."""
    yield call
    time.sleep(0.1)
    yield call


@pytest.mark.parametrize(("error", "count"), [(ZeroDivisionError, 1), (SystemExit, 1), (KeyboardInterrupt, 0)])
def test_what_a_call_of_who_waits_raises(error: type[BaseException], count: int) -> None:
    """It comes in its turn; only an interrupt at once."""
    both = threading.Barrier(2, timeout=30)

    def call() -> None:
        both.wait()
        if threading.current_thread() is threading.main_thread():
            raise error
        time.sleep(0.1)

    found = []
    with pytest.raises(error):
        for waited in in_order(two(call), 2):
            found.append(waited)
    assert len(found) == count


def test_after_one_that_raised_none_is_begun() -> None:
    begun = []

    def call(number: int) -> int:
        begun.append(number)
        if number == 1:
            raise ZeroDivisionError
        time.sleep(0.1)
        return number

    results = in_order((partial(call, number) for number in range(9)), 2)
    assert next(results) == 0
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert sorted(begun) == [0, 1]


def test_after_it_is_closed_none_is_begun() -> None:
    go_on, begun = threading.Event(), []

    def calls() -> Iterator[Callable[[], int]]:
        for number in range(9):
            yield partial(call, number)
            time.sleep(0.05 if number < 2 else 0)  # so that the other thread begins the first two

    def call(number: int) -> int:
        begun.append(number)
        assert number == 0 or go_on.wait(30)
        return number

    results = in_order(calls(), 2)
    assert next(results) == 0
    threading.Timer(0.1, go_on.set).start()
    results.close()
    assert begun == [0, 1]


@pytest.mark.parametrize("has_threads", [False, True])
def test_results_are_not_kept(monkeypatch: pytest.MonkeyPatch, has_threads: bool) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    if not has_threads:
        monkeypatch.setattr(threading.Thread, "start", refuse)
    alive = weakref.WeakSet[Any]()

    def call() -> Any:
        made = type("Result", (), {})()
        alive.add(made)
        return made

    most = 0
    for result in in_order([call] * 500, 3):
        most = max(most, len(alive))
        assert result in alive
    assert most <= 3 * AHEAD + 3


def test_an_interrupt_as_a_thread_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with the others, though the crew does not know of it."""
    started: list[threading.Thread] = []

    def start(thread: threading.Thread, start: Any = threading.Thread.start) -> None:
        start(thread)
        started.append(thread)
        if len(started) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(KeyboardInterrupt):
        list(in_order([partial(time.sleep, 0.01)] * 20, 3))
    for thread in started:
        thread.join(30)
        assert not thread.is_alive()


def test_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert list(in_order((lambda number=number: number for number in range(20)), 3)) == list(range(20))


def test_an_error_of_what_is_read_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def calls() -> Iterator[Any]:
        yield lambda: 1
        raise OSError

    with pytest.raises(OSError):
        list(in_order(calls(), 2))


def test_errors_hold_nothing_of_it() -> None:
    class Held:
        alive = 0

        def __init__(self) -> None:
            Held.alive += 1

        def __del__(self) -> None:
            Held.alive -= 1

    def fail() -> None:
        held = Held()  # noqa: F841
        raise ZeroDivisionError

    gc.disable()
    try:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                list(in_order([fail] * 3, 2))
    finally:
        gc.enable()
    gc.collect()
    assert Held.alive == 0
