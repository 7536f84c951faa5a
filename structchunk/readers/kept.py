"""Where a reader keeps a commit for other processes, and the file that tells them its chunks and lengths.

In the directory of a clone of an index there is then a file ``chunks``, which LevelDB leaves alone. It is JSON: a
list of chunk id, free offset and directory offset, for each chunk that the reader knew with that clone. Links there
may be to more chunks, for other clones; what the headers of chunks say may be older, after a crash, or newer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from ..disk import files
from ..errors import CorruptionError

Ends: TypeAlias = tuple[int, int]
"""Free and directory offset of a chunk."""
_NAME = "chunks"
_MAX_SIZE = 1 << 30


class Kept(NamedTuple):
    """Where another process finds a commit that a reader keeps: all that a pickled reader is.

    Attributes
    ----------
    path : str
        Of the database.
    database : bytes
        Its uuid.
    commit, epoch : int
        The commit, and the epoch of when it was cloned: if it is lost and made again, then in a later one.
    directory : str
        Of the reader.
    generation : int
        Of the clone in it.
    is_linked : bool
        Whether the chunks are linked there; else they are the database's own.
    """

    path: str
    database: bytes
    commit: int
    epoch: int
    directory: str
    generation: int
    is_linked: bool


def write_ends(index: str, ends: Mapping[int, Ends]) -> None:
    """Write down the chunks of a clone, in its directory, and how far they reach."""
    text = json.dumps([[chunk, *end] for chunk, end in ends.items()])
    files.replace(os.path.join(index, _NAME), text.encode(), sync=False)


def read_ends(index: str) -> dict[int, Ends]:
    """Return what was written down of a clone.

    Raises
    ------
    FileNotFoundError
        Nothing was, or it is gone.
    CorruptionError
        It is damaged.
    """
    path = os.path.join(index, _NAME)
    text = files.read(path, 0, _MAX_SIZE)
    try:
        return {int(chunk): (int(free), int(directory)) for chunk, free, directory in json.loads(text)}
    except (ValueError, TypeError, RecursionError) as error:
        raise CorruptionError(path, found=f"{text[:40]!r}", expected="chunks, and how far they reach") from error
