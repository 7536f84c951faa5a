"""The keys in LevelDB of what the index has of one store.

They are ``D · store u4 · key u8`` for a delta row and ``P · store u4 · last key u8`` for a page, big-endian, so
that byte order is numeric order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ..runs.extent import KEY_END
from .leveldb import LevelDB

KEY = struct.Struct(">cIQ")
KEY_SIZE = KEY.size + 7
"""Of a key and what LevelDB adds, at most."""


def keys_of_pages(store: int) -> tuple[bytes, bytes]:
    """Return the first and the last LevelDB key that a page of a store may have."""
    return KEY.pack(b"P", store, 0), KEY.pack(b"P", store, KEY_END - 1)


def keys_of_store(leveldb: LevelDB, store: int) -> Iterator[bytes]:
    """Yield every LevelDB key of a store's two regions, for dropping it."""
    for region in (b"D", b"P"):
        start, end = KEY.pack(region, store, 0), KEY.pack(region, store, KEY_END - 1) + b"\0"
        while pairs := leveldb.read(start, end, 4096):
            yield from (key for key, _ in pairs)
            start = pairs[-1][0] + b"\0"
