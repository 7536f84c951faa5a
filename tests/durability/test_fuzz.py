"""Parsers of what is on disk, fed with anything: a CorruptionError or a sound answer, nothing else."""

from __future__ import annotations

import json
import mmap
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import UUID, run_python

import structchunk as sc
from structchunk.chunks.header import TEXT_OFFSET, Header, checksum, parse_header
from structchunk.chunks.segment import (
    MAGIC,
    MOST_ROWS,
    OWN_CRC,
    SEGMENT,
    SEGMENT_SIZE,
    data_crc,
    pack_record,
    parse_segment,
    walk,
)
from structchunk.disk.superblock import CRC, SLOT, Superblock, parse_slot
from structchunk.index.index import Index
from structchunk.index.leveldb import LevelDB
from structchunk.index.page_cache import Budget
from structchunk.index.store_index import StoreIndex
from structchunk.index.stored_state import CATALOG, CHECKPOINT, LAST
from structchunk.index.version import IndexVersion
from structchunk.runs.extent import EXTENT_DTYPE, MUTABLE, ROW, TOMBSTONE, ZERO, is_sorted, make_rows, misplaced
from structchunk.runs.packed import EVEN, Packed, pack
from structchunk.runs.run import ArrayRun
from structchunk.types.schema import schema_from_descriptor

SIZE = 8192
DATA = 4096
ABOUT = {"name": "a", "kind": "array", "schema": {"kind": "array", "type": "<f8"}}
HEADER = Header(UUID, 1, 1, 8, SIZE, 0, ABOUT, (7, 8)).pack()

u32 = st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1), st.just(2**32 - 1))
u64 = st.one_of(
    st.integers(0, 9), st.integers(DATA // 8, SIZE // 8).map(lambda n: 8 * n), st.integers(0, 2**64 - 1)
)
rows = st.lists(
    st.tuples(u64, u64, u64, st.one_of(st.just(1), u32), st.one_of(st.integers(0, 15), u32)), max_size=5
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@st.composite
def edited(draw: st.DrawFn, original: bytes) -> bytes:
    """Draw bytes that are nearly the original."""
    raw = bytearray(original)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(raw) - 1))
        new = draw(st.binary(min_size=1, max_size=8))
        raw[at : at + len(new)] = new[: len(raw) - at]
    return bytes(raw)


# ---------------------------------------------------------------------- chunk files


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=200), edited(HEADER)), st.booleans())
def test_header(raw: bytes, mend: bool) -> None:
    """With its CRC put right or not."""
    if mend and len(raw) >= TEXT_OFFSET:
        text_size, count = struct.unpack_from("<II", raw, 72)
        text = raw[TEXT_OFFSET : TEXT_OFFSET + text_size + 4 * count]
        raw = raw[:80] + struct.pack("<I", checksum(raw[:TEXT_OFFSET], text)) + raw[84:]
    try:
        header = parse_header(raw, "path", SIZE)
    except sc.CorruptionError:
        return
    assert header.file_size == SIZE
    assert header.data_offset % header.item_size == 0
    assert TEXT_OFFSET <= header.header_size <= header.data_offset <= SIZE


