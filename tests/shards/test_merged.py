"""What merging shards gave is kept: the next scan reads the same from memory, which has a limit."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import structchunk as sc
from structchunk.runs.run import ContiguousRun, Run
from structchunk.shards import merged
from structchunk.shards.merged import MergedRuns, runs_between
from structchunk.shards.writing import finish, make_shard, new_directory
from structchunk.types.schema import array_schema

COUNT = 9_000
SHARDS = 3
SCHEMAS = {name: array_schema(np.float64) for name in ("even", "ragged")}


def lengths_of(numbers: Any) -> Any:
    return numbers % 4


def fill(numbers: Any, db: sc.Database) -> None:
    keys = (numbers * 7).astype(np.uint64)
    db.array_store("even", np.float64).put_many(keys, np.repeat(numbers, 2).reshape(-1, 2) * 1.0)
    lengths = lengths_of(numbers)
    db.array_store("ragged", np.float64).put_many(keys, np.repeat(numbers, lengths) * 1.0, lengths)


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[sc.Shards]:
    """Shards whose keys are mixed but for the last third, which one shard has."""
    owner = np.random.default_rng(4).integers(0, SHARDS, COUNT)
    owner[COUNT * 2 // 3 :] = 1
    with new_directory(tmp_path / "set") as directory:
        parts = [
            make_shard(directory, number, lambda db, number=number: fill(np.flatnonzero(owner == number), db))
            for number in range(SHARDS)
        ]
        finish(directory, SCHEMAS, parts)
    with sc.open_shards(directory) as opened:
        yield opened
    with sc.open_shards(directory) as opened:
        assert opened.verify() == []


def content(batches: Any) -> tuple[list[int], list[int], list[float]]:
    found = list(batches)
    return (
        [key for batch in found for key in batch.keys.tolist()],
        [length for batch in found for length in batch.lengths.tolist()],
        [value for batch in found for value in batch.values.tolist()],
    )


def expected(name: str, start: int = 0, stop: int = 2**64) -> tuple[list[int], list[int], list[float]]:
    numbers = np.array([number for number in range(COUNT) if start <= number * 7 < stop], np.intp)
    lengths = np.full(len(numbers), 2) if name == "even" else lengths_of(numbers)
    return (numbers * 7).tolist(), lengths.tolist(), (np.repeat(numbers, lengths) * 1.0).tolist()


RANGES = [(0, 2**64), (70, 71), (71, 77), (5000, 30_000), (41_000, 50_000), (63_000, 2**64), (20, 20)]


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_kept_reads_as_what_is_merged(shards: sc.Shards, name: str) -> None:
    store = shards[name]
    for _ in range(2):
        for start, stop in RANGES:
            assert content(store.scan(start, stop)) == expected(name, start, stop)
            assert list(store.keys(start, stop, reverse=True)) == expected(name, start, stop)[0][::-1]
        assert content(store.scan(batch_size=100)) == expected(name)
        assert [len(left) for left, _ in shards.scan("even", "ragged")] == [
            len(left) for left, _ in shards.scan("ragged", "even")
        ]


def merges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return what has an item for each merge that begins."""
    from structchunk.shards import binding

    begun: list[int] = []
    merge = binding.merge

    def counted(streams: Any, **how: Any) -> Iterator[Run]:
        begun.append(1)
        return merge(streams, **how)

    monkeypatch.setattr(binding, "merge", counted)
    return begun


def test_scans_after_a_whole_one_merge_nothing(shards: sc.Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = merges(monkeypatch)
    next(iter(shards["even"].scan()))  # one that does not go on to the end
    content(shards["even"].scan(500))
    list(shards["even"].keys(reverse=True))
    assert content(shards["even"].scan()) == expected("even")
    assert len(begun) == 4
    assert content(shards["even"].scan()) == expected("even")
    assert content(shards["even"].scan(7, 4000)) == expected("even", 7, 4000)
    assert list(shards["even"].keys(reverse=True)) == expected("even")[0][::-1]
    assert len(begun) == 4
    content(shards["ragged"].scan())
    assert len(begun) == 5


def test_what_is_too_large_is_not_kept(shards: sc.Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merged, "MOST_KEPT", COUNT * 10)
    begun = merges(monkeypatch)
    for _ in range(2):
        assert content(shards["even"].scan()) == expected("even")
    assert len(begun) == 2


def test_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merged, "MOST_KEPT", 25_000)
    runs = [ContiguousRun(np.arange(1000, dtype=np.uint64) ** 2, range(1001), 1, 0, 8)]  # 8,000 bytes
    kept = MergedRuns()
    for source in "abcd":
        assert list(kept.keeping(source, runs)) == runs
    assert [source for source in "abcd" if kept.find(source)] == ["b", "c", "d"]
    assert list(kept.keeping("e", runs * 4)) == runs * 4
    assert [source for source in "abcde" if kept.find(source)] == ["b", "c", "d"]
    kept.clear()
    assert not kept.find("d")


def test_rows_between_keys_that_no_run_has() -> None:
    runs = [ContiguousRun(range(first, first + 30, 3), range(11), 1, 0, 8) for first in (10, 50, 90)]
    for start, stop in [(0, 2**64), (40, 50), (41, 51), (10, 10), (38, 91), (13, 14), (200, 300), (0, 3)]:
        found = [key for run in runs_between(runs, start, stop) for key in run.keys.tolist()]
        assert found == [key for run in runs for key in run.keys.tolist() if start <= key < stop]


def test_a_scan_from_memory_ends_with_the_shards(shards: sc.Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("structchunk.runs.interleaved.BLOCK_ROWS", 300)
    monkeypatch.setattr("structchunk.runs.interleaved.FEWEST_ROWS", 100)
    content(shards["even"].scan())
    batches = iter(shards["even"].scan())
    first = next(batches)
    shards.close()
    with pytest.raises(sc.ClosedError):
        list(batches)
    assert first.values[:2].tolist() == [0, 0]


def test_keys_that_are_kept_cannot_be_changed(shards: sc.Shards) -> None:
    content(shards["even"].scan())
    for batch in shards["even"].scan():
        with pytest.raises(ValueError, match="WRITEABLE"):
            batch.keys.flags.writeable = True


def test_what_is_kept_goes_with_the_shards(shards: sc.Shards) -> None:
    content(shards["even"].scan())
    kept = weakref.ref(next(iter(shards["even"].scan())).keys.base)
    gc.collect()
    assert kept() is not None
    shards.close()
    gc.collect()
    assert kept() is None
