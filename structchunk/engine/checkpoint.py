"""What a checkpoint writes and unlinks. When one is made, and what is locked meanwhile, is for the storage."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from ..chunks.chunk import Chunk
from ..chunks.heap import Gone, Heap
from ..disk import files
from ..disk.paths import Paths
from ..disk.superblock import Superblock, crc_of_heads
from ..index.index import Index

Heads = Mapping[int, tuple[int, int]]
"""Free and directory offset of chunks."""


def grown_chunks(heaps: Iterable[Heap], known: Heads) -> list[Chunk]:
    """Return the chunks that hold a commit and grew since the last checkpoint, which knew some."""
    chunks = [chunk for heap in heaps for chunk in list(heap.chunks.values())]
    return [
        chunk
        for chunk in chunks
        if known.get(chunk.id) != (chunk.committed, chunk.directory) and chunk.is_committed
    ]


def write_index(index: Index, grown: Iterable[Chunk], gone: Collection[Gone], next_chunk: int) -> None:
    """Make the index durable, with how far the chunks reach that grew, all of which is on disk."""
    heads = {chunk.id: (chunk.committed, chunk.directory) for chunk in grown}
    index.write_checkpoint(next_chunk, heads, gone)


def crc_of_index(index: Index) -> int:
    """Return the CRC of the heads that an index has."""
    return crc_of_heads({chunk: directory for chunk, (_, directory) in index.heads.items()})


def write_superblock(path: str, old: Superblock, index: Index, next_chunk: int, *, new_epoch: bool) -> Superblock:
    """Say in the superblock that all commits of the index are on disk, and return it."""
    new = old._replace(
        sequence=old.sequence + 1,
        checkpoint=index.last,
        epoch=old.epoch + new_epoch,
        next_chunk=next_chunk,
        heads=crc_of_index(index),
        left=None,
    )
    new.write(path)
    return new


def unlink(paths: Paths, gone: Sequence[Gone]) -> None:
    """Unlink chunks that a checkpoint does not need any more; the last one of each store after all others."""
    lasts = set({last.store: last for last in gone}.values())
    for batch in ([other for other in gone if other not in lasts], lasts):
        for store_chunk in batch:
            files.unlink(paths.chunk(store_chunk.chunk))
        if batch:
            files.flush_directory(paths.chunks)
