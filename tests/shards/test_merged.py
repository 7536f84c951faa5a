"""What merging shards gave is kept: the next scan reads the same from memory, which has a limit."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import structchunk as sc
from structchunk.runs.run import ContiguousRun, Run
from structchunk.shards import merged
from structchunk.shards.heap import FIRST_IN_MEMORY
from structchunk.shards.merged import InMemoryRun, MergedRuns, places_between
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
        both = list(shards.scan("even", "ragged"))
        assert content(left for left, _ in both) == expected("even")
        assert content(right for _, right in both) == expected("ragged")


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


def values_of(shards: sc.Shards, name: str) -> Any:
    """Return the values of the first batch of a whole scan, which is of mixed keys."""
    return next(iter(shards[name].scan())).values


def test_small_records_are_kept_in_order_by_the_second_scan(
    shards: sc.Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        assert content(shards["even"].scan()) == expected("even")
        assert content(shards["even"].scan(5000, 30_000)) == expected("even", 5000, 30_000)
        assert [shards["even"][key][0] for key in (0, 7, 70)] == [0, 1, 10]
    assert np.shares_memory(values_of(shards, "even"), values_of(shards, "even"))
    assert not np.shares_memory(values_of(shards, "ragged"), values_of(shards, "ragged"))
    with pytest.raises(ValueError, match="WRITEABLE"):
        values_of(shards, "even").flags.writeable = True
    with sc.open_shards(shards.path) as others:
        monkeypatch.setattr(merged, "MOST_KEPT", COUNT * 15)  # there is room for the order, not for the records
        for _ in range(3):
            assert content(others["even"].scan()) == expected("even")
        assert not np.shares_memory(values_of(others, "even"), values_of(others, "even"))
    with sc.open_shards(shards.path) as others:
        monkeypatch.setattr("structchunk.shards.binding.SMALL_RECORD", 15)
        for _ in range(3):
            assert content(others["even"].scan()) == expected("even")
        assert not np.shares_memory(values_of(others, "even"), values_of(others, "even"))


def test_who_reads_keys_alone_copies_no_records(shards: sc.Shards) -> None:
    content(shards["even"].scan())
    store = shards["even"]
    for _ in range(3):
        assert len(list(store.keys())) == len(np.asarray(store.keys())) == COUNT
        assert len(store.keys(1, None)) == COUNT - 1
    assert not [number for number in store._heap.arrays if number >= FIRST_IN_MEMORY]


def test_threads_put_no_more_into_memory_than_there_is_room_for(
    shards: sc.Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("structchunk.runs.interleaved.BLOCK_ROWS", 300)
    monkeypatch.setattr("structchunk.runs.interleaved.FEWEST_ROWS", 100)
    content(shards["even"].scan())
    kept = shards._merged.find(("even", 0)) or []
    monkeypatch.setattr(merged, "MOST_KEPT", sum(run.size for run in kept) + 10_000)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: content(shards["even"].scan()), range(8))) == [expected("even")] * 8
    assert sum(run.size for run in kept) <= merged.MOST_KEPT
    assert any(isinstance(run, InMemoryRun) for run in kept)
    assert not all(isinstance(run, InMemoryRun) for run in kept)


def test_threads_put_the_same_into_memory_once(shards: sc.Shards) -> None:
    content(shards["even"].scan())
    arrays = shards["even"]._heap.arrays
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: content(shards["even"].scan()), range(8)))
    assert found == [expected("even")] * 8
    in_memory = {number for number in arrays if number >= FIRST_IN_MEMORY}
    assert len(in_memory) == sum(isinstance(run, InMemoryRun) for run in shards._merged.find(("even", 0)) or ()) > 0


def test_what_is_too_large_is_not_kept(shards: sc.Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merged, "MOST_KEPT", COUNT * 10)
    begun = merges(monkeypatch)
    for _ in range(2):
        assert content(shards["even"].scan()) == expected("even")
    assert len(begun) == 2


def squares(count: int) -> list[ContiguousRun]:
    """Return a run that takes eight bytes a row."""
    return [ContiguousRun(np.arange(count, dtype=np.uint64) ** 2, range(count + 1), 1, 0, 8)]


def test_what_is_kept_stays_and_what_there_is_no_room_for_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else scans of several stores in turn would drive out each other's, and find none."""
    monkeypatch.setattr(merged, "MOST_KEPT", 25_000)
    kept = MergedRuns()
    for source in "abcd":
        assert len(list(kept.keeping(source, squares(1000)))) == 1
    assert [run.keys.tolist() for run in kept.keeping("a", squares(2))] == [[0, 1]]
    assert [source for source in "abcd" if kept.find(source)] == ["a", "b", "c"]
    assert len(list(kept.keeping("e", squares(100)))) == 1
    assert kept.find("e")


