"""Every public operation on a small database, what it may leave if it is cut short, and the judgement of that.

What is cut short must be there whole or not at all, whatever was acknowledged before must be there, the handle goes
on or raises FailedError, and nobody waits for ever.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from live_copy import copy_live
from oracle import ATTRIBUTES, CHUNK_SIZE, Contents, Point, as_text, contents, stores_of
from published import newest, records_of

import structchunk as sc

Change: TypeAlias = Callable[[Contents], object]
REFUSALS = (sc.FailedError, sc.ClosedError)
PATIENCE = 0.5
"""Seconds after which another thread is looked at; seen at one place again and again, it hangs."""
BIG = np.arange(700.0)
"""Of two such records only one goes into the first chunk of a store."""
OWN_FILES = ("chunks", "superblock", "lock", "readers", "reserve", "tail")
NEW = 1000
"""Keys from here on are for what operations store."""


class Violation(Exception):
    """What must not be, was."""


class Scene:
    """A database in a state that an operation begins with.

    Attributes
    ----------
    root : str
        Its path.
    db, other : Database or None
        The handle that is worked with, and another one that reads, or writes in turn.
    held : dict
        What else an operation needs.
    model : dict
        What was acknowledged.
    meanwhile : list of callable
        The changes that were acknowledged while the operation went on.
    """

    def __init__(self, root: str, model: Contents) -> None:
        self.root = root
        self.db: Any = None
        self.other: Any = None
        self.held: dict[str, Any] = {}
        self.model = copy.deepcopy(model)
        self.meanwhile: list[Change] = []
        self.returned = False

    def open(self, mode: str = "r+", **options: Any) -> Any:
        """Return a handle."""
        return sc.open(self.root, mode, **{"chunk_size": CHUNK_SIZE, "sync": False, **options})

    def put(self, name: str, key: int, value: Any) -> None:
        """Store a record, which is acknowledged."""
        store = self.db[name]
        store.put(key, value)
        self.model[name][key] = np.asarray(value, store.dtype).tobytes()

    def close(self) -> None:
        """Let everything go."""
        self.held.clear()
        for db in (self.db, self.other):
            if db is not None:
                db.close()
        self.db = self.other = None


class Operation(NamedTuple):
    """A public operation.

    ``changes`` are the commits that it makes, in order: it may be cut short between two of them. ``closes`` says
    that the handle may be closed afterwards, ``template`` which database it begins with, ``begins`` that it has a
    transaction of its own open, which may stay so for as long as it is held.
    """

    name: str
    prepare: Callable[[Scene], object]
    act: Callable[[Scene], object]
    changes: tuple[Change, ...]
    template: str
    closes: bool
    begins: bool

    def outcomes(self, model: Contents) -> list[Contents]:
        """Return what may be found, the last one being what must be if it was not cut short."""
        found = [copy.deepcopy(model)]
        for change in self.changes:
            found.append(copy.deepcopy(found[-1]))
            change(found[-1])
        return found


OPERATIONS: dict[str, Operation] = {}


def operation(
    *changes: Change,
    prepare: Callable[[Scene], object] | None = None,
    template: str = "full",
    closes: bool = False,
    begins: bool = False,
) -> Callable[[Callable[[Scene], object]], Callable[[Scene], object]]:
    """Make a function an operation, of its name."""

    def made(act: Callable[[Scene], object]) -> Callable[[Scene], object]:
        name = act.__name__
        OPERATIONS[name] = Operation(name, prepare or working, act, changes, template, closes, begins)
        return act

    return made


# ---------------------------------------------------------------------- what operations begin with


def build(path: str, kind: str) -> Contents:
    """Make a database, and return what it holds: none, a full one, or one that was killed."""
    if kind == "none":
        return {}
    target = path if kind == "full" else f"{path}-living"
    with sc.open(target, "x", chunk_size=CHUNK_SIZE, sync=False) as db:
        floats = db.array_store("floats", "f8")
        floats.put_many(range(60), np.arange(174.0), np.arange(60) % 7)
        floats.put_many([100, 101, 102], [BIG, BIG, BIG])
        floats.delete_range(10, 20)
        points = db.object_store("points", Point)
        points.put_many(range(20), [(key, -key) for key in range(20)])
        db.array_store("bytes", "u1").put(1, b"\1\2\3")
        if kind == "killed":
            db.sync()
            for key in range(5):
                floats.put(200 + key, [key])
            with db.transaction() as txn:
                txn.array_store("late", "<i4")[1] = [1]
                txn["floats"].put(300, BIG)
            copy_live(target, path)
        model = contents(db)
    return model


def unopened(scene: Scene) -> None:
    """Leave the database closed."""


def opened(scene: Scene) -> None:
    """Open it, and do nothing: the first commit makes a checkpoint."""
    scene.db = scene.open()


def working(scene: Scene) -> None:
    """Open it and commit a few changes that no checkpoint covers; one record may change in place."""
    scene.db = scene.open()
    scene.put("floats", 500, [1, 2, 3])
    live = scene.db["floats"].new(501, 4)
    live[:] = 7
    scene.model["floats"][501] = live.tobytes()
    scene.put("bytes", 2, [7] * 9)


def copied(scene: Scene) -> None:
    """Make a copy, and then commit, drop and change in place what it lacks."""
    working(scene)
    scene.db.checkpoint(f"{scene.root}-copy")
    scene.put("floats", 502, BIG)
    scene.put("floats", 503, BIG)
    scene.db["floats"][501][:] = 8
    scene.model["floats"][501] = scene.db["floats"][501].tobytes()
    scene.db.compact("bytes")


def published(scene: Scene) -> None:
    """Publish it, and then commit and change in place what is not published."""
    working(scene)
    scene.db.publish(f"memory:/{scene.root}-published")
    scene.put("floats", 502, BIG)
    scene.put("floats", 503, BIG)
    scene.db["floats"][501][:] = 8
    scene.model["floats"][501] = scene.db["floats"][501].tobytes()
    scene.db.compact("bytes")


def durable(scene: Scene) -> None:
    """Open it so that commits wait for the disk, and commit."""
    scene.db = scene.open(sync=True)
    scene.put("floats", 500, [1, 2, 3])


def read_beside(scene: Scene) -> None:
    """Open it for writing and reading, and commit what the reader does not know yet."""
    opened(scene)
    scene.other = scene.open("r")
    scene.put("floats", 500, [1, 2, 3])
    scene.put("floats", 501, BIG)
    scene.put("floats", 502, BIG)


def followed(scene: Scene) -> None:
    """Open it for writing and reading, and commit what the reader need not clone the index for."""
    working(scene)
    scene.other = scene.open("r")
    scene.put("floats", 500, [1, 2, 3])
    scene.put("floats", 502, BIG)
    scene.db.array_store("late", "<i4")
    scene.model["late"] = {}
    scene.put("late", 1, [5])


def shared(scene: Scene) -> None:
    """Open it twice to write in turn."""
    scene.db = scene.open(shared=True)
    scene.other = scene.open(shared=True)
    scene.put("floats", 500, [1, 2, 3])


def described(scene: Scene) -> None:
    """Open it, and set attributes."""
    working(scene)
    scene.db.attrs["of"] = 1
    scene.db["floats"].attrs.update(unit="K", n=5)
    scene.model[ATTRIBUTES] = {"": as_text({"of": 1}), "floats": as_text({"unit": "K", "n": 5})}


def in_transaction(scene: Scene) -> None:
    """Open it and begin a transaction that changes all it can."""
    working(scene)
    transaction = scene.held["transaction"] = scene.db.transaction()
    fill(transaction)


def crowded(scene: Scene) -> None:
    """Open it on a disk that is full, but for the reserve, for as long as the operation goes on."""
    working(scene)
    reserve = scene.db._storage.reserve
    check_room = reserve.check_room
    scene.held["full"] = True

    def check(size: int) -> bool:
        if reserve.size and "full" in scene.held:
            raise reserve.too_small(size)
        return bool(check_room(size))

    reserve.check_room = check


def fill(transaction: Any) -> None:
    """Change much in a transaction: several stores, new chunks, a new store, deletions, an edit."""
    transaction["floats"].put_many(range(NEW, NEW + 30), np.ones(60), [2] * 30)
    for key in range(NEW + 100, NEW + 103):
        transaction["floats"].put(key, BIG)
    transaction["floats"].delete_range(30, 40)
    transaction["bytes"].delete(1)
    transaction["points"].edit(3).n = 33
    transaction.array_store("extra", "<i4")[1] = [1, 2]


def filled(model: Contents) -> None:
    """Do to a model what :func:`fill` does."""
    for key in range(NEW, NEW + 30):
        model["floats"][key] = floats(1, 1)
    for key in range(NEW + 100, NEW + 103):
        model["floats"][key] = BIG.tobytes()
    for key in range(30, 40):
        model["floats"].pop(key, None)
    del model["bytes"][1]
    model["points"][3] = bytes(Point(3, 33))
    model["extra"] = {1: np.array([1, 2], "<i4").tobytes()}


def floats(*values: float) -> bytes:
    """Return the bytes of an array of the store of floats."""
    return np.array(values, "f8").tobytes()


def sets(name: str, key: int, value: bytes) -> Change:
    """Return the change of one record."""

    def change(model: Contents) -> None:
        model[name][key] = value

    return change


def makes(name: str) -> Change:
    """Return the creation of a store."""

    def change(model: Contents) -> None:
        model[name] = {}

    return change


def drops(name: str) -> Change:
    """Return the drop of a store."""

    def change(model: Contents) -> None:
        del model[name]
        if ATTRIBUTES in model:
            del model[ATTRIBUTES][name]

    return change


def widens(name: str, old: str, new: str) -> Change:
    """Return the change of a store's type."""

    def change(model: Contents) -> None:
        model[name] = {key: np.frombuffer(data, old).astype(new).tobytes() for key, data in model[name].items()}

    return change


