"""Every structure on disk, to the byte; and the refusal of each, with each field damaged."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import UUID, rows_of

import structchunk as sc
from structchunk.chunks import chunk as chunk_module
from structchunk.chunks.header import Header, HeaderFields, History, parse_header
from structchunk.chunks.segment import REPLACES, Segment, data_crc, pack_record, parse_segment, walk
from structchunk.disk import files
from structchunk.disk.paths import Paths
from structchunk.disk.superblock import (
    MOST_LEFT,
    SLOT_SIZE,
    Superblock,
    create_superblock,
    parse_slot,
    read_superblock,
)
from structchunk.disk.tail import HEAD_SIZE, Head, Tail, parse_head
from structchunk.errors import CorruptionError
from structchunk.index.drop_notes import Note
from structchunk.index.index import Index
from structchunk.index.leveldb import LevelDB
from structchunk.index.stored_state import rewriting_pair
from structchunk.runs.extent import EXTENT_DTYPE, MUTABLE, ROW, TOMBSTONE, ZERO, Extent
from structchunk.runs.packed import ALL, EVEN, KEYS, Packed, pack
from structchunk.runs.run import ArrayRun, ContiguousRun, shorten

ABOUT = {"name": "temps", "kind": "array", "schema": {"kind": "array", "type": "<f8"}}
TEXT = b'{"name":"temps","kind":"array","schema":{"kind":"array","type":"<f8"}}'
HEADER = Header(UUID, 7, 5, 24, 65536, 1_700_000_000_123_456_789, ABOUT, (2, 3), is_marked=False)
HEADER_GOLDEN = bytes.fromhex(
    "535452554354434b"  # STRUCTCK
    "01000000 00100000"  # version, header size
    "000102030405060708090a0b0c0d0e0f"  # database
    "07000000 05000000"  # chunk, store
    "1800000000000000 0810000000000000 0000010000000000"  # item size, data offset 4104, file size
    "15cd853dfe9c9717"  # created
    "46000000 02000000"  # size of the text, chunks replaced
    "992a5345 00000000"  # CRC, zero
    "0810000000000000 0000010000000000"  # free offset, directory offset
)


def flipped(raw: bytes, bits: range) -> Iterator[bytes]:
    """Yield the bytes with each one of these bits flipped."""
    for bit in bits:
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        yield bytes(damaged)


# ---------------------------------------------------------------------- extent row


def test_extent_row() -> None:
    row: Extent = (0x0102030405060708, 4096, 3, 7, TOMBSTONE | MUTABLE)
    golden = bytes.fromhex("0807060504030201 0010000000000000 0300000000000000 07000000 03000000")
    assert ROW.pack(*row) == rows_of([row]).tobytes() == golden
    assert len(golden) == EXTENT_DTYPE.itemsize == 32


# ---------------------------------------------------------------------- header


def test_header() -> None:
    assert HEADER.pack() == HEADER_GOLDEN + TEXT + bytes.fromhex("02000000 03000000")
    crc = zlib.crc32(HEADER_GOLDEN[:80] + HEADER.pack()[104:])
    assert HEADER_GOLDEN[80:84] == crc.to_bytes(4, "little")


def test_header_of_items_with_a_shape(tmp_path: Path) -> None:
    """The schema says it; all else is as ever."""
    with sc.open(tmp_path / "a.sc") as db:
        db.array_store("v", "f4", shape=(2, 3))[1] = np.zeros((1, 2, 3))
        chunk = Path(db.path, "chunks", "00000001.chunk").read_bytes()
        assert db.verify() == []
    text = b'{"name":"v","kind":"array","schema":{"kind":"array","type":{"array":[2,3],"of":"<f4"}}}'
    assert chunk[72:80] == struct.pack("<II", len(text), 0)
    assert chunk[104 : 104 + len(text)] == text
    header = parse_header(chunk, "x", len(chunk))
    assert (header.item_size, header.data_offset) == (24, 4104)


def test_header_of_version_2() -> None:
    """It replaces other chunks, and so says the segment of the commit that does."""
    marked = dataclasses.replace(HEADER, is_marked=True)
    assert marked.pack() == sealed(HEADER.pack()[:8] + bytes([2]) + HEADER.pack()[9:])
    assert parse_header(marked.pack(), "x", 65536) == marked
    assert dataclasses.replace(marked, replaces=()).pack()[8] == 1


def test_header_that_says_what_went_with_the_chunks_that_it_replaces() -> None:
    told = dataclasses.replace(HEADER, about={**ABOUT, "history": [17, 20, 21]}, is_marked=True)
    text = TEXT[:-1] + b',"history":[17,20,21]}'
    head = HEADER_GOLDEN[:8] + bytes([2]) + HEADER_GOLDEN[9:72] + struct.pack("<II", len(text), 2)
    assert told.pack() == sealed(head + HEADER_GOLDEN[80:] + text + bytes.fromhex("02000000 03000000"))
    assert parse_header(told.pack(), "x", 65536) == told
    assert told.history == History(17, (20, 21))
    assert HEADER.history is None
    assert dataclasses.replace(told, about={**ABOUT, "history": [0]}).history == History(0)


@pytest.mark.parametrize("history", ["17", "[]", "[-1]", "[1, null]", "[1.0]", "[true]", "{}", "null"])
def test_header_with_a_history_that_is_none(history: str) -> None:
    text = TEXT[:-1] + f',"history":{history}}}'.encode()
    with pytest.raises(CorruptionError, match="history"):
        parse_header(with_text(text), "x", 65536)


def test_header_round_trip() -> None:
    assert parse_header(HEADER.pack(), "x", 65536) == HEADER
    assert parse_header(HEADER.pack() + b"whatever follows", "x", 65536) == HEADER


@pytest.mark.parametrize("name", ["é 漢字 \u0000", "x" * 5000, '"\\'])
def test_header_with_any_name(name: str) -> None:
    header = Header(UUID, 1, 1, 8, 1 << 20, 0, {**ABOUT, "name": name})
    assert header.pack()[104:].isascii()
    assert parse_header(header.pack(), "x", 1 << 20) == header
    assert header.header_size % 4096 == 0
    assert header.header_size >= len(header.pack())


@pytest.mark.parametrize(("item_size", "offset"), [(1, 4096), (8, 4096), (24, 4104), (4097, 4097), (5000, 5000)])
def test_data_offset_is_a_multiple_of_the_item_size(item_size: int, offset: int) -> None:
    assert Header(UUID, 1, 1, item_size, 65536, 0, ABOUT).data_offset == offset


def test_each_flipped_bit_of_a_header_is_found() -> None:
    packed = HEADER.pack()
    end = 8 * len(packed)
    for damaged in [*flipped(packed, range(8 * 84)), *flipped(packed, range(8 * 104, end))]:
        with pytest.raises(CorruptionError, match="here"):
            parse_header(damaged, "here", 65536)


def test_the_working_fields_may_be_anything() -> None:
    packed = HEADER.pack()
    damaged = packed[:88] + b"\xff" * 16 + packed[104:]
    assert parse_header(damaged, "x", 65536) == HEADER


def sealed(packed: bytes, size: int | None = None) -> bytes:
    """Return a header with the CRC that belongs to it."""
    text_size, replaced = struct.unpack_from("<II", packed, 72)
    end = 104 + text_size + 4 * replaced if size is None else size
    return packed[:80] + zlib.crc32(packed[:80] + packed[104:end]).to_bytes(4, "little") + packed[84:]


def patched(offset: int, form: str, value: Any) -> bytes:
    """Return the header with another value at an offset, and a CRC that covers up the change."""
    packed = bytearray(HEADER.pack())
    struct.pack_into(form, packed, offset, value)
    return sealed(bytes(packed))


def with_text(text: bytes, version: int = 1) -> bytes:
    """Return a header of another text, that replaces no chunks."""
    packed = HEADER.pack()
    packed = packed[:8] + version.to_bytes(4, "little") + packed[12:72]
    return sealed(packed + struct.pack("<II", len(text), 0) + HEADER.pack()[80:104] + text)


BAD_HEADERS = {
    "too short": (HEADER.pack()[:103], "103 bytes", 0),
    "magic": (patched(0, "8s", b"STRUCTCX"), "STRUCTCX", 0),
    "version": (patched(8, "<I", 3), "version 3", 8),
    "version of chunks that replace others": (with_text(TEXT, 2), "version 2", 8),
    "header size of another page count": (patched(12, "<I", 8192), "header size 8192", 12),
    "header size below the text": (patched(12, "<I", 100), "a header of 182 bytes", 12),
    "item size of zero": (patched(40, "<Q", 0), "item size 0", 40),
    "data offset too low": (patched(48, "<Q", 4096), "data offset 4096", 48),
    "data offset too high": (patched(48, "<Q", 4128), "data offset 4128", 48),
    "file size": (patched(56, "<Q", 65535), "a file of 65536 bytes", 56),
    "text size": (patched(72, "<I", 4097), "a header of 4209 bytes", 12),
    "text size that wraps around": (patched(72, "<I", 2**32 - 1), "a header of", 12),
    "count of replaced chunks": (patched(76, "<I", 2**32 - 1), "a header of", 12),
    "text that is not JSON": (with_text(b"{"), "JSONDecodeError", 104),
    "text that is not text": (with_text(b"\xff"), "UnicodeDecodeError", 104),
    "text that is too deep": (
        with_text(b"[" * 3000),
        "unreadable JSON",
        104,
    ),  # too deep for some Pythons, open for all
    "text that is a list": (with_text(b"[]"), r"\[\]", 104),
    "text without a name": (with_text(b'{"kind":"array","schema":1}'), "array", 104),
    "text with a number as name": (with_text(b'{"name":1,"kind":"array","schema":1}'), "array", 104),
    "text of another kind": (with_text(b'{"name":"a","kind":"heap","schema":1}'), "heap", 104),
    "text without a schema": (with_text(b'{"name":"a","kind":"array"}'), "array", 104),
}


@pytest.mark.parametrize(("packed", "found", "offset"), BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_a_header_with_a_wrong_field_is_refused(packed: bytes, found: str, offset: int) -> None:
    with pytest.raises(CorruptionError, match=found) as caught:
        parse_header(packed, "here.chunk", 65536)
    assert (caught.value.path, caught.value.offset) == ("here.chunk", offset)


def test_a_header_that_is_larger_than_its_file_is_refused() -> None:
    small = Header(UUID, 1, 1, 70000, 65536, 0, ABOUT)
    with pytest.raises(CorruptionError, match="data offset 70000"):
        parse_header(small.pack(), "x", 65536)


def test_a_header_that_would_not_be_written_so_is_refused() -> None:
    """Where data begins follows from the text: other spacing, a page longer, must not move it."""
    text = TEXT.replace(b":", b":" + b" " * 2000)
    packed = bytearray(with_text(text))
    struct.pack_into("<I", packed, 12, 12288)
    struct.pack_into("<Q", packed, 48, 12288)
    with pytest.raises(CorruptionError, match="header size 12288"):
        parse_header(sealed(bytes(packed)), "x", 65536)


# ---------------------------------------------------------------------- segment

ROWS = ROW.pack(1, 4104, 3, 7, 0) + ROW.pack(2**64 - 1, 0, 0, 7, TOMBSTONE)
ROWS_GOLDEN = bytes.fromhex(
    "0100000000000000 0810000000000000 0300000000000000 07000000 00000000"
    "ffffffffffffffff 0000000000000000 0000000000000000 07000000 01000000"
)
RECORD_GOLDEN = bytes.fromhex(
    "5345474d 03000000 01000000 02000000"  # SEGM, parts, part, row count
    "0900000000000000 0200000000000000"  # commit, epoch
    "0810000000000000 5010000000000000"  # start 4104, end 4176
    "efbeadde d36154cc 00000000 a2b39b23"  # CRCs of data and rows, form, own CRC
)
END = 16384


def in_file(rows: bytes, record: bytes) -> memoryview:
    """Return a file of zeros that ends with this segment."""
    return memoryview(bytes(END - len(rows) - len(record)) + rows + record)


def parsed(rows: bytes, record: bytes, *, chunk: int = 7, data_offset: int = 4104) -> Segment | None:
    return parse_segment(in_file(rows, record), END, chunk, data_offset, 24)


def test_segment() -> None:
    assert ROWS == ROWS_GOLDEN
    record = pack_record(7, 9, 2, 3, 1, 4104, 4176, 0xDEADBEEF, Packed(ALL, 2, ROWS))
    assert record == RECORD_GOLDEN
    assert record[52:56] == zlib.crc32(ROWS).to_bytes(4, "little")
    assert record[60:] == zlib.crc32(record[:60], 7).to_bytes(4, "little")


def test_segment_round_trip() -> None:
    segment = parsed(ROWS, RECORD_GOLDEN)
    assert segment is not None
    assert segment._replace(run=None) == (7, 9, 2, 3, 1, 4104, 4176, 0xDEADBEEF, None, END - 128, False)
    assert segment.run.rows.tobytes() == ROWS


def test_segment_of_a_commit_that_replaces_chunks() -> None:
    record = pack_record(7, 9, 2, 3, 1, 4104, 4176, 0xDEADBEEF, Packed(ALL, 2, ROWS), replaces=True)
    marked = RECORD_GOLDEN[:56] + bytes.fromhex("00010000")
    assert record == marked + zlib.crc32(marked, 7).to_bytes(4, "little")
    plain, segment = parsed(ROWS, RECORD_GOLDEN), parsed(ROWS, record)
    assert plain is not None and segment is not None
    assert segment._replace(run=plain.run, replaces=False) == plain
    assert segment.replaces


def test_each_flipped_bit_of_a_segment_is_found() -> None:
    whole = ROWS + RECORD_GOLDEN
    for damaged in flipped(whole, range(8 * len(whole))):
        assert parsed(damaged[:64], damaged[64:]) is None


def test_a_segment_of_another_chunk_is_refused() -> None:
    assert parsed(ROWS, RECORD_GOLDEN, chunk=6) is None


def record_of(rows: bytes = ROWS, **fields: int) -> bytes:
    """Return a record whose fields are as told, and whose CRC covers that up."""
    names = ("parts", "part", "count", "commit", "epoch", "start", "end", "crc", "rows_crc", "form")
    usual = (3, 1, len(rows) // 32, 9, 2, 4104, 4176, 0, zlib.crc32(rows), 0)
    values = {**dict(zip(names, usual, strict=True)), **fields}
    head = struct.pack("<4sIIIQQQQIII", fields.pop("magic", b"SEGM"), *(values[name] for name in names))
    return head + zlib.crc32(head, 7).to_bytes(4, "little")


@pytest.mark.parametrize(
    "fields",
    [
        {"parts": 0, "part": 0},
        {"part": 3},
        {"count": 1},
        {"count": 3},
        {"count": 2**32 - 1},
        {"start": 4103},
        {"start": 4177},
        {"start": 4176},  # behind the first row's record
        {"end": 4175},
        {"end": END - 127},
        {"end": 2**64 - 1},
        {"start": 2**64 - 1, "end": 2**64 - 1},
        {"rows_crc": 0},
        {"form": 1},
        {"form": 2},
        {"form": 3},
        {"form": REPLACES | 3},
        {"form": 2 * REPLACES},
        {"form": 2**32 - 1},
    ],
    ids=str,
)
def test_a_segment_with_a_wrong_field_is_refused(fields: dict[str, int]) -> None:
    assert parsed(ROWS, record_of()) is not None
    assert parsed(ROWS, record_of(**fields)) is None


@pytest.mark.parametrize(
    "rows",
    [
        [(1, 4104, 3, 6, 0)],  # of another chunk
        [(1, 0, 0, 6, TOMBSTONE)],
        [(2, 4104, 1, 7, 0), (1, 4128, 1, 7, 0)],
        [(1, 4104, 1, 7, 0), (1, 4128, 1, 7, 0)],
        [(1, 4104, 1, 7, ZERO)],  # not MUTABLE
        [(1, 4104, 1, 7, 16)],
        [(1, 4105, 1, 7, 0)],
        [(1, 4080, 1, 7, 0)],
        [(1, 4104, 4, 7, 0)],
        [(1, 4104, 2**63, 7, 0)],
        [(1, 2**64 - 24, 1, 7, 0)],
        [(1, 4104, 3, 7, 0), (2, 4152, 1, 7, 0)],  # more bytes than there are: one over the other
    ],
    ids=str,
)
def test_a_segment_with_a_wrong_row_is_refused(rows: list[Extent]) -> None:
    packed = rows_of(rows).tobytes()
    assert parsed(packed, record_of(packed)) is None


@pytest.mark.parametrize("end", [(2, 0, 0, 7, TOMBSTONE), (2, 4176, 1, 7, 0)], ids=str)
def test_a_record_that_was_made_longer_begins_below_the_bytes_of_its_commit(end: Extent) -> None:
    rows = rows_of([(1, 4104, 3, 7, 0), end]).tobytes()
    segment = parsed(rows, record_of(rows, start=4152, end=4200))
    assert segment is not None
    assert segment.run.rows.tobytes() == rows


@pytest.mark.parametrize(
    "rows",
    [
        [(1, 4104, 2, 7, 0)],  # which ends where the commit begins
        [(1, 4112, 3, 7, 0)],
        [(1, 4080, 4, 7, 0)],  # in the header
        [(1, 4104, 5, 7, 0)],
        [(1, 4104, 2**63, 7, 0)],
        [(1, 4104, 3, 7, 0), (2, 4128, 2, 7, 0)],  # two of them
        [(1, 4104, 3, 7, 0), (2, 4152, 2, 7, 0)],  # the other lies over it
    ],
    ids=str,
)
def test_what_begins_below_and_was_not_made_longer_is_refused(rows: list[Extent]) -> None:
    packed = rows_of(rows).tobytes()
    assert parsed(packed, record_of(packed, start=4152, end=4200)) is None


def test_a_segment_without_rows_or_bytes_is_sound() -> None:
    segment = parsed(b"", record_of(b"", start=4104, end=4104))
    assert segment is not None
    assert len(segment.run) == 0


@pytest.mark.parametrize("position", [0, 63, 4104, 4104 + 63])
def test_no_segment_stands_below_the_data_offset(position: int) -> None:
    assert parse_segment(in_file(ROWS, RECORD_GOLDEN), position, 7, 4104, 24) is None


def test_walk_goes_down_to_the_first_slot_without_a_record() -> None:
    first, second = record_of(commit=9), record_of(commit=10)
    raw = in_file(ROWS + second + ROWS + first, b"")
    assert [segment.commit for segment in walk(raw, END, 7, 4104, 24)] == [9, 10]
    assert [segment.commit for segment in walk(raw, END - 128, 7, 4104, 24)] == [10]
    assert list(walk(raw, END - 64, 7, 4104, 24)) == []


def test_data_crc_covers_all_but_tombstones_and_zeros_by_offset() -> None:
    raw = memoryview(bytes(range(256)) * 2)
    rows = [
        (1, 64, 2, 1, 0),
        (2, 8, 1, 1, MUTABLE),
        (3, 32, 2, 1, ZERO | MUTABLE),
        (4, 0, 9, 1, TOMBSTONE),
        (5, 16, 2, 1, 0),
        (6, 99, 0, 1, 0),
    ]
    assert data_crc(raw, ArrayRun(rows_of(rows)), 8, 8) == zlib.crc32(bytes([*range(8, 32), *range(64, 80)]))
    assert data_crc(raw, ArrayRun(rows_of(rows)), 24, 8) == zlib.crc32(bytes([*range(24, 32), *range(64, 80)]))
    assert data_crc(raw, ArrayRun(rows_of(rows[:1])), 72, 8) == zlib.crc32(bytes(range(72, 80)))
    assert data_crc(raw, ArrayRun(rows_of([])), 8, 8) == 0


@pytest.mark.parametrize("flags", [0, MUTABLE, MUTABLE | ZERO])
@pytest.mark.parametrize("lengths", [(2, 2, 2), (2, 0, 3), (0, 0)], ids=str)
def test_data_crc_is_the_same_of_whatever_form(lengths: tuple[int, ...], flags: int) -> None:
    raw = memoryview(bytes(range(256)))
    starts = [8, *itertools.accumulate(lengths, initial=8)][1:]
    rows = rows_of((key, 8 * starts[key], length, 1, flags) for key, length in enumerate(lengths))
    run = shorten(rows, 8)
    assert isinstance(run, ContiguousRun)
    for start in (0, 64, 72):
        expected = 0 if flags & ZERO else zlib.crc32(raw[max(start, 64) : 8 * starts[-1]])
        assert data_crc(raw, run, start, 8) == data_crc(raw, ArrayRun(rows), start, 8) == expected


# ---------------------------------------------------------------------- the other forms of rows

SHORT_FORMS = {
    KEYS: (
        [(1, 4104, 1, 7, MUTABLE), (2, 4128, 1, 7, MUTABLE), (2**64 - 1, 4152, 1, 7, MUTABLE)],
        "0810000000000000 0100000000000000 07000000 02000000"  # offset 4104, length, chunk, flags
        "0100000000000000 0200000000000000 ffffffffffffffff"  # keys
        "0000000000000000 0000000000000000",
    ),
    EVEN: (
        [(5, 4104, 1, 7, 0), (8, 4128, 1, 7, 0), (11, 4152, 1, 7, 0)],
        "0810000000000000 0100000000000000 07000000 00000000"
        "0500000000000000 0300000000000000"  # first key, step
        "0000000000000000 0000000000000000 0000000000000000",
    ),
}


@pytest.mark.parametrize("form", SHORT_FORMS)
def test_segment_of_regular_records(form: int) -> None:
    rows, golden = SHORT_FORMS[form]
    packed = pack(ArrayRun(rows_of(rows)), 24)
    assert (packed.form, packed.row_count, bytes(packed.body)) == (form, 3, bytes.fromhex(golden))
    record = pack_record(7, 9, 2, 3, 1, 4104, 4176, 0, packed)
    assert record == record_of(bytes(packed.body), count=3, form=form)
    segment = parsed(bytes(packed.body), record)
    assert segment is not None
    assert (segment.run.rows.tolist(), segment.low) == (rows, END - 64 - 64)


@pytest.mark.parametrize("form", SHORT_FORMS)
def test_each_flipped_bit_of_a_segment_of_regular_records_is_found(form: int) -> None:
    body = bytes.fromhex(SHORT_FORMS[form][1])
    whole = body + record_of(body, count=3, form=form)
    assert parsed(whole[:64], whole[64:]) is not None
    for damaged in flipped(whole, range(8 * len(whole))):
        assert parsed(damaged[:64], damaged[64:]) is None


@pytest.mark.parametrize("form", SHORT_FORMS)
@pytest.mark.parametrize(
    "fields",
    [{"start": 4128}, {"end": 4175}, {"count": 4}, {"count": 0}, {"form": 0}, {"chunk": 6}, {"flags": ZERO}],
)
def test_a_segment_of_other_regular_records_is_refused(form: int, fields: dict[str, int]) -> None:
    body = bytearray.fromhex(SHORT_FORMS[form][1])
    numbers = {"count": 3, "form": form, **fields}
    for name, at in (("chunk", 16), ("flags", 20)):
        if name in numbers:
            body[at : at + 4] = numbers.pop(name).to_bytes(4, "little")
    record = record_of(bytes(body), **numbers)
    assert parsed(bytes(body), record) is None


@pytest.mark.parametrize(("count", "is_sound"), [(250, True), (251, False)])
def test_no_form_says_more_rows_than_have_room_in_form_all(count: int, *, is_sound: bool) -> None:
    """Else 64 bytes in a sparse file could ask for more memory than there is."""
    body = struct.pack("<QQIIQQ24x", 4096, 1, 7, 0, 5, 1)
    record = pack_record(7, 9, 2, 3, 1, 4096, 4096 + count, 0, Packed(EVEN, count, body))
    raw = memoryview(bytes(4096 + 250 + 250 * 32 - len(body)) + body + record)
    segment = parse_segment(raw, len(raw), 7, 4096, 1)
    assert (segment is not None) == is_sound
    assert not is_sound or (segment is not None and len(segment.run) == count)


# ---------------------------------------------------------------------- tail page

TAIL = Head(
    1, UUID, epoch=3, base=290, published=302, durable=301, committing=303, pairs=5, next_chunk=17, named=16
)
TAIL_GOLDEN = bytes.fromhex(
    "535452554354544c"  # STRUCTTL
    "01000000 01000000"  # version, generation
    "000102030405060708090a0b0c0d0e0f"
    "0300000000000000 2201000000000000"  # epoch, base
    "2e01000000000000 2d01000000000000 2f01000000000000"  # published, durable, committing
    "0500000000000000 11000000 10000000 3b0e8d2e"  # pairs, next chunk, named, CRC
)


def test_tail_page() -> None:
    assert TAIL.pack() == TAIL_GOLDEN
    assert TAIL_GOLDEN[88:] == zlib.crc32(TAIL_GOLDEN[:88]).to_bytes(4, "little")
    assert parse_head(TAIL_GOLDEN) == TAIL


def test_each_flipped_bit_of_a_tail_page_is_found() -> None:
    assert not any(map(parse_head, flipped(TAIL_GOLDEN, range(8 * HEAD_SIZE))))


@pytest.mark.parametrize(("offset", "value"), [(0, b"STRUCTCK"), (8, bytes([2]))])
def test_a_tail_page_of_another_magic_or_version_is_none(offset: int, value: bytes) -> None:
    head = TAIL_GOLDEN[:offset] + value + TAIL_GOLDEN[offset + len(value) : 88]
    assert parse_head(head + zlib.crc32(head).to_bytes(4, "little")) is None


def test_the_ring_of_a_tail_page(tmp_path: Path) -> None:
    """Pair n is at 92 + 12 * (n % 333)."""
    path = tmp_path / "tail"
    tail = Tail(str(path))
    tail.rewrite(TAIL)
    assert path.read_bytes() == TAIL._replace(pairs=0).pack() + bytes(4096 - 92)
    for commit in range(303, 803):
        tail.publish(commit, [commit % 7], 18, is_durable=commit == 700, committing=9)
    page = path.read_bytes()
    assert parse_head(page[:92]) == Head(1, UUID, 3, 290, 802, 700, 9, 500, 18, 18)
    pairs = [struct.unpack_from("<QI", page, 92 + 12 * (number % 333)) for number in range(167, 500)]
    assert pairs == [(commit, commit % 7) for commit in range(303 + 167, 803)]


# ---------------------------------------------------------------------- superblock

SLOT = Superblock(UUID, generation=1, sequence=5, checkpoint=300, epoch=2, next_chunk=17)
SLOT_GOLDEN = bytes.fromhex(
    "5354525543545342"  # STRUCTSB
    "01000000 01000000"  # version, generation
    "000102030405060708090a0b0c0d0e0f"
    "0500000000000000 2c01000000000000 0200000000000000"  # sequence, checkpoint, epoch
    "11000000 b6ce0bfa"  # next chunk, CRC
)


def test_slot() -> None:
    assert SLOT.pack() == SLOT_GOLDEN
    assert SLOT_GOLDEN[60:] == zlib.crc32(SLOT_GOLDEN[:60]).to_bytes(4, "little")
    assert parse_slot(SLOT_GOLDEN) == SLOT


def test_each_flipped_bit_of_a_slot_is_found() -> None:
    assert not any(map(parse_slot, flipped(SLOT_GOLDEN, range(8 * SLOT_SIZE))))


@pytest.mark.parametrize(("offset", "value"), [(0, b"STRUCTCK"), (8, bytes([2]))])
def test_a_slot_of_another_magic_or_version_is_refused(offset: int, value: bytes) -> None:
    head = SLOT_GOLDEN[:offset] + value + SLOT_GOLDEN[offset + len(value) : 60]
    assert parse_slot(head + zlib.crc32(head).to_bytes(4, "little")) is None


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_slot_of_another_size_is_refused(size: int) -> None:
    assert parse_slot((SLOT_GOLDEN + b"x")[:size]) is None


def test_slots_alternate_and_the_newest_valid_one_counts(tmp_path: Path) -> None:
    path = str(tmp_path / "superblock")
    create_superblock(path, SLOT)
    assert (tmp_path / "superblock").read_bytes() == bytes(4096) + SLOT_GOLDEN + bytes(4096 - 64)
    newer = SLOT._replace(sequence=6, checkpoint=301)
    newer.write(path)
    assert (tmp_path / "superblock").read_bytes() == (
        newer.pack() + bytes(4096 - 64) + SLOT_GOLDEN + bytes(4096 - 64)
    )
    assert read_superblock(path) == newer
    files.write(path, 60, b"\0\0\0\0")
    assert read_superblock(path) == SLOT
    files.write(path, 4096 + 60, b"\0\0\0\0")
    with pytest.raises(CorruptionError, match="no valid slot"):
        read_superblock(path)


COPY = SLOT._replace(heads=7, left=(3, 9))
COPY_GOLDEN = SLOT_GOLDEN + bytes.fromhex(
    "07000000 d0e7f5f8"  # heads, CRC
    "02000000 03000000 09000000 ce337cf6"  # ids of chunks that are not part of it any more, CRC
)


def test_superblock_of_a_copy(tmp_path: Path) -> None:
    path = str(tmp_path / "superblock")
    assert COPY.pack() == COPY_GOLDEN
    covered = COPY_GOLDEN[:60] + COPY_GOLDEN[64:68] + COPY_GOLDEN[72:84]
    assert COPY_GOLDEN[84:] == zlib.crc32(covered).to_bytes(4, "little")
    first = COPY._replace(sequence=1)
    create_superblock(path, first)
    assert read_superblock(path) == first
    for damaged in flipped(first.pack(), range(8 * SLOT_SIZE, 8 * len(COPY_GOLDEN))):
        files.write(path, 4096, damaged)
        assert read_superblock(path).left is None
    full = first._replace(left=tuple(range(MOST_LEFT)))
    assert len(full.pack()) <= 512
    create_superblock(str(tmp_path / "full"), full)
    assert read_superblock(str(tmp_path / "full")) == full


def test_who_writes_the_slot_of_a_copy_makes_it_none(tmp_path: Path) -> None:
    """Bytes that stay behind a shorter slot do not belong to it."""
    path = str(tmp_path / "superblock")
    create_superblock(path, COPY)
    for sequence in range(6, 10):
        newer = COPY._replace(sequence=sequence, left=None)
        newer.write(path)
        assert read_superblock(path) == newer


def test_a_superblock_that_is_cut_off_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "superblock"
    path.write_bytes(SLOT_GOLDEN)
    assert read_superblock(str(path)) == SLOT
    path.write_bytes(SLOT_GOLDEN[:-1])
    with pytest.raises(CorruptionError, match="no valid slot"):
        read_superblock(str(path))


# ---------------------------------------------------------------------- index


def test_leveldb_keys_and_values(tmp_path: Path) -> None:
    index = Index.create(str(tmp_path / "index"), UUID, next_chunk=1)
    index.add_store(0x0102, 8, lambda rows: None)
    page = rows_of((key, 4096 + 8 * key, 1, 7, 0) for key in range(513))
    catalog = {"temps": {"store": 0x0102, "kind": "array", "schema": ABOUT["schema"]}}
    index.put(1, {0x0102: [ArrayRun(page)]}, catalog)
    few = rows_of([(2**64 - 2, 8200, 2, 8, 0), (2**64 - 1, 0, 0, 8, TOMBSTONE)])
    index.put(2, {0x0102: [ArrayRun(few)]})
    index.write_checkpoint(9, {8: (8216, 65000)})
    store = b"\0\0\1\2"
    assert dict(index.leveldb.read(b"", b"\xff", 99)) == {
        b"Mlast": bytes.fromhex("0200000000000000"),
        b"Mcheckpoint": UUID + bytes.fromhex("02000000 09000000 0200000000000000 0200000000000000"),
        b"Mcatalog": json.dumps(catalog).encode(),
        b"H" + bytes.fromhex("00000008"): bytes.fromhex("1820000000000000 e8fd000000000000"),
        b"C" + store + bytes.fromhex("00000007"): bytes.fromhex("0102000000000000 0810000000000000"),
        b"C" + store + bytes.fromhex("00000008"): bytes.fromhex("0100000000000000 1000000000000000"),
        b"P" + store + bytes.fromhex("00000000000001ff"): bytes.fromhex(
            "0010000000000000 0100000000000000 07000000 00000000 0000000000000000 0100000000000000"
            "0000000000000000 0000000000000000 0000000000000000 0002 02"
        ),
        b"P" + store + bytes.fromhex("0000000000000200"): bytes.fromhex(
            "0002000000000000 0020000000000000 0100000000000000 07000000 00000000"
        ),
        b"D" + store + b"\xff" * 7 + b"\xfe": ROW.pack(2**64 - 2, 8200, 2, 8, 0),
        b"D" + store + b"\xff" * 8: ROW.pack(2**64 - 1, 0, 0, 8, TOMBSTONE),
    }
    index.close()


def test_mark_of_rows_of_a_commit_that_is_not_the_last(tmp_path: Path) -> None:
    """While it is there, the rows of the index are of two commits."""
    index = Index.create(str(tmp_path / "index"), UUID, next_chunk=1)
    assert index.unfinished == 0
    mark = b"Mrewriting", bytes.fromhex("0302000000000000")
    assert rewriting_pair(0x0203) == mark
    index.leveldb.write([mark])
    index.close()
    with contextlib.closing(Index.open(str(tmp_path / "index"))) as index:
        assert index.unfinished == 0x0203
        index.leveldb.write([(b"Mrewriting", b"short")])
    with pytest.raises(CorruptionError, match="rebuild_index"):
        Index.open(str(tmp_path / "index"))


NOTE = b'{"name":"temps","kind":"array","schema":{"kind":"array","type":"<f8"},"history":[17,20]}'


def test_note_of_a_store_that_was_dropped(tmp_path: Path) -> None:
    index = Index.create(str(tmp_path / "index"), UUID)
    index.apply(0x0304, index.prepare({})._replace(notes=[(0x0102, NOTE)]))
    key = b"X" + bytes.fromhex("0000000000000304 00000102")
    assert index.leveldb.read(b"X", b"Y", 9) == [(key, NOTE)]
    note = Note(0x0304, 0x0102, {**ABOUT, "history": [17, 20]})
    assert index.notes(0x0303, 0x0304) == index.notes(0, 2**40) == [note]
    assert index.notes(0, 0x0303) == index.notes(0x0304, 2**40) == []
    index.close()


@pytest.mark.parametrize(
    "text",
    [b"", b"\xff", b"[]", b"1", NOTE[:-1], NOTE.replace(b"name", b"game"), NOTE.replace(b"schema", b"scheme")]
    + [NOTE.replace(b"[17,20]", commits) for commits in (b"[]", b"17", b"[-1]", b"[1.5]", b"[true]", b"null")],
)
def test_a_damaged_note_is_told(text: bytes, tmp_path: Path) -> None:
    index = Index.create(str(tmp_path / "index"), UUID)
    index.apply(1, index.prepare({})._replace(notes=[(2, text)]))
    with pytest.raises(CorruptionError, match="note of a drop"):
        index.notes(0, 1)
    index.close()


def test_paths() -> None:
    paths = Paths("/db")
    assert (paths.superblock, paths.lock, paths.chunks) == ("/db/superblock", "/db/lock", "/db/chunks")
    assert (paths.index(1), paths.chunk(1)) == ("/db/index-000001", "/db/chunks/00000001.chunk")
    assert paths.chunk(2**32 - 1) == "/db/chunks/4294967295.chunk"


def test_paths_lists_what_is_its_own(tmp_path: Path) -> None:
    paths = Paths(str(tmp_path))
    for name in ("index-000012", "index-000002", "index-1", "index-000003.old", "chunks", "readers"):
        (tmp_path / name).mkdir()
    for name in ("index-0000004", "index-00000\u0665", "index-\uff10\uff10\uff10\uff10\uff10\uff16"):
        (tmp_path / name).mkdir()
    for name in ("00000010.chunk", "00000002.chunk", "4294967295.chunk", "1.chunk", "00000003.chunk~", ".nfs1"):
        (tmp_path / "chunks" / name).touch()
    for name in ("000000004.chunk", "0000000\u0665.chunk", "4294967296.chunk", "9999999999.chunk"):
        (tmp_path / "chunks" / name).touch()
    assert paths.list_indexes() == [2, 12]
    assert paths.list_chunks() == [2, 10, 2**32 - 1]


# ---------------------------------------------------------------------- a whole database, by its docstring

FIELD = re.compile(r" +(\d+) +(\d+s|u4|u8) +(\S.*?)(?: +}.*)?")
FORMS = {"u4": "I", "u8": "Q"}


def documented(after: str, before: str) -> dict[str, tuple[int, str]]:
    """Return what chunks/chunk.py's docstring says of a structure: first words of a field -> offset, form."""
    doc = chunk_module.__doc__ or ""
    lines = doc[doc.index(after) : doc.index(before)].splitlines()
    matches = filter(None, map(FIELD.fullmatch, lines))
    return {match[3].split(",")[0]: (int(match[1]), FORMS.get(match[2], match[2])) for match in matches}


