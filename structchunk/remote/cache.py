"""The cache of what was fetched: where it is, whose it is, and how much of it is kept.

A directory, for any number of processes of one user on one machine::

    <uuid of the database>-<CRC-32 of its URL>/
        lock       a shared lock is held by every handle; an exclusive one by who removes chunks
        making     an exclusive lock is held by who makes chunks
        chunks/<id>-<CRC-32 of its header>/       see cached_chunk.py
        rows/<object>                             the objects of the index, whole
        readers/                                  private clones of the index, which go with their handles

Nothing that a handle uses is ever removed under it: what is least recently used goes when a database is opened, and
only of databases that no handle has open. Nothing here is needed: all of it can be removed while nobody reads.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from collections.abc import Iterable, Iterator

from ..disk import files
from ..disk.paths import AnyPath, absolute
from ..process import forks
from ..readers.directory import ReaderDirectory, make_parent, sweep
from .manifest import PublishedChunk

CACHE_SIZE = 16 << 30
"""Bytes of disk that the cache takes, at most, when a database is opened."""
_DIRECTORIES = ("chunks", "rows", "readers")


def default_directory() -> str:
    """Return where the cache is if nobody says: ``structchunk`` in ``$XDG_CACHE_HOME``, or in ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "structchunk")


class Cache:
    """The part of the cache that one handle uses, and the handle's private directory in it.

    Parameters
    ----------
    directory : path-like
        Of the whole cache; created if it is missing.
    url : str
        As messages show it.
    database : bytes
        Its uuid.
    size : int
        How much the whole cache may take, in bytes, before anything is fetched.
    """

    def __init__(self, directory: AnyPath, url: str, database: bytes, size: int) -> None:
        parent = absolute(directory)
        os.makedirs(parent, 0o700, exist_ok=True)
        self.root = os.path.join(parent, f"{database.hex()}-{zlib.crc32(url.encode()):08x}")
        for path in (self.root, *(os.path.join(self.root, name) for name in _DIRECTORIES)):
            make_parent(path)
        self._lock = _open_lock(self.root)
        forks.on_fork(self)
        try:
            if _is_free(self._lock):
                _trim(parent, size, self.root)
                fcntl.flock(self._lock.fd, fcntl.LOCK_SH)
            else:
                fcntl.flock(self._lock.fd, fcntl.LOCK_SH)
                _trim(parent, size, "")
            sweep(self._readers)
            self._private = ReaderDirectory(self._readers)
        except BaseException:
            self._lock.close()
            raise

    @property
    def _readers(self) -> str:
        return os.path.join(self.root, "readers")

    @property
    def private(self) -> str:
        """A directory that goes with the handle."""
        return self._private.path

    def chunk(self, chunk: PublishedChunk, version: str = "") -> str:
        """Return the directory of a chunk; a version has one of its own."""
        name = f"{chunk.id:08d}-{zlib.crc32(chunk.header_bytes):08x}{version and '-'}{version}"
        return os.path.join(self.root, "chunks", name)

    @contextlib.contextmanager
    def making(self) -> Iterator[None]:
        """Keep others from making chunks."""
        lock = files.Descriptor()
        lock.open(os.path.join(self.root, "making"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock.fd, fcntl.LOCK_EX)
            yield
        finally:
            lock.close()

    def release(self) -> None:
        """Remove what is private, and let the rest be removed by others. Idempotent."""
        try:
            self._private.release()
        finally:
            self._lock.close()

    def disown(self) -> None:
        """Close a forked child's copy of the lock."""
        self._lock.close()

    def displaced(self) -> str:
        """Say what is wrong if the private directory is gone; "" if all is well."""
        return self._private.displaced()


def _open_lock(root: str) -> files.Descriptor:
    lock = files.Descriptor()
    lock.open(os.path.join(root, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    return lock


def _is_free(lock: files.Descriptor) -> bool:
    """Take an exclusive lock if nobody holds it, and tell whether that was so."""
    try:
        fcntl.flock(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# ---------------------------------------------------------------------- what is removed


def _trim(parent: str, size: int, mine: str) -> None:
    """Remove what was used least recently until no more than `size` is left.

    Only of databases that nobody has open, of which one may be this handle's own.
    """
    entries = sorted(_entries(parent))
    excess = sum(taken for _, taken, _, _ in entries) - size
    with contextlib.ExitStack() as held:
        _remove_free(entries, excess, {mine: True}, held)


def _remove_free(
    entries: Iterable[tuple[float, int, str, str]],
    excess: int,
    is_free: dict[str, bool],
    held: contextlib.ExitStack,
) -> None:
    """Remove parts, the first ones first, until `excess` bytes are gone; locks that this takes are `held`."""
    for _, taken, root, path in entries:
        if excess <= 0:
            return
        if root not in is_free:
            lock = _open_lock(root)
            held.callback(lock.close)
            is_free[root] = _is_free(lock)
        if is_free[root]:
            with contextlib.suppress(OSError):
                files.remove_tree(path)
                excess -= taken


def _entries(parent: str) -> Iterator[tuple[float, int, str, str]]:
    """Yield when each part of the cache was used last, what disk it takes, whose it is, and where it is."""
    for name in os.listdir(parent):
        root = os.path.join(parent, name)
        for directory in (os.path.join(root, "chunks"), os.path.join(root, "rows")):
            with contextlib.suppress(OSError):
                for entry in os.scandir(directory):
                    yield *_usage(entry), root, entry.path


def _usage(entry: os.DirEntry[str]) -> tuple[float, int]:
    """Return when files were used last, and what disk they take."""
    found = list(os.scandir(entry.path)) if entry.is_dir(follow_symlinks=False) else [entry]
    used = max((each.stat(follow_symlinks=False).st_mtime for each in found), default=0.0)
    return used, sum(files.disk_size(each.path) for each in found)
