"""The private files of one reader: clones of the index, and links to the chunks that any of them needs.

Other processes can clone a clone again: what is pickled of a reader says where the clone is, and the reader keeps
that for them as it is, with its links to the chunks that the clone names. One that is not kept follows the log.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import NamedTuple, TypeAlias, TypeVar

from ..chunks.chunk import Chunk
from ..disk import files
from ..disk.lock import is_held
from ..disk.paths import Paths
from ..disk.superblock import Superblock, read_superblock
from ..disk.tail import Head, Lineage, is_alive, open_tail
from ..engine.private_copy import open_copy, open_settled_copy
from ..engine.storage import Storage
from ..errors import CorruptionError, FailedError
from ..index.index import Index, copy_snapshot
from ..index.index_snapshot import IndexSnapshot
from ..index.private_directory import PrivateDirectory
from .directory import ReaderDirectory
from .kept import Ends, Kept, read_ends, write_ends
from .leveldb_clone import clone_leveldb, link_file, state_of

State = tuple[int, frozenset[tuple[str, int]]]
S = TypeVar("S", bound=Storage)
KEPT = 16
"""How many commits a reader keeps, at most, for those that it was pickled for: each holds disk space."""


class Generation(NamedTuple):
    """What a reader knows of a clone that it made: of which commit it is by now, or for good if it is kept.

    ``ends`` has its chunks, and how far it looks at each: None where no commit has that, so that it may yet go.
    """

    number: int
    commit: int
    epoch: int
    ends: dict[int, Ends | None]


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
    parent, prefix : str
        Where to make the directory for them, and how its name begins.
    link : bool
        Link tables and chunks; else copy the tables, and map the chunks where they are.
    database : bytes
        The uuid of the database.
    """

    def __init__(self, source: Paths, parent: str, prefix: str, database: bytes, *, link: bool) -> None:
        self.source = source
        self.link = link
        self._database = database
        self._generation = -1
        self._cloned = 0
        self._generations: dict[str, Generation] = {}
        self._kept: dict[str, PrivateDirectory] = {}
        self._copied: dict[tuple[str, int], str] = {}
        self.directory = ReaderDirectory(parent, prefix)
        try:
            self._paths = OwnPaths(self.directory.path, None if link else source.chunks)
            if link:
                files.make_directory(self._paths.chunks)
        except BaseException:  # which may be kept, and this with it
            self.directory.release()
            raise

    def let_write(self) -> None:
        """Open chunk files so that they can be written, too."""
        self._paths.is_written = True

    def own_chunk(self, chunk: Chunk) -> None:
        """Take a chunk file that was made just now for the reader's own, whoever unlinks it."""
        if self.link:
            self._link_chunk(chunk.path, self._paths.chunk(chunk.id))
            chunk.path = self._paths.chunk(chunk.id)
        else:
            chunk.map_source()

    def disown_chunk(self, chunk: int) -> None:
        """Give up the link to a chunk that no commit has named."""
        if self.link:
            files.unlink(self._paths.chunk(chunk))

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

    def read(self, make: Make[S]) -> tuple[S, State | None, Lineage | None]:
        """Return the newest commit, whole, the state that it was found in, and its lineage if it can be followed.

        With no writer that lives it cannot: what is published may be lost, if the power has failed.

        Raises
        ------
        CorruptionError
            The index is lost, or chunks are damaged or missing.
        """
        while True:
            superblock = self.superblock()
            is_sound = is_held(self.source.announcement)
            was_alive = is_sound or is_alive(self.source.tail)
            # First: what is published before the clone is made is in it.
            head = _read_head(self.source.tail) if was_alive else None
            state = self.state()
            published = None if head is None else head.published
            try:
                storage = self._read(superblock, make, is_sound=is_sound, published=published)
            except (CorruptionError, FileNotFoundError) as error:
                # What a clone needs is unlinked only after a checkpoint, which writes the superblock.
                self._discard()
                has_come = not was_alive and is_alive(self.source.tail)  # somebody who may be making a chunk
                if self.superblock() == superblock and not has_come:
                    raise self._explained(error) from error
                continue
            except BaseException:
                self._discard()
                raise
            if is_sound or self.superblock() == superblock:
                return storage, state, head and head.lineage
            storage.index.close()
            self._discard()

    def _discard(self) -> None:
        """Remove what the last attempt cloned."""
        for generation in (self._generation, self._generation + 1):
            with contextlib.suppress(OSError):
                files.remove_tree(self._paths.index(generation))

    def _read(self, superblock: Superblock, make: Make[S], *, is_sound: bool, published: int | None) -> S:
        self._generation += 2  # one for the clone, and one for an index that is made anew
        self._cloned = superblock.generation
        own = superblock._replace(generation=self._generation)
        clone_leveldb(self.source.index(superblock.generation), self._paths.index(own.generation), link=self.link)
        self._link_chunks(self.source, self.source.list_chunks())
        storage = open_copy(self._paths, own, partial(make, self), is_sound=is_sound, published=published)
        self._note(storage, read_superblock(self.source.superblock).epoch)
        return storage

    def read_kept(self, kept: Kept, make: Make[S]) -> S:
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
            storage = open_settled_copy(self._paths, own, ends, partial(make, self))
        except BaseException:
            self._discard()
            raise
        self._note(storage, kept.epoch)
        return storage

    def note_followed(self, storage: Storage, epoch: int) -> None:
        """Note to which commit, of an epoch or an earlier one, a storage has brought its clone by now."""
        self._note(storage, max(epoch, self._generations[storage.index.leveldb.path].epoch))

    def _note(self, storage: Storage, epoch: int) -> None:
        """Note what a clone needs, for as long as anybody needs the clone."""
        chunks = [chunk for heap in storage.heaps.values() for chunk in heap.chunks.values()]
        ends = {
            chunk.id: (chunk.committed, chunk.directory) if chunk.directory < chunk.header.file_size else None
            for chunk in chunks
        }
        path = storage.index.leveldb.path
        self._generations[path] = Generation(storage.superblock.generation, storage.index.last, epoch, ends)

    def keep(self, snapshot: IndexSnapshot) -> Kept:
        """Keep a view's commit, in place of the one that was first to be kept if these are many; say where it is.

        The clone that the view is of will do if it is as of the same commit, and then must stay so. Else the view
        is copied, which takes time by the size of the index.
        """
        directory = snapshot.leveldb_snapshot.directory
        assert directory is not None  # a reader's clones are private
        if self._generations[directory.path].commit != snapshot.commit:
            known = self._kept.get(self._copied.get((directory.path, snapshot.commit), ""))
            directory = known or self._copy(snapshot, directory.path)
        return self._keep(directory, self._database)

    def _copy(self, snapshot: IndexSnapshot, origin: str) -> PrivateDirectory:
        """Return a new directory with an index that holds what a view shows."""
        self._generation += 2
        number, known = self._generation, self._generations[origin]
        index = copy_snapshot(snapshot, self._paths.index(number), self._database, 1, private=True)
        index.close()
        directory = index.leveldb.directory
        assert directory is not None
        self._generations[directory.path] = known._replace(number=number, commit=snapshot.commit)
        self._copied[origin, snapshot.commit] = directory.path
        return directory

    def _keep(self, directory: PrivateDirectory, database: bytes) -> Kept:
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
        if self.link:
            for chunk in self._paths.present:
                self._link_chunk(origin.chunk(chunk), self._paths.chunk(chunk))

    def _link_chunk(self, source: str, target: str) -> None:
        try:
            if _is_other_file(source, target):
                files.unlink(target)  # never committed: a later writer used its number again
            link_file(source, target)
        except FileNotFoundError:
            pass  # unlinked since it was listed
        except FileExistsError:
            pass  # linked by an earlier clone

    def open_chunk(self, chunk: int) -> Chunk:
        """Open a chunk file that the database has now, positioned as if it were empty; link it first.

        Raises
        ------
        FileNotFoundError, CorruptionError
            It is gone, or is being made.
        """
        path = self._paths.chunk(chunk)
        if self.link:
            self._link_chunk(self.source.chunk(chunk), path)
        opened = Chunk.open(path, is_written=self._paths.is_written)
        if not self.link:
            opened.map_source()
        if (opened.header.chunk, opened.header.database) != (chunk, self._database):
            raise CorruptionError(path, found="another chunk", expected=f"chunk {chunk} of this database")
        return opened

    def has_needless(self) -> bool:
        """Tell whether a clone has gone, so that there may be links which nobody needs any more."""
        return len(self._generations) > 1 and not all(map(os.path.lexists, list(self._generations)))

    def unlink_chunks(self, but: Collection[int] = ()) -> None:
        """Give up the links to the chunks that no clone needs that is there, but for some; what is mapped stays."""
        self._generations = {path: known for path, known in self._generations.items() if os.path.lexists(path)}
        if self.link:
            needed = {chunk for known in self._generations.values() for chunk in known.ends}
            for chunk in set(self._paths.list_links()).difference(needed, but):
                files.unlink(self._paths.chunk(chunk))


def _is_other_file(source: str, target: str) -> bool:
    """Tell whether a link is there, and is one to another file."""
    if not os.path.lexists(target):
        return False
    return not os.path.samestat(os.lstat(source), os.lstat(target))


def _read_head(path: str) -> Head | None:
    """Return what the tail page says, or None."""
    tail = open_tail(path)
    return None if tail is None else tail.read()[1]


Make: TypeAlias = Callable[[Copies, Superblock, Index], S]
"""Makes the storage of a clone."""
