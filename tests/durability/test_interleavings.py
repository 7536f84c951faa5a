"""Several handles of one database, of which a scheduler decides at every call which goes on: any order is right.

Players write alone or in turn, read, compact, copy; they are killed, and calls of theirs fail. What is committed is
one serial history, of which everybody sees a beginning, and nothing is left over.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from interleaved_mutants import EQUIVALENT, MUTANTS, PUBLISHING, SELDOM, left_out
from interleaved_players import Script, draw_publishing, draw_script
from interleaved_publishing import REQUESTS
from interleaved_worlds import Outcome, Sweep, described, sweep
from interleaving import STEPS, Choice, Chooser, Drawn, Given, Place
from single_switches import SMALL, play_switches

NewRoot = Callable[[], str]
PARTS = 8
SCHEDULES = 500
"""In each part, twice the usual."""
PUBLISHING_PARTS = 2
PUBLISHING_SCHEDULES = 120
PUBLISHING_STEPS = (*STEPS, *2 * REQUESTS)
MOST = 500
"""So many schedules find each rule that is left out; most of these take a few."""
FIRST = {
    "abort_not_cleared": 34,
    "crash_not_looked_for": 25,
    "mark_ignored": 12,
    "no_mark": 12,
    "ring_taken_for_all": 7,
    "same_epoch": 23,
}
"""What is tried first for those that took more: it found the rule when this was written, and if not, others do."""


@pytest.fixture
def base(new_root: NewRoot) -> str:
    root = new_root()
    Path(root).mkdir()
    return root


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("part", range(PARTS))
def test_any_schedule(base: str, seed: int, budget: float, part: int) -> None:
    play_part(Sweep(base), SCHEDULES * budget, seed * PARTS + part)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("part", range(PUBLISHING_PARTS))
def test_any_schedule_with_publishers(base: str, seed: int, budget: float, part: int) -> None:
    played = Sweep(base, draw_publishing, PUBLISHING_STEPS)
    play_part(played, PUBLISHING_SCHEDULES * budget, seed * PUBLISHING_PARTS + part)


def play_part(played: Sweep, size: float, part: int) -> None:
    """Play the seeds of one part, of all parts of that size."""
    count = round(size)
    seeds = range(part * count, (part + 1) * count)
    sweep(played, seeds)
    print(
        f"seeds {seeds[0]} to {seeds[-1]}: {played.calls} calls, {played.switches} changes of player, "
        f"{played.kills} kills, {played.faults} calls that failed, {played.commits} commits"
    )
    assert played.commits
    assert played.kills


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(MUTANTS.keys() - EQUIVALENT - SELDOM - PUBLISHING))
def test_a_rule_that_is_left_out_is_found(base: str, name: str) -> None:
    with left_out(name):
        played = Sweep(base)
        seeds = (FIRST.get(name, 0), *range(MOST))
        assert any(played.try_seed(seed).error is not None for seed in seeds), MUTANTS[name].__doc__


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", SMALL)
def test_one_change_of_player(base: str, seed: int, budget: float, name: str) -> None:
    """A part of all that there are: all with a budget of 12."""
    count = 0
    for outcome in play_switches(Sweep(base), SMALL[name], seed, budget):
        assert outcome.error is None, described(outcome)
        assert len(outcome.taken) == 1
        count += 1
    print(f"{count} changes of player")
    assert count


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("let_go_too_soon", "abort beside commits"),
        ("manifest_written_over", "publish"),
        ("named_before_it_is_there", "fetch"),
    ],
)
def test_one_change_of_player_finds_a_rule_that_is_left_out(base: str, seed: int, name: str, script: str) -> None:
    """Also when only some are tried."""
    with left_out(name):
        outcomes = play_switches(Sweep(base), SMALL[script], seed, budget=0.5)
        assert any(outcome.error is not None for outcome in outcomes), MUTANTS[name].__doc__


@pytest.mark.parametrize(("draw", "seed"), [(draw_script, 3), (draw_publishing, 8)])
def test_a_seed_is_one_schedule(base: str, draw: Callable[[object], Script], seed: int) -> None:
    """Also what was chosen, without the seed."""
    played, calls = Sweep(base), []

    def traced(chooser: Chooser) -> Outcome:
        trace: list[tuple[int, str]] = []
        calls.append(trace)
        return played.play(draw(seed), chooser, trace=lambda *call: trace.append(call))

    outcome = traced(Drawn(seed, steps=PUBLISHING_STEPS))
    assert outcome.error is None
    traced(Drawn(seed, steps=PUBLISHING_STEPS))
    traced(Given(outcome.taken))
    assert calls[0] == calls[1] == calls[2]
    assert len({player for player, _ in calls[0]}) > 1


def test_a_schedule_that_fails_is_shortened(base: str) -> None:
    script = Script((("sharing", ("commit",)), ("sharing", ("commit", "commit")), ("reading", ("see",))))
    with left_out("lock_without_lock"):
        played = Sweep(base)
        outcomes = (played.play(script, Drawn(seed, kills=0, faults=0)) for seed in range(MOST))
        found = next(outcome for outcome in outcomes if outcome.error is not None and len(outcome.taken) > 5)
        short = played.shorten(found)
    assert short.error is not None
    assert len(short.taken) <= 3
    assert "goes on" in described(short)


def test_who_is_killed_lets_its_lock_go(base: str) -> None:
    """Others wait until then, by a clock that goes on by itself."""
    script = Script((("sharing", ("commit",)), ("alone", ("commit", "reopen", "commit"))))
    labels: list[str] = []
    played = Sweep(base)
    played.play(script, Given({}), trace=lambda player, label: labels.append(label) if not player else None)
    at = labels.index("Chunk.append_segment .chunk")
    outcome = played.play(script, Given({Place(0, at): Choice("go", 1), Place(0, at + 1): Choice("kill")}))
    assert outcome.error is None, described(outcome)
    assert [choice.kind for choice in outcome.taken.values()] == ["go", "kill"]
    assert outcome.committed == 2
