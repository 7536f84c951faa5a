"""Which publications there are, and the manifest of one: a few requests each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..errors import CorruptionError
from .manifest import (
    ADVICE,
    MANIFESTS,
    NEWEST,
    Earlier,
    Manifest,
    manifest_name,
    number_of,
    parse_manifest,
    parse_newest,
)
from .objects import Objects


def find_newest(objects: Objects) -> Manifest | None:
    """Return the manifest of the newest publication, or None if there is none: three requests, as a rule.

    Raises
    ------
    CorruptionError
        What is there is no manifest.
    OSError
        The store fails.
    """
    newest = said_newest(objects)
    while newest is not None and (after := newer_than(objects, newest.number)):
        newest = after
    return newest


def newer_than(objects: Objects, number: int) -> Manifest | None:
    """Return the manifest of the publication after one, or None if there is none."""
    with contextlib.suppress(
        FileNotFoundError, PermissionError
    ):  # who may not list is not told that it is not there
        return read_manifest(objects, number + 1)
    return None


def said_newest(objects: Objects) -> Manifest | None:
    """Return the manifest of the publication that is said to be the newest, or else the last that is listed.

    There may be a newer one, of which its publisher has not said so yet.
    """
    with contextlib.suppress(FileNotFoundError):
        return read_manifest(objects, parse_newest(objects.read(NEWEST), objects.at(NEWEST)))
    numbers = list_numbers(objects)
    return read_manifest(objects, numbers[-1]) if numbers else None


def list_numbers(objects: Objects) -> list[int]:
    """Return the numbers of the publications that are there, ascending."""
    return sorted(number for name in objects.names(MANIFESTS) if (number := number_of(name)) is not None)


def read_manifest(objects: Objects, number: int) -> Manifest:
    """Return the manifest of a publication.

    Raises
    ------
    FileNotFoundError
        There is none.
    CorruptionError
        It is no manifest, or another one's.
    """
    name = manifest_name(number)
    manifest = parse_manifest(objects.read(name), objects.at(name))
    if manifest.number != number:
        found, expected = f"the manifest of publication {manifest.number}", f"that of {number}"
        raise CorruptionError(objects.at(name), found=found, expected=expected, advice=ADVICE)
    return manifest


def kept(objects: Objects, newest: Manifest) -> Iterator[Earlier]:
    """Yield the publications that can be opened, the newest first.

    Those that others came before which were given the same number, and were not seen to, are passed over.
    """
    yield Earlier(newest.number, newest.commit, newest.token)
    known = {each.number: each for each in newest.earlier}
    for number in reversed(list_numbers(objects)):
        if number in known:
            yield known[number]
        elif number < min(known, default=newest.number):  # before those that the newest one names
            with contextlib.suppress(FileNotFoundError):
                manifest = read_manifest(objects, number)
                yield Earlier(number, manifest.commit, manifest.token)
