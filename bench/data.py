"""The data of one run, made from a seed, and what every workload must find in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Floats = NDArray[np.float64]

MOST_POINTS = 200_000
SYNCED_PUTS = 1_000


@dataclass(frozen=True)
class Data:
    """What goes in, and which keys are asked for.

    Parameters
    ----------
    keys : (n,) uint64
        Ascending, with gaps, all even: so every odd number is a missing key among them.
    values : (n, width) float64
        One row for each key.
    order : (n,) int64
        The order in which keys arrive in ``fillrandom``.
    """

    keys: Keys
    values: Floats
    order: NDArray[np.int64]

    @cached_property
    def shuffled(self) -> tuple[Keys, Floats]:
        """Every key and its values, in random order."""
        return self.keys[self.order], self.values[self.order]

    @cached_property
    def synced(self) -> tuple[Keys, Floats]:
        """The first few of the shuffled records, for single durable puts."""
        keys, values = self.shuffled
        return keys[:SYNCED_PUTS], values[:SYNCED_PUTS]

    @cached_property
    def picked(self) -> NDArray[np.int64]:
        """Where the keys of random reads stand in ``keys``; not the order of ``fillrandom``."""
        return self.order[::-1][:MOST_POINTS]

    @cached_property
    def wanted(self) -> Keys:
        """Existing keys in random order."""
        return self.keys[self.picked]

    @cached_property
    def points(self) -> list[int]:
        """The same keys as Python integers, as point reads take them."""
        points: list[int] = self.wanted.tolist()
        return points

    @cached_property
    def missing(self) -> list[int]:
        """Keys that are not there, each next to one that is."""
        missing: list[int] = (self.wanted + np.uint64(1)).tolist()
        return missing

    @cached_property
    def sums(self) -> Floats:
        """The sum of each record, in key order."""
        sums: Floats = self.values.sum(axis=1)
        return sums

    def sums_of(self, keys: Keys) -> Floats:
        """Return the sums of the records of some of the keys, in key order."""
        return self.sums[np.searchsorted(self.keys, np.sort(keys))]


def make(count: int, width: int, seed: int) -> Data:
    """Fresh keys and values."""
    rng = np.random.default_rng(seed)
    keys = 2 * np.cumsum(rng.integers(1, 8, count, dtype=np.uint64), dtype=np.uint64)
    return Data(keys, rng.random((count, width)), rng.permutation(count))
