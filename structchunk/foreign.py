"""Arrays of other libraries, and values that are not there: masks, and nulls of pyarrow, Polars and pandas.

What is not there cannot be stored, and the array that NumPy makes does not show it: a mask is gone, a null among
integers is a NaN, and the integers beside it are floats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["array_of", "has_nulls", "is_masked"]


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
    if not isinstance(array, np.ma.MaskedArray):
        return False
    ma: Any = np.ma  # NumPy 2.2 has no types for its functions
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
    A NaN is a value. Of pandas, types that are not NumPy's have nulls, of which it counts NaNs as some.
    """
    if isinstance(getattr(values, "dtype", None), np.dtype):
        return False
    if hasattr(values, "chunks"):  # pyarrow
        return any(map(has_nulls, values.chunks))
    values = _innermost(values)
    find = getattr(values, "is_null", None) or getattr(values, "isna", None)
    return find is not None and bool(np.asarray(find()).any())


def _innermost(values: Any) -> Any:
    """Return the values that may be nulls, of an array of which nulls are not counted as such."""
    if hasattr(values, "dictionary_decode"):  # pyarrow
        return values.dictionary_decode()
    if hasattr(values, "run_ends"):
        return values.values
    while hasattr(values, "explode") and hasattr(getattr(values, "dtype", None), "inner"):  # Polars' arrays
        values = values.explode()
    return values
