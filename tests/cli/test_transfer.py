"""Stores out to files and back in: the same store again, or one line and nothing changed."""

from __future__ import annotations

import ctypes
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import structchunk as sc
from structchunk.cli.program import program
from structchunk.stores.mapping import schema_of

ENDINGS = [".npz", ".arrow", ".parquet"]
Tag = sc.Array.of(3, ctypes.c_int16)


class Inner(sc.Object):
    _fields_ = [("a", ctypes.c_int8), ("b", ctypes.c_double)]


class Outer(sc.Object):
    _fields_ = [("key", ctypes.c_uint8), ("λ", ctypes.c_char * 4), ("inner", Inner), ("many", Inner * 2)]


def run(*words: object) -> Result:
    return CliRunner().invoke(program, [str(word) for word in words], prog_name="structchunk")


def good(*words: object) -> str:
    result = run(*words)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def failed(*words: object) -> str:
    result = run(*words)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    return result.stderr


def random_items(dtype: np.dtype[Any], count: int) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(count)
    if dtype.kind in "fc":
        return np.array([1.5, -2, np.inf, 0], dtype)[random.integers(0, 4, count)]
    if dtype.kind in "SU":
        return random.integers(0, 99, count).astype(dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, count).astype(bool)
    if dtype.names:
        items = np.zeros(count, dtype)
        for name in dtype.names:
            items[name] = random_items(dtype[name], count)
        return items
    return random.integers(0, 100, count).astype(dtype)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "dtype",
    ["f8", "f4", "f2", "i1", ">i4", "u8", "?", "S5", "U3", "M8[ms]", "M8[s]", "m8[us]", "c16", "u2,f8", "V3"],
)
def test_an_array_store_comes_back_as_it_was(
    dtype: str, ending: str, db: sc.Database, open_db: Callable[..., sc.Database], tmp_path: Path
) -> None:
    store = db.array_store("store", np.dtype(dtype))
    lengths = np.arange(50) % 4
    kind = np.dtype("u2") if dtype[0] == "V" else np.dtype(dtype)
    items = random_items(kind, int(lengths.sum()))
    items = items if dtype[0] != "V" else np.frombuffer(np.random.default_rng(1).bytes(3 * len(items)), dtype)
    store.put_many(np.arange(50) ** 2, items, lengths)
    store.delete_range(4, 10)
    before, schema = store.get_many(store.keys()), schema_of(db["store"])
    db.close()
    file = tmp_path / f"file{ending}"
    assert good("export", db.path, "store", file) == f"48 records of store exported to {file}\n"
    assert good("import", tmp_path / "new.sc", file, "other") == f"48 records of other imported from {file}\n"
    with open_db("r", name="new.sc") as new:
        after = new["other"].get_many(new["other"].keys())
        assert schema_of(new["other"]).descriptor == schema.descriptor
    assert np.array_equal(after.keys, before.keys) and np.array_equal(after.offsets, before.offsets)
    assert after.values.dtype == before.values.dtype and after.values.tobytes() == before.values.tobytes()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("cls", [Inner, Outer, Tag])
def test_an_object_store_comes_back_as_it_was(
    cls: type[Any], ending: str, db: sc.Database, open_db: Callable[..., sc.Database], tmp_path: Path
) -> None:
    store = db.object_store("things", cls)
    for key in (3, 1, 2**64 - 1):
        random = np.random.default_rng(key % 100).integers(0, 100, ctypes.sizeof(cls), np.uint8)
        made = cls.from_buffer_copy(random)
        if cls is Outer:
            made.λ = b"ab"
        store.put(key, made)
    before = {key: value.copy() for key, value in store.items()}
    descriptor = schema_of(db["things"]).descriptor
    db.close()
    file = tmp_path / f"file{ending}"
    good("export", db.path, "things", file)
    good("import", tmp_path / "new.sc", file, "things")
    with open_db("r", name="new.sc") as new:
        assert schema_of(new["things"]).descriptor == descriptor
        assert dict(new["things"].items()) == before


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_empty_store_comes_back(ending: str, db: sc.Database, tmp_path: Path) -> None:
    db.array_store("a", np.float32)
    db.object_store("o", Inner)
    db.close()
    for name in ("a", "o"):
        good("export", db.path, name, tmp_path / f"{name}{ending}")
        good("import", tmp_path / "new.sc", tmp_path / f"{name}{ending}", name)
    with sc.open(tmp_path / "new.sc") as new:
        assert len(new["a"]) == len(new["o"]) == 0 and new["a"].dtype == np.float32


