"""How structchunk's costs grow with the number of keys: each step in a process of its own, watched from here."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers import settle
from bench.report import duration, simple_table
from bench.steps import POINTS, STEPS

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000, 100_000_000)
MOST = 10_000_000
"""More keys than these take minutes, and gigabytes of disk and memory."""
QUICK_SIZES = (10_000, 100_000, 1_000_000)
WHOLE = ("open", "reopen")  # one operation, whatever the number of keys
POINT_READS = ("get", "get_many")
UNTIMED = ("kill", "spoil")
SHOWN = [step for step in STEPS if step not in UNTIMED]
WATCH_SECONDS = 0.003


@dataclass
class Cost:
    """What one step took at one size: seconds of each round, and peak bytes of private and of all memory."""

    seconds: list[float] = field(default_factory=list)
    private: list[int] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)


Growth = dict[str, dict[int, Cost]]


def operations(step: str, keys: int) -> int:
    """How many operations one run of a step is."""
    return 1 if step in WHOLE else POINTS if step in POINT_READS else keys


def each(step: str, keys: int, cost: Cost) -> float:
    """Median seconds of one operation."""
    return statistics.median(cost.seconds) / operations(step, keys)


def measure(sizes: tuple[int, ...], rounds: int, folder: Path | None, say: Callable[[str], None]) -> Growth:
    """Run all steps at all sizes, so many times."""
    growth: Growth = {step: {size: Cost() for size in sizes} for step in SHOWN}
    for number in range(rounds):
        for size in sizes:
            say(f"growth: round {number + 1} of {rounds}, {size:,} keys")
            with tempfile.TemporaryDirectory(prefix="structchunk-bench-", dir=folder) as temporary:
                for step in STEPS:
                    _run(step, temporary, size, growth)
    return growth


def _run(step: str, folder: str, size: int, growth: Growth) -> None:
    settle(Path(folder))
    command = [sys.executable, "-m", "bench.steps", step, folder, str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        private, resident = _watch(child)
        assert child.stdout is not None
        answer = child.stdout.read()
    if step in UNTIMED:
        return
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} failed")
    cost = growth[step][size]
    cost.seconds.append(json.loads(answer))
    cost.private.append(private)
    cost.resident.append(resident)


def _watch(child: subprocess.Popen[str]) -> tuple[int, int]:
    """Return the peaks of a child's private memory and of all it has mapped and touched, files too."""
    private = resident = 0
    while child.poll() is None:
        status = _status(child.pid)
        private = max(private, status.get("RssAnon", 0))
        resident = max(resident, status.get("VmHWM", 0))
        time.sleep(WATCH_SECONDS)
    return private, resident


def _status(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended, or the system is not Linux
        return {}
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(count) << 10 for name, count, _ in fields}


def table(growth: Growth) -> str:
    """Format the costs: of one operation, and the peak of private memory."""
    sizes = list(growth["load"])
    head = ["keys", *(f"{size:,}" for size in sizes)]
    costs = [[step, *(duration(each(step, size, growth[step][size])) for size in sizes)] for step in SHOWN]
    memory = [
        [f"{step}, MB", *(f"{max(growth[step][size].private) / 1e6:,.0f}" for size in sizes)] for step in SHOWN
    ]
    return simple_table([head, *costs, *memory])


def save(folder: Path, facts: dict[str, dict[str, str]], growth: Growth) -> None:
    """Write ``growth.json`` and ``growth.txt``."""
    steps = {
        step: {size: {**vars(cost), "each": each(step, size, cost)} for size, cost in costs.items()}
        for step, costs in growth.items()
    }
    (folder / "growth.json").write_text(json.dumps({**facts, "growth": steps}, indent=1) + "\n")
    (folder / "growth.txt").write_text(table(growth) + "\n")
