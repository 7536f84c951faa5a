"""Databases that earlier versions have written, and today's: each opens, is whole, and is worked on.

How an archive is made says ``helpers/kept_databases.py``.
"""

from __future__ import annotations

import copy
import functools
import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kept_databases as kept
import numpy as np
import pytest
from kept_databases import ALTERED, CHUNK_SIZE, COPY, CRASHED, PUBLISHED, SOURCE, UPDATED_COPY, WHOLE, Model
from oracle import contents
from support import copy_tree

import structchunk as sc
from structchunk.disk.superblock import read_superblock
from structchunk.index.leveldb import LevelDB
from structchunk.index.near_keys import FORMS as NEAR
from structchunk.index.page import is_short
from structchunk.remote.layout import ZEROS
from structchunk.remote.manifest import MOST_ROW_OBJECTS
from structchunk.remote.manifest import ROWS as ROLE_ROWS
from structchunk.remote.objects import open_objects
from structchunk.remote.publications import find_newest
from structchunk.remote.rows import parse_entries
from structchunk.runs.extent import TOMBSTONE
from structchunk.runs.packed import ALL, EVEN, KEYS

ARCHIVES = sorted(Path(__file__).with_name("databases").glob("*.tar.xz"))
NEWEST = ARCHIVES[-1]
LOST_INDEX = ("01-first.tar.xz", "03-short-pages.tar.xz")
"""Written before there was a release, with an index in a form that did not last: it must be made anew."""
COPIES, UPDATED_COPIES, TURNS_AND_SHARDS, PUBLICATIONS = 3, 9, 10, 13
"""The numbers of the first archives that have these."""


@pytest.fixture
def root(new_root: Callable[[], str]) -> Path:
    """Where the databases are."""
    return Path(new_root())


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], tuple[Path, list[str]]]:
    """``unpacked(archive)``: where its databases are, to be copied, and what was done to them."""

    @functools.cache
    def unpack(archive: Path) -> tuple[Path, list[str]]:
        root = tmp_path_factory.mktemp("kept") / "root"
        steps = kept.unpack(str(archive), str(root))
        if archive.name in LOST_INDEX:
            for name in filter(os.path.exists, (root / name for name in kept.DATABASES)):
                sc.rebuild_index(name)
        return root, steps

    return unpack


@pytest.fixture
def steps(
    request: pytest.FixtureRequest, root: Path, unpacked: Callable[[Path], tuple[Path, list[str]]]
) -> list[str]:
    """What was done to the databases of an archive, which are in ``root`` now."""
    source, steps = unpacked(getattr(request, "param", NEWEST))
    copy_tree(source, root)
    return steps


def archives(*names: str, since: int = 1, until: int = len(ARCHIVES)) -> Any:
    """Try a test with archives of these numbers, and one after another of their databases."""
    chosen = [path for path in ARCHIVES if since <= int(path.name[:2]) <= until]
    each = pytest.mark.parametrize("steps", chosen, indirect=True, ids=lambda path: path.name.split(".")[0])
    return lambda test: each(pytest.mark.parametrize("name", names)(test))


@pytest.mark.parametrize("name", [WHOLE, CRASHED])
@pytest.mark.parametrize("archive", LOST_INDEX)
def test_an_index_of_a_form_that_did_not_last_is_refused(root: Path, archive: str, name: str) -> None:
    kept.unpack(str(NEWEST.with_name(archive)), str(root))
    for mode in ("r", "r+"):
        with pytest.raises(sc.CorruptionError, match="rebuild_index"), sc.open(root / name, mode) as db:
            contents(db)


def check(db: sc.Database, model: Model) -> None:
    """Fail unless a database is whole, and holds what it must."""
    assert db.verify() == []
    assert contents(db) == model
    for name, kind in kept.TYPES.items():
        if name in db and name != "again":
            assert db[name].dtype == np.dtype(kind), name


