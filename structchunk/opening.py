"""open() and rebuild_index(): from a path to a database, by mode."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable

from . import files
from .database import Database
from .header import PAGE, round_up
from .lock import Lock
from .paths import Paths
from .recovery import create_storage, open_storage
from .storage import MAX_CHUNK_SIZE

CHUNK_SIZE = 64 << 20
MIN_CHUNK_SIZE = 4 * PAGE
_MODES = ("r", "r+", "a", "x")


def open(
    path: str | os.PathLike[str], mode: str = "a", *, chunk_size: int = CHUNK_SIZE, sync: bool = True
) -> Database:
    """Open a database, or create it.

    Parameters
    ----------
    path : path-like
        The database's directory.
    mode : {"r", "r+", "a", "x"}
        ``"r"`` read, must exist; ``"r+"`` read and write, must exist; ``"a"`` create if missing; ``"x"``
        create, must not exist.
    chunk_size : int
        Bytes of the first chunk file of a store, which is sparse; each further one is twice as large as the
        one before, up to 4 GiB.
    sync : bool
        Whether commits wait for the disk, unless a transaction says otherwise.

    Raises
    ------
    FileNotFoundError, FileExistsError
        As the mode says.
    LockedError
        Another process, or another handle of this one, has the database open.
    CorruptionError
        What is on disk is damaged; the message says what to do.
    """
    if mode not in _MODES:
        raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(map(repr, _MODES))}")
    size = operator.index(chunk_size)
    if not MIN_CHUNK_SIZE <= size <= MAX_CHUNK_SIZE:
        raise ValueError(f"chunk_size is {size}; it must be from {MIN_CHUNK_SIZE} to {MAX_CHUNK_SIZE} bytes")
    root = os.path.realpath(path)
    exists = os.path.lexists(os.path.join(root, "superblock"))
    if mode == "x" and exists:
        raise FileExistsError(f"{root} is a database already; open it with mode='a'")
    if mode in ("r", "r+") and not os.path.isdir(root):
        raise FileNotFoundError(f"no database at {root}; create it with mode='a'")
    if not os.path.isdir(root):
        files.make_directory(root)
    return _open_locked(Paths(root), mode, round_up(size, PAGE), sync=bool(sync))


def rebuild_index(path: str | os.PathLike[str], progress: Callable[[int, int], object] | None = None) -> None:
    """Make the index of a closed database anew, from its chunk files alone.

    Parameters
    ----------
    path : path-like
        The database's directory.
    progress : callable, optional
        Called as ``progress(done, total)``, in chunks.

    Raises
    ------
    CorruptionError
        A chunk file is damaged where a durable commit stood; nothing was changed.
    LockedError
        The database is open.

    Notes
    -----
    Whatever state the index is in, and if there is none, this gives the last whole commit: its stores and their
    types, every record, no deleted one, and nothing of a transaction that was not committed.
    """
    root = os.path.realpath(path)
    if not os.path.isdir(os.path.join(root, "chunks")):
        raise FileNotFoundError(f"no database at {root}")
    paths = Paths(root)
    lock = Lock(paths.lock)
    try:
        storage = open_storage(paths, lock, CHUNK_SIZE, rebuild=True, progress=progress)
    except BaseException:
        lock.release()
        raise
    storage.close()


def _open_locked(paths: Paths, mode: str, chunk_size: int, *, sync: bool) -> Database:
    may_create = mode in ("a", "x")
    if not may_create and not os.path.lexists(paths.superblock) and not os.path.isdir(paths.chunks):
        raise FileNotFoundError(f"no database at {paths.root}; create it with mode='a'")
    lock = Lock(paths.lock)
    try:
        if os.path.lexists(paths.superblock) or not may_create:
            if mode == "x":
                raise FileExistsError(f"{paths.root} is a database already; open it with mode='a'")
            storage = open_storage(paths, lock, chunk_size)
        else:
            storage = create_storage(paths, lock, chunk_size)
    except BaseException:
        lock.release()
        raise
    return Database(storage, mode=mode, sync=sync)