@st.composite
def packed_rows(draw: st.DrawFn) -> tuple[int, int, bytes]:
    """Draw the form, count and bytes of rows: of any rows, or of regular ones with some bytes changed."""
    if draw(st.booleans()):
        packed = b"".join(ROW.pack(*row) for row in draw(rows))
        return draw(st.sampled_from([0, 0, 0, 1, 2, 3])), len(packed) // ROW.size, packed
    count, step, length = draw(st.integers(3, 9)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    array = make_rows(np.arange(count, dtype=np.uint64) * step, DATA + 8 * length * np.arange(count), length, 1)
    array["key"][-1] += draw(st.integers(0, 1))
    form, count, body = pack(ArrayRun(array), 8)
    return form, count, draw(st.one_of(st.just(bytes(body)), edited(bytes(body))))


@st.composite
def directories(draw: st.DrawFn) -> bytes:
    """Draw a chunk file whose directory has segments of any numbers, most of them with CRCs that hold."""
    raw = bytearray(draw(st.binary(max_size=64)).ljust(SIZE, b"\1"))
    position = SIZE
    for _ in range(draw(st.integers(1, 3))):
        form, count, packed = draw(packed_rows())
        count = draw(st.one_of(st.just(count), u32))
        numbers = (draw(u32), draw(u32), count, draw(u64), draw(u64), draw(u64), draw(u64), draw(u32))
        magic = draw(st.sampled_from([MAGIC, MAGIC, MAGIC, b"SEGN"]))
        head = SEGMENT.pack(magic, *numbers, zlib.crc32(packed), form)
        whole = packed + head + OWN_CRC.pack(zlib.crc32(head, draw(st.sampled_from([1, 1, 1, 2]))))
        raw[position - len(whole) : position] = whole
        position -= len(whole)
    return bytes(raw)


@settings(max_examples=300)
@given(directories(), st.sampled_from([1, 2, 3, 8, 24]), st.integers(0, SIZE))
def test_directory(raw: bytes, item_size: int, start: int) -> None:
    """What is taken for a segment lies in the file, and so do all its records."""
    view = memoryview(raw)
    for position in (SIZE, start):
        low = position
        for segment in walk(view, position, 1, DATA, item_size):
            assert DATA <= segment.start <= segment.end <= segment.low < low
            low = segment.low
            rows = segment.run.rows
            assert is_sorted(rows["key"])
            records = rows[rows["flags"] & TOMBSTONE == 0]
            assert not misplaced(records, DATA, segment.end, item_size).any()
            assert np.count_nonzero(records["offset"] < segment.start) <= 1  # one may have been made longer
            for _, offset, length, _, _ in records.tolist():
                assert offset + length * item_size <= SIZE
            data_crc(view, segment.run, segment.start, item_size)


def test_directory_of_a_size_that_wraps_around() -> None:
    head = SEGMENT.pack(MAGIC, 1, 0, 2**32 - 1, 1, 1, DATA, DATA, 0, 0, 0)
    raw = bytes(SIZE - SEGMENT_SIZE) + head + OWN_CRC.pack(zlib.crc32(head, 1))
    assert list(walk(memoryview(raw), SIZE, 1, DATA, 8)) == []


CRAFTED = """
import resource, sys, time
import structchunk as sc
from structchunk.chunks.chunk import Chunk
from structchunk.runs.packed import ALL, EVEN, Packed
from structchunk.chunks.segment import pack_record

root, what = sys.argv[1:]
with sc.open(root) as db:
    db.array_store("a", "u1")[1] = [1]
    epoch = db._storage.superblock.epoch
chunk = Chunk.open(f"{root}/chunks/00000001.chunk")
last = list(chunk.segments())[-1]
chunk.seek(last.end, last.low)
segments = {
    "parts": [(3, 2**32 - 1, Packed(ALL, 0, b""))],
    "commits": [(2**64 - 2, 1, Packed(ALL, 0, b"")), (2**64 - 1, 1, Packed(ALL, 0, b""))],
}
for commit, parts, rows in segments[what]:
    record = pack_record(1, commit, epoch, parts, 0, chunk.free, chunk.free, 0, rows)
    chunk.append_segment(rows.body, record, chunk.free)
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
with sc.open(root, "r") as db:
    assert db["a"][1].tolist() == [1]
sc.rebuild_index(root)
with sc.open(root) as db:
    assert db["a"][1].tolist() == [1]
    assert db.verify() == []
"""


@pytest.mark.parametrize("what", ["parts", "commits"])
def test_numbers_of_a_segment_ask_for_no_work(what: str, tmp_path: Path) -> None:
    """However many parts or commits a segment says that there are."""
    done = run_python(CRAFTED, str(tmp_path / "db"), what)
    assert done.returncode == 0, done.stderr


def test_rows_of_a_segment_are_bounded_whatever_the_size_of_the_file(tmp_path: Path) -> None:
    """A file of holes may be as large as one likes."""
    path = tmp_path / "sparse"
    for count, is_sound in ((MOST_ROWS, True), (MOST_ROWS + 1, False)):
        body = struct.pack("<QQIIQQ24x", DATA, 1, 1, MUTABLE | ZERO, 5, 1)
        record = pack_record(1, 2, 1, 1, 0, DATA, DATA + count, 0, Packed(EVEN, count, body))
        size = DATA + count * 33 + 8192
        with open(path, "wb") as file:
            file.truncate(size)
            file.seek(size - len(body) - len(record))
            file.write(body + record)
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            view = memoryview(raw)
            segment = parse_segment(view, size, 1, DATA, 1)
            assert (segment is not None) == is_sound
            del segment
            view.release()


@settings(max_examples=200)
@given(st.one_of(st.binary(max_size=80), edited(Superblock(UUID, 1, 2, 3, 4, 5).pack())), st.booleans())
def test_superblock_slot(raw: bytes, mend: bool) -> None:
    if mend and len(raw) == SLOT.size + CRC.size:
        raw = raw[: SLOT.size] + CRC.pack(zlib.crc32(raw[: SLOT.size]))
    slot = parse_slot(raw)
    assert slot is None or slot.pack() == raw


# ---------------------------------------------------------------------- the index


@pytest.fixture(scope="module")
def leveldb(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = LevelDB.create(str(tmp_path_factory.mktemp("fuzz") / "index"))
    yield made
    made.close()


def check_rows(rows: Any) -> None:
    """What Heap.check does for a store of one chunk."""
    if misplaced(rows, DATA, SIZE, 8).any() or (rows["chunk"] != 1).any():
        raise sc.CorruptionError("path", found="a bad row", expected="a good one")


pages = st.one_of(
    st.binary(max_size=100), rows.map(lambda drawn: b"".join(ROW.pack(*row) for row in sorted(drawn)))
)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from([b"P", b"D"]), u64, st.booleans(), pages), max_size=4), u64)
def test_pages_and_delta(leveldb: LevelDB, drawn: list[tuple[bytes, int, bool, bytes]], key: int) -> None:
    """What is read from the index has ascending keys, and all records lie in the chunk."""
    pairs = {}
    for region, last, matching, value in drawn:
        if matching and len(value) >= ROW.size:
            last = ROW.unpack(value[-ROW.size :] if len(value) % ROW.size == 0 else value[: ROW.size])[0]
        pairs[region + b"\0\0\0\1" + last.to_bytes(8, "big")] = value
    leveldb.write(pairs.items(), [key for key, _ in leveldb.read(b"D", b"Q", 1 << 20)])
    for read in (
        lambda store_index: [run.rows for run in store_index.runs(0, 2**64)],
        lambda store_index: [run.rows for run in store_index.runs(0, 2**64, reverse=True)],
        lambda store_index: [store_index.lookup(np.arange(0, 50, dtype=np.uint64))],
        lambda store_index: [np.array([store_index.find(key) or (key, DATA, 0, 1, 0)], EXTENT_DTYPE)],
    ):
        try:
            found = read(StoreIndex(leveldb, IndexVersion(0), 1, 8, check_rows, Budget()))
        except sc.CorruptionError:
            continue
        for rows in found:
            assert is_sorted(rows["key"])
            alive = rows[rows["flags"] & TOMBSTONE == 0]
            assert not misplaced(alive, DATA, SIZE, 8).any()


