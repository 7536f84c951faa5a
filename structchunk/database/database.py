"""Database: open, the catalog of stores, lifetimes, close."""

from __future__ import annotations

import atexit
import contextlib
import math
import time
import warnings
import weakref
from collections.abc import Callable, Collection, Iterator
from functools import partial

from ..chunks.heap import Heap
from ..disk import files
from ..disk.paths import AnyPath
from ..engine.storage import Storage
from ..errors import Error, ReadOnlyError, StoreNotFound
from ..maintenance.backup import copy_storage, destination
from ..maintenance.chunk_map import ChunkMap, map_chunks
from ..maintenance.compaction import CompactionReport, compact_index, compact_store
from ..maintenance.stats import StoreStats, store_stats
from ..maintenance.update import update_copy
from ..maintenance.verify import Problem, verify_storage
from ..process import leftovers
from ..readers.read_storage import ReadStorage
from ..stores.change import Change
from ..stores.collection import StoreCollection, open_store
from ..stores.notebook import database_html, note
from ..types.schema import Schema
from .autocommit import AutocommitBinding
from .feed import Horizon, changes_since
from .snapshot import Snapshot
from .transaction import Transaction, drop_store, staging_by_name
from .writer_queue import WriterQueue

CLOSE_WAIT = 1.0
"""Seconds that closing waits for a transaction of another thread."""

_SHORTEST_PAUSE, _LONGEST_PAUSE, _LONGEST_PAUSE_UNFOLLOWED = 0.00005, 0.001, 0.02
"""Seconds between two looks whether there is a newer commit."""

_databases: weakref.WeakSet[Database] = weakref.WeakSet()


