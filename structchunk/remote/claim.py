"""Claiming the number of a publication by its manifest, so that of two publishers one wins."""

from __future__ import annotations

import warnings

from .manifest import NEWEST, Manifest, manifest_name, object_name, pack_newest
from .objects import Objects
from .publications import newer_than, read_manifest


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
        stacklevel=6,
    )


def claim(objects: Objects, manifest: Manifest, raw: bytes) -> bool:
    """Write a manifest, packed as `raw`, and tell whether it is the one of its number now.

    It is not if another publisher came first, also if the manifests of the others were removed since.
    """
    name = manifest_name(manifest.number)
    if not manifest.exclusive and objects.has(name):
        return False
    if not objects.write_new(name, raw):
        return False
    if not manifest.exclusive and read_manifest(objects, manifest.number).token != manifest.token:
        return False
    if not _is_followed(objects, manifest):
        objects.delete([name])  # before what it names
        return False
    objects.write(NEWEST, pack_newest(manifest.number))
    return True


def _is_followed(objects: Objects, manifest: Manifest) -> bool:
    """Tell whether the publication after this one, if there is any, goes on from it."""
    after = newer_than(objects, manifest.number)
    return after is None or any(
        (each.number, each.token) == (manifest.number, manifest.token) for each in after.earlier
    )
