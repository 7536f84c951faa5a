"""A file mapped into memory, which takes no file descriptor for as long as the mapping lives.

From Python 3.13 on ``mmap`` can do without one. Before that every mapping of a file keeps a copy of its descriptor,
but one of no file has none: so that much memory is mapped first, read by nobody, and then the file over it, at the
same address. The object that Python made unmaps the address range when the last view of it has gone, whatever is
mapped there, as it does any other.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from typing import Any

import numpy as np

_FIXED = 0x10  # MAP_FIXED, on every processor
_OPTIONS: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
_lost: list[mmap.mmap] = []
"""Address ranges of which it is not known what is there: these are never unmapped."""


def _find_map() -> Any:
    """Return the system's ``mmap``, where Python's own keeps a descriptor and memory can be mapped over."""
    if sys.version_info >= (3, 13) or not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None, use_errno=True).mmap
    integers = ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_size_t, *integers), ctypes.c_void_p
    return function


_map: Any = _find_map()


def map_file(fd: int, size: int, *, writable: bool) -> mmap.mmap:
    """Map the first `size` bytes of an open file, which may be closed then.

    Parameters
    ----------
    fd : int
    size : int
        Not more than the file has, and not 0.
    writable : bool
        Whether changes go to the file; if not, nothing can make the mapping writable.

    Raises
    ------
    OSError
        The system has no room for it.
    """
    if _map is None:
        return _map_with_descriptor(fd, size, writable=writable)
    protection = mmap.PROT_READ | mmap.PROT_WRITE * writable
    try:
        mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=protection)
    except OSError:  # more than there is memory may be refused, for a moment's sake
        return _map_with_descriptor(fd, size, writable=writable)
    address = np.frombuffer(mapping, np.uint8).__array_interface__["data"][0]
    if _map(address, size, protection, mmap.MAP_SHARED | _FIXED, fd, 0) != address:
        number = ctypes.get_errno()
        _lost.append(mapping)  # the system may have taken the memory away, and given the range to someone else
        raise OSError(number, os.strerror(number))
    return mapping


def _map_with_descriptor(fd: int, size: int, *, writable: bool) -> mmap.mmap:
    return mmap.mmap(fd, size, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ, **_OPTIONS)
