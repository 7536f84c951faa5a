"""Buckets: where a key may be among ascending ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

CROWD = 16
"""Keys of one bucket are looked at one by one, unless one has more than this."""

Buckets: TypeAlias = tuple[int, int, Sequence[int], bool]
"""First key, bits that a bucket spans, where each bucket starts and the last one ends, and if any is crowded."""


def make_buckets(keys: npt.NDArray[np.uint64]) -> Buckets:
    """Divide the span of ascending keys into equal buckets, of 2 to 4 keys on average."""
    if not len(keys):
        return 0, 0, np.empty(0, np.uint32).data, False
    first, span = int(keys[0]), int(keys[-1] - keys[0])
    shift = (span // len(keys)).bit_length() + 1
    counts = np.bincount(((keys - keys[0]) >> np.uint64(shift)).view(np.int64))
    starts = np.zeros(len(counts) + 1, np.uint32)
    np.cumsum(counts, out=starts[1:])
    return first, shift, starts.data, bool(counts.max() > CROWD)


def search_in_buckets(
    keys: npt.NDArray[np.uint64], buckets: Buckets, wanted: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Return where each of many keys is in buckets of which none is crowded, and whether it is there at all.

    Keys that are in no cache of the processor are fetched for many at the same time; a search waits for each.
    """
    first, shift, starts, _ = buckets
    bucket = (wanted - np.uint64(first)) >> np.uint64(shift)  # wraps around, to beyond all buckets, below the first
    where = np.frombuffer(starts, np.uint32).take(bucket.view(np.intp), mode="clip").astype(np.intp)  # type: ignore[call-overload]
    for _ in range(CROWD):
        is_below = keys.take(where, mode="clip") < wanted
        if not is_below.any():
            break
        where += is_below
    return where, keys.take(where, mode="clip") == wanted
