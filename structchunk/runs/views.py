"""Every record of a block or a run as an array of its own, a view.

Those of one length are made by NumPy alone, without a step of Python for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .extent import MUTABLE, RowArray
from .gather import Mapped
from .run import ArrayRun, Run

Views = Iterable[npt.NDArray[Any]]


def may_change(run: Run) -> bool:
    """Tell whether a record of a run may change in place."""
    flags = np.bitwise_or.reduce(run.flag_values) if isinstance(run, ArrayRun) else run.flags
    return bool(flags & MUTABLE)


def each_record(values: npt.NDArray[Any], offsets: npt.NDArray[np.int64]) -> Views:
    """Return the records of a block: record ``i`` has ``values[offsets[i]:offsets[i + 1]]``."""
    count = len(offsets) - 1
    length = int(offsets[1] - offsets[0]) if count else 0
    if (offsets[1:] - offsets[:-1] == length).all():
        return _rows(values[offsets[0] : offsets[-1]], count, length)
    return _slices(values, offsets[:-1], offsets[1:])


def each_of_run(mapped: Mapped, run: Run, *, reverse: bool) -> Views:
    """Return the records of a run, in the order of the keys or reverse."""
    step = -1 if reverse else 1
    if isinstance(run, ArrayRun):
        rows = run.rows
        return _scattered(mapped.fetched(rows), rows[::step], mapped.item_size)
    values = mapped.arrays[run.chunk][run.items]
    if run.length:
        return _rows(values, len(run), run.length)[::step]
    starts = run.offsets
    return _slices(values, starts[:-1][::step], starts[1:][::step])


def _scattered(arrays: Mapping[int, npt.NDArray[Any]], rows: RowArray, item_size: int) -> Views:
    starts, lengths, chunks = rows["offset"] // np.uint64(item_size), rows["length"], rows["chunk"]
    if len(rows) and (chunks == chunks[0]).all():
        values = arrays[int(chunks[0])]
        if (lengths == lengths[0]).all():
            return map(_windows(values, int(lengths[0])).__getitem__, starts.tolist())
        return _slices(values, starts, starts + lengths)
    found = zip(chunks.tolist(), starts.tolist(), (starts + lengths).tolist(), strict=True)
    return (arrays[chunk][start:stop] for chunk, start, stop in found)


def _rows(values: npt.NDArray[Any], count: int, length: int) -> npt.NDArray[Any]:
    """Return records of one length as the rows of one array, which NumPy goes through fastest."""
    return values.reshape(count, length, *values.shape[1:])


def _windows(values: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    """Return an array of which row `i` is `length` items from item `i` on: a row is made faster than a slice."""
    shape, strides = (len(values) - length + 1, length), (values.strides[0], *values.strides)
    return np.ndarray(shape + values.shape[1:], values.dtype, values, strides=strides)


def _slices(values: npt.NDArray[Any], starts: npt.NDArray[Any], stops: npt.NDArray[Any]) -> Views:
    # Faster than map() over slices, each of which would be made by a call.
    return (values[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True))
