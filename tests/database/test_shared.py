"""Several processes that write one database in turn, each holding it for one transaction."""

from __future__ import annotations

import errno
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from conftest import check_whole
from mapping_contract import Kind, check_mapping, check_reading, kinds
from oracle import Point
from rewriting import fail_between_batches
from support import in_child

import structchunk as sc
from structchunk.index import change as index_change

HOLD = """
import sys, structchunk as sc
db = sc.open(sys.argv[1], shared=True)
txn = db.transaction()
txn.array_store("held", "i8")[1] = [1]
print("held", flush=True)
sys.stdin.readline()
txn.commit()
db.close()
"""


@pytest.fixture
def path(new_root: Callable[[], str]) -> str:
    """A path in memory: a shared transaction flushes a dozen times."""
    return new_root()


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def hold(path: str) -> subprocess.Popen[str]:
    """Start a process that has a transaction open."""
    holder = start(HOLD, path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


@kinds
def test_mapping(path: str, kind: Kind) -> None:
    with sc.open(path, shared=True) as db, sc.open(path, shared=True) as other:
        model = check_mapping(kind.open(db), kind)
        check_reading(other[kind.name], kind, model)
        with other.transaction() as txn:
            check_reading(txn[kind.name], kind, model)
            txn[kind.name].clear()
            model = check_mapping(txn[kind.name], kind)
        check_reading(db[kind.name], kind, model)
        with db.snapshot() as snapshot:
            other[kind.name].clear()
            check_reading(snapshot[kind.name], kind, model)
        check_reading(db[kind.name], kind, {})
        assert db.verify() == other.verify() == []
    check_whole(path)


def test_what_one_writes_the_others_read(path: str) -> None:
    with sc.open(path, shared=True) as db, sc.open(path, "r+", shared=True) as other:
        store = db.array_store("a", "i8")
        mine = other["a"]
        cursor = mine.cursor()
        for number in range(5):
            store[number] = [number]
            assert mine[number].tolist() == [number]
            assert list(mine) == list(range(number + 1))
            assert len(mine) == number + 1
            assert mine.get_many([number]).values.tolist() == [number]
            assert cursor.seek(number)
        with other.transaction() as txn:
            txn["a"][0] = [7]
            assert mine[0].tolist() == store[0].tolist() == [0]
        assert mine[0].tolist() == store[0].tolist() == [7]
        assert db.stats()["a"].records == other.stats()["a"].records == 5
        db.drop_store("a")
        assert "a" not in other
        with pytest.raises(sc.StoreNotFound):
            mine[1]
        with pytest.raises(sc.StoreNotFound):
            mine[1] = [1]
        other.array_store("a", "f4")[1] = [2.5]
        assert db["a"][1].tolist() == [2.5]
    check_whole(path)


def test_compaction_by_one_is_seen_by_all(path: str) -> None:
    with sc.open(path, shared=True, chunk_size=16 << 10) as db, sc.open(path, shared=True) as other:
        store = db.array_store("a", "i8")
        store.put_many(range(2000), np.arange(8000).reshape(2000, 4))
        view, scan = other["a"][77], other["a"].scan(batch_size=10)
        next(scan)
        store.delete_range(0, 1900)
        (report,) = other.compact()
        assert report.records == 100
        assert db.stats()["a"].garbage == other.stats()["a"].garbage == 0
        assert store[1950].tolist() == other["a"][1950].tolist() == [7800, 7801, 7802, 7803]
        assert view.tolist() == [308, 309, 310, 311]
        assert sum(len(batch) for batch in scan) == 1990
        assert db.verify() == other.verify() == []
    check_whole(path)


@pytest.mark.parametrize("how", ["dropped", "compacted"])
def test_closing_flushes_no_chunk_that_another_has_let_go(path: str, how: str) -> None:
    with sc.open(path, shared=True, sync=False) as db, sc.open(path, shared=True) as other:
        db.array_store("a", "i8").put_many(range(100), np.ones((100, 1)))
        if how == "dropped":
            other.drop_store("a")
        else:
            other.compact("a")
        assert db.refresh()  # by another clone
        other.array_store("b", "i8")
        assert db.refresh()  # which leaves only what the newer one needs
        db.close()
    check_whole(path)


def test_a_checkpoint_within_a_transaction_leaves_what_that_has_made(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sc.open(path, shared=True, sync=False) as db, sc.open(path, shared=True) as other:
        db.array_store("a", "i8")
        points = db.object_store("points", Point)
        points[1] = Point(1)
        with monkeypatch.context() as patch:
            patch.setattr(db, "sync", lambda: None)  # as where others hold the lock for longer than it waits
            db.drop_store("a")
        with db.transaction() as txn:
            txn.array_store("b", "i8")[1] = [2]
            txn["points"][1].x = 4  # brings to disk what was committed of late
        assert other["b"][1].tolist() == [2]
        assert other["points"][1].x == 4
    check_whole(path)


def test_what_was_written_here_may_be_compacted_elsewhere_before_it_is_on_disk(path: str) -> None:
    with sc.open(path) as db:
        db.array_store("x", "i8")
    one, other = (sc.open(path, shared=True, sync=False) for _ in range(2))
    one["x"].put(1, [1])
    for number in range(2, 5):
        other["x"].put(1, [number])
        other.compact()
        assert one["x"][1].tolist() == [number]
    one.close()  # which brings what it has written to disk: of chunks that are gone there is nothing left to bring
    other.close()
    check_whole(path)


def test_modes(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        sc.open(path, "r+", shared=True)
    with pytest.raises(ValueError, match="mode='r'"):
        sc.open(path, "r", shared=True)
    with pytest.raises(ValueError, match="shared=True"):
        sc.open(path, timeout=1)
    sc.open(path, "x", shared=True).close()
    with pytest.raises(FileExistsError):
        sc.open(path, "x", shared=True)
    with sc.open(path, shared=True) as db:
        assert (db.mode, list(db)) == ("a", [])
        db.sync()
    with pytest.raises(sc.ClosedError):
        list(db)
    with pytest.raises(sc.ClosedError):
        db.transaction()


def test_what_changes_in_place_lives_in_a_transaction(path: str) -> None:
    kind = sc.Object.of(x=sc.Array.of(2, __import__("ctypes").c_int64))
    with sc.open(path, shared=True) as db, sc.open(path, shared=True) as other:
        arrays, objects = db.array_store("a", "i8"), db.object_store("o", kind)
        for make in (lambda: arrays.new(1, 3), lambda: objects.new(1)):
            with pytest.raises(sc.Error, match="transaction"):
                make()
        assert (len(arrays), len(objects)) == (0, 0)
        with db.transaction() as txn:
            txn["a"].new(1, 3)[:] = [1, 2, 3]
            txn["o"].new(1).x[1] = 5
        assert other["a"][1].tolist() == [1, 2, 3]
        assert not other["a"][1].flags.writeable
        private = other["o"][1]
        private.x[1] = 6
        assert (other["o"][1].x[1], db["o"][1].x[1]) == (5, 5)
        with other.transaction() as txn:
            txn["o"].edit(1).x[0] = 4
        assert list(db["o"][1].x) == [4, 5]
    check_whole(path)


def test_waits_and_says_for_whom(path: str) -> None:
    sc.open(path, shared=True).close()
    with hold(path) as holder, sc.open(path, shared=True, timeout=0.1) as db:
        assert "held" not in db
        begun = time.monotonic()
        for attempt in (db.transaction, lambda: sc.open(path), lambda: db.array_store("mine", "i8")):
            with pytest.raises(sc.LockedError, match=f"process {holder.pid} "):
                attempt()
        assert time.monotonic() - begun > 0.19
        holder.communicate("go on\n", timeout=20)
        assert holder.returncode == 0
        assert db["held"][1].tolist() == [1]
        db["held"][2] = [2]
    with hold(path) as holder, sc.open(path, shared=True) as db:
        threading.Timer(0.3, lambda: holder.stdin.write("go on\n") and holder.stdin.flush()).start()  # type: ignore
        db["held"][3] = [3]  # waits as long as it takes
        holder.communicate(timeout=20)
    check_whole(path)


def test_a_writer_that_is_killed_holds_nobody_up(path: str) -> None:
    sc.open(path, shared=True).close()
    with hold(path) as holder, sc.open(path, shared=True, timeout=20) as db:
        threading.Timer(0.2, holder.kill).start()
        db.array_store("mine", "i8")[1] = [1]
        assert list(db) == ["mine"]
        holder.communicate()
    check_whole(path)


def test_an_exclusive_writer_and_shared_ones(path: str) -> None:
    with sc.open(path, sync=False) as db:
        db.array_store("a", "i8")[1] = [1]
        with sc.open(path, shared=True, timeout=0) as other:
            assert other["a"][1].tolist() == [1]
            with pytest.raises(sc.LockedError, match="this process"):
                other["a"][1] = [2]
            db["a"][1] = [3]
            other.refresh()
            assert other["a"][1].tolist() == [3]
            db.close()
            other["a"][1] = [2]
    check_whole(path)


def test_a_failed_transaction_does_not_spoil_the_next(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no more")

    with sc.open(path, shared=True) as db:
        store = db.array_store("a", "i8")
        store[1] = [1]
        with monkeypatch.context() as patch, pytest.raises(OSError, match="no more"):
            patch.setattr("structchunk.disk.files.flush", fail)
            store[1] = [2]
        store[2] = [2]
        assert store[1].tolist() in ([1], [2])
        assert store[2].tolist() == [2]
        with pytest.raises(KeyError), db.transaction() as txn:
            txn["a"][3] = [3]
            raise KeyError
        assert 3 not in store
        assert db.verify() == []
    check_whole(path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "no space")])
def test_a_compaction_that_is_cut_short_reads_as_before(
    path: str, monkeypatch: pytest.MonkeyPatch, error: BaseException | type[BaseException]
) -> None:
    """Some of its rows are in the clone of the index by then, and the chunk that they name is given up."""
    monkeypatch.setattr(index_change, "REWRITE_ROWS", 60)
    with sc.open(path, shared=True) as db:
        store = db.array_store("a", "i8")
        for first in range(3):
            store.put_many(range(first, 300, 3), [[key] for key in range(first, 300, 3)])
        with monkeypatch.context() as patch:
            fail_between_batches(patch, error)
            with pytest.raises((KeyboardInterrupt, OSError)):
                db.compact()
        assert [int(record[0]) for record in store.values()] == list(range(300))
        assert db.verify() == []
        store[300] = [300]
        assert [int(record[0]) for record in store.values()] == list(range(301))
        assert db.verify() == []
    check_whole(path)


def test_threads(path: str) -> None:
    """Transactions of one handle take turns, too, and every thread reads what it has written."""
    with sc.open(path, shared=True) as db:
        db.array_store("a", "i8")[0] = [0]

        def add(_: int) -> None:
            with db.transaction() as txn:
                mine = txn["a"][0] + 1
                txn["a"][0] = mine
            assert db["a"][0][0] >= mine

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(add, range(40)))
        assert db["a"][0].tolist() == [40]
        assert db.verify() == []
    check_whole(path)


@pytest.mark.parametrize("inside", [False, True])
def test_a_forked_child(path: str, *, inside: bool) -> None:
    with sc.open(path, shared=True) as db:
        db.array_store("a", "i8")[1] = [1]
        transaction = db.transaction() if inside else None

        def work() -> Any:
            with pytest.raises(sc.ClosedError, match="fork"):
                db["a"][1]
            with sc.open(path, shared=True, timeout=0) as mine:
                assert mine["a"][1].tolist() == [1]
                with pytest.raises(sc.LockedError if inside else sc.ClosedError, match=r"process|spawn"):
                    mine.transaction()

        assert in_child(work) == "None"
        if transaction is not None:
            transaction["a"][1] = [2]
            transaction.commit()
        assert db["a"][1].tolist() == [1 + inside]
    check_whole(path)


def count(path: str, rounds: int, name: str) -> int:
    """Add to a counter of all and one of this process, in one transaction each time."""
    seen = 0
    with sc.open(path, shared=True) as db:
        for number in range(rounds):
            with db.transaction() as txn:
                everyone, own = txn["count"], txn.array_store(name, "i8")
                everyone[0] = everyone[0] + 1
                own[number] = everyone[0]
                if number % 7 == 3:
                    del own[number - 1]
            now = int(db["count"][0][0])
            assert now > seen
            seen = now
            if number % 10 == 9:
                db.compact(name)
    return rounds


@pytest.mark.timeout(3600)
def test_counters_of_several_processes_add_up(path: str, budget: float) -> None:
    rounds = max(5, int(15 * budget))
    with sc.open(path, shared=True, chunk_size=16 << 10) as db:
        db.array_store("count", "i8")[0] = [0]
        db.array_store("turns", "i8")
        with multiprocessing.get_context("spawn").Pool(3) as pool:
            tasks = [(path, rounds, f"own {number}") for number in range(3)]
            done = pool.starmap_async(count, tasks)
            last = 0
            while not done.ready():
                now = int(db["count"][0][0])
                with db.snapshot() as snapshot:  # one commit: the newest entry of one is the counter of all
                    own = [snapshot[name] for name in snapshot if name.startswith("own")]
                    newest = max([int(store[max(store)][0]) for store in own if len(store)], default=0)
                    assert newest == int(snapshot["count"][0][0])
                assert now >= last
                last = now
                db["turns"][now] = [now]  # takes a turn, too
            assert done.get() == [rounds] * 3
        assert db.verify() == []
    check_whole(path)


def test_writes_do_not_catch_up(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction reads its own files: to clone the index before it, or after it, would be for nothing."""
    with sc.open(path, shared=True) as db, sc.open(path, shared=True) as other:
        store, mine = db.array_store("a", "i8"), other.array_store("a", "i8")
        with monkeypatch.context() as patch:
            patch.setattr("structchunk.readers.copies.Copies.read", lambda *_: pytest.fail("cloned"))
            for number in range(3):
                store[number] = [number]
                mine[number + 10] = [number]
                with other.transaction() as txn:
                    txn["a"][number] = txn["a"][number + 10] + 1
        assert list(store) == list(mine) == [0, 1, 2, 10, 11, 12]
    check_whole(path)
