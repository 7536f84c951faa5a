"""One published chunk in the cache: a local sparse file of the same layout, and which of its blocks are there.

It is a directory of two files. ``chunk`` is a chunk file like any other, but that of data and directory only those
blocks are there that were fetched; the header is there from the beginning. ``blocks`` has 16 bytes for each block::

    0    u4  CRC-32 of what the publication has of the block
    4    u4  tag of when the machine was started last before it was written, or 0 if the block is not there
    8    u8  number of the publication

A block is checked, then written, by calls that report a full disk, and only then said to be there: so it is there
whatever process is killed. After a power cut what is said may be on disk, and the block not: what was said before
the machine was started is checked against the CRC before it counts.

Any number of processes may fetch the same block: they write the same bytes. Of a later publication a block has all
that it had before, and maybe more; or records in it have changed in place. So it will do for an earlier one, which
then shows such records as they are at present; and none is written over by an earlier one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import zlib
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..chunks.header import TEXT_OFFSET, HeaderFields
from ..disk import files
from ..errors import CorruptionError
from ..runs.extent import MUTABLE
from .boot import boot_tag
from .checksums import joined_crc
from .manifest import ADVICE, PublishedChunk

CELL = np.dtype([("crc", "<u4"), ("tag", "<u4"), ("number", "<u8")])
"""What is said of a block."""
CHUNK, BLOCKS = "chunk", "blocks"
_Blocks = npt.NDArray[np.intp]


class CachedChunk:
    """The local file of a chunk as of one publication.

    Parameters
    ----------
    directory : str
        Is created, unless it is there; who opens it keeps others from doing so meanwhile.
    published : PublishedChunk
    number : int
        Of the publication.

    Attributes
    ----------
    path : str
        Of the chunk file.
    present : bytearray
        One for each block that is known to be there, or of which nothing is published; else zero.

    Notes
    -----
    Any number of threads may use it.
    """

    def __init__(self, directory: str, published: PublishedChunk, number: int) -> None:
        self.directory = directory
        self.published = published
        self.number = number
        self.path = os.path.join(directory, CHUNK)
        layout = published.layout
        count = -(-layout.file_size // layout.block)
        self._crcs = np.zeros(count, np.uint32)
        is_stored = np.zeros(count, np.bool_)
        at = 0
        for run in layout.runs:
            is_stored[run.start : run.stop] = True
            self._crcs[run.start : run.stop] = published.crcs[at : at + len(run)]
            at += len(run)
        self.present = bytearray((~is_stored).astype(np.uint8).tobytes())
        self._lock = threading.Lock()
        with files.advised(self.path, "each chunk of a published database takes up to three"):
            if not _is_sound(directory, published, count):
                _make(directory, published, count)
            self._data = files.File(self.path)
            self._cells = files.File(os.path.join(directory, BLOCKS))
        os.utime(self._cells.fd)  # as of which it was used last

    # ------------------------------------------------------------------ what is there

    def absent(self, first: int, stop: int) -> list[int]:
        """Return those of consecutive blocks that are not there: other processes may have fetched some."""
        known = np.frombuffer(self.present, np.uint8)[first:stop]
        if known.all():
            return []
        cells = self._read_cells(first, stop)
        is_good = (cells["crc"] == self._crcs[first:stop]) | (cells["number"] > self.number)
        is_there = (cells["tag"] == boot_tag()) & is_good
        return self._note(first, is_there | (known != 0))

    def _note(self, first: int, is_there: npt.NDArray[np.bool_]) -> list[int]:
        np.frombuffer(self.present, np.uint8)[first : first + len(is_there)] |= is_there
        absent: list[int] = (np.flatnonzero(~is_there) + first).tolist()
        return absent

    def lost(self, blocks: range) -> list[int]:
        """Return those of blocks that are not there, having checked which were before the machine was started."""
        cells = self._read_cells(blocks.start, blocks.stop)
        was_there = (cells["tag"] != 0) & (cells["crc"] == self._crcs[blocks.start : blocks.stop])
        kept = [block for block in np.array(blocks)[was_there].tolist() if self._crc_of(block) == self._crcs[block]]
        for block in kept:
            self._say(range(block, block + 1))
        return sorted({*blocks} - {*kept})

    def _crc_of(self, block: int) -> int:
        """Return the CRC of what there is of a block, as it would be published: the hole is zeros."""
        crc, end = 0, self.published.layout.stored(block).start
        for part in self._parts(block):
            crc = zlib.crc32(bytes(part.start - end), crc)
            crc, end = zlib.crc32(os.pread(self._data.fd, len(part), part.start), crc), part.stop
        return crc

    # ------------------------------------------------------------------ what comes

    def store(self, blocks: range, data: bytes, where: str) -> None:
        """Check and keep the bytes that are published of consecutive blocks, one piece.

        Raises
        ------
        CorruptionError
            They are not what was published.
        OSError
            ENOSPC when the disk is full.
        """
        self._check(blocks, data, where)
        with self._writing():
            if self._may_change():
                self._unsay(blocks)
            try:
                self._write(blocks, data)
                self._say(blocks)
            except OSError as error:
                raise explained(error, self.path) from error

    def store_zeros(self, blocks: range) -> None:
        """Keep blocks of zeros, which are published as nothing: what was never written is zeros already."""
        for block in blocks:
            if self._crc_of(block) != self._crcs[block]:
                self.store(range(block, block + 1), bytes(len(self.published.layout.stored(block))), self.path)
        with self._writing():
            self._say(blocks)

    def _check(self, blocks: range, data: bytes, where: str) -> None:
        expected = self._crcs[blocks.start : blocks.stop].tolist()
        layout = self.published.layout
        whole = expected[0]
        if len(blocks) > 1:
            whole = joined_crc(expected, layout.block, len(layout.stored(blocks[-1])))
        if zlib.crc32(data) == whole:
            return
        view, start = memoryview(data), layout.stored(blocks[0]).start
        edges = [0, *(block * layout.block - start for block in blocks[1:]), len(data)]
        found = [zlib.crc32(view[low:high]) for low, high in pairwise(edges)]
        wrong = next(number for number in range(len(blocks)) if found[number] != expected[number])
        what = f"CRC {found[wrong]:08x} of block {blocks[wrong]}"
        raise CorruptionError(where, found=what, expected=f"{expected[wrong]:08x}", advice=ADVICE)

    def _write(self, blocks: range, data: bytes) -> None:
        """Write what is data or directory, and not the hole in between: others may know more of that."""
        view, start = memoryview(data), self.published.layout.stored(blocks[0]).start
        whole = range(blocks[0], blocks[-1])
        parts = [self.published.layout.span(whole)] if whole else []
        for part in [*parts, *self._parts(blocks[-1])]:
            self._data.write(part.start, view[part.start - start : part.stop - start])

    def _parts(self, block: int) -> list[range]:
        """Return the bytes of the file that a block has of the data and of the directory."""
        layout = self.published.layout
        start, stop = block * layout.block, min((block + 1) * layout.block, layout.file_size)
        data = range(max(start, layout.data_offset), min(stop, layout.free))
        return [part for part in (data, range(max(start, layout.directory), stop)) if part]

    # ------------------------------------------------------------------ what is said of it

    def _read_cells(self, first: int, stop: int) -> npt.NDArray[np.void]:
        raw = os.pread(self._cells.fd, (stop - first) * CELL.itemsize, first * CELL.itemsize)
        return np.frombuffer(raw.ljust((stop - first) * CELL.itemsize, b"\0"), CELL)

    def _say(self, blocks: range) -> None:
        cells = np.empty(len(blocks), CELL)
        cells["crc"] = self._crcs[blocks.start : blocks.stop]
        cells["tag"], cells["number"] = boot_tag(), self.number
        self._cells.write(blocks.start * CELL.itemsize, cells.tobytes())
        self._note(blocks.start, np.ones(len(blocks), np.bool_))

    def reserve(self, start: int, stop: int) -> None:
        """Give blocks of disk to bytes of the file, which stay as they are, so that a mapping can be read there.

        In a file system in memory, reading what was never written takes memory, or ends in SIGBUS.
        """
        files.reserve(self.path, start, stop - start)

    def _unsay(self, blocks: range) -> None:
        self._cells.write(blocks.start * CELL.itemsize, bytes(len(blocks) * CELL.itemsize))

    def _may_change(self) -> bool:
        """Tell whether records may change in place, so that a block may have other bytes in each publication."""
        return bool(self.published.flags & MUTABLE)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Keep others from writing where what they write may differ."""
        if not self._may_change():
            yield
            return
        with self._lock:
            fcntl.flock(self._cells.fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._cells.fd, fcntl.LOCK_UN)


