"""Databases that are kept as files, an archive for each way in which they were ever written, and what they hold.

Make the archive of today's code, from the root of the checkout::

    PYTHONPATH=. python tests/helpers/kept_databases.py tests/format/databases/13-NAME.tar.xz

and one of earlier code with PYTHONPATH leading to a checkout of that: what it cannot do yet is left out, and the
archive says so. Archives are numbered in the order of the code that wrote them. The newest may be made anew until a
release has written like it; from then on it stays, and there is a next one.

What shall be in it is a step of :data:`STEPS` or of :data:`PUBLICATIONS`, or a function that :func:`write` calls.
Only what users call is used here, as it was called from the beginning, so that earlier code can do it.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import itertools
import json
import os
import sys
import tarfile
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias
from unittest import mock

import numpy as np
from live_copy import copy_live

import structchunk as sc

CHUNK_SIZE = 16 << 10
STEPS_FILE = "steps.json"
WHOLE, CRASHED, COPY, CHANGED_COPY = "whole.sc", "crashed.sc", "copy.sc", "changed-copy.sc"
DROPPING, COMPACTING = "dropping.sc", "compacting.sc"
TURNS, CRASHED_TURNS, SHARDS = "turns.sc", "crashed-turns.sc", "shards"
DATABASES = (WHOLE, CRASHED, DROPPING, COMPACTING, COPY, CHANGED_COPY, TURNS, CRASHED_TURNS)
SOURCE, PUBLISHED, UPDATED_COPY = "source.sc", "published", "updated-copy.sc"
Model: TypeAlias = dict[str, dict[Any, bytes]]
ATTRIBUTES = "@"
"""Where models have attributes, as ``oracle.contents()`` returns them."""


class Corner(ctypes.Structure):
    _fields_ = [("u", ctypes.c_float), ("v", ctypes.c_float)]


class Tile(sc.Object):
    _fields_ = [("x", ctypes.c_double), ("n", ctypes.c_int32), ("corners", Corner * 2), ("tag", ctypes.c_uint8 * 3)]


NESTED = np.dtype([("a", "u1"), ("b", "<u2"), ("inner", [("x", "<f4"), ("n", "<i8", (2,))])])
TYPES: dict[str, Any] = {
    "floats": "<f8",
    "bytes": "u1",
    "halves": "<f2",
    "complex": "<c16",
    "flags": "?",
    "nested": NESTED,
    "text": "<U5",
    "letters": "S4",
    "times": "<M8[ns]",
    "spans": "<m8[s]",
    "drawn": "<i4",
    "tiles": Tile,
    "again": "<i2",
}
SHAPED = "shaped"
ALTERED = "altered"


class Both:
    """Does to a database and to dictionaries what it is told; without a database to dictionaries only."""

    def __init__(self, db: Any = None, model: Model | None = None) -> None:
        self.db = db
        self.model: Model = {} if model is None else model
        self._handle: Any = db

    def create(self, name: str, kind: Any = None) -> None:
        kind = TYPES[name] if kind is None else kind
        self.model[name] = {}
        if self.db is not None:
            (self.db.object_store if kind is Tile else self.db.array_store)(name, kind)

    def put(self, name: str, key: int, record: Any) -> None:
        self.model[name][key] = record.tobytes() if isinstance(record, np.ndarray) else bytes(record)
        if self._handle is not None:
            self._handle[name].put(key, record)

    def put_many(self, name: str, keys: Any, values: Any, lengths: Any = None) -> None:
        rows = values if lengths is None else np.split(values, np.cumsum(lengths)[:-1])
        for key, row in zip(keys, rows, strict=True):
            self.model[name][int(key)] = row.tobytes()
        if self._handle is not None:
            self._handle[name].put_many(keys, *((values,) if lengths is None else (values, lengths)))

    def append(self, name: str, key: int, record: Any) -> None:
        self.model[name][key] += record.tobytes()
        if self._handle is not None:
            self._handle[name].append(key, record)

    def delete(self, name: str, *keys: int) -> None:
        for key in keys:
            del self.model[name][key]
            if self._handle is not None:
                del self._handle[name][key]

    def delete_range(self, name: str, start: int, stop: int) -> None:
        self.model[name] = {key: record for key, record in self.model[name].items() if not start <= key < stop}
        if self._handle is not None:
            self._handle[name].delete_range(start, stop)

    def draw(self, name: str, key: int, values: Any) -> None:
        """Make a record of zeros, and change it in place."""
        self.model[name][key] = values.tobytes()
        if self.db is not None:
            self.db[name].new(key, len(values))[:] = values

    def alter(self, name: str, old: str, new: str) -> None:
        """Give a store of numbers a wider type."""
        records = self.model[name].items()
        self.model[name] = {key: np.frombuffer(record, old).astype(new).tobytes() for key, record in records}
        if self.db is not None:
            self.db.alter_store(name, new)

    def describe(self, owner: str, **values: Any) -> None:
        """Set attributes of a store, or of the database, which is called ""."""
        texts = self.model.setdefault(ATTRIBUTES, {})
        texts[owner] = json.dumps({**json.loads(texts.get(owner, b"{}")), **values}).encode()
        if self._handle is not None:
            self._attributes(owner).update(values)

    def clear(self, owner: str) -> None:
        """Remove all attributes of a store, or of the database."""
        del self.model[ATTRIBUTES][owner]
        if self._handle is not None:
            self._attributes(owner).clear()

    def _attributes(self, owner: str) -> Any:
        return self._handle[owner].attrs if owner else self._handle.attrs

    def drop(self, name: str) -> None:
        del self.model[name]
        self.model.get(ATTRIBUTES, {}).pop(name, None)
        if self.db is not None:
            self.db.drop_store(name)

    def compact(self, *names: str) -> None:
        if self.db is not None:
            self.db.compact(*names)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Do what the body does in one transaction."""
        if self.db is None:
            yield
            return
        with self.db.transaction() as self._handle:
            yield
        self._handle = self.db


