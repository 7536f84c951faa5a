"""Fetching ahead: the records of the next parts of a sweep are fetched while one is used. Knows runs, not stores.

Where records are in files there is nothing to do, and parts go through as they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

from ..runs.run import Run, count_items

Part: TypeAlias = Sequence[Run]
"""Runs that have the same keys, one of each store."""
FIRST_SIZE = 2 << 20
"""Bytes that are asked for at first, and together: what is used little of should not cost much."""
GROUP_SIZE = 16 << 20
"""Bytes that are asked for together, at most: neighbours come with one request."""
WINDOW_SIZES = FIRST_SIZE, 32 << 20, 64 << 20
"""Bytes that are asked for before they are used: before anything was, then once, and from then on."""


class Fetched(Protocol):
    """The chunks of one store, of which records may have to be fetched."""

    @property
    def is_remote(self) -> bool:
        """Whether that may be."""

    @property
    def item_size(self) -> int:
        """Bytes of one item."""

    def hold(self) -> object:
        """Return what keeps the chunks that are there now readable for as long as it is held."""

    def begin(self, runs: Sequence[Run]) -> None:
        """Begin to fetch the records of runs, as far as they are not there."""


def fetch_ahead(heaps: Sequence[Fetched], parts: Iterator[Part]) -> Iterator[Part]:
    """Yield parts, each with one run for each heap, having begun to fetch the records of those that follow."""
    remote = [(side, heap) for side, heap in enumerate(heaps) if heap.is_remote]
    return _fetch_ahead(remote, parts) if remote else parts


def _fetch_ahead(remote: Sequence[tuple[int, Fetched]], parts: Iterator[Part]) -> Iterator[Part]:
    held = [heap.hold() for _, heap in remote]  # the parts may end, and let go of it, long before they are used
    waiting: deque[tuple[list[Part], int]] = deque()
    windows = iter(WINDOW_SIZES)
    wanted, begun = next(windows), 0
    for group, size in _groups(remote, parts):
        for side, heap in remote:
            heap.begin([part[side] for part in group])
        waiting.append((group, size))
        begun += size
        while begun > wanted:
            used, used_size = waiting.popleft()
            yield from used
            begun, wanted = begun - used_size, next(windows, wanted)
    for group, _ in waiting:
        yield from group
    held.clear()


def _groups(remote: Sequence[tuple[int, Fetched]], parts: Iterator[Part]) -> Iterator[tuple[list[Part], int]]:
    """Yield parts that are to be asked for together, and how many bytes of records they have."""
    group: list[Part] = []
    size, wanted = 0, FIRST_SIZE
    for part in parts:
        group.append(part)
        size += sum(count_items(part[side]) * heap.item_size for side, heap in remote)
        if size >= wanted:
            yield group, size
            group, size, wanted = [], 0, min(4 * wanted, GROUP_SIZE)
    if group:
        yield group, size