@pytest.mark.parametrize("ending", ENDINGS)
def test_import_adds_to_a_store_of_the_same_type(ending: str, db: sc.Database, tmp_path: Path) -> None:
    store = db.array_store("store", np.int16)
    store.put_many([1, 2], [[1], [2]])
    store.put_many([200_000], [[3]])
    db.array_store("floats", np.float64)[1] = [0.5]
    file = tmp_path / f"file{ending}"
    path = db.path
    db.close()
    good("export", path, "store", file)
    with sc.open(path) as changed:
        changed["store"].put_many([2, 3], [[9, 9], [9, 9]])
    good("import", path, file, "store")
    assert "float64" in failed("import", path, file, "floats")
    with sc.open(path) as found:
        records = {key: value.tolist() for key, value in found["store"].items()}
        assert records == {1: [1], 2: [2], 3: [9, 9], 200_000: [3]}
        assert found["floats"][1].tolist() == [0.5]


def test_npz_is_what_numpy_reads(db: sc.Database, tmp_path: Path) -> None:
    db.array_store("store", np.int16).put_many([5, 1], [1, 2, 3], [1, 2])
    db.close()
    file = tmp_path / "file.npz"
    found = json.loads(good("export", db.path, "store", file, "--json"))
    assert found == {"store": "store", "file": str(file), "records": 2}
    with np.load(file) as arrays:
        assert sorted(arrays.files) == ["keys", "offsets", "schema", "values"]
        assert arrays["keys"].tolist() == [1, 5] and arrays["offsets"].tolist() == [0, 2, 3]
        assert arrays["values"].tolist() == [2, 3, 1] and arrays["values"].dtype == np.int16


@pytest.mark.parametrize("ending", ENDINGS)
def test_items_with_a_shape_come_back(ending: str, db: sc.Database, tmp_path: Path) -> None:
    store = db.array_store("store", "f4", shape=(2, 3))
    store.put_many([5, 1, 7], np.arange(18).reshape(3, 2, 3), [1, 2, 0])
    before = store.read()
    db.close()
    file = tmp_path / f"file{ending}"
    good("export", db.path, "store", file)
    good("import", tmp_path / "new.sc", file, "other")
    with sc.open(tmp_path / "new.sc") as new:
        assert new["other"].dtype == store.dtype
        assert np.array_equal(new["other"].read().values, before.values)
        assert np.array_equal(new["other"].read().offsets, before.offsets)
        assert new.verify() == []


def test_npz_of_items_with_a_shape_is_what_numpy_reads_and_makes(db: sc.Database, tmp_path: Path) -> None:
    db.array_store("store", "f4", shape=(2,))[1] = [[1, 2], [3, 4]]
    db.close()
    good("export", db.path, "store", tmp_path / "file.npz")
    with np.load(tmp_path / "file.npz") as arrays:
        assert arrays["values"].tolist() == [[1, 2], [3, 4]]
        np.savez(tmp_path / "other.npz", **{name: arrays[name] for name in ("keys", "offsets", "values")})
    good("import", tmp_path / "new.sc", tmp_path / "other.npz", "store")
    with sc.open(tmp_path / "new.sc") as new:
        assert (new["store"].dtype, new["store"][1].tolist()) == (np.dtype(("f4", (2,))), [[1, 2], [3, 4]])
    assert "float32[:, 2]" in good("info", tmp_path / "new.sc")
    assert json.loads(good("get", tmp_path / "new.sc", "store", 1, "--json"))


def test_npz_of_another_program(tmp_path: Path) -> None:
    file = tmp_path / "file.npz"
    np.savez_compressed(file, keys=[3, 1], offsets=np.array([0, 0, 2], np.uint32), values=np.array([1.5, 2], "f4"))
    good("import", tmp_path / "new.sc", file, "store")
    with sc.open(tmp_path / "new.sc") as new:
        assert {key: value.tolist() for key, value in new["store"].items()} == {1: [1.5, 2.0], 3: []}
        assert new["store"].dtype == np.float32
        new.array_store("doubles", np.float64)
    good("import", tmp_path / "new.sc", file, "doubles")


def arrays(**changes: Any) -> dict[str, Any]:
    made = {"keys": np.arange(2), "offsets": np.array([0, 1, 3]), "values": np.arange(3.0), **changes}
    return {name: array for name, array in made.items() if array is not None}


