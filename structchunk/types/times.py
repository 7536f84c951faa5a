"""Times of Python's datetime, of pandas and of ISO 8601 as NumPy's scalars, each in the unit that it has."""

from __future__ import annotations

import datetime
import itertools
import operator
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["LENGTHS", "MOMENTS", "as_time", "as_times"]

MOMENTS = (np.datetime64, datetime.date, str)
"""What is taken for a datetime64; a datetime is a date too."""
LENGTHS = (np.timedelta64, datetime.timedelta)

_YEAR = r"(?:\d{4}|[+-]\d{5,})"
_TIME = r"[T ]\d\d(?::\d\d(?::\d\d(?:\.\d{1,18})?)?)?"
_ZONE = r"(?P<utc>Z)|(?P<sign>[+-])(?P<hours>\d\d):?(?P<minutes>[0-5]\d)?"
_ISO = re.compile(
    rf"(?P<date>{_YEAR}(?:-\d\d(?:-\d\d)?)?)|(?P<clock>{_YEAR}-\d\d-\d\d{_TIME})(?:{_ZONE})?", re.ASCII
)
_PLAIN_ISO = {10: "M8[D]", 16: "M8[m]", 19: "M8[s]", 23: "M8[ms]", 26: "M8[us]"}
"""The unit of text of so many characters, without a time zone."""
_DIGIT = "09"
_ISO_FORM = [_DIGIT if part == "0" else part for part in "0000-00-00T00:00:00.000000"]
_LONGEST = datetime.timedelta(microseconds=2**63 - 1)
_UNITS = {datetime.datetime: "M8[us]", datetime.date: "M8[D]", datetime.timedelta: "m8[us]"}


def as_time(item: Any, where: str = "") -> Any:
    """Return a time as a scalar of NumPy; those with a time zone as they are in UTC.

    Parameters
    ----------
    item : datetime64, timedelta64, date, datetime, timedelta, Timestamp, Timedelta or str
        Text is a date or a date and time of ISO 8601, or ``"NaT"``.
    where : str
        Begins the messages.

    Raises
    ------
    ValueError
        Text is no such time, or a time is out of range.
    """
    if isinstance(item, np.generic) and not isinstance(item, str):
        return item
    if isinstance(item, str):
        return _from_iso(item, where)
    for method in ("to_datetime64", "to_timedelta64"):  # of pandas, whose scalars have nanoseconds
        if hasattr(item, method):
            return getattr(item, method)()
    if isinstance(item, datetime.timedelta):
        if not -_LONGEST <= item <= _LONGEST:  # NumPy would let it overflow
            raise ValueError(f"{where}found {item}, which no timedelta64 of microseconds holds")
        return np.timedelta64(item, "us")
    if not isinstance(item, datetime.datetime):
        return np.datetime64(item, "D")
    if item.utcoffset() is None:
        return np.datetime64(item.replace(tzinfo=None), "us")
    return np.datetime64(item.replace(tzinfo=None), "us") - np.timedelta64(item.utcoffset(), "us")


def as_times(items: Sequence[Any], kind: type[Any]) -> npt.NDArray[Any] | None:
    """Return times of one type and one form as an array, without a step of Python for each; None of any others."""
    if kind is str:
        return _from_plain_iso(items)
    is_zoned = kind is datetime.datetime and any(
        map(operator.is_not, map(operator.attrgetter("tzinfo"), items), itertools.repeat(None))
    )
    is_long = kind is datetime.timedelta and not -_LONGEST <= min(items) <= max(items) <= _LONGEST
    unit = None if is_zoned or is_long else _UNITS.get(kind)
    return None if unit is None else np.array(items, unit)


def _from_plain_iso(texts: Sequence[str]) -> npt.NDArray[Any] | None:
    """Return text that has the same digits everywhere, of units that hold all years of four digits."""
    unit = _PLAIN_ISO.get(len(texts[0]))
    if unit is None or len(set(map(len, texts))) > 1:
        return None
    array = np.array(texts)
    characters = array.view(np.uint32).reshape(len(texts), -1)
    for position, expected in enumerate(_ISO_FORM[: len(texts[0])]):
        found = characters[:, position]
        if not ((found >= ord(expected[0])) & (found <= ord(expected[-1]))).all():
            return None
    try:
        return array.astype(unit)
    except ValueError:  # no such day: which it is, is said where each is looked at
        return None


def _from_iso(text: str, where: str) -> Any:
    if text == "NaT":
        return np.datetime64("NaT", "s")
    parts = _ISO.fullmatch(text)
    if parts is None:
        raise ValueError(f"{where}found {text[:40]!r}, expected a time of ISO 8601, as '2030-01-31T12:00:00'")
    local = (parts["date"] or parts["clock"]).lstrip("+").replace(" ", "T")
    if "." in local:  # a zero more would be a finer unit, which holds fewer years
        local = local.rstrip("0").rstrip(".")
    try:
        moment = np.datetime64(local)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where}found {text[:40]!r}, which is no time: {error}") from error
    if not str(moment).startswith(local):  # NumPy lets units of less than a nanosecond overflow
        raise ValueError(f"{where}found {text[:40]!r}, which no unit of NumPy holds")
    if parts["sign"] is None:
        return moment
    minutes = int(parts["hours"]) * 60 + int(parts["minutes"] or 0)
    offset = np.timedelta64(minutes if parts["sign"] == "+" else -minutes, "m")
    return moment - offset if minutes else moment
