"""How the rows of one store are spread over the keys, by the sizes of LevelDB's tables and one page in many.

For a store of many records it takes a small part of the time in which all its pages are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..runs.extent import KEY_END
from ..runs.key_ranges import Sample, run_weight
from .growth import BUFFER_SIZE
from .stored_rows import StoredRows

LEAST_SIZE = 16 * BUFFER_SIZE
"""Of an index with fewer bytes in tables all pages are read: what is only in LevelDB's logs yet is not counted."""
LEAST_PIECE = 1 << 15
"""Bytes of tables that are looked at together at least: some pages."""


def is_worth_sampling(stored: StoredRows, piece_count: int) -> bool:
    """Tell whether a store has so many pages that as many pieces of its index tell how its rows are spread."""
    return _size(stored, 0, KEY_END) >= max(LEAST_SIZE, LEAST_PIECE * piece_count)


def sample(stored: StoredRows, piece_count: int, snapshot: Any) -> Iterator[Sample]:
    """Yield consecutive pieces of the key space that have rows, and about how much those weigh.

    Parameters
    ----------
    stored : StoredRows
    piece_count : int
        About how many pieces to make, of about as many bytes of the index each.
    snapshot : LevelDBSnapshot
        Of which commit the pages are that are looked at.
    """
    most = _size(stored, 0, KEY_END) / piece_count
    for low, high, size in _pieces(stored, 0, KEY_END, most):
        pages = stored.leveldb.read(stored.key(b"P", low), stored.end(b"P"), 1, snapshot)
        if pages:
            run = stored.decoder.pages(pages, stored.page_rows)
            yield Sample(high, run_weight(run, stored.item_size) * size / sum(map(len, pages[0])))


def _pieces(stored: StoredRows, low: int, high: int, most: float) -> Iterator[tuple[int, int, int]]:
    """Halve a range of keys until no part has more than so many bytes of tables; leave out those that have none."""
    size = _size(stored, low, high)
    if size > most and high - low > 1:
        middle = (low + high) // 2
        yield from _pieces(stored, low, middle, most)
        yield from _pieces(stored, middle, high, most)
    elif size:
        yield low, high, size


def _size(stored: StoredRows, low: int, high: int) -> int:
    stop = stored.end(b"P") if high == KEY_END else stored.key(b"P", high)
    return stored.leveldb.size_of(stored.key(b"P", low), stop)
