"""All short sequences of operations on a small database and its copies, and every state that a crash may leave.

The alphabet is a table: a new operation is a row of :data:`ALPHABET`, and what it does to a state stands in
``oracle.py`` (:func:`oracle.after` and :func:`oracle.act`), or here if it makes or changes a copy.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import itertools
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from oracle import (
    CHUNK_SIZE,
    NAMES,
    Action,
    Contents,
    Mark,
    Oracle,
    State,
    Step,
    act,
    contents,
    do,
    is_possible,
    item_size,
    judge,
    number,
    reopen,
)
from recorded_files import KILL, Cut, Event, Image, Recorder, SyncedWrites, draw_cut, image_of, write_image

import structchunk as sc

DATABASE, COPY, OTHER_COPY = "db.sc", "copy.sc", "other.sc"
MOST_SUBSETS = 64
"""Of the subsets of what was not flushed, so many are tried at one moment; there are seldom more."""
TORN = 3
"""And so many in which sectors, parts of logs and single names are lost."""
HINTS = ("tail", "reserve")
"""Files that a database can do without."""

# ---------------------------------------------------------------------- the alphabet


def doubles(position: int, count: int) -> bytes:
    """Return numbers that tell at which place of a sequence they were written."""
    return struct.pack(f"<{count}d", *(1000 * position + item for item in range(count)))


def put(name: str, key: int, position: int) -> Action:
    return "put", name, key, doubles(position, 2 if name.startswith("points") else 3)


def put_many(name: str, keys: Sequence[int], length: int, position: int) -> Action:
    return "put_many", name, list(keys), [length] * len(keys), doubles(position, len(keys) * length)


def single(action: Action) -> Step:
    return Step("single", [action], commits=True, durable=True)


def transaction(*actions: Action, sync: bool = True) -> Step:
    return Step("transaction", actions, sync, commits=True, durable=sync)


def taken_back_between(position: int) -> Iterator[Action]:
    """Yield writes to two stores of which some are taken back, of which views were handed out."""
    yield "append", "floats", 2, doubles(position, 2)
    undone = [put_many("floats", range(20, 40), 32, position), ("append", "floats", 2, doubles(position, 4))]
    yield "undone", "floats", [*undone, put("points", 2, position)], True
    yield "append", "floats", 2, doubles(position, 1)


def grown(position: int) -> Iterator[Action]:
    """Yield writes to one record, which gets a place at a savepoint, and is made longer there."""
    yield put("floats", 4, position)
    for count in (1, 2):
        yield "kept", "floats", [("append", "floats", 4, doubles(position, count))]


def plan_create(state: State) -> Step | None:
    name = next((name for name in ("floats", "bytes") if name not in state), None)
    return None if name is None else Step("create", [("create", name)], commits=True, durable=True)


Plan: TypeAlias = Callable[[State, int], Step | None]
ALPHABET: dict[str, tuple[str, Plan]] = {
    "put": ("floats", lambda state, at: single(put("floats", 1, at))),
    "loose put": ("floats", lambda state, at: transaction(put("floats", 2, at), sync=False)),
    "delete": (
        "floats",
        lambda state, at: single(("delete", "floats", max(state["floats"]))) if state["floats"] else None,
    ),
    "bulk": ("floats", lambda state, at: single(put_many("floats", range(10, 34), 32, at))),
    "two stores": ("floats", lambda state, at: transaction(put("floats", 3, at), put("points", 1, at))),
    "append": ("floats", lambda state, at: single(("append", "floats", 1, doubles(at, 2)))),
    "savepoint": ("floats", lambda state, at: transaction(*taken_back_between(at))),
    "grow": ("floats", lambda state, at: transaction(*grown(at))),
    "new": ("points", lambda state, at: transaction(("new", "points", 7, doubles(at, 2)))),
    "change": ("points", lambda state, at: Step("change", [("change", "points", 1, doubles(at, 2))], durable=True)),
    "abort": ("floats", lambda state, at: Step("abort", [put_many("floats", range(20, 40), 32, at)])),
    "compact": ("floats", lambda state, at: Step("compact", [("compact", "floats")], commits=True, durable=True)),
    "alter": ("points", lambda state, at: Step("alter", [("alter", "points")], commits=True, durable=True)),
    "attribute": ("floats", lambda state, at: single(("attribute", "floats", at))),
    "drop": ("floats", lambda state, at: Step("drop", [("drop", "floats")], commits=True, durable=True)),
    "create": ("", lambda state, at: plan_create(state)),
    "sync": ("", lambda state, at: Step("sync", durable=True)),
    "reopen": ("", lambda state, at: Step("reopen", durable=True)),
    "copy": ("", lambda state, at: Step("copy", [("copy", OTHER_COPY)])),
    "update": ("", lambda state, at: Step("update", [("update", COPY)])),
}
"""The store that each operation needs, and the step that it is, after a state, at a place in a sequence.

