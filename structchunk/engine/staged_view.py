"""A store as a transaction sees it, staged rows laid over the index: its ends, and how many records it has.

Both take time by what is new since they were asked for before, which the staged rows keep. Nothing is written here.
"""

from __future__ import annotations

import numpy as np

from ..index.store_index import StoreIndex
from ..runs.extent import KEY_END, TOMBSTONE, without_tombstones
from ..runs.streams import end_key, overlay_runs
from .staged_rows import Counted, StagedRows, lookup_in

_END_ROWS = 256
"""So many rows are looked at first for the lowest or highest key."""


def end_key_over(rows: StagedRows, index: StoreIndex, *, reverse: bool) -> int | None:
    """Return the lowest key, or the highest; None if there is no record.

    It takes about as long whatever is staged: what was found is where the next search begins.
    """
    start, stop, count = rows.first, rows.stop, _END_ROWS
    nearest, is_known = (stop - 1, stop < KEY_END) if reverse else (start, start > 0)
    if is_known and start < stop and _is_there(rows, index, nearest):
        return nearest
    key = None
    while start < stop and key is None:
        staged, low, high = rows.end(start, stop, count, reverse=reverse)
        older = index.end_runs(start=low, stop=high, reverse=reverse)
        key = end_key(overlay_runs(staged, older, reverse=reverse), reverse=reverse)
        start, stop = (start, low) if reverse else (high, stop)
        count *= 4
    if reverse:
        rows.stop = rows.first if key is None else key + 1
    else:
        rows.first = rows.stop if key is None else key
    return key


def _is_there(rows: StagedRows, index: StoreIndex, key: int) -> bool:
    row = rows.find(key) or index.find(key)
    return row is not None and not row[4] & TOMBSTONE


def net_count(rows: StagedRows, index: StoreIndex) -> int:
    """Return how many records more there are than the index has, or fewer."""
    rows.add_tiers()
    tiers, net = rows.counted or Counted((), 0)
    new = rows.all() if rows.counted is None else rows.uncounted_rows()
    if len(new):
        keys = np.ascontiguousarray(new["key"])
        before, known = lookup_in(tiers, keys)
        net -= len(without_tombstones(before[known])) + len(index.existing(keys[~known]))
        net += len(without_tombstones(new))
    counted = Counted(rows.tiers, net)
    rows.counted, rows.uncounted = counted, None
    return net
