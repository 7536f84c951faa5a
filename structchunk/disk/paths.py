"""The names of the files of a database directory, and nothing about what is in them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TypeAlias

AnyPath: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"
_CHUNK_NAME = re.compile(r"([0-9]{8,10})\.chunk")
_INDEX_NAME = re.compile(r"index-([0-9]{6,10})")
_NUMBER_END = 1 << 32
"""Numbers of chunks and indexes are kept in four bytes."""


def absolute(path: AnyPath) -> str:
    """Return a path without symbolic links, as text whatever its bytes are."""
    return os.fsdecode(os.path.realpath(os.fspath(path)))


class Paths:
    """The paths of one database.

    Parameters
    ----------
    root : str
        The database directory.
    chunks : str, optional
        Where the chunk files are, if they are those of another directory, whose owner may unlink them.
    """

    is_written = True
    """Whether the files may be written, or only be read."""

    def __init__(self, root: str, chunks: str | None = None) -> None:
        self.root = root
        self.superblock = os.path.join(root, "superblock")
        self.lock = os.path.join(root, "lock")
        self.reserve = os.path.join(root, "reserve")
        self.tail = os.path.join(root, "tail")
        self.chunks = os.path.join(root, "chunks") if chunks is None else chunks
        self.owns_chunks = chunks is None
        self.readers = os.path.join(root, "readers")
        self.announcement = os.path.join(self.readers, "writer")

    def index(self, generation: int) -> str:
        """Return the path of an index directory."""
        return os.path.join(self.root, _index_name(generation))

    def chunk(self, chunk: int) -> str:
        """Return the path of a chunk file."""
        return os.path.join(self.chunks, _chunk_name(chunk))

    def list_chunks(self) -> list[int]:
        """Return the ids of the chunk files that are there, ascending."""
        return _numbers(self.chunks, _CHUNK_NAME, _chunk_name)

    def list_indexes(self) -> list[int]:
        """Return the generations of the index directories that are there, ascending."""
        return _numbers(self.root, _INDEX_NAME, _index_name)


def _chunk_name(chunk: int) -> str:
    return f"{chunk:08d}.chunk"


def _index_name(generation: int) -> str:
    return f"index-{generation:06d}"


def _numbers(directory: str, pattern: re.Pattern[str], name_of: Callable[[int], str]) -> list[int]:
    """Return the numbers that names in a directory have, ascending. A name that would not be given so is none."""
    found = ((name, pattern.fullmatch(name)) for name in os.listdir(directory))
    numbers = ((name, int(match[1])) for name, match in found if match)
    return sorted(number for name, number in numbers if number < _NUMBER_END and name == name_of(number))
