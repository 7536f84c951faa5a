"""Publishing: what is uploaded is the commit, byte by byte, and only what is new."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import structchunk as sc

pytest.importorskip("fsspec")

from conftest import OpenDB
from faulty_store import FaultyStore, url_of
from published import check_published, newest, records_of, shown_by


class Point(sc.Object):
    _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_double)]


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore.new()


@pytest.fixture(params=["faulty", "memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path, store: FaultyStore) -> str:
    return url_of(request.param, tmp_path, store)


def fill(db: sc.Database, seed: int = 0, count: int = 300) -> None:
    """Change some of everything: regular and irregular rows, replaced and deleted ones."""
    rng = np.random.default_rng(seed)
    with db.transaction() as txn:
        even = txn["even"] if "even" in txn else txn.array_store("even", "f8")
        even.put_many(np.arange(count) + count * seed, rng.random((count, 2)))
        mixed = txn.array_store("mixed", "u2")
        for key in rng.choice(10 * count, count // 10, replace=False).tolist():
            mixed[key] = np.arange(rng.integers(50))
        for key in list(mixed)[::5]:
            del mixed[key]


def test_what_is_published_is_the_commit(open_db: OpenDB, url: str) -> None:
    db = open_db(chunk_size=64 << 10, sync=False)
    fill(db)
    done = db.publish(url)
    manifest = check_published(url, db)
    assert done.commit == db.last_commit == manifest.commit
    assert done.objects == len(manifest.objects) + 1
    assert sc.published(url) == [db.last_commit]
    assert db.publish(url) == (db.last_commit, 0, 0)
    assert newest(url)[1].pack() == manifest.pack()


def test_an_empty_database(db: sc.Database, url: str) -> None:
    db.publish(url)
    check_published(url, db)
    db.array_store("none", "f8")
    db.publish(url)
    assert check_published(url, db).catalog.keys() == {"none"}


@pytest.mark.parametrize("chunk_size", [16 << 10, 1 << 20])
def test_one_after_another(open_db: OpenDB, url: str, chunk_size: int) -> None:
    db = open_db(chunk_size=chunk_size, sync=False)
    points = db.object_store("points", Point)
    expected = {}
    for seed in range(12):
        fill(db, seed)
        points.new(seed, x=seed)
        if seed == 4:
            db.drop_store("mixed")
        if seed == 5:
            db["even"].attrs["unit"] = "K"
        if seed == 6:
            db.alter_store("even", "c16")
            db.drop_store("mixed")
        if seed == 7:
            db.compact()
        if seed == 9:
            db.compact("even")
        db.publish(url)
        expected[check_published(url, db).number] = shown_by(db)
    objects, manifest = newest(url)
    assert len(manifest.rows) <= 3
    from structchunk.remote.publications import read_manifest

    for number, shown in expected.items():
        assert records_of(objects, read_manifest(objects, number)) == shown


def test_records_that_change_in_place(db: sc.Database, url: str) -> None:
    points = db.object_store("points", Point)
    first = points.new(1, x=1.0)
    for key in range(2, 1000):
        points.new(key, x=key)
    db.publish(url)
    before = check_published(url, db)
    first.y = 7.0
    done = db.publish(url)
    after = check_published(url, db)
    assert (after.number, after.commit) == (before.number + 1, before.commit)
    assert done.objects == 2
    assert sc.published(url) == [db.last_commit]
    assert db.publish(url).objects == 0


def test_sparse_arrays_stay_sparse(open_db: OpenDB, store: FaultyStore) -> None:
    db = open_db(sync=False)
    array = db.array_store("sparse", "f8").new(1, 4 << 20)
    array[1_000_000:1_000_100] = 1.0
    assert db.publish(store.url).bytes < 100_000
    check_published(store.url, db)
    array[2_000_000] = 1.0
    array[1_000_000:1_000_100] = 0.0
    assert db.publish(store.url).objects == 2
    manifest = check_published(store.url, db)
    assert sum(len(chunk.extents) for chunk in manifest.chunks.values()) < 10
    array[2_000_000] = 0.0
    db.publish(store.url)
    check_published(store.url, db)
    assert db.publish(store.url).objects == 0


def test_a_reader_publishes_beside_a_writer(open_db: OpenDB, store: FaultyStore) -> None:
    db = open_db(chunk_size=64 << 10, sync=False)
    fill(db)
    reader = open_db("r")
    fill(db, 1)
    with db.transaction() as txn:
        txn["even"].put(1 << 40, [1.0])
        done = reader.publish(store.url)
        assert done.commit == reader.last_commit == db.last_commit - 1
        objects, manifest = newest(store.url)
        assert records_of(objects, manifest) == shown_by(reader)
    reader.refresh()
    reader.publish(store.url)
    check_published(store.url, db)
    fill(db, 2)
    assert db.publish(store.url).objects == 3  # by another handle, upon what the first one has published
    check_published(store.url, db)
    db.compact()
    fill(db, 3)
    reader.refresh()
    reader.publish(store.url)
    check_published(store.url, db)


def test_a_shared_handle_publishes(open_db: OpenDB, store: FaultyStore) -> None:
    one, other = open_db(shared=True, sync=False), open_db(shared=True, sync=False)
    fill(one)
    other.publish(store.url)
    fill(other, 1)
    one.publish(store.url)
    check_published(store.url, other)


def test_writers_go_on_while_a_commit_is_published(open_db: OpenDB, store: FaultyStore) -> None:
    db = open_db(chunk_size=16 << 10, sync=False)
    fill(db)
    expected = shown_by(db)
    commit = db.last_commit

    def write(what: str, name: str) -> None:
        store.before = None
        fill(db, 1)
        db.compact()
        fill(db, 2)

    store.before = write
    db.publish(store.url)
    # What came before the commit was fixed may be in it: the first request is made before.
    assert newest(store.url)[1].commit > commit
    store.before = lambda what, name: write(what, name) if what == "write" else None
    fill(db, 3)
    expected, commit = shown_by(db), db.last_commit
    db.publish(store.url)
    objects, manifest = newest(store.url)
    assert manifest.commit == commit
    assert records_of(objects, manifest) == expected
    db.publish(store.url)
    check_published(store.url, db)


def test_chunks_that_go_while_they_are_needed_begin_it_anew(open_db: OpenDB, store: FaultyStore) -> None:
    """Of chunks that have not changed none is opened; if one is needed all the same, it may have gone."""
    db = open_db(chunk_size=16 << 10, sync=False)
    fill(db)
    db.publish(store.url)
    import structchunk.remote.publish as publishing

    taken = publishing.take

    def take(*arguments: Any) -> Any:
        found = taken(*arguments)
        publishing.take = taken  # type: ignore[attr-defined]
        db.compact()
        return found

    fill(db, 1)
    publishing.take = take  # type: ignore[attr-defined]
    try:
        db.publish(store.url)
    finally:
        publishing.take = taken  # type: ignore[attr-defined]
    db.publish(store.url)
    check_published(store.url, db)


def test_progress(db: sc.Database, store: FaultyStore) -> None:
    fill(db)
    reports: list[tuple[int, int]] = []
    db.publish(store.url, progress=lambda done, total: reports.append((done, total)))
    assert reports[0][0] == 0
    assert reports[-1][0] == reports[-1][1] > 0


# ---------------------------------------------------------------------- what is refused


def test_another_database_is_refused(open_db: OpenDB, store: FaultyStore) -> None:
    one, other = open_db(sync=False), open_db(name="other.sc")
    one.array_store("a", "f8")
    other.array_store("a", "f8")
    one.publish(store.url)
    with pytest.raises(sc.NotACopy, match=r"faulty://.* is database .* give another URL"):
        other.publish(store.url)
    check_published(store.url, one)


def test_an_older_commit_is_refused(open_db: OpenDB, store: FaultyStore) -> None:
    db = open_db(sync=False)
    fill(db)
    reader = open_db("r")
    fill(db, 1)
    db.publish(store.url)
    with pytest.raises(sc.NotACopy, match=r"refresh\(\)"):
        reader.publish(store.url)
    reader.refresh()
    assert reader.publish(store.url).objects == 0


@pytest.mark.parametrize("more", [0, 1])
def test_another_history_is_refused(open_db: OpenDB, store: FaultyStore, tmp_path: Path, more: int) -> None:
    db = open_db(sync=False)
    fill(db)
    db.checkpoint(tmp_path / "copy.sc")
    copy = open_db(name="copy.sc", sync=False)
    fill(db, 1)
    fill(copy, 2)
    db.publish(store.url)
    for seed in range(more):
        fill(copy, 3 + seed)
    with pytest.raises(sc.NotACopy, match="not in this database's history"):
        copy.publish(store.url)
    fill(db, 4)
    db.publish(store.url)
    check_published(store.url, db)


def test_a_copy_goes_on(open_db: OpenDB, store: FaultyStore, tmp_path: Path) -> None:
    """A copy of a later commit has the same history, and what is published is brought forward from it."""
    db = open_db(sync=False)
    fill(db)
    db.publish(store.url)
    fill(db, 1)
    db.checkpoint(tmp_path / "copy.sc")
    copy = open_db(name="copy.sc", sync=False)
    done = copy.publish(store.url)
    assert done.objects == 3
    check_published(store.url, copy)


def test_closed(db: sc.Database, store: FaultyStore) -> None:
    db.close()
    with pytest.raises(sc.ClosedError):
        db.publish(store.url)
    assert not store.log


# ---------------------------------------------------------------------- how much


def million(open_db: OpenDB) -> sc.Database:
    db = open_db(sync=False)
    rng = np.random.default_rng(0)
    keys = np.sort(rng.integers(0, 1 << 40, 1_001_000)).astype(np.uint64)
    store = db.array_store("temps", "f8")
    lengths = rng.integers(1, 4, len(keys))
    store.put_many(keys, rng.random(int(lengths.sum())), lengths)
    return db


@pytest.mark.parametrize("scattered", [False, True])
def test_a_thousand_records_more(open_db: OpenDB, store: FaultyStore, scattered: bool) -> None:
    """At most 1 MB and 10 requests, again and again; and few objects, whatever was published before."""
    db = million(open_db)
    rng = np.random.default_rng(1)
    db.publish(store.url)
    for number in range(20):
        new = rng.integers(0, 1 << 40, 1000) if scattered else (1 << 41) + number * 1000 + np.arange(1000)
        db["temps"].put_many(np.sort(new).astype(np.uint64), rng.random((1000, 2)))
        store.forget()
        done = db.publish(store.url)
        assert len(store.log) <= 10
        assert done.bytes <= 1 << 20
        assert sum(request.size for request in store.log if request.what in ("write", "create")) <= 1 << 20
    manifest = newest(store.url)[1]
    assert len(manifest.rows) <= 3
    assert len(manifest.objects) < 16
    assert max(len(chunk.extents) for chunk in manifest.chunks.values()) < 32


def test_what_readers_need_to_open(open_db: OpenDB, store: FaultyStore) -> None:
    """Three requests find the newest manifest, and it has three objects with rows at most."""
    db = million(open_db)
    for number in range(3):
        db["temps"][number] = [1.0]
        db.publish(store.url)
    store.forget()
    _, manifest = newest(store.url)
    assert len(store.log) + len(manifest.rows) <= 6


def test_compaction_uploads_what_it_wrote(open_db: OpenDB, store: FaultyStore) -> None:
    db = open_db(chunk_size=64 << 10, sync=False)
    kept = db.array_store("kept", "f8")
    kept.put_many(np.arange(5000), np.zeros((5000, 10)))
    fill(db)
    db.publish(store.url)
    db.compact("mixed")
    done = db.publish(store.url)
    assert done.bytes < 100_000
    check_published(store.url, db)


def test_many_small_ones_become_few_objects(open_db: OpenDB, store: FaultyStore) -> None:
    db = open_db(chunk_size=1 << 20, sync=False)
    temps = db.array_store("temps", "f8")
    sent = 0
    for number in range(150):
        temps.put_many(np.arange(200) + 200 * number, np.random.default_rng(number).random((200, 1)))
        sent += db.publish(store.url).bytes
    manifest = check_published(store.url, db)
    assert len(manifest.objects) < 16
    assert sum(len(chunk.extents) for chunk in manifest.chunks.values()) < 32
    assert sent < 150 * 100_000


# ---------------------------------------------------------------------- credentials


def test_no_credential_is_published_or_told(db: sc.Database, store: FaultyStore) -> None:
    secret = "hush-hush-4711"
    fill(db)
    db.publish(store.url, {"secret": secret})
    assert not any(secret.encode() in data for data in store.objects.values())
    _, manifest = newest(store.url)
    import gzip

    assert secret not in json.dumps(json.loads(gzip.decompress(manifest.pack())))
    store.refuses = True
    for call in publishing_calls(db, store, {"secret": secret}):
        with pytest.raises(PermissionError, match=r"faulty://store-\d+/data") as caught:
            call()
        assert secret not in str(caught.value)
        assert caught.value.__suppress_context__


def publishing_calls(db: sc.Database, store: FaultyStore, options: dict[str, Any]) -> list[Callable[[], object]]:
    return [
        lambda: db.publish(store.url, options),
        lambda: sc.published(store.url, storage_options=options),
        lambda: sc.prune(store.url, storage_options=options),
    ]
