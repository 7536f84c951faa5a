"""Errors in place of calls: of memory anywhere, of the disk wherever the operating system or LevelDB is asked."""

from __future__ import annotations

import errno
import fcntl
import functools
import mmap
import os
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

from recorded_files import Replacing

from structchunk.index.leveldb import plyvel

GROWING = ("open", "write", "pwrite", "posix_fallocate", "mkdir", "link", "fsync", "fdatasync", "batch.write")
"""Calls that a full disk refuses; opening only what is made with that."""
CHANGING = (*GROWING[:-1], "ftruncate", "rmdir", "unlink", "rename", "replace", "close")
"""Calls of the system that change something; ``close`` is done even if it fails."""
READING = ("read", "pread", "preadv", "stat", "lstat", "fstat", "statvfs", "listdir", "scandir", "lseek")
LOSSLESS = ("open", "scandir", "mmap", "DB", "flock")
"""Calls whose result would be lost if they failed once they are done."""


class Fault(NamedTuple):
    """What fails: the call of this number, or all from there on that need more of the disk.

    ``done`` says that the call does what it does, and then fails.
    """

    at: int
    number: int = errno.EIO
    done: bool = False
    lasting: bool = False


def caught(call: Callable[[], object]) -> BaseException | None:
    """Make a call, and return what it raised, without what that holds."""
    try:
        call()
    except BaseException as error:
        error.__context__ = error.__cause__ = None
        return error.with_traceback(None)
    return None


class Disk(Replacing):
    """While entered, counts this thread's calls of the operating system and of LevelDB, and fails some.

    It counts while ``is_counting``; of a LevelDB only those count that was opened while this was entered.

    Attributes
    ----------
    calls : list of str
        Their names, in order; the first one is number 1.
    """

    is_counting = False

    def __init__(self, fault: Fault | None = None) -> None:
        self.calls: list[str] = []
        self.failed: list[str] = []
        self._fault = fault
        super().__init__()
        self._thread = threading.get_ident()

    def run(self, call: Callable[[], object]) -> BaseException | None:
        """Make a call, of which calls may fail, and return what it raised."""
        self.is_counting = True
        try:
            return caught(call)
        finally:
            self.is_counting = False

    def arm(self, fault: Fault) -> None:
        """Count from the beginning, and let something else fail."""
        self.calls.clear()
        self.failed.clear()
        self._fault = fault

    def __enter__(self) -> Disk:
        for name in (*CHANGING, *READING):
            self._replace(os, name, self._around(name, getattr(os, name)))
        self._replace(fcntl, "flock", self._around("flock", fcntl.flock))
        self._replace(mmap, "mmap", self._around("mmap", mmap.mmap))
        self._replace(plyvel, "DB", self._around("DB", functools.partial(Proxy, self, plyvel.DB)))
        return self

    def _around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function, updated=())
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return self.call(name, function, *args, **kwargs)

        return wrapped

    def call(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a call, unless it is to fail."""
        if not self.is_counting or threading.get_ident() != self._thread:
            return function(*args, **kwargs)
        self.calls.append(name)
        fault = self._fault
        grows = name in GROWING and (name != "open" or args[1] & os.O_CREAT)
        if fault is None or not self._is_due(fault, grows=grows):
            return function(*args, **kwargs)
        if name == "close" or (fault.done and name not in LOSSLESS):
            function(*args, **kwargs)
        self.failed.append(name)
        raise self._error(fault.number if grows else errno.EIO, name)

    def _is_due(self, fault: Fault, *, grows: bool) -> bool:
        number = len(self.calls)
        return number == fault.at or (fault.lasting and number > fault.at and grows)

    @staticmethod
    def _error(number: int, name: str) -> Exception:
        if name == "DB" or "." in name:
            return plyvel.IOError(f"IO error: {name}: {os.strerror(number)}".encode())
        return OSError(number, os.strerror(number), name)


class Proxy:
    """plyvel's database, of which reads and writes may fail as those of the disk."""

    def __init__(self, disk: Disk, make: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._disk = disk
        self._inner = make(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """Read."""
        return self._disk.call("db.get", self._inner.get, *args, **kwargs)

    def write_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Return a batch, whose ``write`` may fail."""
        return _Batch(self._disk, self._inner.write_batch(*args, **kwargs))

    def raw_iterator(self, *args: Any, **kwargs: Any) -> Any:
        """Return an iterator, or fail: it is as if the first seek did."""
        return self._disk.call("db.raw_iterator", self._inner.raw_iterator, *args, **kwargs)

    def snapshot(self, *args: Any, **kwargs: Any) -> Any:
        """Return a snapshot, whose reads may fail."""
        return _Snapshot(self._disk, self._inner.snapshot(*args, **kwargs))


class _Batch:
    def __init__(self, disk: Disk, inner: Any) -> None:
        self._disk = disk
        self._inner = inner
        self.put = inner.put
        self.delete = inner.delete
        self.approximate_size = inner.approximate_size

    def write(self) -> None:
        self._disk.call("batch.write", self._inner.write)


class _Snapshot:
    def __init__(self, disk: Disk, inner: Any) -> None:
        self._disk = disk
        self._inner = inner

    def get(self, *args: Any, **kwargs: Any) -> Any:
        return self._disk.call("snapshot.get", self._inner.get, *args, **kwargs)

    def raw_iterator(self, *args: Any, **kwargs: Any) -> Any:
        return self._disk.call("snapshot.raw_iterator", self._inner.raw_iterator, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


# ---------------------------------------------------------------------- memory

NEEDS_NONE = frozenset(
    (
        *("acquire", "release", "__enter__", "__exit__", "locked", "_is_owned", "get_ident", "getpid"),
        *("len", "isinstance", "hasattr", "callable", "id", "monotonic", "setprofile"),
        *("pop", "popleft", "clear", "discard", "remove", "close", "release_conditional"),
    )
)
"""Built-in functions that allocate nothing on their way out."""


class Memory:
    """Calls something, counting the calls that it makes, and raises MemoryError in place of one.

    Attributes
    ----------
    count : int
    where : str
        Which call it was.
    """

    def __init__(self, at: int = 0) -> None:
        self.count = 0
        self.where = ""
        self._at = at
        # Kept: CPython may call it once more when an error in a finaliser, in the middle of a call, took it out.
        self._hook: Callable[..., Any] = self._profile

    def run(self, call: Callable[[], object]) -> None:
        """Make the call."""
        try:
            sys.setprofile(self._hook)
            call()
        finally:
            sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call":
            if arg.__name__ in NEEDS_NONE:
                return
            called = arg.__name__
        elif event == "call" and frame.f_code.co_filename != __file__:
            called = f"{frame.f_code.co_filename.rpartition('/')[2]} {frame.f_code.co_name}"
        else:
            return
        self.count += 1
        if self.count == self._at:
            caller = frame.f_back if event == "call" else frame
            at = f"{caller.f_code.co_filename.rpartition('/')[2]}:{caller.f_lineno}" if caller else "?"
            self.where = f"{called} in {at}"
            raise MemoryError(f"injected: {self.where}")
