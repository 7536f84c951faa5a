"""The header of a chunk file, read from the file. Nothing is written, and no more of the file is read."""

from __future__ import annotations

import os

from ..disk import files
from .header import MAX_HEADER_SIZE, PAGE, Header, HeaderFields, parse_header

_SIZE = HeaderFields.header_size


def read_header(path: str) -> Header:
    """Read and validate the header of a chunk file.

    Raises
    ------
    CorruptionError
        It is damaged, or not a regular file, or not of the size that it says.
    """
    raw, size = read_raw_header(path)
    return parse_header(raw, path, size)


def read_raw_header(path: str) -> tuple[bytes, int]:
    """Return the header as it is in a file, valid or not, as whole pages, and the file's size.

    It is the first page only, if that does not say how many there are.
    """
    with files.advised(path), files.opened(path) as fd:
        size = os.fstat(fd).st_size
        raw = os.pread(fd, PAGE, 0)
        wanted = int.from_bytes(raw[_SIZE.offset : _SIZE.offset + _SIZE.size], "little")
        if PAGE < wanted <= MAX_HEADER_SIZE:
            raw = os.pread(fd, wanted, 0)
    return raw, size
