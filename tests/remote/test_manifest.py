"""Manifests, rows and layouts: what is written is read, and nothing else is."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import structchunk as sc

pytest.importorskip("fsspec")

from faulty_store import FaultyStore
from published import newest

from structchunk.remote.layout import BLOCK_SIZES, ZEROS, Layout, block_size
from structchunk.remote.manifest import (
    Manifest,
    manifest_name,
    number_of,
    object_name,
    pack_newest,
    parse_manifest,
    parse_newest,
    publication_of,
)
from structchunk.remote.row_levels import SMALL, levels, merged
from structchunk.remote.rows import Entry, anew, entry_of, pack_entries, parse_entries
from structchunk.runs.extent import EXTENT_DTYPE, TOMBSTONE
from structchunk.runs.run import ArrayRun

WHERE = "s3://bucket/name"

# ---------------------------------------------------------------------- layout


@pytest.mark.parametrize(
    ("file_size", "expected"),
    [
        (1 << 14, 1 << 12),
        (1 << 25, 1 << 12),
        ((1 << 25) + 8192, 1 << 13),
        (1 << 26, 1 << 13),
        (1 << 30, 1 << 17),
        (1 << 32, 1 << 19),
        (1 << 40, 1 << 19),
    ],
)
def test_sizes_of_blocks(file_size: int, expected: int) -> None:
    assert block_size(file_size) == expected
    assert expected in BLOCK_SIZES


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    offsets = sorted(draw(st.lists(st.integers(0, 100), min_size=4, max_size=4)))
    return Layout(draw(st.sampled_from([1, 4, 16])), offsets[3] + 1, *offsets[:3])


@given(layouts())
def test_each_byte_is_stored_once(layout: Layout) -> None:
    """All data and all of the directory, the hole only where it begins and ends in one block."""
    wanted = {*range(layout.data_offset, layout.free), *range(layout.directory, layout.file_size)}
    blocks = [block for run in layout.runs for block in run]
    stored = [byte for block in blocks for byte in layout.stored(block)]
    assert len(stored) == len(set(stored))
    assert set(stored) >= wanted
    for byte in set(stored) - wanted:
        assert layout.free // layout.block in (byte // layout.block, (layout.free - 1) // layout.block)
    assert [layout.position(block) for block in blocks] == list(range(len(blocks)))
    for run in layout.runs:
        assert list(layout.span(run)) == [byte for block in run for byte in layout.stored(block)]
    others = set(range(-(-layout.file_size // layout.block))) - set(blocks)
    assert not any(layout.stored(block) for block in others)
    for block in others:
        with pytest.raises(ValueError, match="is not stored"):
            layout.position(block)


# ---------------------------------------------------------------------- names


def test_names() -> None:
    assert manifest_name(7) == "manifests/0000000007.json.gz"
    assert number_of("manifests/0000000007.json.gz") == 7
    others = ["manifests/7.json.gz", "manifests/000000000x.json.gz", "manifests/", "0000000007.json.gz", "newest"]
    assert [number_of(name) for name in others] == [None] * 5
    assert object_name(7, "ab", 3) == "objects/0000000007-ab-00000003"
    assert publication_of("objects/0000000007-ab-00000003") == 7
    assert [publication_of(name) for name in ["objects/x", "other/0000000007-ab", "objects/"]] == [None] * 3


def test_the_newest() -> None:
    assert parse_newest(pack_newest(7), WHERE) == 7
    for raw in (b"", b"7", b"{}", b'{"number": 0}', b'{"number": true}', b'{"number": "7"}', b"\xff", b"[" * 9999):
        with pytest.raises(sc.CorruptionError, match=WHERE):
            parse_newest(raw, WHERE)


# ---------------------------------------------------------------------- the manifest


@pytest.fixture
def manifest(db: sc.Database) -> Manifest:
    store = FaultyStore.new()
    db.array_store("a", "f8").put_many(np.arange(3000), np.random.default_rng(0).random((3000, 1)))
    db.array_store("b", "u2")[5] = [1, 2, 3]
    db.array_store("gone", "u2")
    db.drop_store("gone")
    db.publish(store.url)
    db["a"][3001] = [1.0]
    db.publish(store.url)
    return newest(store.url)[1]


def document(manifest: Manifest) -> Any:
    return json.loads(gzip.decompress(manifest.pack()))


def packed(about: Any) -> bytes:
    return gzip.compress(json.dumps(about).encode())


def test_what_is_packed_is_parsed(manifest: Manifest) -> None:
    again = parse_manifest(manifest.pack(), WHERE)
    assert again.pack() == manifest.pack()
    assert again._replace(chunks={}) == manifest._replace(chunks={})
    assert manifest.notes
    assert manifest.earlier
    assert document(manifest)["format"] == 1


def test_a_manifest_cut_off_or_changed(manifest: Manifest) -> None:
    raw = manifest.pack()
    for size in [*range(0, len(raw), 7), len(raw) - 1]:
        with pytest.raises(sc.CorruptionError, match=WHERE):
            parse_manifest(raw[:size], WHERE)
    with pytest.raises(sc.CorruptionError):
        parse_manifest(raw + b"x", WHERE)
    for position in range(10, len(raw), 11):  # before, there are fields of gzip that mean nothing
        damaged = bytearray(raw)
        damaged[position] ^= 0x41
        with pytest.raises(sc.CorruptionError, match=WHERE):
            parse_manifest(bytes(damaged), WHERE)


OTHERS = [None, -1, 1.5, "x", [], {}, True, 1 << 70, [[1]], {"x": {}}]


def places(about: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in a document."""
    items = about.items() if isinstance(about, dict) else enumerate(about) if isinstance(about, list) else ()
    return [path, *(place for key, value in items for place in places(value, (*path, key)))]


