"""Published databases as handles: from a URL to a database that is open for reading."""

from __future__ import annotations

import operator
from collections.abc import Mapping

from ..process import leftovers
from ..remote.address import shown
from ..remote.cache import CACHE_SIZE
from ..remote.remote_storage import Address, open_published
from .database import Database


def check_options(url: str, mode: str, local: Mapping[str, object]) -> None:
    """Raise ValueError unless a URL is to be read, and no option is given that only databases on disk have."""
    if mode != "r":
        raise ValueError(
            f"mode is {mode!r}: what was published at {shown(url)} can only be read, with mode='r'; to write, open "
            "the database itself, and publish() it again"
        )
    if given := [name for name, value in local.items() if value]:
        raise ValueError(f"{', '.join(given)}: for databases on this machine, and {shown(url)} is a URL")


def as_cache_size(size: int | None) -> int:
    """Return how many bytes the cache may take."""
    number = CACHE_SIZE if size is None else operator.index(size)
    if number < 0:
        raise ValueError(f"cache_size is {number}; it must be at least 0")
    return number


def open_url(address: Address) -> Database:
    """Open a published database."""
    leftovers.clear()
    storage = open_published(address)
    try:
        return Database(storage, mode="r", sync=True)
    except BaseException:
        leftovers.finish(storage.close)
        raise
