"""Where live, garbage and free bytes lie in each chunk, as ranges and as shares of equal stretches of the file.

Ranges are arrays of shape (n, 2), int64: first byte and the one after the last, ascending and apart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..engine.storage import Storage
from ..runs.extent import KEY_END, RowArray, coalesce, empty_rows

Ranges: TypeAlias = npt.NDArray[np.int64]

KINDS = ("live", "garbage", "directory", "free")


class ChunkMap(NamedTuple):
    """What lies where in one chunk file.

    Attributes
    ----------
    store : str
        The store's name.
    chunk : int
        Its id.
    file_size : int
        Bytes.
    live : ndarray
        Ranges of live records.
    garbage : ndarray
        Ranges of what was replaced, deleted or aborted.
    directory : ndarray
        Ranges of the directory and of the header.
    free : ndarray
        Ranges of what still can be used.
    """

    store: str
    chunk: int
    file_size: int
    live: Ranges
    garbage: Ranges
    directory: Ranges
    free: Ranges

    def shares(self, count: int) -> npt.NDArray[np.float64]:
        """Cut the file into equal stretches, and return how much of each is what.

        Returns
        -------
        ndarray, shape (count, 4)
            One column for each of ``KINDS``; rows add up to 1.
        """
        edges = np.linspace(0, self.file_size, count + 1)
        covered = [np.diff(_covered_below(getattr(self, kind), edges)) for kind in KINDS]
        return np.stack(covered, axis=-1) / (self.file_size / count)


def map_chunks(storage: Storage, names: Iterable[str]) -> Iterator[ChunkMap]:
    """Yield the chunks of stores of an open database, as of its latest commit, in order of id.

    Notes
    -----
    Takes memory for where records stop lying back to back, not for each record.
    """
    for name in names:
        with storage.committing():
            heap = storage.heaps[name]
            snapshot = storage.index.snapshot()
            places = sorted(storage.places(heap, snapshot.commit), key=lambda place: place.chunk.id)
        with contextlib.closing(snapshot):
            records = _coalesced((run.rows for run in snapshot.runs(heap.store, 0, KEY_END)), heap.item_size)
        for chunk, free, directory in places:
            header = chunk.header
            live = _ranges(records[records["chunk"] == chunk.id], heap.item_size)
            yield ChunkMap(
                name,
                chunk.id,
                header.file_size,
                live,
                garbage=_between(live, header.data_offset, free),
                directory=_filled([(0, header.data_offset), (directory, header.file_size)]),
                free=_filled([(free, directory)]),
            )


def _coalesced(parts: Iterable[RowArray], item_size: int) -> RowArray:
    """Return the rows of each array in the order in which records lie, one row for all that lie back to back."""
    return _joined(np.concatenate([empty_rows(), *(_joined(rows, item_size) for rows in parts)]), item_size)


def _joined(rows: RowArray, item_size: int) -> RowArray:
    filled = rows[rows["length"] > 0]
    return coalesce(filled[np.lexsort((filled["offset"], filled["chunk"]))], item_size)


def _ranges(rows: RowArray, item_size: int) -> Ranges:
    starts = rows["offset"].astype(np.int64)
    return np.stack([starts, starts + rows["length"].astype(np.int64) * item_size], axis=-1)


def _between(ranges: Ranges, start: int, stop: int) -> Ranges:
    """Return what ranges leave of ``[start, stop)``."""
    return _filled(np.stack([np.append(start, ranges[:, 1]), np.append(ranges[:, 0], stop)], axis=-1))


def _filled(ranges: Any) -> Ranges:
    """Return ranges without the empty ones."""
    found = np.asarray(ranges, np.int64).reshape(-1, 2)
    return found[found[:, 1] > found[:, 0]]


def _covered_below(ranges: Ranges, edges: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Return how many bytes of ranges lie below each edge."""
    starts, stops = ranges[:, 0], ranges[:, 1]
    before = np.append(0, np.cumsum(stops - starts))
    index = np.searchsorted(starts, edges, side="right")
    last_stop = np.append(0, stops)[index]
    covered: npt.NDArray[np.float64] = before[index] - np.maximum(last_stop - edges, 0)
    return covered
