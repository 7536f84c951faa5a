"""Reading a database that another process may be writing: how a reader opens it, and moves on.

A reader clones the index and links the chunk files, in a directory of its own, so that it sees one commit for as
long as it likes, whatever the writer deletes or drops. Which commit that is, is decided as by recovery. While a
writer lives that is past recovery, the clone's own last commit is whole: chunks are written before the index, and
both are seen through the same page cache. With no such writer a crash may have come between, so the directories
since the checkpoint are read: what they have more is brought into the clone, and if the index turns out to be
ahead of the chunks, it is made anew, privately. The database's own files are never written, nor its lock tried.

Where files cannot be linked, or nothing can be made in the database's directory, the index is copied to a temporary
directory, and the chunk files are mapped at once, which keeps them just as well.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from ..chunks.chunk import Chunk
from ..chunks.header_file import read_header
from ..chunks.heap import Heap, Place
from ..disk.lock import is_held
from ..disk.paths import Paths
from ..disk.superblock import Superblock, read_superblock
from ..disk.tail import Head, Lineage, TailView, is_alive, open_tail
from ..engine.commit_log import ends_at
from ..engine.follow import Follower
from ..errors import CorruptionError
from ..index.index import Index
from ..index.index_snapshot import IndexSnapshot
from ..process import leftovers
from .copied_storage import CopiedStorage
from .copies import Copies, State
from .directory import make_parent, sweep
from .kept import Kept

_NO_LINKS = {
    errno.EPERM,
    errno.EXDEV,
    errno.EACCES,
    errno.EROFS,
    errno.EMLINK,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.ENOTSUP,
}
"""Why a clone may be impossible beside the original, and possible elsewhere."""


MOST_COMMITS = 128
"""Who is behind by more than this many commits clones the index, which takes less time."""
MOST_UNINDEXED = 4096
"""Unless processes write in turn, who leave commits out of the index: then who clones it reads them all."""


_SHORTEST_PAUSE, _LONGEST_PAUSE, _LONGEST_PAUSE_UNFOLLOWED = 0.00005, 0.001, 0.02


class ReadStorage(CopiedStorage):
    """What a reader sees of a database on this machine."""

    def __init__(self, copies: Copies, superblock: Superblock, index: Index) -> None:
        super().__init__(copies.source, copies, superblock, index, 0)
        self._copies = copies
        self.state: State | None = None
        self.lineage: Lineage | None = None
        self._seen: tuple[TailView | None, bytes] = None, b""
        self._follower = Follower(copies.open_chunk, copies.source.list_chunks)

    def places(self, heap: Heap, commit: int) -> list[Place]:
        """Return how far each chunk of a store that had any commit reaches as of one: a writer may have gone on."""
        with self.store_lock:
            heads = self.index.heads if self.index.checkpoint <= commit else {}
            exact = self._follower.exact if commit == self.index.last else set()
        chunks = list(heap.chunks.values())
        places = [
            Place(chunk, chunk.committed, chunk.directory)
            if chunk.id in exact
            else Place(chunk, *ends_at(chunk, heads.get(chunk.id), commit))
            for chunk in chunks
        ]
        return [place for place in places if place.directory < place.chunk.header.file_size]

    def newest_epoch(self) -> int:
        """Return the epoch of the latest commit, or a later one: a writer may have come meanwhile."""
        return max(self.superblock.epoch, self.newest_superblock().epoch)

    def newest_superblock(self) -> Superblock:
        """Return the database's superblock as it is now; FailedError if another database has taken the path."""
        return self._copies.superblock()

    def original(self, text: str) -> str:
        """Return a message with the paths of the database's own files."""
        return self._copies.original(text)

    @property
    def is_followed(self) -> bool:
        """Whether there is a page that says cheaply whether there is a newer commit."""
        return self._seen[0] is not None

    @property
    def pauses(self) -> tuple[float, float]:  # type: ignore[override]
        """Seconds between two looks, which cost little where there is a page that tells."""
        return _SHORTEST_PAUSE, _LONGEST_PAUSE if self.is_followed else _LONGEST_PAUSE_UNFOLLOWED

    def refresh(self) -> bool:
        """Show the newest commit, and tell whether it is another one. Reads in flight, and snapshots, go on."""
        tail, raw = self._seen
        if tail is not None and tail.raw() == raw and tail.is_in_place():
            return False
        try:
            with self.committing():
                return self.catch_up()
        finally:
            leftovers.clear()  # the clone of before, unless somebody reads it yet

    def catch_up(self) -> bool:
        """Show the newest commit, and tell whether it is another one; the caller holds the lock."""
        self.index.leveldb.check_open()
        self.check_place()
        last = self.index.last
        tail = self._current_tail()
        raw, head = (b"", None) if tail is None else tail.read()
        is_rewound = head is not None and self.lineage not in (None, head.lineage) and head.base < last
        if not (tail and head and self._follow(tail, head)) and self._is_stale(head):
            self._show(_newest(self._copies, ReadStorage))
        self._seen = tail, raw  # last: if this is interrupted, the next refresh() does it again
        return self.index.last != last or is_rewound

    def _is_stale(self, head: Head | None) -> bool:
        """Tell whether there is more than is shown, or anything has happened to the index since it was cloned."""
        if head is not None:
            # A recovery may have been cloned half-way: with the index as it is now, and the page of before.
            is_other = head.lineage != self.lineage and is_alive(self.paths.tail)
            if is_other or head.published > self.index.last:
                return True
        return self.state is None or self.state != self._copies.state()

    def _current_tail(self) -> TailView | None:
        """Return the page that has the path; None if there is none."""
        tail, _ = self._seen
        return tail if tail is not None and tail.is_in_place() else open_tail(self.paths.tail)

    def _follow(self, tail: TailView, head: Head) -> bool:
        """Show what is published, and tell whether that could be done without another clone."""
        if head.lineage != self.lineage:
            return False
        last = self.index.last
        if head.published <= last:
            return True
        if head.published - last > MOST_COMMITS and not self._is_cheap(head.published - last):
            return False
        if not self._follower.follow(self, head, tail.chunks(head, last)):
            return False
        if self._copies.has_needless():
            self._note_followed()
            self._copies.unlink_chunks()
        return True

    def _is_cheap(self, commits: int) -> bool:
        """Tell whether to follow so many commits takes less than to clone the index."""
        return commits <= MOST_UNINDEXED and not is_held(self.paths.announcement)

    def _show(self, newer: ReadStorage) -> None:
        self._note_followed()
        self.take_over(newer.by_id, newer.superblock, partial(self.index.follow, newer.index))
        self._copies.unlink_chunks()
        self._follower.begin(self)
        self.lineage, self.state = newer.lineage, newer.state  # last: if this is interrupted, it is done again

    def _note_followed(self) -> None:
        if self.lineage is not None:
            self._copies.note_followed(self, self.lineage[2])

    def keep(self, snapshot: IndexSnapshot | None = None) -> Kept:
        """Keep the present commit, or that of a view, until this is closed; say where other processes find it."""
        with self.committing():
            self._follower.stop()  # what is kept stays as it is; and who is at its commit need not be copied
            self._note_followed()
            if snapshot is not None:
                return self._copies.keep(snapshot)
            with contextlib.closing(self.index.snapshot()) as present:
                return self._copies.keep(present)

    def shows(self, kept: Kept) -> bool:
        """Tell whether this is the commit that another reader was to keep, and not one that was made again."""
        if (self.superblock.database, self.index.last) != (kept.database, kept.commit):
            return False
        return self.superblock.epoch <= kept.epoch or self._epoch_of_last() <= kept.epoch

    def _epoch_of_last(self) -> int:
        """Return the epoch of the last commit, or a later one if its chunks are gone: it dropped a store."""
        last = self.index.last
        chunks = [chunk for heap in self.heaps.values() for chunk in heap.chunks.values()]
        epochs = [segment.epoch for chunk in chunks for segment in chunk.segments() if segment.commit == last]
        return max(epochs, default=self.superblock.epoch if last else 0)

    def _is_renumbered(self, chunk: Chunk) -> bool:
        return _was_renumbered(chunk)


