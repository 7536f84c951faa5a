"""The records of runs as batches: views where they lie back to back, else copies, of a size that memory holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, pairwise
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..runs.extent import MUTABLE, TOMBSTONE, Extent, RowArray, breaks
from ..runs.gather import Mapped, gather, gather_interleaved, gather_runs
from ..runs.interleaved import InterleavedRun
from ..runs.run import ArrayRun, ContiguousRun, Run, are_seldom
from ..types.schema import Schema
from .ahead import Fetched, Part, fetch_ahead
from .batch import Batch

BATCH_SIZE = 1 << 16
"""Records in a batch, at most, unless the caller asks for others."""
COPY_SIZE = 64 << 20
"""A scan copies no more bytes than this into one batch."""
MERGED_SIZE = 2 << 20
"""What is merged is copied in batches that stay in the caches of a processor."""


class MappedStore(Mapped, Fetched, Protocol):
    """The chunks of one store, for reading: a heap."""

    @property
    def name(self) -> str:
        """The store's name."""

    @property
    def identity(self) -> object:
        """What no other store has."""

    @property
    def schema(self) -> Schema:
        """The type of the items."""

    def array(self, extent: Extent) -> npt.NDArray[Any]:
        """Return an extent's items, read-only, without a copy."""


def check_batch_size(batch_size: int) -> int:
    """Return how many records a batch may have, if it may have any."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    return batch_size


def batch_of(heap: MappedStore, rows: RowArray) -> Batch:
    """Return the records of rows, in their order, which need not be that of the keys."""
    return _read_only(heap, *gather(heap, rows, np.ascontiguousarray(rows["key"])))


def batch_of_found(heap: MappedStore, rows: RowArray, *, missing_as_empty: bool) -> Batch:
    """Return the records of rows, in their order; those of tombstones are left out, or empty."""
    is_there = rows["flags"] & TOMBSTONE == 0
    found = batch_of(heap, rows[is_there])
    if not missing_as_empty or len(found) == len(rows):
        return found
    lengths = np.zeros(len(rows), np.int64)
    lengths[is_there] = found.lengths
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return _read_only(heap, np.ascontiguousarray(rows["key"]), offsets, found.values, found.in_place)


def batch_of_runs(heap: MappedStore, runs: Sequence[Run]) -> Batch:
    """Return the records of consecutive runs as one batch: a view where all of it lies back to back."""
    return _read_only(heap, *gather_runs(heap, runs))


def batches(heap: MappedStore, runs: Iterable[Run], batch_size: int) -> Iterator[Batch]:
    """Yield the records of consecutive runs as batches of at most `batch_size` records."""
    parts = chain.from_iterable(cut([heap], [run], batch_size) for run in runs)
    return map(itemgetter(0), aligned_batches([heap], parts))  # keeps none that it has given out


def aligned_batches(heaps: Sequence[MappedStore], parts: Iterator[Part]) -> Iterator[tuple[Batch, ...]]:
    """Yield the records of parts, each of which has one run for each heap, as batches."""
    return map(partial(_side_by_side, heaps), fetch_ahead(heaps, parts))


def parts_of(heap: MappedStore, runs: Iterable[Run], batch_size: int) -> Iterator[Run]:
    """Yield the rows of the batches of runs, which can be made one by one, by :func:`batch_of_part`."""
    parts = chain.from_iterable(cut([heap], [run], batch_size) for run in runs)
    return map(itemgetter(0), fetch_ahead([heap], parts))


def batch_of_part(heap: MappedStore, part: Run) -> Batch:
    """Return the batch of some rows of a run."""
    return _batch(heap, part, part.keys)


def cut(heaps: Sequence[MappedStore], runs: Sequence[Run], batch_size: int) -> Iterator[Part]:
    """Yield runs that have the same keys, one for each heap, in the parts that batches are made of."""
    runs = [run.settle() if isinstance(run, InterleavedRun) and run.settle else run for run in runs]
    cuts = {at for heap, run in zip(heaps, runs, strict=True) for at in _cuts(run, heap.item_size)}
    for low, high in pairwise(sorted({0, len(runs[0]), *cuts})):
        for first in range(low, high, batch_size):
            upto = min(first + batch_size, high)
            yield [run.part(first, upto) for run in runs]


def _side_by_side(heaps: Sequence[MappedStore], part: Part) -> tuple[Batch, ...]:
    keys = part[0].keys
    return tuple(_batch(heap, run, keys) for heap, run in zip(heaps, part, strict=True))


def _batch(heap: MappedStore, run: Run, keys: npt.NDArray[np.uint64]) -> Batch:
    if isinstance(run, InterleavedRun):
        return _read_only(heap, *gather_interleaved(heap, run))
    if isinstance(run, ArrayRun):
        return _read_only(heap, *gather(heap, run.rows, keys))
    values = heap.arrays[run.chunk][run.items]
    return _read_only(heap, keys, run.offsets, values, bool(run.flags & MUTABLE))


def _read_only(
    heap: MappedStore,
    keys: npt.NDArray[np.uint64],
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[Any],
    in_place: bool,
) -> Batch:
    """Return a batch that nobody changes: others, and Arrow data, may lie over the same memory."""
    for array in (keys, offsets, values):
        array.flags.writeable = False
    return Batch(keys, offsets, values, heap.schema.kind, in_place)


def _cuts(run: Run, item_size: int) -> list[int]:
    """Return where to cut rows: where records stop lying back to back, unless that would leave short runs."""
    if isinstance(run, ContiguousRun):
        return []
    if isinstance(run, InterleavedRun):
        return _merged_cuts(run, item_size)
    rows = run.rows  # which may be made for this: they are not to be held for as long as the run is read
    cuts = breaks(rows, item_size)
    if not len(cuts) or are_seldom(cuts, len(rows)):
        seldom: list[int] = cuts.tolist()
        return seldom
    return _copy_cuts(np.cumsum(rows["length"]), item_size, COPY_SIZE)


def _merged_cuts(run: InterleavedRun, item_size: int) -> list[int]:
    """Return where to cut rows that were merged."""
    if run.length:
        portion = max(MERGED_SIZE // (run.length * item_size), 1)
        return list(range(portion, len(run), portion))
    return _copy_cuts(run.offsets[1:], item_size, MERGED_SIZE)


def _copy_cuts(ends: npt.NDArray[Any], item_size: int, size: int) -> list[int]:
    """Return where to cut records, given their ends, so that no part has many more bytes than `size`."""
    if int(ends[-1]) * item_size < size:
        return []
    portion = ends * item_size // size
    cuts: list[int] = (np.flatnonzero(portion[1:] != portion[:-1]) + 1).tolist()
    return cuts
