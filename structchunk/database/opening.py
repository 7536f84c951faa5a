"""open() and rebuild_index(): from a path to a database, by mode."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..chunks.header import PAGE, round_up
from ..disk import files
from ..disk.lock import Hold, Lock
from ..disk.paths import AnyPath, Paths, absolute
from ..disk.presence import check_free, check_there
from ..disk.reserve import Reserve
from ..disk.tail import distrust
from ..engine.drafts import MAX_CHUNK_SIZE
from ..engine.recovery import create_storage, open_storage
from ..engine.storage import Storage
from ..process import leftovers
from ..readers.directory import sweep, welcome
from ..readers.read_storage import ReadStorage, open_reader
from ..readers.shared_storage import open_shared_storage
from ..remote.address import is_url, shown
from ..remote.remote_storage import Address
from .database import Database
from .published import as_cache_size, as_commit, check_options, open_url
from .shared import SharedDatabase

__all__ = ["AnyPath", "absolute", "open", "rebuild_index"]

CHUNK_SIZE = 64 << 20
MIN_CHUNK_SIZE = 4 * PAGE
_MODES = ("r", "r+", "a", "x")


def open(
    path: AnyPath,
    mode: str = "a",
    *,
    chunk_size: int = CHUNK_SIZE,
    sync: bool = True,
    shared: bool = False,
    timeout: float | None = None,
    storage_options: Mapping[str, Any] | None = None,
    cache: AnyPath | None = None,
    cache_size: int | None = None,
    commit: int | None = None,
) -> Database:
    """Open a database, or create it; or, with ``mode="r"``, open one that was published.

    Parameters
    ----------
    path : path-like or str
        The database's directory, or the URL that :meth:`Database.publish` was given.
    mode : {"r", "r+", "a", "x"}
        ``"r"`` read, must exist; ``"r+"`` read and write, must exist; ``"a"`` create if missing; ``"x"``
        create, must not exist.
    chunk_size : int
        Bytes of the first chunk file of a store, which is sparse; each further one is twice as large as the
        one before, up to 4 GiB.
    sync : bool
        Whether commits wait for the disk, unless a transaction says otherwise.
    shared : bool
        Hold the writer's lock only while a transaction is open, so that several processes can write in turn; see
        :class:`SharedDatabase`.
    timeout : float, optional
        Seconds that a transaction of a shared database waits for its turn; None means for ever.
    storage_options : dict, optional
        Of a URL: what fsspec is to give to the package for the store, credentials for one.
    cache : path-like, optional
        Of a URL: the directory that keeps what was fetched, for all processes of this machine; by default
        ``structchunk`` in ``$XDG_CACHE_HOME``, or in ``~/.cache``.
    cache_size : int, optional
        Of a URL: bytes that the cache may take when the database is opened, 16 GiB by default. What was used least
        recently is removed, but nothing of what anybody has open, so that it may grow beyond that until then.
    commit : int, optional
        Of a URL: the commit to show for good, one that :func:`published` lists; by default the newest, and
        :meth:`Database.refresh` moves on to a later one.

    Raises
    ------
    FileNotFoundError, FileExistsError
        As the mode says.
    LockedError
        Another process, or another handle of this one, has the database open; the message names it.
    CorruptionError
        What is on disk, or was published, is damaged; the message says what to do.
    CommitGone
        The commit that was asked for is not kept at the URL.
    OSError
        The store of a URL fails, also when it was asked again, or the disk of the cache is full; also later, when
        records are read.

    Notes
    -----
    One handle at a time writes; any number of others, in this process and others, read beside it with
    ``mode="r"``. Such a one shows the last commit of when it was opened, whole, until :meth:`Database.refresh`.
    Until it is closed, it keeps links to the files that it reads in ``readers/`` of the database; where files
    cannot be linked, or the directory may not be written, it copies the index to a temporary directory, which
    takes time and space by the size of the index. It can be pickled, and a forked child may open one.

    Should the directory be removed, or another one take its path, while a handle is open, that handle shows what
    it showed, and raises :class:`FailedError` where it would write, or move on to a newer commit.

    What was published is read like any other database. Records are fetched before they are read, in blocks of 4 KiB
    to 512 KiB: those that are asked for, and of a sweep the next ones while the last ones are used. They are kept
    in the cache, and not fetched again. Records that may change in place (objects, arrays made by ``new()``) are
    shown as of the newest publication of which they were fetched here; with `commit`, exactly as of that. It can be
    pickled, with its `storage_options`, and opens in other processes as of the same commit, unless that was pruned.

    In a container, the files of a database that came with the image are copied to the container's layer as they
    are needed: a chunk file when a handle that may write first reads it, or a reader links it.
    """
    if is_url(path):
        local = {"chunk_size": chunk_size != CHUNK_SIZE, "sync": not sync, "shared": shared, "timeout": timeout}
        check_options(str(path), mode, local)
        return open_url(Address(str(path), storage_options, cache, as_cache_size(cache_size), as_commit(commit)))
    remote = {"storage_options": storage_options, "cache": cache, "cache_size": cache_size, "commit": commit}
    if given := [name for name, value in remote.items() if value is not None]:
        raise ValueError(f"{', '.join(given)}: for what was published, and {os.fspath(path)!r} is no URL")
    if shared and mode == "r":
        raise ValueError("mode='r' shares the database with a writer as it is; shared=True is for those who write")
    if timeout is not None and not shared:
        raise ValueError("timeout is how long a transaction waits for other processes; it needs shared=True")
    if mode not in _MODES:
        raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(map(repr, _MODES))}")
    size = operator.index(chunk_size)
    if not MIN_CHUNK_SIZE <= size <= MAX_CHUNK_SIZE:
        raise ValueError(f"chunk_size is {size}; it must be from {MIN_CHUNK_SIZE} to {MAX_CHUNK_SIZE} bytes")
    leftovers.clear()
    root = absolute(path)
    exists = files.exists(os.path.join(root, "superblock"))
    if mode == "x" and exists:
        raise FileExistsError(f"{root} is a database already; open it with mode='a'")
    paths = Paths(root)
    if mode in ("r", "r+"):
        check_there(paths)
    else:
        _make_root(root)
    if shared:
        return _open_shared(paths, mode, round_up(size, PAGE), timeout, sync=bool(sync))
    storage = (
        open_reader(paths, ReadStorage) if mode == "r" else _open_for_writing(paths, mode, round_up(size, PAGE))
    )
    try:
        return Database(storage, mode=mode, sync=bool(sync))
    except BaseException:
        leftovers.finish(storage.close)
        raise


def rebuild_index(path: AnyPath, progress: Callable[[int, int], object] | None = None) -> None:
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

    Rows are put together 262,144 at a time, so that memory does not grow with the number of records, but with that
    of commits: by about a kilobyte for each, and by 40 bytes for each row of those that have fewer than 1,024.
    """
    if is_url(path):
        raise ValueError(f"{shown(str(path))} is a URL; an index is made anew where the database itself is")
    leftovers.clear()
    paths = Paths(absolute(path))
    check_there(paths, for_rebuild=True)
    lock = Lock(paths.lock)
    try:
        storage = _open_existing(paths, lock, CHUNK_SIZE, rebuild=True, progress=progress)
    except BaseException:
        lock.release()
        raise
    try:
        storage.begin_publishing()
    finally:
        leftovers.finish(storage.close)


