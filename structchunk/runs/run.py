"""A run: consecutive rows as an array, or as keys and offsets alone where records lie back to back. Pure NumPy.

Most rows can be calculated from the one before: records that were written one after another lie one after another,
and keys that count time or things rise by the same step. A run keeps only what cannot be calculated, and makes
the rows when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from functools import lru_cache
from itertools import pairwise
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from .extent import (
    EXTENT_DTYPE,
    ROW,
    ROW_SIZE,
    Extent,
    RowArray,
    breaks,
    make_rows,
    uniform_length,
)

T = TypeVar("T", bound=np.generic)
Keys: TypeAlias = "range | npt.NDArray[np.uint64]"
Place: TypeAlias = tuple[int, int, int, int]
"""An extent but for its key: offset, length, chunk, flags."""
LONG_RUN = 1024
"""Rows are cut where records stop lying back to back if that leaves this many together, on average."""
SHARED_OFFSETS = 1 << 16
"""Offsets of no more records than this are worth keeping for the next batch of the same shape."""


class ArrayRun:
    """Rows as a run, whatever they are."""

    __slots__ = ("_bytes", "rows")

    def __init__(self, rows: RowArray) -> None:
        self.rows = rows
        self._bytes: memoryview | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size(self) -> int:
        """Bytes of memory that the rows take."""
        return len(self.rows) * ROW_SIZE

    @property
    def keys(self) -> npt.NDArray[np.uint64]:
        """The keys, back to back."""
        return np.ascontiguousarray(self.rows["key"], np.uint64)

    @property
    def key_column(self) -> npt.NDArray[np.uint64]:
        """The keys, wherever they lie."""
        keys: npt.NDArray[np.uint64] = self.rows["key"]
        return keys

    @property
    def flag_values(self) -> npt.NDArray[np.uint32]:
        """The flags that rows have."""
        flags: npt.NDArray[np.uint32] = self.rows["flags"]
        return flags

    def extent(self, at: int) -> Extent:
        """Return the row at a position."""
        if self._bytes is None:
            self._bytes = self.rows.view(np.uint8).data
        extent: Extent = ROW.unpack_from(self._bytes, at * ROW_SIZE)
        return extent

    def part(self, low: int, high: int) -> ArrayRun:
        """Return the rows at positions ``[low, high)``."""
        return ArrayRun(self.rows[low:high])

    def take(self, where: npt.NDArray[np.intp]) -> RowArray:
        """Return the rows at many positions."""
        return self.rows.take(where)  # which copies a row as one; an index would do it field by field

    def take_known(self, where: npt.NDArray[np.intp], keys: npt.NDArray[np.uint64]) -> RowArray:
        """Return the rows at many positions, at which these keys are."""
        return self.take(where)


class ContiguousRun:
    """Records that lie back to back in one chunk, with the same flags.

    Parameters
    ----------
    keys : range or ndarray of uint64
    starts : range or ndarray of int64
        Where each record begins in the chunk, and where the last one ends, in items.
    chunk, flags, item_size : int
    """

    __slots__ = ("chunk", "flags", "item_size", "spacing", "starts")

    def __init__(
        self, keys: Keys, starts: range | npt.NDArray[np.int64], chunk: int, flags: int, item_size: int
    ) -> None:
        self.spacing = keys
        self.starts = starts
        self.chunk = chunk
        self.flags = flags
        self.item_size = item_size

    def __len__(self) -> int:
        return len(self.spacing)

    @property
    def size(self) -> int:
        """Bytes of memory that the rows take."""
        return sum(column.nbytes for column in (self.spacing, self.starts) if not isinstance(column, range))

    @property
    def keys(self) -> npt.NDArray[np.uint64]:
        """The keys, back to back."""
        spacing = self.spacing
        if not isinstance(spacing, range):
            return spacing
        return _at(spacing, np.arange(len(spacing)))

    @property
    def length(self) -> int:
        """Items of each record, or 0 if they differ."""
        return self.starts.step if isinstance(self.starts, range) else 0

    @property
    def items(self) -> slice:
        """Where the records lie in the chunk, seen as one array of items."""
        return slice(int(self.starts[0]), int(self.starts[-1]))

    @property
    def span(self) -> slice:
        """Where the records lie in the chunk, in bytes."""
        return slice(self.items.start * self.item_size, self.items.stop * self.item_size)

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each record begins among those of this run, and where the last one ends. Read-only."""
        if isinstance(self.starts, range):
            return even_offsets(len(self), self.starts.step)
        offsets: npt.NDArray[np.int64] = self.starts - self.starts[0]
        return offsets

    @property
    def rows(self) -> RowArray:
        """The rows as an array."""
        keys, offsets = self.keys, self.offsets
        lengths = self.length or offsets[1:] - offsets[:-1]
        return make_rows(keys, (offsets[:-1] + self.items.start) * self.item_size, lengths, self.chunk, self.flags)

    @property
    def ends(self) -> RowArray:
        """The first and the last row; between them offsets rise evenly if the records have one length."""
        return np.array([self.extent(0), self.extent(len(self) - 1)], EXTENT_DTYPE)

    @property
    def flag_values(self) -> npt.NDArray[np.uint32]:
        """The flags that rows have: not of each, as all have the same."""
        return np.array([self.flags], np.uint32)

    def extent(self, at: int) -> Extent:
        """Return the row at a position."""
        start = int(self.starts[at])
        length = int(self.starts[at + 1]) - start
        return int(self.spacing[at]), start * self.item_size, length, self.chunk, self.flags

    def part(self, low: int, high: int) -> ContiguousRun:
        """Return the rows at positions ``[low, high)``."""
        return ContiguousRun(
            self.spacing[low:high], self.starts[low : high + 1], self.chunk, self.flags, self.item_size
        )

    def take(self, where: npt.NDArray[np.intp]) -> RowArray:
        """Return the rows at many positions."""
        spacing = self.spacing
        return self.take_known(where, _at(spacing, where) if isinstance(spacing, range) else spacing[where])

    def take_known(self, where: npt.NDArray[np.intp], keys: npt.NDArray[np.uint64]) -> RowArray:
        """Return the rows at many positions, at which these keys are."""
        starts, size = self.starts, self.item_size
        if isinstance(starts, range):
            return make_rows(keys, _at(starts, where) * np.uint64(size), starts.step, self.chunk, self.flags)
        offsets, lengths = starts[where], starts[where + 1] - starts[where]
        return make_rows(keys, offsets * size, lengths, self.chunk, self.flags)

    def place(self, at: int) -> Place:
        """Return the row at a position, but for its key."""
        start = int(self.starts[at])
        return start * self.item_size, int(self.starts[at + 1]) - start, self.chunk, self.flags

    def over(self, keys: Keys) -> ContiguousRun:
        """Return the same rows with their keys in other memory."""
        return ContiguousRun(keys, self.starts, self.chunk, self.flags, self.item_size)

    def without_keys(self) -> ContiguousRun:
        """Return the same rows with numbers for keys, to be given to :meth:`over`."""
        return self.over(range(len(self)))

    def in_chunk(self, chunk: int) -> ContiguousRun:
        """Return the same rows with another number of their chunk."""
        return ContiguousRun(self.spacing, self.starts, chunk, self.flags, self.item_size)

    def follows(self, other: ContiguousRun) -> bool:
        """Tell whether these records begin where those of another run end."""
        return self.chunk == other.chunk and self.items.start == other.items.stop


