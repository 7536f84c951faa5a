"""Keys, Values, Items: views of a range of a store, as ``dict`` has them. They hold no data."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, KeysView, Sized, ValuesView
from typing import Any, Generic, NoReturn, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import ClosedError, Error
from ..runs.extent import KEY_END, Extent
from ..runs.run import Run, portions
from ..types.keys import key_or_none
from .ahead import Part

R = TypeVar("R")
Ahead: TypeAlias = Callable[[Iterator[Part]], Iterator[Part]]
PORTION = 512
"""Rows that are turned into Python objects at a time; an iterator that was left half-way keeps as many."""


def _as_they_are(parts: Iterator[Part]) -> Iterator[Part]:
    return parts


class Rows(Protocol):
    """Where the rows of a store are read: a binding."""

    def find(self, key: int) -> Extent | None:
        """Return the extent of a key, or None."""

    def runs(self, start: int, stop: int, *, reverse: bool = False) -> Iterator[Run]:
        """Yield the live rows of a key range as consecutive runs."""

    def record_count(self) -> int:
        """Return how many records the store has."""


class Range(Generic[R]):
    """The rows with ``start <= key < stop``, in one direction, and how to turn an extent into a record."""

    def __init__(
        self, rows: Rows, record: Callable[[Extent], R], ahead: Ahead, start: int, stop: int, *, reverse: bool
    ) -> None:
        self._rows = rows
        self.ahead = ahead
        self._start = start
        self._stop = stop
        self._reverse = reverse
        self.record = record

    def __len__(self) -> int:
        if (self._start, self._stop) == (0, KEY_END):
            return self._rows.record_count()
        return sum(len(run) for run in self._rows.runs(self._start, self._stop))

    def extents(self, *, flip: bool = False, ahead: Ahead = _as_they_are) -> Iterator[Extent]:
        """Yield the extents in the direction of the range, or against it.

        `ahead` is for who wants the records, too: it fetches those of the next portions, where they are fetched.
        """
        reverse = self._reverse != flip
        for (run,) in ahead([part] for part in self._portions(reverse=reverse)):
            rows = run.rows.tolist()
            yield from reversed(rows) if reverse else rows

    def _portions(self, *, reverse: bool) -> Iterator[Run]:
        for run in self._rows.runs(self._start, self._stop, reverse=reverse):
            yield from portions(run, PORTION, reverse=reverse)

    def keys(self) -> npt.NDArray[np.uint64]:
        """Return the keys in the direction of the range, in memory of their own."""
        found = [run.keys for run in self._rows.runs(self._start, self._stop)]
        keys = np.concatenate(found) if found else np.empty(0, np.uint64)
        return keys[::-1] if self._reverse else keys

    def has(self, key: object) -> bool:
        """Tell whether this is a key in the range, and has a record."""
        number = key_or_none(key)
        return number is not None and self._start <= number < self._stop and self._rows.find(number) is not None


class Keys(KeysView[int]):
    """The keys of a range. ``np.asarray(keys)`` makes an array of them, without a step of Python for each."""

    def __init__(self, rows: Range[Any]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: object) -> bool:
        return self._rows.has(key)

    def __iter__(self) -> Iterator[int]:
        return (extent[0] for extent in self._rows.extents())

    def __reversed__(self) -> Iterator[int]:
        return (extent[0] for extent in self._rows.extents(flip=True))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return the keys as an array of uint64, which is always a copy."""
        if copy is False:
            raise ValueError("the keys of a store are not an array in memory; let NumPy copy them")
        keys = self._rows.keys()
        wanted = np.dtype(np.uint64 if dtype is None else dtype)
        if wanted.kind in "iu" and len(keys) and int(keys.max()) > np.iinfo(wanted).max:
            raise OverflowError(f"key {keys.max()} is beyond {wanted}")
        return keys.astype(wanted, copy=False)

    def __repr__(self) -> str:
        return f"<{counted(self, 'keys', 'keys, closed')}>"


def _refuse_array(self: object, dtype: Any = None, copy: bool | None = None) -> NoReturn:
    raise TypeError("records are not one array; store.read(start, stop).values is one of all their items")


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
        return (record(extent) for extent in self._rows.extents(ahead=self._rows.ahead))

    def __reversed__(self) -> Iterator[R]:
        record = self._rows.record
        return (record(extent) for extent in self._rows.extents(flip=True, ahead=self._rows.ahead))

    __array__ = _refuse_array

    def __repr__(self) -> str:
        return f"<{counted(self, 'records', 'records, closed')}>"


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
        return ((extent[0], record(extent)) for extent in self._rows.extents(ahead=self._rows.ahead))

    def __reversed__(self) -> Iterator[tuple[int, R]]:
        record = self._rows.record
        return ((extent[0], record(extent)) for extent in self._rows.extents(flip=True, ahead=self._rows.ahead))

    __array__ = _refuse_array

    def __repr__(self) -> str:
        return f"<{counted(self, 'pairs of key and record', 'pairs of key and record, closed')}>"


def counted(things: Sized, what: str, closed: str) -> str:
    """Return how many things there are, for a repr; where nobody can tell any more, why."""
    try:
        return f"{len(things)} {what}"
    except ClosedError:
        return closed
    except (Error, OSError) as error:
        return f"unreadable: {error}"
