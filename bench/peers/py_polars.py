"""Polars over memory-mapped Arrow IPC files. They cannot change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import polars as pl

from bench.data import Floats, Keys, Records
from bench.peers.base import AnyPeer, Peer, StructPeer, settle
from bench.peers.columns import table_of, table_of_structs, walk


class PolarsFile(AnyPeer):
    """One file, scanned lazily."""

    package = "polars"

    def open(self) -> None:
        self.path = self.settings.folder / "bench.arrow"
        if self.path.exists():
            self.frame: Any = pl.scan_ipc(self.path)

    def close(self) -> None:
        """Do nothing: a lazy frame holds no file."""

    def _write(self, table: Any) -> None:
        frame: Any = pl.from_arrow(table)
        frame.write_ipc(self.path)
        if self.settings.durable:
            settle(self.settings.folder)
        self.open()


class PolarsLists(PolarsFile, Peer):
    """A list column."""

    most: ClassVar = {"readrandom": 5, "readmissing": 5}

    def get(self, key: int) -> Floats:
        value: Floats = self._find(key)["value"][0].to_numpy()
        return value

    def _find(self, key: int) -> Any:
        return self.frame.filter(pl.col("key") == key).collect()

    def fillbatch(self, keys: Keys, values: Floats) -> None:
        self._write(table_of(keys, values))

    def readrandom(self, keys: Sequence[int]) -> float:
        total = 0.0
        for key in keys:
            total += self.get(key)[-1]
        return total

    def readmissing(self, keys: Sequence[int]) -> int:
        return sum([len(self._find(key)) for key in keys])

    def readmany(self, keys: Keys) -> Floats:
        wanted = pl.LazyFrame({"key": keys})
        found = wanted.join(self.frame, on="key", maintain_order="left").select("value").collect()
        return found["value"].explode().to_numpy()

    def readseq(self) -> tuple[int, float]:
        return walk(self.frame.collect().to_arrow().to_batches())

    def scansum(self) -> Floats:
        sums: Floats = self.frame.select(pl.col("value").list.sum()).collect()["value"].to_numpy()
        return sums


class PolarsColumns(PolarsFile, StructPeer):
    """A column for each field."""

    most: ClassVar = {"fieldread": 5}

    def fillstructs(self, keys: Keys, records: Records) -> None:
        self._write(table_of_structs(keys, records))

    def scancolumn(self) -> float:
        return float(self.frame.select(pl.col("x").mean()).collect().item())

    def fieldread(self, keys: Sequence[int]) -> float:
        total = 0.0
        for key in keys:
            total += self.frame.filter(pl.col("key") == key).select("x").collect().item()
        return total
