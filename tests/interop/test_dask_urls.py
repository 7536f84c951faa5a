"""Dask over what is published: workers have no data directory in common, and a cache each."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.bag
import distributed
import numpy as np
import pytest

import structchunk as sc
from structchunk import dask as scd
from structchunk.remote.prune import remove_all
from structchunk.remote.remote_storage import Address
from structchunk.shards import sets
from structchunk.shards.manifest import NAME
from structchunk.shards.places import Location

pytest.importorskip("s3fs")

from conftest import OpenDB
from faulty_store import FaultyStore, Killed
from object_servers import SECRET, Server

# Dask 2025.1 warns of this where a test asks for no cluster.
pytestmark = pytest.mark.filterwarnings("ignore:Running on a single-machine scheduler")

COUNT = 40_000
KEYS = np.cumsum(np.random.default_rng(5).integers(1, 1 << 30, COUNT)).astype(np.uint64)
LENGTHS = np.random.default_rng(6).integers(0, 40, COUNT)
VALUES = np.random.default_rng(7).normal(size=LENGTHS.sum())


FETCHED: Counter[str] = Counter()


class Apart(distributed.WorkerPlugin):
    """Gives each worker's process directories that no other one has, and counts what it fetches."""

    def __init__(self, base: str) -> None:
        self.base = base

    def setup(self, worker: distributed.Worker) -> None:
        import s3fs

        home = os.path.join(self.base, str(os.getpid()))
        os.makedirs(home)
        os.environ.update(XDG_CACHE_HOME=os.path.join(home, "cache"))
        tempfile.tempdir = home
        read = s3fs.S3FileSystem._cat_file

        async def counted(self: Any, *arguments: Any, **options: Any) -> Any:
            data = await read(self, *arguments, **options)
            FETCHED["bytes"] += len(data)
            FETCHED["requests"] += 1
            return data

        s3fs.S3FileSystem._cat_file = counted


