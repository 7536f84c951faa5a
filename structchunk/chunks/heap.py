"""The chunk files of one store, and the bytes of an extent. It knows nothing of keys, and writes nothing.

A heap never decides whether a record is current; that is the index's.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from weakref import ref

import numpy as np
import numpy.typing as npt

from ..errors import CorruptionError, MovedError
from ..runs.extent import ALL_FLAGS, MUTABLE, Extent, RowArray, chunks_of, misplaced
from ..runs.gather import Items
from ..runs.run import ContiguousRun, Run
from ..types.schema import Schema
from .arrays import Arrays, objects_over
from .chunk import Chunk
from .retired import Retired

ATTRIBUTES = ""
"""The name of the store that has the attributes of a database and of its stores; no other one can have it."""
_FEW_RETIRED = 16
"""Among so many replaced chunks, and twice those that were held, it is not looked for those that nobody holds."""


class Place(NamedTuple):
    """A chunk, and how far it reaches as of some commit."""

    chunk: Chunk
    free: int
    directory: int


class Gone(NamedTuple):
    """A chunk that is to be unlinked once a checkpoint has made that safe."""

    store: int
    chunk: int


class Heap:
    """The chunks of one store.

    Parameters
    ----------
    store : int
        The store's id.
    name : str
        The store's name.
    schema : Schema
        The type of its items.

    Attributes
    ----------
    chunks : dict of int to Chunk
        The files that commits have named.
    drafts : dict of int to Chunk
        Those that a transaction has made and not committed; only it has extents in them.
    is_dropped : bool
        Whether a commit of this process has dropped the store.
    is_altered : bool
        Whether that has made another store of its name, which has the records now.

    Notes
    -----
    Any number of threads may read; who commits changes ``chunks``.
    """

    is_remote = False
    """Whether records have to be fetched before they are read."""

    def __init__(self, store: int, name: str, schema: Schema) -> None:
        self.store = store
        self.name = name
        self.schema = schema
        self.dtype = schema.dtype
        self.item_size = schema.item_size
        self.chunks: dict[int, Chunk] = {}
        self.drafts: dict[int, Chunk] = {}
        self.is_dropped = self.is_altered = False
        self.arrays = Arrays(self, self.dtype, writable=False)
        self.live_arrays = Arrays(self, self.dtype, writable=True)
        self.live_bytes = Arrays(self, np.dtype(np.uint8), writable=True)
        self._live_objects: dict[type[Any], dict[int, Any]] = {}
        self._retired: dict[int, ref[Retired]] = {}
        self._most_retired = _FEW_RETIRED
        self._retired_bounds: dict[int, tuple[int, int]] = {}

    def find_chunk(self, chunk: int) -> Chunk | None:
        """Return a chunk by its id, committed or not yet, or None."""
        return self.chunks.get(chunk) or self.drafts.get(chunk)

    @property
    def identity(self) -> tuple[bytes, int]:
        """What no other store has: the uuid of its database, and its id there."""
        database = [chunk.header.database for chunk in list(self.chunks.values())][:1]
        return b"".join(database), self.store

    def add(self, chunk: Chunk) -> None:
        """Add a chunk file; the one with the highest id is the one that grows."""
        self.chunks[chunk.id] = chunk

    def adopt(self, chunks: Mapping[int, Chunk]) -> None:
        """Take these chunks, of a newer commit; those that are here already stay, as far as they reach now."""
        for number, chunk in chunks.items():
            mine = self.chunks.get(number)
            if mine is not None and mine.header == chunk.header:
                self._go_on(mine, chunk)
                continue
            if mine is not None:  # never committed: a later writer used its number again
                self.remove(number)
            self.add(chunk)

    def _go_on(self, mine: Chunk, newer: Chunk) -> None:
        """Let a chunk reach as far as another object of the same file does."""
        if newer.is_mapped and newer.directory != mine.directory:
            # On an overlay file system the mapping of before may never show what was written since.
            self.chunks[mine.id] = newer
            self.arrays.pop(mine.id, None)
        else:
            mine.seek(newer.committed, newer.directory)
            newer.unmap()  # two of each file until the garbage collector comes would be many mappings

    def settle(self, chunk: Chunk) -> None:
        """Mark a draft chunk as committed."""
        self.add(chunk)
        self.drafts.pop(chunk.id, None)

    def remove(self, chunk: int) -> None:
        """Forget a chunk; its views stay valid."""
        self.chunks.pop(chunk, None)
        self.arrays.pop(chunk, None)
        self.live_arrays.pop(chunk, None)
        self._forget_objects(chunk)
        self.live_bytes.pop(chunk, None)

    def discard(self, chunk: int) -> None:
        """Forget a chunk that was not committed."""
        if chunk in self.drafts:
            self.drafts[chunk].close()
        self.remove(chunk)
        self.drafts.pop(chunk, None)

    def retire(self, retired: Retired) -> None:
        """Forget a chunk that was replaced, but for those who still hold it."""
        chunk = retired.chunk
        self._retired_bounds[chunk.id] = (chunk.header.data_offset, chunk.committed)
        self._retired[chunk.id] = ref(retired)
        self.remove(chunk.id)
        if len(self._retired) > self._most_retired:
            held = {number: known for number, known in self._retired.items() if known() is not None}
            self._retired, self._most_retired = held, 2 * len(held) + _FEW_RETIRED

    def retired_chunks(self) -> list[Chunk]:
        """Return the chunks that were replaced, and that somebody holds yet."""
        return [retired.chunk for known in list(self._retired.values()) if (retired := known()) is not None]

    def retired_chunk(self, chunk: int) -> Retired:
        """Return a chunk that was replaced.

        Raises
        ------
        MovedError
            No view as old as its extents is left, so that it was let go; or no commit ever named it.
        """
        known = self._retired.get(chunk)
        found = None if known is None else known()
        if found is None:
            raise MovedError(self._moved(chunk))
        return found

    def _moved(self, chunk: int) -> str:
        if chunk in self._retired_bounds:
            return f"chunk {chunk} of store {self.name!r} was replaced by compaction"
        return f"what a transaction had in chunk {chunk} of store {self.name!r} was taken back; read it again"

    def close(self) -> None:
        """Let the mappings go that no view holds."""
        self.arrays.clear()
        self.live_arrays.clear()
        for kept in list(self._live_objects.values()):
            kept.clear()
        self.live_bytes.clear()
        for chunk in self.chunks.values():
            chunk.close()

    # ------------------------------------------------------------------ reading

    def array(self, extent: Extent) -> npt.NDArray[Any]:
        """Return an extent's items, read-only, without a copy."""
        start = extent[1] // self.item_size
        return self.arrays[extent[3]][start : start + extent[2]]

    def records(self, run: Run) -> npt.NDArray[Any] | None:
        """Return the records of a run, each a row of one array; None of those for which there is none.

        These are records that do not lie back to back, are not of one length, or may change in place.
        """
        if not isinstance(run, ContiguousRun) or not run.length or run.flags & MUTABLE:
            return None
        values = self.arrays[run.chunk][run.items]
        return values.reshape(len(run), run.length, *values.shape[1:])

    def live_array(self, extent: Extent) -> npt.NDArray[Any]:
        """Return an extent's items, writable: a change goes to the file."""
        start = extent[1] // self.item_size
        return self.live_arrays[extent[3]][start : start + extent[2]]

    def fetched(self, rows: RowArray) -> Mapping[int, npt.NDArray[Any]]:
        """Return the items of the chunks that rows name, of which those of the rows are there: as all are."""
        return self.arrays  # type: ignore[return-value]

    def fetch(self, rows: RowArray, chunks: Mapping[int, Chunk]) -> None:
        """See that records are there, which lie in these chunks: all that are in files are."""

    def hold(self) -> object:
        """Return nothing: what is in files stays readable for who has rows of it."""

    def begin(self, runs: Sequence[Run]) -> None:
        """Begin to fetch the records of runs: all that are in files are there."""

    def retired_items(self, chunk: int, *, writable: bool) -> Items:
        """Return a replaced chunk as one array of items, which is not kept; a change to it would be lost."""
        retired = self.retired_chunk(chunk)
        if writable:
            raise MovedError(self._moved(chunk))
        return retired.chunk.view(retired.chunk.items(self.schema.dtype))

    def objects(self, cls: type[Any], chunk: int) -> Any:
        """Return a chunk as one array of objects of a type, to be changed in place."""
        memory: Any = self.live_bytes[chunk]
        return objects_over(cls, memory)

    def live_objects(self, cls: type[Any]) -> dict[int, Any]:
        """Return what is kept of :meth:`objects`, by chunk: who makes one that may be handed out adds it."""
        return self._live_objects.setdefault(cls, {})

    def _forget_objects(self, chunk: int) -> None:
        """Keep no array of the objects of a chunk; each object holds the one that it is in."""
        for kept in list(self._live_objects.values()):
            kept.pop(chunk, None)

    def is_exposed(self, chunk: int) -> bool:
        """Tell whether anyone holds a writable view of a chunk."""
        self._forget_objects(chunk)
        # Every view of it holds the array of the whole chunk; the dictionary and this call hold it, too.
        return any(
            chunk in arrays and sys.getrefcount(arrays[chunk]) > 2 for arrays in (self.live_arrays, self.live_bytes)
        )

    def check(self, rows: RowArray) -> None:
        """Raise CorruptionError unless all of these rows lie inside this heap's chunks."""
        if len(rows) == 1 and self._lies_inside(rows[0].item()):
            return
        chunks = rows["chunk"]
        ids = chunks_of(rows)
        for chunk_id in ids:
            mine = rows if len(ids) == 1 else rows[chunks == chunk_id]
            low, high = self._bounds(chunk_id, mine)
            bad = misplaced(mine, low, high, self.item_size)
            if bad.any():
                row = mine[np.argmax(bad)]
                found = f"key {row['key']} with {row['length']} items, flags {row['flags']}"
                expected = f"whole items inside bytes {low} to {high}"
                chunk = self.chunks.get(chunk_id)
                path = chunk.path if chunk else self.name
                raise CorruptionError(path, offset=int(row["offset"]), found=found, expected=expected)

    def _lies_inside(self, extent: Extent) -> bool:
        """Tell whether one row lies inside a chunk, as ``misplaced`` does: a single read asks this each time."""
        _, offset, length, number, flags = extent
        chunk = self.find_chunk(number)
        if chunk is None or flags & ~ALL_FLAGS:
            return False
        room = chunk.committed - offset
        is_inside = chunk.header.data_offset <= offset and length * self.item_size <= room
        return is_inside and room >= 0 and offset % self.item_size == 0

    def _bounds(self, chunk_id: int, rows: RowArray) -> tuple[int, int]:
        """Return where the data of a chunk begins and ends, of a replaced one too: old snapshots name it."""
        chunk = self.find_chunk(chunk_id)  # of a commit that was cut short it may be a draft yet
        if chunk is not None:
            return chunk.header.data_offset, chunk.committed
        bounds = self._retired_bounds.get(chunk_id)
        if bounds is None:
            found = f"key {rows['key'][0]} in chunk {chunk_id}"
            raise CorruptionError(self.name, found=found, expected=f"one of the chunks {sorted(self.chunks)}")
        return bounds
