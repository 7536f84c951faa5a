"""Reading a database that another process may be writing: what a reader has of its own, and how it moves on.

A reader clones the index and links the chunk files, in a directory of its own, so that it sees one commit for as
long as it likes, whatever the writer deletes or drops. Which commit that is, is decided as by recovery. While a
writer lives that is past recovery, the clone's own last commit is whole: chunks are written before the index, and
both are seen through the same page cache. With no such writer a crash may have come between, so the directories
since the checkpoint are read: what they have more is brought into the clone, and if the index turns out to be
ahead of the chunks, it is made anew, privately. The database's own files are never written, nor its lock tried.

A clone stays as of its commit for good, so other processes can clone it again: what is pickled of a reader says
where the clone is, and the reader keeps that for them, with its links to the chunks that the clone names.

Where files cannot be linked, or nothing can be made in the database's directory, the index is copied to a temporary
directory, and the chunk files are mapped at once, which keeps them just as well.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

from ..chunks.chunk import Chunk, read_header
from ..chunks.heap import Heap, Place, Retired
from ..disk import files
from ..disk.lock import is_held
from ..disk.paths import Paths
from ..disk.superblock import Superblock, read_superblock
from ..engine.commit_log import ends_at
from ..engine.recovery import open_copy, open_settled_copy
from ..engine.storage import Storage
from ..errors import CorruptionError, FailedError, ReadOnlyError
from ..index.gate import PrivateDirectory
from ..index.index import Index
from ..process import leftovers
from ..runs.extent import empty_run
from .directory import ReaderDirectory, make_parent, sweep
from .kept import Ends, Kept, read_ends, write_ends
from .leveldb_clone import clone_leveldb, link_file, state_of

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

State = tuple[int, frozenset[tuple[str, int]]]
KEPT = 16
"""How many commits a reader keeps, at most, for those that it was pickled for: each holds disk space."""


class Generation(NamedTuple):
    """What a reader knows of a clone that it made, which is as of one commit for good.

    ``ends`` has its chunks, and how far it looks at each: None where no commit has that, so that it may yet go.
    """

    number: int
    commit: int
    epoch: int
    ends: dict[int, Ends | None]


class ReadStorage(Storage):
    """What a reader sees of a database: one commit, until :meth:`refresh`."""

    is_copy = True

    def __init__(self, copies: Copies, superblock: Superblock, index: Index) -> None:
        super().__init__(copies.source, copies, superblock, index, 0)
        self._copies = copies
        self.state: State | None = None

    def check_usable(self) -> None:
        """Refuse: nothing is ever written through this."""
        raise ReadOnlyError(f"{self.paths.root} is open with mode='r'; open it with mode='r+' to write")

    def places(self, heap: Heap, commit: int) -> list[Place]:
        """Return how far each chunk of a store that had any commit reaches as of one: a writer may have gone on."""
        with self.store_lock:
            heads = self.index.heads if self.index.checkpoint <= commit else {}
        chunks = list(heap.chunks.values())
        places = [Place(chunk, *ends_at(chunk, heads.get(chunk.id), commit)) for chunk in chunks]
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

    def refresh(self) -> None:
        """Show the newest commit. Reads in flight, and snapshots, go on with the clone of before."""
        try:
            with self.committing():
                self.catch_up()
        finally:
            leftovers.clear()  # the clone of before, unless somebody reads it yet

    def catch_up(self) -> None:
        """Show the newest commit; the caller holds the lock."""
        self.index.leveldb.check_open()
        self.check_place()
        if self.state is None or self.state != self._copies.state():
            self._show(self._copies.read())

    def _show(self, newer: ReadStorage) -> None:
        """Take over what a newer storage has: chunks first, since the index must not name one that is not there."""
        mine, theirs = self._heaps, newer._heaps
        for store in mine.keys() & theirs.keys():
            mine[store].adopt(theirs[store].chunks)
        self.index.follow(newer.index)
        self._forget(mine, theirs)
        for store in theirs.keys() - mine.keys():
            self.index.add_table(store, theirs[store].item_size, theirs[store].check)
        self._heaps = {store: mine.get(store, heap) for store, heap in theirs.items()}
        self.superblock = newer.superblock
        self._copies.unlink_chunks()
        for store in mine.keys() & theirs.keys():
            theirs[store].chunks.clear()  # the garbage collector may come late, and a mapping takes a descriptor
        self.state = newer.state  # last: if this is interrupted, the next refresh() does it again

    def _forget(self, mine: dict[int, Heap], theirs: dict[int, Heap]) -> None:
        """Forget the chunks that are gone, but for the snapshots and scans that go on reading them."""
        for store in mine.keys() - theirs.keys():
            for chunk in mine[store].chunks.values():
                chunk.map_source()
        for store in mine.keys() & theirs.keys():
            heap = mine[store]
            for chunk in [chunk for chunk in heap.chunks.values() if chunk.id not in theirs[store].chunks]:
                if _was_renumbered(chunk):
                    heap.remove(chunk.id)
                else:
                    old = Retired(chunk, empty_run(), empty_run())
                    self.index.keep([old])
                    heap.retire(old)

    def keep(self, directory: PrivateDirectory | None) -> Kept:
        """Keep a clone of this reader's until it is closed, for other processes, and say where it is.

        Parameters
        ----------
        directory : PrivateDirectory
            Of the clone: the present one, or that of a snapshot.
        """
        assert directory is not None  # a reader's clones are private
        with self.committing():
            return self._copies.keep(directory, self.superblock.database)

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

    def __del__(self) -> None:
        """Do nothing: the storage that a refresh made is given up when its parts were taken over."""

    def close(self) -> None:
        """Close the clone, and remove it."""
        with self.committing():
            self._let_go()


def _was_renumbered(chunk: Chunk) -> bool:
    """Tell whether another file has a chunk's number: it was never committed then."""
    try:
        return read_header(chunk.path) != chunk.header
    except FileNotFoundError:
        return False
    except CorruptionError:
        return True  # the other one is being made


