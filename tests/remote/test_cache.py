"""The cache: what is in it is what was published, whatever was killed, full, started again or removed meanwhile."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import OpenDB

import structchunk as sc

pytest.importorskip("fsspec")

from faulty_store import FaultyStore
from interrupts import Interrupter
from support import count_descriptors, in_child

from structchunk.disk import files
from structchunk.process import workers
from structchunk.remote import cached_chunk, fetching
from structchunk.remote.fetching import wait

COUNT = 8000


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore.new()


@pytest.fixture
def values(db: sc.Database, store: FaultyStore) -> np.ndarray[Any, Any]:
    """What is published: half a megabyte, in several chunk files."""
    made = np.random.default_rng(1).random((COUNT, 16)).astype("f4")
    for first in range(0, COUNT, 1000):
        db.array_store("a", "f4").put_many(np.arange(first, first + 1000), made[first : first + 1000])
    db.publish(store.url)
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def is_right(remote: sc.Database, values: np.ndarray[Any, Any]) -> bool:
    return np.array_equal(remote["a"].read().values, values.reshape(-1))


def chunk_directories(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/chunks/*"))


# -- what is there is not fetched again


def test_handles_share_it(store: FaultyStore, values: Any, cache: Path) -> None:
    with sc.open(store.url, "r", cache=cache) as one, sc.open(store.url, "r", cache=cache) as other:
        assert is_right(one, values)
        store.forget()
        assert is_right(other, values)
        assert store.log == []
        assert in_child(lambda: is_right(sc.open(store.url, "r", cache=cache), values)) == "True"
        assert store.log == []


def test_a_later_publication_shares_it(db: sc.Database, store: FaultyStore, values: Any, cache: Path) -> None:
    with sc.open(store.url, "r", cache=cache) as remote:
        assert is_right(remote, values)
        db["a"][COUNT] = values[0]
        db.publish(store.url)
        with sc.open(store.url, "r", cache=cache) as newer:
            store.forget()
            assert is_right(newer, np.concatenate([values, values[:1]]))
            assert is_right(remote, values)
            assert sum(request.size for request in store.log) < 20_000
        store.forget()
        assert remote.refresh()
        assert is_right(remote, np.concatenate([values, values[:1]]))
        assert store.count("read") <= 6


def test_the_default_directory(
    store: FaultyStore, values: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    with sc.open(store.url, "r") as remote:
        assert is_right(remote, values)
    assert chunk_directories(tmp_path / "xdg" / "structchunk")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with sc.open(store.url, "r") as remote:
        assert is_right(remote, values)
    assert chunk_directories(tmp_path / "home" / ".cache" / "structchunk")


def test_nothing_private_is_left(store: FaultyStore, values: Any, cache: Path) -> None:
    remote = sc.open(store.url, "r", cache=cache, storage_options={"secret": "the-secret"})
    assert is_right(remote, values)
    remote.close()
    assert list(cache.glob("*/readers/*")) == []
    for path in cache.rglob("*"):
        assert path.is_dir() or b"the-secret" not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0 or path == cache


# -- how much is kept


def test_it_is_bounded(db: sc.Database, store: FaultyStore, values: Any, cache: Path) -> None:
    other = FaultyStore.new()
    db.publish(other.url)
    with sc.open(store.url, "r", cache=cache) as remote:
        assert is_right(remote, values)
        held = chunk_directories(cache)
        with sc.open(other.url, "r", cache=cache, cache_size=0) as second:
            assert set(held) <= set(chunk_directories(cache)), "nothing goes under a handle"
            assert is_right(second, values)
        store.forget()
        assert is_right(remote, values)
        assert store.log == []
    with sc.open(other.url, "r", cache=cache, cache_size=0) as second:
        assert not set(held) & set(chunk_directories(cache))
        assert is_right(second, values)
    with sc.open(store.url, "r", cache=cache) as remote:
        assert is_right(remote, values)


def test_what_was_used_last_stays(store: FaultyStore, values: Any, cache: Path) -> None:
    with sc.open(store.url, "r", cache=cache) as remote:
        assert is_right(remote, values)
    directories = chunk_directories(cache)
    for number, directory in enumerate(directories):
        for path in directory.iterdir():
            os.utime(path, (number, number))
    size = sum(files.disk_size(str(path)) for directory in directories[1:] for path in directory.iterdir())
    size += sum(files.disk_size(str(path)) for path in cache.glob("*/rows/*"))
    with sc.open(store.url, "r", cache=cache, cache_size=size) as remote:
        store.forget()
        assert np.array_equal(remote["a"][COUNT - 1], values[COUNT - 1])
        assert store.log == []
        assert np.array_equal(remote["a"][0], values[0])
        assert store.count("read") == 1


def test_it_may_be_removed(store: FaultyStore, values: Any, cache: Path) -> None:
    with sc.open(store.url, "r", cache=cache) as remote:
        assert is_right(remote, values)
    shutil.rmtree(cache)
    with sc.open(store.url, "r", cache=cache) as remote:
        assert is_right(remote, values)
    for path in [*cache.glob("*/chunks/*/*"), *cache.glob("*/rows/*")][::2]:
        path.unlink()
    with sc.open(store.url, "r", cache=cache) as remote:
        assert is_right(remote, values)


# -- kills, power cuts


class DyingFile(files.File):
    """Dies at a chosen write: before it, in the middle, or after it."""

    at = 0
    how = "before"
    count = 0

    def write(self, offset: int, data: Any) -> None:
        DyingFile.count += 1
        if DyingFile.count == DyingFile.at:
            if DyingFile.how != "before":
                size = len(data) if DyingFile.how == "after" else len(data) // 2
                super().write(offset, memoryview(data).cast("B")[:size])
            os.kill(os.getpid(), signal.SIGKILL)
        super().write(offset, data)


@pytest.mark.parametrize("how", ["before", "middle", "after"])
def test_kills(store: FaultyStore, values: Any, cache: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that fetches is killed at each of its writes; the next one goes on with what there is."""
    monkeypatch.setattr(fetching, "REQUEST_SIZE", 8192)
    for at in range(1, 40, 3):
        pid = os.fork()
        if pid == 0:
            DyingFile.at, DyingFile.how, DyingFile.count = at, how, 0
            cached_chunk.files.File = DyingFile  # type: ignore[misc]
            is_right(sc.open(store.url, "r", cache=cache), values)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        with sc.open(store.url, "r", cache=cache) as remote:
            for key in range(0, COUNT, 997):
                assert np.array_equal(remote["a"][key], values[key])
            if at % 2:
                assert is_right(remote, values)
                assert remote.verify() == []
                shutil.rmtree(cache)


