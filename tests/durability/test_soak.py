"""The soak, for a few seconds: its usual use is by hand, for hours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from soak import Journal, append

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(0)
@pytest.mark.parametrize("shared", [0, 1], ids=["one writer", "sharing writers"])
def test_soak(seed: int, budget: float, shared: int) -> None:
    command = [sys.executable, "-m", "tests.helpers.soak", f"{4 * budget}", f"{2 * seed + shared}"]
    end = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120 + 5 * budget, check=False)
    print(end.stdout)
    assert end.returncode == 0, end.stdout + end.stderr


def test_a_journal_goes_on_behind_a_line_that_a_kill_has_cut_short(tmp_path: Path) -> None:
    path = str(tmp_path / "journal-1")
    Journal(path, 1).begin({"kind": "sync"})
    append(path, '{"done": true}')
    with open(path, "a", encoding="ascii") as file:
        file.write('{"beg')
    assert Journal(path, 1).begin({"kind": "sync"}) == 2
    assert Journal(path, 1).number == 2
