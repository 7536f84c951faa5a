"""Drop notes: what the index keeps of each store that was dropped, for those who ask what happened since a commit.

LevelDB's key is X, the commit that dropped the store as u8, and the store as u4, big-endian; the value is JSON::

    {"name": ..., "kind": ..., "schema": ..., "history": [...]}

``history`` is the last commit before that changed the store, and those after that one that only moved its records.
There may be no note: of earlier releases, or of before the index was made anew.
"""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple

from ..errors import CorruptionError
from .leveldb import REBUILD, LevelDB, Pair

_KEY = struct.Struct(">cQI")


class Note(NamedTuple):
    """What is kept of a store that a commit dropped."""

    commit: int
    store: int
    about: dict[str, Any]


def pack_note(commit: int, store: int, about: bytes) -> Pair:
    """Return a note, whose JSON is given, as LevelDB has it."""
    return _KEY.pack(b"X", commit, store), about


def read_notes(leveldb: LevelDB, since: int, upto: int) -> list[Note]:
    """Return the notes of the commits after one, up to another.

    Raises
    ------
    CorruptionError
        One is unreadable.
    """
    start, stop = (_KEY.pack(b"X", commit + 1, 0) for commit in (since, upto))
    return [_parse(leveldb.path, *pair) for pair in leveldb.read(start, stop, 1 << 32)]


def _parse(path: str, key: bytes, text: bytes) -> Note:
    try:
        _, commit, store = _KEY.unpack(key)
        about = json.loads(text)
        commits = about["history"]
        is_sound = isinstance(about["name"], str) and "schema" in about and bool(commits)
        is_sound = is_sound and all(type(each) is int and each >= 0 for each in commits)
    except (struct.error, ValueError, RecursionError, TypeError, KeyError) as error:
        found = f"an unreadable note of a drop ({type(error).__name__})"
        raise CorruptionError(path, found=found, expected="JSON", advice=REBUILD) from error
    if not is_sound:
        found = "a note of a drop without name, schema and commits"
        raise CorruptionError(path, found=found, expected="all three", advice=REBUILD)
    return Note(commit, store, about)
