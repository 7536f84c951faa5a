"""Changes: what a commit or a fold puts into LevelDB and deletes there, for one store. Nothing is written here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..runs.extent import KEY_END, ROW_SIZE, RowArray, clip, overlay, without_tombstones
from ..runs.packed import packed_size
from ..runs.run import ArrayRun, Run, clip_run, first_key, last_key, portions
from ..runs.streams import in_key_order, joined
from .delta import Delta
from .leveldb import Pair
from .page import count_rows
from .store_keys import KEY_SIZE, keys_of_store
from .stored_rows import StoredRows

FOLD_FRACTION = 16
"""Rows go into pages, instead of the delta, where pages have at most so many times their number."""
MIN_FOLD_ROWS = 32768
REWRITE_ROWS = 1 << 20
"""More rows than this are not put at once when a store is rewritten."""
_PAGE_COST = 128
"""What a page takes besides its rows, and to delete the one before it."""


class Change(NamedTuple):
    """What a commit or a fold does to the index of one store: LevelDB's puts and deletes, then the caches."""

    puts: list[Pair]
    deletes: list[bytes]
    delta_rows: list[tuple[int, bytes]]
    folded: list[int]
    low: int
    high: int

    def size(self) -> int:
        """Return how many bytes of LevelDB's log it takes, about."""
        size = KEY_SIZE * (len(self.puts) + len(self.deletes))
        for _, value in self.puts:
            size += len(value)
        return size


class Rewrite(NamedTuple):
    """Changes by which rows become all that a store has, made one by one, each to be applied before the next.

    After each of them every row is there, as it was or as it will be. ``size`` is as :meth:`Change.size`.
    """

    changes: Iterator[Change]
    size: int


def are_many(runs: Iterable[Run]) -> bool:
    """Tell whether runs are too many rows to be put at once."""
    return sum(map(len, runs)) > REWRITE_ROWS


