"""The chunk files that a publication reads, mapped so that compaction may unlink them meanwhile."""

from __future__ import annotations

from collections.abc import Mapping

from ..chunks.heap import Place


class ChunkGone(Exception):
    """A chunk file was unlinked before it was mapped: a later commit has replaced it."""


class ChunkFiles:
    """Reads the chunks of one commit; any number of threads may.

    Parameters
    ----------
    places : mapping of int to Place
        All of them.
    """

    def __init__(self, places: Mapping[int, Place]) -> None:
        self._places = places

    def read(self, chunk: int, start: int, size: int) -> bytes:
        """Return bytes of a chunk file.

        Raises
        ------
        ChunkGone
            It has lost its name, and was not mapped.
        """
        found = self._places[chunk].chunk
        try:
            source = found.source
        except FileNotFoundError as error:
            raise ChunkGone(found.path) from error
        return source[start : start + size]
