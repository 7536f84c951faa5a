"""The chunk files that a publication reads, held open so that compaction may unlink them meanwhile."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping

from ..chunks.heap import Place
from ..disk import files
from ..maintenance.chunk_copies import Source


class ChunkGone(Exception):
    """A chunk file was unlinked before it was opened: a later commit has replaced it."""


class ChunkFiles:
    """Reads the chunks of one commit; any number of threads may.

    Parameters
    ----------
    places : mapping of int to Place
        All of them.
    sources : mapping of int to Source
        Those that are open already.
    held : ExitStack
        What is opened is closed when it is left.
    """

    def __init__(
        self, places: Mapping[int, Place], sources: Mapping[int, Source], held: contextlib.ExitStack
    ) -> None:
        self._places = places
        self._sources = sources
        self._fds: dict[int, int] = {}
        self._held = held
        self._lock = threading.Lock()

    def read(self, chunk: int, start: int, size: int) -> bytes:
        """Return bytes of a chunk file, of which there must be as many.

        Raises
        ------
        ChunkGone
            It has lost its name, and was not open.
        """
        if chunk in self._sources:
            return self._sources[chunk].read(start, size)
        fd = self._open(chunk)
        parts = []
        while size:
            part = os.pread(fd, size, start)
            if not part:
                raise OSError(f"{self._places[chunk].chunk.path} ends at byte {start}; it was cut off")
            parts.append(part)
            start, size = start + len(part), size - len(part)
        return b"".join(parts)

    def _open(self, chunk: int) -> int:
        with self._lock:
            if chunk not in self._fds:
                path = self._places[chunk].chunk.path
                try:
                    with files.advised(path):
                        self._fds[chunk] = self._held.enter_context(files.opened(path))
                except FileNotFoundError as error:
                    raise ChunkGone(path) from error
            return self._fds[chunk]
