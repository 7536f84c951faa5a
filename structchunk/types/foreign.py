"""Arrays of other libraries, and missing values: masks, and nulls of pyarrow, Polars and pandas.

A missing value cannot be stored, and the array that NumPy makes does not show that it is missing: a mask is gone, a
null among integers is a NaN, and the integers beside it are floats.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["are_lists", "are_wide", "array_of", "has_nulls", "is_masked", "kind_of", "list_parts", "lists_of"]


def array_of(values: Any, where: str = "") -> npt.NDArray[Any]:
    """Return the array that another library makes of its values; `where` begins the message.

    Raises
    ------
    TypeError
        It makes none, for whatever reason.
    """
    # Before 2.2, pandas makes objects of numbers of a type that has nulls.
    wanted = getattr(getattr(values, "dtype", None), "numpy_dtype", None)
    dtype = wanted if wanted is not None and wanted.kind in "biuf" else None
    try:
        return np.asanyarray(values, dtype)
    except MemoryError:
        raise
    except Exception as error:  # of a class that only that library knows
        raise TypeError(f"{where}found {type(values).__name__}, of which NumPy makes no array: {error}") from error


def is_masked(array: object) -> bool:
    """Whether this is a masked array that hides a value, or a field of one."""
    ma: Any = sys.modules.get("numpy.ma")  # who has such an array has imported it; to import it takes long
    if not isinstance(array, getattr(ma, "MaskedArray", ())):
        return False
    mask = np.ascontiguousarray(ma.getmaskarray(array))  # with a truth for each field, of structured arrays
    return bool(mask.view(np.bool_).any())


def has_nulls(values: Any) -> bool:
    """Whether an array or column of another library lacks a value.

    Parameters
    ----------
    values : object
        An array, chunked array or series of pyarrow, Polars or pandas, or whatever else NumPy makes arrays of.

    Notes
    -----
    A NaN is a value. Of pandas, types that are not NumPy's have nulls, of which it counts NaNs as some. A null
    within a list is one, too.
    """
    if isinstance(getattr(values, "dtype", None), np.dtype):
        return False
    if hasattr(values, "chunks"):  # pyarrow
        return any(map(has_nulls, values.chunks))
    if hasattr(values, "dictionary_decode"):  # the nulls of these are those of what they stand for
        return has_nulls(values.dictionary_decode())
    if hasattr(values, "run_ends"):
        return has_nulls(values.values)
    find = getattr(values, "is_null", None) or getattr(values, "isna", None)
    if find is not None and bool(np.asarray(find()).any()):
        return True
    return any(map(has_nulls, _inner(values)))


def kind_of(values: Any) -> Any:
    """Return the type that another library has for each of these values, or None."""
    kind = getattr(values, "type", None) or getattr(values, "dtype", None)  # pyarrow's arrays have no dtype
    return getattr(kind, "pyarrow_dtype", kind)


def are_lists(kind: Any) -> bool:
    """Tell whether values of a type of pyarrow or Polars are lists."""
    return hasattr(kind, "value_field") or hasattr(kind, "inner")


def lists_of(values: Any) -> Any:
    """Return a column of lists of pyarrow, Polars, pandas or Awkward Array as one of slices, else None.

    Polars' arrays of one length are none: NumPy makes a block of them.
    """
    if _is_awkward(values):
        return values if values.ndim > 1 else None
    kind = kind_of(values)
    if not are_lists(kind) or hasattr(kind, "size"):
        return None
    is_pandas = hasattr(getattr(values, "dtype", None), "pyarrow_dtype")
    return getattr(values, "array", values).__arrow_array__() if is_pandas else values


def list_parts(lists: Any) -> tuple[Any, Any]:
    """Return the items of lists, of which none is null, end to end, and the length of each list."""
    if _is_awkward(lists):
        awkward = sys.modules["awkward"]
        return awkward.to_numpy(awkward.flatten(lists)), awkward.to_numpy(awkward.num(lists))
    if hasattr(lists, "chunks"):
        lists = lists.combine_chunks()
    if hasattr(lists, "value_lengths"):
        return lists.flatten(), lists.value_lengths()
    lengths = lists.list.len()  # of Polars, of which an empty list would explode to a null
    return lists.filter(lengths > 0).explode(), lengths


def _is_awkward(values: object) -> bool:
    awkward: Any = sys.modules.get("awkward")
    return awkward is not None and isinstance(values, awkward.Array)


def are_wide(values: object) -> bool:
    """Tell whether these are integers of 128 bits of Polars, of which neither NumPy nor Arrow has any."""
    kind = getattr(values, "dtype", None)
    return not isinstance(kind, np.dtype) and str(kind) in ("Int128", "UInt128")


def _inner(values: Any) -> list[Any]:
    """Return the items of lists and the fields of structs, whose nulls are not counted as those of the values."""
    if hasattr(values, "null_count") and hasattr(values, "flatten"):  # pyarrow
        if hasattr(values, "items"):  # a map, which is a list that does not flatten
            return [values.keys, values.items]
        flat = values.flatten()
        return flat if isinstance(flat, list) else [flat]
    kind = getattr(values, "dtype", None)
    if not hasattr(values, "explode") or not hasattr(kind, "inner"):
        return []
    if not hasattr(kind, "size"):  # lists of Polars, of which an empty one would explode to a null
        values = values.filter(values.list.len() > 0)
    return [values.explode()]
