"""The two forms of consecutive rows: whichever they are kept in, they are the same rows."""

from __future__ import annotations

import numpy as np
import pytest
from even_rows import SIZE, even_rows
from hypothesis import given
from hypothesis import strategies as st
from support import Model, alive, between, model_of, models, rows_of, rows_of_model

from structchunk.index.cached_pages import CachedPages
from structchunk.runs.extent import KEY_END, ROW_SIZE, Extent, RowArray, breaks, overlay
from structchunk.runs.run import (
    SHARED_OFFSETS,
    ArrayRun,
    clip_run,
    even_offsets,
    last_key,
    portions,
    shorten,
    split,
)
from structchunk.runs.streams import joined


@given(even_rows(), st.data())
def test_any_form_has_the_same_rows(rows: RowArray, data: st.DataObject) -> None:
    run = shorten(rows, SIZE)
    assert len(run) == len(rows)
    assert run.rows.tolist() == rows.tolist()
    assert run.keys.tolist() == rows["key"].tolist()
    assert run.size <= len(rows) * ROW_SIZE
    assert [run.extent(at) for at in range(len(rows))] == rows.tolist()
    low = data.draw(st.integers(0, len(rows)))
    high = data.draw(st.integers(low, len(rows)))
    assert run.part(low, high).rows.tolist() == rows[low:high].tolist()
    if len(rows):
        where = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1))), np.intp)
        assert run.take(where).tolist() == rows[where].tolist()
        assert last_key(run) == rows["key"][-1]
    start, stop = data.draw(st.integers(0, 20)), data.draw(st.integers(0, 20) | st.just(KEY_END))
    clipped = clip_run(run, start, stop)
    assert clipped.rows.tolist() == [row for row in rows.tolist() if start <= row[0] < stop]
    for reverse in (False, True):
        parts = list(portions(run, 3, reverse=reverse))
        assert all(0 < len(part) <= 3 for part in parts)
        assert joined(parts[::-1] if reverse else parts).tolist() == rows.tolist()


@given(even_rows(), st.lists(st.integers(0, 40) | st.integers(0, KEY_END - 1)))
def test_cached_pages_find_what_is_there(rows: RowArray, others: list[int]) -> None:
    run = shorten(rows, SIZE)
    pages = CachedPages(run, 0, KEY_END - 1, split(run, SIZE))
    model = {row[0]: row for row in rows.tolist()}
    wanted = sorted({*model, *others})
    assert [pages.find(key) for key in wanted] == [model.get(key) for key in wanted]
    where, found = pages.search(np.array(wanted, np.uint64))
    assert found.tolist() == [key in model for key in wanted]
    assert pages.run.take(where[found]).tolist() == [model[key] for key in wanted if key in model]
    assert pages.run.rows.tolist() == rows.tolist()


@given(even_rows(), even_rows())
def test_rows_are_split_where_that_leaves_long_runs(rows: RowArray, more: RowArray) -> None:
    more["key"] += 2**60 if more.size and int(more["key"][-1]) < 2**63 else 0
    more["chunk"] += 5
    rows = overlay(more, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("structchunk.runs.run.LONG_RUN", 2)
        runs = split(shorten(rows, SIZE), SIZE)
    assert joined(runs).tolist() == rows.tolist()
    ends = [0, *np.cumsum([len(run) for run in runs]).tolist()]
    cuts = breaks(rows, SIZE).tolist()
    assert ends == ([0, *cuts, len(rows)] if (len(cuts) + 1) * 2 <= len(rows) else [0, len(rows)])


@given(even_rows())
def test_a_contiguous_run_says_where_its_items_are(rows: RowArray) -> None:
    run = shorten(rows, SIZE)
    if isinstance(run, ArrayRun):
        return
    assert run.items == slice(int(rows["offset"][0]) // SIZE, int(rows["offset"][-1] // SIZE + rows["length"][-1]))
    assert run.offsets.tolist() == [0, *np.cumsum(rows["length"]).tolist()]
    assert run.length == (rows["length"][0] if len(set(rows["length"].tolist())) == 1 else 0)
    for at in range(1, len(rows)):
        assert run.part(at, len(rows)).follows(run.part(0, at))
        assert not run.part(0, at).follows(run.part(at, len(rows))) or not rows["length"].any()


@pytest.mark.parametrize(
    ("rows", "size"),
    [
        ([(key * 5, 4096 + key * 16, 2, 1, 0) for key in range(100)], 0),
        ([(key * key, 4096 + key * 16, 2, 1, 0) for key in range(100)], 8 * 100),
        ([(key, 4096 + 8 * (key * (key - 1) // 2), key, 1, 0) for key in range(100)], 8 * 101),
        ([(key, 4096 + key * 24, 2, 1, 0) for key in range(100)], ROW_SIZE * 100),
    ],
    ids=["even and uniform", "uniform", "even and back to back", "apart"],
)
def test_what_it_takes(rows: list[Extent], size: int) -> None:
    assert shorten(rows_of(rows), SIZE).size == size


@pytest.mark.parametrize("count", [0, 5, SHARED_OFFSETS, SHARED_OFFSETS + 1])
def test_even_offsets(count: int) -> None:
    offsets = even_offsets(count, 3)
    assert (len(offsets), int(offsets[-1]), offsets.dtype) == (count + 1, 3 * count, np.int64)
    with pytest.raises(ValueError, match="read-only"):
        offsets[0] = 1


# ---------------------------------------------------------------------- overlay


@given(models(), st.integers(0, 45), st.integers(0, 45))
def test_clipping_is_what_it_says(model: Model, start: int, stop: int) -> None:
    run = shorten(rows_of_model(alive(model)), SIZE)
    assert model_of(clip_run(run, start, stop).rows) == between(alive(model), start, stop)


# ---------------------------------------------------------------------- putting together
