"""One chunk file of a copy: made whole, made longer, or changed where records changed in place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..chunks.chunk import Chunk
from ..chunks.segment import Segment, survey
from ..disk import files
from ..runs.extent import MUTABLE

UNKNOWN = ~0 & 0xFFFFFFFF
"""The flags of rows of which nothing is known: they may have any."""


STEP_SIZE = 1 << 16
"""Of a file that has lost its name, so many bytes are looked at, or compared, at a time."""


class Source(NamedTuple):
    """A chunk that is to be copied, as far as a commit knows it; mapped, for it may be unlinked meanwhile."""

    chunk: Chunk
    raw: memoryview
    free: int
    directory: int

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of it."""
        return bytes(self.raw[offset : offset + size])

    def copy(self, path: str, start: int, stop: int) -> None:
        """Write what it has in ``[start, stop)`` to the same place of another file; holes stay holes."""
        with contextlib.ExitStack() as held:
            fd = self._open(held)
            if fd is not None:
                return files.copy(fd, path, start, stop)
        zeros = bytes(STEP_SIZE)
        for at, part in self._steps(start, stop):
            if part != zeros[: len(part)]:
                files.write(path, at, part)

    def copy_changes(self, path: str, start: int, stop: int) -> bool:
        """Write what differs from another file in ``[start, stop)``; tell whether anything did."""
        with contextlib.ExitStack() as held:
            fd = self._open(held)
            if fd is not None:
                return files.copy_changes(fd, path, start, stop)
        has_changed = False
        for at, part in self._steps(start, stop):
            if part != files.read(path, at, len(part)):
                files.write(path, at, part)
                has_changed = True
        return has_changed

    def _open(self, held: contextlib.ExitStack) -> int | None:
        """Open the file by its name; None if it has lost it."""
        try:
            fd = held.enter_context(files.opened(self.chunk.path))
        except FileNotFoundError:
            return None
        return fd if self.chunk.is_file(fd) else None

    def _steps(self, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        for at in range(start, stop, STEP_SIZE):
            yield at, self.read(at, min(STEP_SIZE, stop - at))


def copy_chunk(source: Source, path: str) -> Chunk:
    """Copy the data and the directory of a chunk as a commit knows them; what is a hole stays one.

    It is on disk once it is flushed.
    """
    size = source.chunk.header.file_size
    files.create(path, size)
    source.copy(path, 0, source.free)
    source.copy(path, source.directory, size)
    copy = Chunk.open(path)
    copy.map_source()  # until it is flushed, so that an error of writing it is kept
    _end_at(copy, source)  # the header was copied with the offsets of a later commit
    return copy


def extend_chunk(source: Source, copy: Chunk, segments: Iterable[Segment]) -> None:
    """Append to the copy of a chunk what it lacks, these segments, once what a crash may have left is cleared.

    What an aborted transaction left between two segments may have been taken for used when the copy was made.
    """
    copy.seek(min([copy.free, *(segment.start for segment in segments)]), copy.directory)
    copy.prepare()
    source.copy(copy.path, copy.free, source.free)
    source.copy(copy.path, source.directory, copy.directory)
    _end_at(copy, source)


def _end_at(copy: Chunk, source: Source) -> None:
    copy.seek(source.free, source.directory)
    copy.mend()


def copy_in_place(source: Source, copy: Chunk) -> bool:
    """Copy what changed in place, by block; tell whether anything did."""
    stop = min(source.free, copy.free)
    return source.copy_changes(copy.path, copy.header.data_offset, stop)


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
