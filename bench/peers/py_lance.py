"""Lance: versioned columnar datasets with quick access to single rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import lance
import numpy as np

from bench.data import Floats, Keys, Records
from bench.peers.base import AnyPeer, StructPeer, settle
from bench.peers.columns import flat, sums, table_of, table_of_structs, walk
from bench.peers.rows import RowPeer, Rows


class LanceDataset(AnyPeer):
    """One dataset, keys in memory."""

    package = "pylance"
    rows: Rows

    def open(self) -> None:
        self.path = self.settings.folder / "bench.lance"
        if self.path.exists():
            self.dataset: Any = lance.dataset(self.path)
            self.rows = Rows(self.dataset.to_table(columns=["key"])["key"].to_numpy())

    def close(self) -> None:
        del self.dataset

    def _write(self, table: Any) -> None:
        lance.write_dataset(table, self.path, mode="create")
        if self.settings.durable:
            settle(self.path)
        self.open()


class LanceLists(LanceDataset, RowPeer):
    """A list column."""

    most: ClassVar = {"fillsync": 20, "readrandom": 100}

    def row(self, number: int) -> Floats:
        return flat(self.dataset.take([number], columns=["value"])["value"])

    def fillsync(self, keys: Keys, values: Floats) -> None:
        for number in range(len(keys)):
            table = table_of(keys[number : number + 1], values[number : number + 1])
            lance.write_dataset(table, self.path, mode="append" if number else "create")
            settle(self.path)
        self.open()

    def fillbatch(self, keys: Keys, values: Floats) -> None:
        self._write(table_of(keys, values))

    def readmany(self, keys: Keys) -> Floats:
        return flat(self.dataset.take(self.rows.find_all(keys), columns=["value"])["value"])

    def readseq(self) -> tuple[int, float]:
        return walk(self.dataset.to_batches())

    def scansum(self) -> Floats:
        found = np.concatenate([sums(batch["value"]) for batch in self.dataset.to_batches(columns=["value"])])
        return found[self.rows.order]


class LanceColumns(LanceDataset, StructPeer):
    """A column for each field."""

    most: ClassVar = {"fieldread": 100}

    def fillstructs(self, keys: Keys, records: Records) -> None:
        self._write(table_of_structs(keys, records))

    def scancolumn(self) -> float:
        return float(self.dataset.to_table(columns=["x"])["x"].to_numpy().mean())

    def fieldread(self, keys: Sequence[int]) -> float:
        total = 0.0
        for key in keys:
            total += self.dataset.take([self.rows.find(key)], columns=["x"])["x"][0].as_py()
        return total
