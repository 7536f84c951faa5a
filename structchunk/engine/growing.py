"""Growing: records of one store that a transaction makes longer, with room behind those that go on growing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..chunks.allocator import SPILL_SIZE, Allocator
from ..runs.extent import MUTABLE, Extent, unpack_row

MUCH = 64 << 20
"""So many bytes are collected in memory, at most, before records get their places."""


class Tail:
    """What is added to a record: to one that has its place, the base, or to none."""

    __slots__ = ("base", "data")

    def __init__(self, base: Extent | None, data: bytes) -> None:
        self.base = base
        self.data = bytearray(data)


class Room(NamedTuple):
    """A record with room behind it, where that ends, and its number: that of a later one is higher."""

    record: Extent
    end: int
    number: int


class Growing:
    """What a transaction adds to records, in memory until they are read or stored.

    The last record of a chunk is made longer where it lies, by bytes behind it. Another one of an earlier commit is
    not: recovery, copies, followers and rebuilding rely on it that what a commit writes lies in bytes of its own,
    which no later commit writes. So it is copied, once for each transaction, and is the last one then, until others
    are stored. Where the transaction reads such a record in between, begins a savepoint, or adds too much for
    memory, the copy gets room behind it, as much as it takes itself, which the next bytes go into: they belong to
    no view of before, and to this commit. What of the room is left at the end is garbage, for compaction. A record
    that is not read before the end gets none, nor does one that the transaction has made. Where bytes in the room
    were taken back, no others go there: views of them may be held.

    Attributes
    ----------
    tails : dict of int to Tail
        What has no place yet, by key.
    left : int
        So many bytes more may be collected before all records get their places.
    """

    def __init__(self, allocator: Allocator) -> None:
        self.tails: dict[int, Tail] = {}
        self._allocator = allocator
        self._rooms: dict[int, Room] = {}  # the one that was taken or used last is the last
        self._count = 0
        self.left = MUCH

    def make(self, key: int, data: bytes) -> None:
        """Begin a record."""
        self.tails[key] = Tail(None, data)

    def begin(self, base: Extent, data: bytes) -> None:
        """Begin to make a record longer. One that may change in place is taken as it is now."""
        if base[4] & MUTABLE:
            self.make(base[0], self._allocator.bytes_of(base) + data)
        else:
            self.tails[base[0]] = Tail(base, data)

    def made(self) -> Iterator[dict[int, bytes]]:
        """Yield the records that have no place at all, in order of key, about as many as are stored at once."""
        found: dict[int, bytes] = {}
        size = 0
        for key in sorted(key for key, tail in self.tails.items() if tail.base is None):
            found[key] = bytes(self.tails[key].data)
            size += len(found[key])
            if size > SPILL_SIZE:
                yield found
                found, size = {}, 0
        if found:
            yield found

    def forget(self, keys: Iterable[int]) -> None:
        """Note that records have their places."""
        self.left = MUCH
        for key in keys:
            self.tails.pop(key, None)

    def place(self, key: int, *, is_growing: bool) -> bytes:
        """Store a record with what was added to it; return its packed row. Its tail stays until that is staged."""
        self.left = MUCH
        tail = self.tails[key]
        base, data = tail.base, bytes(tail.data)
        if base is None:
            return self._allocator.put(key, data, len(data))
        room = self._rooms.pop(key, None)
        if room is not None and room.record == base and self._allocator.end_of(base) + len(data) <= room.end:
            row, end = self._allocator.lengthen(base, data), room.end
        elif (behind := self._allocator.put_behind(base, data)) is not None:
            return behind
        else:
            row, end = self._allocator.put_longer(key, base, data, is_growing=is_growing)
        longer = unpack_row(row)
        if end > self._allocator.end_of(longer):
            self._count += 1
            self._rooms[key] = Room(longer, end, self._count)
        return row

    def mark(self) -> int:
        """Return what :meth:`rewind` takes to come back to now, when all records have their places."""
        return self._count

    def rewind(self, mark: int) -> None:
        """Forget what has no place, and the room that was taken or used since: others may take it, or see it."""
        self.tails.clear()
        while self._rooms and next(reversed(self._rooms.values())).number > mark:
            self._rooms.popitem()
        self.left = MUCH
