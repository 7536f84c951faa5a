"""The private index of a reader: made of the rows that are published, and brought forward by later ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter

from ..chunks.heap import Heap
from ..index.drop_notes import Note, pack_note
from ..index.first_pages import FirstPages
from ..index.index import Index
from ..index.store_index import StoreIndex
from ..runs.extent import KEY_END, TOMBSTONE, make_rows, overlay
from ..runs.run import ArrayRun, Run, portions
from ..runs.streams import in_key_order, joined
from .manifest import Manifest
from .rows import Entry

LOAD_ROWS = 1 << 16
"""How many rows are put into a new index at a time."""


def create_index(path: str, manifest: Manifest, heaps: Iterable[Heap], entries: Iterable[Entry], url: str) -> Index:
    """Return a new index of all that is published.

    Parameters
    ----------
    path : str
    manifest : Manifest
    heaps : iterable of Heap
        All stores.
    entries : iterable of Entry
        All rows.
    url : str
        Where they are from, for messages.
    """
    index = Index.create(path, manifest.database, 0, manifest.next_chunk, private=True)
    try:
        sizes = _add_stores(index, heaps)
        _put_notes(index, manifest.notes)
        index.put(manifest.commit, {}, manifest.catalog)
        _load(index, manifest.commit, _runs(list(entries), sizes, url))
    except BaseException:
        index.close()
        raise
    return index


def _load(index: Index, commit: int, runs: Iterable[tuple[int, Run]]) -> None:
    """Put rows into an index that has none."""
    known = set[int]()
    for store, group in groupby(runs, key=itemgetter(0)):
        parts = (part for _, run in group for part in portions(run, LOAD_ROWS))
        for part in parts if store in known else _remembered(index.store_index(store), parts):
            index.put(commit, {store: [part]})
        known.add(store)


def _remembered(store_index: StoreIndex, parts: Iterable[Run]) -> Iterator[Run]:
    """Yield rows to be put; those that come first, in order of key, are not decoded again when they are read."""
    first: FirstPages | None = store_index.first_pages()
    for part in parts:
        if first is not None and not first.add(part):
            store_index.remember(first)
            first = None
        yield part
    if first is not None:
        store_index.remember(first)


def advance_index(
    index: Index, manifest: Manifest, heaps: Mapping[int, Heap], entries: list[Entry], url: str
) -> None:
    """Bring an index forward to a later publication, all at once.

    Parameters
    ----------
    index : Index
    manifest : Manifest
    heaps : mapping of int to Heap
        All stores then, by their ids.
    entries : list of Entry
        The rows that came after those that the index has; again, if this was cut short.
    url : str
        Where they are from, for messages.
    """
    known = {entry["store"] for entry in index.catalog.values()}
    _add_stores(index, (heap for store, heap in heaps.items() if store not in known))
    sizes = {store: heap.item_size for store, heap in heaps.items()}
    runs: dict[int, list[Run]] = {}
    for store, run in _runs(entries, sizes, url):
        runs.setdefault(store, []).append(run)
    anew = {entry.store for entry in entries if entry.is_anew} & sizes.keys()
    changed = {store: in_key_order(runs.get(store, []), sizes[store]) for store in runs.keys() | anew}
    for store in anew:
        changed[store] = [_instead_of_all(index.store_index(store), changed[store])]
    _put_notes(index, [note for note in manifest.notes if note.commit > index.last])
    index.put(manifest.commit, changed, manifest.catalog, anew)


def _instead_of_all(store_index: StoreIndex, runs: list[Run]) -> Run:
    """Return rows that take the place of all that a store has."""
    old = joined(store_index.runs(0, KEY_END))
    return ArrayRun(overlay(joined(runs), make_rows(old["key"], 0, 0, 0, TOMBSTONE)))


def _add_stores(index: Index, heaps: Iterable[Heap]) -> dict[int, int]:
    """Make stores known, and return the sizes of their items."""
    sizes = {}
    for heap in heaps:
        index.add_store(heap.store, heap.item_size, heap.check)
        sizes[heap.store] = heap.item_size
    return sizes


def _put_notes(index: Index, notes: Iterable[Note]) -> None:
    """Keep notes of commits that are not shown yet."""
    index.leveldb.write([pack_note(note.commit, note.store, json.dumps(note.about).encode()) for note in notes])


def _runs(entries: list[Entry], sizes: Mapping[int, int], url: str) -> Iterator[tuple[int, Run]]:
    """Yield the rows that count, in order, and their stores."""
    begins = {entry.store: number for number, entry in enumerate(entries) if entry.is_anew}
    for number, entry in enumerate(entries):
        if entry.store in sizes and number >= begins.get(entry.store, 0):
            yield entry.store, entry.run(sizes[entry.store], url)
