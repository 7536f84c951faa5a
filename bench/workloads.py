"""What is timed, under the names of LevelDB's db_bench, and what must come out of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from bench.data import MOST_POINTS, Arrays, Structs

WARM, COLD, AS_IT_IS = "warm", "cold", "as it is"
HAND_READS = 200_000
COLD_READS = 2_000
RELAXED_PUTS, DURABLE_PUTS = 2_000, 500


@dataclass(frozen=True)
class Workload:
    """One thing to time.

    Parameters
    ----------
    name : str
        As in db_bench.
    what : str
        What is timed, for the report.
    count : callable
        How many operations that is.
    run : callable
        The timed call, with a peer and the data.
    expected : callable
        What must come out.
    check : callable, optional
        What to ask the peer after the timed call; without it, the call's own answer is checked.
    most : int
        How many records are asked for at most.
    needs : str
        The method of a peer without which it does not take part; the name, unless given.
    before : str
        ``WARM``: the peer has done a bit of the same before. ``COLD``: it was closed, and the system made to
        forget its files; the call opens it. ``AS_IT_IS``: whatever the workloads before did.
    prepare : callable, optional
        What is done first, and not timed.
    """

    name: str
    what: str
    count: Callable[[Any], int]
    run: Callable[[Any, Any], object]
    expected: Callable[[Any], object]
    check: Callable[[Any, Any], object] | None = None
    most: int = MOST_POINTS
    needs: str = ""
    before: str = AS_IT_IS
    prepare: Callable[[Any, Any], object] | None = None

    @property
    def method(self) -> str:
        """The method that a peer must have."""
        return self.needs or self.name


@dataclass(frozen=True)
class Lap:
    """What a workload returns of which a part counts: the seconds of that, and what came out."""

    seconds: float
    answer: object


@dataclass(frozen=True)
class Suite:
    """Workloads over one kind of data.

    Parameters
    ----------
    fills : tuple of Workload
        Each fills a database of its own. The last one's is kept, closed, and used by all of `uses`.
    """

    fills: tuple[Workload, ...]
    uses: tuple[Workload, ...]

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """All, in the order in which they run."""
        return self.fills + self.uses


def _all(data: Any) -> int:
    return len(data.keys)


def _points(data: Any) -> int:
    return len(data.points)


def _one(data: Any) -> int:
    return 1


def _opened(call: Callable[[Any, Any], object]) -> Callable[[Any, Any], object]:
    def run(peer: Any, data: Any) -> object:
        peer.open()
        return call(peer, data)

    return run


def _sums(peer: Any, data: Any) -> object:
    return peer.scansum()


def _refreshed(peer: Any, data: Any) -> Lap:
    """Commit one record after the other, and time how a reader comes to see each."""
    keys, values = data.renewed
    seconds, total = 0.0, 0.0
    for key, value in zip(keys.tolist(), values, strict=True):
        peer.put(key, value)
        start = time.perf_counter()
        found = peer.refresh(key)
        seconds += time.perf_counter() - start
        total += found[-1]
    return Lap(seconds, total)


def _shared(*, durable: bool) -> Callable[[Any, Any], object]:
    def prepare(peer: Any, data: Any) -> None:
        peer.close()
        peer.share(durable)
        peer.put(data.points[0], data.renewed[1][0])  # the first one may find more to do

    return prepare


def _puts(peer: Any, data: Any) -> None:
    put = peer.put
    keys, values = data.renewed
    for key, value in zip(keys.tolist(), values, strict=True):
        put(key, value)


def _last_items(peer: Any, data: Any) -> object:
    return sum(peer.get(key)[-1] for key in data.points)


def _last_renewed(data: Any) -> object:
    return data.renewed[1][:, -1].sum()


CLOSE = Workload(
    "close",
    "close the database after it was filled",
    _one,
    lambda peer, data: peer.close(),
    lambda data: None,
)

OPEN = Workload(
    "open",
    "open the database and read one record",
    _one,
    _opened(lambda peer, data: peer.get(data.points[0])),
    lambda data: data.values[data.picked[0]],
    needs="get",
)

ARRAYS = Suite(
    fills=(
        Workload(
            "fillsync",
            "single puts in random order, a durable commit each",
            lambda data: len(data.synced[0]),
            lambda peer, data: peer.fillsync(*data.synced),
            lambda data: data.sums_of(data.synced[0]),
            check=_sums,
        ),
        Workload(
            "fillseq",
            "single puts in key order, one transaction",
            _all,
            lambda peer, data: peer.fillsingly(data.keys, data.values),
            lambda data: data.sums,
            check=_sums,
            needs="fillsingly",
        ),
        Workload(
            "fillrandom",
            "single puts in random order, one transaction",
            _all,
            lambda peer, data: peer.fillsingly(*data.shuffled),
            lambda data: data.sums,
            check=_sums,
            needs="fillsingly",
        ),
        Workload(
            "fillbatch",
            "all records in key order, one transaction",
            _all,
            lambda peer, data: peer.fillbatch(data.keys, data.values),
            lambda data: data.sums,
            check=_sums,
        ),
    ),
    uses=(
        CLOSE,
        OPEN,
        Workload(
            "scansum",
            "the sum of every record, in key order",
            _all,
            lambda peer, data: peer.scansum(),
            lambda data: data.sums,
            before=WARM,
        ),
        Workload(
            "scanall",
            "the same sums, by all cores",
            _all,
            lambda peer, data: peer.scanall(),
            lambda data: data.sums,
            before=WARM,
        ),
        Workload(
            "readseq",
            "every key and array, one at a time, in key order",
            _all,
            lambda peer, data: peer.readseq(),
            lambda data: (len(data.keys), data.values[:, -1].sum()),
        ),
        Workload(
            "readrandom",
            "single reads in random order, each as a NumPy array",
            _points,
            lambda peer, data: peer.readrandom(data.points),
            lambda data: data.values[data.picked, -1].sum(),
            before=WARM,
        ),
        Workload(
            "readmissing",
            "single reads of keys that are not there",
            _points,
            lambda peer, data: peer.readmissing(data.missing),
            lambda data: 0,
            before=WARM,
        ),
        Workload(
            "readmany",
            "the same random keys in one call, as one flat array",
            _points,
            lambda peer, data: peer.readmany(data.wanted),
            lambda data: data.values[data.picked].ravel(),
            before=WARM,
        ),
        Workload(
            "coldscan",
            "open and scansum, the files not in the page cache",
            _all,
            _opened(lambda peer, data: peer.scansum()),
            lambda data: data.sums,
            needs="scansum",
            before=COLD,
        ),
        replace(OPEN, name="coldopen", what=f"{OPEN.what}, the files not in the page cache", before=COLD),
        Workload(
            "coldread",
            "open and readrandom, a few keys, the files not in the page cache",
            _points,
            _opened(lambda peer, data: peer.readrandom(data.points)),
            lambda data: data.values[data.picked, -1].sum(),
            most=COLD_READS,
            needs="readrandom",
            before=COLD,
        ),
        Workload(
            "overwrite",
            "other values for existing keys, single puts in random order, one transaction",
            _points,
            lambda peer, data: peer.overwrite(*data.renewed),
            lambda data: data.renewed_sums,
            check=_sums,
        ),
        Workload(
            "refresh",
            "after a commit of one record, bring a reader to it and read the record",
            _points,
            _refreshed,
            _last_renewed,
            most=DURABLE_PUTS,
            before=WARM,
        ),
        Workload(
            "sharedput",
            "single puts, a commit each that need not be durable, where other processes may write, too",
            _points,
            _puts,
            _last_renewed,
            check=_last_items,
            most=RELAXED_PUTS,
            needs="share",
            prepare=_shared(durable=False),
        ),
        Workload(
            "sharedputsync",
            "the same, durable commits",
            _points,
            _puts,
            _last_renewed,
            check=_last_items,
            most=DURABLE_PUTS,
            needs="share",
            prepare=_shared(durable=True),
        ),
    ),
)

STRUCTS = Suite(
    fills=(
        Workload(
            "fillstructs",
            "all structs in key order, one transaction",
            _all,
            lambda peer, data: peer.fillstructs(data.keys, data.values),
            lambda data: data.values["x"].mean(),
            check=lambda peer, data: peer.scancolumn(),
        ),
    ),
    uses=(
        CLOSE,
        Workload(
            "open",
            "open the database and read one field",
            _one,
            _opened(lambda peer, data: peer.fieldread(data.points[:1])),
            lambda data: data.values["x"][data.picked[0]],
            needs="fieldread",
        ),
        Workload(
            "scancolumn",
            "the mean of one field over all structs",
            _all,
            lambda peer, data: peer.scancolumn(),
            lambda data: data.values["x"].mean(),
            before=WARM,
        ),
        Workload(
            "fieldread",
            "one field of a random struct",
            _points,
            lambda peer, data: peer.fieldread(data.points),
            lambda data: data.values["x"][data.picked].sum(),
            before=WARM,
        ),
        Workload(
            "handread",
            "one field of a struct that is at hand already",
            lambda data: HAND_READS,
            lambda peer, data: peer.handread(data.points[0], HAND_READS),
            lambda data: data.values["x"][data.picked[0]],
            before=WARM,
        ),
        Workload(
            "fieldwrite",
            "set one field of a random struct",
            _points,
            lambda peer, data: peer.fieldwrite(data.points),
            lambda data: data.touched_sum,
            check=lambda peer, data: peer.fieldread(data.points),
        ),
        Workload(
            "handwrite",
            "set one field of a struct that is at hand already",
            lambda data: HAND_READS,
            lambda peer, data: peer.handwrite(data.points[0], HAND_READS),
            lambda data: float(HAND_READS - 1),
            check=lambda peer, data: peer.fieldread(data.points[:1]),
        ),
    ),
)


def suite_of(data: Arrays | Structs) -> Suite:
    """Return the workloads for some data."""
    return ARRAYS if isinstance(data, Arrays) else STRUCTS
