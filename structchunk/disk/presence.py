"""What is at a path: a database, room for one, or something else. Only looks: takes no lock, writes nothing."""

from __future__ import annotations

import os

from ..errors import CorruptionError
from . import files
from .paths import Paths

_OWN = {"superblock", "superblock.new", "lock", "chunks", "readers", "reserve", "tail", "tail.new"}
"""What a process that creates a database, or died while it did, may have put there, beside an index."""


def check_there(paths: Paths, *, for_rebuild: bool = False) -> None:
    """Raise unless there is a database, with its superblock (not needed for a rebuild) and its chunk directory.

    Raises
    ------
    FileNotFoundError
        There is none.
    CorruptionError
        One of the two is lost.
    """
    # Looked for first: a database has its superblock before its first chunk, also while another process makes it.
    has_chunks = _is_directory(paths.chunks) and bool(paths.list_chunks())
    if files.exists(paths.superblock):
        if not files.exists(paths.chunks):
            advice = "restore it from a copy of the database"
            raise CorruptionError(paths.chunks, found="nothing", expected="the directory of chunks", advice=advice)
    elif not has_chunks:
        raise FileNotFoundError(f"no database at {paths.root}; check the path, or create one there first")
    elif not for_rebuild:
        raise _no_superblock(paths)


def check_free(paths: Paths) -> None:
    """Raise unless a database can be created in a directory, or another process has just done so.

    Raises
    ------
    FileExistsError
        It holds something else.
    CorruptionError
        It holds a database that has lost its superblock.
    """
    strangers = set(os.listdir(paths.root)) - _OWN
    strangers -= {os.path.basename(paths.index(generation)) for generation in paths.list_indexes()}
    in_chunks = os.listdir(paths.chunks) if _is_directory(paths.chunks) else []
    if in_chunks and not files.exists(paths.superblock):
        if paths.list_chunks():
            raise _no_superblock(paths)
        strangers.add("chunks")
    if strangers:
        raise FileExistsError(
            f"{paths.root} is not a structchunk database, and not empty: it holds {sorted(strangers)[0]!r}"
        )


def _is_directory(path: str) -> bool:
    return files.exists(path) and os.path.isdir(path)


def _no_superblock(paths: Paths) -> CorruptionError:
    """Return the error for a database that has lost its superblock."""
    advice = "restore it from a copy of the database, or make it anew with structchunk.rebuild_index(path)"
    return CorruptionError(paths.superblock, found="no superblock", expected="one beside the chunks", advice=advice)
