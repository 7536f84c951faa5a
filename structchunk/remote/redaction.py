"""What no message may have: users and passwords in URLs and in the options of stores; and how texts lose them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from .address import USER, shown

_PLAIN = frozenset({"endpoint_url", "region_name", "region", "protocol", "signature_version", "addressing_style"})
"""Options of stores that are no secrets, so that messages may have their values."""
_SHORTEST = 4
"""A shorter text than this is not taken out of messages: it is no secret, and may be a part of any word."""


def hidden_in(url: str) -> list[str]:
    """Return what :func:`shown` leaves out of a URL: users, passwords, and what queries say."""
    users = [found.removesuffix("@") for found in USER.findall(url)]
    query = url.partition("?")[2]
    said = [pair.partition("=")[2] for pair in re.split("[&#]", query)]
    texts = [*users, *(part for user in users for part in user.split(":")), query, *said]
    return [*texts, *map(_decoded, texts)]


def _decoded(text: str) -> str:
    """Return a text with the bytes that it has in percent-encoding."""
    # Not by urllib, which takes long to import, and the package is imported more often than this is needed.
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes.fromhex(found[1].decode()), text.encode())
    return raw.decode(errors="replace")


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
