"""What LevelDB holds of one store is checked before it is used."""

from __future__ import annotations

import pytest
from support import rows_of

import structchunk as sc
from structchunk.index.decoding import Decoder
from structchunk.index.page import pack_pages
from structchunk.index.store_keys import KEY
from structchunk.runs.extent import ROW, TOMBSTONE, Extent, RowArray
from structchunk.runs.run import ArrayRun

SIZE = 8


def check(rows: RowArray) -> None:
    """Refuse rows outside of chunk 1."""
    if (rows["chunk"] != 1).any():
        raise sc.CorruptionError("a chunk", found="another chunk", expected="chunk 1")


DECODER = Decoder("index", 1, SIZE, check)


def key_of(key: int) -> bytes:
    return bytes(KEY.size - 8) + key.to_bytes(8, "big")


def in_chunk(chunk: int, count: int = 9, step: int = 16) -> list[Extent]:
    return [(key, 4096 + step * key, 2, chunk, 0) for key in range(count)]


def test_one_row() -> None:
    DECODER.check_one(in_chunk(1)[0])
    with pytest.raises(sc.CorruptionError, match="another chunk"):
        DECODER.check_one(in_chunk(2)[0])


@pytest.mark.parametrize("step", [16, 24], ids=["back to back", "apart"])
@pytest.mark.parametrize("count", [1, 9])
def test_pages(step: int, count: int) -> None:
    for chunk in (1, 2):
        rows = rows_of(in_chunk(chunk, count, step))
        ((last, page),) = pack_pages([ArrayRun(rows)], SIZE, 512)
        if chunk == 1:
            assert DECODER.pages([(key_of(last), page)], 512).rows.tolist() == rows.tolist()
        else:
            with pytest.raises(sc.CorruptionError, match="another chunk"):
                DECODER.pages([(key_of(last), page)], 512)


def test_delta() -> None:
    pairs = [(key_of(row[0]), ROW.pack(*row)) for row in in_chunk(1)]
    assert DECODER.delta([]).tolist() == []
    assert DECODER.delta(pairs).tolist() == in_chunk(1)
    dead = (9, 0, 0, 2, TOMBSTONE)  # whose chunk need not be there
    assert DECODER.delta([*pairs, (key_of(9), ROW.pack(*dead))]).tolist() == [*in_chunk(1), dead]
    for bad in (
        (key_of(10), ROW.pack(9, 4096, 2, 1, 0)),
        (key_of(9), ROW.pack(9, 4096, 2, 1, 0)[:-1]),
        (key_of(9), ROW.pack(9, 4096, 2, 2, 0)),
        (key_of(9)[1:], ROW.pack(9, 4096, 2, 1, 0)),
    ):
        with pytest.raises(sc.CorruptionError):
            DECODER.delta([*pairs, bad])


def test_it_is_said_whose_damage_it_is() -> None:
    error = DECODER.damaged("one", "another")
    assert "one (store 1)" in str(error) and "another" in str(error)
    assert DECODER.last_key((key_of(2**64 - 1), b"")) == 2**64 - 1
