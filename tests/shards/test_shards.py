"""Shards: several databases are one map, in order of key, and say so when one of them is not what it was."""

from __future__ import annotations

import errno
import gc
import itertools
import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapping_contract import KINDS, Kind, all_raise, check_reading, check_refuses_writes, fill, kinds, reads
from support import copy_tree, count_descriptors, in_child, keys, rows_of_model, run_python

import structchunk as sc
from structchunk.runs.extent import clip
from structchunk.runs.interleaved import merge
from structchunk.runs.run import Run, shorten
from structchunk.runs.streams import joined
from structchunk.shards.manifest import NAME, Manifest, _crc, read_manifest, write_manifest
from structchunk.shards.writing import finish, make_shard, new_directory
from structchunk.stores.collection import open_store
from structchunk.types.schema import Schema, array_schema, object_schema

FLOATS = {"a": array_schema("f8"), "b": array_schema("f8")}
ALL = {kind.name: (array_schema if kind.is_array else object_schema)(kind.type) for kind in KINDS}
Records = dict[int, list[float]]
Stores = dict[str, Records]


def put(stores: Mapping[str, Schema], records: Mapping[str, Any], db: sc.Database) -> None:
    for name, schema in stores.items():
        open_store(db, name, schema)
        if records.get(name):
            model = records[name]
            db[name].put_many(
                list(model), [item for items in model.values() for item in items], [*map(len, model.values())]
            )


def write(path: str | Path, parts: Iterable[Stores], stores: dict[str, Schema] = FLOATS) -> str:
    """Make a shard of each part."""
    with new_directory(path) as directory:
        finish(
            directory,
            stores,
            [make_shard(directory, i, partial(put, stores, part)) for i, part in enumerate(parts)],
        )
    return str(path)


def records(numbers: Iterable[int], length: int = 3) -> Records:
    return {key: [float(key % 1000 + i) for i in range(length)] for key in numbers}


def whole(parts: Iterable[Stores], name: str) -> Records:
    return dict(sorted({key: value for part in parts for key, value in part.get(name, {}).items()}.items()))


def found_in(scan: Iterable[sc.Batch]) -> Records:
    pairs = [(key, value.tolist()) for batch in scan for key, value in batch]
    assert [key for key, _ in pairs] == sorted(dict(pairs))
    return dict(pairs)


@pytest.fixture
def disjoint(new_root: Callable[[], str]) -> Iterator[sc.Shards]:
    """Three shards of ascending keys, the store b having none in the second."""
    parts: list[Stores] = [
        {"a": records(range(100)), "b": records(range(0, 100, 2), 1)},
        {"a": records(range(100, 200))},
        {"a": records(range(250, 300)), "b": records(range(240, 290), 2)},
    ]
    with sc.open_shards(write(new_root(), parts)) as shards:
        yield shards
    with sc.open_shards(shards.path) as shards:
        assert shards.verify() == []


# ---------------------------------------------------------------- merging rows


models = st.lists(st.dictionaries(keys, st.just((4096, 1, 1, 0)), max_size=20), max_size=4)


def runs_of(model: dict[int, Any], cuts: list[int], *, reverse: bool) -> Iterator[Run]:
    rows = rows_of_model({key: (key, *row) for key, row in model.items()})
    bounds = [0, *sorted(cuts), 2**64]
    parts = [shorten(clip(rows, low, high), 8) for low, high in itertools.pairwise(bounds)]
    filled = [part for part in parts if len(part)]
    return reversed(filled) if reverse else iter(filled)


@given(models, st.lists(keys, max_size=4), st.booleans(), st.sampled_from([1, 3, 1024]))
def test_merging_streams_gives_all_rows_in_order(
    models: list[dict[int, Any]], cuts: list[int], reverse: bool, long_run: int
) -> None:
    taken: set[int] = set()
    for model in models:
        for key in taken & model.keys():
            del model[key]
        taken |= model.keys()
    streams = [runs_of(model, cuts, reverse=reverse) for model in models]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("structchunk.runs.interleaved.LONG_RUN", long_run)
        runs = list(merge(streams, reverse=reverse))
    assert all(len(run) for run in runs)
    assert joined(reversed(runs) if reverse else runs)["key"].tolist() == sorted(taken)


# ---------------------------------------------------------------- one map


