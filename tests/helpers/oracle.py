"""What the crash tests share: a seeded workload, the oracle of its states, and the judgement of a survivor."""

from __future__ import annotations

import ctypes
import json
import os
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np

import structchunk as sc
from structchunk.chunks import allocator, chunk
from structchunk.engine import roll_forward, storage, written_rows
from structchunk.index import change, leveldb, store_index, stored_rows
from structchunk.maintenance import moving
from structchunk.process import background

CHUNK_SIZE = 16 << 10
KEYS = 40
NO_KEY = 2**40
"""Most records have keys below this, so that they are replaced and deleted often."""


class Point(sc.Object):
    _fields_ = [("x", ctypes.c_double), ("n", ctypes.c_int64)]


TYPES: dict[str, Any] = {
    "bytes": np.dtype("u1"),
    "ints": np.dtype("<i4"),
    "floats": np.dtype("<f8"),
    "odd": np.dtype([("a", "u1"), ("b", "<u2")]),
    "grids": np.dtype(("<i4", (3,))),
    "halves": np.dtype([("a", "<u2"), ("b", "<u2")]),
    "points": Point,
}
NAMES = [*TYPES, "bytes2", "points2"]
ALTERED = ("halves", "points")
"""Types of two fields of one size: altering a store swaps the two, and so the halves of each item."""
ATTRIBUTES = "@"
"""Where states and contents have attributes: as JSON, by the name of the store, "" for the database."""

LIMITS: list[tuple[Any, str, Any]] = [
    (background, "WORTH_SIZE", 900),
    (stored_rows, "PAGE_ROWS", 16),
    (store_index, "GROUP_PAGES", 3),
    (change, "MIN_FOLD_ROWS", 24),
    (change, "REWRITE_ROWS", 10),
    (moving, "MOST_ROWS", 25),
    (allocator, "SPILL_SIZE", 700),
    (chunk, "MIN_STEP", 4096),
    (allocator, "START_SIZE", 900),
    (storage, "CHECKPOINT_COMMITS", 23),
    (written_rows, "PIECE_ROWS", 12),
    (written_rows, "SMALL", 5),
    (roll_forward, "LOAD_ROWS", 9),
    (leveldb, "_SMALL_LOG", 8 << 10),
]
"""Thresholds made so small that short workloads roll over, fold, checkpoint and write in every way there is."""


MORE_ROWS: list[tuple[Any, str, Any]] = [
    (stored_rows, "PAGE_ROWS", 64),
    (written_rows, "PIECE_ROWS", 60),
    (roll_forward, "LOAD_ROWS", 45),
]
"""What is put in the place of some of these where stores have hundreds of rows: a few pages and pieces do."""


def shrink(
    set_attribute: Callable[[Any, str, Any], object] = setattr, *, has_hundreds_of_rows: bool = False
) -> None:
    """Make the thresholds small."""
    for module, name, value in [*LIMITS, *(MORE_ROWS if has_hundreds_of_rows else [])]:
        set_attribute(module, name, value)


def type_of(name: str) -> Any:
    """Return the type of a store of the workload."""
    return TYPES[name.rstrip("2")]


def stores_of(state: Mapping[str, object]) -> list[str]:
    """Return the names of the stores of a state, or of contents."""
    return sorted(state.keys() - {ATTRIBUTES})


def item_size(name: str) -> int:
    """Return the bytes of an item of a store of the workload."""
    kind = type_of(name)
    return ctypes.sizeof(kind) if kind is Point else int(kind.itemsize)


# ---------------------------------------------------------------------- states


class Value:
    """The bytes of one record: one possibility, or several while they change in place.

    With several, every byte may be that of any of them.
    """

    def __init__(self, tick: int, *options: bytes) -> None:
        self._history = [(tick, options)]

    def set(self, tick: int, *options: bytes) -> None:
        """Change what is possible."""
        self._history.append((tick, options))

    def at(self, tick: int) -> tuple[bytes, ...]:
        """Return what was possible at some time; the last is what was written last."""
        return next(options for since, options in reversed(self._history) if since <= tick)


State: TypeAlias = dict[str, dict[Any, Value]]
Contents: TypeAlias = dict[str, dict[Any, bytes]]
Action: TypeAlias = tuple[Any, ...]


class Step(NamedTuple):
    """One thing that a workload does.

    ``kind`` is one of transaction, abort, single, create, drop, alter, sync, change, reopen; ``durable`` says that
    once it is done all is on disk, up to and with it.
    """

    kind: str
    actions: Sequence[Action] = ()
    sync: bool = True
    commits: bool = False
    durable: bool = False


