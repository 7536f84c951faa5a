"""One chunk of a publication in the making: which of its blocks lie where already, and which are to be uploaded."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..chunks.header import TEXT_OFFSET, Header, HeaderFields
from ..chunks.heap import Place
from .layout import ZEROS, Extent, Layout
from .manifest import PublishedChunk

NOWHERE = (1 << 32) - 1
READ_SIZE = 1 << 24
_OFFSETS = struct.Struct("<QQ")


class Reader(Protocol):
    """Reads chunk files."""

    def read(self, chunk: int, start: int, size: int) -> bytes:
        """Return bytes of a chunk file."""


def header_bytes(header: Header, raw: bytes) -> bytes:
    """Return a header as it lies in its file, with the working offsets of an empty chunk."""
    offsets = _OFFSETS.pack(header.data_offset, header.file_size)
    return raw[: HeaderFields.free_offset.offset] + offsets + raw[TEXT_OFFSET : TEXT_OFFSET + len(header.text)]


def layout_of(place: Place, block: int) -> Layout:
    """Return the layout of a chunk as of a commit."""
    header = place.chunk.header
    return Layout(block, header.file_size, header.data_offset, place.free, place.directory)


class ChunkDraft:
    """One chunk, of which it is known for each block that is stored where it lies, or that it lies nowhere yet.

    Parameters
    ----------
    header : Header
    layout : Layout
        As of the commit.
    prior : PublishedChunk or None
        What was published of it before.
    """

    def __init__(self, header: Header, layout: Layout, prior: PublishedChunk | None) -> None:
        self.header = header
        self.layout = layout
        count = sum(map(len, layout.runs))
        self._object = np.full(count, NOWHERE, np.uint32)
        self._offset = np.zeros(count, np.uint64)
        self._crc = np.zeros(count, np.uint32)
        if prior is not None:
            self._take(prior)

    def _take(self, prior: PublishedChunk) -> None:
        for extent in prior.extents:
            for blocks in _shared(range(extent.first, extent.stop), self.layout.runs):
                first = prior.layout.stored(blocks.start).start - prior.layout.stored(extent.first).start
                where = self._positions(blocks)
                sizes = self._sizes(blocks, prior.layout)
                self._object[where] = extent.object
                if extent.object != ZEROS:
                    self._offset[where] = extent.offset + first + np.cumsum(sizes) - sizes
                self._crc[where] = prior.crcs[_positions(prior.layout, blocks)]

    def _positions(self, blocks: range) -> slice:
        return _positions(self.layout, blocks)

    def _sizes(self, blocks: range, layout: Layout) -> npt.NDArray[np.uint64]:
        """Return how many bytes are stored of each of consecutive blocks of one run."""
        sizes = np.full(len(blocks), layout.block, np.uint64)
        for block in {blocks[0], blocks[-1]}:
            sizes[block - blocks.start] = len(layout.stored(block))
        return sizes

    # ------------------------------------------------------------------ what is to be uploaded

    def note_growth(self, start: int, prior: Layout) -> None:
        """Let nothing count that was added to the chunk: data from `start` on, and what the directory grew by."""
        block = self.layout.block
        if self.layout.free > start:
            self._forget(range(start // block, -(-self.layout.free // block)))
        if self.layout.directory < prior.directory:
            self._forget(range(self.layout.directory // block, -(-prior.directory // block)))

    def note_changes(self, reader: Reader) -> None:
        """Compare all data with its CRCs, and let what has changed in place not count."""
        layout = self.layout
        data = range(layout.data_offset // layout.block, -(-layout.free // layout.block))
        for blocks in _shared(data, layout.runs):
            for part in _parts(blocks, max(READ_SIZE // layout.block, 1)):
                where = self._positions(part)
                crcs = crcs_of(layout, part, reader.read(self.header.chunk, *_start_and_size(layout, part)))
                self._object[where][crcs != self._crc[where]] = NOWHERE

    def note_moves(self, objects: Collection[int]) -> None:
        """Let nothing count that lies in some objects: it is to be uploaded again."""
        self._object[np.isin(self._object, list(objects))] = NOWHERE

    def _forget(self, blocks: range) -> None:
        for part in _shared(blocks, self.layout.runs):
            self._object[self._positions(part)] = NOWHERE

    def missing(self) -> Iterator[range]:
        """Yield the blocks that lie nowhere, as ranges that are contiguous in the file."""
        for run in self.layout.runs:
            is_missing = self._object[self._positions(run)] == NOWHERE
            edges = np.flatnonzero(np.diff(is_missing, prepend=False, append=False)).tolist()
            for start, stop in zip(edges[::2], edges[1::2], strict=True):
                yield run[start:stop]

    def put(self, blocks: range, object: int, offset: int, crcs: npt.NDArray[np.uint32]) -> None:
        """Say where consecutive blocks, back to back, lie from now on, if they are not zeros."""
        where = self._positions(blocks)
        sizes = self._sizes(blocks, self.layout)
        self._object[where] = object
        self._offset[where] = offset + np.cumsum(sizes) - sizes if object != ZEROS else 0
        self._crc[where] = crcs

    # ------------------------------------------------------------------ what it is

    def live_sizes(self) -> dict[int, int]:
        """Return how many bytes of the chunk lie in each object."""
        sizes = np.concatenate(
            [self._sizes(run, self.layout) for run in self.layout.runs] or [np.zeros(0, np.uint64)]
        )
        objects, where = np.unique(self._object, return_inverse=True)
        totals = np.bincount(where, weights=sizes, minlength=len(objects)).astype(np.uint64)
        stored = {*objects.tolist()} - {NOWHERE, ZEROS}
        return {each: size for each, size in zip(objects.tolist(), totals.tolist(), strict=True) if each in stored}

    def extents(self) -> Iterator[Extent]:
        """Yield where all blocks lie, none of which may lie nowhere."""
        for run in self.layout.runs:
            where = self._positions(run)
            objects, offsets = self._object[where], self._offset[where]
            ends = np.where(objects == ZEROS, 0, offsets + self._sizes(run, self.layout))
            goes_on = (objects[1:] == objects[:-1]) & (offsets[1:] == ends[:-1])
            starts = [0, *(np.flatnonzero(~goes_on) + 1).tolist()]
            for start, stop in zip(starts, [*starts[1:], len(run)], strict=True):
                yield Extent(run[start], stop - start, int(objects[start]), int(offsets[start]))

    def finished(self, raw: bytes, live: tuple[int, int], flags: int, end: int) -> PublishedChunk:
        """Return the chunk as the manifest has it; `raw` is its header."""
        return PublishedChunk(self.header, raw, self.layout, live, flags, end, tuple(self.extents()), self._crc)


def crcs_of(layout: Layout, blocks: range, data: bytes) -> npt.NDArray[np.uint32]:
    """Return the CRC-32 of each of consecutive blocks of one run, of which the data is given."""
    view = memoryview(data)
    base = layout.stored(blocks[0]).start
    stored = (layout.stored(block) for block in blocks)
    return np.array([zlib.crc32(view[part.start - base : part.stop - base]) for part in stored], np.uint32)


def _start_and_size(layout: Layout, blocks: range) -> tuple[int, int]:
    span = layout.span(blocks)
    return span.start, len(span)


def _positions(layout: Layout, blocks: range) -> slice:
    start = layout.position(blocks[0])
    return slice(start, start + len(blocks))


def _shared(blocks: range, runs: tuple[range, ...]) -> Iterator[range]:
    """Yield what consecutive blocks share with each of some ranges."""
    for run in runs:
        if part := range(max(blocks.start, run.start), min(blocks.stop, run.stop)):
            yield part


def _parts(blocks: range, count: int) -> Iterator[range]:
    for start in range(0, len(blocks), count):
        yield blocks[start : start + count]
