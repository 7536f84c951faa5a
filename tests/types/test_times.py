"""Times of datetime, pandas and ISO 8601, and text of all kinds: taken exactly, or refused."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import OpenDB
from hypothesis import given
from hypothesis import strategies as st

from structchunk.types.blocks import as_block
from structchunk.types.convert import as_items

HOUR = datetime.timedelta(hours=1)
STRING: Any = getattr(getattr(np, "dtypes", None), "StringDType", None)
"""NumPy has it since 2.0."""
EAST = datetime.timezone(5 * HOUR / 2)
MOMENT = datetime.datetime(2020, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("item", "dtype", "expected"),
    [
        (MOMENT, "M8[s]", "2020-01-02T03:04:05"),
        (MOMENT.replace(microsecond=5), "M8[ns]", "2020-01-02T03:04:05.000005"),
        (MOMENT.replace(tzinfo=EAST), "M8[s]", "2020-01-02T00:34:05"),
        (datetime.datetime.min.replace(tzinfo=EAST), "M8[s]", "0000-12-31T21:30"),
        (datetime.date(2020, 1, 2), "M8[s]", "2020-01-02"),
        (datetime.datetime(2020, 1, 2), "M8[D]", "2020-01-02"),
        (pd.Timestamp("2020-01-02T03:04:05.123456789"), "M8[ns]", "2020-01-02T03:04:05.123456789"),
        (pd.Timestamp("2020-01-02T00:00", tz="Europe/Berlin"), "M8[h]", "2020-01-01T23"),
        (pd.NaT, "M8[s]", "NaT"),
        ("NaT", "M8[s]", "NaT"),
        ("2020", "M8[Y]", "2020"),
        ("2020-01", "M8[s]", "2020-01"),
        ("2020-01-02", "M8[D]", "2020-01-02"),
        ("2020-01-02 03:04", "M8[m]", "2020-01-02T03:04"),
        ("2020-01-02T03:04:05.123456789", "M8[ns]", "2020-01-02T03:04:05.123456789"),
        ("3000-01-02T03:04:05.000000000", "M8[s]", "3000-01-02T03:04:05"),
        ("2020-01-02T03:04:05Z", "M8[s]", "2020-01-02T03:04:05"),
        ("2020-01-02T03:04:05.5+02:30", "M8[ms]", "2020-01-02T00:34:05.5"),
        ("2020-01-02T03-0130", "M8[m]", "2020-01-02T04:30"),
        (np.str_("2020-01-02"), "M8[D]", "2020-01-02"),
        (HOUR, "m8[s]", np.timedelta64(3600, "s")),
        (pd.Timedelta(5, "ns"), "m8[ns]", np.timedelta64(5, "ns")),
    ],
    ids=str,
)
def test_times(item: Any, dtype: str, expected: Any) -> None:
    wanted = np.array([expected, expected], dtype)
    np.testing.assert_array_equal(as_items([item, item], np.dtype(dtype)), wanted)
    mixed = [item, np.array(expected, dtype)[()]]
    np.testing.assert_array_equal(as_items(mixed, np.dtype(dtype)), wanted)
    np.testing.assert_array_equal(as_items(np.array([item, item], object), np.dtype(dtype)), wanted)
    np.testing.assert_array_equal(as_block([[item], [item]], None, np.dtype(dtype))[0], wanted)


@pytest.mark.parametrize(
    ("item", "dtype", "message"),
    [
        (MOMENT, "M8[m]", "found 2020-01-02T03:04:05.000000, which"),
        (datetime.datetime(3000, 1, 1), "M8[ns]", "3000-01-01|out of the range"),
        ("2020-01-02T03:04:05.5", "M8[s]", "found 2020-01-02T03:04:05.500, which"),
        ("3000-01-02T03:04:05.123456789", "M8[s]", "no unit"),
        ("2020-01-02T03:04:05.123456789012", "M8[ns]", "no unit|which"),
        *((text, "M8[s]", "ISO 8601") for text in ("", "now", "today", "20200102", "2020-1-2", "2020-01-02Z", "x")),
        *((text, "M8[s]", "no time") for text in ("2020-02-30", "2020-01-02T25", "2020-13")),
        ("٢٠٢٠", "M8[s]", "ISO 8601"),
    ],
    ids=str,
)
def test_times_that_are_refused(item: Any, dtype: str, message: str) -> None:
    for items in ([item], np.array([item], object), [item, np.datetime64("NaT", "s")]):
        with pytest.raises(ValueError, match=message):
            as_items(items, np.dtype(dtype))


def test_other_things_are_no_times() -> None:
    for item in (1, 1.5, None, HOUR, datetime.time(1), b"2020"):
        with pytest.raises(TypeError, match="found"):
            as_items([item], np.dtype("M8[s]"))
    for item in (1, None, MOMENT, "5"):
        with pytest.raises(TypeError, match="found"):
            as_items([item], np.dtype("m8[s]"))


@given(st.datetimes(timezones=st.none() | st.timezones()))
def test_every_datetime_and_its_text(moment: datetime.datetime) -> None:
    naive = moment.replace(tzinfo=None) - (moment.utcoffset() or 0 * HOUR) if moment.year not in (1, 9999) else None
    (found,) = as_items([moment], np.dtype("M8[us]"))
    assert naive is None or found.item() == naive
    if (moment.utcoffset() or HOUR) % (HOUR / 60) == 0 * HOUR:  # text has no seconds of an offset
        assert as_items([moment.isoformat()], np.dtype("M8[us]"))[0] == found


@pytest.mark.parametrize("precision", ["hours", "minutes", "seconds", "milliseconds", "microseconds", None])
@given(moments=st.lists(st.datetimes(), min_size=2, max_size=5))
def test_texts_of_one_form_are_what_each_of_them_is(precision: str | None, moments: list[Any]) -> None:
    texts = [moment.isoformat(timespec=precision) if precision else str(moment.date()) for moment in moments]
    dtype = np.dtype("M8[us]")
    singly = np.concatenate([as_items([np.str_(text)], dtype) for text in texts])
    assert as_items(texts, dtype).tolist() == singly.tolist() == as_items([*texts, "2020"], dtype)[:-1].tolist()
    assert as_items(moments, dtype).tolist() == [as_items([moment], dtype)[0].item() for moment in moments]


@pytest.mark.parametrize("wrong", ["2020-02-30T00:00:00", "2020-01-01T00:00:6x", "2020-01-01x00:00:00"])
def test_one_of_many_texts_is_no_time(wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        as_items(["2020-01-01T00:00:00", wrong, "2020-01-01T00:00:02"], np.dtype("M8[s]"))


@pytest.mark.parametrize("length", [datetime.timedelta.max, datetime.timedelta.min, datetime.timedelta(106751992)])
def test_lengths_beyond_those_of_numpy_are_refused(length: datetime.timedelta) -> None:
    for items in ([length], [HOUR, length], [length, np.timedelta64("NaT", "s")]):
        with pytest.raises(ValueError, match="which no timedelta64"):
            as_items(items, np.dtype("m8[us]"))


def columns_of(values: list[str]) -> list[Any]:
    return [
        np.array(values),
        *([np.array(values, STRING())] if STRING else []),
        np.array(values, object),
        pa.array(values),
        pa.array(values, pa.large_string()),
        pa.array(values).dictionary_encode(),
        pa.chunked_array([values[:1], values[1:]]),
        pd.Series(values),
        pd.Series(values, dtype=object),
        pd.Series(values, dtype="string"),
        pd.Series(values).astype("category"),
        pd.Categorical(values),
        pl.Series(values),
        pl.Series(values, dtype=pl.Categorical),
        pl.Series(values, dtype=pl.Enum(list(dict.fromkeys(values)))),
    ]


@pytest.mark.parametrize(
    "column", columns_of(["2020-01-02", "2021-03-04", "2020-01-02"]), ids=lambda one: repr(one)[:30]
)
def test_columns_of_text(column: Any) -> None:
    texts = ["2020-01-02", "2021-03-04", "2020-01-02"]
    assert as_items(column, np.dtype("S10")).tolist() == [text.encode() for text in texts]
    assert as_items(column, np.dtype("U12")).tolist() == texts
    assert as_items(column, np.dtype("M8[h]")).tolist() == np.array(texts, "M8[h]").tolist()
    for dtype, error in [("S9", ValueError), ("U3", ValueError), ("f8", TypeError), ("m8[s]", TypeError)]:
        with pytest.raises(error, match="found"):
            as_items(column, np.dtype(dtype))


def test_missing_text_is_refused() -> None:
    for column in (
        *([np.array(["a", None], STRING(na_object=None))] if STRING else []),
        np.array(["a", None], object),
        pd.Series(["a", None], dtype=object),
        pd.Series(["a", np.nan], dtype=object),
        pd.Series(["a", None]),
        pa.array(["a", None]),
    ):
        for dtype in ("S3", "U3", "M8[s]"):
            with pytest.raises((TypeError, ValueError), match="found"):
                as_items(column, np.dtype(dtype))


def test_arrow_text_as_times(open_db: OpenDB) -> None:
    store = open_db().array_store("times", "M8[s]")
    store.from_arrow(pa.table({"key": [1], "times": [["2020-01-02", None, "2020-01-02T03:04:05+01:00"]]}))
    assert store[1].tolist() == np.array(["2020-01-02", "NaT", "2020-01-02T02:04:05"], "M8[s]").tolist()
    with pytest.raises(ValueError, match="times: found '12', expected a time of ISO 8601"):
        store.from_arrow(pa.table({"key": [1], "times": [["12"]]}))
