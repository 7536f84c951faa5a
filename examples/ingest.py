"""One process stores the weather of 2013 day by day, while others read the database and work out means.

    pip install '.[examples]' && python examples/ingest.py

Each day is one commit over two stores: the readings of its hours, and a ledger of what is there by now. A
reader opens the database with ``mode="r"`` beside the writer. It sees one whole commit, and goes on seeing that
until it asks for the latest with ``refresh()``: so the readings are always exactly those of the ledger, whatever
the writer stores, replaces or compacts meanwhile. Every reader checks that each time, and what is there in the
end is checked against the CSV.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.synchronize import Barrier

import numpy as np
from checking import check
from printing import say, table
from real_data import read_weather, seconds

import structchunk as sc

HOUR, DAY = 3600, 24 * 3600
READERS = 3
PAUSE = 0.005  # seconds between two days: else it is over before there is anything to see


class Ledger(sc.Object):
    """What the database holds, as the writer counts it."""

    _fields_ = [
        ("day", ctypes.c_uint64),  # days since 1970
        ("days", ctypes.c_uint32),
        ("readings", ctypes.c_uint32),
        ("total", ctypes.c_int64),  # hundredths of a degree: whole numbers, so sums are exact
    ]


Days = dict[int, dict[int, list[int]]]  # day: hour: temperatures


def read_days() -> Days:
    days: Days = {}
    for row in read_weather():
        if row["temp"] != "NA":
            when = seconds(row["time_hour"])
            hours = days.setdefault(when // DAY, {})
            hours.setdefault(when // HOUR, []).append(round(float(row["temp"]) * 100))
    return days


# ---------------------------------------------------------------- the writer


def write(path: str, start: Barrier) -> None:
    days = read_days()
    with sc.open(path, "r+") as db:
        start.wait()
        for number, (day, hours) in enumerate(sorted(days.items()), 1):
            store_day(db, day, hours)
            if number == len(days) // 2:
                before = db.stats()["ledger"].garbage
                db.compact()
                say("writer", f"day {number}: compacted; {before:,} bytes of replaced ledgers are gone")
            time.sleep(PAUSE)
        say("writer", f"day {number}: that was the year")


def store_day(db: sc.Database, day: int, hours: dict[int, list[int]]) -> None:
    """Store the hours of a day and bring the ledger up to date, in one commit."""
    with db.transaction() as txn:
        ledger = txn["ledger"].edit(0)
        for hour, temperatures in hours.items():
            txn["temp"].put(hour, temperatures)
            ledger.readings += len(temperatures)
            ledger.total += sum(temperatures)
        ledger.day, ledger.days = day, ledger.days + 1


# ---------------------------------------------------------------- the readers


def read(path: str, name: str, start: Barrier, last_day: int) -> None:
    """Follow the writer to the last day; the process ends with an error if anything but whole commits is seen."""
    seen: list[int] = []
    shown = 0.0
    with sc.open(path, "r") as db:
        start.wait()
        while not seen or seen[-1] < last_day:
            db.refresh()
            ledger = db["ledger"][0]
            if seen and ledger.day == seen[-1]:
                time.sleep(PAUSE / 4)
                continue
            count, total = aggregate(db)
            if (count, total) != (ledger.readings, ledger.total):
                sys.exit(f"WRONG: {name} found {count} readings that sum to {total}, but the ledger is {ledger}")
            seen.append(ledger.day)
            if count and time.monotonic() > shown + 0.7:
                say(name, f"day {ledger.days}: {count:,} readings, mean {total / count / 100:.2f} F")
                shown = time.monotonic()
    say(name, f"saw {len(seen)} commits, each of them whole")


def aggregate(db: sc.Database) -> tuple[int, int]:
    """Return how many readings there are, and their sum."""
    batches = list(db["temp"].scan())
    return sum(len(batch.values) for batch in batches), sum(int(batch.values.sum()) for batch in batches)


# ---------------------------------------------------------------- all of it


def run(path: str, days: Days) -> None:
    """Start all processes, by spawn: a child that was forked could not use the parent's database."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(READERS + 1, timeout=30)
    processes = [context.Process(target=write, args=(path, start))]
    for number in range(1, READERS + 1):
        arguments = (path, f"reader {number}", start, max(days))
        processes.append(context.Process(target=read, args=arguments))
    for process in processes:
        process.daemon = True  # none outlives this one
        process.start()
    deadline = time.monotonic() + 50
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    check(f"{len(processes)} processes ended well", [process.exitcode for process in processes], 0)


def main() -> None:
    days = read_days()
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/ingest.sc"
        with sc.open(path, "x") as db:
            db.array_store("temp", np.int32)
            db.object_store("ledger", Ledger).put(0, Ledger())
        print(f"One process writes {len(days)} days, {READERS} read:")
        run(path, days)
        with sc.open(path, "r") as db:
            count, total = aggregate(db)
            months = np.array([hour * HOUR for hour in db["temp"]], "M8[s]").astype("M8[M]")
            sums = np.concatenate([batch.reduce(np.add) for batch in db["temp"].scan()])
            lengths = np.concatenate([batch.lengths for batch in db["temp"].scan()])
        names, which = np.unique(months, return_inverse=True)
        means = np.bincount(which, sums) / np.bincount(which, lengths) / 100
        table("What is there in the end", "month,mean F", zip(names.astype(str), means, strict=True))
    known = [temperature for hours in days.values() for each in hours.values() for temperature in each]
    check("the number and the sum of all readings", (count, total), (len(known), sum(known)))


if __name__ == "__main__":
    main()
