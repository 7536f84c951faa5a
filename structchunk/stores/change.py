"""Change: what one commit, or several together, changed in one store. Holds rows; reads records when asked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..runs.extent import TOMBSTONE
from ..runs.run import ArrayRun, Run, read_only
from .batch import Batch
from .batches import MappedStore, batch_of_runs


class Change:
    """What a commit changed in one store. Made by ``db.changes()``.

    Attributes
    ----------
    commit : int
        Number of the commit; of net changes, the one that they lead to.
    store : str
        The store's name.
    kind : {"records", "created", "dropped"}
        ``"created"`` if the commit, or one of several, created the store; it may have put records as well.
        ``"dropped"``: the store is not there any more, nor what was in it. One that a commit altered is dropped
        and then created, with all its records, in another type.

    Notes
    -----
    No record is read before :meth:`batch`. The chunk files that have the records are kept, and take disk space, for
    as long as this lives: whatever is replaced, compacted or dropped meanwhile, and past ``close()``.
    """

    def __init__(self, commit: int, kind: str, stored: MappedStore, rows: Sequence[Run]) -> None:
        self.commit = commit
        self.store = stored.name
        self.kind = kind
        self._stored = stored
        self._rows = rows

    @cached_property
    def keys(self) -> npt.NDArray[np.uint64]:
        """The keys of the records that were put, ascending, shape (k,). Read-only."""
        return _joined([run.keys for run in self._put])

    @cached_property
    def deleted(self) -> npt.NDArray[np.uint64]:
        """The keys that were deleted, ascending, shape (d,). Read-only."""
        runs = [run.rows for run in self._rows if isinstance(run, ArrayRun)]  # no others have any
        return _joined([rows["key"][rows["flags"] & TOMBSTONE != 0] for rows in runs])

    @cached_property
    def _put(self) -> list[Run]:
        return [run for run in map(_without_tombstones, self._rows) if len(run)]

    def batch(self) -> Batch:
        """Return the records that were put, in the order of `keys`, as they were written then.

        Returns
        -------
        Batch
            A view of the file where the records lie back to back, else a copy. Records that may change in place
            (objects, arrays made by ``new()``) have their present bytes; once compaction has moved them, those of
            when it did.
        """
        return batch_of_runs(self._stored, self._put)

    def __repr__(self) -> str:
        counts = f"{len(self.keys)} put, {len(self.deleted)} deleted"
        return f"<Change of commit {self.commit}: store {self.store!r}, {self.kind}, {counts}>"


def _without_tombstones(run: Run) -> Run:
    if not isinstance(run, ArrayRun):
        return run
    alive = run.rows["flags"] & TOMBSTONE == 0
    return run if alive.all() else ArrayRun(run.rows.compress(alive))


def _joined(keys: Sequence[npt.NDArray[np.uint64]]) -> npt.NDArray[np.uint64]:
    if len(keys) == 1:
        return read_only(np.ascontiguousarray(keys[0], np.uint64).view())
    return read_only(np.concatenate([np.empty(0, np.uint64), *keys]))
