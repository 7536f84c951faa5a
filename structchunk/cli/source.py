"""What every file format offers to import, and how a file says the type of a store."""

from __future__ import annotations

import json
from typing import Any, Protocol

from ..errors import CorruptionError
from ..types.schema import Schema, schema_from_descriptor
from .progress import Report

STEP = 1 << 16
"""How many records are moved at a time."""


class Source(Protocol):
    """A file that is open for importing.

    Attributes
    ----------
    stated : Schema or None
        The type of the store that it was exported from; None in files of other programs.
    """

    stated: Schema | None

    def guessed(self) -> Schema:
        """Return the type of a store that could hold the file's records."""

    def load(self, store: Any, report: Report) -> int:
        """Put all records into a store of a transaction, and return how many there were."""


def schema_text(schema: Schema) -> str:
    """Return a store's type as text to be kept in a file."""
    return json.dumps(schema.descriptor)


def schema_from_text(text: str | bytes, path: str) -> Schema:
    """Return the type that a file states."""
    advice = "export it again"
    try:
        return schema_from_descriptor(json.loads(text), path)
    except (ValueError, RecursionError) as error:
        raise CorruptionError(path, found="unreadable JSON", expected="a store's type", advice=advice) from error
    except CorruptionError as error:
        raise CorruptionError(path, found=error.found, expected=error.expected, advice=advice) from error
