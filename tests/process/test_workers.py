"""Threads that make calls for others end when there is nothing to do."""

from __future__ import annotations

import itertools
import threading
from functools import partial
from queue import SimpleQueue
from typing import Any

import pytest

from structchunk.process import workers


class Forgetful:
    """A queue that does not return to some, after others, when their time is up: that of CPython 3.12 may not."""

    def __init__(self, others: int, times: int) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._timeless = itertools.chain(itertools.repeat(False, others), itertools.repeat(True, times))
        self.put, self.empty = self._queue.put, self._queue.empty

    def get(self, timeout: float) -> Any:
        return self._queue.get(timeout=None if next(self._timeless, False) else timeout)


@pytest.mark.parametrize("times", [0, 1, 3])
def test_all_end(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    monkeypatch.setattr(workers, "IDLE", 0.01)
    own = workers.Workers(4)
    own._queue = Forgetful(4, times)  # type: ignore[assignment]
    together = threading.Barrier(4)
    jobs = [workers.Job(together.wait) for _ in range(4)]
    for job in jobs:
        own.put(job)
    for job in jobs:
        own.wait(job)
    for _ in range(1000):
        if not own._count:
            break
        threading.Event().wait(0.02)
    assert own._count == 0


def test_they_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever puts something in while they end finds it done."""
    monkeypatch.setattr(workers, "IDLE", 0.0005)
    own = workers.Workers(6)
    done: list[int] = []
    jobs = [workers.Job(partial(done.append, number)) for number in range(300)]
    for first in range(0, 300, 7):
        for job in jobs[first : first + 7]:
            own.put(job)
        for job in jobs[first : first + 7]:
            own.wait(job)
    assert sorted(done) == list(range(300))
