"""Many small stores: what each takes of the disk, and of the descriptors of the process."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from support import files_below, run_python

import structchunk as sc
from structchunk.chunks import chunk
from structchunk.engine import flushing

FEW_DESCRIPTORS = """
import os, resource, sys
import structchunk as sc

STORES = 400
resource.setrlimit(resource.RLIMIT_NOFILE, (128, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
root, copy = sys.argv[1:]

def values(db):
    return [db[f"s{number}"][1].tolist() for number in range(STORES)]

def objects(db):
    held = [db[f"s{number}"].new(2, 1) for number in range(STORES)]
    for number, array in enumerate(held):
        array[:] = number
    return held

expected = [[number, 0.5] for number in range(STORES)]
with sc.open(root, sync=False) as db:
    with db.transaction() as txn:
        for number in range(STORES):
            txn.array_store(f"s{number}", "f8").put(1, [number, 0.5])
    assert values(db) == expected
    held = objects(db)
with sc.open(root, "r+") as db:
    assert len(db) == STORES
    assert values(db) == expected
    with db.transaction() as txn:
        for number in range(STORES):
            txn[f"s{number}"].put(3, [0])
    assert [store.records for store in db.stats().values()] == [3] * STORES
    db.compact()
    assert values(db) == expected
    db.checkpoint(copy)
    assert db.verify() == []
    with sc.open(root, "r") as reader:
        assert values(reader) == expected
        assert reader.verify() == []
    for number in range(0, STORES, 50):
        db.drop_store(f"s{number}")
    assert db.verify() == []
for path in (root, copy):
    sc.rebuild_index(path)
    with sc.open(path) as db:
        assert db["s1"][1].tolist() == [1, 0.5]
        assert db.verify() == []
print([array[0] for array in held] == list(range(STORES)))
"""


def test_few_descriptors_are_enough(tmp_path: Path) -> None:
    """For everything that is done to all stores; views hold mappings, and these hold no descriptors."""
    done = run_python(FEW_DESCRIPTORS, str(tmp_path / "db"), str(tmp_path / "copy"), timeout=300)
    assert (done.stdout.split(), done.stderr) == (["True"], "")


def disk_size(root: Path) -> int:
    return sum(status.st_blocks * 512 for status in files_below(root))


def test_a_small_store_takes_little_of_the_disk(tmp_path: Path) -> None:
    root = tmp_path / "db"
    with sc.open(root, sync=False) as db:
        before = disk_size(root)
        with db.transaction() as txn:
            for number in range(50):
                txn.array_store(f"s{number}", "f8").put(1, [1.0, 2.0])
        assert disk_size(root) - before <= 50 * (16 << 10)
        assert db.verify() == []


def test_space_is_taken_in_steps_that_grow(tmp_path: Path) -> None:
    """Single commits take as many bytes ahead as a store has, not as many as a large one needs."""
    root = tmp_path / "db"
    with sc.open(root, sync=False) as db:
        store = db.array_store("a", "u1")
        for key in range(100):
            store[key] = np.zeros(1000, "u1")
            used = db.stats()["a"].live + sum(part.directory for part in db.stats()["a"].chunks)
            assert db.stats()["a"].disk_size <= 2 * used + 5 * 4096
        assert db.verify() == []


def test_many_files_are_flushed_in_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them once; one that fails is an error of the commit, after which nothing is written."""
    monkeypatch.setattr(flushing, "MANY", 3)
    flushed: list[str] = []
    flush = chunk.files.flush
    failing = ""

    def note(path: str) -> None:
        if failing and path.endswith(failing):
            raise OSError(5, os.strerror(5), path)
        flushed.append(path)
        flush(path)

    monkeypatch.setattr(chunk.files, "flush", note)
    with sc.open(tmp_path / "db") as db:
        with db.transaction() as txn:
            for number in range(10):
                txn.array_store(f"s{number}", "f8")[1] = [number]
        chunks = [path for path in flushed if path.endswith(".chunk")]
        assert len(chunks) == len(set(chunks)) == 10
        failing = "00000007.chunk"
        with pytest.raises(OSError, match="Input/output"), db.transaction() as txn:
            for number in range(10):
                txn[f"s{number}"][2] = [number]
        failing = ""
        with pytest.raises(sc.FailedError):
            db["s0"][3] = [3]
    with sc.open(tmp_path / "db") as db:
        assert [db[f"s{number}"][1].tolist() for number in range(10)] == [[number] for number in range(10)]
        assert {len(db[f"s{number}"]) for number in range(10)} in ({1}, {2})
        assert db.verify() == []


def test_small_stores_are_compacted_by_one_commit(tmp_path: Path) -> None:
    with sc.open(tmp_path / "db", sync=False) as db:
        for round_ in range(3):
            with db.transaction() as txn:
                for number in range(20):
                    txn.array_store(f"s{number}", "f8").put(round_, [number])
        large = db.array_store("large", "u1")
        large.put_many(np.arange(100), np.ones((100, 200_000), "u1"))
        large.delete_range(0, 10)
        before = db._storage.index.last
        reports = db.compact()
        assert db._storage.index.last == before + 1 + 1  # it, and all others
        assert [report.name for report in reports] == list(db)
        first, *others = reports
        assert first.name == "large"
        assert first.bytes_after < first.bytes_before
        assert {report.records for report in others} == {3}
        assert all(db[f"s{number}"][2].tolist() == [number] for number in range(20))
        assert db.verify() == []
    sc.rebuild_index(tmp_path / "db")
    with sc.open(tmp_path / "db") as db:
        assert len(db["s7"]) == 3
        assert db.verify() == []
