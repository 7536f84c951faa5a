"""The map of chunks against one made byte by byte, and its pictures."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import structchunk as sc
from structchunk.cli.program import program
from structchunk.maintenance.chunk_map import KINDS, ChunkMap, map_chunks


def fill(db: sc.Database, seed: int) -> None:
    """Two stores that use several chunks, with replaced, deleted, empty, live and aborted records."""
    random = np.random.default_rng(seed)
    for name in ("a", "b"):
        store = db.array_store(name, np.int32)
        store.put_many(np.arange(300), random.integers(0, 9, 300 * 20), np.full(300, 20))
        for key in random.integers(0, 400, 40).tolist():
            store.put(key, np.arange(key % 7))
        store.new(1000, 50)[:] = 1
        store.delete_range(50, 120)
        with pytest.raises(ZeroDivisionError), db.transaction() as transaction:
            transaction[name].put(1, [1, 2, 3])
            transaction[name].new(2, 10)
            raise ZeroDivisionError


def byte_by_byte(db: sc.Database, name: str) -> dict[int, np.ndarray[Any, Any]]:
    """Return the kind of every byte of every chunk, from the figures that each record and chunk gives."""
    kinds = {}
    heap = db._storage.heaps[name]
    for chunk in heap.chunks.values():
        kind = np.full(chunk.header.file_size, KINDS.index("free"))
        kind[: chunk.header.data_offset] = kind[chunk.directory :] = KINDS.index("directory")
        kind[chunk.header.data_offset : chunk.committed] = KINDS.index("garbage")
        kinds[chunk.id] = kind
    for key in db[name]:
        _, offset, length, chunk, _ = db._storage.index.store_index(heap.store).find(key)
        kinds[chunk][offset : offset + length * heap.item_size] = KINDS.index("live")
    return kinds


def check(chunk: ChunkMap, kinds: np.ndarray[Any, Any]) -> None:
    found = np.full(chunk.file_size, -1)
    for kind, name in enumerate(KINDS):
        ranges = getattr(chunk, name)
        assert (np.diff(ranges.reshape(-1)) > 0).all()
        for start, stop in ranges.tolist():
            assert (found[start:stop] == -1).all()
            found[start:stop] = kind
    assert np.array_equal(found, kinds)


@pytest.mark.parametrize("seed", range(3))
def test_every_byte_is_what_the_map_says(db: sc.Database, seed: int) -> None:
    fill(db, seed)
    maps = list(map_chunks(db._storage, ["b", "a"]))
    assert [chunk.store for chunk in maps] == sorted((chunk.store for chunk in maps), reverse=True)
    expected = {**byte_by_byte(db, "a"), **byte_by_byte(db, "b")}
    assert sorted(chunk.chunk for chunk in maps) == sorted(expected) and len(maps) > 2
    for chunk in maps:
        check(chunk, expected[chunk.chunk])


def test_the_map_agrees_with_stats(db: sc.Database) -> None:
    fill(db, 0)
    stats = {chunk.chunk: chunk for store in db.stats().values() for chunk in store.chunks}
    for chunk in map_chunks(db._storage, ["a", "b"]):
        sizes = [int(np.diff(getattr(chunk, kind)).sum()) for kind in ("live", "garbage", "free")]
        figures = stats[chunk.chunk]
        assert sizes == [figures.live, figures.garbage, figures.free]
    db.compact()
    assert not any(len(chunk.garbage) for chunk in map_chunks(db._storage, ["a", "b"]))


@pytest.mark.parametrize("count", [1, 7, 64, 1000])
def test_shares_are_those_of_the_bytes(db: sc.Database, count: int) -> None:
    fill(db, 1)
    expected = byte_by_byte(db, "a")
    for chunk in map_chunks(db._storage, ["a"]):
        shares = chunk.shares(count)
        assert shares.shape == (count, len(KINDS)) and np.allclose(shares.sum(axis=1), 1)
        kinds = expected[chunk.chunk]
        assert np.allclose(shares.mean(axis=0), [(kinds == kind).mean() for kind in range(len(KINDS))])
        if chunk.file_size % count == 0:
            parts = kinds.reshape(count, -1)
            assert np.allclose(shares, np.stack([(parts == kind).mean(axis=1) for kind in range(len(KINDS))], 1))


# ---------------------------------------------------------------------- pictures


def output(*words: object) -> str:
    result = CliRunner().invoke(program, [str(word) for word in words])
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def test_the_picture_in_the_terminal(db: sc.Database) -> None:
    store = db.array_store("half", np.int8)
    free = db.stats()["half"].chunks[0].free
    store.put_many([1, 2], np.zeros((2, free // 4), np.int8))
    del store[1]
    db.close()
    name, bar, legend = output("map", db.path).splitlines()
    assert name == "half"
    number, cells, size = bar.split(maxsplit=2)
    assert (number, size) == ("1", "16.0 KiB")
    assert [cells.count(mark) / len(cells) for mark in "░█·▓"] == pytest.approx([0.19, 0.19, 0.37, 0.27], abs=0.04)
    assert re.fullmatch("▓+░+█+·+▓+", cells)
    assert all(kind in legend for kind in KINDS)


def test_the_map_for_machines(db: sc.Database) -> None:
    fill(db, 2)
    expected = list(map_chunks(db._storage, ["b"]))
    db.close()
    found = json.loads(output("map", db.path, "b", "--json"))
    assert [chunk["chunk"] for chunk in found] == [chunk.chunk for chunk in expected]
    assert [chunk["live"] for chunk in found] == [chunk.live.tolist() for chunk in expected]


def test_without_matplotlib_it_says_which_extra_has_it(db: sc.Database, tmp_path: Path, monkeypatch: Any) -> None:
    db.close()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = CliRunner().invoke(program, ["map", db.path, "--png", str(tmp_path / "map.png")])
    assert (result.exit_code, result.stdout) == (1, "")
    hint = "in a checkout of structchunk, pip install '.[plot]'"
    assert result.stderr == f"structchunk: a PNG needs matplotlib: {hint}\n"


def test_the_picture_as_png(db: sc.Database, tmp_path: Path) -> None:
    fill(db, 3)
    db.close()
    picture = tmp_path / "map.png"
    assert output("map", db.path, "--png", picture) == ""
    image = pytest.importorskip("matplotlib.image").imread(picture)[:, :, :3]
    for red, green, blue in ((0x2A, 0x9D, 0x5C), (0xE4, 0x57, 0x2E), (0x3D, 0x6F, 0xB6), (0xE9, 0xE9, 0xE6)):
        near = np.abs(image * 255 - (red, green, blue)).max(axis=-1) < 4
        assert near.sum() > 50
