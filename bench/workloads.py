"""What is timed, under the names of LevelDB's db_bench, and what must come out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.data import Data
from bench.peers.base import Peer


@dataclass(frozen=True)
class Workload:
    """One thing to time.

    Parameters
    ----------
    name : str
        As in db_bench; a peer takes part if it overrides the method of that name, or needs none.
    what : str
        What is timed, for the report.
    count : callable
        How many operations that is.
    run : callable
        The timed call.
    expected : callable
        What the call must return; of a fill, what ``scansum`` must return after it.
    """

    name: str
    what: str
    count: Callable[[Data], int]
    run: Callable[[Peer, Data], object]
    expected: Callable[[Data], object]


def _all(data: Data) -> int:
    return len(data.keys)


def _points(data: Data) -> int:
    return len(data.points)


def _reopen(peer: Peer, data: Data) -> object:
    peer.open()
    return peer.get(data.points[0])


# Each fills a database of its own. The last one's is kept, closed, and read by all that follow.
FILLS = (
    Workload(
        "fillsync",
        "single puts in random order, a durable commit each",
        lambda data: len(data.synced[0]),
        lambda peer, data: peer.fillsync(*data.synced),
        lambda data: data.sums_of(data.synced[0]),
    ),
    Workload(
        "fillrandom",
        "single puts in random order, one transaction",
        _all,
        lambda peer, data: peer.fillrandom(*data.shuffled),
        lambda data: data.sums,
    ),
    Workload(
        "fillbatch",
        "all records in key order, one transaction",
        _all,
        lambda peer, data: peer.fillbatch(data.keys, data.values),
        lambda data: data.sums,
    ),
)

READS = (
    Workload(
        "close",
        "close the database after fillbatch",
        lambda data: 1,
        lambda peer, data: peer.close(),
        lambda data: None,
    ),
    Workload(
        "open",
        "open the database and read one record",
        lambda data: 1,
        _reopen,
        lambda data: data.values[data.picked[0]],
    ),
    Workload(
        "readrandom",
        "single reads in random order, each as a NumPy array",
        _points,
        lambda peer, data: peer.readrandom(data.points),
        lambda data: data.values[data.picked, -1].sum(),
    ),
    Workload(
        "readmissing",
        "single reads of keys that are not there",
        _points,
        lambda peer, data: peer.readmissing(data.missing),
        lambda data: 0,
    ),
    Workload(
        "readmany",
        "the same random keys in one call, as one flat array",
        _points,
        lambda peer, data: peer.readmany(data.wanted),
        lambda data: data.values[data.picked].ravel(),
    ),
    Workload(
        "readseq",
        "every key and array, one at a time, in key order",
        _all,
        lambda peer, data: peer.readseq(),
        lambda data: (len(data.keys), data.values[:, -1].sum()),
    ),
    Workload(
        "scansum",
        "the sum of every record, in key order",
        _all,
        lambda peer, data: peer.scansum(),
        lambda data: data.sums,
    ),
)
