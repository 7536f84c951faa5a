"""A scheduler of handles of one database that stand for processes: which goes on is decided at every call.

Each *player* is a thread, of which one runs at a time. At each call through the seam to the file system, the lock,
the tail page and LevelDB, and in the middle of each write, a *chooser* may let another one go on, kill the player,
or let the call fail. Who waits for a lock sleeps by a clock of the scheduler's, which goes on when nobody else can.

What is a process's own is each player's own here: the registry of locks, what was left to the next call, and the
indexes that are being opened. Locks are of open files, so that they exclude players as they do processes. A player
that is killed stands still where it is; its files are closed, as the kernel would do it, and nothing else.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import random
import re
import sys
import threading
import time
import weakref
import zlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from recorded_files import OPERATIONS, Replacing

from structchunk.chunks.chunk import Chunk
from structchunk.database import handle, writer_queue
from structchunk.disk import files, lock, paths, tail
from structchunk.engine import in_place
from structchunk.index import leveldb
from structchunk.index.growth import Growth
from structchunk.index.leveldb import LevelDB
from structchunk.process import leftovers
from structchunk.readers import copies, directory, leveldb_clone, read_storage

TICK = 1e-5
"""Seconds of the scheduler's clock that a call takes."""
MOST_CALLS = 200_000
MOST_SECONDS = 600
"""By the scheduler's clock: whoever takes longer waits for ever."""
HALF = "half a write"
"""Others may see that; but the system finishes what it writes to a page, whoever is killed."""
STEPS = (
    *4 * ("Chunk.append_segment .chunk", "after Chunk.append_segment .chunk", "LevelDB.write index-"),
    *("create .chunk", "after create .chunk"),
    *("after LevelDB.write index-", "LevelDB.close index-", "after LevelDB.open index-"),
    *("Tail.mark ", "after Tail.mark ", "Tail.publish ", "after Tail.publish ", "Tail.read ", "TailView.raw "),
    *("Tail.is_alone ", "after Tail.rewrite ", "Tail.rewrite ", "after Tail.hold ", "flush .chunk", "flush .log"),
    *("write superblock", "flush superblock", "after flush superblock", "unlink .chunk", "after unlink .chunk"),
    *("link .chunk", "list chunks", "list index-", "opened MANIFEST-", "opened .log", "Chunk.segments .chunk"),
    *("rename ", "after rename ", "make_directory index-", "after flock ", "open lock", "after open lock", "sleep"),
    *("writing", "writing", "half a write", "read superblock", "opened tail", "remove_tree index-"),
)
"""Calls at which one is killed, or another goes on."""
READING = ("read", "exists", "displaced", "written")
_NAME = re.compile(r"[0-9]+|-[0-9a-f]{8}$")


class Killed(BaseException):
    """Raised in the thread of a player that was killed, once all is over, so that it ends."""


class Choice(NamedTuple):
    """What happens at a call: ``go`` (another player goes on), ``kill``, or ``fail``, with an errno."""

    kind: str
    value: int = 0


class Place(NamedTuple):
    """Where: at which call, counted by player."""

    player: int
    call: int


class Chooser(Protocol):
    """Decides what happens."""

    def choose(self, place: Place, label: str, others: Callable[[], list[int]], *, can_fail: bool) -> Choice | None:
        """Return what is to happen before a call; None if it goes on. `others()` are those that could go on."""


class Drawn:
    """Draws what happens from a seed: more often at calls of some kinds, other ones for each seed.

    Kills, and some of the changes of player, come at calls between which the protocol has a step.
    """

    def __init__(self, seed: object, *, kills: int = 2, faults: int = 1, steps: Sequence[str] = STEPS) -> None:
        self._rng = rng = random.Random(f"choices {seed}")
        self._salt = f"{seed}"
        self._rate = rng.choice((0.001, 0.005, 0.02, 0.1))
        self._faults = min(faults, rng.choice((0, 0, 0, 0, 0, 1)))
        self._rates: dict[str, tuple[float, float]] = {}
        kinds = ["kill"] * min(kills, rng.choice((0, 0, 1, 1, 1, 2))) + ["go"] * rng.choice((0, 1, 2, 3))
        if not self._faults:  # whoever goes on after one that failed does not expect another
            kinds += ["fail"] * min(faults, rng.choice((0, 0, 0, 0, 1)))
        self._steps = {(rng.choice(steps), rng.choice((1, 1, 1, 2, 2, 3, 4, 6, 9))): kind for kind in kinds}
        self._counts: Counter[str] = Counter()

    def choose(self, place: Place, label: str, others: Callable[[], list[int]], *, can_fail: bool) -> Choice | None:
        """Return what is to happen."""
        go, fail = self._rates.get(label) or self._draw_rates(label)
        self._counts[label] += 1
        kind = self._steps.get((label, self._counts[label]))
        if kind == "kill":
            return Choice("kill")
        if kind == "go" or self._rng.random() < go:
            found = others()
            return Choice("go", self._rng.choice(found)) if found else None
        if can_fail and (kind == "fail" or (self._faults and self._rng.random() < fail)):
            self._faults -= kind != "fail"
            return Choice("fail", self._rng.choice((errno.EIO, errno.ENOSPC)))
        return None

    def _draw_rates(self, label: str) -> tuple[float, float]:
        heat = zlib.crc32(f"{self._salt} {label}".encode()) % 100
        rates = 0.3 if heat < 12 else self._rate, 0.1 if heat >= 90 else 0.001
        self._rates[label] = rates
        return rates


