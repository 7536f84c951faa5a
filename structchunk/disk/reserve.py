"""Reserve: bytes of disk that a database keeps, so that on a full disk it can still be opened, emptied and closed.

What frees space takes some first: a drop and a deletion write a segment and rows of the index, a checkpoint writes
to LevelDB's log, and opening writes what LevelDB's logs hold to tables. The file ``reserve`` has blocks for that,
and no contents. It is given up, by unlinking it, when one of these finds the disk full, and is made again when
there is room. What stores records may not use it: that fails while there still is a reserve.

It promises nothing. Where space cannot be reserved, everything else works without it; whether it is there, and what
is in it, says nothing about the database. LevelDB merges tables when it likes: if that finds the disk full, and
needs more than the reserve has, nothing can be written until the database is opened anew, with room made from
outside if need be.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from ..errors import CorruptionError
from . import files

T = TypeVar("T")
MARGIN = 16 << 10
"""What a commit needs besides the bytes of its batch: file systems give space in blocks."""
PLENTY = 256 << 20
"""Where as many bytes are free, it is enough to ask every now and then."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_UNKNOWN = -1


class Reserve:
    """The reserve of one database.

    Attributes
    ----------
    is_short : bool
        Whether it was given up, and not made anew since.
    granted : int
        Up to how many bytes of LevelDB's logs small commits need not ask.

    Notes
    -----
    The caller holds the lock of the database. What interrupts a change leaves the size to be asked for anew, and
    the rest to the next one who makes the reserve anew.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._directory = os.path.dirname(path)
        self._size = _UNKNOWN
        self.is_short = False
        self.granted = 0

    @property
    def size(self) -> int:
        """How many bytes it has."""
        if self._size == _UNKNOWN:
            self._size = files.disk_size(self._path)
        return self._size

    # ------------------------------------------------------------------ making it

    def hold(self, size: int) -> None:
        """Make it of `size` bytes at least.

        Raises
        ------
        OSError
            ENOSPC when the disk is full; then it is as it was.
        """
        ahead = self.size + self.size // 4  # so that it grows in few steps
        if self.size < size < ahead:
            with contextlib.suppress(OSError):
                self._grow(ahead)
        self._grow(size)

    def _grow(self, size: int) -> None:
        old = self.size
        if size <= old:
            return
        self._size = _UNKNOWN
        try:
            if not os.path.lexists(self._path):
                files.create(self._path, 0)
            files.reserve(self._path, 0, size)
        except (OSError, CorruptionError) as error:
            if _is_full(error):
                self._shrink(old)
                raise self.too_small(size - old) from error
        self._size = size  # if it cannot be had for another reason, none is needed

    def renew(self, size: int, *, leave: int = 0) -> None:
        """Make it of `size` bytes, or of about as many as there are if `leave` bytes are to stay free."""
        with contextlib.suppress(OSError):
            self._grow_in_part(min(size, self.size + files.free_size(self._directory) - leave))

    def _grow_in_part(self, size: int) -> None:
        while size > max(self.size, MARGIN):
            with contextlib.suppress(OSError):
                self._grow(size)
            size //= 2

    def trim(self, size: int) -> None:
        """Make it of `size` bytes if it has far more; it is as large as it should be then, or can be."""
        if self.size > size + size // 2:
            self._shrink(size)
        self.is_short = False

    def _shrink(self, size: int) -> None:
        self._size = _UNKNOWN
        with contextlib.suppress(OSError, CorruptionError):
            files.truncate(self._path, size)

    # ------------------------------------------------------------------ spending it

    def spend_on(self, work: Callable[[], T]) -> T:
        """Do something; if the disk is full, do it again without the reserve."""
        size = self.size
        try:
            return work()
        except OSError as error:
            if not _is_full(error) or not self.give_up():
                raise
        try:
            return work()
        except BaseException:
            self.renew(size)  # it was given up for nothing
            raise

    def spend_a_part(self, size: int) -> None:
        """Give it up if `size` bytes are needed that the disk does not have, and it has twice as many."""
        if size <= self.size // 2:
            self.spend_on(partial(self.check_room, size))

    def give_up(self) -> bool:
        """Let the space go; tell whether there was any."""
        if not self.size:
            return False
        self.is_short, self.granted, self._size = True, 0, _UNKNOWN
        with contextlib.suppress(OSError):
            files.unlink(self._path)
        return not self.size

    def check_room(self, size: int) -> bool:
        """Raise unless `size` bytes, and the margin, can be written beside the reserve; tell whether far more can.

        Raises
        ------
        OSError
            ENOSPC.
        """
        size += MARGIN
        free = files.free_size(self._directory)
        if free >= size:
            return free >= PLENTY
        # Some of what the system does not count as free can be had yet, by a superuser.
        old = self.size
        self._grow(old + size)
        self._shrink(old)
        return False

    def too_small(self, size: int) -> OSError:
        """Return the error for `size` bytes that are not to be had."""
        message = f"{os.strerror(errno.ENOSPC)}: {size} bytes are needed; free some, or drop a store"
        return OSError(errno.ENOSPC, message, self._directory)


def _is_full(error: Exception) -> bool:
    """Tell whether an error says that the disk is full, or a quota of it used up."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM
