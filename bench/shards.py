"""Shards whose keys interleave: ``python -m bench.shards``, or ``python -m bench.shards 2000000 4 5 /dev/shm``.

The numbers are how many records, shards and rounds. The same records are dealt to shards in several ways; what is
printed is nanoseconds of processor time for each record, and how many times as long as where each shard has a range
of keys of its own. The first scan opens the shards, the other one finds their keys in memory. All ways take turns
in each round; figures are medians.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import structchunk as sc
from bench.steps import keys_of
from structchunk.shards.writing import finish, make_shard, new_directory
from structchunk.types.schema import array_schema

POINTS = 100_000
SINGLES = 20_000
PIECE = 1 << 20
WIDTHS = (1, 16)
Deal = Callable[[Any, int, int], Any]

DEALS: dict[str, Deal] = {
    "a range each": lambda record, shards, count: record * shards // count,
    "10,000 in turn": lambda record, shards, count: record // 10_000 % shards,
    "100 in turn": lambda record, shards, count: record // 100 % shards,
    "one in turn": lambda record, shards, count: record % shards,
    "at random": lambda record, shards, count: np.random.default_rng(3).integers(0, shards, len(record)),
}
"""Which shard each record goes to."""


def make(folder: Path, deal: Deal, count: int, shards: int, width: int) -> Path:
    """Write shards with records of so many float64."""
    schema = array_schema(np.float64)
    record = np.arange(count)
    owner = deal(record, shards, count)

    def fill(mine: Any, db: sc.Database) -> None:
        store = db.array_store("values", np.float64)
        for first in range(0, len(mine), PIECE):
            piece = mine[first : first + PIECE]
            store.put_many(keys_of(piece.astype(np.uint64)), np.repeat(piece, width).reshape(-1, width) * 1.0)

    with new_directory(folder) as directory:
        parts = [
            make_shard(directory, number, lambda db, number=number: fill(np.flatnonzero(owner == number), db))
            for number in range(shards)
        ]
        finish(directory, {"values": schema}, parts)
    return folder


def tasks(path: Path, shards: sc.Shards, count: int, width: int) -> dict[str, tuple[int, Callable[[], object]]]:
    """Return what is timed: how many records each is for, and what to call."""
    store = shards["values"]
    some = keys_of(np.random.default_rng(2).integers(0, count, POINTS).astype(np.uint64))
    singles = some[:SINGLES].tolist()
    total = (count - 1) * count // 2 * width

    def scan(store: Any = store) -> None:
        found = sum(float(batch.values.sum()) for batch in store.scan())
        assert np.isclose(found, total), (found, total)

    def first_scan() -> None:
        with sc.open_shards(path) as opened:
            scan(opened["values"])

    return {
        "first scan": (count, first_scan),
        "scan": (count, scan),
        "get_many": (POINTS, lambda: store.get_many(some)),
        "get": (SINGLES, lambda: [store[key] for key in singles]),
        "split": (count, lambda: shards.split("values", count=8)),
    }


def seconds(call: Callable[[], object]) -> float:
    """Return the processor time of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(folder: Path, count: int, shards: int, width: int, rounds: int) -> None:
    """Measure all ways of dealing, and print a line for each."""
    paths = {
        name: make(folder / f"{width}-{number}", deal, count, shards, width)
        for number, (name, deal) in enumerate(DEALS.items())
    }
    opened = {name: sc.open_shards(path) for name, path in paths.items()}
    todo = {name: tasks(paths[name], one, count, width) for name, one in opened.items()}
    took: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds + 1):
        for name, timed in todo.items():
            for what, (per, call) in timed.items():
                spent = seconds(call) / per * 1e9
                if number:  # the first round opens the shards
                    took.setdefault((name, what), []).append(spent)
    first = next(iter(DEALS))
    for name in DEALS:
        cells = []
        for what in todo[name]:
            each, other = statistics.median(took[name, what]), statistics.median(took[first, what])
            cells.append(f"{what} {each:8.1f} ns {each / max(other, 1e-9):6.2f}x")
        print(f"{width:3} float64, {name:15}", "  ".join(cells), flush=True)
    for one in opened.values():
        assert one.verify() == []
        one.close()


def main(count: int = 2_000_000, shards: int = 4, rounds: int = 5, where: str | None = None) -> None:
    """Measure."""
    with tempfile.TemporaryDirectory(prefix="structchunk-bench-", dir=where) as folder:
        for width in WIDTHS:
            measure(Path(folder), count, shards, width, rounds)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), *sys.argv[4:])