R = TypeVar("R", bound=ReadStorage)


def _newest(copies: Copies, kind: type[R]) -> R:
    storage, state, lineage = copies.read(kind)
    storage.state, storage.lineage = state, lineage
    storage._follower.begin(storage)
    return storage


def _was_renumbered(chunk: Chunk) -> bool:
    """Tell whether another file has a chunk's number: it was never committed then."""
    try:
        return read_header(chunk.path) != chunk.header
    except FileNotFoundError:
        return False
    except CorruptionError:
        return True  # the other one is being made


def open_reader(paths: Paths, kind: type[R]) -> R:
    """Open a database for reading, beside any number of others, as a storage of some kind.

    Raises
    ------
    CorruptionError
        The index is lost, or chunks are damaged or missing.
    """
    return _open_in_place(paths, read_superblock(paths.superblock).database, lambda copies: _newest(copies, kind))


def open_kept(kept: Kept) -> ReadStorage:
    """Open a database for reading as of a commit that another reader keeps.

    Raises
    ------
    CorruptionError, FileNotFoundError
        It does not keep it any more; or chunks are damaged.
    """
    return _open_in_place(Paths(kept.path), kept.database, lambda copies: copies.read_kept(kept, ReadStorage))


def _open_in_place(paths: Paths, database: bytes, read: Callable[[Copies], R]) -> R:
    sweep(paths.readers)
    for copies in _places(paths, database):
        try:
            return read(copies)
        except OSError as error:
            copies.directory.release()
            if not copies.link or error.errno not in _NO_LINKS:
                raise
        except BaseException:
            copies.directory.release()
            raise
    raise AssertionError("unreachable: the last place either works or raises")


def _places(paths: Paths, database: bytes) -> Iterator[Copies]:
    """Yield where a reader may have its own files: beside the originals, and else among temporary files."""
    try:
        make_parent(paths.readers)
        yield Copies(paths, paths.readers, "", database, link=True)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    import tempfile  # noqa: PLC0415

    parent, prefix = tempfile.gettempdir(), f"structchunk-{database.hex()}-"
    sweep(parent, prefix)
    yield Copies(paths, parent, prefix, database, link=False)
