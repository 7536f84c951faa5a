"""Altering: a store's records, written anew as another type into a store that takes its name.

It is one commit, which creates that store and drops the one before. A kill or a power cut leaves the one or the
other, whole; those who hold the old store read on what they have. Records are converted some megabytes at a time,
long ones piece by piece; what was sparse stays so where zeros stay zeros. Their rows are in memory until the
commit, a few bytes each where records lie in order of key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..chunks.allocator import SPARSE_SIZE
from ..chunks.heap import Heap
from ..disk import files
from ..engine.staging import Staging
from ..engine.storage import Storage
from ..errors import LockedError
from ..runs.extent import KEY_END, MUTABLE, Extent
from ..runs.gather import gather_values
from ..runs.run import ContiguousRun, Run, portions
from .compaction import EXPOSED
from .moving import STEP_SIZE

STEP_ROWS = 1 << 20
"""How many records are looked at together, at most."""
_Array = npt.NDArray[Any]


class Converter(Protocol):
    """How items of one type become those of another."""

    @property
    def keeps_zeros(self) -> bool:
        """Whether items that are all zeros stay so."""

    def convert(self, items: _Array) -> _Array:
        """Return items of the old type as as many of the new one."""


def hold_still(storage: Storage, heap: Heap) -> None:
    """Hand out no writable view of a store until ``storage.in_place.moving`` is reset; raise if one is held."""
    (free,) = storage.in_place.begin_moving([heap])
    if len(free) < len(heap.chunks):
        raise LockedError(f"store {heap.name!r} cannot be altered: {EXPOSED}; let go of it first")


def copy_altered(source: Staging, target: Staging, converter: Converter, progress: Callable[[int], object]) -> None:
    """Copy what is committed of one store to another one, which is empty.

    Parameters
    ----------
    source, target : Staging
        Of one transaction.
    converter : Converter
    progress : callable
        Called with the number of bytes that have been read.
    """
    done = 0
    for run in source.index.runs(0, KEY_END):
        for part in portions(run, STEP_ROWS):
            for low, high in pairwise(_steps(part, source.heap.item_size, target.heap.item_size)):
                done += _copy_step(source.heap, target, part.part(low, high), converter)
                progress(done)


def _copy_step(heap: Heap, target: Staging, run: Run, converter: Converter) -> int:
    """Copy some records, whose flags are the same, and return how many bytes were read."""
    flags = int(run.flag_values[0]) & MUTABLE
    lengths = _lengths(run)
    size = int(lengths.sum()) * heap.item_size
    if len(run) == 1 and _are_long(size, flags):
        _copy_long(heap, target, run.extent(0), flags, converter)
    else:
        target.put_many(run.keys, converter.convert(gather_values(heap, [run])), lengths, flags)
    return size


def _lengths(run: Run) -> npt.NDArray[np.int64]:
    return np.diff(run.offsets) if isinstance(run, ContiguousRun) else run.rows["length"].astype(np.int64)


def _are_long(sizes: Any, flags: Any) -> Any:
    """Tell for each record, or for one, whether it is copied in pieces: it is large, or may have holes."""
    return (sizes > STEP_SIZE) | ((flags & MUTABLE != 0) & (sizes > SPARSE_SIZE))


def _steps(run: Run, *item_sizes: int) -> list[int]:
    """Return where the steps of copying begin, and where the last one ends; long records make one each."""
    lengths, flags = _lengths(run), np.broadcast_to(run.flag_values, len(run)) & np.uint32(MUTABLE)
    sizes = lengths * max(item_sizes)
    portion = np.cumsum(sizes) // STEP_SIZE
    alone = np.flatnonzero(_are_long(sizes, flags))
    changes = np.flatnonzero((portion[1:] != portion[:-1]) | (flags[1:] != flags[:-1])) + 1
    bounds: list[int] = np.unique(np.concatenate([changes, alone, alone + 1, [0, len(run)]])).tolist()
    return bounds


def _copy_long(heap: Heap, target: Staging, extent: Extent, flags: int, converter: Converter) -> None:
    """Copy a record piece by piece."""
    key, _, length, _, _ = extent
    pieces = _pieces(heap, extent, skip_holes=bool(flags & MUTABLE) and converter.keeps_zeros)
    new_size = target.heap.item_size
    parts = ((first * new_size, converter.convert(items)) for first, items in pieces)
    target.put_parts(key, length * new_size, parts, flags)


def _pieces(heap: Heap, extent: Extent, *, skip_holes: bool) -> Iterator[tuple[int, _Array]]:
    """Yield the items of a record some at a time, each time with the number of the first."""
    _, offset, length, chunk, _ = extent
    items, size = heap.array(extent), heap.item_size
    end = offset + length * size
    written = files.written(heap.chunks[chunk].path, offset, end) if skip_holes else [(offset, end)]
    step, done = max(STEP_SIZE // size, 1), 0
    for low, high in written:
        first, stop = max((low - offset) // size, done), -(-(high - offset) // size)
        for start in range(first, stop, step):
            yield start, items[start : min(start + step, stop)]
        done = max(done, stop)
