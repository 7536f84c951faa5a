"""Buckets: where a key may be among ascending ones; and what takes the record of a key from a sequence of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

CROWD = 16
"""Keys of one bucket are looked at one by one, unless one has more than this."""

Buckets: TypeAlias = tuple[int, int, Sequence[int], bool]
"""First key, bits that a bucket spans, where each bucket starts and the last one ends, and if any is crowded."""
Taker: TypeAlias = Callable[[int], Any]
"""Returns the record of a key, or None."""


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


class Steps(NamedTuple):
    """So many keys that rise by the same step."""

    first: int
    step: int
    key_count: int


class Bucketed(NamedTuple):
    """Ascending keys, and buckets of them of which none is crowded."""

    keys: Sequence[int]
    buckets: Buckets


Searched: TypeAlias = Steps | Bucketed
"""Keys among which one is found in few steps."""


def taker(searched: Searched, records: Any) -> Taker:
    """Return what takes the record of a key from those of all, in their order."""
    if isinstance(searched, Steps):
        return _taker_in_steps(searched, records)
    return _taker_from_buckets(searched, records)


def _taker_in_steps(steps: Steps, records: Any) -> Taker:
    first, step, count = steps

    def take(key: int) -> Any:
        at, rest = divmod(key - first, step)
        return None if rest or not 0 <= at < count else records[at]

    return take


def _taker_from_buckets(bucketed: Bucketed, records: Any) -> Taker:
    keys, (first, shift, starts, _) = bucketed

    def take(key: int) -> Any:
        try:
            at = starts[(key - first) >> shift]  # of any bucket, if it is below the first key: none will be equal
            while (found := keys[at]) < key:
                at += 1
        except IndexError:
            return None  # beyond the last key
        return records[at] if found == key else None

    return take
