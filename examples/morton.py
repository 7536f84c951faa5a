"""The quadtree of quadtree.py again, under keys that say where a cell lies, and what that spares.

    pip install '.[examples]' && python examples/morton.py

The bits of column and row of a cell, taken in turn, make one number: its Morton code. Cells in the order of these
numbers are cells along a curve that leaves a quarter of the map only when it has been everywhere in it. With
the code of its south-western corner as the key of a leaf,

- cells need no store: which quarters there are follows from the keys;
- a quarter of the map is a range of keys, and a region is a few such ranges;
- records lie in the order of their keys, so neighbours on the map are neighbours in the file.

Both trees have the same leaves and are stored in the order of their keys. For a few regions this prints how many
separate stretches of the file, and how many pages of memory, have to be touched to read the places in them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator

import numpy as np
import quadtree
from checking import check
from printing import table, timed
from quadtree import CAPACITY, REGIONS, Points, Region
from real_data import read_places

import structchunk as sc

LEVELS = 20  # the map is 2**20 columns by 2**20 rows
WORLD = (-180.0, -180.0, 360.0)  # west, south, size: the square that is divided
PAGE = 4096


# ---------------------------------------------------------------- keys


def morton(points: Points) -> np.ndarray:
    """Return the code of the smallest cell that each point lies in."""
    west, south, size = WORLD
    columns, rows = (points.x - west) / size, (points.y - south) / size
    return spread(np.uint64(columns * 2**LEVELS)) | spread(np.uint64(rows * 2**LEVELS)) << 1


def spread(numbers: np.ndarray) -> np.ndarray:
    """Move the bits of numbers below 2**32 apart, so that there is a zero between any two."""
    for shift in (16, 8, 4, 2, 1):
        mask = sum((1 << shift) - 1 << place for place in range(0, 64, 2 * shift))
        numbers = (numbers | numbers << shift) & np.uint64(mask)
    return numbers


def ranges(
    region: Region, key: int = 0, level: int = 0, cell: tuple[float, ...] = WORLD
) -> Iterator[tuple[int, int]]:
    """Yield ranges of keys that cover a region, ascending: of cells inside it, and of small ones at its edge."""
    west, south, size = cell
    if not region.meets(west, south, size):
        return
    inside = (
        region.west <= west
        and west + size <= region.east
        and region.south <= south
        and south + size <= region.north
    )
    if inside or size < (region.east - region.west) / 8:
        yield key, key + 4 ** (LEVELS - level)
        return
    half = size / 2
    for i in range(4):
        quarter = (west + i % 2 * half, south + i // 2 * half, half)
        yield from ranges(region, key + i * 4 ** (LEVELS - level - 1), level + 1, quarter)


def joined(pieces: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges that follow one another without a gap."""
    result: list[tuple[int, int]] = []
    for start, stop in pieces:
        follows = result and result[-1][1] == start
        result.append((result.pop()[0], stop) if follows else (start, stop))
    return result


# ---------------------------------------------------------------- write and read


def load(db: sc.Database, points: Points) -> None:
    """Store all points, by leaf, in one transaction."""
    codes = morton(points)
    order = np.argsort(codes, kind="stable")
    keys, lengths = np.array(list(divided(codes[order]))).T
    with db.transaction() as txn:
        for name, column in points._asdict().items():
            txn.array_store(name, column.dtype).put_many(keys, column[order], lengths=lengths)


def divided(codes: np.ndarray, key: int = 0, level: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the key and the length of each leaf that has points, given their codes in ascending order."""
    if len(codes) <= CAPACITY or level == LEVELS:
        if len(codes):
            yield key, len(codes)
        return
    quarter = 4 ** (LEVELS - level - 1)
    keys = [key + i * quarter for i in range(5)]
    cuts = np.searchsorted(codes, np.array(keys, np.uint64))
    for i in range(4):
        yield from divided(codes[cuts[i] : cuts[i + 1]], keys[i], level + 1)


def leaves(snapshot: sc.Snapshot, region: Region) -> Iterator[int]:
    """Yield the keys of the leaves that a region may meet: those in its ranges, and those that these begin in."""
    done = 0
    for start, stop in joined(ranges(region)):
        first = next(iter(snapshot["x"].keys(None, start + 1, reverse=True)), start)
        yield from snapshot["x"].keys(max(first, done), stop)
        done = stop


def within(db: sc.Database, region: Region) -> np.ndarray:
    """Return the places in a region, ascending."""
    with db.snapshot() as snapshot:
        keys = list(leaves(snapshot, region))
        points = Points(*(snapshot[name].get_many(keys).values for name in Points._fields))
    return np.sort(points.place[region.has(points)])


# ---------------------------------------------------------------- measure


def touched(store: sc.ArrayStore, keys: Iterable[int]) -> tuple[int, int]:
    """Return how many separate stretches of the file the records of keys are, and how many pages these touch."""
    views = [store[key] for key in keys]  # arrays over the mapped file: where they lie is where it lies
    starts = np.sort([view.ctypes.data for view in views])
    stops = np.sort([view.ctypes.data + view.nbytes for view in views])
    pages = {
        page for start, stop in zip(starts, stops, strict=True) for page in range(start // PAGE, -(-stop // PAGE))
    }
    return int(np.sum(starts[1:] != stops[:-1])) + min(len(views), 1), len(pages)


def compare(by_arrival: sc.Database, by_place: sc.Database, points: Points) -> None:
    rows = []
    for name, region in REGIONS.items():
        with by_arrival.snapshot() as a, by_place.snapshot() as b:
            scattered = touched(a["x"], (key for key in quadtree.leaves(a, region) if key in a["x"]))
            local = touched(b["x"], leaves(b, region))
        count = len(within(by_place, region))
        rows.append((name, count, *scattered, *local, -(-count * 8 // PAGE)))
    rows.append(("all of these", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    header = "region,places,stretches by arrival,pages,stretches by Morton,pages,fewest pages possible"
    table("What reading the coordinate x of the places in a region touches, by the trees' keys", header, rows)
    for name, region in REGIONS.items():
        check(name, within(by_place, region), np.flatnonzero(region.has(points)))


def main() -> None:
    points = quadtree.as_points(read_places())
    with (
        tempfile.TemporaryDirectory() as directory,
        sc.open(f"{directory}/arrival.sc") as by_arrival,
        sc.open(f"{directory}/morton.sc") as by_place,
    ):
        with timed(f"added {len(points.x):,} places to a quadtree whose keys say when a cell was made"):
            quadtree.fill(by_arrival, points)
            by_arrival.compact()  # records in the order of keys, as those of the other tree are
        with timed("stored them under Morton keys"):
            load(by_place, points)
        compare(by_arrival, by_place, points)
        lengths = [np.sort(np.concatenate([b.lengths for b in db["x"].scan()])) for db in (by_arrival, by_place)]
        check(f"both trees have the same {len(lengths[0]):,} leaves that are not empty", *lengths)
        check("the databases are sound", by_arrival.verify() + by_place.verify(), [])


if __name__ == "__main__":
    main()
