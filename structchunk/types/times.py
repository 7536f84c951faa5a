"""Times of Python's datetime, of pandas and of ISO 8601 as NumPy's scalars, each in the unit that it has."""

from __future__ import annotations

import datetime
import re
from typing import Any

import numpy as np

__all__ = ["LENGTHS", "MOMENTS", "as_time"]

MOMENTS = (np.datetime64, datetime.date, str)
"""What is taken for a datetime64; a datetime is a date too."""
LENGTHS = (np.timedelta64, datetime.timedelta)

_YEAR = r"(?:\d{4}|[+-]\d{5,})"
_TIME = r"[T ]\d\d(?::\d\d(?::\d\d(?:\.\d{1,18})?)?)?"
_ZONE = r"(?P<utc>Z)|(?P<sign>[+-])(?P<hours>\d\d):?(?P<minutes>[0-5]\d)?"
_ISO = re.compile(
    rf"(?P<date>{_YEAR}(?:-\d\d(?:-\d\d)?)?)|(?P<clock>{_YEAR}-\d\d-\d\d{_TIME})(?:{_ZONE})?", re.ASCII
)


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
        return np.timedelta64(item, "us")
    if not isinstance(item, datetime.datetime):
        return np.datetime64(item, "D")
    if item.utcoffset() is None:
        return np.datetime64(item.replace(tzinfo=None), "us")
    return np.datetime64(item.replace(tzinfo=None), "us") - np.timedelta64(item.utcoffset(), "us")


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
