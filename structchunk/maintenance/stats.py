"""What the stores of a database hold, and what it costs, from figures that are kept up with every commit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..chunks.heap import Place
from ..disk import files
from ..index.counts import LiveCount


class ChunkStats(NamedTuple):
    """What one chunk holds. All sizes are bytes.

    Attributes
    ----------
    chunk : int
        Its id.
    records : int
        Live records.
    live : int
        Size of these.
    garbage : int
        Size of what was replaced, deleted or aborted: what ``compact()`` would drop.
    used : int
        Size of all data: ``live + garbage``.
    free : int
        What the chunk still has room for, rows of the directory included.
    directory : int
        Size of the directory.
    file_size : int
        Size of the file, which is sparse.
    disk_size : int
        What the file takes on the disk, blocks reserved ahead included.
    """

    chunk: int
    records: int
    live: int
    garbage: int
    used: int
    free: int
    directory: int
    file_size: int
    disk_size: int


class StoreStats(NamedTuple):
    """What one store holds. All sizes are bytes."""

    name: str
    chunks: tuple[ChunkStats, ...]

    @property
    def records(self) -> int:
        """How many records are live."""
        return sum(chunk.records for chunk in self.chunks)

    @property
    def live(self) -> int:
        """Size of the live records."""
        return sum(chunk.live for chunk in self.chunks)

    @property
    def garbage(self) -> int:
        """Size of what ``compact()`` would drop."""
        return sum(chunk.garbage for chunk in self.chunks)

    @property
    def disk_size(self) -> int:
        """What the store's files take on the disk."""
        return sum(chunk.disk_size for chunk in self.chunks)


def store_stats(name: str, places: Iterable[Place], live: Mapping[int, LiveCount]) -> StoreStats:
    """Return what a store holds, given how far its chunks reach as of a commit, and what is live in each then."""
    chunks = sorted(places, key=lambda place: place.chunk.id)
    return StoreStats(
        name, tuple(_chunk_stats(place, live.get(place.chunk.id, LiveCount(0, 0))) for place in chunks)
    )


def _chunk_stats(place: Place, live: LiveCount) -> ChunkStats:
    chunk, free, directory = place
    used = free - chunk.header.data_offset
    return ChunkStats(
        chunk.id,
        live.record_count,
        live.size,
        used - live.size,
        used,
        directory - free,
        chunk.header.file_size - directory,
        chunk.header.file_size,
        _disk_size(chunk.path),
    )


def _disk_size(path: str) -> int:
    try:
        return files.disk_size(path)
    except FileNotFoundError:
        return 0  # a writer has unlinked it, and a reader that has no link has it mapped