@pytest.mark.parametrize(
    "changes",
    [
        {"keys": None},
        {"values": None},
        {"keys": np.arange(3)},
        {"keys": np.array([-1, 1])},
        {"keys": np.array([0.5, 1])},
        {"offsets": np.array([1, 1, 3])},
        {"offsets": np.array([0, 2, 4])},
        {"offsets": np.array([0, 4, 3])},
        {"offsets": np.array([0.0, 1, 3])},
        {"offsets": np.array([], int)},
        {"offsets": np.array(0)},
        {"values": np.zeros((3, 0))},
        {"values": np.zeros((2, 3))},
        {"values": np.array(0.5)},
        {"values": np.array([1, 2, "x"], object)},
        {"schema": np.array("{")},
        {"schema": np.array("[]")},
        {"schema": np.array('{"kind": "array", "type": "<f9"}')},
        {"schema": np.array('{"kind": "array", "type": "<i8"}'), "values": np.full(3, 0.5)},
    ],
)
def test_an_npz_that_does_not_fit_changes_nothing(changes: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "file.npz"
    np.savez(file, **arrays(**changes))
    failed("import", tmp_path / "new.sc", file, "store")
    if (tmp_path / "new.sc").exists():
        with sc.open(tmp_path / "new.sc", "r") as new:
            assert list(new) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_damaged_file_is_one_line(ending: str, db: sc.Database, tmp_path: Path, seed: int) -> None:
    db.array_store("store", np.float64).put_many(np.arange(100), np.ones((100, 3)))
    db.close()
    file = tmp_path / f"file{ending}"
    good("export", db.path, "store", file)
    whole = file.read_bytes()
    random = np.random.default_rng(seed)
    for position in [0, 1, len(whole) // 2, len(whole) - 1, *random.integers(0, len(whole), 20).tolist()]:
        file.write_bytes(whole[:position])
        failed("import", tmp_path / "new.sc", file, "store")
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        result = run("import", tmp_path / "new.sc", file, "store")  # not every byte is under a checksum
        assert result.exit_code in (0, 1) and result.stderr.count("\n") == result.exit_code
        with sc.open(tmp_path / "new.sc") as new:
            if result.exit_code == 0:
                new.drop_store("store")
            assert list(new) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_export_is_there_whole_or_not_at_all(
    ending: str, db: sc.Database, tmp_path: Path, monkeypatch: Any
) -> None:
    store = db.array_store("store", np.float64)
    store.put_many(np.arange(100), np.ones((100, 3)))
    db.close()
    file = tmp_path / f"file{ending}"
    file.write_text("before")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("structchunk.stores.batch.Batch.__len__", interrupt)
    monkeypatch.setattr("structchunk.stores.store.Store.scan", interrupt)
    assert run("export", db.path, "store", file).exit_code == 130
    assert file.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name, "test.sc"]


def write_columns(file: Path, **columns: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    if file.suffix == ".parquet":
        pytest.importorskip("pyarrow.parquet").write_table(pa.table(columns), file)
        return
    with pa.ipc.new_file(file, pa.table(columns).schema) as writer:
        writer.write_table(pa.table(columns))


@pytest.mark.parametrize("ending", [".arrow", ".parquet"])
def test_columns_of_another_program(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"file{ending}"
    write_columns(file, key=[3, 1], lists=[[1, 2], []])
    good("import", tmp_path / "new.sc", file, "store")
    write_columns(file, key=[9], things=[{"a": 1, "b": 0.5}])
    assert "things (struct<" in failed("import", tmp_path / "new.sc", file, "objects")
    with sc.open(tmp_path / "new.sc") as new:
        assert {key: value.tolist() for key, value in new["store"].items()} == {1: [], 3: [1, 2]}
        assert new["store"].dtype == np.int64
        new.object_store("objects", Inner)
    good("import", tmp_path / "new.sc", file, "objects")
    with sc.open(tmp_path / "new.sc") as new:
        assert new["objects"][9] == Inner(1, 0.5)


@pytest.mark.parametrize("ending", [".arrow", ".parquet"])
def test_the_type_of_a_new_store_is_that_of_the_items(ending: str, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    samples = {
        "?": ([True, False], pa.bool_()),
        "V2": ([b"ab", b"c\0"], pa.binary(2)),
        "M8[D]": ([0, 1], pa.date32()),
        "M8[us]": ([0, 1], pa.timestamp("us", "UTC")),
        "(2,)f4": ([[0, 1], [2, 3]], pa.list_(pa.float32(), 2)),
        "(1,2)i2": ([[[0, 1]], [[2, 3]]], pa.list_(pa.list_(pa.int16(), 2), 1)),
    }
    for number, (dtype, (items, kind)) in enumerate(samples.items()):
        file = tmp_path / f"{number}{ending}"
        write_columns(file, key=[1, 2], lists=pa.array([items, []], pa.list_(kind)))
        good("import", tmp_path / "new.sc", file, f"store {number}")
        with sc.open(tmp_path / "new.sc", "r") as new:
            assert new[f"store {number}"].dtype == np.dtype(dtype)
            assert len(new[f"store {number}"][1]) == 2


@pytest.mark.parametrize("kind", ["list<string>", "dictionary", "list<null>"])
def test_a_store_that_types_do_not_tell_is_to_be_created_first(kind: str, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    lists = {"list<string>": pa.array([["a"], []]), "list<null>": pa.array([[], []])}
    column = lists.get(kind, pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array([1, 2])))
    write_columns(tmp_path / "file.arrow", key=[1, 2], lists=column)
    assert "create the store first" in failed("import", tmp_path / "new.sc", tmp_path / "file.arrow", "store")
    if kind == "list<string>":
        with sc.open(tmp_path / "new.sc") as new:
            new.array_store("store", "S3")
        good("import", tmp_path / "new.sc", tmp_path / "file.arrow", "store")
        with sc.open(tmp_path / "new.sc", "r") as new:
            assert new["store"][1].tolist() == [b"a"]


@pytest.mark.parametrize("columns", [{"key": [1]}, {"lists": [[1]]}, {"key": [1], "a": [[1]], "b": [[1]]}])
def test_other_columns_are_one_line(columns: dict[str, Any], tmp_path: Path) -> None:
    write_columns(tmp_path / "file.arrow", **columns)
    assert "found the columns" in failed("import", tmp_path / "new.sc", tmp_path / "file.arrow", "store")


@pytest.mark.parametrize("values", [[1, None], [[1], None], [[1], [None]], [["a"], ["b"]]])
def test_columns_that_do_not_fit_change_nothing(values: list[Any], tmp_path: Path) -> None:
    write_columns(tmp_path / "file.arrow", key=[1, 2], store=values)
    with sc.open(tmp_path / "new.sc") as new:
        new.array_store("store", np.float64)[1] = [5]
    failed("import", tmp_path / "new.sc", tmp_path / "file.arrow", "store")
    with sc.open(tmp_path / "new.sc") as new:
        assert {key: value.tolist() for key, value in new["store"].items()} == {1: [5.0]}


def test_without_pyarrow_it_says_which_extra_has_it(db: sc.Database, tmp_path: Path, monkeypatch: Any) -> None:
    db.array_store("store", np.float64)
    db.close()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for words in (
        ["export", db.path, "store", tmp_path / "a.arrow"],
        ["import", db.path, tmp_path / "a.parquet", "b"],
    ):
        assert "in a checkout of structchunk, pip install '.[arrow]'" in failed(*words)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    for ending in ENDINGS:
        assert f"none{ending}" in failed("import", tmp_path / "new.sc", tmp_path / f"none{ending}", "store")
    assert not (tmp_path / "new.sc").exists()


def test_exports_of_many_batches(db: sc.Database, tmp_path: Path) -> None:
    lengths = np.arange(150_000) % 3
    store = db.array_store("store", np.int8)
    store.put_many(np.arange(150_000)[::-1], np.arange(lengths.sum()).astype(np.int8), lengths)
    before = store.get_many(store.keys()).values.tobytes()
    db.close()
    for ending in ENDINGS:
        good("export", db.path, "store", tmp_path / f"file{ending}")
        good("import", tmp_path / "new.sc", tmp_path / f"file{ending}", ending)
    with sc.open(tmp_path / "new.sc", "r") as new:
        for name in new:
            assert len(new[name]) == 150_000
            assert new[name].get_many(new[name].keys()).values.tobytes() == before


def test_an_npz_has_no_checksum_errors(db: sc.Database, tmp_path: Path) -> None:
    db.array_store("store", np.int8)[1] = [1]
    db.close()
    good("export", db.path, "store", tmp_path / "file.npz")
    with zipfile.ZipFile(tmp_path / "file.npz") as archive:
        assert archive.testzip() is None


def test_tensors_of_another_program_make_a_store_of_items_with_a_shape(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(12, dtype="f4").reshape(2, 3, 2))
    file = tmp_path / "file.arrow"
    write_columns(file, key=[1, 2], lists=pa.ListArray.from_arrays([0, 1, 2], tensors))
    good("import", tmp_path / "new.sc", file, "store")
    with sc.open(tmp_path / "new.sc", "r") as new:
        assert new["store"].dtype == np.dtype(("f4", (3, 2)))
        assert new["store"][2].tolist() == [[[6, 7], [8, 9], [10, 11]]]