def rewrite(stored: StoredRows, runs: Sequence[Run], delta: RowArray) -> Rewrite:
    """Return how consecutive runs of live rows become all there is, a range of keys at a time.

    `delta` has all rows of the delta.
    """
    pages = sum(len(run) // stored.page_rows + 1 for run in runs)
    size = sum(packed_size(run, stored.item_size) for run in runs) + _PAGE_COST * pages
    return Rewrite(_range_by_range(stored, runs, delta), size)


def _range_by_range(stored: StoredRows, runs: Sequence[Run], delta: RowArray) -> Iterator[Change]:
    start, parts = 0, [part for run in runs for part in portions(run, REWRITE_ROWS)]
    for part, stop in zip(parts, [*map(first_key, parts[1:]), KEY_END], strict=True):
        yield _replace_range(stored, part, start, stop, clip(delta, start, stop)["key"].tolist())
        start = stop


def _replace_range(stored: StoredRows, run: Run, start: int, stop: int, folded: list[int]) -> Change:
    """Return what changes if a run of live rows becomes all there is with ``start <= key < stop``, as pages.

    `folded` are the keys of the delta there.
    """
    deletes = [stored.key(b"D", key) for key in folded] + stored.page_keys(start, stop)
    pages = stored.pages_from(stop, 1) if stop < KEY_END else []  # what may go across has the rest put in its place
    rest = clip_run(stored.decoder.pages(pages, stored.page_rows), stop, KEY_END)
    return Change(stored.pack([run, rest]), deletes, [], folded, start, stop - 1)


def put_rows(stored: StoredRows, runs: Iterable[Run], shared: Callable[[Sequence[Run]], list[int]]) -> Change:
    """Return what putting runs, tombstones included, changes: pages if they are dense, else delta rows.

    `shared` returns the keys of runs that have a row in the delta, too.
    """
    runs = [run for run in runs if len(run)]
    pages = _dense_pages(stored, runs) if sum(map(len, runs)) >= stored.page_rows else None
    if pages is not None:
        return put_into_pages(stored, runs, pages, shared(runs))
    packed = _packed(joined(runs))
    return Change([(stored.key(b"D", key), row) for key, row in packed], [], packed, [], 0, -1)


def put_row(stored: StoredRows, key: int, row: bytes) -> Change:
    """Return what putting one packed row changes."""
    return Change([(stored.key(b"D", key), row)], [], [(key, row)], [], 0, -1)


def put_unread(stored: StoredRows, runs: Iterable[Run]) -> Change:
    """Return what :func:`put_rows` does, for caches that have nothing.

    It takes time by what is put, whatever the size of the delta.
    """
    change = put_rows(stored, runs, lambda runs: _shared_in_leveldb(stored, runs))
    return change._replace(delta_rows=[], folded=[])


def replace_all(stored: StoredRows, runs: Iterable[Run], folded: list[int]) -> Change:
    """Return what changes if consecutive runs of live rows become all there is, as pages.

    `folded` are the keys of the delta.
    """
    deletes = list(keys_of_store(stored.leveldb, stored.store))
    return Change(stored.pack(runs), deletes, [], folded, 0, KEY_END - 1)


def put_into_pages(stored: StoredRows, runs: Sequence[Run], pages: list[Pair], folded: list[int]) -> Change:
    """Return what putting runs into these pages changes, which are all that they overlap."""
    present = stored.decoder.pages(pages, stored.page_rows)
    if len(present) and last_key(present) >= first_key(runs[0]):
        merged: list[Run] = [ArrayRun(without_tombstones(overlay(joined(runs), present.rows)))]
    else:
        alive = [ArrayRun(without_tombstones(run.rows)) if isinstance(run, ArrayRun) else run for run in runs]
        merged = in_key_order([present, *alive], stored.item_size)
    deletes = [key for key, _ in pages] + [stored.key(b"D", key) for key in folded]
    bounds = [first_key(runs[0]), last_key(runs[-1])] + [stored.decoder.last_key(page) for page in pages]
    return Change(stored.pack(merged), deletes, [], folded, min(bounds), max(bounds))


def is_fold_due(delta_count: int, record_count: Callable[[], int]) -> bool:
    """Tell whether a delta has outgrown its fraction of the store, whose size is asked for only if it must be."""
    return delta_count > MIN_FOLD_ROWS and delta_count > record_count() // FOLD_FRACTION


def _dense_pages(stored: StoredRows, runs: Sequence[Run]) -> list[Pair] | None:
    """Return the pages that runs overlap, or None if they hold far more rows than those."""
    low, high = first_key(runs[0]), last_key(runs[-1])
    limit = 2 + sum(map(len, runs)) * FOLD_FRACTION // stored.page_rows
    pages = stored.pages_from(low, 1)
    if not pages:
        before = stored.leveldb.read_back(stored.key(b"P", 0), stored.key(b"P", low), 1)
        return [page for page in before if count_rows(page[1]) < stored.page_rows]
    pages = stored.leveldb.read(stored.key(b"P", low), stored.key(b"P", high), limit)
    if len(pages) == limit:
        return None
    return pages + stored.pages_from(high, 1)


def _shared_in_leveldb(stored: StoredRows, runs: Sequence[Run]) -> list[int]:
    """Return the keys that have a row both in a run and in the delta, of which only that part is read."""
    rows: RowArray = joined(runs)
    low, high = (stored.key(b"D", int(key)) for key in rows["key"][[0, -1]])
    pairs = stored.leveldb.read(low, high + b"\0", 1 << 62)
    return Delta((stored.decoder.last_key(pair), pair[1]) for pair in pairs).shared(rows)


def _packed(rows: RowArray) -> list[tuple[int, bytes]]:
    """Return rows one by one, packed, with their keys."""
    raw = rows.view(np.uint8).data
    return [(key, bytes(raw[i * ROW_SIZE : (i + 1) * ROW_SIZE])) for i, key in enumerate(rows["key"].tolist())]
