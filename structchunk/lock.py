"""The lock of a database: one opener at a time, in this process and in others."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import stat
import threading
import time
import weakref

from . import files
from .errors import CorruptionError, FailedError, LockedError

_locks: weakref.WeakSet[Lock] = weakref.WeakSet()
_held: set[tuple[int, int]] = set()
_held_guard = threading.Lock()
_ANNOUNCE_TRIES = 100
_PAUSE = 0.001
"""Seconds between two tries: long to the processor, short to a transaction."""


class Lock:
    """An exclusive lock on a file that names its holder.

    Parameters
    ----------
    path : str
        Is created if it is missing.
    timeout : float, optional
        Seconds to wait for the holder; None means for ever.

    Notes
    -----
    ``flock`` keeps other processes out; a registry by device and inode keeps this one out, whatever path,
    symbolic link or trailing slash the database is opened by.

    Raises
    ------
    LockedError
        The lock is held; the message names the holder's process.
    FailedError
        The file was replaced while this waited for the lock.
    """

    def __init__(self, path: str, timeout: float | None = 0) -> None:
        self._announced = self._queue = self._fd = -1
        self._path = path
        _locks.add(self)
        self._fd = _open(path)
        status = os.fstat(self._fd)
        self._identity = files.identity(status)
        try:
            _check_regular(path, status)
            self._wait(path, timeout)
        except BaseException:
            self.disown()
            raise

    def _wait(self, path: str, timeout: float | None) -> None:
        """Take the lock, after those who have waited for longer.

        Who is next in turn has a lock on the directory: else whoever had the lock last would have it again before
        the others look.
        """
        if timeout == 0:
            return self._acquire(path)
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        self._queue = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            while time.monotonic() < deadline:
                with contextlib.suppress(BlockingIOError, LockedError):
                    fcntl.flock(self._queue, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return self._acquire(path)
                time.sleep(_PAUSE)
            self._acquire(path)
        finally:
            fcntl.flock(self._queue, fcntl.LOCK_UN)
            os.close(self._queue)
            self._queue = -1

    def _acquire(self, path: str) -> None:
        with _held_guard:
            self._check_place()  # while this waited, another database may have come
            if self._identity in _held:
                raise LockedError(f"{path}: this process has the database open; close that handle first")
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "unknown"
                raise LockedError(
                    f"{path}: process {holder} has the database open; wait until it has closed it"
                ) from error
            self._check_place()  # what is locked may have lost its name just before
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)  # may find the disk full: not held then
            _held.add(self._identity)

    def _check_place(self) -> None:
        if found := self.displaced():
            raise FailedError(f"{found}; open the database again")

    def displaced(self) -> str:
        """Say what is wrong if the path leads to another file than this one, or to none; "" if all is well."""
        return files.displaced(self._path, self._identity)

    def announce(self, path: str) -> None:
        """Tell readers that recovery is over: until the lock is released they need not check for a crash.

        A lock on a second file says so, which readers may try. Where it cannot be had, they check.
        """
        if self._announced >= 0:
            return
        fd = _open(path)
        try:
            _check_regular(path, os.fstat(fd))
            if _try_hard(fd):
                self._announced, fd = fd, -1
        finally:
            if fd >= 0:
                os.close(fd)

    def release(self) -> None:
        """Let the next one in. Idempotent."""
        self._retract()
        if self._fd >= 0:
            with _held_guard:
                _held.discard(self._identity)
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # closing would not do while a process being forked has a copy
            os.close(self._fd)
            self._fd = -1

    def _retract(self) -> None:
        if self._announced >= 0:
            os.close(self._announced)
            self._announced = -1

    def disown(self) -> None:
        """Close a forked child's copy: while that is open, the parent could not let the lock go."""
        self._retract()
        if self._queue >= 0:
            os.close(self._queue)
            self._queue = -1
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        found = "a symbolic link, directory or socket"
        raise CorruptionError(path, found=found, expected="a regular file", advice="remove it") from error


def _check_regular(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise CorruptionError(path, found="a special file", expected="a regular file", advice="remove it")


def _try_hard(fd: int) -> bool:
    """Lock a file that readers try now and then, for a moment; tell whether it worked."""
    for _ in range(_ANNOUNCE_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.001)
        else:
            return True
    return False


def is_held(path: str) -> bool:
    """Tell whether a lock is held on a file; False also if the file cannot be opened."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _forget_in_child() -> None:
    global _held_guard
    _held_guard = threading.Lock()
    _held.clear()
    for lock in list(_locks):  # also those of databases that another thread was just opening
        lock.disown()


os.register_at_fork(after_in_child=_forget_in_child)
