"""CopiedStorage: what is shown of a database through a private index, and how it moves on to a newer one."""

from __future__ import annotations

import abc
from collections.abc import Callable

from ..chunks.chunk import Chunk
from ..chunks.heap import Heap
from ..chunks.retired import Retired
from ..disk.superblock import Superblock
from ..engine.storage import Storage
from ..errors import ReadOnlyError


class CopiedStorage(Storage, abc.ABC):
    """What a reader sees of a database: one commit, until :meth:`refresh`.

    Attributes
    ----------
    pauses : tuple of float
        Seconds between two looks whether there is a newer commit: at first, and at most.
    """

    is_copy = True
    pauses: tuple[float, float]

    def check_writable(self) -> None:
        """Refuse: nothing is ever written through this."""
        raise ReadOnlyError(f"{self.paths.root} is open with mode='r'; open it with mode='r+' to write")

    @abc.abstractmethod
    def refresh(self) -> bool:
        """Show the newest commit, and tell whether it is another one. Reads in flight, and snapshots, go on."""

    @property
    def by_id(self) -> dict[int, Heap]:
        """The stores by their ids."""
        return self._heaps

    def take_over(self, theirs: dict[int, Heap], superblock: Superblock, move_index: Callable[[], object]) -> None:
        """Take over what is newer: chunks first, since the index must not name one that is not there.

        Parameters
        ----------
        theirs : dict of int to Heap
            By their ids, the stores that there are then.
        superblock : Superblock
        move_index : callable
            Has the index show the newer commit.
        """
        mine = self._heaps
        for store in mine.keys() & theirs.keys():
            mine[store].adopt(theirs[store].chunks)
        move_index()
        self._forget(mine, theirs)
        for store in theirs.keys() - mine.keys():
            self.index.add_store(store, theirs[store].item_size, theirs[store].check)
        self._heaps = {store: mine.get(store, heap) for store, heap in theirs.items()}
        self.superblock = superblock
        for store in mine.keys() & theirs.keys():
            theirs[store].chunks.clear()  # the garbage collector may come late, and mappings are limited in number

    def _forget(self, mine: dict[int, Heap], theirs: dict[int, Heap]) -> None:
        """Forget the chunks that are gone, but for the snapshots and scans that go on reading them."""
        for store in mine.keys() - theirs.keys():
            for chunk in mine[store].chunks.values():
                chunk.map_source()
        for store in mine.keys() & theirs.keys():
            heap = mine[store]
            for chunk in [chunk for chunk in heap.chunks.values() if chunk.id not in theirs[store].chunks]:
                if self._is_renumbered(chunk):
                    heap.remove(chunk.id)
                else:
                    old = Retired(chunk)
                    self.index.keep([old])
                    heap.retire(old)

    def _is_renumbered(self, chunk: Chunk) -> bool:
        """Tell whether another file has a chunk's number: it was never committed then."""
        return False

    def __del__(self) -> None:
        """Do nothing: the storage that a refresh made is given up when its parts were taken over."""

    def close(self) -> None:
        """Close the index, and remove it."""
        with self.committing():
            self._let_go()
