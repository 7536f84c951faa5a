"""The data of one run, made from a seed, and what every workload must find in it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Floats = NDArray[np.float64]
Records = NDArray[np.void]

MOST_POINTS = 200_000
SYNCED_PUTS = 500

AnyRows = TypeVar("AnyRows", bound="Rows")


@dataclass(frozen=True)
class Rows:
    """Keys, one row of something for each, and which of them are asked for.

    Parameters
    ----------
    keys : (n,) uint64
        Ascending, with gaps, all even: so every odd number is a missing key among them.
    values : (n, ...)
        One row for each key.
    order : (n,) int64
        The order in which keys arrive in ``fillrandom``.
    most : int
        How many records are asked for, or replaced, one at a time.
    """

    keys: Keys
    values: NDArray[np.generic]
    order: NDArray[np.int64]
    most: int = MOST_POINTS

    def first(self: AnyRows, count: int | None) -> AnyRows:
        """Return the first few records only, for a peer that takes too long to store all."""
        if count is None or count >= len(self.keys):
            return self
        order = self.order[self.order < count]
        return replace(self, keys=self.keys[:count], values=self.values[:count], order=order)

    def at_most(self: AnyRows, count: int | None) -> AnyRows:
        """Return the same records with fewer that are asked for."""
        return self if count is None or count >= self.most else replace(self, most=count)

    @cached_property
    def picked(self) -> NDArray[np.int64]:
        """Where the keys of random reads stand in ``keys``; not the order of ``fillrandom``."""
        return self.order[::-1][: self.most]

    @cached_property
    def wanted(self) -> Keys:
        """Existing keys in random order."""
        return self.keys[self.picked]

    @cached_property
    def points(self) -> list[int]:
        """The same keys as Python integers, as point reads take them."""
        points: list[int] = self.wanted.tolist()
        return points

    @cached_property
    def missing(self) -> list[int]:
        """Keys that are not there, each next to one that is."""
        missing: list[int] = (self.wanted + np.uint64(1)).tolist()
        return missing


@dataclass(frozen=True)
class Arrays(Rows):
    """Arrays of float64, all of one width."""

    values: Floats

    @cached_property
    def shuffled(self) -> tuple[Keys, Floats]:
        """Every key and its values, in random order."""
        return self.keys[self.order], self.values[self.order]

    @cached_property
    def synced(self) -> tuple[Keys, Floats]:
        """A few records in random order, for single durable puts."""
        some = self.order[: min(self.most, SYNCED_PUTS)]
        return self.keys[some], self.values[some]

    @cached_property
    def renewed(self) -> tuple[Keys, Floats]:
        """Existing keys in random order, with other values than before."""
        return self.wanted, self.values[self.picked] + 1

    @cached_property
    def renewed_sums(self) -> Floats:
        """The sum of each record, in key order, once ``renewed`` was put."""
        sums = self.sums.copy()
        sums[self.picked] += self.values.shape[1]
        return sums

    @cached_property
    def sums(self) -> Floats:
        """The sum of each record, in key order."""
        sums: Floats = self.values.sum(axis=1)
        return sums

    def sums_of(self, keys: Keys) -> Floats:
        """Return the sums of the records of some of the keys, in key order."""
        return self.sums[np.searchsorted(self.keys, np.sort(keys))]


class Reading(ctypes.Structure):
    """One record of the struct workloads; ``x`` is the field that is asked for."""

    _fields_ = (
        ("time", ctypes.c_int64),
        ("x", ctypes.c_double),
        ("y", ctypes.c_double),
        ("kind", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
    )


READING = np.dtype(Reading)
CODE = "=qddiI"  # the same, for the struct module


@dataclass(frozen=True)
class Structs(Rows):
    """Structs of one type, ``READING``."""

    values: Records

    @cached_property
    def touched_sum(self) -> float:
        """Sum of the field of the records that are asked for, once ``fieldwrite`` set it to their numbers."""
        return float(len(self.points) * (len(self.points) - 1) / 2)


def make_arrays(count: int, width: int, seed: int) -> Arrays:
    """Fresh keys and arrays."""
    rng = np.random.default_rng(seed)
    return Arrays(_keys(rng, count), rng.random((count, width)), rng.permutation(count))


def make_structs(count: int, seed: int) -> Structs:
    """Fresh keys and structs."""
    rng = np.random.default_rng(seed)
    values = np.zeros(count, READING)
    values["time"] = np.arange(count)
    values["x"], values["y"] = rng.random((2, count))
    values["kind"] = rng.integers(0, 8, count)
    return Structs(_keys(rng, count), values, rng.permutation(count))


def _keys(rng: np.random.Generator, count: int) -> Keys:
    return 2 * np.cumsum(rng.integers(1, 8, count, dtype=np.uint64), dtype=np.uint64)