class Mark(NamedTuple):
    """A moment of an oracle: what may be found after a crash there."""

    tick: int
    states: tuple[State, ...]
    killed: int
    powered: int


class Oracle:
    """The states after each commit so far, and how far back a crash may lead.

    Attributes
    ----------
    states : list
        The state after commit ``n`` is ``states[n]``.
    killed, powered : int
        The commit that must have survived a kill, and a power cut.
    """

    def __init__(self, states: list[State] | None = None, killed: int = 0, powered: int = 0) -> None:
        self.states: list[State] = states or [{}]
        self.killed = killed
        self.powered = powered
        self.tick = 0

    @property
    def state(self) -> State:
        """The state after the last commit."""
        return self.states[-1]

    def begin(self, step: Step) -> None:
        """Note that a step was begun: from now on a crash may leave it done, too."""
        self.tick += 1
        if step.commits:
            self.states.append(after(self.state, step.actions, self.tick))
        if step.kind == "change":
            for _, name, key, data in step.actions:
                value = self.state[name][key]
                value.set(self.tick, *value.at(self.tick), data)

    def acknowledge(self, step: Step) -> None:
        """Note that a step is done."""
        self.tick += 1
        self.killed = len(self.states) - 1
        if step.durable:
            self.powered = self.killed
            for records in self.state.values():
                for value in records.values():
                    if len(value.at(self.tick)) > 1:
                        value.set(self.tick, value.at(self.tick)[-1])

    def go_back(self, last: int, found: Contents) -> None:
        """Note that a crash led to some commit, and which of several possibilities was found there."""
        self.tick += 1
        self.states = self.states[: last + 1]
        self.killed = last
        for name, records in self.state.items():
            for key, value in records.items():
                if len(value.at(self.tick)) > 1:
                    value.set(self.tick, found[name][key])

    def mark(self) -> Mark:
        """Return the present moment."""
        return Mark(self.tick, tuple(self.states), self.killed, self.powered)

    @staticmethod
    def fork(mark: Mark) -> Oracle:
        """Return an oracle of its own as of a moment of another."""
        made: dict[int, Value] = {}

        def frozen(value: Value) -> Value:
            return made.setdefault(id(value), Value(0, *value.at(mark.tick)))

        states: list[State] = [
            {name: {key: frozen(value) for key, value in records.items()} for name, records in state.items()}
            if number >= mark.powered
            else {}
            for number, state in enumerate(mark.states)
        ]
        return Oracle(states, mark.killed, mark.powered)


def after(state: State, actions: Sequence[Action], tick: int) -> State:
    """Return the state that committed actions lead to; the old one is not changed."""
    state = {name: dict(records) for name, records in state.items()}
    for action in actions:
        what, name, *rest = action
        if what == "create":
            state[name] = {}
        elif what == "drop":
            del state[name]
            state.get(ATTRIBUTES, {}).pop(name, None)
        elif what == "alter":
            state[name] = {key: _swapped(value, item_size(name), tick) for key, value in state[name].items()}
        elif what == "attribute":
            state.setdefault(ATTRIBUTES, {})[name] = Value(tick, as_text({"n": rest[0]}))
        elif what == "kept":
            state = after(state, rest[0], tick)
        elif what not in ("compact", "undone"):
            _write(state[name], action, tick)
    return {name: records for name, records in state.items() if records or name != ATTRIBUTES}


def _write(records: dict[Any, Value], action: Action, tick: int) -> None:
    """Do to the records of a store what an action does."""
    what, name, *rest = action
    if what == "put_many":
        keys, lengths, data = rest
        ends = np.cumsum(lengths) * item_size(name)
        for key, length, end in zip(keys, lengths, ends.tolist(), strict=True):
            records[key] = Value(tick, data[end - length * item_size(name) : end])
    elif what == "delete":
        records.pop(rest[0], None)
    elif what == "delete_range":
        for key in [key for key in records if rest[0] <= key < rest[1]]:
            del records[key]
    elif what == "new":
        key, data = rest
        zeros = bytes(len(data))
        records[key] = Value(tick, zeros, data) if any(data) else Value(tick, data)
    elif what == "append":
        before = records[rest[0]].at(tick)[-1] if rest[0] in records else b""
        records[rest[0]] = Value(tick, before + rest[1])
    else:  # put, edit
        records[rest[0]] = Value(tick, rest[1])


