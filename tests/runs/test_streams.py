"""Consecutive runs, made one and laid over one another: whatever their forms, the same rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from even_rows import SIZE, even_rows
from hypothesis import given
from hypothesis import strategies as st
from support import Model, alive, model_of, models, rows_of, rows_of_model

from structchunk.runs import streams
from structchunk.runs.extent import KEY_END, MUTABLE, RowArray
from structchunk.runs.run import (
    ContiguousRun,
    Run,
    shorten,
)
from structchunk.runs.streams import goes_on, in_key_order, in_pieces, joined, overlay_runs, put_together


def cut(rows: RowArray, places: list[int]) -> list[Run]:
    """Return rows as consecutive runs, empty ones too."""
    ends = [0, *sorted(min(place, len(rows)) for place in places), len(rows)]
    return [shorten(rows[low:high], SIZE) for low, high in itertools.pairwise(ends)]


@pytest.mark.parametrize("reverse", [False, True])
@given(newer=models(), older=models(), places=st.lists(st.integers(0, 30), max_size=4))
def test_overlay_runs(*, reverse: bool, newer: Model, older: Model, places: list[int]) -> None:
    runs = cut(rows_of_model(alive(older)), places)
    got = list(overlay_runs(rows_of_model(newer), runs[::-1] if reverse else runs, reverse=reverse))
    assert all(len(run) for run in got)
    assert model_of(joined(got[::-1] if reverse else got)) == alive({**older, **newer})


@pytest.mark.parametrize("reverse", [False, True])
def test_overlay_runs_is_lazy_and_leaves_the_rest_alone(*, reverse: bool) -> None:
    drawn: list[Run] = []

    def older() -> Iterator[Run]:
        for keys in ((50, 51), (30, 31)) if reverse else ((30, 31), (50, 51)):
            drawn.append(shorten(rows_of([(key, 4096 + 8 * key, 1, 1, 0) for key in keys]), SIZE))
            yield drawn[-1]

    runs = overlay_runs(rows_of([(40, 0, 0, 1, 0)]), older(), reverse=reverse)
    assert next(runs) is drawn[0]
    assert len(drawn) == 1
    assert isinstance(drawn[0], ContiguousRun)
    assert len(joined(runs)) == 3


@given(even_rows(), st.lists(st.integers(0, 9), max_size=4))
def test_consecutive_runs_are_the_same_rows_put_together(rows: RowArray, places: list[int]) -> None:
    runs = cut(rows, places)
    filled = [run for run in runs if len(run)]
    assert put_together(filled, SIZE).rows.tolist() == rows.tolist()
    assert joined(in_key_order(runs, SIZE)).tolist() == rows.tolist()


@given(even_rows(), even_rows(), st.lists(st.integers(0, 9), max_size=4), st.integers(1, 9))
def test_pieces_are_the_same_rows(rows: RowArray, others: RowArray, places: list[int], long: int) -> None:
    if len(rows):
        others = others[others["key"] > rows["key"][-1]]
    runs = [run for run in (*cut(rows, places), *cut(others, places)) if len(run)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "LONG_PIECE", long)
        pieces = in_pieces(runs, SIZE)
    assert joined(pieces).tolist() == [*rows.tolist(), *others.tolist()]
    assert not any(goes_on(*pair) for pair in itertools.pairwise(pieces))
    assert len(pieces) == 1 or len(pieces) * long <= len(rows) + len(others)


@pytest.mark.parametrize(
    ("offset", "length", "flags"), [(4096 + 5 * SIZE, 2, 0), (4096 + 5 * SIZE, 1, MUTABLE), (4096 + 9 * SIZE, 1, 0)]
)
def test_runs_of_records_that_are_not_alike_are_put_together(offset: int, length: int, flags: int) -> None:
    """Of another length, with other flags, elsewhere."""
    rows = rows_of(
        [(key, 4096 + key * SIZE, 1, 1, 0) for key in range(5)]
        + [(key, offset + (key - 5) * length * SIZE, length, 1, flags) for key in range(5, 9)]
    )
    assert put_together(cut(rows, [5]), SIZE).rows.tolist() == rows.tolist()


@pytest.mark.parametrize("cuts", [[4], [4, 7]], ids=str)
def test_even_keys_stay_a_range(cuts: list[int]) -> None:
    rows = rows_of([(3 * key, 4096 + key * SIZE, 1, 1, 0) for key in range(10)])
    run = put_together(cut(rows, cuts), SIZE)
    assert isinstance(run, ContiguousRun)
    assert run.spacing == range(0, 28, 3)


@pytest.mark.parametrize("far", [2**63 - 8, 2**63, KEY_END - 512])
def test_even_keys_that_are_half_of_all_keys_apart(far: int) -> None:
    rows = rows_of([((key % 512) + (key // 512) * far, 4096 + key * SIZE, 1, 1, 0) for key in range(1024)])
    runs = cut(rows, [512])
    assert put_together(runs, SIZE).rows.tolist() == rows.tolist()
    assert [run.rows.tolist() for run in in_key_order(runs, SIZE)] == [rows.tolist()]
