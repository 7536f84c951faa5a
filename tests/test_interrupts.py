"""Ctrl-C at every instant of every public operation, and once more while the first one is dealt with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from operations import OPERATIONS
from prober import Prober, started, sweep

NewRoot = Callable[[], str]
INSTANTS = 12
"""Of each operation by default; the shortest have some hundred, the longest some thousand."""


@pytest.fixture(scope="module")
def prober() -> Iterator[Prober]:
    with started() as prober:
        yield prober


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", OPERATIONS)
def test_interrupts(prober: Prober, seed: int, budget: float, new_root: NewRoot, name: str) -> None:
    """What was acknowledged is there, the operation whole or not at all, and nobody waits."""
    base = new_root()
    os.mkdir(base)
    done = sweep(prober, "interrupt", name, INSTANTS * budget, seed, base=base, again=1)
    print(f"{name}: {done.tried} interrupts at {done.points} of {done.all_points} instants")
    assert not done.violations, f"{len(done.violations)} of {done.tried}: " + "\n".join(done.violations[:5])
