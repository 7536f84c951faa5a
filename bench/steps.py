"""One step of the growth benchmark, in a process of its own: ``python -m bench.steps STEP FOLDER KEYS``.

So each step's memory is its own, and one of them can be killed. It prints the seconds that it took.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np

import structchunk as sc
from bench.data import Floats, Keys

PIECE = 100_000
WIDTH = 1
POINTS = 100_000
OPENINGS = 5
UNSAVED_COMMITS = 20
SPOILT = 4  # every so many records are replaced before the store is compacted

Step = Callable[[Path, int], float]


def keys_of(numbers: Keys) -> Keys:
    """Return the keys of the records of these numbers: ascending, with gaps that no formula of ours knows."""
    scattered = numbers * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(61)
    return numbers * np.uint64(16) + scattered


def block() -> Floats:
    """Return the values of one piece; record ``i`` has row ``i % PIECE``."""
    return np.random.default_rng(1).random((PIECE, WIDTH))


def numbers(start: int, stop: int) -> Keys:
    """Count."""
    return np.arange(start, stop, dtype=np.uint64)


def some(count: int) -> Keys:
    """Numbers of random records."""
    return np.random.default_rng(2).integers(0, count, POINTS).astype(np.uint64)


def open_store(folder: Path) -> tuple[sc.Database, sc.ArrayStore]:
    """Open the database of this benchmark."""
    db = sc.open(folder / "growth.sc")
    return db, db.array_store("values", np.float64)


def seconds(call: Callable[[], object]) -> float:
    """Time a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def require(holds: object, what: str) -> None:
    """Raise if an answer was wrong."""
    if not holds:
        raise SystemExit(f"wrong answer: {what}")


def load(folder: Path, count: int) -> float:
    """Store all records, in durable commits of one piece each."""
    values = block()

    def run() -> None:
        db, store = open_store(folder)
        with db:
            for start in range(0, count, PIECE):
                piece = numbers(start, min(start + PIECE, count))
                store.put_many(keys_of(piece), values[: len(piece)])

    return seconds(run)


def open_and_get(folder: Path, count: int) -> float:
    """Open the database and read one record."""
    key = int(keys_of(some(count)[:1])[0])

    def run() -> float:
        start = time.perf_counter()
        db, store = open_store(folder)
        size = len(store[key])
        took = time.perf_counter() - start
        require(size == WIDTH, "open")
        db.close()
        return took

    return statistics.median(run() for _ in range(OPENINGS))


def get(folder: Path, count: int) -> float:
    """Read random records one by one, when they all were read before."""
    picked = some(count)
    keys = keys_of(picked).tolist()
    right = block()[picked % np.uint64(PIECE), -1].sum()
    db, store = open_store(folder)
    with db:
        require(np.isclose(sum([store[key][-1] for key in keys]), right), "get")

        def run() -> None:
            for key in keys:
                store[key]

        return seconds(run)


def get_many(folder: Path, count: int) -> float:
    """Read the same records in one call, for the second time."""
    picked = some(count)
    keys = keys_of(picked)
    db, store = open_store(folder)
    with db:
        found = store.get_many(keys).values.reshape(-1, WIDTH)
        require((found == block()[picked % np.uint64(PIECE)]).all(), "get_many")
        del found
        return seconds(lambda: store.get_many(keys))


def scan(folder: Path, count: int) -> float:
    """Sum every record, for the second time."""
    db, store = open_store(folder)
    with db:
        total = sum([batch.reduce(np.add).sum() for batch in store.scan()])
        right = block().sum() * (count // PIECE) + block()[: count % PIECE].sum()
        require(np.isclose(total, right), "scan")
        return seconds(lambda: deque((batch.reduce(np.add) for batch in store.scan()), maxlen=0))


def kill(folder: Path, count: int) -> float:
    """Write some commits and die without a word."""
    _, store = open_store(folder)
    values = block()
    for number in range(UNSAVED_COMMITS):
        picked = some(count)[number * 1_000 : (number + 1) * 1_000]
        store.put_many(keys_of(picked), values[picked % np.uint64(PIECE)])
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def reopen(folder: Path, count: int) -> float:
    """Open the database after that, and read one record."""
    key = int(keys_of(some(count)[:1])[0])
    start = time.perf_counter()
    db, store = open_store(folder)
    size = len(store[key])
    took = time.perf_counter() - start
    require(size == WIDTH and len(store) == count, "reopen")
    db.close()
    return took


def rebuild(folder: Path, count: int) -> float:
    """Make the index anew, after it was deleted."""
    for index in (folder / "growth.sc").glob("index-*"):
        shutil.rmtree(index)
    took = seconds(lambda: sc.rebuild_index(folder / "growth.sc"))
    db, store = open_store(folder)
    with db:
        require(len(store) == count, "rebuild")
    return took


def spoil(folder: Path, count: int) -> float:
    """Replace every fourth record, so that there is something to compact."""
    values = block()
    db, store = open_store(folder)
    with db:
        for start in range(0, count, PIECE):
            piece = numbers(start, min(start + PIECE, count))[::SPOILT]
            store.put_many(keys_of(piece), values[piece % np.uint64(PIECE)])
    return 0.0


def compact(folder: Path, count: int) -> float:
    """Rewrite the store."""
    db, store = open_store(folder)
    with db:
        took = seconds(lambda: db.compact("values"))
        require(len(store) == count and db.stats()["values"].garbage == 0, "compact")
        return took


def verify(folder: Path, count: int) -> float:
    """Check all of it."""
    db, _ = open_store(folder)
    with db:
        found: list[object] = []
        took = seconds(lambda: found.extend(db.verify()))
        require(not found, "verify")
        return took


STEPS: dict[str, Step] = {
    "load": load,
    "open": open_and_get,
    "get": get,
    "get_many": get_many,
    "scan": scan,
    "kill": kill,
    "reopen": reopen,
    "spoil": spoil,
    "compact": compact,
    "rebuild": rebuild,
    "verify": verify,
}

if __name__ == "__main__":
    name, path, size = sys.argv[1:]
    print(json.dumps(STEPS[name](Path(path), int(size))))
