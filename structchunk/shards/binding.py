"""Stores that share no key, seen as one: what a store is bound to when its records lie in several databases.

Each part is known by its range of keys, and is opened when a key in that range is asked for. Rows come from the
parts as they are, but for the numbers of their chunks: those of one part mean nothing in another. Where the
ranges of parts overlap, their rows are merged; elsewhere they follow one another.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple, NoReturn, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import CorruptionError, Error, ReadOnlyError
from ..runs.extent import KEY_END, ROW_BYTES, TOMBSTONE, Extent, RowArray, make_rows
from ..runs.interleaved import InterleavedRun, RepeatedKey, merge
from ..runs.run import ArrayRun, Run, clip_run
from ..stores.binding import Binding, maker_of_copies
from ..types.keys import as_key
from .heap import ShardedHeap
from .merged import MergedRuns, places_between

SMALL_RECORD = 64
"""Records of no more bytes take longer to be put in order again than to be read."""


class Part(NamedTuple):
    """One of the stores: where it is, its lowest and highest key, how many records it has, and how to open it."""

    where: str
    first: int
    last: int
    record_count: int
    open: Callable[[], Binding]


Group: TypeAlias = Sequence[Part]
"""Parts, by their lowest keys, whose ranges of keys overlap."""


class Home(Protocol):
    """What is needed of the handle that a store was got from."""

    @property
    def path(self) -> str:
        """The directory of the parts."""

    @property
    def _is_remote(self) -> bool:
        """Whether that is one of published databases."""

    def _check_open(self) -> None:
        """Raise ClosedError once it is closed."""


class ShardedBinding:
    """Binding of a store to parts that share no key. Nothing can be written through it.

    Parameters
    ----------
    heap : ShardedHeap
    parts : iterable of Part
    home : Home
        What to pickle in place of the parts: it gives this store by its name.
    merged : MergedRuns
        Those of all stores with this home.
    """

    writer = None

    def __init__(self, heap: ShardedHeap, parts: Iterable[Part], home: Home, merged: MergedRuns) -> None:
        self.heap = heap
        self._parts = sorted(parts, key=lambda part: part.first)
        self._firsts = [part.first for part in self._parts]
        self._reach = list(accumulate((part.last for part in self._parts), max))
        self._groups = _groups(self._parts)
        self._home = home
        self._merged = merged

    def _between(self, start: int, stop: int) -> list[Part]:
        """Return the parts that may have keys in ``[start, stop)``, by their lowest keys."""
        low, high = bisect_left(self._reach, start), bisect_left(self._firsts, stop)
        return [part for part in self._parts[low:high] if part.last >= start]

    def repeated_key(self) -> tuple[int, list[str]] | None:
        """Return a key that several parts have, and which they are; None if there is no such key.

        Only where the ranges of parts overlap, rows are read.
        """
        try:
            for group in self._groups:
                if len(group) > 1:
                    deque(self._merge(group, 0, KEY_END), maxlen=0)
        except RepeatedKey as repeated:
            key = repeated.key
            owners = [part.where for part in self._between(key, key + 1) if part.open().find(key)]
            return key, owners
        return None

    # ------------------------------------------------------------------ reading

    def find(self, key: int) -> Extent | None:
        """Return the extent of a key, or None."""
        number = as_key(key)
        self._home._check_open()
        for part in self._between(number, number + 1):
            binding = part.open()
            extent = binding.find(number)
            if extent is not None:
                return *extent[:3], self.heap.arrays.number(binding.heap, extent[3]), extent[4]
        return None

    def finder_of_records(self, kind: type[Any]) -> Callable[[int], Extent | None]:
        """Return what finds the extent of a key."""
        return self.find

    def lookup(self, keys: npt.NDArray[np.uint64]) -> RowArray:
        """Return one row per ascending key; the key that has none gets a tombstone."""
        self._home._check_open()
        rows = make_rows(keys, 0, 0, 0, TOMBSTONE)
        for part in self._between(int(keys[0]), int(keys[-1]) + 1) if len(keys) else []:
            low = int(np.searchsorted(keys, np.uint64(part.first)))
            high = int(np.searchsorted(keys, np.uint64(part.last), side="right"))
            missing = low + np.flatnonzero(rows["flags"][low:high] & TOMBSTONE)  # as no other part has those found
            if not len(missing):
                continue
            binding = part.open()
            theirs = binding.lookup(keys[missing])
            found = theirs["flags"] & TOMBSTONE == 0
            taken = self.heap.take_over(ArrayRun(theirs[found]), binding.heap).rows
            rows.view(ROW_BYTES)[missing[found]] = taken.view(ROW_BYTES)
        return rows

    def runs(self, start: int, stop: int, *, reverse: bool = False) -> Iterator[Run]:
        """Yield the live rows of a key range as consecutive runs."""
        self._home._check_open()
        low = bisect_left(self._groups, start, key=_last_key)
        groups = self._groups[low : bisect_left(self._groups, stop, key=_first_key)]
        try:
            for group in reversed(groups) if reverse else groups:
                yield from self._runs_of_group(group, start, stop, reverse=reverse)
        except RepeatedKey as repeated:
            found = f"key {repeated.key} of store {self.heap.name!r} in more than one shard"
            raise CorruptionError(self._home.path, found=found, expected="it in one of them") from None

    def _runs_of_group(self, group: Group, start: int, stop: int, *, reverse: bool) -> Iterator[Run]:
        """Yield those of parts that overlap, from memory once all of them were merged in ascending order."""
        source = self.heap.name, _first_key(group)
        kept = self._merged.find(source)
        if kept is not None:
            return self._kept_runs(kept, start, stop, reverse=reverse)
        if len(group) > 1 and not reverse and start <= _first_key(group) and _last_key(group) < stop:
            return self._merged.keeping(source, self._merge(group, start, stop))
        parts = [part for part in group if start <= part.last and part.first < stop]
        return self._merge(parts, start, stop, reverse=reverse)

    def _kept_runs(self, kept: list[Run], start: int, stop: int, *, reverse: bool) -> Iterator[Run]:
        places = places_between(kept, start, stop)
        for at in reversed(places) if reverse else places:
            self._home._check_open()
            run = kept[at]
            part = clip_run(run, start, stop)
            if isinstance(part, InterleavedRun) and part is run and self._is_worth(part):
                part = part.part(0, len(part))  # another object: what is kept is given to many
                part.settle = partial(self._in_memory, kept, at)
            if len(part):
                yield part

    def _is_worth(self, run: InterleavedRun) -> bool:
        """Tell whether records are so small that they take longer to be put in order than to be read."""
        return not self.heap.is_remote and 0 < run.length * self.heap.item_size <= SMALL_RECORD

    def _in_memory(self, kept: list[Run], at: int) -> Run:
        """Return kept rows whose records are about to be copied with these in memory, if there is room."""
        run = kept[at]
        if not isinstance(run, InterleavedRun):  # another thread was here
            return run
        if not self._merged.has_room(run.keys.nbytes + run.length * self.heap.item_size * len(run) - run.size):
            return run
        made = self.heap.in_memory(run)
        there = self._merged.replace(kept, at, made)
        if there is not made:
            self.heap.arrays.pop(made.chunk, None)
        return there

    def _merge(self, group: Group, start: int, stop: int, *, reverse: bool = False) -> Iterator[Run]:
        streams = [self._runs_of(part, start, stop, reverse=reverse) for part in group]
        return streams[0] if len(streams) == 1 else merge(streams, reverse=reverse)

    def runs_by_part(self) -> Iterator[Run]:
        """Yield all rows, those of one part after the other."""
        self._home._check_open()
        for part in self._parts:
            yield from self._runs_of(part, 0, KEY_END, reverse=False)

    def _runs_of(self, part: Part, start: int, stop: int, *, reverse: bool) -> Iterator[Run]:
        binding = part.open()
        for run in binding.runs(start, stop, reverse=reverse):
            yield self.heap.take_over(run, binding.heap)

    def end_key(self, *, reverse: bool) -> int | None:
        """Return the lowest key, or the highest; None if there is no record."""
        self._home._check_open()
        for group in reversed(self._groups) if reverse else self._groups:
            found = [part.open().end_key(reverse=reverse) for part in group]
            ends = [key for key in found if key is not None]
            if ends:
                return max(ends) if reverse else min(ends)
        return None

    def record_count(self) -> int:
        """Return how many records the store has."""
        self._home._check_open()
        return sum(part.record_count for part in self._parts)

    def figures(self) -> None:
        """Return None: each shard has its own."""

    def attributes(self) -> NoReturn:
        """Refuse: each shard has its own."""
        raise Error("shards have no attributes together; open one of them as a database to see those that it has")

    def version(self) -> int:
        """Return the same number always."""
        self._home._check_open()
        return 0

    # ------------------------------------------------------------------ writing

    def writing(self) -> NoReturn:
        """Refuse."""
        raise ReadOnlyError("shards are for reading; write another set of them")

    def maker_of_objects(self, cls: type[Any]) -> Callable[[Extent], Any]:
        """Return what makes a copy of an object."""
        return maker_of_copies(self.heap, cls)

    def live_array(self, extent: Extent) -> None:
        """Return None: nothing may be changed here."""

    def at_one_commit(self) -> ShardedBinding:
        """Return this: nobody writes to shards."""
        return self

    def home(self) -> Any:
        """Return what gives this store by its name."""
        return self._home


def _groups(parts: Sequence[Part]) -> list[Group]:
    """Return parts, given by their lowest keys, in groups such that only parts of one group overlap."""
    groups: list[list[Part]] = []
    reach = -1
    for part in parts:
        if part.first > reach:
            groups.append([])
        groups[-1].append(part)
        reach = max(reach, part.last)
    return list(groups)


def _first_key(group: Group) -> int:
    return group[0].first


def _last_key(group: Group) -> int:
    return max(part.last for part in group)
