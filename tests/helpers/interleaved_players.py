"""Programs for players of one database, and what must hold after any schedule of them.

Each transaction counts one more in one store, and adds its name to another, which so becomes the serial history: a
list of names in the order of commits, that whoever reads must have seen a beginning of. It puts its number into one
of three more, by its name, so that commits differ in the chunks that they append to.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from interleaved_publishing import published_stores
from interleaving import Player, Scheduler
from oracle import LIMITS
from recorded_files import Replacing

import structchunk as sc
from structchunk.disk import tail
from structchunk.engine import storage
from structchunk.index import change
from structchunk.process import background
from structchunk.readers import read_storage, shared_storage
from structchunk.remote import uploads

CHUNK_SIZE = 16 << 10
PATTERN = 5
"""How many keys besides the count are written again and again."""
PARTS = 3
"""How many stores there are of which a transaction writes one."""
COMMITS = 250
"""How many commits there are at first: the next ones have numbers of more than one byte."""
SMALL: list[tuple[Any, str, Any]] = [
    *LIMITS,
    (background, "WORTH_SIZE", 1 << 40),  # what is done in other threads is not scheduled
    (shared_storage, "TURN_COMMITS", 5),
    (storage, "CHECKPOINT_COMMITS", 4),
    (read_storage, "MOST_COMMITS", 3),
    (read_storage, "MOST_UNINDEXED", 6),
    (tail, "RING", 5),
    (change, "REWRITE_ROWS", 1),
    (uploads, "THREADS", 1),
    (uploads, "OBJECT_SIZE", 8 << 10),
    (uploads, "SMALL_SIZE", 5 << 10),
]
Program: TypeAlias = tuple[str, tuple[str, ...]]
"""How a player opens the database, and what it does."""


class Script(NamedTuple):
    """What is played: whether somebody else is alive all the time, and what each player does.

    Where nobody is alive, the first one to share the database recovers it.
    """

    programs: tuple[Program, ...]
    is_kept: bool = True


Name: TypeAlias = tuple[int, int]
"""Of a transaction: its player, and its number there."""
OPERATIONS: dict[str, list[str]] = {
    "alone": ["commit", "commit", "durable", "abort", "sync", "compact", "make", "copy", "reopen"],
    "sharing": [
        "commit",
        "commit",
        "commit",
        "durable",
        "durable",
        "abort",
        "lend",
        "sync",
        "compact",
        "make",
        "see",
    ],
    "reading": ["see", "see", "see", "see", "hold", "hold", "copy", "reopen", "verify"],
    "publishing": ["publish", "publish", "publish", "publish", "see", "reopen"],
    "fetching": ["fetch"],
}


class Wrong(AssertionError):
    """What was found is not what must be."""


class Small(Replacing):
    """While entered, thresholds are so small that short programs do everything."""

    def __enter__(self) -> Small:
        for module, name, value in SMALL:
            self._replace(module, name, value)
        return self


class Seen(NamedTuple):
    """What somebody saw: how long the history must have been, and what it was."""

    by: str
    least: int
    history: tuple[Name, ...]


def draw_script(seed: object) -> Script:
    """Draw what some players do."""
    rng = random.Random(f"script {seed}")
    roles = rng.choice(
        (
            ("sharing", "reading"),
            *3 * [("sharing", "sharing")],
            *2 * [("sharing", "sharing", "reading")],
            ("alone", "reading"),
            ("alone", "alone"),
            ("alone", "sharing"),
            ("alone", "sharing", "reading"),
            ("reading", "reading", "sharing"),
        )
    )
    programs = [(role, tuple(rng.choices(OPERATIONS[role], k=rng.choice((1, 1, 2, 2, 3, 5))))) for role in roles]
    return Script(tuple(programs), rng.random() < 0.7)


def draw_publishing(seed: object) -> Script:
    """Draw what some players do of which one publishes or more."""
    rng = random.Random(f"publishing {seed}")
    roles = rng.choice(
        (
            *3 * [("publishing", "sharing")],
            *2 * [("publishing", "sharing", "sharing")],
            *2 * [("publishing", "publishing", "sharing")],
            ("publishing", "alone"),
            ("publishing", "alone", "fetching"),
            *2 * [("publishing", "sharing", "fetching")],
            ("publishing", "publishing", "fetching"),
        )
    )
    programs = []
    for role in roles:
        operations = OPERATIONS[role] + (["publish"] if role in ("sharing", "alone") else [])
        programs.append((role, tuple(rng.choices(operations, k=rng.choice((1, 2, 2, 3, 5))))))
    return Script(tuple(programs), rng.random() < 0.7)


class World:
    """One database, and what its players did and saw.

    Attributes
    ----------
    url : str
        Where it is published.
    published : int
        How long the history was in the last publication that anybody read.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.begun: set[Name] = set()
        self.acknowledged: list[Name] = []
        self.before: dict[Name, int] = {}
        self.seen: list[Seen] = []
        self.copies: list[str] = []
        self.is_faulty = False
        self.url = f"file://{root}-published"
        self.published = 0

    def begin(self, name: Name) -> None:
        """Note that a transaction begins: those that were acknowledged come before it."""
        self.begun.add(name)
        self.before[name] = len(self.acknowledged)

    def check(self, history: tuple[Name, ...]) -> None:
        """Raise unless a serial history is one that may be."""
        position = {name: at for at, name in enumerate(history)}
        if len(position) < len(history):
            raise Wrong(f"a transaction is there twice: {history}")
        if position.keys() - self.begun:
            raise Wrong(f"{position.keys() - self.begun} never committed, and are in {history}")
        lost = [name for name in self.acknowledged if name not in position]
        if lost:
            raise Wrong(f"{lost} are lost: {history}")
        for name, before in self.before.items():
            late = [first for first in self.acknowledged[:before] if position[first] > position.get(name, 1 << 30)]
            if late:
                raise Wrong(f"{late} were acknowledged before {name} began, and come after it: {history}")
        for seen in self.seen:
            if seen.history != history[: len(seen.history)]:
                raise Wrong(f"{seen.by} saw {seen.history}, and it became {history}")
            if len(seen.history) < seen.least and not self.is_faulty:
                raise Wrong(f"{seen.by} saw {seen.history}, after {seen.least} were acknowledged")


