"""Dask: worker processes open their part themselves, and what goes through the scheduler is not the records."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import dask.bag
import distributed
import numpy as np
import pandas as pd
import pytest
from distributed.comm import tcp

import structchunk as sc
from structchunk import dask as scd
from structchunk.database import pickling
from structchunk.shards.manifest import NAME

# Dask 2025.1 warns of this where a test asks for no cluster.
pytestmark = pytest.mark.filterwarnings("ignore:Running on a single-machine scheduler")

Point = sc.Object.of(x=ctypes.c_double, n=ctypes.c_int32)
COUNT = 20_000
KEYS = np.cumsum(np.random.default_rng(5).integers(1, 1 << 30, COUNT)).astype(np.uint64)
LENGTHS = np.random.default_rng(6).integers(0, 40, COUNT)


@pytest.fixture
def path(open_db: Callable[..., sc.Database]) -> str:
    """A database of ragged arrays, of arrays for every other key, and of objects."""
    with open_db(sync=False) as db:
        values = np.random.default_rng(7).normal(size=LENGTHS.sum())
        db.array_store("a", "f8").put_many(KEYS, values, LENGTHS)
        db.array_store("b", "i4").put_many(KEYS[::2], np.arange(COUNT, dtype="i4").reshape(-1, 2))
        points = np.zeros(1000, db.object_store("points", Point).dtype)
        points["x"], points["n"] = np.arange(1000) / 4, np.arange(1000)
        db["points"].put_many(KEYS[:1000], points)
        return db.path


def sums(batch: sc.Batch) -> tuple[bytes, bytes]:
    return batch.keys.tobytes(), batch.reduce(np.add).tobytes()


def all_sums(pairs: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """Return keys and sums end to end, however the records were cut into batches."""
    made = list(pairs)
    return b"".join(keys for keys, _ in made), b"".join(sums for _, sums in made)


def single(path: str, names: Iterable[str] = ("a",)) -> tuple[bytes, bytes]:
    with sc.open(path, "r") as db:
        return all_sums(sums(batch) for name in names for batch in db[name].scan())


# ---------------------------------------------------------------- reading


def test_sums_of_workers_are_those_of_one_process(client: distributed.Client, path: str) -> None:
    bag = scd.read(path, "a", partitions=16)
    assert bag.npartitions == 16
    assert all_sums(bag.map(sums).compute()) == single(path)
    pids = set(bag.map(lambda batch: os.getpid()).compute())
    assert len(pids) > 1
    assert os.getpid() not in pids


def test_stores_are_swept_side_by_side(client: distributed.Client, path: str) -> None:
    bag = scd.read(path, "a", "b", partitions=5)
    pairs = bag.map(lambda batches: (batches[0].keys.tobytes(), batches[1].values.tobytes())).compute()
    assert len(pairs) >= 5
    keys, values = all_sums(pairs)
    assert keys == KEYS[::2].tobytes()
    assert values == np.arange(COUNT, dtype="i4").tobytes()


def test_partitions_are_balanced_in_bytes(path: str) -> None:
    parts = scd.read(path, "a", partitions=4).to_delayed(optimize_graph=False)
    sizes = [sum(b.values.nbytes + 32 * len(b) for b in p.compute(scheduler="sync")) for p in parts]
    assert max(sizes) / min(sizes) < 1.01


def test_each_reading_sees_what_was_written_before_it(client: distributed.Client, path: str) -> None:
    count = scd.read(path, "b", partitions=3).map(len).sum()
    assert count.compute() == COUNT // 2
    with sc.open(path) as db:
        db["b"].delete_range(int(KEYS[10_000]))
        assert scd.read(path, "b", partitions=3).map(len).sum().compute() == 5000


def test_arguments_are_checked_at_the_call(path: str) -> None:
    with pytest.raises(sc.StoreNotFound, match="nothing"):
        scd.read(path, "a", "nothing", partitions=2)
    with pytest.raises(ValueError, match="name at least one"):
        scd.read(path, partitions=2)
    with pytest.raises(ValueError, match="at least 1"):
        scd.read_frame(path, "a", partitions=0)
    with pytest.raises(FileNotFoundError):
        scd.read(f"{path}-other", "a", partitions=2)


# ---------------------------------------------------------------- one commit throughout


def rewrite(path: str) -> None:
    """Replace what the stores hold by other records, and leave nothing of the old ones; drop one."""
    with sc.open(path, sync=False) as db:
        db["a"].put_many(KEYS, np.zeros((COUNT, 1)))
        db["b"].delete_range()
        db.compact("a", "b")
        if "points" in db:
            db.drop_store("points")


@pytest.mark.parametrize("scheduler", ["distributed", "threads", "sync"])
def test_all_partitions_are_of_the_commit_of_the_call(
    client: distributed.Client, path: str, scheduler: str
) -> None:
    wanted = single(path)
    with sc.open(path, "r") as db:
        x = db["points"].records()["x"].sum()
    bag = scd.read(path, "a", partitions=8).map(sums)
    pair = scd.read(path, "a", "b", partitions=3).map(lambda batches: len(batches[0]))
    frame = scd.read_frame(path, "points", partitions=3)
    total = frame.map_partitions(
        lambda part: part["points"].struct.field("x"), meta=("x", "float64[pyarrow]")
    ).sum()
    with dask.config.set({} if scheduler == "distributed" else {"scheduler": scheduler}):
        for _ in range(2):
            assert all_sums(bag.compute()) == wanted
            assert sum(pair.compute()) == COUNT // 2
            assert total.compute() == x
            rewrite(path)
        assert all_sums(scd.read(path, "a", partitions=4).map(sums).compute()) == single(path) != wanted
        with pytest.raises(sc.StoreNotFound):
            scd.read_frame(path, "points", partitions=3)


def test_so_are_those_of_processes_that_start_later(path: str) -> None:
    wanted, bag = single(path), scd.read(path, "a", partitions=4).map(sums)
    rewrite(path)
    with dask.config.set(scheduler="processes", num_workers=2):
        assert all_sums(bag.compute()) == wanted


def test_workers_that_come_late_see_it_too(client: distributed.Client, path: str) -> None:
    """Partitions are computed one after the other while a writer goes on; the graph has left this process."""
    wanted = single(path)
    begun = client.persist(scd.read(path, "a", partitions=12).map(slowly).map(sums))
    gc.collect()
    for _ in range(3):
        rewrite(path)
        assert scd.read(path, "a", partitions=2).map(len).sum().compute() == COUNT
    assert all_sums(begun.compute()) == wanted


def slowly(batch: sc.Batch) -> sc.Batch:
    time.sleep(0.02)
    return batch


def test_a_commit_is_kept_for_as_long_as_there_are_partitions_of_it(path: str) -> None:
    with dask.config.set(scheduler="sync"):
        wanted, bag = single(path), scd.read(path, "a", partitions=4).map(sums)
        for _ in range(scd._latest_readers.maxlen or 0):
            rewrite(path)
            scd.read(path, "a", partitions=2)
        assert all_sums(bag.compute()) == wanted
        for _ in range(2):  # as many stay open that nothing uses
            rewrite(path)
            assert scd.read(path, "a", partitions=1).map(len).compute() == [COUNT]
        kept = min((part.kept for part in scd._reader_of if part.path == path), key=lambda kept: kept.commit)
        del bag
        gc.collect()
        with pytest.raises(sc.CommitGone):
            pickling.reopen(kept)


def test_a_partition_without_its_reader_says_so(path: str) -> None:
    code = """