class OwnPaths(Paths):
    """The paths of a reader's own files; of its links to chunks only those to files that were there of late."""

    present: frozenset[int] = frozenset()
    is_written = False

    def list_chunks(self) -> list[int]:
        """Return the ids of the chunks that the newest clone may name, ascending."""
        return [chunk for chunk in self.list_links() if chunk in self.present]

    def list_links(self) -> list[int]:
        """Return the ids of all chunks that are linked, ascending."""
        return super().list_chunks()


class Copies:
    """The private directory of one reader: a clone of the index for each refresh, and links to the chunk files.

    Parameters
    ----------
    source : Paths
        Of the database.
    directory : ReaderDirectory
        Where to put them.
    link : bool
        Link tables and chunks; else copy the tables, and map the chunks where they are.
    database : bytes
        The uuid of the database.
    """

    def __init__(self, source: Paths, directory: ReaderDirectory, database: bytes, *, link: bool) -> None:
        self.source = source
        self.directory = directory
        self.link = link
        self._database = database
        self._paths = OwnPaths(directory.path, None if link else source.chunks)
        self._generation = -1
        self._cloned = 0
        self._generations: dict[str, Generation] = {}
        self._kept: dict[str, PrivateDirectory] = {}
        if link:
            files.make_directory(self._paths.chunks)

    def release(self) -> None:
        """Remove what the reader has of its own. Idempotent."""
        self.directory.release()

    def displaced(self) -> str:
        """Say what is wrong if the reader's own files are gone, with the database; "" if all is well."""
        return self.directory.displaced()

    def superblock(self) -> Superblock:
        """Return the database's present superblock.

        Raises
        ------
        FailedError
            It is gone, or that of another database.
        """
        try:
            superblock = read_superblock(self.source.superblock)
        except FileNotFoundError as error:
            raise self._displaced("the database is not there any more") from error
        if superblock.database != self._database:
            raise self._displaced("another database has taken the place of the one that was opened")
        return superblock

    def _displaced(self, found: str) -> FailedError:
        return FailedError(f"{self.source.root}: {found}; close the database and open it again")

    def state(self) -> State | None:
        """Return what changes with everything that happens to the index; None if the index is not there."""
        generation = self.superblock().generation
        try:
            return generation, state_of(self.source.index(generation))
        except FileNotFoundError:
            return None

    def read(self) -> ReadStorage:
        """Return the newest commit, whole.

        Raises
        ------
        CorruptionError
            The index is lost, or chunks are damaged or missing.
        """
        while True:
            superblock = self.superblock()
            is_sound = is_held(self.source.announcement)
            state = self.state()
            try:
                storage = self._read(superblock, is_sound=is_sound)
            except (CorruptionError, FileNotFoundError) as error:
                # What a clone needs is unlinked only after a checkpoint, which writes the superblock.
                self._discard()
                if self.superblock() == superblock:
                    raise self._explained(error) from error
                continue
            except BaseException:
                self._discard()
                raise
            if is_sound or self.superblock() == superblock:
                storage.state = state
                return storage
            storage.index.close()
            self._discard()

    def _discard(self) -> None:
        """Remove what the last attempt cloned."""
        for generation in (self._generation, self._generation + 1):
            with contextlib.suppress(OSError):
                files.remove_tree(self._paths.index(generation))

    def _read(self, superblock: Superblock, *, is_sound: bool) -> ReadStorage:
        self._generation += 2  # one for the clone, and one for an index that is made anew
        self._cloned = superblock.generation
        own = superblock._replace(generation=self._generation)
        clone_leveldb(self.source.index(superblock.generation), self._paths.index(own.generation), link=self.link)
        self._link_chunks(self.source, self.source.list_chunks())
        storage = open_copy(self._paths, own, partial(ReadStorage, self), is_sound=is_sound)
        self._note(storage, read_superblock(self.source.superblock).epoch)
        return storage

    def read_kept(self, kept: Kept) -> ReadStorage:
        """Return the commit that another reader keeps, whole.

        Raises
        ------
        CorruptionError, FileNotFoundError
            It does not keep it any more; or chunks are damaged.
        """
        theirs = Paths(kept.directory)
        self._generation += 2
        self._cloned = read_superblock(self.source.superblock).generation
        own = Superblock(kept.database, self._generation, 0, 0, kept.epoch, 0)
        try:
            ends = read_ends(theirs.index(kept.generation))
            clone_leveldb(theirs.index(kept.generation), self._paths.index(own.generation), link=self.link)
            self._link_chunks(theirs if kept.is_linked else self.source, ends)
            storage = open_settled_copy(self._paths, own, ends, partial(ReadStorage, self))
        except BaseException:
            self._discard()
            raise
        self._note(storage, kept.epoch)
        return storage

    def _note(self, storage: ReadStorage, epoch: int) -> None:
        """Note what a clone needs, for as long as anybody needs the clone."""
        chunks = [chunk for heap in storage.heaps.values() for chunk in heap.chunks.values()]
        ends = {
            chunk.id: (chunk.committed, chunk.directory) if chunk.directory < chunk.header.file_size else None
            for chunk in chunks
        }
        path = storage.index.leveldb.path
        self._generations[path] = Generation(storage.superblock.generation, storage.index.last, epoch, ends)

    def keep(self, directory: PrivateDirectory, database: bytes) -> Kept:
        """Keep a clone, in place of the one that was first to be kept if these are many; say where it is."""
        path = directory.path
        number, commit, epoch, ends = self._generations[path]
        if path not in self._kept:
            write_ends(path, {chunk: end for chunk, end in ends.items() if end is not None})
        self._kept[path] = self._kept.pop(path, directory)
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return Kept(self.source.root, database, commit, epoch, self.directory.path, number, self.link)

    def original(self, text: str) -> str:
        """Return a message with the paths of the database's own files."""
        for generation in (self._generation, self._generation + 1):
            text = text.replace(self._paths.index(generation), self.source.index(self._cloned))
        return text.replace(self.directory.path, self.source.root)

    def _explained(self, error: Exception) -> Exception:
        """Return an error that names the database's own file, not the clone's."""
        if not isinstance(error, CorruptionError):
            return error
        path = self.original(error.path)
        return CorruptionError(
            path, offset=error.offset, found=error.found, expected=error.expected, advice=error.advice
        )

    def _link_chunks(self, origin: Paths, chunks: Iterable[int]) -> None:
        """Link chunk files that are there, also those that the clone does not name: they do no harm."""
        self._paths.present = frozenset(chunks)
        if not self.link:
            return
        for chunk in self._paths.present:
            source, target = origin.chunk(chunk), self._paths.chunk(chunk)
            try:
                if _is_other_file(source, target):
                    files.unlink(target)  # never committed: a later writer used its number again
                link_file(source, target)
            except FileNotFoundError:
                pass  # unlinked since it was listed
            except FileExistsError:
                pass  # linked by an earlier clone

    def unlink_chunks(self) -> None:
        """Give up the links to the chunks that no clone needs that is there; what is mapped stays."""
        self._generations = {path: known for path, known in self._generations.items() if os.path.lexists(path)}
        if self.link:
            needed = {chunk for known in self._generations.values() for chunk in known.ends}
            for chunk in set(self._paths.list_links()) - needed:
                files.unlink(self._paths.chunk(chunk))


