"""Runs whose keys interleave, merged: block by block, each by a few NumPy calls. Pure NumPy.

A block of rows from several contiguous runs is kept as these runs, and the place that each of their rows has in the
order of keys: so its records are copied from as many slices as there are runs, and no row is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from .extent import EXTENT_DTYPE, ROW_BYTES, Extent, RowArray
from .run import LONG_RUN, ArrayRun, ContiguousRun, Run, even_offsets, read_only
from .streams import joined

BLOCK_ROWS = 1 << 16
"""Rows that are merged at once: few enough for the caches of a processor."""
FEWEST_ROWS = 1 << 10
"""Of each stream that many rows are taken for a block at least, however many streams there are."""
_FIRST_NUMBERS = np.arange(BLOCK_ROWS)


class RepeatedKey(Exception):
    """Two streams have the same key; users never see this one."""

    def __init__(self, key: int) -> None:
        super().__init__(key)
        self.key = key


class InterleavedRun(ArrayRun):
    """Rows of several contiguous runs in order of key, made when they are asked for.

    Parameters
    ----------
    keys : ndarray of uint64
        Of all rows, ascending.
    parts : sequence of ContiguousRun
        With numbers for keys, so that no key is kept twice.
    places : sequence of ndarray of intp
        For each part, where its rows are among all, ascending.

    Attributes
    ----------
    settle : callable, optional
        Returns the same rows in the form in which their records are to be read.
    """

    __slots__ = ("_keys", "parts", "places", "settle")

    def __init__(
        self,
        keys: npt.NDArray[np.uint64],
        parts: Sequence[ContiguousRun],
        places: Sequence[npt.NDArray[np.intp]],
    ) -> None:
        self._keys = keys
        self._bytes = None
        self.settle: Callable[[], Run] | None = None
        self.parts = parts
        self.places = places

    @property
    def rows(self) -> RowArray:  # type: ignore[override]  # which are an attribute of other rows
        """The rows as an array, which is made anew."""
        rows = np.empty(len(self), EXTENT_DTYPE)
        for part, where in zip(self.parts, self.places, strict=True):
            rows.view(ROW_BYTES)[where] = part.rows.view(ROW_BYTES)
        rows["key"] = self._keys
        return rows

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def size(self) -> int:
        """Bytes of memory that it takes, without rows."""
        places = sum(where.nbytes for where in self.places)
        return self._keys.nbytes + places + sum(part.size for part in self.parts)

    @property
    def keys(self) -> npt.NDArray[np.uint64]:
        """The keys, back to back."""
        return self._keys

    @property
    def key_column(self) -> npt.NDArray[np.uint64]:
        """The keys."""
        return self._keys

    @property
    def flag_values(self) -> npt.NDArray[np.uint32]:
        """The flags that rows have: not of each, as those of a part have the same."""
        return np.array([part.flags for part in self.parts], np.uint32)

    @property
    def length(self) -> int:
        """Items of each record, or 0 if they differ."""
        lengths = {part.length for part in self.parts}
        return lengths.pop() if len(lengths) == 1 else 0

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each record would begin if they lay back to back, and where the last one would end, in items."""
        if self.length:
            return even_offsets(len(self), self.length)
        offsets = np.zeros(len(self) + 1, np.int64)
        for part, where in zip(self.parts, self.places, strict=True):
            offsets[where + 1] = np.diff(part.offsets)
        return np.cumsum(offsets, out=offsets)

    def extent(self, at: int) -> Extent:
        """Return the row at a position."""
        for part, where in zip(self.parts, self.places, strict=True):
            found = int(np.searchsorted(where, at))
            if found < len(where) and where[found] == at:
                return int(self._keys[at]), *part.place(found)
        raise IndexError(at)

    def part(self, low: int, high: int) -> InterleavedRun:
        """Return the rows at positions ``[low, high)``."""
        cuts = [np.searchsorted(where, (low, high)).tolist() for where in self.places]
        parts = [part.part(*cut) for part, cut in zip(self.parts, cuts, strict=True)]
        places = [where[first:upto] for where, (first, upto) in zip(self.places, cuts, strict=True)]
        places = [where - low for where in places] if low else places
        return InterleavedRun(self._keys[low:high], parts, places)


# ---------------------------------------------------------------------- merging


def merge(streams: Iterable[Iterator[Run]], *, reverse: bool = False) -> Iterator[Run]:
    """Yield the rows of several streams of consecutive runs as one such stream.

    Parameters
    ----------
    streams : iterable of iterator of Run
    reverse : bool
        The runs come in descending order of key, though each itself ascends.

    Raises
    ------
    RepeatedKey
        Two of them have the same key.
    """
    side = _Descending if reverse else _Ascending
    heads = [head for head in map(side, streams) if head.advance()]
    while len(heads) > 1:
        taken = _long_run(heads)
        yield _together(_block(heads)) if taken is None else taken
        heads = [head for head in heads if len(head.keys) or head.advance()]
    for head in heads:
        yield head.run
        yield from head.stream


