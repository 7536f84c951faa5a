"""The manifest of one publication: what it consists of, and which bytes of which chunk lie where. No I/O.

A published database is a directory of objects::

    newest                       {"number": 7}: about the last publication; the only object that is written again
    manifests/0000000007.json.gz what publication 7 is; written after all that it names, and only if it is not there
    objects/...                  what manifests name; immutable, under names that are never used again

Publications are numbered from 1, without gaps. Who looks for the newest one reads ``newest``, and then looks
whether there is a manifest after that; a list of ``manifests/`` is for who finds nothing there.

A manifest is JSON, compressed by gzip, whose CRC covers it::

    format       1
    database     the database's uuid, hexadecimal
    number       of the publication
    token        a random text: tells this manifest from one that another publisher meant to have this number
    commit       the commit that was published
    epoch        the epoch of that commit, or a later one
    next_chunk   no chunk has this id or a higher one
    next_object  no object has this id or a higher one
    created      nanoseconds since 1970
    exclusive    whether the store was seen to refuse a second object under one name
    catalog      {name: {"store": id, "kind": ..., "schema": ...}}, as the index has it
    notes        [[commit, store, {...}], ...]: the index's notes of stores that were dropped
    objects      [[id, name, role, size, CRC-32], ...]: all that readers need; role "rows" or "data"
    rows         ids of the objects with the rows of the index (see `rows.py`), in the order in which they count
    chunks       a list, ascending by id, of
        id, store, block (bytes), free, directory (byte offsets as of the commit)
        header   base64: the bytes of the file from 0 on, as far as they are not zero, with the working offsets
                 of an empty chunk
        live     [records, bytes] that are live in it
        flags    that any row of its directory has
        end      CRC-32 of the directory's lower end: of the last 4 KiB of it, or all
        extents  [[first block, count, object, offset in the object], ...], ascending; object 0 and offset 0 stand
                 for zeros, of which nothing is stored
        crcs     base64: a little-endian u4, the CRC-32 of each block that is stored, ascending
    earlier      [[number, commit, token], ...], ascending: the publications before this one, the last ones of them

A chunk file is cut into *blocks* of one size at multiples of it. Of a block those bytes are stored that are data,
from the header's ``data offset`` up to ``free``, or directory, from ``directory`` on: nothing of the header, and
nothing of the hole between the two, unless both ends of the hole lie in one block, which is then stored with it.
All other bytes of the file are zeros. The blocks of one extent lie back to back in the object, as they do in the
file: no extent goes on from data to directory, unless through one block that has both.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..chunks.header import Header, parse_header
from ..errors import CorruptionError
from ..index.drop_notes import Note
from .layout import BLOCK_SIZES, ZEROS, Extent, Layout, Piece

VERSION = 1
NEWEST = "newest"
MANIFESTS = "manifests/"
OBJECTS = "objects/"
SUFFIX = ".json.gz"
ROWS, DATA = "rows", "data"
MOST_ROW_OBJECTS = 3
LOOKED_BACK = 1 << 12
"""How much of the end of a directory tells whether two chunks are the same up to there, in bytes."""
ADVICE = "publish the database again, or open an earlier commit"
_MOST_BYTES = 1 << 31


class Object(NamedTuple):
    """One immutable object: its id, its name below the published database, what it has, its size and its CRC-32."""

    id: int
    name: str
    role: str
    size: int
    crc: int


class Earlier(NamedTuple):
    """A publication before."""

    number: int
    commit: int
    token: str


class PublishedChunk(NamedTuple):
    """One chunk as of the commit. ``crcs`` has that of each block that is stored; see :meth:`Layout.position`."""

    header: Header
    header_bytes: bytes
    layout: Layout
    live: tuple[int, int]
    flags: int
    end: int
    extents: tuple[Extent, ...]
    crcs: npt.NDArray[np.uint32]

    @property
    def id(self) -> int:
        """The chunk's id."""
        return self.header.chunk

    @property
    def store(self) -> int:
        """The id of its store."""
        return self.header.store

    def crc(self, block: int) -> int:
        """Return the CRC-32 of what is stored of a block."""
        return int(self.crcs[self.layout.position(block)])

    def extent(self, block: int) -> Extent:
        """Return the extent that a block, which must be stored, lies in."""
        number = bisect_right(self.extents, block, key=lambda extent: extent.first) - 1
        extent = self.extents[number]
        if number < 0 or block >= extent.stop:
            raise ValueError(f"block {block} is not stored; stored are {self.layout.runs}")
        return extent

    def pieces(self, blocks: range) -> Iterator[Piece]:
        """Yield what is to be fetched for consecutive blocks, ascending; passes over those that are not stored."""
        for run in self.layout.runs:
            block, stop = max(run.start, blocks.start), min(run.stop, blocks.stop)
            while block < stop:
                extent = self.extent(block)
                part = range(block, min(extent.stop, stop))
                span = self.layout.span(part)
                before = span.start - self.layout.stored(extent.first).start if extent.object != ZEROS else 0
                yield Piece(part, extent.object, extent.offset + before, span.start, len(span))
                block = part.stop


