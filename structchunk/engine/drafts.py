"""Drafts: the headers of chunk files that a transaction is about to make, and how large it makes them."""

from __future__ import annotations

import time
from typing import Any

from ..chunks.chunk import least_size
from ..chunks.header import Header, History
from ..chunks.heap import Heap

MAX_CHUNK_SIZE = 4 << 30


def new_header(
    database: bytes, number: int, heap: Heap, replaces: tuple[int, ...] = (), history: History | None = None
) -> Header:
    """Return the header of the next chunk of a store, which has no size yet."""
    about: dict[str, Any] = {"name": heap.name, "kind": heap.schema.kind, "schema": heap.schema.descriptor}
    if history is not None:
        about["history"] = [history.upto, *history.moved]
    return Header(database, number, heap.store, heap.item_size, 0, time.time_ns(), about, replaces)


def sized_next(header: Header, size: int, last_size: int, first_size: int) -> Header:
    """Return the header of a chunk that has room for one record of `size` bytes.

    It is twice as large as the one before, of `last_size` bytes; 0 if there is none.
    """
    usual = min(2 * last_size, MAX_CHUNK_SIZE) if last_size else first_size
    return header.of_size(max(usual, least_size(header, size)))


def sized_replacement(header: Header, size: int, rest: int, first_size: int) -> Header:
    """Return the header of a chunk that is made in place of others.

    It is of the size that a store grows to in doubling, from the first size on, until it holds `rest` bytes of
    records and rows, or is of the largest size; a first record of `size` bytes fits in any case.
    """
    wanted, usual = least_size(header, rest), first_size
    while usual < min(wanted, MAX_CHUNK_SIZE):
        usual = min(2 * usual, MAX_CHUNK_SIZE)
    return header.of_size(max(usual, least_size(header, size)))
