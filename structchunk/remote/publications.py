"""Which publications there are, and the manifest of one: a few requests each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import CorruptionError
from .manifest import (
    ADVICE,
    MANIFESTS,
    NEWEST,
    Earlier,
    Manifest,
    manifest_name,
    number_of,
    pack_newest,
    parse_manifest,
    parse_newest,
)
from .objects import Objects


class Found(NamedTuple):
    """The newest publication, if there is any, and the number of the one that is said to be it."""

    manifest: Manifest | None
    said: int | None


def find_newest(objects: Objects) -> Manifest | None:
    """Return the manifest of the newest publication, or None if there is none: three requests, as a rule.

    Raises
    ------
    CorruptionError
        What is there is no manifest.
    OSError
        The store fails.
    """
    return look(objects).manifest


def look(objects: Objects, *, further: bool = True) -> Found:
    """Find the newest publication; or without looking `further` the one that is said to be the newest.

    If none is said to be it, or one that is not there, the last one that is listed is looked at first.
    """
    said = said_newest(objects)
    with contextlib.suppress(FileNotFoundError):
        if said is not None:
            return Found(_last_from(objects, read_manifest(objects, said), further=further), said)
    numbers = list_numbers(objects)
    if not numbers:
        return Found(None, said)
    return Found(_last_from(objects, read_manifest(objects, numbers[-1]), further=further), said)


def _last_from(objects: Objects, newest: Manifest, *, further: bool) -> Manifest:
    while further and (after := newer_than(objects, newest.number)):
        newest = after
    return newest


def newer_than(objects: Objects, number: int) -> Manifest | None:
    """Return the manifest of the publication after one, or None if there is none."""
    with contextlib.suppress(
        FileNotFoundError, PermissionError
    ):  # who may not list is not told that it is not there
        return read_manifest(objects, number + 1)
    return None


def said_newest(objects: Objects) -> int | None:
    """Return the number of the publication that is said to be the newest."""
    try:
        return parse_newest(objects.read(NEWEST), objects.at(NEWEST))
    except FileNotFoundError:
        return None


def say_newest(objects: Objects, number: int) -> None:
    """Say which publication is the newest."""
    objects.write(NEWEST, pack_newest(number))


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

    If the manifest of one has another token, a publisher was killed that came late, and it does not count.
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
