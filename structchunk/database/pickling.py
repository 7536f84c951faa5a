"""Pickling a database that is open for reading, and its snapshots: as of the same commit, in any process.

What is pickled says where the reader keeps a clone of that commit, and no more. Who unpickles it clones the clone.
Of what was published it is the URL, with its options, and the commit.
In each process one handle for each commit is shared: whatever is unpickled of it, it is opened once.
"""

from __future__ import annotations

import atexit
import contextlib
import copyreg
import threading
import weakref
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias, TypeVar

from ..disk.paths import Paths
from ..disk.presence import check_there
from ..errors import CommitGone, CorruptionError, ReadOnlyError
from ..process import forks
from ..readers.copied_storage import CopiedStorage
from ..readers.copies import KEPT
from ..readers.kept import Kept
from ..readers.read_storage import ReadStorage, open_kept, open_reader
from ..remote.remote_storage import Address, open_published
from .database import Database
from .handle import reading_storage
from .snapshot import Snapshot, origin

__all__ = ["Kept", "keep", "open_shared", "register", "reopen"]

_IDLE = 2
"""How many commits of a database stay open when nothing uses them: the newest, and the one before that."""
_IDLE_DATABASES = 32
_Key: TypeAlias = tuple[str, bytes, int, int]
Home: TypeAlias = Kept | Address
"""Where a commit is found."""
K = TypeVar("K")
V = TypeVar("V")


class SharedReader(Database):
    """A database that was unpickled. It closes when nothing holds it any more, if nobody has closed it before."""

    def __init__(self, storage: CopiedStorage) -> None:
        super().__init__(storage, mode="r", sync=True)

    # Bound to nothing, so that it is closed as soon as it is let go, and not with the garbage.
    @staticmethod
    def _begin_writing() -> NoReturn:
        raise ReadOnlyError("a database that was pickled is open for reading")

    @staticmethod
    def _end_writing() -> None:
        pass

    def _is_at(self, commit: int) -> bool:
        return self._storage.index.last == commit

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


class Handles:
    """The handles of a process for what was unpickled in it: those in use, and the last ones that were."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._open: weakref.WeakValueDictionary[_Key, SharedReader] = weakref.WeakValueDictionary()
        self._idle: dict[tuple[str, bytes], dict[_Key, SharedReader]] = {}

    def get(self, kept: Home, make: Callable[[], SharedReader]) -> SharedReader:
        """Return the handle for a commit; make one if there is none, or if it was closed or has moved on."""
        key = _key(kept)
        database = self._open.get(key)
        if database is None or database.closed or not database._is_at(key[2]):
            database = self._open[key] = make()
        idle = self._idle.get(key[:2], {})
        _put_last(idle, key, database, _IDLE)
        _put_last(self._idle, key[:2], idle, _IDLE_DATABASES)
        return database

    def close(self) -> None:
        """Close all."""
        for database in list(self._open.values()):
            database.close()


def _key(kept: Home) -> _Key:
    if isinstance(kept, Kept):
        return kept.path, kept.database, kept.commit, kept.epoch
    return kept.identity, b"", kept.commit or 0, 0


def _put_last(entries: dict[K, V], key: K, value: V, count: int) -> None:
    """Put an entry last, and keep the last few."""
    entries.pop(key, None)
    entries[key] = value
    if len(entries) > count:
        del entries[next(iter(entries))]


_handles = Handles()


def reopen(kept: Home) -> Database:
    """Return a database that was pickled, as of the commit that it showed.

    Raises
    ------
    CommitGone
        There is a later commit, and the reader that was pickled does not keep its own any more.
    FileNotFoundError, CorruptionError
        As :func:`open`.

    Notes
    -----
    All who ask for the same commit in a process share one handle.
    """
    with _handles.lock:
        return _handles.get(kept, lambda: SharedReader(_open_as_of(kept)))


def open_shared(where: str | Address) -> tuple[Home, Database]:
    """Open the latest commit of a database; return where other processes find it, and the handle that keeps it.

    In this process it is the one that :func:`reopen` returns.
    """
    database = SharedReader(open_published(where) if isinstance(where, Address) else _open_newest(where))
    kept = keep(database)
    with _handles.lock:
        found = _handles.get(kept, lambda: database)
    return keep(found), found


def _open_newest(path: str) -> ReadStorage:
    paths = Paths(path)
    check_there(paths)
    return open_reader(paths, ReadStorage)


def reopen_snapshot(kept: Home) -> Snapshot:
    """Return a snapshot that was pickled: another one, as of the same commit."""
    while True:
        snapshot = reopen(kept).snapshot()
        if snapshot.last_commit == kept.commit:
            return snapshot
        snapshot.close()  # another thread has refreshed the handle


def _open_as_of(kept: Home) -> CopiedStorage:
    if isinstance(kept, Address):
        return open_published(kept)
    paths = Paths(kept.path)
    check_there(paths)
    try:
        return open_kept(kept)
    except (CorruptionError, FileNotFoundError) as error:
        return _latest(paths, kept, error)


def _latest(paths: Paths, kept: Kept, error: Exception) -> ReadStorage:
    """Open the latest commit, and raise unless it is the one that was kept."""
    storage = open_reader(paths, ReadStorage)
    try:
        if storage.shows(kept):
            return storage
        raise CommitGone(
            f"{kept.path} is at commit {storage.index.last} now, and what was pickled at commit {kept.commit} is "
            f"gone: its reader is closed, or was pickled at {KEPT} others since; keep it open until all have "
            "unpickled, or open the database by its path, as of the latest commit"
        ) from error
    except BaseException:
        storage.close()
        raise


def keep(database: Database) -> Home:
    """Return where others find the commit that a database shows, which is open for reading."""
    storage = reading_storage(database)
    return storage.keep()


def _pickled(database: Database) -> tuple[Callable[..., Database], tuple[Any, ...]]:
    return reopen, (keep(database),)


def _pickled_snapshot(snapshot: Snapshot) -> tuple[Callable[..., Snapshot], tuple[Any, ...]]:
    database, index_snapshot = origin(snapshot)
    assert isinstance(database, Database)
    return reopen_snapshot, (reading_storage(database).keep(index_snapshot),)


def _close_at_exit() -> None:
    _handles.close()


def _forget_in_child() -> None:
    global _handles
    _handles = Handles()


def register() -> None:
    """Have databases and snapshots pickled so; close at exit what was unpickled."""
    for kind in (Database, SharedReader):
        copyreg.pickle(kind, _pickled)
    copyreg.pickle(Snapshot, _pickled_snapshot)
    atexit.register(_close_at_exit)
    forks.call_on_fork(_forget_in_child)
