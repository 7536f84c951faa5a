"""Two dashboards beside a writer: each sleeps until there is a newer commit, then shows what is new.

    pip install '.[examples]' && python examples/dashboards.py

One process stores the weather of a year, a day in each commit. Two others show it as it comes. One has the mean
temperature of each airport so far, and takes from the change feed what is new, commit by commit. The other
draws the last week, and reads that range of keys. ``wait()`` returns when there is a newer commit, a
millisecond or two after it was made; the commit that a dashboard shows stays as it is until the next
``wait()``. Both end when the writer is done, and what they showed last is checked against the CSV.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np
from checking import check
from printing import say
from real_data import read_weather, seconds

import structchunk as sc

HOUR, DAY = 3600, 24 * 3600
AIRPORTS = ("EWR", "JFK", "LGA")
PAUSE = 0.005  # seconds between two days: else it is over before there is anything to see
BARS = "▁▂▃▄▅▆▇█"

Days = dict[int, dict[str, dict[int, int]]]  # day: airport: hour: hundredths of a degree


def read_days() -> Days:
    days: Days = {}
    for row in read_weather():
        if row["temp"] != "NA":
            when = seconds(row["time_hour"])
            airports = days.setdefault(when // DAY, {name: {} for name in AIRPORTS})
            airports[row["origin"]][when // HOUR] = round(float(row["temp"]) * 100)
    return dict(sorted(days.items()))


def write(path: str, start: Barrier) -> None:
    with sc.open(path, "r+") as db:
        start.wait()
        for day, airports in read_days().items():
            with db.transaction(sync=False) as txn:
                for name, hours in airports.items():
                    txn[name].update({hour: [reading] for hour, reading in hours.items()})
                txn["written"].put(day, [time.monotonic_ns()])
            time.sleep(PAUSE)
        db.array_store("done", np.int8)


# ---------------------------------------------------------------- the dashboards


def follow(db: sc.Database) -> Iterator[int]:
    """Yield at each newer commit, with the number of the last one that was seen, until the writer is done."""
    while "done" not in db:
        seen = db.last_commit
        if not db.wait(timeout=30):
            sys.exit("WRONG: nothing was written in 30 seconds")
        yield seen


def show_year(path: str, start: Barrier, results: SimpleQueue[Any]) -> None:
    """Show the mean of each airport so far, once a month."""
    sums = {name: np.zeros(2, np.int64) for name in AIRPORTS}  # of each the number of readings, and their sum
    delays: list[int] = []
    month = ""
    with sc.open(path, "r") as db:
        start.wait()
        for seen in follow(db):
            for change in db.changes(seen):
                if change.store in AIRPORTS:
                    values = change.batch().values
                    sums[change.store] += len(values), values.sum()
                elif change.store == "written" and len(change.keys):
                    delays.append(time.monotonic_ns() - int(change.batch().values[-1]))
            if month_of(last_day(db)) != month:
                month = month_of(last_day(db))
                means = (f"{name} {total / count / 100:5.1f} F" for name, (count, total) in sums.items())
                say("year", f"{month}: so far " + ", ".join(means))
    say("year", f"saw {len(delays)} days, half of them within {np.median(delays) / 1e6:.1f} ms of their writing")
    results.put(("year", {name: pair.tolist() for name, pair in sums.items()}))


def show_week(path: str, start: Barrier, results: SimpleQueue[Any]) -> None:
    """Draw the means of the last seven days, once a month."""
    means = np.empty(0)
    month = ""
    with sc.open(path, "r") as db:
        start.wait()
        for _ in follow(db):
            day = last_day(db)
            means = daily_means(db, day - 6, day + 1)
            if month_of(day) != month:
                month = month_of(day)
                say("week", f"{month}: {bars(means)} {means.min():.1f} to {means.max():.1f} F")
    results.put(("week", means.tolist()))


def last_day(db: sc.Database) -> int:
    day: int = next(reversed(db["written"]))
    return day


def month_of(day: int) -> str:
    return str(np.datetime64(day, "D").astype("M8[M]"))


def daily_means(db: sc.Database, first: int, stop: int) -> np.ndarray:
    """Return the mean over all airports of each day that has readings."""
    batches = [db[name].read(first * DAY // HOUR, stop * DAY // HOUR) for name in AIRPORTS]
    days = np.concatenate([batch.keys for batch in batches]).astype(np.int64) * HOUR // DAY
    _, which = np.unique(days, return_inverse=True)
    sums = np.bincount(which, np.concatenate([batch.values for batch in batches]))
    return sums / np.bincount(which) / 100


def bars(values: np.ndarray) -> str:
    """Draw numbers between 0 and 100."""
    return "".join(BARS[int(value * len(BARS) / 100)] for value in values.clip(0, 99))


# ---------------------------------------------------------------- all of it


def run(path: str) -> dict[str, Any]:
    """Run the three processes, and return what the dashboards showed last."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(3, timeout=30), context.SimpleQueue()
    processes = [
        context.Process(target=write, args=(path, start), daemon=True),
        context.Process(target=show_year, args=(path, start, results), daemon=True),
        context.Process(target=show_week, args=(path, start, results), daemon=True),
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + 60
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    check("3 processes ended well", [process.exitcode for process in processes], 0)
    return dict([results.get(), results.get()])


def main() -> None:
    days = read_days()
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/weather.sc"
        with sc.open(path, "x") as db:
            for name in AIRPORTS:
                db.array_store(name, np.int32)
            db.array_store("written", np.int64)
        print(f"One process writes {len(days)} days, two show them:")
        found = run(path)
        with sc.open(path, "r") as db:
            check("the database is sound", db.verify(), [])
    for name in AIRPORTS:
        known = [reading for airports in days.values() for reading in airports[name].values()]
        check(f"the number and the sum of the readings of {name}", found["year"][name], [len(known), sum(known)])
    last = max(days)
    readings = [[r for hours in days[day].values() for r in hours.values()] for day in range(last - 6, last + 1)]
    check("the last week", found["week"], [sum(each) / len(each) / 100 for each in readings], 1e-12)


if __name__ == "__main__":
    main()
