"""What keeps records in object storage: a class each. All read through s3fs, so that requests can be counted."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np

import structchunk as sc
from bench.data import Floats, Keys

BUCKET = "bucket"
ROWS = 8192
"""Rows of a chunk of zarr, and of a row group of Parquet: 1 MiB of 16 float64."""

AT_ONCE = 32
"""How many requests structchunk makes at a time, at most."""


class PublishedPeer(ABC):
    """A copy of all records at one URL; what was read before it was opened is not known any more."""

    package: ClassVar[str]

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    @abstractmethod
    def publish(self, keys: Keys, values: Floats) -> None:
        """Write all records, by ascending keys."""

    @abstractmethod
    def open(self) -> None:
        """Read what is needed to find records."""

    @abstractmethod
    def read(self, key: int) -> Floats:
        """Return one record."""

    @abstractmethod
    def scan(self, start: int, stop: int) -> Floats:
        """Return the sum of each record of a range of keys."""

    @abstractmethod
    def read_many(self, keys: Keys) -> Floats:
        """Return records of ascending keys, asked for at once."""

    def close(self) -> None:  # noqa: B027
        """Forget what was read."""


class StructChunk(PublishedPeer):
    """A published database, and a new cache each time that it is opened."""

    package = "structchunk"
    db: sc.Database
    store: Any
    cache: tempfile.TemporaryDirectory[str]

    def publish(self, keys: Keys, values: Floats) -> None:
        with tempfile.TemporaryDirectory() as folder, sc.open(folder, sync=False) as db:
            db.array_store("values", np.float64).put_many(keys, values)
            db.publish(f"s3://{BUCKET}/structchunk", self.options)

    def open(self) -> None:
        self.cache = tempfile.TemporaryDirectory()
        self.db = sc.open(f"s3://{BUCKET}/structchunk", "r", storage_options=self.options, cache=self.cache.name)
        self.store = self.db["values"]

    def read(self, key: int) -> Floats:
        record: Floats = self.store[key]
        return record

    def read_many(self, keys: Keys) -> Floats:
        records: Floats = self.store.get_many(keys).dense()
        return records

    def scan(self, start: int, stop: int) -> Floats:
        return np.concatenate([batch.reduce(np.add) for batch in self.store.scan(start, stop)])

    def close(self) -> None:
        self.db.close()
        self.cache.cleanup()


class Parquet(PublishedPeer):
    """One file, a row group for 8,192 records, whose statistics tell which keys it has."""

    package = "pyarrow"
    file: Any
    firsts: Keys

    def __init__(self, options: dict[str, Any]) -> None:
        import pyarrow.parquet  # noqa: PLC0415

        super().__init__(options)
        self.arrow, self.parquet = pyarrow, pyarrow.parquet

    def _files(self) -> Any:
        import fsspec  # noqa: PLC0415

        return fsspec.filesystem("s3", **self.options)

    def publish(self, keys: Keys, values: Floats) -> None:
        lists = self.arrow.FixedSizeListArray.from_arrays(self.arrow.array(values.ravel()), values.shape[1])
        table = self.arrow.table({"key": keys, "values": lists})
        with self._files().open(f"{BUCKET}/records.parquet", "wb") as file:
            self.parquet.write_table(table, file, row_group_size=ROWS, compression="none", use_dictionary=False)

    def open(self) -> None:
        # Without the file system's own cache, which would read 50 MiB ahead.
        source = self._files().open(f"{BUCKET}/records.parquet", "rb", cache_type="none")
        self.file = self.parquet.ParquetFile(source, pre_buffer=True)
        groups = range(self.file.metadata.num_row_groups)
        self.firsts = np.array([self._statistics(group).min for group in groups], np.uint64)

    def _statistics(self, group: int) -> Any:
        return self.file.metadata.row_group(group).column(0).statistics

    def _rows(self, groups: Iterable[int]) -> tuple[Keys, Floats]:
        table = self.file.read_row_groups(list(groups))
        keys = table["key"].to_numpy()
        flat = table["values"].combine_chunks().flatten().to_numpy()
        return keys, flat.reshape(len(keys), -1)

    def _group(self, key: int) -> int:
        return max(int(np.searchsorted(self.firsts, np.uint64(key), side="right")) - 1, 0)

    def read(self, key: int) -> Floats:
        keys, values = self._rows([self._group(key)])
        return values[np.searchsorted(keys, np.uint64(key))]

    def read_many(self, keys: Keys) -> Floats:
        there, values = self._rows(sorted({self._group(key) for key in keys.tolist()}))
        return values[np.searchsorted(there, keys)]

    def scan(self, start: int, stop: int) -> Floats:
        keys, values = self._rows(range(self._group(start), self._group(stop - 1) + 1))
        rows = slice(*np.searchsorted(keys, np.array([start, stop], np.uint64)))
        return values[rows].sum(axis=1)


class Zarr(PublishedPeer):
    """A chunked array of rows, and one of keys, which is read when it is opened."""

    package = "zarr"
    keys: Keys
    values: Any

    def __init__(self, options: dict[str, Any]) -> None:
        import zarr  # noqa: PLC0415

        super().__init__(options)
        self.zarr = zarr

    def _at(self, name: str) -> dict[str, Any]:
        return {"store": f"s3://{BUCKET}/zarr/{name}", "storage_options": self.options}

    def publish(self, keys: Keys, values: Floats) -> None:
        for name, rows in (("keys", keys), ("values", values)):
            chunks = (len(keys),) if rows.ndim == 1 else (ROWS, rows.shape[1])
            made = self.zarr.create_array(**self._at(name), shape=rows.shape, chunks=chunks, dtype=rows.dtype)
            made[:] = rows

    def open(self) -> None:
        self.keys = self.zarr.open_array(**self._at("keys"), mode="r")[:]
        self.values = self.zarr.open_array(**self._at("values"), mode="r")

    def read(self, key: int) -> Floats:
        row: Floats = self.values[int(np.searchsorted(self.keys, np.uint64(key)))]
        return row

    def read_many(self, keys: Keys) -> Floats:
        rows: Floats = self.values.oindex[np.searchsorted(self.keys, keys)]
        return rows

    def scan(self, start: int, stop: int) -> Floats:
        low, high = np.searchsorted(self.keys, np.array([start, stop], np.uint64)).tolist()
        sums: Floats = self.values[low:high].sum(axis=1)
        return sums


class Client:
    """s3fs alone: fetches what another one did by as many requests, side by side, and keeps none of it.

    Parameters
    ----------
    options : dict
        ``storage_options``.
    parts : list of (str, str)
        Objects, and the ``Range`` of each request.
    """

    def __init__(self, options: dict[str, Any], parts: list[tuple[str, str]]) -> None:
        import fsspec  # noqa: PLC0415

        self._files = fsspec.filesystem("s3", **options)
        self._parts = [(name, *map(int, part.removeprefix("bytes=").split("-"))) for name, part in parts]
        self._pool = ThreadPoolExecutor(AT_ONCE)

    def fetch(self) -> int:
        """Fetch all of it, and return how many bytes that was."""
        return sum(self._pool.map(self._fetch, self._parts))

    def _fetch(self, part: tuple[str, int, int]) -> int:
        name, first, last = part
        return len(self._files.cat_file(name, start=first, end=last + 1))

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


PEERS: dict[str, type[PublishedPeer]] = {"structchunk": StructChunk, "Parquet": Parquet, "zarr": Zarr}