def describes(name: str, **attributes: Any) -> Change:
    """Return the change of a store's attributes, or of the database's."""

    def change(model: Contents) -> None:
        model.setdefault(ATTRIBUTES, {})[name] = as_text(attributes)

    return change


# ---------------------------------------------------------------------- opening and closing


@operation(prepare=unopened)
def open_existing(scene: Scene) -> None:
    scene.db = scene.open()


@operation(prepare=unopened, template="killed")
def open_after_a_crash(scene: Scene) -> None:
    scene.db = scene.open()


@operation(prepare=unopened, template="none")
def create(scene: Scene) -> None:
    scene.db = scene.open("a")


@operation(prepare=unopened, template="killed")
def rebuild_index(scene: Scene) -> None:
    sc.rebuild_index(scene.root)


@operation(closes=True)
def close(scene: Scene) -> None:
    scene.db.close()


@operation(prepare=in_transaction, closes=True, begins=True)
def close_in_transaction(scene: Scene) -> None:
    scene.db.close()


@operation(prepare=unopened, closes=True)
def with_open(scene: Scene) -> None:
    with scene.open() as scene.db:
        scene.db["floats"].get(1)


# ---------------------------------------------------------------------- stores


@operation(makes("made"))
def array_store(scene: Scene) -> None:
    scene.db.array_store("made", "<i4")


