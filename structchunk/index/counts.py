"""How many live records each chunk of a store holds, and their bytes: how a commit changes the figures. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..runs.extent import TOMBSTONE, Extent, RowArray, chunks_of, empty_rows, without_tombstones
from ..runs.run import ContiguousRun, Run


class LiveCount(NamedTuple):
    """How many records of a chunk are live, and their bytes."""

    record_count: int
    size: int


Counts = dict[int, LiveCount]


def recount_one(before: Mapping[int, LiveCount], item_size: int, old: Extent | None, new: Extent) -> Counts:
    """Return the figures that change when one row takes the place of another, or of none."""
    counts: Counts = {}
    if old is not None:
        _count(counts, before, old[3], -1, -old[2] * item_size)
    if not new[4] & TOMBSTONE:
        _count(counts, before, new[3], 1, new[2] * item_size)
    return counts


def recount(before: Mapping[int, LiveCount], item_size: int, old: RowArray, new: Iterable[Run]) -> Counts:
    """Return the figures that change when rows take the place of the live rows that their keys had."""
    counts: Counts = {}
    _count_rows(counts, before, -1, item_size, old)
    for run in new:
        if isinstance(run, ContiguousRun):
            _count(counts, before, run.chunk, len(run), run.span.stop - run.span.start)
        else:
            _count_rows(counts, before, 1, item_size, without_tombstones(run.rows))
    return counts


def count_anew(before: Mapping[int, LiveCount], item_size: int, runs: Iterable[Run]) -> Counts:
    """Return the figures of all chunks if runs are all there is."""
    return dict.fromkeys(before, LiveCount(0, 0)) | recount({}, item_size, empty_rows(), runs)


def _count_rows(counts: Counts, before: Mapping[int, LiveCount], sign: int, item_size: int, rows: RowArray) -> None:
    for chunk in chunks_of(rows):
        lengths = rows["length"][rows["chunk"] == chunk]
        _count(counts, before, chunk, sign * len(lengths), sign * int(lengths.sum()) * item_size)


def _count(counts: Counts, before: Mapping[int, LiveCount], chunk: int, records: int, size: int) -> None:
    held = counts.get(chunk) or before.get(chunk) or LiveCount(0, 0)
    # Damage must not turn into a negative number; verify() compares the figures with the rows.
    counts[chunk] = LiveCount(max(held.record_count + records, 0), max(held.size + size, 0))
