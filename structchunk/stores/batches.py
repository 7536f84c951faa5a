"""The records of runs as batches: views where they lie back to back, else copies, of a size that memory holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..runs.extent import MUTABLE, Extent, RowArray, breaks
from ..runs.gather import Mapped, gather, gather_pieces
from ..runs.run import ArrayRun, Run, are_seldom
from ..types.schema import Schema
from .batch import Batch

COPY_SIZE = 64 << 20
"""A scan copies no more bytes than this into one batch."""


class MappedStore(Mapped, Protocol):
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


def batch_of(heap: MappedStore, run: RowArray) -> Batch:
    """Return the records of a run, in its order, which need not be that of the keys."""
    return _read_only(heap, *gather(heap, run, np.ascontiguousarray(run["key"])))


def batch_of_pieces(heap: MappedStore, pieces: Sequence[Run]) -> Batch:
    """Return the records of consecutive pieces as one batch: a view where all of it lies back to back."""
    return _read_only(heap, *gather_pieces(heap, pieces))


def batches(heap: MappedStore, piece: Run, batch_size: int) -> Iterator[Batch]:
    """Yield the records of a piece as batches of at most `batch_size` records."""
    return map(itemgetter(0), aligned_batches([heap], [piece], batch_size))  # keeps none that it has given out


def aligned_batches(
    heaps: Sequence[MappedStore], pieces: Sequence[Run], batch_size: int
) -> Iterator[tuple[Batch, ...]]:
    """Yield the records of pieces that have the same keys, one piece for each heap, batch by batch."""
    sides = list(zip(heaps, pieces, strict=True))
    cuts = [_cuts(piece.run, heap.item_size) for heap, piece in sides if isinstance(piece, ArrayRun)]
    bounds = np.unique(np.concatenate([[0, len(pieces[0])], *cuts])).tolist()
    for low, high in pairwise(bounds):
        for first in range(low, high, batch_size):
            upto = min(first + batch_size, high)
            yield _side_by_side(sides, first, upto)


def _side_by_side(sides: Sequence[tuple[MappedStore, Run]], first: int, upto: int) -> tuple[Batch, ...]:
    keys = sides[0][1].part(first, upto).keys
    return tuple(_batch(heap, piece.part(first, upto), keys) for heap, piece in sides)


def _batch(heap: MappedStore, piece: Run, keys: npt.NDArray[np.uint64]) -> Batch:
    if isinstance(piece, ArrayRun):
        return _read_only(heap, *gather(heap, piece.run, keys))
    values = heap.arrays[piece.chunk][piece.items]
    return _read_only(heap, keys, piece.offsets, values, bool(piece.flags & MUTABLE))


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


def _cuts(run: RowArray, item_size: int) -> npt.NDArray[np.intp]:
    """Return where to cut a run: where records stop lying back to back, unless that would leave little pieces."""
    cuts = breaks(run, item_size)
    return cuts if not len(cuts) or are_seldom(cuts, len(run)) else _copy_cuts(run, item_size)


def _copy_cuts(run: RowArray, item_size: int) -> npt.NDArray[Any]:
    """Return where to cut a run so that no piece has many more bytes than are to be copied at once."""
    portion = np.cumsum(run["length"]) * np.uint64(item_size) // np.uint64(COPY_SIZE)
    return np.flatnonzero(portion[1:] != portion[:-1]) + 1
