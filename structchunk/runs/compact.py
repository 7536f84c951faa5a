"""Rows kept in memory in 4 or 5 bytes each beside their keys, and made when they are asked for. Pure NumPy.

Records of one length that were written in any order differ in where they lie; mostly all else is the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .extent import Extent, RowArray, chunks_of, make_rows
from .run import ArrayRun, Place, read_only

FEWEST = 64
"""Fewer rows are kept as they are."""
MOST_CHUNKS = 256
MOST_BYTES = 1 << 32
"""Offsets below this, of chunks that hold no record larger than that."""


class CompactRun(ArrayRun):
    """Rows with the same flags, of records with the same length.

    Parameters
    ----------
    keys : ndarray of uint64
    offsets : ndarray of uint32
        In bytes.
    which : ndarray of uint8
        Of each row, which of `chunks` it is in.
    chunks : list of int
    length, flags : int
    """

    __slots__ = ("_at", "_chunks", "_columns", "_flags", "_length")

    def __init__(
        self,
        keys: npt.NDArray[np.uint64],
        offsets: npt.NDArray[np.uint32],
        which: npt.NDArray[np.uint8],
        chunks: list[int],
        length: int,
        flags: int,
    ) -> None:
        self._columns = keys, offsets, which
        self._at = keys.data, offsets.data, which.data  # which give single numbers fastest
        self._chunks = chunks
        self._length = length
        self._flags = flags

    @property
    def rows(self) -> RowArray:  # type: ignore[override]  # which are an attribute of other rows
        """The rows as an array."""
        return self._made(*self._columns)

    def _made(self, keys: Any, offsets: Any, which: Any) -> RowArray:
        chunks = np.array(self._chunks, np.uint32)[which] if len(self._chunks) > 1 else self._chunks[0]
        return make_rows(keys, offsets, self._length, chunks, self._flags)

    def __len__(self) -> int:
        return len(self._columns[1])

    @property
    def size(self) -> int:
        """Bytes of memory that the rows take, without their keys."""
        return self._columns[1].nbytes + self._columns[2].nbytes

    @property
    def keys(self) -> npt.NDArray[np.uint64]:
        """The keys, back to back."""
        return self._columns[0]

    @property
    def key_column(self) -> npt.NDArray[np.uint64]:
        """The keys."""
        return self._columns[0]

    @property
    def flag_values(self) -> npt.NDArray[np.uint32]:
        """The flags that rows have: not of each, as all have the same."""
        return np.array([self._flags], np.uint32)

    def extent(self, at: int) -> Extent:
        """Return the row at a position."""
        keys, offsets, which = self._at
        return keys[at], offsets[at], self._length, self._chunks[which[at]], self._flags

    def place(self, at: int) -> Place:
        """Return the row at a position, but for its key."""
        _, offsets, which = self._at
        return offsets[at], self._length, self._chunks[which[at]], self._flags

    def over(self, keys: npt.NDArray[np.uint64]) -> CompactRun:
        """Return the same rows with their keys in other memory."""
        return CompactRun(keys, *self._columns[1:], self._chunks, self._length, self._flags)

    def without_keys(self) -> CompactRun:
        """Return the same rows without their keys, to be given to :meth:`over`."""
        return self.over(np.empty(0, np.uint64))

    def part(self, low: int, high: int) -> CompactRun:
        """Return the rows at positions ``[low, high)``."""
        keys, offsets, which = self._columns
        return CompactRun(
            keys[low:high], offsets[low:high], which[low:high], self._chunks, self._length, self._flags
        )

    def take(self, where: npt.NDArray[np.intp]) -> RowArray:
        """Return the rows at many positions."""
        return self.take_known(where, self._columns[0][where])

    def take_known(self, where: npt.NDArray[np.intp], keys: npt.NDArray[np.uint64]) -> RowArray:
        """Return the rows at many positions, at which these keys are."""
        _, offsets, which = self._columns
        return self._made(keys, offsets[where], which[where] if len(self._chunks) > 1 else which)


def compact(run: ArrayRun, keys: npt.NDArray[np.uint64]) -> ArrayRun:
    """Return rows in less memory, over memory that has their keys, if they are alike enough; else as they are."""
    rows = run.rows
    if len(rows) < FEWEST:
        return run
    if any((rows[name] != rows[name][0]).any() for name in ("length", "flags")):
        return run
    chunks = chunks_of(rows)
    if len(chunks) > MOST_CHUNKS or int(rows["offset"].max()) >= MOST_BYTES:
        return run
    which = np.searchsorted(np.array(chunks, np.uint32), rows["chunk"]).astype(np.uint8)
    length, flags = int(rows["length"][0]), int(rows["flags"][0])
    return CompactRun(keys, read_only(rows["offset"].astype(np.uint32)), read_only(which), chunks, length, flags)
