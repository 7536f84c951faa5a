"""NumPy's own limit: one flat file, mapped, with its keys and offsets in arrays. Not a store."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bench.data import READING, Floats, Keys, Records
from bench.peers.base import Peer, StructPeer, settle

PART = 1 << 16
"""Records that a thread sums at a time."""


class MemMap(Peer):
    """What is left when nothing can change: no transactions, no puts, no lookups of single keys."""

    package = "numpy"

    def open(self) -> None:
        folder = self.settings.folder
        if (folder / "values").exists():
            self.keys: Keys = np.load(folder / "keys.npy")
            self.offsets = np.load(folder / "offsets.npy")
            # As a plain array: the subclass costs time in every slice.
            self.values: Floats = np.asarray(np.memmap(folder / "values", np.float64, mode="r"))

    def close(self) -> None:
        del self.keys, self.offsets, self.values

    def get(self, key: int) -> Floats:
        at = self.keys.searchsorted(np.uint64(key))
        return self.values[self.offsets[at] : self.offsets[at + 1]]

    def fillbatch(self, keys: Keys, values: Floats) -> None:
        folder = self.settings.folder
        mapped = np.memmap(folder / "values", np.float64, mode="w+", shape=values.size)
        mapped[:] = values.ravel()
        np.save(folder / "keys.npy", keys)
        np.save(folder / "offsets.npy", np.arange(0, values.size + 1, values.shape[1]))
        if self.settings.durable:
            mapped.flush()
            settle(folder)
        self.open()

    def readmany(self, keys: Keys) -> Floats:
        rows = self.values.reshape(-1, self.settings.width)
        return rows[self.keys.searchsorted(keys)].ravel()

    def readseq(self) -> tuple[int, float]:
        count, total = 0, 0.0
        ends = self.offsets.tolist()
        for _key, start, stop in zip(self.keys.tolist(), ends[:-1], ends[1:], strict=True):
            count += 1
            total += self.values[start:stop][-1]
        return count, total

    def scansum(self) -> Floats:
        return np.add.reduceat(self.values, self.offsets[:-1])

    def scanall(self) -> Floats:
        def sums(low: int) -> Floats:
            starts = self.offsets[low : low + PART + 1]
            return np.add.reduceat(self.values[: starts[-1]], starts[:-1])

        with ThreadPoolExecutor() as pool:
            return np.concatenate(list(pool.map(sums, range(0, len(self.keys), PART))))


class MemMapStructs(StructPeer):
    """A structured array in a file."""

    package = "numpy"

    def open(self) -> None:
        folder = self.settings.folder
        if (folder / "records").exists():
            self.keys: Keys = np.load(folder / "keys.npy")
            self.records: Records = np.asarray(np.memmap(folder / "records", READING, mode="r+"))

    def close(self) -> None:
        del self.keys, self.records

    def fillstructs(self, keys: Keys, records: Records) -> None:
        folder = self.settings.folder
        records.tofile(folder / "records")
        np.save(folder / "keys.npy", keys)
        if self.settings.durable:
            settle(folder)
        self.open()

    def scancolumn(self) -> float:
        return float(self.records["x"].mean())

    def fieldread(self, keys: Sequence[int]) -> float:
        find, column, total = self.keys.searchsorted, self.records["x"], 0.0
        for key in keys:
            total += column[find(np.uint64(key))]
        return total

    def fieldwrite(self, keys: Sequence[int]) -> None:
        find, column = self.keys.searchsorted, self.records["x"]
        for number, key in enumerate(keys):
            column[find(np.uint64(key))] = number
