"""Storage: the open files of one database, and the protocol by which they change: commit, checkpoint, close.

It decides in what order chunks, index and superblock are written and flushed. What a record means, and who may
read or write, is for the layers above; what opening does after a crash is in ``recovery.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy.typing as npt

from ..chunks.chunk import Chunk
from ..chunks.header import Header, History
from ..chunks.heap import Gone, Heap, Place
from ..disk import files
from ..disk.lock import Hold
from ..disk.paths import Paths
from ..disk.reserve import Reserve
from ..disk.superblock import Superblock
from ..disk.tail import Head, Tail, begin_tail
from ..errors import FailedError
from ..index.counts import Counts
from ..index.index import Index
from ..process import forks, leftovers
from ..process.mutex import Mutex, interrupts_itself
from ..runs.extent import Extent
from ..types.schema import Schema
from . import checkpoint, drafts, provision
from .commit import Ready, append_parts, catalog_after, make_ready, with_note
from .flushing import flush_chunks
from .in_place import InPlaceViews
from .losses import going_with
from .names import Names, name_heaps
from .staging import Staging

CHECKPOINT_COMMITS = 1 << 17
"""After this many commits a checkpoint is made, so that opening after a crash has little to walk."""
CHECKPOINT_SIZE = 1 << 30
"""And after this many bytes."""


class Storage:
    """The files of one database, open for writing.

    Attributes
    ----------
    failure : str
        What went wrong half-way; from then on nothing is written.
    drafts : dict of int to Heap
        Whose heap a chunk file is that was made by a transaction and is not committed.
    exposed : dict of int to Chunk
        Those that a transaction has handed out views of.

    Notes
    -----
    Any number of threads may read heaps and index; the caller lets one stage and commit. Checkpoints may be
    made from any thread.

    A change of state that takes several steps begins by setting ``_unfinished`` and ends by clearing it, each one
    assignment. Whatever cuts it short, an error, an interrupt, a second one while the first is dealt with: who next
    has the lock finds it set, and refuses to write.
    """

    is_copy = False
    """Whether this is what a reader sees of a database that another process may be writing."""

    def __init__(self, paths: Paths, lock: Hold, superblock: Superblock, index: Index, chunk_size: int) -> None:
        self.paths = paths
        self.superblock = superblock
        self.index = index
        self.chunk_size = chunk_size
        self._heaps: dict[int, Heap] = {}
        self._named: Names | None = None
        self.drafts: dict[int, Heap] = {}
        self.exposed: dict[int, Chunk] = {}
        self.next_chunk = max(superblock.next_chunk, index.next_chunk)
        self.dirty: dict[int, Chunk] = {}
        self.entries_dirty = self.is_closed = False
        self.epoch_pending = True
        self.gone: list[Gone] = []
        self.in_place = InPlaceViews()
        self._unfinished = ""
        self._lock = lock
        self._unlinked: set[int] = set()
        self._mutex = Mutex()
        self.reserve = Reserve(paths.reserve)
        self._uncheckpointed_size = 0
        self._tail: Tail | None = None
        forks.on_fork(self)

    # ------------------------------------------------------------------ stores and chunks

    @property
    def stores(self) -> dict[str, Heap]:
        """The stores of users, by name: all heaps but that of attributes."""
        return self._names().stores

    @property
    def heaps(self) -> dict[str, Heap]:
        """All stores as of the last commit, by name; replaced by one that differs, never changed."""
        return self._names().heaps

    def _names(self) -> Names:
        names = self._named = name_heaps(self._named, self.index.catalog, self._heaps)
        return names

    def add_heap(self, heap: Heap, live: Counts | None = None) -> None:
        """Make a committed store known; `live` is what is live in its chunks, if that was read already."""
        # First: who has the heap needs its table.
        self.index.add_store(heap.store, heap.item_size, heap.check, live)
        self._heaps[heap.store] = heap
        self._named = None

    def find_heap(self, store: int) -> Heap | None:
        """Return the heap of a store by its id, or None."""
        return self._heaps.get(store)

    def new_heap(self, name: str, schema: Schema) -> Heap:
        """Return the heap of a new store, whose id is that of its first chunk, the next one to be made."""
        return Heap(self.next_chunk, name, schema)

    @property
    def store_lock(self) -> Any:
        """Is held while files are written: nobody closes them meanwhile."""
        return self._mutex.lock

    def create_chunk(self, heap: Heap, size: int, last_size: int) -> Chunk:
        """Create the next chunk file of a store, with room for one record of `size` bytes.

        It is twice as large as the one before, of `last_size` bytes; 0 if that is the store's last one.
        """
        if heap.chunks and not last_size:
            last_size = heap.chunks[max(heap.chunks)].header.file_size
        header = drafts.new_header(self.superblock.database, self.next_chunk, heap)
        return self._create(heap, drafts.sized_next(header, size, last_size, self.chunk_size))

    def create_replacement(
        self, heap: Heap, size: int, rest: int, replaces: tuple[int, ...], history: History
    ) -> Chunk:
        """Create a chunk file in place of others, which `rest` bytes of records and rows are to go into.

        It has room for a first record of `size` bytes in any case. `history` is what goes with the others.
        """
        header = drafts.new_header(self.superblock.database, self.next_chunk, heap, replaces, history)
        return self._create(heap, drafts.sized_replacement(header, size, rest, self.chunk_size))

    def _create(self, heap: Heap, header: Header) -> Chunk:
        path = self.paths.chunk(header.chunk)
        with self._mutex.lock:  # a checkpoint of another thread has either all of this, or nothing
            self.check_writable()
            self.check_place()
            # First: should this be interrupted, the id is used up, and the file will be cleared away.
            self.next_chunk, self.drafts[header.chunk] = header.chunk + 1, heap
            self.entries_dirty = True
            chunk = heap.drafts[header.chunk] = Chunk.create(path, header)
            self.dirty[chunk.id] = chunk  # its header must be on disk before a checkpoint counts the id as taken
        return chunk

    # ------------------------------------------------------------------ changes in place

    @property
    def failure(self) -> str:
        """What went wrong in writing, so that nothing is written any more, or ""."""
        return self.in_place.failure

    @failure.setter
    def failure(self, failure: str) -> None:
        self.in_place.failure = failure

    def live_array(self, heap: Heap, extent: Extent) -> npt.NDArray[Any] | None:
        """Return an extent's items for changing in place; None if it is not current any more, or writing failed."""
        return None if self.failure else self.in_place.array(heap, extent, self.checkpoint)

    # ------------------------------------------------------------------ what state it is in

    def check_writable(self) -> None:
        """Raise if nothing can be written, or a change was cut short; the caller holds the lock, and is in none."""
        if self._unfinished or self.failure or not self.index.leveldb.is_open():
            self._note_unfinished()
            self.check_not_failed()

    def check_not_failed(self) -> None:
        """Raise if the database is closed, or an earlier commit failed half-way."""
        self.index.leveldb.check_open()
        if self.failure:
            raise FailedError(f"{self.paths.root}: {self.failure}; close the database and open it again")

    def displaced(self) -> str:
        """Say what is wrong if another database has the path by now, or none; "" if all is well."""
        return self._lock.displaced()

    def is_in_place(self) -> bool:
        """Tell whether files can be written by path; if others have taken their place, never again."""
        if not self.failure:
            self.failure = self._lock.displaced()
        return not self.failure

    def check_place(self) -> None:
        """Raise if another database has the path by now, or none, and from then on refuse all writes."""
        if not self.is_in_place():
            self.check_not_failed()

    def begin(self) -> None:
        """Make ready for a transaction, or raise if nothing can be written."""
        self._refuse_inside()
        with self._mutex.lock:
            self.check_writable()
            if self.drafts or self.exposed:
                self._sweep()

    def _note_unfinished(self) -> None:
        """Refuse to write from now on if a change was cut short. The caller holds the lock, and is in none."""
        if self._unfinished:
            self.failure = self.failure or f"{self._unfinished} was interrupted, so what is on disk is not known"
            self._unfinished = ""

    def _refuse_inside(self) -> None:
        """Raise LockedError if this call interrupts another one of its own thread, which holds locks."""
        if self.is_entered():
            raise interrupts_itself()

    def is_entered(self) -> bool:
        """Tell whether this thread is in the middle of a call here, which something has interrupted to ask."""
        return self._mutex.is_mine() or self.index.is_entered()

    def places(self, heap: Heap, commit: int) -> list[Place]:
        """Return how far each chunk of a store reaches as of a commit, which is the latest one."""
        return [Place(chunk, chunk.committed, chunk.directory) for chunk in list(heap.chunks.values())]

    def newest_epoch(self) -> int:
        """Return the epoch of the latest commit, or a later one."""
        return self.superblock.epoch

    def original(self, text: str) -> str:
        """Return a message with the paths of the database's own files."""
        return text

    @contextlib.contextmanager
    def committing(self) -> Iterator[None]:
        """Hold off commits and checkpoints while the body runs."""
        self._mutex.refuse_mine()
        with self._mutex.lock:
            self._note_unfinished()
            yield

    # ------------------------------------------------------------------ commit

    def commit(
        self,
        stagings: Iterable[Staging],
        *,
        sync: bool,
        created: Iterable[Heap] = (),
        dropped: Heap | None = None,
    ) -> None:
        """Make what was staged the next commit; an exception before its first segment changes nothing.

        Parameters
        ----------
        stagings : iterable of Staging
            One for each store.
        sync : bool
            Return only when the commit is on disk.
        created : iterable of Heap
            Stores that this commit creates; each has a staging.
        dropped : Heap, optional
            The store that this commit drops; its staging has the row that says so.
        """
        created = list(created)
        self._refuse_inside()
        with self._mutex.lock:
            self.check_writable()
            changed = list(filter(Staging.is_changed, stagings))
            if sync:
                for staging in changed:
                    staging.allocator.start_flush()  # goes on while checksums are made
            ready = make_ready(self.index, changed, catalog_after(self.index.catalog, created, dropped))
            if ready is None:
                return
            if dropped is not None:
                ready = with_note(ready, dropped, going_with(list(dropped.chunks.values()), self.index.last))
            self._take_space(ready, can_spend=not created)
            self._unfinished = "a commit"
            if created:
                self._heaps = self._heaps | {heap.store: heap for heap in created}
            self._write_commit(ready, sync=sync)
            self._settle(changed, dropped)
            self._publish([part.room.chunk.id for part in ready.parts], is_durable=sync)
            self._unfinished = ""
            self._go_on()

    def _take_space(self, ready: Ready, *, can_spend: bool) -> None:
        """Take all the space that a commit needs, which is also the last chance to refuse it."""
        self.check_place()
        if self.epoch_pending:
            self._checkpoint()
        provision.take_space(self.reserve, self.index, ready.parts, ready.prepared, can_spend=can_spend)

    def _go_on(self) -> None:
        """Do what is due after a commit."""
        if self.reserve.is_short:
            provision.renew(self.reserve, self.index)
        behind = self.index.last - self.index.checkpoint
        if behind >= CHECKPOINT_COMMITS or self._uncheckpointed_size >= CHECKPOINT_SIZE:
            self._checkpoint(can_wait=True)

    def _write_commit(self, ready: Ready, *, sync: bool) -> None:
        commit = self.index.last + 1
        for room, rows, *_ in ready.parts:
            self.dirty[room.chunk.id] = room.chunk
            self._uncheckpointed_size += room.free - room.chunk.committed + len(rows.body)
        try:
            if self.reserve.is_short:
                self.index.leveldb.write(())  # raises if LevelDB has met the full disk before
            append_parts(ready.parts, ready.crcs, commit, self.superblock.epoch)
            if sync:
                self._flush()
            self.index.apply(commit, ready.prepared)
        except Exception as error:
            self._fail(error)
            raise

    def begin_publishing(self) -> None:
        """Write the page that others follow anew, now that recovery is over; they can do without."""
        if not self.is_in_place():
            return
        superblock, last = self.superblock, self.index.last
        epoch = superblock.epoch + self.epoch_pending
        durable, named = (0, 0) if self.epoch_pending else (last, self.next_chunk)
        lineage = superblock.generation, superblock.database, epoch, last
        self._tail = begin_tail(self.paths.tail, Head(*lineage, last, durable, last + 1, 0, self.next_chunk, named))

    def _publish(self, chunks: Collection[int] = (), *, is_durable: bool) -> None:
        """Tell others of the last commit, which appended to these chunks, and whether all is on disk."""
        self._tell(chunks, is_durable=is_durable, committing=self.index.last + 1)

    def _tell(self, chunks: Collection[int], *, is_durable: bool, committing: int) -> None:
        """Publish the last commit; after an error those who follow wait for the next one."""
        if self._tail is not None:
            with contextlib.suppress(OSError):
                self._tail.publish(
                    self.index.last, chunks, self.next_chunk, is_durable=is_durable, committing=committing
                )

    def _end_publishing(self) -> None:
        """Tell others that all is on disk, and that nothing is written any more until someone has the lock."""
        if not (self.failure or self.epoch_pending):
            self._tell((), is_durable=True, committing=0)

    def _settle(self, stagings: list[Staging], dropped: Heap | None) -> None:
        for staging in stagings:
            for room in staging.allocator.rooms.values():
                if room.is_new:
                    staging.heap.settle(room.chunk)
                    del self.drafts[room.chunk.id]
            if staging.replaced:
                self._retire(staging)
        if dropped is not None:
            self._drop(dropped)

    def _drop(self, dropped: Heap) -> None:
        self._heaps = {store: heap for store, heap in self._heaps.items() if heap is not dropped}
        dropped.is_dropped, dropped.is_altered = True, dropped.name in {heap.name for heap in self._heaps.values()}
        for chunk in dropped.chunks.values():
            chunk.map_source()  # for the snapshots that go on reading it when the file is gone
        # The chunk that says that the store was dropped, its last one, must go last.
        self.gone += [Gone(dropped.store, chunk) for chunk in sorted(dropped.chunks)]

    def _retire(self, staging: Staging) -> None:
        """Forget the chunks that a commit replaced, but for the snapshots and scans that go on reading them."""
        heap = staging.heap
        self.index.keep(staging.replaced)
        for old in staging.replaced:
            heap.retire(old)
            self.gone.append(Gone(heap.store, old.chunk.id))

    def _fail(self, error: Exception) -> None:
        """Say in later errors what has failed; that something has, ``_unfinished`` says."""
        what = f"{type(error).__name__}: {error}"
        self.failure = f"an earlier write failed ({what}), so what is on disk is not known"
        provision.leave(self.reserve, self.index)

    def _flush(self) -> None:
        flush_chunks(self.dirty.values())
        self.dirty = {}
        if self.entries_dirty:
            files.flush_directory(self.paths.chunks)
            self.entries_dirty = False

    def discard(self) -> None:
        """Take back what a transaction did that did not commit. After a failed commit all is left for recovery."""
        self._mutex.refuse_mine()
        with self._mutex.lock:
            self._note_unfinished()
            self._sweep()

    def _sweep(self) -> None:
        """Clear away what a transaction left that did not commit: no transaction is open here.

        Chunk files that no commit has named go. Where views were handed out, their bytes stay as a gap. What
        interrupts this leaves the rest to the next call.
        """
        if not self.is_in_place():
            return
        for chunk, exposed in list(self.exposed.items()):
            if exposed.free != exposed.committed:
                exposed.committed = exposed.free
                self.dirty[chunk] = exposed  # so that the next checkpoint keeps the gap
            self.exposed.pop(chunk)
        for chunk, heap in list(self.drafts.items()):
            self._remove_draft(chunk, heap)

    def _remove_draft(self, chunk: int, heap: Heap) -> None:
        for chunks in (self.exposed, self.in_place.chunks, self.dirty):
            chunks.pop(chunk, None)
        heap.discard(chunk)
        if chunk == heap.store:
            self.index.remove_store(chunk)
        files.unlink(self.paths.chunk(chunk))
        self.drafts.pop(chunk)

    def give_back(self, chunk: Chunk) -> None:
        """Remove a chunk file that a transaction has made and does not need any more."""
        with self._mutex.lock:
            self.check_writable()
            self.check_place()
            self._remove_draft(chunk.id, self.drafts[chunk.id])

    # ------------------------------------------------------------------ checkpoint

    def checkpoint(self) -> None:
        """Bring everything to disk, the index and changes made in place too; then unlink what is gone."""
        self._refuse_inside()
        with self._mutex.lock:
            self._checkpoint()

    def _checkpoint(self, *, can_wait: bool = False) -> None:
        self.check_writable()
        self.check_place()
        grown = checkpoint.grown_chunks(self.heaps.values(), self.index.heads)
        count = len(grown) + len(self.gone)
        if not provision.take_space_for_checkpoint(self.reserve, self.index, count, can_wait=can_wait):
            return
        self._unfinished = "a checkpoint"
        try:
            self._write_checkpoint(grown)
            self._unlink_gone()
        except Exception as error:
            self._fail(error)
            raise
        self._publish(is_durable=True)
        self._unfinished = ""
        provision.renew(self.reserve, self.index)

    def renew_reserve(self) -> None:
        """Make the reserve anew if it was given up."""
        with self._mutex.lock:
            if self.reserve.is_short:
                provision.renew(self.reserve, self.index)

    def _write_checkpoint(self, grown: list[Chunk]) -> None:
        exposed = list(self.in_place.chunks.values())  # a finaliser that reads may add one
        self.dirty.update({chunk.id: chunk for chunk in exposed if chunk.id not in self._unlinked})
        self._flush()
        checkpoint.write_index(self.index, grown, self.gone, self.next_chunk)
        path, new_epoch = self.paths.superblock, self.epoch_pending
        self.superblock = checkpoint.write_superblock(
            path, self.superblock, self.index, self.next_chunk, new_epoch=new_epoch
        )
        self.epoch_pending = False
        for chunk in grown:
            chunk.settled = chunk.committed
        self._uncheckpointed_size = 0

    def _unlink_gone(self) -> None:
        checkpoint.unlink(self.paths, self.gone)
        for _, chunk in self.gone:
            self._unlinked.add(chunk)  # who still holds the store may expose a view of it yet
            self.in_place.chunks.pop(chunk, None)
            self.dirty.pop(chunk, None)
        self.gone = []

    # ------------------------------------------------------------------ close

    def close(self) -> None:
        """Checkpoint, unless nothing changed or a write failed; then close the index and let the lock go.

        Interrupted, it can be called again.
        """
        self._mutex.refuse_mine()
        with self._mutex.lock:
            try:
                self._note_unfinished()
                if self.index.leveldb.is_open():
                    if self.drafts or self.exposed:
                        self._sweep()
                    if self._has_unsaved() and not self.failure:
                        self._checkpoint()
                    self._end_publishing()
            finally:
                tidy = self.is_in_place()
                # First: should the rest be interrupted, nothing is written any more without the lock.
                self.failure = self.failure or "closing it was interrupted"
                self._let_go(tidy=tidy)

    def _let_go(self, *, tidy: bool = True) -> None:
        """Close the index and the chunks, and let the lock go, whatever goes wrong with one of them."""
        try:
            self.index.close(tidy=tidy)
            if not self.is_copy and not self.displaced():
                provision.leave(self.reserve, self.index)
        finally:
            try:
                if self._tail is not None:
                    self._tail.close()
                for heap in self._heaps.values():
                    heap.close()
            finally:
                if not self.index.leveldb.is_held():  # else another process could open what is written here yet
                    self._lock.release()
        self.is_closed = True

    def _has_unsaved(self) -> bool:
        return any((self.dirty, self.in_place.chunks, self.gone, self.index.last != self.superblock.checkpoint))

    def __del__(self) -> None:
        if not getattr(self, "is_closed", True):
            # The garbage collector may interrupt whoever holds the locks that closing needs.
            leftovers.leave(self.close)

    def disown(self) -> None:
        """Be closed in a forked child, whatever locks threads held: all of it is the parent's."""
        self.is_closed = True
        self._mutex = Mutex()
