"""Aligned scans: several stores swept side by side, an inner join on their keys, run by run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from ..runs.extent import KEY_END, intersect
from ..runs.run import ArrayRun, Run, count_items, last_key, portions
from ..runs.streams import counts_between, joined, lockstep
from ..types.keys import as_bound
from .batch import Batch
from .batches import MappedStore, aligned_batches, check_batch_size, cut
from .binding import Binding

if TYPE_CHECKING:
    import pyarrow as pa


KeyRanges: TypeAlias = Sequence[tuple[int, int]]
Swept: TypeAlias = Iterator[tuple[npt.NDArray[np.uint64], tuple[Batch, ...]]]

PART_SIZE = 16 << 20
"""Bytes of records that a sweep hands out at once, unless one record has more: readers hold several."""


def scan_aligned(
    bindings: Sequence[Binding], start: int | None, stop: int | None, batch_size: int
) -> Iterator[tuple[Batch, ...]]:
    """Sweep the keys that all of some stores have.

    Parameters
    ----------
    bindings : sequence of Binding
        Of stores of one transaction or snapshot.
    start, stop : int or None
        Range of keys.
    batch_size : int
        Records of each store in a batch, at most.

    Yields
    ------
    tuple of Batch
        One for each store, which share one array of keys.
    """
    if not bindings:
        raise ValueError("no store to scan; name at least one")
    low, high = as_bound(start, 0), as_bound(stop, KEY_END)
    return _batches(bindings, low, high, check_batch_size(batch_size))


def scan_arrow(
    bindings: Sequence[Binding], start: int | None, stop: int | None, batch_size: int
) -> pa.RecordBatchReader:
    """Sweep the same as a stream of Arrow record batches: ``key``, and a column for each store."""
    from ..interop.arrow import record_batch_reader  # noqa: PLC0415

    scan = scan_aligned(bindings, start, stop, batch_size)
    stores = {binding.heap.name: binding.heap.schema for binding in bindings}
    if len(stores) < len(bindings):
        raise ValueError("a store is named twice; its column has one name only")
    return record_batch_reader(stores, scan)


def sweep(bindings: Sequence[Binding], names: Sequence[str], ranges: KeyRanges, batch_size: int) -> Swept:
    """Sweep ranges of the keys that all of some stores have, with the records of those that are named.

    Parameters
    ----------
    bindings : sequence of Binding
        Each as of one commit.
    names : sequence of str
    ranges : sequence of (int, int)
        Ascending.
    batch_size : int
        Records in a batch, at most.

    Yields
    ------
    tuple of ndarray and tuple of Batch
        Keys, and a batch for each name.
    """
    shared = chain.from_iterable(_join([one.runs(start, stop) for one in bindings]) for start, stop in ranges)
    numbers = [[one.heap.name for one in bindings].index(name) for name in names]
    heaps = [bindings[number].heap for number in numbers]
    collected = _collect(shared, batch_size // 2)
    if heaps:
        wanted = ([runs[number] for number in numbers] for runs in collected)
        parts = chain.from_iterable(cut(heaps, runs, _step(heaps, runs, batch_size)) for runs in wanted)
        for batches in aligned_batches(heaps, parts):
            yield from _in_parts(batches)
    else:
        for runs in collected:
            yield from ((part.keys, ()) for part in portions(runs[0], batch_size))


def _step(heaps: Sequence[MappedStore], runs: Sequence[Run], batch_size: int) -> int:
    """Return how many records a batch may have for its copies to be of the size of a part, on average."""
    copied = [
        count_items(run) * heap.item_size
        for heap, run in zip(heaps, runs, strict=True)
        if isinstance(run, ArrayRun)
    ]
    return max(1, min(batch_size, PART_SIZE * len(runs[0]) // max(sum(copied), 1)))


def _in_parts(batches: tuple[Batch, ...]) -> Swept:
    """Cut batches that have many bytes."""
    ends = np.sum([batch.offsets * batch.values.itemsize for batch in batches], axis=0)
    marks = np.searchsorted(ends, np.arange(PART_SIZE, ends[-1], PART_SIZE))
    for low, high in pairwise(np.unique([0, *marks, len(ends) - 1]).tolist()):
        yield batches[0].keys[low:high], tuple(batch[low:high] for batch in batches)


def _batches(bindings: Sequence[Binding], start: int, stop: int, batch_size: int) -> Iterator[tuple[Batch, ...]]:
    heaps = [binding.heap for binding in bindings]
    shared = _join([binding.runs(start, stop) for binding in bindings])
    parts = chain.from_iterable(cut(heaps, runs, batch_size) for runs in _collect(shared, batch_size // 2))
    yield from aligned_batches(heaps, parts)


def _join(streams: Sequence[Iterator[Run]]) -> Iterator[list[Run]]:
    """Yield the rows whose keys all streams of consecutive runs have, one run for each stream."""
    for parts in lockstep(streams, _counts):
        if len(parts) < len(streams):
            return
        yield _intersect(parts)


def _counts(heads: Sequence[Run]) -> list[int]:
    """Return how many rows of each run come before any that is still to come."""
    return counts_between(heads, 0, min(map(last_key, heads)) + 1)


def _intersect(runs: list[Run]) -> list[Run]:
    """Return of each run the rows whose keys all runs have."""
    keys = runs[0].keys
    if all(np.array_equal(run.keys, keys) for run in runs[1:]):
        return runs
    return [ArrayRun(rows) for rows in intersect([run.rows for run in runs])]


def _collect(parts: Iterable[list[Run]], row_count: int) -> Iterator[list[Run]]:
    """Put parts together until they have more than `row_count` rows: few matches must not mean tiny batches."""
    pending: list[list[Run]] = []
    for part in parts:
        pending.append(part)
        if sum(len(runs[0]) for runs in pending) > row_count:
            yield _put_together(pending)
            pending = []
    if any(len(runs[0]) for runs in pending):
        yield _put_together(pending)


def _put_together(parts: list[list[Run]]) -> list[Run]:
    return parts[0] if len(parts) == 1 else [ArrayRun(joined(runs)) for runs in zip(*parts, strict=True)]
