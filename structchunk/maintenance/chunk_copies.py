"""One chunk file of a copy: made whole, made longer, or changed where records changed in place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import NamedTuple

from ..chunks.chunk import Chunk
from ..chunks.segment import Segment, survey
from ..disk import files
from ..runs.extent import MUTABLE

UNKNOWN = ~0 & 0xFFFFFFFF
"""The flags of rows of which nothing is known: they may have any."""


class Source(NamedTuple):
    """A chunk that is to be copied, as far as a commit knows it; held open, for it may be unlinked meanwhile."""

    chunk: Chunk
    fd: int
    free: int
    directory: int


def copy_chunk(source: Source, path: str) -> Chunk:
    """Copy the data and the directory of a chunk as a commit knows them; what is a hole stays one."""
    size = source.chunk.header.file_size
    files.create(path, size)
    files.copy(source.fd, path, 0, source.free)
    files.copy(source.fd, path, source.directory, size)
    copy = Chunk.open(path)
    _end_at(copy, source)  # the header was copied with the offsets of a later commit
    copy.flush()
    return copy


def extend_chunk(source: Source, copy: Chunk, segments: Iterable[Segment]) -> None:
    """Append to the copy of a chunk what it lacks, these segments, once what a crash may have left is cleared.

    What an aborted transaction left between two segments may have been taken for used when the copy was made.
    """
    copy.seek(min([copy.free, *(segment.start for segment in segments)]), copy.directory)
    copy.prepare()
    files.copy(source.fd, copy.path, copy.free, source.free)
    files.copy(source.fd, copy.path, source.directory, copy.directory)
    _end_at(copy, source)


def _end_at(copy: Chunk, source: Source) -> None:
    copy.seek(source.free, source.directory)
    copy.mend()


def copy_in_place(source: Source, copy: Chunk) -> bool:
    """Copy what changed in place, by block; tell whether anything did."""
    stop = min(source.free, copy.free)
    return files.copy_changes(source.fd, copy.path, copy.header.data_offset, stop)


def flush_chunk(copy: Chunk) -> None:
    """Bring a copy to disk; if that fails, what did not get there is not read there either.

    Else the next comparison would find that nothing has changed in place, and leave it so.
    """
    try:
        copy.flush()
    except OSError:
        with contextlib.suppress(OSError):
            files.rewrite(copy.path, 0, copy.header.file_size)
        raise


def flags_of_rows(chunk: Chunk) -> int:
    """Return the flags that any row of a chunk's directory has, from where the chunk is positioned."""
    surveyed = survey(memoryview(chunk.source)[chunk.directory :])
    return UNKNOWN if surveyed is None else surveyed[0]


def may_change(flags: int) -> bool:
    """Tell whether any of the records may change in place."""
    return bool(flags & MUTABLE)
