"""The example on real data runs as the README says, and agrees with pandas."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FLIGHTS), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.slow
def test_all_figures_are_those_of_pandas(tmp_path: Path) -> None:
    done = run(str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr
    assert "are equal to what pandas makes" in done.stdout
    assert (tmp_path / "new" / "flights.sc").is_dir()

    again = run(str(tmp_path / "new"))
    assert again.returncode != 0
    assert "remove it" in again.stderr
