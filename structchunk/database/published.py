"""Published databases as handles: from a URL to a database that is open for reading."""

from __future__ import annotations

import operator
from collections.abc import Mapping

from ..process import leftovers
from ..remote.address import only_read, shown
from ..remote.cache import CACHE_SIZE
from ..remote.remote_storage import Address, open_published
from .database import Database


def check_options(url: str, mode: str, local: Mapping[str, object]) -> None:
    """Raise ValueError unless a URL is to be read, and no option is given that only databases on disk have."""
    if mode != "r":
        raise ValueError(f"mode is {mode!r}: {only_read(url)}")
    if given := [name for name, value in local.items() if value]:
        raise ValueError(f"{', '.join(given)}: for databases on this machine, and {shown(url)} is a URL")


def as_cache_size(size: int | None) -> int:
    """Return how many bytes the cache may take."""
    number = CACHE_SIZE if size is None else _as_integer("cache_size", size)
    if number < 0:
        raise ValueError(f"cache_size is {number}; it must be at least 0")
    return number


def as_commit(commit: int | None) -> int | None:
    """Return the number of a commit."""
    return None if commit is None else _as_integer("commit", commit)


def _as_integer(name: str, number: object) -> int:
    try:
        return operator.index(number)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} is an integer, found {type(number).__name__}") from None


def open_url(address: Address) -> Database:
    """Open a published database."""
    leftovers.clear()
    storage = open_published(address)
    try:
        return Database(storage, mode="r", sync=True)
    except BaseException:
        leftovers.finish(storage.close)
        raise