@operation(makes("made"), prepare=opened)
def object_store(scene: Scene) -> None:
    scene.db.object_store("made", Point)


@operation(drops("floats"))
def drop_store(scene: Scene) -> None:
    scene.db.drop_store("floats")


@operation(drops("bytes"), makes("bytes"), sets("bytes", 1, b"\5"))
def drop_and_make_again(scene: Scene) -> None:
    scene.db.drop_store("bytes")
    scene.db.array_store("bytes", "u1")[1] = b"\5"


@operation(widens("floats", "f8", "c16"))
def alter_store(scene: Scene) -> None:
    scene.db.alter_store("floats", "c16")


@operation(widens("bytes", "u1", "<u2"), prepare=shared)
def alter_in_turn(scene: Scene) -> None:
    scene.db.alter_store("bytes", "<u2")


@operation(widens("floats", "f8", "c16"), prepare=described)
def alter_with_attributes(scene: Scene) -> None:
    scene.db.alter_store("floats", "c16")


@operation(drops("floats"), prepare=described)
def drop_with_attributes(scene: Scene) -> None:
    scene.db.drop_store("floats")


@operation(describes("", unit="K"))
def set_first_attribute(scene: Scene) -> None:
    scene.db.attrs["unit"] = "K"


@operation(describes("floats", unit="K", n=6), prepare=described)
def set_attributes(scene: Scene) -> None:
    assert scene.db["floats"].attrs["n"] == 5
    scene.db["floats"].attrs.update(n=6)


@operation(describes("bytes", a=[1]), prepare=shared)
def set_attribute_in_turn(scene: Scene) -> None:
    scene.db["bytes"].attrs["a"] = [1]


@operation(describes("", of=2), prepare=described)
def compact_attributes(scene: Scene) -> None:
    scene.db.attrs["of"] = 2
    scene.db.compact()


@operation(drops("floats"), prepare=crowded)
def drop_on_a_full_disk(scene: Scene) -> None:
    scene.db.drop_store("floats")


# ---------------------------------------------------------------------- single writes


@operation(sets("floats", NEW, floats(4, 5)))
def put(scene: Scene) -> None:
    scene.db["floats"].put(NEW, [4, 5])


