"""Cutting the key space into ranges of about the same size in bytes, by the rows alone: no record is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .extent import KEY_END, ROW_SIZE
from .run import ContiguousRun, Run, count_items, last_key

GRAIN = 64
"""Marks for each range: what stores with other keys may be out of balance is a fraction of this."""

KeyRange = tuple[int, int]


class Sample(NamedTuple):
    """A part of the keys of a store, and about how much its rows weigh. It begins where the one before ends."""

    stop: int
    weight: float


def split(runs: Iterable[tuple[Run, int]], size: int, count: int) -> list[KeyRange]:
    """Return key ranges that cover the key space.

    Parameters
    ----------
    runs : iterable of (Run, int)
        Runs of one store after the other, each beside the store's item size; those of a store are consecutive,
        or those of some parts of it.
    size : int
        Bytes of all records, and of their rows (an empty record is work, too). If it is wrong, so is the balance;
        the key space is covered even so.
    count : int
        How many ranges to make; there are fewer if there are few records.
    """
    if count < 1:
        raise ValueError(f"{count} key ranges; there must be at least 1")
    marks = sorted(_marks(runs, size / (GRAIN * count))) if size else []
    cuts = set(marks[GRAIN - 1 :: GRAIN][: count - 1]) - {0, KEY_END}
    return list(pairwise([0, *sorted(cuts), KEY_END]))


def split_samples(samples: Iterable[Sample], count: int) -> list[KeyRange]:
    """Return key ranges that cover the key space, given samples of all stores, which need not be in order."""
    if count < 1:
        raise ValueError(f"{count} key ranges; there must be at least 1")
    ordered = sorted(samples)
    ends = np.cumsum([one.weight for one in ordered])
    shares = ends[-1] * np.arange(1, count) / count
    cuts = {ordered[at].stop for at in np.searchsorted(ends, shares).tolist()} - {0, KEY_END}
    return list(pairwise([0, *sorted(cuts), KEY_END]))


def run_weight(run: Run, item_size: int) -> int:
    """Return the bytes of the records of a run, and of their rows."""
    return weight(len(run), count_items(run) * item_size)


def weight(record_count: int, size: int) -> int:
    """Return the bytes of some records, given their size, and of their rows."""
    return size + record_count * ROW_SIZE


def _marks(runs: Iterable[tuple[Run, int]], share: float) -> Iterator[int]:
    """Yield a key for every `share` bytes: that of the record that begins nearest to there."""
    done = 0
    for run, item_size in runs:
        size = run_weight(run, item_size)
        targets = np.arange(done // share + 1, (done + size) // share + 1) * share - done
        if len(targets):
            yield from _keys_at(run, item_size, targets)
        done += size


def _keys_at(run: Run, item_size: int, targets: npt.NDArray[np.floating[Any]]) -> Iterator[int]:
    """Yield the keys of the records that begin nearest to these bytes; one beyond the last key for its end."""
    after = last_key(run) + 1
    for at in _nearest(run, item_size, targets).tolist():
        yield run.extent(at)[0] if at < len(run) else after


def _nearest(run: Run, item_size: int, targets: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.intp]:
    """Return the positions of these records."""
    if isinstance(run, ContiguousRun) and run.length:
        positions: npt.NDArray[Any] = np.ceil(targets / float(run.length * item_size + ROW_SIZE) - 0.5)
        positions = np.minimum(positions, len(run)).astype(np.intp)
        return positions
    sizes = run.rows["length"] * float(item_size) + ROW_SIZE
    found: npt.NDArray[np.intp] = np.searchsorted(np.cumsum(sizes) - sizes / 2, targets)
    return found
