"""Cursor: a place in a store that moves both ways, record by record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from ..errors import KeyNotFound
from ..runs.extent import KEY_END, RowArray, empty_rows
from ..runs.run import Run, portions
from ..types.keys import as_key

R = TypeVar("R")
WINDOW = 256
"""Rows that are read at a time: few, as a cursor may move on to anywhere."""


class Rows(Protocol):
    """Where the rows of a store are read: a binding."""

    def runs(self, start: int, stop: int, *, reverse: bool = False) -> Iterator[Run]:
        """Yield the live rows of a key range as consecutive runs."""

    def end_key(self, *, reverse: bool) -> int | None:
        """Return the lowest key, or the highest; None if there is no record."""

    def version(self) -> int:
        """Return a number that changes whenever the rows may have."""


class Cursor(Generic[R]):
    """A place in a store. It starts on no record; each move tells whether it moved, and if not stays.

    Notes
    -----
    A cursor sees what its store sees: from a database the latest commit at each move, in a transaction its
    writes. If the record that it stands on is deleted, it keeps the key, and moves on from there. Use one
    from one thread at a time.
    """

    def __init__(self, rows: Rows, record: Callable[[int], R]) -> None:
        self._rows = rows
        self._record = record
        self._window: RowArray = empty_rows()
        self._version = -1
        self._at = 0
        self._key: int | None = None

    def __repr__(self) -> str:
        return "<Cursor on no record>" if self._key is None else f"<Cursor at key {self._key}>"

    @property
    def valid(self) -> bool:
        """Whether the cursor stands on a record."""
        return self._key is not None

    @property
    def key(self) -> int:
        """The key that the cursor stands on.

        Raises
        ------
        KeyNotFound
            It stands on none.
        """
        if self._key is None:
            raise KeyNotFound("the cursor stands on no record; move it with first(), last() or seek()")
        return self._key

    @property
    def value(self) -> R:
        """The record that the cursor stands on.

        Raises
        ------
        KeyNotFound
            It stands on none, or the record was deleted since.
        """
        return self._record(self.key)

    def seek(self, key: int) -> bool:
        """Move to a key, or to the one just above it."""
        return self._jump(as_key(key), KEY_END, reverse=False)

    def first(self) -> bool:
        """Move to the lowest key."""
        return self._go_to_end(reverse=False)

    def last(self) -> bool:
        """Move to the highest key."""
        return self._go_to_end(reverse=True)

    def next(self) -> bool:
        """Move to the next higher key; from no record, to the lowest."""
        if self._key is None:
            return self.first()
        return self._step(1) or self._jump(self._key + 1, KEY_END, reverse=False)

    def prev(self) -> bool:
        """Move to the next lower key; from no record, to the highest."""
        if self._key is None:
            return self.last()
        return self._step(-1) or self._jump(0, self._key, reverse=True)

    def _go_to_end(self, *, reverse: bool) -> bool:
        """Move to one end, which is found without a look at the rows that follow."""
        key = self._rows.end_key(reverse=reverse)
        if key is None:
            return False
        self._window, self._key = empty_rows(), key
        return True

    def _step(self, by: int) -> bool:
        """Move within the rows that were read last, if they still hold."""
        at = self._at + by
        if not 0 <= at < len(self._window) or self._version != self._rows.version():
            return False
        self._at = at
        self._key = int(self._window["key"][at])
        return True

    def _jump(self, start: int, stop: int, *, reverse: bool) -> bool:
        """Read the rows from one end of a range on, and move there."""
        version = self._rows.version()
        run = next(self._rows.runs(start, stop, reverse=reverse), None)
        if run is None:
            return False
        window = next(portions(run, WINDOW, reverse=reverse)).rows
        self._window, self._version = window, version
        self._at = len(window) - 1 if reverse else 0
        self._key = int(window["key"][self._at])
        return True