class Manifest(NamedTuple):
    """What one publication is; the module's docstring has the meaning of each field."""

    database: bytes
    number: int
    token: str
    commit: int
    epoch: int
    next_chunk: int
    next_object: int
    created: int
    exclusive: bool
    catalog: dict[str, dict[str, Any]]
    notes: tuple[Note, ...]
    objects: dict[int, Object]
    rows: tuple[int, ...]
    chunks: dict[int, PublishedChunk]
    earlier: tuple[Earlier, ...]

    def pack(self) -> bytes:
        """Return the manifest's bytes, which are the same for the same manifest."""
        about = {
            "format": VERSION,
            **self._asdict(),
            "database": self.database.hex(),
            "notes": [list(note) for note in self.notes],
            "objects": [list(each) for each in self.objects.values()],
            "chunks": [_unparse_chunk(chunk) for chunk in self.chunks.values()],
        }
        return gzip.compress(json.dumps(about, separators=(",", ":")).encode(), 6, mtime=0)


def manifest_name(number: int) -> str:
    """Return the name of the manifest of a publication."""
    return f"{MANIFESTS}{number:010d}{SUFFIX}"


def number_of(name: str) -> int | None:
    """Return the number of the publication whose manifest has this name, or None if no manifest has it."""
    digits = name.removeprefix(MANIFESTS).removesuffix(SUFFIX)
    is_number = digits.isascii() and digits.isdigit()
    return int(digits) if is_number and manifest_name(int(digits)) == name else None


def object_name(number: int, token: str, object: int) -> str:
    """Return the name of an object of a publication."""
    return f"{OBJECTS}{number:010d}-{token}-{object:08d}"


def publication_of(name: str) -> int | None:
    """Return the number of the publication that an object was made for, or None if it has no such name."""
    digits = name.removeprefix(OBJECTS).partition("-")[0]
    return int(digits) if name.startswith(OBJECTS) and digits.isascii() and digits.isdigit() else None


def pack_newest(number: int) -> bytes:
    """Return the bytes of the object that says which publication is the newest."""
    return json.dumps({"number": number}).encode()


def parse_newest(raw: bytes, where: str) -> int:
    """Return which publication is the newest, or was not long ago.

    Raises
    ------
    CorruptionError
        The bytes do not say that.
    """
    with _Reading(where):
        return _integer(json.loads(raw)["number"], 1)


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """Validate and decode a manifest.

    Parameters
    ----------
    raw : bytes
        The whole object.
    where : str
        Its URL, for messages.

    Raises
    ------
    CorruptionError
        Anything is not as it must be.
    """
    with _Reading(where):
        about = json.loads(_inflate(raw))
        _need(about["format"] == VERSION, f"format version {about['format']!r}", f"version {VERSION}")
        database = bytes.fromhex(_text(about["database"]))
        _need(len(database) == 16, f"a uuid of {len(database)} bytes", "16 bytes")
        objects = {each.id: each for each in map(_parse_object, about["objects"])}
        chunks = [_parse_chunk(each, database, objects, where) for each in about["chunks"]]
        _need(len(objects) == len(about["objects"]), "two objects with one id", "one")
        ids = [chunk.id for chunk in chunks]
        _need(ids == sorted(set(ids)), f"chunks {ids}"[:200], "ascending ids")
        rows = tuple(_integer(each) for each in about["rows"])
        roles = {objects[each].role for each in rows}
        _need(roles <= {ROWS}, f"objects of the roles {roles} for the rows", ROWS)
        _need(len(rows) <= MOST_ROW_OBJECTS, f"{len(rows)} objects with rows", f"{MOST_ROW_OBJECTS} at most")
        return Manifest(
            database,
            _integer(about["number"], 1),
            _text(about["token"]),
            _integer(about["commit"]),
            _integer(about["epoch"]),
            _integer(about["next_chunk"], max(ids, default=0) + 1),
            _integer(about["next_object"], max(objects, default=0) + 1),
            _integer(about["created"]),
            bool(about["exclusive"]),
            _parse_catalog(about["catalog"]),
            tuple(_parse_note(each) for each in about["notes"]),
            objects,
            rows,
            {chunk.id: chunk for chunk in chunks},
            tuple(_parse_earlier(each) for each in about["earlier"]),
        )


