"""What the tests of copies store in the databases of theirs, before and after a copy is made."""

from __future__ import annotations

import ctypes

import numpy as np

import structchunk as sc


class Point(sc.Object):
    _fields_ = [("x", ctypes.c_double), ("n", ctypes.c_int64)]


def write_much(db: sc.Database) -> None:
    for name in ("plain", "mixed"):
        db[name].put_many(range(10**6, 10**6 + 3000), np.full((3000, 3), 8))
        db[name].put(10, [1])
    db["points"].put_many(range(5000, 9000), [(1, 1)] * 4000)
    for name in db:
        db[name].delete_range(20, 40)


def write_little(db: sc.Database) -> None:
    for name in ("plain", "mixed"):
        db[name].put(10, [1])
    db["points"][3] = Point(9, 9)
