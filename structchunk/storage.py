"""Storage: the open files of one database, and the protocol by which they change: commit, checkpoint, close.

It decides in what order chunks, index and superblock are written and flushed. What a record means, and who may
read or write, is for the layers above; what opening does after a crash is in ``recovery.py``.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from . import files
from .background import Background
from .chunk import Chunk
from .errors import FailedError
from .extent import ROW_SIZE, TOMBSTONE, ZERO, Extent, unpack_row
from .header import PAGE, Header, round_up
from .heap import Heap
from .index import Catalog, Index, Prepared
from .lending import Lending
from .packed import ALL, Packed, pack
from .paths import Paths
from .piece import rows_of_chunk
from .schema import Schema
from .segment import SEGMENT_SIZE, data_crc, pack_record
from .staging import Staging
from .superblock import Superblock

MAX_CHUNK_SIZE = 4 << 30
CHECKPOINT_COMMITS = 1 << 17
"""After this many commits a checkpoint is made, so that opening after a crash has little to walk."""
CHECKPOINT_SIZE = 1 << 30
"""And after this many bytes."""


class Part(NamedTuple):
    """What a commit will append to one chunk: its rows, and what gives the CRC of their records."""

    chunk: Chunk
    rows: Packed
    crc: Callable[[], int]


class Gone(NamedTuple):
    """A chunk that is to be unlinked once a checkpoint has made that safe."""

    store: int
    chunk: int


class Place(NamedTuple):
    """A chunk, and how far it reaches as of some commit."""

    chunk: Chunk
    free: int
    directory: int


class Hold(Protocol):
    """What keeps others away for as long as a database is open: the writer's lock, or a reader's directory."""

    def release(self) -> None:
        """Let go. Idempotent."""

    def disown(self) -> None:
        """Let go of a forked child's copy, which is the parent's."""

    def displaced(self) -> str:
        """Say what is wrong if the path leads to another database by now, or to none; "" if all is well."""


class Storage:
    """The files of one database, open for writing.

    Notes
    -----
    Any number of threads may read heaps and index; the caller lets one stage and commit. Checkpoints may be
    made from any thread.
    """

    is_copy = False
    """Whether this is what a reader sees of a database that another process may be writing."""

    def __init__(self, paths: Paths, lock: Hold, superblock: Superblock, index: Index, chunk_size: int) -> None:
        self.paths = paths
        self.superblock = superblock
        self.index = index
        self.chunk_size = chunk_size
        self.heaps: dict[str, Heap] = {}
        self.next_chunk = max(superblock.next_chunk, index.next_chunk)
        self.dirty: dict[int, Chunk] = {}
        self.directory_dirty = False
        self.epoch_pending = True
        self.gone: list[Gone] = []
        self.failure = ""
        self._lock = lock
        self.lending = Lending()
        self._creating: set[str] = set()
        self._unlinked: set[int] = set()
        self._commit_lock = threading.RLock()
        self._uncheckpointed_size = 0

    # ------------------------------------------------------------------ stores and chunks

    def add_heap(self, heap: Heap) -> None:
        """Make a committed store known."""
        self.heaps[heap.name] = heap
        self.index.add_table(heap.store, heap.item_size, heap.check)

    def new_heap(self, name: str, schema: Schema) -> Heap:
        """Make the heap of a new store, with its first chunk, whose id is the store's id."""
        heap = Heap(self.next_chunk, name, schema, self.create_chunk)
        heap.roll()
        self.index.add_table(heap.store, heap.item_size, heap.check)
        return heap

    def create_chunk(self, heap: Heap, size: int) -> Chunk:
        """Create the next chunk file of a store, with room for one record of `size` bytes."""
        last = heap.chunks[max(heap.chunks)].header.file_size if heap.chunks else 0
        usual = min(2 * last, MAX_CHUNK_SIZE) if last else self.chunk_size
        draft = self._draft(heap, ())
        return self._create(replace(draft, file_size=max(usual, _least_size(draft, size))))

    def create_replacement(self, heap: Heap, size: int, rest: int, replaces: tuple[int, ...]) -> Chunk:
        """Create a chunk file in place of others.

        It is of the size that a store grows to in doubling, from the first size on, until it holds `rest`
        bytes of records and rows, or is of the largest size; a first record of `size` bytes fits in any case.
        """
        draft = self._draft(heap, replaces)
        wanted, usual = _least_size(draft, rest), self.chunk_size
        while usual < min(wanted, MAX_CHUNK_SIZE):
            usual = min(2 * usual, MAX_CHUNK_SIZE)
        return self._create(replace(draft, file_size=max(usual, _least_size(draft, size))))

    def _draft(self, heap: Heap, replaces: tuple[int, ...]) -> Header:
        about = {"name": heap.name, "kind": heap.schema.kind, "schema": heap.schema.descriptor}
        fixed = (self.superblock.database, self.next_chunk, heap.store, heap.item_size)
        return Header(*fixed, 0, time.time_ns(), about, replaces)

    def _create(self, header: Header) -> Chunk:
        path = self.paths.chunk(header.chunk)
        with self._commit_lock:  # a checkpoint of another thread has either all of this, or nothing
            self.check_place()
            self.next_chunk += 1  # first: should this be interrupted, the id is used up
            self._creating.add(os.path.basename(path))
            chunk = Chunk.create(path, header)
            self.directory_dirty = True
            self.dirty[chunk.id] = chunk
        return chunk

    # ------------------------------------------------------------------ changes in place

    def live_array(self, heap: Heap, extent: Extent) -> npt.NDArray[Any] | None:
        """Return an extent's items for changing in place; None if it is not current any more, or writing failed."""
        return None if self.failure else self.lending.array(heap, extent, self.checkpoint)

    # ------------------------------------------------------------------ commit

    def check_usable(self) -> None:
        """Raise if nothing can be written."""
        self.check_sound()

    def check_sound(self) -> None:
        """Raise if the database is closed, or an earlier commit failed half-way."""
        self.index.leveldb.check_open()
        if self.failure:
            raise FailedError(f"{self.paths.root}: {self.failure}; close the database and open it again")

    def is_in_place(self) -> bool:
        """Tell whether files can be written by path; if others have taken their place, never again."""
        if not self.failure:
            self.failure = self._lock.displaced()
        return not self.failure

    def check_place(self) -> None:
        """Raise if another database has the path by now, or none, and from then on refuse all writes."""
        if not self.is_in_place():
            self.check_sound()

    def places(self, heap: Heap, commit: int) -> list[Place]:
        """Return how far each chunk of a store reaches as of a commit, which is the latest one.

        Those that an open transaction has made are not among them: they may be gone at any time.
        """
        chunks = [chunk for chunk in list(heap.chunks.values()) if chunk.is_committed]
        return [Place(chunk, chunk.committed, chunk.directory) for chunk in chunks]

    def newest_epoch(self) -> int:
        """Return the epoch of the latest commit, or a later one."""
        return self.superblock.epoch

    def original(self, text: str) -> str:
        """Return a message with the paths of the database's own files."""
        return text

    @contextlib.contextmanager
    def committing(self) -> Iterator[None]:
        """Hold off commits and checkpoints while the body runs."""
        with self._commit_lock:
            yield

    def is_creating(self, name: str) -> bool:
        """Tell whether a file in the chunk directory is one that an open transaction makes."""
        return name in self._creating

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
        with self._commit_lock:
            self.check_usable()
            stagings = [staging for staging in stagings if staging.is_changed()]
            if sync:
                for staging in stagings:
                    staging.heap.start_flush()  # goes on while checksums are made
            with Background() as background:
                parts = [part for staging in stagings for part in _parts(staging, background)]
                if not parts:
                    return
                prepared = self._prepare(stagings, self._catalog(created, dropped))
            crcs = [part.crc() for part in parts]
            self.check_place()
            if self.epoch_pending:
                self.checkpoint()
            for part in parts:
                part.chunk.reserve_directory(len(part.rows.body))
            try:
                self._append(parts, crcs, self.index.last + 1)
                if sync:
                    self._flush()
                self.index.apply(self.index.last + 1, prepared)
                self._settle(stagings, created, dropped)
            except BaseException as error:
                self._poison(error)
                raise
        if self._checkpoint_due():
            self.checkpoint()

    def _catalog(self, created: list[Heap], dropped: Heap | None) -> Catalog | None:
        """Return the catalog after a commit, or None if it does not change it."""
        if not created and dropped is None:
            return None
        catalog = {
            name: entry for name, entry in self.index.catalog.items() if dropped is None or name != dropped.name
        }
        for heap in created:
            about = {"kind": heap.schema.kind, "schema": heap.schema.descriptor}
            catalog[heap.name] = {"store": heap.store, **about}
        return catalog

    def _append(self, parts: list[Part], crcs: list[int], commit: int) -> None:
        epoch, count = self.superblock.epoch, len(parts)
        for number, ((chunk, rows, _), crc) in enumerate(zip(parts, crcs, strict=True)):
            start, free = chunk.committed, chunk.free
            record = pack_record(chunk.id, commit, epoch, count, number, start, free, crc, rows)
            self.dirty[chunk.id] = chunk
            chunk.append_segment(rows.body, record, free)
            self._uncheckpointed_size += free - start + len(rows.body)

    def _prepare(self, stagings: list[Staging], catalog: Catalog | None) -> Prepared:
        """Return what a commit does to the index."""
        row = stagings[0].only_row() if len(stagings) == 1 and catalog is None else None
        if row is not None:
            return self.index.prepare_one(stagings[0].heap.store, row)
        rows = {staging.heap.store: staging.all_pieces() for staging in stagings}
        compacted = {staging.heap.store for staging in stagings if staging.replaced}
        return self.index.prepare(rows, catalog, compacted)

    def _settle(self, stagings: list[Staging], created: list[Heap], dropped: Heap | None) -> None:
        self._creating.clear()
        for staging in stagings:
            staging.heap.settle()
            self._retire(staging)
        for heap in created:
            self.heaps[heap.name] = heap
        if dropped is not None:
            del self.heaps[dropped.name]
            for chunk in dropped.chunks.values():
                chunk.map_source()  # for the snapshots that go on reading it when the file is gone
            # The chunk that says that the store was dropped, its last one, must go last.
            self.gone += [Gone(dropped.store, chunk) for chunk in sorted(dropped.chunks)]

    def _retire(self, staging: Staging) -> None:
        """Forget the chunks that a commit replaced, but for the snapshots and scans that go on reading them."""
        if not staging.replaced:
            return
        heap = staging.heap
        self.index.keep(staging.replaced)
        for old in staging.replaced:
            heap.retire(old)
            self.gone.append(Gone(heap.store, old.chunk.id))

    def _poison(self, error: BaseException) -> None:
        """Refuse all further writes: what this one left on disk is unknown."""
        what = f"{type(error).__name__}: {error}"
        self.failure = f"an earlier write failed ({what}), so what is on disk is not known"

    def _flush(self) -> None:
        for chunk in self.dirty.values():
            chunk.flush()
        self.dirty = {}
        if self.directory_dirty:
            files.flush_directory(self.paths.chunks)
            self.directory_dirty = False

    def discard(self, stagings: Iterable[Staging], created: Iterable[Heap] = ()) -> None:
        """Take back what was staged; after a failed commit leave everything for recovery."""
        if not self.is_in_place():
            return
        with self._commit_lock:
            for staging in stagings:
                if staging.lent:
                    self.dirty.update(staging.heap.touched)  # so that the next checkpoint keeps the gap
                for chunk in staging.heap.rewind(keep=staging.lent):
                    self.dirty.pop(chunk.id, None)
                    self.lending.chunks.pop(chunk.id, None)
                    files.unlink(chunk.path)
            self._creating.clear()
            for heap in created:
                if self.heaps.get(heap.name) is not heap:  # else it was interrupted just after its commit
                    self.index.remove_table(heap.store)

    # ------------------------------------------------------------------ checkpoint

    def _checkpoint_due(self) -> bool:
        behind = self.index.last - self.index.checkpoint
        return behind >= CHECKPOINT_COMMITS or self._uncheckpointed_size >= CHECKPOINT_SIZE

    def checkpoint(self) -> None:
        """Bring everything to disk, the index and changes made in place too; then unlink what is gone."""
        with self._commit_lock:
            self.check_usable()
            self.check_place()
            try:
                self._write_checkpoint()
                self._unlink_gone()
            except BaseException as error:
                self._poison(error)
                raise

    def _write_checkpoint(self) -> None:
        self.dirty.update(
            {chunk.id: chunk for chunk in self.lending.chunks.values() if chunk.id not in self._unlinked}
        )
        self._flush()
        grown = self._heads()
        heads = {chunk.id: (chunk.committed, chunk.directory) for chunk in grown}
        self.index.write_checkpoint(self.next_chunk, heads, self.gone)
        self._write_superblock()
        for chunk in grown:
            chunk.settled = chunk.committed
        self._uncheckpointed_size = 0

    def _heads(self) -> list[Chunk]:
        """Return the chunks that hold a commit and grew since the last checkpoint."""
        chunks = [chunk for heap in self.heaps.values() for chunk in list(heap.chunks.values())]
        known = self.index.heads
        return [
            chunk
            for chunk in chunks
            if chunk.is_committed and known.get(chunk.id) != (chunk.committed, chunk.directory)
        ]

    def _write_superblock(self) -> None:
        old = self.superblock
        new = old._replace(
            sequence=old.sequence + 1,
            checkpoint=self.index.last,
            epoch=old.epoch + self.epoch_pending,
            next_chunk=self.next_chunk,
        )
        new.write(self.paths.superblock)
        self.superblock = new
        self.epoch_pending = False

    def _unlink_gone(self) -> None:
        lasts = set({gone.store: gone for gone in self.gone}.values())
        for batch in ([gone for gone in self.gone if gone not in lasts], lasts):
            for gone in batch:
                files.unlink(self.paths.chunk(gone.chunk))
                self._unlinked.add(gone.chunk)  # who still holds the store may lend a view of it yet
                self.lending.chunks.pop(gone.chunk, None)
                self.dirty.pop(gone.chunk, None)
            if batch:
                files.flush_directory(self.paths.chunks)
        self.gone = []

    def close(self) -> None:
        """Checkpoint, unless nothing changed or a write failed; then close the index and let the lock go."""
        try:
            unsaved = (
                self.dirty or self.lending.chunks or self.gone or self.index.last != self.superblock.checkpoint
            )
            if unsaved and not self.failure:
                self.checkpoint()
        finally:
            try:
                self.index.close(tidy=self.is_in_place())
                for heap in self.heaps.values():
                    heap.close()
            finally:
                self._lock.release()

    def disown(self) -> None:
        """Let go of everything in a forked child, where it is the parent's, whatever locks threads held."""
        self._commit_lock = threading.RLock()
        self.index.disown()
        self._lock.disown()


