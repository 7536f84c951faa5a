"""Every public operation, disturbed at every instant: nothing is lost or half done, and nobody waits for ever.

By default some instants are drawn for each operation; with ``--budget 2000`` nearly all are tried. What is printed
says how many there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from operations import OPERATIONS
from prober import Prober, started, sweep

NewRoot = Callable[[], str]


@pytest.fixture(scope="module")
def prober() -> Iterator[Prober]:
    with started() as prober:
        yield prober


@pytest.fixture
def disturb(prober: Prober, seed: int, budget: float, new_root: NewRoot) -> Callable[..., None]:
    """``disturb(task, operation, count)``: try so many points, and fail if anything is wrong at one."""

    def disturb_one(task: str, operation: str, count: float, **options: object) -> None:
        base = new_root()
        os.mkdir(base)
        done = sweep(prober, task, operation, count * budget, seed, base=base, **options)
        print(f"{task}, {operation}: {done.tried} attempts at {done.points} of {done.all_points} points")
        assert not done.violations, f"{len(done.violations)} of {done.tried}: " + "\n".join(done.violations[:5])

    return disturb_one


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", OPERATIONS)
def test_interrupts(disturb: Callable[..., None], name: str) -> None:
    """Ctrl-C, and again while the first one is dealt with."""
    disturb("interrupt", name, 8, again=1)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", OPERATIONS)
def test_want_of_memory(disturb: Callable[..., None], name: str) -> None:
    disturb("starve", name, 5)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", OPERATIONS)
def test_disks_that_fail(disturb: Callable[..., None], name: str) -> None:
    disturb("fail", name, 8)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", OPERATIONS)
def test_collections(disturb: Callable[..., None], name: str) -> None:
    """Finalisers of databases, transactions and range reads, and those that call the store."""
    disturb("collect", name, 6)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", OPERATIONS)
def test_signal_handlers(disturb: Callable[..., None], name: str) -> None:
    """The handler closes the database, and exits or goes on."""
    disturb("handle", name, 5)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", OPERATIONS)
def test_processes_that_end(disturb: Callable[..., None], name: str) -> None:
    """By a signal whose handler closes the database and exits, or just exits, and by Ctrl-C."""
    disturb("end", name, 3)