def tile(number: int) -> Tile:
    made = Tile(number / 8, -number)
    made.corners[1].u, made.tag[2] = number / 2, number % 256
    return made


# ---------------------------------------------------------------------- what is done


def fill(both: Both) -> None:
    """Store records of every type, of equal lengths and of others, in order of key and in none."""
    for name in TYPES:
        both.create(name)
    both.put_many("floats", range(100, 700), np.arange(1800.0).reshape(600, 3))
    keys = np.arange(5000, 5000 + 80 * 80, 80).astype(np.uint64)
    keys[40:] += 7
    both.put_many("floats", keys, np.arange(160.0).reshape(80, 2))
    lengths = [number % 5 for number in range(50)]
    both.put_many("floats", range(2049, 1999, -1), np.arange(float(sum(lengths))), lengths)
    both.put_many("bytes", [0, 2**63, 2**64 - 1], np.arange(12, dtype="u1").reshape(3, 4))
    both.put("halves", 7, np.arange(9, dtype="<f2"))
    both.put("complex", 7, np.arange(4) * (1 + 2j))
    both.put("flags", 7, np.array([True, False, True]))
    nested = np.zeros(6, NESTED)
    nested["a"], nested["b"], nested["inner"]["x"] = 1, range(6), 0.5
    nested["inner"]["n"][:, 1] = range(-6, 0)
    both.put_many("nested", [3, 4], nested, [4, 2])
    both.put("text", 1, np.array(["", "naïve", "漢字"], "<U5"))
    both.put("letters", 1, np.array([b"", b"abcd"], "S4"))
    both.put("times", 1, np.array(["2024-02-29T12:00:00.000000001", "NaT"], "<M8[ns]"))
    both.put("spans", 1, np.array([-1, 86400], "<m8[s]"))
    both.put("again", 1, np.arange(5, dtype="<i2"))
    for number in range(40):
        both.put("tiles", 3 * number, tile(number))


def change(both: Both) -> None:
    """Replace, delete, make records that change in place, and drop stores."""
    both.put("floats", 101, np.arange(5.0))
    both.delete("floats", 102, 2040)
    both.delete_range("floats", 300, 400)
    both.draw("drawn", 1, np.arange(700, dtype="<i4"))
    with both.together():
        both.put("bytes", 5, np.arange(3, dtype="u1"))
        both.put("tiles", 1000, tile(77))
        both.delete("tiles", 0, 3)
    both.drop("again")
    both.drop("halves")
    both.create("again", "<u8")
    both.put("again", 9, np.arange(3, dtype="<u8"))


def compact(both: Both) -> None:
    """Put new chunks in the place of others, delete and put more, and do it again."""
    both.compact("floats", "bytes", "tiles")
    both.delete_range("floats", 500, 520)
    both.put("floats", 5000, np.arange(2.0))
    both.compact("floats")


