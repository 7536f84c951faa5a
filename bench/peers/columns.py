"""Arrow tables of keys and lists, which several peers take and give."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bench.data import Floats, Keys, Records


def table_of(keys: Keys, values: Floats) -> Any:
    """Make a table of ``key`` and ``value``, without copying the values."""
    offsets = np.arange(0, values.size + 1, values.shape[1])
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()))
    return pa.table({"key": keys, "value": lists})


def table_of_structs(keys: Keys, records: Records) -> Any:
    """Make a table with a column for each field."""
    names = records.dtype.names or ()
    return pa.table({"key": keys, **{name: np.ascontiguousarray(records[name]) for name in names}})


def ragged(lists: Any) -> tuple[Floats, NDArray[np.int64]]:
    """Return the items of a list array, and where each list begins and the last one ends, as NumPy arrays."""
    offsets = np.asarray(lists.offsets, np.int64)
    return np.asarray(lists.values), offsets


def flat(column: Any) -> Floats:
    """Return the items of all lists of a column, end to end."""
    pieces = [np.asarray(chunk.flatten()) for chunk in column.chunks]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def sums(lists: Any) -> Floats:
    """Return the sum of every list of an array; none may be empty."""
    values, offsets = ragged(lists)
    return np.add.reduceat(values[: offsets[-1]], offsets[:-1])


def walk(batches: Iterable[Any]) -> tuple[int, float]:
    """Return the number of records and the sum of their last items, going through all of them singly."""
    count, total = 0, 0.0
    for batch in batches:
        values, offsets = ragged(batch["value"])
        ends = offsets.tolist()
        for _key, start, stop in zip(batch["key"].to_pylist(), ends[:-1], ends[1:], strict=True):
            count += 1
            total += values[start:stop][-1]
    return count, total


def in_order(keys: Keys, sums: Floats) -> Floats:
    """Sort by key what a query returned, if it is not sorted already."""
    return sums if (keys[1:] > keys[:-1]).all() else sums[np.argsort(keys)]
