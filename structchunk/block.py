"""Decoded pages kept in memory: the cache that point reads and scans of the index go through. No I/O."""

from __future__ import annotations

import random
from bisect import bisect_left

import numpy as np

from .extent import KEY_END, ROW, ROW_SIZE, Extent, Run

CACHE_ROWS = 1 << 22
"""How many rows the cache of one store may hold: about 160 MB."""


class Block:
    """Consecutive pages of one store, decoded: all its rows with ``floor <= key <= last``. Immutable."""

    __slots__ = ("floor", "keys", "last", "rows", "run")

    def __init__(self, run: Run, floor: int, last: int) -> None:
        self.run = run
        self.floor = floor
        self.last = last
        self.keys = np.ascontiguousarray(run["key"], np.uint64).data
        self.rows = run.view(np.uint8).data

    def find(self, key: int) -> Extent | None:
        """Return the extent of a key that this block answers for, or None."""
        keys = self.keys
        at = bisect_left(keys, key)
        if at < len(keys) and keys[at] == key:
            return ROW.unpack_from(self.rows, at * ROW_SIZE)
        return None


class BlockCache:
    """Blocks of one store, disjoint and sorted. The caller locks, but for :meth:`find`."""

    def __init__(self) -> None:
        self._lasts: list[int] = []
        self._blocks: list[Block] = []
        self._row_count = 0

    def find(self, key: int) -> Block | None:
        """Return the block that answers for a key, or None. Needs no lock: what it returns was checked."""
        at = bisect_left(self._lasts, key)
        try:
            block = self._blocks[at]
        except IndexError:
            return None
        return block if block.floor <= key <= block.last else None

    def insert(self, block: Block) -> None:
        """Add a block in place of those that it overlaps; drop others at random when there are too many."""
        self.drop(block.floor, block.last)
        at = bisect_left(self._lasts, block.last)
        self._lasts.insert(at, block.last)
        self._blocks.insert(at, block)
        self._row_count += len(block.keys)
        while self._row_count > CACHE_ROWS and len(self._blocks) > 1:
            self._remove(random.randrange(len(self._blocks)))

    def drop(self, low: int, high: int) -> None:
        """Remove the blocks that answer for any key in ``[low, high]``."""
        at = bisect_left(self._lasts, low)
        while at < len(self._blocks) and self._blocks[at].floor <= high:
            self._remove(at)

    def _remove(self, at: int) -> None:
        del self._lasts[at]
        self._row_count -= len(self._blocks.pop(at).keys)

    def clear(self) -> None:
        """Remove all blocks."""
        self.drop(0, KEY_END)
