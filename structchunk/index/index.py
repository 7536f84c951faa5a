"""Index: (store, key) -> extent, catalog and heads of chunks, as of the last commit or one before. No records."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import takewhile
from types import MappingProxyType
from typing import Any, NamedTuple
from weakref import WeakMethod

from ..process import forks
from ..process.mutex import Mutex
from ..runs.extent import KEY_END, RowArray, unpack_row
from ..runs.run import Run
from . import stored_state
from .change import Change, Rewrite, are_many
from .counts import Counts, LiveCount, count_anew, recount, recount_one
from .drop_notes import Note, pack_note, read_notes
from .index_snapshot import IndexSnapshot, Pin, store_index_of
from .leveldb import LevelDB, Pair
from .page_cache import Budget
from .store_index import StoreIndex
from .store_keys import keys_of_pages, keys_of_store
from .stored_state import Batch, Catalog, Checkpoint
from .version import IndexVersion

Check = Callable[[RowArray], None]


class Prepared(NamedTuple):
    """What a commit does to the index: the changes and figures of each store, the new catalog, who is dropped.

    ``removed`` has all keys of those, ``notes`` what is kept of some; ``catalog_puts`` is the catalog, packed.
    ``rewrites`` are changes of stores that are too large for one.
    """

    changes: dict[int, Change]
    counts: dict[int, Counts]
    catalog: Catalog | None = None
    dropped: Collection[int] = ()
    removed: Collection[bytes] = ()
    notes: Collection[tuple[int, bytes]] = ()
    catalog_puts: Collection[Pair] = ()
    rewrites: Mapping[int, Rewrite] = MappingProxyType({})


class Index:
    """The index of one database, over LevelDB.

    Notes
    -----
    Any number of threads may read; the caller lets one write at a time.

    ``whole`` is False if a power cut took a batch and left a later one: LevelDB may hold two logs that are not
    on disk, and the older one can lose more. Up to the checkpoint all is there even then.

    ``unfinished`` is a commit of which only a part of the rows may be there, beside those of the last one, or 0.
    While it is being made, no other thread reads; who finds it later has to put all since the checkpoint again.

    Parameters
    ----------
    leveldb : LevelDB
    is_sound : bool
        Whether nothing can be lost, and nothing will be written: the batches need not be counted then.
    """

    def __init__(self, leveldb: LevelDB, *, is_sound: bool = False) -> None:
        self.leveldb = leveldb
        self._store_indexes: dict[int, StoreIndex] = {}
        self._item_sizes: dict[int, int] = {}
        last, checkpoint = stored_state.read_last(leveldb), stored_state.read_checkpoint(leveldb)
        self.database = checkpoint.database
        self.next_chunk, self.checkpoint = checkpoint.next_chunk, checkpoint.commit
        self._version = IndexVersion(last, WeakMethod(self._mend))
        self._budget = Budget()
        self._checkpoint_batch = checkpoint.batch
        batches = [] if is_sound else stored_state.read_batches(leveldb)
        self._batch = checkpoint.batch + len(batches)
        self.whole = is_sound or batches == [
            stored_state.batch_key(number) for number in range(checkpoint.batch + 1, self._batch + 1)
        ]
        self.unfinished = stored_state.read_rewriting(leveldb)
        self.pin = Pin()
        self._catalog = stored_state.read_catalog(leveldb)
        self._catalog_writer = stored_state.CatalogWriter()
        self.live: dict[int, dict[int, LiveCount]] = {}
        self.heads = stored_state.read_heads(leveldb)
        forks.on_fork(self)

    @classmethod
    def create(
        cls, path: str, database: bytes, last: int = 0, next_chunk: int = 1, *, private: bool = False
    ) -> Index:
        """Create an empty index whose checkpoint is 0; not durable before its first checkpoint."""
        leveldb = LevelDB.create(path, private=private)
        checkpoint = stored_state.checkpoint_pair(Checkpoint(database, next_chunk, commit=0, batch=0))
        leveldb.write([stored_state.last_pair(last), checkpoint, stored_state.CatalogWriter().pair({})])
        return cls(leveldb)

    @classmethod
    def open(cls, path: str) -> Index:
        """Open an existing index, to write to it.

        Raises
        ------
        CorruptionError
            It is missing, or damaged.
        """
        return cls._over(LevelDB.open(path), is_written=True)

    @classmethod
    def open_private(cls, path: str, *, is_sound: bool = False) -> Index:
        """Open a clone of an index, as :meth:`LevelDB.open_private` does."""
        return cls._over(LevelDB.open_private(path), is_sound=is_sound)

    @classmethod
    def _over(cls, leveldb: LevelDB, *, is_sound: bool = False, is_written: bool = False) -> Index:
        try:
            if is_written:
                stored_state.raise_version(leveldb)
            return cls(leveldb, is_sound=is_sound)
        except BaseException:
            leveldb.close()
            raise

    def can_reach(self, commit: int) -> bool:
        """Tell whether it can be brought to a commit, by what came since the checkpoint."""
        return self.whole and max(self.last, self.unfinished) <= commit

    def read_flags(self) -> dict[int, tuple[int, int]]:
        """Return for chunks of a copy how far down their directories were looked at, and the flags found there."""
        return stored_state.read_flags(self.leveldb)

    def read_all_live(self) -> dict[int, dict[int, LiveCount]]:
        """Return what is live in each chunk of all stores, from LevelDB."""
        return stored_state.read_all_live(self.leveldb)

    def read_live(self, store: int, snapshot: Any = None) -> dict[int, LiveCount]:
        """Return what is live in each chunk of a store, from LevelDB."""
        return stored_state.read_live(self.leveldb, store, snapshot)

    def notes(self, since: int, upto: int) -> list[Note]:
        """Return what was kept of the stores that were dropped by the commits after one, up to another."""
        return read_notes(self.leveldb, since, upto)

    # ------------------------------------------------------------------ reading

    @property
    def last(self) -> int:
        """Number of the last commit."""
        return self._version.last

    @property
    def catalog(self) -> Catalog:
        """The stores as of the last commit, by name; replaced by one that differs, never changed."""
        self._version.check()
        return self._catalog

    def store_index(self, store: int) -> StoreIndex:
        """Return the index of a store that was added.

        Raises
        ------
        StoreNotFound
            The store was dropped.
        """
        return store_index_of(self._store_indexes, store)

    def add_store(
        self, store: int, item_size: int, check: Check, live: dict[int, LiveCount] | None = None
    ) -> StoreIndex:
        """Make a store's rows readable; `check` raises if rows point outside the store's chunks.

        `live` is what is live in each of them, if that was read already.
        """
        self._item_sizes[store] = item_size
        self.live[store] = self.read_live(store) if live is None else live
        store_index = self._store_indexes[store] = StoreIndex(
            self.leveldb, self._version, store, item_size, check, self._budget
        )
        return store_index

    def add_new_store(self, store: int, item_size: int, check: Check) -> None:
        """Make a store that is not committed yet readable, of which LevelDB has nothing."""
        self.add_store(store, item_size, check, {}).begin_empty()

    def begin_empty(self) -> None:
        """Take it that LevelDB has nothing of any store: the index was made just now."""
        for store_index in self._store_indexes.values():
            store_index.begin_empty()

    def remove_store(self, store: int) -> None:
        """Forget a store that was never committed, if it is known."""
        self._store_indexes.pop(store, None)
        self.live.pop(store, None)

    def record_count(self, store: int) -> int:
        """Return how many records the store has, as of the latest commit."""
        self.store_index(store)
        self._version.check()
        # A copy of the values: another thread may add a chunk meanwhile.
        return sum(count.record_count for count in list(self.live.get(store, {}).values()))

    def snapshot(self) -> IndexSnapshot:
        """Return the index as of the latest commit."""
        version = self._version
        version.check()
        with version.lock:
            return IndexSnapshot(self, self._store_indexes, version.last, version.number, self.leveldb.snapshot())

    def keep(self, things: Iterable[object]) -> None:
        """Keep things alive for as long as there is a snapshot that was taken before now."""
        with self._version.lock:
            old = self.pin
            self.pin = old.next = Pin()
            old.kept += things

    def follow(self, newer: Index) -> None:
        """Show what another index does, which holds a newer state of the same database, and take its LevelDB.

        Snapshots of before go on with the LevelDB of before. Stores that are not there any more answer with
        StoreNotFound; new ones are the caller's to add.
        """
        self._version.check()
        with self._version.lock:
            self._adopt(newer)

    def _adopt(self, newer: Index) -> None:
        self._version.number += 1  # before the caches: a reader that saw them must see this
        self.leveldb = newer.leveldb
        self._version.last, self.unfinished = newer.last, newer.unfinished
        for name, entry in self._catalog.items():
            if entry["store"] not in newer.live and entry["store"] in self._store_indexes:
                self._store_indexes.pop(entry["store"]).drop(name)
        for store_index in self._store_indexes.values():
            store_index.follow(newer.leveldb)
        self.live = {store: counts for store, counts in newer.live.items() if store in self._store_indexes}
        self._catalog, self.heads = newer.catalog, newer.heads
        self.checkpoint, self.next_chunk = newer.checkpoint, newer.next_chunk

    # ------------------------------------------------------------------ writing

    def prepare_one(self, store: int, row: bytes) -> Prepared:
        """Return what a commit changes that is one packed row of one store."""
        store_index, extent = self._store_indexes[store], unpack_row(row)
        counts = recount_one(self.live[store], self._item_sizes[store], store_index.find(extent[0]), extent)
        return Prepared({store: store_index.put_one(extent[0], row)}, {store: counts})

    def prepare(
        self,
        runs_by_store: Mapping[int, Sequence[Run]],
        catalog: Catalog | None = None,
        compacted: Container[int] = (),
        rewritten: Container[int] = (),
        *,
        once: bool = False,
    ) -> Prepared:
        """Return what a commit changes: consecutive runs, tombstones included, for each store; and the catalog.

        Stores that the new catalog does not have any more lose all their rows; those that were compacted are
        written anew. Of those that were rewritten the runs are all there is. With `once` the next commits are not
        likely to change what is near these rows.
        """
        dropped = self._dropped(catalog)
        changes, counts, rewrites = {}, {}, {}
        for store, runs in runs_by_store.items():
            if store in dropped or not (any(map(len, runs)) or store in compacted):
                continue
            store_index = self._store_indexes[store]
            if store in rewritten:
                counts[store] = count_anew(self.live[store], self._item_sizes[store], runs)
                if are_many(runs):
                    rewrites[store] = store_index.rewrite(runs)
                else:
                    changes[store] = store_index.put_whole(runs)
                continue
            replaced = store_index.replaced(runs, once=once)
            counts[store] = recount(self.live[store], self._item_sizes[store], replaced, runs)
            changes[store] = store_index.put_all(runs) if store in compacted else store_index.put(runs)
        removed = [key for store in dropped for key in self._keys_of(store)]
        puts = [] if catalog is None else [self._catalog_writer.pair(catalog)]
        return Prepared(changes, counts, catalog, dropped, removed, catalog_puts=puts, rewrites=rewrites)

    def apply(self, commit: int, prepared: Prepared) -> None:
        """Make what was prepared, since which nothing was applied, the state as of a commit."""
        self._version.check()
        with self._version.lock:
            self._rewrite(commit, prepared.rewrites)
            self._write(commit, prepared)
        for store in prepared.changes:
            self._fold_if_due(store)

    def _rewrite(self, commit: int, rewrites: Mapping[int, Rewrite]) -> None:
        """Write what a commit changes in stores that are too large for one batch; the caller writes the rest."""
        for store, rewrite in rewrites.items():
            self.unfinished = commit
            for change in rewrite.changes:
                mark = Batch([stored_state.rewriting_pair(commit)], [])
                self._write_with(self._version.last, Prepared({store: change}, {}), mark)

    def put(
        self,
        commit: int,
        runs_by_store: Mapping[int, Sequence[Run]],
        catalog: Catalog | None = None,
        compacted: Container[int] = (),
    ) -> None:
        """Prepare a commit, or many together, and apply it: once, to bring an index to another state."""
        self.apply(commit, self.prepare(runs_by_store, catalog, compacted, once=True))

    def _replace_catalog(self, catalog: Catalog, dropped: Collection[int]) -> None:
        for name, entry in self._catalog.items():
            if entry["store"] in dropped and entry["store"] in self._store_indexes:
                self._store_indexes.pop(entry["store"]).drop(name)
        self._catalog = catalog

    def _dropped(self, catalog: Catalog | None) -> set[int]:
        if catalog is None:
            return set()
        kept = {entry["store"] for entry in catalog.values()}
        return {entry["store"] for entry in self.catalog.values()} - kept

    def _keys_of(self, store: int) -> Iterator[bytes]:
        yield from keys_of_store(self.leveldb, store)
        for chunk in self.read_live(store):
            yield stored_state.live_key(store, chunk)

    def _write(self, commit: int, prepared: Prepared) -> None:
        self._batch += 1
        ended = [stored_state.REWRITING] if self.unfinished else []
        self._write_with(commit, prepared, Batch([(stored_state.batch_key(self._batch), b"")], ended))
        self.unfinished = 0

    def _write_with(self, commit: int, prepared: Prepared, other: Batch, *, sync: bool = False) -> None:
        """Write a change, and other pairs with it, as one batch."""
        changes, counts, catalog, dropped, keys, notes, catalog_puts, _ = prepared
        puts = [stored_state.last_pair(commit), *other.puts, *catalog_puts]
        for store, figures in counts.items():
            puts += stored_state.live_pairs(store, figures)
        puts += [pack_note(commit, store, about) for store, about in notes]
        removed = [*keys, *other.deletes]
        for change in changes.values():
            puts += change.puts
            removed += change.deletes
        version = self._version
        version.check()
        with version.lock:
            try:
                version.is_changing = True
                version.number += 1  # before the caches: a reader that saw them must see this
                self.leveldb.write(puts, removed, sync=sync)
                version.last = commit
                for store, figures in counts.items():
                    self.live[store].update(figures)
                for store, change in changes.items():
                    self._store_indexes[store].apply(change)
                if catalog is not None:
                    self._replace_catalog(catalog, dropped)
                version.is_changing = False
            except BaseException:
                version.is_changing, version.is_torn = False, True
                raise

    def _mend(self) -> None:
        """Read from LevelDB again what an interrupted change may have left half-changed in memory."""
        self._version.number += 1
        self._version.last = stored_state.read_last(self.leveldb)
        catalog = stored_state.read_catalog(self.leveldb)
        known = {entry["store"] for entry in catalog.values()}
        self._replace_catalog(catalog, {entry["store"] for entry in self._catalog.values()} - known)
        for store, store_index in self._store_indexes.items():
            self.live[store] = self.read_live(store)
            store_index.forget()

    def _fold_if_due(self, store: int) -> None:
        store_index = self._store_indexes[store]
        if store_index.needs_fold(partial(self.record_count, store)):
            for change in takewhile(lambda change: self.leveldb.growth.has_room(change.size()), store_index.fold()):
                self._write(self._version.last, Prepared({store: change}, {}))

    # ------------------------------------------------------------------ checkpoint

    @property
    def commits(self) -> int:
        """How many batches were written since the checkpoint."""
        return int(self._batch - self._checkpoint_batch)

    def write_checkpoint(
        self, next_chunk: int, heads: Mapping[int, tuple[int, int]], gone: Collection[tuple[int, int]] = ()
    ) -> None:
        """Make everything up to the last commit durable, and say so.

        Parameters
        ----------
        next_chunk : int
            No chunk has this id or a higher one.
        heads : mapping
            Free and directory offset of every chunk that grew.
        gone : iterable of (store, chunk)
            Chunks that are about to be unlinked.
        """
        self.leveldb.flush_logs()
        last = self._version.last
        puts, deletes = self._checkpoint_at(last, next_chunk, heads, gone)
        self.leveldb.write(puts, deletes, sync=True)
        self._note_checkpoint(last, next_chunk, heads, gone)

    def advance(
        self,
        commit: int,
        prepared: Prepared,
        next_chunk: int,
        heads: Mapping[int, tuple[int, int]],
        gone: Collection[tuple[int, int]],
        flags: Mapping[int, tuple[int, int]],
        notes: Iterable[Note] = (),
    ) -> None:
        """Make what was prepared the state as of a commit, and the checkpoint, at once: it is on disk on return.

        Parameters
        ----------
        commit, prepared
            As for :meth:`apply`.
        next_chunk, heads, gone
            As for :meth:`write_checkpoint`.
        flags : mapping
            What :meth:`read_flags` is to return of some chunks.
        notes : iterable of Note
            What is kept of the stores that were dropped by the commits since.
        """
        self.leveldb.flush_logs()
        puts, deletes = self._checkpoint_at(commit, next_chunk, heads, gone)
        deletes += stored_state.flag_keys(gone)
        puts += stored_state.flag_pairs(flags)
        puts += [pack_note(note.commit, note.store, json.dumps(note.about).encode()) for note in notes]
        self._write_with(commit, prepared, Batch(puts, deletes), sync=True)
        self.leveldb.flush_logs()  # the batch may have gone to a new log
        self._note_checkpoint(commit, next_chunk, heads, gone)

    def fold(self, stores: Iterable[int]) -> None:
        """Move the delta of stores into their pages where it has outgrown its fraction of them.

        Of those whose delta was not read, LevelDB's tables tell whether it need be.
        """
        for store in stores:
            if self._store_indexes[store].may_need_fold(self.record_count(store)):
                self._store_indexes[store].delta_rows()
                self._fold_if_due(store)

    def merge(self, stores: Iterable[int]) -> None:
        """Move all of the delta of stores into their pages, and count what is live anew.

        So no row stays that another one shadows; nor do figures that go with a part only of what was written.
        """
        for store in stores:
            store_index, item_size = self._store_indexes[store], self._item_sizes[store]
            for change in store_index.fold():
                self._write(self._version.last, Prepared({store: change}, {}))
            counts = count_anew(self.live[store], item_size, store_index.runs(0, KEY_END))
            self._write(self._version.last, Prepared({}, {store: counts}))

    def _checkpoint_at(
        self,
        commit: int,
        next_chunk: int,
        heads: Mapping[int, tuple[int, int]],
        gone: Collection[tuple[int, int]],
    ) -> Batch:
        checkpoint = Checkpoint(self.database, next_chunk, commit, self._batch)
        puts = [*stored_state.head_pairs(heads), stored_state.checkpoint_pair(checkpoint)]
        batches = range(self._checkpoint_batch + 1, self._batch + 1)
        deletes = [*stored_state.keys_of_gone(gone), *map(stored_state.batch_key, batches)]
        return Batch(puts, deletes)

    def _note_checkpoint(
        self,
        commit: int,
        next_chunk: int,
        heads: Mapping[int, tuple[int, int]],
        gone: Collection[tuple[int, int]],
    ) -> None:
        self.checkpoint, self.next_chunk, self._checkpoint_batch = commit, next_chunk, self._batch
        self.heads.update(heads)
        for store, chunk in gone:
            self.heads.pop(chunk, None)
            self.live.get(store, {}).pop(chunk, None)

    def compact(self, stores: Iterable[int] | None = None) -> None:
        """Give back the disk space of rows that were replaced or deleted: of some stores, or of all there were."""
        self.leveldb.compact(b"B", b"P")  # deltas, and what there is for each batch and each chunk
        ranges = [(b"P", b"Q")] if stores is None else [keys_of_pages(store) for store in stores]
        for start, stop in ranges:
            self.leveldb.compact(start, stop)

    def is_entered(self) -> bool:
        """Tell whether this thread is in the middle of a call here, which something has interrupted to ask."""
        return self._version.mutex.is_mine() or self.leveldb.is_entered()

    def disown(self) -> None:
        """Forget everything in a forked child, whatever locks other threads held when it was forked."""
        self._version.mutex = Mutex()
        self._version.is_changing = self._version.is_torn = False
        self.forget()

    def forget(self) -> None:
        """Drop all caches, so that the next read of any store asks LevelDB."""
        for store_index in self._store_indexes.values():
            store_index.forget()

    def close(self, *, tidy: bool = True) -> None:
        """Close LevelDB, once the calls in flight are done; see `LevelDB.close`. Idempotent."""
        self.leveldb.close(tidy=tidy)
        self.forget()


def copy_snapshot(
    snapshot: IndexSnapshot, path: str, database: bytes, next_chunk: int, *, private: bool = False
) -> Index:
    """Create an index that holds what a snapshot shows; not durable before its first checkpoint."""
    index = Index.create(path, database, snapshot.commit, next_chunk, private=private)
    try:
        for start, stop in stored_state.OF_STORES:
            _write_pairs(index.leveldb, snapshot.pairs(start, stop))
    except BaseException:
        index.close()
        raise
    return index


def _write_pairs(target: LevelDB, groups: Iterable[list[Pair]]) -> None:
    for pairs in groups:
        target.write(pairs)
