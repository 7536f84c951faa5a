"""Clock: what all tables of an index share, and what a state of the index is. No rows."""

from __future__ import annotations

import threading
from typing import Any, Protocol


class At(Protocol):
    """One state of the index: a plyvel snapshot, and the clock's version when it was taken.

    The number of the commit would not do: a fold, which is no commit, moves rows from the delta into pages, and
    the delta of after it does not go with the pages of before it.
    """

    @property
    def version(self) -> int:
        """The clock's version."""

    @property
    def snapshot(self) -> Any:
        """The plyvel snapshot."""


class Clock:
    """The lock, the last commit, and a count of all changes."""

    def __init__(self, last: int) -> None:
        self.lock = threading.RLock()
        self.last = last
        self.version = 0
