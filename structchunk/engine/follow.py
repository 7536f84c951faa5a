"""Following: reading what others have added to the log, and bringing an index of one's own to it.

It is recovery's roll-forward, on a log that is being written. Only commits that were published are looked at. All
of them must be there, each with all its parts: else they are not followed, and nothing has changed.

A commit that replaces chunks, or drops a store, changes all rows of a store. It is not followed, for cloning the
index costs less.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from ..chunks.chunk import Chunk
from ..chunks.heap import Heap
from ..chunks.segment import Segment
from ..disk.tail import Head
from ..errors import CorruptionError
from ..index.index import Index, Prepared
from ..index.stored_state import Catalog
from ..runs.extent import DROPPED
from ..runs.run import ArrayRun
from ..types.schema import schema_from_descriptor
from .commit_log import catalog_entry, data_is_sound, has_all_parts, rows_by_store
from .storage import Storage

_IN_ORDER = platform.machine() in ("x86_64", "AMD64", "i686")
"""Whether all processors see stores to memory in the order in which they were made."""


class News(NamedTuple):
    """Commits that are to be followed: their segments, and the chunks that these are in, by id."""

    commit: int
    segments: list[Segment]
    chunks: dict[int, Chunk]


class Follower:
    """Brings a storage, which has an index of its own, to what others have published.

    It does not hold the storage, which would be garbage with it then, and its files stay until that is collected.

    Parameters
    ----------
    open_chunk : callable
        Opens a chunk file by its id, positioned as if it were empty.
    list_chunks : callable
        Returns the ids of all chunk files that are there.

    Attributes
    ----------
    exact : set of int
        The chunks that reach just as far as the storage's last commit; others may reach further.

    Notes
    -----
    The caller lets one thread at a time call, while nobody else changes the storage.

    What is brought forward takes several steps, and ``_unfinished`` is set meanwhile. If it is found set, the index
    must be cloned again.
    """

    def __init__(self, open_chunk: Callable[[int], Chunk], list_chunks: Callable[[], Iterable[int]]) -> None:
        self._open_chunk = open_chunk
        self._list_chunks = list_chunks
        self._chunks: dict[int, Chunk] = {}
        self.exact: set[int] = set()
        self._unfinished = True

    def begin(self, storage: Storage) -> None:
        """Go on from what the storage shows now, which may be less than its chunks have."""
        heaps = storage.heaps.values()
        self._chunks = {chunk.id: chunk for heap in heaps for chunk in heap.chunks.values()}
        self.exact = set()
        self._unfinished = False

    def note(self, chunk: Chunk) -> None:
        """Note that the storage has appended to a chunk itself."""
        self._chunks[chunk.id] = chunk
        self.exact.add(chunk.id)

    def stop(self) -> None:
        """Follow no more until :meth:`begin`."""
        self._unfinished = True

    def follow(self, storage: Storage, head: Head, named: Collection[int] | None) -> bool:
        """Show all that is published, and tell whether that could be done.

        Parameters
        ----------
        storage : Storage
            The one that :meth:`begin` was called with.
        head : Head
            Of the page, in the lineage that the storage shows.
        named : collection of int, optional
            Where the commits since then are, as far as is known.
        """
        last = storage.index.last
        if self._unfinished:
            return False
        try:
            news = self._read(head, last, named) if named else None
            news = news or self._read(head, last, self._list_chunks())
        except (CorruptionError, FileNotFoundError):
            return False
        if news is None:
            return False
        self._unfinished = True
        self._apply(storage, news)
        self._unfinished = False
        return True

    # ------------------------------------------------------------------ reading

    def _read(self, head: Head, last: int, ids: Iterable[int]) -> News | None:
        """Return the commits after `last`, as they are in these chunks; None if they cannot be followed."""
        commits: dict[int, list[Segment]] = {number: [] for number in range(last + 1, head.published + 1)}
        chunks = {}
        for number in ids:
            chunk = self._chunks.get(number) or self._try_chunk(number)
            if chunk is None:
                continue
            chunks[number] = chunk
            for segment in chunk.segments(self._position(chunk, last)):
                if segment.commit > head.published:
                    break
                if segment.epoch != head.epoch or segment.commit <= last or _is_sweeping(segment):
                    return None
                commits[segment.commit].append(segment)
        if not all(map(has_all_parts, commits.values())):
            return None
        segments = [segment for parts in commits.values() for segment in parts]
        if not (_IN_ORDER or all(data_is_sound(segment, chunks[segment.chunk]) for segment in segments)):
            return None
        return News(head.published, segments, {segment.chunk: chunks[segment.chunk] for segment in segments})

    def _try_chunk(self, number: int) -> Chunk | None:
        """Open a chunk that is new; None if it has gone, or is being made: then no commit has named it."""
        try:
            return self._open_chunk(number)
        except (CorruptionError, FileNotFoundError):
            return None

    def _position(self, chunk: Chunk, last: int) -> int:
        """Return where the directory of a chunk ends as of a commit; what it is positioned at may be later."""
        low = chunk.directory
        if chunk.id in self._chunks and chunk.id not in self.exact:
            while low < chunk.header.file_size:
                found = chunk.segment_above(low)
                if found is None:
                    raise CorruptionError(chunk.path, offset=low, found="no segment", expected="one")
                if found[1].commit <= last:
                    break
                low = found[0]
        return low

    # ------------------------------------------------------------------ bringing the index to it

    def _apply(self, storage: Storage, news: News) -> None:
        """Chunks first, and stores: the index must name none that is not there."""
        index = storage.index
        self.exact -= news.chunks.keys()  # until the index shows them: if it fails to, it shows the last commit
        for segment in news.segments:
            news.chunks[segment.chunk].seek(segment.end, segment.low)
        added = [chunk for chunk in news.chunks.values() if chunk.id not in self._chunks]
        for chunk in added:
            self._add(storage, chunk)
        catalog = index.catalog | {chunk.header.about["name"]: catalog_entry(chunk.header) for chunk in added}
        index.apply(news.commit, _prepare(index, news, catalog if len(catalog) > len(index.catalog) else None))
        self.exact |= news.chunks.keys()

    def _add(self, storage: Storage, chunk: Chunk) -> None:
        """Make a chunk known, and its store if that is new."""
        header = chunk.header
        heap = storage.find_heap(header.store)
        if heap is None:
            heap = Heap(
                header.store, header.about["name"], schema_from_descriptor(header.about["schema"], chunk.path)
            )
            storage.add_heap(heap)
        heap.add(chunk)
        storage.next_chunk = max(storage.next_chunk, chunk.id + 1)
        self._chunks[chunk.id] = chunk


def _is_sweeping(segment: Segment) -> bool:
    """Tell whether a commit changes all rows of a store."""
    return segment.replaces or bool((segment.run.flag_values & DROPPED).any())


def _prepare(index: Index, news: News, catalog: Catalog | None) -> Prepared:
    """Return what commits do to the index."""
    if len(news.segments) == 1 and catalog is None:
        segment = news.segments[0]
        if isinstance(segment.run, ArrayRun) and len(segment.run) == 1:
            return index.prepare_one(news.chunks[segment.chunk].header.store, segment.run.rows.tobytes())
    return index.prepare(rows_by_store(news.segments, news.chunks), catalog)
