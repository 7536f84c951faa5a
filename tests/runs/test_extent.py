"""The algebra of rows, each function against a dictionary or a loop over plain ints."""

from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Model, alive, between, keys, model_of, models, row_lists, rows_of, rows_of_model

from structchunk.runs import extent
from structchunk.runs.extent import (
    ALL_FLAGS,
    DROPPED,
    EXTENT_DTYPE,
    KEY_END,
    MUTABLE,
    ROW,
    ROW_SIZE,
    TOMBSTONE,
    ZERO,
    Extent,
    concatenate,
    unpack_row,
)

bounds = st.one_of(keys, st.just(KEY_END))
uint64 = st.one_of(st.integers(0, 200), st.integers(2**64 - 200, 2**64 - 1), st.integers(0, 2**64 - 1))
flag_words = st.integers(0, 2**32 - 1)
any_rows = st.lists(st.tuples(uint64, uint64, uint64, st.integers(0, 2**32 - 1), flag_words), max_size=20)


def test_flags_are_those_of_the_format() -> None:
    assert (TOMBSTONE, MUTABLE, ZERO, DROPPED, ALL_FLAGS) == (1, 2, 4, 8, 15)


@given(any_rows)
def test_rows_and_bytes_are_each_other(rows: list[Extent]) -> None:
    packed = b"".join(struct.pack("<QQQII", *row) for row in rows)
    array = extent.rows_from_bytes(packed) if packed else extent.empty_rows()
    assert array.tolist() == rows
    assert array.tobytes() == packed
    assert b"".join(ROW.pack(*row) for row in rows) == packed


def test_rows_from_bytes_does_not_copy() -> None:
    packed = bytearray(2 * ROW_SIZE)
    rows = extent.rows_from_bytes(packed)
    packed[0] = 7
    assert rows["key"].tolist() == [7, 0]


def test_empty_rows_are_zeroed() -> None:
    assert extent.empty_rows().tolist() == []
    assert extent.empty_rows(2).tolist() == [(0, 0, 0, 0, 0)] * 2
    assert extent.empty_rows().dtype == EXTENT_DTYPE


@given(any_rows)
def test_make_rows_takes_columns(rows: list[Extent]) -> None:
    array = rows_of(rows)
    made = extent.make_rows(array["key"], array["offset"], array["length"], array["chunk"], flags=3)
    assert made.tolist() == [(*row[:4], 3) for row in rows]


def test_make_rows_spreads_scalars() -> None:
    made = extent.make_rows(np.array([3, 5], np.uint64), 64, 2, 9)
    assert made.tolist() == [(3, 64, 2, 9, 0), (5, 64, 2, 9, 0)]


@given(st.lists(keys, max_size=5))
def test_is_sorted(numbers: list[int]) -> None:
    expected = all(low < high for low, high in itertools.pairwise(numbers))
    assert extent.is_sorted(np.array(numbers, np.uint64)) is expected


@given(row_lists())
def test_last_wins(rows: list[Extent]) -> None:
    expected: Model = {row[0]: row for row in rows}
    assert model_of(extent.last_wins(rows_of(rows))) == expected


@given(models())
def test_without_tombstones(model: Model) -> None:
    assert model_of(extent.without_tombstones(rows_of_model(model))) == alive(model)


@given(models(), models())
def test_overlay(newer: Model, older: Model) -> None:
    both = rows_of_model(newer), rows_of_model(older)
    before = [rows.copy() for rows in both]
    assert model_of(extent.overlay(*both)) == {**older, **newer}
    assert all((rows == copy).all() for rows, copy in zip(both, before, strict=True))


@given(models(), models())
def test_overlay_of_the_same_keys_and_of_a_tail(model: Model, other: Model) -> None:
    shared = {key: other[key] for key in other if key in model}
    assert model_of(extent.overlay(rows_of_model(shared), rows_of_model(model))) == {**model, **shared}
    tail = {key: row for key, row in other.items() if key > max(model, default=-1)}
    assert model_of(extent.overlay(rows_of_model(tail), rows_of_model(model))) == {**model, **tail}


@given(models(), st.lists(keys, max_size=10).map(sorted))
def test_find_equal(model: Model, wanted: list[int]) -> None:
    rows, numbers = rows_of_model(model), np.array(wanted, np.uint64)
    found = extent.find_equal(rows, numbers, np.searchsorted(rows["key"], numbers))
    assert found.tolist() == [key in model for key in wanted]


@given(models(), keys)
def test_find_one(model: Model, key: int) -> None:
    rows = rows_of_model(model)
    for wanted in (key, *model):
        assert extent.find_one(rows, wanted) == extent.find_in_bytes(rows.tobytes(), wanted) == model.get(wanted)


