"""Random values through every call that takes values: each comes back exactly, or all of a call are refused.

What must come back is found with Python's exact arithmetic alone (``helpers/values.py``). ``--budget 400`` tries
5,000,000.
"""

from __future__ import annotations

import ctypes
import random
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import OpenDB
from values import REFUSED, expected, fitting, numbers_of, same, stored, wild

import structchunk as sc

VALUES = 1000
"""Values that each kind of container is tried with at a budget of 1."""
NUMBERS = [
    "?",
    "i1",
    "u1",
    "i2",
    "u2",
    "i4",
    "u4",
    "i8",
    "u8",
    "f2",
    "f4",
    "f8",
    "c8",
    "c16",
    ">i4",
    ">u8",
    ">f4",
    ">f8",
]
TEXTS = ["S1", "S4", "U1", "U4", ">U3"]
TIMES = [
    "M8[Y]",
    "M8[M]",
    "M8[D]",
    "M8[s]",
    "M8[ns]",
    "M8[7h]",
    "m8[M]",
    "m8[D]",
    "m8[s]",
    "m8[ns]",
    "m8[3ms]",
    ">m8[us]",
]
SIZES = [1, 2, 12, 48]

Door = Callable[[Any, list[Any], random.Random], int]
"""Stores values under the keys from 1 on, and returns how many records it made of them."""


# -- doors


def put(store: Any, values: Any, rng: random.Random) -> int:
    store.put(1, values)
    return 1


def update(store: Any, values: Any, rng: random.Random) -> int:
    store.update({1: values})
    return 1


def put_flat(store: Any, values: Any, rng: random.Random) -> int:
    store.put_many(range(1, len(values) + 1), values, [1] * len(values))
    return len(values)


def put_row(store: Any, values: Any, rng: random.Random) -> int:
    store.put_many([1], [values])
    return 1


def put_rows(store: Any, values: Any, rng: random.Random) -> int:
    width = rng.choice([width for width in SIZES if len(values) % width == 0])
    rows = [values[start : start + width] for start in range(0, len(values), width)]
    store.put_many(range(1, len(rows) + 1), rows)
    return len(rows)


def put_rows_of_any_kind(store: Any, values: Any, rng: random.Random) -> int:
    rows = [rng.choice([list, tuple, deque])([value]) for value in values]
    store.put_many(range(1, len(rows) + 1), rng.choice([list, tuple, deque])(rows))
    return len(rows)


DOORS = [put, update, put_flat, put_row, put_rows]


class Tally:
    """What was tried, and what came of it."""

    def __init__(self, seed: int, budget: float) -> None:
        self.rng = random.Random(seed)
        self.wanted = round(VALUES * budget)
        self.counts: Counter[str] = Counter()

    def rounds(self) -> Iterator[random.Random]:
        while sum(self.counts.values()) < self.wanted:
            yield self.rng

    def check(self, door: Callable[[], Any], read: Callable[[], list[Any]], values: list[Any], wanted: Any) -> None:
        """Try to store; what was stored must be what was given, and what was refused have a reason to be."""
        refused = any(value is REFUSED for value in wanted)
        try:
            door()
        except (TypeError, ValueError) as error:
            assert refused, f"{values!r} was refused: {error}"
            assert "found" in str(error)
            self.counts["refused"] += len(wanted)
            return
        found = read()
        assert not refused, f"{values!r} was taken as {found!r}"
        for one, other, value in zip(found, wanted, values, strict=True):
            assert same(one, other), f"{value!r} became {one!r}, not {other!r}"
        self.counts["taken"] += len(wanted)

    def through(self, door: Door, store: Any, given: Any, values: list[Any]) -> None:
        """Try to store values, given in some container, in an array store, which is then emptied."""
        made = 0

        def store_them() -> None:
            nonlocal made
            made = door(store, given, self.rng)

        def read() -> list[Any]:
            found = stored(store[1] if made == 1 else store.get_many(range(1, made + 1)).values)
            store.clear()
            return found

        self.check(store_them, read, values, [expected(value, store.dtype) for value in values])


@pytest.fixture
def tally(request: pytest.FixtureRequest, seed: int, budget: float) -> Iterator[Tally]:
    made = Tally(seed, budget)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*generic.*")  # NumPy gives up times without a unit
        yield made
    print(f"{request.node.name}: {dict(made.counts)}")


def draw(rng: random.Random, dtype: np.dtype[Any], count: int) -> list[Any]:
    """Draw values of many types that mostly fit."""
    daring = rng.choice([0, 0, 0, 0.02, 0.1])
    return [(wild if rng.random() < daring else fitting)(rng, dtype) for _ in range(count)]


