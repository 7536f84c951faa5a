"""SQLite: arrays as blobs, structs as columns."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy import frombuffer

from bench.data import Floats, Keys, Records
from bench.peers.base import AnyPeer, Peer, StructPeer


class Sqlite(AnyPeer):
    """One table, in WAL mode."""

    package = "sqlite3"
    table: ClassVar[str]

    def open(self) -> None:
        self.db = sqlite3.connect(self.settings.folder / "bench.sqlite", isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute(f"PRAGMA synchronous = {'FULL' if self.settings.durable else 'NORMAL'}")
        self.db.execute(f"CREATE TABLE IF NOT EXISTS records (key INTEGER PRIMARY KEY, {self.table})")

    def close(self) -> None:
        self.db.close()


class SqliteBlobs(Sqlite, Peer):
    """Arrays as blobs."""

    table = "value BLOB"
    most: ClassVar = {"fillsingly": 200_000}

    def get(self, key: int) -> Floats:
        (value,) = self.db.execute("SELECT value FROM records WHERE key = ?", (key,)).fetchone()
        return frombuffer(value)

    def fillsync(self, keys: Keys, values: Floats) -> None:
        self.db.execute("PRAGMA synchronous = FULL")
        for key, value in zip(keys.tolist(), values, strict=True):
            self.db.execute("INSERT OR REPLACE INTO records VALUES (?, ?)", (key, value.data))

    def fillsingly(self, keys: Keys, values: Floats) -> None:
        rows = ((key, value.data) for key, value in zip(keys.tolist(), values, strict=True))
        self.db.execute("BEGIN")
        self.db.executemany("INSERT OR REPLACE INTO records VALUES (?, ?)", rows)
        self.db.execute("COMMIT")

    fillbatch = fillsingly
    overwrite = fillsingly

    def readrandom(self, keys: Sequence[int]) -> float:
        execute, total = self.db.execute, 0.0
        for key in keys:
            (value,) = execute("SELECT value FROM records WHERE key = ?", (key,)).fetchone()
            total += frombuffer(value)[-1]
        return total

    def readmissing(self, keys: Sequence[int]) -> int:
        execute, found = self.db.execute, 0
        for key in keys:
            if execute("SELECT value FROM records WHERE key = ?", (key,)).fetchone() is not None:
                found += 1
        return found

    def readmany(self, keys: Keys) -> Floats:
        query = (
            "SELECT records.value FROM json_each(?) AS wanted"
            " JOIN records ON records.key = wanted.value ORDER BY wanted.key"
        )
        return frombuffer(b"".join([value for (value,) in self.db.execute(query, (json.dumps(keys.tolist()),))]))

    def readseq(self) -> tuple[int, float]:
        count, total = 0, 0.0
        for _key, value in self.db.execute("SELECT key, value FROM records ORDER BY key"):
            count += 1
            total += frombuffer(value)[-1]
        return count, total

    def scansum(self) -> Floats:
        rows = self.db.execute("SELECT value FROM records ORDER BY key")
        return np.array([frombuffer(value).sum() for (value,) in rows])


class SqliteColumns(Sqlite, StructPeer):
    """A column for each field."""

    table = "time INTEGER, x REAL, y REAL, kind INTEGER, flags INTEGER"

    def fillstructs(self, keys: Keys, records: Records) -> None:
        rows = ((key, *record) for key, record in zip(keys.tolist(), records.tolist(), strict=True))
        self.db.execute("BEGIN")
        self.db.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", rows)
        self.db.execute("COMMIT")

    def scancolumn(self) -> float:
        (mean,) = self.db.execute("SELECT avg(x) FROM records").fetchone()
        return float(mean)

    def fieldread(self, keys: Sequence[int]) -> float:
        execute, total = self.db.execute, 0.0
        for key in keys:
            (x,) = execute("SELECT x FROM records WHERE key = ?", (key,)).fetchone()
            total += x
        return total

    def fieldwrite(self, keys: Sequence[int]) -> None:
        self.db.execute("BEGIN")
        self.db.executemany("UPDATE records SET x = ? WHERE key = ?", enumerate(keys))
        self.db.execute("COMMIT")