Run: TypeAlias = "ArrayRun | ContiguousRun"


def _at(column: range, where: npt.NDArray[np.intp]) -> npt.NDArray[np.uint64]:
    first = column[0] if column else 0  # an empty one may start beyond all keys
    return where.astype(np.uint64) * np.uint64(column.step) + np.uint64(first)


def regular(rows: RowArray, item_size: int) -> Run:
    """Return rows as a ContiguousRun if their records have one length and the same flags, and lie back to back."""
    length = uniform_length(rows, item_size)
    if not length or (rows["flags"] != rows["flags"][0]).any():
        return ArrayRun(rows)
    first = int(rows["offset"][0]) // item_size
    return _contiguous(rows, range(first, first + length * len(rows) + 1, length), item_size)


def shorten(rows: RowArray, item_size: int) -> Run:
    """Return rows as a run, in the shortest form that they have in memory: records may differ in length, too."""
    run = regular(rows, item_size)
    if isinstance(run, ContiguousRun) or not len(rows) or len(breaks(rows, item_size)):
        return run
    if (rows["flags"] != rows["flags"][0]).any():
        return run
    starts = np.empty(len(rows) + 1, np.int64)
    starts[:-1] = rows["offset"] // np.uint64(item_size)
    starts[-1] = starts[-2] + int(rows["length"][-1])
    return _contiguous(rows, read_only(starts), item_size)