@pytest.fixture
def stores(open_db: OpenDB) -> Callable[..., list[Any]]:
    db = open_db(sync=False)
    return lambda *names: [db.array_store(name, name) for name in names]


# -- containers


@pytest.mark.parametrize("names", [NUMBERS, TEXTS, TIMES], ids=["numbers", "texts", "times"])
def test_lists(stores: Callable[..., list[Any]], tally: Tally, names: list[str]) -> None:
    made = stores(*names)
    for rng in tally.rounds():
        store = rng.choice(made)
        values = draw(rng, store.dtype, rng.choice(SIZES))
        given = rng.choice([list, tuple])(values)
        tally.through(rng.choice([*DOORS, put_rows_of_any_kind]), store, given, values)


def test_arrays(stores: Callable[..., list[Any]], tally: Tally) -> None:
    made = stores(*NUMBERS)
    for rng in tally.rounds():
        store = rng.choice(made)
        kind = kind_like(rng, store.dtype)
        array = numbers_of(rng, kind, rng.choice(SIZES))
        if kind == "f8" and rng.random() < 0.2:
            array = np.array([*map(np.longdouble, array), np.longdouble(1) / 3])
        values = list(array)
        masked = np.ma.array(array)
        tally.through(rng.choice(DOORS), store, rng.choice([array, np.repeat(array, 2)[::2], masked]), values)


def test_rows_of_arrays_of_several_types(stores: Callable[..., list[Any]], tally: Tally) -> None:
    made = stores(*NUMBERS)
    for rng in tally.rounds():
        store = rng.choice(made)
        rows = [numbers_of(rng, kind_like(rng, store.dtype), 4) for _ in range(3)]
        tally.through(put_rows_as_they_are, store, rows, [value for row in rows for value in row])