@operation(sets("floats", 3, floats(4, 5)), prepare=opened)
def put_first(scene: Scene) -> None:
    scene.db["floats"].put(3, [4, 5])


@operation(sets("floats", NEW, floats(4, 5)), prepare=durable)
def put_durably(scene: Scene) -> None:
    scene.db["floats"].put(NEW, [4, 5])


@operation(sets("bytes", NEW, bytes(20000)))
def put_in_a_new_chunk(scene: Scene) -> None:
    scene.db["bytes"].put(NEW, np.zeros(20000, "u1"))


def _longer(model: Contents) -> None:
    model["floats"][3] += floats(4, 5)


@operation(_longer)
def append(scene: Scene) -> None:
    scene.db["floats"].append(3, [4, 5])


@operation(sets("floats", NEW, floats(4)), prepare=durable)
def append_to_nothing(scene: Scene) -> None:
    scene.db["floats"].append(NEW, [4])


def _many(model: Contents) -> None:
    for key in range(NEW, NEW + 5):
        model["floats"][key] = floats(1, 1)


@operation(_many)
def put_many(scene: Scene) -> None:
    scene.db["floats"].put_many(range(NEW, NEW + 5), np.ones(10), [2] * 5)


def _bulk(model: Contents) -> None:
    for key in range(50, 90):
        model["floats"][key] = np.full(100, 2.0).tobytes()


@operation(_bulk)
def put_many_over_chunks(scene: Scene) -> None:
    scene.db["floats"].put_many(range(50, 90), np.full(4000, 2.0), [100] * 40)


@operation(lambda model: model["floats"].update({5: floats(1), 6: floats(2), NEW: floats(3)}))
def update(scene: Scene) -> None:
    scene.db["floats"].update({5: [1], 6: [2], NEW: [3]})


@operation(sets("floats", NEW, bytes(24)))
def new_array(scene: Scene) -> None:
    scene.db["floats"].new(NEW, 3)


@operation(*(sets("points", NEW, bytes(Point(*point))) for point in ((0, 0), (1, 0), (1, 2))))
def new_object(scene: Scene) -> None:
    scene.db["points"].new(NEW, x=1, n=2)


@operation(sets("points", 5, bytes(Point(9, 9))), begins=True)
def edit(scene: Scene) -> None:
    with scene.db.transaction() as transaction:
        point = transaction["points"].edit(5)
        point.x = 9
        point.n = 9


@operation(lambda model: model["floats"].pop(3))
def delete(scene: Scene) -> None:
    scene.db["floats"].delete(3)


def _delete_range(model: Contents) -> None:
    for key in [key for key in model["floats"] if 5 <= key < 55]:
        del model["floats"][key]


@operation(_delete_range)
def delete_range(scene: Scene) -> None:
    scene.db["floats"].delete_range(5, 55)


@operation(_delete_range, prepare=crowded)
def delete_on_a_full_disk(scene: Scene) -> None:
    scene.db["floats"].delete_range(5, 55)
    scene.db.sync()


@operation(prepare=crowded)
def compact_on_a_full_disk(scene: Scene) -> None:
    scene.db.compact("floats")


# ---------------------------------------------------------------------- transactions


@operation(filled, begins=True)
def transaction(scene: Scene) -> None:
    with scene.db.transaction() as txn:
        fill(txn)


@operation(filled, begins=True)
def durable_transaction(scene: Scene) -> None:
    with scene.db.transaction(sync=True) as txn:
        fill(txn)


@operation(filled, prepare=in_transaction, begins=True)
def commit(scene: Scene) -> None:
    scene.held.pop("transaction").commit()


@operation(prepare=in_transaction, begins=True)
def abort(scene: Scene) -> None:
    scene.held.pop("transaction").abort()


@operation(prepare=in_transaction, begins=True)
def abort_of_what_was_exposed(scene: Scene) -> None:
    txn = scene.held.pop("transaction")
    _ = txn["floats"][NEW], txn["floats"][NEW + 101]
    txn.abort()


@operation(begins=True)
def failing_transaction(scene: Scene) -> None:
    with contextlib.suppress(ZeroDivisionError), scene.db.transaction() as txn:
        fill(txn)
        _ = 1 // 0


@operation(begins=True)
def forgotten_transaction(scene: Scene) -> None:
    txn = scene.db.transaction()
    txn["floats"].put(NEW, [1])
    txn.array_store("extra", "u1")
    del txn