def fetched() -> dict[str, int]:
    """Return what a worker has fetched since this was last called."""
    counts = dict(FETCHED)
    FETCHED.clear()
    return counts


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the workers have their directories."""
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def client(client: distributed.Client, homes: Path) -> Iterator[distributed.Client]:
    """The same, of processes that have nothing in common."""
    client.register_plugin(Apart(str(homes)), name="apart")
    yield client
    client.unregister_worker_plugin("apart")


@pytest.fixture
def buckets(s3: Server) -> Callable[[], str]:
    """Return URLs at which nothing is."""
    return lambda: s3.new_url(f"bucket-{os.urandom(6).hex()}")


@pytest.fixture
def options(s3: Server, tmp_path: Path) -> dict[str, Any]:
    """What reads and writes here are given: this process has a cache of its own, too."""
    return {"storage_options": s3.options}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Where shards are made before they are published: in memory, if other files of tests are.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def db(open_db: OpenDB) -> sc.Database:
    """A database of ragged arrays, and of arrays for every other key."""
    db = open_db(sync=False)
    db.array_store("a", "f8").put_many(KEYS, VALUES, LENGTHS)
    db.array_store("b", "i4").put_many(KEYS[::2], np.arange(COUNT, dtype="i4").reshape(-1, 2))
    return db


def sums(batch: sc.Batch) -> tuple[bytes, bytes]:
    return batch.keys.tobytes(), batch.reduce(np.add).tobytes()


def all_sums(pairs: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """Return keys and sums end to end, however the records were cut into batches."""
    made = list(pairs)
    return b"".join(keys for keys, _ in made), b"".join(sums for _, sums in made)


# ---------------------------------------------------------------- reading


def test_workers_fetch_their_ranges_of_one_commit(
    client: distributed.Client, db: sc.Database, buckets: Callable[[], str], options: dict[str, Any], homes: Path
) -> None:
    url = buckets()
    db.publish(url, **options)
    wanted = all_sums(map(sums, db["a"].scan()))
    bag = scd.read(url, "a", partitions=8, **options)
    assert bag.npartitions == 8
    db["a"].put_many(KEYS, np.zeros((COUNT, 1)))
    db.compact()
    db.publish(url, **options)

    client.run(fetched)
    assert all_sums(bag.map(sums).compute()) == wanted
    counts = client.run(fetched)
    assert all(count["bytes"] for count in counts.values())
    index = 1 << 20
    assert sum(count["bytes"] for count in counts.values()) < 1.1 * VALUES.nbytes + 2 * index
    assert len([home for home in homes.iterdir() if list((home / "cache").rglob("chunks"))]) == 2

    again = scd.read(url, "a", "b", partitions=3, **options)
    assert sum(again.map(lambda batches: int(batches[0].values.any())).compute()) == 0
    with pytest.raises(sc.StoreNotFound, match="nothing"):
        scd.read(url, "nothing", partitions=3, **options)


def test_a_range_costs_what_it_has(
    client: distributed.Client, db: sc.Database, buckets: Callable[[], str], options: dict[str, Any]
) -> None:
    url = buckets()
    db.publish(url, **options)
    bag = scd.read(url, "a", partitions=8, **options)
    (first, *_) = bag.to_delayed(optimize_graph=False)
    client.run(fetched)
    assert sum(map(len, first.compute())) < COUNT / 7
    assert sum(count.get("bytes", 0) for count in client.run(fetched).values()) < VALUES.nbytes / 8 + (1 << 20)


def test_a_data_frame(
    client: distributed.Client, db: sc.Database, buckets: Callable[[], str], options: dict[str, Any]
) -> None:
    url = buckets()
    db.publish(url, **options)
    frame = scd.read_frame(url, "a", "b", partitions=4, **options)
    assert frame.npartitions == 4
    assert len(frame) == COUNT // 2
    some = frame.loc[int(KEYS[100]) : int(KEYS[200])].compute()
    assert some.index.tolist() == KEYS[100:201:2].tolist()
    assert some["b"].iloc[3] == [106, 107]


def test_a_commit_that_is_pruned_is_gone(db: sc.Database, buckets: Callable[[], str], options: Any) -> None:
    url = buckets()
    db.publish(url, **options)
    part = next(iter(scd.read(url, "a", partitions=1, **options).dask.values()))
    db["a"][1] = [1.0]
    db.publish(url, **options)
    sc.prune(url, **options)
    with scd._latest_readers[-1]:
        pass
    with pytest.raises(sc.CommitGone, match=url):
        list(part)


def test_errors_name_the_url_and_no_secret(db: sc.Database, buckets: Callable[[], str], options: Any) -> None:
    url = buckets()
    with pytest.raises(FileNotFoundError, match=f"nothing is published at {url}"):
        scd.read(url, "a", partitions=2, **options)
    db.publish(url, **options)
    wrong = {**options["storage_options"], "secret": "not-the-secret-4711"}
    with pytest.raises(PermissionError, match=url) as caught:
        scd.read(url, "a", partitions=2, storage_options=wrong)
    assert "4711" not in repr(caught.value)
    with pytest.raises(ValueError, match=r"cache: for what was published, and .* is no URL"):
        scd.read(db.path, "a", partitions=2, cache="here")
    bag = scd.read(url, "a", partitions=2, **options)
    (part, *_) = bag.dask.values()
    assert SECRET not in repr(part) + str(bag.dask) + "".join(map(str, bag.dask))
    assert len(pickle.dumps(part)) < 1000
    assert len(cloudpickle.dumps(dict(bag.dask))) < 5000


# ---------------------------------------------------------------- writing


def scaled(batch: sc.Batch) -> sc.Batch:
    return sc.Batch(batch.keys, batch.offsets, batch.values * 2, batch.kind)


def test_write_and_read_again(
    client: distributed.Client, db: sc.Database, buckets: Callable[[], str], options: dict[str, Any], homes: Path
) -> None:
    url, copy = buckets(), buckets()
    db.publish(url, **options)
    bag = scd.read(url, "a", partitions=4, **options)
    scd.write(bag.map(scaled), copy, {"a": "f8"}, **options)
    assert not list(homes.rglob("shard-*"))  # nothing stays on the workers
    doubled = [(keys, (np.frombuffer(sums) * 2).tobytes()) for keys, sums in map(sums, db["a"].scan())]

    again = scd.read(copy, "a", partitions=3, **options)
    assert again.npartitions == 3
    assert all_sums(again.map(sums).compute()) == all_sums(doubled)
    assert len(scd.read_frame(f"{copy}/{NAME}", "a", partitions=2, **options)) == COUNT
    with sc.open_shards(copy, **options) as shards:
        assert shards.path == copy
        assert SECRET not in repr(shards)
        assert all_sums(map(sums, shards["a"].scan())) == all_sums(doubled)
        assert np.array_equal(shards["a"][int(KEYS[7])], db["a"][int(KEYS[7])] * 2)
        found = shards["a"].get_many(KEYS[::5000])
        with pickle.loads(pickle.dumps(shards)) as other:
            assert np.array_equal(other["a"].get_many(KEYS[::5000]).values, found.values)
        assert shards.verify() == []
    with pytest.raises(FileExistsError, match=f"something is published at {copy}"):
        scd.write(bag, copy, {"a": "f8"}, **options)
    with pytest.raises(FileExistsError, match=f"something is published at {url}"):
        scd.write(bag, url, {"a": "f8"}, **options)


def die_once(marker: str, batch: sc.Batch) -> sc.Batch:
    """Kill the worker when it has published its shard, before anybody knows, the first time that any does it."""
    publish = sc.Database.publish

    def publish_and_die(*arguments: Any) -> Any:
        done = publish(*arguments)
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return done
        os.kill(os.getpid(), signal.SIGKILL)

    sc.Database.publish = publish_and_die  # type: ignore[assignment, method-assign]
    return batch


def test_a_shard_is_published_once(
    client: distributed.Client, db: sc.Database, buckets: Callable[[], str], options: dict[str, Any], tmp_path: Path
) -> None:
    url, copy = buckets(), buckets()
    db.publish(url, **options)
    bag = scd.read(url, "a", partitions=3, **options).map(partial(die_once, str(tmp_path / "killed")))
    try:
        scd.write(bag, copy, {"a": "f8"}, **options)
    finally:
        client.restart()
    assert (tmp_path / "killed").exists()
    with sc.open_shards(copy, **options) as shards:
        assert shards.verify() == []
        assert all_sums(map(sums, shards["a"].scan())) == all_sums(map(sums, db["a"].scan()))


# ---------------------------------------------------------------- failures, in memory


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore.new()


@pytest.fixture
def one_process() -> Iterator[None]:
    with dask.config.set(scheduler="sync"):
        yield


def publish_more(url: str) -> None:
    """Publish another commit of what was published."""
    with tempfile.TemporaryDirectory() as directory:
        with sc.open(url, "r") as shown:
            shown.checkpoint(os.path.join(directory, "copy.sc"))
        with sc.open(os.path.join(directory, "copy.sc"), "r+") as copy:
            copy["a"][1000] = [1.0]
            copy.publish(url)


def blocks(count: int = 3) -> dask.bag.Bag:
    items = [(np.arange(i, 60, count), np.full((len(range(i, 60, count)), 1), float(i))) for i in range(count)]
    return dask.bag.from_sequence(items, npartitions=count)


WORDS = re.compile(r"^.*/data/(shard-\d{5})-[0-9a-f]{8}/.*$")


def shards_at(store: FaultyStore) -> set[str]:
    """Return the numbers of shards of which anything is there."""
    return {found[1] for name in store.objects if (found := WORDS.match(name))}


@pytest.mark.usefixtures("one_process")
def test_write_to_a_store_that_fails_now_and_then(store: FaultyStore) -> None:
    store.fail_every, store.cut_every = 5, 7
    scd.write(blocks(), store.url, {"a": "f8"})
    with sc.open_shards(store.url) as shards:
        assert [(key, value.tolist()) for batch in shards["a"].scan() for key, value in batch] == [
            (key, [key % 3]) for key in range(60)
        ]
        assert shards.verify() == []
    assert shards_at(store) == {f"shard-{i:05}" for i in range(3)}


@pytest.mark.usefixtures("one_process")
def test_a_failure_leaves_nothing(store: FaultyStore) -> None:
    taken = dask.bag.from_sequence([[1, 2], [5], [2, 3]], npartitions=3).map(
        lambda keys: (keys, np.zeros((len(keys), 1)))
    )
    with pytest.raises(ValueError, match=r"key 2 of store 'a' is in shard-00000-\w+ and shard-00002-\w+"):
        scd.write(taken, store.url, {"a": "f8"})
    assert not store.objects
    with pytest.raises(TypeError, match="the bag has int for a store"):
        scd.write(dask.bag.from_sequence([([1], [[2.0]]), 7], npartitions=2), store.url, {"a": "f8"})
    assert not store.objects
    with pytest.raises(FileNotFoundError, match=f"no manifest of shards at {store.url}/{NAME}"):
        sc.open_shards(store.url)
    with pytest.raises(ValueError, match="storage_options: for what was published"):
        scd.write(taken, "here", {"a": "f8"}, storage_options={})


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("kill_after", [False, True])
def test_whenever_the_caller_is_killed_there_are_all_shards_or_none(kill_after: bool) -> None:
    done = FaultyStore.new()
    scd.write(blocks(2), done.url, {"a": "f8"})
    whole = 0
    total = len(done.log)
    for number in [*range(0, total - 6, 7), *range(total - 6, total)]:
        store = FaultyStore.new()
        store.kill_at, store.kill_after = number, kill_after
        with pytest.raises(Killed):
            scd.write(blocks(2), store.url, {"a": "f8"})
        left = store.copy()
        try:
            shards = sc.open_shards(left.url)
        except FileNotFoundError:
            continue
        whole += 1
        with shards:
            assert len(shards["a"]) == 60
            assert shards.verify() == []
    assert whole == kill_after


@pytest.mark.usefixtures("one_process")
def test_of_two_sets_at_once_one_is_there(store: FaultyStore) -> None:
    def write_another(what: str, name: str) -> None:
        if what == "create" and name.endswith(NAME):
            store.before = None
            scd.write(blocks(2), store.url, {"a": "f8"})

    store.before = write_another
    with pytest.raises(FileExistsError, match="something is published"):
        scd.write(blocks(3), store.url, {"a": "f8"})
    assert len(shards_at(store)) == 2
    with sc.open_shards(store.url) as shards:
        assert "2 databases" in repr(shards)
        assert shards.verify() == []


@pytest.mark.usefixtures("one_process")
def test_a_lost_answer_removes_no_shard_of_a_set_that_is_there(store: FaultyStore) -> None:
    """Of the manifest nobody knows whether it was written."""

    def refuse(what: str, name: str) -> None:
        store.refuses = what in ("read", "create") and name.endswith(NAME) and NAME in str(store.log[-1:])

    def lose(what: str, name: str) -> None:
        if what == "create" and name.endswith(NAME):
            store.before, store.lose_answer_every = refuse, 1

    store.before = lose
    with contextlib.suppress(OSError):
        scd.write(blocks(2), store.url, {"a": "f8"})
    store.before, store.lose_answer_every, store.refuses = None, 0, False
    with sc.open_shards(store.url) as shards:
        assert shards.verify() == []


def test_a_part_that_is_made_twice_is_what_was_there_first(store: FaultyStore) -> None:
    place = Location(Address(store.url))
    first = sets.publish_shard(place, "word", 0, lambda db: db.array_store("a", "f8").put(1, [1.0]))
    again = sets.publish_shard(place, "word", 0, lambda db: db.array_store("a", "f8").put(2, [2.0, 3.0]))
    assert first == again
    assert len(sc.published(f"{store.url}/{first.path}")) == 1
    with sc.open(f"{store.url}/{first.path}", "r") as db:
        assert list(db["a"]) == [1]


@pytest.mark.parametrize("damage", ["gone", "changed", "manifest"])
@pytest.mark.usefixtures("one_process")
def test_shards_that_are_not_what_was_written(store: FaultyStore, damage: str) -> None:
    scd.write(blocks(2), store.url, {"a": "f8"})
    with sc.open_shards(store.url) as shards:
        (shard, *_) = [shard.path for shard in shards._manifest.shards]
    if damage == "gone":
        remove_all(f"{store.url}/{shard}", None)
    elif damage == "manifest":
        name = next(name for name in store.objects if name.endswith(f"data/{NAME}"))
        store.objects[name] = store.objects[name].replace(b"1", b"2")
    else:
        publish_more(f"{store.url}/{shard}")
    with pytest.raises(sc.CorruptionError, match=store.url), sc.open_shards(store.url) as shards:
        list(shards["a"].scan())
