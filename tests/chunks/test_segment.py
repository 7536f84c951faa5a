"""What is checked of few rows one by one is what is checked of many with arrays."""

from __future__ import annotations

import collections

import numpy as np
from support import rows_of

from structchunk.chunks import segment
from structchunk.chunks.segment import FEW_ROWS, Bounds
from structchunk.maintenance import verify
from structchunk.runs.extent import MUTABLE, TOMBSTONE, ZERO, RowArray
from structchunk.runs.run import ArrayRun


def any_rows(rng: np.random.Generator, count: int) -> RowArray:
    """Draw rows of which most are sound in a segment of the bytes 4152 to 4152 + 24 * count, one behind another."""
    rows = [(key, 4152 + 24 * int(at), 1, 7, 0) for key, at in enumerate(rng.permutation(count))]
    for at in rng.choice(count, min(count, rng.integers(0, 3)), replace=False):
        key, offset, length, chunk, flags = rows[at]
        rows[at] = [
            (key, 0, 0, chunk, TOMBSTONE),
            (key, 0, 2**62, chunk, TOMBSTONE),
            (key, offset, 0, chunk, flags),
            (key, offset, length, chunk, MUTABLE),
            (key, offset, length, chunk, ZERO | MUTABLE),
            (key, offset, length, chunk, ZERO),
            (key, offset, length, chunk, 16),
            (key, offset, length, 6, flags),
            (key, offset, 2, chunk, flags),
            (key, offset, 2**63, chunk, flags),
            (key, offset + 1, length, chunk, flags),
            (key, 4104, 3, chunk, flags),
            (key, 4128, 2, chunk, flags),
            (key, 4128, 1, chunk, flags),
            (key, 2**64 - 24, 1, chunk, flags),
        ][rng.integers(15)]
    return rows_of(rows)


def test_few_rows_are_looked_at_as_many_are() -> None:
    raw = memoryview(np.random.default_rng(0).bytes(8192))
    found: collections.Counter[tuple[bool, bool]] = collections.Counter()
    for seed in range(3000):
        rng = np.random.default_rng(seed)
        run = ArrayRun(any_rows(rng, count := int(rng.integers(1, FEW_ROWS + 1))))
        bounds = Bounds(4104, 4152, 4152 + 24 * count, 24)
        size = segment._size_of_few(run.rows, 7, bounds)
        assert size == segment._size_of_many(run.rows, 7, bounds), seed
        is_sound = size is not None and size <= bounds.end - bounds.start
        assert is_sound == segment._are_sound(run, 7, bounds)
        over = verify._count_over(run.rows, 24)
        found[is_sound, over > 0] += 1
        if is_sound:
            assert over == verify._count_over_of_many(run.rows, 24), seed
            if not over:
                few = segment._crc_of_few(raw, run.rows.tolist(), 4152, 24)
                assert few == segment._crc_of_many(raw, run.rows, 4152, 24), seed
    assert min(found.values()) > 50 and len(found) == 4
