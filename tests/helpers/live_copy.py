"""Copies of the files of a database that is open: what a kill at that moment would leave."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def copy_live(
    source: str | Path, target: str | Path, *ignored: str, copy_function: Callable[[str, str], Any] = shutil.copy2
) -> Path:
    """Copy all but the files of some names. Nobody may write, but LevelDB may be merging: then it is done again."""
    while True:
        before = index_files(source)
        if _copy(source, target, ignored, copy_function) and index_files(source) == before:
            return Path(target)
        shutil.rmtree(target)


def _copy(
    source: str | Path, target: str | Path, ignored: Iterable[str], copy_function: Callable[[str, str], Any]
) -> bool:
    """Copy a directory, and tell whether all files were still there."""
    try:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*ignored), copy_function=copy_function)
    except shutil.Error as error:
        if all(os.path.exists(missing) for missing, *_ in error.args[0]):
            raise
        return False
    return True


def index_files(root: str | Path) -> dict[str, tuple[int, int]]:
    """Return size and time of each file of LevelDB."""
    found = {}
    for path in Path(root).glob("index-*/*"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        found[str(path)] = status.st_size, status.st_mtime_ns
    return found
