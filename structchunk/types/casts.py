"""Casts of plain arrays that keep every value, or say which one they cannot keep.

Rounding floats to a shorter float is the one change that is let through; an overflow to infinity is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

__all__ = ["EXACT_UP_TO", "exact", "is_exact", "refuse"]

_Plain = npt.NDArray[Any]
_Cast = Callable[[_Plain, "np.dtype[Any]", str], _Plain]

_MAX_SHOWN = 100

EXACT_UP_TO = {2: 2**11, 4: 2**24, 8: 2**53}
"""By the size of a float, the integer up to which it holds all integers."""


_RANGES = {code: (int(np.iinfo(code).min), int(np.iinfo(code).max)) for code in "bBhHiIlLqQ"}


def is_exact(value: object, dtype: np.dtype[Any]) -> bool:
    """Whether a value is a plain int or float of which it is clear at once that NumPy stores it unchanged."""
    if type(value) is float:
        return dtype.char == "d"
    if type(value) is not int or dtype.char not in _RANGES:
        return False
    low, high = _RANGES[dtype.char]
    return low <= value <= high


def exact(source: _Plain, dtype: np.dtype[Any], where: str = "") -> _Plain:
    """Cast an array.

    Parameters
    ----------
    source : ndarray of any shape
        Of a dtype without fields.
    dtype : numpy.dtype
        What is wanted, without fields.
    where : str
        Begins the messages: the field that is meant, as ``"field 'x': "``.

    Returns
    -------
    ndarray
        Of the same shape and of `dtype`; `source` itself if it is of that dtype.

    Raises
    ------
    TypeError
        If values of one type are never taken for the other, as text for numbers.
    ValueError
        If one value would change; the message shows it.
    """
    if source.dtype == dtype:
        return source
    if source.size == 0:
        return np.zeros(source.shape, dtype)
    cast = _CASTS.get((_group(source.dtype), _group(dtype)))
    if cast is None:
        raise TypeError(f"{where}found {source.dtype}, expected {dtype}")
    with np.errstate(all="ignore"):  # each cast finds out itself whether it changed a value
        return cast(source, dtype, where)


def _group(dtype: np.dtype[Any]) -> str:
    return {"u": "i", "S": "text", "U": "text"}.get(dtype.kind, dtype.kind)


def refuse(value: Any, dtype: np.dtype[Any], where: str) -> NoReturn:
    """Raise the ValueError that says which value cannot be stored.

    Parameters
    ----------
    value : object
        A scalar, of Python or NumPy.
    dtype : numpy.dtype
        What it was to become.
    where : str
        Begins the message.
    """
    raise ValueError(f"{where}found {_shown(value)}, which {dtype} cannot hold without changing it")


def _shown(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 128:  # Python prints no integer of very many digits
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, np.generic) and value.dtype.kind not in "mM":
        value = value.item()
    is_text = isinstance(value, (str, bytes))
    if is_text and len(value) > _MAX_SHOWN:
        return f"{value[:_MAX_SHOWN]!r} and {len(value) - _MAX_SHOWN} more"
    return repr(value) if is_text or isinstance(value, complex) else str(value)


def _refuse(source: _Plain, bad: Any, dtype: np.dtype[Any], where: str) -> NoReturn:
    """Refuse the first value of `source` that is `bad`."""
    refuse(source[np.asarray(bad)][0], dtype, where)


def _plainly(source: _Plain, dtype: np.dtype[Any], where: str) -> _Plain:
    return source.astype(dtype)


def _int_to_int(source: _Plain, dtype: np.dtype[Any], where: str) -> _Plain:
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if int(source.min()) < low or int(source.max()) > high:
        _refuse(source, (source < low) | (source > high), dtype, where)
    return source.astype(dtype)


def _float_to_int(source: _Plain, dtype: np.dtype[Any], where: str) -> _Plain:
    wide = source.astype(np.promote_types(source.dtype, np.float64))
    # The bounds are powers of two, so exact as floats: a cast of 2.0**64 itself is undefined.
    inside = (wide >= float(np.iinfo(dtype).min)) & (wide < float(int(np.iinfo(dtype).max) + 1))
    good = inside & (np.trunc(wide) == wide)
    if not good.all():
        _refuse(source, ~good, dtype, where)
    return source.astype(dtype)


def _int_to_float(source: _Plain, dtype: np.dtype[Any], where: str) -> _Plain:
    limit = EXACT_UP_TO[dtype.itemsize]
    if -limit <= int(source.min()) and int(source.max()) <= limit:
        return source.astype(dtype)
    result = source.astype(dtype)
    good = _as_integers(result, source.dtype) == source
    if not good.all():
        _refuse(source, ~good, dtype, where)
    return result


def _as_integers(floats: _Plain, dtype: np.dtype[Any]) -> _Plain:
    """Cast whole floats back to the integers they came from, those rounded out of their range to zero."""
    wide = floats.astype(np.float64)
    inside = np.isfinite(wide) & (wide < float(int(np.iinfo(dtype).max) + 1))
    return np.where(inside, wide, 0).astype(dtype)


def _float_to_float(source: _Plain, dtype: np.dtype[Any], where: str) -> _Plain:
    result = source.astype(dtype)
    bad = np.isinf(result) & ~np.isinf(source)
    if bad.any():
        _refuse(source, bad, dtype, where)
    return result


def _from_complex(source: _Plain, dtype: np.dtype[Any], where: str) -> _Plain:
    if not (source.imag == 0).all():
        _refuse(source, source.imag != 0, dtype, where)
    return exact(source.real, dtype, where)


def _to_complex(source: _Plain, dtype: np.dtype[Any], where: str) -> _Plain:
    part = np.dtype(f"f{dtype.itemsize // 2}")
    result = np.zeros(source.shape, dtype)
    result.real = exact(source.real, part, where)
    if source.dtype.kind == "c":
        result.imag = exact(source.imag, part, where)
    return result


def _to_bool(source: _Plain, dtype: np.dtype[Any], where: str) -> _Plain:
    good = (source == 0) | (source == 1)
    if not good.all():
        _refuse(source, ~good, dtype, where)
    return source.astype(dtype)


def _to_text(source: _Plain, dtype: np.dtype[Any], where: str) -> _Plain:
    width = dtype.itemsize if dtype.kind == "S" else dtype.itemsize // 4
    lengths = np.char.str_len(source)
    if lengths.max() > width:
        _refuse(source, lengths > width, dtype, where)
    try:
        return source.astype(dtype)
    except UnicodeError as error:
        raise ValueError(f"{where}found text that is not ASCII, expected {dtype}: {error}") from error


def _to_time(source: _Plain, dtype: np.dtype[Any], where: str) -> _Plain:
    nothing = np.isnat(source)
    if nothing.all():  # of whatever unit
        return np.full(source.shape, "NaT", dtype)
    if np.datetime_data(source.dtype)[0] == "generic":
        raise TypeError(f"{where}found {source.dtype} without a unit, expected {dtype}")
    try:
        np.promote_types(source.dtype, dtype)  # older NumPy compares months with days, and warns
        result = source.astype(dtype)
        bad = (result != source) | (result.astype(source.dtype) != source)
    except OverflowError as error:
        raise ValueError(f"{where}found a time out of the range of {dtype}: {error}") from error
    except TypeError as error:  # months for days: they have no length
        raise TypeError(f"{where}found {source.dtype}, expected {dtype}: {error}") from error
    if (bad & ~nothing).any():
        _refuse(source, bad & ~nothing, dtype, where)
    return result


_CASTS: dict[tuple[str, str], _Cast] = {
    ("b", "b"): _plainly,
    ("b", "i"): _plainly,
    ("b", "f"): _plainly,
    ("b", "c"): _plainly,
    ("i", "b"): _to_bool,
    ("i", "i"): _int_to_int,
    ("i", "f"): _int_to_float,
    ("i", "c"): _to_complex,
    ("f", "b"): _to_bool,
    ("f", "i"): _float_to_int,
    ("f", "f"): _float_to_float,
    ("f", "c"): _to_complex,
    ("c", "b"): _to_bool,
    ("c", "i"): _from_complex,
    ("c", "f"): _from_complex,
    ("c", "c"): _to_complex,
    ("text", "text"): _to_text,
    ("m", "m"): _to_time,
    ("M", "M"): _to_time,
}