@archives(WHOLE, CRASHED)
def test_it_opens(root: Path, steps: list[str], name: str) -> None:
    model = kept.model_after(steps)
    with sc.open(root / name, "r") as db:
        check(db, model)
        assert db["tiles"][9].n == -3
        assert db["text"][1].tolist() == ["", "naïve", "漢字"]
    with sc.open(root / name, "r+") as db:
        check(db, model)
    with sc.open(root / name, "r") as db:
        check(db, model)


@archives(WHOLE, CRASHED)
def test_its_index_is_made_anew(root: Path, steps: list[str], name: str) -> None:
    model = kept.model_after(steps)
    sc.rebuild_index(root / name)
    with sc.open(root / name, "r") as db:
        check(db, model)
    for path in (root / name).glob("index-*"):
        shutil.rmtree(path)
    sc.rebuild_index(root / name)
    with sc.open(root / name, "r+") as db:
        check(db, model)


@archives(WHOLE, CRASHED)
def test_it_is_worked_on(root: Path, steps: list[str], name: str) -> None:
    """Written to, copied, compacted, and its copy brought forward."""
    both = kept.Both(model=kept.model_after(steps))
    with sc.open(root / name, "r+", chunk_size=CHUNK_SIZE) as db:
        both = kept.Both(db, both.model)
        both.put("floats", 101, np.arange(3.0))
        both.delete("tiles", 9)
        both.draw("drawn", 2, np.arange(50, dtype="<i4"))
        db.checkpoint(root / "dest.sc")
        check_path(root / "dest.sc", both.model)
        db["drawn"][1][5] = 99
        both.model["drawn"][1] = db["drawn"][1].tobytes()
        both.put_many("floats", range(50000, 50200), np.arange(600.0).reshape(200, 3))
        both.drop("complex")
        both.describe("floats", unit="m", n=1)
        db.compact()
        both.put("floats", 102, np.arange(3.0))
        if ALTERED in db:
            both.put(ALTERED, 13, np.arange(3, dtype="<i4"))
            both.alter(ALTERED, "<i4", "<i8")
            both.put(ALTERED, 16, np.array([2**40]))
        check(db, both.model)
        db.checkpoint(root / "dest.sc", update=True)
    check_path(root / name, both.model)
    check_path(root / "dest.sc", both.model)
    sc.rebuild_index(root / name)
    check_path(root / name, both.model)


@archives(WHOLE, CRASHED)
def test_processes_take_turns_in_it(root: Path, steps: list[str], name: str) -> None:
    both = kept.Both(model=kept.model_after(steps))
    with sc.open(root / name, shared=True) as db, sc.open(root / name, shared=True) as other:
        kept.Both(db, both.model).put("floats", 101, np.arange(3.0))
        kept.Both(other, both.model).put("floats", 102, np.arange(4.0))
        check(db, both.model)
    check_path(root / name, both.model)


def check_path(path: Path, model: Model) -> None:
    with sc.open(path, "r") as db:
        check(db, model)


@archives(kept.DROPPING, kept.COMPACTING)
def test_what_was_let_go_does_not_come_back(root: Path, steps: list[str], name: str) -> None:
    """The chunks of a store that was dropped, and those that were replaced, are still there."""
    if name == kept.COMPACTING and "compact" not in steps:
        assert not (root / name).exists()
        return
    both = kept.Both()
    kept.before_unlinking(both)
    both.drop("again")
    check_path(root / name, both.model)
    sc.rebuild_index(root / name)
    check_path(root / name, both.model)
    with sc.open(root / name, "r+") as db:
        check(db, both.model)


# ---------------------------------------------------------------------- copies, turns, shards


@archives(COPY, since=COPIES)
def test_a_copy_opens(root: Path, steps: list[str], name: str) -> None:
    check_path(root / name, kept.model_after(steps))
    with sc.open(root / kept.CHANGED_COPY, "r+") as changed:
        assert changed.verify() == []
        assert changed["bytes"][77].tolist() == [0, 1]