catalogs = st.one_of(st.binary(max_size=30), json_values.map(lambda value: json.dumps(value).encode()))
entries = st.fixed_dictionaries({}, optional={"store": json_values, "kind": json_values, "schema": json_values})


@settings(max_examples=200)
@given(
    st.one_of(
        catalogs, st.dictionaries(st.text(max_size=3), entries).map(lambda value: json.dumps(value).encode())
    ),
    st.one_of(st.just(bytes(8)), st.binary(max_size=10)),
    st.one_of(st.just(UUID + struct.pack("<IIQ", 1, 1, 0)), st.binary(max_size=40)),
    st.dictionaries(st.binary(max_size=9), st.binary(max_size=17), max_size=3),
)
@example(b"[" * 100_000, bytes(8), UUID + struct.pack("<IIQ", 1, 1, 0), {})
def test_catalog_and_heads(
    leveldb: LevelDB, catalog: bytes, last: bytes, checkpoint: bytes, extra: dict[bytes, bytes]
) -> None:
    old = [key for key, _ in leveldb.read(b"\0", b"\xff" * 20, 1 << 20)]
    leveldb.write([(b"H" + key, value) for key, value in extra.items()], old)
    leveldb.write([(CATALOG, catalog), (LAST, last), (CHECKPOINT, checkpoint)])
    try:
        index = Index(leveldb)
    except sc.CorruptionError:
        return
    for entry in index.catalog.values():
        assert isinstance(entry["store"], int)