HEADER_FIELDS = documented("header, whole pages", "data offset   ")
RECORD_FIELDS = documented("record, 64 bytes", "The CRC is")


def decode(fields: dict[str, tuple[int, str]], raw: bytes, base: int) -> list[Any]:
    return [struct.unpack_from("<" + form, raw, base + offset)[0] for offset, form in fields.values()]


def test_the_docstring_names_every_field() -> None:
    names = [name for name, *_ in HeaderFields._fields_]
    offsets = [getattr(HeaderFields, name).offset for name in names]
    sizes = [getattr(HeaderFields, name).size for name in names]
    assert [offset for offset, _ in HEADER_FIELDS.values()] == offsets
    assert [struct.calcsize(form) for _, form in HEADER_FIELDS.values()] == sizes
    ends = [offset + struct.calcsize(form) for offset, form in RECORD_FIELDS.values()]
    assert [offset for offset, _ in RECORD_FIELDS.values()] == [0, *ends[:-1]]
    assert ends[-1] == 64


def read_chunk(raw: bytes) -> tuple[dict[str, Any], list[tuple[list[Any], list[Extent]]]]:
    """Decode a chunk file as a stranger would: struct, zlib, and the offsets of the docstring."""
    header = dict(zip(HEADER_FIELDS, decode(HEADER_FIELDS, raw, 0), strict=True))
    _, version, _, _, chunk, _, _, _, size, _, text_size, replaced, crc, *_ = header.values()
    assert (version, size) == (1 + (replaced > 0), len(raw))
    end = 104 + text_size + 4 * replaced
    assert crc == zlib.crc32(raw[:80] + raw[104:end])
    segments = []
    top = len(raw) - 64
    while raw[top : top + 4] == b"SEGM":
        record = decode(RECORD_FIELDS, raw, top)
        low = top - 32 * record[3]
        assert record[9] == zlib.crc32(raw[low:top])
        assert record[11] == zlib.crc32(raw[top : top + 60], chunk)
        segments.append((record, list(struct.iter_unpack("<QQQII", raw[low:top]))))
        top = low - 64
    assert not any(raw[top : top + 64])
    return {**header, "text": json.loads(raw[104 : 104 + text_size])}, segments


