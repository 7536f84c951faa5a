"""WrittenRows: what the directories of a store's chunks say of its records, in pieces of ascending keys. No index.

Of commits of many rows their directories, which are mapped, are read again for each piece; of small ones the rows
are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..chunks.segment import Segment
from ..runs.extent import KEY_END, RowArray, concatenate, empty_rows, is_sorted, without_tombstones
from ..runs.run import ArrayRun, Run, clip_run, first_key, last_key

PIECE_ROWS = 1 << 18
"""How many rows are looked at together, at most."""
SMALL = 1 << 10
"""The rows of commits of fewer than this are kept."""

Commits = npt.NDArray[np.uint64]


class _Part(NamedTuple):
    """Rows of ascending keys, and the commit of all, or of each."""

    run: Run
    commits: Commits

    def clip(self, start: int, stop: int) -> _Part:
        run = clip_run(self.run, start, stop)
        if len(self.commits) == 1 or len(run) == len(self.run):
            return _Part(run, self.commits)
        first = int(np.searchsorted(self.run.key_column, np.uint64(start))) if isinstance(self.run, ArrayRun) else 0
        return _Part(run, self.commits[first : first + len(run)])

    def key_in_the_middle(self) -> int:
        return self.run.extent(len(self.run) // 2)[0]


class WrittenRows:
    """The rows of all commits of one store, of which the later ones win.

    Takes memory by the number of commits, for those of few rows 40 bytes a row, and for a piece; by no other rows.
    """

    def __init__(self) -> None:
        self._large: list[_Part] = []
        self._small: list[tuple[RowArray, Commits]] = []
        self._recent: list[tuple[bytes, int]] = []
        self._recent_count = 0

    def add(self, segment: Segment) -> None:
        """Add the rows of a segment, in any order."""
        if len(segment.run) >= SMALL:
            self._large.append(_Part(segment.run, np.array([segment.commit], np.uint64)))
            return
        self._recent.append((segment.run.rows.tobytes(), segment.commit))
        self._recent_count += len(segment.run)
        if self._recent_count >= PIECE_ROWS:
            self._gather()

    def _gather(self) -> None:
        """Put the rows of small commits into arrays."""
        if self._recent:
            rows = np.frombuffer(b"".join([rows for rows, _ in self._recent]), empty_rows().dtype)
            counts = [len(rows) // empty_rows().itemsize for rows, _ in self._recent]
            commits = np.repeat(np.array([commit for _, commit in self._recent], np.uint64), counts)
            self._small.append(_latest(rows, commits))
        self._recent, self._recent_count = [], 0

    def pieces(self) -> Iterator[tuple[int, RowArray]]:
        """Yield the live rows that there should be, each piece with the key that it ends before, up to the last."""
        for stop, parts in _pieces(self._parts(), 0, KEY_END):
            yield stop, without_tombstones(_laid_over(parts))

    def runs(self) -> Iterator[Run]:
        """Yield the rows that there should be, tombstones too, as consecutive runs.

        Where keys of commits are not among one another, their rows stay in the form that they have.
        """
        for _, parts in _pieces(self._parts(), 0, KEY_END):
            ordered = sorted((part.run for part in parts), key=first_key)
            if all(last_key(before) < first_key(after) for before, after in pairwise(ordered)):
                yield from ordered
            else:
                yield ArrayRun(_laid_over(parts))

    def _parts(self) -> list[_Part]:
        self._gather()
        if not self._small:
            return list(self._large)
        rows, commits = _latest(*_joined(self._small))
        self._small = [(rows, commits)]
        return [*self._large, _Part(ArrayRun(rows), commits)]


def _pieces(parts: Sequence[_Part], start: int, stop: int) -> Iterator[tuple[int, list[_Part]]]:
    """Yield what parts have in each piece of a range of keys, with the key that it ends before."""
    parts = [part for part in (part.clip(start, stop) for part in parts) if len(part.run)]
    middle = _middle(parts) if parts else start
    if sum(len(part.run) for part in parts) > PIECE_ROWS and middle > start:
        yield from _pieces(parts, start, middle)
        yield from _pieces(parts, middle, stop)
    else:
        yield stop, parts


def _middle(parts: Sequence[_Part]) -> int:
    """Return a key that has a quarter of all rows on either side, or more: the median of those in the middle."""
    ordered = sorted((part.key_in_the_middle(), len(part.run)) for part in parts)
    upto = np.cumsum([count for _, count in ordered])
    return ordered[int(np.searchsorted(upto, upto[-1] / 2))][0]


def _laid_over(parts: Sequence[_Part]) -> RowArray:
    """Return the rows of parts, of each key the latest one."""
    return _latest(*_joined([(part.run.rows, part.commits) for part in parts]))[0]


def _joined(parts: Sequence[tuple[RowArray, Commits]]) -> tuple[RowArray, Commits]:
    commits = [commits if len(commits) == len(rows) else commits.repeat(len(rows)) for rows, commits in parts]
    return concatenate([rows for rows, _ in parts]), np.concatenate([np.empty(0, np.uint64), *commits])


def _latest(rows: RowArray, commits: Commits) -> tuple[RowArray, Commits]:
    """Return rows sorted by key, of equal keys that of the last commit."""
    keys = rows["key"]
    if is_sorted(keys):
        return rows, commits
    order = np.lexsort((commits, keys))
    keys = keys[order]
    order = order[np.append(keys[1:] != keys[:-1], True)]
    return rows.take(order), commits[order]
