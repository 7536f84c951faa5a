"""PrivateDirectory: a directory of one process, which goes once nobody holds it or anything that is kept in it."""

from __future__ import annotations

import contextlib
import os
import weakref
from functools import partial

from ..disk import files
from ..process import leftovers


class PrivateDirectory:
    """A directory that is removed once nobody holds this object: neither its LevelDB, nor who keeps it for others.

    It goes at once or not at all: who is cloning it never takes what is left of it for the whole.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        weakref.finalize(self, leftovers.leave, partial(_remove, path, os.getpid()))


def _remove(path: str, owner: int) -> None:
    """Remove a private directory that nobody needs any more; in a forked child it is the parent's."""
    if os.getpid() == owner:
        doomed = f"{path}.gone"
        with contextlib.suppress(OSError):
            files.rename(path, doomed)
            path = doomed
        with contextlib.suppress(OSError):
            files.remove_tree(path)
