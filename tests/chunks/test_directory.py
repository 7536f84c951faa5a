"""The directory of a chunk, read by its records alone: what is found is what a walk over all segments finds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support import UUID

from structchunk.chunks import directory
from structchunk.chunks.chunk import Chunk
from structchunk.chunks.directory import first_of, later_than
from structchunk.chunks.header import Header
from structchunk.chunks.segment import REPLACES, SEGMENT_SIZE, pack_record
from structchunk.runs.extent import ROW
from structchunk.runs.packed import ALL, Packed

ABOUT = {"name": "temps", "kind": "array", "schema": {"kind": "array", "type": "<f8"}}
SIZE = 1 << 20


def commit(chunk: Chunk, number: int, count: int, *, replaces: bool = False) -> None:
    """Commit some empty records by hand, in segments of two chunks."""
    rows = b"".join(ROW.pack(key, chunk.free, 0, 1, 0) for key in range(count))
    form = ALL | REPLACES * replaces
    chunk.append_segment(
        rows, pack_record(1, number, 1, 2, 0, chunk.free, chunk.free, 0, Packed(form, count, rows)), chunk.free
    )


@pytest.fixture
def chunk(tmp_path: Path) -> Chunk:
    """A chunk of commits with gaps between them, many of which have one row."""
    chunk = Chunk.create(str(tmp_path / "1.chunk"), Header(UUID, 1, 1, 8, SIZE, 0, ABOUT))
    rng, number = random.Random(1), 0
    for size in [1] * 20 + [rng.choice([1, 1, 2, 5]) for _ in range(40)] + [3] * 20:
        number += rng.choice([1, 1, 3])
        commit(chunk, number, size, replaces=not number % 7)
    return chunk


@pytest.mark.parametrize("near", [1, 2, 7, 40, 256])
def test_the_commits_after_any_one_are_found(chunk: Chunk, near: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are looked for from the upper end alone, or from both."""
    monkeypatch.setattr(directory, "NEAR", near)
    segments = list(chunk.segments())
    tops = [SIZE, *(segment.low for segment in segments)]
    assert segments[-1].low == chunk.directory
    for since in range(segments[-1].commit + 2):
        found = later_than(chunk.source, SIZE, chunk.directory, since, 1)
        later = [at for at, segment in enumerate(segments) if segment.commit > since]
        assert found.positions.tolist() == [tops[at] for at in later]
        assert found.commits.tolist() == [segments[at].commit for at in later]
        assert found.parts.tolist() == [2] * len(later)
        assert found.moved.tolist() == [segments[at].replaces for at in later]
        assert found.low == chunk.directory


def test_what_is_asked_for_may_begin_and_end_anywhere(chunk: Chunk) -> None:
    segments = list(chunk.segments())
    for first, last in ((0, 5), (3, 4), (10, 70), (19, 21), (50, 79)):
        found = later_than(chunk.source, segments[first].low, segments[last].low, 0, 1)
        assert found.commits.tolist() == [segment.commit for segment in segments[first + 1 : last + 1]]
        assert found.low == segments[last].low
        said = first_of(chunk.source, segments[first].low, 1)
        assert said == (segments[first + 1].commit, segments[first + 1].replaces)


def test_a_damaged_record_ends_it(chunk: Chunk) -> None:
    segments = list(chunk.segments())
    raw = bytearray(chunk.source)
    raw[segments[29].low - SEGMENT_SIZE] ^= 1  # the magic of the one that follows
    found = later_than(bytes(raw), SIZE, chunk.directory, 0, 1)
    assert found.commits.tolist() == [segment.commit for segment in segments[:30]]
    assert found.low == segments[29].low
    assert first_of(bytes(raw), found.low, 1) is None