def _grown(model: Contents) -> None:
    model["floats"][3] += floats(1) * 8
    model["floats"][NEW] = floats(1) * 8
    model["floats"][101] += BIG.tobytes()


@operation(_grown, begins=True)
def appends(scene: Scene) -> None:
    with scene.db.transaction() as txn:
        store = txn["floats"]
        store.append(101, BIG)
        for number in range(8):
            for key in (3, NEW):
                store.append(key, [1])
            if number % 3 == 1:
                _ = store[3], store[101]


def tried(txn: Any) -> None:
    """Change much, over chunks, and read it: what a savepoint is to take back."""
    floats = txn["floats"]
    floats.put(NEW + 200, [1])
    floats.append(3, [1, 2])
    floats.put_many(range(NEW + 10, NEW + 40), np.zeros(60), [2] * 30)
    floats.new(NEW + 201, 2)[:] = 3
    _ = floats[3], len(floats), floats.last_key
    for key in range(NEW + 202, NEW + 205):
        floats.put(key, BIG)
    txn["points"].edit(3).n = 44
    txn["bytes"].put(7, b"\1")
    txn.array_store("tried", "<i4")[1] = [1]


@operation(filled, begins=True)
def savepoint_taken_back(scene: Scene) -> None:
    with scene.db.transaction() as txn:
        with txn.savepoint() as savepoint:
            tried(txn)
            savepoint.rollback()
        fill(txn)
        with contextlib.suppress(ZeroDivisionError), txn.savepoint():
            tried(txn)
            _ = 1 // 0


@operation(filled, begins=True)
def savepoints_kept(scene: Scene) -> None:
    with scene.db.transaction() as txn, txn.savepoint():
        with txn.savepoint():
            fill(txn)
        with txn.savepoint() as outer:
            with txn.savepoint():
                tried(txn)
            outer.rollback()


@operation(sets("floats", NEW, floats(1)), sets("bytes", NEW, b"\1"), begins=True)
def two_transactions(scene: Scene) -> None:
    for name in ("floats", "bytes"):
        with scene.db.transaction() as txn:
            txn[name].put(NEW, [1])


# ---------------------------------------------------------------------- the whole database


@operation()
def sync(scene: Scene) -> None:
    scene.db.sync()


@operation()
def compact_store(scene: Scene) -> None:
    scene.db.compact("floats")


@operation()
def compact(scene: Scene) -> None:
    scene.db.compact()


@operation()
def checkpoint(scene: Scene) -> None:
    scene.held["copy"] = f"{scene.root}-copy"
    scene.db.checkpoint(scene.held["copy"])


@operation(prepare=copied)
def update_copy(scene: Scene) -> None:
    scene.db.checkpoint(f"{scene.root}-copy", update=True)


@operation(prepare=published)
def publish(scene: Scene) -> None:
    scene.db.publish(f"memory:/{scene.root}-published")


# ---------------------------------------------------------------------- reading


@operation()
def read(scene: Scene) -> None:
    store = scene.db["floats"]
    assert store[500].tolist() == [1, 2, 3]
    assert store.get(15) is None
    assert 3 in store
    len(store)
    list(store.keys(40, 45))
    next(reversed(store))
    store[501][0] = 7  # it was made by new()


@operation()
def get_many(scene: Scene) -> None:
    scene.db["floats"].get_many([3, 500, 101, 3])


@operation()
def scan(scene: Scene) -> None:
    for batch in scene.db["floats"].scan(batch_size=20):
        assert len(batch)
    for _ in scene.db.scan("floats", "points"):
        pass


@operation()
def changes(scene: Scene) -> None:
    since = scene.db.first_change
    for change in scene.db.changes(since):
        assert len(change.batch()) == len(change.keys)
    (floats,) = scene.db.changes(since, "floats", net=True)
    assert 500 in floats.keys.tolist()
    with scene.db.snapshot() as snapshot:
        assert not list(snapshot.changes(scene.db.last_commit))


@operation()
def changes_over_compaction(scene: Scene) -> None:
    last = scene.db.last_commit
    (floats,) = scene.db.changes(0, "floats", net=True)
    scene.db.compact("floats")
    assert len(floats.batch()) == len(scene.db["floats"])
    assert not list(scene.db.changes(last))


@operation(prepare=read_beside)
def changes_of_a_reader(scene: Scene) -> None:
    last = scene.other.last_commit
    scene.other.refresh()
    for change in scene.other.changes(last, "floats"):
        change.batch()


@operation()
def cursor(scene: Scene) -> None:
    found = scene.db["points"].cursor()
    found.seek(7)
    found.next()
    assert found.value.x == 8
    found.last()
    found.prev()


