"""The header page of a chunk file: bytes to :class:`Header` and back. The layout is specified in ``chunk.py``."""

from __future__ import annotations

import ctypes
import json
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from ..errors import CorruptionError

MAGIC = b"STRUCTCK"
VERSIONS = (1, 2)
PAGE = 4096
MAX_HEADER_SIZE = 1 << 24
CRC_OFFSET = 80
TEXT_OFFSET = 104
_to_json = json.JSONEncoder(separators=(",", ":")).encode  # in ASCII, as a JSONEncoder does unless told otherwise


class HeaderFields(ctypes.LittleEndianStructure):
    """The fixed part of a header, to be mapped on a chunk with ``from_buffer``."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", ctypes.c_char * 8),
        ("version", ctypes.c_uint32),
        ("header_size", ctypes.c_uint32),
        ("database", ctypes.c_ubyte * 16),
        ("chunk", ctypes.c_uint32),
        ("store", ctypes.c_uint32),
        ("item_size", ctypes.c_uint64),
        ("data_offset", ctypes.c_uint64),
        ("file_size", ctypes.c_uint64),
        ("created", ctypes.c_uint64),
        ("text_size", ctypes.c_uint32),
        ("replaced_count", ctypes.c_uint32),
        ("crc", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("free_offset", ctypes.c_uint64),
        ("directory_offset", ctypes.c_uint64),
    )

    def working_offsets(self) -> tuple[int, int]:
        """Return free and directory offset."""
        return self.free_offset, self.directory_offset


assert ctypes.sizeof(HeaderFields) == TEXT_OFFSET
assert HeaderFields.crc.offset == CRC_OFFSET


def round_up(size: int, unit: int) -> int:
    """Return the smallest multiple of `unit` that is not below `size`."""
    return -(-size // unit) * unit


class History(NamedTuple):
    """What went with chunks that were replaced, of what tells which commit changed what.

    Attributes
    ----------
    upto : int
        The last commit whose changes they held.
    moved : tuple of int
        Those after it that only moved records.
    """

    upto: int
    moved: tuple[int, ...] = ()


@dataclass(frozen=True)
class Header:
    """What a chunk says of itself, once, at creation.

    Parameters
    ----------
    database : bytes
        The database's uuid, 16 bytes.
    chunk, store : int
        Ids. A store's id is the id of its first chunk.
    item_size, file_size : int
        Bytes.
    created : int
        Nanoseconds since 1970.
    about : dict
        ``name``, ``kind`` and ``schema`` of the store; ``history`` of a chunk that replaces others.
    replaces : tuple of int
        Ids of the chunks whose live records compaction moves here.
    is_marked : bool
        Whether the segment of the commit that does so says it; as of version 1, only this header does.
    """

    database: bytes
    chunk: int
    store: int
    item_size: int
    file_size: int
    created: int
    about: dict[str, Any] = field(hash=False)
    replaces: tuple[int, ...] = ()
    is_marked: bool = True

    @property
    def version(self) -> int:
        """The lowest version of the format that can express this header."""
        return 2 if self.replaces and self.is_marked else 1

    @property
    def history(self) -> History | None:
        """What went with the chunks that it replaces; None if it replaces none, or does not say."""
        commits = self.about.get("history")
        return None if commits is None else History(commits[0], tuple(commits[1:]))

    @cached_property
    def text(self) -> bytes:
        """The variable part: JSON, then the ids of replaced chunks."""
        ids = b"".join(chunk.to_bytes(4, "little") for chunk in self.replaces)
        return _to_json(self.about).encode() + ids

    @cached_property
    def header_size(self) -> int:
        """Bytes of the header, whole pages."""
        return round_up(TEXT_OFFSET + len(self.text), PAGE)

    @cached_property
    def data_offset(self) -> int:
        """Where data begins: a multiple of the item size, so that the file is one typed array."""
        return round_up(self.header_size, self.item_size)

    def of_size(self, file_size: int) -> Header:
        """Return the same header in a file of another size, with all that was made of it already."""
        made = object.__new__(Header)
        vars(made).update(vars(self), file_size=file_size)
        return made

    def pack(self) -> bytes:
        """Return the header's bytes, with the working fields of an empty chunk."""
        text = self.text
        fields = HeaderFields(
            MAGIC,
            self.version,
            self.header_size,
            (ctypes.c_ubyte * 16)(*self.database),
            self.chunk,
            self.store,
            self.item_size,
            self.data_offset,
            self.file_size,
            self.created,
            len(text) - 4 * len(self.replaces),
            len(self.replaces),
        )
        fields.crc = checksum(bytes(fields), text)
        fields.free_offset = self.data_offset
        fields.directory_offset = self.file_size
        return bytes(fields) + text


