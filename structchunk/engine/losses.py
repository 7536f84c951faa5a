"""What goes with chunk files: which commits of a store cannot be told any more when some of them are replaced."""

from __future__ import annotations

from collections.abc import Iterable

from ..chunks.chunk import Chunk
from ..chunks.directory import First, first_of, later_than
from ..chunks.header import History
from ..chunks.segment import SEGMENT_SIZE

NOTHING = History(0)


def known_position(chunk: Chunk, since: int) -> int:
    """Return a position in the directory above which there is nothing of commits after one."""
    commit, position = chunk.passed
    return position if commit <= since else chunk.header.file_size


def gone_from(chunks: Iterable[Chunk], commit: int) -> tuple[History, set[int]]:
    """Return what went with chunks that were replaced as of a commit, and which those are."""
    found, replaced = NOTHING, set[int]()
    for chunk in chunks:
        first = _first(chunk) if chunk.header.replaces else None
        if first is None or first.commit > commit:
            continue
        if first.is_moved:
            replaced |= set(chunk.header.replaces)
        found = _both(found, _history(chunk, first))
    return found, replaced


def _first(chunk: Chunk) -> First | None:
    end = chunk.header.file_size
    chunk.fetch(end - SEGMENT_SIZE, end)
    return first_of(chunk.source, end, chunk.id)


def _history(chunk: Chunk, first: First) -> History:
    """Return what went with the chunks that one replaces; as much as may have, where nothing says so."""
    if not first.is_moved:  # of version 1: nothing says whether it moved records, or changed them
        return History(first.commit)
    return chunk.header.history or History(first.commit - 1)


def _both(one: History, other: History) -> History:
    upto = max(one.upto, other.upto)
    return History(upto, tuple(sorted(each for each in {*one.moved, *other.moved} if each > upto)))


def going_with(chunks: Iterable[Chunk], last: int) -> History:
    """Return what goes with chunks that are about to be replaced; all up to the last commit if one is damaged."""
    found = NOTHING
    for chunk in filter(lambda chunk: chunk.is_committed, chunks):
        found = _both(found, _in_chunk(chunk) or History(last))
    return found


def _in_chunk(chunk: Chunk) -> History | None:
    """Return what goes with a chunk, or None if that cannot be read any more."""
    first = _first(chunk)
    if first is None:
        return None
    found = _history(chunk, first) if chunk.header.replaces else NOTHING
    copied = first.commit if first.is_moved else 0
    later = later_than(chunk.source, known_position(chunk, copied), chunk.directory, copied, chunk.id)
    if later.low != chunk.directory:
        return None
    changed = History(int(later.commits[-1]) if len(later.commits) else 0)
    return _both(_both(found, changed), History(0, (copied,)))