def test_find_one_returns_plain_ints() -> None:
    found = extent.find_one(rows_of([(7, 8, 1, 1, 0)]), 7)
    assert found is not None
    assert {type(value) for value in found} == {int}


@given(models(), bounds, bounds)
def test_clip(model: Model, start: int, stop: int) -> None:
    rows = rows_of_model(model)
    part = extent.clip(rows, start, stop)
    assert model_of(part) == between(model, start, stop)
    assert not len(part) or np.shares_memory(part, rows)


small_rows = st.tuples(st.integers(0, 9), st.integers(0, 6), st.integers(0, 3), st.integers(1, 2), st.just(0))


def contiguous_parts(rows: list[Extent], item_size: int) -> list[list[Extent]]:
    """Split rows where they stop lying back to back, one by one."""
    found: list[list[Extent]] = []
    for row in rows:
        last = found[-1][-1] if found else None
        if last is not None and (last[1] + last[2] * item_size, last[3]) == (row[1], row[3]):
            found[-1].append(row)
        else:
            found.append([row])
    return found


@given(st.lists(small_rows, max_size=12), st.sampled_from([1, 2, 3]))
def test_breaks_and_coalesce(rows: list[Extent], item_size: int) -> None:
    expected, array = contiguous_parts(rows, item_size), rows_of(rows)
    places = np.cumsum([len(part) for part in expected])[:-1]
    assert extent.breaks(array, item_size).tolist() == places.tolist()
    joined = extent.coalesce(array, item_size)
    assert joined.tolist() == [
        (first[0], first[1], sum(row[2] for row in [first, *rest]), *first[3:]) for first, *rest in expected
    ]
    assert array.tolist() == rows


@given(st.lists(small_rows, max_size=12))
def test_by_offset_is_stable(rows: list[Extent]) -> None:
    assert extent.by_offset(rows_of(rows)).tolist() == sorted(rows, key=lambda row: row[1])


def is_misplaced(row: Extent, low: int, high: int, item_size: int) -> bool:
    """Tell, in ints that do not wrap around, whether a row points outside."""
    _, offset, length, _, flags = row
    inside = low <= offset and offset + length * item_size <= high and offset % item_size == 0
    return not inside or flags > ALL_FLAGS


@given(
    rows=any_rows,
    low=st.integers(0, 300),
    size=st.integers(0, 2**40),
    item_size=st.one_of(st.integers(1, 16), st.integers(2**31, 2**62)),
)
def test_misplaced_never_wraps_around(rows: list[Extent], low: int, size: int, item_size: int) -> None:
    high = low + size
    edge = high // item_size * item_size
    rows += [(0, edge, 0, 1, 0), (0, edge, 1, 1, 0), (0, low, (high - low) // item_size, 1, 0)]
    got = extent.misplaced(rows_of(rows), low, high, item_size).tolist()
    assert got == [is_misplaced(row, low, high, item_size) for row in rows]


@pytest.mark.parametrize(
    "row",
    [
        (0, 64, 2**61, 1, 0),  # 2**61 items of 8 bytes: the sum is 64 again
        (0, 2**64 - 8, 1, 1, 0),  # ends at 0
        (0, 2**64 - 8, 10, 1, 0),  # ends at 72
        (0, 64, 2**64 - 1, 1, 0),
        (0, 56, 1, 1, 0),  # below
        (0, 65, 1, 1, 0),  # not aligned
        (0, 136, 0, 1, 0),  # above
        (0, 120, 2, 1, 0),  # one item too many
        (0, 64, 1, 1, 16),  # an unknown flag
    ],
)
def test_misplaced_finds(row: Extent) -> None:
    fine = (0, 64, 8, 1, ALL_FLAGS)
    assert extent.misplaced(rows_of([fine, row, fine]), 64, 128, 8).tolist() == [False, True, False]


def test_unpack_row() -> None:
    assert unpack_row(ROW.pack(1, 2, 3, 4, 5)) == (1, 2, 3, 4, 5)


def test_concatenate() -> None:
    parts = [rows_of([(key, 8, 1, 1, 0)]) for key in (3, 1)]
    assert concatenate(parts).tolist() == [(3, 8, 1, 1, 0), (1, 8, 1, 1, 0)]
    assert concatenate(parts[:1]) is parts[0]
    assert concatenate([]).tolist() == [] and concatenate([]).dtype == EXTENT_DTYPE


@pytest.mark.parametrize("ids", [(), (7,), (7, 7), (3, 1, 3, 3, 2, 1), (2**32 - 1, 0, 2**32 - 1)])
def test_chunks_of(ids: tuple[int, ...]) -> None:
    rows = rows_of((key, 8, 1, number, 0) for key, number in enumerate(ids))
    assert extent.chunks_of(rows) == sorted(set(ids))
