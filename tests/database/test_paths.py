"""Paths of a database: of any type and any bytes, and new ones that several threads open at once."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import structchunk as sc
from structchunk.disk import files

NAMES = [b"plain.sc", "日本.sc".encode(), b"not utf-8 \xff\xfe.sc"]


class BytesPath:
    """A path-like object whose path is bytes."""

    def __init__(self, path: bytes) -> None:
        self._path = path

    def __fspath__(self) -> bytes:
        return self._path


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [bytes, os.fsdecode, BytesPath, lambda path: Path(os.fsdecode(path))])
def test_paths_of_any_kind(tmp_path: Path, name: bytes, kind: Any) -> None:
    path, copy = (os.path.join(os.fsencode(tmp_path), part) for part in (name, b"copy of " + name))
    with sc.open(kind(path)) as db:
        assert db.path == os.fsdecode(path)
        db.array_store("a", "f8")[1] = [1.0]
        db.checkpoint(kind(copy))
        with sc.open(kind(path), "r") as read:
            assert read["a"][1] == 1
            assert pickle.loads(pickle.dumps(read))["a"][1] == 1
    with sc.open(kind(copy), shared=True) as db:
        db["a"][2] = [2.0]
        assert list(db["a"]) == [1, 2]
        assert db.verify() == []
    shutil.rmtree(os.path.join(path, b"index-000001"))
    sc.rebuild_index(kind(path))
    with sc.open(kind(path), "r+") as db:
        assert db["a"][1] == 1
        assert db.verify() == []


@pytest.mark.parametrize("path", [None, 3, 1.5])
def test_what_is_no_path(path: Any) -> None:
    with pytest.raises(TypeError):
        sc.open(path)
    with pytest.raises(TypeError):
        sc.rebuild_index(path)


def test_another_one_makes_the_directory_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = files.make_directory

    def be_second(path: str) -> None:
        if path.endswith("d.sc"):
            os.mkdir(path)
        make(path)

    monkeypatch.setattr(files, "make_directory", be_second)
    with sc.open(tmp_path / "d.sc") as db:
        assert db.verify() == []
    monkeypatch.undo()
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        sc.open(tmp_path / "file")


def open_at_once(path: Path, count: int) -> tuple[list[sc.Database], list[Exception]]:
    """Open a path by so many threads, and return what they got."""
    together = threading.Barrier(count)
    opened: list[sc.Database] = []
    errors: list[Exception] = []

    def open_it() -> None:
        together.wait()
        try:
            opened.append(sc.open(path))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return opened, errors


def test_threads_open_a_new_path_at_once(tmp_path: Path, budget: float) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for number in range(int(10 * budget)):
            [db], errors = open_at_once(tmp_path / str(number), 6)
            assert {type(error) for error in errors} == {sc.LockedError}
            assert db.verify() == []
            db.close()
    finally:
        sys.setswitchinterval(interval)
