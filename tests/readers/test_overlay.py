"""Databases of a lower layer of an overlay file system, as in a container's image, used above it.

There a file is copied up when it is first opened for writing. Who has mapped it before for reading goes on seeing
the lower one, and where the layers lie on different file systems its inode changes.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_copy import copy_live

import structchunk as sc
from structchunk.readers import copies

WRITE_IN_TURN = """
import sys
import numpy as np
import structchunk as sc
with sc.open(sys.argv[1], shared=True) as db:
    for key in range(int(sys.argv[2]), int(sys.argv[2]) + 20):
        db["a"][key] = np.ones(5)
"""


class P(sc.Object):
    """A point."""

    _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_double)]


def fill(root: Path) -> None:
    with sc.open(root, chunk_size=1 << 20) as db:
        db.array_store("a", np.float64).put_many(range(100), np.ones((100, 5)))
        db.array_store("new", np.float64).new(1, 4)
        db.object_store("o", P).put_many(range(4), [(1, 2)] * 4)


@pytest.fixture(params=["one file system", "two file systems"])
def layers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Return the lower directory, and where to look at it through an overlay that is mounted already."""
    mounted: list[Path] = []

    def mount(kind: str, path: Path, options: str) -> None:
        command = ["mount", "-t", kind, "-o", options, "structchunk-test", str(path)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount an overlay file system")
        mounted.append(path)

    lower, upper, merged = (tmp_path / name for name in ("lower", "upper", "merged"))
    try:
        mount("tmpfs", tmp_path, "size=256m")
        for path in (lower, upper, merged):
            path.mkdir()
        if request.param == "two file systems":
            mount("tmpfs", upper, "size=256m")
        for name in ("files", "work"):
            (upper / name).mkdir()
        fill(lower / "d.sc")
        with sc.open(lower / "open.sc", chunk_size=1 << 20, sync=False) as db:
            db.array_store("a", np.float64)[1] = np.ones(5)
            copy_live(lower / "open.sc", lower / "crashed.sc")
        mount("overlay", merged, f"lowerdir={lower},upperdir={upper / 'files'},workdir={upper / 'work'}")
        yield lower, merged
    finally:
        for path in reversed(mounted):
            subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def root(layers: tuple[Path, Path]) -> Iterator[Path]:
    """A database that lies in the lower layer; at the end it must be whole, and the lower one as it was."""
    lower, merged = layers
    yield merged / "d.sc"
    for path, mode in ((merged / "d.sc", "r+"), (lower / "d.sc", "r")):
        with sc.open(path, mode) as db:
            assert db.verify() == []
            if mode == "r":
                assert len(db["a"]) == 100
                assert db["o"].records()["x"].tolist() == [1] * 4


def sums(store: Any) -> list[float]:
    return [float(total) for batch in store.scan() for total in batch.reduce(np.add)]


def test_what_is_written_after_reading_is_read(root: Path) -> None:
    with sc.open(root) as db:
        assert sums(db["a"]) == [5] * 100
        db["a"][100] = np.full(5, 2.0)
        assert list(db["a"][100]) == [2] * 5
        assert sums(db["a"]) == [5] * 100 + [10]
        assert db.verify() == []
        db.compact()
        assert sums(db["a"]) == [5] * 100 + [10]
    with sc.open(root) as db:
        assert sums(db["a"]) == [5] * 100 + [10]


def test_what_changes_in_place_is_read(root: Path) -> None:
    with sc.open(root) as db:
        assert db["o"].records()["x"].tolist() == [1] * 4
        assert sums(db["new"]) == [0]
        db["o"][3].x = 7
        db["new"][1][:] = 2
        assert db["o"].records()["x"].tolist() == [1, 1, 1, 7]
        assert sums(db["new"]) == [8]


def test_one_writer(root: Path) -> None:
    with sc.open(root), pytest.raises(sc.LockedError):
        sc.open(root)


def test_a_reader_of_before_follows(root: Path) -> None:
    with sc.open(root, "r") as read:
        assert sums(read["a"]) == [5] * 100
        with sc.open(root) as db:
            db["a"][100] = np.full(5, 2.0)
            read.refresh()
            assert sums(read["a"]) == [5] * 100 + [10]
            assert read.verify() == []


def test_a_reader_of_before_that_cannot_link_follows(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise PermissionError(1, "no links here", source)

    monkeypatch.setattr(copies, "link_file", refuse)
    with sc.open(root, "r") as read:
        store, snapshot = read["a"], read.snapshot()
        assert sums(store) == [5] * 100
        with sc.open(root) as db:
            db["a"][100] = np.full(5, 2.0)
            read.refresh()
            assert sums(store) == [5] * 100 + [10]
            assert sums(snapshot["a"]) == [5] * 100
            assert read.verify() == []


def test_writing_in_turn(root: Path) -> None:
    command = [sys.executable, "-c", WRITE_IN_TURN, str(root)]
    with sc.open(root, shared=True) as db:
        assert sums(db["a"]) == [5] * 100
        processes = [subprocess.Popen([*command, str(first)]) for first in (1000, 2000)]
        for key in range(3000, 3020):
            db["a"][key] = np.ones(5)
        assert [process.wait(60) for process in processes] == [0, 0]
        assert sums(db["a"]) == [5] * 160


def test_copies(root: Path) -> None:
    with sc.open(root) as db:
        db.checkpoint(root.with_name("copy.sc"))
        db["a"][100] = np.ones(5)
    with sc.open(root.with_name("copy.sc")) as copy:
        copy["a"][101] = np.ones(5)
        assert sums(copy["a"]) == [5] * 101
        assert copy.verify() == []


def test_a_new_index(root: Path) -> None:
    shutil.rmtree(next(root.glob("index-*")))
    sc.rebuild_index(root)
    with sc.open(root) as db:
        db["a"][100] = np.ones(5)
        assert sums(db["a"]) == [5] * 101


def test_one_that_a_crash_left(layers: tuple[Path, Path]) -> None:
    with sc.open(layers[1] / "crashed.sc") as db:
        assert sums(db["a"]) == [5]
        db["a"][2] = np.ones(5)
        assert sums(db["a"]) == [5, 5]
        assert db.verify() == []
    with sc.open(layers[1] / "crashed.sc") as db:
        assert db.verify() == []
