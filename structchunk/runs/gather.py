"""The records of rows, one after the other: a view where they lie back to back, else one vectorised copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from .extent import MUTABLE, RowArray, breaks, chunks_of
from .interleaved import InterleavedRun
from .run import ContiguousRun, Run, read_only
from .streams import joined

MAX_RECORD_TYPE = 1 << 31
"""NumPy has no type of as many bytes."""
WIDE_ITEMS = 512
"""Records of different lengths are copied one by one above this many items each, else item by item."""


class Items(Protocol):
    """A chunk as one array of items, of which slices are taken."""

    def __getitem__(self, items: slice, /) -> npt.NDArray[Any]:
        """Return consecutive items, read-only, without a copy."""


class Mapped(Protocol):
    """Chunks, each as one array of items."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the items."""

    @property
    def item_size(self) -> int:
        """Bytes of one item."""

    @property
    def arrays(self) -> Mapping[int, Items]:
        """The items of each chunk."""

    def fetched(self, rows: RowArray) -> Mapping[int, npt.NDArray[Any]]:
        """Return the items of each chunk that rows name, of which those of the rows are there."""


Gathered: TypeAlias = "tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[Any], bool]"
"""Records one after the other: their keys; the offsets of each one and of the end, in items; the values of all; and
whether those are a view of records that may change in place."""


def gather(mapped: Mapped, rows: RowArray, keys: npt.NDArray[np.uint64]) -> Gathered:
    """Return the records of rows, whose keys are given, in their order, which need not be that of the keys."""
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(rows["length"], out=offsets[1:])
    if len(breaks(rows, mapped.item_size)):
        return keys, offsets, _copy(mapped, rows, offsets), False
    in_place = bool(np.bitwise_or.reduce(rows["flags"]) & MUTABLE)
    return keys, offsets, _view(mapped, rows, int(offsets[-1])), in_place


def gather_interleaved(mapped: Mapped, run: InterleavedRun) -> Gathered:
    """Return the records of runs whose keys interleave, in the order of the keys, copied slice by slice."""
    offsets = run.offsets
    out = np.empty(int(offsets[-1]), mapped.dtype)
    size = run.length * mapped.item_size
    for part, where in zip(run.parts, run.places, strict=True):
        items = mapped.arrays[part.chunk][part.items]
        if 0 < size < MAX_RECORD_TYPE:
            _records(out, size)[where] = _records(items, size)
        elif len(items) > WIDE_ITEMS * len(part):
            _copy_each(items, part.offsets[:-1], np.diff(part.offsets), out, offsets[where])
        else:
            shifts = np.repeat(offsets[where] - part.offsets[:-1], np.diff(part.offsets))
            _cells(out, mapped)[shifts + np.arange(len(items))] = _cells(items, mapped)
    return run.keys, offsets, out, False


def gather_runs(mapped: Mapped, runs: Sequence[Run]) -> Gathered:
    """Return the records of consecutive runs: a view where all of it lies back to back."""
    contiguous = _unbroken(runs)
    if not contiguous:
        rows = joined(runs)
        return gather(mapped, rows, np.ascontiguousarray(rows["key"]))
    first = contiguous[0].items.start
    offsets = [run.offsets[1:] + (run.items.start - first) for run in contiguous]
    return (
        np.concatenate([run.keys for run in contiguous]),
        np.concatenate([np.zeros(1, np.int64), *offsets]),
        _values(mapped, contiguous),
        any(run.flags & MUTABLE for run in contiguous),
    )


def gather_values(mapped: Mapped, runs: Sequence[Run]) -> npt.NDArray[Any]:
    """Return the values of the records of consecutive runs alone. Read-only."""
    contiguous = _unbroken(runs)
    if contiguous:
        return _values(mapped, contiguous)
    rows = joined(runs)
    _, _, values, _ = gather(mapped, rows, rows["key"])
    return read_only(values)


