"""structchunk itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import numpy as np

import structchunk as sc
from bench.data import Floats, Keys, Reading, Records
from bench.peers.base import Peer, StructPeer


class StructChunk(Peer):
    """An array store of float64."""

    package = "structchunk"

    def open(self) -> None:
        self._open(self.settings.durable)

    def share(self, durable: bool) -> None:
        self._open(durable, shared=True)

    def _open(self, durable: bool, *, shared: bool = False) -> None:
        self.db = sc.open(self.settings.folder / "bench.sc", sync=durable, shared=shared)
        self.store = self.db.array_store("values", np.float64)
        self.reader: sc.Database | None = None

    def close(self) -> None:
        if self.reader:
            self.reader.close()
        self.db.close()

    def put(self, key: int, value: Floats) -> None:
        self.store[key] = value

    def refresh(self, key: int) -> Floats:
        if self.reader is None:
            self.reader = sc.open(self.settings.folder / "bench.sc", "r")
            self.read = self.reader.array_store("values", np.float64)
        self.reader.refresh()
        return self.read[key]

    def get(self, key: int) -> Floats:
        return self.store[key]

    def fillsync(self, keys: Keys, values: Floats) -> None:
        for key, value in zip(keys.tolist(), values, strict=True):
            with self.db.transaction(sync=True) as txn:
                txn["values"].put(key, value)

    def fillsingly(self, keys: Keys, values: Floats) -> None:
        with self.db.transaction() as txn:
            put = txn["values"].put
            for key, value in zip(keys.tolist(), values, strict=True):
                put(key, value)

    overwrite = fillsingly

    def fillbatch(self, keys: Keys, values: Floats) -> None:
        self.store.put_many(keys, values)

    def readrandom(self, keys: Sequence[int]) -> float:
        store, total = self.store, 0.0
        for key in keys:
            total += store[key][-1]
        return total

    def readmissing(self, keys: Sequence[int]) -> int:
        get, found = self.store.get, 0
        for key in keys:
            if get(key) is not None:
                found += 1
        return found

    def readmany(self, keys: Keys) -> Floats:
        return self.store.get_many(keys).values

    def readseq(self) -> tuple[int, float]:
        count, total = 0, 0.0
        for _key, value in self.store.items():
            count += 1
            total += value[-1]
        return count, total

    def scansum(self) -> Floats:
        return np.concatenate([batch.reduce(np.add) for batch in self.store.scan()])

    def scanall(self) -> Floats:
        return np.concatenate(list(self.store.map_batches(lambda batch: batch.reduce(np.add))))


class StructChunkObjects(StructPeer):
    """An object store."""

    package = "structchunk"

    def open(self) -> None:
        self.db = sc.open(self.settings.folder / "bench.sc", sync=self.settings.durable)
        self.store = self.db.object_store("readings", Reading)

    def close(self) -> None:
        self.db.close()

    def fillstructs(self, keys: Keys, records: Records) -> None:
        self.store.put_many(keys, records)

    def scancolumn(self) -> float:
        return float(self.store.records()["x"].mean())

    def fieldread(self, keys: Sequence[int]) -> float:
        store, total = self.store, 0.0
        for key in keys:
            total += store[key].x
        return total

    def fieldwrite(self, keys: Sequence[int]) -> None:
        store = self.store
        for number, key in enumerate(keys):
            store[key].x = number

    def handread(self, key: int, count: int) -> float:
        reading, x = self.store[key], 0.0
        for _ in repeat(None, count):
            x = reading.x
        return x

    def handwrite(self, key: int, count: int) -> None:
        reading = self.store[key]
        for number in range(count):
            reading.x = number
