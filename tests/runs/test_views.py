"""The records of a run as arrays of their own: views of the file, whatever their lengths and wherever they lie."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from structchunk.runs.extent import make_rows
from structchunk.runs.run import ArrayRun, ContiguousRun
from structchunk.runs.views import each_of_run, each_record

Item = npt.NDArray[Any]
ITEMS: list[Item] = [
    np.arange(40.0),
    np.arange(120, dtype=np.int16).reshape(40, 3),
    np.rec.fromarrays([np.arange(40), np.arange(40.0)], names="a,b").view(np.ndarray),
    np.arange(40).astype("M8[s]"),
]
lengths = st.one_of(
    st.lists(st.integers(0, 4), max_size=9),
    st.tuples(st.integers(0, 9), st.integers(0, 4)).map(lambda pair: [pair[1]] * pair[0]),
)


def mapped(items: Item) -> Item:
    """Return items as those of a chunk: nobody can write to them."""
    read_only = np.frombuffer(memoryview(items.tobytes()), items.dtype).reshape(items.shape)
    assert not read_only.flags.writeable
    return read_only


class Files:
    """Chunks, all of which are there."""

    def __init__(self, arrays: dict[int, Item]) -> None:
        self.arrays = arrays
        items = next(iter(arrays.values()))
        self.dtype = np.dtype((items.dtype, items.shape[1:]))
        self.item_size = self.dtype.itemsize

    def fetched(self, rows: Any) -> dict[int, Item]:
        return self.arrays


def check(found: Any, chunks: dict[int, Item], places: list[tuple[int, int, int]]) -> None:
    """Require that arrays are the views of ``(chunk, start, length)``, and read-only."""
    arrays = list(found)
    assert len(arrays) == len(places)
    for array, (chunk, start, length) in zip(arrays, places, strict=True):
        expected = chunks[chunk][start : start + length]
        assert (array.dtype, array.shape, array.tolist()) == (expected.dtype, expected.shape, expected.tolist())
        assert not array.flags.writeable
        assert np.shares_memory(array, chunks[chunk]) or not array.size


@given(lengths, st.sampled_from(ITEMS), st.integers(0, 3))
def test_of_a_block(lengths: list[int], items: Item, first: int) -> None:
    items = mapped(items)
    offsets = np.cumsum([first, *lengths])
    places = [(1, int(start), length) for start, length in zip(offsets[:-1], lengths, strict=True)]
    check(each_record(items, offsets), {1: items}, places)


@pytest.mark.parametrize("reverse", [False, True])
@given(lengths=lengths, items=st.sampled_from(ITEMS), chunks=st.sampled_from([1, 2]), data=st.data())
def test_of_a_run(lengths: list[int], items: Item, chunks: int, reverse: bool, data: st.DataObject) -> None:
    size = items.dtype.itemsize * int(np.prod(items.shape[1:]))
    by_chunk = {number: mapped(items) for number in range(chunks)}
    where = [data.draw(st.integers(0, len(items) - length)) for length in lengths]
    which = [data.draw(st.integers(0, chunks - 1)) for _ in lengths]
    rows = make_rows(np.arange(len(lengths), dtype=np.uint64), 0, 0, 0, 0)
    rows["offset"], rows["length"], rows["chunk"] = np.array(where, int) * size, lengths, which
    places = list(zip(which, where, lengths, strict=True))
    check(each_of_run(Files(by_chunk), ArrayRun(rows), reverse=reverse), by_chunk, places[:: -1 if reverse else 1])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("starts", [range(2, 27, 6), np.array([2, 2, 9, 11, 11])])
@pytest.mark.parametrize("items", ITEMS, ids=lambda items: str(items.dtype))
def test_of_records_that_lie_back_to_back(items: Item, starts: Any, reverse: bool) -> None:
    items = mapped(items)
    run = ContiguousRun(range(4), starts, 7, 0, items.dtype.itemsize)
    places = [(7, int(low), int(high - low)) for low, high in pairwise(starts)]
    check(
        each_of_run(Files({7: items}), run, reverse=reverse),
        {7: items},
        places[:: -1 if reverse else 1],
    )
