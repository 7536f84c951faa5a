"""Reading what was published: it is the database, whatever is asked, and no more is fetched than that takes."""

from __future__ import annotations

import contextlib
import ctypes
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import structchunk as sc

pytest.importorskip("fsspec")

from conftest import OpenDB, check_whole
from faulty_store import FaultyStore
from mapping_contract import Kind, check_reading, check_refuses_writes, kinds
from mapping_contract import fill as fill_mapping
from published import shown_by
from support import in_child

from structchunk.cli.program import program
from structchunk.index import first_pages
from structchunk.index.stored_rows import StoredRows
from structchunk.remote import fetching, objects, remote_chunk, remote_storage

OpenUrl = Callable[..., sc.Database]
SECRET = "secret-of-the-store"


class Point(sc.Object):
    _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_double)]


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore.new()


@pytest.fixture
def open_url(store: FaultyStore, tmp_path: Path) -> Iterator[OpenUrl]:
    """``open_url(**options)`` opens what is published in the store; at the end all must verify."""
    opened: list[sc.Database] = []

    def open_one(**options: Any) -> sc.Database:
        given = {"cache": tmp_path / "cache", "storage_options": {"secret": SECRET}, **options}
        opened.append(sc.open(given.pop("url", store.url), "r", **given))
        return opened[-1]

    yield open_one
    store.delay, store.refuses, store.fail_every, store.cut_every = 0, False, 0, 0
    for db in opened:
        if not db.closed:
            with contextlib.closing(db):
                assert db.verify() == []


