"""LevelDB behind a gate: the only importer of plyvel, and the only place that knows its hazards.

plyvel crashes if a handle is closed while another thread is in a call, hangs after ``fork``, swallows errors in
its plain iterators, and makes a new database where a damaged one lies. Here ``close`` waits for the calls in
flight, a forked child is refused, ranges are read through raw iterators that verify checksums, and creating and
opening are two things.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import stat
import sys
import time
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

if sys.version_info >= (3, 13):
    # plyvel's last release is for CPython 3.12. plyvel-next is the same code, kept up by others under a name of its
    # own, with wheels for later ones.
    import plyvel_next as plyvel
else:
    import plyvel

from ..disk import files
from ..errors import CLOSED, ClosedError, CorruptionError, LockedError
from ..process import forks
from .gate import Gate, LevelDBSnapshot, leak
from .growth import BUFFER_SIZE, Growth
from .leveldb_files import damaged_tables
from .private_directory import PrivateDirectory

Pair = tuple[bytes, bytes]
_SMALL_LOG = 1 << 16
_STEP_SIZE = 32 << 20
"""About how many bytes of tables are rewritten at a time, while other calls wait."""
_NOTHING = b"\xff", b"\xff\xff"
"""A range without keys. Compacting it writes what the log holds to a table."""
_KEY_SIZE = 16
"""Where a range of keys is divided, so many bytes of each key are looked at."""
LINGER = 5.0
"""Seconds that opening waits for another process that has let the database's lock go, and LevelDB's not yet."""
_NEVER_FULL = 1 << 30
"""A write buffer that does not fill: where nothing empties it, a write to a full one waits for ever."""
_OPTIONS: dict[str, Any] = {
    "compression": None,
    "bloom_filter_bits": 10,
    "write_buffer_size": BUFFER_SIZE,
    "lru_cache_size": 32 << 20,
    # Few files, as opening looks at each. But LevelDB ends one that it writes where ten times as many bytes of the
    # next level lie between two keys. All commits write keys that are below those of all pages: in files of 32 MiB
    # both came into one, and to merge that was to write most of the next level anew.
    "max_file_size": 8 << 20,
    "paranoid_checks": True,
}
_ERRNOS = (
    errno.ENOSPC,
    errno.EIO,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EMFILE,
    errno.ENFILE,
    errno.EACCES,
    errno.EROFS,
    errno.EAGAIN,  # LevelDB's own lock: another program has it
)
REBUILD = "restore the index with structchunk.rebuild_index(path): the chunk files hold all that it held"

_opening: weakref.WeakValueDictionary[str, Gate] = weakref.WeakValueDictionary()
"""By their paths, those that belong to no open database yet."""
_used = False
_inherited = False


def _source(handle: Any, snapshot: LevelDBSnapshot | None) -> Any:
    return handle if snapshot is None else snapshot.inner


def _first(iterator: Any, start: bytes, stop: bytes, count: int) -> list[Pair]:
    pairs: list[Pair] = []
    iterator.seek(start)
    while iterator.valid() and (key := iterator.key()) < stop:
        pairs.append((key, iterator.value()))
        if len(pairs) >= count:
            break  # before the next pair, which may take another block to be read and checked
        iterator.next()
    return pairs


def _last(iterator: Any, start: bytes, stop: bytes, count: int) -> list[Pair]:
    pairs: list[Pair] = []
    iterator.seek(start)
    if not iterator.valid() or iterator.key() >= stop:
        return pairs  # else going back would pass all versions of the key before, of which there may be very many
    iterator.seek(stop)
    if iterator.valid():
        iterator.prev()
    else:
        iterator.seek_to_last()
    while iterator.valid() and (key := iterator.key()) >= start:
        pairs.append((key, iterator.value()))
        if len(pairs) >= count:
            break
        iterator.prev()
    return pairs


class LevelDB:
    """One LevelDB directory.

    Attributes
    ----------
    growth : Growth
        How many bytes of disk it takes, and may be about to take.

    Notes
    -----
    Any number of threads may call; one call goes on at a time. After :meth:`close`, and in a forked child,
    every method raises ClosedError; ``check_open()`` does nothing else, and ``is_open()`` tells.
    """

    def __init__(self, path: str, handle: Any, *, private: bool = False) -> None:
        self.path = path
        self._gate = Gate(path, handle, _translated)
        self.check_open, self.is_open = self._gate.check, self._gate.is_open  # every write asks, again and again
        self._private = private
        self._logs: set[str] = set()
        self.growth = Growth(path)
        if private:
            self._gate.directory = PrivateDirectory(path)
        else:
            _opening[path] = self._gate

    @property
    def directory(self) -> PrivateDirectory | None:
        """What keeps the files, if it is a private one."""
        return self._gate.directory

    @classmethod
    def create(cls, path: str, *, private: bool = False) -> LevelDB:
        """Create a new, empty LevelDB directory; a `private` one as for :meth:`open_private`."""
        if not private:
            refuse_after_fork()
        files.make_directory(path)
        try:
            return cls._open(path, create=True, private=private)
        except plyvel.Error as error:
            raise _opening_failed(path, error) from error

    @classmethod
    def open(cls, path: str) -> LevelDB:
        """Open an existing LevelDB directory.

        Raises
        ------
        CorruptionError
            It is missing, unreadable, or holds something else than regular files.
        """
        refuse_after_fork()
        return cls._open_existing(path, private=False)

    @classmethod
    def open_private(cls, path: str) -> LevelDB:
        """Open a directory that nobody else will open, and that is removed once nothing reads it any more: a clone.

        In a process forked from one that had used LevelDB, too: there LevelDB never compacts, as its thread
        stayed behind, and is never closed, as that would wait for the thread.

        Raises
        ------
        CorruptionError
            It is missing, unreadable, or holds something else than regular files.
        """
        return cls._open_existing(path, private=True)

    @classmethod
    def _open_existing(cls, path: str, *, private: bool) -> LevelDB:
        _check_entries(path)
        _check_tables(path)
        deadline = time.monotonic() + LINGER
        while True:
            try:
                return cls._open(path, create=False, private=private)
            except plyvel.Error as error:
                # The database's own lock is held here: who has LevelDB open yet was interrupted, and lets it go.
                if _errno_in(error) != errno.EAGAIN or time.monotonic() > deadline:
                    raise _opening_failed(path, error) from error
                time.sleep(0.01)

    @classmethod
    def _open(cls, path: str, *, create: bool, private: bool) -> LevelDB:
        global _used
        _used = True  # first: another thread may fork while LevelDB opens
        if not private:
            _close_abandoned(path)
        options = _OPTIONS | {"write_buffer_size": _NEVER_FULL} if _inherited else _OPTIONS
        handle = plyvel.DB(os.fsencode(path), create_if_missing=create, **options)
        if _inherited:
            leak(handle)
        try:
            return cls(path, handle, private=private)
        except BaseException:
            if not _inherited:
                handle.close()
            raise

    def adopt(self) -> None:
        """Belong to an open database, which closes this; until then the next one to open the path may do it."""
        _opening.pop(self.path, None)

    def is_held(self) -> bool:
        """Tell whether LevelDB is open here, even if closing has begun."""
        return self._gate.is_held()

    def is_entered(self) -> bool:
        """Tell whether this thread is in the middle of a call, which something has interrupted to ask."""
        return self._gate.mutex.is_mine()

    def snapshot(self) -> LevelDBSnapshot:
        """Return the present state, for `get`, `read` and `read_back`."""
        with self._gate.lock, self._gate as handle:
            snapshot = LevelDBSnapshot(self._gate, handle.snapshot())
        return snapshot

    def get(self, key: bytes, snapshot: LevelDBSnapshot | None = None) -> bytes | None:
        """Return the value of a key, or None."""
        with self._gate.lock, self._gate as handle:
            value: bytes | None = _source(handle, snapshot).get(key, verify_checksums=True)
            return value

    def read(self, start: bytes, stop: bytes, count: int, snapshot: LevelDBSnapshot | None = None) -> list[Pair]:
        """Return the first `count` pairs with ``start <= key < stop``."""
        with (
            self._gate.lock,
            self._gate as handle,
            _source(handle, snapshot).raw_iterator(verify_checksums=True) as iterator,
        ):
            pairs = _first(iterator, start, stop, count)
        return pairs

    def read_back(
        self, start: bytes, stop: bytes, count: int, snapshot: LevelDBSnapshot | None = None
    ) -> list[Pair]:
        """Return the last `count` pairs with ``start <= key < stop``, in ascending order."""
        with (
            self._gate.lock,
            self._gate as handle,
            _source(handle, snapshot).raw_iterator(verify_checksums=True) as iterator,
        ):
            pairs = _last(iterator, start, stop, count)
        pairs.reverse()
        return pairs

    def write(self, puts: Iterable[Pair], deletes: Iterable[bytes] = (), *, sync: bool = False) -> None:
        """Apply all of it as one atomic batch."""
        with self._gate.lock, self._gate as handle:
            batch = handle.write_batch(transaction=True, sync=sync)
            for key in deletes:
                batch.delete(key)
            for key, value in puts:
                batch.put(key, value)
            self.growth.count(batch.approximate_size())
            batch.write()

    def size_of(self, start: bytes, stop: bytes) -> int:
        """Return about how many bytes of tables a range of keys takes; what is in logs is not counted."""
        with self._gate.lock, self._gate as handle:
            size: int = handle.approximate_size(start, stop)
        return size

    def compact(self, start: bytes, stop: bytes) -> None:
        """Give back the disk space of what was replaced or deleted in a range of keys.

        It goes in steps, between which other calls take their turn. What the disk may have no room for is left:
        LevelDB refuses all writes after one that failed.
        """
        low, high = (int.from_bytes(key.ljust(_KEY_SIZE, b"\0"), "big") for key in (start, stop))
        for first, end, size in self._steps(low, high):
            self._compact(first, end, size)
        if self.growth.has_room(0):
            self.empty_log()  # with which LevelDB removes the tables that are left over

    def _steps(self, low: int, high: int) -> Iterator[tuple[bytes, bytes, int]]:
        """Yield the parts of a range of keys, taken for numbers: each small enough for a step, and its size."""
        start, stop = low.to_bytes(_KEY_SIZE, "big"), high.to_bytes(_KEY_SIZE, "big")
        size = self.size_of(start, stop)
        if size <= _STEP_SIZE or high - low < 2:
            yield start, stop, size
        else:
            middle = (low + high) // 2
            yield from self._steps(low, middle)
            yield from self._steps(middle, high)

    def _compact(self, start: bytes, stop: bytes, size: int) -> None:
        if self.growth.has_room(size):
            with self._gate.lock, self._gate as handle:
                handle.compact_range(start=start, stop=stop)

    def empty_log(self) -> None:
        """Write what the log holds to a table."""
        with self._gate.lock, self._gate as handle:
            handle.compact_range(start=_NOTHING[0], stop=_NOTHING[1])
            self.growth.forget_backlog()

    def flush_logs(self) -> None:
        """Bring the write-ahead logs to disk: a synced write alone would leave a hole below itself.

        Their names too, and that of CURRENT: LevelDB leaves that to the next change of its manifest.
        """
        self.check_open()
        logs = {name for name in os.listdir(self.path) if name.endswith(".log")}
        for name in logs:
            with contextlib.suppress(FileNotFoundError):
                files.flush(os.path.join(self.path, name))
        if logs != self._logs:
            files.flush_directory(self.path)
            self._logs = logs

    def close(self, *, tidy: bool = True) -> None:
        """Wait for the calls in flight, then close. Idempotent.

        Unless `tidy`, nothing is written: what the log holds is left for the next one who opens.
        """
        handle = self._gate.shut(CLOSED)
        if handle is None:
            return
        try:
            if tidy and not self._private and self.logs_size() > _SMALL_LOG:
                # Compacting an empty range flushes the memory table, so that the next open replays nothing.
                with contextlib.suppress(plyvel.Error, RuntimeError):  # the latter if another thread was quicker
                    handle.compact_range(start=_NOTHING[0], stop=_NOTHING[1])
        finally:
            if not (self._private and _inherited):
                handle.close()
        self._gate.forget()

    def logs_size(self) -> int:
        """Return how many bytes there are in logs."""
        try:
            names = fnmatch.filter(os.listdir(self.path), "*.log")
            return sum(os.stat(os.path.join(self.path, name)).st_size for name in names)
        except OSError:
            return 0  # somebody removed the files: closing goes on


def _note_fork() -> None:
    global _inherited
    _inherited = _used


forks.call_on_fork(_note_fork)


def refuse_after_fork() -> None:
    """Raise ClosedError in a process that was forked from one which had used LevelDB: it cannot write here."""
    if _inherited:
        raise ClosedError(
            "this process was forked from one that had used LevelDB, whose background thread stayed behind; "
            "to write, start it with the 'spawn' or 'forkserver' method of multiprocessing; mode='r' works here too"
        )


def _close_abandoned(path: str) -> None:
    """Close a LevelDB whose opening was interrupted: the exception's traceback keeps it alive."""
    gate = _opening.get(path)
    handle = None if gate is None else gate.shut("opening it was interrupted")
    if gate is not None and handle is not None:
        handle.close()
        gate.forget()


