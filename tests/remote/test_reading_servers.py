"""Reading from a real server that speaks S3: requests and bytes are held to what is promised."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import structchunk as sc

pytest.importorskip("s3fs")

from conftest import OpenDB
from object_servers import SECRET, Server
from published import shown_by
from support import run_python

COUNT = 1_000_000


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The requests that s3fs makes, by what they are, and the bytes that were read."""
    import s3fs

    counted: Counter[str] = Counter()
    call, read = s3fs.S3FileSystem._call_s3, s3fs.S3FileSystem._cat_file

    async def count(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        counted[method] += 1
        return await call(self, method, *arguments, **options)

    async def count_bytes(self: Any, *arguments: Any, **options: Any) -> Any:
        data = await read(self, *arguments, **options)
        counted["bytes"] += len(data)
        return data

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", count)
    monkeypatch.setattr(s3fs.S3FileSystem, "_cat_file", count_bytes)
    s3fs.S3FileSystem.clear_instance_cache()  # those of other tests have the methods of before
    return counted


READ = """
import sys, json, structchunk as sc
url, cache, options = sys.argv[1:]
with sc.open(url, "r", cache=cache, storage_options=json.loads(options)) as db:
    print(sum(map(len, db["big"].scan(10, 5000))), db["big"][77].tolist())
"""


def test_what_is_promised(open_db: OpenDB, s3: Server, calls: Counter[str], tmp_path: Path) -> None:
    import json

    db = open_db(sync=False)
    values = np.random.default_rng(1).random((COUNT, 8)).astype("f4")
    db.array_store("big", "f4").put_many(np.arange(COUNT), values)
    url = s3.new_url("bucket-for-reading")
    db.publish(url, s3.options)
    given = {"storage_options": s3.options, "cache": tmp_path / "cache"}

    calls.clear()
    remote = sc.open(url, "r", **given)
    assert calls.keys() == {"get_object", "bytes"}
    assert calls["get_object"] <= 6

    calls.clear()
    assert np.array_equal(remote["big"][123_456], values[123_456])
    assert calls["get_object"] == 1
    assert calls["bytes"] <= 1 << 16

    calls.clear()
    for batch in remote["big"].scan(500_000, 510_000):
        assert np.array_equal(batch.dense(), values[batch.keys])
    assert calls["bytes"] <= 0.015 * values.nbytes

    assert np.array_equal(np.concatenate([batch.dense() for batch in remote["big"].scan()]), values)
    calls.clear()
    assert np.array_equal(remote["big"].read().dense(), values)
    assert not calls

    db["big"][COUNT] = values[0]
    db.publish(url, s3.options)
    calls.clear()
    assert remote.refresh()
    assert np.array_equal(remote["big"][COUNT], values[0])
    assert calls["bytes"] < 1 << 20
    assert calls["get_object"] <= 6

    done = run_python(READ, url, str(tmp_path / "cache"), json.dumps(s3.options))
    assert done.stdout == f"4990 {values[77].tolist()}\n", done
    assert remote.verify() == []
    remote.close()
    assert SECRET not in repr(remote)


def test_errors(db: sc.Database, s3: Server, tmp_path: Path) -> None:
    db.array_store("a", "u1")[1] = [1]
    url = s3.new_url("bucket-for-errors")
    with pytest.raises(FileNotFoundError, match=f"nothing is published at {url}"):
        sc.open(url, "r", storage_options=s3.options, cache=tmp_path / "cache")
    db.publish(url, s3.options)
    wrong = {**s3.options, "secret": "not-the-secret-4711"}
    with pytest.raises(PermissionError, match=url) as caught:
        sc.open(url, "r", storage_options=wrong, cache=tmp_path / "cache")
    assert "4711" not in repr(caught.value)
    with sc.open(url, "r", storage_options=s3.options, cache=tmp_path / "cache") as remote:
        assert shown_by(remote) == shown_by(db)
