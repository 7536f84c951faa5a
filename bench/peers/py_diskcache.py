"""diskcache: an SQLite file for small values, and a file each for large ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import diskcache
import numpy as np
from numpy import frombuffer

from bench.data import Floats, Keys
from bench.peers.base import Peer


class DiskCache(Peer):
    """Values as bytes, never evicted."""

    package = "diskcache"
    most: ClassVar = dict.fromkeys(
        ("fillsingly", "fillbatch", "overwrite", "readrandom", "readmissing", "readmany"), 5_000
    )

    def open(self) -> None:
        self.cache = diskcache.Cache(
            str(self.settings.folder),
            eviction_policy="none",
            size_limit=2**40,
            sqlite_synchronous=2 if self.settings.durable else 1,  # FULL or NORMAL, its own default
        )

    def close(self) -> None:
        self.cache.close()

    def get(self, key: int) -> Floats:
        return frombuffer(self.cache[key])

    def fillsync(self, keys: Keys, values: Floats) -> None:
        for key, value in zip(keys.tolist(), values, strict=True):
            self.cache[key] = value.tobytes()

    def fillsingly(self, keys: Keys, values: Floats) -> None:
        with self.cache.transact():
            self.fillsync(keys, values)

    fillbatch = fillsingly
    overwrite = fillsingly

    def readrandom(self, keys: Sequence[int]) -> float:
        cache, total = self.cache, 0.0
        for key in keys:
            total += frombuffer(cache[key])[-1]
        return total

    def readmissing(self, keys: Sequence[int]) -> int:
        get = self.cache.get
        return sum([get(key) is not None for key in keys])

    def readmany(self, keys: Keys) -> Floats:
        cache = self.cache
        return frombuffer(b"".join([cache[key] for key in keys.tolist()]))

    def readseq(self) -> tuple[int, float]:
        count, total = 0, 0.0
        for key in self.cache.iterkeys():
            count += 1
            total += frombuffer(self.cache[key])[-1]
        return count, total

    def scansum(self) -> Floats:
        cache = self.cache
        return np.array([frombuffer(cache[key]).sum() for key in cache.iterkeys()])
