"""Every public operation, disturbed at every instant: nothing is lost or half done, and nobody waits for ever.

By default some instants are drawn for each operation; with ``--budget 2000`` nearly all are tried. What is printed
says how many there are.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator

import pytest
from operations import OPERATIONS
from prober import Prober, sweep

NewRoot = Callable[[], str]
COUNTS = dict.fromkeys(("interrupt", "keep", "starve", "fail", "collect", "handle"), 4 / 3)
"""At how many points each operation is disturbed, with a budget of 1: by Ctrl-C, and again while that is dealt
with; by Ctrl-C whose exception is kept; by want of memory; by a disk that fails; by finalisers; by signal handlers
that close the database, and exit or go on."""


@pytest.fixture(scope="module")
def prober() -> Iterator[Prober]:
    with contextlib.closing(Prober()) as prober:
        yield prober


def check(prober: Prober, base: str, name: str, counts: dict[str, float], seed: int) -> None:
    """Disturb an operation, and fail if anything is wrong then."""
    os.mkdir(base)
    done = sweep(prober, name, counts, seed, base=base, again=1)
    print(f"{name}: {done}")
    assert not done.violations, f"{len(done.violations)} of {done.tried.total()}: " + "\n".join(done.violations[:5])


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", OPERATIONS)
def test_disturbances(prober: Prober, seed: int, budget: float, new_root: NewRoot, name: str) -> None:
    """What was acknowledged is there, the operation whole or not at all; the handle goes on or says why not."""
    check(prober, new_root(), name, {way: count * budget for way, count in COUNTS.items()}, seed)


@pytest.mark.timeout(0)
def test_processes_that_end(prober: Prober, seed: int, budget: float, new_root: NewRoot) -> None:
    """By a signal whose handler closes the database and exits, or just exits, and by Ctrl-C that nobody catches."""
    names = sorted(OPERATIONS)
    for name in random.Random(seed).sample(names, min(len(names), round(8 * budget))):
        check(prober, new_root(), name, {"end": 2 * budget}, seed)
