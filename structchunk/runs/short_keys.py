"""ShortKeys: ascending keys kept in memory in one, two or four bytes each, and found without making the others.

Keys that are near each other differ in their low bytes. Those whose other bytes are the same are a bucket: of each
key its low bytes are kept, and of each bucket where it begins. Pure NumPy, no I/O.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
_WIDTHS = ((1, "B"), (2, "H"), (4, "I"))
_START_SIZE = 4
WINDOW = 64
"""Buckets of no more keys are looked through as a whole for many keys at a time."""
_MOST = 1 << 31
"""Of more keys where a bucket begins does not fit into its four bytes."""
FEW = 16
"""If one key in so many, or fewer, is looked up at a time, the others are not made for that."""


def size_in(width: int, count: int, span: int) -> int:
    """Return how many bytes `count` keys take with `width` low bytes each, if so much lies between their ends."""
    return count * width + _START_SIZE * ((span >> 8 * width) + 2)


def least_size(count: int, span: int) -> int:
    """Return how many bytes :class:`ShortKeys` of so many keys take, if so much lies between their ends."""
    return min(size_in(width, count, span) for width, _ in _WIDTHS)


class ShortKeys:
    """Keys in little memory.

    Parameters
    ----------
    keys : ndarray of uint64
        Ascending; at least one.

    Attributes
    ----------
    count : int
    find : callable
        Returns the position of a key, or None.
    """

    __slots__ = (
        "_first",
        "_lows",
        "_mask",
        "_shift",
        "_single",
        "_starts",
        "_starts_of_all",
        "_windows",
        "count",
        "find",
    )

    def __init__(self, keys: npt.NDArray[np.uint64]) -> None:
        self.count = len(keys)
        if not 0 < self.count < _MOST:
            raise ValueError(f"{self.count} keys")
        self._first = int(keys[0])
        span = int(keys[-1]) - self._first
        width, code = min(_WIDTHS, key=lambda each: size_in(each[0], self.count, span))
        self._shift = 8 * width
        self._mask = (1 << self._shift) - 1
        apart = keys - keys[0]
        lows = apart.astype(f"u{width}").tobytes() + bytes(width * WINDOW)
        # Of all sequences these give single numbers fastest; in bytes C looks for one among many.
        self._single: bytes | array[int] = lows if width == 1 else array(code, lows)
        self._lows = np.frombuffer(self._single, f"u{width}", self.count)
        counts = np.bincount((apart >> np.uint64(self._shift)).view(np.int64))
        self._windows = self._make_windows(int(counts.max()))
        starts = np.zeros(len(counts) + 1, np.uint32)
        np.cumsum(counts, out=starts[1:])
        self._starts = array("I", starts.tobytes())
        self._starts_of_all = np.frombuffer(self._starts, np.uint32)
        self.find: Callable[[int], int | None] = self.taker(range(self.count))

    def _make_windows(self, most: int) -> npt.NDArray[np.void] | None:
        """Return, for each position and the end, the low parts from there on as one item; None if they are many."""
        if most > WINDOW:
            return None
        width = self._lows.itemsize
        return np.ndarray(self.count + 1, np.dtype((np.void, most * width)), self._single, strides=(width,))

    @property
    def size(self) -> int:
        """Bytes of memory that they take."""
        return self._lows.nbytes + self._starts_of_all.nbytes

    def taker(self, items: Sequence[T]) -> Callable[[int], T | None]:
        """Return what takes, of items in the order of the keys, that of a key, or None."""
        # Of what is read in many places at random each object costs a wait for memory: so no attributes here.
        first, shift, mask, starts, lows = self._first, self._shift, self._mask, self._starts, self._single
        if isinstance(lows, bytes):
            return _taker_by_bytes(first, starts, lows, items)

        def take(key: int) -> T | None:
            apart = key - first
            if apart < 0:
                return None
            bucket, low = apart >> shift, apart & mask
            try:
                stop = starts[bucket + 1]
                at = bisect_left(lows, low, starts[bucket], stop)
            except IndexError:
                return None
            return items[at] if at < stop and lows[at] == low else None

        return take

    def count_below(self, bound: int) -> int:
        """Return how many keys are below `bound`, which may be beyond all keys."""
        apart = bound - self._first
        bucket = apart >> self._shift
        if apart <= 0 or bucket >= len(self._starts) - 1:
            return 0 if apart <= 0 else self.count
        return bisect_left(self._single, apart & self._mask, self._starts[bucket], self._starts[bucket + 1])

    def part(self, low: int, high: int) -> npt.NDArray[np.uint64]:
        """Return the keys at positions ``[low, high)``."""
        if low >= high:
            return np.empty(0, np.uint64)
        first, upto = bisect_right(self._starts, low) - 1, bisect_left(self._starts, high)
        bounds = self._starts_of_all[first : upto + 1].clip(low, high)
        heads = (np.arange(first, upto, dtype=np.uint64) << np.uint64(self._shift)) + np.uint64(self._first)
        keys: npt.NDArray[np.uint64] = heads.repeat(bounds[1:] - bounds[:-1])
        keys += self._lows[low:high]
        keys.flags.writeable = False
        return keys

    def search(self, keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Return where each of some ascending keys is, and whether it is there at all."""
        if len(keys) * FEW > self.count:
            mine = self.part(0, self.count)
            where = np.searchsorted(mine, keys)
            return where, (where < self.count) & (mine[np.minimum(where, self.count - 1)] == keys)
        apart = keys - np.uint64(self._first)  # wraps around, to beyond all buckets, below the first
        bucket = np.minimum(apart >> np.uint64(self._shift), np.uint64(len(self._starts) - 1)).view(np.int64)
        starts = self._starts_of_all  # of what is beyond them both bounds are the count: no key will be there
        start, stop = (
            starts[bucket].astype(np.int64),
            starts[np.minimum(bucket + 1, len(starts) - 1)].astype(np.int64),
        )
        low = (apart & np.uint64(self._mask)).astype(self._lows.dtype)
        if self._windows is None:
            where = self._lower_bounds(low, start, stop)
        else:
            where = start + _first_equal(self._windows[start], low)
        found = self._lows[np.minimum(where, self.count - 1)] == low
        return where, found & (where < stop)

    def _lower_bounds(
        self, lows: npt.NDArray[np.unsignedinteger], start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Return, for each low part, how far those between `start` and `stop` are below it: all halve at once."""
        for _ in range(int((stop - start).max()).bit_length()):
            middle = (start + stop) >> 1
            is_below = (self._lows[np.minimum(middle, self.count - 1)] < lows) & (start < stop)
            start, stop = np.where(is_below, middle + 1, start), np.where(is_below, stop, middle)
        return start


def _taker_by_bytes(first: int, starts: array[int], lows: bytes, items: Sequence[T]) -> Callable[[int], T | None]:
    def take(key: int) -> T | None:
        apart = key - first
        if apart < 0:
            return None
        bucket = apart >> 8
        try:
            at = lows.find(apart & 255, starts[bucket], starts[bucket + 1])
        except IndexError:
            return None
        return None if at < 0 else items[at]

    return take


def _first_equal(windows: npt.NDArray[np.void], lows: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.int64]:
    """Return, for each low part, where in its window the first equal one is, or 0."""
    in_each = windows.view(lows.dtype).reshape(len(lows), windows.itemsize // lows.itemsize)
    where: npt.NDArray[np.int64] = (in_each == lows[:, None]).argmax(1)
    return where