def _least_size(draft: Header, size: int) -> int:
    """Return the size of a file that has room for a record of `size` bytes, or for as many of records and rows."""
    return round_up(draft.data_offset + size + ROW_SIZE + 2 * SEGMENT_SIZE, PAGE)


def _parts(staging: Staging, background: Background) -> list[Part]:
    """Return what a commit appends to each chunk that a store's staged rows touched; checksums go on meanwhile."""
    heap = staging.heap
    row = staging.only_row()
    if row is not None and len(heap.touched) == 1:
        chunk = next(iter(heap.touched.values()))
        return [Part(chunk, Packed(ALL, 1, row), partial(_row_crc, chunk, unpack_row(row), heap.item_size))]
    pieces = staging.all_pieces()
    parts = []
    for chunk in heap.touched.values():
        rows = rows_of_chunk(pieces, chunk.id)
        if len(rows) or chunk.free != chunk.committed or chunk.id in heap.created:
            summed = partial(data_crc, memoryview(chunk.source), rows, heap.item_size)
            crc = background.begin(summed, chunk.free - chunk.committed)
            parts.append(Part(chunk, pack(rows, heap.item_size), crc))
    return parts


def _row_crc(chunk: Chunk, extent: Extent, item_size: int) -> int:
    _, offset, length, _, flags = extent
    covered = length and not flags & (TOMBSTONE | ZERO)
    return zlib.crc32(chunk.source[offset : offset + length * item_size]) if covered else 0
