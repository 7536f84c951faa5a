"""Aligned scans: several stores swept side by side, an inner join on their keys, run by run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..runs.extent import KEY_END, intersect
from ..runs.run import ArrayRun, Run, counts_between, joined, last_key, lockstep
from ..types.keys import as_bound
from .batch import Batch
from .batches import aligned_batches
from .binding import Binding
from .store import check_batch_size

if TYPE_CHECKING:
    import pyarrow as pa


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


def _batches(bindings: Sequence[Binding], start: int, stop: int, batch_size: int) -> Iterator[tuple[Batch, ...]]:
    heaps = [binding.heap for binding in bindings]
    shared = _join([binding.runs(start, stop) for binding in bindings])
    for runs in _collect(shared, batch_size // 2):
        yield from aligned_batches(heaps, runs, batch_size)


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
