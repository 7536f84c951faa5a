"""StoreIndex and Index against dictionaries: many rows and few, folds, snapshots of older commits, damage."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import UUID, Model, alive, between, keys, model_of, models, rows_of, rows_of_model, single_rows

from structchunk.errors import ClosedError, CorruptionError, StoreNotFound
from structchunk.index import cached_pages, change, decoding, page_cache, short_pages, store_index, stored_rows
from structchunk.index.change import Change
from structchunk.index.index import Index, copy_snapshot
from structchunk.index.index_snapshot import IndexSnapshot
from structchunk.index.page import count_rows as rows_of_page
from structchunk.index.page import is_short
from structchunk.index.store_index import StoreIndex
from structchunk.index.stored_state import CATALOG, CHECKPOINT, LAST
from structchunk.runs import streams
from structchunk.runs.extent import KEY_END, ROW, TOMBSTONE, Extent, RowArray
from structchunk.runs.run import ArrayRun, ContiguousRun, Run, shorten
from structchunk.runs.streams import joined

STORES = {1: 8, 2: 4}
"""Stores of the tests, and the sizes of their items."""
SMALL = {
    (stored_rows, "PAGE_ROWS"): 4,
    (change, "MIN_FOLD_ROWS"): 6,
    (change, "FOLD_FRACTION"): 4,
    (store_index, "POINT_PAGES"): 2,
    (store_index, "GROUP_PAGES"): 3,
    (store_index, "FEW_KEYS"): 3,
    (store_index, "END_ROWS"): 2,
    (store_index, "DENSE_KEYS"): 1,
    (store_index, "GROUP_KEYS"): 3,
    (store_index, "ROW_KEYS"): 4,
    (cached_pages, "OVERHEAD"): 0,
    (short_pages, "OVERHEAD"): 0,
}


@contextlib.contextmanager
def small_limits(cache_size: int) -> Iterator[None]:
    """Make pages, groups, deltas and the cache so small that a few rows exercise them all."""
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), value in SMALL.items():
            patch.setattr(module, name, value)
        patch.setattr(page_cache, "CACHE_SIZE", cache_size)
        yield


def accept(rows: RowArray) -> None:
    """Find nothing wrong with rows."""


def add_stores(index: Index, check: Callable[[RowArray], None] = accept) -> None:
    for store, item_size in STORES.items():
        index.add_store(store, item_size, check)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with small_limits(cache_size=1 << 20):
        made = Index.create(str(tmp_path / "index"), UUID)
        add_stores(made)
        yield made
        made.close()


def dense(first: int, count: int, *, step: int = 1, chunk: int = 1, flags: int = 0) -> RowArray:
    """Return rows of one item each, at evenly spaced keys."""
    return rows_of(
        (key, 0 if flags else 4096 + 8 * key % 2**40, 0 if flags else 1, chunk, flags)
        for key in range(first, first + step * count, step)
    )


def some(first: int, count: int, *, step: int = 1, chunk: int = 1, flags: int = 0) -> list[Run]:
    """Return the same rows as runs."""
    return [ArrayRun(dense(first, count, step=step, chunk=chunk, flags=flags))]


def whole(runs: Iterator[Run], *, reverse: bool = False) -> Model:
    """Return consecutive runs as a dictionary, having checked their order."""
    found = list(runs)
    assert all(len(run) for run in found)
    return model_of(joined(found[::-1] if reverse else found))


def as_rows(rows: RowArray) -> Model:
    """Return the rows that lookup() found, having checked that the others are tombstones."""
    return {row[0]: row for row in rows.tolist() if not row[4] & TOMBSTONE}


def figures(model: Model, item_size: int) -> dict[int, tuple[int, int]]:
    """Return live records and bytes per chunk."""
    rows = sorted(alive(model).values(), key=lambda row: row[3])
    grouped = ((chunk, list(group)) for chunk, group in itertools.groupby(rows, key=lambda row: row[3]))
    return {chunk: (len(group), sum(row[2] for row in group) * item_size) for chunk, group in grouped}


class Comparison(RuleBasedStateMachine):
    """Random commits, folds, evictions and reopenings; whatever is read equals a dictionary."""

    cache_size = 1 << 20

    @initialize()
    def create(self) -> None:
        self.limits = small_limits(self.cache_size)
        self.limits.__enter__()
        self.directory = tempfile.mkdtemp()
        self.commit = 0
        self.index = Index.create(f"{self.directory}/index", UUID)
        add_stores(self.index)
        self.models: dict[int, Model] = {store: {} for store in STORES}
        self.snapshots: list[tuple[IndexSnapshot, dict[int, Model]]] = []

    def teardown(self) -> None:
        self.index.close()
        self.limits.__exit__(None, None, None)
        shutil.rmtree(self.directory)

    def put(self, changes: dict[int, Model]) -> None:
        self.commit += 1
        self.index.put(self.commit, {store: [ArrayRun(rows_of_model(model))] for store, model in changes.items()})
        for store, model in changes.items():
            self.models[store] = alive({**self.models[store], **model})

    # ------------------------------------------------------------------ changes

    @rule(store=st.sampled_from(list(STORES)), model=models(5), chunk=st.integers(1, 3))
    def put_some(self, store: int, model: Model, chunk: int) -> None:
        self.put({store: {key: (*row[:3], chunk, row[4]) for key, row in model.items()}})

    @rule(both=st.fixed_dictionaries({store: models(8) for store in STORES}))
    def put_both(self, both: dict[int, Model]) -> None:
        self.put(both)

    @rule(
        store=st.sampled_from(list(STORES)),
        first=st.one_of(st.integers(0, 60), st.integers(2**64 - 80, 2**64 - 61)),
        count=st.integers(4, 30),
        step=st.integers(1, 2),
        flags=st.sampled_from([0, 0, TOMBSTONE]),
    )
    def put_range(self, store: int, first: int, count: int, step: int, flags: int) -> None:
        self.put({store: model_of(dense(first, count, step=step, flags=flags))})

    @rule(store=st.sampled_from(list(STORES)), extent=single_rows)
    def put_one(self, store: int, extent: Extent) -> None:
        self.commit += 1
        self.index.apply(self.commit, self.index.prepare_one(store, ROW.pack(*extent)))
        self.models[store] = alive({**self.models[store], extent[0]: extent})

    # ------------------------------------------------------------------ readers

    @precondition(lambda self: len(self.snapshots) < 4)
    @rule()
    def take_snapshot(self) -> None:
        self.snapshots.append((self.index.snapshot(), {store: dict(model) for store, model in self.models.items()}))

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def drop_snapshot(self, data: st.DataObject) -> None:
        snapshot, _ = self.snapshots.pop(data.draw(st.integers(0, len(self.snapshots) - 1)))
        snapshot.close()

    @rule()
    def forget(self) -> None:
        self.index.forget()

    @rule()
    def reopen(self) -> None:
        self.snapshots = []
        self.index.write_checkpoint(5, {1: (4096, 8192)})
        self.index.close()
        self.index = Index.open(f"{self.directory}/index")
        add_stores(self.index)
        assert (self.index.last, self.index.checkpoint, self.index.next_chunk) == (self.commit, self.commit, 5)

    @rule(store=st.sampled_from(list(STORES)), wanted=st.lists(keys, unique=True, max_size=12).map(sorted))
    def look_up(self, store: int, wanted: list[int]) -> None:
        numbers = np.array(wanted, np.uint64)
        expected = {key: row for key, row in self.models[store].items() if key in wanted}
        latest = self.index.store_index(store)
        found = latest.lookup(numbers)
        assert found["key"].tolist() == wanted
        assert as_rows(found) == expected
        assert model_of(latest.existing(numbers)) == expected
        for key in wanted:
            assert latest.find(key) == expected.get(key)
        latest.forget()
        assert model_of(latest.existing(numbers, once=True)) == expected

    @rule(store=st.sampled_from(list(STORES)), ends=st.tuples(keys, keys), reverse=st.booleans())
    def read_range(self, store: int, ends: tuple[int, int], *, reverse: bool) -> None:
        low, high = sorted(ends)
        for stop in (high, high + 1):
            got = whole(self.index.store_index(store).runs(low, stop, reverse=reverse), reverse=reverse)
            assert got == between(self.models[store], low, stop)

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data(), store=st.sampled_from(list(STORES)), wanted=st.lists(keys, unique=True, max_size=8))
    def read_snapshot(self, data: st.DataObject, store: int, wanted: list[int]) -> None:
        snapshot, expected = data.draw(st.sampled_from(self.snapshots))
        model = expected[store]
        assert snapshot.record_count(store) == len(model)
        for reverse in (False, True):
            assert whole(snapshot.runs(store, 0, KEY_END, reverse=reverse), reverse=reverse) == model
        wanted = sorted({*wanted, *list(model)[:5]})
        found = snapshot.lookup(store, np.array(wanted, np.uint64))
        assert found["key"].tolist() == wanted
        assert as_rows(found) == {key: model[key] for key in wanted if key in model}
        for key in wanted:
            assert snapshot.find(store, key) == model.get(key)

    # ------------------------------------------------------------------ always

    @invariant()
    def ends_are_found(self) -> None:
        """First of all invariants: those that read everything leave it in memory."""
        for store, model in self.models.items():
            for reverse in (False, True):
                expected = (max if reverse else min)(model, default=None)
                assert self.index.store_index(store).end_key(reverse=reverse) == expected
                for snapshot, then in self.snapshots:
                    expected = (max if reverse else min)(then[store], default=None)
                    assert snapshot.end_key(store, reverse=reverse) == expected

    @invariant()
    def everything_is_there(self) -> None:
        for store, model in self.models.items():
            for reverse in (False, True):
                runs = self.index.store_index(store).runs(0, KEY_END, reverse=reverse)
                assert whole(runs, reverse=reverse) == model
            assert all(self.index.store_index(store).find(key) == row for key, row in model.items())

    @invariant()
    def figures_are_right(self) -> None:
        for store, model in self.models.items():
            expected = figures(model, STORES[store])
            for counts in (self.index.live[store], self.index.read_live(store)):
                assert {chunk: tuple(live) for chunk, live in counts.items() if any(live)} == expected
            assert self.index.record_count(store) == len(model)


class TinyCache(Comparison):
    """The same, with room for hardly a page in the cache."""

    cache_size = 40


COMPARED = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestComparison = Comparison.TestCase
TestComparison.settings = COMPARED
TestTinyCache = TinyCache.TestCase
TestTinyCache.settings = COMPARED


# ---------------------------------------------------------------------- pages, delta, folds


def test_rows_that_go_on_behind_a_page_stay_short(index: Index) -> None:
    index.put(1, {1: some(0, 43)})
    index.put(2, {1: some(43, 45)})
    assert {is_short(value) for _, value in index.leveldb.read(b"P", b"Q", 99)} == {True}
    assert whole(index.store_index(1).runs(0, KEY_END)) == model_of(dense(0, 88))


def count_rows(index: Index, region: bytes, store: int = 1) -> int:
    """Return how many rows LevelDB has in a region of a store."""
    prefix = region + struct.pack(">I", store)
    pairs = index.leveldb.read(prefix, prefix + b"\xff" * 9, 1 << 30)
    return sum(rows_of_page(value) if region == b"P" else len(value) // 32 for _, value in pairs)


def test_few_rows_go_to_the_delta_and_many_to_pages(index: Index) -> None:
    index.put(1, {1: some(0, 3)})
    assert (count_rows(index, b"D"), count_rows(index, b"P")) == (3, 0)
    index.put(2, {1: some(2, 9)})
    assert (count_rows(index, b"D"), count_rows(index, b"P")) == (2, 9)


def test_a_delta_that_has_outgrown_its_limit_is_folded(index: Index) -> None:
    for commit in range(1, 8):
        assert count_rows(index, b"D") == commit - 1
        index.put(commit, {1: some(10 * commit, 1)})
    assert (count_rows(index, b"D"), count_rows(index, b"P")) == (0, 7)
    index.put(8, {1: some(10, 1, flags=TOMBSTONE)})
    assert (count_rows(index, b"D"), count_rows(index, b"P")) == (1, 7)


@pytest.mark.parametrize("count", [1, 3, 400])
def test_what_a_change_is_said_to_take_in_the_log_is_what_it_takes(index: Index, count: int) -> None:
    index.put(1, {1: [ArrayRun(rows_of((key * key, 4096 + 16 * key, 1, 1, 0) for key in range(400)))]})
    prepared = index.prepare(
        {1: [ArrayRun(rows_of((key * key, 8192 + 24 * key, 1, 1, 0) for key in range(count)))]}
    )
    change = prepared.changes[1]
    needed = sum(len(key) + len(value) for key, value in change.puts) + sum(map(len, change.deletes))
    assert needed <= change.size() <= 2 * needed


def test_rows_that_are_put_unread_go_over_those_of_the_delta(index: Index) -> None:
    index.put(1, {1: some(0, 9, step=10)})
    index.put(2, {1: some(5, 2, step=10)})
    change = index.store_index(1).put_unread(some(5, 11, chunk=2))
    index.apply(3, index.prepare({})._replace(changes={1: change}))
    index.forget()
    expected = model_of(dense(0, 9, step=10)) | model_of(dense(5, 11, chunk=2))
    assert whole(index.snapshot().runs(1, 0, KEY_END)) == expected
    assert count_rows(index, b"D", 1) == 0


def test_pages_are_full_and_appending_fills_the_last_one(index: Index) -> None:
    index.put(1, {1: some(0, 6)})
    index.put(2, {1: some(6, 7)})
    prefix = b"P" + struct.pack(">I", 1)
    sizes = [rows_of_page(value) for _, value in index.leveldb.read(prefix, prefix + b"\xff" * 9, 99)]
    assert sizes == [4, 4, 4, 1]


def test_many_sparse_rows_do_not_rewrite_all_pages(index: Index) -> None:
    index.put(1, {1: some(0, 400)})
    index.put(2, {1: some(0, 5, step=80)})
    assert (count_rows(index, b"D"), count_rows(index, b"P")) == (5, 400)


def test_snapshots_taken_while_a_delta_is_folded(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[IndexSnapshot] = []
    due, fold = StoreIndex.needs_fold, StoreIndex.fold

    def needs_fold(self: StoreIndex, record_count: Callable[[], int]) -> bool:
        taken.append(index.snapshot())
        return due(self, record_count)

    def folding(self: StoreIndex) -> Iterator[Change]:
        for folded in fold(self):
            yield folded
            taken.append(index.snapshot())
            assert set(taken[-1].lookup(1, numbers)["flags"].tolist()) == {0}

    index.put(1, {1: some(0, 40, step=2)})
    for commit in range(2, 8):
        index.put(commit, {1: some(10 * commit + 1, 1)})
    monkeypatch.setattr(StoreIndex, "needs_fold", needs_fold)
    monkeypatch.setattr(StoreIndex, "fold", folding)
    monkeypatch.setattr(change, "FOLD_FRACTION", 100)
    expected = whole(index.store_index(1).runs(0, KEY_END)) | model_of(dense(81, 1))
    numbers = np.array(sorted(expected), np.uint64)
    index.put(8, {1: some(81, 1)})
    assert count_rows(index, b"D") == 0
    assert len(taken) > 3
    for snapshot in taken:
        index.forget()
        assert whole(snapshot.runs(1, 0, KEY_END)) == expected
        assert as_rows(snapshot.lookup(1, numbers)) == expected
        assert {key: snapshot.find(1, key) for key in expected} == expected
        assert whole(index.store_index(1).runs(0, KEY_END)) == expected  # nothing out of date was cached
    started = [snapshot.runs(1, 0, KEY_END) for snapshot in taken]
    first = [next(runs) for runs in started]
    index.put(9, {1: some(0, 60, flags=TOMBSTONE)})
    for run, rest in zip(first, started, strict=True):
        assert whole(itertools.chain([run], rest)) == expected


def test_a_point_read_notices_a_commit_that_comes_in_between(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.put(1, {1: some(0, 8)})
    snapshot, find = index.snapshot(), StoreIndex.find

    def find_after_a_commit(self: StoreIndex, key: int) -> Extent | None:
        monkeypatch.setattr(StoreIndex, "find", find)
        index.put(2, {1: some(0, 8, flags=TOMBSTONE)})
        return find(self, key)

    monkeypatch.setattr(StoreIndex, "find", find_after_a_commit)
    assert snapshot.find(1, 3) == (3, 4120, 1, 1, 0)
    assert index.store_index(1).find(3) is None


def test_a_range_goes_on_as_of_its_snapshot(index: Index) -> None:
    index.put(1, {1: some(0, 40)})
    for reverse in (False, True):
        expected = whole(index.store_index(1).runs(0, KEY_END))
        snapshot = index.snapshot()
        runs = snapshot.runs(1, 0, KEY_END, reverse=reverse)
        first = next(runs)
        index.put(index.last + 1, {1: some(0, 40, flags=TOMBSTONE)})
        assert whole(itertools.chain([first], runs), reverse=reverse) == expected
        index.put(index.last + 1, {1: some(0, 50)})


@pytest.mark.parametrize("reverse", [False, True])
def test_the_end_of_a_store_is_one_page(index: Index, monkeypatch: pytest.MonkeyPatch, *, reverse: bool) -> None:
    """No other page is decoded, in memory or of an older commit, unless the records of that one are deleted."""
    index.put(1, {1: some(0, 400, step=3)})
    pages, unpack = [], decoding.unpack_pages

    def counting(found: list[Any], *args: Any) -> list[Run]:
        pages.extend(found)
        return unpack(found, *args)

    monkeypatch.setattr(decoding, "unpack_pages", counting)
    end = 1197 if reverse else 0
    older, latest = index.snapshot(), index.store_index(1)
    assert latest.end_key(older, reverse=reverse) == latest.end_key(reverse=reverse) == end
    assert len(pages) == 2
    index.put(2, {1: some(end, 1, flags=TOMBSTONE)})
    pages.clear()
    assert latest.end_key(older, reverse=reverse) == end
    assert latest.end_key(reverse=reverse) == (1194 if reverse else 3)
    assert len(pages) <= 2
    first = 1197 - 3 * 39 if reverse else 0
    index.put(3, {1: some(first, 40, step=3, flags=TOMBSTONE)})
    assert latest.end_key(older, reverse=reverse) == end
    assert latest.end_key(reverse=reverse) == (first - 3 if reverse else 120)


def test_a_closed_snapshot_refuses_rather_than_read_another_commit(index: Index) -> None:
    index.put(1, {1: some(0, 40)})
    snapshot = index.snapshot()
    runs = snapshot.runs(1, 0, KEY_END)
    next(runs)
    index.put(2, {1: some(0, 40, flags=TOMBSTONE)})
    snapshot.close()
    for read in (lambda: list(runs), lambda: snapshot.find(1, 3), lambda: snapshot.record_count(1)):
        with pytest.raises(ClosedError, match="snapshot is closed"):
            read()


def test_a_cached_page_does_not_hide_a_delta_that_is_not_loaded(index: Index) -> None:
    index.put(1, {1: some(0, 8)})
    index.put(2, {1: [ArrayRun(rows_of([(3, 8000, 5, 1, 0)]))]})
    index.forget()
    latest = index.store_index(1)
    latest._cached_pages(3, None)
    assert latest.find(3) == (3, 8000, 5, 1, 0)


@contextlib.contextmanager
def reads_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Collect how many rows each read of pages brings."""
    read: list[int] = []
    load = stored_rows.StoredRows.load

    def note(self: stored_rows.StoredRows, *args: Any, **options: Any) -> Any:
        pages = load(self, *args, **options)
        read.append(sum(each.count for each in pages))
        return pages

    with monkeypatch.context() as patch:
        patch.setattr(stored_rows.StoredRows, "load", note)
        yield read


