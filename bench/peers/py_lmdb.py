"""py-lmdb: as its documentation recommends, and as fast as we could make it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import lmdb
import numpy as np
from numpy import frombuffer  # of float64 unless told otherwise, and quicker when it is not told

from bench.data import CODE, READING, Floats, Keys, Records
from bench.peers.base import AnyPeer, Peer, StructPeer

# LMDB compares integer keys as the machine does, which is its fastest way.
_PACKER = struct.Struct("=Q")
pack, unpack = _PACKER.pack, _PACKER.unpack
READING_STRUCT = struct.Struct(CODE)
X, X_OFFSET = struct.Struct("=d"), 8


class Environment(AnyPeer):
    """One environment with one database of integer keys."""

    package = "lmdb"
    writemap = False

    def open(self) -> None:
        self._open(self.settings.durable)

    def _open(self, durable: bool) -> None:
        settings = self.settings
        self.env = lmdb.open(
            str(settings.folder),
            map_size=4 * settings.nbytes + 2**30,  # random inserts leave pages half empty
            max_dbs=1,
            sync=durable,
            writemap=self.writemap,
        )
        self.db = self.env.open_db(b"values", integerkey=True)

    def close(self) -> None:
        self.env.close()


class Lmdb(Environment, Peer):
    """Values as bytes; appends in key order; zero-copy reads through ``buffers=True``."""

    def get(self, key: int) -> Floats:
        with self.env.begin(self.db) as txn:
            return frombuffer(txn.get(pack(key), b""))

    refresh = get  # each transaction begins with the last commit

    def share(self, durable: bool) -> None:
        self._open(durable)  # it always is shared

    def put(self, key: int, value: Floats) -> None:
        with self.env.begin(self.db, write=True) as txn:
            txn.put(pack(key), value.data)

    def fillsync(self, keys: Keys, values: Floats) -> None:
        for key, value in zip(keys.tolist(), values, strict=True):
            with self.env.begin(self.db, write=True) as txn:
                txn.put(pack(key), value.data)
            if not self.settings.durable:
                self.env.sync(True)

    def fillsingly(self, keys: Keys, values: Floats) -> None:
        with self.env.begin(self.db, write=True) as txn:
            put = txn.put
            for key, value in zip(keys.tolist(), values, strict=True):
                put(pack(key), value.data)

    overwrite = fillsingly

    def fillbatch(self, keys: Keys, values: Floats) -> None:
        with self.env.begin(self.db, write=True) as txn:
            put = txn.put
            for key, value in zip(keys.tolist(), values, strict=True):
                put(pack(key), value.data, append=True)

    def readrandom(self, keys: Sequence[int]) -> float:
        total = 0.0
        with self.env.begin(self.db, buffers=True) as txn:
            get: Any = txn.get  # None is for keys that are missing
            for key in keys:
                total += frombuffer(get(pack(key)))[-1]
        return total

    def readmissing(self, keys: Sequence[int]) -> int:
        found = 0
        with self.env.begin(self.db, buffers=True) as txn:
            get: Any = txn.get  # None is for keys that are missing
            for key in keys:
                if get(pack(key)) is not None:
                    found += 1
        return found

    def readmany(self, keys: Keys) -> Floats:
        with self.env.begin(self.db, buffers=True) as txn, txn.cursor() as cursor:
            items = cursor.getmulti([pack(key) for key in keys.tolist()])
            return frombuffer(b"".join([value for _, value in items]))

    def readseq(self) -> tuple[int, float]:
        count, total = 0, 0.0
        with self.env.begin(self.db, buffers=True) as txn, txn.cursor() as cursor:
            for key, value in cursor:
                (_number,) = unpack(key)
                count += 1
                total += frombuffer(value)[-1]
        return count, total

    def scansum(self) -> Floats:
        with self.env.begin(self.db, buffers=True) as txn, txn.cursor() as cursor:
            return np.array([frombuffer(value).sum() for _, value in cursor])


class TunedLmdb(Lmdb):
    """What an expert would do: ``writemap``, ``putmulti``, and one NumPy call for all values.

    Below some 2,000 bytes a value is fetched faster as a copy in ``bytes`` than as a ``memoryview``, which
    is one more object for the garbage collector to look at. Larger ones are better left where they are.
    """

    writemap = True

    @property
    def _large(self) -> bool:
        return self.settings.width >= 256

    def fillsingly(self, keys: Keys, values: Floats) -> None:
        self._putmulti(keys, values, append=False)

    overwrite = fillsingly

    def fillbatch(self, keys: Keys, values: Floats) -> None:
        self._putmulti(keys, values, append=True)

    def _putmulti(self, keys: Keys, values: Floats, *, append: bool) -> None:
        with self.env.begin(self.db, write=True) as txn, txn.cursor() as cursor:
            items = ((pack(key), value.tobytes()) for key, value in zip(keys.tolist(), values, strict=True))
            cursor.putmulti(items, append=append)

    def readmany(self, keys: Keys) -> Floats:
        if self._large:
            return super().readmany(keys)
        # In key order each search starts near where the last one ended.
        order = np.argsort(keys)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        with self.env.begin(self.db) as txn, txn.cursor() as cursor:
            items = cursor.getmulti(keys[order].view("V8").tolist())
            return frombuffer(b"".join([items[i][1] for i in place.tolist()]))

    def scansum(self) -> Floats:
        if self._large:
            return super().scansum()
        with self.env.begin(self.db) as txn, txn.cursor() as cursor:
            values = list(cursor.iternext(keys=False))
        ends = np.cumsum(np.fromiter(map(len, values), np.int64, len(values))) // 8
        return np.add.reduceat(frombuffer(b"".join(values)), np.concatenate(([0], ends[:-1])))


class LmdbStructs(Environment, StructPeer):
    """Structs as bytes, through the ``struct`` module."""

    def fillstructs(self, keys: Keys, records: Records) -> None:
        raw = records.tobytes()
        size = READING.itemsize
        values = (raw[start : start + size] for start in range(0, len(raw), size))
        with self.env.begin(self.db, write=True) as txn, txn.cursor() as cursor:
            cursor.putmulti(zip(map(pack, keys.tolist()), values, strict=True), append=True)

    def scancolumn(self) -> float:
        decode, count, total = READING_STRUCT.unpack, 0, 0.0
        with self.env.begin(self.db, buffers=True) as txn, txn.cursor() as cursor:
            for _key, value in cursor:
                _, x, _, _, _ = decode(value)
                count += 1
                total += x
        return total / count

    def fieldread(self, keys: Sequence[int]) -> float:
        decode, total = READING_STRUCT.unpack, 0.0
        with self.env.begin(self.db, buffers=True) as txn:
            get: Any = txn.get
            for key in keys:
                _, x, _, _, _ = decode(get(pack(key)))
                total += x
        return total

    def fieldwrite(self, keys: Sequence[int]) -> None:
        decode, encode = READING_STRUCT.unpack, READING_STRUCT.pack
        with self.env.begin(self.db, write=True, buffers=True) as txn:
            get: Any = txn.get
            for number, key in enumerate(keys):
                time, _, y, kind, flags = decode(get(pack(key)))
                txn.put(pack(key), encode(time, number, y, kind, flags))


class TunedLmdbStructs(LmdbStructs):
    """All structs joined, and read as one NumPy array; the one field alone unpacked."""

    writemap = True

    def scancolumn(self) -> float:
        with self.env.begin(self.db) as txn, txn.cursor() as cursor:
            joined = b"".join(cursor.iternext(keys=False))
        return float(frombuffer(joined, READING)["x"].mean())

    def fieldread(self, keys: Sequence[int]) -> float:
        decode, total = X.unpack_from, 0.0
        with self.env.begin(self.db) as txn:
            get: Any = txn.get
            for key in keys:
                total += decode(get(pack(key)), X_OFFSET)[0]
        return total
