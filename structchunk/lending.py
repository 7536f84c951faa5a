"""Lending: arrays through which records are changed in place, and keeping them still while records are moved."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy.typing as npt

from .chunk import Chunk
from .errors import LockedError, MovedError
from .extent import ZERO, Extent
from .heap import Heap


class Lending:
    """What is handed out of a database for changing in place.

    Attributes
    ----------
    chunks : dict of int to Chunk
        Those of which something was handed out, and which every checkpoint must flush.
    """

    def __init__(self) -> None:
        self.chunks: dict[int, Chunk] = {}
        self._moving: frozenset[int] = frozenset()
        self._mover = 0
        self._moved = threading.Condition()

    def array(self, heap: Heap, extent: Extent, checkpoint: Callable[[], None]) -> npt.NDArray[Any] | None:
        """Return an extent's items for changing in place; None if it is not current any more.

        `checkpoint` brings everything to disk: a record that a CRC covers can be changed only when no crash can
        make recovery check it any more. While ``compact()`` moves it, this waits.
        """
        chunk = heap.chunks.get(extent[3])
        if chunk is None:
            return self._moved_array(heap, extent, checkpoint)
        if not extent[4] & ZERO and extent[1] + extent[2] * heap.item_size > chunk.settled:
            checkpoint()
        try:
            array = heap.live_array(extent)
        except MovedError:
            return self._moved_array(heap, extent, checkpoint)
        # After the view was made: so either moving() sees that it is out, or here it is seen that it must not be.
        if chunk.id in self._moving or chunk.id not in heap.chunks:
            return self._moved_array(heap, extent, checkpoint)
        self.chunks[chunk.id] = chunk
        return array

    def _moved_array(self, heap: Heap, extent: Extent, checkpoint: Callable[[], None]) -> npt.NDArray[Any] | None:
        with self._moved:
            if extent[3] in self._moving and self._mover == threading.get_ident():
                raise LockedError(
                    f"compact() is moving record {extent[0]}: it cannot be had from within its progress"
                )
            self._moved.wait_for(lambda: extent[3] not in self._moving)
        if extent[3] in heap.chunks:
            return self.array(heap, extent, checkpoint)
        moved = heap.retired_chunk(extent[3]).moved(extent)
        return None if moved is None else self.array(heap, moved, checkpoint)

    @contextlib.contextmanager
    def moving(self, heap: Heap) -> Iterator[list[Chunk]]:
        """Lend nothing of a heap's chunks while the body runs; yield those of which nothing is lent."""
        self._set_moving(heap.chunks)
        try:
            free = [chunk for chunk in heap.chunks.values() if not heap.is_lent(chunk.id)]
            self._set_moving(chunk.id for chunk in free)
            yield free
        finally:
            self._set_moving(())

    def _set_moving(self, chunks: Iterable[int]) -> None:
        with self._moved:
            self._mover = threading.get_ident()
            self._moving = frozenset(chunks)
            self._moved.notify_all()
