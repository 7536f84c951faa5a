"""open_shards(): many databases that hold the records of the same stores, read as one."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

from ..database.database import Database
from ..disk.paths import AnyPath
from ..errors import ClosedError, CorruptionError, Error, StoreNotFound
from ..maintenance.verify import Problem
from ..runs.key_ranges import KeyRange, split, weight
from ..stores.binding import Binding
from ..stores.collection import StoreCollection
from ..stores.mapping import schema_of
from .binding import Part, ShardedBinding
from .heap import ShardedHeap
from .manifest import ADVICE, NAME, Holding, Manifest, Shard
from .merged import MergedRuns
from .places import Place, place_of

CHANGED = "shards are not to be changed: write them again"


class Shards(StoreCollection):
    """Databases that hold the records of the same stores, read as one. Made by :func:`open_shards`.

    ``shards[name]`` is a store with the records of all shards, in order of key: ``[]``, ``get``, ``get_many``,
    ``scan``, ranges, cursors, Arrow and pandas are those of any store. Nothing can be written.

    Notes
    -----
    A shard is opened when a key in its range is first asked for, and stays open until :meth:`close`: it takes
    some file descriptors. Each one shows the commit of when it was opened; shards are not to be changed.

    Any number of threads may use it. What was read stays valid past :meth:`close`. It can be pickled, as its path
    and what else it was opened with; a child of ``fork()`` must open it again. As a context manager it closes at
    the end; dropping it does so, too.
    """

    def __init__(self, place: Place, manifest: Manifest) -> None:
        self._place = place
        self._path = place.path
        self._manifest = manifest
        self._databases: dict[str, Database] = {}
        self._bindings: dict[tuple[str, str], Binding] = {}
        self._merged = MergedRuns()
        self._heaps: dict[str, ShardedHeap] = {}
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._closed = False
        self._finalizer = weakref.finalize(self, _close_all, self._databases)

    @property
    def path(self) -> str:
        """The directory of the shards, absolute, without symbolic links; or their URL, without credentials."""
        return self._path

    @property
    def names(self) -> list[str]:
        """The names of the stores, in order."""
        return sorted(self._manifest.stores)

    def __repr__(self) -> str:
        return f"<Shards {self._path!r}, {len(self._manifest.shards)} databases of {len(self.names)} stores>"

    def __reduce__(self) -> tuple[object, ...]:
        return open_at, (self._place,)

    @property
    def _is_remote(self) -> bool:
        """Whether they are published databases."""
        return self._place.is_remote

    def _check_open(self) -> None:
        """Raise ClosedError after :meth:`close`, and in a forked child."""
        if self._closed:
            raise ClosedError("the shards are closed; open them again")
        if os.getpid() != self._owner:
            raise ClosedError("these shards were opened before fork(); open them again in this process")

    # ------------------------------------------------------------------ stores

    def _names(self) -> Collection[str]:
        return self._manifest.stores

    def __len__(self) -> int:
        return len(self._names())

    def _binding(self, name: str) -> ShardedBinding:
        self._check_open()
        holders = [(shard, shard.stores[name]) for shard in self._manifest.shards if name in shard.stores]
        parts = [
            Part(shard.path, held.first, held.last, held.records, partial(self._latest, shard, name))
            for shard, held in holders
        ]
        return ShardedBinding(self._heap(name), parts, self, self._merged)

    def _heap(self, name: str) -> ShardedHeap:
        """Return the chunks of a store: one object for all its handles, as merged runs have its chunk numbers."""
        found = self._heaps.get(name)
        if found is not None:
            return found
        schema = self._manifest.stores.get(name)
        if schema is None:
            raise StoreNotFound(f"the shards of {self._path} have no store {name!r}; they have {self.names}")
        return self._heaps.setdefault(name, ShardedHeap(self._path, name, schema, is_remote=self._is_remote))

    def split(self, *names: str, count: int) -> list[KeyRange]:
        """Cut the key space into ranges of about the same size; see ``Snapshot.split``. It opens all shards."""
        bindings = [self._binding(name) for name in names]
        held = [shard.stores[name] for name in names for shard in self._manifest.shards if name in shard.stores]
        size = sum(weight(holding.records, holding.size) for holding in held)
        runs = ((run, binding.heap.item_size) for binding in bindings for run in binding.runs_by_part())
        return split(runs, size, count)

    # ------------------------------------------------------------------ databases

    def _latest(self, shard: Shard, name: str) -> Binding:
        found = self._bindings.get((shard.path, name))
        if found is not None:
            return found
        with self._lock:
            self._check_open()
            database = self._databases.get(shard.path)
            if database is None:
                database = self._databases[shard.path] = self._open(shard)
            return self._bindings.setdefault((shard.path, name), database._binding(name))

    def _open(self, shard: Shard) -> Database:
        try:
            database = self._place.open(shard.path)
        except FileNotFoundError as error:
            expected, where = f"one of the shards that {NAME} names", self._place.at(shard.path)
            raise CorruptionError(where, found="no database", expected=expected, advice=ADVICE) from error
        try:
            self._check(database, shard)
        except BaseException:
            database.close()
            raise
        return database

    def _check(self, database: Database, shard: Shard) -> None:
        """Raise unless a database holds what the manifest says, as far as its own figures tell."""
        for name, schema in self._manifest.stores.items():
            if name not in database or schema_of(database[name]) != schema:
                found, expected = f"no store {name!r} of this type", str(schema.descriptor)
                raise CorruptionError(database.path, found=found, expected=expected, advice=ADVICE)
        held = {name: (holding.records, holding.size) for name, holding in shard.stores.items()}
        stats = {name: (stats.records, stats.live) for name, stats in database.stats().items() if stats.records}
        if stats != held:
            found, expected = f"records and bytes {stats}", f"{held}, as {NAME} has it"
            raise CorruptionError(database.path, found=found, expected=expected, advice=CHANGED)

    def verify(self, progress: Callable[[int, int], object] | None = None) -> list[Problem]:
        """Check every shard, as ``Database.verify`` does, and that it has the keys that the manifest says.

        Parameters
        ----------
        progress : callable, optional
            Called as ``progress(done, total)``, in shards.

        Returns
        -------
        list of Problem
            What is wrong, where, and what to do; empty if all is well.
        """
        self._check_open()
        shards = self._manifest.shards
        problems = []
        for done, shard in enumerate(shards, 1):
            problems += list(self._problems_of(shard))
            if progress is not None:
                progress(done, len(shards))
        repeated = None if problems else repeated_key(self)
        if repeated is not None:
            what = f"key {repeated[1]} of store {repeated[0]!r} is in {' and '.join(repeated[2])}"
            problems.append(Problem(what, self._path, ADVICE))
        return problems

    def _problems_of(self, shard: Shard) -> Iterator[Problem]:
        path = self._place.at(shard.path)
        try:
            with self._open(shard) as database:
                found = database.verify()
                held = {} if found else holdings(database)
        except (Error, OSError) as error:
            yield Problem(str(error), path, ADVICE)
            return
        yield from found
        if not found and held != shard.stores:
            yield Problem(f"found {held}, expected {shard.stores}, as {NAME} has it", path, CHANGED)

    # ------------------------------------------------------------------ end

    def close(self) -> None:
        """Close all shards. Idempotent."""
        with self._lock:
            self._closed = True
            self._bindings.clear()
            self._merged.close()
            for heap in self._heaps.values():
                heap.arrays.forget()
            self._heaps.clear()
            self._finalizer()

    def __enter__(self) -> Shards:
        self._check_open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_shards(
    path: AnyPath, *, storage_options: Mapping[str, Any] | None = None, cache: AnyPath | None = None
) -> Shards:
    """Open databases that hold the records of the same stores, to read them as one.

    Parameters
    ----------
    path : path-like or str
        The directory that ``structchunk.dask.write`` made, or the manifest in it; or the URL that it was given.
    storage_options, cache
        Of a URL: as of :func:`open`.

    Raises
    ------
    FileNotFoundError
        There is no manifest.
    CorruptionError
        The manifest is damaged. What is wrong with a shard is raised when it is first read.
    OSError
        The store of a URL fails, also later, when records are read.

    Notes
    -----
    It reads the manifest, whatever the shards hold.
    """
    return open_at(place_of(path, storage_options, cache))


def open_at(place: Place) -> Shards:
    """Open the shards of a place."""
    return Shards(place, place.read_manifest())


def repeated_key(shards: Shards) -> tuple[str, int, list[str]] | None:
    """Return a store, a key that several shards have in it, and which they are; None if there is none."""
    for name in shards:
        found = shards._binding(name).repeated_key()
        if found is not None:
            return name, *found
    return None


def holdings(database: Database) -> dict[str, Holding]:
    """Return what a database has of each store."""
    found = {}
    for name, stats in database.stats().items():
        cursor = database[name].cursor()
        if cursor.last():
            last = cursor.key
            cursor.first()
            found[name] = Holding(cursor.key, last, stats.records, stats.live)
    return found


def _close_all(databases: dict[str, Database]) -> None:
    for database in databases.values():
        database.close()
    databases.clear()
