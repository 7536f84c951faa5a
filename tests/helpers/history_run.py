"""Processes that log what they did and saw, and a checker of that, for as long as one likes.

``python tests/helpers/history_run.py SECONDS SEED`` has three processes that share the database, one that now and
then has it to itself, and two that read; all are killed at random, and others come in their place. After each round
the database is opened, verified and read, and the history of the round is checked: see ``histories.py``. At the
first anomaly all stops, and the directory is left as it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from histories import Append, Read, Transaction, find_anomalies

import structchunk as sc
from structchunk.readers import shared_storage

STORES = ("a", "b")
ROLES = ("sharing", "sharing", "sharing", "alone", "reading", "reading")
CHUNK_SIZE = 16 << 10
KEYS = 4
"""How many keys of each store are in use at a time."""
TURNOVER = 4.0
"""How many keys of each store there are anew in a second: lists must not grow for ever."""
ROUND_KEYS = 1 << 20
"""Each round has keys of its own, so many at most."""
TURN_COMMITS = 100
STUCK = 60.0
Found: TypeAlias = list[Any]
"""Store, key and elements."""


class Log:
    """What one process did and saw, one line for each step of it, which is there though the process is killed."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, *line: Any) -> None:
        """Write a line."""
        os.write(self._fd, json.dumps(line).encode() + b"\n")


class Worker:
    """A process that goes on until it is killed."""

    def __init__(self, base: str, number: int, first_key: int, seed: object) -> None:
        self._root = os.path.join(base, "db")
        self._log = Log(os.path.join(base, f"log-{number}"))
        self._rng = random.Random(f"{seed}")
        self._first_key = first_key
        self._started = time.monotonic()
        self._element = number << 24
        self._count = 0
        self.db: Any = None

    def run(self, role: str) -> None:
        """Do what a role does, until it is killed."""
        shared_storage.TURN_COMMITS = TURN_COMMITS
        if role == "reading":
            with sc.open(self._root, "r") as self.db:
                while True:
                    self._look(self._rng.choice((self.db.refresh, lambda: self.db.wait(0.02), None)))
        elif role == "sharing":
            with sc.open(self._root, "r+", shared=True, chunk_size=CHUNK_SIZE, timeout=STUCK) as self.db:
                while True:
                    self._step()
        else:
            while True:
                self._be_alone()

    def _be_alone(self) -> None:
        try:
            with sc.open(self._root, "r+", chunk_size=CHUNK_SIZE) as self.db:
                for _ in range(self._rng.randint(1, 20)):
                    self._step()
        except sc.LockedError:
            time.sleep(0.003)
        else:
            time.sleep(self._rng.uniform(0, 0.3))

    def _step(self) -> None:
        roll = self._rng.random()
        if roll < 0.7:
            self._write()
        elif roll < 0.8:
            with contextlib.suppress(ZeroDivisionError):
                self._write(is_aborted=True)
        elif roll < 0.97:
            self._look(lambda: None)  # who writes sees the latest commit without asking
        elif roll < 0.98:
            self.db.compact(self._rng.choice(STORES))
        elif roll < 0.99:
            self.db.sync()
        else:
            time.sleep(0.01)

    def _keys(self) -> range:
        first = self._first_key + int(TURNOVER * (time.monotonic() - self._started))
        return range(first, first + KEYS)

    def _draw_key(self) -> tuple[str, int]:
        return self._rng.choice(STORES), self._rng.choice(self._keys())

    # ------------------------------------------------------------------ transactions

    def _write(self, *, is_aborted: bool = False) -> None:
        plan: list[list[Any]] = []
        for _ in range(self._rng.randint(1, 4)):
            self._element += 1
            plan.append([*self._draw_key(), self._element if self._rng.random() < 0.6 else None])
        self._count += 1
        self._log.write("begin", self._count, time.monotonic(), plan, is_aborted)
        with self.db.transaction(sync=self._rng.random() < 0.3) as txn:
            found = [self._do(txn, *done) for done in plan]
            if is_aborted:
                _ = 1 // 0
        self._log.write("end", self._count, time.monotonic(), found)

    def _do(self, txn: Any, store: str, key: int, element: int | None) -> list[int] | None:
        if element is None:
            return _list_of(txn[store].get(key))
        txn[store].put(key, [*_list_of(txn[store].get(key)), element])
        return None

    def _look(self, move: Callable[[], object] | None) -> None:
        begun = time.monotonic()
        if move is not None:
            move()
        with self.db.snapshot() as snapshot:
            found = self._read_all(snapshot)
            if self._rng.random() < 0.2:
                _ = self.db.refresh() if self.db.mode == "r" else self._write()
                time.sleep(self._rng.uniform(0, 0.01))
                found += self._read_all(snapshot, [(store, key) for store, key, _ in found])
        self._log.write("saw", begun, time.monotonic(), move is not None, found)

    def _read_all(self, snapshot: Any, places: list[tuple[str, int]] | None = None) -> Found:
        keys = self._keys()
        places = places or [(store, key) for store in STORES for key in keys]
        if self._rng.random() < 0.5:
            return [[store, key, _list_of(snapshot[store].get(key))] for store, key in places]
        found: Found = []
        for store in STORES:
            mine = [key for name, key in places if name == store]
            batch = snapshot[store].get_many(mine, missing="empty")
            found += [[store, key, values.tolist()] for key, (_, values) in zip(mine, batch, strict=True)]
        return found


