"""Options of the slow sweeps, and databases that are checked when the test is done with them."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import hypothesis
import object_servers
import pytest

import structchunk as sc

OpenDB: TypeAlias = Callable[..., sc.Database]
MEMORY = "/dev/shm"
DISK = tempfile.gettempdir()
ROOM = 4 << 30
"""Free bytes that it must have, to be used: in a container it may have next to none."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="what random sweeps begin with")
    parser.addoption("--budget", type=float, default=0.5, help="how much work sweeps do; 1 is twice the usual")


def pytest_configure(config: pytest.Config) -> None:
    examples = max(1, round(140 * config.getoption("--budget")))  # where a test says nothing else
    hypothesis.settings.register_profile("structchunk", max_examples=examples, deadline=None, print_blob=True)
    hypothesis.settings.load_profile("structchunk")
    if is_memory_for_files():  # where a flush costs nothing; with --basetemp all is written there
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)
        tempfile.tempdir = MEMORY
    # Dask's workers are forked from one process that has imported it, which takes longer than most of these tests.
    os.environ.setdefault("DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD", "forkserver")


def pytest_collection(session: pytest.Session) -> None:
    """Collect no garbage while the tests are found: next to nothing of what is made then is any."""
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Take what the modules of all tests have imported out of what each garbage collection looks at."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Do so after each module, too: what its tests import, and what is kept for the next ones, stays."""
    yield
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def is_memory_for_files() -> bool:
    """Tell whether files can be put into memory."""
    if not os.access(MEMORY, os.W_OK):
        return False
    status = os.statvfs(MEMORY)
    return status.f_bavail * status.f_bsize >= ROOM


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """What random sweeps begin with: --seed."""
    return int(request.config.getoption("--seed"))


@pytest.fixture
def budget(request: pytest.FixtureRequest) -> float:
    """How many times the usual work sweeps do: --budget."""
    return float(request.config.getoption("--budget"))


def check_whole(path: Any) -> None:
    """Reopen a database, and find nothing wrong in it."""
    with sc.open(path, "r+") as db:
        assert db.verify() == []


@pytest.fixture
def open_db(tmp_path: Path) -> Iterator[OpenDB]:
    """``open_db(mode="a", *, name="test.sc", **options)``; at the end all must verify, and again when reopened."""
    opened: list[sc.Database] = []

    def open_one(mode: str = "a", *, name: str = "test.sc", **options: Any) -> sc.Database:
        opened.append(sc.open(tmp_path / name, mode, **options))
        return opened[-1]

    yield open_one
    for db in opened:
        if not db.closed:
            try:
                assert db.verify() == []
            finally:
                db.close()
    for path in {db.path for db in opened}:
        check_whole(path)


@pytest.fixture
def db(open_db: OpenDB) -> sc.Database:
    """A new database of small chunks whose commits do not wait for the disk."""
    return open_db(chunk_size=16 << 10, sync=False)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object_servers.Server]:
    """A real server of object storage, started when a test first asks for it."""
    with object_servers.seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of Dask with two worker processes of one thread; the scheduler runs in this one."""
    import distributed

    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": "localhost:0"}
    directory = str(tmp_path_factory.mktemp("dask"))
    with (
        distributed.LocalCluster(**options, local_directory=directory) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def disk_path() -> Iterator[Path]:
    """A directory that is not in memory, where to read a hole of a file fills it."""
    with tempfile.TemporaryDirectory(dir=DISK) as path:
        yield Path(path)


@pytest.fixture
def disk_db(disk_path: Path, open_db: OpenDB) -> sc.Database:
    """A database as ``db``, on a disk."""
    return open_db(name=str(disk_path / "test.sc"), chunk_size=16 << 10, sync=False)


@pytest.fixture
def new_root(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Return paths that are not taken, in memory if that is possible, even with --basetemp."""
    base = tempfile.mkdtemp(dir=MEMORY if is_memory_for_files() else tmp_path)
    numbers = itertools.count()
    yield lambda: os.path.join(base, f"root-{next(numbers)}")
    shutil.rmtree(base)
