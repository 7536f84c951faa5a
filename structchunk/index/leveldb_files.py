"""What LevelDB's files say that can be known without LevelDB: which tables a manifest names, and how a table ends.

A manifest is in the format of LevelDB's logs, and has one record for each change of the set of tables.

The last 48 bytes of a table say where two of its blocks lie, of which one says where the others are. All but these
bytes are under a CRC. LevelDB takes the sizes that they say as they are, so damage to them may ask for any amount
of memory, and is to be found before LevelDB opens the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from ..disk import files

TABLE_SUFFIXES = (".ldb", ".sst")
_BLOCK = 32768
_RECORD = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_FOOTER_SIZE = 48
_TRAILER_SIZE = 5
"""Behind each block: how it is compressed, and its CRC."""
_MAGIC = bytes.fromhex("57fb808b247547db")


class Version(NamedTuple):
    """What a manifest says: the number of the first log that is not in tables yet, and the tables."""

    log: int
    tables: set[int]


# ---------------------------------------------------------------------- tables


def list_tables(directory: str) -> list[str]:
    """Return the names of the tables of a LevelDB."""
    return [name for name in os.listdir(directory) if name.endswith(TABLE_SUFFIXES)]


def damaged_tables(directory: str) -> list[str]:
    """Return the names of the tables of a LevelDB that do not end as tables do, ascending.

    One that the manifest does not name counts for nothing: a crash may have left it half-made.
    """
    names = list_tables(directory)
    damaged = sorted(name for name in names if not _ends_well(os.path.join(directory, name)))
    tables = _read_version(directory).tables if damaged else ()
    return [name for name in damaged if _number(name) in tables]


def _number(name: str) -> int:
    stem = name.partition(".")[0]
    return int(stem) if stem.isascii() and stem.isdigit() else -1


def _read_version(directory: str) -> Version:
    current = files.read(os.path.join(directory, "CURRENT"), 0, 1 << 10)
    path = os.path.join(directory, os.fsdecode(current.strip()))
    return parse_manifest(files.read(path, 0, os.stat(path).st_size))


def _ends_well(path: str) -> bool:
    """Tell whether the blocks that a table's last bytes point at lie in the file."""
    with files.opened(path) as fd:
        end = os.fstat(fd).st_size - _FOOTER_SIZE
        footer = os.pread(fd, _FOOTER_SIZE, max(end, 0))
    return end >= 0 and is_footer(footer, end)


def is_footer(footer: bytes, end: int) -> bool:
    """Tell whether bytes are how a table ends whose blocks end at `end`."""
    if not footer.endswith(_MAGIC):
        return False
    fields = _Fields(footer[: -len(_MAGIC)])
    try:
        blocks = [(fields.number(), fields.number()) for _ in range(2)]
    except IndexError:
        return False
    return all(start + size + _TRAILER_SIZE <= end for start, size in blocks)


# ---------------------------------------------------------------------- the manifest


def parse_manifest(manifest: bytes) -> Version:
    """Return what a manifest says, up to its last whole record.

    Raises
    ------
    ValueError, IndexError
        A record is not what LevelDB writes.
    """
    return ManifestReader().read_on(manifest)


class ManifestReader:
    """Reads a manifest that LevelDB goes on writing: of what was there the last time nothing is read again."""

    def __init__(self) -> None:
        self._log = 0
        self._tables: set[int] = set()
        self._position = 0

    def read_on(self, manifest: bytes) -> Version:
        """Return what the manifest says by now; it raises likewise."""
        for record, end in _records(manifest, self._position):
            edit = _Edit(record)
            self._log = edit.log if edit.log is not None else self._log
            self._tables -= edit.deleted
            self._tables |= edit.added
            self._position = end
        return Version(self._log, set(self._tables))


def _records(data: bytes, position: int) -> Iterator[tuple[bytes, int]]:
    """Yield the records of a file in LevelDB's log format, and where each ends; one that is cut off ends it.

    `position` is where one begins.
    """
    parts: list[bytes] = []
    while position + _RECORD.size <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _RECORD.size:  # padding at the end of a block
            position += left
            continue
        _, length, kind = _RECORD.unpack_from(data, position)
        position += _RECORD.size
        if position + length > len(data) or not kind:
            return
        part = data[position : position + length]
        position += length
        if kind in (_FULL, _FIRST):
            parts = []
        parts.append(part)
        if kind in (_FULL, _LAST):
            yield b"".join(parts), position
        elif kind not in (_FIRST, _MIDDLE):
            raise ValueError(f"a record of kind {kind}")


class _Fields:
    """Reads numbers and texts as LevelDB writes them, one after another."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def is_at_end(self) -> bool:
        """Tell whether all was read."""
        return self._at >= len(self._data)

    def number(self) -> int:
        """Return the next number."""
        number = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7

    def skip_text(self) -> None:
        """Step over the next text."""
        length = self.number()
        self._at += length
        if self._at > len(self._data):
            raise ValueError("a text that is cut off")


class _Edit:
    """One record of a manifest: what changed from one version to the next."""

    def __init__(self, data: bytes) -> None:
        self.log: int | None = None
        self.added: set[int] = set()
        self.deleted: set[int] = set()
        fields = _Fields(data)
        while not fields.is_at_end():
            self._take(fields)

    def _take(self, fields: _Fields) -> None:
        tag = fields.number()
        if tag == 1:  # name of the comparator
            fields.skip_text()
        elif tag == 2:
            self.log = fields.number()
        elif tag in (3, 4, 9):  # next file, last sequence, previous log
            fields.number()
        elif tag == 5:  # a level, and where its next compaction starts
            fields.number()
            fields.skip_text()
        elif tag == 6:
            fields.number()
            self.deleted.add(fields.number())
        elif tag == 7:  # level, number, size, smallest and largest key
            fields.number()
            self.added.add(fields.number())
            fields.number()
            fields.skip_text()
            fields.skip_text()
        else:
            raise ValueError(f"a field with tag {tag}")
