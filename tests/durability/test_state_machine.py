"""Everything at once, in any order, against dictionaries: three array stores and an object store."""

from __future__ import annotations

import bisect
import ctypes
import math
import shutil
import tempfile
from typing import Any, NamedTuple

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from mapping_contract import EDGES, Pair

import structchunk as sc

GRID = np.dtype(("i4", (3,)))
TYPES: dict[str, Any] = {"left": np.dtype("i8"), "right": np.dtype(">f4"), "grid": GRID, "pairs": Pair}


class Riap(sc.Object):
    _fields_ = [("n", ctypes.c_int32), ("x", ctypes.c_double)]


ALTERED: dict[str, Any] = {
    "left": np.dtype(">i8"),
    "right": np.dtype("<f4"),
    "grid": np.dtype((">i4", (3,))),
    "pairs": Riap,
}
"""The types that stores are altered to, and back: the same values in another order of bytes, or of fields."""
ARRAYS = ("left", "right", "grid")
"""In the grid each number of the model is an item of three that are equal."""
SMALL = {
    "index.change.MIN_FOLD_ROWS": 5,
    "index.change.REWRITE_ROWS": 5,
    "index.stored_rows.PAGE_ROWS": 4,
    "index.store_index.GROUP_PAGES": 2,
    "index.store_index.FEW_KEYS": 3,
    "index.store_index.END_ROWS": 2,
    "index.delta._MERGE_AT": 3,
    "index.store_index.GROUP_KEYS": 3,
    "index.store_index.ROW_KEYS": 4,
    "index.page_cache.CACHE_SIZE": 200,
    "index.cached_pages.OVERHEAD": 0,
    "index.page_cache.MOST_TOGETHER": 9,
    "index.short_pages.OVERHEAD": 0,
    "engine.staging._MANY_ROWS": 9,
    "engine.staging._FEW_PUTS": 3,
    "engine.staged_view._END_ROWS": 2,
    "engine.staged_rows._MANY_RUNS": 3,
    "engine.staged_rows._MANY_UNCOUNTED": 30,
    "engine.growing.MUCH": 256,
    "engine.written_rows.PIECE_ROWS": 8,
    "engine.written_rows.SMALL": 3,
    "engine.roll_forward.LOAD_ROWS": 7,
    "maintenance.moving.MOST_ROWS": 9,
    "runs.run.LONG_RUN": 3,
    "runs.gather.WIDE_ITEMS": 4,
    "stores.batches.COPY_SIZE": 256,
    "chunks.allocator.SPILL_SIZE": 1024,
    "chunks.allocator.SPARSE_SIZE": 512,
    "engine.storage.CHECKPOINT_COMMITS": 20,
}
"""Thresholds of the package, made so small that everything behind them happens all the time."""


class Cell:
    """One record of the model. What changes in place changes here, for all models that have the record."""

    def __init__(self, value: list[float], *, live: bool, zero: bool = False) -> None:
        self.value = value
        self.live = live
        self.zero = zero  # made by new(): what is changed in place is never taken back


Model = dict[str, dict[int, Cell]]


class Held(NamedTuple):
    """An array or object that was handed out, the record that it must go on showing, and the transaction, or 0."""

    record: Any
    cell: Cell
    txn: int


class Saved(NamedTuple):
    """A savepoint, what was there when it began, the values of what may be changed, and the first number of it."""

    savepoint: sc.Savepoint
    model: Model
    values: dict[Cell, list[float]]
    attributes: dict[str, dict[str, Any]]
    first: int


class Taken(NamedTuple):
    """A snapshot, and what it must go on showing."""

    snapshot: sc.Snapshot
    model: Model


def plain(record: Any) -> list[float]:
    return [record.x, record.n] if isinstance(record, sc.Object) else first_of_equal(record).tolist()


def first_of_equal(items: np.ndarray) -> np.ndarray:
    """Return the one number of each item, of which those of the grid have three."""
    if items.ndim == 1:
        return items
    assert items.shape[1:] == GRID.shape
    assert (items == items[:, :1]).all()
    return items[:, 0]


def given(name: str, value: list[float]) -> Any:
    """Return the items of a record of the model as they are put into a store."""
    return [[number] * 3 for number in value] if name == "grid" else value


def rows_of(batch: sc.Batch) -> list[tuple[int, list[float]]]:
    """Return a batch in plain form; an object is a record of one row."""
    if batch.values.dtype.names:
        return [(key, fields_of(value[0])) for key, value in batch]
    return [(key, plain(value)) for key, value in batch]


