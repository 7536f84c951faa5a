"""DatabaseHandle: what every handle of a database shows, and moving to a newer commit. It changes nothing."""

from __future__ import annotations

import abc
import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from functools import partial

from ..chunks.heap import Heap
from ..engine.storage import Storage
from ..errors import CorruptionError, Error, StoreNotFound
from ..maintenance.chunk_map import ChunkMap, map_chunks
from ..maintenance.stats import StoreStats, store_stats
from ..maintenance.verify import Problem, verify_storage
from ..readers.copied_storage import CopiedStorage
from ..readers.read_storage import ReadStorage
from ..remote.remote_storage import RemoteStorage
from ..stores.attributes import Attributes
from ..stores.binding import Binding
from ..stores.change import Change
from ..stores.collection import StoreCollection
from ..stores.notebook import database_html, note
from .attribute_records import ATTRIBUTES, Writer, attributes_of, read_text
from .feed import Horizon, changes_since
from .snapshot import Snapshot


class DatabaseHandle(StoreCollection):
    """A handle of a database, open or closed: its stores, its figures and its commits."""

    def __init__(self, storage: Storage, *, mode: str) -> None:
        self._storage = storage
        self._mode = mode
        self._horizon = Horizon()

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
        state = "closed" if self.closed else f"{len(self._storage.stores)} stores"
        return f"<Database {self.path!r}, mode {self._mode!r}, {state}>"

    def _repr_html_(self) -> str:
        """Return the stores, with their sizes and chunks, for a notebook; it reads no record."""
        try:
            stats, heaps, attributes = self.stats(), dict(self._storage.stores), dict(self.attrs.items())
        except (Error, OSError) as error:
            return note(f"{self!r}: {error}")
        stores = [(name, heaps[name].schema, held) for name, held in stats.items() if name in heaps]
        return database_html(self.path, self._mode, stores, attributes)

    def _check_open(self) -> None:
        """Raise ClosedError after :meth:`close`, and in a forked child."""
        self._storage.index.leveldb.check_open()

    # ------------------------------------------------------------------ stores

    def _binding(self, name: str) -> Binding:
        self._check_open()
        heap = self._storage.stores.get(name)
        if heap is None:
            raise StoreNotFound(f"{self.path} has no store {name!r}; it has {sorted(self._storage.stores)}")
        return self._latest(heap)

    @abc.abstractmethod
    def _latest(self, heap: Heap) -> Binding:
        """Return what a store is bound to that shows the latest commit."""

    def _names(self) -> Collection[str]:
        self._check_open()
        return self._storage.stores

    def __len__(self) -> int:
        return len(self._names())

    def _at_one_commit(self) -> Snapshot:
        return self.snapshot()

    # ------------------------------------------------------------------ attributes

    @property
    def attrs(self) -> Attributes:
        """Named JSON values of the database itself: where it comes from, what made it.

        Notes
        -----
        A mutable mapping, in which each change is a commit. Each store has attributes of its own, and transactions
        and snapshots show the same ones. A database that never had any takes nothing for them. They are committed
        as records are: copies, readers, and an index that is made anew have them. :meth:`changes` passes over them.
        """
        return attributes_of(self)

    def _check_there(self, heap: Heap) -> None:
        self._check_open()
        self._storage.index.store_index(heap.store)  # raises if it was dropped

    def _attribute_text(self, owner: int) -> bytes:
        self._check_open()
        heap = self._storage.heaps.get(ATTRIBUTES)
        return b"" if heap is None else read_text(heap, partial(self._latest(heap).find, owner))

    @abc.abstractmethod
    def _changing_attributes(self) -> AbstractContextManager[Writer]:
        """Return the transaction that a change belongs to."""

    # ------------------------------------------------------------------ commits

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
        changed. After many, after one that compacted, altered or dropped a store, when another process has begun to
        write, and after this was pickled, the index is cloned anew, which takes some milliseconds. In a forked
        child whose parent had used a database, each clone takes some file descriptors for good: where that is done
        often, spawn instead.
        """
        self._check_open()
        storage = self._storage
        return isinstance(storage, CopiedStorage) and storage.refresh()

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
        if not isinstance(self._storage, CopiedStorage):
            raise TypeError(f"{self.path} is open for writing, and always shows the newest commit; mode='r' waits")
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        pause = self._storage.pauses[0]
        while not self.refresh():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(2 * pause, self._storage.pauses[1])
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

        Attributes are passed over, but those that :meth:`compact` has moved count as lost unless `names` are given.
        Compaction is no change, and neither are changes in place, which are no commits: an object, or an array made
        by ``new()``, is in the changes of the commit that made it. Keys that one transaction put and deleted are
        among those that it deleted. Of a store that was dropped only that is known: who has not seen the changes of
        before gets HistoryLost. After :func:`rebuild_index`, who has not seen the drop does.

        A power cut may take commits that did not wait for the disk, and later ones will have their numbers.
        """
        self._check_open()
        return changes_since(self._storage, since, names, net=net)

    # ------------------------------------------------------------------ what it holds

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
        Changes nothing, and does not raise on damage. It checks one commit while others go on. Memory does not
        grow with the number of records: beside the 256 MiB that the index may take for its cache, it is for pieces
        of 262,144 rows, some hundred bytes for each commit of 1,024 records or more, and 40 for each record of the
        others since the store was compacted. Records that
        may change in place are under no checksum. With ``mode="r"`` it leaves out what a writer may be changing:
        the offsets in the headers of chunks, files that no store knows, and the checksum of every commit that
        holds a record that may change in place.
        """
        self._check_open()
        try:
            fetch_all(self)
        except CorruptionError as error:
            return [Problem(f"{error.found}, expected {error.expected}", error.path, error.advice)]
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
            found = sorted(self._storage.stores.items())
            return {
                name: store_stats(name, self._storage.places(heap, last), live.get(heap.store, {}))
                for name, heap in found
            }


def reading_storage(database: DatabaseHandle) -> ReadStorage | RemoteStorage:
    """Return the files of a database that is open for reading.

    Raises
    ------
    TypeError
        It is open for writing.
    """
    database._check_open()
    if database.mode == "r" and isinstance(database._storage, (ReadStorage, RemoteStorage)):
        return database._storage
    raise TypeError(
        f"{database.path} is open for writing: it cannot be pickled, nor its stores and snapshots; open it with "
        "mode='r'"
    )


def fetch_all(database: DatabaseHandle, progress: Callable[[int, int], object] | None = None) -> None:
    """Have all of a published database on this machine; `progress` is told how many bytes of how many are there."""
    database._check_open()
    if isinstance(database._storage, RemoteStorage):
        database._storage.fetch_all(progress)


def chunk_maps(database: DatabaseHandle, *names: str) -> Iterator[ChunkMap]:
    """Yield where live, garbage and free bytes lie in each chunk of some stores, as of the latest commit."""
    database._check_open()
    return map_chunks(database._storage, names)
