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
from typing import Protocol

from ..errors import CorruptionError, FailedError, LockedError
from ..process import forks
from . import files

_held: weakref.WeakValueDictionary[files.Identity, Lock] = weakref.WeakValueDictionary()
_held_guard = threading.RLock()
_ANNOUNCE_TRIES = 100
_NAME_SIZE = 32
"""How many bytes of the file name its holder."""
_PAUSE = 0.001
"""Seconds between two tries: waiting takes little of the processor, and little longer than the transaction."""


class Hold(Protocol):
    """What keeps others away for as long as a database is open: the writer's lock, or a reader's directory."""

    def release(self) -> None:
        """Let go. Idempotent."""

    def displaced(self) -> str:
        """Say what is wrong if the path leads to another database by now, or to none; "" if all is well."""


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
        self._path = path
        self._identity: files.Identity = (0, 0)
        self._file, self._queue, self._announced = files.Descriptor(), files.Descriptor(), files.Descriptor()
        forks.on_fork(self)  # first: another thread may fork while this waits
        try:
            self._open(path)
            self._wait(path, timeout)
        except BaseException:
            self.release()
            raise

    def _open(self, path: str) -> None:
        _open(self._file, path)
        status = os.fstat(self._file.fd)
        self._identity = files.identity(status)
        _check_regular(path, status)

    def _wait(self, path: str, timeout: float | None) -> None:
        """Take the lock, after those who have waited for longer.

        Waiters queue by locking the directory, so that the last holder cannot jump the queue.
        """
        if timeout == 0:
            return self._acquire(path)
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        self._queue.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._try_until(deadline, path)
        finally:
            _let_go(self._queue)

    def _try_until(self, deadline: float, path: str) -> None:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(self._queue.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return self._acquire(path)
            except (BlockingIOError, LockedError):
                time.sleep(_PAUSE)
        self._acquire(path)

    def _acquire(self, path: str) -> None:
        with _held_guard:
            self._check_place()  # while this waited, another database may have come
            if self._identity in _held:
                raise LockedError(f"{path}: this process has the database open; close that handle first")
            try:
                fcntl.flock(self._file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(self._file.fd, _NAME_SIZE, 0).decode(errors="replace").strip() or "unknown"
                raise LockedError(
                    f"{path}: process {holder} has the database open; wait until it has closed it"
                ) from error
            self._check_place()  # what is locked may have lost its name just before
            with contextlib.suppress(OSError):  # on a full disk who holds it stays unknown
                # Always as many bytes: what replaces a file that was cut off, ext4 brings to disk at once.
                os.pwrite(self._file.fd, f"{os.getpid()}\n".ljust(_NAME_SIZE).encode(), 0)
            _held[self._identity] = self

    def _check_place(self) -> None:
        if found := self.displaced():
            raise FailedError(f"{found}; open the database again")

    def displaced(self) -> str:
        """Say what is wrong if the path leads to another file than this one, or to none; "" if all is well."""
        if self._file.fd < 0:
            return f"{self._path} is not locked any more"
        return files.displaced(self._path, self._identity)

    def announce(self, path: str) -> None:
        """Tell readers that recovery is over: until the lock is released they need not check for a crash.

        A lock on a second file says so, which readers may try. Where it cannot be had, they check.
        """
        if self._announced.fd >= 0:
            return
        file = files.Descriptor()
        _open(file, path)
        _check_regular(path, os.fstat(file.fd))
        if _try_hard(file.fd):
            self._announced = file

    def release(self) -> None:
        """Let the lock go. Idempotent, also if it was interrupted."""
        self._announced.close()
        with _held_guard:
            if _held.get(self._identity) is self:
                _held.pop(self._identity)
        _let_go(self._file)
        self._queue.close()

    def disown(self) -> None:
        """Close a forked child's copy: while that is open, the parent could not let the lock go."""
        for file in (self._announced, self._queue, self._file):
            file.close()


def _open(file: files.Descriptor, path: str) -> None:
    try:
        file.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        found = "a symbolic link, directory or socket"
        raise CorruptionError(path, found=found, expected="a regular file", advice="remove it") from error


def _let_go(file: files.Descriptor) -> None:
    """Unlock and close a file; closing alone would not do while a process being forked has a copy."""
    if file.fd >= 0:
        fcntl.flock(file.fd, fcntl.LOCK_UN)
        file.close()


def _check_regular(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise CorruptionError(path, found="a special file", expected="a regular file", advice="remove it")


def _try_hard(fd: int) -> bool:
    """Lock a file that readers lock for a moment now and then; return whether it worked."""
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
    _held_guard = threading.RLock()
    _held.clear()


forks.call_on_fork(_forget_in_child)
