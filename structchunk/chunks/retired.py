"""A chunk that compaction replaced, and where its records are now that may change in place."""

from __future__ import annotations

from collections.abc import Sequence

from ..runs.extent import Extent
from ..runs.run import Run
from ..runs.streams import find_in
from .chunk import Chunk


class Retired:
    """A chunk that compaction replaced, for those who go on reading it.

    Parameters
    ----------
    chunk : Chunk
    old, new : sequence of Run
        Consecutive runs: its records that may change in place, and where they are now, with others.
    """

    def __init__(self, chunk: Chunk, old: Sequence[Run] = (), new: Sequence[Run] = ()) -> None:
        chunk.map_source()  # while it has a name
        self.chunk = chunk
        self._old = old
        self._new = new

    def moved(self, extent: Extent) -> Extent | None:
        """Return where a record is now; None if it was not current any more when the others were moved."""
        if find_in(self._old, extent[0]) != extent:
            return None
        return find_in(self._new, extent[0])
