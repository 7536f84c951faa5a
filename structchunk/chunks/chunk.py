"""One chunk file: its header, its data, its directory. It knows bytes and offsets; types are the heap's.

Format, version 1. All numbers are little-endian; a chunk belongs to one store. ::

    0                 header, whole pages of 4096 bytes
        0    8s  magic "STRUCTCK"
        8    u4  format version: 2 of a chunk that replaces others, if its segments say so too; else 1
        12   u4  header size, bytes
        16   16s database uuid
        32   u4  chunk id
        36   u4  store id = the id of the store's first chunk
        40   u8  item size, bytes
        48   u8  data offset: the smallest multiple of the item size that is not below the header size
        56   u8  file size, bytes
        64   u8  created, nanoseconds since 1970
        72   u4  size of the JSON text, bytes
        76   u4  how many chunks this one replaces
        80   u4  CRC-32 of bytes 0 to 80 followed by the text and the ids behind it
        84   u4  zero
        88   u8  free offset: the next free byte      } written by every commit for those who read the
        96   u8  directory offset: its lowest byte    } file from outside; recovery never trusts them
        104      JSON text: {"name": ..., "kind": "array" or "object", "schema": ...}; of a chunk that
                 replaces others also "history": [the last commit whose changes those held, and then the
                 commits after it that only moved records]; without it that may be any commit before the
                 one that replaces them
                 u4 ids of the chunks that this one replaces, once the commit that does so is whole
    data offset       data: records back to back, each at a multiple of the item size, so that the
                      whole file can be seen as one array of the store's type
    ...               hole: never written, reads as zeros; at least 64 bytes
    ...               directory: segments growing down from the end of the file
    file size

One commit adds one segment to every chunk that it touched. A segment is its rows and, above them, its record;
the next segment lies right below the rows. A slot that holds no valid record ends the directory. ::

    rows, in one of three forms, filled up with zeros to a multiple of 32 bytes; they ascend by key
        form 0   32 bytes for each row: u8 key, u8 offset, u8 length, u4 chunk id, u4 flags
        form 1   u8 offset, u8 length, u4 chunk id, u4 flags; then u8 key for each row
        form 2   the same 24 bytes; then u8 first key, u8 step from key to key
                 forms 1 and 2 are for records of one length and the same flags, back to back from offset on
        whatever the form, between the data's end and the record there is room for 32 bytes for each row
        offset is bytes from the start of the file, length is items; one record may begin below the commit's
        bytes: an earlier commit's last one, which this one made longer, from where its own bytes begin
        flags: 1 TOMBSTONE (deleted), 2 MUTABLE (may change in place), 4 ZERO (made by new(): no CRC
        covers it), 8 DROPPED (with 1: the whole store was dropped)
    record, 64 bytes
        0    4s  magic "SEGM"
        4    u4  parts: how many chunks this commit touched
        8    u4  part: which of them this is, from 0
        12   u4  row count
        16   u8  commit number
        24   u8  epoch
        32   u8  start } of the commit's bytes in this chunk
        40   u8  end   }
        48   u4  CRC-32 of the bytes of all its records except ZERO ones, in the order of their offsets, from
                 start on
        52   u4  CRC-32 of the rows as they are here, with the zeros behind them
        56   u4  form of the rows; and 256 if this commit replaces the chunks that the header names
        60   u4  CRC-32 of bytes 0 to 60 of this record, started from the chunk id

The store called "" is the one of attributes, if a database has any. Its items are bytes; its records are JSON
objects in UTF-8, one for each owner: the key is the store id, or 0 for the database.

A commit that drops a store may create another one of its name, which then is that store: its type was changed.

A commit that replaces chunks is the first one of the chunks whose headers name them, and has rows for all that is
worth keeping of them. In version 1 no segment says so, and a header alone is no proof: a transaction that was never
committed may have left it, and later commits have gone there. Rows of all chunks together, in order of commit, are
right in either case, as long as all of the chunks to be replaced are still there; if some are gone, they were
replaced.

The CRC is the one of zlib and PNG.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..disk import files
from ..runs.extent import ROW_SIZE
from ..runs.gather import Items
from .chunk_file import ChunkFile
from .directory import record_above
from .header import PAGE, TEXT_OFFSET, Header, HeaderFields, parse_header, round_up
from .header_file import read_raw_header
from .segment import SEGMENT_SIZE, Segment, parse_segment, walk

MIN_STEP = 1 << 16
"""Space is reserved in steps: as much as there is already, up to so many bytes, and then a fraction of it."""
_OFFSETS = struct.Struct("<QQ")


class Chunk(ChunkFile):
    """One chunk file: its data, its directory, and how far both reach.

    ``committed`` and ``directory`` are how far data and directory reach as of the last commit; ``settled`` is
    ``committed`` as of the last checkpoint: the bytes below it are no longer needed to check a commit. ``free`` is
    where the next transaction may store: above ``committed`` if views of what an earlier one stored were handed
    out. What lies between it and ``stored`` was written by a transaction that did not commit. ``passed`` is a
    commit and a position in the directory: all segments above that are of commits up to it. ``offsets_found`` are
    free and directory offset as the header had them when the file was opened.

    Notes
    -----
    Any number of threads may read; one writes. What is stored is written by ``pwrite``, since only that reports a
    full disk as an error; a store to a mapping ends in SIGBUS.
    """

    def __init__(self, path: str, header: Header, free: int, directory: int, *, is_written: bool = True) -> None:
        super().__init__(path, header, is_written=is_written)
        self.free = self.settled = self.committed = self.stored = free
        self.directory = directory
        self.offsets_found = free, directory
        self.passed = 0, header.file_size
        self.reserved = 0
        self._prepared = False
        self._directory_reserved = header.file_size

    @classmethod
    def create(cls, path: str, header: Header) -> Chunk:
        """Create the file. Not durable before :meth:`flush` and a flush of the directory that it lies in."""
        chunk = cls(path, header, header.data_offset, header.file_size)
        try:
            with files.advised(path):
                chunk._fill(files.create(path, header.file_size))
        except FileExistsError:
            raise  # somebody else made it, so it must not be removed
        except BaseException:
            files.unlink(path)
            raise
        chunk._prepared = True
        return chunk

    def _fill(self, file: files.File) -> None:
        """Write the header, with blocks for it, and for the first page of the directory, which every chunk gets."""
        path, header = self.path, self.header
        files.reserve(path, 0, header.header_size, file)
        files.write(path, 0, header.pack(), file)
        first = max(header.file_size - PAGE, header.data_offset)
        files.reserve(path, first, header.file_size - first, file)
        self._directory_reserved = first
        self.write_to(file)

    @classmethod
    def open(cls, path: str, *, is_written: bool = False) -> Chunk:
        """Open an existing file, positioned as if it were empty.

        Parameters
        ----------
        path : str
        is_written : bool
            Whether it may be written through this object, or only be read.

        Raises
        ------
        CorruptionError
            The header is damaged, or the file is not of the size that it says.
        """
        raw, size = read_raw_header(path)
        header = parse_header(raw, path, size)
        chunk = cls(path, header, header.data_offset, header.file_size, is_written=is_written)
        chunk.offsets_found = HeaderFields.from_buffer_copy(raw).working_offsets()
        return chunk

    # ------------------------------------------------------------------ reading

    @property
    def is_committed(self) -> bool:
        """Whether a commit stands in it; else an open transaction has made it."""
        return self.directory < self.header.file_size

    def items(self, dtype: np.dtype[Any], *, writable: bool = False) -> npt.NDArray[Any]:
        """Return the whole file as one array of items; read-only for good unless `writable`."""
        mapping = self.target if writable else self.source
        return np.frombuffer(mapping, dtype, count=self.header.file_size // dtype.itemsize)

    def view(self, items: npt.NDArray[Any]) -> Items:
        """Return an array over the whole file as what slices are taken of."""
        return items

    def fetch(self, start: int, stop: int) -> None:
        """See that bytes of the file are there before they are read from a mapping: all are that are in it."""

    def working_offsets(self) -> tuple[int, int]:
        """Return free and directory offset as the header has them, for those who read it from outside."""
        return HeaderFields.from_buffer_copy(self.peek(0, TEXT_OFFSET)).working_offsets()

    def segments(self, position: int | None = None) -> Iterator[Segment]:
        """Yield the directory's segments from a position downwards, by default from the end of the file."""
        header = self.header
        start = header.file_size if position is None else position
        self.fetch(self.directory, start)
        if not any(self.peek(start - SEGMENT_SIZE, SEGMENT_SIZE)):
            return iter(())
        raw = memoryview(self.source)
        return walk(raw, start, self.id, header.data_offset, header.item_size)

    def segment_above(self, low: int) -> tuple[int, Segment] | None:
        """Return the segment whose lowest byte is at `low`, and where it ends, or None."""
        header, source = self.header, self.source
        self.fetch(low, header.file_size)
        end = record_above(source, low, header.file_size, self.id)
        segment = (
            parse_segment(memoryview(source), end, self.id, header.data_offset, header.item_size) if end else None
        )
        return None if segment is None else (end, segment)

    # ------------------------------------------------------------------ writing

    def reserve(self, end: int) -> None:
        """Give blocks to all data below `end`, and some more, so that storing there cannot fail.

        Raises
        ------
        OSError
            ENOSPC when the disk is full; then nothing changed.
        """
        if end <= self.reserved:
            return
        self.check_place()
        start = max(self.free, self.reserved)
        ahead = round_up(end + self._step(end - self.header.data_offset), PAGE)
        exact = round_up(end, PAGE)
        self.reserved = self._reserve_one_of(start, min(ahead, self.directory // PAGE * PAGE), exact)

    def reserve_directory(self, rows_size: int, *, exact: bool = False) -> None:
        """Give blocks to the next segment, whose rows take `rows_size` bytes, as :meth:`reserve` does to data."""
        low = self.directory - SEGMENT_SIZE - rows_size
        if low >= self._directory_reserved:
            return
        self.check_place()
        stop = min(self._directory_reserved, self.directory)
        ahead = 0 if exact else min(self.header.file_size - self.directory, MIN_STEP)
        for start in (low - ahead, low):
            first = max(start // PAGE * PAGE, self.free, self.stored)
            try:
                self.reserve_blocks(first, stop - first)
            except OSError:
                if start == low:
                    raise
            else:
                self._directory_reserved = first
                return

    @staticmethod
    def _step(size: int) -> int:
        """Return how much to reserve ahead, behind `size` bytes."""
        return max(min(size, MIN_STEP), size // 16)

    def _reserve_one_of(self, start: int, ahead: int, exact: int) -> int:
        if ahead > exact:
            try:
                self.reserve_blocks(start, ahead - start)
            except OSError:
                pass
            else:
                return ahead
        if exact > start:  # else the record is empty
            self.reserve_blocks(start, exact - start)
        return exact

    def store(self, offset: int, data: Any, size: int) -> None:
        """Write a contiguous buffer of `size` bytes at `offset`, behind all that was committed."""
        self.stored = max(self.stored, offset + size)  # first: an interrupt may leave a part of it in the file
        self.write(offset, data)

    def place(self, offset: int, data: Any, size: int) -> None:
        """Store a contiguous buffer, with blocks for no more than itself: nothing is to follow soon."""
        if size:
            self.reserve_blocks(offset, size)
            self.store(offset, data, size)

    def write_rows(self, rows: bytes | memoryview) -> memoryview:
        """Write the rows of the next segment ahead of its record, and return them as they are in the file."""
        low = self.directory - SEGMENT_SIZE - len(rows)
        self.write(low, rows)
        return memoryview(self.source)[low : low + len(rows)]

    def append_segment(
        self, rows: bytes | memoryview, record: bytes, free: int, *, is_written: bool = False
    ) -> None:
        """Write a segment's rows and record below the directory; move both offsets on, here and in the header.

        The rows need not be written if they are by :meth:`write_rows`.
        """
        low = self.directory - SEGMENT_SIZE - len(rows)
        if is_written:
            self.write(low + len(rows), record)
        else:
            self.write(low, b"".join((rows, record)))
        self.seek(free, low)  # first: who reads the header meanwhile sees that it is about to change
        self.write(HeaderFields.free_offset.offset, _OFFSETS.pack(free, low))

    def seek(self, free: int, directory: int) -> None:
        """Set both offsets in this process: `free` and `directory` as of some commit."""
        self.free = self.committed = self.stored = free
        self.directory = directory

    def mend(self) -> bool:
        """End the directory here, and tell whether a crash had left more: zero the slot, correct the header."""
        mended = False
        slot = max(self.directory - SEGMENT_SIZE, self.free)
        if any(self.peek(slot, self.directory - slot)):
            files.write(self.path, slot, bytes(self.directory - slot))
            # Zeros in memory alone, as a flush that fails may leave them, would hide from the next recovery that
            # there is something to mend.
            files.rewrite(self.path, slot, self.directory)
            mended = True
        if self.working_offsets() != (self.free, self.directory):
            files.write(self.path, HeaderFields.free_offset.offset, _OFFSETS.pack(self.free, self.directory))
            mended = True
        return mended

    def rewrite(self, free: int, directory: int) -> None:
        """Write all between two offsets again, and the header too if no segment is above; see `files.rewrite`."""
        self.flush()  # raises an error of earlier writing that was not raised yet
        files.rewrite(self.path, free if directory < self.header.file_size else 0, directory)

    def prepare(self) -> None:
        """Make the hole all zeros, on disk too, once: a crash may have left bytes in it.

        So what a torn write leaves of a segment is zeros, and never a part of one that was lost before.
        """
        if self._prepared:
            return self.clear(self.free)
        self.check_place()
        try:
            with self.while_open():
                if files.clear(self.path, self.free, self.directory):
                    self.flush()
        except OSError:
            # Nothing of the sectors at its ends: records that share them may be changing in place.
            start, stop = round_up(self.free, files.SECTOR), self.directory // files.SECTOR * files.SECTOR
            files.rewrite(self.path, start, stop, unit=files.SECTOR)
            raise
        self._prepared = True

    def distrust(self) -> None:
        """Prepare it again before anything is stored: another process may have begun to."""
        self._prepared = False

    def clear(self, start: int) -> None:
        """Zero what was stored from `start` on, and not committed."""
        if self.stored > start:
            self.check_place()
            with self.while_open():
                files.clear(self.path, start, min(self.stored, self.directory))
            self.stored = start


def least_size(draft: Header, size: int) -> int:
    """Return the size of a file that has room for a record of `size` bytes, or for as many of records and rows."""
    return round_up(draft.data_offset + size + ROW_SIZE + 2 * SEGMENT_SIZE, PAGE)
