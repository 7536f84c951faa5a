"""Objects of the index: rows that say where the records of a publication lie, packed. No I/O.

Such an object is compressed by gzip, whose CRC covers it. It begins with the magic "STRUCTIX", then come entries::

    u4  store
    u4  form of the rows (``runs/packed.py``); and 256 if all rows of the store in earlier entries count no more
    u8  row count
        the rows, a multiple of 32 bytes; keys ascend

The objects of a manifest are applied one after another, and their entries in order: a row takes the place of an
earlier one with the same key, and a tombstone removes it. Entries of stores that the catalog does not have count
for nothing. All numbers are little-endian.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..errors import CorruptionError
from ..runs.packed import ALL, Packed, pack, size_of, unpack
from ..runs.run import Run
from .manifest import ADVICE

MAGIC = b"STRUCTIX"
ANEW = 256
LEVEL = 1
"""Of compression: rows that differ little become a quarter, and harder work gives little more."""
_ENTRY = struct.Struct("<IIQ")


class Entry(NamedTuple):
    """Rows of one store, which come after those of earlier entries, or in place of them if it `is_anew`."""

    store: int
    is_anew: bool
    packed: Packed

    def run(self, item_size: int, where: str) -> Run:
        """Return the rows; CorruptionError if they are none."""
        try:
            return unpack(self.packed, item_size)
        except ValueError as error:
            raise CorruptionError(where, found=str(error), expected="rows", advice=ADVICE) from error


def entry_of(store: int, run: Run, item_size: int) -> Entry:
    """Return rows of a store as an entry."""
    return Entry(store, False, pack(run, item_size))


def anew(store: int) -> Entry:
    """Return the entry after which a store has no rows."""
    return Entry(store, True, Packed(ALL, 0, b""))


def pack_entries(entries: Iterable[Entry]) -> bytes:
    """Return the bytes of an object with these entries."""
    parts: list[bytes | memoryview] = [MAGIC]
    for store, is_anew, (form, count, body) in entries:
        parts += [_ENTRY.pack(store, form | ANEW * is_anew, count), body]
    return gzip.compress(b"".join(parts), LEVEL, mtime=0)


def parse_entries(raw: bytes, where: str) -> list[Entry]:
    """Return the entries of an object, checked as far as their sizes go.

    Raises
    ------
    CorruptionError
        They are cut off, or none.
    """
    try:
        return list(_entries(memoryview(gzip.decompress(raw))))
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        found = f"{len(raw)} bytes that are no rows ({error})"
        raise CorruptionError(where, found=found, expected="an object of the index", advice=ADVICE) from error


def _entries(data: memoryview) -> Iterator[Entry]:
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError(f"magic {bytes(data[:8])!r}")
    position = len(MAGIC)
    while position < len(data):
        store, form, count = _ENTRY.unpack_from(data, position)
        position += _ENTRY.size
        size = size_of(form % ANEW, count)
        if position + size > len(data) or form // ANEW > 1:
            raise ValueError(f"{count} rows of form {form}, cut off")
        yield Entry(store, form >= ANEW, Packed(form % ANEW, count, data[position : position + size]))
        position += size
