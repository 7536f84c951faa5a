"""Keys, Values, Items: views of a range of a store, as ``dict`` has them. They hold no data."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from typing import Any, Generic, Protocol, TypeVar

from .extent import KEY_END, Extent
from .keys import as_key
from .piece import Piece, portions

R = TypeVar("R")
PORTION = 512
"""Rows that are turned into Python objects at a time; an iterator that was left half-way keeps as many."""


class Rows(Protocol):
    """Where the rows of a store are read: a binding."""

    def find(self, key: int) -> Extent | None:
        """Return the extent of a key, or None."""

    def pieces(self, start: int, stop: int, *, reverse: bool = False) -> Iterator[Piece]:
        """Yield the live rows of a key range as consecutive pieces."""

    def record_count(self) -> int:
        """Return how many records the store has."""


class Range(Generic[R]):
    """The rows with ``start <= key < stop``, in one direction, and how to turn an extent into a record."""

    def __init__(self, rows: Rows, record: Callable[[Extent], R], start: int, stop: int, *, reverse: bool) -> None:
        self._rows = rows
        self._start = start
        self._stop = stop
        self._reverse = reverse
        self.record = record

    def __len__(self) -> int:
        if (self._start, self._stop) == (0, KEY_END):
            return self._rows.record_count()
        return sum(len(piece) for piece in self._rows.pieces(self._start, self._stop))

    def extents(self, *, flip: bool = False) -> Iterator[Extent]:
        """Yield the extents in the direction of the range, or against it."""
        reverse = self._reverse != flip
        for piece in self._rows.pieces(self._start, self._stop, reverse=reverse):
            for part in portions(piece, PORTION, reverse=reverse):
                rows = part.run.tolist()
                yield from reversed(rows) if reverse else rows

    def find(self, key: object) -> Extent | None:
        """Return the extent of a key if it is in the range and has a record."""
        number = as_key(key)
        return self._rows.find(number) if self._start <= number < self._stop else None


class Keys(KeysView[int]):
    """The keys of a range."""

    def __init__(self, rows: Range[Any]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: object) -> bool:
        return self._rows.find(key) is not None

    def __iter__(self) -> Iterator[int]:
        return (extent[0] for extent in self._rows.extents())

    def __reversed__(self) -> Iterator[int]:
        return (extent[0] for extent in self._rows.extents(flip=True))

    def __repr__(self) -> str:
        return f"<{len(self)} keys>"


class Values(ValuesView[R]):
    """The records of a range."""

    def __init__(self, rows: Range[R]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, value: object) -> bool:
        raise TypeError("records have no order to search by; compare them yourself, or look a key up")

    def __iter__(self) -> Iterator[R]:
        record = self._rows.record
        return (record(extent) for extent in self._rows.extents())

    def __reversed__(self) -> Iterator[R]:
        record = self._rows.record
        return (record(extent) for extent in self._rows.extents(flip=True))

    def __repr__(self) -> str:
        return f"<{len(self)} records>"


class Items(ItemsView[int, R]):
    """The pairs of key and record of a range."""

    def __init__(self, rows: Range[R]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, item: object) -> bool:
        raise TypeError("records have no order to search by; compare them yourself, or look a key up")

    def __iter__(self) -> Iterator[tuple[int, R]]:
        record = self._rows.record
        return ((extent[0], record(extent)) for extent in self._rows.extents())

    def __reversed__(self) -> Iterator[tuple[int, R]]:
        record = self._rows.record
        return ((extent[0], record(extent)) for extent in self._rows.extents(flip=True))

    def __repr__(self) -> str:
        return f"<{len(self)} pairs of key and record>"