def checksum(fixed: bytes, text: bytes) -> int:
    """Return the CRC of a header: all but the CRC itself, the reserved word and the working fields."""
    return zlib.crc32(text, zlib.crc32(fixed[:CRC_OFFSET]))


def parse_header(raw: bytes, path: str, actual_size: int) -> Header:
    """Validate and decode the header of a chunk file.

    Parameters
    ----------
    raw : bytes
        The file's first bytes: the whole header, or more.
    path : str
        For messages.
    actual_size : int
        The file's size in bytes.

    Raises
    ------
    CorruptionError
        Anything is not as it must be.
    """

    def need(good: bool, found: object, expected: object, offset: int = 0) -> None:
        if not good:
            raise CorruptionError(path, offset=offset, found=str(found), expected=str(expected))

    need(len(raw) >= TEXT_OFFSET, f"{len(raw)} bytes", f"a header of at least {TEXT_OFFSET} bytes")
    fields = HeaderFields.from_buffer_copy(raw)
    need(fields.magic == MAGIC, repr(fields.magic), f"magic {MAGIC!r}")
    need(fields.version in VERSIONS, f"version {fields.version}", f"one of the versions {VERSIONS}", 8)
    end = TEXT_OFFSET + fields.text_size + 4 * fields.replaced_count
    need(end <= min(fields.header_size, len(raw)), f"a header of {end} bytes", f"at most {len(raw)}", 12)
    crc = checksum(raw[:TEXT_OFFSET], raw[TEXT_OFFSET:end])
    need(crc == fields.crc, f"CRC {fields.crc:#010x}", f"{crc:#010x}", CRC_OFFSET)
    need(fields.file_size == actual_size, f"a file of {actual_size} bytes", f"{fields.file_size} bytes", 56)
    need(fields.item_size >= 1, "item size 0", "at least 1", 40)
    ids = raw[TEXT_OFFSET + fields.text_size : end]
    header = Header(
        bytes(fields.database),
        fields.chunk,
        fields.store,
        fields.item_size,
        fields.file_size,
        fields.created,
        _parse_about(raw[TEXT_OFFSET : TEXT_OFFSET + fields.text_size], path),
        tuple(int.from_bytes(ids[i : i + 4], "little") for i in range(0, len(ids), 4)),
        is_marked=fields.version > 1 or not ids,
    )
    need(fields.version == header.version, f"version {fields.version}", f"version {header.version}", 8)
    size = header.header_size  # as this text would be written: where data begins follows from it
    need(fields.header_size == size, f"header size {fields.header_size}", size, 12)
    data_offset = round_up(fields.header_size, fields.item_size)
    need(fields.data_offset == data_offset, f"data offset {fields.data_offset}", data_offset, 48)
    need(data_offset <= actual_size, f"data offset {data_offset}", f"at most {actual_size}", 48)
    return header


def _parse_about(text: bytes, path: str) -> dict[str, Any]:
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        found = f"unreadable JSON ({type(error).__name__})"
        raise CorruptionError(path, offset=TEXT_OFFSET, found=found, expected="JSON") from error
    named = (
        isinstance(about, dict) and isinstance(about.get("name"), str) and about.get("kind") in ("array", "object")
    )
    if not named or "schema" not in about:
        expected = "a JSON object with name, kind and schema"
        raise CorruptionError(path, offset=TEXT_OFFSET, found=repr(about)[:200], expected=expected)
    if "history" in about and not _is_history(about["history"]):
        found, expected = f"history {about['history']!r}"[:200], "a list of commits, at least one"
        raise CorruptionError(path, offset=TEXT_OFFSET, found=found, expected=expected)
    return dict(about)


def _is_history(found: object) -> bool:
    return isinstance(found, list) and bool(found) and all(type(each) is int and each >= 0 for each in found)
