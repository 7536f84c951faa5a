"""One sum by a cluster: ``python -m bench.cluster``, or ``python -m bench.cluster 100000000 3 2 /dev/shm``.

The numbers are how many records of one float64, how many rounds, and in how many ranges of keys the workers get
them. Two workers of Dask, of one thread each, sum them; so do one process, by a scan, and its threads, by
``map_batches``. Beside them the same values in a file that NumPy maps: summed by one process, and by the workers.

What is printed is seconds of the first sum in processes that have just been started, and of later ones. All take
turns in each round; figures are medians.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np

import structchunk as sc
from bench.data import Floats, Keys
from bench.steps import keys_of, numbers

WORKERS = 2
LATER = 3
PIECE = 1 << 22
Sum = Callable[[], float]


def value_of(keys: Keys) -> Floats:
    """Return the value of each key."""
    return (keys & np.uint64(1023)).astype(np.float64)


def make(folder: Path, count: int) -> float:
    """Write the records, to a database and to a file, and return their sum."""
    total = 0.0
    with sc.open(folder / "db", "x", sync=False) as db, (folder / "values").open("wb") as file:
        store = db.array_store("values", np.float64)
        for start in range(0, count, PIECE):
            keys = keys_of(numbers(start, min(count, start + PIECE)))
            values = value_of(keys)
            store.put_many(keys, values.reshape(-1, 1))
            file.write(values.tobytes())
            total += float(values.sum())
    return total


def mapped(folder: Path) -> Floats:
    """Return the values in the file."""
    return np.memmap(folder / "values", np.float64, "r")


def sum_of(batch: sc.Batch) -> float:
    """Return the sum of the items of a batch."""
    return float(batch.values.sum())


# ---------------------------------------------------------------------- who sums


@contextmanager
def scan(folder: Path, _ranges: int) -> Iterator[Sum]:
    """Sum in one process."""
    with sc.open(folder / "db", "r") as db:
        yield lambda: sum(map(sum_of, db["values"].scan()))


@contextmanager
def threads(folder: Path, _ranges: int) -> Iterator[Sum]:
    """Sum by its threads."""
    with sc.open(folder / "db", "r") as db:
        yield lambda: sum(db["values"].map_batches(sum_of, workers=WORKERS))


@contextmanager
def workers(folder: Path, ranges: int) -> Iterator[Sum]:
    """Let the workers sum, who open the database themselves."""
    from structchunk import dask  # noqa: PLC0415

    with cluster():
        bag = dask.read(folder / "db", "values", partitions=ranges)
        yield lambda: bag.map(sum_of).sum().compute()


@contextmanager
def memmap(folder: Path, _ranges: int) -> Iterator[Sum]:
    """Sum by NumPy, in one process."""
    yield lambda: float(mapped(folder).sum())


@contextmanager
def memmap_workers(folder: Path, ranges: int) -> Iterator[Sum]:
    """Sum by NumPy, and the workers."""
    import dask  # noqa: PLC0415

    count = len(mapped(folder))
    bounds = [count * number // ranges for number in range(ranges + 1)]
    sum_between = dask.delayed(_sum_between, pure=False)  # so that it is done each time

    def sum_all() -> float:
        return float(sum(dask.compute(*(sum_between(folder, *part) for part in pairwise(bounds)))))

    with cluster():
        yield sum_all


def _sum_between(folder: Path, start: int, stop: int) -> float:
    return float(mapped(folder)[start:stop].sum())


@contextmanager
def cluster() -> Iterator[None]:
    """Start two workers."""
    from distributed import Client, LocalCluster  # noqa: PLC0415

    options = {"n_workers": WORKERS, "threads_per_worker": 1, "processes": True, "dashboard_address": "localhost:0"}
    with LocalCluster(**options) as made, Client(made):
        yield


WAYS = {
    "structchunk, scan": scan,
    "structchunk, 2 threads": threads,
    "structchunk, 2 workers of Dask": workers,
    "np.memmap": memmap,
    "np.memmap, 2 workers of Dask": memmap_workers,
}


# ---------------------------------------------------------------------- measuring


def measure(name: str, folder: Path, ranges: int) -> tuple[float, list[float]]:
    """Sum several times in one way, in this process; return the sum, and the seconds of each."""
    with WAYS[name](folder, ranges) as sum_all:
        spent = []
        for _ in range(1 + LATER):
            start = time.perf_counter()
            total = sum_all()
            spent.append(time.perf_counter() - start)
    return total, spent


def main(count: int = 10_000_000, rounds: int = 3, ranges: int = WORKERS, where: str | None = None) -> None:
    """Measure."""
    first: dict[str, list[float]] = {name: [] for name in WAYS}
    later: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory(prefix="structchunk-bench-", dir=where) as directory:
        folder = Path(directory)
        total = make(folder, count)
        for _ in range(rounds):
            for name in WAYS:
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                    found, spent = process.submit(measure, name, folder, ranges).result()
                assert np.isclose(found, total), (name, found, total)
                first[name].append(spent[0])
                later[name] += spent[1:]
    for name in WAYS:
        each = f"first {statistics.median(first[name]):7.3f} s, later {statistics.median(later[name]):7.3f} s"
        print(f"{name:31} {each}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), *sys.argv[4:])