def replaced(about: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    about = about.copy()
    about[path[0]] = replaced(about[path[0]], path[1:], value)
    return about


def test_each_field_damaged(manifest: Manifest) -> None:
    """Whatever stands there, it is read as a manifest or refused; no extent lies outside of its object."""
    about = document(manifest)
    refused = 0
    for path in places(about):
        for value in OTHERS:
            try:
                parsed = parse_manifest(packed(replaced(about, path, value)), WHERE)
            except sc.CorruptionError as error:
                refused += 1
                assert WHERE in str(error)
            else:
                check_extents(parsed)
    assert refused > 1000


def check_extents(manifest: Manifest) -> None:
    for chunk in manifest.chunks.values():
        for piece in chunk.pieces(range(1 << 32)):
            assert piece.object == ZEROS or piece.offset + piece.size <= manifest.objects[piece.object].size
            assert piece.start + piece.size <= chunk.layout.file_size


def change_chunk(**fields: Any) -> Callable[[Any], None]:
    return lambda about: about["chunks"][0].update(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda about: about.update(format=2), "format version 2"),
        (lambda about: about.update(database="00"), "uuid of 1 bytes"),
        (lambda about: about.pop("token"), "KeyError"),
        (lambda about: about.update(next_chunk=1), "at least"),
        (lambda about: about.update(next_object=1), "at least"),
        (lambda about: about["rows"].append(about["objects"][0][0]), "role"),
        (lambda about: about.update(rows=about["rows"] * 4), "objects with rows"),
        (lambda about: about["objects"][0].__setitem__(1, "../secret"), "named"),
        (lambda about: about["objects"][0].__setitem__(1, "objects/0000000001-../x"), "named"),
        (lambda about: about["objects"][0].__setitem__(3, 1), "bytes up to"),
        (lambda about: about["objects"].append(about["objects"][0]), "two objects"),
        (lambda about: about["chunks"].reverse(), "ascending"),
        (change_chunk(header=base64.b64encode(bytes(200)).decode()), "magic"),
        (change_chunk(header="x" * 41), "base64"),
        (change_chunk(store=77), "a header of"),
        (change_chunk(block=4095), "a size that blocks may have"),
        (change_chunk(free=1), "in the file"),
        (change_chunk(directory=1 << 40), "in the file"),
        (change_chunk(extents=[]), "no extents of blocks"),
        (lambda about: about["chunks"][0]["extents"][0].__setitem__(slice(2, 4), [0, 1]), "zeros at 1"),
        (change_chunk(crcs=""), "0 CRCs"),
    ],
)
def test_what_is_refused(manifest: Manifest, change: Callable[[Any], None], message: str) -> None:
    about = document(manifest)
    change(about)
    with pytest.raises(sc.CorruptionError, match=message):
        parse_manifest(packed(about), WHERE)


def test_extents_that_leave_out_or_overlap(manifest: Manifest) -> None:
    about = document(manifest)
    extents = max((chunk["extents"] for chunk in about["chunks"]), key=len)
    first, count, number, offset = extents[0]
    for other in (
        [first + 1, count - 1, number, offset],
        [first, count + 1, number, offset],
        [first, 0, number, 0],
    ):
        good, extents[0] = extents[0], other
        with pytest.raises(sc.CorruptionError, match=r"blocks|CRC"):
            parse_manifest(packed(about), WHERE)
        extents[0] = good