def shape(both: Both) -> None:
    """Store items that are arrays."""
    both.create(SHAPED, np.dtype(("<f4", (2, 3))))
    both.put_many(SHAPED, [1, 2], np.arange(60, dtype="<f4").reshape(2, 5, 2, 3))


def lengthen(both: Both) -> None:
    """Make records longer: the last one where it lies, others elsewhere."""
    both.put("floats", 8000, np.arange(3.0))
    both.append("floats", 8000, np.arange(4.0))
    both.append("floats", 100, np.arange(2.0))
    with both.together():
        both.append("floats", 100, np.arange(5.0))
        both.put("floats", 8001, np.arange(2.0))
        both.append("floats", 8000, np.arange(1.0))


def spread(both: Both) -> None:
    """Store keys that rise evenly, that are near one another, less near, and far apart, many at a time."""
    first = 10**6
    for count, gap in ((2000, 2), (4000, 2), (6000, 0), (6000, 2), (5000, 1000), (600, 2**40)):
        keys = first + np.cumsum(np.arange(count) % 3 * gap + 1)
        both.put_many("again", keys, np.arange(count, dtype="<u8").reshape(-1, 1))
        first = int(keys[-1])


def describe(both: Both) -> None:
    """Set attributes of the database and of stores, change some, and remove those of one store."""
    both.describe("", title="naïve 漢字", parts=[1, None, {"x": -0.5}], is_whole=True)
    both.describe("floats", unit="°C", scale=2)
    both.describe("complex", unit="V")
    both.describe("tiles", n=2**53)
    with both.together():
        both.describe("floats", unit="K")
        both.put("floats", 8002, np.arange(2.0))
    both.clear("tiles")


def alter(both: Both) -> None:
    """Give records, one of which may change in place, a wider type; change and add some."""
    both.create(ALTERED, "<i2")
    both.put_many(ALTERED, range(10, 40, 3), np.arange(-20, 20, dtype="<i2").reshape(10, 4))
    both.draw(ALTERED, 50, np.arange(9, dtype="<i2"))
    both.describe(ALTERED, unit="m")
    both.alter(ALTERED, "<i2", "<i4")
    both.delete(ALTERED, 13)
    both.put(ALTERED, 16, np.array([2**31 - 1, -(2**31)], "<i4"))


def go_on(both: Both) -> None:
    """Commit more, which no checkpoint comes after where the process is killed."""
    both.put_many("floats", range(9000, 9040), np.arange(40.0).reshape(40, 1))
    both.put_many("floats", [9100, 9050], np.arange(9.0), [4, 5])
    with both.together():
        both.put("bytes", 6, np.arange(200, dtype="u1"))
        both.delete("tiles", 6)


Work: TypeAlias = Callable[[Both], None]
STEPS: dict[str, Work] = {
    "fill": fill,
    "change": change,
    "compact": compact,
    "shape": shape,
    "lengthen": lengthen,
    "spread": spread,
    "describe": describe,
    "alter": alter,
    "go on": go_on,
}
"""What is done to the first database, in this order, as far as the code can do it."""
NEEDED: dict[str, tuple[type, str]] = {
    "compact": (sc.Database, "compact"),
    "shape": (sc.Batch, "dense"),
    "lengthen": (sc.ArrayStore, "append"),
    "describe": (sc.Database, "attrs"),
    "alter": (sc.Database, "alter_store"),
}
"""What the code must have for a step: a class, and the name of something in it."""


def possible_steps() -> list[str]:
    """Return what the code that is imported can do."""
    return [name for name in STEPS if name not in NEEDED or hasattr(*NEEDED[name])]


def model_after(steps: list[str]) -> Model:
    """Return what a database holds after some steps."""
    both = Both()
    for name in steps:
        STEPS[name](both)
    return both.model


# ---------------------------------------------------------------------- what is published


def publish_first(both: Both) -> None:
    """Store records whose rows are of each form, zeros, objects and attributes."""
    for name in ("floats", "bytes", "again", "drawn", "tiles"):
        both.create(name)
    both.draw("drawn", 1, np.append(np.zeros(2100, "<i4"), np.int32(7)))
    both.put_many("floats", range(100, 175), np.arange(600.0).reshape(75, 8))
    both.put_many("bytes", np.arange(20) ** 2, np.arange(60, dtype="u1").reshape(20, 3))
    lengths = [number % 4 for number in range(150)]  # more rows than are compared of a directory
    both.put_many("again", range(9000, 9150), np.arange(sum(lengths), dtype="<i2"), lengths)
    for number in range(5):
        both.put("tiles", 7 * number, tile(number))
    both.describe("", title="naïve 漢字", parts=[1, None, {"x": -0.5}])
    both.describe("floats", unit="°C", scale=2)
    both.describe("tiles", n=2**53)


