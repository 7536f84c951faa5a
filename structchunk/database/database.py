"""Database: the handle that changes a database, copies it and closes it. What it shows is in handle.py."""

from __future__ import annotations

import atexit
import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from ..chunks.heap import Heap
from ..disk import files
from ..disk.paths import AnyPath
from ..engine.in_place import NOTHING
from ..engine.storage import Storage
from ..maintenance.altering import copy_altered, hold_still
from ..maintenance.backup import copy_storage, destination
from ..maintenance.compaction import CompactionReport, compact_index, compact_stores, in_groups
from ..maintenance.update import update_copy
from ..process import leftovers
from ..remote.publish import Published, publish
from ..stores.collection import check_store_name, open_store
from ..types.alteration import alteration, asked_schema
from ..types.schema import Schema
from .attribute_records import ATTRIBUTES, Writer
from .autocommit import AutocommitBinding
from .handle import DatabaseHandle, fetch_all
from .transaction import Transaction, drop_store, replace_store, stagings_by_name
from .writer_queue import WriterQueue

CLOSE_WAIT = 1.0
"""Seconds that closing waits for a transaction of another thread."""

_databases: weakref.WeakSet[Database] = weakref.WeakSet()


class Database(DatabaseHandle):
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
        super().__init__(storage, mode=mode)
        self._sync = sync
        self._close_wanted = False
        self._queue = WriterQueue(self._begin_writing, self._end_writing)
        _databases.add(self)

    # ------------------------------------------------------------------ stores

    def _latest(self, heap: Heap) -> AutocommitBinding:
        return AutocommitBinding(self, heap)

    def _create(self, name: str, schema: Schema) -> None:
        """Create a store, as a commit of its own."""
        with self.transaction() as transaction:
            open_store(transaction, name, schema)

    def drop_store(self, name: str) -> None:
        """Delete a store, its records and attributes, as a commit of its own; its files go once that is on disk.

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

    def alter_store(
        self,
        name: str,
        new_type: Any,
        fill: Mapping[str, Any] | None = None,
        drop: Iterable[str] = (),
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        """Give the records of a store another type, as one commit.

        Parameters
        ----------
        name : str
        new_type : dtype or type
            What ``array_store`` or ``object_store`` would take to make such a store; items of a shape as
            ``np.dtype(("f4", (384,)))``. Fields are matched by name, those of structs within as well; they may be
            in another order. Numbers may become wider: integers and bools any type that holds all their values, as
            ``i2`` an ``i8`` or ``f4``, floats longer ones. ``S`` and ``U`` may become longer. Shapes, units of
            times, and whether it is an array store or an object store stay.
        fill : mapping of str to object, optional
            What new fields hold, by name; of structs within by path, ``"position.z"``, of those in arrays
            ``"points[].z"``. Others are zeros.
        drop : iterable of str
            Stored fields that are to go, likewise. No other field is lost.
        progress : callable, optional
            Called as ``progress(done, total)``, in bytes of stored records.

        Raises
        ------
        SchemaError
            Values might change, or a field would be lost; the message names each, with both types. Nothing changed.
        ValueError, TypeError
            `fill` or `drop` name what they cannot, or a value does not fit; nothing changed.
        StoreNotFound
            There is no such store.
        LockedError
            This thread has a transaction open; or an object, or an array made by ``new()``, of the store is held,
            of which changes would be lost.
        OSError
            ENOSPC when the disk has no room for the new records beside the old ones; nothing changed.

        Notes
        -----
        The commit is atomic and durable, whatever is killed meanwhile; other transactions wait, reads go on. It
        takes memory for the rows, as ``put_many`` does, not for the records, and disk space for both types until
        the old files go. Attributes stay. If the type is that of the store already, nothing is written.

        Snapshots, arrays and batches of before go on showing the old type. What was got of the store raises
        StoreNotFound from then on: get it again by its name. Readers see the new type after ``refresh()``. In
        :meth:`changes` the store is dropped and created again, with all its records, by this commit; its changes of
        before are lost.
        """
        self._binding(check_store_name(name))  # raises if there is none
        with self.transaction(sync=True) as transaction:
            storage, (staging,) = stagings_by_name(transaction, [name])
            heap = staging.heap
            asked = asked_schema(heap.schema, new_type)
            converter = alteration(name, heap.schema, asked, fill, drop)
            if asked == heap.schema:
                return
            total = sum(count.size for count in storage.index.live[heap.store].values())
            try:
                hold_still(storage, heap)
                stagings = replace_store(transaction, name, asked)
                copy_altered(*stagings, converter, partial(_report, progress, 0, total))
                transaction.commit()
            finally:
                storage.in_place.moving = NOTHING
        self.sync()

    def _changing_attributes(self) -> AbstractContextManager[Writer]:
        return self.transaction()

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
            self._storage.check_writable()  # which refuses, and says what to do

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
            ENOSPC when the disk has no room for the copy of a store; it is as it was, and those that follow.

        Notes
        -----
        Each store is one commit, or part of one where several are small, atomic and durable, during which other
        transactions wait. Reads go on, but for those that the cache of the index does not answer, which wait at the
        end while the rows of the store are put into it. Afterwards a scan of the store is one contiguous sweep of
        its new chunks.

        It takes disk space for a copy of the store while it lasts, and up to some 500 MB of memory, however many
        records there are; beside that up to 32 bytes for each record that may change in place (objects, and arrays
        made by ``new()``), and some 100 for each that is moved where a chunk of the store is skipped.

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
        for group in in_groups(stats[name] for name in wanted):
            reports += self._compact(group, partial(_report, progress, done, total))
            done += sum(stats[name].live for name in group)
            _report(progress, done, total)
        if not names and ATTRIBUTES in self._storage.heaps:
            self._compact([ATTRIBUTES], _ignore)
        compact_index(self._storage, names)
        return reports

    def _compact(self, names: list[str], progress: Callable[[int], object]) -> list[CompactionReport]:
        with self.transaction(sync=True) as transaction:
            storage, stagings = stagings_by_name(transaction, names)
            return compact_stores(storage, stagings, transaction.commit, self.sync, progress)

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

    def publish(
        self,
        url: str,
        storage_options: Mapping[str, Any] | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Published:
        """Publish the latest commit to object storage, from where others can read it; only what is new is uploaded.

        Parameters
        ----------
        url : str
            What fsspec takes, such as ``s3://bucket/name``, ``gs://...``, ``az://...``, ``file:///...``,
            ``memory://...``. Nothing but this database may be published there.
        storage_options : dict, optional
            What fsspec is to give to the package for the store: credentials, for one. They are not published.
        progress : callable, optional
            Called as ``progress(done, total)``, in bytes that are uploaded.

        Returns
        -------
        Published
            The commit, and how many objects and bytes were uploaded for it; none if it was published already, and
            no record has changed in place since.

        Raises
        ------
        NotACopy
            Another database is published there, or a commit that is not in the history of this one's latest.
        OSError
            The store fails or refuses, also when it was asked again; or others publish there all the time.
        CorruptionError
            What is there is not what was published.
        ImportError
            fsspec, or the package for the store, is not installed; the message says which.

        Notes
        -----
        Any handle can publish, also one that reads beside a writer. Readers of the store see a whole commit or
        none, whatever is killed: what a publication consists of is written before, under names that are never used
        again. What is left of one that was killed is removed by ``prune()``.

        Of two that publish at a time, one starts again upon what the other has published. That needs a store which
        refuses to write an object if there is one; where one does not, there is a warning.

        Other threads' commits wait while the database is brought to disk, as for :meth:`sync`, and while files are
        opened; not while they are read. Records that change in place are published as they are when their turn
        comes. What is uploaded goes by what was appended and what has changed in place, in blocks of 4 KiB to 512
        KiB; chunk files with records that may change in place are read whole. Compaction moves records into other
        chunk files, which are uploaded anew.
        """
        self._check_open()
        self._prepare_copy()
        return publish(self._storage, url, storage_options, progress or _ignored)

    def _prepare_copy(self) -> None:
        """Bring everything to disk, so that more of it can be linked; or have all of it on this machine."""
        if self._mode == "r":
            fetch_all(self)
        else:
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


def _ignore(done: int) -> None:
    """Report no progress."""


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


def _ignored(done: int, total: int) -> None:
    """Take a report of progress that nobody asked for."""
