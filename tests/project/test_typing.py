"""What a type checker makes of code that uses the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import structchunk

pytest.importorskip("mypy")

CODE = """
import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type

import structchunk as sc


class Point(sc.Object):
    _fields_ = [("x", ctypes.c_double), ("n", ctypes.c_int)]
    x: float
    n: int


class Plain(ctypes.Structure):
    _fields_ = [("x", ctypes.c_double)]


def named(db: sc.Database, snapshot: sc.Snapshot, shards: sc.Shards) -> None:
    assert_type(db.object_store("points", Point), sc.ObjectStore[Point])
    assert_type(db.object_store("plain", Plain), sc.ObjectStore[Plain])
    assert_type(db.object_store("points"), sc.ObjectStore[Any])
    assert_type(db.object_store("records", np.dtype([("x", "f8")])), sc.ObjectStore[Any])
    assert_type(db.array_store("temps", np.float64), sc.ArrayStore)
    assert_type(snapshot.object_store("points", Point), sc.ObjectStore[Point])
    assert_type(snapshot.array_store("temps"), sc.ArrayStore)
    assert_type(shards.object_store("points", Point), sc.ObjectStore[Point])
    assert_type(db["points"], Any)
    with db.transaction() as txn:
        assert_type(txn.object_store("points", Point), sc.ObjectStore[Point])
        assert_type(txn.array_store("temps", "f8"), sc.ArrayStore)
    sc.Object.of(x=ctypes.c_double)
    db.object_store("made", sc.Object.of(x=ctypes.c_double)).new(5).x
    db.object_store("points", "f8")  # type: ignore[call-overload]


def bound_again(db: sc.Database, temps: sc.ArrayStore, points: sc.ObjectStore[Point], shards: sc.Shards) -> None:
    with db.transaction() as txn, db.snapshot() as snapshot:
        assert_type(txn[temps], sc.ArrayStore)
        assert_type(txn[points], sc.ObjectStore[Point])
        assert_type(snapshot[points], sc.ObjectStore[Point])
        assert_type(db[txn[points]], sc.ObjectStore[Point])
        assert_type(shards[points], sc.ObjectStore[Point])
        assert_type(txn[points].edit(5), Point)
        txn[5]  # type: ignore[call-overload]


def records(temps: sc.ArrayStore, points: sc.ObjectStore[Point], plain: sc.ObjectStore[Plain]) -> None:
    assert_type(points[7], Point)
    assert_type(points[7].x, float)
    assert_type(points.get(7), Point | None)
    assert_type(points.get(7, "none"), Point | str)
    assert_type(points.pop(7), Point)
    assert_type(points.pop(7, None), Point | None)
    assert_type(points.popitem(), tuple[int, Point])
    assert_type(points.setdefault(7, Point()), Point)
    assert_type(points.new(7, x=1.0), Point)
    assert_type(points.cls, type[Point])
    assert_type(points.of_class(Plain), sc.ObjectStore[Plain])
    assert_type(points.cursor().value, Point)
    assert_type([point for point in points.values()], list[Point])
    assert_type([pair for pair in points.items(5, 7)], list[tuple[int, Point]])
    assert_type(plain[7], Plain)
    assert_type(temps[7], npt.NDArray[Any])
    temps[7] = [1.0]
    points[7] = {"x": 1.0, "n": 2}
    points.update({7: Point()})


def many(temps: sc.ArrayStore, points: sc.ObjectStore[Point]) -> None:
    keys = np.asarray(temps.keys())
    assert_type(temps.contains_many(keys), npt.NDArray[np.bool_])
    assert_type(temps.contains_many([1, 2]), npt.NDArray[np.bool_])
    assert_type(temps.delete_many(temps.keys(5, 7)), int)
    assert_type(points.read(5, 7), sc.Batch)
    assert_type(points.scan(), Iterator[sc.Batch])
    batch = temps.read()
    assert_type(batch[0], npt.NDArray[Any])
    assert_type(batch[2:5], sc.Batch)
    assert_type(points.read()["x"].reduce(np.add), npt.NDArray[Any])
    assert_type(batch.reduce(np.add), npt.NDArray[Any])
    temps.put_many(points.keys(), np.zeros((len(points), 2)))


