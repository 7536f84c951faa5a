"""The records of runs as batches: a view where they lie back to back, else one vectorised copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..runs.extent import LIVE, Extent, Run, breaks, chunks_of
from ..runs.run import Piece, Scattered, Stretch, are_seldom, joined
from ..types.schema import Schema
from .batch import Batch

COPY_SIZE = 64 << 20
"""A scan copies no more bytes than this into one batch."""
MAX_RECORD_TYPE = 1 << 31
"""NumPy has no type of as many bytes."""
WIDE_ITEMS = 512
"""Records of different lengths are copied one by one above this many items each, else item by item."""


class Mapped(Protocol):
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

    @property
    def item_size(self) -> int:
        """Bytes of one item."""

    @property
    def arrays(self) -> Mapping[int, npt.NDArray[Any]]:
        """Each chunk as one array of items."""

    def array(self, extent: Extent) -> npt.NDArray[Any]:
        """Return an extent's items, read-only, without a copy."""


def gather(heap: Mapped, run: Run) -> Batch:
    """Return the records of a run, in its order, which need not be that of the keys."""
    return _ragged(heap, run, np.ascontiguousarray(run["key"]))


def gather_pieces(heap: Mapped, pieces: Sequence[Piece]) -> Batch:
    """Return the records of consecutive pieces as one batch: a view where all of it lies back to back."""
    stretches = _unbroken(pieces)
    if not stretches:
        return gather(heap, joined(pieces))
    first = stretches[0].items.start
    offsets = [piece.offsets[1:] + (piece.items.start - first) for piece in stretches]
    return _read_only(
        heap,
        np.concatenate([piece.keys for piece in stretches]),
        np.concatenate([np.zeros(1, np.int64), *offsets]),
        _values(heap, stretches),
        in_place=any(piece.flags & LIVE for piece in stretches),
    )


def values_of(heap: Mapped, pieces: Sequence[Piece]) -> npt.NDArray[Any]:
    """Return the values of consecutive pieces as one array: a view where all of it lies back to back."""
    stretches = _unbroken(pieces)
    return _values(heap, stretches) if stretches else gather(heap, joined(pieces)).values


def _unbroken(pieces: Sequence[Piece]) -> list[Stretch]:
    """Return consecutive pieces if all their records lie back to back, else none."""
    stretches = [piece for piece in pieces if isinstance(piece, Stretch)]
    goes_on = len(stretches) == len(pieces) and all(after.follows(piece) for piece, after in pairwise(stretches))
    return stretches if goes_on else []


def _values(heap: Mapped, stretches: Sequence[Stretch]) -> npt.NDArray[Any]:
    return heap.arrays[stretches[0].chunk][stretches[0].items.start : stretches[-1].items.stop]


def batches(heap: Mapped, piece: Piece, batch_size: int) -> Iterator[Batch]:
    """Yield the records of a piece as batches of at most `batch_size` records."""
    return map(itemgetter(0), aligned_batches([heap], [piece], batch_size))  # keeps none that it has given out


def aligned_batches(
    heaps: Sequence[Mapped], pieces: Sequence[Piece], batch_size: int
) -> Iterator[tuple[Batch, ...]]:
    """Yield the records of pieces that have the same keys, one piece for each heap, batch by batch."""
    sides = list(zip(heaps, pieces, strict=True))
    cuts = [_cuts(heap, piece.run) for heap, piece in sides if isinstance(piece, Scattered)]
    bounds = np.unique(np.concatenate([[0, len(pieces[0])], *cuts])).tolist()
    for low, high in pairwise(bounds):
        for first in range(low, high, batch_size):
            upto = min(first + batch_size, high)
            yield _side_by_side(sides, first, upto)


def _side_by_side(sides: Sequence[tuple[Mapped, Piece]], first: int, upto: int) -> tuple[Batch, ...]:
    keys = sides[0][1].part(first, upto).keys
    return tuple(_batch(heap, piece.part(first, upto), keys) for heap, piece in sides)


def _batch(heap: Mapped, piece: Piece, keys: npt.NDArray[np.uint64]) -> Batch:
    if isinstance(piece, Scattered):
        return _ragged(heap, piece.run, keys)
    values = heap.arrays[piece.chunk][piece.items]
    return _read_only(heap, keys, piece.offsets, values, in_place=bool(piece.flags & LIVE))


def _read_only(
    heap: Mapped,
    keys: npt.NDArray[np.uint64],
    offsets: npt.NDArray[np.int64],
    values: npt.NDArray[Any],
    *,
    in_place: bool,
) -> Batch:
    """Return a batch that nobody changes: others, and Arrow data, may lie over the same memory."""
    for array in (keys, offsets, values):
        array.flags.writeable = False
    return Batch(keys, offsets, values, heap.schema.kind, in_place)


def _ragged(heap: Mapped, run: Run, keys: npt.NDArray[np.uint64]) -> Batch:
    """Return any records."""
    offsets = np.zeros(len(run) + 1, np.int64)
    np.cumsum(run["length"], out=offsets[1:])
    if not len(breaks(run, heap.item_size)):
        values = _stretch(heap, run, int(offsets[-1]))
        return _read_only(heap, keys, offsets, values, in_place=bool(np.bitwise_or.reduce(run["flags"]) & LIVE))
    return _read_only(heap, keys, offsets, _copy(heap, run, offsets), in_place=False)


def _cuts(heap: Mapped, run: Run) -> npt.NDArray[np.intp]:
    """Return where to cut a run: where records stop lying back to back, unless that would leave little pieces."""
    cuts = breaks(run, heap.item_size)
    return cuts if not len(cuts) or are_seldom(cuts, len(run)) else _copy_cuts(run, heap.item_size)


def _copy_cuts(run: Run, item_size: int) -> npt.NDArray[Any]:
    """Return where to cut a run so that no piece has many more bytes than are to be copied at once."""
    portion = np.cumsum(run["length"]) * np.uint64(item_size) // np.uint64(COPY_SIZE)
    return np.flatnonzero(portion[1:] != portion[:-1]) + 1


def _stretch(heap: Mapped, run: Run, length: int) -> npt.NDArray[Any]:
    """Return records that lie back to back, without a copy."""
    if not length:
        return np.empty(0, heap.schema.dtype)
    start = int(run["offset"][0]) // heap.item_size
    return heap.arrays[int(run["chunk"][0])][start : start + length]


def _copy(heap: Mapped, run: Run, offsets: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return a copy of scattered records, one after the other."""
    dtype = heap.schema.dtype
    out = np.empty(int(offsets[-1]), dtype)
    lengths = run["length"].astype(np.int64)
    chunks = run["chunk"]
    uniform = bool((lengths == lengths[0]).all()) and int(lengths[0]) * heap.item_size < MAX_RECORD_TYPE
    for chunk in chunks_of(run):
        chosen = np.flatnonzero(chunks == chunk)
        items = heap.arrays[chunk]
        starts = run["offset"][chosen].astype(np.int64) // heap.item_size
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
