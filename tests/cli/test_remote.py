"""The commands for databases in object storage."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import structchunk as sc

pytest.importorskip("fsspec")

from faulty_store import FaultyStore
from test_cli import failed, good, on_terminal, report, run


@pytest.fixture
def path(tmp_path: Path) -> str:
    made = os.path.realpath(tmp_path / "test.sc")
    with sc.open(made) as db:
        db.array_store("temps", "f8").put_many(np.arange(10), np.ones((10, 2)))
        assert db.verify() == []
    return made


def test_publish(path: str, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/published"
    assert good("published", url) == "nothing is published\n"
    assert good("publish", path, url).startswith("published commit 2: 3 objects, ")
    assert good("publish", path, url) == "commit 2 is published; nothing is new\n"
    with sc.open(path) as db:
        db["temps"][5] = [1.0]
        assert db.verify() == []
    told = report("publish", path, url)
    assert (told["path"], told["commit"], told["objects"]) == (path, 3, 3)
    assert good("published", url) == "2\n3\n"
    assert report("published", url) == {"commits": [2, 3]}
    assert good("prune", url, "--keep", "1") == "removed 1 publication, 1 object; kept 1 commit\n"
    assert report("prune", url, "--keep", "1") == {"commits": [3], "publications": 0, "objects": 0}


def test_progress_is_shown_on_a_terminal(path: str, tmp_path: Path) -> None:
    assert b"publishing" in on_terminal("publish", path, f"file://{tmp_path}/published")


def test_what_goes_wrong(path: str, tmp_path: Path) -> None:
    store = FaultyStore.new()
    store.refuses = True
    assert f"cannot read {store.url}/newest" in failed("publish", path, store.url)
    assert f"cannot read {store.url}/newest" in failed("published", store.url)
    assert "nothing://" in failed("publish", path, "nothing://x")
    assert run("prune", store.url).exit_code == 2
    assert run("prune", store.url, "--keep", "0").exit_code == 2


def test_a_warning_is_one_line(path: str) -> None:
    store = FaultyStore.new()
    store.ignores_conditions = True
    result = run("publish", path, store.url)
    assert result.exit_code == 0
    assert result.stdout.startswith("published commit 2")
    assert len(result.stderr.splitlines()) == 1
    assert "let only one publish at a time" in result.stderr
