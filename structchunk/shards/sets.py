"""Making a set of shards: in a directory that all who make them have, or below a URL, with no disk that they share.

Below a URL, who makes a shard has it on a disk of its own, for as long as that takes, and publishes it. The
manifest comes last, and only if there is none: so that of sets that are written at the same time one is there, and
never half of one. The names of shards have a word that is the set's own; of a shard that is made again, after a
failure or by two at once, what was published first stays.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

from ..database.database import Database
from ..database.opening import open
from ..errors import NotACopy
from ..remote.prune import published, remove_all
from ..types.schema import Schema
from .manifest import NAME, Manifest, Shard, pack_manifest
from .places import Location, Place
from .shards import Shards, holdings
from .writing import check_keys, finish, in_order, make_shard, new_directory

MakeShard: TypeAlias = Callable[[int, Callable[[Database], object]], Shard]
"""From the number of a part of the records, and what stores them in a database, to a shard. It can be pickled."""


def write_set(place: Place, stores: dict[str, Schema], make_all: Callable[[MakeShard], Iterable[Shard]]) -> None:
    """Make a set of shards where nothing is yet; after a failure remove what is there of it.

    Parameters
    ----------
    place : Directory or Location
    stores : dict
        The types of all stores, by name.
    make_all : callable
        Makes all shards, by means of the function that it is given, and returns what they hold.

    Raises
    ------
    FileExistsError
        Something is there.
    ValueError
        Two shards have the same key.
    """
    if isinstance(place, Location):
        _write_below(place, stores, make_all)
        return
    with new_directory(place.where) as directory:
        finish(directory, stores, make_all(partial(make_shard, directory)))


def _write_below(
    place: Location, stores: dict[str, Schema], make_all: Callable[[MakeShard], Iterable[Shard]]
) -> None:
    objects, word = place.objects(), os.urandom(4).hex()
    if objects.has(NAME) or published(place.where.url, storage_options=place.where.options):
        raise _is_taken(place)
    try:
        manifest = Manifest(stores, in_order(make_all(partial(publish_shard, place, word))))
        check_keys(Shards(place, manifest))
    except BaseException:
        _discard(place, word)
        raise
    # If this fails, the manifest may be there all the same: so nothing that it names is removed then.
    if not objects.write_new(NAME, pack_manifest(manifest)):
        _discard(place, word)
        raise _is_taken(place)


def publish_shard(place: Location, word: str, number: int, fill: Callable[[Database], object]) -> Shard:
    """Make one shard in a temporary directory and publish it, unless one was, and return what it holds.

    Parameters
    ----------
    place : Location
        Of all the shards.
    word : str
        What the names of shards of this set have, and of no other.
    number : int
        Which part of the records it is.
    fill : callable
        Stores them in the database that it is given, which does not wait for the disk with every commit.
    """
    name = f"shard-{number:05}-{word}"
    with tempfile.TemporaryDirectory(prefix="structchunk-") as directory:
        with open(os.path.join(directory, name), "x", sync=False) as database:
            fill(database)
            with contextlib.suppress(NotACopy):  # another attempt at the same part was faster, and is whole
                database.publish(place.url(name), place.where.options)
                return Shard(name, holdings(database))
        with place.open(name, os.path.join(directory, "cache")) as other:
            return Shard(name, holdings(other))


def _discard(place: Location, word: str) -> None:
    """Remove the shards of a set that are there, as far as that is possible."""
    with contextlib.suppress(OSError):
        _remove_shards(place, word)


def _remove_shards(place: Location, word: str) -> None:
    for name in place.objects().names(""):
        if name.endswith(word):
            remove_all(place.url(name), place.where.options)


def _is_taken(place: Location) -> FileExistsError:
    return FileExistsError(f"something is published at {place.path}; shards must have a URL of their own")