def publish_another_type(both: Both) -> None:
    """Alter a store and drop one: all rows are published again."""
    alter(both)
    both.drop("tiles")


def publish_more(both: Both) -> None:
    """Store more, delete records, change attributes: rows are published that come after the others."""
    both.put_many("floats", range(1000, 1030), np.arange(30.0).reshape(30, 1))
    both.delete("again", 9000, 9010)
    both.put("again", 9, np.arange(5, dtype="<i2"))
    both.describe("floats", unit="K")
    both.clear("")


def publish_little(both: Both) -> None:
    """Change few records: their rows are published together with those that came last."""
    both.put("floats", 1010, np.arange(2.0))
    both.delete("floats", 1020)


def publish_compacted(both: Both) -> None:
    """Put new chunks in the place of others: all rows of a store are published again, and those of others stay."""
    both.delete_range("floats", 110, 160)
    both.compact("floats")
    both.append("floats", 1029, np.arange(3.0))
    both.put(ALTERED, 60, np.arange(3, dtype="<i4"))
    both.describe("again", unit="s")


PUBLICATIONS: tuple[Work, ...] = (
    publish_first,
    publish_another_type,
    publish_more,
    publish_little,
    publish_compacted,
)
"""What is done to the database that is published, before each publication."""
SMALL_LEVEL = 300
"""Of the rows of a publication, in bytes: so small that these few have all levels that there can be."""


def models_of_publications() -> list[Model]:
    """Return what each publication holds."""
    both, models = Both(), []
    for work in PUBLICATIONS:
        work(both)
        models.append(copy.deepcopy(both.model))
    return models


# ---------------------------------------------------------------------- writing


def write(root: str) -> None:
    """Write the databases that the code can write, into a directory that is there."""
    steps = possible_steps()
    with open(os.path.join(root, STEPS_FILE), "w") as file:
        json.dump(steps, file)
    with at_no_time():
        write_whole(root, steps)
        write_unlinking(root)
        if hasattr(sc.Database, "checkpoint"):
            write_copies(root)
        if "shape" in steps:  # turns were taken in another way before
            write_turns(root)
        if hasattr(sc, "open_shards") and "shape" in steps:
            write_shards(root)
        if hasattr(sc.Database, "publish") and "alter" in steps:
            write_published(root)


@contextmanager
def at_no_time() -> Iterator[None]:
    """Let two runs write the same: no time goes by, and numbers that count tell databases and publications."""
    numbers = iter(range(1, 1000))
    drawn: defaultdict[int, Iterator[int]] = defaultdict(itertools.count)  # by size: publications take 8 bytes
    with (
        mock.patch.object(os, "urandom", lambda size: next(drawn[size]).to_bytes(size, "big")),
        mock.patch.object(time, "time_ns", lambda: 1_700_000_000_000_000_000),
        mock.patch.object(uuid, "uuid4", lambda: uuid.UUID(int=next(numbers))),
    ):
        yield


def write_whole(root: str, steps: list[str]) -> None:
    """Write a database that was closed, and one whose process was killed before its last commits were flushed."""
    path, killed = (os.path.join(root, name) for name in (WHOLE, CRASHED))
    with sc.open(path, "x", chunk_size=CHUNK_SIZE) as db:
        both = Both(db)
        for name in steps[:-1]:
            STEPS[name](both)
    with sc.open(path, "r+", chunk_size=CHUNK_SIZE, sync=False) as db:
        STEPS[steps[-1]](Both(db, both.model))
        copy_files(path, killed)


def write_unlinking(root: str) -> None:
    """Write what a killed process leaves before it unlinks chunks that it has dropped, or compacted."""
    with tempfile.TemporaryDirectory() as base:
        path = os.path.join(base, WHOLE)
        with sc.open(path, "x", chunk_size=CHUNK_SIZE) as db:
            both = Both(db)
            before_unlinking(both)
            with killed_at_unlinking(path, os.path.join(root, DROPPING)):
                both.drop("again")
            if hasattr(db, "compact"):
                with killed_at_unlinking(path, os.path.join(root, COMPACTING)):
                    db.compact("floats")