def _make_root(root: str) -> None:
    """Make the directory of a database, unless it is there, or others are just making it."""
    try:
        files.make_directory(root)
    except FileExistsError:
        if not os.path.isdir(root):
            raise


def _open_for_writing(paths: Paths, mode: str, chunk_size: int, timeout: float | None = 0) -> Storage:
    """Open the files of a database, or create them, once the lock is free."""
    may_create = mode in ("a", "x")
    if may_create and not files.exists(paths.superblock):
        check_free(paths)  # first: the lock of a database would overwrite a file of that name
    lock = Lock(paths.lock, timeout)
    try:
        if files.exists(paths.superblock) or not may_create:
            if mode == "x":
                raise FileExistsError(f"{paths.root} is a database already; open it with mode='a'")
            storage = _open_existing(paths, lock, chunk_size)
        else:
            storage = create_storage(paths, lock, chunk_size)
    except BaseException:
        lock.release()
        raise
    try:
        storage.renew_reserve()
        storage.begin_publishing()
        welcome(paths, lock)
        storage.index.leveldb.adopt()
    except BaseException:
        leftovers.finish(storage.close)
        raise
    return storage


def _open_existing(paths: Paths, lock: Hold, chunk_size: int, **options: Any) -> Storage:
    """Open the files of a database, for which the reserve is given up if the disk is full."""
    reserve = Reserve(paths.reserve)

    def open_files() -> Storage:
        if files.free_size(paths.root) < reserve.size:  # first: LevelDB may begin to merge tables at once
            raise reserve.too_small(reserve.size)
        distrust(paths.tail)
        return open_storage(paths, lock, chunk_size, **options)

    storage = reserve.spend_on(open_files)
    storage.reserve = reserve
    return storage


def _open_shared(paths: Paths, mode: str, chunk_size: int, timeout: float | None, *, sync: bool) -> Database:
    if mode == "x" or not files.exists(paths.superblock):
        leftovers.finish(_open_for_writing(paths, mode, chunk_size, timeout).close)
    storage = open_shared_storage(paths, chunk_size, timeout, partial(_recover, chunk_size))
    try:
        return SharedDatabase(storage, mode=mode, sync=sync)
    except BaseException:
        leftovers.finish(storage.close)
        raise


def _recover(chunk_size: int, lock: Hold, paths: Paths) -> None:
    """Recover a database whose lock is held, bring all of it to disk, and write the page that others follow."""
    leftovers.clear()  # of an earlier time, which was given up
    storage = _open_existing(paths, lock, chunk_size)
    try:
        storage.renew_reserve()
        storage.checkpoint()
        storage.begin_publishing()
        sweep(paths.readers)
        storage.index.leveldb.adopt()
    finally:
        leftovers.finish(storage.close)
