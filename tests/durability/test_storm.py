"""The storm, for a few seconds: its usual use is by hand, with a million interrupts."""

from __future__ import annotations

import subprocess
import sys

import pytest
import storm


@pytest.mark.timeout(0)
@pytest.mark.parametrize("way", storm.WAYS)
def test_storm(seed: int, budget: float, way: str) -> None:
    command = [sys.executable, storm.__file__, f"{round(750 * budget)}", f"{seed}", way]
    end = subprocess.run(command, capture_output=True, text=True, timeout=120 + 60 * budget, check=False)
    print(end.stdout)
    assert end.returncode == 0, end.stdout + end.stderr[-3000:]
