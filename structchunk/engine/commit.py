"""What a commit writes: a transaction's rows, cut by chunk, and their checksums; its change of the index."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from ..chunks.allocator import Room
from ..chunks.header import History
from ..chunks.heap import Heap
from ..chunks.segment import data_crc, pack_record
from ..index.index import Index, Prepared
from ..index.stored_state import Catalog
from ..process.background import Background
from ..runs.extent import TOMBSTONE, ZERO, Extent, unpack_row
from ..runs.packed import ALL, Packed, pack
from ..runs.streams import run_of_chunk
from .staging import Staging


class Part(NamedTuple):
    """What a commit will append to one chunk: its rows, and what gives the CRC of their records.

    ``replaces`` tells whether the commit replaces the chunks that this one's header names.
    """

    room: Room
    rows: Packed
    crc: Callable[[], int]
    replaces: bool = False


class Ready(NamedTuple):
    """All that a commit will write: a part and its CRC for each chunk, and the change of the index."""

    parts: list[Part]
    crcs: list[int]
    prepared: Prepared


def make_ready(index: Index, stagings: Sequence[Staging], catalog: Catalog | None) -> Ready | None:
    """Return what a commit will write, or None if that is nothing."""
    with Background() as background:
        parts = [part for staging in stagings for part in _parts(staging, background)]
        if not parts:
            return None
        prepared = _prepare(index, stagings, catalog)
    return Ready(parts, [part.crc() for part in parts], prepared)


def catalog_after(catalog: Catalog, created: Sequence[Heap], dropped: Heap | None) -> Catalog | None:
    """Return the catalog after a commit, or None if it does not change it."""
    if not created and dropped is None:
        return None
    changed = {name: entry for name, entry in catalog.items() if dropped is None or name != dropped.name}
    for heap in created:
        about = {"kind": heap.schema.kind, "schema": heap.schema.descriptor}
        changed[heap.name] = {"store": heap.store, **about}
    return changed


def with_note(ready: Ready, dropped: Heap, history: History) -> Ready:
    """Return the commit that drops a store, with the note that this leaves in the index."""
    about = {"name": dropped.name, "kind": dropped.schema.kind, "schema": dropped.schema.descriptor}
    note = json.dumps({**about, "history": [history.upto, *history.moved]}).encode()
    return ready._replace(prepared=ready.prepared._replace(notes=[(dropped.store, note)]))


def _prepare(index: Index, stagings: Sequence[Staging], catalog: Catalog | None) -> Prepared:
    """Return what a commit does to the index."""
    row = stagings[0].only_row() if len(stagings) == 1 and catalog is None else None
    if row is not None:
        return index.prepare_one(stagings[0].heap.store, row)
    runs_by_store = {staging.heap.store: staging.all_runs() for staging in stagings}
    compacted = {staging.heap.store for staging in stagings if staging.replaced}
    rewritten = {staging.heap.store for staging in stagings if staging.is_rewritten}
    return index.prepare(runs_by_store, catalog, compacted, rewritten)


def _parts(staging: Staging, background: Background) -> list[Part]:
    """Return what a commit appends to each chunk that one store's rows touched, with checksums begun in threads."""
    allocator, item_size = staging.allocator, staging.heap.item_size
    row = staging.only_row()
    if row is not None and len(allocator.rooms) == 1:
        room = next(iter(allocator.rooms.values()))
        crc = _row_crc(room, unpack_row(row), item_size)
        allocator.flush()
        return [Part(room, Packed(ALL, 1, row), crc)]
    runs = staging.all_runs()
    allocator.flush()
    parts = []
    for room in allocator.rooms.values():
        chunk, written = room.chunk, room.written
        run = written.run if written else run_of_chunk(runs, chunk.id)
        if len(run) or room.has_changed():
            summed = partial(data_crc, memoryview(chunk.source), run, chunk.committed, item_size)
            crc = background.begin(summed, room.free - chunk.committed)
            rows = written.rows if written else pack(run, item_size)
            parts.append(Part(room, rows, crc, bool(staging.replaced)))
    return parts


def _row_crc(room: Room, extent: Extent, item_size: int) -> Callable[[], int]:
    """Return what gives the CRC of one record; one that is not in the file yet is not read from there."""
    _, offset, length, _, flags = extent
    if not length or flags & (TOMBSTONE | ZERO):
        return _zero
    pending, size = room.pending.get(offset), length * item_size
    if pending is not None and len(pending) == size:  # else what made it longer is pending by itself
        return partial(zlib.crc32, pending)
    start, end = max(offset, room.chunk.committed), offset + size
    return lambda: zlib.crc32(room.chunk.source[start:end])


def _zero() -> int:
    return 0


def append_parts(parts: list[Part], crcs: list[int], commit: int, epoch: int) -> None:
    """Write the segments of a commit, one to each chunk that it touched."""
    for number, ((room, rows, _, replaces), crc) in enumerate(zip(parts, crcs, strict=True)):
        chunk = room.chunk
        fixed = (chunk.id, commit, epoch, len(parts), number, chunk.committed, room.free, crc, rows)
        record = pack_record(*fixed, replaces=replaces)
        chunk.append_segment(rows.body, record, room.free, is_written=room.written is not None)