class _Ascending:
    """The rows that come next of a stream: what is left of one of its runs."""

    def __init__(self, stream: Iterator[Run]) -> None:
        self.stream = stream
        self.run: Run
        self.keys: npt.NDArray[np.uint64]

    def advance(self) -> bool:
        """Go on to the next run, and tell whether there is one."""
        for run in self.stream:
            if len(run):
                self.run, self.keys = run, run.keys
                return True
        return False

    @property
    def rank(self) -> int:
        """Where the next row comes, in the direction of the stream: its key, or the negative of it."""
        return int(self.keys[0])

    def rank_after(self, count: int) -> int:
        """Return the rank of the last one of so many rows, or of all."""
        return int(self.keys[min(count, len(self.keys)) - 1])

    def count_upto(self, rank: int) -> int:
        """Return how many rows come up to a rank, or have it."""
        return int(np.searchsorted(self.keys, np.uint64(rank), "right"))

    def count_before(self, other: _Ascending) -> int:
        """Return how many rows come before all of another head."""
        return int(np.searchsorted(self.keys, other.keys[0]))

    def take(self, count: int) -> tuple[npt.NDArray[np.uint64], Run]:
        """Remove the next rows, and return them, with their keys."""
        taken = self.keys[:count], self.run.part(0, count)
        self.keys, self.run = self.keys[count:], self.run.part(count, len(self.run))
        return taken


class _Descending(_Ascending):
    """The same, from the highest key down."""

    @property
    def rank(self) -> int:
        return -int(self.keys[-1])

    def rank_after(self, count: int) -> int:
        return -int(self.keys[max(-count, -len(self.keys))])

    def count_upto(self, rank: int) -> int:
        return len(self.keys) - int(np.searchsorted(self.keys, np.uint64(-rank)))

    def count_before(self, other: _Ascending) -> int:
        return len(self.keys) - int(np.searchsorted(self.keys, other.keys[-1], "right"))

    def take(self, count: int) -> tuple[npt.NDArray[np.uint64], Run]:
        at = len(self.keys) - count
        taken = self.keys[at:], self.run.part(at, len(self.run))
        self.keys, self.run = self.keys[:at], self.run.part(0, at)
        return taken


def _long_run(heads: Sequence[_Ascending]) -> Run | None:
    """Take the rows of one head that come before any of another, if they are many: they stay what they are."""
    first, second = sorted(heads, key=lambda head: head.rank)[:2]
    count = first.count_before(second)
    return first.take(count)[1] if count >= LONG_RUN else None


def _block(heads: Sequence[_Ascending]) -> list[tuple[npt.NDArray[np.uint64], Run]]:
    """Take the rows of all heads that come next: none that is left comes before one of them."""
    share = max(BLOCK_ROWS // len(heads), FEWEST_ROWS)
    end = min(head.rank_after(share) for head in heads)  # so that each head has all of its rows up to there
    return [head.take(count) for head in heads if (count := head.count_upto(end))]


def _together(parts: Sequence[tuple[npt.NDArray[np.uint64], Run]]) -> Run:
    """Return rows, of several runs, in order of key."""
    runs = [run for _, run in parts]
    if len(runs) == 1:
        return runs[0]
    columns = [keys for keys, _ in parts]
    every = np.concatenate(columns)
    counted = _places_by_counting(columns, every)
    places = _places_by_sorting(every) if counted is None else counted
    if not _are_contiguous(runs):
        return ArrayRun(_put(joined(runs).view(ROW_BYTES), places).view(EXTENT_DTYPE))
    cuts = list(accumulate(map(len, runs)))
    unkeyed = [run.without_keys() for run in runs]
    return InterleavedRun(read_only(_put(every, places)), unkeyed, np.split(places, cuts[:-1]))


def _put(items: npt.NDArray[Any], places: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """Return items such that each of them is at its place."""
    there = np.empty_like(items)
    there[places] = items
    return there


def _places_by_counting(
    columns: Sequence[npt.NDArray[np.uint64]], every: npt.NDArray[np.uint64]
) -> npt.NDArray[np.intp] | None:
    """Return the place of each key in the order of all, or None where keys are not spaced evenly enough.

    The range of keys is divided into slots, one to four for each key. Where no two keys have the same slot, a key
    comes after as many as there are slots taken before its own. However keys are mixed, that takes the same time.
    """
    low, high = min(int(keys[0]) for keys in columns), max(int(keys[-1]) for keys in columns)
    shift = max((high - low).bit_length() - len(every).bit_length() - 1, 0)
    some = columns[0]  # of keys that are not spaced evenly, those of one stream mostly show it
    if len(some) > 1 and int((some[1:] - some[:-1]).min()) >> shift == 0:
        return None
    slots = ((every - np.uint64(low)) >> np.uint64(shift)).view(np.int64)
    taken = np.zeros((high - low >> shift) + 1, np.bool_)
    taken[slots] = True
    place_after = np.cumsum(taken, dtype=np.int32)
    if place_after[-1] != len(every):
        return None
    return np.subtract(place_after[slots], 1, dtype=np.intp)


def _places_by_sorting(every: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """Return the place of each key in the order of all; RepeatedKey if two are the same."""
    order = np.argsort(every, kind="stable")  # which finds what is sorted already, and merges it
    ordered = every[order]
    repeated = ordered[1:] == ordered[:-1]
    if repeated.any():
        raise RepeatedKey(int(ordered[np.argmax(repeated)]))
    return _put(_numbers(len(order)), order)


def _numbers(count: int) -> npt.NDArray[np.intp]:
    """Return the numbers from 0 on, which take time to be made."""
    return _FIRST_NUMBERS[:count] if count <= len(_FIRST_NUMBERS) else np.arange(count)


def _are_contiguous(runs: Sequence[Run]) -> TypeGuard[Sequence[ContiguousRun]]:
    return all(isinstance(run, ContiguousRun) for run in runs)