def fill(db: sc.Database, seed: int = 0, count: int = 300) -> None:
    """Change some of everything: regular and irregular rows, replaced and deleted ones, objects."""
    rng = np.random.default_rng(seed)
    with db.transaction() as txn:
        txn.array_store("even", "f8").put_many(np.arange(count) + count * seed, rng.random((count, 2)))
        mixed = txn.array_store("mixed", "u2")
        for key in rng.choice(10 * count, count // 10, replace=False).tolist():
            mixed[key] = np.arange(rng.integers(50))
        for key in list(mixed)[::5]:
            del mixed[key]
        txn.array_store("shaped", "f4", shape=(3,))[seed] = rng.random((5, 3))
        points = txn.object_store("points", Point)
        points.put_many(np.arange(count // 3) * 2 + seed, [Point(i, seed) for i in range(count // 3)])


def same(mine: sc.Batch, other: sc.Batch) -> bool:
    pairs = ((mine.keys, other.keys), (mine.offsets, other.offsets), (mine.values, other.values))
    return all(np.array_equal(a, b) for a, b in pairs)


def big(db: sc.Database, count: int = 100_000) -> np.ndarray[Any, Any]:
    """Store records of 64 bytes, in one go, under the keys from 0."""
    values = np.random.default_rng(1).random((count, 16)).astype("f4")
    db.array_store("big", "f4").put_many(np.arange(count), values)
    return values


# -- it is the database


@kinds
def test_a_mapping(db: sc.Database, store: FaultyStore, open_url: OpenUrl, kind: Kind) -> None:
    model = fill_mapping(kind.open(db), kind)
    db.publish(store.url)
    remote = open_url()
    check_refuses_writes(remote[kind.name], kind, model)
    with remote.snapshot() as snapshot:
        check_reading(snapshot[kind.name], kind, model)


@pytest.mark.parametrize("chunk_size", [16 << 10, 1 << 20])
def test_every_way_of_reading(open_db: OpenDB, store: FaultyStore, open_url: OpenUrl, chunk_size: int) -> None:
    db = open_db(chunk_size=chunk_size, sync=False)
    for seed in range(3):
        fill(db, seed)
    db.publish(store.url)
    names = sorted(db)
    for number, read in enumerate(
        [
            shown_by,
            lambda handle: {name: [key for key in handle[name]] for name in names},
            lambda handle: list(map(str, handle["mixed"].items(reverse=True))),
            lambda handle: handle["points"].records(10, 90).tolist(),
            lambda handle: {name: handle[name].read(5, 500).values.tolist() for name in names},
            lambda handle: {
                name: handle[name].get_many(list(handle[name])[::-3]).values.tolist() for name in names
            },
            lambda handle: [batch.values.tolist() for batch in handle["mixed"].scan(batch_size=7)],
            lambda handle: [[b.values.tolist() for b in both] for both in handle.scan("even", "mixed")],
            lambda handle: [(change.commit, change.keys.tolist()) for change in handle.changes(0)],
            lambda handle: [change.batch().values.tolist() for change in handle.changes(1, "mixed", net=True)],
            lambda handle: {name: handle.stats()[name].records for name in names},
            lambda handle: handle.first_change,
            lambda handle: list(handle["even"].map_batches(lambda batch: batch.values.sum(), 2, batch_size=50)),
            lambda handle: [(point.x, point.y) for point in handle["points"].values()],
            lambda handle: handle["even"].contains_many([1, 2, 10**9]).tolist(),
        ]
    ):
        with sc.open(store.url, "r", cache=Path(db.path).parent / f"cold-{number}") as remote:
            assert read(remote) == read(db)
            assert read(remote) == read(db)


def test_arrow(db: sc.Database, store: FaultyStore, open_url: OpenUrl) -> None:
    pa = pytest.importorskip("pyarrow")
    fill(db)
    db.publish(store.url)
    remote = open_url()
    for name in db:
        assert pa.table(remote[name]).equals(pa.table(db[name]))
    assert remote.dataset("even", "mixed").to_table().equals(db.dataset("even", "mixed").to_table())
    assert remote["points"].to_pandas().equals(db["points"].to_pandas())


def test_a_cursor(db: sc.Database, store: FaultyStore, open_url: OpenUrl) -> None:
    fill(db)
    db.publish(store.url)
    mine, other = open_url()["mixed"].cursor(), db["mixed"].cursor()
    assert mine.last() and other.last()
    while mine.prev():
        assert other.prev() and mine.key == other.key and np.array_equal(mine.value, other.value)
    assert not other.prev()


def test_zeros(db: sc.Database, store: FaultyStore, open_url: OpenUrl) -> None:
    """They are published as nothing, asked for by no request, and take no disk; nor does what became zeros."""
    db.array_store("zeros", "f8").put_many(range(100), np.zeros((100, 100)))
    db.array_store("sparse", "f8").new(1, 1 << 20)[0] = 1.0
    db.publish(store.url)
    remote = open_url()
    store.forget()
    for name in ("zeros", "sparse"):
        assert same(remote[name].read(), db[name].read())
    assert sum(request.size for request in store.log) < 1 << 17
    db["sparse"][1][0] = 0.0
    db.array_store("more", "f8")[1] = np.zeros(1000)
    db.publish(store.url)
    assert remote.refresh()
    assert same(remote["sparse"].read(), db["sparse"].read())
    assert shown_by(remote) == shown_by(db)


def test_what_it_cannot(db: sc.Database, store: FaultyStore, open_url: OpenUrl) -> None:
    fill(db)
    db.publish(store.url)
    remote = open_url()
    assert remote.path == store.url
    for write in (
        lambda: remote["even"].put(1, [1.0]),
        lambda: remote.drop_store("even"),
        remote.compact,
        remote.sync,
        lambda: remote.array_store("new", "u1"),
    ):
        with pytest.raises(sc.ReadOnlyError, match=r"can only be read.*open the database itself"):
            write()
    with pytest.raises(ValueError, match=f"{store.url} is a URL"):
        sc.rebuild_index(store.url)
    point = remote["points"][0]
    point.x = 99
    assert remote["points"][0].x == db["points"][0].x
    remote.close()
    with pytest.raises(sc.ClosedError):
        remote["even"]


def test_views_stay_valid(db: sc.Database, store: FaultyStore, open_url: OpenUrl) -> None:
    values = big(db, 10_000)
    db.publish(store.url)
    remote = open_url()
    one, many = remote["big"][77], remote["big"].read(100, 9000)
    remote.close()
    assert np.array_equal(one, values[77]) and np.array_equal(many.dense(), values[100:9000])
    assert not one.flags.writeable


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("file:///nothing", {}, "nothing is published at file:///nothing"),
        ("memory://nothing", {"mode": "a"}, "mode='r'"),
        ("memory://u:password@nothing", {"mode": "r+"}, "mode='r'"),
        ("memory://nothing", {"shared": True}, "shared"),
        ("memory://nothing", {"sync": False}, "sync"),
        ("memory://nothing", {"chunk_size": 1 << 20}, "chunk_size"),
        ("memory://nothing", {"cache_size": -1}, "cache_size"),
        ("plain", {"commit": 3}, "commit"),
        ("plain", {"storage_options": {}}, "storage_options"),
        ("plain", {"cache": "x"}, "cache"),
    ],
)
def test_what_cannot_be_opened(url: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, OSError)) as caught:
        sc.open(url, **{"mode": "r", **options})
    assert words in str(caught.value) and "password" not in str(caught.value)


