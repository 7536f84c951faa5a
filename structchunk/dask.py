"""Dask: bags and data frames of key ranges that workers open themselves, and shards that workers write.

What goes through the scheduler is where the records are, a path or URL, a commit and a range of keys, and what is
asked of them. A path must mean the same directory to every worker and to who reads. Of a URL, each worker fetches
the records of its ranges, into a cache of its own machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from .database.database import Database
from .database.opening import AnyPath, open
from .database.pickling import Home, open_shared, reopen
from .errors import missing_extra
from .runs.extent import KEY_END
from .runs.key_ranges import KeyRange
from .shards.manifest import Shard
from .shards.places import Directory, Location, Place, place_of
from .shards.sets import MakeShard, write_set
from .shards.shards import Shards, open_at
from .stores.batch import Batch
from .stores.collection import open_store
from .types.schema import Schema, array_schema, object_schema, schema_from_descriptor

try:
    import dask.bag
except ImportError as error:
    raise missing_extra("this needs Dask", "dask") from error

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Partition", "read", "read_frame", "write"]

_latest_readers: deque[Database] = deque(maxlen=8)
"""Who begins a computation may let its graph go before the workers have opened what it reads."""


@dataclass(frozen=True)
class Partition:
    """A range of keys of some stores. Iterating it opens the database, and yields what a scan yields.

    It holds no records, and is pickled as what it says here. In the process that made it, the commit is kept for
    as long as there is one of its partitions.

    Attributes
    ----------
    path : str
        Of a database, or of shards; a URL without credentials.
    names : tuple of str
    start, stop : int
        Range of keys.
    reading : str
        Differs with every call that made partitions, for the database may have changed in between.
    kept : Kept, Address or Location, optional
        Where the commit is found that all partitions are of, or shards at a URL, with the options that it needs.
        Without it, which is so for shards in a directory, what is opened is what is there.
    """

    path: str
    names: tuple[str, ...]
    start: int
    stop: int
    reading: str
    kept: Home | Location | None = None

    def open(self) -> AbstractContextManager[Database | Shards]:
        """Open the database, or the shards, for the time of a ``with`` statement."""
        if self.kept is None:
            return _open(Directory(self.path))
        return open_at(self.kept) if isinstance(self.kept, Location) else contextlib.nullcontext(reopen(self.kept))

    def __iter__(self) -> Iterator[Any]:
        with self.open() as source:
            if len(self.names) == 1:
                yield from source[self.names[0]].scan(self.start, self.stop)
            else:
                yield from source.scan(*self.names, start=self.start, stop=self.stop)


_reader_of: WeakKeyDictionary[Partition, Database] = WeakKeyDictionary()
"""What keeps the commit of each partition that was made in this process."""


def read(
    path: AnyPath,
    *names: str,
    partitions: int,
    storage_options: Mapping[str, Any] | None = None,
    cache: AnyPath | None = None,
) -> dask.bag.Bag:
    """Read stores as a Dask bag of batches.

    Parameters
    ----------
    path : path-like or str
        Of a database, or of shards (their directory, or the manifest in it), on all workers; or the URL of a
        published database, or of shards that :func:`write` wrote there.
    *names : str
        Stores.
    partitions : int
        How many key ranges to make, of about the same size in bytes. There are fewer if there are few records.
    storage_options : dict, optional
        Of a URL: as of :func:`structchunk.open`. They go to the workers.
    cache : path-like, optional
        Of a URL: as of :func:`structchunk.open`, a directory on each worker, and here, which need not be the same
        one, or shared.

    Returns
    -------
    dask.bag.Bag
        Of ``Batch`` if one store was named; else of tuples with one batch for each, which share their keys, as
        ``Database.scan`` yields them. Each partition is a range of keys, in ascending order, that whoever works
        on it opens with ``mode="r"``.

    Raises
    ------
    StoreNotFound
        There is no such store.
    ValueError
        No store was named, or an option of URLs was given to a path.
    OSError
        The store of a URL fails.

    Notes
    -----
    The index is read once, to find ranges of the same size; records are read by the workers only, each time that
    a partition is computed. All of them see the last commit of when this was called, whatever is written, dropped
    or compacted meanwhile, and whenever they are computed. For that the calling process keeps the commit, and its
    disk space, for as long as it has the bag or anything made of it, and for the last 8 readings in any case; when
    that process has ended, a worker that finds a later commit raises a ``CommitGone``. A worker keeps a database
    open for its next partition, and the commit before the newest one that it has seen.

    At a URL the commit is the newest that is published, and stays there until it is pruned (``CommitGone``). The
    calling process fetches the index, and each worker does, and the blocks of the records that it is asked for.

    Reduce batches to what you need before they leave their worker: a batch that does, as in a shuffle, is copied.
    """
    made = _partitions(place_of(path, storage_options, cache), names, partitions)
    name = f"structchunk-{made[0].reading}"
    return dask.bag.Bag({(name, i): part for i, part in enumerate(made)}, name, len(made))


def read_frame(
    path: AnyPath,
    *names: str,
    partitions: int,
    storage_options: Mapping[str, Any] | None = None,
    cache: AnyPath | None = None,
) -> Any:
    """Read stores as a Dask data frame.

    Parameters
    ----------
    path, *names, partitions, storage_options, cache
        As in :func:`read`.

    Returns
    -------
    dask.dataframe.DataFrame
        A row for each key that all of the stores have, indexed by ``key``, with known divisions. It has a column
        for each store, of its name, of Arrow's types: lists, or structs for an object store.

    Raises
    ------
    StoreNotFound, ValueError, OSError
        As :func:`read`.
    SchemaError
        As ``Store.to_arrow``.

    Notes
    -----
    As for :func:`read`. Lists of records that lie back to back are views of the file.
    """
    import dask.dataframe  # noqa: PLC0415

    made = _partitions(place_of(path, storage_options, cache), names, partitions)
    divisions = (*(part.start for part in made), KEY_END - 1)
    empty = _frame(replace(made[0], start=0, stop=0))
    return dask.dataframe.from_map(_frame, made, meta=empty, divisions=divisions, label="structchunk")


def _partitions(place: Place, names: tuple[str, ...], count: int) -> list[Partition]:
    reading = uuid.uuid4().hex
    found = _open_shared(place)
    if isinstance(found, Shards):
        with found as shards:
            kept = place if isinstance(place, Location) else None
            return _cut(shards, Partition(_path_of(place), names, 0, KEY_END, reading, kept), count)
    home, reader = found
    made = _cut(reader, Partition(_path_of(place), names, 0, KEY_END, reading, home), count)
    _reader_of.update(dict.fromkeys(made, reader))
    if reader not in _latest_readers:
        _latest_readers.append(reader)
    return made


def _path_of(place: Place) -> str:
    return place.path if isinstance(place, Location) else place.where


def _open_shared(place: Place) -> Shards | tuple[Home, Database]:
    """Open shards, or the latest commit of a database."""
    if isinstance(place, Directory):
        return open_at(place) if place.has_shards() else open_shared(place.where)
    try:
        return open_shared(place.where)
    except FileNotFoundError as nothing:  # what is there more often was looked for first: that takes requests
        try:
            return open_at(place)
        except FileNotFoundError:
            raise nothing from None


def _open(place: Directory) -> Database | Shards:
    return open_at(place) if place.has_shards() else open(place.where, "r")


def _cut(source: Database | Shards, whole: Partition, count: int) -> list[Partition]:
    source.scan(*whole.names)  # raises if there is none of such a name
    return [replace(whole, start=start, stop=stop) for start, stop in _split(source, whole.names, count)]


def _split(source: Database | Shards, names: Sequence[str], count: int) -> list[KeyRange]:
    if isinstance(source, Shards):
        return source.split(*names, count=count)
    with source.snapshot() as snapshot:
        return snapshot.split(*names, count=count)


def _frame(partition: Partition) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415

    with partition.open() as source:
        table = source.to_arrow(*partition.names, start=partition.start, stop=partition.stop).read_all()
    index = pd.Index(table["key"].to_numpy(), name="key")
    return table.drop_columns("key").to_pandas(types_mapper=pd.ArrowDtype).set_index(index)


# ---------------------------------------------------------------------- writing


def write(
    bag: dask.bag.Bag,
    path: AnyPath,
    stores: Mapping[str, Any],
    *,
    storage_options: Mapping[str, Any] | None = None,
    cache: AnyPath | None = None,
) -> None:
    """Compute a Dask bag, and have each worker write what it gets as a database of its own, a shard.

    Parameters
    ----------
    bag : dask.bag.Bag
        Of what to store, many records at a time: a ``Batch``, or a tuple of what ``put_many`` takes, that is
        ``(keys, values)`` or ``(keys, values, lengths)``. With several stores, of tuples with one of these for
        each.
    path : path-like or str
        The directory to make, on all workers; it must not exist. Or a URL, at which nothing must be: workers need
        no disk that they share.
    stores : mapping
        The names of the stores in that order, and their types: a ctypes structure or array type for an object
        store, any other type for an array store of such items.
    storage_options, cache
        Of a URL: as of :func:`read`.

    Raises
    ------
    FileExistsError
        `path` exists, or something was published there, or written while this wrote.
    TypeError
        The bag has something else.
    ValueError
        Two partitions of the bag have the same key, or no store was named, or an option of URLs was given to a
        path, or as ``put_many``.
    SchemaError
        A type cannot be stored.
    OSError
        The store of a URL fails, or a disk is full.

    Notes
    -----
    There is one shard for each partition of the bag, and in the end a manifest, for :func:`structchunk.open_shards`
    and :func:`read`. On return all is on disk. A task that Dask runs again, because a worker died, leaves nothing
    behind and writes nothing twice. After an exception nothing is left. If the calling process is killed, there
    is no manifest: remove the directory.

    To a URL each task publishes its shard, from a temporary directory of the worker (``$TMPDIR``), which must have
    room for it. No shard is to be seen there before the manifest is, and that is written only if there is none,
    where the store can do so. What a worker that was killed has uploaded stays until somebody removes it, and so
    may what was under way when this raised; no manifest names it. On a file system empty directories stay, too.

    Keys may come in any order, in a partition and over all of them; those that ascend are fastest to read. Of equal
    keys in one partition the last one stays.
    """
    schemas = {name: _schema(given) for name, given in stores.items()}
    if not schemas:
        raise ValueError("no store to write; name at least one, with its type")
    descriptors = {name: schema.descriptor for name, schema in schemas.items()}
    numbers = dask.bag.from_sequence(range(bag.npartitions), npartitions=bag.npartitions)

    def make_all(make_shard: MakeShard) -> Iterable[Shard]:
        made = bag.map_partitions(partial(_write_shard, make_shard, descriptors), numbers)
        return list(made.compute())

    write_set(place_of(path, storage_options, cache), schemas, make_all)


def _schema(given: Any) -> Schema:
    is_object = isinstance(given, type) and issubclass(given, (ctypes.Structure, ctypes.Array))
    return object_schema(given) if is_object else array_schema(given)


def _write_shard(
    make_shard: MakeShard, descriptors: Mapping[str, Any], items: Iterable[Any], numbers: Iterable[int]
) -> list[Shard]:
    (number,) = numbers
    return [make_shard(number, partial(_fill, descriptors, items))]


def _fill(descriptors: Mapping[str, Any], items: Iterable[Any], database: Database) -> None:
    for name, descriptor in descriptors.items():
        open_store(database, name, schema_from_descriptor(descriptor, database.path))
    for item in items:
        with database.transaction() as transaction:
            for name, block in zip(descriptors, _blocks(item, len(descriptors)), strict=True):
                transaction[name].put_many(*_columns(block))


def _blocks(item: Any, count: int) -> Sequence[Any]:
    if count == 1:
        return (item,)
    if not isinstance(item, (tuple, list)) or len(item) != count:
        raise TypeError(f"the bag has {_said(item)}, expected a tuple with a block for each of {count} stores")
    return item


def _columns(block: Any) -> tuple[Any, ...]:
    if isinstance(block, (tuple, list)) and len(block) in (2, 3):
        return tuple(block)
    if not isinstance(block, Batch):
        raise TypeError(
            f"the bag has {_said(block)} for a store, expected a Batch, (keys, values) or (keys, values, lengths)"
        )
    return (block.keys, block.values, block.lengths) if block.kind == "array" else (block.keys, block.values)


def _said(found: Any) -> str:
    kind = type(found).__name__
    return f"{kind} of {len(found)}" if isinstance(found, (tuple, list)) else kind
