"""RemoteChunk and RemoteHeap: chunks whose bytes are fetched before they are read, and those of one store.

A chunk is mapped as any other. Slices of it are taken through ``RemoteItems``, which has what they lie over fetched
first; copies of many records, and sweeps, say beforehand what they will need.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..chunks.chunk import Chunk
from ..chunks.header_file import read_header
from ..chunks.heap import Heap
from ..chunks.segment import SEGMENT_SIZE, Segment
from ..index.index import Index
from ..process.workers import Job
from ..runs.extent import RowArray, chunks_of, concatenate, make_rows
from ..runs.run import ContiguousRun, Run
from .fetching import Fetching, wait
from .manifest import Object, PublishedChunk

GAP_SIZE = 256 << 10
"""Bytes that nobody asked for come along between those that somebody did, at most: a request takes as long."""


class RemoteChunk(Chunk):
    """A chunk of a published database, as of one publication.

    Parameters
    ----------
    fetching : Fetching

    Attributes
    ----------
    block : int
        Size of its blocks, in bytes.
    present : bytearray
        Which of them are there; see ``CachedChunk``.
    """

    def __init__(self, fetching: Fetching) -> None:
        cached = fetching.cached
        header = read_header(cached.path)
        super().__init__(cached.path, header, header.data_offset, header.file_size, is_written=False)
        layout = cached.published.layout
        self.seek(layout.free, layout.directory)
        self._fetching = fetching
        self._cached = cached
        self.block, self.present = layout.block, cached.present

    def view(self, items: npt.NDArray[Any]) -> RemoteItems:
        """Return an array over the whole file as what slices are taken of."""
        return RemoteItems(self, items)

    def fetch(self, start: int, stop: int) -> None:
        """See that bytes of the file are there before they are read from a mapping."""
        first, end = start // self.block, -(-stop // self.block)
        if self.present.find(0, first, end) >= 0:
            wait(self._fetching.begin(self._cached.absent(first, end)))

    def begin(self, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> list[Job]:
        """Begin to fetch stretches of the file, none of them empty; return what is to be waited for."""
        present = np.frombuffer(self.present, np.uint8)
        count = len(present) + 1
        firsts, ends = starts // self.block, -(-stops // self.block)
        marks = np.bincount(firsts, minlength=count) - np.bincount(ends, minlength=count)
        wanted = (np.cumsum(marks[:-1]) > 0) & (present == 0)
        _bridge(wanted, present, GAP_SIZE // self.block)
        edges = np.flatnonzero(np.diff(wanted, prepend=False, append=False)).reshape(-1, 2).tolist()
        absent = [block for first, stop in edges for block in self._cached.absent(first, stop)]
        return self._fetching.begin(absent) if absent else []

    def follow(self, published: PublishedChunk, named: Mapping[int, Object]) -> bool:
        """Go on with a later publication of it, and tell whether that has the same bytes."""
        return self._fetching.follow(published, named)

    def fetch_all(self) -> list[Job]:
        """Begin to fetch all that is published of it."""
        return self._fetching.begin(self._cached.absent(0, len(self.present)))

    def segments(self, position: int | None = None) -> Iterator[Segment]:
        """Yield the directory's segments from a position downwards, by default from the end of the file."""
        self._cached.reserve(max(self.directory - SEGMENT_SIZE, 0), self.directory)  # which tells where it ends
        return super().segments(position)

    def close(self) -> None:
        """Let the mappings go, make no more, and fetch nothing."""
        super().close()
        self._fetching.close()


class RemoteItems:
    """A chunk as one array of items, of which slices are fetched when they are taken."""

    def __init__(self, chunk: RemoteChunk, items: npt.NDArray[Any]) -> None:
        self._chunk = chunk
        self._items = items
        self._size = items.dtype.itemsize * int(np.prod(items.shape[1:], dtype=np.int64))
        self._block, self._find_absent = chunk.block, chunk.present.find

    def __getitem__(self, items: slice) -> npt.NDArray[Any]:
        start, stop = items.start * self._size, items.stop * self._size
        # As short as may be: it is on the way of every single record.
        if self._find_absent(0, start // self._block, -(-stop // self._block)) >= 0 and start < stop:
            self._chunk.fetch(start, stop)
        return self._items[items]


class RemoteHeap(Heap):
    """The chunks of one store of a published database.

    Attributes
    ----------
    index : Index
        The one whose views keep chunks that were replaced.
    """

    is_remote = True
    index: Index

    def hold(self) -> object:
        """Return what keeps the chunks that are there now readable for as long as it is held."""
        return self.index.pin

    def _go_on(self, mine: Chunk, newer: Chunk) -> None:
        """Take the chunk of a later publication, which has all that this one has."""
        if newer is not mine:
            self.chunks[mine.id] = newer
            self.arrays.pop(mine.id, None)

    def records(self, run: Run) -> None:
        """Return None: each record is fetched when it is asked for."""

    def fetched(self, rows: RowArray) -> Mapping[int, npt.NDArray[Any]]:
        """Return the items of the chunks that rows name, of which those of the rows are there."""
        chunks = {chunk: self._chunk(chunk) for chunk in chunks_of(rows)}
        self.fetch(rows, chunks)
        return {number: chunk.items(self.dtype) for number, chunk in chunks.items()}

    def fetch(self, rows: RowArray, chunks: Mapping[int, Chunk]) -> None:
        """See that records are there, which lie in these chunks."""
        wait(self._begin_rows(rows, chunks))

    def begin(self, runs: Sequence[Run]) -> None:
        """Begin to fetch the records of runs, as far as they are not there."""
        rows = concatenate([_as_one(run) if isinstance(run, ContiguousRun) else run.rows for run in runs])
        self._begin_rows(rows, {chunk: self._chunk(chunk) for chunk in chunks_of(rows)})

    def _begin_rows(self, rows: RowArray, chunks: Mapping[int, Chunk]) -> list[Job]:
        starts = rows["offset"].astype(np.int64)
        stops = starts + rows["length"].astype(np.int64) * self.item_size
        is_wanted = stops > starts
        jobs = []
        for number, chunk in chunks.items():
            chosen = is_wanted & (rows["chunk"] == number)
            jobs += _begin(chunk, np.stack([starts[chosen], stops[chosen]], axis=-1))
        return jobs

    def _chunk(self, number: int) -> Chunk:
        return self.find_chunk(number) or self.retired_chunk(number).chunk


def _bridge(wanted: npt.NDArray[np.bool_], present: npt.NDArray[np.uint8], most: int) -> None:
    """Want short gaps between wanted blocks, too, of which nothing is there: one request brings what two would."""
    blocks = np.flatnonzero(wanted)
    known = np.cumsum(present != 0)
    gaps = np.diff(blocks) - 1
    is_bridged = (gaps > 0) & (gaps <= most) & (known[blocks[1:]] == known[blocks[:-1]])
    for at in np.flatnonzero(is_bridged).tolist():
        wanted[blocks[at] : blocks[at + 1]] = True


def _as_one(run: ContiguousRun) -> RowArray:
    """Return one row for all records of a run."""
    length = run.items.stop - run.items.start
    return make_rows(run.part(0, 1).keys, run.span.start, length, run.chunk, run.flags)


def _begin(chunk: Chunk, spans: npt.NDArray[np.int64]) -> list[Job]:
    assert isinstance(chunk, RemoteChunk)
    return chunk.begin(spans[:, 0], spans[:, 1])
