"""The header page of a chunk: what is refused in it, and which byte the error names."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import UUID

import structchunk as sc
from structchunk.chunks.header import CRC_OFFSET, TEXT_OFFSET, Header, HeaderFields, checksum, parse_header

ABOUT = {"name": "a", "kind": "array", "schema": "<f8"}
HEADER = Header(UUID, 3, 2, 24, 1 << 16, 7, ABOUT, (1,))
SIZE = HEADER.file_size


def changed(**values: Any) -> bytes:
    """Return the header with other values of some fields, under a checksum that is right."""
    raw = bytearray(HEADER.pack())
    fields = HeaderFields.from_buffer(raw)
    for name, value in values.items():
        setattr(fields, name, value)
    fields.crc = checksum(bytes(fields), HEADER.text)
    return bytes(fields) + HEADER.text


def refused_at(raw: bytes, size: int = SIZE) -> tuple[int | None, str]:
    with pytest.raises(sc.CorruptionError) as caught:
        parse_header(raw, "a chunk", size)
    return caught.value.offset, str(caught.value)


def test_round_trip() -> None:
    assert parse_header(HEADER.pack(), "a chunk", SIZE) == HEADER
    assert parse_header(HEADER.pack() + b"more", "a chunk", SIZE) == HEADER


@pytest.mark.parametrize(
    ("values", "offset"),
    [
        ({"magic": b"STRUCTCL"}, 0),
        ({"version": 0}, 8),
        ({"version": 3}, 8),
        ({"header_size": TEXT_OFFSET}, 12),
        ({"header_size": 8192, "data_offset": 8208}, 12),
        ({"item_size": 0}, 40),
        ({"data_offset": 4104 + 24}, 48),
        ({"file_size": SIZE + 1}, 56),
    ],
    ids=str,
)
def test_the_error_names_the_field(values: dict[str, Any], offset: int) -> None:
    assert refused_at(changed(**values))[0] == offset


def test_a_header_that_is_cut_off() -> None:
    raw = HEADER.pack()
    assert refused_at(raw[: TEXT_OFFSET - 1])[0] == 0
    offset, said = refused_at(raw[:TEXT_OFFSET])  # which is enough to say how long it is
    assert (offset, f"a header of {len(raw)} bytes" in said) == (12, True)
    assert refused_at(raw[:-1])[0] == 12


def test_a_wrong_checksum_and_a_wrong_size() -> None:
    raw = bytearray(HEADER.pack())
    raw[CRC_OFFSET] ^= 1
    assert refused_at(bytes(raw))[0] == CRC_OFFSET
    assert refused_at(HEADER.pack(), SIZE - 1)[0] == 56


def test_data_may_begin_where_the_file_ends() -> None:
    full = Header(UUID, 3, 3, 8, 4096, 7, ABOUT)
    assert parse_header(full.pack(), "a chunk", 4096) == full
    beyond = Header(UUID, 3, 3, 8, 4095, 7, ABOUT)
    assert refused_at(beyond.pack(), 4095)[0] == 48


@pytest.mark.parametrize(
    "about",
    [
        [],
        {**ABOUT, "name": 1},
        {**ABOUT, "kind": "table"},
        {"name": "a", "kind": "array"},
        *({**ABOUT, "history": history} for history in ([], 5, [-1], [True], ["1"], [3, 1.5])),
    ],
    ids=json.dumps,
)
def test_what_it_says_of_the_store_is_refused(about: Any) -> None:
    assert refused_at(Header(UUID, 3, 3, 8, SIZE, 7, about).pack())[0] == TEXT_OFFSET


@pytest.mark.parametrize("history", [[0], [5], [5, 6, 9]], ids=str)
def test_history(history: list[int]) -> None:
    header = Header(UUID, 3, 2, 8, SIZE, 7, {**ABOUT, "history": history}, (1,))
    found = parse_header(header.pack(), "a chunk", SIZE).history
    assert found == (history[0], tuple(history[1:]))
    assert HEADER.history is None
