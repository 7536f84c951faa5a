"""What reading from object storage takes, in time, requests and bytes: one record, 1 % of the keys, all of them.

The server runs on this machine, and so is not far: what requests cost where they take longer is to be seen from
how many there are.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.data import Arrays, Floats
from bench.peers.published import PEERS, Client, PublishedPeer
from bench.report import duration, simple_table

READS = 20
"""Single records that are read in a round, and ranges of 1 % are a quarter of that."""
CLIENT = "s3fs alone"
MANY = 100
WORKLOADS = {
    "open": "open, and read what is needed to find records",
    "one record": "read one that is not there, anywhere among all of them",
    "100 records": "read as many in one call, from anywhere among all of them",
    "1 % of the keys": "the sum of each record of a range, none of which is there",
    "all": "the sum of every record, none of which is there",
}


@dataclass
class Cost:
    """What one workload took, each time."""

    seconds: list[float] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)


Costs = dict[str, dict[str, Cost]]


def measure(
    data: Arrays, names: list[str], rounds: int, folder: Path | None, say: Callable[[str], None]
) -> tuple[Costs, dict[str, str]]:
    """Publish the records with each package, read them, so many times, in turns; also tell who takes no part."""
    from examples import local_s3  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="structchunk-bench-", dir=folder) as temporary:
        server = Path(temporary, "server")
        server.mkdir()
        with local_s3.server(server) as options:
            local_s3.count_requests()
            peers, skipped = _peers(names, options)
            for name, peer in peers.items():
                say(f"published: {name} writes")
                peer.publish(data.keys, data.values)
            costs: Costs = {name: {workload: Cost() for workload in WORKLOADS} for name in peers}
            if "structchunk" in peers:
                costs[CLIENT] = {"all": Cost()}
            for number in range(rounds):
                say(f"published: round {number + 1} of {rounds}")
                for name, peer in peers.items():
                    _read(peer, data, costs[name], np.random.default_rng(number))
                    parts = local_s3.parts()
                    if name == "structchunk":
                        scanned = parts[-costs[name]["all"].requests[-1] :]
                        _fetch(Client(options, scanned), costs[CLIENT]["all"])
    return costs, skipped


def _peers(names: list[str], options: dict[str, object]) -> tuple[dict[str, PublishedPeer], dict[str, str]]:
    peers, skipped = {}, {}
    for name in [name for name in PEERS if name in names]:
        try:
            peers[name] = PEERS[name](options)
        except ImportError as error:
            skipped[name] = str(error)
    return peers, skipped


def _read(peer: PublishedPeer, data: Arrays, costs: dict[str, Cost], rng: np.random.Generator) -> None:
    keys, sums = data.keys, data.values.sum(axis=1)
    with _counted(costs["open"]):
        peer.open()
    for at in rng.integers(0, len(keys), READS).tolist():
        with _counted(costs["one record"]):
            found = peer.read(int(keys[at]))
        _check(peer, found, data.values[at])
    peer.close()
    for _ in range(READS // 4):
        some = np.sort(rng.choice(len(keys), MANY, replace=False))
        peer.open()
        with _counted(costs["100 records"]):
            found = peer.read_many(keys[some])
        _check(peer, found, data.values[some])
        peer.close()
    share = max(len(keys) // 100, 1)
    for at in rng.integers(0, len(keys) - share, READS // 4).tolist():
        peer.open()
        with _counted(costs["1 % of the keys"]):
            found = peer.scan(int(keys[at]), int(keys[at + share]))
        _check(peer, found, sums[at : at + share])
        peer.close()
    peer.open()
    with _counted(costs["all"]):
        found = peer.scan(0, int(keys[-1]) + 1)
    _check(peer, found, sums)
    peer.close()


def _fetch(client: Client, cost: Cost) -> None:
    with _counted(cost):
        client.fetch()
    client.close()


def _check(peer: PublishedPeer, found: Floats, expected: Floats) -> None:
    if not np.allclose(found, expected):
        raise ValueError(f"{peer.package} read something else than it wrote")


@contextmanager
def _counted(cost: Cost) -> Iterator[None]:
    from examples import local_s3  # noqa: PLC0415

    local_s3.fetched()
    start = time.perf_counter()
    yield
    cost.seconds.append(time.perf_counter() - start)
    requests, size = local_s3.fetched()
    cost.requests.append(requests)
    cost.bytes.append(size)


def table(costs: Costs) -> str:
    """Format the medians."""
    rows = [["", *costs]]
    for workload in WORKLOADS:
        rows.append([workload, *(_said(of.get(workload)) for of in costs.values())])
    return simple_table([[cell or ".." for cell in row] for row in rows])


def _said(cost: Cost | None) -> str:
    if cost is None:
        return "n/a"
    requests, size = statistics.median(cost.requests), statistics.median(cost.bytes)
    return f"{duration(statistics.median(cost.seconds))}, {requests:g} req., {size / 1e6:,.3g} MB"


def save(folder: Path, facts: dict[str, dict[str, str]], costs: Costs) -> None:
    """Write ``published.json`` and ``published.txt``."""
    all_costs = {name: {workload: vars(cost) for workload, cost in of.items()} for name, of in costs.items()}
    (folder / "published.json").write_text(json.dumps({**facts, "published": all_costs}, indent=1) + "\n")
    (folder / "published.txt").write_text(table(costs) + "\n")
