"""What must come of a value in a store, by Python's exact arithmetic alone; and random values to try."""

from __future__ import annotations

import fractions
import math
import random
import struct
from typing import Any, Final

import numpy as np

__all__ = ["REFUSED", "expected", "fitting", "numbers_of", "same", "stored", "wild"]

REFUSED: Final = object()
"""What is expected of a value that a type cannot hold."""

FLOATS = {2: (11, -14, 15), 4: (24, -126, 127), 8: (53, -1022, 1023)}
"""By size: bits of precision, exponents of the smallest and largest normal numbers."""
SECONDS = {"W": 604800, "D": 86400, "h": 3600, "m": 60, "s": 1}
PARTS = {"ms": 10**3, "us": 10**6, "ns": 10**9, "ps": 10**12, "fs": 10**15, "as": 10**18}
NUMBERS = "?bBhHiIlLefdFD"


def expected(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return what a store of `dtype` must hold of a value, as `stored` shows it; or REFUSED."""
    if dtype.kind in "SU":
        return _text(value, dtype)
    if dtype.kind in "mM":
        return _time(value, dtype)
    if isinstance(value, (str, bytes, np.datetime64, np.timedelta64)) or value is None:
        return REFUSED
    real, imaginary = (value.real, value.imag) if isinstance(value, (complex, np.complexfloating)) else (value, 0)
    if dtype.kind == "c":
        parts = [_float(part, dtype.itemsize // 2) for part in (real, imaginary)]
        return REFUSED if REFUSED in parts else complex(*parts)
    if imaginary != 0:
        return REFUSED
    if dtype.kind == "f":
        return _float(real, dtype.itemsize)
    if not math.isfinite(real) or _fraction(real).denominator != 1:
        return REFUSED
    bits = 8 * dtype.itemsize
    low, high = {"b": (0, 1), "u": (0, 2**bits - 1), "i": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)}[dtype.kind]
    number = int(_fraction(real))
    return number if low <= number <= high else REFUSED


def stored(array: np.ndarray) -> list[Any]:
    """Return an array's items as plain Python objects: times as counts of their unit, NaT as None."""
    if array.dtype.kind in "mM":
        counts = array.astype(array.dtype.newbyteorder("=")).view(np.int64).tolist()
        return [None if count == -(2**63) else count for count in counts]
    return array.tolist()  # type: ignore[no-any-return]


def same(found: Any, wanted: Any) -> bool:
    """Whether two values are equal, to the sign of a zero, or both NaN."""
    if isinstance(wanted, complex):
        return same(found.real, wanted.real) and same(found.imag, wanted.imag)
    if isinstance(wanted, float):
        return struct.pack("d", found) == struct.pack("d", wanted) or (math.isnan(found) and math.isnan(wanted))
    return bool(found == wanted)


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer, np.bool_))


def _fraction(value: Any) -> fractions.Fraction:
    if isinstance(value, np.floating):
        return fractions.Fraction(*value.as_integer_ratio())
    return fractions.Fraction(int(value) if _is_integer(value) else value)


def _float(value: Any, size: int) -> Any:
    """Round a float as IEEE 754 says; an integer must not need it."""
    if not _is_integer(value) and not math.isfinite(value):
        return float(value)
    exact = _fraction(value)
    bits, lowest, highest = FLOATS[size]
    # 2**place is the last bit of a float of this size that is nearest to the value.
    place = max(_exponent(exact), lowest) - bits + 1 if exact else 0
    rounded = round(exact / fractions.Fraction(2) ** place) * fractions.Fraction(2) ** place
    if abs(rounded) >= 2 ** (highest + 1) or (_is_integer(value) and rounded != exact):
        return REFUSED
    return math.copysign(float(abs(rounded)), -1 if _is_negative(value) else 1)


def _exponent(exact: fractions.Fraction) -> int:
    """Return the largest e with ``2**e <= abs(exact)``."""
    guess = abs(exact.numerator).bit_length() - exact.denominator.bit_length()
    return guess if fractions.Fraction(2) ** guess <= abs(exact) else guess - 1


