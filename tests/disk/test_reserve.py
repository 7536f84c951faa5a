"""A disk that is full to the last byte: what frees space works, what stores fails cleanly, and nothing is lost."""

from __future__ import annotations

import contextlib
import errno
import gc
import inspect
import os
import shutil
import subprocess
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import OpenDB
from forker import Forker, kill
from oracle import CHUNK_SIZE

import structchunk as sc
from structchunk.disk import files
from structchunk.disk.reserve import Reserve
from structchunk.engine import provision
from structchunk.index import change
from structchunk.index.growth import Growth

DISK_SIZE = 40 << 20


def run(*command: str) -> bool:
    return (
        bool(shutil.which(command[0])) and not subprocess.run(command, capture_output=True, check=False).returncode
    )


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return a small file system, where one can be mounted."""
    target, image = tmp_path / "disk", str(tmp_path / "image")
    target.mkdir()
    if request.param == "tmpfs":
        mounted = run("mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "structchunk-test", str(target))
    else:
        Path(image).touch()
        os.truncate(image, DISK_SIZE)
        mounted = run("mkfs.ext4", "-q", "-m", "0", image) and run("mount", "-o", "loop", image, str(target))
    if not mounted:
        pytest.skip("needs the right to mount a file system")
    yield str(target)
    subprocess.run(["umount", "-l", str(target)], check=True)


def fill(disk: str) -> None:
    """Take every byte that is left."""
    with open(os.path.join(disk, "ballast"), "ab", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(b"x" * size)
            except OSError:
                size //= 4


def clear(disk: str) -> None:
    os.unlink(os.path.join(disk, "ballast"))


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == errno.ENOSPC


def make(disk: str, commits: int, **options: Any) -> sc.Database:
    """Return a database of four stores, one of them empty; ``kept`` has as many records as there were commits."""
    db = sc.open(os.path.join(disk, "test.sc"), chunk_size=1 << 20, sync=False, **options)
    for name in ("kept", "one", "two", "empty"):
        db.array_store(name, "<i8")
    keys = np.random.default_rng(0).permutation(1 << 16)
    for at in range(commits):
        with db.transaction() as transaction:
            transaction["kept"][at] = [at]
            for name in ("one", "two"):
                transaction[name][int(keys[at])] = np.arange(at % 20)
    return db


def check_kept(db: sc.Database, commits: int) -> None:
    assert {key: record.tolist() for key, record in db["kept"].items()} == {at: [at] for at in range(commits)}
    assert db.verify() == []


@pytest.mark.parametrize("commits", [1, 300, 4000])
def test_all_is_freed_from_within(disk: str, commits: int) -> None:
    """Each step finds the disk full, as another program has taken what the one before gave back."""
    db = make(disk, commits)
    fill(disk)
    with no_room():
        db["empty"][0] = np.ones(1 << 20)
    for step in (
        lambda: db["one"].delete_range(0, 1 << 40),
        lambda: db.drop_store("two"),
        lambda: db.compact("one"),
        db.sync,
        db.close,
    ):
        step()
        fill(disk)
    with sc.open(db.path, "r+") as again:
        check_kept(again, commits)
        assert sorted(again) == ["empty", "kept", "one"]
        assert len(again["one"]) == 0
        again.drop_store("one")
        again.drop_store("empty")
        clear(disk)
        again["kept"][commits] = [commits]
        check_kept(again, commits + 1)
    with sc.open(db.path, "r+") as again:
        check_kept(again, commits + 1)


MAKE_AND_WAIT = f"""
from __future__ import annotations
import os, sys, time, numpy as np, structchunk as sc
{inspect.getsource(make)}
db = make(sys.argv[1], int(sys.argv[2]))
print(os.getpid(), flush=True)
time.sleep(99)
"""


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    with contextlib.closing(Forker()) as forker:
        yield forker


@pytest.mark.parametrize("commits", [1, 300, 2000])
def test_killed_and_opened(forker: Forker, disk: str, commits: int) -> None:
    """LevelDB makes a table of a log when it is opened."""
    with forker.start(MAKE_AND_WAIT, disk, str(commits)) as pipe:
        kill(int(pipe.readline()))
    fill(disk)
    with sc.open(os.path.join(disk, "test.sc"), "r+") as db:
        check_kept(db, commits)
        db.drop_store("two")
    fill(disk)
    with sc.open(db.path, "r+") as again:
        check_kept(again, commits)
        again.drop_store("one")
        assert again._storage.reserve.size > 0


def test_nothing_breaks_without_a_reserve(disk: str) -> None:
    """Whatever finds the disk full says so before it has begun, and the handle goes on to work."""
    db = make(disk, 300)
    fill(disk)
    while db._storage.reserve.give_up():
        fill(disk)
    stores = {name: {key: record.tolist() for key, record in db[name].items()} for name in db}

    def put_few() -> None:
        for key in range(10000):  # what has blocks goes into them
            db["empty"][key] = [key]

    steps: list[Callable[[], object]] = [
        lambda: db.drop_store("one"),
        lambda: db["one"].delete_range(0, 1 << 40),
        lambda: db["one"].delete(next(iter(db["one"]))),
        lambda: db.compact("one"),
        lambda: db.array_store("new", "<i8"),
        put_few,
        db.sync,
    ]
    for step in steps:
        with no_room():
            step()
        assert not db._storage.failure
        found = {name: {key: record.tolist() for key, record in db[name].items()} for name in stores}
        assert {**found, "empty": {}} == {**stores, "empty": {}}
    clear(disk)
    db.drop_store("one")
    db.compact()
    check_kept(db, 300)
    assert db._storage.reserve.size >= provision.BASE_SIZE
    db.close()
    with sc.open(db.path, "r+") as again:
        check_kept(again, 300)


def test_compact_has_no_room(disk: str) -> None:
    """It leaves the store as it was; once another one has gone there is room."""
    db = sc.open(os.path.join(disk, "test.sc"), sync=False)
    for name in ("a", "b"):
        store = db.array_store(name, "<i8")
        for key in (*range(40), *range(0, 40, 2)):  # so that there is something to compact
            store[key] = np.full(1 << 14, key)
    del store  # who holds a store keeps the disk space of its files
    fill(disk)
    before = db.stats()["a"]
    with no_room():
        db.compact("a")
    assert not db._storage.failure
    assert db.stats()["a"] == before
    db.drop_store("b")
    db.compact("a")
    assert db.stats()["a"].garbage == 0
    assert {key: int(record[0]) for key, record in db["a"].items()} == {key: key for key in range(40)}
    assert db.verify() == []
    db.close()


# ---------------------------------------------------------------------- on any disk


def test_size(open_db: OpenDB) -> None:
    """A small database has a small one; what many commits need goes when LevelDB has closed."""
    db = open_db(sync=False)
    store = db.array_store("a", "<i8")
    store[0] = np.arange(12)
    db.sync()
    path = db._storage.paths.reserve
    assert provision.BASE_SIZE <= files.disk_size(path) < 1.5 * provision.BASE_SIZE
    for key in range(3000):
        store[key] = [key]
    assert (most := files.disk_size(path)) > 8 * provision.BASE_SIZE
    db.compact()
    db.close()
    assert provision.BASE_SIZE <= files.disk_size(path) < most


def test_a_dropped_store_is_freed_without_the_collector(open_db: OpenDB) -> None:
    """Who keeps an ended transaction keeps none of it."""
    db = open_db()
    db.array_store("a", "<i8")
    with db.transaction() as kept:
        kept["a"][1] = [1]
    assert db["a"][1].tolist() == [1]
    heap = weakref.ref(db._storage.heaps["a"])
    gc.disable()
    try:
        db.drop_store("a")
        assert heap() is None
    finally:
        gc.enable()
    assert "committed" in repr(kept)


def test_a_reader_leaves_it_alone(open_db: OpenDB) -> None:
    db = open_db()
    db.array_store("a", "<i8")[1] = [1]
    db.close()
    os.unlink(db._storage.paths.reserve)
    sc.open(db.path, "r").close()
    assert not os.path.exists(db._storage.paths.reserve)


def test_an_interrupted_renewal_is_made_up_for(open_db: OpenDB, monkeypatch: pytest.MonkeyPatch) -> None:
    db = open_db(sync=False)
    store = db.array_store("a", "<i8")
    store.put_many(range(9), np.ones((9, 1), "<i8"))
    reserve = db._storage.reserve
    reserve.give_up()

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(provision, "renew", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.delete(1)
    assert reserve.is_short
    store.delete(2)
    assert not reserve.is_short
    assert reserve.size >= provision.BASE_SIZE
    assert sorted(store) == [0, *range(3, 9)]


def test_a_copy_has_none(open_db: OpenDB, tmp_path: Path) -> None:
    db = open_db()
    db.array_store("a", "<i8")[1] = [1]
    assert os.path.exists(db._storage.paths.reserve)
    db.checkpoint(tmp_path / "copy.sc")
    assert "reserve" not in os.listdir(tmp_path / "copy.sc")
    with sc.open(tmp_path / "copy.sc") as copy:
        copy["a"][2] = [2]
        assert copy.verify() == []


def spoil_missing(path: str) -> None:
    os.unlink(path)


def spoil_content(path: str) -> None:
    Path(path).write_bytes(b"anything" * 1000)


def spoil_sparse(path: str) -> None:
    os.unlink(path)
    Path(path).touch()
    os.truncate(path, 1 << 40)


def spoil_link(path: str) -> None:
    os.unlink(path)
    os.symlink("superblock", path)


def spoil_directory(path: str) -> None:
    os.unlink(path)
    os.mkdir(path)


@pytest.mark.parametrize("spoil", [spoil_missing, spoil_content, spoil_sparse, spoil_link, spoil_directory])
def test_what_is_in_its_place_does_not_matter(open_db: OpenDB, spoil: Callable[[str], None]) -> None:
    db = open_db()
    db.array_store("a", "<i8")[1] = [1]
    db.close()
    spoil(db._storage.paths.reserve)
    db = open_db()
    db["a"][2] = [2]
    db.drop_store("a")
    db.array_store("b", "<i8")[1] = [1]


def test_a_disk_that_reserves_nothing(open_db: OpenDB, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = files.reserve

    def refuse(path: str, offset: int, size: int, file: files.File | None = None) -> None:
        if os.path.basename(path) == "reserve":
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
        reserve(path, offset, size, file)

    monkeypatch.setattr(files, "reserve", refuse)
    db = open_db()
    db.array_store("a", "<i8")[1] = [1]
    db["a"].delete(1)
    db.sync()
    assert files.disk_size(db._storage.paths.reserve) == 0


def test_spending(tmp_path: Path) -> None:
    """Only a full disk takes it; what fails nevertheless does not."""
    reserve = Reserve(str(tmp_path / "reserve"))
    calls: list[int] = []

    def fail(number: int, times: int) -> Callable[[], None]:
        def work() -> None:
            calls.append(number)
            if calls.count(number) <= times:
                raise OSError(number, os.strerror(number))

        return work

    reserve.hold(1 << 20)
    reserve.spend_on(lambda: None)
    assert not reserve.is_short
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        reserve.spend_on(fail(errno.EIO, 9))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        reserve.spend_on(fail(errno.ENOSPC, 9))
    assert files.disk_size(str(tmp_path / "reserve")) >= reserve.size >= 1 << 20
    reserve.spend_on(fail(errno.EDQUOT, 1))
    assert reserve.is_short
    assert calls.count(errno.EDQUOT) == 2
    assert not os.path.exists(tmp_path / "reserve")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        reserve.spend_on(fail(errno.ENOSPC, 99))


def test_a_fold_that_waits_for_room(open_db: OpenDB, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made up for by a later commit, whose chunk may be new, so that pages name it already."""
    monkeypatch.setattr(change, "MIN_FOLD_ROWS", 8)
    db = open_db(chunk_size=CHUNK_SIZE, sync=False)
    store = db.array_store("a", "<i8")
    store.put_many(np.arange(0, 2000, 2, dtype=np.uint64), np.arange(1000)[:, None])
    has_room = Growth.has_room
    monkeypatch.setattr(Growth, "has_room", lambda growth, size: False)
    for key in range(1, 400, 2):
        store[key] = [key]
    delta = db._storage.index.store_index(store._heap.store)._delta
    assert len(delta.packed) > 100
    monkeypatch.setattr(Growth, "has_room", has_room)
    store.put_many(np.arange(0, 4000, 2, dtype=np.uint64), np.arange(0, 4000, 2)[:, None])
    assert len(db._storage.heaps["a"].chunks) > 1
    assert not delta.packed
    assert [int(record[0]) for record in store.values()] == sorted({*range(0, 4000, 2), *range(1, 400, 2)})