parts_of_records = st.lists(
    st.fixed_dictionaries(
        {name: st.dictionaries(keys, st.lists(st.integers(-9, 9).map(float), max_size=3)) for name in FLOATS}
    ),
    max_size=4,
)


@given(parts_of_records, st.tuples(keys, keys).map(sorted), st.integers(1, 30))
def test_is_the_union_of_dictionaries(parts: list[Stores], bounds: list[int], batch_size: int) -> None:
    for name in FLOATS:
        taken: set[int] = set()
        for part in parts:
            part[name] = {key: value for key, value in part[name].items() if key not in taken}
            taken |= part[name].keys()
    start, stop = bounds
    model = {name: whole(parts, name) for name in FLOATS}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as base:
        path = write(os.path.join(base, "set"), parts)
        with sc.open_shards(path) as shards:
            store = shards["a"]
            assert found_in(store.scan(start, stop, batch_size=batch_size)) == {
                key: value for key, value in model["a"].items() if start <= key < stop
            }
            assert found_in(store.scan()) == model["a"]
            assert len(store) == len(model["a"])
            asked = [*model["a"], *reversed(model["a"])]
            assert [value.tolist() for _, value in store.get_many(asked)] == [model["a"][key] for key in asked]
            for key in {*bounds, *list(model["a"])[:3]}:
                value = store.get(key)
                assert (None if value is None else value.tolist()) == model["a"].get(key)
                assert (key in store) == (key in model["a"])
            assert list(store.keys(start, stop, reverse=True)) == [
                key for key in reversed(model["a"]) if start <= key < stop
            ]
            both = [
                (key, left[i].tolist(), right[i].tolist())
                for left, right in shards.scan("a", "b", start=start, batch_size=batch_size)
                for i, key in enumerate(left.keys.tolist())
            ]
            assert both == [
                (key, value, model["b"][key])
                for key, value in model["a"].items()
                if key in model["b"] and key >= start
            ]
            assert shards.verify() == []


@kinds
@pytest.mark.parametrize("deal", ["in turn", "by range"])
def test_reads_as_any_store_and_refuses_writes(kind: Kind, deal: str, tmp_path: Path) -> None:
    with sc.open(tmp_path / "all.sc", sync=False) as db:
        model = fill(kind.open(db), kind)
    numbers = list(model)
    shares = [numbers[i::3] for i in range(3)] if deal == "in turn" else [numbers[:4], numbers[4:5], numbers[5:]]

    def put_share(share: list[int], shard: sc.Database) -> None:
        for name, schema in ALL.items():
            open_store(shard, name, schema)
        for key in share:
            shard[kind.name].put(key, kind.make(model[key]))

    with new_directory(tmp_path / "set") as directory:
        made = [make_shard(directory, i, partial(put_share, share)) for i, share in enumerate(shares)]
        finish(directory, ALL, made)
    with sc.open_shards(directory) as shards:
        store = shards[kind.name]
        check_refuses_writes(store, kind, model)
        check_reading(pickle.loads(pickle.dumps(store)), kind, model)
        attempts = reads(store)
    all_raise(attempts, sc.ClosedError, "closed")


def test_disjoint_shards_are_swept_without_a_copy(disjoint: sc.Shards) -> None:
    batches = list(disjoint["a"].scan())
    assert [len(batch) for batch in batches] == [100, 100, 50]
    assert all(batch.values.base is not None for batch in batches)
    assert found_in(batches) == records([*range(200), *range(250, 300)])
    ((left, right), *rest) = disjoint.scan("a", "b", stop=50)
    assert rest == []
    assert left.keys.tolist() == right.keys.tolist() == list(range(0, 50, 2))


def test_long_runs_of_shards_in_turn_are_not_copied(tmp_path: Path) -> None:
    with sc.open_shards(
        write(
            tmp_path / "set",
            [{"a": records([*range(2000), *range(5000, 7000)])}, {"a": records(range(2000, 5000))}],
        )
    ) as shards:
        batches = list(shards["a"].scan())
        assert [len(batch) for batch in batches] == [2000, 3000, 2000]
        assert all(batch.values.base is not None for batch in batches)
        assert found_in(batches) == records(range(7000))
        assert list(shards["a"].keys(reverse=True)) == list(reversed(range(7000)))


def test_attributes_are_those_of_each_shard(disjoint: sc.Shards) -> None:
    with pytest.raises(sc.Error, match="shards have no attributes together"):
        disjoint["a"].attrs  # noqa: B018
    assert "ArrayStore" in disjoint["a"]._repr_html_()


