"""Reading what is published: how it is opened, and moves on to a later publication.

The manifest says where all bytes lie, and the objects of the index which records there are: of these a private
index is made. Chunks are local files, into which blocks are fetched before they are read.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..chunks.heap import Heap, Place
from ..disk.paths import AnyPath, Paths
from ..disk.superblock import Superblock
from ..errors import CommitGone, CorruptionError, FailedError
from ..index.index import Index, Prepared
from ..index.index_snapshot import IndexSnapshot
from ..readers.copied_storage import CopiedStorage
from ..runs.extent import MUTABLE
from ..runs.run import Run, portions
from ..types.schema import schema_from_descriptor
from .address import shown
from .cache import CACHE_SIZE, Cache, default_directory
from .cached_chunk import CachedChunk
from .fetching import Fetching, wait
from .manifest import Manifest, PublishedChunk
from .objects import Objects, open_objects
from .publications import find_newest, kept, read_manifest
from .remote_chunk import RemoteChunk, RemoteHeap
from .row_cache import RowCache
from .rows import Entry

LOAD_ROWS = 1 << 20
"""How many rows are put into the index at a time."""


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
    """The URL of a published database, and the paths of a reader's own files."""

    is_written = False

    def __init__(self, url: str, cache: Cache) -> None:
        super().__init__(url, os.path.join(cache.root, "chunks"))
        self._own = Paths(cache.private)

    def index(self, generation: int) -> str:
        """Return the path of an index directory."""
        return self._own.index(generation)


class RemoteStorage(CopiedStorage):
    """What a reader sees of a published database: one publication, until :meth:`refresh`.

    Attributes
    ----------
    address : Address
    manifest : Manifest
        Of what is shown.
    """

    pauses = (0.2, 2.0)

    def __init__(self, source: Source, manifest: Manifest, index: Index, generation: int) -> None:
        superblock = Superblock(manifest.database, generation, 0, 0, manifest.epoch, manifest.next_chunk)
        super().__init__(RemotePaths(source.objects.url, source.cache), source.cache, superblock, index, 0)
        self._source = source
        self.address = source.address
        self.manifest = manifest

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
            self.take_over(self._source.read(newest))
            self.hold_chunks()
            self._source.rows.forget_others(newest)
            self.manifest = newest  # last: if this is interrupted, it is done again
            return True

    def hold_chunks(self) -> None:
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

    def read(self, manifest: Manifest) -> RemoteStorage:
        """Return what shows a publication."""
        entries = self.rows.entries(manifest)
        chunks = self._open_chunks(manifest)
        self._generation += 1
        paths = RemotePaths(self.objects.url, self.cache)
        index = Index.create(paths.index(self._generation), manifest.database, 0, manifest.next_chunk, private=True)
        try:
            storage = RemoteStorage(self, manifest, index, self._generation)
            _add_heaps(storage, chunks)
            storage.hold_chunks()
            _fill(index, manifest, entries, self.objects.url)
        except BaseException:
            index.close()
            raise
        return storage

    def _open_chunks(self, manifest: Manifest) -> list[RemoteChunk]:
        with self.cache.making():
            return [self._open_chunk(manifest, chunk) for chunk in manifest.chunks.values()]

    def _open_chunk(self, manifest: Manifest, published: PublishedChunk) -> RemoteChunk:
        version = ""
        if self.address.commit is not None and published.flags & MUTABLE:  # it is shown as it was then
            version = f"{zlib.crc32(published.crcs.tobytes(), published.end):08x}"
        cached = CachedChunk(self.cache.chunk(published, version), published, manifest.number)
        return RemoteChunk(Fetching(cached, self.objects, manifest.objects))


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
        return Source(address, objects, cache).read(manifest)
    except BaseException:
        cache.release()
        raise


def _newest(objects: Objects) -> Manifest:
    try:
        newest = find_newest(objects)
    except CorruptionError:  # on its way, maybe
        newest = find_newest(objects)
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


def _add_heaps(storage: RemoteStorage, chunks: Iterable[RemoteChunk]) -> None:
    by_store: dict[int, list[RemoteChunk]] = {}
    for chunk in chunks:
        by_store.setdefault(chunk.header.store, []).append(chunk)
    for name, entry in storage.manifest.catalog.items():
        store, url = entry["store"], storage.paths.root
        heap = RemoteHeap(store, name, schema_from_descriptor(entry["schema"], url))
        for chunk in by_store.get(store, []):
            if chunk.header.item_size != heap.item_size:
                found = f"items of {chunk.header.item_size} bytes in chunk {chunk.id}"
                raise CorruptionError(url, found=found, expected=f"{heap.item_size}, as its type says")
            heap.add(chunk)
        storage.add_heap(heap)


def _fill(index: Index, manifest: Manifest, entries: list[Entry], url: str) -> None:
    """Put all that was published into an index that is empty."""
    for note in manifest.notes:
        index.apply(note.commit, Prepared({}, {}, notes=[(note.store, json.dumps(note.about).encode())]))
    index.put(manifest.commit, {}, manifest.catalog)
    sizes = {entry["store"]: index.item_size(entry["store"]) for entry in manifest.catalog.values()}
    for store, run in _runs(entries, sizes, url):
        for part in portions(run, LOAD_ROWS):
            index.put(manifest.commit, {store: [part]})


def _runs(entries: list[Entry], sizes: Mapping[int, int], url: str) -> Iterator[tuple[int, Run]]:
    """Yield the rows that count, in order, and their stores."""
    begins = {entry.store: number for number, entry in enumerate(entries) if entry.is_anew}
    for number, entry in enumerate(entries):
        if entry.store in sizes and number >= begins.get(entry.store, 0):
            yield entry.store, entry.run(sizes[entry.store], url)