None, where it cannot be done there; bytes are written that no other place writes.
"""


@functools.cache
def sequences(length: int) -> list[tuple[str, ...]]:
    """Return all sequences of so many operations that can be done one after another."""
    if not length:
        return [()]
    return [(*names, name) for names in sequences(length - 1) for name in possible_after(names)]


def possible_after(names: Sequence[str]) -> list[str]:
    """Return the operations that can be done after others."""
    model = Model()
    for name in names:
        model.do(name)
    return [name for name in ALPHABET if model.plan(name) is not None]


# ---------------------------------------------------------------------- what must be found

Frozen: TypeAlias = dict[str, dict[int, tuple[bytes, ...]]]
Copies: TypeAlias = dict[str, tuple[Frozen | None, ...]]


class Expected(NamedTuple):
    """What may be found after a crash: of the database, and of each copy, of which None is that there is none."""

    mark: Mark
    copies: Copies


class Model:
    """The oracle of a database, and what its copies hold; there is one copy at first."""

    def __init__(self) -> None:
        self.oracle = base_oracle()
        self.copies: Copies = {COPY: (present(self.oracle),)}
        self.position = 0
        self._copied = {COPY: (self.oracle.state, self.oracle.tick)}

    def expected(self) -> Expected:
        return Expected(self.oracle.mark(), dict(self.copies))

    def plan(self, name: str) -> Step | None:
        """Return an operation as the next step, or None if it cannot be done now."""
        store, plan = ALPHABET[name]
        if (store and store not in self.oracle.state) or (name == "copy" and OTHER_COPY in self.copies):
            return None
        return plan(self.oracle.state, self.position + 1)

    def do(self, name: str) -> None:
        """Do an operation in mind."""
        step = self.plan(name)
        assert step is not None
        self.begin(step)
        self.acknowledge(step)

    def begin(self, step: Step) -> None:
        self.position += 1
        self.oracle.begin(step)
        for what, name, *_ in step.actions:
            if what in ("copy", "update"):
                old = midway(*self._copied[name], self.oracle.tick) if what == "update" else None
                self.copies[name] = old, present(self.oracle)
                self._copied[name] = self.oracle.state, self.oracle.tick

    def acknowledge(self, step: Step) -> None:
        self.oracle.acknowledge(step)
        self.copies = {name: options[-1:] for name, options in self.copies.items()}


def freeze(state: State, tick: int) -> Frozen:
    """Return what may be found in a state at some time."""
    return {name: {key: value.at(tick) for key, value in records.items()} for name, records in state.items()}


def present(oracle: Oracle) -> Frozen:
    """Return what a copy has that is made now."""
    frozen = freeze(oracle.state, oracle.tick)
    return {name: {key: options[-1:] for key, options in records.items()} for name, records in frozen.items()}


def midway(state: State, copied: int, now: int) -> Frozen:
    """Return what an update that is cut short may leave of a copy: what was changed in place may be so there, too.

    That goes for records of the database that were replaced or deleted since, too: the copy still has them.
    """
    return {
        name: {key: (*value.at(copied)[-1:], *value.at(now)) for key, value in records.items()}
        for name, records in state.items()
    }


def is_as(found: Contents, frozen: Frozen) -> bool:
    """Tell whether a copy holds what it may."""
    return {name: records.keys() for name, records in found.items()} == {
        name: records.keys() for name, records in frozen.items()
    } and all(is_possible(found[name][key], options) for name in frozen for key, options in frozen[name].items())


# ---------------------------------------------------------------------- the first world


def base_steps() -> Iterator[Step]:
    yield Step("create", [("create", "floats")], commits=True, durable=True)
    yield Step("create", [("create", "points")], commits=True, durable=True)
    yield transaction(
        *(put("floats", key, 0) for key in (1, 2, 4)),
        put_many("floats", range(30, 40), 32, 0),
        put("points", 1, 0),
    )


def base_oracle() -> Oracle:
    """Return the oracle of the database that all sequences begin with."""
    oracle = Oracle()
    for step in base_steps():
        oracle.begin(step)
        oracle.acknowledge(step)
    return oracle


def make_base(root: str) -> None:
    """Make a database, and a copy of it."""
    os.mkdir(root)
    with sc.open(f"{root}/{DATABASE}", "x", chunk_size=CHUNK_SIZE) as db:
        for step in base_steps():
            do(db, step)
        db.checkpoint(f"{root}/{COPY}")


# ---------------------------------------------------------------------- doing


class World:
    """A database with copies, and what happens to their files, as far as the last operation did it."""

    def __init__(self, base: str, root: str, kind: type[Recorder] = Recorder) -> None:
        shutil.copytree(base, root)
        self.model = Model()
        self._root = root
        self._recorder = kind(root, self.model.expected)

    def run(self, names: Sequence[str]) -> list[Event]:
        """Do a sequence, and return what happened in its last operation: in opening, if it has none."""
        recorder = self._recorder
        first = 0
        with recorder, SyncedWrites(recorder):
            db = sc.open(f"{self._root}/{DATABASE}", "r+", chunk_size=CHUNK_SIZE)
            try:
                for name in names:
                    first = len(recorder.events)
                    db = self._do(db, name)
                recorder.note("after all")
                events = recorder.events[first:]
            finally:
                db.close()
        shutil.rmtree(self._root)
        return events

    def _do(self, db: sc.Database, name: str) -> sc.Database:
        step = self.model.plan(name)
        assert step is not None
        self.model.begin(step)
        if step.kind in ("copy", "update"):
            db.checkpoint(f"{self._root}/{step.actions[0][1]}", update=step.kind == "update")
        else:
            db = do(db, step)
        self.model.acknowledge(step)
        assert number(db) == len(self.model.oracle.states) - 1
        return db


# ---------------------------------------------------------------------- crashes


def cuts_of(event: Event, rng: random.Random) -> Iterator[Cut]:
    """Yield a kill, every subset of what was not flushed, with LevelDB's logs and without, and torn ones."""
    yield KILL
    files, directories = unflushed(event)
    subsets = [*itertools.product(powerset(files), powerset(directories), ("none", "all"))]
    if len(subsets) > MOST_SUBSETS:
        subsets = [subsets[0], subsets[-2], *rng.sample(subsets, MOST_SUBSETS - 2)]
    for sectors, entries, logs in subsets:
        yield Cut(sectors, entries, logs)
    for _ in range(TORN):
        yield draw_cut(rng)