import pickle, sys
from structchunk import dask
bag = dask.read(sys.argv[1], "a", partitions=2)
sys.stdout.buffer.write(pickle.dumps(list(dask._reader_of)))
"""
    made = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True).stdout
    parts = sorted(pickle.loads(made), key=lambda part: part.start)
    assert all_sums(sums(batch) for part in parts for batch in part) == single(path)  # nothing was written since
    rewrite(path)
    pickling._handles.close()
    with pytest.raises(sc.CommitGone):
        list(parts[0])


# ---------------------------------------------------------------- what the scheduler carries


@pytest.fixture
def traffic(client: distributed.Client, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all messages that this process, client and scheduler in one, sends and gets from now on."""
    sizes: list[int] = []
    send, get = tcp.to_frames, tcp.from_frames

    async def counted_send(*args: Any, **kwargs: Any) -> Any:
        frames = await send(*args, **kwargs)
        sizes.append(sum(map(len, frames)))
        return frames

    async def counted_get(frames: Any, **kwargs: Any) -> Any:
        sizes.append(sum(map(len, frames)) if isinstance(frames, list) else len(frames))
        return await get(frames, **kwargs)

    monkeypatch.setattr(tcp, "to_frames", counted_send)
    monkeypatch.setattr(tcp, "from_frames", counted_get)
    return sizes