def fields_of(row: Any) -> list[float]:
    return [row["x"].item(), row["n"].item()]


def copy_of(model: Model) -> Model:
    return {name: dict(cells) for name, cells in model.items()}


def between(cells: dict[int, Cell], start: int, stop: int) -> list[int]:
    return [key for key in sorted(cells) if start <= key < stop]


keys = st.one_of(st.integers(0, 30), st.integers(0, 30), st.sampled_from(EDGES))
bounds = st.one_of(st.integers(0, 31), st.sampled_from([*EDGES, 2**64]))
names = st.sampled_from(sorted(TYPES))
array_names = st.sampled_from(ARRAYS)
numbers = st.integers(-1000, 1000)
items = st.builds(lambda part, times: part * times, st.lists(numbers, max_size=5), st.sampled_from([1, 1, 1, 150]))
kinds = st.sampled_from(["put", "append", "many", "new", "edit", "change"])
moves = st.one_of(st.sampled_from(["first", "last", "next", "next", "prev", "prev"]), keys)


class Machine(RuleBasedStateMachine):
    """``base`` is what is committed; ``work`` what the open transaction sees, if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.path = tempfile.mkdtemp(suffix=".sc")
        self.base: Model = {}
        self.types = dict(TYPES)
        self.base_attributes: dict[str, dict[str, int]] = {}
        self.work_attributes: dict[str, dict[str, int]] | None = None
        self.work: Model | None = None
        self.txn: sc.Transaction | None = None
        self.held: list[Held] = []
        self.taken: list[Taken] = []
        self.saved: list[Saved] = []
        self.count = 0
        self.first = 0
        self.begun = 0
        self.aborted: set[int] = set()
        self.open()
        for name in TYPES:
            self.create(name)

    def open(self, mode: str = "a") -> None:
        self.db = sc.open(self.path, mode, chunk_size=16 << 10, sync=False)

    @property
    def model(self) -> Model:
        return self.base if self.work is None else self.work

    def store(self, name: str) -> Any:
        """Return a store as the open transaction has it, or the database; None if there is none."""
        handle = self.db if self.txn is None else self.txn
        if name in self.model:
            return handle[name]
        with pytest.raises(sc.StoreNotFound):
            handle[name]
        return None

    def hold(self, record: Any, cell: Cell) -> None:
        self.held = [*self.held[-20:], Held(record, cell, 0 if self.txn is None else self.begun)]

    def unique(self) -> int:
        """Return a number that no record has had."""
        self.count += 1
        return 10_000 + self.count

    # ------------------------------------------------------------------ writing

    @rule(name=names)
    def create(self, name: str) -> None:
        handle = self.db if self.txn is None else self.txn
        method = handle.array_store if name in ARRAYS else handle.object_store
        made = method(name, self.types[name])
        assert len(made) == len(self.model.setdefault(name, {}))

    @rule(name=array_names, key=keys, value=items)
    def put_array(self, name: str, key: int, value: list[float]) -> None:
        if (store := self.store(name)) is not None:
            store.put(key, given(name, value))
            cell = self.model[name][key] = Cell(value, live=False)
            self.hold(store[key], cell)

    @rule(key=keys, n=numbers, as_dict=st.booleans())
    def put_object(self, key: int, n: int, as_dict: bool) -> None:
        if (store := self.store("pairs")) is not None:
            store[key] = {"x": n / 2, "n": n} if as_dict else store.cls(x=n / 2, n=n)
            self.model["pairs"][key] = Cell([n / 2, n], live=True)

    @rule(name=array_names, key=keys, times=st.integers(1, 4), value=items, read=st.booleans())
    def append(self, name: str, key: int, times: int, value: list[float], read: bool) -> None:
        if (store := self.store(name)) is None:
            return
        for _ in range(times):
            store.append(key, given(name, value))
            before = self.model[name].get(key)
            if before is None or value:
                self.model[name][key] = Cell((before.value if before else []) + value, live=False)
            if read:
                self.hold(store[key], self.model[name][key])

    @rule(
        name=array_names,
        rows=st.lists(st.tuples(keys, items), max_size=30),
        spread=st.booleans(),
        ragged=st.booleans(),
    )
    def put_many(self, name: str, rows: list[tuple[int, list[float]]], spread: bool, ragged: bool) -> None:
        if (store := self.store(name)) is None:
            return
        if spread:  # one of each key around, in order
            rows = [(key, [key]) for key in range(len(rows) * 3)]
        numbers, values = [key for key, _ in rows], [row for _, row in rows]
        if ragged:
            store.put_many(numbers, [given(name, row) for row in values])
        else:
            items = [item for row in values for item in row]
            store.put_many(numbers, given(name, items), list(map(len, values)))
        self.model[name].update({key: Cell(row, live=False) for key, row in rows})

    @rule(rows=st.dictionaries(keys, numbers, max_size=30))
    def put_objects(self, rows: dict[int, int]) -> None:
        if (store := self.store("pairs")) is not None:
            store.put_many(list(rows), [{"x": n / 2, "n": n} for n in rows.values()])
            self.model["pairs"].update({key: Cell([n / 2, n], live=True) for key, n in rows.items()})

    @rule(name=array_names, rows=st.dictionaries(keys, items, max_size=12))
    def update(self, name: str, rows: dict[int, list[float]]) -> None:
        if (store := self.store(name)) is not None:
            store.update({key: given(name, row) for key, row in rows.items()})
            self.model[name].update({key: Cell(row, live=False) for key, row in rows.items()})

    @rule(name=array_names, key=keys, length=st.sampled_from([0, 1, 5, 300]))
    def new_array(self, name: str, key: int, length: int) -> None:
        if (store := self.store(name)) is not None:
            made = store.new(key, length)
            assert plain(made) == [0] * length
            cell = self.model[name][key] = Cell([0] * length, live=True, zero=True)
            self.hold(made, cell)

    @rule(key=keys, n=numbers)
    def new_object(self, key: int, n: int) -> None:
        if (store := self.store("pairs")) is not None:
            made = store.new(key, n=n)
            cell = self.model["pairs"][key] = Cell([0, n], live=True, zero=True)
            self.hold(made, cell)

    @rule(name=array_names, pick=st.integers(0, 99), number=numbers)
    def change_array_in_place(self, name: str, pick: int, number: int) -> None:
        cells = {key: cell for key, cell in self.model.get(name, {}).items() if cell.live and cell.value}
        if cells:
            key = sorted(cells)[pick % len(cells)]
            at = pick % len(cells[key].value)
            self.store(name)[key][at] = cells[key].value[at] = number

    @precondition(lambda self: self.model.get("pairs"))
    @rule(pick=st.integers(0, 99), number=numbers)
    def change_object_in_place(self, pick: int, number: int) -> None:
        cells = self.model["pairs"]
        key = sorted(cells)[pick % len(cells)]
        found = self.store("pairs")[key]
        found.n = cells[key].value[1] = number
        if self.txn is None:
            self.hold(found, cells[key])

    @precondition(lambda self: self.txn is not None and self.model.get("pairs"))
    @rule(pick=st.integers(0, 99))
    def edit(self, pick: int) -> None:
        cells = self.model["pairs"]
        key = sorted(cells)[pick % len(cells)]
        number = self.unique()
        staged = cells[key] is not self.base.get("pairs", {}).get(key)
        self.store("pairs").edit(key).n = number
        if staged:  # the record of new() is live, and its object may be held
            self.held = [held for held in self.held if held.cell is not cells[key]]
        cells[key] = Cell([cells[key].value[0], number], live=True)

    @rule(name=names, key=keys)
    def delete(self, name: str, key: int) -> None:
        if (store := self.store(name)) is not None:
            assert store.delete(key) == (self.model[name].pop(key, None) is not None)
            assert key not in store

    @rule(name=names, start=bounds, stop=bounds)
    def delete_range(self, name: str, start: int, stop: int) -> None:
        if (store := self.store(name)) is not None:
            gone = between(self.model[name], start, stop)
            assert store.delete_range(start, stop) == len(gone)
            for key in gone:
                del self.model[name][key]

    @rule(name=names, unwanted=st.lists(keys, max_size=12), spread=st.booleans())
    def delete_many(self, name: str, unwanted: list[int], spread: bool) -> None:
        if (store := self.store(name)) is not None:
            unwanted = [*range(0, 60, 2), *unwanted] if spread else unwanted
            gone = self.model[name].keys() & unwanted
            assert store.delete_many(unwanted) == len(gone)
            for key in gone:
                del self.model[name][key]
            assert not store.contains_many(unwanted).any()

    @rule(name=names, key=keys)
    def pop(self, name: str, key: int) -> None:
        if (store := self.store(name)) is not None:
            cell = self.model[name].pop(key, None)
            found = store.pop(key, None)
            assert (found is None) == (cell is None)
            if cell is not None:
                assert plain(found) == cell.value
            assert key not in store

    # ------------------------------------------------------------------ transactions, snapshots, reopening

    @precondition(lambda self: self.txn is None)
    @rule(sync=st.sampled_from([None, None, True]))
    def begin(self, sync: bool | None) -> None:
        self.txn = self.db.transaction(sync=sync)
        self.work = copy_of(self.base)
        self.work_attributes = {owner: dict(values) for owner, values in self.base_attributes.items()}
        self.begun += 1
        self.first = self.begun

    @precondition(lambda self: self.txn is not None)
    @rule()
    def commit(self) -> None:
        assert self.txn is not None
        assert self.work is not None
        assert self.work_attributes is not None
        self.txn.commit()
        for saved in self.saved:
            with pytest.raises(sc.ClosedError):
                saved.savepoint.rollback()
        self.base, self.txn, self.work, self.saved = self.work, None, None, []
        self.base_attributes, self.work_attributes = self.work_attributes, None

    @precondition(lambda self: self.txn is not None)
    @rule()
    def abort(self) -> None:
        assert self.txn is not None
        self.txn.abort()
        self.end_aborted()

    def end_aborted(self) -> None:
        if self.txn is not None:
            self.aborted.update(range(self.first, self.begun + 1))
        self.txn = self.work = self.work_attributes = None
        self.saved = []

    @precondition(lambda self: self.txn is not None and len(self.saved) < 2)
    @rule()
    def begin_savepoint(self) -> None:
        assert self.txn is not None
        assert self.work is not None
        committed = {cell for cells in self.base.values() for cell in cells.values()}
        cells = {cell for cells in self.work.values() for cell in cells.values()} - committed
        values = {cell: list(cell.value) for cell in cells if not cell.zero}
        self.begun += 1
        attributes = {owner: dict(found) for owner, found in (self.work_attributes or {}).items()}
        self.saved.append(Saved(self.txn.savepoint(), copy_of(self.work), values, attributes, self.begun))
        self.saved[-1].savepoint.__enter__()

    @precondition(lambda self: self.saved)
    @rule()
    def end_savepoint(self) -> None:
        self.saved.pop().savepoint.__exit__(None, None, None)
        self.begun += 1

    @precondition(lambda self: self.saved)
    @rule(error=st.booleans(), outer=st.integers(0, 2))
    def take_back(self, error: bool, outer: int) -> None:
        at = outer % len(self.saved) if error else -1
        saved = self.saved[at]
        if error:
            saved.savepoint.__exit__(ValueError, ValueError(), None)
        else:
            saved.savepoint.rollback()
        with pytest.raises(sc.Error, match="was taken back"):
            saved.savepoint.rollback()
        self.aborted.update(range(saved.first, self.begun + 1))
        del self.saved[at:]
        self.begun += 1
        self.work, self.work_attributes = copy_of(saved.model), saved.attributes
        for cell, value in saved.values.items():
            cell.value[:] = value

    @rule(
        name=array_names,
        writes=st.lists(
            st.tuples(st.sampled_from(["put", "append", "many", "new", "edit", "change"]), keys, items)
        ),
        error=st.booleans(),
    )
    def attempt(self, name: str, writes: list[tuple[str, int, list[float]]], error: bool) -> None:
        """A savepoint with all that belongs to it, which drawing its parts one by one would seldom give."""
        if self.txn is None:
            self.begin(sync=None)
        self.begin_savepoint()
        for what, key, value in writes:
            if what == "put":
                self.put_array(name, key, value)
            elif what == "append":
                self.append(name, key, 2, value, read=bool(key % 2))
            elif what == "many":
                self.put_many(name, [(key, value)], spread=True, ragged=False)
            elif what == "new":
                self.new_array(name, key, len(value))
            elif self.model.get("pairs"):
                self.edit(key) if what == "edit" else self.change_object_in_place(key, len(value))
        self.take_back(error, outer=len(self.saved) - 1)

    @rule()
    def take_snapshot(self) -> None:
        if len(self.taken) == 4:
            self.taken.pop(0).snapshot.close()
        self.taken.append(Taken(self.db.snapshot(), copy_of(self.base)))

    @precondition(lambda self: self.taken)
    @rule(pick=st.integers(0, 3), name=names, start=bounds, stop=bounds)
    def read_snapshot(self, pick: int, name: str, start: int, stop: int) -> None:
        taken = self.taken[pick % len(self.taken)]
        assert sorted(taken.snapshot) == sorted(taken.model)
        if name in taken.model:
            store, cells = taken.snapshot[name], taken.model[name]
            assert (store.first_key, store.last_key) == (min(cells, default=None), max(cells, default=None))
            self.agree_on(taken.snapshot[name], taken.model[name], start, stop, 5)

    @precondition(lambda self: self.txn is None)
    @rule(name=names)
    def drop(self, name: str) -> None:
        if name in self.base:
            self.db.drop_store(name)
            del self.base[name]
            self.base_attributes.pop(name, None)
            self.types[name] = TYPES[name]
        else:
            with pytest.raises(sc.StoreNotFound):
                self.db.drop_store(name)

    @precondition(lambda self: self.txn is None)
    @rule(name=names)
    def alter(self, name: str) -> None:
        if name in self.base:
            self.held = [held for held in self.held if not held.cell.live]
            self.types[name] = ALTERED[name] if self.types[name] is TYPES[name] else TYPES[name]
            self.db.alter_store(name, self.types[name])
            # What changes from now on is another record than the one that snapshots show.
            self.base[name] = {key: Cell(list(cell.value), live=cell.live) for key, cell in self.base[name].items()}

    @rule(name=st.one_of(st.just(""), names), key=st.sampled_from("ab"), value=numbers, delete=st.booleans())
    def set_attribute(self, name: str, key: str, value: int, delete: bool) -> None:
        handle = self.db if self.txn is None else self.txn
        if name and name not in self.model:
            return
        attributes = handle[name].attrs if name else handle.attrs
        mine = self.attributes.setdefault(name, {})
        assert dict(attributes) == mine
        if delete:
            assert attributes.pop(key, None) == mine.pop(key, None)
        else:
            attributes[key] = mine[key] = value

    @property
    def attributes(self) -> dict[str, dict[str, int]]:
        return self.base_attributes if self.work_attributes is None else self.work_attributes

    @rule(rebuild=st.booleans(), mode=st.sampled_from(["a", "r+"]))
    def reopen(self, rebuild: bool, mode: str) -> None:
        self.close()
        if rebuild and hasattr(sc, "rebuild_index"):
            sc.rebuild_index(self.path)  # knows of no gaps that aborted transactions left
            self.held = [held for held in self.held if held.txn not in self.aborted]
        self.open(mode)
        self.agree()

    @rule()
    def sync(self) -> None:
        self.db.sync()

    @precondition(lambda self: self.txn is None and hasattr(sc.Database, "compact"))
    @rule(name=names)
    def compact(self, name: str) -> None:
        if name in self.base:
            self.db.compact(name)
            moved = self.base[name].values()  # what was handed out of live records is not the record any more
            self.held = [held for held in self.held if not held.cell.live or held.cell not in moved]

    def close(self) -> None:
        for taken in self.taken:
            taken.snapshot.close()
        self.db.close()  # aborts
        self.end_aborted()
        self.taken = []

    # ------------------------------------------------------------------ reading

    @rule(name=names, start=bounds, stop=bounds, batch_size=st.sampled_from([1, 3, 1000]))
    def read_range(self, name: str, start: int, stop: int, batch_size: int) -> None:
        if (store := self.store(name)) is not None:
            self.agree_on(store, self.model[name], start, stop, batch_size)

    @rule(name=names, start=bounds, stop=bounds)
    def read_base(self, name: str, start: int, stop: int) -> None:
        """What is committed shows no open transaction."""
        if name in self.base:
            self.agree_on(self.db[name], self.base[name], start, stop, 1000)

    def agree_on(self, store: Any, cells: dict[int, Cell], start: int, stop: int, batch_size: int) -> None:
        """Compare a range of a store, read in every way, with the model."""
        wanted = [(key, cells[key].value) for key in between(cells, start, stop)]
        assert [(key, plain(value)) for key, value in store.items(start, stop)] == wanted
        assert [(key, plain(value)) for key, value in store.items(start, stop, reverse=True)] == wanted[::-1]
        assert list(store.keys(start, stop)) == [key for key, _ in wanted]
        assert len(store.values(start, stop)) == len(wanted)
        assert np.asarray(store.keys(start, stop, reverse=True)).tolist() == [key for key, _ in wanted[::-1]]
        assert rows_of(store.read(start, stop)) == wanted
        batches = list(store.scan(start, stop, batch_size=batch_size))
        assert [row for batch in batches for row in rows_of(batch)] == wanted
        assert all(1 <= len(batch) <= batch_size for batch in batches)
        if store.dtype.names:
            assert [fields_of(row) for row in store.records(start, stop)] == [value for _, value in wanted]
        else:
            sums = [total for batch in batches for total in plain(batch.reduce(np.add, "f8"))]
            assert sums == [math.fsum(value) for _, value in wanted]

    @rule(name=names, asked=st.lists(keys, max_size=12))
    def get_many(self, name: str, asked: list[int]) -> None:
        if (store := self.store(name)) is None:
            return
        cells = self.model[name]
        missing = [key for key in asked if key not in cells]
        if missing:
            with pytest.raises(sc.KeyNotFound, match=f"no record {missing[0]} "):
                store.get_many(asked)
        assert store.contains_many(asked).tolist() == [key in cells for key in asked]
        if name in ARRAYS:
            rows = [(key, cells[key].value if key in cells else []) for key in asked]
            assert rows_of(store.get_many(asked, missing="empty")) == rows
        here = [key for key in asked if key in cells]
        found = [(key, cells[key].value) for key in here]
        assert rows_of(store.get_many(here)) == rows_of(store.get_many(asked, missing="skip")) == found

    @rule(name=names, key=keys)
    def get(self, name: str, key: int) -> None:
        if (store := self.store(name)) is None:
            return
        cell = self.model[name].get(key)
        found = store.get(key)
        assert (found is None) == (cell is None)
        assert (key in store) == (cell is not None)
        if cell is not None:
            assert plain(found) == cell.value
            if name in ARRAYS:
                assert found.flags.writeable == cell.live
                self.hold(found, cell)

    @rule(name=names, steps=st.lists(moves, max_size=12))
    def walk(self, name: str, steps: list[str | int]) -> None:
        if (store := self.store(name)) is None:
            return
        cursor, cells = store.cursor(), self.model[name]
        order, at = sorted(cells), -1  # -1 is no record
        for step in steps:
            if isinstance(step, int):
                to = bisect.bisect_left(order, step)
                moved = cursor.seek(step)
            else:
                here = {"next": -1, "prev": len(order)}.get(step, 0) if at < 0 else at
                to = {"first": 0, "last": len(order) - 1, "next": here + 1, "prev": here - 1}[step]
                moved = getattr(cursor, step)()
            assert moved == (0 <= to < len(order))
            at = to if moved else at
            assert cursor.valid == (at >= 0)
            if at >= 0:
                assert cursor.key == order[at]
                assert plain(cursor.value) == cells[order[at]].value

    # ------------------------------------------------------------------ always

    @invariant()
    def counts_agree(self) -> None:
        for name, cells in self.model.items():
            store = self.store(name)
            assert len(store) == len(cells)
            assert (store.first_key, store.last_key) == (min(cells, default=None), max(cells, default=None))

    @invariant()
    def what_was_handed_out_stays(self) -> None:
        for held in self.held:
            assert plain(held.record) == held.cell.value
            if not held.cell.live:
                assert not held.record.flags.writeable

    @rule()
    def agree(self) -> None:
        assert list(self.db) == sorted(self.base)
        assert sorted({} if self.txn is None else self.txn) == sorted(self.work or {})
        for name, cells in self.model.items():
            self.agree_on(self.store(name), cells, 0, 2**64, 1000)
            assert dict(self.store(name).attrs) == self.attributes.get(name, {})
        assert dict(self.db.attrs) == self.base_attributes.get("", {})
        assert self.db.verify() == []

    def teardown(self) -> None:
        try:
            self.agree()
            self.close()
            self.open("r+")
            self.agree()
        finally:
            self.close()
            shutil.rmtree(self.path)


@pytest.mark.timeout(3600)  # --budget may ask for much
def test_anything_in_any_order(seed: int, budget: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for threshold, value in SMALL.items():
        monkeypatch.setattr(f"structchunk.{threshold}", value)
    settings = hypothesis.settings(
        max_examples=max(1, int(100 * budget)),
        stateful_step_count=40,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    run_state_machine_as_test(hypothesis.seed(seed)(Machine), settings=settings)
