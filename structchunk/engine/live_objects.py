"""Objects over the mapped file, to be changed in place: what makes single ones, and what takes them by key.

What is kept of a chunk is handed out as it is, unless writing has failed: whoever is about to move its records, or
to let it go, empties that first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..chunks.heap import Heap
from ..index.takers import Bucketed, Maker, Searched, Steps, Taker, not_yet
from ..runs.extent import ZERO, Extent
from ..runs.run import ContiguousRun, Run
from .in_place import InPlaceViews


def maker_of_objects(
    in_place: InPlaceViews, heap: Heap, cls: Any, otherwise: Callable[[Extent], Any]
) -> Callable[[Extent], Any]:
    """Return what makes an object of a ctypes type over an extent; where that cannot be, what `otherwise` does.

    It is :meth:`InPlaceViews.array` written out for the usual case.
    """
    chunks, kept, size = heap.chunks, heap.live_objects(cls), heap.item_size

    def make(extent: Extent) -> Any:
        _, offset, _, number, flags = extent
        try:
            chunk = chunks[number]
        except KeyError:
            return otherwise(extent)
        if in_place.failure or (offset + size > chunk.settled and not flags & ZERO):
            return otherwise(extent)
        objects = kept.get(number)
        if objects is None:
            objects = heap.objects(cls, number)
        # Only now, as there. What is kept is let go before chunks are moved, and this call holds what it keeps.
        if number in in_place.moving or number not in chunks or heap.is_altered:
            return otherwise(extent)
        in_place.chunks[number] = chunk
        kept[number] = objects
        return objects[offset // size]

    return make


def taking_objects(in_place: InPlaceViews, heap: Heap, cls: Any) -> Maker:
    """Return what makes, of a run of records, what takes the object of a key; or else its extent, or None.

    It takes those of chunks whose objects are kept. Then they may be handed out: see :func:`maker_of_objects`.
    """
    kept, size = heap.live_objects(cls), heap.item_size

    def make(run: Run, searched: Searched) -> Taker | None:
        if not isinstance(run, ContiguousRun) or run.length != 1:
            return None
        chunk = heap.chunks.get(run.chunk)
        if chunk is None or (run.span.stop > chunk.settled and not run.flags & ZERO):
            return not_yet
        objects = ObjectRun(in_place, kept, run.chunk, run.items.start, size, run.flags)
        if isinstance(searched, Steps):
            return _take_in_steps(searched, objects)
        return _take_in_buckets(searched, objects) if isinstance(searched, Bucketed) else None

    return make


class ObjectRun(NamedTuple):
    """Objects that lie back to back in one chunk, and where those of whole chunks are kept."""

    in_place: InPlaceViews
    kept: dict[int, Any]
    chunk: int
    first: int
    size: int
    flags: int

    def extent(self, key: int, at: int) -> Extent:
        """Return the extent of one of them, by its position."""
        return key, (self.first + at) * self.size, 1, self.chunk, self.flags


def _take_in_steps(steps: Steps, objects: ObjectRun) -> Taker:
    first, step, count = steps
    in_place, kept, chunk, first_item, *_ = objects

    def take(key: int) -> Any:
        at, rest = divmod(key - first, step)
        if rest or not 0 <= at < count:
            return None
        try:
            return objects.extent(key, at) if in_place.failure else kept[chunk][first_item + at]
        except KeyError:
            return objects.extent(key, at)

    return take


def _take_in_buckets(bucketed: Bucketed, objects: ObjectRun) -> Taker:
    keys, (first, shift, starts, _) = bucketed
    in_place, kept, chunk, first_item, *_ = objects

    def take(key: int) -> Any:
        try:
            at = starts[(key - first) >> shift]  # as in index/buckets.py
            while (found := keys[at]) < key:
                at += 1
        except IndexError:
            return None  # beyond the last key
        if found != key:
            return None
        try:
            return objects.extent(key, at) if in_place.failure else kept[chunk][first_item + at]
        except KeyError:
            return objects.extent(key, at)

    return take
