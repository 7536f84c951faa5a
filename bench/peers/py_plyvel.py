"""plyvel, with the values inside LevelDB."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy import frombuffer  # of float64 unless told otherwise, and quicker when it is not told

from bench.data import CODE, READING, Floats, Keys, Records
from bench.peers.base import AnyPeer, Peer, StructPeer
from structchunk.index.leveldb import plyvel

_PACKER = struct.Struct(">Q")  # LevelDB compares bytes: big-endian numbers are in order
pack, unpack = _PACKER.pack, _PACKER.unpack
decode, encode = struct.Struct(CODE).unpack, struct.Struct(CODE).pack


class LevelDB(AnyPeer):
    """One database, with LevelDB's own settings."""

    package = plyvel.__name__  # plyvel or plyvel_next, as the Python has it

    def open(self) -> None:
        self.db: Any = plyvel.DB(str(self.settings.folder), create_if_missing=True)

    def close(self) -> None:
        self.db.close()


class Plyvel(LevelDB, Peer):
    """Values as bytes; a write batch is a transaction."""

    most: ClassVar = {"fillsingly": 200_000}

    def get(self, key: int) -> Floats:
        return frombuffer(self.db.get(pack(key)))

    def fillsync(self, keys: Keys, values: Floats) -> None:
        for key, value in zip(keys.tolist(), values, strict=True):
            self.db.put(pack(key), value.tobytes(), sync=True)

    def fillsingly(self, keys: Keys, values: Floats) -> None:
        with self.db.write_batch(transaction=True, sync=self.settings.durable) as batch:
            for key, value in zip(keys.tolist(), values, strict=True):
                batch.put(pack(key), value.tobytes())

    fillbatch = fillsingly
    overwrite = fillsingly

    def readrandom(self, keys: Sequence[int]) -> float:
        get, total = self.db.get, 0.0
        for key in keys:
            total += frombuffer(get(pack(key)))[-1]
        return total

    def readmissing(self, keys: Sequence[int]) -> int:
        get = self.db.get
        return sum([get(pack(key)) is not None for key in keys])

    def readmany(self, keys: Keys) -> Floats:
        get = self.db.get
        return frombuffer(b"".join([get(pack(key)) for key in keys.tolist()]))

    def readseq(self) -> tuple[int, float]:
        count, total = 0, 0.0
        with self.db.iterator() as items:
            for key, value in items:
                (_number,) = unpack(key)
                count += 1
                total += frombuffer(value)[-1]
        return count, total

    def scansum(self) -> Floats:
        with self.db.iterator(include_key=False) as values:
            return np.array([frombuffer(value).sum() for value in values])


class PlyvelStructs(LevelDB, StructPeer):
    """Structs as bytes, through the ``struct`` module."""

    def fillstructs(self, keys: Keys, records: Records) -> None:
        raw, size = records.tobytes(), READING.itemsize
        with self.db.write_batch(transaction=True, sync=self.settings.durable) as batch:
            for number, key in enumerate(keys.tolist()):
                batch.put(pack(key), raw[number * size : (number + 1) * size])

    def scancolumn(self) -> float:
        with self.db.iterator(include_key=False) as values:
            column: list[float] = [decode(value)[1] for value in values]
        return sum(column) / len(column)

    def fieldread(self, keys: Sequence[int]) -> float:
        get, total = self.db.get, 0.0
        for key in keys:
            total += decode(get(pack(key)))[1]
        return total

    def fieldwrite(self, keys: Sequence[int]) -> None:
        get = self.db.get
        with self.db.write_batch(transaction=True, sync=self.settings.durable) as batch:
            for number, key in enumerate(keys):
                time, _, y, kind, flags = decode(get(pack(key)))
                batch.put(pack(key), encode(time, number, y, kind, flags))