def test_names_and_types(disjoint: sc.Shards) -> None:
    assert disjoint.names == list(disjoint) == ["a", "b"]
    assert ("a" in disjoint, "c" in disjoint, len(disjoint)) == (True, False, 2)
    assert isinstance(disjoint["a"], sc.ArrayStore)
    assert disjoint["a"].dtype == np.float64
    assert repr(disjoint).endswith("3 databases of 2 stores>")
    with pytest.raises(sc.StoreNotFound, match=r"no store 'c'; they have \['a', 'b'\]"):
        disjoint["c"]
    with pytest.raises(sc.StoreNotFound):
        disjoint.scan("a", "c")


def test_to_arrow(disjoint: sc.Shards) -> None:
    table = disjoint.to_arrow("a", "b", start=95).read_all()
    assert table["key"].to_pylist() == [96, 98, *range(250, 290)]
    assert disjoint["b"].to_arrow().read_all().num_rows == 100


def test_split_covers_and_balances(disjoint: sc.Shards) -> None:
    ranges = disjoint.split("a", count=5)
    assert (ranges[0][0], ranges[-1][1]) == (0, 2**64)
    assert [len(disjoint["a"].keys(*bounds)) for bounds in ranges] == [50] * 5
    assert disjoint.split("a", "b", count=1) == [(0, 2**64)]


def test_no_shard_or_an_empty_one(tmp_path: Path) -> None:
    for i, parts in enumerate([[], [{}], [{}, {"a": records([5])}, {}]]):
        with sc.open_shards(write(tmp_path / str(i), parts)) as shards:
            model = whole(parts, "a")
            assert found_in(shards["a"].scan()) == model
            assert len(shards["a"]) == len(model)
            assert list(shards.scan("a", "b")) == []
            assert len(shards["a"].get_many([])) == 0
            assert shards.split("a", count=2)[-1][1] == 2**64
            assert shards.verify() == []


# ---------------------------------------------------------------- opening and closing


def test_a_shard_is_opened_when_it_is_needed(disjoint: sc.Shards) -> None:
    gc.collect()
    before = count_descriptors()
    assert disjoint["a"].get(220) is None
    assert len(disjoint["a"]) == 250
    assert count_descriptors() == before
    assert disjoint["a"][5].tolist() == [5, 6, 7]
    one = count_descriptors() - before
    assert one > 0
    assert disjoint["a"].get_many([5, 50, 7]).keys.tolist() == [5, 50, 7]
    assert list(disjoint["a"].keys(20, 30)) == list(range(20, 30))
    assert count_descriptors() == before + one
    assert len(list(disjoint["a"])) == 250
    assert count_descriptors() > before + 2 * one
    disjoint.close()
    disjoint.close()
    assert count_descriptors() == before
    with pytest.raises(sc.ClosedError, match="open them again"):
        disjoint["a"]


def test_dropping_closes(tmp_path: Path) -> None:
    path = write(tmp_path / "set", [{"a": records(range(10))}])
    gc.collect()
    before = count_descriptors()
    readers = Path(path, "shard-00000.sc", "readers")
    others = set(readers.iterdir())
    shards = sc.open_shards(path)
    value = shards["a"][3]
    assert set(readers.iterdir()) > others
    del shards
    gc.collect()
    assert set(readers.iterdir()) == others
    assert value.tolist() == [3, 4, 5]
    del value
    assert count_descriptors() == before


