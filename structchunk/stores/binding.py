"""Binding: what a store reads and writes through. Databases, transactions, snapshots and shards have one each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..engine.staging import Staging
from ..errors import Error
from ..runs.extent import Extent, Run
from ..runs.run import Piece
from .batches import Mapped


class Binding(Protocol):
    """What a store reads and writes through: the latest commit, a transaction or a snapshot."""

    @property
    def heap(self) -> Mapped:
        """Where its records lie."""

    def find(self, key: int) -> Extent | None:
        """Return the extent of a key, or None."""

    def lookup(self, keys: npt.NDArray[np.uint64]) -> Run:
        """Return one row per key, in ascending order, repeated or not; a tombstone for the key that has none."""

    def pieces(self, start: int, stop: int, *, reverse: bool = False) -> Iterator[Piece]:
        """Yield the live rows of a key range as consecutive pieces."""

    def record_count(self) -> int:
        """Return how many records the store has."""

    def version(self) -> int:
        """Return a number that changes whenever the answers above may have."""

    def writing(self) -> AbstractContextManager[Staging]:
        """Enter the transaction that a write belongs to; one of its own outside of any."""

    def open_staging(self) -> Staging | None:
        """Return the open transaction's staging, or None outside of one."""

    def home(self) -> Any:
        """Return the database; raise TypeError where what is seen of it could not be found again."""

    def live_array(self, extent: Extent) -> npt.NDArray[Any] | None:
        """Return an extent's items for changing in place, or None where that is not allowed."""


def lent(binding: Binding, staging: Staging, extent: Extent) -> npt.NDArray[Any]:
    """Return what a binding lends of a record that it has just made; raise if it lends nothing."""
    array = binding.live_array(extent)
    if array is None:
        staging.allocator.check_storable()  # a signal handler may have closed the database meanwhile
        raise Error(
            "other processes write this database too, so what changes in place lives in a transaction only: "
            "with db.transaction() as txn: txn[name].new(...); or use put()"
        )
    return array
