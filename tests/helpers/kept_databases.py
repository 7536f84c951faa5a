"""Databases that are kept as files, an archive for each way in which they were ever written, and what they hold.

Make the archive of today's code, from the root of the checkout::

    PYTHONPATH=. python tests/helpers/kept_databases.py tests/format/databases/13-NAME.tar.xz

and one of earlier code with PYTHONPATH leading to a checkout of that: what it cannot do yet is left out, and the
archive says so. Archives are numbered in the order of the code that wrote them. The newest may be made anew until a
release has written like it; from then on it stays, and there is a next one.

What shall be in it is a step of :data:`STEPS`, or a function that :func:`write` calls. Only what users call is used
here, as it was called from the beginning, so that earlier code can do it.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import sys
import tarfile
import tempfile
import time
import uuid
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
Model: TypeAlias = dict[str, dict[int, bytes]]


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

    def drop(self, name: str) -> None:
        del self.model[name]
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
    "go on": go_on,
}
"""What is done to the first database, in this order, as far as the code can do it."""


def possible_steps() -> list[str]:
    """Return what the code that is imported can do."""
    lacking = set()
    if not hasattr(sc.Database, "compact"):
        lacking.add("compact")
    if not hasattr(sc.Batch, "dense"):
        lacking.add("shape")
    if not hasattr(sc.ArrayStore, "append"):
        lacking.add("lengthen")
    return [name for name in STEPS if name not in lacking]


def model_after(steps: list[str]) -> Model:
    """Return what a database holds after some steps."""
    both = Both()
    for name in steps:
        STEPS[name](both)
    return both.model


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


@contextmanager
def at_no_time() -> Iterator[None]:
    """Let two runs write the same: no time goes by, and databases are told by numbers that count."""
    numbers = iter(range(1, 1000))
    with (
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
