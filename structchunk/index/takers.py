"""Takers: what takes the record of a key from many that lie in the order of their keys. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from ..runs.run import Run
from ..runs.short_keys import ShortKeys
from .buckets import Buckets

Taker: TypeAlias = Callable[[int], Any]
"""Returns the record of a key, or None."""
NOTHING_TAKEN: tuple[object, Taker] = None, lambda _: None
"""What takes records from pages where that is not possible, or not yet: those of no kind."""


class Steps(NamedTuple):
    """So many keys that rise by the same step."""

    first: int
    step: int
    key_count: int


class Bucketed(NamedTuple):
    """Ascending keys, and buckets of them of which none is crowded."""

    keys: Sequence[int]
    buckets: Buckets


Searched: TypeAlias = Steps | Bucketed | ShortKeys
"""Keys among which one is found in few steps."""
Maker: TypeAlias = Callable[[Run, Searched], "Taker | None"]
"""Returns what takes the record of a key of a run; None if nothing ever can; or ``not_yet``."""


def not_yet(key: int) -> Any:
    """Stand for what will take records that cannot be taken yet."""
    raise NotImplementedError(key)


class Taking:
    """What takes records of one kind from pages.

    Attributes
    ----------
    taken : tuple of object and callable
        A kind of records, and what returns the record of a key, or None; no kind until that was made.
    is_prepared : bool
        Whether there is no more to be made.
    """

    __slots__ = ("is_prepared", "taken")

    def __init__(self) -> None:
        self.taken: tuple[object, Taker] = NOTHING_TAKEN
        self.is_prepared = False

    def take_by(self, kind: object, take: Taker | None) -> None:
        """Have what takes records of a kind, which is None if nothing ever can."""
        if take is not_yet:
            return
        if take is not None:
            self.taken = kind, take  # one assignment: another thread may do so for another kind
        self.is_prepared = True


def taking_records(records: Callable[[Run], Any]) -> Maker:
    """Return what makes takers from the records of a run, all of which `records` returns, or None."""

    def make(run: Run, searched: Searched) -> Taker | None:
        found = records(run)
        return None if found is None else taker(searched, found)

    return make


def taker(searched: Searched, records: Any) -> Taker:
    """Return what takes the record of a key from those of all, in their order."""
    if isinstance(searched, Steps):
        return _taker_in_steps(searched, records)
    if isinstance(searched, ShortKeys):
        return searched.taker(records)
    return _taker_from_buckets(searched, records)


def _taker_in_steps(steps: Steps, records: Any) -> Taker:
    first, step, count = steps

    def take(key: int) -> Any:
        at, rest = divmod(key - first, step)
        return None if rest or not 0 <= at < count else records[at]

    return take


def _taker_from_buckets(bucketed: Bucketed, records: Any) -> Taker:
    keys, (first, shift, starts, _) = bucketed

    def take(key: int) -> Any:
        try:
            at = starts[(key - first) >> shift]  # of any bucket, if it is below the first key: none will be equal
            while (found := keys[at]) < key:
                at += 1
        except IndexError:
            return None  # beyond the last key
        return records[at] if found == key else None

    return take
