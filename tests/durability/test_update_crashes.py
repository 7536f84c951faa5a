"""A copy that is being brought forward opens as of its old commit or the new one, whatever is killed or fails."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from kill_workers import Killer
from live_copy import copy_live
from oracle import CHUNK_SIZE, Contents, contents, is_possible, shrink
from recorded_files import KILL, Cut, Event, Recorder, Seam, SyncedWrites, build, draw_cut

import structchunk as sc
from structchunk.disk import files
from structchunk.index.leveldb import LevelDB

NewRoot = Callable[[], str]
KILLED = -9
HINTS = ("tail", "reserve", "lock", "LOG", "LOG.old", "LOCK")
"""Files that say nothing of what a database holds."""


class Point(sc.Object):
    _fields_ = [("x", ctypes.c_double), ("n", ctypes.c_int64)]


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch.setattr, has_hundreds_of_rows=True)
        yield


# ---------------------------------------------------------------------- what happens between two updates


def fill(db: sc.Database) -> None:
    plain = db.array_store("plain", "f8")
    for start in range(0, 1500, 300):
        plain.put_many(range(start, start + 300, 5), np.arange(start * 3, start * 3 + 900.0).reshape(60, 15))
    plain.delete_range(100, 200)
    db.object_store("points", Point).put_many(range(100), [(key, -key) for key in range(100)])
    mixed = db.array_store("mixed", "i4")
    mixed.new(1, 3000)[:] = 7
    mixed.put_many(range(10, 200, 5), np.arange(570).reshape(38, 15))
    db.array_store("passing", "u1").put(1, [1])
    db["passing"].attrs["n"] = 5


def grow(db: sc.Database) -> None:
    with db.transaction() as transaction:
        transaction["plain"].put_many(range(10**6, 10**6 + 40), np.full((40, 3), 8))
        transaction["mixed"].put(10, [1])
    db["points"][3] = Point(9, 9)
    db["plain"].delete_range(0, 30)


def add_chunks(db: sc.Database) -> None:
    db["plain"].put_many(range(10**6, 10**6 + 1500, 5), np.full((300, 15), 8))
    db.array_store("new", "u1").put(1, [1])


def change_in_place(db: sc.Database) -> None:
    for point in db["points"].values():
        point.n = 99
    db["mixed"][1][50:] = 99
    db["points"].new(1000, x=5)
    db["points"][1000].n = 7


def compact(db: sc.Database) -> None:
    db["plain"].delete_range(200, 600)
    db["points"].delete_range(0, 50)
    db.compact()
    grow(db)


def compact_twice(db: sc.Database) -> None:
    """What was in the chunks in between is nowhere: no tombstone is left of what was deleted."""
    compact(db)
    db["plain"].delete_range(0, 1200)
    db.compact()
    db.compact()


def drop(db: sc.Database) -> None:
    for name in ("plain", "passing"):
        db.drop_store(name)
    db.object_store("plain", Point).put_many(range(40), [(key, key) for key in range(40)])


def alter(db: sc.Database) -> None:
    """Fields in another order of bytes, so that a record is the old one or the new one, and never half of each."""
    db.alter_store("plain", ">f8")
    db.attrs["n"] = 1
    db["plain"].attrs["n"] = [2]
    grow(db)


CHANGES = [grow, add_chunks, change_in_place, compact, compact_twice, drop, alter]


# ---------------------------------------------------------------------- what is recorded


class Scene(NamedTuple):
    """A database, its copy as it was before an update, and what both hold.

    ``is_mutable`` tells whether records have changed in place.
    """

    db: sc.Database
    before: str
    old: Contents
    new: Contents
    is_mutable: bool
    known: dict[tuple[object, bytes], bool]

    def once(self, check: Callable[[Scene, str], bool], root: str) -> bool:
        """Return what a check says of a directory, which is not checked again if one that is the same was."""
        key = check, digest(root)
        if key not in self.known:
            self.known[key] = check(self, root)
        return self.known[key]

    def is_new(self, root: str) -> bool:
        """Tell whether a copy is as of the new commit, having checked that it is of that or the old one, whole."""
        return self.once(is_new, root)

    def judge(self, found: Contents) -> bool:
        """Tell whether something found is the new state; it must be that, or the old one.

        Only what may change in place may be of both.
        """
        if found == self.new:
            return True
        assert {name: found[name].keys() for name in found} == {name: self.old[name].keys() for name in self.old}
        for name, records in found.items():
            for key, record in records.items():
                options = [self.old[name][key]]
                if self.is_mutable and (name == "points" or (name, key) == ("mixed", 1)):
                    options.append(self.new[name][key])
                assert is_possible(record, tuple(options)), (name, key)
        return False


def digest(root: str) -> bytes:
    """Return what tells a directory from others; hints do not count."""
    found = hashlib.blake2b(digest_size=16)
    for folder, folders, names in os.walk(root):
        folders.sort()
        found.update(f"{folder.removeprefix(root)}: ".encode())
        for name in sorted({*names} - {*HINTS}):
            with open(f"{folder}/{name}", "rb") as file:
                raw = file.read()
            found.update(f"{name} {len(raw)} ".encode())
            found.update(raw)
    return found.digest()


def is_new(scene: Scene, root: str) -> bool:
    with sc.open(root, "r") as copy:
        assert copy.verify() == []
        found = contents(copy)
    return scene.judge(found)


@pytest.fixture(scope="module", params=CHANGES, ids=lambda change: change.__name__)
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One scene for each kind of change; the database's epoch is a later one than its copy's."""
    base = tmp_path_factory.mktemp("scene")
    root, dest = str(base / "test.sc"), str(base / "before.sc")
    with sc.open(root, chunk_size=CHUNK_SIZE, sync=False) as db:
        fill(db)
        db.checkpoint(dest)
        old = contents(db)
    with sc.open(root, chunk_size=CHUNK_SIZE, sync=False) as db:
        request.param(db)
        yield Scene(db, dest, old, contents(db), request.param is change_in_place, {})
        assert db.verify() == []


