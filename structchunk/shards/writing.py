"""Making shards: a database for each part of the records, and at the end the manifest, which makes them a whole.

Parts may be made by any number of processes, on any machine that has the directory, and by several at once that do
not know of one another: a part that is made again after a failure leaves one shard, and no trace of the other
attempt. A part is made under a name that nobody else has, and then gets the one name that it can have.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator

from ..database.database import Database
from ..database.opening import open
from ..disk import files
from ..disk.paths import AnyPath, absolute
from ..types.schema import Schema
from .manifest import Manifest, Shard, write_manifest
from .places import Directory
from .shards import Shards, holdings, repeated_key

PART = ".part-"


@contextlib.contextmanager
def new_directory(path: AnyPath) -> Iterator[str]:
    """Make a directory for shards, which must not exist, and yield its absolute path; on failure remove it."""
    directory = absolute(path)
    if os.path.lexists(directory):
        raise FileExistsError(f"{directory} exists; shards must have a directory of their own")
    files.make_directory(directory)
    try:
        yield directory
    except BaseException:
        doomed = f"{directory}{PART}{os.urandom(16).hex()}"
        files.rename(directory, doomed)  # who is still making a shard cannot put it there any more
        with contextlib.suppress(OSError):
            files.remove_tree(doomed)
        raise
    files.flush_directory(os.path.dirname(directory))


def make_shard(directory: str, number: int, fill: Callable[[Database], object]) -> Shard:
    """Make one shard, unless it is there already, and return what it holds.

    Parameters
    ----------
    directory : str
        Of all the shards.
    number : int
        Which part of the records it is.
    fill : callable
        Stores them in the database that it is given, which does not wait for the disk with every commit.
    """
    name = f"shard-{number:05}.sc"
    path = os.path.join(directory, name)
    draft = f"{path}{PART}{os.urandom(16).hex()}"
    try:
        with open(draft, "x", sync=False) as database:
            fill(database)
        _publish(draft, path)
    finally:
        with contextlib.suppress(OSError):
            files.remove_tree(draft)
    with open(path, "r") as database:
        return Shard(name, holdings(database))


def _publish(draft: str, path: str) -> None:
    try:
        files.rename(draft, path)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise  # else another attempt at the same part was faster, and is whole
    files.flush_directory(os.path.dirname(path))


def finish(directory: str, stores: dict[str, Schema], shards: Iterable[Shard]) -> None:
    """Write the manifest, once all shards are there.

    Raises
    ------
    ValueError
        Two shards have the same key.
    """
    manifest = Manifest(stores, in_order(shards))
    check_keys(Shards(Directory(directory), manifest))
    for left in os.listdir(directory):
        if PART in left:  # of a process that was killed
            with contextlib.suppress(OSError):
                files.remove_tree(os.path.join(directory, left))
    write_manifest(directory, manifest)


def in_order(shards: Iterable[Shard]) -> tuple[Shard, ...]:
    """Return shards as a manifest names them."""
    return tuple(sorted(shards, key=lambda shard: shard.path))


def check_keys(shards: Shards) -> None:
    """Raise ValueError if two shards have the same key; close them."""
    with shards:
        repeated = repeated_key(shards)
    if repeated is not None:
        name, key, owners = repeated
        raise ValueError(
            f"key {key} of store {name!r} is in {' and '.join(owners)}: bring all records of a key together in one "
            "partition"
        )
