"""Writers, readers and copiers of one database, killed and interrupted at random, for as long as one likes.

``python -m tests.helpers.soak SECONDS SEED`` has one writing process, or for odd seeds four that share. Each has
its own keys in the stores of all, and a store of its own that it drops and makes again. What it was told is done it
writes to a journal, which says what must be found. At the first violation all stops, and the directory is left as
it is.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import faulthandler
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeAlias

import numpy as np

import structchunk as sc

KEYS = 1000
"""How many keys a writer has: those from its number times this on, of which the first counts its steps."""
ARRAYS = {"left": "<u8", "right": "<u8", "bytes": "u1"}
CHUNK_SIZE = 64 << 10
STUCK = 40
"""Seconds without a step after which a process is stuck."""
VIOLATION = 9
SIGNALS = {signal.SIGINT: 80, signal.SIGKILL: 10, signal.SIGTERM: 10}
"""What processes are disturbed by, and how often."""
BLOCKED = (signal.SIGINT, signal.SIGTERM)

State: TypeAlias = dict[str, dict[int, list[int]]]
"""For each store and key the length of a record, and the number that all its items have."""
Step: TypeAlias = dict[str, Any]


class Point(sc.Object):
    _fields_ = [("x", ctypes.c_double), ("n", ctypes.c_int64)]


class Wrong(Exception):
    """What was found is not what must be."""


# ---------------------------------------------------------------------- steps


def draw(rng: random.Random, writer: int, state: State, *, shared: bool) -> Step:
    """Return a step: what kind, and what it changes if it is a commit."""
    roll = rng.random()
    if roll < 0.55:
        return {"kind": "transaction", "actions": actions(rng, writer, state), "sync": rng.random() < 0.2}
    if roll < 0.65:
        return {"kind": "abort", "actions": actions(rng, writer, state), "sync": False}
    if roll < 0.8:
        return {"kind": "single", "actions": actions(rng, writer, state)[2:3]}
    if roll < 0.86:
        own = f"own{writer}"
        return {"kind": "drop" if own in state else "make", "actions": [["drop" if own in state else "make", own]]}
    if roll < 0.90:
        return {"kind": "compact", "store": rng.choice([*ARRAYS, "points"])}
    if roll < 0.93:
        return {"kind": "copy"}
    if roll < 0.95:
        return {"kind": "verify"}
    if roll < 0.98 or shared:
        return {"kind": "sync"}
    return {"kind": "reopen"}


def actions(rng: random.Random, writer: int, state: State) -> list[list[Any]]:
    """Return what a transaction changes; first of all the counters of two stores."""
    low = writer * KEYS
    drawn: list[list[Any]] = [["put", "left", low, 1], ["put", "right", low, 1]]
    names = [*ARRAYS, "points", *([f"own{writer}"] if f"own{writer}" in state else [])]
    for _ in range(rng.randint(1, 5)):
        name, key, roll = rng.choice(names), low + rng.randint(1, KEYS - 60), rng.random()
        if roll < 0.5:
            drawn.append(["put", name, key, 1 if name == "points" else rng.randint(0, rng.choice((8, 80, 3000)))])
        elif roll < 0.7:
            drawn.append(["many", name, key, rng.randint(1, 50), 1 if name == "points" else rng.randint(0, 9)])
        elif roll < 0.85:
            drawn.append(["delete", name, key])
        else:
            drawn.append(["range", name, key, min(low + KEYS, key + rng.randint(0, 300))])
    return drawn


def after(state: State, step: Step, number: int) -> State:
    """Return what there is after a step."""
    if step["kind"] not in ("transaction", "single", "make", "drop"):
        return state
    state = copy.deepcopy(state)
    for what, name, *rest in step["actions"]:
        if what == "make":
            state[name] = {}
        elif what == "drop":
            del state[name]
        elif what == "put":
            state[name][rest[0]] = [rest[1], number]
        elif what == "many":
            state[name].update({key: [rest[2], number] for key in range(rest[0], rest[0] + rest[1])})
        elif what == "delete":
            state[name].pop(rest[0], None)
        else:
            for key in [key for key in state[name] if rest[0] <= key < rest[1]]:
                del state[name][key]
    return state


def act(handle: Any, action: list[Any], number: int) -> None:
    """Do what an action says."""
    what, name, *rest = action
    store = handle[name]
    if what == "put" and name == "points":
        store.put(rest[0], Point(number, number))
    elif what == "put":
        store.put(rest[0], np.full(rest[1], item(name, number), store.dtype))
    elif what == "many":
        keys = range(rest[0], rest[0] + rest[1])
        if name == "points":
            store.put_many(keys, [(number, number)] * len(keys))
        else:
            values = np.full(len(keys) * rest[2], item(name, number), store.dtype)
            store.put_many(keys, values, [rest[2]] * len(keys))
    elif what == "delete":
        store.delete(rest[0])
    else:
        store.delete_range(*rest)


def item(name: str, number: int) -> int:
    """Return what the items of a record are that a step of some number stored."""
    return number % 256 if name == "bytes" else number


# ---------------------------------------------------------------------- journals


def append(path: str, line: str) -> None:
    """Add a line to a file at once."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line.encode() + b"\n")
    os.close(fd)