class Given:
    """Does what was written down, and nothing else."""

    def __init__(self, choices: Mapping[Place, Choice]) -> None:
        self._choices = choices

    def choose(self, place: Place, label: str, others: Callable[[], list[int]], *, can_fail: bool) -> Choice | None:
        """Return what is to happen."""
        choice = self._choices.get(place)
        if choice is None or (choice.kind == "go" and choice.value not in others()):
            return None
        return None if choice.kind == "fail" and not can_fail else choice


class Player:
    """One that stands for a process."""

    def __init__(self, number: int, program: Callable[[], object], scheduler: Scheduler) -> None:
        self.number = number
        self.program = program
        self.baton = threading.Lock()
        self.baton.acquire()
        self.thread = threading.Thread(target=scheduler.play, args=(self,), daemon=True)
        self.calls = 0
        self.wakes = 0.0
        self.is_done = self.is_dead = self.has_failed_call = False
        self.error: BaseException | None = None
        self.owned: dict[int, Any] = {}
        self.descriptors: weakref.WeakSet[files.Descriptor] = weakref.WeakSet()
        self.plain: set[int] = set()
        self.indexes: weakref.WeakSet[LevelDB] = weakref.WeakSet()

    def let_go(self) -> None:
        """Close what the end of a process closes."""
        for descriptor in list(self.descriptors):
            descriptor.close()
        for fd in self.plain:
            os.close(fd)
        self.plain.clear()
        for index in list(self.indexes):
            inner = index._gate._handle
            if inner is not None:
                inner.close()


class Scheduler:
    """Lets players go on, one at a time.

    Attributes
    ----------
    current : Player or None
        Who runs; None is whoever made the scheduler.
    taken : dict of Place to Choice
        What was chosen.
    labels : dict of Place to str
        At what.
    """

    def __init__(self, chooser: Chooser) -> None:
        self.players: list[Player] = []
        self.current: Player | None = None
        self.taken: dict[Place, Choice] = {}
        self.labels: dict[Place, str] = {}
        self.now = 0.0
        self.calls = 0
        self.trace: Callable[[int, str], object] | None = None
        self._chooser = chooser
        self._over = threading.Lock()
        self._over.acquire()

    def add(self, program: Callable[[], object]) -> Player:
        """Add a player that makes a call."""
        player = Player(len(self.players), program, self)
        self.players.append(player)
        return player

    def run(self) -> None:
        """Let all play until each has ended, or one has raised; raise what that was."""
        for player in self.players:
            player.thread.start()
        self._hand_over(self.players[0])
        self._over.acquire()
        for player in self.players:
            if player.error is not None:
                raise player.error

    def unwind(self) -> None:
        """End the threads of those that were killed, or did not come to their end."""
        for player in self.players:
            if not player.is_done:
                if not player.is_dead:
                    player.is_dead = True
                    player.let_go()
                self._hand_over(player)
                self._over.acquire()
            player.thread.join()

    # ------------------------------------------------------------------ in the threads of players

    def play(self, player: Player) -> None:
        """Run a player's program, in its thread."""
        player.baton.acquire()
        try:
            if not player.is_dead:
                player.program()
        except Killed:
            pass
        except BaseException as error:
            player.error = None if player.is_dead else error
        player.is_done = True
        if player.is_dead or player.error is not None:
            self._stop()
        else:
            self._pass_on(player)

    def point(self, label: str, *, can_fail: bool = False) -> None:
        """Be at a call: let another one go on, be killed, or fail."""
        player = self.current
        if player is None or threading.get_ident() != player.thread.ident:
            return
        if player.is_dead:
            raise Killed
        player.calls += 1
        self.calls += 1
        self.now += TICK
        if self.calls > MOST_CALLS or self.now > MOST_SECONDS:
            raise AssertionError(f"player {player.number} waits for ever, at {label}")
        if self.trace is not None:
            self.trace(player.number, label)
        place = Place(player.number, player.calls)
        choice = self._chooser.choose(place, label, self._ready, can_fail=can_fail)
        if choice is None or (choice.kind == "kill" and label == HALF):
            return
        self.taken[place], self.labels[place] = choice, label
        if choice.kind == "go":
            self._switch(player, self.players[choice.value])
        elif choice.kind == "kill":
            player.is_dead = True
            player.let_go()
            self._pass_on(player)
            self._await(player)
        else:
            player.has_failed_call = True
            raise OSError(choice.value, os.strerror(choice.value), label)

    def sleep(self, seconds: float) -> None:
        """Let the others go on for a time."""
        player = self.current
        if player is None:
            return
        self.point("sleep")
        player.wakes = self.now + seconds
        following = self._following(player)
        if following is not player:
            self._switch(player, following)

    def _ready(self) -> list[int]:
        """Return who else could go on now."""
        others = [other for other in self.players if other is not self.current and other.wakes <= self.now]
        return [other.number for other in others if not other.is_done and not other.is_dead]

    def _following(self, player: Player) -> Player:
        """Return who goes on when a player cannot; the clock goes on if that is necessary."""
        order = self.players[player.number + 1 :] + self.players[: player.number + 1]
        alive = [other for other in order if not other.is_done and not other.is_dead]
        first = next((other for other in alive if other.wakes <= self.now), None)
        if first is None:
            first = min(alive, key=lambda other: other.wakes)
            self.now = first.wakes
        return first

    def _pass_on(self, player: Player) -> None:
        """Let the next one go on, when a player will not."""
        if all(other.is_done or other.is_dead for other in self.players):
            self._stop()
        else:
            self._hand_over(self._following(player))

    def _switch(self, player: Player, following: Player) -> None:
        self._hand_over(following)
        self._await(player)

    def _await(self, player: Player) -> None:
        player.baton.acquire()
        if player.is_dead:
            raise Killed

    def _hand_over(self, player: Player) -> None:
        self.current = player
        player.baton.release()

    def _stop(self) -> None:
        self.current = None
        self._over.release()


