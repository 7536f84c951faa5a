"""FirstPages: rows that are put into an empty index, kept in memory so that they need not be decoded. No I/O."""

from __future__ import annotations

from ..runs.extent import TOMBSTONE
from ..runs.run import Run, first_key, last_key, split
from .cached_pages import CachedPages
from .page_cache import CACHE_SIZE, Budget
from .stored_rows import StoredRows

MOST_SIZE = CACHE_SIZE // 4
"""How many bytes of the caches may be of rows that nobody has asked for."""


class FirstPages:
    """Consecutive rows, from the lowest key on, of a store that had none.

    Parameters
    ----------
    stored : StoredRows
    budget : Budget
        Of the caches of all stores.

    Attributes
    ----------
    pages : list of CachedPages
        Together they answer for all keys up to the last one.
    """

    def __init__(self, stored: StoredRows, budget: Budget) -> None:
        self._stored = stored
        self._size = budget.size
        self.pages: list[CachedPages] = []

    def add(self, run: Run) -> bool:
        """Keep rows that are about to be put, and tell whether that is so; if not, none after them may be added.

        Raises
        ------
        CorruptionError
            They point outside the store's chunks.
        """
        floor = self.pages[-1].last + 1 if self.pages else 0
        # Fewer rows than a page has may go into the delta.
        if len(run) < self._stored.page_rows or first_key(run) < floor or self._size > MOST_SIZE:
            return False
        if (run.flag_values & TOMBSTONE).any():
            return False
        self._stored.decoder.check_runs([run])
        self.pages.append(CachedPages(run, floor, last_key(run), split(run, self._stored.item_size)))
        self._size += self.pages[-1].size
        return True
