"""Removing publications, and the objects that no publication needs any more.

What a publisher that was killed has left is removed, too: objects whose publication has a number that another one
has taken since. Those of a later publication may belong to one that is under way, and stay.

First the manifests go, then the objects: so that no manifest names what is not there. Who reads from a publication
that is removed gets errors from then on, for what is not in the cache.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

from .manifest import MANIFESTS, NEWEST, OBJECTS, Manifest, manifest_name, publication_of
from .objects import Objects, open_objects
from .publications import find_newest, kept, list_numbers, look, read_manifest, say_newest


class Pruned(NamedTuple):
    """What pruning did.

    Attributes
    ----------
    commits : list of int
        The commits that can still be opened, ascending.
    publications : int
        How many publications were removed.
    objects : int
        How many objects were removed.
    """

    commits: list[int]
    publications: int
    objects: int


def published(url: str, *, storage_options: Mapping[str, Any] | None = None) -> list[int]:
    """Return the commits that are published somewhere, ascending.

    Parameters
    ----------
    url : str
        Where :meth:`Database.publish` has published to.
    storage_options : dict, optional
        What fsspec is to give to the package for the store.

    Returns
    -------
    list of int
        Empty if nothing is published there. A commit that was published again, since records had changed in place,
        is there once.

    Raises
    ------
    CorruptionError
        What is there is not what was published.
    OSError
        The store fails, or refuses.
    ImportError
        fsspec, or the package for the store, is not installed.
    """
    return _commits(open_objects(url, storage_options))


def prune(url: str, keep: int = 1, *, storage_options: Mapping[str, Any] | None = None) -> Pruned:
    """Remove all publications but the newest ones, and what only they needed.

    Parameters
    ----------
    url : str
        Where :meth:`Database.publish` has published to.
    keep : int
        How many publications to keep, at least 1.
    storage_options : dict, optional
        What fsspec is to give to the package for the store.

    Raises
    ------
    ValueError
        `keep` is less than 1.
    CorruptionError, OSError, ImportError
        As for :func:`published`.

    Notes
    -----
    Others may publish meanwhile. Those who read a publication that is removed get an error for what they have not
    fetched yet: keep as many as readers may lag behind.
    """
    if operator.index(keep) < 1:
        raise ValueError(f"keep is {keep}; the newest publication always stays, so it must be at least 1")
    objects = open_objects(url, storage_options)
    newest, said = look(objects)
    if newest is None:
        return Pruned([], 0, 0)
    if said != newest.number:
        say_newest(objects, newest.number)  # before any other is removed: see claim.py
    # Listed before the manifests are read: what comes later is of later publications.
    names = objects.names(OBJECTS)
    manifests = [newest, *_kept_manifests(objects, newest, keep - 1)]
    staying = {manifest.number for manifest in manifests}
    needed = {each.name for manifest in manifests for each in manifest.objects.values()}
    going = [number for number in list_numbers(objects) if number < newest.number and number not in staying]
    objects.delete(manifest_name(number) for number in going)
    unneeded = [name for name in names if name not in needed and _is_settled(name, newest.number)]
    objects.delete(unneeded)
    return Pruned(_commits(objects), len(going), len(unneeded))


def remove_all(url: str, options: Mapping[str, Any] | None) -> None:
    """Remove all that is published somewhere; on a file system, empty directories stay."""
    objects = open_objects(url, options)
    objects.delete([NEWEST])
    for directory in (MANIFESTS, OBJECTS):
        objects.delete(objects.names(directory))


def _kept_manifests(objects: Objects, newest: Manifest, count: int) -> list[Manifest]:
    """Return the manifests of so many publications before the newest one."""
    manifests: list[Manifest] = []
    for number, _, token in kept(objects, newest):
        if len(manifests) == count:
            break
        if number < newest.number:
            manifest = read_manifest(objects, number)
            manifests += [manifest] if manifest.token == token else []
    return manifests


def _is_settled(name: str, newest: int) -> bool:
    """Tell whether an object was made for a publication whose number is taken."""
    number = publication_of(name)
    return number is not None and number <= newest


def _commits(objects: Objects) -> list[int]:
    newest = find_newest(objects)
    return [] if newest is None else sorted({each.commit for each in kept(objects, newest)})
