"""All peers in turn, workload by workload, round by round, so that noise hits them alike."""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.data import Data
from bench.peers import Peer, Settings
from bench.workloads import FILLS, READS, Workload

Peers = dict[str, type[Peer]]


class WrongAnswerError(Exception):
    """A peer returned something else than what was put in: its times mean nothing."""


@dataclass
class Results:
    """Seconds of every workload, by workload and peer, one for each round; and bytes on disk, by peer."""

    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    disk: dict[str, int] = field(default_factory=dict)

    def add(self, workload: str, peer: str, seconds: float) -> None:
        """Note one measurement."""
        self.seconds.setdefault(workload, {}).setdefault(peer, []).append(seconds)


@dataclass(frozen=True)
class Contest:
    """Who runs what, where.

    Parameters
    ----------
    peers : dict of str to class
        In the order of the report.
    workloads : collection of str
        Names of what is timed. The database that reads need is filled in any case.
    """

    peers: Peers
    data: Data
    workloads: frozenset[str]
    folder: Path
    durable: bool

    def play(self, rounds: int, say: Callable[[str], None]) -> Results:
        """Run all rounds."""
        results = Results()
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            self._round(self._turn(number), results)
        return results

    def _turn(self, number: int) -> Peers:
        """Rotate the peers: who goes first is not always the same."""
        names = list(self.peers)
        start = number % len(names)
        return {name: self.peers[name] for name in names[start:] + names[:start]}

    def _round(self, peers: Peers, results: Results) -> None:
        for workload in self._chosen(FILLS[:-1]):
            for name, peer in self._fill(peers, workload, results):
                peer.close()
                shutil.rmtree(self.folder / name)
        filled = dict(self._fill(peers, FILLS[-1], results))
        for workload in READS:
            for name, peer in filled.items():
                self._read(name, peer, workload, results)
                if workload.name == "close":
                    results.disk[name] = bytes_on_disk(self.folder / name)
        for name, peer in filled.items():
            peer.close()
            shutil.rmtree(self.folder / name)

    def _chosen(self, workloads: Iterable[Workload]) -> list[Workload]:
        return [workload for workload in workloads if workload.name in self.workloads]

    def _fill(self, peers: Peers, workload: Workload, results: Results) -> Iterator[tuple[str, Peer]]:
        """Fill a fresh database of each peer, and yield it when it is checked."""
        for name, cls in peers.items():
            if cls.has(workload.name):
                peer = cls(self._settings(name))
                peer.open()
                seconds, _ = timed(lambda peer=peer: workload.run(peer, self.data))  # type: ignore[misc]
                self._check(workload, name, peer.scansum())
                results.add(workload.name, name, seconds)
                yield name, peer

    def _settings(self, name: str) -> Settings:
        folder = self.folder / name
        folder.mkdir()
        values = self.data.values
        return Settings(folder, self.durable, values.shape[1], values.nbytes)

    def _read(self, name: str, peer: Peer, workload: Workload, results: Results) -> None:
        needed = workload.name in ("close", "open")
        if peer.has(workload.name) and (needed or workload.name in self.workloads):
            if not needed:
                workload.run(peer, self.data)  # warm: caches and mappings of every peer are filled
            seconds, answer = timed(lambda: workload.run(peer, self.data))
            self._check(workload, name, answer)
            results.add(workload.name, name, seconds)

    def _check(self, workload: Workload, name: str, answer: object) -> None:
        if not same(answer, workload.expected(self.data)):
            raise WrongAnswerError(f"{name} got {workload.name} wrong")


def timed(run: Callable[[], object]) -> tuple[float, object]:
    """Return the seconds that a call took, and its answer."""
    # What others left behind, in memory and in the page cache, is not this call's to clean up.
    gc.collect()
    os.sync()
    start = time.perf_counter()
    answer = run()
    return time.perf_counter() - start, answer


def same(answer: object, expected: object) -> bool:
    """Whether an answer is right: sums may differ in the order of addition."""
    if expected is None:
        return answer is None
    found, right = np.asarray(answer), np.asarray(expected)
    return found.shape == right.shape and bool(np.allclose(found, right, rtol=1e-9, atol=0))


def bytes_on_disk(folder: Path) -> int:
    """Count allocated blocks, not file sizes: files may be sparse."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