@archives(COPY, kept.CHANGED_COPY, since=COPIES, until=UPDATED_COPIES - 1)
def test_a_copy_of_before_is_not_brought_forward(root: Path, steps: list[str], name: str) -> None:
    """Nothing in it says that nobody has written to it."""
    with (
        sc.open(root / WHOLE, "r+", chunk_size=CHUNK_SIZE) as db,
        pytest.raises(sc.NotACopy, match="remove it, or give another path"),
    ):
        db.checkpoint(root / name, update=True)


@archives(COPY, since=UPDATED_COPIES)
def test_a_copy_is_brought_forward(root: Path, steps: list[str], name: str) -> None:
    model = kept.model_after(steps)
    with sc.open(root / WHOLE, "r+", chunk_size=CHUNK_SIZE) as db:
        both = kept.Both(db, model)
        both.put("floats", 101, np.arange(3.0))
        both.drop("complex")
        db.checkpoint(root / name, update=True)
        check_path(root / name, model)
        with pytest.raises(sc.NotACopy):
            db.checkpoint(root / kept.CHANGED_COPY, update=True)


@archives(kept.TURNS, kept.CRASHED_TURNS, since=TURNS_AND_SHARDS)
def test_turns_go_on(root: Path, steps: list[str], name: str) -> None:
    model = {"floats": {key: np.arange(3.0 * key, 3 * key + 3).tobytes() for key in range(20) if key != 3}}
    model["floats"][20] = np.arange(3.0).tobytes()
    check_path(root / name, model)
    with sc.open(root / name, shared=True) as db:
        check(db, model)
        kept.Both(db, model).put("floats", 3, np.arange(2.0))
    check_path(root / name, model)


@archives(kept.SHARDS, since=TURNS_AND_SHARDS)
def test_shards_open(root: Path, steps: list[str], name: str) -> None:
    with sc.open_shards(root / name) as shards:
        assert list(shards["floats"]) == list(range(100))
        assert [shards["floats"][key].tolist() for key in (0, 99)] == [[0, 0], [1, 1]]


# ---------------------------------------------------------------------- publications, and a copy brought forward


@pytest.fixture
def url(root: Path, steps: list[str]) -> str:
    """Where the publications of an archive are."""
    pytest.importorskip("fsspec")
    return f"file://{root / PUBLISHED}"


@archives(SOURCE, since=PUBLICATIONS)
def test_what_was_published_opens(root: Path, steps: list[str], url: str, name: str) -> None:
    models = kept.models_of_publications()
    for commit, model in zip(sc.published(url), models, strict=True):
        with sc.open(url, "r", commit=commit, cache=root / "cache") as remote:
            assert remote.last_commit == commit
            check(remote, model)
    with sc.open(url, "r", cache=root / "cache") as remote:
        check(remote, models[-1])
        remote.checkpoint(root / "pulled.sc")
    check_path(root / "pulled.sc", models[-1])
    check_path(root / name, models[-1])


@archives(SOURCE, since=PUBLICATIONS)
def test_more_is_published(root: Path, steps: list[str], url: str, name: str) -> None:
    """By the database that it was published of; who reads follows, and what was published before stays."""
    models = kept.models_of_publications()
    commits = sc.published(url)
    with (
        sc.open(root / name, "r+", chunk_size=CHUNK_SIZE) as db,
        sc.open(url, "r", cache=root / "cache") as remote,
    ):
        assert db.publish(url) == (commits[-1], 0, 0)
        both = kept.Both(db, copy.deepcopy(models[-1]))
        for work in (published_more, published_altered):
            work(both)
            db.publish(url)
            assert remote.refresh()
            check(remote, both.model)
            models.append(copy.deepcopy(both.model))
    assert sc.published(url)[: len(commits)] == commits
    for commit, model in zip(sc.published(url), models, strict=True):
        with sc.open(url, "r", commit=commit, cache=root / "other-cache") as remote:
            check(remote, model)


def published_more(both: kept.Both) -> None:
    both.put_many("floats", range(2000, 2030), np.arange(60.0).reshape(30, 2))
    both.delete("again", 9001)
    both.describe("", title="more")
    both.describe("again", unit="h")


def published_altered(both: kept.Both) -> None:
    both.compact("floats")
    both.alter(ALTERED, "<i4", "<i8")
    both.drop("bytes")