@operation()
def snapshot(scene: Scene) -> None:
    with scene.db.snapshot() as snapshot:
        list(snapshot["floats"].items())
        snapshot.split("floats", "points", count=3)


@operation()
def snapshot_over_commits(scene: Scene) -> None:
    with scene.db.snapshot() as snapshot:
        scene.db["floats"].put(500, [1, 2, 3])
        assert snapshot["floats"][500].tolist() == [1, 2, 3]
        for batch in snapshot["floats"].scan():
            assert len(batch)


@operation()
def verify(scene: Scene) -> None:
    scene.db.verify()  # of a disk that fails it reports that


@operation()
def stats(scene: Scene) -> None:
    scene.db.stats()


# ---------------------------------------------------------------------- several handles


@operation(prepare=opened)
def open_reader(scene: Scene) -> None:
    scene.other = scene.open("r")


@operation(prepare=read_beside)
def refresh(scene: Scene) -> None:
    scene.other.refresh()


@operation(prepare=followed)
def refresh_by_following(scene: Scene) -> None:
    scene.other.refresh()


@operation(prepare=followed)
def wait(scene: Scene) -> None:
    scene.other.wait(1)


@operation(prepare=read_beside)
def close_reader(scene: Scene) -> None:
    scene.other.close()


@operation(prepare=unopened, closes=True)
def open_shared(scene: Scene) -> None:
    scene.db = scene.open(shared=True)


@operation(sets("floats", NEW, floats(4, 5)), prepare=shared, closes=True)
def put_shared(scene: Scene) -> None:
    scene.db["floats"].put(NEW, [4, 5])


@operation(filled, prepare=shared, closes=True, begins=True)
def shared_transaction(scene: Scene) -> None:
    with scene.db.transaction() as txn:
        fill(txn)


@operation(filled, prepare=shared, closes=True, begins=True)
def shared_savepoints(scene: Scene) -> None:
    with scene.db.transaction() as txn:
        with txn.savepoint() as savepoint:
            tried(txn)
            savepoint.rollback()
        with txn.savepoint():
            fill(txn)


@operation(prepare=shared, closes=True)
def read_shared(scene: Scene) -> None:
    scene.other["floats"].get(500)
    list(scene.other["floats"].scan())


# ---------------------------------------------------------------------- judgement


