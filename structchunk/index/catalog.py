"""The catalog: which stores there are, as LevelDB has it in one row of JSON."""

from __future__ import annotations

import json
from typing import Any

from ..errors import CorruptionError
from .leveldb import REBUILD, LevelDB

CATALOG = b"Mcatalog"
Catalog = dict[str, dict[str, Any]]
"""By name, of each store its id (``store``), ``kind`` and ``schema``."""


def read_catalog(leveldb: LevelDB) -> Catalog:
    """Return the stores as of the last commit.

    Raises
    ------
    CorruptionError
        The row is damaged, or missing.
    """
    text = leveldb.get(CATALOG) or b""
    try:
        catalog = json.loads(text)
        sound = all(
            isinstance(entry["store"], int) and isinstance(entry["kind"], str) and "schema" in entry
            for entry in catalog.values()
        )
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError) as error:
        found, expected = f"an unreadable catalog ({type(error).__name__})", "JSON"
        raise CorruptionError(leveldb.path, found=found, expected=expected, advice=REBUILD) from error
    if not sound:
        found, expected = "a catalog entry without store, kind and schema", "all three"
        raise CorruptionError(leveldb.path, found=found, expected=expected, advice=REBUILD)
    return dict(catalog)