def _is_sound(directory: str, published: PublishedChunk, count: int) -> bool:
    """Tell whether the files are there, as they were made: a power cut may have left less."""
    header = published.header_bytes
    path = os.path.join(directory, CHUNK)
    try:
        found = files.read(path, 0, len(header))
        sizes = os.stat(path).st_size, os.stat(os.path.join(directory, BLOCKS)).st_size
    except FileNotFoundError:
        return False
    is_same = _without_offsets(found) == _without_offsets(header)
    return is_same and sizes == (published.layout.file_size, count * CELL.itemsize)


def _without_offsets(header: bytes) -> bytes:
    offsets = slice(HeaderFields.free_offset.offset, TEXT_OFFSET)
    return header[: offsets.start] + header[offsets.stop :]


def _make(directory: str, published: PublishedChunk, count: int) -> None:
    """Make both files, all at once."""
    draft = f"{directory}.{os.urandom(4).hex()}.part"
    try:
        files.make_directory(draft)
        path, cells = os.path.join(draft, CHUNK), os.path.join(draft, BLOCKS)
        files.create(path, published.layout.file_size)
        files.write(path, 0, published.header_bytes)
        files.create(cells, 0)
        files.reserve(cells, 0, count * CELL.itemsize)
        if files.exists(directory):
            files.rename(directory, f"{draft}.old.part")
        files.rename(draft, directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            files.remove_tree(draft)
        raise explained(error, directory) from error


def explained(error: OSError, path: str) -> OSError:
    """Return an error of the cache's disk that says what to do."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    advice = "the cache of what was published needs room; make some, or give another directory by cache="
    return OSError(error.errno, f"{os.strerror(error.errno)}: {advice}", path)
