"""What processes of pools do, and readers beside a writer: such a process imports this, and no module of tests."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable
from typing import Any

import structchunk as sc

COUNT = 1000
"""Records of the store that is read."""


def values_of(store: Any, start: int, stop: int) -> bytes:
    return b"".join(batch.values.tobytes() for batch in store.scan(start, stop))


def of_database(db: sc.Database) -> Any:
    return db["a"]


def of_snapshot(snapshot: sc.Snapshot) -> Any:
    return snapshot["a"]


def of_store(store: Any) -> Any:
    return store


def read_part(task: tuple[Any, Callable[[Any], Any], int, int]) -> tuple[bytes, int]:
    thing, store_of, start, stop = task
    time.sleep(0.005)
    return values_of(store_of(thing), start, stop), os.getpid()


def load_and_read(blob: bytes) -> bytes:
    return values_of(pickle.loads(blob), 0, COUNT)


def hold(blob: bytes) -> None:
    store = pickle.loads(blob)
    assert len(store) == COUNT
    os.kill(os.getpid(), signal.SIGKILL)


def total(task: tuple[Any, int, int]) -> tuple[float, int]:
    store, start, stop = task
    return sum(float(batch.values.sum()) for batch in store.scan(start, stop)), os.getpid()


def look(db: sc.Database) -> int:
    """Return the counter of a commit, having checked that all stores agree on it."""
    states = [{key: values.tolist() for key, values in db[name].items()} for name in "abc"]
    assert states[0] == states[1] == states[2]
    number = int(states[0][0][0])
    assert states[0].pop(0) == [number] * 5
    for key, values in states[0].items():
        newest = number - (number - key + 1) % 64
        assert values == [newest] * (newest % 7), (number, key, values)
    assert len(db["a"]) == len(states[0]) + 1
    for name in db:
        if name.startswith("extra"):
            assert {values.tolist()[0] for values in db[name].values()} == {int(name.split()[1])}
            assert len(db[name]) == 100
    return number
