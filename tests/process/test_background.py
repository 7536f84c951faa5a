"""Background: answers and errors come to who waits for them, and no thread stays behind."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import structchunk as sc
from structchunk.chunks import segment
from structchunk.engine import commit
from structchunk.process import background
from structchunk.process.background import Background

LONG = background.WORTH_SIZE


def fail() -> int:
    raise ZeroDivisionError


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("structchunk")}


def test_long_calls_go_on_in_threads() -> None:
    both = threading.Barrier(3)
    with Background() as beside:
        waits = [beside.begin(lambda: both.wait(10), LONG) for _ in range(2)]
        both.wait(10)
        assert len(threads()) == 2
    assert sorted(wait() for wait in waits) in ([0, 1], [0, 2], [1, 2])
    assert not threads()


def test_short_calls_are_made_at_once() -> None:
    calls: list[threading.Thread] = []
    with Background() as beside:
        wait = beside.begin(lambda: calls.append(threading.current_thread()), LONG - 1)
        assert calls == [threading.current_thread()]
        assert not threads()
    wait()
    assert len(calls) == 1


def test_a_long_call_is_made_at_once_where_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with Background() as beside:
        wait = beside.begin(threading.current_thread, LONG)
    assert wait() is threading.current_thread()


def test_a_bulk_write_as_the_interpreter_exits(tmp_path: Path) -> None:
    """By then, no pool takes calls any more."""
    script = f"""
import atexit, numpy as np, structchunk as sc
db = sc.open({str(tmp_path / "db")!r})
atexit.register(db.close)
atexit.register(db.array_store("a", "f8").put_many, np.arange(9), np.ones((9, {LONG // 64})))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    with sc.open(tmp_path / "db") as db:
        assert len(db["a"]) == 9 and db.verify() == []


def test_an_error_comes_when_its_answer_is_asked_for() -> None:
    with Background() as beside:
        wait = beside.begin(fail, LONG)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            wait()


def test_an_error_of_the_body_waits_for_what_was_begun() -> None:
    ended = []
    with pytest.raises(ZeroDivisionError), Background() as beside:
        beside.begin(lambda: ended.append(threading.Event().wait(0.05)), LONG)
        fail()
    assert ended
    assert not threads()


def test_checksums_of_a_commit(db: sc.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made in threads, they are those of each chunk; if one fails, nothing has changed."""
    monkeypatch.setattr(background, "WORTH_SIZE", 1)
    names: list[str] = []

    def noted(*args: Any) -> int:
        names.append(threading.current_thread().name)
        return segment.data_crc(*args)

    def broken(*args: Any) -> int:
        raise MemoryError

    monkeypatch.setattr(commit, "data_crc", noted)
    stores = [db.array_store(name, "f8") for name in "ab"]
    names.clear()
    with db.transaction() as transaction:
        for store in stores:
            transaction[store.name].put_many(np.arange(9), np.random.default_rng(1).random((9, 3)))
    assert len(names) == 2
    assert all(name.startswith("structchunk") for name in names)
    before = db.snapshot().last_commit
    monkeypatch.setattr(commit, "data_crc", broken)
    with pytest.raises(MemoryError):
        stores[0].put_many([1, 2], [[1.0], [2.0]])
    assert not threads()
    monkeypatch.setattr(commit, "data_crc", noted)
    assert db.snapshot().last_commit == before
    stores[0].put_many([1, 2], [[1.0], [2.0]])
    assert stores[0][2].tolist() == [2.0]
