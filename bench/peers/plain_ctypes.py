"""Plain ctypes objects in memory: the limit of what one attribute of an object costs. Not a store."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

from bench.data import READING, Keys, Reading, Records
from bench.peers.base import StructPeer


class PlainCtypes(StructPeer):
    """A dictionary of objects, which stays as it is when closed."""

    package = "python"

    def open(self) -> None:
        """Do nothing: there is no file."""

    def close(self) -> None:
        """Do nothing: there is no file."""

    def fillstructs(self, keys: Keys, records: Records) -> None:
        raw, size = bytearray(records.tobytes()), READING.itemsize
        objects = map(Reading.from_buffer, repeat(raw), range(0, len(raw), size))
        self.objects = dict(zip(keys.tolist(), objects, strict=True))

    def scancolumn(self) -> float:
        column: list[float] = [reading.x for reading in self.objects.values()]
        return sum(column) / len(column)

    def fieldread(self, keys: Sequence[int]) -> float:
        objects, total = self.objects, 0.0
        for key in keys:
            total += objects[key].x
        return total

    def fieldwrite(self, keys: Sequence[int]) -> None:
        objects = self.objects
        for number, key in enumerate(keys):
            objects[key].x = number

    def handread(self, key: int, count: int) -> float:
        reading, x = self.objects[key], 0.0
        for _ in repeat(None, count):
            x = reading.x
        return x

    def handwrite(self, key: int, count: int) -> None:
        reading = self.objects[key]
        for number in range(count):
            reading.x = number
