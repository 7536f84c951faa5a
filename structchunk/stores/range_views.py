"""Keys, Values, Items: views of a range of a store, as ``dict`` has them. They hold no data."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Sized, ValuesView
from itertools import chain
from typing import Any, Generic, NoReturn, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import ClosedError, Error
from ..runs.extent import KEY_END, Extent
from ..runs.run import Run, portions
from ..runs.views import may_change
from ..types.keys import key_or_none
from .ahead import Part

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
Ahead: TypeAlias = Callable[[Iterator[Part]], Iterator[Part]]
PORTION = 1024
"""Rows that are turned into Python objects at a time; an iterator that was left half-way keeps as many."""


def _pair(key: int, record: R) -> tuple[int, R]:
    return key, record


class Rows(Protocol):
    """Where the rows of a store are read: a binding."""

    def find(self, key: int) -> Extent | None:
        """Return the extent of a key, or None."""

    def runs(self, start: int, stop: int, *, reverse: bool = False) -> Iterator[Run]:
        """Yield the live rows of a key range as consecutive runs."""

    def record_count(self) -> int:
        """Return how many records the store has."""


class Records(Protocol[R_co]):
    """How a store turns rows into records."""

    def __call__(self, run: Run, *, reverse: bool) -> Iterable[R_co]:
        """Return the records of a run, in the direction of the keys or against it."""


class Range(Generic[R]):
    """The rows with ``start <= key < stop``, in one direction, and how to turn them into records.

    `ahead` fetches the records of the next portions, where they have to be fetched.
    """

    def __init__(
        self, rows: Rows, records: Records[R], ahead: Ahead, start: int, stop: int, *, reverse: bool
    ) -> None:
        self._rows = rows
        self._ahead = ahead
        self._start = start
        self._stop = stop
        self._reverse = reverse
        self._records = records

    def __len__(self) -> int:
        if (self._start, self._stop) == (0, KEY_END):
            return self._rows.record_count()
        return sum(len(run) for run in self._rows.runs(self._start, self._stop))

    def iterate(self, of_run: Callable[[Run, bool], Iterable[T]], *, flip: bool = False) -> Iterator[T]:
        """Yield what there is for each row of a run, in the direction of the range, or against it."""
        reverse = self._reverse != flip
        return chain.from_iterable(of_run(part[0], reverse) for part in self._portions(reverse=reverse))

    def iterate_fetched(self, of_run: Callable[[Run, bool], Iterable[T]], *, flip: bool = False) -> Iterator[T]:
        """Yield the same, of runs whose records are there, or on their way."""
        reverse = self._reverse != flip
        parts = self._ahead(self._portions(reverse=reverse))
        return chain.from_iterable(of_run(part[0], reverse) for part in parts)

    def _portions(self, *, reverse: bool) -> Iterator[Part]:
        for run in self._rows.runs(self._start, self._stop, reverse=reverse):  # asked for with the first record
            yield from ([part] for part in portions(run, PORTION, reverse=reverse))

    def each_key(self, run: Run, reverse: bool) -> Iterable[int]:
        """Return the keys of a run as integers."""
        keys: list[int] = run.keys.tolist()
        return reversed(keys) if reverse else keys

    def each_record(self, run: Run, reverse: bool) -> Iterable[R]:
        """Return the records of a run."""
        return self._records(run, reverse=reverse)

    def each_item(self, run: Run, reverse: bool) -> Iterable[tuple[int, R]]:
        """Return the pairs of key and record of a run."""
        keys, records = self.each_key(run, reverse), self.each_record(run, reverse)
        # zip() keeps the last pair: nobody else is to hold what may change in place, or compact() passes it over.
        return map(_pair, keys, records) if may_change(run) else zip(keys, records, strict=True)

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
        return self._rows.iterate(self._rows.each_key)

    def __reversed__(self) -> Iterator[int]:
        return self._rows.iterate(self._rows.each_key, flip=True)

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
        return self._rows.iterate_fetched(self._rows.each_record)

    def __reversed__(self) -> Iterator[R]:
        return self._rows.iterate_fetched(self._rows.each_record, flip=True)

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
        return self._rows.iterate_fetched(self._rows.each_item)

    def __reversed__(self) -> Iterator[tuple[int, R]]:
        return self._rows.iterate_fetched(self._rows.each_item, flip=True)

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
