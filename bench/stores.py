"""Many small stores: ``python -m bench.stores``, or ``python -m bench.stores 10000 3`` for so many, so many rounds.

Each store holds one record of two float64. For each package that has named stores, and for files of NumPy, what is
printed is what one store costs: microseconds of each step, KiB of disk, file descriptors while all are read. All
packages take turns in each round; times are medians.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import structchunk as sc

VALUE = np.array([1.0, 2.0])
Times = dict[str, float]
Step = Callable[[], object]


def names(count: int) -> list[str]:
    """Return the names of the stores."""
    return [f"branch/{number}" for number in range(count)]


def ours(folder: Path, count: int, timed: Callable[[str, Step], Any]) -> None:
    """Time structchunk."""
    path = folder / "db"

    def create() -> None:
        with sc.open(path, sync=False) as db, db.transaction(sync=True) as txn:
            for name in names(count):
                txn.array_store(name, "f8").put(1, VALUE)

    timed("create", create)
    db = timed("open", lambda: sc.open(path))
    timed("list", lambda: list(db))
    timed("read", lambda: [db[name][1] for name in names(count)])
    timed("verify", db.verify)
    with db.transaction() as txn:
        for name in names(count):
            txn[name].put(2, VALUE)
    timed("compact", db.compact)
    timed("checkpoint", lambda: db.checkpoint(folder / "copy"))
    timed("close", db.close)
    timed("rebuild", lambda: sc.rebuild_index(path))


def lmdb(folder: Path, count: int, timed: Callable[[str, Step], Any]) -> None:
    """Time py-lmdb with named databases."""
    import lmdb  # noqa: PLC0415

    def opened() -> Any:
        return lmdb.open(str(folder / "db"), map_size=1 << 32, max_dbs=count)

    def create() -> None:
        with opened() as env, env.begin(write=True) as txn:
            for name in names(count):
                txn.put(b"1", VALUE.data, db=env.open_db(name.encode(), txn=txn))

    def read() -> None:
        with env.begin() as txn:
            for name in names(count):
                np.frombuffer(txn.get(b"1", db=env.open_db(name.encode(), txn=txn)))

    timed("create", create)
    env = timed("open", opened)
    timed("read", read)
    env.close()


def h5py(folder: Path, count: int, timed: Callable[[str, Step], Any]) -> None:
    """Time h5py with one dataset for each store."""
    import h5py  # noqa: PLC0415

    def create() -> None:
        with h5py.File(folder / "file.h5", "w") as file:
            for name in names(count):
                file.create_dataset(name, data=VALUE)
        os.sync()

    timed("create", create)
    file = timed("open", lambda: h5py.File(folder / "file.h5", "r"))
    timed("read", lambda: [file[name][:] for name in names(count)])
    file.close()


def npy(folder: Path, count: int, timed: Callable[[str, Step], Any]) -> None:
    """Time one file of NumPy for each store."""

    def create() -> None:
        for number in range(count):
            np.save(folder / f"{number}.npy", VALUE)
        os.sync()

    timed("create", create)
    timed("read", lambda: [np.load(folder / f"{number}.npy") for number in range(count)])


PEERS = {"structchunk": ours, "py-lmdb": lmdb, "h5py": h5py, ".npy files": npy}


def run(peer: Callable[..., None], count: int, base: str | None) -> Times:
    """Return what one store costs a package."""
    costs: Times = {}
    folder = Path(tempfile.mkdtemp(dir=base))

    def timed(step: str, call: Step) -> Any:
        start = time.perf_counter()
        result = call()
        costs[step] = (time.perf_counter() - start) / count * 1e6
        if step == "create":
            costs["KiB"] = sum(file.stat().st_blocks / 2 for file in folder.rglob("*") if file.is_file()) / count
        if step == "read":
            costs["descriptors"] = len(os.listdir("/proc/self/fd")) / count
        return result

    try:
        peer(folder, count, timed)
    finally:
        shutil.rmtree(folder)
    return costs


def main(count: int = 1_000, rounds: int = 3, base: str | None = None) -> None:
    """Print what one store costs each package."""
    found: dict[str, list[Times]] = {name: [] for name in PEERS}
    for _ in range(rounds):
        for name, peer in PEERS.items():
            with contextlib.suppress(ModuleNotFoundError):  # a package that is not installed is skipped
                found[name].append(run(peer, count, base))
    for name, all_costs in ((name, costs) for name, costs in found.items() if costs):
        costs = {step: statistics.median(each[step] for each in all_costs) for step in all_costs[0]}
        print(name.ljust(12), "  ".join(f"{step} {cost:.3g}" for step, cost in costs.items()))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), *sys.argv[3:])
