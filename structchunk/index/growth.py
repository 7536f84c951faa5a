"""Growth: how many bytes of disk a LevelDB takes, and may soon take, estimated from the bytes written to it.

LevelDB makes a table of a log when that is full, in the background, and merges tables when it likes; it does not
say when. So this counts what goes into the logs, and tells what is the most that may follow.
"""

from __future__ import annotations

import contextlib
import os

from ..disk import files
from .leveldb_files import list_tables

BUFFER_SIZE = 2 << 20
"""LevelDB begins another log once the rows of one take as many bytes; each reader that opens reads the log."""
_ROW_COST = 4
"""A row takes at most so many times as many bytes of the buffer as of the log."""
_SPARE_SIZE = 1 << 20
"""What can wait is not done on a disk that would have less room than this left."""


class Growth:
    """What was written to one LevelDB.

    Attributes
    ----------
    logged : int
        How many bytes went to its logs since it was opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.logged = self._largest = self._tables_size = 0
        self._emptied_at = self._measured_at = 0

    def count(self, size: int) -> None:
        """Count a batch that is to be written."""
        self.logged += size
        self._largest = max(self._largest, size)

    def forget_backlog(self) -> None:
        """Note that all that was logged is in tables."""
        self._emptied_at, self._largest = self.logged, 0

    def backlog(self) -> int:
        """Return how many bytes there are in logs and not in tables yet, at most.

        LevelDB writes one table from a log while it fills the next; a batch goes to one log, whatever its size.
        """
        return min(self.logged - self._emptied_at, 2 * BUFFER_SIZE + self._largest)

    def pending(self) -> int:
        """Return how many bytes of a table LevelDB may be about to make of a log, at most."""
        backlog = min(self.logged - self._emptied_at, BUFFER_SIZE + self._largest)
        return backlog if _ROW_COST * backlog > BUFFER_SIZE else 0

    def tables_size(self) -> int:
        """Return how many bytes of disk the tables take, at most, if those not yet measured are what was logged."""
        if self.logged - self._measured_at > 2 * BUFFER_SIZE:  # it may have been the same pages over and over
            self.measure_tables()
        return self._tables_size + self.logged - self._measured_at

    def measure_tables(self) -> None:
        """See how many bytes of disk the tables take."""
        with contextlib.suppress(OSError):
            paths = [os.path.join(self.path, name) for name in list_tables(self.path)]
            self._tables_size, self._measured_at = sum(map(files.disk_size, paths)), self.logged

    def has_room(self, size: int) -> bool:
        """Tell whether the disk has room for `size` bytes more of logs, and for the tables to be made of all."""
        return files.free_size(self.path) > 2 * size + self.backlog() + _SPARE_SIZE