def _swapped(value: Value, size: int, tick: int) -> Value:
    """Return a record with the halves of its items exchanged; it was read, so it is what was written last."""
    halves = np.frombuffer(value.at(tick)[-1], np.dtype((np.void, size // 2))).reshape(-1, 2)
    return Value(tick, halves[:, ::-1].tobytes())


def as_text(attributes: Mapping[str, Any]) -> bytes:
    """Return attributes as states and contents have them."""
    return json.dumps(dict(attributes)).encode()


# ---------------------------------------------------------------------- the workload


class Planner:
    """Draws steps that make sense after the present state of an oracle."""

    def __init__(self, seed: object, oracle: Oracle, *, most: int = 24) -> None:
        self._rng = random.Random(f"{seed}")
        self._oracle = oracle
        self._most = most

    def next(self) -> Step:
        """Return the next step."""
        rng, state = self._rng, self._oracle.state
        names = stores_of(state)
        roll = rng.random()
        if not names or (roll < 0.06 and len(names) < len(NAMES)):
            return Step("create", [self._create(state)], commits=True, sync=True, durable=True)
        if roll < 0.62:
            return self._transaction(state, "transaction")
        if roll < 0.70:
            return self._transaction(state, "abort")
        if roll < 0.80:
            action = self._write(state, rng.choice(names), single=True)
            return Step("single", [action], commits=True, durable=True)
        if roll < 0.83 and len(names) > 1:
            return Step("drop", [("drop", rng.choice(names))], commits=True, durable=True)
        if roll < 0.85:
            return Step("compact", [("compact", rng.choice(names))], commits=True, durable=True)
        can_be_altered = [name for name in names if name.rstrip("2") in ALTERED]
        if roll < 0.88 and can_be_altered:
            return Step("alter", [("alter", rng.choice(can_be_altered))], commits=True, durable=True)
        if roll < 0.90:
            return Step("sync", durable=True)
        changeable = [(name, key) for name in names if type_of(name) is Point for key in sorted(state[name])]
        if roll < 0.95 and changeable:
            name, key = rng.choice(changeable)
            return Step("change", [("change", name, key, rng.randbytes(16))], durable=True)
        return Step("reopen", durable=True)

    def _create(self, state: State) -> Action:
        return "create", self._rng.choice([name for name in NAMES if name not in state])

    def _transaction(self, state: State, kind: str) -> Step:
        rng = self._rng
        sync = rng.random() < 0.4
        actions: list[Action] = []
        names = stores_of(state)
        for name in rng.sample(names, rng.randint(1, min(4, len(names)))):
            actions += [self._write(state, name) for _ in range(rng.randint(1, 3))]
        if rng.random() < 0.12:
            actions.append(self._set_attribute(names))
        if rng.random() < 0.12 and len(names) < len(NAMES):
            create = self._create(state)
            actions += [create, self._write({**state, create[1]: {}}, create[1])]
        if rng.random() < 0.25:
            actions.insert(rng.randint(1, len(actions)), self._undone(state, names[0]))
        if rng.random() < 0.25:
            at = rng.randint(1, len(actions))
            actions[at:] = [("kept", names[0], actions[at:])]
        if kind == "abort":
            return Step(kind, actions, sync)
        return Step(kind, actions, sync, commits=True, durable=sync)

    def _undone(self, state: State, name: str) -> Action:
        """Draw what a savepoint takes back, and whether it is read before."""
        rng = self._rng
        actions = [self._write(state, rng.choice(stores_of(state))) for _ in range(rng.randint(1, 3))]
        return "undone", name, actions, rng.random() < 0.5

    def _set_attribute(self, names: list[str]) -> Action:
        return "attribute", self._rng.choice(["", *names]), self._rng.randrange(1000)

    def _write(self, state: State, name: str, *, single: bool = False) -> Action:
        """Draw a write that surely changes something."""
        rng = self._rng
        if rng.random() < 0.03:
            return self._set_attribute([name])
        roll = rng.random()
        present = sorted(state[name])
        if present and roll < 0.2:
            return "delete", name, rng.choice(present)
        low = [key for key in present if key <= 4 * KEYS]
        if low and roll < 0.25:
            start = rng.choice(low)
            return "delete_range", name, start, start + rng.randint(1, 20)
        if roll < 0.4:
            return self._put_many(name)
        key = self._key()
        if type_of(name) is Point:
            data = rng.randbytes(16)
            if roll < 0.6:
                return "new", name, key, data
            if roll < 0.75 and present and not single:
                return "edit", name, rng.choice(present), data
            return "put", name, key, data
        if roll < 0.5:
            return "new", name, key, bytes(item_size(name) * rng.randint(0, 50))
        if roll < 0.65:
            length = rng.choice((1, 3, rng.randint(1, 300) // item_size(name) + 1))
            return "append", name, key, rng.randbytes(length * item_size(name))
        length = rng.choice((0, 1, 3, rng.randint(0, 100), rng.randint(0, 2000) // item_size(name)))
        return "put", name, key, rng.randbytes(length * item_size(name))

    def _key(self) -> int:
        rng = self._rng
        return rng.randrange(KEYS) if rng.random() < 0.9 else rng.choice((2**64 - 1, 2**63, 10**6))

    def _put_many(self, name: str) -> Action:
        rng = self._rng
        count = rng.randint(1, rng.choice((24, self._most)))
        start = rng.randrange(3 * KEYS)
        keys = list(range(start, start + count))
        if rng.random() < 0.5:
            keys = rng.sample(range(max(4 * KEYS, 2 * count)), count)
        longest = max(2, 700 // count)
        lengths = [1 if type_of(name) is Point else rng.randint(0, longest) for _ in keys]
        return "put_many", name, keys, lengths, rng.randbytes(sum(lengths) * item_size(name))


def do(db: sc.Database, step: Step) -> sc.Database:
    """Do a step, and return the database, which it may have reopened."""
    if step.kind in ("transaction", "abort"):
        transaction = db.transaction(sync=step.sync)
        for action in step.actions:
            act(transaction, action)
        if step.kind == "abort":
            if step.sync:  # a view of what was written makes the abort leave a gap
                for name in filter(None, dict.fromkeys(action[1] for action in step.actions)):
                    dict(transaction[name].items())
            transaction.abort()
        else:
            transaction.commit()
    elif step.kind == "sync":
        db.sync()
    elif step.kind == "change":
        for _, name, key, data in step.actions:
            ctypes.memmove(ctypes.addressof(db[name][key]), data, len(data))
        db.sync()
    elif step.kind == "reopen":
        db.close()
        db = sc.open(db.path, "r+", chunk_size=CHUNK_SIZE)
    elif step.kind in _ON_STORES:
        _ON_STORES[step.kind](db, step.actions[0][1])
    else:
        act(db, step.actions[0])
    return db


def compact(db: sc.Database, name: str) -> None:
    """Compact a store; if there was nothing to do, commit a change that leaves all as it is."""
    before = number(db)
    db.compact(name)
    if number(db) == before:
        with db.transaction(sync=True) as transaction:
            store = transaction[name]
            store[NO_KEY] = store.cls() if type_of(name) is Point else []
            del store[NO_KEY]


def alter(db: sc.Database, name: str) -> None:
    """Exchange the two fields of a store's type."""
    dtype = db[name].dtype
    db.alter_store(name, np.dtype([(field, dtype[field]) for field in reversed(dtype.names)]))


_ON_STORES: dict[str, Callable[[sc.Database, str], object]] = {
    "drop": sc.Database.drop_store,
    "compact": compact,
    "alter": alter,
}


def act(handle: Any, action: Action) -> None:
    """Do one action in a transaction, or as one of its own."""
    what, name, *rest = action
    if what == "attribute":
        owner = handle[name] if name else handle
        owner.attrs["n"] = rest[0]
        return
    kind = type_of(name)
    if what in _IN_SAVEPOINTS:
        return _IN_SAVEPOINTS[what](handle, name, *rest)
    if what == "create":
        _ = handle.object_store(name, kind) if kind is Point else handle.array_store(name, kind)
        return
    store = handle[name]
    if what == "put_many":
        keys, lengths, data = rest
        if kind is Point:
            store.put_many(keys, np.frombuffer(data, store.dtype))
        else:
            store.put_many(keys, np.frombuffer(data, store.dtype), lengths)
    elif what == "delete":
        store.delete(rest[0])
    elif what == "delete_range":
        store.delete_range(*rest)
    elif kind is Point:
        _write_point(store, what, *rest)
    elif what == "new":
        store.new(rest[0], len(rest[1]) // item_size(name))
    elif what == "append":
        store.append(rest[0], np.frombuffer(rest[1], store.dtype))
    else:
        store.put(rest[0], np.frombuffer(rest[1], store.dtype))


def undo(transaction: Any, name: str, actions: Sequence[Action], is_read: bool) -> None:
    """Do some actions in a savepoint, and take them back; where they were read, their space is left as a gap."""
    with transaction.savepoint() as savepoint:
        for action in actions:
            act(transaction, action)
        if is_read:
            dict(transaction[name].items())
        savepoint.rollback()


def keep(transaction: Any, name: str, actions: Sequence[Action]) -> None:
    """Do some actions in a savepoint: what was written before has a place in its file by then, and is not there."""
    with transaction.savepoint():
        for action in actions:
            act(transaction, action)


_IN_SAVEPOINTS: dict[str, Callable[..., None]] = {"undone": undo, "kept": keep}


def _write_point(store: Any, what: str, key: int, data: bytes) -> None:
    if what == "new":
        point = store.cls.from_buffer_copy(data)
        store.new(key, x=point.x, n=point.n)
    elif what == "edit" and key in store:
        ctypes.memmove(ctypes.addressof(store.edit(key)), data, len(data))
    else:
        store.put(key, store.cls.from_buffer_copy(data))


def work(db: sc.Database, oracle: Oracle, planner: Planner, count: int) -> sc.Database:
    """Do some steps, telling the oracle; return the database, which may have been reopened."""
    for _ in range(count):
        step = planner.next()
        oracle.begin(step)
        db = do(db, step)
        oracle.acknowledge(step)
        assert number(db) == len(oracle.states) - 1
    return db


# ---------------------------------------------------------------------- judgement


def contents(db: sc.Database) -> Contents:
    """Return the bytes of all records, and attributes, read through a snapshot: it gives nothing to be changed."""
    with db.snapshot() as snapshot:
        found = {name: bytes_by_key(snapshot[name].read()) for name in snapshot}
        owners = {"": snapshot.attrs, **{name: snapshot[name].attrs for name in snapshot}}
        texts = {name: as_text(attributes) for name, attributes in owners.items() if attributes}
    return {**found, ATTRIBUTES: texts} if texts else found


def bytes_by_key(batch: sc.Batch) -> dict[int, bytes]:
    """Return the bytes of each record."""
    raw, values = batch.values.tobytes(), batch.values
    size = len(raw) // len(values) if len(values) else 0
    return {
        key: raw[at:end]
        for key, (at, end) in zip(batch.keys.tolist(), pairwise((batch.offsets * size).tolist()), strict=True)
    }


def number(db: sc.Database) -> int:
    """Return the number of the last commit."""
    with db.snapshot() as snapshot:
        return snapshot.last_commit


def is_possible(found: bytes, options: tuple[bytes, ...]) -> bool:
    """Tell whether every byte found is that of one of the options."""
    if found == options[-1]:
        return True
    if any(len(option) != len(found) for option in options):
        return False
    return all(byte in choices for byte, *choices in zip(found, *options, strict=True))


def assert_state(found: Contents, state: State, tick: int) -> None:
    """Fail unless a database holds what it must."""
    assert sorted(found) == sorted(state)
    for name, records in state.items():
        assert sorted(found[name]) == sorted(records), f"keys of {name!r}"
        for key, value in records.items():
            options = value.at(tick)
            assert is_possible(found[name][key], options), f"{name!r}, key {key}: {found[name][key]!r}, {options!r}"


def judge(db: sc.Database, oracle: Oracle, floor: int) -> None:
    """Fail unless a database is at a commit not older than `floor`, whole and sound; the oracle goes back to it."""
    last = number(db)
    assert floor <= last < len(oracle.states), f"commit {last}, expected {floor} to {len(oracle.states) - 1}"
    found = contents(db)
    assert_state(found, oracle.states[last], oracle.tick)
    oracle.go_back(last, found)
    assert db.verify() == []
    for name in stores_of(oracle.state):
        assert len(db[name]) == len(oracle.state[name]), f"length of {name!r}"


def reopen(root: str) -> tuple[sc.Database, bool]:
    """Open a database, making its index anew if that is lost, and tell whether it was."""
    try:
        return sc.open(root, chunk_size=CHUNK_SIZE), False
    except sc.CorruptionError as error:
        if "rebuild_index" not in str(error) or not os.path.basename(_directory(error.path)).startswith("index-"):
            raise
    sc.rebuild_index(root)
    return sc.open(root, chunk_size=CHUNK_SIZE), True


def _directory(path: str) -> str:
    return path if os.path.basename(path).startswith("index-") else os.path.dirname(path)


def survive(root: str, oracle: Oracle, floor: int, seed: object) -> bool:
    """Reopen after a crash, judge, work on, reopen and judge again; tell whether the index had to be made anew.

    Now and then the index is made anew at the end, too: what the crash left must not come back by that.
    """
    rng = random.Random(f"after {seed}")
    db, rebuilt = reopen(root)
    try:
        judge(db, oracle, floor)
        db = work(db, oracle, Planner(seed, oracle), rng.choice((1, 2, 2, 3, 6)))
    finally:
        db.close()
    if rng.random() < 0.3:
        sc.rebuild_index(root)
    with sc.open(root, "r+", chunk_size=CHUNK_SIZE) as db:
        judge(db, oracle, len(oracle.states) - 1)
    return rebuilt
