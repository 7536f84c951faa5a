"""URLs of published databases: what is one, and how messages show them, without credentials. No I/O."""

from __future__ import annotations

import os
import re

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::|://)")
USER = re.compile(r"(?<=//)[^/@\s]*@")
_QUERY = re.compile(r"(?<=://)([^\s?#'\"]*)[?#][^\s'\"]*")


def is_url(path: object) -> bool:
    """Tell whether a path is the URL of a published database, and not that of a directory."""
    return isinstance(path, str) and _SCHEME.match(path) is not None and not os.path.isabs(path)


def shown(text: str) -> str:
    """Return a URL, or a text that has some, without the users, passwords and queries of URLs."""
    return _QUERY.sub(r"\1", USER.sub("", text))


def only_read(url: str) -> str:
    """Return what is to be told to who would write to a published database."""
    advice = "to write, open the database itself, and publish() it again"
    return f"what was published at {shown(url)} can only be read, with mode='r'; {advice}"
