"""ChunkFile: one chunk file as the system has it, mapped, and open to be written. It knows no positions in it.

It is the same file all the time, wherever the path leads meanwhile; if it cannot be, that is an error.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..disk import files
from ..errors import CLOSED, ClosedError, CorruptionError, Error, FailedError
from .header import TEXT_OFFSET, Header, HeaderFields
from .mapping import map_file

MOST_OPEN = 32
"""So many chunk files are kept open for writing, of all databases of this process."""
_written: deque[weakref.ref[ChunkFile]] = deque()
"""Those that are, the one first that was opened first; some may have been closed since."""


class ChunkFile:
    """A chunk file, mapped when first touched.

    Parameters
    ----------
    path : str
    header : Header
        What it has, or is about to have: its size, and who made it.
    is_written : bool
        Whether it may be written through this object, or only be read.

    Notes
    -----
    Any number of threads may read; one writes. Mappings live until the last view of them dies, past the end of this
    object and past the unlinking of the file.
    """

    def __init__(self, path: str, header: Header, *, is_written: bool) -> None:
        self.path = path
        self.header = header
        self.id = header.chunk
        self._is_written = is_written
        self._source: mmap.mmap | None = None
        self._target: mmap.mmap | None = None
        self._file: files.File | None = None
        self._identity: files.Identity | None = None
        self._closed = False

    # ------------------------------------------------------------------ mappings

    @property
    def source(self) -> mmap.mmap:
        """A mapping of the file for reading; nothing can make it writable."""
        return self._source or self.map_source()

    def map_source(self) -> mmap.mmap:
        """Map the file for reading, unless it is mapped already: from then on it may be unlinked."""
        if self._source is None:
            self._source = self._map(writable=False)
        return self._source

    @property
    def is_mapped(self) -> bool:
        """Whether it is mapped for reading."""
        return self._source is not None

    def is_unlinked(self) -> bool:
        """Whether the file, once mapped, has lost its name."""
        return self._source is not None and not os.path.lexists(self.path)

    @property
    def target(self) -> mmap.mmap:
        """A mapping whose changes go to the file."""
        if self._target is None:
            self._target = self._map(writable=True)
        return self._target

    def unmap(self) -> None:
        """Let mappings and file go; the mappings that a view holds live on with it."""
        self._file = self._source = self._target = None

    def close(self) -> None:
        """Let the mappings go, and make no more: the path may lead to another file from now on."""
        self._closed = True
        self.unmap()

    def _map(self, *, writable: bool) -> mmap.mmap:
        with self.while_open(), files.advised(self.path):
            file = self._file  # which may have lost its name; and a signal handler may close it meanwhile
            if file is not None:
                return self._mapped(file.fd, writable=writable)
            # On an overlay file system a file of a lower layer is copied when it is first opened for writing, and
            # who has mapped it before goes on seeing the lower one. So a writer opens it for writing, even to read.
            write = writable or (self._is_written and os.access(self.path, os.W_OK))
            with files.opened(self.path, write=write) as fd:
                return self._mapped(fd, writable=writable)

    def _mapped(self, fd: int, *, writable: bool) -> mmap.mmap:
        status = os.fstat(fd)
        size = status.st_size
        if size != self.header.file_size:
            expected = f"{self.header.file_size} bytes"
            raise CorruptionError(self.path, found=f"a file of {size} bytes", expected=expected)
        self._recognise(fd, files.identity(status))
        return map_file(fd, size, writable=writable)

    def peek(self, offset: int, size: int) -> bytes:
        """Return bytes of the file; it need not be mapped for that: mappings are limited in number."""
        if self._source is None:
            with contextlib.suppress(FileNotFoundError):  # it may be mapped meanwhile, and then lose its name
                return files.read(self.path, offset, size)
        return self.source[offset : offset + size]

    # ------------------------------------------------------------------ which file it is

    def _recognise(self, fd: int, file: files.Identity) -> None:
        """Raise unless an open file is this chunk: it may lie where another one was when the header was read."""
        known = self._identity
        if known is None:
            fields = HeaderFields.from_buffer_copy(os.pread(fd, TEXT_OFFSET, 0))
            found = bytes(fields.database), fields.chunk, fields.created
            known = file if found == (self.header.database, self.id, self.header.created) else None
        self._identity = known
        if known != file:
            raise FailedError(
                f"{self.path} is another file than the one that was opened; close the database and open it again"
            )

    def is_file(self, fd: int) -> bool:
        """Tell whether an open file is the one that is mapped, or was written to."""
        return self._identity == files.identity(os.fstat(fd))

    @contextlib.contextmanager
    def while_open(self) -> Iterator[None]:
        """Raise ClosedError if it is closed, also meanwhile, after which the path may lead nowhere."""
        if self._closed:
            raise ClosedError(CLOSED)
        try:
            yield
        except FileNotFoundError as error:
            if self._closed:
                raise ClosedError(CLOSED) from error
            raise
        if self._closed:  # its file may still be open, and lead nowhere
            raise ClosedError(CLOSED)

    def check_place(self) -> None:
        """Raise if what is written by path would go to another file than the one that is open."""
        file = self._file  # others may close it, to open another one
        if file is None:
            self._open_file()
        elif found := files.displaced(self.path, file.identity):
            if self._closed:
                raise ClosedError(CLOSED)
            raise FailedError(f"{found}; close the database and open it again")

    # ------------------------------------------------------------------ writing

    def reserve_blocks(self, offset: int, size: int) -> None:
        """Give blocks to a stretch; raise OSError if the disk is full, with nothing changed."""
        with self.while_open():
            files.reserve(self.path, offset, size, self._file)

    def write(self, offset: int, data: Any) -> None:
        """Write all of a contiguous buffer."""
        file = self._file or self._open_file()
        file.write(offset, data.view(np.uint8) if isinstance(data, np.ndarray) else data)

    def _open_file(self) -> files.File:
        with self.while_open(), files.advised(self.path):
            file = files.File(self.path)
        self._recognise(file.fd, file.identity)
        self.write_to(file)
        return file

    def write_to(self, file: files.File) -> None:
        """Write to this open file, which is the one, from now on; and close others if there are too many."""
        self._file, self._identity = file, file.identity
        _written.append(weakref.ref(self))
        while len(_written) > MOST_OPEN:
            oldest = _written.popleft()()
            if oldest is not None:
                oldest._let_file_go()

    def _let_file_go(self) -> None:
        """Close the file once no write is in flight, and keep it mapped: see ``files.start_flush``.

        It is opened again when it is needed. One that cannot be mapped stays open.
        """
        with contextlib.suppress(OSError, Error):
            self.map_source()
            self._file = None

    def flush(self) -> None:
        """Bring all of its data to disk."""
        files.flush(self.path)