# ---------------------------------------------------------------------- what is each process's own


class OwnEach:
    """In place of what a module keeps for its process: one of it for each player."""

    def __init__(self, scheduler: Scheduler, make: Callable[[], Any]) -> None:
        self._scheduler = scheduler
        self._make = make
        self._others = make()

    def _mine(self) -> Any:
        player = self._scheduler.current
        if player is None:
            return self._others
        owned = player.owned
        if id(self) not in owned:
            owned[id(self)] = self._make()
        return owned[id(self)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mine(), name)

    def __contains__(self, key: object) -> bool:
        return key in self._mine()

    def __setitem__(self, key: object, value: object) -> None:
        self._mine()[key] = value

    def __enter__(self) -> Any:
        return self._mine().__enter__()

    def __exit__(self, *exc: object) -> None:
        self._mine().__exit__(*exc)


class Instead:
    """In place of a module: some of its functions are others."""

    def __init__(self, module: Any, **others: Any) -> None:
        self._module = module
        self.__dict__.update(others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


# ---------------------------------------------------------------------- every call


class Interleaved(Replacing):
    """While entered, every call of players comes to their scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._point = scheduler.point

    def __enter__(self) -> Interleaved:
        self._own_state()
        self._clocks()
        self._files()
        self._listings()
        self._locks()
        self._pages()
        self._indexes()
        self._replace(sys, "unraisablehook", lambda _: None)  # of finalisers in threads that were killed
        return self

    def _own_state(self) -> None:
        scheduler = self._scheduler
        self._replace(lock, "_held", OwnEach(scheduler, weakref.WeakValueDictionary))
        self._replace(lock, "_held_guard", OwnEach(scheduler, threading.RLock))
        self._replace(leftovers, "_left", OwnEach(scheduler, deque))
        self._replace(leveldb, "_opening", OwnEach(scheduler, weakref.WeakValueDictionary))

    def _clocks(self) -> None:
        clock = Instead(time, monotonic=lambda: self._scheduler.now, sleep=self._scheduler.sleep)
        for module in (lock, tail, handle, writer_queue, in_place, leveldb):
            self._replace(module, "time", clock)

    def _around(self, name: str, function: Callable[..., Any], *, after: bool, can_fail: bool) -> Any:
        point = self._point

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            label = f"{name} {_kind(args)}"
            point(label, can_fail=can_fail)
            result = function(*args, **kwargs)
            if after:
                point(f"after {label}")
            return result

        return wrapped

    def _wrap(self, holder: Any, name: str, *, after: bool = False, can_fail: bool = False) -> None:
        label = name if holder is files else f"{getattr(holder, '__name__', '')}.{name}"
        made = self._around(label, getattr(holder, name), after=after, can_fail=can_fail)
        self._replace(holder, name, made)

    def _files(self) -> None:
        for name in OPERATIONS:
            if name != "start_flush":
                self._wrap(files, name, after=True, can_fail=True)
        self._replace(files, "start_flush", lambda *_: None)  # it promises nothing, in a thread of its own
        for name in READING:
            self._wrap(files, name)
        self._wrap(files, "opened", can_fail=True)
        self._wrap(Chunk, "segments")
        self._wrap(Chunk, "append_segment", after=True)
        self._replace(files, "_write", self._write_in_halves(files._write))
        self._replace(files.Descriptor, "open", self._opening(files.Descriptor.open))
        self._replace(files.File, "__init__", self._opening(files.File.__init__))

    def _write_in_halves(self, write: Callable[[int, int, Any], None]) -> Callable[[int, int, Any], None]:
        def wrapped(fd: int, offset: int, data: Any) -> None:
            self._point("writing", can_fail=True)
            if len(data) > 1:
                write(fd, offset, memoryview(data)[: len(data) * 8 // 15])  # of the page in the middle of a number
                self._point(HALF)
            write(fd, offset, data)
            self._point("after writing")

        return wrapped

    def _opening(self, function: Callable[..., None]) -> Callable[..., None]:
        def wrapped(descriptor: files.Descriptor, path: str, *args: Any) -> None:
            label = f"open {_kind((path,))}"
            self._point(label, can_fail=True)
            player = self._scheduler.current
            if player is not None:
                player.descriptors.add(descriptor)
            function(descriptor, path, *args)
            self._point(f"after {label}")

        return wrapped

    def _listings(self) -> None:
        point = self._point

        def before(name: str, call: Callable[..., Any], *, after: bool = False) -> Callable[..., Any]:
            return self._around(name, call, after=after, can_fail=False)

        self._replace(files, "os", Instead(os, listdir=_sorted_names))
        listed = before("list", _sorted_names)
        self._replace(paths, "os", Instead(os, listdir=listed))
        linked = before("link", os.link, after=True)
        self._replace(leveldb_clone, "os", Instead(os, listdir=listed, link=linked))

        def opened(path: str, flags: int) -> int:
            point(f"open {_kind((path,))}")
            fd = os.open(path, flags)
            if self._scheduler.current is not None:
                self._scheduler.current.plain.add(fd)
            return fd

        def closed(fd: int) -> None:
            player = self._scheduler.current
            if player is not None:
                player.plain.discard(fd)
            if player is None or not player.is_dead:  # else it was closed, and may be another file by now
                os.close(fd)

        numbers = itertools.count()
        others = {"listdir": listed, "rmdir": before("rmdir", os.rmdir), "open": opened, "close": closed}
        names = Instead(os, **others, urandom=lambda size: next(numbers).to_bytes(size, "big"))
        self._replace(directory, "os", names)

    def _locks(self) -> None:
        flock = self._around("flock", lock.fcntl.flock, after=True, can_fail=False)
        self._replace(lock, "fcntl", Instead(lock.fcntl, flock=flock))
        self._replace(directory, "fcntl", Instead(directory.fcntl, flock=flock))
        for name in ("is_held", "is_alive"):
            for module in (read_storage, copies):
                self._wrap(module, name, after=True)

    def _pages(self) -> None:
        for name in ("rewrite", "mark", "publish", "hold"):
            self._wrap(tail.Tail, name, after=True)
        for name in ("read", "is_alone", "is_in_place"):
            self._wrap(tail.Tail, name)
        for name in ("raw", "chunks"):
            self._wrap(tail.TailView, name)

    def _indexes(self) -> None:
        for name in ("write", "flush_logs", "compact", "empty_log"):
            self._wrap(LevelDB, name, after=True, can_fail=True)
        for name in ("snapshot", "get", "read", "read_back"):
            self._wrap(LevelDB, name)
        self._wrap(LevelDB, "close", after=True)
        for name in ("create", "open", "open_private"):
            made = self._around(f"LevelDB.{name}", LevelDB.__dict__[name].__func__, after=True, can_fail=False)
            self._replace(LevelDB, name, classmethod(made))
        made_one = LevelDB.__init__

        def made(index: LevelDB, *args: Any, **kwargs: Any) -> None:
            made_one(index, *args, **kwargs)
            if self._scheduler.current is not None:
                self._scheduler.current.indexes.add(index)

        self._replace(LevelDB, "__init__", made)
        self._replace(Growth, "measure_tables", lambda _: None)  # which LevelDB's own thread changes at any time


def _sorted_names(path: str) -> list[str]:
    return sorted(os.listdir(path))


def _kind(args: tuple[Any, ...]) -> str:
    """Return what kind of file a call is about."""
    first = args[0] if args else None
    path = first if isinstance(first, str) else getattr(first, "path", None)
    return _kind_of(path.rpartition("/")[2]) if isinstance(path, str) else ""


@functools.lru_cache(maxsize=1 << 12)
def _kind_of(name: str) -> str:
    return _NAME.sub("", name)
