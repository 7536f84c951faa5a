"""All peers in turn, workload by workload, round by round, so that noise hits them alike."""

from __future__ import annotations

import gc
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench import cold
from bench.data import Arrays, Structs
from bench.peers import AnyPeer, Settings, settle
from bench.workloads import AS_IT_IS, COLD, WARM, Lap, Workload, suite_of

Peers = dict[str, type[AnyPeer]]
CLAIMED = 4
"""How many times the size of the data is claimed of memory before each filling."""


class WrongAnswerError(Exception):
    """A peer returned something else than what was put in: its times mean nothing."""


@dataclass
class Times:
    """What one peer took for one workload: seconds, one for each round, for `count` operations each."""

    count: int
    seconds: list[float] = field(default_factory=list)

    @property
    def each(self) -> float:
        """Median seconds of one operation."""
        return statistics.median(self.seconds) / self.count

    @property
    def spread(self) -> tuple[float, float]:
        """Least and most seconds of one operation."""
        return min(self.seconds) / self.count, max(self.seconds) / self.count


@dataclass
class Results:
    """Times by workload and peer, and bytes on disk by peer."""

    times: dict[str, dict[str, Times]] = field(default_factory=dict)
    disk: dict[str, float] = field(default_factory=dict)

    def add(self, workload: str, peer: str, count: int, seconds: float) -> None:
        """Note one measurement."""
        self.times.setdefault(workload, {}).setdefault(peer, Times(count)).seconds.append(seconds)


@dataclass(frozen=True)
class Contest:
    """Who runs what, where.

    Parameters
    ----------
    title : str
        For the report.
    peers : dict of str to class
        In the order of the report.
    workloads : collection of str
        Names of what is timed. The database that the others need is filled in any case.
    """

    title: str
    peers: Peers
    data: Arrays | Structs
    workloads: frozenset[str]
    folder: Path
    durable: bool

    def play(self, rounds: int, say: Callable[[str], None]) -> Results:
        """Run all rounds."""
        results = Results()
        gc.collect()
        gc.freeze()  # else each collection would walk the data, and the modules of a dozen packages
        try:
            for number in range(rounds):
                say(f"{self.title}: round {number + 1} of {rounds}")
                self._round(self._turn(number), results)
        finally:
            gc.unfreeze()
        return results

    def chosen(self, workloads: Iterable[Workload]) -> list[Workload]:
        """Return those that are timed."""
        return [workload for workload in workloads if workload.name in self.workloads]

    def _turn(self, number: int) -> Peers:
        """Rotate the peers: who goes first is not always the same."""
        names = list(self.peers)
        start = number % len(names)
        return {name: self.peers[name] for name in names[start:] + names[:start]}

    def _round(self, peers: Peers, results: Results) -> None:
        *fills, last = suite_of(self.data).fills
        for workload in self.chosen(fills):
            for name, peer, _ in self._fill(peers, workload, results):
                peer.close()
                shutil.rmtree(self.folder / name)
        filled = list(self._fill(peers, last, results))
        for workload in suite_of(self.data).uses:
            for name, peer, data in filled:
                self._use(name, peer, data, workload, results)
                if workload.name == "close":
                    results.disk[name] = bytes_on_disk(self.folder / name) / len(data.keys)
        for name, peer, _ in filled:
            peer.close()
            shutil.rmtree(self.folder / name)

    def _fill(self, peers: Peers, workload: Workload, results: Results) -> Iterator[tuple[str, AnyPeer, Any]]:
        """Fill a fresh database of each peer, and yield it when it is checked, with what is in it."""
        for name, cls in peers.items():
            if cls.has(workload.method):
                data = self.data.first(cls.most.get(workload.method))
                peer = cls(self._settings(name))
                peer.open()
                settle(self.folder)  # what others wrote is not this one's to wait for
                claim(CLAIMED * self.data.values.nbytes)
                seconds, answer = timed(peer, workload, data)
                self._check(workload, name, data, answer)
                results.add(workload.name, name, workload.count(data), seconds)
                yield name, peer, data

    def _settings(self, name: str) -> Settings:
        folder = self.folder / name
        folder.mkdir()
        values = self.data.values
        return Settings(folder, self.durable, values.size // len(values), values.nbytes)

    def _use(self, name: str, peer: AnyPeer, data: Any, workload: Workload, results: Results) -> None:
        needed = workload.name in ("close", "open")
        if not peer.has(workload.method) or not (needed or workload.name in self.workloads):
            return
        data = data.at_most(workload.most).at_most(peer.most.get(workload.method))
        if workload.prepare:
            workload.prepare(peer, data)
        if workload.before == WARM:
            workload.run(peer, data.at_most(max(1, data.most // 10)))
        if workload.before == AS_IT_IS:
            settle(self.folder)
        if workload.before == COLD:
            peer.close()
            cold.forget(self.folder / name)
        seconds, answer = timed(peer, workload, data)
        self._check(workload, name, data, answer)
        results.add(workload.name, name, workload.count(data), seconds)

    def _check(self, workload: Workload, name: str, data: Any, answer: object) -> None:
        if not same(answer, workload.expected(data)):
            raise WrongAnswerError(f"{name} got {workload.name} wrong")


def timed(peer: AnyPeer, workload: Workload, data: Any) -> tuple[float, object]:
    """Return the seconds that a workload took, and what came out."""
    workload.count(data), workload.expected(data)  # what is made of the data on demand is made now
    gc.collect()  # what others left behind is not this call's to clean up
    start = time.perf_counter()
    answer = workload.run(peer, data)
    seconds = time.perf_counter() - start
    if isinstance(answer, Lap):
        seconds, answer = answer.seconds, answer.answer
    return seconds, workload.check(peer, data) if workload.check else answer


def claim(nbytes: int) -> None:
    """Touch that much memory and free it.

    A virtual machine gives memory that was free for a while back to its host, and gets it again page by page as it
    is touched, which can take longer than writing to a file that lies in it.
    """
    np.ones(nbytes, np.uint8)


def same(answer: object, expected: object) -> bool:
    """Whether an answer is right: sums may differ in the order of addition."""
    if expected is None:
        return answer is None
    found, right = np.asarray(answer), np.asarray(expected)
    return found.shape == right.shape and bool(np.allclose(found, right, rtol=1e-9, atol=0))


def bytes_on_disk(folder: Path) -> int:
    """Count allocated blocks, not file sizes: files may be sparse."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
