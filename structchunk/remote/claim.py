"""Claiming the number of a publication by its manifest, so that of two publishers one wins."""

from __future__ import annotations

import warnings

from .manifest import Manifest, manifest_name, object_name
from .objects import Objects
from .publications import find_newest, read_manifest, said_newest, say_newest


def refuses_second(objects: Objects, number: int, token: str) -> bool:
    """Tell whether the store refuses to write an object if there is one of that name; some do not."""
    name = object_name(number, token, 0)
    objects.write_new(name, b"first")
    refused = not objects.write_new(name, b"second")
    objects.delete([name])
    return refused


def warn(objects: Objects) -> None:
    """Say that two publishers may write over each other's manifests."""
    warnings.warn(
        f"{objects.url} writes over an object even if it is asked not to: of two publications at the same time"
        " one may be lost; let only one publish at a time",
        stacklevel=5,
    )


def claim(objects: Objects, manifest: Manifest, raw: bytes) -> bool:
    """Write a manifest, packed as `raw`, and tell whether it is the one of its number now.

    It is not if another publisher came first, also if that one's manifest was removed since.
    """
    name = manifest_name(manifest.number)
    if not manifest.exclusive and objects.has(name):
        return False
    if not objects.write_new(name, raw):
        return False
    if not manifest.exclusive and read_manifest(objects, manifest.number).token != manifest.token:
        return False
    said = said_newest(objects)
    newest = find_newest(objects) if said is not None and said >= manifest.number else manifest
    if newest is None or newest.token == manifest.token:
        say_newest(objects, manifest.number)
        return True
    if any((each.number, each.token) == (manifest.number, manifest.token) for each in newest.earlier):
        return True
    # Manifests are removed only once a later one is said to be the newest. So that of this number was taken, and
    # removed, and with it perhaps what this one names.
    objects.delete([name])
    return False