def _unbroken(runs: Sequence[Run]) -> list[ContiguousRun]:
    """Return consecutive runs if all their records lie back to back, else none."""
    contiguous = [run for run in runs if isinstance(run, ContiguousRun)]
    goes_on = len(contiguous) == len(runs) and all(after.follows(run) for run, after in pairwise(contiguous))
    return contiguous if goes_on else []


def _values(mapped: Mapped, contiguous: Sequence[ContiguousRun]) -> npt.NDArray[Any]:
    return mapped.arrays[contiguous[0].chunk][contiguous[0].items.start : contiguous[-1].items.stop]


def _view(mapped: Mapped, rows: RowArray, length: int) -> npt.NDArray[Any]:
    """Return records that lie back to back, without a copy."""
    if not length:
        return np.empty(0, mapped.dtype)
    start = int(rows["offset"][0]) // mapped.item_size
    return mapped.arrays[int(rows["chunk"][0])][start : start + length]


# ---------------------------------------------------------------------- copying


def _copy(mapped: Mapped, rows: RowArray, offsets: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return a copy of scattered records, one after the other."""
    out = np.empty(int(offsets[-1]), mapped.dtype)
    lengths = rows["length"].astype(np.int64)
    chunks, arrays = rows["chunk"], mapped.fetched(rows)
    uniform = bool((lengths == lengths[0]).all()) and int(lengths[0]) * mapped.item_size < MAX_RECORD_TYPE
    for chunk in chunks_of(rows):
        chosen = np.flatnonzero(chunks == chunk)
        items = arrays[chunk]
        starts = rows["offset"][chosen].astype(np.int64) // mapped.item_size
        if uniform:
            _copy_windows(items, starts, int(lengths[0]) * mapped.item_size, mapped.item_size, out, chosen)
        elif int(lengths[chosen].sum()) > WIDE_ITEMS * len(chosen):
            _copy_each(items, starts, lengths[chosen], out, offsets[chosen])
        else:
            _copy_items(_cells(items, mapped), starts, lengths[chosen], _cells(out, mapped), offsets[chosen])
    return out


def _records(items: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Return records of one size in bytes, which lie back to back, as an item each."""
    records: npt.NDArray[Any] = np.ndarray(items.nbytes // size, np.dtype((np.void, size)), items)
    return records


def _cells(items: npt.NDArray[Any], mapped: Mapped) -> npt.NDArray[Any]:
    """Return items as bytes that only have a size, whatever the type and the shape of one is."""
    cells: npt.NDArray[Any] = np.ndarray(len(items), np.dtype((np.void, mapped.item_size)), items)
    return cells


def _copy_windows(
    items: npt.NDArray[Any],
    starts: npt.NDArray[Any],
    size: int,
    item_size: int,
    out: npt.NDArray[Any],
    chosen: npt.NDArray[Any],
) -> None:
    """Copy records of one size in bytes: one memory copy a record, from windows over the file at every item."""
    if not size:
        return
    record = np.dtype((np.void, size))
    shape, strides = (len(items) - size // item_size + 1,), (item_size,)
    windows: npt.NDArray[Any] = np.ndarray(shape, record, items, strides=strides)
    # Not np.take(): it would first make a contiguous copy of all windows, many times the file.
    _records(out, size)[chosen] = windows[starts]


def _copy_each(
    items: npt.NDArray[Any],
    starts: npt.NDArray[Any],
    lengths: npt.NDArray[Any],
    out: npt.NDArray[Any],
    at: npt.NDArray[Any],
) -> None:
    """Copy long records one by one: the memory copies outweigh the loop."""
    for start, length, to in zip(starts.tolist(), lengths.tolist(), at.tolist(), strict=True):
        out[to : to + length] = items[start : start + length]


def _copy_items(
    items: npt.NDArray[Any],
    starts: npt.NDArray[Any],
    lengths: npt.NDArray[Any],
    out: npt.NDArray[Any],
    at: npt.NDArray[Any],
) -> None:
    """Copy short records of different lengths, item by item."""
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    source = np.repeat(starts, lengths) + within
    out[np.repeat(at, lengths) + within] = items[source]
