"""Decoder: pages and delta rows of one store, from the bytes that LevelDB holds, checked before they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from ..errors import CorruptionError
from ..runs.extent import EXTENT_DTYPE, ROW_SIZE, Extent, RowArray, empty_rows, rows_from_bytes, without_tombstones
from ..runs.run import ContiguousRun, Run
from ..runs.streams import in_pieces, put_together
from .leveldb import REBUILD, Pair
from .page import find_in_short, unpack_pages
from .store_keys import KEY

_KEYS = np.dtype([("region", f"V{KEY.size - 8}"), ("key", ">u8")])


class Decoder:
    """Decodes what the index has of one store; whatever is damaged is a CorruptionError.

    Parameters
    ----------
    path : str
        Of the LevelDB, for messages.
    store, item_size : int
        The store's id, and the bytes of one of its items.
    check : callable
        Raises CorruptionError if rows point outside the store's chunks.
    """

    def __init__(self, path: str, store: int, item_size: int, check: Callable[[RowArray], None]) -> None:
        self.path = path
        self._store = store
        self._item_size = item_size
        self._check = check

    def last_key(self, page: Pair) -> int:
        """Return the last key of a page, or the key of a delta row."""
        if len(page[0]) != KEY.size:
            raise self._not_a_key(page[0])
        return int.from_bytes(page[0][-8:], "big")

    def pages(self, pages: list[Pair], most_rows: int) -> Run:
        """Return the rows of consecutive pages, each of which has `most_rows` at most."""
        return put_together(self._runs(pages, most_rows), self._item_size)

    def pages_in_pieces(self, pages: list[Pair], most_rows: int) -> list[Run]:
        """Return them in pieces of records that lie back to back, if these are long; else in one."""
        return in_pieces(self._runs(pages, most_rows), self._item_size)

    def _runs(self, pages: list[Pair], most_rows: int) -> list[Run]:
        try:
            lasts = self._keys(pages).tolist()
            bodies = [page for _, page in pages]
            runs = unpack_pages(list(zip(lasts, bodies, strict=True)), self._item_size, most_rows)
        except ValueError as error:
            raise self._not_a_page(error) from error
        self.check_runs(runs)
        return runs

    def find_in_short(self, page: Pair, key: int, most_rows: int) -> Extent | None:
        """Return the row of one key, or None, of a short page, of which no more is decoded than that."""
        try:
            extent = find_in_short(self.last_key(page), page[1], key, self._item_size, most_rows)
        except ValueError as error:
            raise self._not_a_page(error) from error
        if extent is not None:
            self.check_one(extent)
        return extent

    def _not_a_page(self, error: ValueError) -> CorruptionError:
        return self.damaged(str(error), "one as page.py describes it, and each above the one before")

    def delta(self, pairs: list[Pair]) -> RowArray:
        """Return rows of the delta, tombstones included."""
        if any(len(value) != ROW_SIZE for _, value in pairs):
            raise self.damaged("a delta row of another size", f"{ROW_SIZE} bytes")
        if not pairs:
            return empty_rows()
        rows = rows_from_bytes(b"".join([value for _, value in pairs]))
        if not np.array_equal(rows["key"], self._keys(pairs)):
            raise self.damaged("a delta row of another key", "the key that it is stored under")
        self._check(without_tombstones(rows))
        return rows

    def _keys(self, pairs: list[Pair]) -> npt.NDArray[np.uint64]:
        """Return the keys of delta rows, or the last ones of pages."""
        odd = next((key for key, _ in pairs if len(key) != KEY.size), None)
        if odd is not None:
            raise self._not_a_key(odd)
        keys: npt.NDArray[np.uint64] = np.frombuffer(b"".join([key for key, _ in pairs]), _KEYS)["key"]
        return keys

    def _not_a_key(self, key: bytes) -> CorruptionError:
        return self.damaged(f"an index key of {len(key)} bytes", f"{KEY.size} bytes")

    def check_runs(self, runs: Iterable[Run]) -> None:
        """Raise if rows, none of them a tombstone, point outside the store's chunks."""
        ends = []
        for run in runs:
            if isinstance(run, ContiguousRun):  # between its ends offsets rise evenly
                ends += [run.extent(at) for at in (0, len(run) - 1)]
            else:
                self._check(run.rows)
        self._check(np.array(ends, EXTENT_DTYPE))

    def check_one(self, extent: Extent) -> None:
        """Raise if a live row points outside the store's chunks."""
        self._check(np.array([extent], EXTENT_DTYPE))

    def damaged(self, found: str, expected: str) -> CorruptionError:
        """Return the error for damage in this store's part of the index."""
        return CorruptionError(self.path, found=f"{found} (store {self._store})", expected=expected, advice=REBUILD)
