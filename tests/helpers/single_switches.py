"""Small scripts with a single change of player, tried before every call: random schedules have mostly several.

A fault that one change at one of a few calls brings about, and that others hide, is so found for certain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from interleaved_players import Program, Script
from interleaved_worlds import Outcome, Sweep
from interleaving import Choice, Given, Place


class Tried(NamedTuple):
    """A small script, and how many changes of player there are to each that is tried with a budget of 1."""

    script: Script
    every: float


def _sharing(*operations: str) -> Program:
    return "sharing", operations


SMALL: dict[str, Tried] = {
    # Where turns end a fault may show at five calls one after another: one of four is tried, by default.
    "abort beside commits": Tried(Script((_sharing("commit", "abort"), _sharing("commit", "durable"))), 2),
    "commit after an abort": Tried(Script((_sharing("abort", "commit"), _sharing("durable", "see"))), 8),
    "lend": Tried(Script((_sharing("commit", "lend"), _sharing("abort", "commit"))), 8),
    "lend beside lend": Tried(Script((_sharing("lend", "see"), _sharing("lend"))), 8),
    "see": Tried(Script((_sharing("see", "commit"), _sharing("commit", "abort"))), 8),
    "nobody kept": Tried(Script((_sharing("commit", "abort"), _sharing("commit", "see")), is_kept=False), 8),
    "three": Tried(Script((_sharing("commit"), _sharing("abort"), _sharing("commit", "see"))), 16),
    "publish": Tried(Script((("publishing", ("publish",)), _sharing("commit", "publish"))), 8),
    "publish again": Tried(Script((_sharing("publish", "commit", "publish"), ("publishing", ("publish",)))), 16),
    "fetch": Tried(Script((("publishing", ("publish",)), ("fetching", ("fetch",)))), 2),
    "publish and compact": Tried(
        Script((("publishing", ("publish", "publish")), _sharing("commit", "compact", "commit"))), 16
    ),
}


def switches(played: Sweep, script: Script) -> list[tuple[Place, Choice]]:
    """Return every change of player before a call of a script, to one that has not ended by then."""
    made: Counter[int] = Counter()
    played.play(script, Given({}), trace=lambda player, _: made.update((player,)))
    players = range(len(script.programs))
    return [
        (Place(player, call), Choice("go", other))
        for player in players
        for call in range(1, made[player] + 1)
        for other in players[player + 1 :]
    ]


def play_switches(played: Sweep, small: Tried, seed: int, budget: float) -> Iterator[Outcome]:
    """Play a script with one change of player after another: each so-manieth, beginning with one by the seed."""
    places = switches(played, small.script)
    step = min(max(1, round(small.every / budget)), len(places))
    for place, choice in places[seed % step :: step]:
        yield played.play(small.script, Given({place: choice}))