def whole_lines(path: str) -> list[str]:
    """Return the lines of a file; cut off what a process that was killed had begun of one more."""
    with open(path, "r+b") as file:
        raw = file.read()
        end = raw.rfind(b"\n") + 1
        file.truncate(end)
    return raw[:end].decode().splitlines()


class Journal:
    """What a writer began, and what it was told is done, across its deaths.

    Attributes
    ----------
    state : dict
        What must be there.
    pending : dict or None
        The state that may be there instead: after the step that was begun and not acknowledged.
    number : int
        Of the last step.
    """

    def __init__(self, path: str, writer: int) -> None:
        self.path = path
        self.number = 0
        self.state: State = {name: {} for name in (*ARRAYS, "points")}
        self.pending: State | None = None
        self.commits = 0
        self._begun: Step = {"kind": "sync"}
        if os.path.exists(path):
            for line in whole_lines(path):
                self._replay(json.loads(line))

    def _replay(self, entry: dict[str, Any]) -> None:
        if "state" in entry:
            self.number = entry["number"]
            self.commits = entry["commits"]
            self.state = {
                name: {int(key): value for key, value in records.items()}
                for name, records in entry["state"].items()
            }
            self.pending = None
        elif "begin" in entry:
            self._begin(entry["begin"])
        else:
            self._end(done=entry["done"])

    def _write(self, entry: dict[str, Any]) -> None:
        append(self.path, json.dumps(entry))

    def _begin(self, step: Step) -> None:
        self.number += 1
        self.pending = after(self.state, step, self.number)
        self._begun = step

    def _end(self, *, done: bool) -> None:
        if done and self.pending is not None:
            self.commits += self.pending is not self.state
            self.state = self.pending
        self.pending = None

    def begin(self, step: Step) -> int:
        """Note that a step begins, and return its number."""
        self._write({"begin": step})
        self._begin(step)
        return self.number

    def end(self, *, done: bool) -> None:
        """Note that a step is done, or was not."""
        self._write({"done": done})
        self._end(done=done)

    def settle(self, db: Any) -> None:
        """Compare with a database, and note whether the last step was done."""
        found = {name: found_of(db, name, self._writer()) for name in {**self.state, **(self.pending or {})}}
        options = [self.state] if self.pending is None else [self.state, self.pending]
        matching = [option for option in options if _padded(option, found) == found]
        if not matching:
            raise Wrong(
                f"writer {self._writer()}, step {self.number}, {self._begun}: {differences(found, options)}"
            )
        self.end(done=matching[-1] is not self.state)

    def _writer(self) -> int:
        return int(self.path.rpartition("-")[2])

    def shorten(self) -> None:
        """Write what is known as one line."""
        entry = {"number": self.number, "state": self.state, "commits": self.commits}
        with open(f"{self.path}.new", "w", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        os.rename(f"{self.path}.new", self.path)


Found: TypeAlias = dict[str, dict[int, list[int]] | None]


def found_of(db: Any, name: str, writer: int) -> dict[int, list[int]] | None:
    """Return what a writer's keys have in a store, or None if there is no such store."""
    low = writer * KEYS
    with db.snapshot() as snapshot:
        if name not in snapshot:
            return None
        items = snapshot[name].items(low, low + KEYS)
        if name == "points":
            return {key: [1, _same([point.x, point.n])] for key, point in items}
        return {key: [len(array), _same(array)] for key, array in items}


def _same(items: Any) -> int:
    """Return what all items are, or raise; -1 if there are none."""
    if len(items) and any(item != items[0] for item in items):
        raise Wrong(f"a torn record: {items}")
    return int(items[0]) if len(items) else -1


def _padded(state: State, found: Found) -> Found:
    """Return a state as it is found: an empty record has no item that would tell its number."""
    padded: Found = dict.fromkeys(found)
    for name, records in state.items():
        padded[name] = {key: [size, item(name, number) if size else -1] for key, (size, number) in records.items()}
    return padded


def differences(found: Found, options: list[State]) -> str:
    """Say how what was found differs from what may be."""
    said = []
    for option in options:
        padded = _padded(option, found)
        parts = []
        for name in found:
            mine, theirs = padded[name], found[name]
            if mine is None or theirs is None:
                if mine is not theirs:
                    parts.append(f"{name} is {'missing' if theirs is None else 'there'}")
                continue
            keys = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
            if keys:
                parts.append(f"{name} {[(key, mine.get(key), theirs.get(key)) for key in keys[:4]]} of {len(keys)}")
        said.append("; ".join(parts))
    return " | ".join(said)


# ---------------------------------------------------------------------- processes


class Worker:
    """What all processes have in common: signals come in the middle of calls of the database only."""

    is_leaving = False
    """Of the one worker of this process: what a handler raises to leave is lost if it comes in a finaliser."""

    def __init__(self, base: str, number: int, rng: random.Random) -> None:
        self.base = base
        self.root = os.path.join(base, "db")
        self.number = number
        self.rng = rng
        self.db: Any = None
        self._inside = False
        faulthandler.enable()
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        signal.signal(signal.SIGINT, self._interrupted)
        signal.signal(signal.SIGTERM, self._terminated)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)

    def _interrupted(self, signum: int, frame: object) -> None:
        if self._inside:
            self._inside = False
            raise KeyboardInterrupt

    def _terminated(self, signum: int, frame: object) -> None:
        Worker.is_leaving = True
        if self.db is not None:
            with contextlib.suppress(sc.LockedError):  # it came in the middle of a step that must not be cut short
                self.db.close()
        sys.exit(0)

    def call(self, function: Callable[[], object]) -> bool:
        """Make a call, and tell whether it was not interrupted.

        What a handler raises is lost if it comes in a finaliser: then this leaves.
        """
        try:
            if self.is_leaving:
                sys.exit(0)
            self._inside = True
            function()
            self._inside = False
        except KeyboardInterrupt:
            self.count("interrupted")
            return False
        except sc.ClosedError:
            if self.is_leaving:
                sys.exit(0)
            raise
        finally:
            self._inside = False
        return True

    def count(self, what: str) -> None:
        """Count something, and show that this process gets on."""
        fd = os.open(
            os.path.join(self.base, f"counts-{os.getpid()}"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600
        )
        os.write(fd, f"{what}\n".encode())
        os.close(fd)

    def copy(self) -> None:
        """Copy the database, and look at the copy."""
        dest = os.path.join(self.base, f"copy-{os.getpid()}")
        for name in os.listdir(self.base):
            if name.startswith(os.path.basename(dest)):
                shutil.rmtree(os.path.join(self.base, name))
        self.db.checkpoint(dest)
        with sc.open(dest, "r+", chunk_size=CHUNK_SIZE) as db:
            check_sound(db)
            check_counters(db)
            db["left"].put(7, [1])
        shutil.rmtree(dest)
        self.count("copy")


def check_sound(db: Any) -> None:
    """Raise if verify() finds anything."""
    problems = db.verify()
    if problems:
        raise Wrong(f"verify() finds {problems}")


def check_counters(db: Any) -> list[int]:
    """Return how far each writer is, having checked that both stores say the same."""
    with db.snapshot() as snapshot:
        left, right = ([_counter(snapshot[name], writer) for writer in range(4)] for name in ("left", "right"))
    if left != right:
        raise Wrong(f"half a commit is seen: {left}, {right}")
    return left


def _counter(store: Any, writer: int) -> int:
    found = store.get(writer * KEYS)
    return 0 if found is None else int(found[0])


class Writer(Worker):
    """Does steps, and looks now and then whether all is as it must be; a thread beside it stores, too."""

    def __init__(self, base: str, number: int, rng: random.Random, *, shared: bool) -> None:
        super().__init__(base, number, rng)
        self._shared = shared
        self._journal = Journal(os.path.join(base, f"journal-{number}"), number)
        self._side = os.path.join(base, f"side-{number}")

    def run(self) -> None:
        """Go on for ever."""
        self._open()
        threading.Thread(target=self._store_beside, daemon=True).start()
        for turn in itertools.count():
            step = draw(self.rng, self.number, self._journal.state, shared=self._shared)
            number = self._journal.begin(step)
            try:
                done = self.call(lambda: self._do(step, number))  # noqa: B023
                if done:
                    self._journal.end(done=True)
                    self.count(step["kind"])
                if not done or turn % 40 == 39:
                    self._look()
            except (sc.FailedError, sc.ClosedError):
                self.count("reopened after a failure")
                self._open()

    def _open(self) -> None:
        if self.db is not None:
            self.db.close()
        while not self.call(self._open_once):
            pass
        self._look()

    def _open_once(self) -> None:
        options = {"shared": True} if self._shared else {"sync": False}
        self.db = sc.open(self.root, "r+", chunk_size=CHUNK_SIZE, **options)

    def _look(self) -> None:
        """Compare with the journal; what the thread beside was told is done must be there, too.

        A handle that failed does not know what was done, and a put says so.
        """
        self.db["side"].put(KEYS + self.number, [self._journal.number])
        self._journal.settle(self.db)
        stored = side_number(self._side)
        found = self.db["side"].get(self.number)
        if stored and (found is None or found[0] < stored):
            raise Wrong(f"the thread beside was told that {stored} is stored, and {found} is there")

    def _do(self, step: Step, number: int) -> None:
        kind, db = step["kind"], self.db
        if kind == "transaction":
            with db.transaction(sync=step["sync"]) as transaction:
                for action in step["actions"]:
                    act(transaction, action, number)
        elif kind == "abort":
            with contextlib.suppress(ZeroDivisionError), db.transaction() as transaction:
                for action in step["actions"]:
                    act(transaction, action, number)
                _ = 1 // 0
        elif kind == "single":
            act(db, step["actions"][0], number)
        elif kind == "make":
            db.array_store(f"own{self.number}", "<u8")
        elif kind == "drop":
            db.drop_store(f"own{self.number}")
        elif kind == "compact":
            db.compact(step["store"])
        elif kind == "copy":
            self.copy()
        elif kind == "verify":
            check_sound(db)
        elif kind == "sync":
            db.sync()
        else:
            db.close()
            self._open_once()

    def _store_beside(self) -> None:
        """Store rising numbers in a thread that no signal comes to."""
        number = side_number(self._side)
        while True:
            number += 1
            try:
                self.db["side"].put(self.number, [number])
            except (sc.FailedError, sc.ClosedError):
                time.sleep(0.01)
                continue
            except BaseException:
                violation(self.base, traceback.format_exc())
            with open(self._side, "w", encoding="ascii") as file:
                file.write(f"{number:020d}")
            time.sleep(0.02)


def side_number(path: str) -> int:
    """Return the last number that a thread was told is stored."""
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read() or 0)
    except FileNotFoundError:
        return 0


