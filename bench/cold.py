"""Make the operating system forget what files hold, so that reading them waits for the disk."""

from __future__ import annotations

import os
from pathlib import Path


def forget(folder: Path) -> None:
    """Drop the files of a folder from the page cache; nobody may have them mapped.

    Notes
    -----
    Anyone may do this to their own files. It leaves the cache of the rest of the machine alone, and a disk's or
    host's own cache too: what is measured is the way through the kernel at least.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            _forget(path)


def _forget(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # pages that are not on disk yet would stay
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
