"""Full disks and broken ones: errors, never signals; readers go on; nothing acknowledged is lost."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import failing_disk
import pytest
from failing_disk import Fault, endure
from oracle import CHUNK_SIZE, shrink

import structchunk as sc
from structchunk.disk import files

NewRoot = Callable[[], str]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[str]:
    """Return a file system of 4 MB, where one can be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "structchunk-test", str(tmp_path)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield str(tmp_path)
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.timeout(0)
def test_full_disk(small_disk: str, seed: int, budget: float) -> None:
    """The disk fills up in every operation there is; then space is freed."""
    rng = random.Random(seed)
    count = round(30 * budget)
    sizes = sorted(
        {4096 * rng.randint(0, 40) for _ in range(count)} | {4096 * rng.randint(0, 200) for _ in range(count)}
    )
    command = [sys.executable, failing_disk.__file__, small_disk, str(seed), *map(str, sizes)]
    end = subprocess.run(command, capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stdout[-3000:] + end.stderr[-3000:]
    lines = end.stdout.splitlines()
    assert len(lines) == len(sizes)
    assert sum(" 0 failed" not in line for line in lines) > len(lines) / 5


@pytest.mark.timeout(0)
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_any_operation_fails(
    seed: int, budget: float, new_root: NewRoot, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Each flush, write, reservation, creation and unlinking in turn."""
    shrink(monkeypatch.setattr)
    counted = Fault(0)
    with counted:
        endure(new_root(), seed, 20, lambda: None)
    for at in random.Random(seed + number).sample(
        range(1, counted.count), min(counted.count - 1, round(40 * budget))
    ):
        root = new_root()
        try:
            with Fault(at, number) as fault:
                endure(root, seed, 20, lambda fault=fault: fault.__exit__())
        except BaseException as error:
            error.args = (f"seed {seed}, operation {at}: {error}", *error.args[1:])
            raise
        shutil.rmtree(root)


def test_failed_flush_is_not_retried(new_root: NewRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO comes once, then FailedError, until the database is opened again."""
    db = sc.open(new_root(), chunk_size=CHUNK_SIZE)
    store = db.array_store("a", "<i8")
    store[1] = [1]
    flush = files.flush
    calls = itertools.count()

    def fail(path: str) -> None:
        if next(calls) == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        flush(path)

    monkeypatch.setattr(files, "flush", fail)
    with pytest.raises(OSError) as caught:
        store[2] = [2]
    assert caught.value.errno == errno.EIO
    for write in (lambda: store.put(3, [3]), db.sync, lambda: store.delete(1), lambda: db.drop_store("a")):
        with pytest.raises(sc.FailedError):
            write()
    assert {key: record.tolist() for key, record in store.items()} == {1: [1]}
    db.close()
    with sc.open(db.path, "r+") as again:
        assert again["a"][1].tolist() == [1]
        assert set(again["a"]) <= {1, 2}
        again["a"][3] = [3]
        assert again.verify() == []
