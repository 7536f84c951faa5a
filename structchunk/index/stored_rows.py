"""StoredRows: pages and delta of one store, read from LevelDB. Nothing is cached here, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..runs.extent import (
    EXTENT_DTYPE,
    KEY_END,
    ROW_SIZE,
    TOMBSTONE,
    Extent,
    RowArray,
    find_in_bytes,
)
from ..runs.run import ArrayRun, Run, first_key, last_key, split
from .cached_pages import CachedPages
from .decoding import Decoder
from .leveldb import LevelDB, Pair
from .page import is_short, pack_pages
from .store_keys import KEY

PAGE_ROWS = 512


class StoredRows:
    """What LevelDB has of one store.

    Parameters
    ----------
    leveldb : LevelDB
    store, item_size : int
        The store's id, and the bytes of one of its items.
    check : callable
        Raises CorruptionError if rows, read from disk, point outside the store's chunks.
    """

    def __init__(self, leveldb: LevelDB, store: int, item_size: int, check: Callable[[RowArray], None]) -> None:
        self.leveldb = leveldb
        self.store = store
        self.item_size = item_size
        self.page_rows = PAGE_ROWS
        self.decoder = Decoder(leveldb.path, store, item_size, check)
        self._check = check

    def over(self, leveldb: LevelDB) -> StoredRows:
        """Return the same store's rows in another LevelDB."""
        return StoredRows(leveldb, self.store, self.item_size, self._check)

    def key(self, region: bytes, key: int) -> bytes:
        """Return LevelDB's key of a delta row (region D), or of the page (region P) that ends with a key."""
        return KEY.pack(region, self.store, key)

    def end(self, region: bytes) -> bytes:
        """Return what is above all LevelDB keys of a region, and below those of the next store."""
        return self.key(region, KEY_END - 1) + b"\0"

    def find_delta(self, key: int, snapshot: Any) -> Extent | None:
        """Return the row of a key in the delta, which may be a tombstone, or None."""
        row = self.leveldb.get(self.key(b"D", key), snapshot)
        if row is None:
            return None
        extent: Extent = self.decoder.delta([(self.key(b"D", key), row)])[0].item()
        return extent

    def find_in_page(self, key: int, snapshot: Any) -> Extent | None:
        """Return the extent of a key from the one page that answers for it, decoding just its row."""
        pages = self.leveldb.read(self.key(b"P", key), self.end(b"P"), 1, snapshot)
        if not pages:
            return None
        page = pages[0][1]
        if is_short(page):
            return self.decoder.find_in_short(pages[0], key, self.page_rows)
        if not 1 <= len(page) // ROW_SIZE <= self.page_rows:
            return CachedPages(self.decoder.pages(pages, self.page_rows), 0, KEY_END - 1).find(key)
        extent = find_in_bytes(page, key)
        if extent is None:
            return None
        if extent[4] & TOMBSTONE:
            raise self.decoder.damaged("a tombstone in a page", "live records only")
        self.decoder.check_one(extent)
        return extent

    def load(
        self,
        key: int,
        count: int,
        snapshot: Any,
        *,
        stop: int = KEY_END,
        reverse: bool = False,
        in_pieces: bool = False,
    ) -> list[CachedPages]:
        """Read the page that answers for a key, and its neighbours below `stop`, up to `count` pages.

        They come as one, or in pieces, each of which goes on from the one before: long stretches of records that
        lie back to back, and what is between them, the end of a chunk file say.
        """
        snapshot = snapshot or self.leveldb.snapshot()  # both reads must see the same pages
        first, here = self.key(b"P", 0), self.key(b"P", key)
        end = self.end(b"P") if stop == KEY_END else self.key(b"P", stop)
        pages = self.leveldb.read(here, end, 1 if reverse else count, snapshot)
        last = stop - 1 if len(pages) < (1 if reverse else count) else self.decoder.last_key(pages[-1])
        before = self.leveldb.read_back(first, here, count if reverse else 1, snapshot)
        floor = self.decoder.last_key(before[0]) + 1 if before else 0
        if reverse:
            pages = before[1:] + pages if len(before) == count else before + pages
            floor = floor if len(before) == count else 0
        runs = self._decoded(pages, in_pieces=in_pieces)
        if len(runs[0]) and first_key(runs[0]) < floor:
            raise self.decoder.damaged("pages that overlap", "each page's keys above those of the page before")
        lasts = [*map(last_key, runs[:-1]), last]
        floors = [floor, *(before + 1 for before in lasts[:-1])]
        parts = [split(run, self.item_size) for run in runs]
        return list(map(CachedPages, runs, floors, lasts, parts))

    def _decoded(self, pages: list[Pair], *, in_pieces: bool) -> list[Run]:
        if in_pieces:
            return self.decoder.pages_in_pieces(pages, self.page_rows)
        return [self.decoder.pages(pages, self.page_rows)]

    def load_rows(self, keys: npt.NDArray[np.uint64], snapshot: Any) -> CachedPages:
        """Read the rows of ascending keys, each from the page that answers for it; they answer for no others."""
        snapshot = snapshot or self.leveldb.snapshot()
        found = [self.find_in_page(key, snapshot) for key in keys.tolist()]
        rows = np.array([extent for extent in found if extent is not None], EXTENT_DTYPE)
        return CachedPages(ArrayRun(rows), int(keys[0]), int(keys[-1]))

    def delta(self, snapshot: Any = None) -> list[Pair]:
        """Return all rows of the delta, packed."""
        return self.leveldb.read(self.key(b"D", 0), self.end(b"D"), 1 << 62, snapshot)

    def delta_end(self, start: int, stop: int, count: int, snapshot: Any, *, reverse: bool) -> RowArray:
        """Return up to `count` rows of the delta with ``start <= key < stop``, those at one end of the range."""
        read = self.leveldb.read_back if reverse else self.leveldb.read
        end = self.end(b"D") if stop == KEY_END else self.key(b"D", stop)
        return self.decoder.delta(read(self.key(b"D", start), end, count, snapshot))

    def pages_from(self, key: int, count: int) -> list[Pair]:
        """Return pages from the one that answers for a key on, up to `count` of them."""
        return self.leveldb.read(self.key(b"P", key), self.end(b"P"), count)

    def page_keys(self, start: int, stop: int) -> list[bytes]:
        """Return LevelDB's keys of the pages whose last key is in a range."""
        end = self.end(b"P") if stop == KEY_END else self.key(b"P", stop)
        return [key for key, _ in self.leveldb.read(self.key(b"P", start), end, 1 << 62)]

    def pack(self, runs: Iterable[Run]) -> list[Pair]:
        """Return consecutive runs as pages."""
        return [(self.key(b"P", last), page) for last, page in pack_pages(runs, self.item_size, self.page_rows)]