@pytest.mark.parametrize("name", ["commit", "cache_size"])
def test_numbers_are_numbers(name: str) -> None:
    options: dict[str, Any] = {name: "3"}
    with pytest.raises(TypeError, match=f"{name} is an integer, found str"):
        sc.open("memory://nothing", "r", **options)


# -- commits


def test_moving_on(db: sc.Database, store: FaultyStore, open_url: OpenUrl) -> None:
    fill(db)
    db.publish(store.url)
    remote = open_url()
    for seed in range(1, 8):
        before, snapshot = shown_by(remote), remote.snapshot()
        even, scan = remote["even"], remote["even"].scan(batch_size=100)
        first = next(scan)
        fill(db, seed)
        if seed == 3:
            db.compact()
        if seed == 5:
            db.drop_store("mixed")
        assert not remote.refresh()
        db.publish(store.url)
        assert shown_by(remote) == before
        assert remote.refresh() and not remote.refresh()
        assert remote.last_commit == db.last_commit
        assert shown_by(remote) == shown_by(db)
        assert len(even) == len(db["even"])
        with snapshot:
            assert shown_by(snapshot) == before
        rest = [first, *scan]
        assert sum(map(len, rest)) * 16 == len(b"".join(before["even"].values()))
    assert remote.verify() == []


def test_a_commit_that_is_kept(db: sc.Database, store: FaultyStore, open_url: OpenUrl) -> None:
    shown = {}
    for seed in range(3):
        fill(db, seed)
        db["points"].new(1000 + seed, x=seed)
        db["points"][0].x = seed  # in place
        db.publish(store.url)
        shown[db.last_commit] = shown_by(db)
    newest = open_url()
    assert shown_by(newest) == shown[db.last_commit]
    for commit, expected in shown.items():
        old = open_url(commit=commit)
        assert old.last_commit == commit
        assert shown_by(old) == expected
        assert not old.refresh()
    assert shown_by(newest) == shown[db.last_commit]
    with pytest.raises(sc.CommitGone, match=r"does not have commit 1; it has"):
        open_url(commit=1)


def test_changes_in_place(db: sc.Database, store: FaultyStore, open_url: OpenUrl) -> None:
    points = db.object_store("points", Point)
    points.put_many(range(100), [Point(i, i) for i in range(100)])
    db.publish(store.url)
    remote = open_url()
    batch = remote["points"].read()
    assert batch.in_place and batch.values["x"][50] == 50
    points[50].x = -1
    assert db.publish(store.url).objects
    assert remote.refresh()
    assert remote["points"][50].x == -1
    assert batch.values["x"][[49, 51]].tolist() == [49, 51]


