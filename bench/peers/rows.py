"""Formats that have rows but no keys: where each key's row is, and single reads by that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.data import Floats, Keys
from bench.peers.base import Peer


class Rows:
    """All keys in memory, sorted, and the row of each.

    Parameters
    ----------
    keys : (n,) uint64
        In the order of the rows.
    """

    def __init__(self, keys: Keys) -> None:
        self.order = np.argsort(keys, kind="stable")
        self.keys = keys[self.order]

    def find(self, key: int) -> int | None:
        """Row of a key, or None."""
        at = int(self.keys.searchsorted(np.uint64(key)))
        return int(self.order[at]) if at < len(self.keys) and self.keys[at] == key else None

    def find_all(self, keys: Keys) -> NDArray[np.int64]:
        """Rows of keys that are there."""
        return self.order[self.keys.searchsorted(keys)]


class RowPeer(Peer):
    """Single reads; ``open`` and the writes must set ``rows``."""

    rows: Rows

    def row(self, number: int) -> Floats:
        """Read one row."""
        raise NotImplementedError

    def get(self, key: int) -> Floats:
        row = self.rows.find(key)
        if row is None:
            raise KeyError(key)
        return self.row(row)

    def readrandom(self, keys: Sequence[int]) -> float:
        total = 0.0
        for key in keys:
            total += self.get(key)[-1]
        return total

    def readmissing(self, keys: Sequence[int]) -> int:
        find = self.rows.find
        return sum([find(key) is not None for key in keys])