class Reader(Worker):
    """Reads one commit after the other, each whole and none older than the one before, and makes copies."""

    def run(self) -> None:
        """Go on for ever."""
        while True:
            if not self.call(self._open_once):
                continue
            seen = [0] * 4
            for _ in range(self.rng.randint(1, 30)):
                if not self.call(self.db.refresh):
                    continue
                now = check_counters(self.db)
                if any(new < old for new, old in zip(now, seen, strict=True)):
                    raise Wrong(f"a reader went back from {seen} to {now}")
                seen = now
                self.call(self._read)
                time.sleep(self.rng.uniform(0, 0.02))
            self.call(self.db.close)
            self.db.close()

    def _open_once(self) -> None:
        self.db = sc.open(self.root, "r")

    def _read(self) -> None:
        roll = self.rng.random()
        if roll < 0.1:
            self.copy()
        elif roll < 0.4:
            check_sound(self.db)
        else:
            for batches in self.db.scan("left", "right", batch_size=50):
                if len({len(batch) for batch in batches}) > 1:
                    raise Wrong("batches of unequal length")
        self.count("read")


def check_all(base: str, rng: random.Random, writers: int) -> None:
    """Open the database that nobody has open for writing, and compare it with all journals."""
    root = os.path.join(base, "db")
    if rng.random() < 0.3:
        sc.rebuild_index(root)
    with sc.open(root, "r+", chunk_size=CHUNK_SIZE, sync=False) as db:
        check_sound(db)
        for writer in range(writers):
            journal = Journal(os.path.join(base, f"journal-{writer}"), writer)
            journal.settle(db)
            journal.shorten()
            stored, found = side_number(os.path.join(base, f"side-{writer}")), db["side"].get(writer)
            if stored and (found is None or found[0] < stored):
                raise Wrong(f"the thread beside writer {writer} stored {stored}, and {found} is there")
        if rng.random() < 0.3:
            db.compact()
            check_sound(db)
        check_files(db)


