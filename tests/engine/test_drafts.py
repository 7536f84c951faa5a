"""Drafts: how large a chunk file is made."""

from __future__ import annotations

import pytest

from structchunk.chunks.chunk import PAGE
from structchunk.chunks.heap import Heap
from structchunk.engine.drafts import new_header, sized_next, sized_replacement
from structchunk.types.schema import array_schema

GIB = 1 << 30
FIRST = 16 << 10
HEAP = Heap(1, "a", array_schema("f8"))


@pytest.mark.parametrize(
    ("last", "size", "expected"),
    [
        (0, 8, FIRST),
        (FIRST, 8, 2 * FIRST),
        (2 * GIB, 8, 4 * GIB),
        (4 * GIB, 8, 4 * GIB),
        (FIRST, 5 * GIB, 5 * GIB + 4096 + PAGE),
    ],
)
def test_a_chunk_is_twice_as_large_as_the_one_before(last: int, size: int, expected: int) -> None:
    """Up to 4 GiB; or as large as its first record needs."""
    header = new_header(bytes(16), 7, HEAP)
    assert sized_next(header, size, last, FIRST).file_size == expected


@pytest.mark.parametrize(
    ("size", "rest", "expected"),
    [
        (8, 8, FIRST),
        (8, FIRST, 2 * FIRST),
        (8, GIB, 2 * GIB),
        (8, 9 * GIB, 4 * GIB),
        (5 * GIB, 8, 5 * GIB + 4096 + PAGE),
    ],
)
def test_a_replacement_is_as_large_as_the_store_would_grow(size: int, rest: int, expected: int) -> None:
    header = new_header(bytes(16), 7, HEAP, (1, 2))
    assert sized_replacement(header, size, rest, FIRST).file_size == expected
