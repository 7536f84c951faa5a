"""Bringing chunk files to disk: many of them several at a time, which the file system then writes together."""

from __future__ import annotations

from collections.abc import Collection

from ..chunks.chunk import Chunk
from ..process.background import in_parallel

MANY = 64
"""More files than this are flushed by threads: a journal that is written once for some files is much faster."""
THREADS = 8


def flush_chunks(chunks: Collection[Chunk]) -> None:
    """Bring all data of chunks to disk.

    Raises
    ------
    OSError
        One could not be; it is not known which ones are on disk.
    """
    if len(chunks) > MANY:
        in_parallel([chunk.flush for chunk in chunks], THREADS)
    else:
        for chunk in chunks:
            chunk.flush()
