"""The CRC of what lies back to back follows from the CRCs of its parts."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from structchunk.remote.checksums import joined_crc


@pytest.mark.parametrize(("count", "first", "size", "last"), [(2, 5, 64, 7), (3, 64, 64, 64), (40, 1, 4096, 4095)])
def test_joined(count: int, first: int, size: int, last: int) -> None:
    rng = np.random.default_rng(count)
    parts = [rng.bytes(first), *(rng.bytes(size) for _ in range(count - 2)), rng.bytes(last)]
    assert joined_crc([zlib.crc32(part) for part in parts], size, last) == zlib.crc32(b"".join(parts))


def test_zeros() -> None:
    crc = zlib.crc32(bytes(4096))
    assert joined_crc([crc] * 3, 4096, 4096) == zlib.crc32(bytes(3 * 4096))
