"""Provision: reserves disk space before a commit or a checkpoint writes, so that neither finds the disk full then.

LevelDB does not recover from ENOSPC: its log may have a hole then, and it refuses all further writes. So the space
is taken before the first step that cannot be undone, and the reserve holds as much as LevelDB will need to make
tables of its logs, now or when the database is opened next.
"""

from __future__ import annotations

from functools import partial

from ..disk.reserve import Reserve
from ..index.index import Index, Prepared
from ..runs.extent import ROW_SIZE
from .commit import Part

BASE_SIZE = 64 << 10
"""What a reserve has at least: LevelDB's new log, manifest and table take a block each when it is opened."""
MAX_TABLES_SIZE = 8 << 20
"""As many bytes as the tables, up to this: so many LevelDB may write when it merges some, now or once opened."""
GRANT_SIZE = 16 << 10
"""Where there is plenty of room, commits of one row look only once they have logged as many bytes."""
_FIXED_SIZE = 128
"""What a batch has besides its rows: the number of the commit, and its own."""
_ROW_SIZE = 40
"""What it has for each chunk that a commit changed: a key and two numbers."""
_KEY_SIZE = 16
"""What it has for a key that is deleted."""


def take_space(reserve: Reserve, index: Index, parts: list[Part], prepared: Prepared, *, can_spend: bool) -> None:
    """Take all the space that a commit needs.

    Parameters
    ----------
    reserve, index : Reserve, Index
    parts : list of Part
    prepared : Prepared
    can_spend : bool
        Whether it has the reserve, provided that it only deletes, or compacts.

    Raises
    ------
    OSError
        ENOSPC; then nothing was written.
    """
    growth = index.leveldb.growth
    is_granted = growth.logged < reserve.granted
    if is_granted and len(parts) == 1 and len(parts[0].rows.body) <= ROW_SIZE and prepared.catalog is None:
        return _take_segments(parts)
    size = _batch_size(prepared)
    if can_spend and not _stores(parts):
        reserve.spend_on(partial(_take, reserve, parts, 2 * size))
        return None
    reserve.hold(_wanted_size(index, size))
    if _take(reserve, parts, 2 * size + growth.pending() + _merged_size(index)):
        reserve.granted = growth.logged + size + GRANT_SIZE
    return None


def _stores(parts: list[Part]) -> bool:
    """Tell whether a commit stores records that were not there."""
    return any(part.room.free != part.room.chunk.committed and not part.replaces for part in parts)


def _take(reserve: Reserve, parts: list[Part], size: int) -> bool:
    _take_segments(parts)
    return reserve.check_room(size)


def _take_segments(parts: list[Part]) -> None:
    for room, rows, _, _ in parts:
        room.chunk.clear(room.free)
        room.chunk.reserve_directory(len(rows.body))


def take_space_for_checkpoint(reserve: Reserve, index: Index, chunk_count: int, *, can_wait: bool) -> bool:
    """Take the space for a checkpoint that tells of so many chunks; tell whether there is any, if it can wait.

    Raises
    ------
    OSError
        ENOSPC, if it cannot wait; then nothing was written.
    """
    size = _FIXED_SIZE + _KEY_SIZE * index.commits + _ROW_SIZE * chunk_count
    try:
        reserve.spend_on(partial(reserve.check_room, 2 * size))
    except OSError:
        if not can_wait:
            raise
        return False
    return True


def renew(reserve: Reserve, index: Index) -> None:
    """Make the reserve as large as it should be, if there is room: for what opening takes in any case.

    For the rest only beside what LevelDB may be about to write. If the disk was full just now, and LevelDB will
    soon make a table of its log, it does so at once, before what was given up has gone.
    """
    growth = index.leveldb.growth
    if reserve.is_short and growth.pending():
        index.leveldb.empty_log()
    growth.measure_tables()
    reserve.renew(_wanted(growth.backlog(), index.commits, 0))
    size = _wanted_size(index)
    reserve.renew(size, leave=growth.pending() + _merged_size(index))
    reserve.trim(size)


def leave(reserve: Reserve, index: Index) -> None:
    """Make the reserve as large as it should be for who opens the database next: LevelDB writes no more."""
    index.leveldb.growth.measure_tables()
    size = _wanted(index.leveldb.logs_size(), index.commits, index.leveldb.growth.tables_size())
    reserve.renew(size)
    reserve.trim(size)


def _merged_size(index: Index) -> int:
    """Return how many bytes LevelDB may have to write when it merges tables."""
    return min(index.leveldb.growth.tables_size(), MAX_TABLES_SIZE)


def _wanted_size(index: Index, size: int = 0) -> int:
    """Return how large the reserve should be, with `size` bytes more in LevelDB's logs."""
    return _wanted(index.leveldb.growth.backlog() + size, index.commits, index.leveldb.growth.tables_size())


def _wanted(backlog: int, commits: int, tables_size: int) -> int:
    """Return how large the reserve should be.

    Whoever opens the database next makes tables of the logs; the checkpoint after that deletes a row for each
    commit; to drop a store takes a key for each page of its rows; and LevelDB merges the new tables with others.
    """
    return BASE_SIZE + backlog + backlog // 4 + _KEY_SIZE * commits + min(tables_size, MAX_TABLES_SIZE)


def _batch_size(prepared: Prepared) -> int:
    """Return how many bytes of LevelDB's log a commit takes, about."""
    size = _FIXED_SIZE + _KEY_SIZE * len(prepared.removed)
    for change in prepared.changes.values():
        size += change.size()
    for rewrite in prepared.rewrites.values():
        size += rewrite.size
    for figures in prepared.counts.values():
        size += _ROW_SIZE * len(figures)
    size += sum(len(note) for _, note in prepared.notes)
    return size + sum(len(value) for _, value in prepared.catalog_puts)
