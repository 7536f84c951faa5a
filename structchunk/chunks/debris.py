"""Whether a chunk file without a valid header was left half-made by a crash, or is damaged.

A chunk file begins empty, is given its size, reads as zeros then, and last its header is written. A crash or an
interrupt may come in between, and a power cut may keep any sector of a header that was not flushed from reaching
the disk: such a sector reads as zeros. Other contents of a header that is not valid can only be damage.

Until the header is on disk no commit counts that touched the file. After a power cut the data of a commit that did
not wait for the disk may be there without it, and even its segment. Once a checkpoint has counted the file that
cannot be: by then the header of every chunk that held anything was flushed. A file that a checkpoint counts and
that has no header holds nothing.
"""

from __future__ import annotations

from ..disk import files
from .header import MAGIC, PAGE, TEXT_OFFSET, HeaderFields
from .header_file import read_raw_header

SECTOR = 512
"""A disk writes as many bytes whole, or not at all."""


def is_unfinished(path: str, *, is_counted: bool) -> bool:
    """Tell whether a file whose header is not valid was never made to its end, so that nothing is lost with it.

    Parameters
    ----------
    path : str
    is_counted : bool
        Whether a checkpoint has counted the file: its id is below that of the next chunk then.

    Raises
    ------
    CorruptionError
        It is not a regular file.
    """
    header, size = read_raw_header(path)
    return _is_torn(header, size) and not (is_counted and _has_data(path, len(header), size))


def _is_torn(header: bytes, size: int) -> bool:
    """Tell whether a sector of a header is missing, in a file that has its size already."""
    if not any(header[:SECTOR]):
        return True
    if len(header) < PAGE:
        return False
    fields = HeaderFields.from_buffer_copy(header)
    end = TEXT_OFFSET + fields.text_size + 4 * fields.replaced_count
    if fields.magic != MAGIC or fields.file_size != size or end > len(header):
        return False
    return any(not any(header[at : at + SECTOR]) for at in range(SECTOR, end, SECTOR))


def _has_data(path: str, start: int, size: int) -> bool:
    """Tell whether anything but zeros stands behind the header."""
    step = len(files.ZEROS)
    for low, high in files.written(path, start, size):
        for at in range(low, high, step):
            data = files.read(path, at, min(step, high - at))
            if data != files.ZEROS[: len(data)]:
                return True
    return False
