"""Files that hold one store, by the ending of their names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import click

from ..types.schema import Schema
from .columns import export_arrow, export_parquet, open_arrow, open_parquet
from .npz import export_npz, open_npz
from .progress import Report
from .source import Source


class Format(NamedTuple):
    """How one kind of file is written and read."""

    export: Callable[[Any, Schema, str, Report], None]
    open: Callable[[str], AbstractContextManager[Source]]


FORMATS = {
    ".arrow": Format(export_arrow, open_arrow),
    ".parquet": Format(export_parquet, open_parquet),
    ".npz": Format(export_npz, open_npz),
}


def format_of(path: str) -> Format:
    """Return the format of a file by its name.

    Raises
    ------
    click.BadParameter
        Its name has another ending.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending not in FORMATS:
        raise click.BadParameter(f"FILE ends in {ending!r}; it must end in one of {', '.join(FORMATS)}.")
    return FORMATS[ending]


def export_file(store: Any, schema: Schema, path: str, report: Report) -> None:
    """Write a store to a file, which is there whole or not at all."""
    write = format_of(path).export
    part = f"{path}.part"
    try:
        write(store, schema, part, report)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise
