"""h5py: a dataset of rows and one of keys; structs as a compound dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import ClassVar

import h5py
import numpy as np

from bench.data import Floats, Keys, Records
from bench.peers.base import AnyPeer, StructPeer
from bench.peers.rows import RowPeer, Rows

BLOCK_BYTES = 8 << 20


class Hdf5(AnyPeer):
    """One file, keys in memory."""

    package = "h5py"
    rows: Rows

    def open(self) -> None:
        self.file = h5py.File(self.settings.folder / "bench.h5", "a")
        if "keys" in self.file:
            self._use()

    def close(self) -> None:
        self.file.close()

    def _store(self, keys: Keys, values: np.ndarray) -> None:
        self.file["keys"], self.file["values"] = keys, values  # contiguous, as data of known size should be
        self._commit(durable=self.settings.durable)
        self._use()

    def _use(self) -> None:
        self.rows = Rows(self.file["keys"][:])
        self.values = self.file["values"]

    def _commit(self, *, durable: bool) -> None:
        self.file.flush()
        if durable:
            os.fsync(self.file.id.get_vfd_handle())


class Hdf5Rows(Hdf5, RowPeer):
    """A row for each array; single puts append rows to a chunked dataset."""

    most: ClassVar = {
        "fillsingly": 2_000,
        "overwrite": 2_000,
        "readrandom": 2_000,
    }

    def row(self, number: int) -> Floats:
        row: Floats = self.values[number]
        return row

    def _grow(self, count: int) -> None:
        width = self.settings.width
        if "keys" not in self.file:
            self.file.create_dataset("keys", (0,), np.uint64, maxshape=(None,), chunks=True)
            self.file.create_dataset("values", (0, width), np.float64, maxshape=(None, width))
        for name in ("keys", "values"):
            self.file[name].resize(len(self.file[name]) + count, axis=0)

    def fillsync(self, keys: Keys, values: Floats) -> None:
        for number, (key, value) in enumerate(zip(keys, values, strict=True)):
            self._grow(1)
            self.file["keys"][number] = key
            self.file["values"][number] = value
            self._commit(durable=True)
        self._use()

    def fillsingly(self, keys: Keys, values: Floats) -> None:
        self._grow(len(keys))
        self.file["keys"][:] = keys
        rows = self.file["values"]
        for number, value in enumerate(values):
            rows[number] = value
        self._commit(durable=self.settings.durable)
        self._use()

    def fillbatch(self, keys: Keys, values: Floats) -> None:
        self._store(keys, values)

    def overwrite(self, keys: Keys, values: Floats) -> None:
        for row, value in zip(self.rows.find_all(keys).tolist(), values, strict=True):
            self.values[row] = value
        self._commit(durable=self.settings.durable)

    def readmany(self, keys: Keys) -> Floats:
        # Its documentation warns of long lists of rows: reading all is faster.
        values: Floats = self.values[:][self.rows.find_all(keys)]
        return values.ravel()

    def _blocks(self) -> Iterator[Floats]:
        step = max(1, BLOCK_BYTES // (8 * self.settings.width))
        for start in range(0, len(self.values), step):
            yield self.values[start : start + step]

    def readseq(self) -> tuple[int, float]:
        keys = iter(self.rows.keys.tolist())
        count, total = 0, 0.0
        for block in self._blocks():
            for value, _key in zip(block, keys, strict=False):
                count += 1
                total += value[-1]
        return count, total

    def scansum(self) -> Floats:
        sums: Floats = np.concatenate([block.sum(axis=1) for block in self._blocks()])
        return sums[self.rows.order]


class Hdf5Compound(Hdf5, StructPeer):
    """A compound dataset, of which one field can be read."""

    most: ClassVar = {"fieldread": 2_000, "fieldwrite": 2_000}

    def fillstructs(self, keys: Keys, records: Records) -> None:
        self._store(keys, records)

    def scancolumn(self) -> float:
        return float(self.values.fields("x")[:].mean())

    def fieldread(self, keys: Sequence[int]) -> float:
        column, find, total = self.values.fields("x"), self.rows.find, 0.0
        for key in keys:
            total += column[find(key)]
        return total

    def fieldwrite(self, keys: Sequence[int]) -> None:
        field = np.zeros(1, [("x", np.float64)])
        for number, key in enumerate(keys):
            field["x"] = number
            self.values[self.rows.find(key), "x"] = field
        self._commit(durable=self.settings.durable)
