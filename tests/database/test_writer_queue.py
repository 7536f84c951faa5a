"""Transactions that are given up, left to the garbage collector, or met by finalisers and signal handlers."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import OpenDB

import structchunk as sc
from structchunk.database import database
from structchunk.disk import files


@pytest.fixture
def db(open_db: OpenDB) -> sc.Database:
    db = open_db()
    db.array_store("a", np.float64)[1] = [1.0]
    return db


def in_thread(call: Callable[[], Any]) -> list[Any]:
    """Call in a thread of its own that must end, and return what it returned or raised."""
    said: list[Any] = []

    def run() -> None:
        try:
            said.append(call())
        except Exception as error:
            said.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    return said


def test_a_transaction_that_became_garbage_lets_others_write(db: sc.Database) -> None:
    holder = [db.transaction()]
    holder[0]["a"][2] = [2.0]
    cycle: list[Any] = [holder.pop()]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert in_thread(lambda: db["a"].put(3, [3.0])) == [None]
    assert list(db["a"]) == [1, 3]


def test_closing_aborts_what_another_thread_has_left_open(db: sc.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kept exception, whose traceback holds a transaction, does not keep the program from ending."""
    monkeypatch.setattr(database, "CLOSE_WAIT", 0.1)
    kept: list[Any] = []

    def fail() -> None:
        transaction = db.transaction()
        transaction["a"][2] = [2.0]
        kept.append(transaction)

    assert in_thread(fail) == [None]
    db.close()
    assert db.closed
    with pytest.raises(sc.ClosedError, match="aborted when the database was closed"):
        kept[0]["a"].put(3, [3.0])
    with sc.open(db.path) as again:
        assert list(again["a"]) == [1]


def test_a_database_that_was_dropped_is_closed_by_the_next_open(tmp_path: Path) -> None:
    path = tmp_path / "dropped.sc"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        db = sc.open(path, sync=False)
        db.array_store("a", np.float64)[1] = [1.0]
        del db
        gc.collect()
    with sc.open(path) as db:
        assert list(db["a"]) == [1]
        assert db.verify() == []


@pytest.fixture
def at_flush(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], list[Any]]:
    """``at_flush(call)``: call when next a file is flushed, as a signal handler would; what it says is returned."""
    flush = files.flush

    def prepare(call: Callable[[], Any]) -> list[Any]:
        said: list[Any] = []

        def interrupted(path: str) -> None:
            monkeypatch.setattr(files, "flush", flush)
            try:
                said.append(call())
            except Exception as error:
                said.append(error)
            flush(path)

        monkeypatch.setattr(files, "flush", interrupted)
        return said

    return prepare


@pytest.mark.parametrize("what", ["put", "sync", "snapshot", "transaction"])
def test_a_call_that_interrupts_a_commit_is_refused(db: sc.Database, at_flush: Any, what: str) -> None:
    calls: dict[str, Callable[[], Any]] = {
        "put": lambda: db["a"].put(5, [5.0]),
        "sync": db.sync,
        "snapshot": db.snapshot,
        "transaction": db.transaction,
    }
    said = at_flush(calls[what])
    db["a"][2] = [2.0]
    assert [type(error) for error in said] == [sc.LockedError]
    db["a"][3] = [3.0]
    assert list(db["a"]) == [1, 2, 3]


def test_closing_from_within_a_commit_waits_for_the_next_write(db: sc.Database, at_flush: Any) -> None:
    said = at_flush(db.close)
    db["a"][2] = [2.0]
    assert said == [None]
    assert list(db["a"]) == [1, 2]
    with pytest.raises(sc.ClosedError):
        db["a"][3] = [3.0]
    assert db.closed
    with sc.open(db.path) as again:
        assert list(again["a"]) == [1, 2]


def test_reading_from_within_a_commit(db: sc.Database, at_flush: Any) -> None:
    said = at_flush(lambda: (1 in db["a"], 9 in db["a"], db["a"][1].tolist()))
    db["a"][2] = [2.0]
    assert said == [(True, False, [1.0])]


def test_threads_write_in_the_order_of_asking(db: sc.Database) -> None:
    order: list[int] = []
    first = db.transaction()

    def write(number: int) -> None:
        with db.transaction(sync=False) as transaction:
            transaction["a"][number] = [1.0]
            order.append(number)

    threads = []
    for number in range(10, 16):
        thread = threading.Thread(target=write, args=(number,))
        threads.append(thread)
        waiting = len(db._queue._tickets)
        thread.start()
        while len(db._queue._tickets) == waiting:
            pass
    first.commit()
    for thread in threads:
        thread.join()
    assert order == list(range(10, 16))
