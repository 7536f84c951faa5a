"""zarr: a chunked array of rows and one of keys, in a folder."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import zarr

from bench.data import Floats, Keys
from bench.peers.base import settle
from bench.peers.rows import RowPeer, Rows

CHUNK_BYTES = 1 << 20  # "at least 1 MB", says its documentation


class Zarr(RowPeer):
    """A row for each array; single writes rewrite a chunk."""

    package = "zarr"
    most: ClassVar = {"fillsync": 20, "fillsingly": 50, "overwrite": 50, "readrandom": 100}
    keys: Any
    values: Any

    def open(self) -> None:
        if (self.settings.folder / "values").exists():
            self.values = zarr.open_array(self.settings.folder / "values", mode="r+")
            self.keys = zarr.open_array(self.settings.folder / "keys", mode="r+")
            self.rows = Rows(self.keys[:])

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def _create(self, count: int) -> None:
        folder, width = self.settings.folder, self.settings.width
        rows = max(1, CHUNK_BYTES // (8 * width))
        self.keys = zarr.create_array(folder / "keys", shape=(count,), chunks=(rows,), dtype=np.uint64)
        self.values = zarr.create_array(
            folder / "values", shape=(count, width), chunks=(rows, width), dtype=np.float64
        )

    def _commit(self) -> None:
        if self.settings.durable:
            settle(self.settings.folder)

    def row(self, number: int) -> Floats:
        row: Floats = self.values[number]
        return row

    def fillsync(self, keys: Keys, values: Floats) -> None:
        self._create(0)
        for number, (key, value) in enumerate(zip(keys, values, strict=True)):
            self.keys.resize(number + 1)
            self.values.resize((number + 1, self.settings.width))
            self.keys[number], self.values[number] = key, value
            settle(self.settings.folder)
        self.rows = Rows(keys)

    def fillsingly(self, keys: Keys, values: Floats) -> None:
        self._create(len(keys))
        self.keys[:] = keys
        for number, value in enumerate(values):
            self.values[number] = value
        self._commit()
        self.rows = Rows(keys)

    def fillbatch(self, keys: Keys, values: Floats) -> None:
        self._create(len(keys))
        self.keys[:], self.values[:] = keys, values
        self._commit()
        self.rows = Rows(keys)

    def overwrite(self, keys: Keys, values: Floats) -> None:
        for row, value in zip(self.rows.find_all(keys).tolist(), values, strict=True):
            self.values[row] = value
        self._commit()

    def readmany(self, keys: Keys) -> Floats:
        values: Floats = self.values.oindex[self.rows.find_all(keys)]
        return values.ravel()

    def readseq(self) -> tuple[int, float]:
        keys = iter(self.rows.keys.tolist())
        count, total = 0, 0.0
        step = 8 * self.values.chunks[0]
        for start in range(0, len(self.rows.keys), step):
            for value, _key in zip(self.values[start : start + step], keys, strict=False):
                count += 1
                total += value[-1]
        return count, total

    def scansum(self) -> Floats:
        sums: Floats = self.values[:].sum(axis=1)
        return sums[self.rows.order]
