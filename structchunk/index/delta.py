"""The delta of one store, in memory: rows newer than the pages, tombstones among them. No I/O."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..runs.extent import RowArray, empty_run, find_equal, last_wins, overlay, run_from_bytes

_MERGE_AT = 1024


class Delta:
    """Packed rows by key, and the same rows as a run for those who read ranges.

    The run is kept sorted and brought up to date by overlaying only what changed since it was last asked
    for, so that single writes and small range reads can alternate. The caller locks, but for reads of `rows`.
    """

    def __init__(self, pairs: Iterable[tuple[int, bytes]] = ()) -> None:
        self.rows: dict[int, bytes] = dict(pairs)
        self._run: RowArray | None = None
        self._recent: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def put(self, key: int, row: bytes) -> None:
        """Add or replace one row."""
        self.rows[key] = row
        self._recent[key] = row

    def remove(self, keys: Iterable[int]) -> None:
        """Forget the rows of these keys, which are all in the delta."""
        for key in keys:
            del self.rows[key]
        self._run = None
        self._recent = {}

    def run(self) -> RowArray:
        """Return all rows as a run; the array is never changed afterwards."""
        if self._run is None:
            self._run, self._recent = _sorted(self.rows.values()), {}
        if not self._recent:
            return self._run
        newest = overlay(_sorted(self._recent.values()), self._run)
        if len(self._recent) > _MERGE_AT:
            self._run, self._recent = newest, {}
        return newest

    def shared(self, run: RowArray) -> list[int]:
        """Return the keys that have a row both here and in the run."""
        if not self.rows:
            return []
        keys = self.run()["key"]
        found: list[int] = keys[find_equal(run, keys, np.searchsorted(run["key"], keys))].tolist()
        return found


def _sorted(rows: Iterable[bytes]) -> RowArray:
    packed = b"".join(rows)
    return last_wins(run_from_bytes(packed)) if packed else empty_run()
