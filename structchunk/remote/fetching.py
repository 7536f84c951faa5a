"""Fetching: which requests bring the blocks of a chunk that are not there, made side by side by threads.

What lies back to back in one object comes with one request, up to some size. Blocks that are being fetched for one
reader are not asked for again for another. A request that fails is forgotten: who needs its blocks is told, and the
next one makes it again.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import numpy as np

from ..errors import CLOSED, ClosedError
from ..process.workers import Job, Workers
from .cached_chunk import CachedChunk
from .layout import ZEROS
from .manifest import Object, PublishedChunk
from .objects import Objects, again_if_damaged

REQUEST_SIZE = 4 << 20
"""Bytes that one request brings, at most, unless a block has more."""
WORKERS = Workers(32)
"""Those that make requests, for all published databases that this process has open."""


class Fetching:
    """How the blocks of one chunk get here.

    Parameters
    ----------
    cached : CachedChunk
    objects : Objects
    named : mapping of int to Object
        The objects that the chunk's extents name.

    Notes
    -----
    Any number of threads may use it.
    """

    def __init__(self, cached: CachedChunk, objects: Objects, named: Mapping[int, Object]) -> None:
        self.cached = cached
        self._objects = objects
        self._source = cached.published, named
        self._pending: dict[int, Job] = {}
        self._lock = threading.Lock()
        self._closed = False

    def follow(self, published: PublishedChunk, named: Mapping[int, Object]) -> bool:
        """Go on with a later publication of the chunk if it has the same bytes, wherever they lie by now."""
        known = self._source[0]
        is_same = known.header_bytes == published.header_bytes and known.layout == published.layout
        if not is_same or known.flags != published.flags or not np.array_equal(known.crcs, published.crcs):
            return False
        self._source = published, named
        return True

    def close(self) -> None:
        """Ask for nothing any more."""
        self._closed = True

    def begin(self, blocks: Iterable[int]) -> list[Job]:
        """Begin to fetch blocks that are not there, ascending; return what is to be waited for."""
        if self._closed:
            raise ClosedError(CLOSED)
        with self._lock:
            jobs = self._jobs_for(blocks)
        for job in jobs:
            if not job.is_queued:  # new, or whoever made it was interrupted
                WORKERS.put(job)
        return jobs

    def _jobs_for(self, blocks: Iterable[int]) -> list[Job]:
        """Return what fetches blocks that are not there, made if nobody has asked for them. The caller locks."""
        present, pending = self.cached.present, self._pending
        wanted = [block for block in blocks if not present[block]]
        for part in self._parts([block for block in wanted if block not in pending]):
            pending.update(dict.fromkeys(part, Job(partial(self._fetch, part))))
        return list(dict.fromkeys(pending[block] for block in wanted))

    def _parts(self, blocks: list[int]) -> Iterator[range]:
        """Yield blocks in the parts that one request each brings."""
        most = max(REQUEST_SIZE // self.cached.published.layout.block, 1)
        for run in consecutive(blocks):
            for piece in self._source[0].pieces(run):
                for first in range(piece.blocks.start, piece.blocks.stop, most):
                    yield range(first, min(first + most, piece.blocks.stop))

    def _fetch(self, blocks: range) -> None:
        """Fetch blocks. Runs in a thread of its own, which nothing interrupts."""
        try:
            if self._closed:
                raise ClosedError(CLOSED)
            published, named = self._source
            for run in consecutive(self.cached.lost(blocks)):
                for piece in published.pieces(run):
                    if piece.object == ZEROS:
                        self.cached.store_zeros(piece.blocks)
                        continue
                    self._fetch_piece(named[piece.object].name, piece.blocks, piece.offset, piece.size)
        finally:
            with self._lock:
                for block in blocks:
                    self._pending.pop(block, None)

    def _fetch_piece(self, name: str, blocks: range, offset: int, size: int) -> None:
        where = self._objects.at(name)
        again_if_damaged(lambda: self.cached.store(blocks, self._read(name, offset, size), where))

    def _read(self, name: str, offset: int, size: int) -> bytes:
        try:
            return self._objects.read_range(name, offset, size)
        except FileNotFoundError as error:
            message = f"{error.strerror}; what was published as number {self.cached.number} may have been pruned: "
            raise FileNotFoundError(errno.ENOENT, f"{message}refresh(), or open it again") from error


def wait(jobs: Iterable[Job]) -> None:
    """Wait until all of these have ended, and raise what one of them has raised."""
    for job in jobs:
        WORKERS.wait(job)


def consecutive(numbers: list[int]) -> Iterator[range]:
    """Yield ascending numbers as ranges without gaps."""
    first = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield range(numbers[first], numbers[at - 1] + 1)
            first = at