def make_template(root: str) -> None:
    """Make the database that all begin with."""
    with Small(), sc.open(root, "x", chunk_size=CHUNK_SIZE) as db:
        with db.transaction() as txn:
            txn.array_store("count", "<u8").put(0, [0])
            for name in ("history", *map(part_of, range(PARTS))):
                txn.array_store(name, "<u4")
        for _ in range(COMMITS):
            with db.transaction(sync=False) as txn:
                txn["count"].put(0, [0])
        db.compact()


def part_of(number: int) -> str:
    """Return the store that a transaction writes of those of which it writes one."""
    return f"part {number % PARTS}"


def history_of(db: Any) -> tuple[Name, ...]:
    """Return the serial history that a snapshot has, having checked that all of it is as of one commit."""
    count = int(db["count"][0][0])
    found = {int(key): tuple(map(int, value)) for key, value in db["history"].items()}
    if sorted(found) != list(range(1, count + 1)):
        raise Wrong(f"not one commit: the count is {count}, the history is {found}")
    for key, value in db["count"].items():
        newest = count - (count - key + 1) % PATTERN
        if key and set(map(int, value)) > {newest}:
            raise Wrong(f"there is {value} under {key} after {count}")
    for number in range(PARTS):
        keys = [at for at, name in found.items() if part_of(sum(name)) == part_of(number)]
        numbers = [(int(key), int(value[0])) for key, value in db[part_of(number)].items()]
        if numbers != [(at, at) for at in sorted(keys)]:
            raise Wrong(f"not one commit: {part_of(number)} has {numbers}, the history is {found}")
    for name in db:
        if name.startswith("made"):
            made = int(name.split()[1])
            if made > count or db[name][made].tolist() != [made]:
                raise Wrong(f"{name} is not as it was made, after {count}")
    if "aborted" in db:
        raise Wrong("what was aborted is there")
    return tuple((name[0], name[1]) for name in (found[at] for at in range(1, count + 1)))


