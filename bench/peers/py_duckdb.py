"""DuckDB: a native table with a list column, or a column for each field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import duckdb
import numpy as np
import pyarrow as pa

from bench.data import Floats, Keys, Records
from bench.peers.base import AnyPeer, Peer, StructPeer
from bench.peers.columns import flat, in_order, table_of, table_of_structs, walk

INSERT = "INSERT INTO records VALUES (?, ?)"


class DuckDB(AnyPeer):
    """One table without an index, as its guide recommends: sorted data need none."""

    package = "duckdb"
    table: ClassVar[str]

    def open(self) -> None:
        self.db: Any = duckdb.connect(str(self.settings.folder / "bench.duckdb"))
        self.db.execute(f"CREATE TABLE IF NOT EXISTS records (key UBIGINT, {self.table})")

    def close(self) -> None:
        self.db.close()

    def _load(self, table: Any) -> None:
        self.db.register("given", table)
        self.db.execute("INSERT INTO records SELECT * FROM given")
        self.db.unregister("given")


class DuckDBLists(DuckDB, Peer):
    """A list column."""

    table = "value DOUBLE[]"
    most: ClassVar = {
        "fillsync": 50,
        "fillsingly": 100,
        "overwrite": 20,
        "readrandom": 100,
        "readmissing": 100,
    }

    def _find(self, key: int) -> Any:
        return self.db.execute("SELECT value FROM records WHERE key = ?", (key,)).fetchall()

    def get(self, key: int) -> Floats:
        return np.array(self._find(key)[0][0])

    def fillsync(self, keys: Keys, values: Floats) -> None:
        for key, value in zip(keys.tolist(), values, strict=True):
            self.db.execute(INSERT, (key, value))

    def fillsingly(self, keys: Keys, values: Floats) -> None:
        self.db.begin()
        self.fillsync(keys, values)
        self.db.commit()

    def fillbatch(self, keys: Keys, values: Floats) -> None:
        self._load(table_of(keys, values))

    def overwrite(self, keys: Keys, values: Floats) -> None:
        self.db.begin()
        for key, value in zip(keys.tolist(), values, strict=True):
            self.db.execute("UPDATE records SET value = ? WHERE key = ?", (value, key))
        self.db.commit()

    def readrandom(self, keys: Sequence[int]) -> float:
        total = 0.0
        for key in keys:
            total += self.get(key)[-1]
        return total

    def readmissing(self, keys: Sequence[int]) -> int:
        return sum([len(self._find(key)) for key in keys])

    def readmany(self, keys: Keys) -> Floats:
        self.db.register("wanted", pa.table({"key": keys, "position": np.arange(len(keys))}))
        query = "SELECT value FROM wanted JOIN records USING (key) ORDER BY position"
        return flat(self.db.sql(query).to_arrow_table()["value"])

    def readseq(self) -> tuple[int, float]:
        found = self.db.sql("SELECT key, value FROM records ORDER BY key")
        return walk(pa.RecordBatchReader.from_stream(found))

    def scansum(self) -> Floats:
        found = self.db.execute("SELECT key, list_sum(value) AS total FROM records").fetchnumpy()
        return in_order(found["key"], found["total"])


class DuckDBColumns(DuckDB, StructPeer):
    """A column for each field."""

    table = "time BIGINT, x DOUBLE, y DOUBLE, kind INTEGER, flags UINTEGER"
    most: ClassVar = {"fieldread": 100, "fieldwrite": 20}

    def fillstructs(self, keys: Keys, records: Records) -> None:
        self._load(table_of_structs(keys, records))

    def scancolumn(self) -> float:
        return float(self.db.execute("SELECT avg(x) FROM records").fetchall()[0][0])

    def fieldread(self, keys: Sequence[int]) -> float:
        execute, total = self.db.execute, 0.0
        for key in keys:
            total += execute("SELECT x FROM records WHERE key = ?", (key,)).fetchall()[0][0]
        return total

    def fieldwrite(self, keys: Sequence[int]) -> None:
        self.db.begin()
        for number, key in enumerate(keys):
            self.db.execute("UPDATE records SET x = ? WHERE key = ?", (number, key))
        self.db.commit()