def _contiguous(rows: RowArray, starts: range | npt.NDArray[np.int64], item_size: int) -> ContiguousRun:
    keys = spacing(read_only(rows["key"].copy()))
    return ContiguousRun(keys, starts, int(rows["chunk"][0]), int(rows["flags"][0]), item_size)


def split(run: Run, item_size: int) -> list[Run]:
    """Cut a run where records stop lying back to back, if that leaves long ContiguousRuns."""
    if isinstance(run, ContiguousRun):
        return [run]
    cuts = breaks(run.rows, item_size)
    if not len(cuts) or not are_seldom(cuts, len(run)):
        return [run]
    return [shorten(run.rows[low:high], item_size) for low, high in pairwise([0, *cuts.tolist(), len(run)])]


def are_seldom(cuts: Sized, row_count: int) -> bool:
    """Tell whether rows are worth cutting where records stop lying back to back."""
    return (len(cuts) + 1) * LONG_RUN <= row_count


def spacing(keys: npt.NDArray[np.uint64]) -> Keys:
    """Return ascending keys as a range if they rise by the same step, else as they are."""
    if not len(keys):
        return keys
    first, last = int(keys[0]), int(keys[-1])
    step = int(keys[1]) - first if len(keys) > 1 else 1
    if last - first == step * (len(keys) - 1) and bool((keys[1:] - keys[:-1] == np.uint64(step)).all()):
        return range(first, last + 1, step)
    return keys


def read_only(array: npt.NDArray[T]) -> npt.NDArray[T]:
    """Return an array that nobody else has, which nobody is to change from now on."""
    array.flags.writeable = False
    return array


def first_key(run: Run) -> int:
    """Return the lowest key of a run that has rows."""
    return int(run.spacing[0]) if isinstance(run, ContiguousRun) else int(run.key_column[0])


def last_key(run: Run) -> int:
    """Return the highest key of a run that has rows."""
    return int(run.spacing[-1]) if isinstance(run, ContiguousRun) else int(run.key_column[-1])


def clip_run(run: Run, start: int, stop: int) -> Run:
    """Return the rows with ``start <= key < stop``."""
    keys = run.spacing if isinstance(run, ContiguousRun) else run.key_column
    if not len(keys) or (start <= int(keys[0]) and int(keys[-1]) < stop):
        return run
    low, high = _count_below(run, start), _count_below(run, stop)
    return run.part(low, max(low, high))


def _count_below(run: Run, bound: int) -> int:
    """Return how many rows have a key below `bound`, which may be beyond all keys."""
    if bound > 2**64 - 1:
        return len(run)
    if isinstance(run, ArrayRun):
        return int(np.searchsorted(run.key_column, np.uint64(bound)))
    if isinstance(run.spacing, range):
        spacing = run.spacing
        return min(max(-((spacing.start - bound) // spacing.step), 0), len(spacing))
    return int(np.searchsorted(run.spacing, np.uint64(bound)))


def count_items(run: Run) -> int:
    """Return how many items all records of a run have together."""
    if isinstance(run, ContiguousRun):
        return int(run.starts[-1] - run.starts[0])
    return int(run.rows["length"].sum())


def portions(run: Run, count: int, *, reverse: bool = False) -> Iterator[Run]:
    """Yield a run in parts of at most `count` rows, from either end on."""
    firsts = range(0, len(run), count)
    for first in reversed(firsts) if reverse else firsts:
        yield run.part(first, min(first + count, len(run)))


def even_offsets(count: int, length: int) -> npt.NDArray[np.int64]:
    """Return where each of `count` records of one length begins, and where the last one ends. Read-only."""
    return _shared_offsets(count, length) if count <= SHARED_OFFSETS else _even_offsets(count, length)


def _even_offsets(count: int, length: int) -> npt.NDArray[np.int64]:
    return read_only(np.arange(0, (count + 1) * length, length))


_shared_offsets = lru_cache(maxsize=16)(_even_offsets)
