"""What changes() must say: every commit as dictionaries, and which of them compaction and drops have taken."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from oracle import Point

import structchunk as sc

Records = dict[int, "bytes | None"]
"""What a commit did to keys: new bytes, or None for a deletion."""
TYPES: dict[str, Any] = {
    "floats": "f8",
    "bytes": "u1",
    "points": Point,
    "odd": np.dtype([("a", "u1"), ("b", "<u2")]),
}


@dataclass
class StoreModel:
    """One store: what each commit changed there, which ones moved its records, and up to which all that is gone."""

    name: str
    created: int
    changes: dict[int, Records]
    moves: list[int] = field(default_factory=list)
    lost: int = 0
    dropped: int = 0
    has_note: bool = True

    def is_missing(self, commit: int) -> bool:
        """Tell whether the store's part of a commit is gone, and nothing says what it was."""
        has_part = commit in self.changes or commit in self.moves or commit == self.dropped
        return has_part and (commit <= self.lost or (self.dropped > 0 and not self.has_note))


@dataclass
class FeedModel:
    """All stores there ever were, up to a commit."""

    commit: int = 0
    stores: list[StoreModel] = field(default_factory=list)

    def living(self) -> dict[str, StoreModel]:
        """Return the stores that there are."""
        return {store.name: store for store in self.stores if not store.dropped}

    def note(self, changes: dict[str, Records], commit: int) -> None:
        """Note a commit, if one was made."""
        if commit != self.commit:
            for name, records in changes.items():
                if records:
                    self.living()[name].changes[commit] = records
        self.commit = commit

    def create(self, name: str, commit: int) -> None:
        """Note that a store was created."""
        self.stores.append(StoreModel(name, commit, {commit: {}}))
        self.commit = commit

    def drop(self, name: str, commit: int) -> None:
        """Note that a store was dropped."""
        store = self.living()[name]
        store.lost, store.dropped = max(store.changes), commit
        self.commit = commit

    def rebuild(self) -> None:
        """Note that the index was made anew: with it the notes of what was dropped are gone."""
        for store in self.stores:
            store.has_note &= not store.dropped

    def compact(self, name: str, commit: int) -> None:
        """Note that a store was compacted, if anything was done."""
        if commit != self.commit:
            store = self.living()[name]
            store.lost = max(store.changes)
            store.moves.append(commit)
        self.commit = commit

    def copy(self) -> FeedModel:
        """Return it as it is now."""
        return copy.deepcopy(self)

    # ------------------------------------------------------------------ what must be said

    def hole(self, since: int, upto: int) -> int:
        """Return the last commit of which something is missing."""
        commits = range(upto, since, -1)
        return next((each for each in commits if any(store.is_missing(each) for store in self.stores)), 0)

    def lost(self, since: int, *names: str) -> int:
        """Return up to which commit what is asked for is gone; 0 if it is all there."""
        living = self.living()
        chosen = [living[name] for name in names if name in living] if names else list(living.values())
        lost = max((store.lost for store in chosen), default=0)
        created = max((store.created for store in chosen), default=0) if since else 0
        is_unknown = any(name not in living for name in names)
        upto = self.commit if is_unknown or not names else created - 1
        lost = max(lost, self.hole(since, upto))
        return lost if since < lost else 0

    def drops(self, since: int, *names: str) -> list[StoreModel]:
        """Return the stores of which it is said that they were dropped, in that order."""
        found = [
            store
            for store in self.stores
            if store.has_note and store.lost <= since < store.dropped and (store.name in names or not names)
        ]
        return sorted(found, key=lambda store: store.dropped)

    def expected(self, since: int, *names: str) -> list[tuple[int, str, str, Records]]:
        """Return commit, store, kind and records of each change."""
        dropped: list[tuple[int, str, str, Records]] = [
            (store.dropped, store.name, "dropped", {}) for store in self.drops(since, *names)
        ]
        changed = [
            (commit, store.name, "created" if commit == store.created else "records", store.changes[commit])
            for commit in range(since + 1, self.commit + 1)
            for store in self.stores
            if not store.dropped and commit in store.changes and (store.name in names or not names)
        ]
        return sorted(changed + dropped, key=lambda change: change[0])

    def expected_net(self, since: int, *names: str) -> list[tuple[str, str, Records]]:
        """Return name, kind and records of each store that was changed: those that were dropped come first."""
        net: dict[str, tuple[str, Records]] = {}
        for _, name, kind, records in self.expected(since, *names):
            if kind != "dropped":
                before, found = net.get(name, (kind, {}))
                net[name] = before, {**found, **records}
        created = {store.name: store.created for store in self.stores if not store.dropped}
        changed = [(name, *net[name]) for name in sorted(net, key=created.__getitem__)]
        return [(store.name, "dropped", {}) for store in self.drops(since, *names)] + changed


def records_of(change: sc.Change) -> Records:
    """Return what a change says, having checked its form."""
    batch = change.batch()
    for keys in (change.keys, change.deleted):
        assert keys.dtype == np.uint64 and keys.ndim == 1 and not keys.flags.writeable
        assert (keys[1:] > keys[:-1]).all()
    assert np.array_equal(batch.keys, change.keys)
    put = {int(key): items.tobytes() for key, items in batch}
    assert not put.keys() & set(change.deleted.tolist())
    return {**put, **dict.fromkeys(change.deleted.tolist())}