def kind_like(rng: random.Random, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Draw a type of numbers, more often one like that of a store."""
    return np.dtype(rng.choice([rng.choice(NUMBERS), dtype.str, dtype.str]))


def put_rows_as_they_are(store: Any, rows: Any, rng: random.Random) -> int:
    store.put_many(range(1, len(rows) + 1), rows)
    return len(rows)


Column = tuple[list[Any], np.dtype[Any]]


def column_of(rng: random.Random, like: np.dtype[Any], count: int) -> Column:
    """Draw numbers as another library takes them: of one type, and now and then none."""
    kinds = ["i8", "u8", "i4", "f8", "f4", "?", "u1"]
    dtype = np.dtype(rng.choice([rng.choice(kinds), *[like.str[1:] for _ in range(2) if like.str[1:] in kinds]]))
    values = numbers_of(rng, dtype, count).tolist()
    if rng.random() < 0.1:
        values[rng.randrange(count)] = None
    return values, dtype


def arrow_column(values: list[Any], dtype: np.dtype[Any], rng: random.Random) -> Any:
    array = pa.array(values, pa.from_numpy_dtype(dtype))
    return rng.choice([array, pa.chunked_array([array, array[:0]]), array.dictionary_encode()])


def polars_column(values: list[Any], dtype: np.dtype[Any], rng: random.Random) -> Any:
    return pl.from_arrow(pa.array(values, pa.from_numpy_dtype(dtype)))


def pandas_column(values: list[Any], dtype: np.dtype[Any], rng: random.Random) -> Any:
    array = pa.array(values, pa.from_numpy_dtype(dtype))
    if array.is_null(nan_is_null=True).true_count or rng.random() < 0.3:  # of others pandas drops NaN
        return pd.Series(pd.arrays.ArrowExtensionArray(array))
    plain = np.array(values, dtype)  # of a list, pandas rounds large integers
    made = pd.array(plain, "boolean" if dtype.kind == "b" else dtype.name.capitalize().replace("Ui", "UI"))
    return rng.choice([made, pd.Series(made), pd.Index(made), pd.Series(plain)])


LIBRARIES = {
    "pyarrow": (arrow_column, pa.table),
    "Polars": (polars_column, pl.DataFrame),
    "pandas": (pandas_column, pd.DataFrame),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_columns_of_other_libraries(stores: Callable[..., list[Any]], tally: Tally, library: str) -> None:
    made, make = stores(*NUMBERS), LIBRARIES[library][0]
    for rng in tally.rounds():
        store = rng.choice(made)
        values, dtype = column_of(rng, store.dtype, rng.choice(SIZES))
        tally.through(rng.choice([put, update, put_flat, put_row]), store, make(values, dtype, rng), values)


@pytest.mark.parametrize("library", LIBRARIES)
def test_frames(stores: Callable[..., list[Any]], tally: Tally, library: str) -> None:
    made = stores(*NUMBERS)
    column, frame = LIBRARIES[library]
    for rng in tally.rounds():
        store = rng.choice(made)
        drawn = [column_of(rng, store.dtype, 4) for _ in range(3)]
        table = frame({f"c{number}": column(*each, rng) for number, each in enumerate(drawn)})
        values = [value for row in zip(*(each for each, _ in drawn), strict=True) for value in row]
        tally.through(put_rows_as_they_are, store, table, values)


def test_lists_of_arrow(stores: Callable[..., list[Any]], tally: Tally) -> None:
    made = stores(*(name for name in NUMBERS if not name.startswith("c")))
    for rng in tally.rounds():
        store = rng.choice(made)
        values, dtype = column_of(rng, store.dtype, rng.choice(SIZES))
        table = pa.table({"key": [1], "value": pa.array([values], pa.list_(pa.from_numpy_dtype(dtype)))})
        tally.through(from_arrow, store, table, values)


def from_arrow(store: Any, table: Any, rng: random.Random) -> int:
    store.from_arrow(table)
    return 1


# -- records

FIELDS: dict[str, Any] = {
    "?": ctypes.c_bool,
    "i1": ctypes.c_int8,
    "u1": ctypes.c_uint8,
    "i4": ctypes.c_int32,
    "u4": ctypes.c_uint32,
    "i8": ctypes.c_int64,
    "u8": ctypes.c_uint64,
    "f4": ctypes.c_float,
    "f8": ctypes.c_double,
    ">i4": ctypes.c_int32.__ctype_be__,
    ">f8": ctypes.c_double.__ctype_be__,
    "S4": ctypes.c_char * 4,
}
Inner = sc.Object.of(**{f"in_{number}": kind for number, kind in enumerate(FIELDS.values())})
Outer = sc.Object.of(
    **{f"f_{number}": kind for number, kind in enumerate(FIELDS.values())}, inner=Inner, v=ctypes.c_int64 * 3
)
LEAVES = [np.dtype(name) for name in (*FIELDS, *FIELDS, "i8", "i8", "i8")]


def nested(values: list[Any]) -> dict[str, Any]:
    """Return values of `LEAVES` as a dict of the fields of `Outer`."""
    count = len(FIELDS)
    record = {f"f_{number}": value for number, value in enumerate(values[:count])}
    inner = {f"in_{number}": value for number, value in enumerate(values[count : 2 * count])}
    return {**record, "inner": inner, "v": values[2 * count :]}


def leaves(record: Any) -> list[Any]:
    return [*list(record)[: len(FIELDS)], *record["inner"], *record["v"].tolist()]


def with_new(store: Any, record: dict[str, Any]) -> None:
    store.new(1, **record)


def with_dict(store: Any, record: dict[str, Any]) -> None:
    store.put(1, record)


def with_tuple(store: Any, record: dict[str, Any]) -> None:
    store[1] = (*list(record.values())[:-2], tuple(record["inner"].values()), tuple(record["v"]))


def with_many(store: Any, record: dict[str, Any]) -> None:
    store.put_many([1, 2, 3], [record, {**record, "inner": tuple(record["inner"].values())}, record])


def with_update(store: Any, record: dict[str, Any]) -> None:
    store.update({1: record})


def with_items(store: Any, record: dict[str, Any]) -> None:
    """Store it in an array store of the same type."""
    store.put(1, [tuple(record.values())])


WAYS = [with_new, with_dict, with_tuple, with_many, with_update, with_items]


def test_records(open_db: OpenDB, tally: Tally) -> None:
    db = open_db(sync=False)
    objects, items = db.object_store("objects", Outer), db.array_store("items", Outer)
    for rng in tally.rounds():
        daring = rng.choice([0, 0, 0.02])
        values = [(wild if rng.random() < daring else fitting)(rng, dtype) for dtype in LEAVES]
        way = rng.choice(WAYS)
        try_record(tally, items if way is with_items else objects, way, values)


def try_record(tally: Tally, store: Any, way: Callable[[Any, dict[str, Any]], None], values: list[Any]) -> None:
    wanted = [expected(value, dtype) for value, dtype in zip(values, LEAVES, strict=True)]
    store.clear()
    tally.check(lambda: way(store, nested(values)), lambda: leaves(store.get_many([1]).values[0]), values, wanted)
