"""What a peer is: the workloads, each defined here once, as methods to override."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench.data import Floats, Keys, Records


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


class AnyPeer:
    """A map from ``uint64`` on disk, used as its own documentation recommends.

    A peer takes part in the workloads whose methods it overrides.

    Parameters
    ----------
    settings : Settings
        Where and how.

    Attributes
    ----------
    package : str
        Whose version the report prints.
    most : dict of str to int
        Methods that would take too long in full, and how many records are enough.
    """

    package: ClassVar[str]
    most: ClassVar[Mapping[str, int]] = {}

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def has(cls, method: str) -> bool:
        """Whether this peer overrides a method."""
        found: str = getattr(cls, method).__module__
        return found != __name__

    def open(self) -> None:
        """Create the database, or open it as it is."""
        raise NotImplementedError

    def close(self) -> None:
        """Close it; it may be opened again."""
        raise NotImplementedError


class Peer(AnyPeer):
    """Arrays of float64 by key.

    ``open``, ``close``, ``get``, ``fillbatch`` and ``scansum``, by which writes are checked, it must have. The
    loops of single reads touch the last item of each array, so that a value that was not really fetched is
    found out.
    """

    def get(self, key: int) -> Floats:
        """One record."""
        raise NotImplementedError

    def fillsync(self, keys: Keys, values: Floats) -> None:
        """Put each record in a commit of its own, durable whatever the settings say."""
        raise NotImplementedError

    def fillsingly(self, keys: Keys, values: Floats) -> None:
        """Put records one at a time as they come, in any order, all in one commit."""
        raise NotImplementedError

    def fillbatch(self, keys: Keys, values: Floats) -> None:
        """Store all records, which come in key order, in one commit, the fastest way there is."""
        raise NotImplementedError

    def overwrite(self, keys: Keys, values: Floats) -> None:
        """Replace records that exist, one at a time, all in one commit."""
        raise NotImplementedError

    def put(self, key: int, value: Floats) -> None:
        """Put one record in a commit of its own, as durable as the settings say, or :meth:`share`."""
        raise NotImplementedError

    def refresh(self, key: int) -> Floats:
        """Bring a reader, opened by the first call, to the last commit of this writer; return one record of it."""
        raise NotImplementedError

    def share(self, durable: bool) -> None:
        """Open the database so that other processes may write to it, too; `durable` is for its commits."""
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

    def scanall(self) -> Floats:
        """Return the same as ``scansum``, with a thread for each core."""
        raise NotImplementedError


class StructPeer(AnyPeer):
    """Structs of type ``READING`` by key.

    ``open``, ``close``, ``fillstructs``, ``scancolumn`` and ``fieldread`` it must have.
    """

    def fillstructs(self, keys: Keys, records: Records) -> None:
        """Store all structs, which come in key order, in one commit, the fastest way there is."""
        raise NotImplementedError

    def scancolumn(self) -> float:
        """Return the mean of ``x`` over all structs, the fastest way there is."""
        raise NotImplementedError

    def fieldread(self, keys: Sequence[int]) -> float:
        """Sum of ``x`` of some structs, each looked up on its own."""
        raise NotImplementedError

    def fieldwrite(self, keys: Sequence[int]) -> None:
        """Set ``x`` of each struct, looked up on its own, to the position of its key: 0.0, 1.0, ..."""
        raise NotImplementedError

    def handread(self, key: int, count: int) -> float:
        """Look up one struct, read its ``x`` many times, and return it."""
        raise NotImplementedError

    def handwrite(self, key: int, count: int) -> None:
        """Look up one struct, and set its ``x`` to 0.0, 1.0, ..., one less than `count`."""
        raise NotImplementedError


def settle(folder: Path) -> None:
    """Bring the files of a folder to disk, for those that do not do it themselves."""
    for path in [folder, *folder.rglob("*")]:
        with suppress(FileNotFoundError):  # threads of open databases remove files
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
