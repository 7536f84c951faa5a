"""Which time the machine has been started: what was written since then is in files, whatever came of the disk."""

from __future__ import annotations

import os
import zlib
from functools import cache

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


@cache
def boot_tag() -> int:
    """Return a number, from 1 on, that is another one after the machine was started again.

    Where nothing tells, it is another one in each process.
    """
    try:
        with open(_BOOT_ID, "rb") as file:
            said = file.read()
    except OSError:
        said = os.urandom(16)
    return zlib.crc32(said) or 1
