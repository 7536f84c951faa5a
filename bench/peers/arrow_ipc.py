"""Arrow IPC files, memory-mapped, with NumPy over them. They cannot change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from bench.data import Floats, Keys, Records
from bench.peers.base import AnyPeer, StructPeer, settle
from bench.peers.columns import flat, ragged, sums, table_of, table_of_structs, walk
from bench.peers.rows import RowPeer, Rows


class ArrowFile(AnyPeer):
    """One file with one record batch, keys in memory."""

    package = "pyarrow"
    rows: Rows

    def open(self) -> None:
        path = self.settings.folder / "bench.arrow"
        if path.exists():
            self.batch: Any = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
            self.rows = Rows(np.asarray(self.batch["key"]))
            self._use()

    def close(self) -> None:
        del self.batch

    def _use(self) -> None:
        raise NotImplementedError

    def _write(self, table: Any) -> None:
        path = str(self.settings.folder / "bench.arrow")
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        if self.settings.durable:
            settle(self.settings.folder)
        self.open()


class ArrowLists(ArrowFile, RowPeer):
    """A list column."""

    def close(self) -> None:
        del self.values, self.offsets
        super().close()

    def _use(self) -> None:
        self.values, self.offsets = ragged(self.batch["value"])

    def row(self, number: int) -> Floats:
        return self.values[self.offsets[number] : self.offsets[number + 1]]

    def fillbatch(self, keys: Keys, values: Floats) -> None:
        self._write(table_of(keys, values))

    def readmany(self, keys: Keys) -> Floats:
        return flat(pa.chunked_array([self.batch["value"].take(pa.array(self.rows.find_all(keys)))]))

    def readseq(self) -> tuple[int, float]:
        return walk([self.batch])

    def scansum(self) -> Floats:
        return sums(self.batch["value"])


class ArrowColumns(ArrowFile, StructPeer):
    """A column for each field."""

    def close(self) -> None:
        del self.column
        super().close()

    def _use(self) -> None:
        self.column: Floats = np.asarray(self.batch["x"])

    def fillstructs(self, keys: Keys, records: Records) -> None:
        self._write(table_of_structs(keys, records))

    def scancolumn(self) -> float:
        return float(self.column.mean())

    def fieldread(self, keys: Sequence[int]) -> float:
        find, column, total = self.rows.find, self.column, 0.0
        for key in keys:
            total += float(column[find(key)])
        return total