def test_another_database(db: sc.Database, open_db: OpenDB, store: FaultyStore, open_url: OpenUrl) -> None:
    fill(db)
    db.publish(store.url)
    remote = open_url()
    before = shown_by(remote)
    store.objects.clear()
    other = open_db(name="other.sc")
    fill(other, 9)
    other.publish(store.url)
    with pytest.raises(sc.FailedError, match="another database"):
        remote.refresh()
    assert shown_by(remote) == before
    remote.close()
    assert shown_by(open_url()) == shown_by(other)


def test_what_was_pruned(db: sc.Database, store: FaultyStore, open_url: OpenUrl) -> None:
    values = big(db)
    db.publish(store.url)
    remote = open_url()
    assert np.array_equal(remote["big"][1], values[1])
    db["big"].put_many(np.arange(100_000), values + 1)
    db.compact()
    db.publish(store.url)
    sc.prune(store.url, 1)
    with pytest.raises(FileNotFoundError, match="may have been pruned"):
        remote["big"][50_000]
    assert np.array_equal(remote["big"][1], values[1])
    assert remote.refresh()
    assert np.array_equal(remote["big"][50_000], values[50_000] + 1)


def test_waiting(db: sc.Database, store: FaultyStore, open_url: OpenUrl) -> None:
    fill(db)
    db.publish(store.url)
    remote = open_url()
    assert not remote.wait(0.01)
    fill(db, 1)
    db.publish(store.url)
    assert remote.wait(10) and remote.last_commit == db.last_commit


# -- copies, other processes


def test_a_copy(db: sc.Database, store: FaultyStore, open_url: OpenUrl, tmp_path: Path) -> None:
    fill(db)
    db.publish(store.url)
    remote = open_url()
    copy = tmp_path / "copy.sc"
    remote.checkpoint(copy)
    check_whole(copy)
    fill(db, 1)
    db.publish(store.url)
    remote.refresh()
    remote.checkpoint(copy, update=True)
    check_whole(copy)
    with sc.open(copy) as mine:
        assert shown_by(mine) == shown_by(db)
        fill(mine, 5)


