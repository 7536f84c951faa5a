"""The two forms of consecutive rows: whichever they are kept in, they are the same rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from even_runs import SIZE, runs
from hypothesis import given
from hypothesis import strategies as st
from support import Model, alive, between, model_of, models, rows_of, run_of

from structchunk.index.page_cache import CachedPages
from structchunk.runs.extent import KEY_END, ROW_SIZE, Extent, RowArray, breaks, overlay
from structchunk.runs.run import (
    SHARED_OFFSETS,
    ArrayRun,
    ContiguousRun,
    Run,
    clip_piece,
    even_offsets,
    in_key_order,
    joined,
    last_key,
    overlay_pieces,
    portions,
    put_together,
    shorten,
    split,
)


@given(runs(), st.data())
def test_any_form_has_the_same_rows(run: RowArray, data: st.DataObject) -> None:
    piece = shorten(run, SIZE)
    assert len(piece) == len(run)
    assert piece.run.tolist() == run.tolist()
    assert piece.keys.tolist() == run["key"].tolist()
    assert piece.size <= len(run) * ROW_SIZE
    assert [piece.extent(at) for at in range(len(run))] == run.tolist()
    low = data.draw(st.integers(0, len(run)))
    high = data.draw(st.integers(low, len(run)))
    assert piece.part(low, high).run.tolist() == run[low:high].tolist()
    if len(run):
        where = np.array(data.draw(st.lists(st.integers(0, len(run) - 1))), np.intp)
        assert piece.take(where).tolist() == run[where].tolist()
        assert last_key(piece) == run["key"][-1]
    start, stop = data.draw(st.integers(0, 20)), data.draw(st.integers(0, 20) | st.just(KEY_END))
    clipped = clip_piece(piece, start, stop)
    assert clipped.run.tolist() == [row for row in run.tolist() if start <= row[0] < stop]
    for reverse in (False, True):
        parts = list(portions(piece, 3, reverse=reverse))
        assert all(0 < len(part) <= 3 for part in parts)
        assert joined(parts[::-1] if reverse else parts).tolist() == run.tolist()


@given(runs(), st.lists(st.integers(0, 40) | st.integers(0, KEY_END - 1)))
def test_a_block_finds_what_is_there(run: RowArray, others: list[int]) -> None:
    piece = shorten(run, SIZE)
    block = CachedPages(piece, 0, KEY_END - 1, split(piece, SIZE))
    model = {row[0]: row for row in run.tolist()}
    wanted = sorted({*model, *others})
    assert [block.find(key) for key in wanted] == [model.get(key) for key in wanted]
    where, found = block.search(np.array(wanted, np.uint64))
    assert found.tolist() == [key in model for key in wanted]
    assert block.piece.take(where[found]).tolist() == [model[key] for key in wanted if key in model]
    assert block.piece.run.tolist() == run.tolist()


@given(runs(), runs())
def test_rows_are_split_where_that_leaves_long_stretches(run: RowArray, more: RowArray) -> None:
    more["key"] += 2**60 if more.size and int(more["key"][-1]) < 2**63 else 0
    more["chunk"] += 5
    run = overlay(more, run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("structchunk.runs.run.LONG_STRETCH", 2)
        pieces = split(shorten(run, SIZE), SIZE)
    assert joined(pieces).tolist() == run.tolist()
    ends = [0, *np.cumsum([len(piece) for piece in pieces]).tolist()]
    cuts = breaks(run, SIZE).tolist()
    assert ends == ([0, *cuts, len(run)] if (len(cuts) + 1) * 2 <= len(run) else [0, len(run)])


@given(runs())
def test_a_stretch_says_where_its_items_are(run: RowArray) -> None:
    piece = shorten(run, SIZE)
    if isinstance(piece, ArrayRun):
        return
    assert piece.items == slice(int(run["offset"][0]) // SIZE, int(run["offset"][-1] // SIZE + run["length"][-1]))
    assert piece.offsets.tolist() == [0, *np.cumsum(run["length"]).tolist()]
    assert piece.length == (run["length"][0] if len(set(run["length"].tolist())) == 1 else 0)
    for at in range(1, len(run)):
        assert piece.part(at, len(run)).follows(piece.part(0, at))
        assert not piece.part(0, at).follows(piece.part(at, len(run))) or not run["length"].any()


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


def cut(run: RowArray, places: list[int]) -> list[Run]:
    """Return consecutive pieces of a run, empty ones too."""
    ends = [0, *sorted(min(place, len(run)) for place in places), len(run)]
    return [shorten(run[low:high], SIZE) for low, high in itertools.pairwise(ends)]


@pytest.mark.parametrize("reverse", [False, True])
@given(newer=models(), older=models(), places=st.lists(st.integers(0, 30), max_size=4))
def test_overlay_pieces(*, reverse: bool, newer: Model, older: Model, places: list[int]) -> None:
    pieces = cut(run_of(alive(older)), places)
    got = list(overlay_pieces(run_of(newer), pieces[::-1] if reverse else pieces, reverse=reverse))
    assert all(len(piece) for piece in got)
    assert model_of(joined(got[::-1] if reverse else got)) == alive({**older, **newer})


@pytest.mark.parametrize("reverse", [False, True])
def test_overlay_pieces_is_lazy_and_leaves_the_rest_alone(*, reverse: bool) -> None:
    drawn: list[Run] = []

    def older() -> Iterator[Run]:
        for keys in ((50, 51), (30, 31)) if reverse else ((30, 31), (50, 51)):
            drawn.append(shorten(rows_of([(key, 4096 + 8 * key, 1, 1, 0) for key in keys]), SIZE))
            yield drawn[-1]

    pieces = overlay_pieces(rows_of([(40, 0, 0, 1, 0)]), older(), reverse=reverse)
    assert next(pieces) is drawn[0]
    assert len(drawn) == 1
    assert isinstance(drawn[0], ContiguousRun)
    assert len(joined(pieces)) == 3


@given(models(), st.integers(0, 45), st.integers(0, 45))
def test_clipping_is_what_it_says(model: Model, start: int, stop: int) -> None:
    piece = shorten(run_of(alive(model)), SIZE)
    assert model_of(clip_piece(piece, start, stop).run) == between(alive(model), start, stop)


# ---------------------------------------------------------------------- putting together


@given(runs(), st.lists(st.integers(0, 9), max_size=4))
def test_consecutive_pieces_are_the_same_rows_put_together(run: RowArray, places: list[int]) -> None:
    pieces = cut(run, places)
    filled = [piece for piece in pieces if len(piece)]
    assert put_together(filled, SIZE).run.tolist() == run.tolist()
    assert joined(in_key_order(pieces, SIZE)).tolist() == run.tolist()


@pytest.mark.parametrize("far", [2**63 - 8, 2**63, KEY_END - 512])
def test_even_keys_that_are_half_of_all_keys_apart(far: int) -> None:
    run = rows_of([((key % 512) + (key // 512) * far, 4096 + key * SIZE, 1, 1, 0) for key in range(1024)])
    pieces = cut(run, [512])
    assert put_together(pieces, SIZE).run.tolist() == run.tolist()
    assert [piece.run.tolist() for piece in in_key_order(pieces, SIZE)] == [run.tolist()]
