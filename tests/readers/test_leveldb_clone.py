"""Clones of a LevelDB directory: whole while its owner writes at full speed, and never to the owner's harm."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import structchunk as sc
from structchunk.index import leveldb_files
from structchunk.index.leveldb import LevelDB
from structchunk.index.leveldb_files import ManifestReader, parse_manifest
from structchunk.readers import leveldb_clone
from structchunk.readers.leveldb_clone import clone_leveldb, state_of

KEYS = 20
WRITER = """
import os, struct, sys
from structchunk.index.leveldb import plyvel
size = 64 << 10
db = plyvel.DB(sys.argv[1], create_if_missing=True, write_buffer_size=size, max_file_size=size, compression=None)
print("ready", flush=True)
pad, number, parent = os.urandom(100), 0, os.getppid()
while os.getppid() == parent:
    number += 1
    value = struct.pack(">Q", number)
    with db.write_batch(transaction=True) as batch:
        for key in range(20):
            batch.put(b"k%03d" % key, value + pad)
        batch.put(b"h" + value, value)
        if number > 500:
            batch.delete(b"h" + struct.pack(">Q", number - 500))
"""


@pytest.fixture
def written(tmp_path: Path) -> Iterator[str]:
    """Yield a LevelDB directory that a process writes; at the end that must be alive, and the directory sound."""
    path = str(tmp_path / "live")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    yield path
    assert writer.poll() is None
    writer.kill()
    writer.communicate()
    check(path)


def check(path: str) -> int:
    """Open a directory; return the number of its last batch, which and all before which must be there, whole."""
    db = LevelDB.open_private(path)
    try:
        values = {value[:8] for _, value in db.read(b"k", b"l", 1000)}
        history = [struct.unpack(">Q", key[1:])[0] for key, _ in db.read(b"h", b"i", 1000)]
    finally:
        db.close()
    if not values:
        assert not history
        return 0
    assert len(values) == 1
    last: int = struct.unpack(">Q", values.pop())[0]
    assert history == list(range(max(1, last - 499), last + 1))
    return last


@pytest.mark.parametrize("link", [True, False])
def test_clones_under_full_load(written: str, tmp_path: Path, budget: float, *, link: bool) -> None:
    lasts: list[int] = []
    while len(lasts) < 60 * budget or lasts[-1] == lasts[0]:  # on a busy machine who writes may be behind
        target = str(tmp_path / f"clone-{len(lasts)}")
        clone_leveldb(written, target, link=link)
        lasts.append(check(target))
        assert not any(name.endswith(".sst") for name in os.listdir(written))
    assert lasts == sorted(lasts)


def make(path: Path, count: int = 3) -> str:
    """Make a closed LevelDB directory with tables and a log."""
    db = LevelDB.create(str(path))
    for number in range(count):
        db.write([(b"%d %d" % (number, key), b"x" * 1000) for key in range(100)])
        db.close()
        db = LevelDB.open(str(path))
    db.write([(b"last", b"y")])
    db.close()
    return str(path)


def contents(path: str) -> dict[str, bytes]:
    return {name: Path(path, name).read_bytes() for name in os.listdir(path)}


def test_nothing_of_the_original_is_touched_even_by_writes_to_the_clone(tmp_path: Path) -> None:
    source = make(tmp_path / "a")
    before = contents(source)
    clone_leveldb(source, str(tmp_path / "b"))
    db = LevelDB.open_private(str(tmp_path / "b"))
    for number in range(50):
        db.write([(b"more %d %d" % (number, key), b"z" * 10_000) for key in range(100)])
    assert db.get(b"last") == b"y"
    db.close()
    assert contents(source) == before


def test_only_tables_are_linked(tmp_path: Path) -> None:
    source = make(tmp_path / "a")
    clone_leveldb(source, str(tmp_path / "b"))
    links = {entry.name: entry.stat().st_nlink for entry in os.scandir(tmp_path / "b")}
    assert {name for name, count in links.items() if count > 1} == {name for name in links if name.endswith(".sst")}
    assert any(name.endswith(".sst") for name in links)
    assert "LOCK" not in links


@pytest.mark.parametrize("link", [True, False])
def test_no_table_is_taken_before_the_manifest_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, link: bool
) -> None:
    """Its owner may be writing it: a copy that is kept for the next try would be cut off."""
    source = make(tmp_path / "a")
    half = sorted(Path(source).glob("*.ldb"))[0].read_bytes()[:1000]
    Path(source, "000099.ldb").write_bytes(half)
    name = "link_file" if link else "copy_file"
    take, taken = getattr(leveldb_clone, name), []
    monkeypatch.setattr(
        leveldb_clone, name, lambda path, target: (taken.append(Path(path).stem), take(path, target))
    )
    clone_leveldb(source, str(tmp_path / "b"), link=link)
    assert len(taken) == 3
    assert "000099" not in taken


def test_a_clone_of_a_clone(tmp_path: Path) -> None:
    clone_leveldb(make(tmp_path / "a"), str(tmp_path / "b"))
    LevelDB.open(str(tmp_path / "b")).close()
    clone_leveldb(str(tmp_path / "b"), str(tmp_path / "c"))
    db = LevelDB.open_private(str(tmp_path / "c"))
    assert len(db.read(b"", b"\xff", 1000)) == 301
    db.close()


@pytest.mark.parametrize("missing", ["CURRENT", "MANIFEST", ".ldb", ".log"])
def test_what_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    source = make(tmp_path / "a")
    name = next(name for name in sorted(os.listdir(source)) if missing in name)
    os.unlink(os.path.join(source, name))
    with pytest.raises(sc.CorruptionError, match=rf"no file {name[:6]}.*rebuild_index"):
        clone_leveldb(source, str(tmp_path / "b"))


@pytest.mark.parametrize("current", [b"", b"MANIFEST-000001", b"../secret\n", b"\xff\n"])
def test_a_damaged_current(tmp_path: Path, current: bytes) -> None:
    source = make(tmp_path / "a")
    Path(source, "CURRENT").write_bytes(current)
    with pytest.raises(sc.CorruptionError, match="rebuild_index"):
        clone_leveldb(source, str(tmp_path / "b"))


def test_every_cut_of_a_manifest_is_an_earlier_version(tmp_path: Path) -> None:
    source = make(tmp_path / "a")
    manifest = next(Path(source).glob("MANIFEST-*")).read_bytes()
    whole = parse_manifest(manifest)
    assert whole.tables == {int(path.stem) for path in Path(source).glob("*.ldb")}
    assert {int(path.stem) for path in Path(source).glob("*.log")} == {whole.log}
    reader = ManifestReader()
    for length in range(len(manifest)):
        version = parse_manifest(manifest[:length])
        assert version.log <= whole.log
        assert reader.read_on(manifest[:length]) == version
    assert reader.read_on(manifest) == whole


def test_what_was_read_of_a_manifest_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a writer that changes the tables in each try but the last, and in fewer each time."""
    db = LevelDB.create(str(tmp_path / "a"))
    read, left = [], [0, 1, 2, 4, 8]

    def change(count: int) -> None:
        for number in range(count):
            db.write([(b"key", b"%d" % number)])
            db.compact(b"a", b"z")

    def read_logs(*args: Any, real: Any = leveldb_clone._read_logs) -> Any:
        change(left.pop())
        return real(*args)

    def read_edit(data: bytes, real: Any = leveldb_files._Edit) -> Any:
        read.append(data)
        return real(data)

    change(50)
    monkeypatch.setattr(leveldb_clone, "_read_logs", read_logs)
    monkeypatch.setattr(leveldb_files, "_Edit", read_edit)
    clone_leveldb(db.path, str(tmp_path / "b"))
    assert left == []
    assert len(read) > 50
    assert len(read) == len(set(read))
    db.close()


def test_flipped_bits_in_a_manifest_are_damage_or_harmless(tmp_path: Path) -> None:
    source = make(tmp_path / "a", 1)
    manifest = bytearray(next(Path(source).glob("MANIFEST-*")).read_bytes())
    for position in range(len(manifest)):
        manifest[position] ^= 0x41
        with contextlib.suppress(ValueError, IndexError):
            parse_manifest(bytes(manifest))
        manifest[position] ^= 0x41


def test_the_state_changes_with_every_write(tmp_path: Path) -> None:
    db = LevelDB.create(str(tmp_path / "a"))
    states = {state_of(db.path)}
    for number in range(20):
        db.write([(b"%d" % number, b"")])
        states.add(state_of(db.path))
        assert state_of(db.path) in states
    assert len(states) == 21
    db.close()
