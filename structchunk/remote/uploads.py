"""Blocks that are to be uploaded: which go to which object, and their way there, several at a time.

An object that is small, or of which little is still needed, is packed again with what is new, as long as that does
not double what is uploaded. So many small publications do not make many small objects, of which a reader would have
to fetch each by a request of its own.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..process.in_order import in_order
from .chunk_drafts import ChunkDraft, Reader, crcs_of
from .layout import ZEROS
from .manifest import DATA, Object
from .objects import Objects

OBJECT_SIZE = 32 << 20
"""How large an object of blocks becomes, about, in bytes."""
SMALL_SIZE = 256 << 10
"""An object below this size is packed again, in bytes."""
THREADS = 4
Report = Callable[[int, int], object]


class Part(NamedTuple):
    """Consecutive blocks of one chunk."""

    draft: ChunkDraft
    blocks: range

    @property
    def size(self) -> int:
        """How many bytes they have."""
        return len(self.draft.layout.span(self.blocks))


class Laid(NamedTuple):
    """Where blocks lie now: in an object, or as zeros; and their CRCs."""

    part: Part
    object: int
    offset: int
    crcs: npt.NDArray[np.uint32]


class Done(NamedTuple):
    """An object that was uploaded, unless there was nothing but zeros, and where the blocks of its parts lie."""

    object: Object | None
    laid: list[Laid]


def choose_again(drafts: Iterable[ChunkDraft], known: Iterable[Object]) -> set[int]:
    """Return the ids of the objects of which all that is needed is to be packed again."""
    drafts = list(drafts)
    size = sum(Part(draft, blocks).size for draft in drafts for blocks in draft.missing())
    live: Counter[int] = Counter()
    for draft in drafts:
        live.update(draft.live_sizes())
    chosen = set()
    for each in sorted(known, key=lambda each: live[each.id]):
        if live[each.id] and live[each.id] <= size and (each.size < SMALL_SIZE or live[each.id] * 4 < each.size):
            chosen.add(each.id)
            size += live[each.id]
    return chosen


def plan(drafts: Iterable[ChunkDraft]) -> list[list[Part]]:
    """Return the parts of each object that is to be made; few have blocks of several large chunks."""
    planned: list[list[Part]] = []
    room = 0
    for draft in drafts:
        for blocks in draft.missing():
            left = blocks
            while left:
                if room <= 0:
                    planned.append([])
                    room = OBJECT_SIZE
                count = max(room // draft.layout.block, 1)
                part, left = Part(draft, left[:count]), left[count:]
                planned[-1].append(part)
                room -= part.size
        if room < OBJECT_SIZE * 3 // 4:
            room = 0
    return planned


def upload(
    objects: Objects, reader: Reader, planned: list[list[Part]], names: Iterable[tuple[int, str]], report: Report
) -> list[Object]:
    """Upload blocks, and say in the drafts where they are.

    Parameters
    ----------
    objects : Objects
        Where to.
    reader : Reader
        Reads the chunk files.
    planned : list of list of Part
        See :func:`plan`.
    names : iterable of (int, str)
        An id and a name for each object.
    report : callable
        Called as ``report(done, total)``, in bytes.
    """
    total, done = sum(part.size for parts in planned for part in parts), 0
    made = []
    report(done, total)
    work = [
        partial(_upload_one, objects, reader, parts, *name) for parts, name in zip(planned, names, strict=False)
    ]
    for made_object, laid in in_order(work, max(1, min(len(work), THREADS))):
        for part, number, offset, crcs in laid:
            part.draft.put(part.blocks, number, offset, crcs)
            done += part.size
        made += [] if made_object is None else [made_object]
        report(done, total)
    return made


def _upload_one(objects: Objects, reader: Reader, parts: list[Part], number: int, name: str) -> Done:
    data, laid, size = [], [], 0
    for part in parts:
        span = part.draft.layout.span(part.blocks)
        read = reader.read(part.draft.header.chunk, span.start, len(span))
        crcs = crcs_of(part.draft.layout, part.blocks, read)
        for some, is_zero in _by_zeros(part, read):
            inner = part.draft.layout.span(some.blocks)
            first = some.blocks.start - part.blocks.start
            some_crcs = crcs[first : first + len(some.blocks)]
            laid.append(Laid(some, ZEROS, 0, some_crcs) if is_zero else Laid(some, number, size, some_crcs))
            if not is_zero:
                data.append(memoryview(read)[inner.start - span.start : inner.stop - span.start])
                size += len(inner)
    if not size:
        return Done(None, laid)
    whole = b"".join(data)
    objects.write(name, whole)
    return Done(Object(number, name, DATA, size, zlib.crc32(whole)), laid)


def _by_zeros(part: Part, data: bytes) -> Iterator[tuple[Part, bool]]:
    """Yield the blocks of a part, as far as they are all zeros, or none of them is."""
    layout = part.draft.layout
    start = layout.stored(part.blocks[0]).start
    zeros = bytes(layout.block)

    def is_zero(block: int) -> bool:
        stored = layout.stored(block)
        return zeros.startswith(data[stored.start - start : stored.stop - start])

    for found, group in groupby(part.blocks, key=is_zero):
        blocks = list(group)
        yield Part(part.draft, range(blocks[0], blocks[-1] + 1)), found
