"""Reading a mapped file from the disk ahead of who goes through it: many pages at a time, and meanwhile.

A fault of the mapping has the system fetch some 100 KiB and waits for them. Whether it is worth while to ask for
more is told by one page: who scans what is in memory pays for one look at each batch.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np

WINDOW = 8 << 20
"""So many bytes beyond what is about to be read are fetched."""
MIN_SIZE = 1 << 18
"""Less than this is read without."""
_WILL_NEED: int = getattr(mmap, "MADV_WILLNEED", -1)
_mincore: Any = getattr(ctypes.CDLL(None), "mincore", None) if _WILL_NEED >= 0 else None


def read_ahead(mapping: mmap.mmap, start: int, stop: int, end: int) -> None:
    """Have the system fetch ``[start, stop)`` of a mapped file, and what follows up to `end`; do not wait for it.

    Parameters
    ----------
    mapping : mmap
    start, stop : int
        What is about to be read.
    end : int
        Where what may be read next ends.
    """
    if stop - start < MIN_SIZE or _mincore is None:
        return
    # Where the window ends is the same for a few batches: what is on its way is not asked for again.
    last = min(end, (stop + WINDOW) // WINDOW * WINDOW + WINDOW) - 1
    if not _is_resident(mapping, last):
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        mapping.madvise(_WILL_NEED, first, last + 1 - first)


def _is_resident(mapping: mmap.mmap, offset: int) -> bool:
    """Tell whether a byte is in memory, or that cannot be known."""
    page = offset // mmap.PAGESIZE * mmap.PAGESIZE
    found = ctypes.c_ubyte(1)
    _mincore(ctypes.c_void_p(_address(mapping) + page), ctypes.c_size_t(1), ctypes.byref(found))
    return bool(found.value & 1)


def _address(mapping: mmap.mmap) -> int:
    address: int = np.frombuffer(mapping, np.uint8, 1).__array_interface__["data"][0]
    return address
