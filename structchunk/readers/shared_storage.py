"""SharedStorage: a reader that may write, in turn with others, by the log alone. See ``disk/tail.py``.

A turn begins with the writer's lock. Whoever has it first sees whether the last one who wrote ended well: the page
says so, if anyone who might know it is alive. If not, it recovers as every opening for writing does. Then it
follows the log to what is published, and says on the page that it may be writing; at the end, that it is not.
The database's own index is not touched. It is brought forward, by recovery, after many commits, and where something
must be on disk for good: chunks are to be unlinked, or a record is to change in place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection

from ..chunks.allocator import Room
from ..chunks.chunk import Chunk
from ..chunks.header import Header
from ..chunks.heap import Heap
from ..disk import files
from ..disk.lock import Hold, Lock
from ..disk.paths import Paths
from ..disk.reserve import Reserve
from ..disk.superblock import Superblock
from ..disk.tail import Head, Tail
from ..engine.commit import Part, append_parts
from ..engine.staging import Staging
from ..engine.storage import Storage
from ..errors import FailedError
from ..index.index import Index, Prepared
from ..index.leveldb import refuse_after_fork
from ..runs.packed import ALL, Packed
from .copies import Copies
from .read_storage import ReadStorage, open_reader

TURN_COMMITS = 2048
"""So many commits after the last recovery the index is brought forward: who clones it reads all of them."""
Recover = Callable[[Hold, Paths], None]


class Borrowed:
    """The writer's lock, for who is to use it and not to let it go."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock

    def release(self) -> None:
        """Leave it to its owner."""

    def displaced(self) -> str:
        """Say what is wrong if the path leads to another database by now, or to none; "" if all is well."""
        return self._lock.displaced()


class CommittedPaths(Paths):
    """The paths of a database without the chunks that a transaction has made and not committed."""

    def __init__(self, root: str, drafts: Collection[int]) -> None:
        super().__init__(root)
        self._drafts = frozenset(drafts)

    def list_chunks(self) -> list[int]:
        """Return the ids of the chunk files that may hold a commit, ascending."""
        return [chunk for chunk in super().list_chunks() if chunk not in self._drafts]


