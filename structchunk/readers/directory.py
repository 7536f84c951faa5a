"""The private directories of processes that read, in ``readers/`` or, where that cannot be, among temporary files.

Each is locked by its owner for as long as it lives, and removed on close; what a process that died left behind is
removed by whoever opens the database next. A lock, unlike a pid, never seems to be held by another process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import weakref
from collections.abc import Iterable

from ..disk import files
from ..disk.lock import Lock
from ..disk.paths import Paths
from ..process import forks

_OWN_NAME = re.compile(r"\d+-[0-9a-f]{8}")


class ReaderDirectory:
    """A new directory, this process's own until :meth:`release`.

    Parameters
    ----------
    parent : str
        Where to make it.
    prefix : str
        What its name begins with; then comes the pid, for those who look.
    """

    def __init__(self, parent: str, prefix: str = "") -> None:
        self.path, self._lock = _make(parent, prefix)
        try:
            self._identity = files.identity(os.fstat(self._lock.fd))
            self._finalizer = weakref.finalize(self, _remove, self.path, self._lock, os.getpid())
            forks.on_fork(self)
        except BaseException:  # which may be kept, and this with it
            _remove(self.path, self._lock, os.getpid())
            raise

    def release(self) -> None:
        """Remove it. Idempotent."""
        try:
            self._finalizer()
        finally:
            self._lock.close()  # it can be told for a dead one's now, whatever kept it from being removed

    def displaced(self) -> str:
        """Say what is wrong if it is not there any more; "" if all is well."""
        return files.displaced(_lock_of(self.path), self._identity)

    def disown(self) -> None:
        """Close a forked child's copy of the lock, which else would outlive the parent."""
        self._finalizer.detach()
        self._lock.close()


def _make(parent: str, prefix: str) -> tuple[str, files.Descriptor]:
    """Return a new directory, and what holds its lock.

    In the moment before it is locked another process may take it for a dead one's, and remove it. If that one is
    killed half-way, or fails, the lock can be had, but the directory has another name by now.
    """
    while True:
        path = os.path.join(parent, f"{prefix}{os.getpid()}-{os.urandom(4).hex()}")
        lock = files.Descriptor()
        try:
            files.make_directory(path)
            lock.open(_lock_of(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not files.displaced(_lock_of(path), files.identity(os.fstat(lock.fd))):
                return path, lock
        except (FileNotFoundError, BlockingIOError):
            pass
        except BaseException:
            _remove(path, lock, os.getpid())
            raise
        lock.close()


def make_parent(path: str) -> None:
    """Make the directory of all readers' directories, unless it is there.

    Raises
    ------
    CorruptionError
        Something else is there.
    """
    with contextlib.suppress(FileExistsError):
        files.make_directory(path)
    files.check_directory(path)


def sweep(parent: str, prefix: str = "") -> None:
    """Remove the directories whose owners are dead. Those that may not be removed are left."""
    with contextlib.suppress(OSError):
        _sweep_names(parent, prefix, os.listdir(parent))


def _sweep_names(parent: str, prefix: str, names: Iterable[str]) -> None:
    for name in names:
        if name.startswith(prefix) and _OWN_NAME.fullmatch(name[len(prefix) :]):
            with contextlib.suppress(OSError):
                _remove_if_dead(os.path.join(parent, name))


def welcome(paths: Paths, lock: Lock) -> None:
    """Remove what dead readers left, and tell the others that recovery is over; they can do without."""
    with contextlib.suppress(OSError):
        make_parent(paths.readers)
        sweep(paths.readers)
        lock.announce(paths.announcement)


def _remove_if_dead(path: str) -> None:
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return  # among temporary files anyone may make one, or a link by this name to what is not to be removed
    try:
        fd = os.open(_lock_of(path), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        os.rmdir(path)  # made a moment ago, or all but removed: empty
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_tree(path)
    finally:
        os.close(fd)


def _remove(path: str, lock: files.Descriptor, owner: int) -> None:
    """Remove a directory and let its lock go; a forked child that ends leaves it to its parent."""
    if os.getpid() == owner:
        try:
            _remove_tree(path)
        finally:
            # Whatever is left can be told for a dead one's now. No call: an interrupt would come before its body.
            fd, lock.fd = lock.fd, -1
            if fd >= 0:
                os.close(fd)


def _remove_tree(path: str) -> None:
    """Remove a directory, its lock last, so that what is left if this is cut short can still be told for dead.

    First it gets another name of the same kind: who is cloning what is in it finds all of it, or nothing.
    """
    with contextlib.suppress(OSError):
        doomed = path[:-8] + os.urandom(4).hex()
        files.rename(path, doomed)
        path = doomed
        for name in sorted(set(os.listdir(path)) - {"lock"}):
            files.remove_tree(os.path.join(path, name))
        files.unlink(_lock_of(path))
        os.rmdir(path)


def _lock_of(path: str) -> str:
    return os.path.join(path, "lock")