def _list_of(values: Any) -> list[int]:
    return [] if values is None else list(map(int, values))


# ---------------------------------------------------------------------- histories


def history_of(base: str) -> Iterator[Transaction]:
    """Yield what the processes of a round have logged; what one that was killed had begun of a line is no line."""
    for name in sorted(os.listdir(base)):
        if name.startswith("log-"):
            with open(os.path.join(base, name), encoding="ascii") as file:
                yield from _transactions(name, [json.loads(line) for line in file if line.endswith("\n")])


def _transactions(process: str, lines: list[list[Any]]) -> Iterator[Transaction]:
    ends = {line[1]: line for line in lines if line[0] == "end"}
    for at, line in enumerate(lines):
        name = f"{process}:{at + 1}"
        if line[0] == "saw":
            _, begun, ended, is_fresh, found = line
            reads = tuple(Read(f"{store} {key}", tuple(elements)) for store, key, elements in found)
            yield Transaction(name, process, begun, ended, "ok", reads, is_fresh)
        elif line[0] == "begin":
            _, number, begun, plan, is_aborted = line
            end = ends.get(number)
            outcome = "aborted" if is_aborted else "unknown" if end is None else "ok"
            ended, found = (float("inf"), [None] * len(plan)) if end is None else (end[2], end[3])
            yield Transaction(name, process, begun, ended, outcome, tuple(_operations(plan, found)))


def _operations(plan: list[list[Any]], found: list[list[int] | None]) -> Iterator[Read | Append]:
    for (store, key, element), elements in zip(plan, found, strict=True):
        if element is not None:
            yield Append(f"{store} {key}", element)
        elif elements is not None:
            yield Read(f"{store} {key}", tuple(elements))


# ---------------------------------------------------------------------- the supervisor


