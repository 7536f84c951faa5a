"""The tail page as its writer begins it; those who follow it are in tests/readers."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from structchunk.disk.tail import Head, Tail, begin_tail, is_alive, open_tail

HEAD = Head(1, b"u" * 16, 2, 3, 3, 3, 4, 0, 5, 5)


def test_a_page_that_is_begun_is_held(tmp_path: Path) -> None:
    path = str(tmp_path / "tail")
    tail = begin_tail(path, HEAD)
    assert tail is not None
    view = open_tail(path)
    assert view is not None
    assert view.read()[1] == HEAD
    assert is_alive(path)
    tail.close()
    assert not is_alive(path)


def test_none_is_better_than_an_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "tail")
    old = begin_tail(path, HEAD)
    assert old is not None
    old.close()

    def refuse(tail: Tail, head: Head) -> None:
        raise OSError(errno.EIO, "the disk refuses")

    monkeypatch.setattr(Tail, "rewrite", refuse)
    assert begin_tail(path, HEAD) is None
    assert open_tail(path) is None
