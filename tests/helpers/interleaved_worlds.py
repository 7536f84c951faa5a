"""Schedules of players of one database, each judged by what is left: for a script and choices, or for each seed.

What players do, and what must hold, is in ``interleaved_players.py``.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from interleaved_players import (
    CHUNK_SIZE,
    Name,
    Playing,
    Script,
    Seen,
    Small,
    World,
    Wrong,
    draw_script,
    history_of,
    make_template,
)
from interleaved_publishing import Requests
from interleaving import STEPS, Choice, Chooser, Drawn, Given, Interleaved, Place, Scheduler
from published import check_published

import structchunk as sc
from structchunk.disk import tail

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
    with _without_collector(), Small(), Interleaved(scheduler), Requests(scheduler):
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
            for path in (root, *world.copies, f"{root}-published", f"{root}-cache"):
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
        is_published = os.path.exists(f"{world.root}-published")
        if is_published:
            _see_published(world)
        world.check(history)
        if problems := db.verify():
            raise Wrong(f"verify() finds {problems}")
        db.sync()
        _check_files(db)
        if is_published:
            db.publish(world.url)
            check_published(world.url, db)
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


def _see_published(world: World) -> None:
    """See what is published, if anything is: a publisher may have been killed before."""
    try:
        db = sc.open(world.url, "r", cache=f"{world.root}-cache")
    except FileNotFoundError:
        history: tuple[Name, ...] = ()
    else:
        with db:
            history = history_of(db)
            if problems := db.verify():
                raise Wrong(f"verify() of what is published finds {problems}")
    world.seen.append(Seen("a reader of what is published", world.published, history))


# ---------------------------------------------------------------------- many


class Sweep:
    """Schedules, one for each seed.

    Parameters
    ----------
    base : str
        A directory, in memory if that is possible.
    draw : callable
        Draws what is played from a seed.
    steps : sequence of str
        See :class:`Drawn`.
    """

    def __init__(
        self, base: str, draw: Callable[[object], Script] = draw_script, steps: Sequence[str] = STEPS
    ) -> None:
        self._draw, self._steps = draw, steps
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
        outcome = self.play(self._draw(seed), Drawn(seed, kills=kills, faults=faults, steps=self._steps))
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


def sweep(played: Sweep, seeds: range) -> None:
    """Play the schedules of some seeds; raise at the first one that fails, shortened."""
    for seed in seeds:
        outcome = played.try_seed(seed)
        if outcome.error is not None:
            raise Wrong(f"seed {seed}\n{described(played.shorten(outcome))}") from outcome.error


# ---------------------------------------------------------------------- shortening


def shortened(
    choices: Mapping[Place, Choice], fails: Callable[[Mapping[Place, Choice]], bool], most: int = 150
) -> dict[Place, Choice]:
    """Return as few of the choices of a schedule that fails as still make it fail, trying so many times at most."""
    kept = dict(choices)
    size = max(1, len(kept) // 2)
    while size and most:
        at = 0
        while at < len(kept) and most:
            places = list(kept)
            fewer = {place: kept[place] for place in (*places[:at], *places[at + size :])}
            most -= 1
            if fails(fewer):
                kept = fewer
            else:
                at += size
        size //= 2
    return kept
