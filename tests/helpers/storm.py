"""Thousands of interrupts and errors, one after another, on one database that is used all the time.

``python tests/helpers/storm.py COUNT SEED [WAY ...]``. After each, what the operation touches must be as before it
or as after it, and the next write succeed or say FailedError; then, and now and then, all is judged through a new
handle. Where each operation is disturbed follows its instants in a random order, again and again: the files, caches
and sizes that it meets are never the same.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import gc
import os
import random
import shutil
import sys
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
from failures import Disk, Fault, Memory, caught
from interrupts import Interrupter

import structchunk as sc

KEYS = 96
CHUNK_SIZE = 64 << 10
ROUND = 300
"""After so many disturbances everything is judged."""
STUCK = 120
"""Seconds after which a round hangs."""

Place: TypeAlias = tuple[str, int]
"""A store and a key; the key -1 stands for the store itself."""
Changes: TypeAlias = dict[Place, bytes | None]
Act: TypeAlias = Callable[[Any], object]
Kind: TypeAlias = Callable[[random.Random, Changes], tuple[Act, Changes]]


class Wrong(Exception):
    """What was found is not what must be."""


class Point(sc.Object):
    _fields_ = [("x", ctypes.c_double), ("n", ctypes.c_int64)]


# ---------------------------------------------------------------------- operations


def _key(rng: random.Random) -> int:
    return rng.randrange(KEYS)


def _items(rng: random.Random) -> Any:
    return np.full(rng.choice((0, 1, 3, 3, 200)), rng.random())


def put(rng: random.Random, state: Changes) -> tuple[Act, Changes]:
    key, items = _key(rng), _items(rng)
    return lambda db: db["a"].put(key, items), {("a", key): items.tobytes()}


def put_object(rng: random.Random, state: Changes) -> tuple[Act, Changes]:
    key, point = _key(rng), Point(rng.random(), rng.randrange(99))
    return lambda db: db["p"].put(key, point), {("p", key): bytes(point)}


def put_many(rng: random.Random, state: Changes) -> tuple[Act, Changes]:
    keys = sorted(rng.sample(range(KEYS), 12))
    items = np.full((12, 2), rng.random())
    return lambda db: db["a"].put_many(keys, items), {("a", key): items[0].tobytes() for key in keys}


def delete(rng: random.Random, state: Changes) -> tuple[Act, Changes]:
    key = _key(rng)
    return lambda db: db["a"].pop(key, None), {("a", key): None}


def delete_range(rng: random.Random, state: Changes) -> tuple[Act, Changes]:
    start = _key(rng)
    return lambda db: db["a"].delete_range(start, start + 5), {("a", key): None for key in range(start, start + 5)}


def append(rng: random.Random, state: Changes) -> tuple[Act, Changes]:
    key, items = _key(rng), np.full(rng.randrange(1, 5), rng.random())
    before = state.get(("a", key)) or b""
    return lambda db: db["a"].append(key, items), {("a", key): before + items.tobytes()}


def savepoints(rng: random.Random, state: Changes) -> tuple[Act, Changes]:
    """One that is taken back, and one that is kept."""
    steps = [rng.choice((put, put_object, append, delete, put_many, new))(rng, state) for _ in range(4)]
    is_read = rng.random() < 0.5

    def act(db: Any) -> None:
        with db.transaction() as txn:
            with txn.savepoint() as savepoint:
                for step, _ in steps:
                    step(txn)
                if is_read:
                    list(txn["a"].items())
                savepoint.rollback()
            with txn.savepoint():
                steps[0][0](txn)

    return act, steps[0][1]


def transaction(rng: random.Random, state: Changes) -> tuple[Act, Changes]:
    steps = [rng.choice((put, put, put_object, delete, put_many))(rng, state) for _ in range(3)]
    sync = rng.random() < 0.3

    def act(db: Any) -> None:
        with db.transaction(sync=sync) as txn:
            for step, _ in steps:
                step(txn)

    return act, {place: value for _, changes in steps for place, value in changes.items()}


def abort(rng: random.Random, state: Changes) -> tuple[Act, Changes]:
    steps = [rng.choice((put, put_object, delete, put_many))(rng, state) for _ in range(3)]

    def act(db: Any) -> None:
        txn = db.transaction()
        with txn:
            for step, _ in steps:
                step(txn)
            txn.abort()

    return act, {}


def new(rng: random.Random, state: Changes) -> tuple[Act, Changes]:
    key, length = _key(rng), rng.randrange(4)
    return lambda db: db["a"].new(key, length) is None, {("a", key): bytes(8 * length)}


def edit(rng: random.Random, state: Changes) -> tuple[Act, Changes]:
    key, number = _key(rng), rng.randrange(99)
    before = state.get(("p", key))
    if before is None:
        return put_object(rng, state)
    after = Point.from_buffer_copy(before)
    after.n = number

    def act(db: Any) -> None:
        with db.transaction() as txn:
            txn["p"].edit(key).n = number

    return act, {("p", key): bytes(after)}


def make_or_drop(rng: random.Random, state: Changes) -> tuple[Act, Changes]:
    if ("own", -1) in state:
        gone: Changes = {place: None for place in state if place[0] == "own"}
        return lambda db: db.drop_store("own"), gone

    def act(db: Any) -> None:
        with db.transaction() as txn:
            txn.array_store("own", "i4")[5] = [1, 2]

    return act, {("own", -1): b"", ("own", 5): np.array([1, 2], "<i4").tobytes()}


def read(rng: random.Random, state: Changes) -> tuple[Act, Changes]:
    start = _key(rng)

    def act(db: Any) -> None:
        found = db["a"].get(start)
        if (None if found is None else found.tobytes()) != state.get(("a", start)):
            raise Wrong(f"get({start}) gives {found!r}")
        for batch in db["a"].scan(start, start + 20):
            for key, items in batch:
                if items.tobytes() != state.get(("a", key)):
                    raise Wrong(f"a scan gives {items!r} at {key}")

    return act, {}


def view(rng: random.Random, state: Changes) -> tuple[Act, Changes]:
    def act(db: Any) -> None:
        with db.snapshot() as snapshot:
            if sum(1 for _ in snapshot["p"]) != sum(place[0] == "p" and place[1] >= 0 for place in state):
                raise Wrong("a snapshot has other keys")

    return act, {}


def sync(rng: random.Random, state: Changes) -> tuple[Act, Changes]:
    return lambda db: db.sync(), {}


def compact(rng: random.Random, state: Changes) -> tuple[Act, Changes]:
    return lambda db: db.compact("p"), {}


KINDS: dict[Kind, int] = {
    **{put: 9, put_object: 9, put_many: 9, append: 9, delete: 6, delete_range: 6, new: 6, edit: 6},
    **{transaction: 12, abort: 6, savepoints: 6, make_or_drop: 3, read: 9, view: 3, sync: 2, compact: 1},
}
"""What is done, and how often of all."""


# ---------------------------------------------------------------------- disturbances


class Interrupts:
    """Ctrl-C at one instant, or at two."""

    refusals: tuple[type[BaseException], ...] = (KeyboardInterrupt, sc.FailedError)

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._interrupter = Interrupter()

    def count(self, call: Callable[[], object]) -> int:
        """Return the number of instants of a call."""
        return self._interrupter.watch(call)[-1].number

    def strike(self, call: Callable[[], object], at: int) -> BaseException | None:
        """Make a call, disturb it, and return what it raised."""
        again = [at + self._rng.randrange(1, 400)] if self._rng.random() < 0.3 else []
        return self._interrupter.interrupt(call, at, *again)

    def end(self) -> None:
        """Disturb nothing any more."""


class Errors:
    """A call of the system or of LevelDB that fails."""

    refusals: tuple[type[BaseException], ...] = (OSError, sc.FailedError)

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._disk = Disk()
        self._disk.__enter__()

    def count(self, call: Callable[[], object]) -> int:
        """Return the number of calls of a call."""
        self._run(call, Fault(0))
        return len(self._disk.calls)

    def strike(self, call: Callable[[], object], at: int) -> BaseException | None:
        """Make a call, disturb it, and return what it raised."""
        fault = Fault(at, self._rng.choice((errno.EIO, errno.ENOSPC)), *self._rng.choices((False, True), k=2))
        return self._run(call, fault)

    def _run(self, call: Callable[[], object], fault: Fault) -> BaseException | None:
        self._disk.arm(fault)
        return self._disk.run(call)

    def end(self) -> None:
        """Disturb nothing any more."""
        self._disk.__exit__(None, None, None)


class Shortages:
    """A call that finds no memory."""

    refusals: tuple[type[BaseException], ...] = (MemoryError, sc.FailedError)

    def __init__(self, rng: random.Random) -> None:
        pass

    def count(self, call: Callable[[], object]) -> int:
        """Return the number of calls of a call."""
        memory = Memory()
        memory.run(call)
        return memory.count

    def strike(self, call: Callable[[], object], at: int) -> BaseException | None:
        """Make a call, disturb it, and return what it raised."""
        memory = Memory(at)
        return caught(lambda: memory.run(call))

    def end(self) -> None:
        """Disturb nothing any more."""


WAYS: dict[str, Any] = {"interrupt": Interrupts, "fail": Errors, "starve": Shortages}


# ---------------------------------------------------------------------- the storm


class Storm:
    """One database, and what it must hold.

    Parameters
    ----------
    root : str
    way : str
    seed : object
    """

    def __init__(self, root: str, way: str, seed: object) -> None:
        self._root = root
        self._rng = random.Random(f"{way} {seed}")
        self._way = WAYS[way](self._rng)
        self._instants: dict[Kind, list[int]] = {}
        self._kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
        self.state: Changes = {("a", -1): b"", ("p", -1): b"", ("probe", -1): b""}
        self.counts: Counter[str] = Counter()
        self._db = self._open()
        for name in ("a", "probe"):
            self._db.array_store(name, "f8")
        self._db.object_store("p", Point)

    def _open(self) -> Any:
        return sc.open(self._root, chunk_size=CHUNK_SIZE, sync=False)

    def run(self, count: int) -> None:
        """Disturb so many operations."""
        try:
            for done in range(0, count, ROUND):
                faulthandler.dump_traceback_later(STUCK, exit=True)
                for _ in range(min(ROUND, count - done)):
                    self._disturb()
                self._open_again([self.state], "after a round")
                self._judge("after a round")
            self._db.close()
        finally:
            self._way.end()
            faulthandler.cancel_dump_traceback_later()

    def _disturb(self) -> None:
        kind = self._rng.choice(self._kinds)
        act, changes = kind(self._rng, self.state)
        after = {place: value for place, value in {**self.state, **changes}.items() if value is not None}
        at = self._next_instant(kind, lambda: act(self._db))
        if not at:
            self.state = after
            return
        error = self._way.strike(lambda: act(self._db), at)
        what = f"{kind.__name__} disturbed at {at}"
        self.counts[f"{kind.__name__} {'done' if error is None else 'cut short'}"] += 1
        if error is None:  # it may have had fewer instants this time
            self._instants[kind] = [instant for instant in self._instants[kind] if instant < at]
        if error is not None and not isinstance(error, self._way.refusals):
            raise Wrong(f"{what}: raises {error!r}") from error
        options = [after] if error is None else [self.state, after]
        try:
            found = {place: self._find(place) for place in changes}
            options = [option for option in options if found == {place: option.get(place) for place in changes}]
            if not options:
                raise Wrong(f"{what}: finds {found}, expected before or after: {changes}")
            self._db["probe"].put(0, [1.0])
        except (sc.FailedError, *self._way.refusals):
            self.counts["opened again"] += 1
            options = [after] if error is None else [self.state, after]
            self._open_again(options, what)
        else:
            self.state = options[-1]
            self.state["probe", 0] = np.ones(1).tobytes()

    def _next_instant(self, kind: Kind, call: Callable[[], object]) -> int:
        """Return where to disturb an operation; 0 if it was done this time, to count its instants."""
        if not self._instants.get(kind):
            count = self._way.count(call)
            self._instants[kind] = self._rng.sample(range(1, count + 1), count)
            return 0
        return self._instants[kind].pop()

    def _find(self, place: Place) -> bytes | None:
        name, key = place
        if key < 0:
            return b"" if name in self._db else None
        found = self._db[name].get(key) if name in self._db else None
        return None if found is None else bytes(found)

    def _open_again(self, options: Iterable[Changes], what: str) -> None:
        """Raise unless a new handle finds one of these."""
        self._db.close()
        db = self._db = self._open()
        found: Changes = {(name, -1): b"" for name in db}
        with db.snapshot() as snapshot:
            found.update({(name, key): bytes(value) for name in snapshot for key, value in snapshot[name].items()})
        probe = ("probe", 0)
        fitting = [option for option in options if {**option, probe: b""} == {**found, probe: b""}]
        if not fitting:
            odd = [
                {place for place in {**found, **option} if found.get(place) != option.get(place)}
                for option in options
            ]
            raise Wrong(f"{what}: the new handle finds other than before and after at {odd}")
        self.state = found

    def _judge(self, what: str) -> None:
        """Raise unless all is sound, and another thread can write; then begin with small files again."""
        gc.collect()
        db = self._db
        problems = db.verify()
        if problems:
            raise Wrong(f"{what}: verify() finds {problems}")
        db.compact()
        thread = threading.Thread(target=db["probe"].put, args=(0, [2.0]), daemon=True)
        thread.start()
        thread.join(STUCK)
        if thread.is_alive():
            raise Wrong(f"{what}: a put by another thread hangs")
        self.state["probe", 0] = np.full(1, 2.0).tobytes()


def storm(root: str, way: str, count: int, seed: object) -> str:
    """Let one happen, and return what was done."""
    storm = Storm(root, way, seed)
    try:
        storm.run(count)
    except Wrong as wrong:
        raise Wrong(f"{way}, seed {seed}, after {storm.counts.total()}: {wrong}; it is left in {root}") from wrong
    return f"{way}, seed {seed}: {count}, of which {dict(sorted(storm.counts.items()))}"


def main(count: int, seed: str, *ways: str) -> None:
    """Let some happen, each on a database of its own, and say how they went."""
    warnings.simplefilter("ignore")
    memory = "/dev/shm"
    base = tempfile.mkdtemp(prefix="structchunk-storm-", dir=memory if os.access(memory, os.W_OK) else None)
    for way in ways or WAYS:
        print(storm(os.path.join(base, way), way, count, seed), flush=True)
    shutil.rmtree(base)  # but what went wrong is left


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], *sys.argv[3:])