def unflushed(event: Event) -> tuple[list[int], list[str]]:
    """Return the files and directories of which a crash may leave the old state."""
    files, directories = set(), []
    for path, versions in event.entries.items():
        if not os.path.basename(path).startswith("index-"):
            if len(versions) > 1:
                directories.append(path)
            inodes = {inode for entries in versions for name, inode in entries.items() if name not in HINTS}
            files |= {inode for inode in inodes if len(event.data.get(inode, ())) > 1}
    return sorted(files), sorted(directories)


def powerset(items: Sequence[Any]) -> list[frozenset[Any]]:
    """Return all subsets."""
    counts = range(len(items) + 1)
    return [frozenset(subset) for count in counts for subset in itertools.combinations(items, count)]


class Allowed(NamedTuple):
    """Digests of what is allowed at a moment: of the database from a commit on, and of each copy."""

    states: dict[int, bytes]
    copies: dict[str, bytes]

    @classmethod
    def of(cls, expected: Expected) -> Allowed:
        """Return them."""
        mark = expected.mark
        states = {
            floor: [freeze(state, mark.tick) for state in mark.states[floor:]]
            for floor in {mark.killed, mark.powered}
        }
        return cls(
            {floor: digest_of((floor, found)) for floor, found in states.items()},
            {name: digest_of(options) for name, options in expected.copies.items()},
        )


def digest_of(value: object) -> bytes:
    """Return what tells values from others."""
    return hashlib.blake2b(repr(value).encode(), digest_size=16).digest()