def test_kills_at_any_time(store: FaultyStore, values: Any, cache: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    store.delay = 0.0005
    for _ in range(15):
        pid = os.fork()
        if pid == 0:
            remote = sc.open(store.url, "r", cache=cache)
            while True:
                is_right(remote, values)
        threading.Event().wait(float(rng.random()) * 0.1)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with sc.open(store.url, "r", cache=cache) as remote:
            assert is_right(remote, values)
            assert remote.verify() == []
        for directory in chunk_directories(cache)[::2]:
            shutil.rmtree(directory)


def test_two_processes_at_a_time(store: FaultyStore, values: Any, cache: Path) -> None:
    store.delay = 0.001
    pids = []
    for seed in range(4):
        pid = os.fork()
        if pid == 0:
            remote = sc.open(store.url, "r", cache=cache)
            keys = np.random.default_rng(seed).permutation(COUNT)
            good = all(np.array_equal(remote["a"][key], values[key]) for key in keys[:500].tolist())
            os._exit(0 if good and is_right(remote, values) else 1)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    with sc.open(store.url, "r", cache=cache) as remote:
        assert remote.verify() == []


def test_after_a_power_cut(store: FaultyStore, values: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said before the machine was started counts only if the bytes are there."""
    with sc.open(store.url, "r", cache=cache) as remote:
        assert is_right(remote, values)
    lost = chunk_directories(cache)[1] / "chunk"
    size = lost.stat().st_size
    with lost.open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(5000))
    monkeypatch.setattr(cached_chunk, "boot_tag", lambda: 12345)
    with sc.open(store.url, "r", cache=cache) as remote:
        store.forget()
        assert is_right(remote, values)
        assert 1 <= store.count("read") <= 2
    with sc.open(store.url, "r", cache=cache) as remote:
        store.forget()
        assert is_right(remote, values)
        assert store.log == []


@pytest.mark.parametrize("left", ["shorter", "no header", "nothing said"])
def test_files_that_a_power_cut_left(store: FaultyStore, values: Any, cache: Path, left: str) -> None:
    with sc.open(store.url, "r", cache=cache) as remote:
        assert is_right(remote, values)
    for directory in chunk_directories(cache):
        if left == "shorter":
            os.truncate(directory / "chunk", 4096)
        elif left == "no header":
            (directory / "chunk").write_bytes(bytes((directory / "chunk").stat().st_size))
        else:
            os.truncate(directory / "blocks", 0)
    for path in cache.glob("*/rows/*"):
        path.write_bytes(bytes(path.stat().st_size))
    with sc.open(store.url, "r", cache=cache) as remote:
        assert is_right(remote, values)


# -- full disks


class FullFile(files.File):
    """Has no room from some write on."""

    room = 0

    def write(self, offset: int, data: Any) -> None:
        FullFile.room -= 1
        if FullFile.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(offset, data)


def test_no_room(store: FaultyStore, values: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "REQUEST_SIZE", 8192)
    for room in range(0, 60, 7):
        monkeypatch.setattr(cached_chunk.files, "File", FullFile)
        with sc.open(store.url, "r", cache=cache / str(room)) as remote:
            FullFile.room = room
            with pytest.raises(OSError, match="the cache of what was published needs room") as caught:
                is_right(remote, values)
            assert caught.value.errno == errno.ENOSPC
            assert str(cache) in str(caught.value)
            FullFile.room = 1 << 30
            for _ in range(500):  # who reads the same at that time is told, too
                with contextlib.suppress(OSError):
                    assert is_right(remote, values)
                    break
                threading.Event().wait(0.01)
            assert remote.verify() == []


def read_all(url: str, cache: Path) -> Any:
    """Read all that is published through a cache; return what is wrong in it, or the number of the error."""
    try:
        with sc.open(url, "r", cache=cache) as remote:
            for batch in remote["a"].scan(batch_size=500):
                batch.values.sum()
            list(remote.changes(0))
            return remote.verify()
    except OSError as error:
        return error.errno


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system in memory, where reading what was never written takes room, too."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "structchunk-test", str(path)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk(db: sc.Database, tmp_path: Path) -> None:
    values = np.random.default_rng(1).random((20_000, 16)).astype("f4")
    db.array_store("a", "f4").put_many(np.arange(20_000), values)
    url = f"file://{tmp_path}/published"
    db.publish(url)
    with small_disk(tmp_path / "disk", "3m") as disk:
        filler = disk / "filler"
        for size in range(0, 3 << 20, 300_000):
            filler.write_bytes(bytes(size)) if size < 2_800_000 else None
            said = in_child(lambda: read_all(url, disk / "cache"))
            assert said in (str(errno.ENOSPC), "[]"), size
            shutil.rmtree(disk / "cache", ignore_errors=size % 600_000 == 0)


def fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_a_disk_that_is_full_where_a_directory_ends(open_db: OpenDB, tmp_path: Path) -> None:
    """Below it comes a block that was never written, which is read to find that nothing is there."""
    keys = np.cumsum(np.random.default_rng(1).integers(1, 1 << 40, 508)).astype(np.uint64)
    db = open_db(sync=False)
    db.array_store("a", "f4").put_many(keys, [[1.0] * (1 + at % 7) for at in range(508)])
    (chunk,) = db._storage.heaps["a"].chunks.values()
    assert chunk.directory % 8192 == 0  # a block of it
    url = f"file://{tmp_path}/published"
    db.publish(url)

    def verify_when_it_is_full() -> Any:
        with sc.open(url, "r", cache=disk / "cache") as remote:
            for there in remote._storage.heaps["a"].chunks.values():
                wait(there.fetch_all())
            fill(disk / "filler")
            try:
                return remote.verify()
            except OSError as error:
                return error.errno

    with small_disk(tmp_path / "disk", "8m") as disk:
        assert in_child(verify_when_it_is_full) == str(errno.ENOSPC)


# -- interrupts


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of those that meet a finaliser
def test_interrupts(store: FaultyStore, values: Any, cache: Path, seed: int, budget: float) -> None:
    """Ctrl-C at any instant of a fetch: the handle works on, and no other thread waits for ever."""
    interrupter = Interrupter()

    def read(number: int) -> Callable[[], None]:
        def call() -> None:
            remote = opened[0]
            remote["a"][number % COUNT]
            remote["a"].get_many([(number + 1500) % COUNT, (number + 3100) % COUNT])
            next(remote["a"].scan((number + 5000) % COUNT, batch_size=100))

        return call

    opened = [sc.open(store.url, "r", cache=cache / "first")]
    instants = len(interrupter.watch(read(0)))
    opened[0].close()
    chosen = np.random.default_rng(seed).integers(1, instants + 1, round(60 * budget)).tolist()
    for number, instant in enumerate(chosen):
        opened[0] = sc.open(store.url, "r", cache=cache / str(number))
        for _ in range(4):
            error = interrupter.interrupt(read(331 * number), instant)
            assert error is None or isinstance(error, KeyboardInterrupt), error
        read(331 * number)()
        assert is_right(opened[0], values)
        opened[0].close()
        shutil.rmtree(cache / str(number))


def test_threads_end(store: FaultyStore, values: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "IDLE", 0.01)
    own = workers.Workers(4)
    monkeypatch.setattr(fetching, "WORKERS", own)
    with sc.open(store.url, "r", cache=cache) as remote:
        assert is_right(remote, values)
    for _ in range(500):
        if not own._count:
            break
        threading.Event().wait(0.02)
    assert own._count == 0


EXIT = """
import sys, structchunk as sc
sys.path[:0] = sys.argv[1:2]
from faulty_store import FaultyStore
store = FaultyStore.new()
db = sc.open(sys.argv[2], sync=False)
db.array_store("a", "u1").put_many(range(1000), bytes(1000), [1] * 1000)
db.publish(store.url)
remote = sc.open(store.url, "r", cache=sys.argv[3])
store.delay = 60
heap = remote._storage.heaps["a"]
heap.begin(list(remote._binding("a").runs(0, 1000)))
print("done")
"""


def test_the_end_of_the_program(tmp_path: Path) -> None:
    """It does not wait for what is being fetched."""
    helpers = str(Path(__file__).parent.parent / "helpers")
    command = [sys.executable, "-c", EXIT, helpers, str(tmp_path / "db.sc"), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=40)
    assert (done.returncode, done.stdout) == (0, "done\n"), done


def test_descriptors(store: FaultyStore, values: Any, cache: Path) -> None:
    with sc.open(store.url, "r", cache=cache) as remote:
        is_right(remote, values)
    del remote
    gc.collect()
    before = count_descriptors()
    for _ in range(5):
        with sc.open(store.url, "r", cache=cache) as remote:
            is_right(remote, values)
        del remote
        gc.collect()
    assert count_descriptors() <= before