# ---------------------------------------------------------------------- rows


def run(*keys: int, flags: int = 0, offset: int = 0) -> ArrayRun:
    rows = np.zeros(len(keys), EXTENT_DTYPE)
    rows["key"], rows["flags"], rows["chunk"] = keys, flags, 1
    rows["offset"] = offset + 16 * np.arange(len(keys))
    rows["length"] = np.arange(len(keys)) % 2 + 1
    return ArrayRun(rows)


def applied(entries: list[Entry]) -> dict[int, dict[int, Any]]:
    shown: dict[int, dict[int, Any]] = {}
    for entry in entries:
        rows = shown.setdefault(entry.store, {})
        if entry.is_anew:
            rows.clear()
        for row in entry.run(8, WHERE).rows.tolist():
            rows[row[0]] = row
    return {
        store: {key: row for key, row in rows.items() if not row[4] & TOMBSTONE} for store, rows in shown.items()
    }


def test_rows() -> None:
    entries = [anew(1), entry_of(1, run(*range(100)), 8), entry_of(2, run(7, flags=TOMBSTONE), 8)]
    raw = pack_entries(entries)
    again = parse_entries(raw, WHERE)
    assert [entry.is_anew for entry in again] == [True, False, False]
    assert applied(again) == applied(entries)
    assert parse_entries(pack_entries([]), WHERE) == []


def test_damaged_rows() -> None:
    raw = pack_entries([anew(1), entry_of(1, run(*range(0, 1000, 3)), 8)])
    for damaged in (raw[:-1], b"", b"x" * 100, raw + b"x", raw[:40] + b"\xff" + raw[41:]):
        with pytest.raises(sc.CorruptionError, match=WHERE):
            parse_entries(damaged, WHERE)
    inner = gzip.decompress(raw)
    for other in (inner[:-1], inner[:30], b"STRUCTIY" + inner[8:], inner[:29] + b"\xff" + inner[30:]):
        with pytest.raises(sc.CorruptionError, match=WHERE):
            parse_entries(gzip.compress(other), WHERE)
    keys_out_of_order = bytearray(inner)
    keys_out_of_order[-32:-24] = bytes(8)
    (_, entry) = parse_entries(gzip.compress(bytes(keys_out_of_order)), WHERE)
    with pytest.raises(sc.CorruptionError, match="out of order"):
        entry.run(8, WHERE)


@given(st.lists(st.lists(st.tuples(st.sampled_from([1, 2]), st.booleans(), st.sets(st.integers(0, 20))))))
def test_merged_levels_are_those_one_after_another(given_levels: list[list[tuple[int, bool, set[int]]]]) -> None:
    offset = 0
    every = []
    for level in given_levels:
        entries = []
        for store, is_anew, keys in level:
            offset += 1000
            entries += [anew(store)] if is_anew else []
            entries.append(
                entry_of(store, run(*sorted(keys), flags=TOMBSTONE * (offset % 3000 == 0), offset=offset), 8)
            )
        every.append(entries)
    before = [entry_of(store, run(*range(21)), 8) for store in (1, 2)]
    one_by_one = applied([*before, *(entry for entries in every for entry in entries)])
    assert applied([*before, *merged(every, {1: 8, 2: 8}, WHERE)]) == one_by_one
    assert all(entry.store == 1 for entry in merged(every, {1: 8}, WHERE))


def test_how_levels_grow() -> None:
    """Few levels, and little written again: over many publications about as much as is new times ten."""
    for base, new, rounds in [(10 << 20, 10_000, 2000), (1 << 20, 1000, 2000), (100, 100, 200)]:
        sizes, written = [base], 0
        for _ in range(rounds):
            stays = levels(sizes, new)
            level = sum(sizes[stays:]) + new
            sizes = [*sizes[:stays], level]
            written += level
            assert len(sizes) <= 3
            assert stays == 0 or level <= max(SMALL * 4, base)
        assert written < 40 * rounds * max(new, SMALL // 8)


def test_crcs_cover_each_block(manifest: Manifest) -> None:
    chunk = next(iter(manifest.chunks.values()))
    with pytest.raises(ValueError, match="is not stored"):
        chunk.crc(1 << 30)
    with pytest.raises(ValueError, match="is not stored"):
        chunk.extent(1 << 30)
    assert chunk.crc(chunk.layout.runs[0].start) == chunk.crcs[0]
