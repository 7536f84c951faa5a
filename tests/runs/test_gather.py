"""The records of rows one after the other: a view where they lie back to back, else a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from even_rows import SIZE
from support import rows_of

from structchunk.runs import gather as module
from structchunk.runs.extent import MUTABLE, ZERO, Extent
from structchunk.runs.gather import WIDE_ITEMS, gather, gather_runs, gather_values
from structchunk.runs.run import ArrayRun, ContiguousRun, Run, shorten


class Files:
    """Chunks 0 and 1, all of which are there."""

    def __init__(self) -> None:
        self.arrays = {chunk: np.arange(4096.0) + 10_000 * chunk for chunk in (0, 1)}
        self.dtype = np.dtype(float)
        self.item_size = SIZE

    def fetched(self, rows: Any) -> dict[int, npt.NDArray[Any]]:
        return self.arrays


FILES = Files()


def row(key: int, start: int, length: int, flags: int = 0, chunk: int = 1) -> Extent:
    """Return the row of a record that begins at an item."""
    return key, start * SIZE, length, chunk, flags


def check(rows: list[Extent], found: Any) -> None:
    """Require the records of rows."""
    keys, offsets, values, _ = found
    expected = [
        FILES.arrays[chunk][offset // SIZE : offset // SIZE + length] for _, offset, length, chunk, _ in rows
    ]
    assert keys.tolist() == [key for key, *_ in rows]
    assert offsets.tolist() == [0, *np.cumsum([len(record) for record in expected]).tolist()]
    assert values.tolist() == np.concatenate(expected).tolist()


def is_view(values: npt.NDArray[Any]) -> bool:
    return any(np.shares_memory(values, items) for items in FILES.arrays.values())


BACK_TO_BACK = [row(1, 8, 2), row(2, 10, 2), row(5, 12, 2), row(9, 14, 2), row(10, 16, 2)]


@pytest.mark.parametrize("cuts", [[], [1], [3], [1, 3], [1, 2, 3, 4]], ids=str)
def test_runs_that_lie_back_to_back_are_a_view(cuts: list[int]) -> None:
    array = rows_of(BACK_TO_BACK)
    runs: list[Run] = [shorten(part, SIZE) for part in np.split(array, cuts)]
    assert all(isinstance(run, ContiguousRun) for run in runs)
    found = gather_runs(FILES, runs)
    check(BACK_TO_BACK, found)
    assert is_view(found[2]) and not found[3]
    values = gather_values(FILES, runs)
    assert values.tolist() == found[2].tolist() and is_view(values)


@pytest.mark.parametrize("flags", [0, ZERO, MUTABLE, MUTABLE | ZERO])
def test_only_a_view_of_mutable_records_may_change_in_place(flags: int) -> None:
    rows = [*BACK_TO_BACK, row(20, 18, 2, flags)]
    may_change = bool(flags & MUTABLE)
    array = rows_of(rows)
    found = gather(FILES, array, array["key"])
    check(rows, found)
    assert is_view(found[2]) and found[3] is may_change
    parts = gather_runs(FILES, [shorten(array[:5], SIZE), shorten(array[5:], SIZE)])
    check(rows, parts)
    assert is_view(parts[2]) and parts[3] is may_change
    apart = rows_of([*rows, row(21, 99, 1, flags)])
    _, _, values, in_place = gather(FILES, apart, apart["key"])
    assert not is_view(values) and not in_place


@pytest.mark.parametrize(
    "rows",
    [
        [row(1, 30, 4), row(2, 8, 4), row(3, 20, 4, chunk=0)],
        [row(1, 30, 0), row(2, 8, 0)],
        [row(1, 4092, 4), row(2, 0, 4)],
        [row(1, 30, 1), row(2, 8, 3), row(3, 4096, 0), row(4, 9, 2, chunk=0)],
        [row(1, 30, WIDE_ITEMS + 1), row(2, 8, WIDE_ITEMS), row(3, 9, 2, chunk=0)],
        [row(1, 30, 2 * WIDE_ITEMS), row(2, 8, 0)],
    ],
    ids=["of one length", "empty", "at both ends", "of a few items", "of many items", "of as many on average"],
)
def test_scattered_records_are_copied(rows: list[Extent]) -> None:
    array = rows_of(rows)
    found = gather(FILES, array, array["key"])
    check(rows, found)
    assert not is_view(found[2]) and not found[3]
    check(rows, gather_runs(FILES, [ArrayRun(array[:1]), ArrayRun(array[1:])]))
    values = gather_values(FILES, [ArrayRun(array)])
    assert values.tolist() == found[2].tolist() and not values.flags.writeable


@pytest.mark.parametrize("length", [2, 3])
def test_records_that_are_too_large_for_a_type_of_their_own(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORD_TYPE", 2 * SIZE)  # as if NumPy had none of 16 bytes
    monkeypatch.delattr(module, "_copy_windows")
    rows = [row(1, 30, length), row(2, 8, length), row(3, 20, length, chunk=0)]
    array = rows_of(rows)
    check(rows, gather(FILES, array, array["key"]))
