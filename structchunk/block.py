"""Decoded pages kept in memory: the cache that point reads and scans of the index go through. No I/O."""

from __future__ import annotations

import random
from bisect import bisect_left

import numpy as np
import numpy.typing as npt

from .extent import KEY_END, ROW, ROW_SIZE, Extent, Run, find_equal, uniform_length

CACHE_ROWS = 1 << 22
"""How many rows the cache of one store may hold: about 160 MB."""

EAGER_AFTER = 8


class Block:
    """Consecutive pages of one store, decoded: all its rows with ``floor <= key <= last``. Immutable.

    Two shapes of data are common and spare memory accesses. Keys that are evenly spaced, as those of time
    series and of counters are, need no search: ``step`` is their distance, or 0 if they are not. Records of one
    length that lie back to back need no rows: ``length`` is that of each, or 0 if they do not.
    """

    __slots__ = ("count", "first", "floor", "keys", "last", "length", "origin", "rows", "run", "step")

    def __init__(self, run: Run, floor: int, last: int, item_size: int) -> None:
        self.run = run
        self.floor = floor
        self.last = last
        keys = np.ascontiguousarray(run["key"], np.uint64)
        self.count = len(keys)
        self.keys = keys.data
        self.rows = run.view(np.uint8).data
        self.first = int(keys[0]) if len(keys) else 0
        self.step = _even_step(keys)
        same_flags = len(run) > 0 and bool((run["flags"] == run["flags"][0]).all())
        self.length = uniform_length(run, item_size) if same_flags else 0
        offset, chunk, flags = run[["offset", "chunk", "flags"]][0].item() if self.length else (0, 0, 0)
        self.origin = (offset, self.length * item_size, chunk, flags)

    def find(self, key: int) -> Extent | None:
        """Return the extent of a key that this block answers for, or None."""
        if self.step:
            at, rest = divmod(key - self.first, self.step)
            if rest or not 0 <= at < self.count:
                return None
        else:
            at = bisect_left(self.keys, key)
            if at == self.count or self.keys[at] != key:
                return None
        if self.length:
            offset, size, chunk, flags = self.origin
            return key, offset + at * size, self.length, chunk, flags
        return ROW.unpack_from(self.rows, at * ROW_SIZE)

    def search(self, keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Return where in the run each of many keys is, and whether it is there at all."""
        if self.step:
            where, rest = np.divmod(keys - np.uint64(self.first), np.uint64(self.step))
            return where.astype(np.intp), (rest == 0) & (where < self.count)  # what is below first wraps around
        found = np.searchsorted(np.asarray(self.keys), keys)
        return found, find_equal(self.run, keys, found)


def _even_step(keys: npt.NDArray[np.uint64]) -> int:
    if len(keys) < 2:
        return 0
    steps = keys[1:] - keys[:-1]
    return int(steps[0]) if bool((steps == steps[0]).all()) else 0


class BlockCache:
    """Blocks of one store, disjoint and sorted, beside the last key of each. The caller locks, but for finding."""

    def __init__(self) -> None:
        self.lasts: list[int] = []
        self.blocks: list[Block] = []
        self._row_count = 0
        self._inserted = 0

    def is_full(self) -> bool:
        """Tell whether a further block would drive another one out: then single keys are not worth one."""
        return self._row_count > CACHE_ROWS - CACHE_ROWS // 8

    def eagerness(self) -> int:
        """Return how often to double what is read for one key, 0 to 4: who has missed often will miss again."""
        return min(self._inserted // EAGER_AFTER, 4)

    def find(self, key: int) -> Block | None:
        """Return the block that answers for a key, or None. Needs no lock: what it returns was checked."""
        at = bisect_left(self.lasts, key)
        try:
            block = self.blocks[at]
        except IndexError:
            return None
        return block if block.floor <= key <= block.last else None

    def next_floor(self, key: int) -> int:
        """Return the lowest key above `key` that a block answers for, or the end of all keys."""
        at = bisect_left(self.lasts, key)
        return self.blocks[at].floor if at < len(self.blocks) else KEY_END

    def insert(self, block: Block) -> None:
        """Add a block in place of those that it overlaps; drop others at random when there are too many."""
        self.drop(block.floor, block.last)
        if block.count > CACHE_ROWS:
            return
        at = bisect_left(self.lasts, block.last)
        self.lasts.insert(at, block.last)
        self.blocks.insert(at, block)
        self._row_count += len(block.keys)
        self._inserted += 1
        while self._row_count > CACHE_ROWS:
            self._remove(random.randrange(len(self.blocks)))

    def drop(self, low: int, high: int) -> None:
        """Remove the blocks that answer for any key in ``[low, high]``."""
        at = bisect_left(self.lasts, low)
        while at < len(self.blocks) and self.blocks[at].floor <= high:
            self._remove(at)

    def _remove(self, at: int) -> None:
        del self.lasts[at]
        self._row_count -= len(self.blocks.pop(at).keys)

    def clear(self) -> None:
        """Remove all blocks."""
        self.drop(0, KEY_END)
