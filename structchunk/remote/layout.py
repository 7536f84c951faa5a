"""Which bytes of a chunk file are stored, and where: blocks, extents of them, and pieces to be fetched. No I/O.

``manifest.py`` has the words.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

BLOCK_SIZES = tuple(1 << power for power in range(12, 20))
BLOCKS = 1 << 13
"""How many blocks a chunk file has, unless they would be smaller or larger than may be."""


ZEROS = 0
"""Stands for the object of blocks that are all zeros, of which nothing is stored."""


class Extent(NamedTuple):
    """Blocks of one chunk that lie back to back in one object, or are zeros."""

    first: int
    block_count: int
    object: int
    offset: int

    @property
    def stop(self) -> int:
        """The block after the last one."""
        return self.first + self.block_count


class Piece(NamedTuple):
    """What one request brings: ``size`` bytes at ``offset`` of an object, those at ``start`` of the file.

    If the object is ``ZEROS``, nothing is to be fetched: these bytes are zeros.
    """

    blocks: range
    object: int
    offset: int
    start: int
    size: int


@dataclass(frozen=True)
class Layout:
    """Which bytes of a chunk file are stored, by block.

    Parameters
    ----------
    block, file_size : int
        Bytes.
    data_offset, free, directory : int
        Where data begins and ends, and where the directory begins.
    """

    block: int
    file_size: int
    data_offset: int
    free: int
    directory: int

    @cached_property
    def runs(self) -> tuple[range, ...]:
        """The blocks that are stored, as one or two ranges, each of which is contiguous in the file."""
        data = self._blocks(self.data_offset, self.free)
        directory = self._blocks(self.directory, self.file_size)
        if data and directory and data[-1] == directory[0]:
            return (range(data.start, directory.stop),)
        return tuple(blocks for blocks in (data, directory) if blocks)

    def _blocks(self, start: int, stop: int) -> range:
        return range(start // self.block, -(-stop // self.block)) if start < stop else range(0)

    def stored(self, block: int) -> range:
        """Return the bytes of the file that are stored of a block; an empty range if none are."""
        start = block * self.block
        stop = min(start + self.block, self.file_size)
        data = range(max(start, self.data_offset), min(stop, self.free))
        directory = range(max(start, self.directory), stop)
        if data and directory:
            return range(data.start, directory.stop)
        return data or directory or range(start, start)

    def span(self, blocks: range) -> range:
        """Return the bytes that are stored of consecutive blocks of one run."""
        return range(self.stored(blocks[0]).start, self.stored(blocks[-1]).stop)

    def position(self, block: int) -> int:
        """Return which of the stored blocks one is, from 0."""
        before = 0
        for run in self.runs:
            if block in run:
                return before + block - run.start
            before += len(run)
        raise ValueError(f"block {block} is not stored; stored are {self.runs}")


def block_size(file_size: int) -> int:
    """Return the size of the blocks of a chunk file, in bytes, a power of two."""
    power = 1 << max(file_size // BLOCKS - 1, 0).bit_length()
    return min(max(power, BLOCK_SIZES[0]), BLOCK_SIZES[-1])