def is_below(root: str, args: tuple[Any, ...]) -> bool:
    """Tell whether an operation is on a file of a database, or on its index."""
    paths = [getattr(arg, "path", arg) for arg in args]
    return any(isinstance(path, str) and f"{path}/".startswith(f"{root}/") for path in paths)


class CopyRecorder(Recorder):
    """Records what happens to a copy, and nothing of the database."""

    def _record(self, operation: str, args: tuple[Any, ...], done: bool) -> None:
        if is_below(self._root, args):
            super()._record(operation, args, done)

    def _note_flushed(self, operation: str, args: tuple[Any, ...]) -> None:
        """Note what is on disk, files that were linked too: of the database those that its checkpoint has there."""
        if operation == "link" and os.path.exists(args[1]):  # else the file system has none, or is another one
            inode = os.stat(args[1]).st_ino
            self._data[inode] = self._data[inode][-1:]
        super()._note_flushed(operation, args)

    def note_synced_write(self, leveldb: LevelDB) -> None:
        """Note that LevelDB has flushed the log that it writes to."""
        if is_below(self._root, (leveldb,)):
            super().note_synced_write(leveldb)


def recorded(scene: Scene, dest: str) -> list[Event]:
    """Bring a copy forward, and return what happened to its files; the mark says whether it was done."""
    done = [False]
    recorder = CopyRecorder(dest, lambda: done[0])
    with recorder, SyncedWrites(recorder):
        scene.db.checkpoint(dest, update=True)
        done[0] = True
        files.make_directory(f"{dest}/later")  # one event more
    return recorder.events


def check_image(scene: Scene, event: Event, cut: Cut, new_root: NewRoot, seed: object) -> bool:
    """Build what a crash leaves of a copy, and check it in every way; tell whether it is as of the new commit."""
    root = new_root()
    build(event, cut, random.Random(f"{seed}"), root)
    try:
        is_indexed = cut.index == "keep" and not (cut.logs == "hole" and is_index_damaged(root))
        return check_copy(scene, root, is_done=event.mark, is_indexed=is_indexed)
    except BaseException as error:
        error.args = (f"{event.label}, {cut}, seed {seed!r}: {error}", *error.args[1:])
        raise
    finally:
        shutil.rmtree(root)