def test_pull(db: sc.Database, store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = pytest.importorskip("click.testing").CliRunner()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    fill(db)
    db.publish(store.url)
    copy = str(tmp_path / "copy.sc")
    done = runner.invoke(program, ["pull", store.url, copy])
    assert done.exit_code == 0, done.output
    assert f"commit {db.last_commit} of {store.url}" in done.output
    check_whole(copy)
    with sc.open(copy) as mine:
        assert shown_by(mine) == shown_by(db)
    assert (tmp_path / "home" / "structchunk").is_dir()
    for command in (["info"], ["ls"], ["verify"], ["get"], ["changes", "--since", "0"]):
        done = runner.invoke(program, [command[0], store.url, *{"get": ["even", "1"]}.get(command[0], command[1:])])
        assert done.exit_code == 0, done.output


def test_pickled(db: sc.Database, store: FaultyStore, open_url: OpenUrl) -> None:
    fill(db)
    db.publish(store.url)
    remote = open_url()
    expected = shown_by(db)
    raws = [pickle.dumps(each) for each in (remote, remote.snapshot(), remote["even"])]
    fill(db, 1)
    db.publish(store.url)
    remote.refresh()
    assert shown_by(pickle.loads(raws[0])) == expected
    assert shown_by(pickle.loads(raws[1])) == expected
    assert len(pickle.loads(raws[2])) == len(expected["even"])
    pickle.loads(raws[0]).close()


def test_forked(db: sc.Database, store: FaultyStore, open_url: OpenUrl) -> None:
    fill(db)
    db.publish(store.url)
    remote = open_url()
    expected = shown_by(remote)

    def read() -> bool:
        with pytest.raises(sc.ClosedError):
            remote["even"][1]
        return shown_by(open_url()) == expected

    assert in_child(read) == "True"
    assert shown_by(remote) == expected


# -- how much is fetched


def test_requests(db_of_a_million: sc.Database, open_url: OpenUrl, store: FaultyStore) -> None:
    size = 1_000_000 * 64
    remote = open_url()
    assert store.count() <= 6
    store.forget()
    assert remote["big"][123_456].shape == (16,)
    chunk = next(iter(remote._storage.heaps["big"].chunks.values()))
    assert [request.what for request in store.log] == ["read"]
    assert store.log[0].size <= chunk._cached.published.layout.block  # type: ignore[attr-defined]
    store.forget()
    batches = list(remote["big"].scan(500_000, 510_000))
    assert sum(map(len, batches)) == 10_000
    assert sum(request.size for request in store.log) <= 0.015 * size
    store.forget()
    assert sum(map(len, remote["big"].scan(500_000, 510_000))) == 10_000
    assert store.log == []
    remote.close()
    remote = open_url()
    store.forget()
    assert sum(map(len, remote["big"].scan(500_000, 510_000))) == 10_000
    assert len(remote["big"].get_many([123_456, 505_000])) == 2
    assert store.log == []


@pytest.fixture(scope="module")
def published_million(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    store = FaultyStore.new()
    with sc.open(tmp_path_factory.mktemp("million") / "test.sc", sync=False) as db:
        big(db, 1_000_000)
        db.publish(store.url)
    return {name.partition("/")[2]: data for name, data in store.objects.items()}


@pytest.fixture
def db_of_a_million(published_million: dict[str, bytes], store: FaultyStore) -> None:
    store.objects = {f"{store.name}/{name}": data for name, data in published_million.items()}


def test_a_sweep_is_fetched_ahead(
    db_of_a_million: None, open_url: OpenUrl, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many requests go on at a time, for what comes next too; and none is for a few bytes."""
    remote = open_url()
    store.forget()
    going, most = 0, 0
    store.delay = 0.02
    read = objects.Objects.read_range

    def counted(self: objects.Objects, *arguments: Any) -> bytes:
        nonlocal going, most
        going += 1
        most = max(most, going)
        try:
            return read(self, *arguments)
        finally:
            going -= 1

    monkeypatch.setattr(objects.Objects, "read_range", counted)
    assert sum(map(len, remote["big"].scan())) == 1_000_000
    assert most >= 4
    assert store.count() <= 64_000_000 / fetching.REQUEST_SIZE + 20


def test_a_sweep_that_is_left(db_of_a_million: None, open_url: OpenUrl, store: FaultyStore) -> None:
    """What nobody goes on with costs little."""
    remote = open_url()
    store.forget()
    next(iter(remote["big"].items()))
    next(remote["big"].scan())
    assert sum(request.size for request in store.log) < 20 << 20


def test_many_keys_at_once(db_of_a_million: None, open_url: OpenUrl, store: FaultyStore) -> None:
    remote = open_url()
    store.forget()
    keys = np.random.default_rng(0).choice(1_000_000, 50, replace=False)
    assert len(remote["big"].get_many(keys)) == 50
    assert store.count() <= 50
    store.forget()
    assert len(remote["big"].get_many(np.arange(1000, 3000)[::-1])) == 2000
    assert store.count() <= 2


def test_what_lies_between_few(db_of_a_million: None, open_url: OpenUrl, store: FaultyStore) -> None:
    """Records that lie near each other come with one request, and those that do not with one each."""
    remote = open_url()
    store.forget()
    near = remote_chunk.GAP_SIZE // 128 * 3 // 4
    assert len(remote["big"].get_many([100_000, 100_000 + near, 500_000])) == 3
    assert store.count() == 2
    assert sum(request.size for request in store.log) <= 2 * remote_chunk.GAP_SIZE
    assert remote["big"][700_000] is not None
    store.forget()
    assert len(remote["big"].get_many([700_000 - near // 2, 700_000 + near // 2])) == 2
    assert store.count() == 2  # what is there already is not fetched again


def test_rows_are_not_decoded_again(
    db_of_a_million: None, open_url: OpenUrl, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of which the index was made when the database was opened are in memory still."""
    remote = open_url()
    loaded = []
    monkeypatch.setattr(StoredRows, "load", lambda *arguments, **options: loaded.append(arguments))
    assert len(remote["big"].get_many(np.arange(0, 1_000_000, 10_007))) == 100
    assert sum(map(len, remote["big"].scan(0, 990_000))) == 990_000
    assert not loaded


def test_rows_in_memory_are_not_too_many(
    tmp_path: Path, store: FaultyStore, open_url: OpenUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of all stores together."""
    keys = np.cumsum(np.random.default_rng(3).integers(1, 100, 150_000))
    with sc.open(tmp_path / "test.sc", sync=False) as db:
        for name in "abc":
            db.array_store(name, "u1").put_many(keys, np.zeros((len(keys), 1), np.uint8))
        db.publish(store.url)
        assert db.verify() == []
    monkeypatch.setattr(first_pages, "MOST_SIZE", 1_000_000)
    remote = open_url()
    assert 1_000_000 < remote._storage.index._budget.size < 2_000_000
    for name in "abc":
        assert np.array_equal(_keys(remote[name]), keys)


def _keys(store: Any) -> Any:
    return np.fromiter(store.keys(), np.uint64)


def test_rows_that_were_changed_since(db: sc.Database, store: FaultyStore, open_url: OpenUrl) -> None:
    """Whatever was published later counts, and not what is in memory of the rows that were published first."""
    rng = np.random.default_rng(5)
    first = np.unique(rng.integers(0, 1 << 40, 200_000, np.uint64))
    mine = db.array_store("a", "f4")
    mine.put_many(first, rng.random((len(first), 3)).astype("f4"))
    db.publish(store.url)
    for change in range(3):
        dense = first[199_000 - 3000 * change :][:4000]
        with db.transaction() as txn:
            txn["a"].delete_many(dense[:50])
            txn["a"].put_many(dense[50:], rng.random((len(dense) - 50, 2)).astype("f4"))
            txn["a"].put_many(np.arange(1000) + (1 << 40) + 700 * change, rng.random((1000, 2)).astype("f4"))
            if change == 2:
                txn["a"].delete_many(rng.choice(first[:100_000], 50, replace=False))
                txn["a"].put_many(rng.integers(0, 1 << 40, 30), rng.random((30, 1)).astype("f4"))
        db.publish(store.url)
        remote = open_url()
        assert len(remote._storage.manifest.rows) > 1  # type: ignore[attr-defined]
        some = np.concatenate([rng.choice(_keys(mine), 300), dense[50:150], _keys(mine)[-5:]])
        assert same(mine.get_many(some), remote["a"].get_many(some))
        for key in [*rng.choice(first, 200).tolist(), *some.tolist()]:
            assert np.array_equal(remote["a"].get(key, ()), mine.get(key, ()))
        assert np.array_equal(_keys(remote["a"]), _keys(mine))


# -- stores that fail


def test_what_passes_is_tried_again(
    db: sc.Database, store: FaultyStore, open_url: OpenUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "FIRST_DELAY", 0.001)
    for seed in range(3):
        fill(db, seed)
    db.publish(store.url)
    store.fail_every, store.cut_every = 3, 4
    remote = open_url()
    assert shown_by(remote) == shown_by(db)
    store.fail_every = store.cut_every = 0


def test_what_does_not_pass(
    db: sc.Database, store: FaultyStore, open_url: OpenUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "FIRST_DELAY", 0.001)
    values = big(db, 20_000)
    db.publish(store.url)
    remote = open_url()
    remote["big"][3]
    for fault in ({"refuses": True}, {"fail_every": 1}, {"cut_every": 1}):
        for name, value in fault.items():
            setattr(store, name, value)
        for read in (
            lambda: remote["big"][10_000],
            lambda: remote["big"].get_many([1, 19_999]),
            lambda: list(remote["big"].scan()),
            remote.refresh,
            open_url,
        ):
            with pytest.raises((OSError, sc.CorruptionError), match=store.url) as caught:
                read()
            assert SECRET not in str(caught.value)
        assert np.array_equal(remote["big"][3], values[3])
        store.refuses, store.fail_every, store.cut_every = False, 0, 0
    assert np.array_equal(remote["big"].read().dense(), values)


@pytest.mark.parametrize("what", ["flipped", "shorter", "gone"])
def test_damage(
    db: sc.Database, store: FaultyStore, open_url: OpenUrl, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "FIRST_DELAY", 0.001)
    values = big(db, 20_000)
    db.publish(store.url)
    name = max((name for name in store.objects if "/objects/" in name), key=lambda name: len(store.objects[name]))
    data = bytearray(store.objects[name])
    data[len(data) // 2] ^= 1
    whole = store.objects[name]
    store.objects[name] = bytes(data) if what == "flipped" else whole[: len(whole) // 3]
    if what == "gone":
        del store.objects[name]
    remote = open_url()
    url = f"faulty://{name}"
    with pytest.raises((sc.CorruptionError, OSError), match=url):
        remote["big"].read()
    if what == "flipped":
        assert [problem.where for problem in remote.verify()] == [url]
        assert np.array_equal(remote["big"][0], values[0])
    store.objects[name] = whole
    assert np.array_equal(remote["big"].read().dense(), values)


def test_a_damaged_index(db: sc.Database, store: FaultyStore, open_url: OpenUrl, tmp_path: Path) -> None:
    fill(db)
    db.publish(store.url)
    for name, whole in list(store.objects.items()):
        if "/manifests/" in name or "/objects/" in name:
            store.objects[name] = whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2)
            with contextlib.suppress(sc.CorruptionError), open_url(cache=tmp_path / name[-9:]) as remote:
                assert remote.verify() != [], name
            store.objects[name] = whole
    assert shown_by(open_url()) == shown_by(db)


def test_threads(db: sc.Database, store: FaultyStore, open_url: OpenUrl) -> None:
    from concurrent.futures import ThreadPoolExecutor

    values = big(db)
    db.publish(store.url)
    remote = open_url()
    store.delay = 0.002
    store.forget()

    def read(seed: int) -> bool:
        keys = np.random.default_rng(seed).choice(100_000, 300, replace=False)
        return np.array_equal(remote["big"].get_many(keys).dense(), values[keys])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(32)))
    assert sum(request.size for request in store.log) < 2 * values.nbytes


def test_the_index_is_brought_forward(
    db: sc.Database, store: FaultyStore, open_url: OpenUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To move on costs by what is new, not by what there is."""
    rng = np.random.default_rng(0)
    temps = db.array_store("temps", "f4")
    temps.put_many(rng.choice(1 << 40, 20_000, replace=False), rng.random((20_000, 2)))
    db.publish(store.url)
    remote = open_url()
    made: list[Any] = []
    create = remote_storage.create_index
    monkeypatch.setattr(remote_storage, "create_index", lambda *given: made.append(given) or create(*given))
    for number in range(12):
        temps.put_many(rng.choice(1 << 40, 100, replace=False), rng.random((100, 2)))
        temps.delete_many(list(temps.keys())[: 10 * number])
        db.publish(store.url)
        store.forget()
        assert remote.refresh()
        assert sum(request.size for request in store.log) < 200_000
        assert np.array_equal(remote["temps"].read().values, temps.read().values)
        assert len(remote["temps"]) == len(temps)
    assert len(made) <= 2


def test_published_again_from_there(db: sc.Database, store: FaultyStore, open_url: OpenUrl) -> None:
    fill(db)
    db.publish(store.url)
    remote, other = open_url(), FaultyStore.new()
    remote.publish(other.url)
    assert shown_by(open_url(url=other.url)) == shown_by(db)
    fill(db, 1)
    db.publish(other.url)
    assert shown_by(open_url(url=other.url)) == shown_by(db)