class Playing:
    """What one player does."""

    def __init__(self, world: World, program: Program, number: int) -> None:
        self._world = world
        self._role, self._operations = program
        self._number = number
        self._done = 0
        self.player: Player | None = None
        self.db: Any = None
        self._sleep: Callable[[float], None] = lambda _: None

    def add_to(self, scheduler: Scheduler) -> None:
        """Be a player of a scheduler."""
        self.player = scheduler.add(self.run)
        self._sleep = scheduler.sleep

    def run(self) -> None:
        """Do all of it."""
        for operation in ("open", *self._operations, "close"):
            self._try(getattr(self, f"_{operation}"))

    def _try(self, call: Callable[[], object]) -> None:
        """Make a call; after one that failed as a disk fails, go on: who has a database to itself opens it anew."""
        try:
            call()
        except (OSError, sc.FailedError, sc.ClosedError):
            if self.player is None or not self.player.has_failed_call:
                raise
            self._world.is_faulty = True
            if self.db is not None and not self.db.closed and self._role != "alone" and call != self._close:
                return
            with contextlib.suppress(OSError, sc.FailedError):
                self._close()
            with contextlib.suppress(OSError, sc.FailedError):
                self._close()  # what an error has cut short goes on
            if call != self._close:
                self._open()

    def _open(self) -> None:
        root = self._world.root
        if self._role == "fetching":
            return
        if self._role in ("reading", "publishing"):
            self.db = sc.open(root, "r")
        elif self._role == "sharing":
            self.db = sc.open(root, "r+", shared=True, chunk_size=CHUNK_SIZE)
        else:
            while True:
                try:
                    self.db = sc.open(root, "r+", chunk_size=CHUNK_SIZE)
                except sc.LockedError:
                    self._sleep(0.004)
                else:
                    return

    def _close(self) -> None:
        if self.db is not None:
            self.db.close()

    def _reopen(self) -> None:
        self._close()
        self._open()

    # ------------------------------------------------------------------ writing

    def _commit(self, *, sync: bool = False, make: bool = False) -> None:
        self._done += 1
        name = self._number, self._done
        self._world.begin(name)
        with self.db.transaction(sync=sync) as txn:
            number = int(txn["count"][0][0]) + 1
            part = txn[part_of(sum(name))]
            is_first = sum(name) % 2
            if is_first:
                part.put(number, [number])  # what is written first is appended first
            txn["count"].put(0, [number])
            txn["count"].put(number % PATTERN + 1, [number] * (7 * name[1] % 40))
            txn["history"].put(number, name)
            if not is_first:
                part.put(number, [number])
            if make:
                txn.array_store(f"made {number}", "<u8").put(number, [number])
        self._world.acknowledged.append(name)

    def _durable(self) -> None:
        self._commit(sync=True)

    def _make(self) -> None:
        self._commit(make=True)

    def _abort(self, *, lend: bool = False) -> None:
        view: Any = None
        with contextlib.suppress(ZeroDivisionError), self.db.transaction() as txn:
            txn["count"].put(0, [99] * 300)
            if lend:
                view = txn["count"][0]
            txn.array_store("aborted", "<u8").put(1, [1])
            _ = 1 // 0
        if lend:
            self._commit()
            if set(view.tolist()) != {99}:
                raise Wrong("a view of what was aborted has changed")

    def _lend(self) -> None:
        self._abort(lend=True)

    def _sync(self) -> None:
        self.db.sync()

    def _compact(self) -> None:
        self.db.compact("count", "part 0")

    # ------------------------------------------------------------------ reading

    def _see(self) -> None:
        least = len(self._world.acknowledged)
        self.db.refresh()
        with self.db.snapshot() as snapshot:
            self._look(snapshot, least)

    def _hold(self) -> None:
        """Look at a snapshot, and again after others went on."""
        least = len(self._world.acknowledged)
        self.db.refresh()
        with self.db.snapshot() as snapshot:
            first = self._look(snapshot, least)
            batches = snapshot["history"].scan(batch_size=1)
            self._sleep(0.005)
            self.db.refresh()
            if self._look(snapshot, least) != first:
                raise Wrong("a snapshot has changed")
            scanned = [tuple(map(int, batch.values)) for batch in batches]
            if scanned != [tuple(name) for name in first]:
                raise Wrong(f"a scan of {first} gave {scanned}")

    def _look(self, snapshot: Any, least: int) -> tuple[Name, ...]:
        found = history_of(snapshot)
        self._world.seen.append(Seen(f"player {self._number}, {self._role},", least, found))
        return found

    def _verify(self) -> None:
        if problems := self.db.verify():
            raise Wrong(f"verify() finds {problems}")

    def _copy(self) -> None:
        """Copy the database, or bring a copy of one's own forward."""
        dest = f"{self._world.root}-copy-{self._number}"
        if dest not in self._world.copies:
            self._world.copies.append(dest)
        try:
            self.db.checkpoint(dest, update=True)
        except sc.NotACopy as error:
            # A crash has cut off what was copied; or compaction made chunks anew.
            if "history" not in str(error) and "not there" not in str(error):
                raise
            shutil.rmtree(dest)
            self.db.checkpoint(dest)

    # ------------------------------------------------------------------ publishing

    def _publish(self) -> None:
        """Publish; what can be opened then is not older than what was acknowledged before."""
        least = len(self._world.acknowledged)
        while True:
            self.db.refresh()
            try:
                commit = self.db.publish(self._world.url).commit
            except sc.NotACopy as error:
                if "refresh" not in str(error):  # another one has published a later commit meanwhile
                    raise
            else:
                break
        if commit > self._look_at_published(least):
            raise Wrong(f"commit {commit} was published, and an older one can be opened")

    def _fetch(self) -> None:
        self._look_at_published(0)

    def _look_at_published(self, least: int) -> int:
        """Look at all of the newest publication, which is not older than one that was seen; return its commit."""
        world = self._world
        least = max(least, world.published)
        found = published_stores(world.url)
        if found is None:
            world.seen.append(Seen(f"player {self._number}, without any publication,", least, ()))
            return 0
        history = history_of(found.stores)
        world.seen.append(Seen(f"player {self._number}, of what is published,", least, history))
        world.published = max(world.published, len(history))
        return found.commit
