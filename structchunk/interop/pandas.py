"""Batches as pandas objects: columns with one row for each item, indexed by key. Knows pandas, not stores."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import SchemaError, missing_extra
from ..types.casts import exact

try:
    import pandas as pd
except ImportError as error:
    raise missing_extra("this needs pandas", "pandas") from error

__all__ = ["to_pandas"]

_Array = npt.NDArray[Any]

_UNITS = {"M": ("Y", "M", "W", "D", "h", "m"), "m": ("W", "D", "h", "m")}
"""Units of time that are whole seconds, those of which pandas makes seconds."""


class Records(Protocol):
    """A batch."""

    kind: str
    keys: npt.NDArray[np.uint64]
    offsets: npt.NDArray[np.int64]
    values: npt.NDArray[Any]


def to_pandas(batch: Records, name: str) -> pd.Series | pd.DataFrame:
    """Return a batch as pandas data; see ``Store.to_pandas``."""
    index = pd.Index(batch.keys, name="key") if batch.kind == "object" else _item_index(batch)
    if batch.values.dtype.names is None and batch.values.ndim == 1:
        return pd.Series(_native(batch.values, name), index, name=name, copy=True)
    columns = dict(_columns(batch.values, name if batch.values.ndim > 1 else ""))
    return pd.DataFrame(columns, index, copy=True)


def _item_index(batch: Records) -> pd.MultiIndex:
    """Return the key of every item, and its position in its record."""
    lengths = np.diff(batch.offsets)
    numbers = np.repeat(np.arange(len(lengths)), lengths)
    positions = np.arange(len(numbers)) - batch.offsets[numbers]
    longest = int(lengths.max(initial=0))
    # Made of codes: pandas would have to sort all items to find what we know.
    return pd.MultiIndex([batch.keys, range(longest)], [numbers, positions], names=["key", "position"])


def _columns(values: _Array, path: str) -> Iterator[tuple[str, _Array]]:
    """Yield the fields of structured values by their paths, those of inner structures and arrays too."""
    if values.ndim > 1:
        for place in itertools.product(*map(range, values.shape[1:])):
            items = np.moveaxis(values, 0, -1)[place]
            yield from _columns(items, f"{path}[{','.join(map(str, place))}]")
    elif values.dtype.names is not None:
        for name in values.dtype.names:
            yield from _columns(values[name], f"{path}.{name}" if path else name)
    else:
        yield path, _native(values, path)


def _native(values: _Array, path: str) -> _Array:
    """Return values in the byte order and the units that pandas can work with, and bytes as objects."""
    if values.dtype.kind in "mM":
        return exact(values, _time_dtype(values.dtype, path), f"{path}: ")
    return values.astype(object if values.dtype.kind in "SV" else values.dtype.newbyteorder("="), copy=False)


def _time_dtype(dtype: np.dtype[Any], path: str) -> np.dtype[Any]:
    """Return the type of time that pandas keeps times of a type in: left to itself, it would round some."""
    unit = np.datetime_data(dtype)[0]
    if unit in _UNITS[dtype.kind]:
        unit = "s"
    if unit not in ("s", "ms", "us", "ns"):
        raise SchemaError(f"{path}: found {dtype}, which pandas cannot hold; it has times in s, ms, us and ns")
    return np.dtype(f"{dtype.kind}8[{unit}]")