def is_index_damaged(root: str) -> bool:
    """Tell whether the index must be made anew, as that of any database with a hole in one of LevelDB's logs."""
    try:
        sc.open(root, "r").close()
    except sc.CorruptionError as error:
        assert "rebuild_index" in str(error)
        return True
    return False


def check_copy(scene: Scene, root: str, *, is_done: bool, is_indexed: bool) -> bool:
    """Check a copy in every way, and tell whether it is as of the new commit."""
    is_new = scene.once(check_indexed if is_indexed else is_new_once_rebuilt, root)
    assert is_new or not is_done
    return is_new


def is_new_once_rebuilt(scene: Scene, root: str) -> bool:
    sc.rebuild_index(root)
    return scene.is_new(root)


def check_indexed(scene: Scene, root: str) -> bool:
    is_new = scene.is_new(root)
    check_opened(scene, shutil.copytree(root, f"{root}-opened"), is_new=is_new)
    check_rebuilt(scene, shutil.copytree(root, f"{root}-rebuilt"))
    scene.db.checkpoint(root, update=True)
    assert scene.is_new(root)
    assert not os.path.lexists(f"{root}/update")
    assert check_rebuilt(scene, shutil.copytree(root, f"{root}-rebuilt")) == {True}
    return is_new


def check_opened(scene: Scene, root: str, *, is_new: bool) -> None:
    """Open a copy for writing, write, lose the index, and make it anew."""
    with sc.open(root, "r+", chunk_size=CHUNK_SIZE) as copy:
        assert copy.verify() == []
        assert scene.judge(contents(copy)) == is_new
        copy["plain"].delete(1295)
        expected = contents(copy)
    with sc.open(root, "r+") as copy:
        assert copy.verify() == []
        assert contents(copy) == expected
    lose_index(root)
    sc.rebuild_index(root)
    with sc.open(root, "r+") as copy:
        assert copy.verify() == []
        assert contents(copy) == expected
    shutil.rmtree(root)


def check_rebuilt(scene: Scene, root: str) -> set[bool]:
    """Make the index anew beside the one that is there, and without one; tell as of which commits it is then."""
    bare = shutil.copytree(root, f"{root}-bare")
    lose_index(bare)
    found = {scene.once(is_new_once_rebuilt, path) for path in (root, bare)}
    for path in (root, bare):
        shutil.rmtree(path)
    return found


def lose_index(root: str) -> None:
    for path in Path(root).glob("index-*"):
        shutil.rmtree(path)


# ---------------------------------------------------------------------- kills and power cuts


@pytest.mark.timeout(0)
def test_killed_at_every_change(scene: Scene, new_root: NewRoot, seed: int, budget: float) -> None:
    events = recorded(scene, shutil.copytree(scene.before, new_root()))
    assert len(events) > 30
    chosen = sorted({*random.Random(seed).sample(range(len(events)), min(len(events), round(8 * budget)))})
    states = [check_image(scene, events[at], KILL, new_root, seed) for at in [*chosen, len(events) - 1]]
    assert states == sorted(states)  # first the old one, then the new one
    assert states[-1]


@pytest.mark.timeout(0)
def test_power_cuts(scene: Scene, new_root: NewRoot, seed: int, budget: float) -> None:
    events = recorded(scene, shutil.copytree(scene.before, new_root()))
    rng = random.Random(seed)
    for at in [*rng.choices(range(len(events)), k=round(8 * budget)), len(events) - 1]:
        check_image(scene, events[at], draw_cut(rng), new_root, f"{seed} {at}")


