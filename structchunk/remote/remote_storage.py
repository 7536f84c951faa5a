"""Reading what is published: how it is opened, and moves on to a later publication.

The manifest says where all bytes lie, and the objects of the index which records there are: of these a private
index is made. Chunks are local files, into which blocks are fetched before they are read.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import takewhile
from typing import Any, NamedTuple

from ..chunks.chunk import Chunk
from ..chunks.heap import Heap, Place
from ..disk.paths import AnyPath, Paths
from ..disk.superblock import Superblock
from ..errors import CommitGone, CorruptionError, FailedError, ReadOnlyError
from ..index.index import Index
from ..index.index_snapshot import IndexSnapshot
from ..readers.copied_storage import CopiedStorage
from ..runs.extent import MUTABLE
from ..types.schema import schema_from_descriptor
from .address import only_read, shown
from .cache import CACHE_SIZE, Cache, default_directory
from .cached_chunk import CachedChunk
from .fetching import Fetching, wait
from .manifest import Manifest, PublishedChunk
from .objects import Objects, again_if_damaged, open_objects
from .publications import find_newest, kept, read_manifest
from .remote_chunk import RemoteChunk, RemoteHeap
from .remote_index import advance_index, create_index
from .row_cache import RowCache


class Address(NamedTuple):
    """Where a published database is, and how it is to be read.

    Attributes
    ----------
    url : str
    options : mapping, optional
        What fsspec is given; may hold credentials.
    cache : path-like, optional
        The cache's directory; None means the usual one.
    cache_size : int
        How much it may take when the database is opened, in bytes.
    commit : int, optional
        What is shown for good; None means the newest.
    """

    url: str
    options: Mapping[str, Any] | None = None
    cache: AnyPath | None = None
    cache_size: int = CACHE_SIZE
    commit: int | None = None

    @property
    def identity(self) -> str:
        """What no other address has, whatever its commit. It may have credentials."""
        return repr(tuple(self._replace(commit=None)))

    def __hash__(self) -> int:
        return hash((self.identity, self.commit))

    def __repr__(self) -> str:
        return f"<commit {self.commit} at {shown(self.url)}>"


class RemotePaths(Paths):
    """The URL of a published database, and where its chunks are kept."""

    is_written = False

    def __init__(self, url: str, cache: Cache) -> None:
        super().__init__(url, os.path.join(cache.root, "chunks"))


class RemoteStorage(CopiedStorage):
    """What a reader sees of a published database: one publication, until :meth:`refresh`.

    Attributes
    ----------
    address : Address
    manifest : Manifest
        Of what is shown.
    """

    pauses = (0.2, 2.0)

    def __init__(self, source: Source, manifest: Manifest, heaps: dict[int, RemoteHeap], index: Index) -> None:
        paths = RemotePaths(source.objects.url, source.cache)
        super().__init__(paths, source.cache, _superblock(manifest), index, 0)
        self._source = source
        self._heaps.update(heaps)
        self.address = source.address
        self.manifest = manifest
        self._hold_chunks()

    def check_writable(self) -> None:
        """Refuse, and say what to do."""
        raise ReadOnlyError(only_read(self.paths.root))

    def places(self, heap: Heap, commit: int) -> list[Place]:
        """Return how far each chunk of a store that had any commit reaches."""
        return [place for place in super().places(heap, commit) if place.chunk.is_committed]

    def refresh(self) -> bool:
        """Show the newest publication, unless it is to be another one, and tell whether it was not shown before."""
        if self.address.commit is not None:
            self.index.leveldb.check_open()
            return False
        with self.committing():
            self.index.leveldb.check_open()
            newest = _newest(self._source.objects)
            if not _is_later(newest, self.manifest, self.paths.root):
                return False
            self._show(newest)
            return True

    def _show(self, newest: Manifest) -> None:
        source = self._source
        chunks = {chunk.id: chunk for heap in self._heaps.values() for chunk in heap.chunks.values()}
        heaps = source.heaps(newest, chunks)
        pairs = zip(newest.rows, self.manifest.rows, strict=False)
        same = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        if same:  # what was behind them is in what is behind them now, or was replaced there
            entries = source.rows.entries(newest, newest.rows[same:])
            move = partial(advance_index, self.index, newest, heaps, entries, self.paths.root)
        else:
            move = partial(self.index.follow, source.index(newest, heaps.values()))
        self.take_over(dict(heaps), _superblock(newest), move)
        self._hold_chunks()
        source.rows.forget_others(newest)
        self.manifest = newest  # last: if this is interrupted, it is done again

    def _hold_chunks(self) -> None:
        """Have sweeps keep the chunks that they read, whatever is shown later."""
        for heap in self._heaps.values():
            assert isinstance(heap, RemoteHeap)
            heap.index = self.index

    def keep(self, snapshot: IndexSnapshot | None = None) -> Address:
        """Return where other processes find the commit that is shown, or that of a view."""
        return self.address._replace(commit=self.index.last if snapshot is None else snapshot.commit)

    def fetch_all(self, progress: Callable[[int, int], object] | None = None) -> None:
        """Fetch all that is published, and not there yet."""
        chunks = [chunk for heap in self.heaps.values() for chunk in list(heap.chunks.values())]
        total = sum(chunk.header.file_size - chunk.directory + chunk.committed for chunk in chunks)
        done = 0
        for chunk in chunks:
            assert isinstance(chunk, RemoteChunk)
            for job in chunk.fetch_all():
                wait([job])
            done += chunk.header.file_size - chunk.directory + chunk.committed
            if progress is not None:
                progress(done, total)


class Source:
    """Where a reader has a published database from, and what it has of its own on this machine.

    Attributes
    ----------
    address : Address
    objects : Objects
    cache : Cache
    """

    def __init__(self, address: Address, objects: Objects, cache: Cache) -> None:
        self.address = address
        self.objects = objects
        self.cache = cache
        self.rows = RowCache(os.path.join(cache.root, "rows"), objects)
        self._generation = 0

    def heaps(self, manifest: Manifest, known: Mapping[int, Chunk]) -> dict[int, RemoteHeap]:
        """Return the stores of a publication; chunks that are known stay, if they have the same bytes."""
        by_store: dict[int, list[RemoteChunk]] = {}
        with self.cache.making():
            for published in manifest.chunks.values():
                chunk = self._chunk(manifest, published, known.get(published.id))
                by_store.setdefault(published.store, []).append(chunk)
        heaps = [self._heap(name, entry, by_store) for name, entry in manifest.catalog.items()]
        return {heap.store: heap for heap in heaps}

    def _heap(self, name: str, entry: Mapping[str, Any], by_store: Mapping[int, list[RemoteChunk]]) -> RemoteHeap:
        url = self.objects.url
        heap = RemoteHeap(entry["store"], name, schema_from_descriptor(entry["schema"], url))
        for chunk in by_store.get(heap.store, []):
            if chunk.header.item_size != heap.item_size:
                found = f"items of {chunk.header.item_size} bytes in chunk {chunk.id}"
                raise CorruptionError(url, found=found, expected=f"{heap.item_size}, as its type says")
            heap.add(chunk)
        return heap

    def _chunk(self, manifest: Manifest, published: PublishedChunk, known: Chunk | None) -> RemoteChunk:
        if isinstance(known, RemoteChunk) and known.follow(published, manifest.objects):
            return known
        version = ""
        if self.address.commit is not None and published.flags & MUTABLE:  # it is shown as it was then
            version = f"{zlib.crc32(published.crcs.tobytes(), published.end):08x}"
        cached = CachedChunk(self.cache.chunk(published, version), published, manifest.number)
        return RemoteChunk(Fetching(cached, self.objects, manifest.objects))

    def index(self, manifest: Manifest, heaps: Iterable[RemoteHeap]) -> Index:
        """Return a new index of a publication."""
        entries = self.rows.entries(manifest, manifest.rows)
        self._generation += 1
        path = Paths(self.cache.private).index(self._generation)
        return create_index(path, manifest, heaps, entries, self.objects.url)


def open_published(address: Address) -> RemoteStorage:
    """Open a published database.

    Raises
    ------
    FileNotFoundError
        Nothing is published there.
    CommitGone
        The commit that was asked for is not kept there.
    CorruptionError
        What is there is not what was published.
    OSError
        The store fails, or the disk of the cache is full.
    """
    objects = open_objects(address.url, address.options)
    manifest = _newest(objects)
    if address.commit is not None and address.commit != manifest.commit:
        manifest = _earlier(objects, manifest, address.commit)
    directory = default_directory() if address.cache is None else address.cache
    cache = Cache(directory, objects.url, manifest.database, address.cache_size)
    try:
        source = Source(address, objects, cache)
        heaps = source.heaps(manifest, {})
        index = source.index(manifest, heaps.values())
        try:
            return RemoteStorage(source, manifest, heaps, index)
        except BaseException:
            index.close()
            raise
    except BaseException:
        cache.release()
        raise


def _newest(objects: Objects) -> Manifest:
    newest = again_if_damaged(partial(find_newest, objects))
    if newest is None:
        raise FileNotFoundError(f"nothing is published at {objects.url}; Database.publish() does that")
    return newest


def _earlier(objects: Objects, newest: Manifest, commit: int) -> Manifest:
    there = list(kept(objects, newest))
    number = next((each.number for each in there if each.commit == commit), None)
    if number is None:
        commits = sorted({each.commit for each in there})
        raise CommitGone(f"{objects.url} does not have commit {commit}; it has {commits}")
    return read_manifest(objects, number)


def _is_later(newest: Manifest, shown: Manifest, url: str) -> bool:
    """Tell whether a publication came after the one that is shown; FailedError if it is of something else."""
    tokens = {each.number: each.token for each in newest.earlier} | {newest.number: newest.token}
    is_other = newest.database != shown.database or newest.number < shown.number
    if is_other or tokens.get(shown.number, shown.token) != shown.token:
        raise FailedError(f"{url}: another database was published there; close this one and open it again")
    return newest.number > shown.number


def _superblock(manifest: Manifest) -> Superblock:
    return Superblock(manifest.database, 1, 0, 0, manifest.epoch, manifest.next_chunk)
