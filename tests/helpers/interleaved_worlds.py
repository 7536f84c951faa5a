"""Programs for players of one database, and what must hold after any schedule of them.

Each transaction counts one more in one store, and adds its name to another, which so becomes the serial history: a
list of names in the order of commits, that whoever reads must have seen a beginning of. It puts its number into one
of three more, by its name, so that commits differ in the chunks that they append to.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from interleaving import Choice, Chooser, Drawn, Given, Interleaved, Place, Player, Scheduler, shortened
from oracle import LIMITS
from recorded_files import Replacing

import structchunk as sc
from structchunk.disk import tail
from structchunk.engine import storage
from structchunk.index import change
from structchunk.process import background
from structchunk.readers import read_storage, shared_storage

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


class World:
    """One database, and what its players did and saw."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.begun: set[Name] = set()
        self.acknowledged: list[Name] = []
        self.before: dict[Name, int] = {}
        self.seen: list[Seen] = []
        self.copies: list[str] = []
        self.is_faulty = False

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
        if self._role == "reading":
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


# ---------------------------------------------------------------------- one schedule


class Outcome(NamedTuple):
    """How a schedule went: what was chosen where, how many calls there were, and what was wrong."""

    script: Script
    taken: dict[Place, Choice]
    labels: dict[Place, str]
    calls: int
    committed: int
    error: BaseException | None


def play(
    template: str,
    root: str,
    script: Script,
    chooser: Chooser,
    trace: Callable[[int, str], object] | None = None,
) -> Outcome:
    """Play programs by what a chooser chooses, and judge what is left; ``root`` is made, and removed."""
    shutil.copytree(template, root, copy_function=shutil.copyfile)
    world, scheduler = World(root), Scheduler(chooser)
    page = tail.Tail(os.path.join(root, "tail"))
    if script.is_kept:
        page.hold()
    scheduler.trace = trace
    players = [Playing(world, program, number) for number, program in enumerate(script.programs)]
    error: BaseException | None = None
    committed = 0
    with _without_collector(), Small(), Interleaved(scheduler):
        for player in players:
            player.add_to(scheduler)
        try:
            scheduler.run()
            page.close()
            committed = judge(world, with_reader=scheduler.calls % 4 == 0)
        except BaseException as found:
            if isinstance(found, KeyboardInterrupt):
                raise
            error = found
        finally:
            scheduler.unwind()
            for player in players:
                if player.db is not None:
                    player.db._storage.is_closed = True  # so that its finaliser does nothing
            page.close()
            for path in (root, *world.copies):
                shutil.rmtree(path, ignore_errors=True)
    return Outcome(script, scheduler.taken, scheduler.labels, scheduler.calls, committed, error)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Collect garbage at the end, and not at any call, whose finaliser would make calls, too."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        if was_enabled:
            gc.enable()


def judge(world: World, *, with_reader: bool) -> int:
    """Open what is left, and compare it with what may be; return how many transactions there are."""
    if with_reader:
        with sc.open(world.root, "r") as db, db.snapshot() as snapshot:
            world.seen.append(Seen("a reader afterwards", len(world.acknowledged), history_of(snapshot)))
    with sc.open(world.root, "r+", chunk_size=CHUNK_SIZE) as db:
        history = history_of(db)
        world.check(history)
        if problems := db.verify():
            raise Wrong(f"verify() finds {problems}")
        db.sync()
        _check_files(db)
    for path in world.copies:
        _judge_copy(path, history)
    return len(history)


def _check_files(db: Any) -> None:
    """Raise if anything is left over of those that are gone."""
    known = {f"{chunk:08d}.chunk" for heap in db._storage.heaps.values() for chunk in heap.chunks}
    found = set(os.listdir(os.path.join(db.path, "chunks")))
    indexes = [name for name in os.listdir(db.path) if name.startswith("index-")]
    readers = os.listdir(os.path.join(db.path, "readers"))
    others = {name for name in os.listdir(db.path) if name.endswith(".new")}
    if known != found or len(indexes) != 1 or set(readers) - {"writer"} or others:
        raise Wrong(
            f"left over: {sorted(found - known)}, {indexes}, {readers}, {others}; missing: {sorted(known - found)}"
        )


def _judge_copy(path: str, history: tuple[Name, ...]) -> None:
    """Raise unless a copy is whole, and as of some time."""
    if not os.path.exists(os.path.join(path, "superblock")):
        return
    with sc.open(path, "r+", chunk_size=CHUNK_SIZE) as db:
        found = history_of(db)
        if found != history[: len(found)]:
            raise Wrong(f"a copy has {found} of {history}")
        if problems := db.verify():
            raise Wrong(f"verify() of a copy finds {problems}")


# ---------------------------------------------------------------------- many


class Sweep:
    """Schedules, one for each seed.

    Parameters
    ----------
    base : str
        A directory, in memory if that is possible.
    """

    def __init__(self, base: str) -> None:
        self._base = os.path.join(base, "schedules")  # whose name is the same for each process
        os.mkdir(self._base)
        self._template = os.path.join(self._base, "template")
        self._played = 0
        self.calls = self.commits = self.kills = self.faults = self.switches = 0
        make_template(self._template)

    def play(self, script: Script, chooser: Chooser, **options: Any) -> Outcome:
        """Play one schedule."""
        self._played += 1  # a path for each: LevelDB knows those that are open in this process by their paths
        return play(self._template, os.path.join(self._base, f"{self._played}"), script, chooser, **options)

    def try_seed(self, seed: object, *, kills: int = 2, faults: int = 1) -> Outcome:
        """Play the schedule of a seed."""
        outcome = self.play(draw_script(seed), Drawn(seed, kills=kills, faults=faults))
        kinds = [choice.kind for choice in outcome.taken.values()]
        self.calls += outcome.calls
        self.commits += outcome.committed
        self.kills += kinds.count("kill")
        self.faults += kinds.count("fail")
        self.switches += kinds.count("go")
        return outcome

    def shorten(self, outcome: Outcome) -> Outcome:
        """Return as short a schedule as still fails."""
        least = outcome

        def fails(choices: Mapping[Place, Choice]) -> bool:
            nonlocal least
            tried = self.play(outcome.script, Given(choices))
            if tried.error is not None:
                least = tried
            return tried.error is not None

        if fails(outcome.taken):
            kept = shortened(outcome.taken, fails)
            fails(kept)
        return least


def described(outcome: Outcome) -> str:
    """Say what a schedule was, and what went wrong."""
    lines = [
        f"player {number} is {role}: {', '.join(does)}"
        for number, (role, does) in enumerate(outcome.script.programs)
    ]
    for place, choice in outcome.taken.items():
        what = {"go": f"player {choice.value} goes on", "kill": "it is killed", "fail": os.strerror(choice.value)}
        at = f"player {place.player}, before call {place.call}, {outcome.labels[place]!r}"
        lines.append(f"{at}: {what[choice.kind]}")
    return "\n".join([*lines, f"{type(outcome.error).__name__}: {outcome.error}"])


def sweep(base: str, seeds: range) -> Sweep:
    """Play the schedules of some seeds; raise at the first one that fails, shortened."""
    played = Sweep(base)
    for seed in seeds:
        outcome = played.try_seed(seed)
        if outcome.error is not None:
            raise Wrong(f"seed {seed}\n{described(played.shorten(outcome))}") from outcome.error
    return played
