"""Publishing to real servers that speak S3: requests and bytes, conditions, errors, and what is kept there."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import structchunk as sc

pytest.importorskip("s3fs")

import object_servers
from conftest import OpenDB
from object_servers import KEY, SECRET, Server
from published import check_published, newest

_numbers = itertools.count()


def new_url(server: Server) -> str:
    return server.new_url(f"bucket-{next(_numbers)}")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The requests that s3fs makes, by what they are."""
    import s3fs

    counted: Counter[str] = Counter()
    original = s3fs.S3FileSystem._call_s3

    async def count(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        counted[method] += 1
        return await original(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", count)
    return counted


def fill(db: sc.Database, seed: int, count: int = 1000) -> None:
    rng = np.random.default_rng(seed)
    db.array_store("temps", "f8").put_many(np.sort(rng.integers(0, 1 << 40, count)), rng.random((count, 2)))


def publish_all_ways(db: sc.Database, url: str, options: dict[str, Any]) -> None:
    for seed in range(3):
        fill(db, seed)
        db.publish(url, options)
        check_published(url, db, options)
    db.compact()
    db.publish(url, options)
    manifest = check_published(url, db, options)
    assert len(sc.published(url, storage_options=options)) == 4
    assert sc.prune(url, keep=2, storage_options=options).publications == 2
    assert sc.prune(url, storage_options=options).commits == [db.last_commit]
    objects, _ = newest(url, options)
    assert set(objects.names("objects/")) == {each.name for each in manifest.objects.values()}
    check_published(url, db, options)


def test_seaweed(db: sc.Database, s3: Server) -> None:
    url = new_url(s3)
    publish_all_ways(db, url, s3.options)
    assert newest(url, s3.options)[1].exclusive


def test_a_million_and_a_thousand(open_db: OpenDB, s3: Server, calls: Counter[str]) -> None:
    """At most 1 MB and 10 requests for a thousand more; six to find out what there is to be read."""
    db = open_db(sync=False)
    fill(db, 0, 1_000_000)
    url = new_url(s3)
    db.publish(url, s3.options)
    for seed in range(3):
        fill(db, 1 + seed, 1000)
        calls.clear()
        done = db.publish(url, s3.options)
        assert calls.total() <= 10, calls
        assert done.bytes <= 1 << 20
    calls.clear()
    _, manifest = newest(url, s3.options)
    assert calls == {"get_object": 3}
    assert len(manifest.rows) <= 3
    check_published(url, db, s3.options)


def test_of_two_one_starts_again(open_db: OpenDB, s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server refuses the second manifest of a number."""
    from structchunk.remote import claim

    db = open_db(sync=False)
    url = new_url(s3)
    fill(db, 0)
    db.publish(url, s3.options)
    reader = open_db("r")
    fill(db, 1)
    reader.refresh()
    fill(db, 2)
    claimed = claim.claim

    def claim_late(*arguments: Any) -> bool:
        monkeypatch.setattr(claim, "claim", claimed)
        reader.publish(url, s3.options)
        return claimed(*arguments)

    monkeypatch.setattr(claim, "claim", claim_late)
    db.publish(url, s3.options)
    assert check_published(url, db, s3.options).number == 3


def test_a_wrong_key_is_told_without_it(db: sc.Database, s3: Server) -> None:
    url = new_url(s3)
    fill(db, 0)
    wrong = {**s3.options, "secret": "not-the-secret-4711"}
    with pytest.raises(PermissionError, match=url) as caught:
        db.publish(url, wrong)
    assert "4711" not in repr(caught.value)


def test_no_credential_is_on_the_server(db: sc.Database, s3: Server) -> None:
    import s3fs

    url = new_url(s3)
    fill(db, 0)
    db.publish(url, s3.options)
    filesystem = s3fs.S3FileSystem(**s3.options)
    paths = filesystem.find(url)
    assert len(paths) == 4
    for path in paths:
        data = filesystem.cat_file(path)
        assert SECRET.encode() not in data
        assert KEY.encode() not in data


def test_nobody_there(db: sc.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    from structchunk.remote import objects

    monkeypatch.setattr(objects, "TRIES", 2)
    nobody = Server("http://127.0.0.1:9")
    options = {**nobody.options, "config_kwargs": {"retries": {"max_attempts": 1}}}
    with pytest.raises(OSError, match="s3://bucket/data") as caught:
        db.publish("s3://bucket/data", options)
    assert SECRET not in repr(caught.value)


# ---------------------------------------------------------------------- others


@pytest.fixture
def moto(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    with object_servers.moto(tmp_path / "server") as server:
        yield server


@pytest.fixture
def nanio(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    with object_servers.nanio(tmp_path / "server") as server:
        yield server


def test_moto(db: sc.Database, moto: Server) -> None:
    url = new_url(moto)
    publish_all_ways(db, url, moto.options)
    assert newest(url, moto.options)[1].exclusive
    with pytest.raises(FileNotFoundError, match="cannot write s3://no-such-bucket/data"):
        db.publish("s3://no-such-bucket/data", moto.options)


def test_one_that_ignores_conditions(db: sc.Database, nanio: Server) -> None:
    url = new_url(nanio)
    with pytest.warns(UserWarning, match="let only one publish at a time"):
        publish_all_ways(db, url, nanio.options)
    assert not newest(url, nanio.options)[1].exclusive
