"""The protocol of turns keeps its promises in every state of small cases, and each rule of it is needed."""

from __future__ import annotations

import random

import pytest
from turn_model import Broken, Rules, explore, first_state, walk

MOST = 3_000_000


CASES = (
    {"writers": 2, "commits": 2, "kills": 0, "cuts": 0, "failures": 1},
    {"writers": 1, "commits": 2, "kills": 0, "cuts": 1, "failures": 1},
    {"writers": 2, "commits": 2, "kills": 2, "cuts": 0, "failures": 0},
    {"writers": 2, "commits": 2, "kills": 1, "cuts": 1, "failures": 0},
)
"""From the one of fewest states on, so that a rule that is left out is found soon."""


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("bounds", CASES, ids=str)
def test_every_state_of_small_cases(bounds: dict[str, int]) -> None:
    print(explore(first_state(**bounds), Rules(), MOST), "states")


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_walks_in_larger_cases(seed: int, budget: float) -> None:
    rng = random.Random(seed)
    for _ in range(round(80 * budget)):
        first = first_state(writers=rng.choice((2, 3)), commits=rng.randint(3, 6), kills=3, cuts=2, failures=2)
        walk(first, Rules(), rng, 150)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("rule", Rules._fields)
def test_each_rule_is_needed(rule: str) -> None:
    rules = Rules()._replace(**{rule: False})
    with pytest.raises(Broken) as caught:
        for bounds in CASES:
            explore(first_state(**bounds), rules, MOST)
    print(f"without {rule}: {caught.value}")