def test_opens_by_directory_manifest_and_pickle(disjoint: sc.Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(os.path.dirname(disjoint.path))
    name = os.path.basename(disjoint.path)
    for path in (Path(name), os.path.join(name, NAME), disjoint.path):
        with sc.open_shards(path) as shards:
            assert shards.path == disjoint.path
            assert shards["a"][120].tolist() == [120, 121, 122]
    with pickle.loads(pickle.dumps(disjoint)) as shards:
        assert len(list(shards["b"].scan())) == 2
    with pytest.raises(FileNotFoundError, match="writing them did not end"):
        sc.open_shards(os.path.dirname(disjoint.path))


def test_a_forked_child_opens_them_again(disjoint: sc.Shards) -> None:
    assert disjoint["a"][5].tolist() == [5, 6, 7]
    assert "ClosedError: these shards were opened before fork()" in in_child(lambda: disjoint["a"][250])
    assert (
        in_child(lambda: list(sc.open_shards(disjoint.path)["a"].keys(290)))
        == "[290, 291, 292, 293, 294, 295, 296, 297, 298, 299]"
    )


def test_too_many_for_the_limit_says_what_to_do(disjoint: sc.Shards) -> None:
    code = """
import os, resource, sys, structchunk as sc
with sc.open_shards(sys.argv[1]) as shards:
    shards["a"][5]
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + int(sys.argv[2]),) * 2)
    try:
        shards["a"][150]
    except OSError as error:
        print(error.errno, error)
"""
    for spare in (0, 2, 4):
        done = run_python(code, disjoint.path, str(spare))
        assert done.stdout.startswith(f"{errno.EMFILE} "), done.stderr
        assert "each shard that was read takes about six; raise the limit (ulimit -n)" in done.stdout
        assert done.stderr == ""


# ---------------------------------------------------------------- writing


def test_a_part_that_is_made_again_is_there_once(tmp_path: Path) -> None:
    def fail(db: sc.Database) -> None:
        put(FLOATS, {"a": records(range(10))}, db)
        raise RuntimeError("the worker is lost")

    with new_directory(tmp_path / "set") as directory:
        with pytest.raises(RuntimeError):
            make_shard(directory, 0, fail)
        assert os.listdir(directory) == []
        shutil.copytree(tmp_path, tmp_path / "set" / "shard-00000.sc.part-of-one-killed", ignore=lambda *_: ["set"])
        first = make_shard(directory, 0, partial(put, FLOATS, {"a": records(range(10))}))
        again = make_shard(directory, 0, partial(put, FLOATS, {"a": records(range(5))}))
        assert first == again
        assert first.stores["a"] == (0, 9, 10, 240)
        finish(directory, FLOATS, [again])
    assert sorted(os.listdir(directory)) == [NAME, "shard-00000.sc"]
    with sc.open_shards(directory) as shards:
        assert len(shards["a"]) == 10


def test_a_key_in_two_shards_is_refused(tmp_path: Path) -> None:
    parts: list[Stores] = [
        {"a": records(range(0, 2000, 2))},
        {"a": records([3000])},
        {"a": records([1, 1001, 1998])},
    ]
    expected = r"key 1998 of store 'a' is in shard-00000.sc and shard-00002.sc: bring"
    with pytest.raises(ValueError, match=expected):
        write(tmp_path / "set", parts)
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_came_into_two_shards_later_is_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "set", [{"a": records([1, 5])}, {"a": records([3, 7])}])
    manifest = read_manifest(os.path.join(path, NAME))
    with sc.open(os.path.join(path, "shard-00001.sc")) as db:
        del db["a"][3]
        db["a"][5] = [1.0, 2.0, 3.0]
    held = manifest.shards[1]._replace(stores={"a": manifest.shards[1].stores["a"]._replace(first=5)})
    write_manifest(path, Manifest(manifest.stores, (manifest.shards[0], held)))
    with sc.open_shards(path) as shards:
        for read in (lambda: list(shards["a"].scan()), lambda: list(reversed(shards["a"]))):
            with pytest.raises(sc.CorruptionError, match="key 5 of store 'a' in more than one shard"):
                read()
        (problem,) = shards.verify()
        assert problem.what == "key 5 of store 'a' is in shard-00000.sc and shard-00001.sc"


def test_shards_go_into_a_new_directory(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="a directory of their own"):
        write(tmp_path, [])


# ---------------------------------------------------------------- damage


def path_of(shards: sc.Shards, number: int) -> str:
    return os.path.join(shards.path, f"shard-{number:05}.sc")


def copy_of(shards: sc.Shards) -> sc.Shards:
    return sc.open_shards(copy_tree(shards.path, f"{shards.path}-copy"))


def test_a_missing_shard_is_named(disjoint: sc.Shards) -> None:
    with copy_of(disjoint) as shards:
        shutil.rmtree(path_of(shards, 1))
        assert shards["a"][5].tolist() == [5, 6, 7]
        expected = (
            r"shard-00001.sc: found no database, expected one of the shards that manifest.json names; restore"
        )
        for read in (
            lambda: shards["a"][150],
            lambda: list(shards["a"].scan()),
            lambda: shards.split("a", count=2),
        ):
            with pytest.raises(sc.CorruptionError, match=expected):
                read()
        (problem,) = shards.verify()
        assert problem.where == path_of(shards, 1)