def test_a_database_can_be_read_by_its_docstring(tmp_path: Path) -> None:
    with sc.open(tmp_path / "db", chunk_size=1 << 16) as db:
        store = db.array_store("temps", "<f4")
        store.put_many([5, 3, 2**64 - 1], np.arange(6, dtype="<f4"), [1, 2, 3])
        del store[3]
        store.new(4, 100)[50] = 7.0
        store[9] = []
    raw = (tmp_path / "db" / "chunks" / "00000001.chunk").read_bytes()
    slot = read_superblock(str(tmp_path / "db" / "superblock"))
    header, segments = read_chunk(raw)
    fixed = [value for name, value in header.items() if name.split()[0] not in ("created", "text", "CRC-32")]
    text_size = struct.unpack_from("<I", raw, 72)[0]
    assert fixed == [
        *(b"STRUCTCK", 1, 4096, slot.database, 1, 1, 4, 4096, 1 << 16, text_size, 0, 0),
        *(4096 + 24 + 400, (1 << 16) - 5 * 64 - 6 * 32),
    ]
    assert header["text"]["name"] == "temps"
    assert header["text"]["kind"] == "array"
    assert [rows for _, rows in segments] == [
        [],
        [(3, 4100, 2, 1, 0), (5, 4096, 1, 1, 0), (2**64 - 1, 4108, 3, 1, 0)],
        [(3, 0, 0, 1, TOMBSTONE)],
        [(4, 4120, 100, 1, MUTABLE | ZERO)],
        [(9, 4520, 0, 1, 0)],
    ]
    data = [zlib.crc32(raw[4096:4120]) if commit == 2 else 0 for commit in range(1, 6)]
    spans = [(4096, 4096), (4096, 4120), (4120, 4120), (4120, 4520), (4520, 4520)]
    assert [record[:9] for record, _ in segments] == [
        [b"SEGM", 1, 0, len(rows), commit, slot.epoch, *span, crc]
        for commit, (_, rows), span, crc in zip(range(1, 6), segments, spans, data, strict=True)
    ]
    assert struct.unpack_from("<6f", raw, 4096) == (0, 1, 2, 3, 4, 5)
    assert struct.unpack_from("<f", raw, 4120 + 200) == (7.0,)


