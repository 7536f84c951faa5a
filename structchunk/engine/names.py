"""Stores by their names: those of users, and all that a catalog has."""

from __future__ import annotations

from typing import NamedTuple

from ..chunks.heap import ATTRIBUTES, Heap
from ..index.stored_state import Catalog


class Names(NamedTuple):
    """The heaps of a catalog.

    Attributes
    ----------
    catalog : dict
    by_id : dict of int to Heap
        What they were named from.
    heaps : dict of str to Heap
        All.
    stores : dict of str to Heap
        Those of users.
    """

    catalog: Catalog
    by_id: dict[int, Heap]
    heaps: dict[str, Heap]
    stores: dict[str, Heap]


def name_heaps(known: Names | None, catalog: Catalog, by_id: dict[int, Heap]) -> Names:
    """Return the heaps of a catalog by name: those that are known, if they are of these very dictionaries."""
    if known is not None and known.catalog is catalog and known.by_id is by_id:
        return known
    heaps = {name: by_id[entry["store"]] for name, entry in catalog.items() if entry["store"] in by_id}
    stores = {name: heap for name, heap in heaps.items() if name != ATTRIBUTES}
    return Names(catalog, by_id, heaps, stores)
