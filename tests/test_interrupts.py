"""Ctrl-C at every instant of every public operation, and once more while the first one is dealt with."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator

import pytest
from operations import OPERATIONS
from prober import Prober, started, sweep

NewRoot = Callable[[], str]
INSTANTS = 24
"""Of each operation by default; of short ones these are few of some hundred, of long ones of some thousand."""


@pytest.fixture(scope="module")
def prober() -> Iterator[Prober]:
    with started() as prober:
        yield prober


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", OPERATIONS)
def test_interrupts(prober: Prober, seed: int, budget: float, new_root: NewRoot, name: str) -> None:
    """What was acknowledged is there, the operation whole or not at all, and nobody waits."""
    counted = prober.run(task="count", operation=name, base=make(new_root))
    assert "instants" in counted[0], counted[-1]["errors"]
    instants = counted[0]["instants"]
    chosen = instants
    if len(instants) > INSTANTS * budget:
        chosen = sorted(random.Random(f"{seed} {name}").sample(instants, round(INSTANTS * budget)))
    base = make(new_root)
    tried, violations = sweep(prober, "interrupt", name, chosen, base=base, seed=f"{seed}", again=1)
    shutil.rmtree(base)
    print(f"{name}: {tried} interrupts, {len(chosen)} of {len(instants)} instants and as many pairs")
    assert not violations, f"{len(violations)} of {tried}: " + "\n".join(violations[:5])


def make(new_root: NewRoot) -> str:
    """Return a new directory."""
    import os

    base = new_root()
    os.mkdir(base)
    return base