def check_files(db: Any) -> None:
    """Raise if there are chunk files that no store knows, or several indexes."""
    db.sync()
    known = {f"{chunk:08d}.chunk" for heap in db._storage.heaps.values() for chunk in heap.chunks}
    found = set(os.listdir(os.path.join(db.path, "chunks")))
    indexes = [name for name in os.listdir(db.path) if name.startswith("index-")]
    if known != found or len(indexes) != 1:
        raise Wrong(f"stray files {sorted(found - known)}, missing {sorted(known - found)}, {indexes}")


# ---------------------------------------------------------------------- the supervisor


def violation(base: str, text: str) -> NoReturn:
    """Say what is wrong, and end this process."""
    with open(os.path.join(base, f"violation-{os.getpid()}"), "a", encoding="utf-8") as file:
        file.write(text)
    os._exit(VIOLATION)


def start(base: str, work: Callable[[], object]) -> int:
    """Do something in a child, and return its pid."""
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)  # until the child has handlers for them
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
        return pid
    try:
        warnings.simplefilter("ignore")
        log = os.open(os.path.join(base, f"log-{os.getpid()}"), os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(log, 2)
        work()
    except SystemExit:
        pass
    except BaseException as error:
        if not (Worker.is_leaving and isinstance(error, sc.ClosedError)):
            violation(base, traceback.format_exc())
    os._exit(0)


class Soak:
    """The supervisor, which never opens the database itself, and so may fork.

    Parameters
    ----------
    base : str
        An empty directory.
    seconds : float
    seed : int
    """

    def __init__(self, base: str, seconds: float, seed: int) -> None:
        self.base = base
        self.counts: Counter[str] = Counter()
        self._seconds = seconds
        self._seed = seed
        self._rng = random.Random(f"soak {seed}")
        self.shared = bool(seed % 2)
        self._writers = 4 if self.shared else 1
        self._processes: dict[int, tuple[str, int]] = {}
        self._forks = 0

    def run(self) -> str:
        """Go on until the time is over; return what was wrong."""
        end = time.monotonic() + self._seconds
        self._wait(start(self.base, self._create))
        while time.monotonic() < end and not self._violations():
            self._round(min(end, time.monotonic() + self._rng.uniform(2, 8)))
        self._stop()
        return self._violations()

    def _create(self) -> None:
        with sc.open(os.path.join(self.base, "db"), "x", chunk_size=CHUNK_SIZE) as db:
            for name, dtype in {**ARRAYS, "side": "<u8"}.items():
                db.array_store(name, dtype)
            db.object_store("points", Point)

    def _round(self, end: float) -> None:
        """Let all work, and disturb them; then stop the writers, and compare."""
        for number in range(self._writers):
            self._start("writer", number)
        for number in range(2):
            self._start("reader", number)
        while time.monotonic() < end and not self._violations():
            time.sleep(self._rng.uniform(0.005, 0.2))
            self._disturb()
            self._reap()
            self._look_for_stuck()
        self._stop()
        for name in self._names("copy-"):
            shutil.rmtree(os.path.join(self.base, name))
        self.counts["checks"] += 1
        seed = self._rng.random()
        self._wait(start(self.base, lambda: check_all(self.base, random.Random(seed), self._writers)))
        self._collect_counts()

    def _start(self, role: str, number: int) -> None:
        self._forks += 1
        rng = random.Random(f"{self._seed} {self._forks}")

        def work() -> None:
            if role == "writer":
                Writer(self.base, number, rng, shared=self.shared).run()
            else:
                Reader(self.base, number, rng).run()

        self._processes[start(self.base, work)] = role, number

    def _disturb(self) -> None:
        pid = self._rng.choice(sorted(self._processes))
        signum = self._rng.choices(list(SIGNALS), list(SIGNALS.values()))[0]
        self.counts[signum.name] += 1
        append(
            os.path.join(self.base, "signals"), f"{time.time():.3f} {signum.name} to {pid}, {self._processes[pid]}"
        )
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)

    def _reap(self) -> None:
        """Start what has ended anew."""
        for pid in list(self._processes):
            done, _ = os.waitpid(pid, os.WNOHANG)
            if done:
                self._start(*self._processes.pop(pid))

    def _look_for_stuck(self) -> None:
        for pid in self._processes:
            path = os.path.join(self.base, f"counts-{pid}")
            since = os.path.join(self.base, f"log-{pid}")
            newest = max((os.stat(p).st_mtime for p in (path, since) if os.path.exists(p)), default=time.time())
            if time.time() - newest > STUCK:
                os.kill(pid, signal.SIGUSR1)
                time.sleep(1)
                with open(os.path.join(self.base, f"violation-{pid}"), "w", encoding="utf-8") as file:
                    file.write(f"process {pid}, a {self._processes[pid]}, is stuck; see log-{pid}")
                return

    def _stop(self) -> None:
        """End all processes, some politely."""
        for pid in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, self._rng.choice([signum for signum in SIGNALS if signum != signal.SIGINT]))
        for pid in list(self._processes):
            self._wait(pid)
        self._processes = {}

    def _wait(self, pid: int) -> None:
        deadline = time.monotonic() + STUCK
        while not os.waitpid(pid, os.WNOHANG)[0]:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGUSR1)
                time.sleep(1)
                with open(os.path.join(self.base, f"violation-{pid}"), "w", encoding="utf-8") as file:
                    file.write(f"process {pid} does not end; see log-{pid}")
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return
            time.sleep(0.005)

    def _collect_counts(self) -> None:
        for name in self._names("counts-"):
            path = os.path.join(self.base, name)
            with open(path, encoding="ascii") as file:
                self.counts.update(line.strip() for line in file)
            os.unlink(path)
        if not self._violations():
            for name in self._names("log-"):
                os.unlink(os.path.join(self.base, name))

    def _names(self, prefix: str) -> list[str]:
        return sorted(name for name in os.listdir(self.base) if name.startswith(prefix))

    def _violations(self) -> str:
        said = []
        for name in self._names("violation-"):
            with open(os.path.join(self.base, name), encoding="utf-8") as file:
                said.append(f"{name}: {file.read()}")
        return "\n".join(said)


@contextlib.contextmanager
def place() -> Iterator[str]:
    """Yield a directory, in memory if that is possible; it is removed unless an exception comes."""
    memory = "/dev/shm"
    base = tempfile.mkdtemp(prefix="structchunk-soak-", dir=memory if os.access(memory, os.W_OK) else None)
    yield base
    shutil.rmtree(base)


def main(seconds: float, seed: int) -> None:
    """Soak, and say how it went; exit with an error if anything was wrong."""
    with place() as base:
        soak = Soak(base, seconds, seed)
        wrong = soak.run()
        counts = ", ".join(f"{count} {what}" for what, count in sorted(soak.counts.items()))
        print(
            f"seed {seed}, {'four sharing writers' if soak.shared else 'one writer'}, {seconds:g} s: {counts}",
            flush=True,
        )
        if wrong:
            print(f"{wrong}\nseed {seed}; all is left in {base}", flush=True)
            raise SystemExit(1)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
