"""Monthly totals of readings, kept up beside the writer by the change feed, whatever is killed.

    pip install '.[examples]' && python examples/totals.py

One process stores the weather of a year, and corrects and deletes what it stored before. Another keeps totals by
month in a database of its own. It asks what was changed since the commit that it knows, takes what those hours had
away from the totals and adds what they have now. The number of the commit goes into the same transaction as the
totals: so when it is killed, which happens all the time here, it finds totals and number as they belong together,
and no change is counted twice or left out. The work is by what is new, not by what there is.

Where compaction took changes that it did not know yet, it starts again from a snapshot.
"""

from __future__ import annotations

import multiprocessing
import random
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess

import numpy as np
from checking import check
from printing import table
from real_data import read_weather, seconds

import structchunk as sc

HOUR, DAY = 3600, 24 * 3600
KILLS = 6
PAUSE = 0.01  # seconds between two commits of the writer

Step = tuple[dict[int, list[int]], list[int]]  # the readings of hours, in hundredths of a degree; hours to delete


def steps() -> Iterator[Step]:
    """Yield what the writer does: a day; now and then an earlier day again, warmer; some of its hours deleted."""
    days: dict[int, dict[int, list[int]]] = {}
    for row in read_weather():
        if row["temp"] != "NA":
            when = seconds(row["time_hour"])
            days.setdefault(when // DAY, {}).setdefault(when // HOUR, []).append(round(float(row["temp"]) * 100))
    chance = random.Random(1)
    done: list[int] = []
    for day, hours in sorted(days.items()):
        yield hours, []
        done.append(day)
        if len(done) % 3 == 0:
            again = days[chance.choice(done)]
            warmer = {hour: [reading + 100 for reading in readings] for hour, readings in again.items()}
            yield warmer, chance.sample(sorted(again), 2)


def write(path: str) -> None:
    with sc.open(path, "r+") as db:
        for number, (hours, deleted) in enumerate(steps()):
            with db.transaction() as txn:
                txn["readings"].update(hours)
                txn["readings"].delete_many(deleted)
            if number == 200:
                db.compact()
            time.sleep(PAUSE)
        db.array_store("done", np.int8)


# ---------------------------------------------------------------- the totals

HOURS, MONTHS, COMMIT = "hours", "months", "commit"


def follow(path: str, own: str) -> None:
    """Keep the totals until the writer is done."""
    with sc.open(path, "r") as db, sc.open(own) as totals:
        for name in (HOURS, MONTHS, COMMIT):  # of each hour and month the number of readings, and their sum
            totals.array_store(name, np.int64)
        while True:
            with db.snapshot() as snapshot:
                bring_forward(totals, snapshot)
            if "done" in db:
                break
            time.sleep(PAUSE / 2)
            db.refresh()


def bring_forward(totals: sc.Database, source: sc.Snapshot) -> None:
    """Bring the totals, and the number of their commit, to that of a snapshot, in one transaction."""
    since = int(totals[COMMIT].get(0, [0])[0])
    if since == source.last_commit:
        return
    with totals.transaction() as txn:
        try:
            for change in source.changes(since, "readings", net=True):
                apply(txn, change.batch(), change.deleted)
        except sc.HistoryLost:
            txn[HOURS].clear()
            txn[MONTHS].clear()
            for batch in source["readings"].scan():
                apply(txn, batch, np.empty(0, np.uint64))
        txn[COMMIT].put(0, [source.last_commit])


def apply(txn: sc.Transaction, batch: sc.Batch, deleted: np.ndarray) -> None:
    """Take away what some hours had, and add what they have now."""
    hours, months = txn[HOURS], txn[MONTHS]
    changed = np.concatenate([batch.keys, deleted])
    known = changed[hours.contains_many(changed)]
    before = hours.get_many(known).values.reshape(-1, 2)
    now = np.stack([batch.lengths, batch.reduce(np.add)], axis=1)
    which, place = np.unique(month_of(np.concatenate([known, batch.keys])), return_inverse=True)
    sums = np.zeros((len(which), 2), np.int64)
    np.add.at(sums, place, np.concatenate([-before, now]))
    for month, difference in zip(which.tolist(), sums, strict=True):
        months[month] = months.get(month, np.zeros(2, np.int64)) + difference
    hours.put_many(batch.keys, now)
    hours.delete_many(deleted)


def month_of(hours: np.ndarray) -> np.ndarray:
    """Return months since 1970 of hours since then."""
    return (hours.astype(np.int64) * HOUR).astype("M8[s]").astype("M8[M]").astype(np.int64)


# ---------------------------------------------------------------- all of it


def run(path: str, own: str) -> int:
    """Let the writer write, kill who follows it again and again, and return how often it was killed."""
    context = multiprocessing.get_context("spawn")
    writer = context.Process(target=write, args=(path,), daemon=True)
    writer.start()
    kills, chance = 0, random.Random()
    while True:
        follower: BaseProcess = context.Process(target=follow, args=(path, own), daemon=True)
        follower.start()
        follower.join(chance.uniform(0.5, 1.0) if kills < KILLS else 50)
        if not follower.is_alive():
            break
        follower.kill()
        follower.join()
        kills += 1
    writer.join(50)
    check("both processes ended well", [writer.exitcode, follower.exitcode], 0)
    return kills


def main() -> None:
    readings: dict[int, list[int]] = {}
    for hours, deleted in steps():
        readings |= hours
        for hour in deleted:
            readings.pop(hour)
    with tempfile.TemporaryDirectory() as directory:
        path, own = f"{directory}/weather.sc", f"{directory}/totals.sc"
        with sc.open(path, "x", sync=False) as db:
            db.array_store("readings", np.int64)
        kills = run(path, own)
        print(f"\nWho keeps the totals was killed {kills} times")
        with sc.open(path, "r") as db, sc.open(own, "r") as totals:
            check("the totals are of the last commit", totals[COMMIT][0][0], db.last_commit)
            found = {month: sums for month, sums in totals[MONTHS].items() if sums[0]}
            check("both databases are sound", [db.verify(), totals.verify()], [[], []])
    expected: dict[int, np.ndarray] = {}
    for hour, each in readings.items():
        month = int(month_of(np.array([hour]))[0])
        expected[month] = expected.get(month, np.zeros(2, np.int64)) + np.array([len(each), sum(each)])
    months = sorted(expected)
    pairs = [found[month] for month in months], [expected[month] for month in months]
    check("the number and the sum of the readings of each month", *pairs)
    names = np.array(months).astype("M8[M]").astype(str)
    rows = [(name, *found[m][:1], found[m][1] / found[m][0] / 100) for name, m in zip(names, months, strict=True)]
    table("The totals", "month,readings,mean F", rows)


if __name__ == "__main__":
    main()
