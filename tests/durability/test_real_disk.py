"""Power cuts under real file systems: what ext4 and XFS wrote to a disk is cut off anywhere, and mounted again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "helpers" / "real_power.py"
NAMESPACE = ("unshare", "-m", "--propagation", "private")


def run(kind: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Work, cut and check in a mount namespace of its own, which nothing outlives."""
    needed = ("unshare", "mount", "losetup", f"mkfs.{kind}")
    if os.getuid() or not os.path.exists("/dev/fuse") or not all(map(shutil.which, needed)):
        pytest.skip(f"needs root, /dev/fuse, {', '.join(needed)}")
    if subprocess.run([*NAMESPACE, "losetup", "-f"], capture_output=True, check=False).returncode:
        pytest.skip("needs a loop device")
    command = [*NAMESPACE, sys.executable, str(PROGRAM), kind, *map(str, arguments)]
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_power_cuts(kind: str, seed: int, budget: float) -> None:
    """Whatever the disk has lost of what was not flushed, the file system recovers, and then the database."""
    for number in range(max(1, round(budget))):
        done = run(kind, seed + number, 25, 20)
        assert done.returncode == 0, done.stderr
        print(done.stdout)


@pytest.mark.timeout(0)
def test_flushes_that_are_left_out_are_noticed(seed: int) -> None:
    done = run("ext4", seed, 25, 20, "flush")
    assert done.returncode != 0
    assert "CorruptionError" in done.stderr or "AssertionError" in done.stderr, done.stderr