def test_of_those_that_are_under_way_the_last_one_that_began_is_kept() -> None:
    kept = MergedRuns()
    first = kept.keeping("a", squares(3) * 2)
    second = kept.keeping("a", squares(4) * 3)
    next(first), next(second)
    list(first)
    assert not kept.find("a")
    list(second)
    assert len(kept.find("a") or ()) == 3
    left = kept.keeping("b", squares(3))
    next(left)  # and stays where it is, as in a notebook
    list(kept.keeping("b", squares(3)))
    assert kept.find("b")


def test_nothing_is_kept_any_more_after_closing() -> None:
    kept = MergedRuns()
    under_way = kept.keeping("a", squares(3))
    list(kept.keeping("b", squares(3)))
    next(under_way)
    kept.close()
    list(under_way)
    list(kept.keeping("c", squares(3)))
    assert not any(map(kept.find, "abc"))


def test_which_runs_lie_between_keys() -> None:
    runs = [ContiguousRun(range(first, first + 30, 3), range(11), 1, 0, 8) for first in (10, 50, 90)]
    for start, stop in [(0, 2**64), (40, 50), (41, 51), (10, 10), (38, 91), (13, 14), (200, 300), (0, 3)]:
        found = places_between(runs, start, stop)
        there = [at for at, run in enumerate(runs) if any(start <= key < stop for key in run.keys.tolist())]
        assert set(there) <= set(found)
        assert all(start <= int(runs[at].keys[-1]) and int(runs[at].keys[0]) < stop for at in found)


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
    """Though a store of them is still held."""
    store = shards["even"]
    for _ in range(3):
        content(store.scan())
    batch = next(iter(store.scan()))
    kept = [weakref.ref(batch.keys.base), weakref.ref(batch.values.base)]
    del batch
    gc.collect()
    assert all(one() is not None for one in kept)
    shards.close()
    gc.collect()
    assert [one() for one in kept] == [None, None]
    with pytest.raises(sc.ClosedError):
        store.scan().__next__()


def test_get_many_asks_a_shard_only_for_keys_that_none_before_it_had(
    shards: sc.Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    from structchunk.database.autocommit import AutocommitBinding

    asked = []
    lookup = AutocommitBinding.lookup

    def counted(self: AutocommitBinding, keys: Any) -> Any:
        asked.append(len(keys))
        return lookup(self, keys)

    monkeypatch.setattr(AutocommitBinding, "lookup", counted)
    found = shards["even"].get_many(np.arange(0, 7 * COUNT, 7))
    assert content([found]) == expected("even")
    assert len(asked) == SHARDS
    assert sum(asked) < 2 * COUNT  # the ranges of all shards together have more
    some = shards["even"].get_many([7, 1, 7, 8, 7 * COUNT - 7], missing="skip")
    assert some.keys.tolist() == [7, 7, 7 * COUNT - 7]


def test_a_number_of_a_chunk_is_known_once_its_chunk_is(shards: sc.Shards) -> None:
    """Whatever comes in between: else a record of another chunk would be taken for it."""

    class Interrupted(list[Any]):
        is_first = True

        def append(self, item: Any) -> None:
            if self.is_first:
                self.is_first = False
                raise KeyboardInterrupt
            super().append(item)

    store = shards["even"]
    store._heap.arrays._chunks = Interrupted()  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        store[0]
    assert [store[7 * number][0] for number in range(30)] == list(range(30))


def test_reading_rows_adds_nothing_to_what_is_kept(shards: sc.Shards) -> None:
    content(shards["even"].scan())
    shards["even"].read()
    tracemalloc.start()
    try:
        for _ in range(3):
            shards["even"].read()
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()


def test_batches_are_of_a_size(shards: sc.Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes; and there is at least one record in each, however large it is."""
    monkeypatch.setattr("structchunk.stores.batches.MERGED_SIZE", 1600)
    lengths = [len(batch) for batch in shards["even"].scan(stop=7 * COUNT // 2)]
    assert set(lengths[:20]) == {100}
    monkeypatch.setattr("structchunk.stores.batches.MERGED_SIZE", 1)
    assert max(len(batch) for batch in shards["even"].scan(stop=7 * COUNT // 2)) <= 2
    assert content(shards["even"].scan(stop=3000)) == expected("even", 0, 3000)
