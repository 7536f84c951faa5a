"""Each chunk of a store as one array: of items, or of objects that are changed in place. It knows no records."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..runs.gather import Items
from ..types.objects import has_plain_fields
from .chunk import Chunk


class Chunks(Protocol):
    """What is needed of a heap."""

    def find_chunk(self, chunk: int) -> Chunk | None:
        """Return a chunk by its id, or None."""

    def retired_items(self, chunk: int, *, writable: bool) -> Items:
        """Return a replaced chunk as one array of items."""


class Arrays(dict[int, Items]):
    """Each chunk of a heap as one array of items, mapped when first asked for."""

    __slots__ = ("_dtype", "_heap", "_writable")

    def __init__(self, heap: Chunks, dtype: np.dtype[Any], *, writable: bool) -> None:
        super().__init__()
        # Weak, so that the files of a dropped store go with the last who holds it.
        self._heap: Chunks = weakref.proxy(heap)
        self._dtype = dtype
        self._writable = writable

    def __missing__(self, chunk: int) -> Items:
        heap = self._heap
        found = heap.find_chunk(chunk)
        if found is None:
            return heap.retired_items(chunk, writable=self._writable)
        try:
            items = found.items(self._dtype, writable=self._writable)
            array = self.setdefault(chunk, found.view(items))
        except FileNotFoundError:
            if heap.find_chunk(chunk) is not None:
                raise
            return heap.retired_items(chunk, writable=self._writable)
        if heap.find_chunk(chunk) is not found:  # it was retired meanwhile, and is not to be kept
            self.pop(chunk, None)
        return array


def objects_over(cls: Any, memory: npt.NDArray[np.uint8]) -> Any:
    """Return bytes as an array of objects of a ctypes type, which are changed in place."""
    if not has_plain_fields(cls):
        return Nested(cls, memory)
    return (cls * (len(memory) // ctypes.sizeof(cls))).from_buffer(memory)


class Nested:
    """The objects of a chunk, if some of their fields are objects.

    What is assigned to such a field ctypes keeps with the object, or with the array that the object is in.
    """

    __slots__ = ("_cls", "_memory", "_size")

    def __init__(self, cls: Any, memory: npt.NDArray[np.uint8]) -> None:
        self._cls = cls
        self._memory = memory
        self._size = ctypes.sizeof(cls)

    def __getitem__(self, at: int) -> Any:
        return self._cls.from_buffer(self._memory, at * self._size)
