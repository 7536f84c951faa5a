"""The objects with the rows of the index: all rows, and up to two more with those that came since.

What is new goes into the last one, which is written anew each time, as long as it is small; then into the one
before, and in the end all rows are written again. How much is written again follows from how much is new: the last
one may become as large as makes the sum of both costs lowest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isqrt

from ..runs.run import Run
from ..runs.streams import in_key_order
from .manifest import Manifest
from .objects import Objects
from .rows import Entry, anew, entry_of, pack_entries, parse_entries

SMALL = 1 << 16
"""A level below this size is always written again, in bytes."""
_FRACTION = 8
"""Once the levels above all rows have grown to this part of them, all are written again."""


def levels(sizes: list[int], new: int) -> int:
    """Return how many of the levels stay as they are, below the one that is to be written with what is new.

    Parameters
    ----------
    sizes : list of int
        Of all levels, in bytes; the first one has all rows as of some publication.
    new : int
        Bytes of new rows.
    """
    if not sizes:
        return 0
    base, *above = sizes
    stays = len(sizes)
    if len(above) == 1 and above[0] + new <= SMALL:
        stays = 1
    elif len(above) > 1:
        stays = 2 if above[-1] + new <= max(SMALL, isqrt(2 * above[0] * new)) else 1
    written = sum(sizes[stays:]) + new
    return 0 if stays == 1 and written > max(base // _FRACTION, 4 * SMALL) else stays


def new_level(
    objects: Objects,
    newest: Manifest | None,
    entries: list[Entry],
    everything: Callable[[], list[Entry]],
    item_sizes: Mapping[int, int],
) -> tuple[tuple[int, ...], bytes]:
    """Return the ids of the levels that stay, and the bytes of the one that is to be written above them.

    Parameters
    ----------
    objects, newest
        What is published.
    entries : list of Entry
        The new rows.
    everything : callable
        Returns all rows.
    item_sizes : mapping of int to int
        The stores that there are.
    """
    known = [] if newest is None else [newest.objects[each] for each in newest.rows]
    raw = pack_entries(entries)
    stays = levels([each.size for each in known], len(raw))
    if not stays:
        return (), raw if newest is None else pack_entries(everything())
    again = [parse_entries(objects.read(each.name, each.size), objects.at(each.name)) for each in known[stays:]]
    if again:
        raw = pack_entries(merged([*again, entries], item_sizes, objects.url))
    return tuple(each.id for each in known[:stays]), raw


def merged(levels: list[list[Entry]], item_sizes: Mapping[int, int], where: str) -> list[Entry]:
    """Return the entries of several levels, given in their order, as those of one."""
    runs: dict[int, list[Run]] = {}
    replaced = set()
    for entry in (entry for entries in levels for entry in entries if entry.store in item_sizes):
        if entry.is_anew:
            runs[entry.store] = []
            replaced.add(entry.store)
        runs.setdefault(entry.store, []).append(entry.run(item_sizes[entry.store], where))
    entries = []
    for store, found in runs.items():
        size = item_sizes[store]
        entries += [anew(store)] if store in replaced else []
        entries += [entry_of(store, run, size) for run in in_key_order(found, size)]
    return entries