def test_the_scheduler_carries_no_records(
    client: distributed.Client, traffic: list[int], open_db: Callable[..., sc.Database], tmp_path: Path
) -> None:
    carried: list[int] = []
    graphs: list[int] = []
    for length in (1, 2000):
        with open_db(name=f"{length}.sc", sync=False) as db:
            db.array_store("a", "f8").put_many(range(2000), np.ones((2000, length)))
        bag = scd.read(db.path, "a", partitions=8)
        total = bag.map(lambda batch: float(batch.values.sum())).sum()
        graphs.append(len(cloudpickle.dumps(dict(total.__dask_graph__()))))
        traffic.clear()
        assert total.compute() == 2000 * length
        scd.write(bag, tmp_path / f"{length}-shards", {"a": "f8"})
        carried.append(sum(traffic))
    assert carried[0] > 1000  # it counts at all
    assert max(carried) < 500_000 < 2000 * 2000 * 8 / 50
    assert max(graphs) < 10_000


def test_a_partition_is_pickled_as_what_it_is(path: str) -> None:
    part = scd.Partition(path, ("a",), 0, 2**64, "")
    assert len(pickle.dumps(part)) < 300
    assert all_sums(map(sums, pickle.loads(pickle.dumps(part)))) == single(path)
    assert all_sums(map(sums, part)) == all_sums(map(sums, part))


# ---------------------------------------------------------------- data frames


def test_data_frame(client: distributed.Client, path: str) -> None:
    frame = scd.read_frame(path, "a", "b", partitions=6)
    assert frame.npartitions == 6
    assert frame.known_divisions
    assert frame.index.dtype == np.uint64
    assert len(frame) == COUNT // 2
    # Before pandas 3, list.len() forgets the index.
    lengths = frame.map_partitions(
        lambda part: part["a"].list.len().set_axis(part.index), meta=("a", "int32[pyarrow]")
    ).compute()
    assert lengths.index.tolist() == KEYS[::2].tolist()
    assert lengths.tolist() == LENGTHS[::2].tolist()
    some = frame.loc[int(KEYS[100]) : int(KEYS[200])].compute()
    assert some.index.tolist() == KEYS[100:201:2].tolist()
    assert some["b"].iloc[3] == [106, 107]
    with sc.open(path, "r") as db:
        assert np.array_equal(some["a"].iloc[3], db["a"][int(KEYS[106])])


def test_data_frame_of_objects(client: distributed.Client, path: str) -> None:
    frame = scd.read_frame(path, "points", partitions=3)
    x = frame.map_partitions(lambda part: part["points"].struct.field("x"), meta=("x", "float64[pyarrow]"))
    assert x.sum().compute() == np.arange(1000).sum() / 4
    assert frame.compute().dtypes["points"] == frame.dtypes["points"]
    assert isinstance(frame.partitions[0].compute(), pd.DataFrame)


# ---------------------------------------------------------------- shards


def scaled(batch: sc.Batch) -> sc.Batch:
    return sc.Batch(batch.keys, batch.offsets, batch.values * 2, batch.kind)


def test_write_and_read_again(client: distributed.Client, path: str, tmp_path: Path) -> None:
    scd.write(scd.read(path, "a", partitions=6).map(scaled), tmp_path / "set", {"a": "f8"})
    assert sorted(os.listdir(tmp_path / "set")) == [NAME, *(f"shard-{i:05}.sc" for i in range(6))]
    with sc.open_shards(tmp_path / "set") as shards, sc.open(path, "r") as db:
        assert shards.verify() == []
        for mine, theirs in itertools.zip_longest(
            (pair for batch in shards["a"].scan() for pair in batch),
            (pair for batch in db["a"].scan() for pair in batch),
        ):
            assert mine[0] == theirs[0]
            assert np.array_equal(mine[1], theirs[1] * 2)
    again = scd.read(tmp_path / "set", "a", partitions=4)
    assert again.npartitions == 4
    assert all_sums(again.map(sums).compute())[0] == KEYS.tobytes()
    assert len(scd.read_frame(tmp_path / "set" / NAME, "a", partitions=3)) == COUNT


def test_write_several_stores_of_all_kinds(client: distributed.Client, path: str, tmp_path: Path) -> None:
    bag = scd.read(path, "a", "points", partitions=3)
    scd.write(bag, tmp_path / "set", {"a": np.float64, "points": Point})
    with sc.open_shards(tmp_path / "set") as shards, sc.open(path, "r") as db:
        assert shards.verify() == []
        assert shards["points"].records().tobytes() == db["points"].records().tobytes()
        assert shards["points"][int(KEYS[7])].n == 7
        assert len(list(shards["a"])) == 1000


