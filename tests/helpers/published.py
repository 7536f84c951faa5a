"""What a publication has, put together from its objects alone, and what a database shows, to compare it with."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from oracle import bytes_by_key

import structchunk as sc
from structchunk.chunks.heap import ATTRIBUTES
from structchunk.remote.layout import ZEROS
from structchunk.remote.manifest import Manifest, PublishedChunk
from structchunk.remote.objects import Objects, open_objects
from structchunk.remote.publications import find_newest
from structchunk.remote.rows import parse_entries
from structchunk.runs.extent import TOMBSTONE, RowArray, empty_rows

Shown = dict[str, dict[int, bytes]]


def shown_by(db: Any) -> Shown:
    """Return the bytes of all records of a database, or a snapshot."""
    return {name: bytes_by_key(db[name].read()) for name in db}


def newest(url: str, options: dict[str, Any] | None = None) -> tuple[Objects, Manifest]:
    """Return the newest publication, which must be there."""
    objects = open_objects(url, options)
    manifest = find_newest(objects)
    assert manifest is not None
    return objects, manifest


def chunk_file(objects: Objects, manifest: Manifest, chunk: PublishedChunk) -> bytearray:
    """Return a chunk file, each block of which is right, with the working offsets of the commit."""
    layout = chunk.layout
    made = bytearray(layout.file_size)
    made[: len(chunk.header_bytes)] = chunk.header_bytes
    made[88:104] = layout.free.to_bytes(8, "little") + layout.directory.to_bytes(8, "little")
    for piece in chunk.pieces(range(1 << 32)):
        data = bytes(piece.size)
        if piece.object != ZEROS:
            data = objects.read_range(manifest.objects[piece.object].name, piece.offset, piece.size)
        for block in piece.blocks:
            stored = layout.stored(block)
            assert zlib.crc32(data[stored.start - piece.start : stored.stop - piece.start]) == chunk.crc(block)
        if piece.object != ZEROS:  # as it has them already, and no memory for them
            made[piece.start : piece.start + piece.size] = data
    return made


def chunk_files(objects: Objects, manifest: Manifest) -> dict[int, bytearray]:
    """Return all chunk files; all objects that are named must be as the manifest says."""
    for each in manifest.objects.values():
        assert zlib.crc32(objects.read(each.name, each.size)) == each.crc
    return {chunk.id: chunk_file(objects, manifest, chunk) for chunk in manifest.chunks.values()}


def records_of(objects: Objects, manifest: Manifest) -> Shown:
    """Return the bytes of all records of a publication but attributes; all that it names must be as it says."""
    return records_in(chunk_files(objects, manifest), objects, manifest)


def records_in(chunks: dict[int, bytearray], objects: Objects, manifest: Manifest) -> Shown:
    """Return the bytes of all records in the chunk files of a publication, but attributes."""
    item_sizes = {chunk.store: chunk.header.item_size for chunk in manifest.chunks.values()}
    rows: dict[int, list[RowArray]] = {store: [empty_rows()] for store in item_sizes}
    for number in manifest.rows:
        name = manifest.objects[number].name
        for entry in parse_entries(objects.read(name), objects.at(name)):
            if entry.store not in item_sizes:
                continue
            if entry.is_anew:
                rows[entry.store].clear()
            rows[entry.store].append(entry.run(item_sizes[entry.store], name).rows)
    found: Shown = {}
    views = {number: memoryview(chunk) for number, chunk in chunks.items()}
    for name, about in manifest.catalog.items():
        size = item_sizes[about["store"]]
        latest = np.concatenate(rows[about["store"]])[::-1]
        latest = latest[np.unique(latest["key"], return_index=True)[1]]
        live = latest[latest["flags"] & TOMBSTONE == 0].tolist()
        found[name] = {key: views[chunk][at : at + count * size].tobytes() for key, at, count, chunk, _ in live}
    counts = [chunk.live[0] for chunk in manifest.chunks.values()]
    assert sum(counts) == sum(map(len, found.values()))
    found.pop(ATTRIBUTES, None)
    return found


def check_published(url: str, db: sc.Database, options: dict[str, Any] | None = None) -> Manifest:
    """Find that the newest publication is the database as it is, and return its manifest."""
    objects, manifest = newest(url, options)
    assert manifest.commit == db.last_commit
    chunks = chunk_files(objects, manifest)
    assert records_in(chunks, objects, manifest) == shown_by(db)
    files = {int(path.stem): path for path in (Path(db.path) / "chunks").iterdir()}
    for chunk in manifest.chunks.values():
        made = np.frombuffer(chunks[chunk.id], np.uint8)
        there = np.memmap(files[chunk.id], mode="r")
        # Behind the data there may be what a transaction has begun to write.
        layout = chunk.layout
        assert np.array_equal(made[: layout.free], there[: layout.free])
        assert np.array_equal(made[layout.directory :], there[layout.directory :])
        assert not made[layout.free : layout.directory].any()
    return manifest
