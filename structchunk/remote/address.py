"""URLs of published databases: what is one, and how messages show them, without credentials. No I/O."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::|://)")
_USER = re.compile(r"(?<=//)[^/@\s]*@")
_QUERY = re.compile(r"(?<=://)([^\s?#'\"]*)[?#][^\s'\"]*")
_PLAIN = frozenset({"endpoint_url", "region_name", "region", "protocol", "signature_version", "addressing_style"})
"""Options of stores that are no secrets, so that messages may have their values."""
_SHORTEST = 4
"""A shorter text than this is not taken out of messages: it is no secret, and may be a part of any word."""


def is_url(path: object) -> bool:
    """Tell whether a path is the URL of a published database, and not that of a directory."""
    return isinstance(path, str) and _SCHEME.match(path) is not None and not os.path.isabs(path)


def shown(text: str) -> str:
    """Return a URL, or a text that has some, without the users, passwords and queries of URLs."""
    return _QUERY.sub(r"\1", _USER.sub("", text))


def only_read(url: str) -> str:
    """Return what is to be told to who would write to a published database."""
    advice = "to write, open the database itself, and publish() it again"
    return f"what was published at {shown(url)} can only be read, with mode='r'; {advice}"


def hidden_in(url: str) -> list[str]:
    """Return what :func:`shown` leaves out of a URL: users, passwords, and what queries say."""
    from urllib.parse import unquote  # which opening a directory has no need of

    users = [found.removesuffix("@") for found in _USER.findall(url)]
    query = url.partition("?")[2]
    said = [pair.partition("=")[2] for pair in re.split("[&#]", query)]
    texts = [*users, *(part for user in users for part in user.split(":")), query, *said]
    return [*texts, *map(unquote, texts)]


def secrets_of(options: Mapping[str, Any] | None) -> list[str]:
    """Return the texts in the options of a store that no message may have, the longest first."""
    return sorted({text for text in _texts(options or {}) if len(text) >= _SHORTEST}, key=len, reverse=True)


def _texts(found: Any) -> Iterator[str]:
    if isinstance(found, str):
        yield found
    elif isinstance(found, bytes):
        yield found.decode(errors="replace")
    elif isinstance(found, Mapping):
        for name, value in found.items():
            if name not in _PLAIN:
                yield from _texts(value)
    elif isinstance(found, (list, tuple, set)):
        for value in found:
            yield from _texts(value)


def without(secrets: list[str], text: str) -> str:
    """Return a text without secrets, and without what URLs in it may have of them."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return shown(text)