# ---------------------------------------------------------------------- schemas

nodes: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(["<f8", "u1", "<U3", "S0", "V0", "O", ">i4", "<M8[ns]", "P"]) | json_values,
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "array": inner,
            "item": inner,
            "items": inner,
            "length": st.integers(-1, 2**70),
            "shape": st.lists(st.integers(-1, 2**40), max_size=3),
            "fields": st.lists(
                st.fixed_dictionaries(
                    {}, optional={"name": st.text(max_size=4), "type": inner, "offset": st.integers(-1, 100)}
                ),
                max_size=3,
            ),
            "size": st.integers(-1, 2**70),
            "name": st.text(max_size=4),
            "kind": st.text(max_size=4),
            "type": inner,
            "class": inner,
        },
    ),
    max_leaves=8,
)


@settings(max_examples=400)
@given(
    st.one_of(
        json_values, st.fixed_dictionaries({"kind": st.sampled_from(["array", "object", "x"]), "type": nodes})
    )
)
def test_schema(descriptor: Any) -> None:
    try:
        schema = schema_from_descriptor(descriptor, "path")
    except sc.CorruptionError:
        return
    assert schema.item_size >= 1
    assert not schema.dtype.hasobject
    assert schema_from_descriptor(schema.descriptor, "path") == schema


def stored_descriptors() -> list[Any]:
    """Return descriptors of real types, to be changed a little."""
    import ctypes

    from structchunk.types.schema import array_schema, object_schema

    inner = type("Inner", (ctypes.Structure,), {"_fields_": [("a", ctypes.c_uint8), ("b", ctypes.c_double * 3)]})
    outer = type("Outer", (ctypes.Structure,), {"_fields_": [("x", inner), ("y", inner * 2)]})
    dtypes = [np.dtype("<f8"), np.dtype([("a", "u1"), ("b", "<i4", (2, 3))], align=True)]
    return [*(array_schema(dtype).descriptor for dtype in dtypes), object_schema(outer).descriptor]


def mutate(value: Any, data: st.DataObject) -> Any:
    """Return JSON in which one thing, somewhere, is another."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 4)):
        key = data.draw(st.sampled_from(sorted(value)))
        return {**value, key: mutate(value[key], data)}
    if isinstance(value, list) and value and data.draw(st.integers(0, 4)):
        at = data.draw(st.integers(0, len(value) - 1))
        return [*value[:at], mutate(value[at], data), *value[at + 1 :]]
    return data.draw(st.one_of(json_values, nodes, st.integers(-1, 2**70)))


@settings(max_examples=400)
@given(st.sampled_from(stored_descriptors()), st.data())
def test_schema_nearly_right(descriptor: Any, data: st.DataObject) -> None:
    test_schema.hypothesis.inner_test(mutate(descriptor, data))  # type: ignore[attr-defined]