def made_of(number: int) -> tuple[Any, ...]:
    keys = np.arange(number, 4000, 8)
    return (
        (keys, np.repeat(keys, 2).astype(float), np.full(len(keys), 2))
        if number % 2
        else (
            keys[::-1],
            np.stack([keys, keys], axis=1)[::-1],
        )
    )


def test_partitions_may_have_keys_between_those_of_others(client: distributed.Client, tmp_path: Path) -> None:
    bag = dask.bag.from_sequence(range(8), npartitions=4).map(made_of)
    scd.write(bag, tmp_path / "set", {"a": "f8"})
    with sc.open_shards(tmp_path / "set") as shards:
        assert [(key, value.tolist()) for b in shards["a"].scan() for key, value in b] == [
            (key, [key, key]) for key in range(4000)
        ]


def test_a_key_of_two_partitions_is_refused(client: distributed.Client, tmp_path: Path) -> None:
    bag = dask.bag.from_sequence([[1, 2], [5], [2, 3]], npartitions=3).map(
        lambda keys: (keys, np.zeros((len(keys), 1)))
    )
    with pytest.raises(ValueError, match=r"key 2 of store 'a' is in shard-00000.sc and shard-00002.sc"):
        scd.write(bag, tmp_path / "set", {"a": "f8"})
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing(client: distributed.Client, path: str, tmp_path: Path) -> None:
    bag = scd.read(path, "a", partitions=4).map(lambda batch: (batch.keys, batch.values))
    with pytest.raises(ValueError, match="expected 2-D values"):
        scd.write(bag, tmp_path / "set", {"a": "f8"})
    assert os.listdir(tmp_path) == [os.path.basename(path)]
    with pytest.raises(sc.SchemaError):
        scd.write(bag, tmp_path / "set", {"a": object})
    with pytest.raises(FileExistsError, match="a directory of their own"):
        scd.write(bag, tmp_path, {"a": "f8"})


@pytest.mark.parametrize(
    ("item", "stores", "expected"),
    [
        (7, ["a"], r"the bag has int for a store, expected a Batch, \(keys, values\) or"),
        ([[1], [[2.0]], [1], [1]], ["a"], "the bag has list of 4 for a store"),
        (([1], [[2.0]]), ["a", "b"], "the bag has list of 1 for a store"),
        (
            ([1], [[2.0]]),
            ["a", "b", "c"],
            "the bag has tuple of 2, expected a tuple with a block for each of 3 stores",
        ),
        (None, ["a", "b"], "the bag has NoneType, expected a tuple with a block for each of 2 stores"),
    ],
)
def test_what_is_no_block_is_named(item: Any, stores: list[str], expected: str, tmp_path: Path) -> None:
    bag = dask.bag.from_sequence([item])
    with dask.config.set(scheduler="sync"), pytest.raises(TypeError, match=expected):
        scd.write(bag, tmp_path / "set", dict.fromkeys(stores, "f8"))
    assert list(tmp_path.iterdir()) == []


def test_no_store_to_write(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name at least one"):
        scd.write(dask.bag.from_sequence([([1], [[2.0]])]), tmp_path / "set", {})


def die_once(marker: str, batch: sc.Batch) -> Iterator[Any]:
    """Kill the worker when its shard is half written, the first time that any does it."""
    half = len(batch) // 2
    yield batch.keys[:half], batch.values[: batch.offsets[half]], batch.lengths[:half]
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        pass
    else:
        os.kill(os.getpid(), signal.SIGKILL)
    yield batch.keys[half:], batch.values[batch.offsets[half] :], batch.lengths[half:]


def test_a_killed_worker_leaves_nothing_and_writes_nothing_twice(
    client: distributed.Client, path: str, tmp_path: Path
) -> None:
    marker = tmp_path / "killed"
    bag = scd.read(path, "a", partitions=4).map(partial(die_once, str(marker))).flatten()
    scd.write(bag, tmp_path / "set", {"a": "f8"})
    assert marker.exists()
    assert sorted(os.listdir(tmp_path / "set")) == [NAME, *(f"shard-{i:05}.sc" for i in range(4))]
    with sc.open_shards(tmp_path / "set") as shards:
        assert shards.verify() == []
        assert all_sums(map(sums, shards["a"].scan())) == single(path)


def test_without_dask_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['dask'] = None; import structchunk.dask"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: this needs Dask: in a checkout of structchunk, pip install '.[dask]'" in done.stderr