@pytest.mark.timeout(0)
def test_crashes_of_an_update_after_a_crash(scene: Scene, new_root: NewRoot, seed: int, budget: float) -> None:
    events = recorded(scene, shutil.copytree(scene.before, new_root()))
    rng = random.Random(seed)
    for at in rng.choices(range(len(events)), k=round(2 * budget)):
        root = new_root()
        cut = draw_cut(rng)._replace(index="keep")
        build(events[at], cut, random.Random(at), root)
        is_new = scene.is_new(shutil.copytree(root, new_root()))
        again = recorded(scene, root)
        for later in rng.choices(range(len(again)), k=4):
            found = check_image(scene, again[later], draw_cut(rng), new_root, f"{seed} {at} {cut} {later}")
            assert found or not is_new or again[later].mark is False


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    with contextlib.closing(Killer()) as killer:
        yield killer


@pytest.mark.timeout(0)
def test_processes_that_are_killed(
    killer: Killer, scene: Scene, new_root: NewRoot, seed: int, budget: float
) -> None:
    base = new_root()
    os.mkdir(base)
    scene.db.sync()
    copy_live(scene.db.path, f"{base}/test.sc", "readers")

    def put_back() -> str:
        shutil.rmtree(f"{base}/copy.sc", ignore_errors=True)
        return shutil.copytree(scene.before, f"{base}/copy.sc")

    dest = put_back()
    job = {"task": "update", "root": f"{base}/test.sc", "has_hundreds_of_rows": True}
    whole = killer.run(**job)
    assert whole["status"] == 0
    assert scene.is_new(dest)
    every = range(1, whole["events"] + 1)
    for at in sorted(random.Random(seed).sample(every, min(len(every), round(4 * budget)))):
        put_back()
        assert killer.run(**job, stop_at=at)["status"] == KILLED
        check_copy(scene, dest, is_done=False, is_indexed=True)


# ---------------------------------------------------------------------- faults


class Fault(Seam):
    """Raises an OSError in place of an operation of a given number on the copy."""

    def __init__(self, dest: str, at: int, number: int) -> None:
        super().__init__(self._maybe_fail)
        self.count = 0
        self._dest = dest
        self._at = at
        self._number = number

    def _maybe_fail(self, operation: str, args: tuple[Any, ...], done: bool) -> None:
        if is_below(self._dest, args) and not done and operation not in ("remove_tree", "LevelDB.close"):
            self.count += 1
            if self.count == self._at:
                raise OSError(self._number, os.strerror(self._number), operation)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_any_operation_fails(scene: Scene, new_root: NewRoot, seed: int, budget: float, number: int) -> None:
    """Then the copy is the old or the new one, the database works on, and the next update succeeds."""
    dest = shutil.copytree(scene.before, new_root())
    with Fault(dest, 0, number) as counted:
        scene.db.checkpoint(dest, update=True)
    assert counted.count > 10
    every = range(1, counted.count + 1)
    for at in sorted(random.Random(seed + number).sample(every, min(len(every), round(5 * budget)))):
        dest = shutil.copytree(scene.before, new_root())
        with contextlib.suppress(OSError), Fault(dest, at, number):
            scene.db.checkpoint(dest, update=True)
        check_copy(scene, dest, is_done=False, is_indexed=True)
    assert scene.db.verify() == []


# ---------------------------------------------------------------------- readers


@pytest.mark.timeout(0)
def test_readers_at_every_change(scene: Scene, new_root: NewRoot) -> None:
    """Who has the copy open goes on with the old commit, and who opens it finds one of the two, whole."""
    dest = shutil.copytree(scene.before, new_root())
    states: list[bool] = []
    is_busy = False

    def check(operation: str, args: tuple[Any, ...], done: bool) -> None:
        nonlocal is_busy
        if done or is_busy or not is_below(dest, args):  # after one change it is as before the next one
            return
        is_busy = True
        try:
            states.append(scene.is_new(dest))
            assert not scene.judge(contents(before))
        finally:
            is_busy = False

    with sc.open(dest, "r") as before:
        with Seam(check):
            scene.db.checkpoint(dest, update=True)
        states.append(scene.is_new(dest))
        assert before.verify() == []
        before.refresh()
        assert scene.judge(contents(before))
        assert before.verify() == []
    assert len(states) > 20
    assert states == sorted(states)
    assert not states[0]
    assert states[-1]
