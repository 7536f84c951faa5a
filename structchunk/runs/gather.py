"""The records of rows, one after the other: a view where they lie back to back, else one vectorised copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from .extent import MUTABLE, RowArray, breaks, chunks_of
from .run import ContiguousRun, Run, joined, read_only

MAX_RECORD_TYPE = 1 << 31
"""NumPy has no type of as many bytes."""
WIDE_ITEMS = 512
"""Records of different lengths are copied one by one above this many items each, else item by item."""


class Mapped(Protocol):
    """Chunks, each as one array of items."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the items."""

    @property
    def item_size(self) -> int:
        """Bytes of one item."""

    @property
    def arrays(self) -> Mapping[int, npt.NDArray[Any]]:
        """The items of each chunk."""


Gathered: TypeAlias = "tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[Any], bool]"
"""Records one after the other: their keys; the offsets of each one and of the end, in items; the values of all; and
whether those are a view of records that may change in place."""


def gather(mapped: Mapped, run: RowArray, keys: npt.NDArray[np.uint64]) -> Gathered:
    """Return the records of a run, whose keys are given, in its order, which need not be that of the keys."""
    offsets = np.zeros(len(run) + 1, np.int64)
    np.cumsum(run["length"], out=offsets[1:])
    if len(breaks(run, mapped.item_size)):
        return keys, offsets, _copy(mapped, run, offsets), False
    in_place = bool(np.bitwise_or.reduce(run["flags"]) & MUTABLE)
    return keys, offsets, _stretch(mapped, run, int(offsets[-1])), in_place


def gather_pieces(mapped: Mapped, pieces: Sequence[Run]) -> Gathered:
    """Return the records of consecutive pieces: a view where all of it lies back to back."""
    stretches = _unbroken(pieces)
    if not stretches:
        run = joined(pieces)
        return gather(mapped, run, np.ascontiguousarray(run["key"]))
    first = stretches[0].items.start
    offsets = [piece.offsets[1:] + (piece.items.start - first) for piece in stretches]
    return (
        np.concatenate([piece.keys for piece in stretches]),
        np.concatenate([np.zeros(1, np.int64), *offsets]),
        _values(mapped, stretches),
        any(piece.flags & MUTABLE for piece in stretches),
    )


def gather_values(mapped: Mapped, pieces: Sequence[Run]) -> npt.NDArray[Any]:
    """Return the values of the records of consecutive pieces alone. Read-only."""
    stretches = _unbroken(pieces)
    if stretches:
        return _values(mapped, stretches)
    run = joined(pieces)
    _, _, values, _ = gather(mapped, run, run["key"])
    return read_only(values)


def _unbroken(pieces: Sequence[Run]) -> list[ContiguousRun]:
    """Return consecutive pieces if all their records lie back to back, else none."""
    stretches = [piece for piece in pieces if isinstance(piece, ContiguousRun)]
    goes_on = len(stretches) == len(pieces) and all(after.follows(piece) for piece, after in pairwise(stretches))
    return stretches if goes_on else []


def _values(mapped: Mapped, stretches: Sequence[ContiguousRun]) -> npt.NDArray[Any]:
    return mapped.arrays[stretches[0].chunk][stretches[0].items.start : stretches[-1].items.stop]


def _stretch(mapped: Mapped, run: RowArray, length: int) -> npt.NDArray[Any]:
    """Return records that lie back to back, without a copy."""
    if not length:
        return np.empty(0, mapped.dtype)
    start = int(run["offset"][0]) // mapped.item_size
    return mapped.arrays[int(run["chunk"][0])][start : start + length]


# ---------------------------------------------------------------------- copying


def _copy(mapped: Mapped, run: RowArray, offsets: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return a copy of scattered records, one after the other."""
    out = np.empty(int(offsets[-1]), mapped.dtype)
    lengths = run["length"].astype(np.int64)
    chunks = run["chunk"]
    uniform = bool((lengths == lengths[0]).all()) and int(lengths[0]) * mapped.item_size < MAX_RECORD_TYPE
    for chunk in chunks_of(run):
        chosen = np.flatnonzero(chunks == chunk)
        items = mapped.arrays[chunk]
        starts = run["offset"][chosen].astype(np.int64) // mapped.item_size
        if uniform:
            _copy_windows(items, starts, int(lengths[0]), out, chosen)
        elif int(lengths[chosen].sum()) > WIDE_ITEMS * len(chosen):
            _copy_each(items, starts, lengths[chosen], out, offsets[chosen])
        else:
            _copy_items(items, starts, lengths[chosen], out, offsets[chosen])
    return out


def _copy_windows(
    items: npt.NDArray[Any],
    starts: npt.NDArray[Any],
    length: int,
    out: npt.NDArray[Any],
    chosen: npt.NDArray[Any],
) -> None:
    """Copy records of one length: one memory copy a record, from windows over the file at every item."""
    if not length:
        return
    record = np.dtype((np.void, length * items.itemsize))
    shape, strides = (len(items) - length + 1,), (items.itemsize,)
    windows: npt.NDArray[Any] = np.ndarray(shape, record, items, strides=strides)
    # Not np.take(): it would first make a contiguous copy of all windows, many times the file.
    out.view(record)[chosen] = windows[starts]


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
    cell = np.dtype((np.void, items.itemsize))
    source = np.repeat(starts, lengths) + within
    out.view(cell)[np.repeat(at, lengths) + within] = items.view(cell)[source]
