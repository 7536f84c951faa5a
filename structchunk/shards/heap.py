"""ShardedHeap: the chunks of all parts of a store, by numbers of their own, and records of them put into memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ClosedError
from ..runs.extent import Extent, RowArray, chunks_of
from ..runs.gather import Items, gather_interleaved
from ..runs.interleaved import InterleavedRun
from ..runs.run import ArrayRun, ContiguousRun, Run, read_only
from ..stores.batches import MappedStore
from ..types.schema import Schema
from .merged import InMemoryRun

FIRST_IN_MEMORY = 1 << 31
"""The lowest number of what is in memory; chunks have those from 0 on."""


class ShardedArrays(dict[int, Items]):
    """Each chunk of all parts as one array of items, by a number of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers: dict[tuple[int, int], int] = {}
        self._chunks: list[tuple[MappedStore, int]] = []
        self._in_memory_count = 0
        self._lock = threading.Lock()

    def number(self, heap: MappedStore, chunk: int) -> int:
        """Return the number that stands for a chunk of a part."""
        known = self._numbers.get((id(heap), chunk))
        if known is not None:
            return known
        with self._lock:
            known = self._numbers.get((id(heap), chunk))
            if known is None:
                known = len(self._chunks)
                self._chunks.append((heap, chunk))  # which keeps the heap, and so its id
                self._numbers[id(heap), chunk] = known  # last: whoever finds a number finds its chunk
            return known

    def __missing__(self, number: int) -> Items:
        if number >= FIRST_IN_MEMORY:
            raise ClosedError("the shards were closed while their records were read")
        heap, chunk = self._chunks[number]
        return self.setdefault(number, heap.arrays[chunk])

    def keep(self, items: npt.NDArray[Any]) -> int:
        """Return a number that stands for items in memory."""
        with self._lock:
            number = FIRST_IN_MEMORY + self._in_memory_count
            self._in_memory_count += 1
            self[number] = items
            return number

    def forget(self) -> None:
        """Let go all that is in memory."""
        for number in [number for number in list(self) if number >= FIRST_IN_MEMORY]:
            self.pop(number, None)

    def origin(self, number: int) -> tuple[MappedStore, int]:
        """Return the chunks of a part, and which one of them it is that a number stands for.

        Where parts are remote, none stands for what is in memory.
        """
        return self._chunks[number]


class ShardedHeap:
    """The chunks of all parts."""

    def __init__(self, path: str, name: str, schema: Schema, *, is_remote: bool) -> None:
        self.identity = path, name
        self.is_remote = is_remote
        self.name = name
        self.schema = schema
        self.dtype = schema.dtype
        self.item_size = schema.item_size
        self.arrays = ShardedArrays()

    def array(self, extent: Extent) -> npt.NDArray[Any]:
        """Return an extent's items, read-only, without a copy."""
        start = extent[1] // self.item_size
        return self.arrays[extent[3]][start : start + extent[2]]

    def fetched(self, rows: RowArray) -> Mapping[int, npt.NDArray[Any]]:
        """Return the items of each chunk that rows name, of which those of the rows are there."""
        if not self.is_remote:
            return self.arrays  # type: ignore[return-value]
        self.begin([ArrayRun(rows)])
        found = {}
        for number, (heap, run) in self._origins(ArrayRun(rows)):
            found[number] = heap.fetched(run.rows)[chunks_of(run.rows)[0]]
        return found

    def hold(self) -> object:
        """Return nothing: nobody replaces the chunks of shards."""

    def begin(self, runs: Sequence[Run]) -> None:
        """Begin to fetch the records of runs, as far as they are not there."""
        by_heap: dict[int, tuple[MappedStore, list[Run]]] = {}
        for run in runs:
            for _, (heap, part) in self._origins(run):
                by_heap.setdefault(id(heap), (heap, []))[1].append(part)
        for heap, parts in by_heap.values():
            heap.begin(parts)

    def _origins(self, run: Run) -> Iterator[tuple[int, tuple[MappedStore, Run]]]:
        """Yield the numbers of the chunks that a run names, with the part that it is of, and the rows as there."""
        if isinstance(run, ContiguousRun):
            heap, chunk = self.arrays.origin(run.chunk)
            yield run.chunk, (heap, run.in_chunk(chunk))
            return
        every = run.rows
        for number in chunks_of(every):
            heap, chunk = self.arrays.origin(number)
            rows = every[every["chunk"] == number]
            rows["chunk"] = chunk
            yield number, (heap, ArrayRun(rows))

    def in_memory(self, run: InterleavedRun) -> InMemoryRun:
        """Return rows that were merged, of records of one length, with their records in memory."""
        _, _, values, _ = gather_interleaved(self, run)
        items = range(0, len(values) + 1, run.length)
        return InMemoryRun(run.keys, items, self.arrays.keep(read_only(values)), 0, self.item_size)

    def take_over(self, run: Run, heap: MappedStore) -> Run:
        """Return rows of a part with the numbers that its chunks have here."""
        if isinstance(run, ContiguousRun):
            return run.in_chunk(self.arrays.number(heap, run.chunk))
        rows = run.rows.copy()
        chunks = chunks_of(rows)
        numbers = np.array([self.arrays.number(heap, chunk) for chunk in chunks], np.uint32)
        rows["chunk"] = numbers if len(chunks) == 1 else numbers[np.searchsorted(chunks, rows["chunk"])]
        return ArrayRun(rows)
