"""Runs of consecutive rows: as an array, or as keys and offsets alone where records lie back to back. Pure NumPy.

Most rows can be calculated from the one before: records that were written one after another lie one after another,
and keys that count time or things rise by the same step. A run keeps only what cannot be calculated, and makes
the rows when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from functools import lru_cache
from itertools import pairwise, starmap
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from .extent import (
    EXTENT_DTYPE,
    ROW,
    ROW_SIZE,
    Extent,
    RowArray,
    breaks,
    concatenate,
    last_wins,
    make_rows,
    overlay,
    rows_in_chunk,
    uniform_length,
    without_tombstones,
)

T = TypeVar("T", bound=np.generic)
Keys: TypeAlias = "range | npt.NDArray[np.uint64]"
Place: TypeAlias = tuple[int, int, int, int]
"""An extent but for its key: offset, length, chunk, flags."""
LONG_RUN = 1024
"""Rows are cut where records stop lying back to back if that leaves this many together, on average."""
WORTH_JOINING = 16
"""Runs of fewer rows than this, on average, are not looked at one by one."""
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


def end_key(runs: Iterable[Run], *, reverse: bool) -> int | None:
    """Return the lowest key of consecutive runs, of which the first one is read, or the highest; None of none."""
    for run in runs:
        return last_key(run) if reverse else first_key(run)
    return None


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


def overlay_runs(newer: RowArray, older: Iterable[Run], *, reverse: bool = False) -> Iterator[Run]:
    """Overlay rows on consecutive runs of older ones, run by run, and leave out what is dead.

    `older` yields runs in ascending order of key (descending with `reverse`; each run itself ascends).
    """
    for run in older:
        if not len(run):
            continue
        if reverse:
            cut = _cut(newer, run.part(0, 1), "left")
            part, newer = newer[cut:], newer[:cut]
        else:
            cut = _cut(newer, run.part(len(run) - 1, len(run)), "right")
            part, newer = newer[:cut], newer[cut:]
        merged = ArrayRun(without_tombstones(overlay(part, run.rows))) if len(part) else run
        if len(merged):
            yield merged
    rest = without_tombstones(newer)
    if len(rest):
        yield ArrayRun(rest)


def _cut(rows: RowArray, end: Run, side: Any) -> int:
    return int(np.searchsorted(rows["key"], end.keys[0], side=side)) if len(rows) else 0


def lockstep(streams: Iterable[Iterator[Run]], counts: Callable[[list[Run]], list[int]]) -> Iterator[list[Run]]:
    """Go through streams of consecutive runs side by side, part by part.

    Parameters
    ----------
    streams : iterable of iterator of Run
    counts : callable
        Is given the next rows of each stream that has not ended, and returns how many of each to yield now; at
        least one row of one stream.

    Yields
    ------
    list of Run
        One part, which may have no rows, of each stream that has not ended, in the order of the streams.
    """
    heads = [(stream, run) for stream in streams if (run := next(stream, None)) is not None]
    while heads:
        runs = [run for _, run in heads]
        cuts = [
            (run.part(0, count), run.part(count, len(run))) for run, count in zip(runs, counts(runs), strict=True)
        ]
        yield [part for part, _ in cuts]
        rests = zip(heads, cuts, strict=True)
        after = [(stream, rest if len(rest) else next(stream, None)) for (stream, _), (_, rest) in rests]
        heads = [(stream, run) for stream, run in after if run is not None]


def count_items(run: Run) -> int:
    """Return how many items all records of a run have together."""
    if isinstance(run, ContiguousRun):
        return int(run.starts[-1] - run.starts[0])
    return int(run.rows["length"].sum())


def counts_between(runs: Iterable[Run], start: int, stop: int) -> list[int]:
    """Return how many rows of each run have ``start <= key < stop``."""
    return [len(clip_run(run, start, stop)) for run in runs]


def portions(run: Run, count: int, *, reverse: bool = False) -> Iterator[Run]:
    """Yield a run in parts of at most `count` rows, from either end on."""
    firsts = range(0, len(run), count)
    for first in reversed(firsts) if reverse else firsts:
        yield run.part(first, min(first + count, len(run)))


def put_together(runs: Sequence[Run], item_size: int) -> Run:
    """Return consecutive runs as one, in the shortest form that it has."""
    contiguous = [run for run in runs if isinstance(run, ContiguousRun) and run.length]
    if not runs or len(contiguous) < len(runs) or not all(starmap(goes_on, pairwise(contiguous))):
        return shorten(joined(runs), item_size)
    return _as_one(contiguous, _chained(contiguous))


def even_run(runs: Sequence[Run]) -> ContiguousRun | None:
    """Return consecutive runs as one if keys and records go on evenly from one to the next; else None."""
    even = [run for run in runs if isinstance(run, ContiguousRun) and run.length and isinstance(run.spacing, range)]
    if len(even) < len(runs) or not all(starmap(goes_on, pairwise(even))):
        return None
    keys = _even_keys(even)
    return None if keys is None else _as_one(even, keys)


def numbered(runs: Sequence[ContiguousRun]) -> ContiguousRun:
    """Return runs, each of which goes on from the one before, as one, with numbers for keys."""
    return _as_one(runs, range(sum(map(len, runs))))


def _as_one(runs: Sequence[ContiguousRun], keys: Keys) -> ContiguousRun:
    """Return runs, each of which goes on from the one before, as one with these keys."""
    first = runs[0]
    starts = range(first.items.start, runs[-1].items.stop + 1, first.length)
    return ContiguousRun(keys, starts, first.chunk, first.flags, first.item_size)


def goes_on(before: Run, after: Run) -> bool:
    """Tell whether records of one length go on, back to back, from one run to the next."""
    if not (isinstance(before, ContiguousRun) and isinstance(after, ContiguousRun) and after.length):
        return False
    return after.follows(before) and (after.length, after.flags) == (before.length, before.flags)


def in_key_order(runs: Iterable[Run], item_size: int) -> list[Run]:
    """Return runs, given in the order of writing, as consecutive ones; of equal keys the last row stays.

    What was written in ascending order, much at a time, stays in the form that it has.
    """
    given = [run for run in runs if len(run)]
    row_count = sum(map(len, given))
    if len(given) <= 1:
        return given
    if len(given) * WORTH_JOINING <= row_count and all(last_key(a) < first_key(b) for a, b in pairwise(given)):
        longer = _join_adjacent(given, item_size)
        if are_seldom(range(1, len(longer)), row_count):
            return longer
    return [ArrayRun(last_wins(joined(given)))]


def _join_adjacent(runs: Iterable[Run], item_size: int) -> list[Run]:
    """Return consecutive runs with those made one that records of one length, back to back, go on from."""
    groups: list[list[Run]] = []
    for run in runs:
        before = groups[-1][-1] if groups else None
        if before is not None and goes_on(before, run):
            groups[-1].append(run)
        else:
            groups.append([run])
    return [group[0] if len(group) == 1 else put_together(group, item_size) for group in groups]


def run_of_chunk(runs: Iterable[Run], chunk: int) -> Run:
    """Return the rows of consecutive runs that are in one chunk."""
    mine = [run for run in runs if isinstance(run, ArrayRun) or run.chunk == chunk]
    if len(mine) == 1 and isinstance(mine[0], ContiguousRun):
        return mine[0]
    return ArrayRun(rows_in_chunk(joined(mine), chunk))


def _chained(runs: list[ContiguousRun]) -> Keys:
    """Return the keys of consecutive runs."""
    if len(runs) == 1:
        return runs[0].spacing
    even = _even_keys(runs)
    return read_only(np.concatenate([run.keys for run in runs])) if even is None else even


def _even_keys(runs: list[ContiguousRun]) -> range | None:
    """Return the keys of consecutive runs if all of them rise by the same step."""
    first, last = runs[0].spacing, last_key(runs[-1])
    parts = [run.spacing for run in runs if isinstance(run.spacing, range)]
    if not isinstance(first, range) or len(parts) < len(runs):
        return None
    whole = range(first[0], last + 1, first.step)
    is_even = all(part.step == whole.step and part[0] in whole for part in parts)
    # By steps, as len() fails for a range of half of all keys.
    return whole if is_even and whole[0] + whole.step * (sum(map(len, parts)) - 1) == last else None


def joined(runs: Iterable[Run]) -> RowArray:
    """Return the rows of consecutive runs as one array."""
    return concatenate([run.rows for run in runs])


def even_offsets(count: int, length: int) -> npt.NDArray[np.int64]:
    """Return where each of `count` records of one length begins, and where the last one ends. Read-only."""
    return _shared_offsets(count, length) if count <= SHARED_OFFSETS else _even_offsets(count, length)


def _even_offsets(count: int, length: int) -> npt.NDArray[np.int64]:
    return read_only(np.arange(0, (count + 1) * length, length))


_shared_offsets = lru_cache(maxsize=16)(_even_offsets)