class Checker:
    """Checks what crashes leave, each state once.

    Attributes
    ----------
    counts : Counter
        How many crash points there were, images of them, and images of a database and of a copy that were checked.
    """

    def __init__(self, new_root: Callable[[], str]) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self._new_root = new_root
        self._seen: set[bytes] = set()
        self._digests: dict[bytes | None, bytes] = {}

    def check(self, events: Sequence[Event], seed: object) -> None:
        """Check all that a crash may leave at each of these moments."""
        before = None
        for at, event in enumerate(events):
            self.counts["points"] += 1
            if before is None or event[1:] != before[1:]:
                self._check_event(event, random.Random(f"{seed} {at}"), f"{seed}, {at}")
            before = event
        self._digests = {}

    def _check_event(self, event: Event, rng: random.Random, place: str) -> None:
        allowed = Allowed.of(event.mark)
        for cut in cuts_of(event, rng):
            self.counts["images"] += 1
            image = image_of(event, cut, rng)
            try:
                self._check_image(image, event.mark, allowed, cut)
            except BaseException as error:
                error.args = (f"{place}: {event.label}, {cut}: {error}", *error.args[1:])
                raise

    def _check_image(self, image: Image, expected: Expected, allowed: Allowed, cut: Cut) -> None:
        is_indexed = cut.index == "keep" and cut.logs != "hole"
        mark = expected.mark
        floor = mark.killed if cut == KILL else mark.powered
        if self._is_new(part := part_of(image, DATABASE), allowed.states[floor]):
            self.counts["databases"] += 1
            with self._written(part) as root:
                check_database(root, mark, floor, is_indexed=is_indexed)
        for name, options in expected.copies.items():
            if self._is_new(part := part_of(image, name), allowed.copies[name]):
                self.counts["copies"] += 1
                with self._written(part) as root:
                    check_copy(root, options, is_indexed=is_indexed)

    def _is_new(self, image: Image, allowed: bytes) -> bool:
        """Tell whether such a state was not yet met, where the same was allowed; hints do not count."""
        digest = hashlib.blake2b(allowed, digest_size=16)
        for path in sorted(image):
            if path not in HINTS:
                digest.update(f"{path} ".encode() + self._digest(image[path]))
        known = len(self._seen)
        self._seen.add(digest.digest())
        return len(self._seen) > known

    def _digest(self, content: bytes | None) -> bytes:
        """Return the digest of a content; the images of one run share most of theirs."""
        if content not in self._digests:
            self._digests[content] = b"" if content is None else hashlib.blake2b(content, digest_size=16).digest()
        return self._digests[content]

    @contextlib.contextmanager
    def _written(self, image: Image) -> Iterator[str]:
        root = self._new_root()
        if image:
            write_image(image, root)
        yield root
        shutil.rmtree(root, ignore_errors=not image)


def part_of(image: Image, name: str) -> Image:
    """Return one directory of an image."""
    start = name + os.sep
    return {path.removeprefix(start): content for path, content in image.items() if path.startswith(start)}


def check_database(root: str, mark: Mark, floor: int, *, is_indexed: bool) -> None:
    """Open a database after a crash, judge it, write, and judge it again."""
    oracle = Oracle.fork(mark)
    db, was_lost = reopen(root)
    with contextlib.closing(db):
        assert not (is_indexed and was_lost), "the index is lost"
        judge(db, oracle, floor)
        step = step_after(oracle.state)
        oracle.begin(step)
        do(db, step)
        oracle.acknowledge(step)
    with sc.open(root, "r") as db:
        judge(db, oracle, len(oracle.states) - 1)


def step_after(state: State) -> Step:
    """Return a step that writes to all stores."""
    names = [name for name in NAMES if name in state]
    if not names:
        return Step("create", [("create", "bytes")], commits=True, durable=True)
    return transaction(*(("put_many", name, [5, 12], [1, 1], bytes(2 * item_size(name))) for name in names))


def check_copy(root: str, options: tuple[Frozen | None, ...], *, is_indexed: bool) -> None:
    """Open a copy after a crash, judge it, write, and judge it again."""
    if not os.path.exists(root):
        assert None in options, "there is no copy"
        return
    try:
        sc.open(root, "r").close()
    except sc.CorruptionError as error:
        assert "rebuild_index" in str(error) and not is_indexed, error
        sc.rebuild_index(root)
    with sc.open(root, "r") as copy:
        assert copy.verify() == []
        found = contents(copy)
        assert any(option is not None and is_as(found, option) for option in options), found
    with sc.open(root, "r+") as copy:
        act(copy, ("put_many", "points", [5], [1], bytes(16)))
        found["points"][5] = bytes(16)
        assert contents(copy) == found
        assert copy.verify() == []
    with sc.open(root, "r") as copy:
        assert contents(copy) == found