def test_a_shard_that_changed_is_refused(disjoint: sc.Shards) -> None:
    changes: list[Callable[[sc.Database], Any]] = [
        lambda db: db["a"].put(150, [1.0]),
        lambda db: db["a"].put(199, np.zeros(4)),
        lambda db: db["b"].put(199, np.zeros(3)),
        lambda db: db.drop_store("a"),
        lambda db: db.array_store("c", "f8").put(1, [2.0]),
    ]
    for change in changes:
        with copy_of(disjoint) as shards:
            with sc.open(path_of(shards, 1)) as db:
                change(db)
            with pytest.raises(sc.CorruptionError, match="shard-00001"):
                shards["a"][150]
            assert [problem.where for problem in shards.verify()] == [path_of(shards, 1)]
        shutil.rmtree(shards.path)


def test_verify_finds_what_opening_does_not(disjoint: sc.Shards) -> None:
    with copy_of(disjoint) as shards:
        with sc.open(path_of(shards, 1)) as db, db.transaction() as txn:
            txn["a"][5000] = txn["a"][199]
            del txn["a"][199]
        assert shards["a"].get(5000) is None
        done: list[tuple[int, int]] = []
        (problem,) = shards.verify(lambda *at: done.append(at))
        assert "expected {'a': Holding(first=100, last=199" in problem.what
        assert done == [(1, 3), (2, 3), (3, 3)]


def edit(path: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest, and give it the checksum of what it is then."""
    with open(path) as file:
        fields = json.load(file)
    change(fields)
    fields["crc"] = _crc({name: fields[name] for name in ("stores", "shards")})
    with open(path, "w") as file:
        json.dump(fields, file)


def holding(fields: dict[str, Any], **new: Any) -> None:
    fields["shards"][0]["stores"]["a"].update(new)


BAD: dict[str, Callable[[dict[str, Any]], object]] = {
    "'../other.sc' is not a name in the directory": lambda fields: fields["shards"][0].update(path="../other.sc"),
    "'..' is not a name": lambda fields: fields["shards"][0].update(path=".."),
    "x00.sc' is not a name": lambda fields: fields["shards"][0].update(path="\0.sc"),
    "surrogates not allowed": lambda fields: fields["shards"][0].update(path="\ud800.sc"),
    "no such keys": lambda fields: holding(fields, first=500),
    "has no such keys or records": lambda fields: holding(fields, last=2**64),
    "something else than integers": lambda fields: holding(fields, records=True),
    "unexpected keyword": lambda fields: holding(fields, more=1),
    "records and size": lambda fields: fields.update(shards=[1]),
    "a stored schema": lambda fields: fields["stores"].update(a={"kind": "array", "type": "O"}),
    r"the stores \['a'\]": lambda fields: fields["stores"].pop("a"),
    "format, version and CRC": lambda fields: fields.update(version=2),
}


@pytest.mark.parametrize("found", BAD)
def test_a_manifest_that_cannot_be_is_refused(found: str, disjoint: sc.Shards) -> None:
    path = os.path.join(copy_tree(disjoint.path, f"{disjoint.path}-copy"), NAME)
    edit(path, BAD[found])
    with pytest.raises(sc.CorruptionError, match=found) as caught:
        sc.open_shards(path)
    assert caught.value.path == path


def test_a_damaged_manifest_is_refused_wherever_it_is_damaged(disjoint: sc.Shards) -> None:
    path = os.path.join(copy_tree(disjoint.path, f"{disjoint.path}-copy"), NAME)
    whole_text = Path(path).read_bytes()
    good = read_manifest(path)
    for at in range(0, len(whole_text), 17):
        for damaged in (whole_text[:at], whole_text[:at] + b"7" + whole_text[at + 1 :]):
            Path(path).write_bytes(damaged)
            try:
                assert read_manifest(path) == good  # a blank, or the same digit
            except sc.CorruptionError as error:
                assert error.path == path


def test_a_manifest_is_refused_however_deep_it_nests(tmp_path: Path) -> None:
    path = tmp_path / NAME
    for depth in (*range(800, 1001), 100_000):  # around Python's limit reading it may work, and writing it not
        stores = "[" * depth + "]" * depth
        path.write_text(f'{{"format": "", "version": 1, "crc": 1, "stores": {stores}, "shards": []}}')
        with pytest.raises(sc.CorruptionError):
            read_manifest(str(path))
