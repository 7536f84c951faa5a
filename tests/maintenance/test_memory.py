"""Memory of jobs over a whole database does not grow with the number of records."""

from __future__ import annotations

import ctypes
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from live_copy import copy_live
from support import copy_file, copy_tree

import structchunk as sc
from structchunk.engine import roll_forward, written_rows
from structchunk.engine.storage import Storage
from structchunk.index import change, page_cache, store_index
from structchunk.maintenance import moving
from structchunk.runs import extent

PIECE = 8192
FEW, MANY = 6 * PIECE, 30 * PIECE


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pieces and the cache so small that the larger database has many more of them than the other."""
    monkeypatch.setattr(page_cache, "CACHE_SIZE", 1 << 18)
    monkeypatch.setattr(page_cache, "MOST_TOGETHER", PIECE)
    monkeypatch.setattr(store_index, "GROUP_PAGES", PIECE // 512)
    monkeypatch.setattr(written_rows, "PIECE_ROWS", PIECE)
    monkeypatch.setattr(roll_forward, "LOAD_ROWS", PIECE)
    monkeypatch.setattr(extent, "BLOCK_ROWS", PIECE)
    monkeypatch.setattr(change, "REWRITE_ROWS", PIECE)
    monkeypatch.setattr(moving, "MOST_ROWS", PIECE)
    monkeypatch.setattr(moving, "STEP_SIZE", PIECE)


class Cell(sc.Object):
    _fields_ = [("x", ctypes.c_double)]


def keys(count: int, shape: str) -> npt.NDArray[np.uint64]:
    gaps = np.random.default_rng(1).integers(1, 99, count) if shape == "gaps" else np.full(count, 3)
    return np.cumsum(gaps, dtype=np.uint64)


def peak(call: Callable[[], object]) -> int:
    """Return how much memory a call takes at most."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def check_bounded(measure: Callable[[Path, int, str], int], directory: Path, shape: str) -> None:
    """Fail if what is measured of a database grows with its records."""
    few, many = measure(directory / "few.sc", FEW, shape), measure(directory / "many.sc", MANY, shape)
    assert many < 1.3 * few


def fill(db: sc.Database, count: int, shape: str) -> None:
    """Store records, replace some of them here and there, and delete others."""
    store: Any = db.object_store("a", Cell) if shape == "objects" else db.array_store("a", "f8")
    chosen = keys(count, shape)
    for first in range(0, count, PIECE):
        part = chosen[first : first + PIECE]
        if shape == "lengths":
            lengths = part // np.uint64(3) % np.uint64(3)
            store.put_many(part, np.ones(int(lengths.sum())), lengths)
        elif shape == "objects":
            store.put_many(part, np.ones(len(part), [("x", "f8")]))
        else:
            store.put_many(part, np.ones((len(part), 1)))
    if shape == "replaced":
        for number in range(10):
            store.put_many(chosen[number :: count // PIECE], np.zeros((len(chosen[number :: count // PIECE]), 1)))
    store.delete_range(int(chosen[count // 2]), int(chosen[count // 2 + PIECE // 2]))


def verify_peak(path: Path, count: int, shape: str) -> int:
    with sc.open(path, sync=False) as db:
        fill(db, count, shape)
        return peak(lambda: _verify(db))


def _verify(db: sc.Database) -> None:
    assert db.verify() == []


@pytest.mark.parametrize("shape", ["even", "gaps", "lengths"])
def test_of_verify(tmp_path: Path, shape: str) -> None:
    check_bounded(verify_peak, tmp_path, shape)


def check(path: Path, count: int) -> None:
    with sc.open(path, "r+") as db:
        assert len(db["a"]) == count - PIECE // 2
        _verify(db)


def compact_peak(path: Path, count: int, shape: str) -> int:
    with sc.open(path, sync=False) as db:
        fill(db, count, shape)
        found = max(peak(db.compact), peak(db.compact))  # the second time it finds that all is compact
        assert len(db.stats()["a"].chunks) > count // (2 * PIECE)
    check(path, count)
    return found


@pytest.mark.parametrize("shape", ["even", "gaps", "lengths", "replaced", "objects"])
def test_of_compact(tmp_path: Path, shape: str) -> None:
    check_bounded(compact_peak, tmp_path, shape)


def opening_after_compact_peak(path: Path, count: int, shape: str) -> int:
    """Return what it takes to open what was compacted, with the index of before."""
    cut = path.with_name("cut-" + path.name)
    with sc.open(path, sync=False) as db:
        fill(db, count, shape)
        db.sync()
        copy_live(path, cut, copy_function=copy_file)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Storage, "_unlink_gone", lambda self: None)
            db.compact()
        copy_tree(path / "chunks", cut / "chunks", over=True)
    found = peak(lambda: sc.open(cut, "r+").close())
    check(cut, count)
    return found


@pytest.mark.parametrize("shape", ["gaps", "lengths"])
def test_of_opening_after_a_compaction(tmp_path: Path, shape: str) -> None:
    check_bounded(opening_after_compact_peak, tmp_path, shape)


def rebuild_peak(path: Path, count: int, shape: str) -> int:
    with sc.open(path, sync=False) as db:
        fill(db, count, shape)
    shutil.rmtree(*path.glob("index-*"))
    found = peak(lambda: sc.rebuild_index(path))
    check(path, count)
    return found


@pytest.mark.parametrize("shape", ["even", "gaps", "lengths", "replaced"])
def test_of_rebuild_index(tmp_path: Path, shape: str) -> None:
    check_bounded(rebuild_peak, tmp_path, shape)


def reopen_peak(path: Path, count: int, shape: str) -> int:
    """Return what it takes to open files as a power cut may leave them, of which the index is of the beginning."""
    cut = path.with_name("cut-" + path.name)
    with sc.open(path, sync=False) as db:
        db.array_store("a", "f8")
        copy_live(path, cut, copy_function=copy_file)
        fill(db, count, shape)
        copy_tree(path / "chunks", cut / "chunks", over=True)
    found = peak(lambda: sc.open(cut, "r+").close())
    check(cut, count)
    return found


@pytest.mark.parametrize("shape", ["even", "gaps", "lengths", "replaced"])
def test_of_opening_after_a_kill(tmp_path: Path, shape: str) -> None:
    check_bounded(reopen_peak, tmp_path, shape)