class Database(StoreCollection):
    """A directory of stores. Made by :func:`open`.

    Notes
    -----
    Any number of threads may use one. There is one write transaction at a time; others wait. A child of
    ``fork()`` is refused. As a context manager it closes at the end.

    What was committed with ``sync=True`` is on disk when the commit returns. With ``sync=False`` it survives
    the end of the process, and after a power cut the database comes back as of some earlier commit, whole:
    not older than the last ``sync()``, ``close()`` or durable commit.
    """

    def __init__(self, storage: Storage, *, mode: str, sync: bool) -> None:
        self._storage = storage
        self._mode = mode
        self._sync = sync
        self._close_wanted = False
        self._queue = WriterQueue(self._begin_writing, self._end_writing)
        self._horizon = Horizon()
        _databases.add(self)

    @property
    def path(self) -> str:
        """The database's directory, absolute, without symbolic links."""
        return self._storage.paths.root

    @property
    def mode(self) -> str:
        """The mode that it was opened with."""
        return self._mode

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._storage.is_closed

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._storage.heaps)} stores"
        return f"<Database {self.path!r}, mode {self._mode!r}, {state}>"

    def _repr_html_(self) -> str:
        """Return the stores, with their sizes and chunks, for a notebook; it reads no record."""
        try:
            stats, heaps = self.stats(), dict(self._storage.heaps)
        except (Error, OSError) as error:
            return note(f"{self!r}: {error}")
        stores = [(name, heaps[name].schema, held) for name, held in stats.items() if name in heaps]
        return database_html(self.path, self._mode, stores)

    def _check_open(self) -> None:
        """Raise ClosedError after :meth:`close`, and in a forked child."""
        self._storage.index.leveldb.check_open()

    # ------------------------------------------------------------------ stores

    def _binding(self, name: str) -> AutocommitBinding:
        self._check_open()
        heap = self._storage.heaps.get(name)
        if heap is None:
            raise StoreNotFound(f"{self.path} has no store {name!r}; it has {sorted(self._storage.heaps)}")
        return self._latest(heap)

    def _latest(self, heap: Heap) -> AutocommitBinding:
        return AutocommitBinding(self, heap)

    def _names(self) -> Collection[str]:
        self._check_open()
        return self._storage.heaps

    def __len__(self) -> int:
        return len(self._names())

    def _create(self, name: str, schema: Schema) -> None:
        """Create a store, as a commit of its own."""
        with self.transaction() as transaction:
            open_store(transaction, name, schema)

    def drop_store(self, name: str) -> None:
        """Delete a store and all its records, as a commit of its own; its files go once that is on disk.

        Raises
        ------
        StoreNotFound
            There is no such store.
        OSError
            ENOSPC when the disk is full, and the reserve that is kept for this is too small; nothing changed.

        Notes
        -----
        Who still holds one of its arrays, batches or snapshots, or the store itself, keeps the disk space of its
        files.
        """
        self._drop(name)
        self.sync()

    def _drop(self, name: str) -> None:
        with self.transaction() as transaction:
            drop_store(transaction, name)

    def _at_one_commit(self) -> Snapshot:
        return self.snapshot()

    # ------------------------------------------------------------------ transactions

    def transaction(self, *, sync: bool | None = None) -> Transaction:
        """Begin a write transaction, once the one of any other thread has ended.

        Parameters
        ----------
        sync : bool, optional
            Whether ``commit`` waits for the disk; by default as the database was opened.

        Raises
        ------
        LockedError
            This thread has a transaction open already.
        ReadOnlyError
            The database is open for reading.
        """
        self._check_writable()
        return self._queue.take(sync=self._sync if sync is None else bool(sync))

    def _begin_writing(self) -> Storage:
        """Return the files that a transaction changes."""
        self._storage.begin()
        return self._storage

    def _end_writing(self) -> None:
        """Let the files go that a transaction changed."""

    def _check_writable(self) -> None:
        if self._close_wanted:
            self.close()
        self._storage.index.leveldb.check_open()
        if self._mode == "r":
            raise ReadOnlyError(f"{self.path} is open with mode='r'; open it with mode='r+' to write")

    @property
    def last_commit(self) -> int:
        """Number of the last commit that is shown: 0 of an empty database, and one more for each commit."""
        self._check_open()
        return self._storage.index.last

    def refresh(self) -> bool:
        """Move a database that is open for reading to the newest commit. Any other one is always there.

        Returns
        -------
        bool
            Whether it moved.

        Notes
        -----
        Stores and cursors that were got before go on from the new commit; a range read that was begun
        goes on with the old one, and so do snapshots. Arrays and objects that were handed out stay as they are.
        While a snapshot is held, files that the writer has dropped keep their disk space.

        It costs next to nothing if there is no newer commit, and little more than to read what a few commits have
        changed. After many, after one that compacted or dropped a store, when another process has begun to write,
        and after this was pickled, the index is cloned anew, which takes some milliseconds. In a forked child whose
        parent had used a database, each clone takes some file descriptors for good: where that is done often, spawn
        instead.
        """
        self._check_open()
        storage = self._storage
        return isinstance(storage, ReadStorage) and storage.refresh()

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until there is a newer commit than the one that is shown, then :meth:`refresh`.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most; None means for ever.

        Returns
        -------
        bool
            Whether it moved; False when the time is up.

        Raises
        ------
        TypeError
            The database is open for writing: it always shows the newest commit.
        ClosedError
            It is closed, also by another thread meanwhile.

        Notes
        -----
        It looks a thousand times a second, about, which takes some percent of a processor, and sees a commit one or
        two milliseconds after it was made. A database that no release with this has written yet has nothing that is
        as cheap to look at: there it looks fifty times a second.
        """
        if not isinstance(self._storage, ReadStorage):
            raise TypeError(f"{self.path} is open for writing, and always shows the newest commit; mode='r' waits")
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        pause = _SHORTEST_PAUSE
        while not self.refresh():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE if self._storage.is_followed else _LONGEST_PAUSE_UNFOLLOWED)
        return True

    def snapshot(self) -> Snapshot:
        """Return the database as of the latest commit, for reading."""
        self._check_open()
        with self._storage.committing():  # else a store could come or go between the two
            return Snapshot(self._storage.index.snapshot(), self._storage.heaps, self, self._storage)

    # ------------------------------------------------------------------ the change feed

    @property
    def first_change(self) -> int:
        """The lowest commit that :meth:`changes` can be asked since, for all stores.

        Notes
        -----
        Looked for once, which takes time by the number of commits that there are since; then kept.
        """
        self._check_open()
        return self._horizon.of(self._storage)

    def changes(self, since: int, *names: str, net: bool = False) -> Iterator[Change]:
        """Return what was changed since a commit, up to the last one.

        Parameters
        ----------
        since : int
            Number of a commit: a :attr:`last_commit` of before. 0 is before the first one.
        *names : str
            Stores; none means all.
        net : bool
            What all these commits together changed, instead of each.

        Returns
        -------
        iterator of Change
            One for each commit and store, in ascending order of commit. With `net`, one for each store that was
            changed, of each key the last that happened to it: what was put and deleted since counts as deleted.

        Raises
        ------
        HistoryLost
            Some of it is gone: :meth:`compact` replaced the chunks of a store, or it was dropped, after it was
            changed since. With `names`, only what happened to these stores counts. Raised here, not later.
        StoreNotFound
            There is no such store, and since that commit there was none.
        ValueError
            `since` is negative, or after the last commit.

        Notes
        -----
        It costs time and memory by what is new, not by what there is, and reads no record before
        ``Change.batch()``. What is committed after the call is not in it. Who keeps the number of the last commit
        that it took beside what was made of the changes, in one transaction, takes each commit once.

        Compaction is no change, and neither are changes in place, which are no commits: an object, or an array made
        by ``new()``, is in the changes of the commit that made it. Keys that one transaction put and deleted are
        among those that it deleted. Of a store that was dropped only that is known: who has not seen the changes of
        before gets HistoryLost. After :func:`rebuild_index`, who has not seen the drop does.

        A power cut may take commits that did not wait for the disk, and later ones will have their numbers.
        """
        self._check_open()
        return changes_since(self._storage, since, names, net=net)

    def verify(self, progress: Callable[[int, int], object] | None = None) -> list[Problem]:
        """Check headers, directories, checksums, and every index row against its chunk.

        Parameters
        ----------
        progress : callable, optional
            Called as ``progress(done, total)``, in chunks.

        Returns
        -------
        list of Problem
            What is wrong, where, and what to do; empty if all is well.

        Notes
        -----
        Changes nothing, and does not raise on damage. It checks one commit while others go on. Records that
        may change in place are under no checksum. With ``mode="r"`` it leaves out what a writer may be changing:
        the offsets in the headers of chunks, files that no store knows, and the checksum of every commit that
        holds a record that may change in place.
        """
        self._check_open()
        return verify_storage(self._storage, progress)

    def stats(self) -> dict[str, StoreStats]:
        """Return what each store holds, in records and bytes, and what it costs, chunk by chunk.

        Returns
        -------
        dict of str to StoreStats

        Notes
        -----
        The figures are kept up with every commit, so that this is quick whatever the stores hold.
        """
        self._check_open()
        with self._storage.committing():
            last, live = self._storage.index.last, self._storage.index.live
            found = sorted(self._storage.heaps.items())
            return {
                name: store_stats(name, self._storage.places(heap, last), live.get(heap.store, {}))
                for name, heap in found
            }

    def compact(self, *names: str, progress: Callable[[int, int], object] | None = None) -> list[CompactionReport]:
        """Rewrite stores in order of key, drop what was replaced or deleted, and give its disk space back.

        Parameters
        ----------
        *names : str
            Stores; none means all.
        progress : callable, optional
            Called as ``progress(done, total)``, in bytes of live records.

        Returns
        -------
        list of CompactionReport
            One for each store, in the given order.

        Raises
        ------
        StoreNotFound
            There is no such store; nothing was done.
        LockedError
            This thread has a transaction open.
        OSError
            ENOSPC when the disk has no room for the copy of a store; that store is as it was.

        Notes
        -----
        Each store is one commit, atomic and durable, during which other transactions wait and reads go on.
        Afterwards a scan of the store is one contiguous sweep of its new chunks. It takes disk space for a copy
        of the store while it lasts, and memory for the rows (some hundred bytes a record), not for the records.

        Arrays, batches, snapshots and scans stay valid; the disk space of an old chunk comes back when the last
        of them goes. A chunk is skipped while anyone holds a view through which its records can be changed in
        place (an object, or an array made by ``new()``); who asks for one meanwhile waits until the store is
        done. Such records are copied as they are then, sparse ones too: older snapshots do not follow changes.
        """
        self._check_writable()
        wanted = list(dict.fromkeys(names or self))
        stats = self.stats()
        for name in wanted:
            self[name]  # raises if there is none, before anything is done
        total = sum(stats[name].live for name in wanted)
        reports = []
        done = 0
        for name in wanted:
            reports.append(self._compact(name, partial(_report, progress, done, total)))
            done += stats[name].live
            _report(progress, done, total)
        compact_index(self._storage, names)
        return reports

    def _compact(self, name: str, progress: Callable[[int], object]) -> CompactionReport:
        with self.transaction(sync=True) as transaction:
            storage, staging = staging_by_name(transaction, name)
            return compact_store(storage, staging, transaction.commit, self.sync, progress)

    def sync(self) -> None:
        """Bring everything to disk: all commits, the index, and changes made in place to live records."""
        self._check_writable()
        self._storage.checkpoint()

    def checkpoint(self, dest: AnyPath, *, update: bool = False) -> None:
        """Make a copy of the database, as of its latest commit, or bring one forward, while others read and write.

        Parameters
        ----------
        dest : path-like
            The directory to make. It must lie outside of the database, and must not exist unless `update` is true.
        update : bool
            If `dest` exists, bring it forward by what is new: it must be an earlier copy of this database, which
            nobody has written to since. If it does not exist, make it.

        Raises
        ------
        FileExistsError
            `dest` exists, and `update` is false.
        ValueError
            `dest` lies inside the database.
        NotACopy
            `dest` is not an earlier copy of this database, or was written to; the message says what it is.
        LockedError
            `dest` is open for writing, or being brought forward.
        OSError
            The disk is full, or failed: then nothing is left of a new copy, and one that was there is as it was,
            or as it was to become.

        Notes
        -----
        The copy is complete, on disk when this returns, and independent: either may be written, compacted or
        deleted, and the other does not change. On the same file system, chunks that are full and hold no records
        that may change in place are hard links, which take no time and no space. The last chunk of each store, and
        all that hold such records, are copied, and so is the index. Sparse arrays stay sparse.

        Other threads' commits wait while the database is brought to disk, as for :meth:`sync`, and while files
        are linked; not while they are copied. Records that change in place are copied as they are when their turn
        comes. An open transaction is not in the copy.

        The copy is made in ``dest.part-...`` beside `dest`, and renamed at the end. A process that is killed
        leaves that directory behind, which can be removed. Both databases have the same uuid: files must not be
        exchanged between them.

        To bring a copy forward takes time and disk by what has changed since; chunk files with records that may
        change in place are read whole. Whatever is killed, and if the power fails, the copy opens as of its old
        commit or of the new one; only records that change in place may be newer. A copy counts as written to by
        a commit, a sync, a turn of a shared handle, reading an object through ``r+``, and ``rebuild_index()``.
        """
        self._check_open()
        path = destination(self._storage.paths, dest, may_exist=update)
        self._prepare_copy()
        if update and files.exists(path):
            update_copy(self._storage, path)
        else:
            copy_storage(self._storage, path)

    def _prepare_copy(self) -> None:
        """Bring everything to disk, so that more of it can be linked."""
        if self._mode != "r":
            self.sync()

    # ------------------------------------------------------------------ end

    def close(self) -> None:
        """Bring everything to disk and close. Idempotent.

        Notes
        -----
        Aborts the transaction that this thread has open. Waits for that of another thread, a second at most, and
        then aborts it: its next call raises ClosedError. Waits for reads in flight. Arrays and objects that were
        handed out stay valid.

        A signal handler may call it. If it interrupted a call of this database, which cannot go on before the
        handler has returned, the database is closed by the next write, the next :meth:`close`, or when the program
        ends. An interrupt leaves it to be called again.
        """
        if self.closed:
            return
        if self._is_entered():
            self._close_wanted = True
            return
        self._queue.close(self._close_storage, CLOSE_WAIT)
        leftovers.clear()

    def _is_entered(self) -> bool:
        """Tell whether this thread is in the middle of a call, which something has interrupted to ask."""
        return self._storage.is_entered()

    def _close_storage(self) -> None:
        self._storage.close()

    def __enter__(self) -> Database:
        self._check_open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_queue") and not self.closed:
            # The garbage collector may interrupt whoever holds the locks that closing needs.
            leftovers.leave(self._storage.close)
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=1)


def reading_storage(database: Database) -> ReadStorage:
    """Return the files of a database that is open for reading.

    Raises
    ------
    TypeError
        It is open for writing.
    """
    database._check_open()
    if database.mode == "r" and isinstance(database._storage, ReadStorage):
        return database._storage
    raise TypeError(
        f"{database.path} is open for writing: it cannot be pickled, nor its stores and snapshots; open it with "
        "mode='r'"
    )


def chunk_maps(database: Database, *names: str) -> Iterator[ChunkMap]:
    """Yield where live, garbage and free bytes lie in each chunk of some stores, as of the latest commit."""
    database._check_open()
    return map_chunks(database._storage, names)


def _report(progress: Callable[[int, int], object] | None, before: int, total: int, done: int = 0) -> None:
    if progress is not None:
        progress(before + done, total)


@atexit.register
def _close_all() -> None:
    for database in _open_ones():
        with contextlib.suppress(Exception):
            database.close()
    leftovers.clear()


def _open_ones() -> list[Database]:
    while True:
        with contextlib.suppress(RuntimeError):  # a thread that goes on has just opened another one
            return list(_databases)
