"""Arrays through which records are changed in place: none is handed out while compaction moves the records."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from ..chunks.chunk import Chunk
from ..chunks.heap import Heap
from ..errors import LockedError, MovedError, StoreNotFound
from ..runs.extent import ZERO, Extent

NOTHING: frozenset[int] = frozenset()
_PAUSE = 0.001
"""Seconds between two looks whether records have been moved: no lock is held meanwhile."""


class InPlaceViews:
    """What is handed out of a database for changing in place.

    Attributes
    ----------
    chunks : dict of int to Chunk
        Those of which something was handed out, and which every checkpoint must flush.
    moving : frozenset of int
        Those whose records are being moved, so that nothing of them is handed out.
    failure : str
        What went wrong in writing, so that nothing is handed out any more, or "".
    """

    def __init__(self) -> None:
        self.chunks: dict[int, Chunk] = {}
        self.moving = NOTHING
        self.failure = ""
        self._mover = 0

    def array(self, heap: Heap, extent: Extent, checkpoint: Callable[[], None]) -> npt.NDArray[Any] | None:
        """Return an extent's items for changing in place; None if it is not current any more.

        `checkpoint` brings everything to disk: a record that a CRC covers can be changed only when no crash can
        make recovery check it any more. While ``compact()`` moves it, this waits.
        """
        chunk = heap.find_chunk(extent[3])
        if chunk is None:
            return self._moved_array(heap, extent, checkpoint)
        if not extent[4] & ZERO and extent[1] + extent[2] * heap.item_size > chunk.settled:
            checkpoint()
        try:
            array = heap.live_array(extent)
        except MovedError:
            return self._moved_array(heap, extent, checkpoint)
        # After the view was made: so either begin_moving() sees the view, or this sees `moving`.
        if chunk.id in self.moving or heap.find_chunk(chunk.id) is None:
            return self._moved_array(heap, extent, checkpoint)
        check_not_altered(heap)
        self.chunks[chunk.id] = chunk
        return array

    def _moved_array(self, heap: Heap, extent: Extent, checkpoint: Callable[[], None]) -> npt.NDArray[Any] | None:
        while extent[3] in self.moving:
            if self._mover == threading.get_ident():
                raise LockedError(
                    f"compact() or alter_store() is moving record {extent[0]}: its progress cannot have it"
                )
            time.sleep(_PAUSE)
        if extent[3] in heap.chunks:  # it was to be moved, and is where it was
            return self.array(heap, extent, checkpoint)
        moved = heap.retired_chunk(extent[3]).moved(extent)
        return None if moved is None else self.array(heap, moved, checkpoint)

    def begin_moving(self, heaps: Sequence[Heap]) -> list[list[Chunk]]:
        """Hand out no writable view of stores any more, and return of each the chunks of which none is held.

        Who calls this sets ``moving`` to NOTHING at the end: one assignment, which nothing can interrupt.
        """
        self._mover, self.moving = threading.get_ident(), frozenset().union(*(heap.chunks for heap in heaps))
        free = [[chunk for chunk in heap.chunks.values() if not heap.is_exposed(chunk.id)] for heap in heaps]
        self.moving = frozenset(chunk.id for chunks in free for chunk in chunks)
        return free


def check_not_altered(heap: Heap) -> None:
    """Raise if another store has the records, so that what would be changed here would be lost."""
    if heap.is_altered:
        raise StoreNotFound(f"store {heap.name!r} was altered; get it again by its name")