class SharedStorage(ReadStorage):
    """What a process sees of a database that it and others write in turn.

    Attributes
    ----------
    timeout : float or None
        Seconds to wait for a turn; None means for ever.
    recover : callable
        Recovers the database, whose lock is held, brings all of it to disk, and writes the page.

    Notes
    -----
    What ends a turn is written so that it can be done again: whatever interrupts it, the next turn of this handle
    begins with the rest of it. Until then the lock is held.
    """

    timeout: float | None
    recover: Recover

    def __init__(self, copies: Copies, superblock: Superblock, index: Index) -> None:
        super().__init__(copies, superblock, index)
        self.epoch_pending = False
        self._turn: Lock | None = None
        self._is_marked = False
        self._must_recover = False
        self._is_flushed = True
        copies.let_write()

    # ------------------------------------------------------------------ a turn

    def begin(self) -> None:
        """Take a turn, and show the newest commit.

        Raises
        ------
        LockedError
            The time is up, or another handle of this process has the database open.
        """
        self._refuse_inside()
        self.end()  # of a transaction that was given up
        self._turn = Lock(self.paths.lock, self.timeout)
        try:
            refuse_after_fork()
            with self._mutex.lock:
                self._enter()
        except BaseException:
            self.end()
            raise

    def _enter(self) -> None:
        self.index.leveldb.check_open()
        self.check_place()
        head = self._sound_head() or self._recovered_head()
        self.catch_up()
        if head.published != self.index.last:
            raise FailedError(f"{self.paths.root}: commit {head.published} is not there; open the database again")
        self.lineage = head.lineage
        self.superblock = self.superblock._replace(epoch=head.epoch)
        self.next_chunk = max(self.next_chunk, head.next_chunk)
        self.reserve = Reserve(self.paths.reserve)
        self._is_marked = True
        self._page.mark(head.published + 1)

    @property
    def _page(self) -> Tail:
        assert self._tail is not None
        return self._tail

    def _sound_head(self) -> Head | None:
        """Return what the page says, if whoever wrote last ended well; None if that is not known."""
        if self._tail is None or not self._tail.is_in_place():
            page = Tail(self.paths.tail)
            if page.is_alone():
                return None
            page.hold()
            self._tail = page
        head = self._tail.read()
        if head is None or head.committing or self._must_recover:
            return None
        return head

    def _recovered_head(self) -> Head:
        """Recover the database, and return what the page says then."""
        assert self._turn is not None
        self._must_recover = True
        self.recover(Borrowed(self._turn), CommittedPaths(self.paths.root, self.drafts))
        page = self._tail if self._tail is not None and self._tail.is_in_place() else Tail(self.paths.tail)
        page.hold()
        self._tail = page
        head = page.read()
        if head is None:
            raise FailedError(f"{self.paths.tail} cannot be written; those who share the database need it")
        self._must_recover = False
        return head

    def end(self) -> None:
        """End the turn: clear away what did not commit, and let the lock go. Without a turn it does nothing."""
        if self._turn is None:
            return
        with self._mutex.lock:
            turn = self._turn
            if turn is not None:
                try:
                    self._leave()
                finally:
                    turn.release()
                    self._turn = None

    def _leave(self) -> None:
        self._note_unfinished()
        if self._is_marked:
            self.dirty = {}  # others may drop these chunks from now on; the page says what is not on disk
            self._is_marked = False
            self._must_recover = True
            for chunk in list(self.in_place.chunks.values()):
                chunk.flush()
            self.in_place.chunks = {}
            if self.failure:
                self._forgive()
                return
            self._sweep()
            if self._page.head is None or self._page.head.committing:
                self._page.mark(0)
            self._must_recover = False

    def _forgive(self) -> None:
        """Leave a commit that failed half-way to recovery, with which the next turn begins."""
        for chunk, heap in self.drafts.items():
            heap.discard(chunk)
        self._follower.stop()  # what the index has is not known: it is cloned again
        self.lineage, self._seen = None, (None, b"")
        self.drafts, self.exposed, self.failure = {}, {}, self.displaced()

    def catch_up(self) -> bool:
        """Show the newest commit, and tell whether it is another one; in a turn it is shown already."""
        return not self._is_marked and super().catch_up()

    def _show(self, newer: ReadStorage) -> None:
        super()._show(newer)
        for heap in self._heaps.values():
            for chunk in heap.chunks.values():
                chunk.distrust()

    # ------------------------------------------------------------------ writing

    def check_writable(self) -> None:
        """Raise if this is not its turn, or a write failed."""
        if self._turn is None:
            self.index.leveldb.check_open()  # a finaliser may have closed the database in the middle of a call
            raise FailedError(f"{self.paths.root}: the transaction has ended; begin another with db.transaction()")
        Storage.check_writable(self)

    def displaced(self) -> str:
        """Say what is wrong if another database has the path by now, or none; "" if all is well."""
        return super().displaced() or ("" if self._turn is None else self._turn.displaced())

    def _create(self, heap: Heap, header: Header) -> Chunk:
        chunk = super()._create(heap, header)
        self._copies.own_chunk(chunk)
        return chunk

    def _settle(self, stagings: list[Staging], dropped: Heap | None) -> None:
        chunks = [room.chunk for staging in stagings for room in staging.allocator.rooms.values()]
        super()._settle(stagings, dropped)
        for chunk in chunks:
            self._follower.note(chunk)

    def _publish(self, chunks: Collection[int] = (), *, is_durable: bool) -> None:
        last = self.index.last
        self._is_flushed = is_durable
        self._page.publish(last, chunks, self.next_chunk, is_durable=is_durable, committing=0)

    def _flush(self) -> None:
        """Bring all commits to disk that the page does not say are there, whoever made them."""
        head, tail = self._page.head, self._current_tail()
        changed = None if head is None or tail is None else tail.chunks(head, head.durable)
        others = set(self.paths.list_chunks() if changed is None else changed) - self.dirty.keys()
        for number in others:
            with contextlib.suppress(FileNotFoundError):  # it was unlinked, once all was on disk
                files.flush(self.paths.chunk(number))
        self.entries_dirty |= head is None or any(number >= head.named for number in others | self.dirty.keys())
        super()._flush()

    def _sweep(self) -> None:
        """Clear away what a transaction left that did not commit, before others write.

        Where views were handed out, an empty commit says that their bytes are taken.
        """
        if self.failure:
            return
        gaps = [chunk for chunk in self.exposed.values() if chunk.is_committed and chunk.free != chunk.committed]
        if gaps:
            self._write_gaps(gaps)
        self.exposed = {}
        super()._sweep()
        for heap in self._heaps.values():
            for left in heap.chunks.values():
                left.clear(left.free)

    def _remove_draft(self, chunk: int, heap: Heap) -> None:
        super()._remove_draft(chunk, heap)
        self._copies.disown_chunk(chunk)

    def _write_gaps(self, chunks: list[Chunk]) -> None:
        self._unfinished = "an abort"
        parts = [Part(Room(chunk, 0, is_new=False), Packed(ALL, 0, b""), int) for chunk in chunks]
        for chunk in chunks:
            chunk.reserve_directory(0)
        append_parts(parts, [0] * len(parts), self.index.last + 1, self.superblock.epoch)
        self.index.apply(self.index.last + 1, Prepared({}, {}))
        for chunk in chunks:
            self._follower.note(chunk)
        self._publish([chunk.id for chunk in chunks], is_durable=False)
        self._unfinished = ""

    # ------------------------------------------------------------------ checkpoint

    def _go_on(self) -> None:
        head = self._page.head
        if head is not None and self.index.last - head.base >= TURN_COMMITS:
            self._checkpoint(can_wait=True)

    def _checkpoint(self, *, can_wait: bool = False) -> None:
        """Bring the database's own index to the last commit, and all to disk."""
        self.check_writable()
        self.check_place()
        self._unfinished = "a checkpoint"
        try:
            for chunk in list(self.in_place.chunks.values()):  # a finaliser that reads may add one
                chunk.flush()
            head = self._recovered_head()
            if head.published != self.index.last:
                raise FailedError(f"{self.paths.root}: commit {self.index.last} is lost")
            self._take_over(head)
        except Exception as error:
            self._fail(error)
            raise
        self._unfinished = ""

    def _take_over(self, head: Head) -> None:
        """Go on in the lineage that a checkpoint of one's own has begun: what is shown is the same."""
        self._page.mark(self.index.last + 1)
        self.superblock = self.superblock._replace(epoch=head.epoch)
        for heap in self._heaps.values():
            for chunk in heap.chunks.values():
                chunk.settled = chunk.committed
        self.dirty, self._is_flushed = {}, True
        if self.gone:
            self.gone = []
            self._note_followed()
            self._copies.unlink_chunks(but=self.drafts)
        self.state = self._copies.state()
        self.lineage = head.lineage

    def close(self) -> None:
        """End the turn, and bring what this has committed to disk; close the clone, and remove it."""
        self._mutex.refuse_mine()
        try:
            self.end()
            with self._mutex.lock:
                if not self._is_flushed and not self.displaced():
                    self._flush()
                    self._is_flushed = True
        finally:
            super().close()


def open_shared_storage(paths: Paths, chunk_size: int, timeout: float | None, recover: Recover) -> SharedStorage:
    """Open a database for reading, and for writing in turn.

    Raises
    ------
    CorruptionError
        The index is lost, or chunks are damaged or missing.
    """
    storage = open_reader(paths, SharedStorage)
    storage.chunk_size, storage.timeout, storage.recover = chunk_size, timeout, recover
    return storage