def test_the_index_of_that_database_says_the_same(tmp_path: Path) -> None:
    with sc.open(tmp_path / "db", chunk_size=1 << 16) as db:
        db.array_store("temps", "<f4")[5] = [1.0]
    leveldb = LevelDB.open(str(tmp_path / "db" / "index-000001"))
    pairs = dict(leveldb.read(b"", b"\xff", 99))
    leveldb.close()
    assert pairs[b"D\0\0\0\1" + (5).to_bytes(8, "big")] == ROW.pack(5, 4096, 1, 1, 0)
    assert struct.unpack("<QQ", pairs[b"H\0\0\0\1"]) == (4100, (1 << 16) - 64 - 96)
    assert struct.unpack("<Q", pairs[b"Mlast"]) == (2,)
    assert json.loads(pairs[b"Mcatalog"])["temps"]["store"] == 1


def test_attributes_can_be_read_by_the_docstring(tmp_path: Path) -> None:
    with sc.open(tmp_path / "db", chunk_size=1 << 16) as db:
        db.array_store("temps", "<f4").attrs["unit"] = "°C"
        db.attrs["of"] = [1, None]
        db.attrs["of"] = [2, None]
        db["temps"].attrs.clear()
    raw = (tmp_path / "db" / "chunks" / "00000002.chunk").read_bytes()
    header, segments = read_chunk(raw)
    assert header["text"] == {"name": "", "kind": "array", "schema": {"kind": "array", "type": "|u1"}}
    rows = [
        (key, flags, raw[at : at + length].decode()) for _, rows in segments for key, at, length, _, flags in rows
    ]
    assert rows == [
        (1, 0, '{"unit":"°C"}'),
        (0, 0, '{"of":[1,null]}'),
        (0, 0, '{"of":[2,null]}'),
        (1, TOMBSTONE, ""),
    ]


def test_an_altered_store_can_be_read_by_the_docstring(tmp_path: Path) -> None:
    with sc.open(tmp_path / "db", chunk_size=1 << 16, sync=False) as db:
        db.array_store("temps", "<f4")[5] = [1.5]
        db.alter_store("temps", "<f8")
    (path,) = (tmp_path / "db" / "chunks").iterdir()
    raw = path.read_bytes()
    header, [(record, rows)] = read_chunk(raw)
    assert (header["text"]["name"], header["text"]["schema"]["type"]) == ("temps", "<f8")
    assert (record[1], record[4], rows) == (2, 3, [(5, 4096, 1, 2, 0)])
    assert struct.unpack_from("<d", raw, 4096) == (1.5,)