def _check_entries(path: str) -> None:
    try:
        files.check_directory(path)
        entries = list(os.scandir(path))
    except FileNotFoundError as error:
        raise CorruptionError(path, found="no index directory", expected="one", advice=REBUILD) from error
    for entry in entries:
        if not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
            found = "a link, directory or special file"
            raise CorruptionError(entry.path, found=found, expected="a regular file", advice=REBUILD)


def _check_tables(path: str) -> None:
    try:
        damaged = damaged_tables(path)
    except (OSError, ValueError, IndexError):
        return  # of CURRENT or the manifest, which LevelDB checks itself
    if damaged:
        found = f"{damaged[0]}, which does not end as a table does"
        raise CorruptionError(path, found=found, expected="the place of its blocks", advice=REBUILD)


def _opening_failed(path: str, error: Exception) -> Exception:
    if "already held by process" in str(error):  # LevelDB tells by path, our own lock by file
        return LockedError(
            f"{path}: this process has the database open that was at this path before; close that handle first"
        )
    return (_os_error if _errno_in(error) else _corruption)(path, error)


def _translated(path: str, error: BaseException) -> BaseException:
    if not isinstance(error, plyvel.Error):
        return error
    # A table that is missing, or empty as some file systems leave it after a power cut, cannot be mapped.
    is_damage = any(os.strerror(number) in str(error) for number in (errno.ENOENT, errno.EINVAL))
    if isinstance(error, plyvel.CorruptionError) or is_damage:
        return _corruption(path, error)
    return _os_error(path, error)


def _corruption(path: str, error: Exception) -> CorruptionError:
    return CorruptionError(path, found=f"LevelDB: {error}", expected="a readable index", advice=REBUILD)


def _os_error(path: str, error: Exception) -> OSError:
    return OSError(_errno_in(error) or errno.EIO, str(error), path)


def _errno_in(error: Exception) -> int:
    """Return the number of an errno, of which LevelDB hands on the text only, or 0."""
    return next((number for number in _ERRNOS if os.strerror(number) in str(error)), 0)
