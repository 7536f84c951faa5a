"""Where shards are: databases in a directory, or databases that were published below a URL, each under its name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..database.database import Database
from ..database.opening import AnyPath, absolute, open
from ..disk import files
from ..remote.address import is_url, shown
from ..remote.objects import Objects, again_if_damaged, open_objects
from ..remote.remote_storage import Address
from .manifest import NAME, Manifest, parse_manifest, read_manifest


@dataclass(frozen=True)
class Directory:
    """A directory of shards.

    Attributes
    ----------
    where : str
        It, or the manifest in it; absolute.
    """

    where: str
    is_remote = False

    @property
    def manifest(self) -> str:
        """The path of the manifest."""
        return os.path.join(self.where, NAME) if os.path.isdir(self.where) else self.where

    @property
    def path(self) -> str:
        """The path of the directory."""
        return os.path.dirname(self.manifest)

    def at(self, name: str) -> str:
        """Return where a shard is."""
        return os.path.join(self.path, name)

    def open(self, name: str) -> Database:
        """Open a shard."""
        path = self.at(name)
        with files.advised(path, "each shard that was read takes about six"):
            return open(path, "r")

    def has_shards(self) -> bool:
        """Tell whether there is a manifest, of whatever kind, and so no database."""
        return os.path.lexists(self.manifest)

    def read_manifest(self) -> Manifest:
        """Return the manifest; FileNotFoundError if there is none."""
        if not self.has_shards():
            raise _no_manifest(self.manifest)
        return read_manifest(self.manifest)


@dataclass(frozen=True)
class Location:
    """A URL below which shards were published.

    Attributes
    ----------
    where : Address
        Without a commit: each shard has one.
    """

    where: Address
    is_remote = True

    @property
    def path(self) -> str:
        """The URL, as messages show it."""
        return shown(self.where.url)

    def at(self, name: str) -> str:
        """Return where a shard is, as messages show it."""
        return f"{self.path}/{name}"

    def url(self, name: str) -> str:
        """Return the URL of a shard."""
        return f"{self.where.url}/{name}"

    def objects(self) -> Objects:
        """Return the objects below the URL."""
        return open_objects(self.where.url, self.where.options)

    def open(self, name: str, cache: AnyPath | None = None) -> Database:
        """Open a shard, with another cache if one is given."""
        where = self.where if cache is None else self.where._replace(cache=cache)
        return open(self.url(name), "r", storage_options=where.options, cache=where.cache)

    def read_manifest(self) -> Manifest:
        """Return the manifest; FileNotFoundError if there is none."""
        objects = self.objects()
        where = objects.at(NAME)
        try:
            return again_if_damaged(lambda: parse_manifest(objects.read(NAME), where))
        except FileNotFoundError:
            raise _no_manifest(where) from None


Place: TypeAlias = Directory | Location


def place_of(path: AnyPath, storage_options: Mapping[str, Any] | None, cache: AnyPath | None) -> Place:
    """Return where shards are, or a database; ValueError if a directory is given options of URLs."""
    if is_url(path):
        url = str(path).removesuffix(f"/{NAME}").rstrip("/")
        return Location(Address(url, storage_options, cache))
    options = {"storage_options": storage_options, "cache": cache}
    if given := [name for name, value in options.items() if value is not None]:
        raise ValueError(f"{', '.join(given)}: for what was published, and {os.fspath(path)!r} is no URL")
    return Directory(absolute(path))


def _no_manifest(where: str) -> FileNotFoundError:
    return FileNotFoundError(f"no manifest of shards at {where}; writing them did not end, or never began")
