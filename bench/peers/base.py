"""What a peer is: the workloads, each defined here once, as methods to override."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench.data import Floats, Keys


@dataclass(frozen=True)
class Settings:
    """What a peer is told before it is opened.

    Parameters
    ----------
    folder : Path
        Its own folder, which exists and is empty when the peer is opened first.
    durable : bool
        Whether a commit must be on disk when it returns.
    width : int
        Items of a record. Only to size things: a peer stores arrays of any length.
    nbytes : int
        Bytes of all values together, for those that must reserve space.
    """

    folder: Path
    durable: bool
    width: int
    nbytes: int


class Peer:
    """A map ``uint64 -> float64[]`` on disk, used as its own documentation recommends.

    A peer takes part in the workloads whose methods it overrides; ``open``, ``close``, ``get`` and
    ``scansum``, by which fills are checked, it must have. The loops of single reads touch the last item
    of each array, so that a value that was not really fetched is found out.

    Parameters
    ----------
    settings : Settings
        Where and how.
    """

    package: ClassVar[str]

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def has(cls, workload: str) -> bool:
        """Whether this peer takes part."""
        return getattr(cls, workload) is not getattr(Peer, workload)

    def open(self) -> None:
        """Create the database, or open it as it is."""
        raise NotImplementedError

    def close(self) -> None:
        """Close it; it may be opened again."""
        raise NotImplementedError

    def get(self, key: int) -> Floats:
        """One record."""
        raise NotImplementedError

    def fillsync(self, keys: Keys, values: Floats) -> None:
        """Put each record in a commit of its own, durable whatever the settings say."""
        raise NotImplementedError

    def fillrandom(self, keys: Keys, values: Floats) -> None:
        """Put records one at a time as they come, in no order, all in one commit."""
        raise NotImplementedError

    def fillbatch(self, keys: Keys, values: Floats) -> None:
        """Store all records, which come in key order, in one commit, the fastest way there is."""
        raise NotImplementedError

    def readrandom(self, keys: Sequence[int]) -> float:
        """Sum of the last items of the records, each fetched on its own as a NumPy array."""
        raise NotImplementedError

    def readmissing(self, keys: Sequence[int]) -> int:
        """How many of the keys are there, each looked up on its own."""
        raise NotImplementedError

    def readmany(self, keys: Keys) -> Floats:
        """Return the records of the keys, in the order of the keys, end to end in one array."""
        raise NotImplementedError

    def readseq(self) -> tuple[int, float]:
        """Return the number of records and the sum of their last items, going through all of them singly.

        The key of each must be at hand as an integer.
        """
        raise NotImplementedError

    def scansum(self) -> Floats:
        """Return the sum of every record, in key order, the fastest way there is."""
        raise NotImplementedError