def check_feed(handle: Any, model: FeedModel, sinces: Any = None, *, chance: random.Random | None = None) -> None:
    """Compare a handle with what it must say, since some commits or all, of all stores and of each, or of two."""
    assert handle.last_commit == model.commit
    assert handle.first_change == model.lost(0), (handle.first_change, model.lost(0))
    dropped = {store.name for store in model.stores if store.dropped} - model.living().keys()
    names = [*model.living(), *dropped, "none"]
    for since in range(model.commit + 1) if sinces is None else sinces:
        some = [*((name,) for name in names), tuple(names[:2])]
        for chosen in ((), *(chance.sample(some, 2) if chance is not None else some)):
            check_one(handle, model, since, chosen)


def check_one(handle: Any, model: FeedModel, since: int, names: tuple[str, ...]) -> None:
    lost = model.lost(since, *names)
    known = {store.name for store in [*model.living().values(), *model.drops(since, *names)]}
    for net in (False, True):
        try:
            found = list(handle.changes(since, *names, net=net))
        except sc.HistoryLost as error:
            assert error.upto == lost, (since, names, str(error))
            continue
        except sc.StoreNotFound:
            assert not lost and not set(names) <= known
            continue
        assert not lost and set(names) <= known, (since, names, lost)
        said = [(change.commit, change.store, change.kind, records_of(change)) for change in found]
        if net:
            assert all(commit == model.commit for commit, *_ in said)
            assert [change[1:] for change in said] == model.expected_net(since, *names)
        else:
            assert said == model.expected(since, *names)


# ---------------------------------------------------------------------- a workload


class Workload:
    """Random changes of a database, and what each of them was."""

    def __init__(self, db: sc.Database, seed: int, keys: int = 60) -> None:
        self.db = db
        self.model = FeedModel(db.last_commit)
        self.random = random.Random(seed)
        self.keys = keys

    def items(self, name: str, count: int, most: int = 3) -> list[Any]:
        """Return values for some records of a store, each an array."""
        dtype = np.dtype(Point) if name == "points" else np.dtype(TYPES[name])
        lengths = [1 if name == "points" else self.random.randrange(most + 1) for _ in range(count)]
        return [np.frombuffer(self.random.randbytes(length * dtype.itemsize), dtype) for length in lengths]

    def put(self, store: Any, records: Records, keys: list[int]) -> None:
        """Put records one by one, or many at once."""
        most = 3 if self.random.random() < 0.9 else 500
        values = self.items(store.name, len(keys), most)
        if self.random.random() < 0.5:
            for key, value in zip(keys, values, strict=True):
                store.put(key, Point.from_buffer_copy(value) if store.name == "points" else value)
        elif keys:
            lengths = {} if store.name == "points" else {"lengths": [len(value) for value in values]}
            store.put_many(keys, np.concatenate(values), **lengths)
        records.update({key: value.tobytes() for key, value in zip(keys, values, strict=True)})

    def delete(self, store: Any, records: Records) -> None:
        """Delete a range, many keys, or one."""
        low = self.random.randrange(self.keys)
        before = set(store)
        way = self.random.randrange(3)
        if way == 0:
            store.delete_range(low, low + self.random.randrange(9))
        elif way == 1:
            store.delete_many([low, low + 3, low + 9])
        else:
            store.delete(low)
        records.update(dict.fromkeys(before - set(store)))

    def write(self) -> None:
        """Make one commit, at most, over some stores."""
        living = list(self.model.living())
        if not living:
            return self.create()
        changes: dict[str, Records] = {}
        with self.db.transaction() as txn:
            for name in self.random.sample(living, min(len(living), self.random.choice([1, 1, 2, 3]))):
                records = changes[name] = {}
                for _ in range(self.random.choice([1, 1, 2])):
                    if self.random.random() < 0.3:
                        self.delete(txn[name], records)
                    else:
                        count = self.random.choice([1, 1, 2, 9])
                        self.put(txn[name], records, [self.random.randrange(self.keys) for _ in range(count)])
        self.model.note(changes, self.db.last_commit)
        return None

    def create(self) -> None:
        """Create a store, unless all are there; it may get records in the same commit."""
        missing = sorted(TYPES.keys() - self.model.living().keys())
        if missing:
            name = self.random.choice(missing)
            records: Records = {}
            with self.db.transaction() as txn:
                make = txn.object_store if name == "points" else txn.array_store
                store = make(name, TYPES[name])
                if self.random.random() < 0.5:
                    self.put(store, records, [self.random.randrange(self.keys) for _ in range(4)])
            self.model.create(name, self.db.last_commit)
            self.model.living()[name].changes[self.db.last_commit] = records

    def drop(self) -> None:
        """Drop a store."""
        if living := sorted(self.model.living()):
            name = self.random.choice(living)
            self.db.drop_store(name)
            self.model.drop(name, self.db.last_commit)

    def compact(self) -> None:
        """Compact a store."""
        if living := sorted(self.model.living()):
            name = self.random.choice(living)
            self.db.compact(name)
            self.model.compact(name, self.db.last_commit)

    def step(self) -> None:
        """Do something."""
        steps = [self.write] * 14 + [self.create] * 2 + [self.compact, self.drop, self.db.sync]
        self.random.choice(steps)()
