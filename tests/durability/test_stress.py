"""Eight threads that read, write and close under load, and forks in the middle, in processes of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from support import run_python

NewRoot = Callable[[], str]

COMMON = """
import os, random, signal, sys, threading, time
import numpy as np
import structchunk as sc

root, seed, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sys.setswitchinterval(1e-5)
problems = []

def read(db, rng):
    with db.snapshot() as snap:
        left, right = snap["left"], snap["right"]
        numbers = {int(store[0][0]) for store in (left, right) if 0 in store}
        if len(numbers) > 1:
            problems.append(f"two commits seen: {numbers}")
        for key, record in left.items():
            if key and (record != record[0]).any():
                problems.append(f"torn record {key}")
    for batch in db["right"].scan(batch_size=50):
        if len(batch.keys) and (np.diff(batch.keys.astype(object)) <= 0).any():
            problems.append("keys out of order")
    db["left"].get(rng.randrange(200))
    try:
        db["right"].get_many(rng.sample(range(200), 3))
    except sc.KeyNotFound:
        pass
    len(db["left"]), next(reversed(db["left"]), None)

def write(db, rng):
    with db.transaction(sync=rng.random() < 0.1) as txn:
        number = int(txn["left"][0][0]) + 1 if 0 in txn["left"] else 1
        for name in ("left", "right"):
            txn[name].put(0, [number])
            txn[name].put(rng.randrange(1, 200), [number] * rng.randint(1, 300))
            txn[name].delete(rng.randrange(1, 200))
        if rng.random() < 0.1:
            txn.abort()

def loop(db, rng, stop):
    try:
        while not stop.is_set():
            roll = rng.random()
            if roll < 0.6:
                read(db, rng)
            elif roll < 0.97:
                write(db, rng)
            elif roll < 0.99:
                db.sync()
            else:
                problems.extend(map(str, db.verify()))
    except sc.ClosedError:
        pass
    except BaseException as error:
        import traceback
        problems.append(traceback.format_exc())

def start(db, number):
    stop = threading.Event()
    rngs = [random.Random(seed + number * 8 + i) for i in range(8)]
    threads = [threading.Thread(target=loop, args=(db, rng, stop)) for rng in rngs]
    for thread in threads:
        thread.start()
    return stop, threads

def join(threads):
    for thread in threads:
        thread.join(30)
        if thread.is_alive():
            problems.append("a thread hangs")
            break

def open_db():
    db = sc.open(root, chunk_size=16384, sync=False)
    for name in ("left", "right"):
        db.array_store(name, "<u8")
    return db
"""

CLOSE = """
for number in range(rounds):
    db = open_db()
    stop, threads = start(db, number)
    time.sleep(random.Random(seed + number).uniform(0.01, 0.15))
    closers = [threading.Thread(target=db.close) for _ in range(2)]
    for closer in closers:
        closer.start()
    join(closers + threads)
    if problems:
        break
with open_db() as db:
    problems += map(str, db.verify())
print(*problems, sep="\\n", file=sys.stderr)
os._exit(bool(problems))
"""

FORK = """
def child(db):
    signal.alarm(20)
    bad = 0
    for use in (lambda: db["left"], lambda: db.sync(), lambda: db.transaction(), lambda: db.snapshot(),
                lambda: db.verify(), lambda: list(store), lambda: store[0], lambda: store.put(1, [1])):
        try:
            use()
            bad = 1
        except sc.ClosedError:
            pass
    db.close()
    os._exit(bad)

for number in range(rounds):
    db = open_db()
    store = db["left"]
    stop, threads = start(db, number)
    for _ in range(3):
        time.sleep(0.01)
        pid = os.fork()
        if not pid:
            child(db)
        status = os.waitpid(pid, 0)[1]
        if status:
            problems.append(f"a child ended with status {status}")
    stop.set()
    join(threads)
    db.close()
    if problems:
        break
with open_db() as db:
    problems += map(str, db.verify())
print(*problems, sep="\\n", file=sys.stderr)
os._exit(bool(problems))
"""


@pytest.mark.timeout(0)
@pytest.mark.parametrize("code", [CLOSE, FORK], ids=["close", "fork"])
def test_stress(seed: int, budget: float, new_root: NewRoot, code: str) -> None:
    rounds = round(12 * budget)
    quiet = "import warnings; warnings.simplefilter('ignore')\n"  # Python 3.12 warns of forks beside threads
    end = run_python(quiet + COMMON + code, new_root(), str(seed), str(rounds), timeout=60 + 10 * rounds)
    assert end.returncode == 0, f"{end.returncode} {end.stdout[-2000:]} {end.stderr[-4000:]} {sys.version}"