@archives(UPDATED_COPY, since=PUBLICATIONS)
def test_a_copy_that_was_brought_forward_is_so_again(root: Path, steps: list[str], name: str) -> None:
    model = kept.models_of_publications()[-1]
    check_path(root / name, model)
    with sc.open(root / SOURCE, "r+", chunk_size=CHUNK_SIZE) as db:
        both = kept.Both(db, model)
        for work in (published_more, published_altered):
            work(both)
            db.checkpoint(root / name, update=True)
            check_path(root / name, model)
    sc.rebuild_index(root / name)
    with sc.open(root / name, "r+", chunk_size=CHUNK_SIZE) as db:
        check(db, model)
        kept.Both(db, model).put("floats", 1, np.arange(3.0))
    check_path(root / name, model)


# ---------------------------------------------------------------------- what is written today


def test_publications_have_all_there_is(root: Path, steps: list[str], url: str) -> None:
    """So that whatever is read in another way is seen to be."""
    objects = open_objects(url)
    manifest = find_newest(objects)
    assert manifest is not None
    levels = [parse_entries(objects.read(manifest.objects[each].name), url) for each in manifest.rows]
    entries = [entry for level in levels for entry in level]
    runs = [entry.run(1, url) for entry in entries]
    assert len(levels) == MOST_ROW_OBJECTS
    assert {entry.packed.form for entry in entries} == {ALL, KEYS, EVEN}
    assert any(entry.is_anew for level in levels[1:] for entry in level)
    assert any(flags & TOMBSTONE for run in runs for flags in run.flag_values)
    assert any(extent.object == ZEROS for chunk in manifest.chunks.values() for extent in chunk.extents)
    assert manifest.notes and manifest.earlier
    assert read_superblock(str(root / UPDATED_COPY / "superblock")).left


def test_pages_of_every_form_are_kept(root: Path, steps: list[str]) -> None:
    leveldb = LevelDB.open(str(next((root / WHOLE).glob("index-*"))))
    pages = [page for _, page in leveldb.read(b"P", b"Q", 10**6)]
    leveldb.close()
    assert {page[-1] if is_short(page) else ALL for page in pages} == {ALL, KEYS, EVEN, *NEAR}


def written(directory: Path) -> dict[str, Any]:
    """Return all that databases consist of: their files, and what LevelDB holds, whatever its files are."""
    found: dict[str, Any] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.name.startswith("index-"):
            leveldb = LevelDB.open(str(path))
            found[name] = leveldb.read(b"", b"\xff" * 16, 10**6)
            leveldb.close()
        elif path.is_file() and path.parent.name != "readers" and not path.parent.name.startswith("index-"):
            found[name] = unzipped(path.read_bytes())
    return found


def unzipped(raw: bytes) -> bytes:
    """Return what gzip has packed, a manifest without sizes and CRCs of rows: each zlib packs in its own way."""
    if not raw.startswith(b"\x1f\x8b"):
        return raw
    text = gzip.decompress(raw)
    if not text.startswith(b"{"):
        return text
    manifest = json.loads(text)
    for each in manifest.get("objects", []):
        if each[2] == ROLE_ROWS:
            del each[3:]
    return json.dumps(manifest).encode()


def test_what_is_written_today_is_kept(root: Path, steps: list[str]) -> None:
    """To the byte: who changes what is on disk, or published, keeps a file of before, and one of after."""
    pytest.importorskip("fsspec")
    os.mkdir(root / "today")
    kept.write(str(root / "today"))
    for path in [*(root / "today").rglob("lock"), *(root / "today").rglob("reserve")]:
        path.unlink()
    today = written(root / "today")
    before = {name: content for name, content in written(root).items() if not name.startswith("today")}
    different = sorted(name for name in today.keys() | before.keys() if today.get(name) != before.get(name))
    assert not different, (
        f"today's code writes these files in another way than they are in {NEWEST.name}: {different}; if that is "
        "meant, keep an archive of it, as tests/helpers/kept_databases.py says, and leave those that are there"
    )
