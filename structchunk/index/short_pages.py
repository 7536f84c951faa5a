"""ShortPages: decoded pages whose keys are kept short, so that the cache holds more of them. No I/O."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..runs.compact import CompactRun
from ..runs.extent import Extent, RowArray
from ..runs.run import ContiguousRun, Run
from ..runs.short_keys import ShortKeys
from .takers import Maker, Taking

Keyless: TypeAlias = "ContiguousRun | CompactRun"
OVERHEAD = 1 << 10
"""Bytes of memory that pages take beside their rows, about."""


class ShortPages(Taking):
    """Consecutive pages of one store: all its rows with ``floor <= key <= last``. Immutable.

    They answer as ``CachedPages`` do, a little later, as those who read a range get keys that are made for them.

    Parameters
    ----------
    run : ContiguousRun or CompactRun
    keys : ndarray of uint64
        Those of the rows.
    floor, last : int

    Attributes
    ----------
    run : ContiguousRun or CompactRun
        The rows, with numbers for keys.
    ends : tuple of int
        The lowest and the highest key.
    """

    __slots__ = (
        "_keys",
        "_length",
        "_origin",
        "count",
        "ends",
        "floor",
        "last",
        "least_size",
        "run",
        "size",
    )

    def __init__(self, run: Keyless, keys: npt.NDArray[np.uint64], floor: int, last: int) -> None:
        super().__init__()
        self.floor = floor
        self.last = last
        self.count = len(run)
        self.ends = int(keys[0]), int(keys[-1])
        self._keys = ShortKeys(keys)
        self.run = run.without_keys()
        self._length = run.length if isinstance(run, ContiguousRun) else 0
        if isinstance(run, ContiguousRun):
            self._origin = (run.span.start, run.length * run.item_size, run.chunk, run.flags)
        self.size = self.least_size = OVERHEAD + self._keys.size + self.run.size

    def all_keys(self) -> npt.NDArray[np.uint64]:
        """Return the keys, which are made anew."""
        return self._keys.part(0, self.count)

    def can_be_shortened(self) -> bool:
        """Tell whether these pages would take less memory with their keys kept short: as they are, they do not."""
        return False

    def find(self, key: int) -> Extent | None:
        """Return the extent of a key that these pages answer for, or None."""
        at = self._keys.find(key)
        if at is None:
            return None
        if self._length:
            offset, size, chunk, flags = self._origin
            return key, offset + at * size, self._length, chunk, flags
        return key, *self.run.place(at)

    def prepare(self, kind: object, make: Maker) -> None:
        """Make what takes records of one kind."""
        self.take_by(kind, make(self.run, self._keys))

    def search(self, keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Return where in the pages each of many keys is, and whether it is there at all."""
        return self._keys.search(keys)

    def rows_at(self, where: npt.NDArray[np.intp], keys: npt.NDArray[np.uint64]) -> RowArray:
        """Return the rows at many positions, at which these keys are."""
        return self.run.take_known(where, keys)

    def clip(self, start: int, stop: int) -> list[Run]:
        """Return the rows with ``start <= key < stop`` as consecutive runs."""
        low = self._keys.count_below(start)
        high = max(low, self._keys.count_below(stop))
        return [self.run.part(low, high).over(self._keys.part(low, high))]

    def has_any(self, start: int, stop: int) -> bool:
        """Tell whether there is a row with ``start <= key < stop``."""
        return self._keys.count_below(start) < self._keys.count_below(stop)
