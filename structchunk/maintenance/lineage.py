"""Whether one database is an earlier copy of another, which the other's history leads on from.

Nobody has written to a copy if its superblock says so. Its last commit is in the other's history if every chunk
that both have is the same file up to where it ends in the copy: the last segments are compared byte by byte, with
the checksums of all that they added, and 64 KiB with what came before. Of the chunks that the other has not any
more, nothing needs to be known.
"""

from __future__ import annotations

import os

from ..chunks.chunk import Chunk
from ..chunks.directory import record_above
from ..chunks.heap import Place
from ..chunks.segment import Segment
from ..disk import files
from ..disk.paths import Paths
from ..disk.presence import check_there
from ..disk.superblock import Superblock
from ..errors import NotACopy
from .chunk_copies import Source

ANEW = "remove it, or give another path, to make a new copy"
LOOKED_BACK = 1 << 16
_TRIES = 10
"""How often links are counted, since a reader may go between one count and the other."""


def check_database(paths: Paths) -> None:
    """Raise unless there is a database."""
    try:
        check_there(paths)
    except FileNotFoundError as error:
        raise NotACopy(f"{paths.root} exists and is not a database; give another path for the copy") from error


def check_untouched(paths: Paths, superblock: Superblock, database: bytes) -> None:
    """Raise unless a superblock is that of a copy of a database which nobody has written to.

    Raises
    ------
    NotACopy
    """
    if superblock.database != database:
        found = f"is database {superblock.database.hex()}, not a copy of {database.hex()}"
        raise NotACopy(f"{paths.root} {found}; give the path of a copy, or one where nothing is")
    if superblock.left is None:
        found = "was written to after it was made by checkpoint(), or was not made by it"
        raise NotACopy(f"{paths.root} {found}; {ANEW}")
    check_alone(paths, paths.superblock)


def check_alone(paths: Paths, path: str) -> None:
    """Raise if a file that is to be written has other names than those that readers of the database gave it."""
    for _ in range(_TRIES):
        status = os.lstat(path)
        if status.st_nlink <= 1 + _count_links(paths, os.path.basename(path), files.identity(status)):
            return
    advice = "copy the database without hard links (cp -a), and bring that one forward"
    raise NotACopy(f"{path} is a hard link to a file that others have, too; {advice}")


def _count_links(paths: Paths, name: str, file: files.Identity) -> int:
    """Return how many readers have a link to a file; they may come and go meanwhile."""
    readers = os.listdir(paths.readers) if files.exists(paths.readers) else []
    links = [os.path.join(paths.readers, reader, "chunks", name) for reader in readers]
    return sum(not files.displaced(link, file) for link in links)


def not_in_history(paths: Paths, last: int, why: str) -> NotACopy:
    """Return the error for a copy whose last commit is not in the other database's history."""
    return NotACopy(f"{paths.root} is as of a commit {last} that is not in this database's history: {why}; {ANEW}")


def check_same(paths: Paths, source: Source, copy: Chunk, last: int) -> None:
    """Raise unless a chunk begins as its copy, which is as of commit `last`."""
    if source.chunk.header != copy.header or source.directory > copy.directory:
        raise not_in_history(paths, last, f"chunk {copy.id} is another one there")
    end = _end_of(copy)
    if end != source.read(copy.directory, len(end)):
        raise not_in_history(paths, last, f"chunk {copy.id} holds other commits there")


def _end_of(chunk: Chunk) -> bytes:
    """Return the end of a chunk's directory, with all of its last segment."""
    size = LOOKED_BACK
    while True:
        end = files.read(chunk.path, chunk.directory, size)
        if len(end) < size or record_above(end, 0, len(end), chunk.id):
            return end
        size *= 16


def segments_since(paths: Paths, place: Place, directory: int, last: int) -> list[Segment]:
    """Return the segments of a chunk below an offset, all of which must be newer than commit `last`.

    Raises
    ------
    NotACopy
        They are not, or do not begin there.
    """
    segments = []
    for segment in place.chunk.segments(directory):
        if directory == place.directory or segment.commit <= last:
            break
        segments.append(segment)
        directory = segment.low
    if directory != place.directory:
        raise not_in_history(paths, last, f"chunk {place.chunk.id} goes on otherwise here")
    return segments
