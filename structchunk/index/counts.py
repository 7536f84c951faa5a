"""How many live records each chunk of a store holds, and their bytes: how a commit changes the figures. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..runs.extent import TOMBSTONE, Extent, Run, chunks_of, live
from ..runs.run import Piece, Stretch


class Live(NamedTuple):
    """How many records of a chunk are live, and their bytes."""

    record_count: int
    size: int


Counts = dict[int, Live]


def recount_one(before: Mapping[int, Live], item_size: int, old: Extent | None, new: Extent) -> Counts:
    """Return the figures that change when one row takes the place of another, or of none."""
    counts: Counts = {}
    if old is not None:
        _count(counts, before, old[3], -1, -old[2] * item_size)
    if not new[4] & TOMBSTONE:
        _count(counts, before, new[3], 1, new[2] * item_size)
    return counts


def recount(before: Mapping[int, Live], item_size: int, old: Run, new: Iterable[Piece]) -> Counts:
    """Return the figures that change when rows take the place of the live rows that their keys had."""
    counts: Counts = {}
    _count_run(counts, before, -1, item_size, old)
    for piece in new:
        if isinstance(piece, Stretch):
            _count(counts, before, piece.chunk, len(piece), piece.span.stop - piece.span.start)
        else:
            _count_run(counts, before, 1, item_size, live(piece.run))
    return counts


def _count_run(counts: Counts, before: Mapping[int, Live], sign: int, item_size: int, rows: Run) -> None:
    for chunk in chunks_of(rows):
        lengths = rows["length"][rows["chunk"] == chunk]
        _count(counts, before, chunk, sign * len(lengths), sign * int(lengths.sum()) * item_size)


def _count(counts: Counts, before: Mapping[int, Live], chunk: int, records: int, size: int) -> None:
    held = counts.get(chunk) or before.get(chunk) or Live(0, 0)
    # Damage must not turn into a negative number; verify() compares the figures with the rows.
    counts[chunk] = Live(max(held.record_count + records, 0), max(held.size + size, 0))
