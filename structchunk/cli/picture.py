"""The command that draws: map, in the terminal or as a PNG."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.text import Text

import structchunk as sc

from ..database.handle import chunk_maps
from ..maintenance.chunk_map import KINDS, ChunkMap
from ..stores.notebook import size_text
from .arguments import json_option, path_argument, printable
from .output import is_terminal, show, show_json
from .png import draw_png
from .progress import progress_bar

MARKS = dict(zip(KINDS, "█░▓·", strict=True))
STYLES = dict(zip(KINDS, ("green", "red", "blue", "bright_black"), strict=True))
MAX_WIDTH = 100
"""Cells of a bar, at most."""
FIGURES = 24
"""Columns that id and size of a chunk take beside its bar."""


@click.command("map")
@path_argument
@click.argument("stores", nargs=-1, metavar="[STORE]...")
@click.option(
    "--png", type=click.Path(dir_okay=False), help="Draw a PNG picture into this file (needs matplotlib)."
)
@json_option
def map_(path: str, stores: tuple[str, ...], png: str | None, as_json: bool) -> None:
    """Draw where live, garbage and free bytes lie in chunks.

    Every bar is one file from its first byte to its last, whatever its size. A cell shows whether live bytes or
    garbage are more in it; the directory and free bytes only where there is neither. With --json: the exact ranges,
    each as its first byte and the one after its last.
    """
    with sc.open(path, "r") as db, progress_bar("reading the index") as report:
        names = stores or tuple(db)
        for name in names:
            db[name]  # raises if there is none, before anything is drawn
        maps: list[ChunkMap] = []
        for done, name in enumerate(names):
            maps += chunk_maps(db, name)
            report(done + 1, len(names))
    if png is not None:
        draw_png(maps, db.path, png)
    if as_json:
        show_json([_document(chunk) for chunk in maps])
    elif png is None:
        show(*_drawn(maps, min(_room(), MAX_WIDTH)))


def _room() -> int:
    width = Console().width if is_terminal() else 80
    return max(width - FIGURES, 10)


def _document(chunk: ChunkMap) -> dict[str, Any]:
    ranges = {kind: getattr(chunk, kind).tolist() for kind in KINDS}
    return {"store": chunk.store, "chunk": chunk.chunk, "file_size": chunk.file_size, **ranges}


def _drawn(maps: list[ChunkMap], width: int) -> Iterator[Text]:
    for store, chunks in groupby(maps, key=lambda chunk: chunk.store):
        yield Text(printable(store), style="bold")
        for chunk in chunks:
            yield Text.assemble(f"{chunk.chunk:>8}  ", _bar(chunk, width), f"  {size_text(chunk.file_size):>10}")
    yield Text.assemble(" " * 10, *_legend())


def _bar(chunk: ChunkMap, width: int) -> Text:
    live, garbage, directory, _ = chunk.shares(width).T
    kinds = np.select(
        [live + garbage > 0, directory > 0], [np.where(live >= garbage, "live", "garbage"), "directory"], "free"
    )
    return Text.assemble(*((MARKS[name], STYLES[name]) for name in kinds.tolist()))


def _legend() -> Iterator[Any]:
    for kind in KINDS:
        yield MARKS[kind], STYLES[kind]
        yield f" {kind}   "
