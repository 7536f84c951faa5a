"""Whether all commits up to the checkpoint are there: asked of chunk files when there is no index.

The superblock has a CRC of how far each chunk reached. If the files give another one, a file is missing, or is an
older copy of itself. Which one it is, and which commits are lost with it, follows from the commits that are there.
Earlier versions wrote no such CRC; then those commits are all that there is to decide by.

Each commit up to the checkpoint was on disk, in as many parts as it says. Parts disappear only with whole files:
with chunks that compaction replaced, or whose store was dropped. If parts or commits are missing that no file that
is gone can have had, then a file that is there has lost them.

Ids of chunks are given in order, so the first commit of a chunk is never before that of one with a lower id. A file
that is gone had parts of no commit before that, nor of one after the commit that replaced it, where that is known.
Of each commit it had one part at most.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate, pairwise, zip_longest

from ..chunks.segment import Segment
from ..disk.paths import Paths
from ..disk.superblock import Superblock, crc_of_heads
from ..errors import CorruptionError
from .commit_log import Log, dropped_stores, replaced_chunks

_MOST_NAMES = 8
"""How many files a message names."""
Span = tuple[int, int]


def check_commits(paths: Paths, log: Log, superblock: Superblock) -> None:
    """Raise if a commit up to the checkpoint, or a part of one, is lost.

    Parameters
    ----------
    paths : Paths
    log : Log
        All of it: with no index.
    superblock : Superblock
        As of whose checkpoint it was read.
    """
    commits: dict[int, list[Segment]] = {}
    for segment in log.segments:
        if segment.commit <= log.base:
            commits.setdefault(segment.commit, []).append(segment)
    for parts in commits.values():
        _check_same(paths, parts)
    if superblock.heads is not None and _crc_of_heads(log) == superblock.heads:
        return
    gone = _Gone(log, superblock.next_chunk)
    missing = list(_missing(commits, log.base))
    lost = [(first, last) for first, last, count in missing if gone.count_at(first) < count]
    if superblock.heads is not None:
        lost = lost or _latest(missing)
        if not lost:
            raise _different(paths, log)
    if lost:
        raise _incomplete(paths, log, lost[0][0], lost[-1][1])


def _crc_of_heads(log: Log) -> int:
    """Return the CRC of how far all chunks reach that the checkpoint let stay."""
    left_out = replaced_chunks(log, log.base)
    dropped = dropped_stores(log, log.base)
    return crc_of_heads(
        {
            segment.chunk: segment.low  # of each chunk the last one comes last
            for segment in log.segments
            if segment.commit <= log.base
            and segment.chunk not in left_out
            and log.chunks[segment.chunk].header.store not in dropped
        }
    )


def _latest(missing: list[tuple[int, int, int]]) -> list[Span]:
    """Return the last of the missing commits that follow one another: most likely no file that is gone had them."""
    found: list[Span] = []
    for first, upto, _ in reversed(missing):
        if found and found[-1][0] > upto + 1:
            break
        found.append((first, upto))
    return found[::-1]


def _check_same(paths: Paths, parts: list[Segment]) -> None:
    """Raise if the parts of a commit are not of the same one: a file is from another history."""
    if len({(part.parts, part.epoch) for part in parts}) == 1 and len({part.part for part in parts}) == len(parts):
        return
    names = _names(paths, [part.chunk for part in parts])
    raise CorruptionError(
        paths.chunk(parts[0].chunk),
        offset=parts[0].low,
        found=f"parts of different commits {parts[0].commit} in {names}",
        expected="parts of one",
        advice="put back these files as they were at one time; nothing was changed",
    )


def _missing(commits: dict[int, list[Segment]], last: int) -> Iterator[tuple[int, int, int]]:
    """Yield which commits are not there, from the first of a span to its last, and how many parts they miss."""
    for before, commit in pairwise([0, *sorted(commits), last + 1]):
        if commit > before + 1:
            yield before + 1, commit - 1, 1
        lacking = commits[commit][0].parts - len(commits[commit]) if commit in commits else 0
        if lacking:
            yield commit, commit, lacking


class _Gone:
    """The chunk files that are gone, and how many of them may have had a part of a commit."""

    def __init__(self, log: Log, next_chunk: int) -> None:
        self._there = sorted({*log.chunks, *log.debris})
        self._next_chunk = next_chunk
        firsts = sorted((id_, commit) for id_, commit in _first_commits(log).items())
        self._ids = [id_ for id_, _ in firsts]
        self._firsts = list(accumulate((commit for _, commit in firsts), max))
        ends = {
            old: first
            for id_, first in firsts
            for old in log.chunks[id_].header.replaces
            if old not in log.chunks and old < next_chunk
        }
        self._ends = sorted((last, old) for old, last in ends.items())
        self._count = lru_cache(maxsize=1 << 16)(self._count_between)

    def count_at(self, commit: int) -> int:
        """Return how many of them may have had a part of a commit."""
        later = bisect_right(self._firsts, commit)
        stop = self._ids[later] if later < len(self._ids) else self._next_chunk
        return self._count(bisect_right(self._ends, (commit, 0)), stop)

    def _count_between(self, ended: int, stop: int) -> int:
        """Return how many are gone whose ids are below `stop`, but for the first `ended` that were replaced."""
        below = stop - 1 - bisect_right(self._there, stop - 1)
        return below - sum(old < stop for _, old in self._ends[:ended])


def _first_commits(log: Log) -> dict[int, int]:
    """Return the first commit of each chunk that has any."""
    return {segment.chunk: segment.commit for segment in reversed(log.segments)}


def _last_commits(log: Log) -> dict[int, int]:
    """Return the last commit of each chunk that has any."""
    return {segment.chunk: segment.commit for segment in log.segments if segment.commit <= log.base}


def _incomplete(paths: Paths, log: Log, first: int, last: int) -> CorruptionError:
    suspects = _suspects(log, first, last)
    names = _names(paths, suspects) or "a chunk file"
    which = f"commit {first}" if first == last else f"commits {first} to {last}"
    return CorruptionError(
        paths.chunk(suspects[0]) if len(suspects) == 1 else paths.chunks,
        found=f"{which}, or parts of them, missing from {names}",
        expected=f"all commits up to {log.base}",
        advice="put back the newest copy of this file; nothing was changed",
    )


def _different(paths: Paths, log: Log) -> CorruptionError:
    return CorruptionError(
        paths.chunks,
        found="other chunk files, or other ends of their directories",
        expected=f"those as of commit {log.base}",
        advice="put back the files that belong here; nothing was changed",
    )


def _suspects(log: Log, first: int, last: int) -> list[int]:
    """Return the chunks that may have had commits: they end before them, and their store had not gone on then.

    If some of these hold nothing at all, it is most likely them.
    """
    firsts, ends = _first_commits(log), _last_commits(log)
    by_store: dict[int, list[int]] = defaultdict(list)
    for chunk in sorted(log.chunks):
        by_store[log.chunks[chunk].header.store].append(chunk)
    found = list(log.debris)
    for chunks in by_store.values():
        for chunk, later in zip_longest(chunks, chunks[1:]):
            if ends.get(chunk, 0) < first and (later is None or firsts.get(later, last) >= last):
                found.append(chunk)
    return sorted([chunk for chunk in found if chunk not in ends] or found)


def _names(paths: Paths, chunks: list[int]) -> str:
    names = [paths.chunk(chunk).rpartition("/")[2] for chunk in sorted(set(chunks))]
    more = ["others"] if len(names) > _MOST_NAMES else []
    return " or ".join(names[:_MOST_NAMES] + more)
