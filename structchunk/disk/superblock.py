"""The superblock: two checksummed slots that say which index is valid, up to which commit, in which epoch.

The file is two pages of 4096 bytes; slot ``sequence % 2`` was written last. A slot, little-endian::

    0    8s  magic "STRUCTSB"
    8    u4  format version = 1
    12   u4  index generation: the number of the index directory
    16   16s database uuid
    32   u8  sequence: counts writes of the superblock
    40   u8  checkpoint: the commit up to which everything is on disk
    48   u8  epoch: counts recoveries
    56   u4  next chunk: no chunk had this id, or a higher one, at the checkpoint
    60   u4  CRC-32 of bytes 0 to 60
    64   u4  CRC-32 of the heads: u4 id, u8 directory offset of each chunk that holds a commit, by id
    68   u4  CRC-32 of bytes 0 to 68; where it does not hold, nothing is said of the heads
    72   u4  how many ids follow, 0 to 100
    76   u4  ids of chunk files that may be there, and are not part of the database any more
    ...  u4  CRC-32 of all that is before it but the two CRCs at 60 and 68, behind which it would be the same for
             any bytes; where it does not hold, there are no ids, and this is not such a copy

All is as of the checkpoint. With the heads it can be told, without an index, whether all chunk files are there, and
none is an older copy of itself. What is at 72 and behind it is written by who makes a copy of a database, or brings
one forward, and by nobody else: it says that the copy is as it was made. Whoever writes to the copy leaves it out.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import CorruptionError
from . import files

MAGIC = b"STRUCTSB"
VERSION = 1
SLOT = struct.Struct("<8sII16sQQQI")
CRC = struct.Struct("<I")
SLOT_SIZE = 64
HEADS = struct.Struct("<II")
HEAD = struct.Struct("<IQ")
COUNT = struct.Struct("<I")
COPY_OFFSET = SLOT_SIZE + HEADS.size
MOST_LEFT = 100
"""How many ids a copy's superblock can have: with them a slot fits in one sector."""
PAGE = 4096
assert SLOT.size + CRC.size == SLOT_SIZE


class Superblock(NamedTuple):
    """One slot. ``heads`` is the CRC of the heads, or None if they are not known.

    ``left`` is None but in a copy that nobody has written to since it was made or brought forward: there it has the
    ids of the chunk files that are not part of it any more.
    """

    database: bytes
    generation: int
    sequence: int
    checkpoint: int
    epoch: int
    next_chunk: int
    heads: int | None = None
    left: tuple[int, ...] | None = None

    def at_least(self, checkpoint: int, next_chunk: int) -> Superblock:
        """Return what it says as of a later checkpoint, if that is one; of that the heads are not known."""
        next_chunk = max(self.next_chunk, next_chunk)
        if checkpoint <= self.checkpoint:
            return self._replace(next_chunk=next_chunk)
        return self._replace(checkpoint=checkpoint, next_chunk=next_chunk, heads=None, left=None)

    def pack(self) -> bytes:
        """Return the slot's bytes."""
        head = SLOT.pack(
            MAGIC,
            VERSION,
            self.generation,
            self.database,
            self.sequence,
            self.checkpoint,
            self.epoch,
            self.next_chunk,
        )
        slot = head + CRC.pack(zlib.crc32(head))
        if self.heads is None:
            return slot
        slot = _with_heads(slot, self.heads)
        return slot if self.left is None else _with_left(slot, self.left)

    def write(self, path: str) -> None:
        """Write the slot that this sequence number belongs to, and flush it."""
        files.write(path, self.sequence % 2 * PAGE, self.pack())
        self.flush(path)

    def flush(self, path: str) -> None:
        """Bring the slot to disk; if that fails, later reading finds no slot that is not there."""
        try:
            files.flush(path)
        except OSError:
            files.rewrite(path, 0, 2 * PAGE)
            raise


def crc_of_heads(directories: Mapping[int, int]) -> int:
    """Return the CRC of the directory offsets of chunks, given by id."""
    return zlib.crc32(b"".join([HEAD.pack(chunk, directories[chunk]) for chunk in sorted(directories)]))


def _with_heads(slot: bytes, heads: int) -> bytes:
    return slot + HEADS.pack(heads, zlib.crc32(slot + HEADS.pack(heads, 0)[:4]))


def _parse_heads(slot: bytes, raw: bytes) -> int | None:
    """Return the CRC of the heads that belongs to a slot, or None."""
    heads = int.from_bytes(raw[:4], "little")
    return heads if _with_heads(slot, heads) == slot + raw else None


def _with_left(slot: bytes, left: tuple[int, ...]) -> bytes:
    ids = COUNT.pack(len(left)) + b"".join(map(COUNT.pack, left))
    return slot + ids + CRC.pack(zlib.crc32(slot[: SLOT.size] + slot[SLOT_SIZE : SLOT_SIZE + CRC.size] + ids))


def _parse_left(raw: bytes) -> tuple[int, ...] | None:
    """Return what stands behind the heads of a slot, or None."""
    count = COUNT.unpack_from(raw, COPY_OFFSET)[0]
    if count > MOST_LEFT:
        return None
    left = struct.unpack_from(f"<{count}I", raw, COPY_OFFSET + COUNT.size)
    return left if raw.startswith(_with_left(raw[:COPY_OFFSET], left)) else None


def parse_slot(raw: bytes) -> Superblock | None:
    """Return the slot, or None if the bytes are not one."""
    if len(raw) != SLOT_SIZE or CRC.unpack_from(raw, SLOT.size)[0] != zlib.crc32(raw[: SLOT.size]):
        return None
    magic, version, generation, database, sequence, checkpoint, epoch, next_chunk = SLOT.unpack_from(raw)
    if magic != MAGIC or version != VERSION:
        return None
    return Superblock(database, generation, sequence, checkpoint, epoch, next_chunk)


def read_superblock(path: str) -> Superblock:
    """Return the newest valid slot.

    Raises
    ------
    CorruptionError
        Neither slot is valid.
    """
    raw = files.read(path, 0, 2 * PAGE)
    slots = [(start, parse_slot(raw[start : start + SLOT_SIZE])) for start in (0, PAGE)]
    valid = [(start, slot) for start, slot in slots if slot is not None]
    if not valid:
        advice = "restore this one file from a copy of the database; its chunks are whole without it"
        raise CorruptionError(path, offset=0, found="no valid slot", expected="one of two", advice=advice)
    start, newest = max(valid, key=lambda found: found[1].sequence)
    other = raw[PAGE - start :][:SLOT_SIZE]
    if len(valid) < len(slots) and (newest.sequence > 1 or any(other)):
        return newest  # the other one may have been newer, and chunks have gone since
    slot = raw[start : start + PAGE].ljust(PAGE, b"\0")
    heads = _parse_heads(slot[:SLOT_SIZE], slot[SLOT_SIZE:COPY_OFFSET])
    return newest._replace(heads=heads, left=None if heads is None else _parse_left(slot))


def create_superblock(path: str, first: Superblock) -> None:
    """Create the file with its first slot, on disk: it is there whole or not at all."""
    before = bytes(first.sequence % 2 * PAGE)
    files.replace(path, (before + first.pack()).ljust(2 * PAGE, b"\0"), sync=True)
