"""The delta of one store, in memory: rows newer than the pages, tombstones among them. No I/O."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..runs.extent import RowArray, empty_rows, find_equal, last_wins, overlay, rows_from_bytes

_MERGE_AT = 1024


class Delta:
    """Packed rows by key, and the same rows as an array for those who read ranges.

    The array is kept sorted and brought up to date by overlaying only what changed since it was last asked
    for, so that single writes and small range reads can alternate. The caller locks, but for reads of `packed`.
    """

    def __init__(self, pairs: Iterable[tuple[int, bytes]] = ()) -> None:
        self.packed: dict[int, bytes] = dict(pairs)
        self._rows: RowArray | None = None
        self._recent: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.packed)

    def put(self, key: int, row: bytes) -> None:
        """Add or replace one row."""
        self.packed[key] = row
        self._recent[key] = row

    def remove(self, keys: Iterable[int]) -> None:
        """Forget the rows of these keys, which are all in the delta."""
        for key in keys:
            del self.packed[key]
        self._rows = None
        self._recent = {}

    def rows(self) -> RowArray:
        """Return all rows; the array is never changed afterwards."""
        if self._rows is None:
            self._rows, self._recent = _sorted(self.packed.values()), {}
        if not self._recent:
            return self._rows
        newest = overlay(_sorted(self._recent.values()), self._rows)
        if len(self._recent) > _MERGE_AT:
            self._rows, self._recent = newest, {}
        return newest

    def shared(self, rows: RowArray) -> list[int]:
        """Return the keys that have a row both here and there."""
        if not self.packed:
            return []
        keys = self.rows()["key"]
        found: list[int] = keys[find_equal(rows, keys, np.searchsorted(rows["key"], keys))].tolist()
        return found


def _sorted(rows: Iterable[bytes]) -> RowArray:
    packed = b"".join(rows)
    return last_wins(rows_from_bytes(packed)) if packed else empty_rows()
