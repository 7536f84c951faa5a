"""The change feed: what happened since a commit, as changes that users hold. The engine knows what is there."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence

from ..chunks.heap import ATTRIBUTES, Heap
from ..engine.history import Entry, entries, first_change, net_entries, take
from ..engine.storage import Storage
from ..errors import StoreNotFound
from ..stores.change import Change


def changes_since(
    storage: Storage,
    since: int,
    names: Sequence[str],
    *,
    net: bool,
    heaps: Mapping[str, Heap] | None = None,
    commit: int | None = None,
) -> Iterator[Change]:
    """Return what happened since a commit; see ``Database.changes``.

    Parameters
    ----------
    heaps, commit : optional
        The stores as of an earlier commit, which a snapshot keeps; else the latest one.
    """
    if ATTRIBUTES in names:
        raise StoreNotFound(f"there is no store {ATTRIBUTES!r}")
    logs = take(storage, operator.index(since), heaps, commit)
    # Those of attributes, of which nothing is told, count for whether all is there.
    chosen = [log for log in logs.chosen(names) if log.heap.name != ATTRIBUTES]
    dropped = logs.dropped(names)
    return map(_change, net_entries(chosen, dropped, logs.commit) if net else entries(chosen, dropped))


def _change(entry: Entry) -> Change:
    return Change(entry.commit, entry.kind, entry.log.held, entry.rows)


def first_change_of(storage: Storage, heaps: Mapping[str, Heap], commit: int) -> int:
    """Return the first commit since which all changes up to one are there; see ``Database.first_change``."""
    return first_change(lambda since: take(storage, since, heaps, commit), (0, 0))[0]


class Horizon:
    """The first commit since which all changes are there: looked for once, then where there is something new."""

    def __init__(self) -> None:
        self._known = (0, 0), 0

    def of(self, storage: Storage) -> int:
        """Return it as of the latest commit."""
        known, note_count = self._known
        # Another process may have made the index anew, which forgets the notes, or found that commits were lost.
        if known[1] > storage.index.last or len(storage.index.notes(0, known[1])) != note_count:
            known = 0, 0
        known = first_change(lambda since: take(storage, since), known)
        self._known = known, len(storage.index.notes(0, known[1]))
        return known[0]