def _is_negative(value: Any) -> bool:
    return bool(value < 0) if _is_integer(value) else math.copysign(1, value) < 0


def _text(value: Any, dtype: np.dtype[Any]) -> Any:
    width = dtype.itemsize if dtype.kind == "S" else dtype.itemsize // 4
    if not isinstance(value, (str, bytes)) or len(value) > width or value[-1:] in ("\0", b"\0"):
        return REFUSED
    try:
        if dtype.kind == "S":
            return value.encode("ascii") if isinstance(value, str) else bytes(value)
        return value.decode("ascii") if isinstance(value, bytes) else str(value)
    except UnicodeError:
        return REFUSED


# ---------------------------------------------------------------- times


def _time(value: Any, dtype: np.dtype[Any]) -> Any:
    if not isinstance(value, np.datetime64 if dtype.kind == "M" else np.timedelta64):
        return REFUSED
    unit, step = np.datetime_data(value.dtype)
    count = int(value.astype(np.int64))
    if count == -(2**63):
        return None
    wanted, size = np.datetime_data(dtype)
    exact = _months(count * step, unit, wanted) if dtype.kind == "M" else _lengths(count * step, unit, wanted)
    if exact is None or exact % size or not abs(exact // size) < 2**63:
        return REFUSED
    return int(exact // size)


def _lengths(count: int, unit: str, wanted: str) -> fractions.Fraction | None:
    if (unit in "YM") != (wanted in "YM"):
        return None
    return count * _length(unit) / _length(wanted)


def _length(unit: str) -> fractions.Fraction:
    """Return a unit in seconds, years and months in months."""
    if unit in SECONDS:
        return fractions.Fraction(SECONDS[unit])
    return fractions.Fraction({"Y": 12, "M": 1}[unit]) if unit in "YM" else fractions.Fraction(1, PARTS[unit])


def _months(count: int, unit: str, wanted: str) -> fractions.Fraction | None:
    """Return a moment in another unit, which may begin with a month."""
    if (unit in "YM") == (wanted in "YM"):
        return _lengths(count, unit, wanted)
    if unit in "YM":
        days = _day_of(count * int(_length(unit)))
        return days / (_length(wanted) / 86400) if abs(days) < 2**63 else None
    days = count * _length(unit) / 86400
    if abs(days) >= 2**63:  # NumPy counts them on the way, and what it cannot count is refused
        return None
    month = math.floor(days / fractions.Fraction(146097, 4800))
    near = next((near for near in range(month - 2, month + 3) if _day_of(near) == days), None)
    return None if near is None else near / _length(wanted)


def _day_of(month: int) -> fractions.Fraction:
    """Return the day of 1970 that a month counted from then begins with, in the Gregorian calendar."""
    year, rest = divmod(month, 12)
    year += 1970 - (rest < 2)  # a year from March to February, at whose end the leap day is
    march = (rest - 2) % 12
    days = year * 365 + year // 4 - year // 100 + year // 400 + (153 * march + 2) // 5
    return fractions.Fraction(days - 719468)


# ---------------------------------------------------------------- random values


def fitting(rng: random.Random, dtype: np.dtype[Any]) -> Any:
    """Draw a value that `dtype` holds, as an object of any type that is equal to it."""
    if dtype.kind in "SU":
        width = dtype.itemsize if dtype.kind == "S" else dtype.itemsize // 4
        text = "".join(rng.choice("ab\0z~") for _ in range(rng.randint(0, width))).rstrip("\0")
        return rng.choice([str, str.encode, np.str_])(text)  # type: ignore[operator]
    if dtype.kind in "mM":
        count = rng.choice([rng.randint(-100, 100), rng.randint(-(2**40), 2**40), _edge(rng)])
        return _scalar(dtype.kind, count, *np.datetime_data(dtype))
    number = _number(rng, dtype)
    return _dressed(rng, number)


def wild(rng: random.Random, dtype: np.dtype[Any]) -> Any:
    """Draw a value of the same kind as those of `dtype`, which it may hold or not."""
    if dtype.kind in "SU":
        text = "".join(rng.choice("ab\0é€") for _ in range(rng.randint(0, 6)))
        return rng.choice([text, text.encode(), np.str_(text), np.bytes_(text.encode())])
    if dtype.kind in "mM":
        unit = rng.choice([*SECONDS, *PARTS, "Y", "M"])
        count = rng.choice([rng.randint(-100, 100), rng.randint(-(2**62), 2**62), _edge(rng), 86400 * 10**9, None])
        if count is None:
            return np.timedelta64("NaT") if dtype.kind == "m" else np.datetime64("NaT")
        return _scalar(dtype.kind, count, unit, rng.choice([1, 1, 1, 7]))
    return _dressed(rng, rng.choice([_number(rng, np.dtype(rng.choice(NUMBERS))), _edge(rng), rng.random()]))


def numbers_of(rng: random.Random, dtype: np.dtype[Any], count: int) -> np.ndarray:
    """Draw an array of numbers of a dtype: small ones, those at its edges, and any of its bytes."""
    how = rng.randrange(4)
    with np.errstate(all="ignore"):
        if how == 0 and dtype.kind != "b":
            return np.frombuffer(rng.randbytes(count * dtype.itemsize), dtype).copy()
        drawn = [_number(rng, dtype) if how < 3 else rng.randint(0, 3) for _ in range(count)]
        return np.array(drawn).astype(dtype) if dtype.kind in "fcb" else np.array(drawn, dtype)


def _scalar(kind: str, count: int, unit: str, step: int) -> Any:
    made = np.array([min(max(count, -(2**63)), 2**63 - 1)]).view(f"{kind}8[{step}{unit}]")
    return made[0]


def _edge(rng: random.Random) -> int:
    """Draw an integer near a power of two."""
    return rng.choice([1, -1]) * (1 << rng.randint(0, 66)) + rng.randint(-2, 2)


def _number(rng: random.Random, dtype: np.dtype[Any]) -> Any:
    if dtype.kind in "iub":
        bits = 8 * dtype.itemsize if dtype.kind != "b" else 1
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if dtype.kind == "i" else (0, (1 << bits) - 1)
        small = min(high, 100)
        return rng.choice(
            [rng.randint(low, high), rng.randint(0, small), low, high, min(max(_edge(rng), low), high)]
        )
    if dtype.kind == "c":
        part = np.dtype(f"f{dtype.itemsize // 2}")
        return rng.choice([complex(_number(rng, part), _number(rng, part)), _number(rng, part)])
    raw = np.frombuffer(rng.randbytes(dtype.itemsize), dtype.newbyteorder("="))[0]
    exact = float(1 << rng.randint(0, 15)) * rng.choice([1, -1])
    return rng.choice([float(raw), float(rng.randint(-99, 99)), exact, 0.0, -0.0, math.inf, math.nan, rng.random()])


def _dressed(rng: random.Random, number: Any) -> Any:
    """Return a number as an object of some type that is equal to it."""
    codes = "FDG" if isinstance(number, complex) else "?bBhHiIlLefdgFD"
    kind = rng.choice([type(number), int, float, complex, *(np.dtype(code).type for code in codes)])
    if isinstance(number, complex) and kind in (int, float):
        return number
    if issubclass(kind, np.integer) and not np.iinfo(kind).min <= number <= np.iinfo(kind).max:
        return number
    with np.errstate(all="ignore"):
        try:
            dressed = kind(number)
            return dressed if _plain(dressed) == number else number
        except (OverflowError, ValueError):
            return number


def _plain(number: Any) -> Any:
    """Return a number as an object that Python compares exactly."""
    if isinstance(number, np.longdouble):
        return _fraction(number) if np.isfinite(number) else float(number)
    return number.item() if isinstance(number, np.generic) and not isinstance(number, np.clongdouble) else number
