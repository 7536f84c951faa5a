"""Streams: consecutive runs of one store, made one, laid over one another, gone through side by side. No I/O."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise, starmap
from typing import Any

import numpy as np

from .extent import Extent, RowArray, concatenate, last_wins, overlay, rows_in_chunk, without_tombstones
from .run import ArrayRun, ContiguousRun, Keys, Run, are_seldom, clip_run, first_key, last_key, read_only, shorten

WORTH_JOINING = 16
"""Runs of fewer rows than this, on average, are not looked at one by one."""
LONG_PIECE = 1 << 14
"""Rows of pieces that are worth having apart, on average."""


def joined(runs: Iterable[Run]) -> RowArray:
    """Return the rows of consecutive runs as one array."""
    return concatenate([run.rows for run in runs])


def end_key(runs: Iterable[Run], *, reverse: bool) -> int | None:
    """Return the lowest key of consecutive runs, of which the first one is read, or the highest; None of none."""
    for run in runs:
        return last_key(run) if reverse else first_key(run)
    return None


def goes_on(before: Run, after: Run) -> bool:
    """Tell whether records of one length go on, back to back, from one run to the next."""
    if not (isinstance(before, ContiguousRun) and isinstance(after, ContiguousRun) and after.length):
        return False
    return after.follows(before) and (after.length, after.flags) == (before.length, before.flags)


def put_together(runs: Sequence[Run], item_size: int) -> Run:
    """Return consecutive runs as one, in the shortest form that it has."""
    contiguous = [run for run in runs if isinstance(run, ContiguousRun) and run.length]
    if not runs or len(contiguous) < len(runs) or not all(starmap(goes_on, pairwise(contiguous))):
        return shorten(joined(runs), item_size)
    return contiguous[0] if len(contiguous) == 1 else _as_one(contiguous, _chained(contiguous))


def in_pieces(runs: Sequence[Run], item_size: int) -> list[Run]:
    """Return consecutive runs as few, in the shortest form: as one if those that there could be are short."""
    pieces = _stretches(runs)
    if len(pieces) < 2 or len(pieces) * LONG_PIECE > sum(map(len, runs)):
        return [put_together(runs, item_size)]
    return [put_together(piece, item_size) for piece in pieces]


def find_in(runs: Sequence[Run], key: int) -> Extent | None:
    """Return the row of a key in consecutive runs, or None."""
    at = bisect_left(runs, key, key=last_key)
    found = [clip_run(run, key, key + 1) for run in runs[at : at + 1]]
    return found[0].extent(0) if found and len(found[0]) else None


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


def _chained(runs: list[ContiguousRun]) -> Keys:
    """Return the keys of consecutive runs."""
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
    return [group[0] if len(group) == 1 else put_together(group, item_size) for group in _stretches(runs)]


def _stretches(runs: Iterable[Run]) -> list[list[Run]]:
    """Return consecutive runs in groups, in each of which records of one length go on, back to back."""
    groups: list[list[Run]] = []
    for run in runs:
        if groups and goes_on(groups[-1][-1], run):
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def run_of_chunk(runs: Iterable[Run], chunk: int) -> Run:
    """Return the rows of consecutive runs that are in one chunk."""
    mine = [run for run in runs if isinstance(run, ArrayRun) or run.chunk == chunk]
    if len(mine) == 1 and isinstance(mine[0], ContiguousRun):
        return mine[0]
    return ArrayRun(rows_in_chunk(joined(mine), chunk))


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


def counts_between(runs: Iterable[Run], start: int, stop: int) -> list[int]:
    """Return how many rows of each run have ``start <= key < stop``."""
    return [len(clip_run(run, start, stop)) for run in runs]


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