def _is_other_file(source: str, target: str) -> bool:
    """Tell whether a link is there, and is one to another file."""
    if not os.path.lexists(target):
        return False
    return not os.path.samestat(os.lstat(source), os.lstat(target))


def open_reader(paths: Paths) -> ReadStorage:
    """Open a database for reading, beside any number of others.

    Raises
    ------
    CorruptionError
        The index is lost, or chunks are damaged or missing.
    """
    return _open_in_place(paths, read_superblock(paths.superblock).database, Copies.read)


def open_kept(kept: Kept) -> ReadStorage:
    """Open a database for reading as of a commit that another reader keeps.

    Raises
    ------
    CorruptionError, FileNotFoundError
        It does not keep it any more; or chunks are damaged.
    """
    return _open_in_place(Paths(kept.path), kept.database, partial(Copies.read_kept, kept=kept))


def _open_in_place(paths: Paths, database: bytes, read: Callable[[Copies], ReadStorage]) -> ReadStorage:
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
        yield Copies(paths, ReaderDirectory(paths.readers), database, link=True)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    import tempfile  # noqa: PLC0415

    parent, prefix = tempfile.gettempdir(), f"structchunk-{database.hex()}-"
    sweep(parent, prefix)
    yield Copies(paths, ReaderDirectory(parent, prefix), database, link=False)