class Judge:
    """What is found after an operation, whether it was cut short or not.

    Parameters
    ----------
    scene : Scene
    operation : Operation
    returned : bool
        Whether it was not cut short.
    closes : bool
        Whether the handle may be closed, whatever the operation.
    """

    def __init__(self, scene: Scene, operation: Operation, *, returned: bool, closes: bool = False) -> None:
        self.scene = scene
        self.root = scene.root
        self.expected = operation.outcomes(scene.model)
        if returned:
            del self.expected[:-1]
        self.failed = False
        for change in scene.meanwhile:
            for model in self.expected:
                change(model)
        self._closes = operation.closes or closes
        self._name = operation.name

    def judge(self, *, thorough: bool) -> None:
        """Raise a Violation unless all is as it must be; a thorough judgement makes the index anew, too."""
        scene = self.scene
        scene.held.clear()  # a transaction that was left open ends with that
        self._put_by_another_thread()
        if scene.db is not None:
            self._use(scene.db)
            self._close(scene.db)
        if scene.other is not None:
            self._use_other(scene.other)
            self._close(scene.other)
        scene.db = scene.other = None
        self.failed = False
        self._reopen()
        if thorough and os.path.exists(os.path.join(self.root, "superblock")):
            sc.rebuild_index(self.root)
            self._reopen()
            self._read_only()
        if self._name == "update_copy":
            self._update_copy()
        if self._name == "publish":
            self._publish()
        self._check_copy()

    # ------------------------------------------------------------------ the handle

    def _put_by_another_thread(self) -> None:
        db = self.scene.db
        if db is None or "points" not in self.expected[0]:
            return
        said: list[BaseException | None] = []
        thread = threading.Thread(target=_put_other, args=(db, said), daemon=True)
        thread.start()
        if where := _hanging(thread):
            raise Violation(f"a put by another thread hangs in {where}")
        if said == [None]:
            for model in self.expected:
                model["points"][OTHER_KEY] = bytes(Point(1, 1))
        else:
            self._refused(said[0])

    def _refused(self, error: BaseException | None) -> None:
        """Note that the handle does not work on; raise if that is not said as it should be."""
        if (isinstance(error, sc.ClosedError) and self._closes) or isinstance(error, sc.FailedError):
            self.failed = True
        else:
            raise Violation(f"the handle does not work on: {error!r}") from error

    def _use(self, db: Any) -> None:
        try:
            self._find(contents(db), "live")
        except REFUSALS as error:
            self._refused(error)
        if self.failed:
            self._expect_refusal(db)
            return
        try:
            self._commit_later(db)
        except sc.ClosedError as error:
            self._refused(error)
            return
        self._find(contents(db), "after later commits")
        self._verify(db, "live")
        for name, figures in db.stats().items():
            if figures.records != len(self.expected[0][name]):
                raise Violation(f"stats() has {figures.records} records of {name!r}")

    def _expect_refusal(self, db: Any) -> None:
        for write in (lambda: db["bytes"].put(1, [1]), lambda: db.array_store("again", "u1")):
            try:
                write()
            except (*REFUSALS, sc.StoreNotFound):
                continue
            raise Violation("a handle that failed goes on")

    def _find(self, found: Contents, when: str) -> None:
        """Raise unless what is found is one of what may be; from now on it is the one.

        A handle that failed may show less than there is: how far its last commit came it does not know.
        """
        matching = [at for at, model in enumerate(self.expected) if model == found]
        if not matching:
            raise Violation(f"{when}: {difference(found, self.expected)}")
        self.expected = self.expected[matching[0] :] if self.failed else [self.expected[matching[0]]]

    def _commit_later(self, db: Any) -> None:
        model = self.expected[0]
        for number, name in enumerate(stores_of(model)):
            if name == "points":
                db[name].put(NEW + 500, Point(5, 5))
                model[name][NEW + 500] = bytes(Point(5, 5))
            elif name != "made":
                db[name].put(NEW + 500, [number])
                model[name][NEW + 500] = np.array([number], db[name].dtype).tobytes()
        with db.transaction(sync=True) as txn:
            store = txn.array_store("later", "f8")
            store.put(1, BIG)
            store.put_many([2, 3], [BIG, BIG])
        model["later"] = dict.fromkeys((1, 2, 3), BIG.tobytes())

    def _use_other(self, other: Any) -> None:
        try:
            other.refresh()
            self._find(contents(other), "through the other handle")
            self._verify(other, "through the other handle")
        except REFUSALS as error:
            if self._name != "close_reader" and not self._closes:
                raise Violation("the other handle is closed") from error

    def _close(self, db: Any) -> None:
        try:
            db.close()
        except Exception as error:
            raise Violation(f"close() raises {error!r}") from error

    def _verify(self, db: Any, when: str) -> None:
        problems = db.verify()
        if problems:
            raise Violation(f"{when}, verify() finds {problems}")

    # ------------------------------------------------------------------ a new handle

    def _reopen(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                db = sc.open(self.root, chunk_size=CHUNK_SIZE, sync=False)
            except Exception as error:
                raise Violation(f"it cannot be opened again: {error!r}") from error
        try:
            if not self.expected[0] and not list(db):
                db.array_store("floats", "f8")
                self.expected = [{"floats": {}}]
            self._find(contents(db), "reopened")
            self._verify(db, "reopened")
            db.sync()  # what a drop or a compaction left goes with a checkpoint
            self._look_for_strays(db)
            for name in stores_of(self.expected[0]):
                if name not in ("points", "made"):
                    db[name].put(NEW + 501, [1])
                    self.expected[0][name][NEW + 501] = np.array([1], db[name].dtype).tobytes()
            self._find(contents(db), "reopened, after a commit")
        finally:
            db.close()

    def _read_only(self) -> None:
        with sc.open(self.root, "r") as db:
            self._find(contents(db), "read only")
            self._verify(db, "read only")

    def _look_for_strays(self, db: Any) -> None:
        known = {f"{chunk:08d}.chunk" for heap in db._storage.heaps.values() for chunk in heap.chunks}
        found = set(os.listdir(os.path.join(self.root, "chunks")))
        if found != known:
            raise Violation(f"stray chunks {sorted(found - known)}, missing ones {sorted(known - found)}")
        names = [name for name in os.listdir(self.root) if name not in OWN_FILES]
        if len(names) != 1 or not names[0].startswith("index-"):
            raise Violation(f"stray files {names}")
        if left := set(os.listdir(os.path.join(self.root, "readers"))) - {"writer"}:
            raise Violation(f"readers' files {sorted(left)} are left")

    def _check_copy(self) -> None:
        """Raise if the copy that an operation made is there, and not whole."""
        if os.path.exists(path := f"{self.root}-copy"):
            with sc.open(path, "r+") as db:
                self._verify(db, "in the copy")
                if "floats" not in db or 500 not in db["floats"]:
                    raise Violation("records are missing in the copy")

    def _update_copy(self) -> None:
        """Bring the copy forward that an operation may have brought forward by half."""
        path = f"{self.root}-copy"
        with sc.open(self.root, "r") as db, sc.open(path, "r") as copy:
            self._verify(copy, "in the copy")
            db.checkpoint(path, update=True)
            copy.refresh()
            if contents(copy) != contents(db):
                raise Violation("the copy is another one than the database")
            if "update" in os.listdir(path):
                raise Violation("what an update made is left in the copy")

    def _publish(self) -> None:
        """Read what an operation may have published, publish what is there now, and prune."""
        url = f"memory:/{self.root}-published"
        objects, manifest = newest(url)
        if 500 not in records_of(objects, manifest).get("floats", {}):
            raise Violation("records are missing in what is published")
        with sc.open(self.root, "r") as db:
            db.publish(url)
            objects, manifest = newest(url)
            if records_of(objects, manifest) != contents(db):
                raise Violation("another database is published than is there")
        sc.prune(url)
        if len(objects.names("objects/")) != len(manifest.objects):
            raise Violation("what was published in part is left")
        objects.delete([*objects.names("objects/"), *objects.names("manifests/"), "newest"])


OTHER_KEY = 900


def _hanging(thread: threading.Thread) -> str:
    """Wait for a thread, and return where it hangs, if it does."""
    seen: list[str] = []
    while True:
        thread.join(PATIENCE)
        if not thread.is_alive():
            return ""
        frame = sys._current_frames().get(thread.ident or 0)
        seen.append(" < ".join(f"{frame.f_code.co_name}:{frame.f_lineno}" for frame in _stack(frame)))
        if len(seen) > 3 and len(set(seen[-3:])) == 1:
            return seen[-1]


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _put_other(db: Any, said: list[BaseException | None]) -> None:
    try:
        db["points"].put(OTHER_KEY, Point(1, 1))
    except BaseException as error:
        said.append(error)
    else:
        said.append(None)


def difference(found: Contents, expected: list[Contents]) -> str:
    """Say how what was found differs from what may be."""
    return " | ".join(_differences(found, model) for model in expected)


def _differences(found: Contents, model: Contents) -> str:
    said = []
    if missing := sorted(model.keys() - found.keys()):
        said.append(f"no stores {missing}")
    if more := sorted(found.keys() - model.keys()):
        said.append(f"stores {more} too many")
    for name in sorted(model.keys() & found.keys()):
        mine, theirs = model[name], found[name]
        parts = {
            "lacks": sorted(mine.keys() - theirs.keys()),
            "has beyond": sorted(theirs.keys() - mine.keys()),
            "has other bytes at": sorted(key for key in mine.keys() & theirs.keys() if mine[key] != theirs[key]),
        }
        said += [f"{name} {what} {keys}" for what, keys in parts.items() if keys]
    return "; ".join(said)


# ---------------------------------------------------------------------- the stage


class Stage:
    """Where operations are tried, each on a copy of its template.

    Parameters
    ----------
    base : str
        A directory.
    models : dict, optional
        What the templates hold that are there already.

    Attributes
    ----------
    instants : dict
        Of operations, once they are known.
    """

    def __init__(self, base: str, models: dict[str, Contents] | None = None) -> None:
        self.models = models or {}
        self.instants: dict[str, list[int]] = {}
        self._base = base
        self._number = 0

    def make(self, operation: Operation) -> Scene:
        """Return a scene that is not prepared yet."""
        template = os.path.join(self._base, operation.template)
        if operation.template not in self.models:
            self.models[operation.template] = build(template, operation.template)
        self._number += 1
        root = os.path.join(self._base, f"{os.getpid()}-{self._number}")
        if os.path.isdir(template):
            shutil.copytree(template, root)
        return Scene(root, self.models[operation.template])

    @staticmethod
    def remove(scene: Scene) -> None:
        """Remove the files of a scene."""
        for name in ("", "-copy", "-other"):
            shutil.rmtree(scene.root + name, ignore_errors=True)

    @contextlib.contextmanager
    def scene(self, operation: Operation) -> Iterator[Scene]:
        """Yield a scene; its files are removed at the end."""
        scene = self.make(operation)
        operation.prepare(scene)
        yield scene
        self.remove(scene)
