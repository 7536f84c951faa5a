"""What is written again in place: all that recovery takes over, before the flush that must bring it to disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from live_copy import copy_live
from recorded_files import Seam

import structchunk as sc
from structchunk.disk import files

SPARSE_LENGTH = 4 << 20
Killed: TypeAlias = tuple[Path, dict[str, list[tuple[int, int]]]]


class Calls:
    """While entered, notes what is done to chunk files: ``(operation, name, start, stop)``."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._seam = Seam(self._note)

    def _note(self, operation: str, args: tuple[Any, ...], done: bool) -> None:
        if done and args and str(args[0]).endswith(".chunk") and operation != "remove_tree":  # of a reader's own
            self.calls.append((operation, os.path.basename(args[0]), *args[1:3]))

    def __enter__(self) -> Calls:
        self._seam.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._seam.__exit__(*exc)

    def of(self, operation: str, name: str) -> list[tuple[int, tuple[Any, ...]]]:
        """Return the calls of an operation on a file, with their places among all."""
        return [(at, call[2:]) for at, call in enumerate(self.calls) if call[:2] == (operation, name)]


class AtSegment:
    """Copies a database when it has stored the first segment of a commit: what would be left by a kill there."""

    def __init__(self, root: Path, image: Path) -> None:
        self._root, self._image = root, image
        self.name, self.directory = "", 0

    def __call__(self, operation: str, args: tuple[Any, ...], done: bool) -> None:
        if operation == "append_segment" and done and not self.name:
            self.name, self.directory = os.path.basename(args[0].path), args[0].directory
            copy_live(self._root, self._image)


def copy_sparse(source: str, target: str) -> None:
    """Copy a file; holes stay holes."""
    size = os.stat(source).st_size
    files.create(target, size)
    with files.opened(source) as fd:
        files.copy(fd, target, 0, size)


@pytest.fixture
def killed(tmp_path: Path) -> Killed:
    """Return what a killed process left, and which stretches of its chunks no checkpoint has brought to disk."""
    root, image = tmp_path / "a.sc", tmp_path / "b.sc"
    with sc.open(root, chunk_size=64 << 10, sync=False) as db:
        for name in ("grown", "same"):
            db.array_store(name, np.float64)[1] = [1.0]
        db.sync()
        heads = dict(db._storage.index.heads)
        for start in range(0, 4000, 1000):
            db["grown"].put_many(range(start, start + 1000), np.ones((1000, 3)))
        db.array_store("new", np.float64).new(1, SPARSE_LENGTH)
        chunks = [chunk for heap in db._storage.heaps.values() for chunk in heap.chunks.values()]
        assert len(chunks) > 4
        tails = {}
        for chunk in chunks:
            free, directory = heads.get(chunk.id, (0, chunk.header.file_size))
            if directory != chunk.directory:
                tails[os.path.basename(chunk.path)] = [(free, chunk.committed), (chunk.directory, directory)]
        copy_live(root, image, copy_function=copy_sparse)
    return image, tails


def test_all_behind_the_checkpoint_is_written_again(killed: Killed) -> None:
    image, tails = killed
    size = sum(files.disk_size(str(path)) for path in (image / "chunks").iterdir())
    assert size < SPARSE_LENGTH
    with Calls() as calls, sc.open(image, "r+") as db:
        assert db.verify() == []
    assert {call[1] for call in calls.calls if call[0] == "rewrite"} == set(tails)
    for name, stretches in tails.items():
        written = calls.of("rewrite", name)
        assert calls.of("flush", name)[-1][0] > written[-1][0]
        assert all(any(low <= start and end <= high for _, (low, high) in written) for start, end in stretches)
    assert sum(files.disk_size(str(path)) for path in (image / "chunks").iterdir()) < size + (1 << 20)


def test_nothing_is_written_again_after_a_clean_close(
    killed: Killed,
) -> None:
    image, _ = killed
    sc.open(image, "r+").close()
    with Calls() as calls, sc.open(image, "r+") as db:
        assert len(db["grown"]) == 4000
    assert calls.calls == []


def test_a_reader_writes_nothing(killed: Killed) -> None:
    image, _ = killed
    with Calls() as calls, sc.open(image, "r") as db:
        assert len(db["grown"]) == 4000
    assert calls.calls == []


def test_the_end_of_a_directory_is_zeros_on_disk_too(tmp_path: Path) -> None:
    """In memory alone they would hide from the next recovery that there is something to mend."""
    root, image = tmp_path / "a.sc", tmp_path / "b.sc"
    crash = AtSegment(root, image)
    with sc.open(root, chunk_size=64 << 10) as db:
        for name in ("a", "b"):
            db.array_store(name, np.float64)[1] = [1.0]
        db.sync()
        with Seam(crash), db.transaction() as transaction:
            for name in ("a", "b"):
                transaction[name][2] = [2.0]
    name, low = crash.name, crash.directory
    with Calls() as calls, sc.open(image, "r+") as db:
        assert [2 in db[name] for name in ("a", "b")] == [False, False]
    zeros = next(at for at, (offset, _) in calls.of("write", name) if offset > low)
    start, stop = next(call for at, call in calls.of("rewrite", name) if at > zeros)
    assert start <= low + 64 <= stop
    with sc.open(image, "r+") as db:
        assert db.verify() == []


def test_that_a_store_was_dropped_is_on_disk_before_it_goes(tmp_path: Path) -> None:
    """Else a rebuild might find the store, and not that it was dropped."""
    root, image = tmp_path / "a.sc", tmp_path / "b.sc"
    crash = AtSegment(root, image)
    with sc.open(root, chunk_size=64 << 10) as db:
        db.array_store("a", np.float64)[1] = [1.0]
        db.sync()
        with Seam(crash):
            db.drop_store("a")
    with Calls() as calls, sc.open(image, "r+") as db:
        assert list(db) == []
    done = [operation for operation, name, *_ in calls.calls if name == crash.name]
    assert "flush" in done[done.index("rewrite") : done.index("unlink")]
    sc.rebuild_index(image)
    with sc.open(image, "r+") as db:
        assert list(db) == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_where_memory_cannot_be_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A file system that does not let that be is written as ever; an error is an error."""
    path = str(tmp_path / "file")
    data = os.urandom(3 * 4096)
    Path(path).write_bytes(data)
    pwrite = os.pwrite

    def refuse(fd: int, view: memoryview, offset: int) -> int:
        if not refused:
            refused.append(bytes(view))
            raise OSError(number, os.strerror(number))
        return pwrite(fd, view, offset)

    refused: list[bytes] = []
    monkeypatch.setattr(os, "pwrite", refuse)
    if number == errno.EIO:
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            files.rewrite(path, 5000, 6000)
    else:
        files.rewrite(path, 5000, 6000)
    assert refused == [data[4096:8192]] or refused == [data]
    assert Path(path).read_bytes() == data


def test_an_error_keeps_nothing_from_being_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk does not take must not be shown any more, wherever the first error was."""
    path = str(tmp_path / "file")
    Path(path).write_bytes(bytes(3 * 4096))
    offsets = []

    def refuse(fd: int, view: memoryview, offset: int) -> int:
        offsets.append(offset)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pwrite", refuse)
    monkeypatch.setattr(files, "COPY_SIZE", 4096)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        files.rewrite(path, 0, 3 * 4096)
    assert offsets == [0, 4096, 8192]