class _Reading:
    """Turns whatever reading JSON of another shape raises into a CorruptionError."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, _Unexpected):
            found, expected = error.args
            raise CorruptionError(self._where, found=found, expected=expected, advice=ADVICE) from None
        unreadable = (ValueError, KeyError, TypeError, LookupError, AttributeError, RecursionError, OverflowError)
        if isinstance(error, unreadable) and not isinstance(error, CorruptionError):
            found = f"unreadable JSON ({type(error).__name__}: {error})"[:200]
            raise CorruptionError(self._where, found=found, expected="a manifest", advice=ADVICE) from error


class _Unexpected(Exception):
    """What was found, and what was expected."""


def _need(good: bool, found: str, expected: str) -> None:
    if not good:
        raise _Unexpected(found, expected)


def _integer(found: Any, least: int = 0) -> int:
    is_one = type(found) is int and least <= found < 1 << 64
    _need(is_one, repr(found)[:100], f"a number of at least {least}")
    return int(found)


def _text(found: Any) -> str:
    _need(isinstance(found, str), repr(found)[:100], "a text")
    return str(found)


def _inflate(raw: bytes) -> bytes:
    try:
        inflating = zlib.decompressobj(wbits=31)
        text = inflating.decompress(raw, _MOST_BYTES)
    except zlib.error as error:
        raise _Unexpected(f"{len(raw)} bytes that gzip did not write ({error})", "a whole object") from error
    _need(inflating.eof and not inflating.unused_data, f"{len(raw)} bytes", "one whole gzip file")
    return text


def _parse_object(found: Any) -> Object:
    number, name, role, size, crc = found
    _need(role in (ROWS, DATA), f"an object of role {role!r}", f"{ROWS} or {DATA}")
    name = _text(name)
    _need(publication_of(name) is not None and ".." not in name, f"an object named {name!r}", f"{OBJECTS}...")
    return Object(_integer(number, 1), name, role, _integer(size), _integer(crc))


def _parse_catalog(found: Any) -> dict[str, dict[str, Any]]:
    for entry in found.values():
        is_sound = type(entry["store"]) is int and isinstance(entry["kind"], str) and "schema" in entry
        _need(is_sound, "a catalog entry without store, kind and schema", "all three")
    return dict(found)


def _parse_note(found: Any) -> Note:
    commit, store, about = found
    _need(isinstance(about, dict) and "name" in about, repr(about)[:100], "a note of a drop")
    return Note(_integer(commit), _integer(store), about)


def _parse_earlier(found: Any) -> Earlier:
    number, commit, token = found
    return Earlier(_integer(number, 1), _integer(commit), _text(token))


def _unparse_chunk(chunk: PublishedChunk) -> dict[str, Any]:
    return {
        "id": chunk.id,
        "store": chunk.store,
        "block": chunk.layout.block,
        "free": chunk.layout.free,
        "directory": chunk.layout.directory,
        "header": base64.b64encode(chunk.header_bytes).decode(),
        "live": list(chunk.live),
        "flags": chunk.flags,
        "end": chunk.end,
        "extents": [list(extent) for extent in chunk.extents],
        "crcs": base64.b64encode(chunk.crcs.astype("<u4").tobytes()).decode(),
    }


def _parse_chunk(found: Any, database: bytes, objects: dict[int, Object], where: str) -> PublishedChunk:
    raw = _from_base64(found["header"])
    header = parse_header(raw, where, int.from_bytes(raw[56:64], "little"))
    about = header.database, header.chunk, header.store
    expected = database, found["id"], found["store"]
    _need(about == expected, f"a header of {about}", f"one of {expected}")
    layout = Layout(
        _integer(found["block"], 1),
        header.file_size,
        header.data_offset,
        _integer(found["free"]),
        _integer(found["directory"]),
    )
    _need(layout.block in BLOCK_SIZES, f"blocks of {layout.block} bytes", "a size that blocks may have")
    good = header.data_offset <= layout.free <= layout.directory <= header.file_size
    _need(good, f"data up to {layout.free}, a directory from {layout.directory}", "both in the file")
    records, size = found["live"]
    chunk = PublishedChunk(
        header,
        raw,
        layout,
        (_integer(records), _integer(size)),
        _integer(found["flags"]),
        _integer(found["end"]),
        tuple(Extent(*map(_integer, each)) for each in found["extents"]),
        np.frombuffer(_from_base64(found["crcs"]), "<u4"),
    )
    _check_extents(chunk, objects)
    return chunk


def _from_base64(found: Any) -> bytes:
    try:
        return base64.b64decode(_text(found), validate=True)
    except binascii.Error as error:
        raise _Unexpected(f"{found[:40]!r} ({error})", "base64") from error


def _check_extents(chunk: PublishedChunk, objects: dict[int, Object]) -> None:
    """Raise unless extents cover what is stored, block by block, and lie in their objects."""
    what = f"chunk {chunk.id}"
    runs = iter(chunk.layout.runs)
    run = range(0)
    for extent in chunk.extents:
        if not run:
            run = next(runs, run)
        fits = extent.first == run.start and 0 < extent.block_count <= len(run)
        _need(fits, f"{what}: blocks {extent.first} to {extent.stop} where {run} are next", "those")
        blocks, run = run[: extent.block_count], run[extent.block_count :]
        if extent.object == ZEROS:
            _need(not extent.offset, f"{what}: zeros at {extent.offset}", "0")
            continue
        kept = objects[extent.object]
        end = extent.offset + len(chunk.layout.span(blocks))
        _need(kept.role == DATA and end <= kept.size, f"{what}: bytes up to {end} of {kept}", "bytes of it")
    left = [each for each in (run, *runs) if each]
    _need(not left, f"{what}: no extents of blocks {left}", "all that is stored")
    count = sum(map(len, chunk.layout.runs))
    _need(len(chunk.crcs) == count, f"{what}: {len(chunk.crcs)} CRCs", f"{count}, one for each block")