def many_columns(points: sc.ObjectStore[Point]) -> None:
    points.put_many([1, 2], {"x": np.zeros(2), "n": [1, 2]})
    points.put_many(points.to_pandas().index, points.to_pandas())
    points.from_arrow(points.to_pandas())


def shapes_and_ends(db: sc.Database, temps: sc.ArrayStore, points: sc.ObjectStore[Point]) -> None:
    vectors = db.array_store("vectors", "f4", shape=(384,))
    assert_type(vectors, sc.ArrayStore)
    assert_type(db.array_store("pairs", np.float32, shape=2), sc.ArrayStore)
    vectors.put_many([1, 2], [np.zeros((3, 384)), np.zeros((1, 384))])
    assert_type(vectors.read().dense(), npt.NDArray[Any])
    assert_type(temps.get_many([1, 2], missing="skip"), sc.Batch)
    assert_type(temps.get_many([1, 2], "empty"), sc.Batch)
    temps.get_many([1, 2], missing="other")  # type: ignore[arg-type]
    assert_type(points.first_key, int | None)
    assert_type(temps.last_key, int | None)
    assert_type(db._repr_html_(), str)
    assert_type(temps._repr_html_(), str)
    assert_type(points.read()._repr_html_(), str)


def attributes(db: sc.Database, snapshot: sc.Snapshot, temps: sc.ArrayStore, points: sc.ObjectStore[Point]) -> None:
    for attrs in (db.attrs, snapshot.attrs, temps.attrs, points.attrs):
        assert_type(attrs, sc.Attributes)
    with db.transaction() as txn:
        txn.attrs["made"] = "today"
        txn[points].attrs.update(unit="K", of=[1, 2])
    assert_type(temps.attrs["unit"], Any)
    assert_type(list(temps.attrs), list[str])
    assert_type(dict(temps.attrs.items()), dict[str, Any])
    assert_type(temps.attrs.pop("unit", None), Any)
    temps.attrs[5] = 1  # type: ignore[index]


def appended(temps: sc.ArrayStore, points: sc.ObjectStore[Point]) -> None:
    temps.append(7, [1.0, 2.0])
    temps.append(7, np.zeros(3))
    with contextlib.suppress(TypeError):
        assert_type(points.append(7, [1.0]), NoReturn)


def taken_back(db: sc.Database, temps: sc.ArrayStore) -> None:
    with db.transaction() as txn:
        assert_type(txn.savepoint(), sc.Savepoint)
        with txn.savepoint() as savepoint:
            assert_type(savepoint, sc.Savepoint)
            txn[temps].append(7, [3.0])
            savepoint.rollback()
        with contextlib.suppress(ValueError), txn.savepoint():
            raise ValueError
        temps.append(8, [4.0])
    txn.savepoint(5)  # type: ignore[call-arg]


def altered(db: sc.Database) -> None:
    def progress(done: int, total: int) -> None:
        print(done, total)

    db.alter_store("temps", np.float64)
    db.alter_store("vectors", np.dtype(("f8", (384,))), progress=progress)
    db.alter_store("points", Point, fill={"n": 5}, drop=("x", "y"))
    db.alter_store("points", Point, None, ["x"], print)
    db.alter_store(5, Point)  # type: ignore[arg-type]


def columns(db: sc.Database, snapshot: sc.Snapshot, temps: sc.ArrayStore, points: sc.ObjectStore[Point]) -> None:
    for dataset in (temps.dataset(), points.dataset(), db.dataset("temps", "points"), snapshot.dataset("temps")):
        dataset.to_table(columns=["key"])
"""


def test_stores_keep_their_types(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(CODE)
    options = ["--strict", "--config-file=", "--follow-imports=silent", "--cache-dir", str(tmp_path / "cache")]
    place = Path(structchunk.__path__[0]).parent
    environment = dict(os.environ)
    if place.name != "site-packages":  # where mypy looks by itself, and wants no path
        environment["MYPYPATH"] = str(place)
    command = [sys.executable, "-m", "mypy", *options, "user.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
