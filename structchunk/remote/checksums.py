"""The CRC-32 of bytes that lie back to back, told by the CRCs of their parts. No I/O.

So many parts are checked by one call over all of their bytes, which lets other threads go on meanwhile, and not by
one call for each, which would wait for them as often.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

_Tables = tuple[list[int], list[int], list[int], list[int]]


def joined_crc(crcs: Sequence[int], size: int, last_size: int) -> int:
    """Return the CRC of parts, of which each but the first and the last one has `size` bytes.

    Parameters
    ----------
    crcs : sequence of int
        Those of the parts, of which there are two at least.
    size, last_size : int
        Bytes.
    """
    first, second, third, fourth = _shifted_by(size)
    crc = crcs[0]
    for each in crcs[1:-1]:
        crc = first[crc & 255] ^ second[crc >> 8 & 255] ^ third[crc >> 16 & 255] ^ fourth[crc >> 24] ^ each
    first, second, third, fourth = _shifted_by(last_size)
    crc = first[crc & 255] ^ second[crc >> 8 & 255] ^ third[crc >> 16 & 255] ^ fourth[crc >> 24]
    return crc ^ crcs[-1]


@lru_cache(maxsize=64)
def _shifted_by(size: int) -> _Tables:
    """Return what a CRC becomes by so many bytes after it, but for what these are: a table for each of its bytes.

    A CRC is linear: that of A and B is the one of B, and of A moved on by the size of B. Zeros that follow A tell
    how each bit of it moves on.
    """
    zeros = bytes(size)
    bits = [zlib.crc32(zeros, 1 << bit) ^ zlib.crc32(zeros) for bit in range(32)]
    return _table(bits[:8]), _table(bits[8:16]), _table(bits[16:24]), _table(bits[24:])


def _table(bits: Sequence[int]) -> list[int]:
    table = [0]
    for bit in bits:
        table += [bit ^ lower for lower in table]
    return table