class Run:
    """The supervisor, which never opens the database itself, and so may fork.

    Parameters
    ----------
    base : str
        An empty directory.
    seed : int
    """

    def __init__(self, base: str, seed: int) -> None:
        self.base = base
        self.counts: Counter[str] = Counter()
        self._seed = seed
        self._rng = random.Random(f"histories {seed}")
        self._processes: dict[int, str] = {}
        self._forks = 0
        self._first_key = 0

    def run(self, seconds: float) -> str:
        """Go on until the time is over; return what was wrong."""
        end = time.monotonic() + seconds
        self._do(self._create)
        wrong = self._violations()
        while not wrong and time.monotonic() < end:
            wrong = self._round(min(end, time.monotonic() + self._rng.uniform(1, 4)))
        return wrong

    def _create(self) -> None:
        with sc.open(os.path.join(self.base, "db"), "x", chunk_size=CHUNK_SIZE) as db:
            for store in STORES:
                db.array_store(store, "u8")

    def _round(self, end: float) -> str:
        for role in ROLES:
            self._start(role)
        while time.monotonic() < end and not self._violations():
            time.sleep(self._rng.uniform(0.02, 0.7))
            self._kill(self._rng.choice(sorted(self._processes)))
            self.counts["kills"] += 1
        for pid in list(self._processes):
            self._kill(pid, again=False)
        self._do(self._read_last)
        if wrong := self._violations():
            return wrong
        history = list(history_of(self.base))
        self.counts["rounds"] += 1
        self.counts.update(f"{it.outcome} {'reads' if _is_read(it) else 'transactions'}" for it in history)
        self.counts["elements"] += sum(isinstance(done, Append) for it in history for done in it.operations)
        anomalies = find_anomalies(history)
        if not anomalies:
            self._first_key += ROUND_KEYS
            for name in os.listdir(self.base):
                if name.startswith("log-"):
                    os.unlink(os.path.join(self.base, name))
        return "\n".join(f"{kind}: {text}" for kind, text in anomalies[:10])

    def _read_last(self) -> None:
        """Open the database that nobody has open, and read all lists of the round."""
        log = Log(os.path.join(self.base, "log-last"))
        begun = time.monotonic()
        with sc.open(os.path.join(self.base, "db"), "r+", chunk_size=CHUNK_SIZE) as db:
            if problems := db.verify():
                raise AssertionError(f"verify() finds {problems}")
            found: Found = []
            for store in STORES:
                items = db[store].items(self._first_key, self._first_key + ROUND_KEYS)
                found += [[store, int(key), _list_of(values)] for key, values in items]
                db[store].delete_range(self._first_key, self._first_key + ROUND_KEYS)
            db.compact()
        log.write("saw", begun, time.monotonic(), True, found)

    def _start(self, role: str) -> None:
        self._forks += 1
        number, seed = self._forks, f"{self._seed} {self._forks}"
        self._processes[self._fork(lambda: Worker(self.base, number, self._first_key, seed).run(role))] = role

    def _fork(self, work: Callable[[], object]) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            work()
        except BaseException:
            with open(os.path.join(self.base, f"violation-{os.getpid()}"), "w", encoding="utf-8") as file:
                file.write(traceback.format_exc())
        os._exit(0)

    def _do(self, work: Callable[[], object]) -> None:
        os.waitpid(self._fork(work), 0)

    def _kill(self, pid: int, *, again: bool = True) -> None:
        """Kill a process; start another one in its place."""
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        role = self._processes.pop(pid)
        if again:
            self._start(role)

    def _violations(self) -> str:
        said = []
        for name in sorted(os.listdir(self.base)):
            if name.startswith("violation-"):
                with open(os.path.join(self.base, name), encoding="utf-8") as file:
                    said.append(f"{name}: {file.read()}")
        return "\n".join(said)


def _is_read(transaction: Transaction) -> bool:
    return not any(isinstance(done, Append) for done in transaction.operations)


def main(seconds: float, seed: int) -> None:
    """Run, and say how it went; exit with an error if anything was wrong."""
    memory = "/dev/shm"
    parent = memory if os.access(memory, os.W_OK) else None
    base = tempfile.mkdtemp(prefix="structchunk-histories-", dir=parent)
    run = Run(base, seed)
    wrong = run.run(seconds)
    counts = ", ".join(f"{count} {what}" for what, count in sorted(run.counts.items()))
    print(f"seed {seed}, {seconds:g} s: {counts}", flush=True)
    if wrong:
        print(f"{wrong}\nseed {seed}; all is left in {base}", flush=True)
        raise SystemExit(1)
    shutil.rmtree(base)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