def test_few_keys_read_the_pages_that_they_meet(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no others; these are in memory the next time."""
    index.put(1, {1: some(0, 8000)})
    index.forget()
    store = index.store_index(1)
    wanted = np.arange(0, 8000, 200, dtype=np.uint64)
    with reads_of(monkeypatch) as read:
        for _ in range(2):
            assert store.existing(wanted)["key"].tolist() == wanted.tolist()
            assert store.lookup(wanted)["key"].tolist() == wanted.tolist()
            assert len(read) <= len(wanted)
            assert max(read) <= store._stored.page_rows


NEAR_ROWS = 6000


def near_rows() -> RowArray:
    """Return rows whose keys rise unevenly, in small steps, so that they can be kept short."""
    keys = 16 * np.arange(NEAR_ROWS, dtype=np.uint64) + np.arange(NEAR_ROWS, dtype=np.uint64) ** 2 % 7
    rows = np.zeros(NEAR_ROWS, dense(0, 1).dtype)
    rows["key"], rows["offset"], rows["length"], rows["chunk"] = keys, 4096 + 8 * np.arange(NEAR_ROWS), 1, 1
    return rows


@pytest.mark.parametrize("cache_size", [1 << 20, 32_000])
@pytest.mark.parametrize("count", [4, 30, 300])
def test_random_keys_come_to_an_end_of_reading(
    index: Index, monkeypatch: pytest.MonkeyPatch, cache_size: int, count: int
) -> None:
    """Others are asked for each time: what was read is not given up for a part of it, and is in few pieces."""
    monkeypatch.setattr(store_index, "GROUP_PAGES", 16)
    monkeypatch.setattr(page_cache, "CACHE_SIZE", cache_size)
    rows = near_rows()
    index.put(1, {1: [ArrayRun(rows)]})
    index.forget()
    store, rng = index.store_index(1), np.random.default_rng(count)
    with reads_of(monkeypatch) as read:
        for _ in range(6000 // count):
            wanted = np.sort(rng.choice(NEAR_ROWS, count, replace=False))
            assert store.lookup(rows["key"][wanted]).tolist() == rows[wanted].tolist()
    assert sum(read) < 2 * NEAR_ROWS
    assert len(store._cache.index[1]) < 3 * NEAR_ROWS // (16 * 4)
    assert store._cache.budget.size <= cache_size


@pytest.mark.parametrize("reverse", [False, True])
def test_sweeps_read_what_is_between_large_pages_and_no_more(
    index: Index, monkeypatch: pytest.MonkeyPatch, reverse: bool
) -> None:
    monkeypatch.setattr(store_index, "GROUP_PAGES", 16)
    rows = near_rows()
    index.put(1, {1: [ArrayRun(rows)]})
    index.forget()
    store, keys = index.store_index(1), rows["key"].tolist()
    parts = [(low, low + 400) for low in (1001, 3003, 5005)]
    with reads_of(monkeypatch) as read:
        for low, high in parts:
            assert whole(store.runs(keys[low], keys[high])) == model_of(rows[low:high])
        for _ in range(3):
            assert whole(store.runs(0, KEY_END, reverse=reverse), reverse=reverse) == model_of(rows)
    assert sum(read) <= NEAR_ROWS + len(parts) * max(read)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("first", [0, 17, 5_500])
def test_the_end_of_a_chunk_is_no_end_of_what_lies_back_to_back(
    index: Index, monkeypatch: pytest.MonkeyPatch, first: int, reverse: bool
) -> None:
    """Pages that are read together are kept in pieces, so that only the one with records of both is not even."""
    monkeypatch.setattr(store_index, "GROUP_PAGES", NEAR_ROWS)  # all of them
    monkeypatch.setattr(streams, "LONG_PIECE", 100)
    rows = near_rows()
    at = 5_003
    rows["chunk"][at:], rows["offset"][at:] = 2, rows["offset"][: NEAR_ROWS - at]
    index.put(1, {1: [ArrayRun(rows)]})
    index.forget()
    store, keys = index.store_index(1), rows["key"].tolist()
    start, stop = (0, keys[NEAR_ROWS - first - 1] + 1) if reverse else (keys[first], KEY_END)
    wanted = rows[: NEAR_ROWS - first] if reverse else rows[first:]
    assert whole(store.runs(start, stop, reverse=reverse), reverse=reverse) == model_of(wanted)
    assert whole(store.runs(0, KEY_END, reverse=not reverse), reverse=not reverse) == model_of(rows)
    with contextlib.closing(index.snapshot()) as before, reads_of(monkeypatch) as read:
        index.put(2, {1: [ArrayRun(rows[:1])]})  # so that what is read as of the commit before is not kept
        found = whole(before.runs(1, 0, KEY_END, reverse=reverse), reverse=reverse)
        assert found == model_of(rows)
        assert sum(read) <= NEAR_ROWS
    assert [store.find(key) for key in keys] == rows.tolist()
    assert all(store.find(key + 1) is None for key in keys[at - 600 : at + 600])
    uneven = [pages.count for pages in store._cache.index[1] if not isinstance(pages.run, ContiguousRun)]
    assert sum(uneven) <= 2 * store._stored.page_rows


def test_to_bring_an_index_forward_few_pages_are_decoded(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where keys are far between: of the pages that they meet no more than their own rows are."""
    index.put(1, {1: some(0, 8000)})
    index.forget()
    decoded: list[int] = []
    decode = decoding.Decoder._runs

    def note(self: decoding.Decoder, pages: list[Any], most_rows: int) -> list[Run]:
        decoded.append(len(pages))
        return decode(self, pages, most_rows)

    monkeypatch.setattr(decoding.Decoder, "_runs", note)
    index.put(2, {1: [ArrayRun(dense(0, 40, step=200, chunk=2))]})
    assert sum(decoded) <= 40 // store_index.GROUP_KEYS
    assert index.live[1] == {1: (8000 - 40, 8 * (8000 - 40)), 2: (40, 40 * 8)}


def test_the_cache_keeps_to_its_limit(tmp_path: Path) -> None:
    with small_limits(cache_size=1000):
        index = Index.create(str(tmp_path / "index"), UUID)
        add_stores(index)
        keys = [key * key for key in range(200)]  # of evenly spaced ones nothing is kept
        index.put(1, {1: [ArrayRun(rows_of((key, 4096 + 16 * key, 1, 1, 0) for key in keys))]})
        sizes = []
        for key in keys:
            assert index.store_index(1).find(key) is not None
            sizes.append(sum(pages.size for pages in index.store_index(1)._cache.index[1]))
        assert 500 < max(sizes) <= 1000
        index.close()


def test_where_a_chunk_ends_sweeps_still_meet_runs(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("structchunk.runs.run.LONG_RUN", 2)
    rows = np.concatenate([dense(0, 6), dense(6, 30, chunk=2)])
    index.put(1, {1: [ArrayRun(rows)]})
    snapshot = index.snapshot()
    for _ in range(2):
        for reverse in (False, True):
            runs = list(snapshot.runs(1, 0, KEY_END, reverse=reverse))
            assert all(isinstance(run, ContiguousRun) for run in runs)
            assert whole(iter(runs), reverse=reverse) == model_of(rows)
    assert snapshot.lookup(1, rows["key"]).tolist() == rows.tolist()


spans = st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda span: (span[0], sum(span)))


@given(
    st.lists(st.tuples(spans, st.sampled_from(["insert", "insert_all", "drop"])), max_size=20),
    st.integers(0, 90),
    st.booleans(),
)
def test_cached_pages_are_disjoint_and_drop_drops_all(
    steps: list[tuple[tuple[int, int], str]], key: int, spaced: bool
) -> None:
    budget = page_cache.Budget()
    cache = page_cache.PageCache(budget)
    for (low, high), what in steps:
        if what == "drop":
            cache.drop(low, high)
        else:
            rows = dense(low, high - low + 1)
            run = shorten(rows if spaced else rows[rows["key"] % 3 != 1], 8)
            pages = cached_pages.CachedPages(run, low, high)
            cache.insert(pages) if what == "insert" else cache.insert_all([pages])
        found = [cache.find(at) for at in range(low, high + 1)]
        assert all((one is None) is (what == "drop") for one in found)
        lasts, cached = cache.index
        edges = [edge for one in cached for edge in (one.floor, one.last)]
        assert edges == sorted(edges)
        assert lasts == edges[1::2]
        assert budget.size == sum(one.size for one in cached)
    answer = cache.find(key)
    assert answer is None or answer.floor <= key <= answer.last
    cache.clear()
    assert cache.find(key) is None
    assert budget.size == 0


def test_a_point_read_comes_from_the_cache(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.put(1, {1: some(0, 8)})
    snapshot = index.snapshot()
    expected = index.store_index(1).find(3), index.store_index(1).find(99)
    monkeypatch.setattr(index.leveldb, "read", None)
    monkeypatch.setattr(index.leveldb, "get", None)
    assert (index.store_index(1).find(3), index.store_index(1).find(99)) == expected
    assert (snapshot.find(1, 3), snapshot.find(1, 99)) == expected


def test_after_a_write_that_failed_all_of_before_can_be_read(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.put(1, {1: some(0, 9)})
    index.put(2, {1: some(3, 1, chunk=2)})
    expected = model_of(dense(0, 9)) | model_of(dense(3, 1, chunk=2))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(index.leveldb, "write", Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
        index.put(3, {1: some(3, 2, chunk=3)})
    index.forget()
    assert {key: index.store_index(1).find(key) for key in expected} == expected
    assert whole(index.store_index(1).runs(0, KEY_END)) == whole(index.snapshot().runs(1, 0, KEY_END)) == expected
    assert index.record_count(1) == 9


def test_a_copy_that_fails_says_so(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index.put(1, {1: some(0, 9)})
    path = str(tmp_path / "copy")
    snapshot = index.snapshot()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        patch.setattr("structchunk.index.index._write_pairs", Mock(side_effect=error))
        copy_snapshot(snapshot, path, UUID, 1)
    shutil.rmtree(path)  # which nothing has open any more
    copy = copy_snapshot(snapshot, path, UUID, 1)
    snapshot.close()
    add_stores(copy)
    assert whole(copy.snapshot().runs(1, 0, KEY_END)) == model_of(dense(0, 9))
    copy.close()


# ---------------------------------------------------------------------- stores, catalog, checkpoint

ENTRY = {"kind": "array", "schema": {"kind": "array", "type": "<f8"}}


def test_dropping_a_store_takes_all_its_rows(index: Index) -> None:
    index.put(
        1,
        {1: some(0, 9), 2: some(0, 9)},
        {"a": {"store": 1, **ENTRY}, "b": {"store": 2, **ENTRY}},
    )
    index.put(2, {1: some(0, 2, step=3), 2: some(0, 2, step=3)})
    index.put(3, {1: some(0, 1)}, {"b": {"store": 2, **ENTRY}})
    assert [count_rows(index, region) for region in (b"D", b"P", b"C")] == [0, 0, 0]
    assert [count_rows(index, region, 2) for region in (b"D", b"P")] == [2, 9]
    assert set(index.catalog) == {"b"}
    for read in (lambda: index.store_index(1), lambda: index.record_count(1), lambda: index.snapshot().find(1, 0)):
        with pytest.raises(StoreNotFound, match="dropped"):
            read()
    assert index.record_count(2) == 9


def test_a_store_that_was_dropped_says_so(index: Index) -> None:
    index.put(1, {1: some(0, 9)}, {"a": {"store": 1, **ENTRY}})
    mine = index.store_index(1)
    assert mine.find(0) is not None
    index.put(2, {}, {})
    for read in (lambda: mine.find(0), lambda: list(mine.runs(0, 9)), lambda: mine.lookup(dense(0, 9)["key"])):
        with pytest.raises(StoreNotFound, match="'a'"):
            read()


def test_checkpoint_is_kept(tmp_path: Path) -> None:
    index = Index.create(str(tmp_path / "index"), UUID, last=6, next_chunk=3)
    add_stores(index)
    assert (index.last, index.checkpoint, index.next_chunk, index.database) == (6, 0, 3, UUID)
    index.put(
        7,
        {1: some(0, 2, chunk=4), 2: some(0, 3, chunk=9)},
        {"a": {"store": 1, **ENTRY}},
    )
    index.write_checkpoint(10, {4: (5000, 9000), 9: (1, 2)})
    index.write_checkpoint(10, {4: (5008, 8900)}, gone=[(2, 9)])
    index.close()
    again = Index.open(str(tmp_path / "index"))
    assert (again.last, again.checkpoint, again.next_chunk, again.database) == (7, 7, 10, UUID)
    assert again.heads == index.heads == {4: (5008, 8900)}
    assert again.catalog == {"a": {"store": 1, **ENTRY}}
    assert {store: again.read_live(store) for store in STORES} == {1: {4: (2, 16)}, 2: {}}
    again.close()


def test_the_checkpoint_is_one_synced_write_after_the_logs(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(index.leveldb, "flush_logs", lambda: calls.append("flush_logs"))
    monkeypatch.setattr(index.leveldb, "write", lambda *_, sync=False: calls.append(f"write {sync}"))
    index.write_checkpoint(1, {})
    assert calls == ["flush_logs", "write True"]


def test_a_commit_is_one_write(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[bytes, bytes]] = []
    write = index.leveldb.write
    monkeypatch.setattr(
        index.leveldb, "write", lambda puts, *a, **k: (calls.append(dict(puts)), write(puts, *a, **k))
    )
    index.put(1, {1: some(0, 20), 2: some(0, 2)}, {"a": {"store": 1, **ENTRY}})
    assert [call[LAST] for call in calls] == [struct.pack("<Q", 1)]
    assert {key[:1] for key in calls[0]} == {b"M", b"B", b"C", b"P", b"D"}


def test_a_batch_that_was_lost_before_a_later_one_is_noticed(index: Index) -> None:
    index.put(1, {1: some(0, 2)})
    index.write_checkpoint(1, {})
    for commit in (2, 3, 4):
        index.put(commit, {1: some(10 * commit, 2)})
    batches = [key for key, _ in index.leveldb.read(b"B", b"C", 99)]
    assert len(batches) >= 3
    assert Index(index.leveldb).whole
    index.leveldb.write([], batches[-1:])
    assert Index(index.leveldb).whole  # the last ones may be lost: what is left is whole
    index.leveldb.write([(batches[-1], b"")])
    for batch in batches[:-1]:
        index.leveldb.write([], [batch])
        assert not Index(index.leveldb).whole
        index.leveldb.write([(batch, b"")])
    index.write_checkpoint(1, {})
    assert index.leveldb.read(b"B", b"C", 99) == []
    assert Index(index.leveldb).whole


def test_figures_never_go_below_zero(index: Index) -> None:
    index.put(1, {1: some(0, 2)})
    index.live[1][1] = type(index.live[1][1])(0, 0)
    index.put(2, {1: some(0, 2, flags=TOMBSTONE)})
    assert index.live[1][1] == (0, 0)


def test_closed_it_refuses(index: Index) -> None:
    index.put(1, {1: some(0, 9)})
    index.store_index(1).find(3)
    snapshot = index.snapshot()
    index.close()
    for read in (
        lambda: index.store_index(1).find(3),
        lambda: snapshot.find(1, 3),
        lambda: list(snapshot.runs(1, 0, 9)),
        lambda: index.put(2, {1: some(0, 9)}),
        lambda: index.write_checkpoint(1, {}),
    ):
        with pytest.raises(ClosedError):
            read()


# ---------------------------------------------------------------------- damage


def page(*numbers: int, last: int | None = None, flags: int = 0) -> tuple[bytes, bytes]:
    """Return a page of store 1 with these keys, as LevelDB's key and value."""
    value = b"".join(ROW.pack(key, 4096, 1, 1, flags) for key in numbers)
    return struct.pack(">cIQ", b"P", 1, max(numbers, default=7) if last is None else last), value


def delta(key: int, value: bytes) -> tuple[bytes, bytes]:
    """Return a delta entry of store 1."""
    return struct.pack(">cIQ", b"D", 1, key), value


DAMAGE = {
    "page of no rows": [page()],
    "page of 31 bytes": [(page(7)[0], page(7)[1][:-1])],
    "page of too many rows": [page(3, 4, 5, 6, 7)],
    "page out of order": [page(5, 3, 7)],
    "page with a key twice": [page(5, 5, 7)],
    "page under another key": [page(5, 6, last=7)],
    "page with a tombstone": [page(7, flags=TOMBSTONE)],
    "pages that overlap": [page(1, 6), page(5, 7)],
    "page key too long": [page(7), (page(7)[0] + b"x", page(7)[1])],
    "page key too short": [(page(7)[0][:5] + b"\1", page(7)[1])],
    "delta row too short": [delta(7, ROW.pack(7, 4096, 1, 1, 0)[:-1])],
    "delta row too long": [delta(7, ROW.pack(7, 4096, 1, 1, 0) * 2)],
    "delta row of another key": [delta(7, ROW.pack(6, 4096, 1, 1, 0))],
    "delta key too long": [(delta(7, b"")[0] + b"x", ROW.pack(7, 4096, 1, 1, 0))],
}
READS: dict[str, Callable[[Index, IndexSnapshot], object]] = {
    "lookup": lambda index, snapshot: index.store_index(1).lookup(np.arange(9, dtype=np.uint64)),
    "existing": lambda index, snapshot: index.store_index(1).existing(np.arange(9, dtype=np.uint64)),
    "runs": lambda index, snapshot: list(index.store_index(1).runs(0, KEY_END)),
    "runs back": lambda index, snapshot: list(index.store_index(1).runs(0, KEY_END, reverse=True)),
    "put many rows": lambda index, snapshot: index.put(9, {1: some(0, 9)}),
    "snapshot lookup": lambda index, snapshot: snapshot.lookup(1, np.arange(9, dtype=np.uint64)),
    "snapshot runs": lambda index, snapshot: list(snapshot.runs(1, 0, KEY_END)),
}


def plant(index: Index, pairs: list[tuple[bytes, bytes]], *, older: bool) -> IndexSnapshot:
    """Put raw pairs into LevelDB behind the index's back, and return a snapshot that sees them."""
    index.leveldb.write(pairs)
    index.forget()
    snapshot = index.snapshot()
    if older:
        index.put(1, {2: some(0, 1)})
        index.forget()
    return snapshot


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("pairs", DAMAGE.values(), ids=DAMAGE)
def test_damaged_rows_are_found(
    index: Index, pairs: list[Any], read: Callable[[Index, IndexSnapshot], object]
) -> None:
    snapshot = plant(index, pairs, older=True)
    with pytest.raises(CorruptionError, match="rebuild_index"):
        read(index, snapshot)


@pytest.mark.parametrize("pairs", DAMAGE.values(), ids=DAMAGE)
def test_a_point_read_finds_damage_or_nothing(index: Index, pairs: list[Any]) -> None:
    snapshot = plant(index, pairs, older=True)
    for find in (index.store_index(1).find, lambda key: snapshot.find(1, key)):
        with contextlib.suppress(CorruptionError):
            assert find(7) in (None, (7, 4096, 1, 1, 0))


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("pairs", [[page(5, 7)], [delta(7, ROW.pack(7, 4096, 1, 1, 0))]], ids=["page", "delta"])
def test_rows_from_disk_are_checked(
    tmp_path: Path, pairs: list[Any], read: Callable[[Index, IndexSnapshot], object]
) -> None:
    seen: list[int] = []

    def refuse(rows: RowArray) -> None:
        seen.extend(rows["key"].tolist())
        if 7 in seen:
            raise CorruptionError("chunk", found="key 7", expected="less")

    with small_limits(cache_size=1 << 20):
        index = Index.create(str(tmp_path / "index"), UUID)
        add_stores(index, refuse)
        snapshot = plant(index, pairs, older=False)
        with pytest.raises(CorruptionError, match="key 7"):
            read(index, snapshot)
        with pytest.raises(CorruptionError, match="key 7"):
            index.store_index(1).find(7)
        index.close()


def catalog_of(value: object) -> dict[bytes, bytes]:
    return {CATALOG: json.dumps(value).encode()}


checkpoint = struct.Struct("<16sIIQQ")
META: dict[str, dict[bytes, bytes | None]] = {
    "no last": {LAST: None},
    "short last": {LAST: b"1234567"},
    "no checkpoint": {CHECKPOINT: None},
    "short checkpoint": {CHECKPOINT: checkpoint.pack(UUID, 1, 1, 0, 0)[:-1]},
    "version 0": {CHECKPOINT: checkpoint.pack(UUID, 0, 1, 0, 0)},
    "a later version": {CHECKPOINT: checkpoint.pack(UUID, 3, 1, 0, 0)},
    "no catalog": {CATALOG: None},
    "catalog that is not JSON": {CATALOG: b"{"},
    "catalog that is not text": {CATALOG: b"\xff\xfe"},
    "deep catalog": {CATALOG: b"[" * 100_000},
    "catalog that is a list": {**catalog_of([1])},
    "catalog of numbers": {**catalog_of({"a": 1})},
    "catalog without a store": {**catalog_of({"a": ENTRY})},
    "catalog with a store by name": {**catalog_of({"a": {"store": "1", **ENTRY}})},
    "catalog without a kind": {**catalog_of({"a": {"store": 1, "schema": {}}})},
    "catalog without a schema": {**catalog_of({"a": {"store": 1, "kind": "array"}})},
    "short head": {b"H" + struct.pack(">I", 1): bytes(15)},
    "long key of a head": {b"H" + struct.pack(">IB", 1, 1): bytes(16)},
}


@pytest.mark.parametrize("damage", META.values(), ids=META)
def test_damaged_meta_values_are_found(index: Index, damage: dict[bytes, bytes | None]) -> None:
    deletes = [key for key, value in damage.items() if value is None]
    index.leveldb.write([(key, value) for key, value in damage.items() if value is not None], deletes)
    index.close()
    for _ in range(2):  # the first failure let LevelDB's lock go
        with pytest.raises(CorruptionError, match="rebuild_index"):
            Index.open(index.leveldb.path)


def test_an_index_of_before_is_read_and_says_the_version_once_it_may_be_written_to(index: Index) -> None:
    """Before anything is put into it, as a release of before is to refuse it then."""
    index.leveldb.write([(CHECKPOINT, checkpoint.pack(UUID, 1, 7, 0, 0))])
    index.close()
    private = Index.open_private(index.leveldb.path)
    assert (private.next_chunk, private.leveldb.get(CHECKPOINT)) == (7, checkpoint.pack(UUID, 1, 7, 0, 0))
    private.close()
    for _ in range(2):
        opened = Index.open(index.leveldb.path)
        assert (opened.next_chunk, opened.leveldb.get(CHECKPOINT)) == (7, checkpoint.pack(UUID, 2, 7, 0, 0))
        opened.close()


@pytest.mark.parametrize("pair", [(struct.pack(">cII", b"C", 1, 1), bytes(15)), (b"C\0\0\0\1\0", bytes(16))])
def test_damaged_figures_are_found(index: Index, pair: tuple[bytes, bytes]) -> None:
    index.leveldb.write([pair])
    with pytest.raises(CorruptionError, match="rebuild_index"):
        index.add_store(1, 8, accept)