def before_unlinking(both: Both) -> None:
    for name in ("floats", "again"):
        both.create(name)
        both.put_many(name, range(40), np.arange(120, dtype=TYPES[name]).reshape(40, 3))
    both.delete_range("floats", 10, 15)


@contextmanager
def killed_at_unlinking(path: str, target: str) -> Iterator[None]:
    """Copy a database when the first of its chunks is to be unlinked."""
    unlink = os.unlink

    def copy_first(doomed: str) -> None:
        if doomed.endswith(".chunk") and not os.path.exists(target):
            copy_files(path, target)
        unlink(doomed)

    with mock.patch.object(os, "unlink", copy_first):
        yield
    assert os.path.exists(target)


def write_copies(root: str) -> None:
    """Write a copy that is as it was made, and one that was written to."""
    with sc.open(os.path.join(root, WHOLE), "r+", chunk_size=CHUNK_SIZE) as db:
        for name in (COPY, CHANGED_COPY):
            db.checkpoint(os.path.join(root, name))
    with sc.open(os.path.join(root, CHANGED_COPY), "r+", chunk_size=CHUNK_SIZE) as db:
        db["bytes"].put(77, np.arange(2, dtype="u1"))


def write_turns(root: str) -> None:
    """Write a database in which handles took turns, and were closed, and one in which they were killed."""
    path, killed = (os.path.join(root, name) for name in (TURNS, CRASHED_TURNS))
    with (
        sc.open(path, "a", chunk_size=CHUNK_SIZE, shared=True) as one,
        sc.open(path, "a", chunk_size=CHUNK_SIZE, shared=True) as other,
    ):
        both = Both(one)
        both.create("floats")
        both.put_many("floats", range(20), np.arange(60.0).reshape(20, 3))
        other["floats"].put(20, np.arange(3.0))
        one["floats"].delete(3)
        copy_files(path, killed)


def write_shards(root: str) -> None:
    """Write shards of one store."""
    from structchunk.shards import writing
    from structchunk.types.schema import array_schema

    def part(number: int) -> Callable[[Any], None]:
        def fill_part(db: Any) -> None:
            db.array_store("floats", "<f8").put_many(range(number, 100, 2), np.full((50, 2), float(number)))

        return fill_part

    small = functools.partial(sc.open, chunk_size=CHUNK_SIZE)
    with mock.patch.object(writing, "open", small), writing.new_directory(os.path.join(root, SHARDS)) as directory:
        made = [writing.make_shard(directory, number, part(number)) for number in range(2)]
        writing.finish(directory, {"floats": array_schema("<f8")}, made)


def write_published(root: str) -> None:
    """Write a database, what was published of it, and a copy that was brought forward by each publication."""
    from structchunk.remote import row_levels

    path, updated = (os.path.join(root, name) for name in (SOURCE, UPDATED_COPY))
    with mock.patch.object(row_levels, "SMALL", SMALL_LEVEL), sc.open(path, "x", chunk_size=CHUNK_SIZE) as db:
        both = Both(db)
        for work in PUBLICATIONS:
            work(both)
            db.publish(f"file://{root}/{PUBLISHED}")
            db.checkpoint(updated, update=True)


def copy_files(source: str, target: str) -> None:
    """Copy what a killed process leaves."""
    copy_live(source, target, "readers", "lock")


# ---------------------------------------------------------------------- keeping


def pack(root: str, path: str) -> None:
    """Write a directory to an archive; what LevelDB tells people of itself is left out."""
    with tarfile.open(path, "x:xz", dereference=True) as archive:
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                if name not in ("lock", "LOCK", "LOG", "LOG.old", "reserve"):
                    file = os.path.join(folder, name)
                    entry = archive.gettarinfo(file, os.path.relpath(file, root))
                    entry.mtime = entry.uid = entry.gid = 0
                    entry.uname = entry.gname = ""
                    with open(file, "rb") as content:
                        archive.addfile(entry, content)


def unpack(path: str, root: str) -> list[str]:
    """Extract an archive into a new directory, and return which steps were done."""
    with tarfile.open(path) as archive:
        # Python 3.11.0 to 3.11.3 have no filters.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        archive.extractall(root)
    with open(os.path.join(root, STEPS_FILE)) as file:
        steps: list[str] = json.load(file)
    return steps


def main(path: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        write(root)
        pack(root, path)
    print(f"{path}: {os.path.getsize(path)} bytes, written by {sc.__file__}")


if __name__ == "__main__":
    main(sys.argv[1])
