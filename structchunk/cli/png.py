"""A map of chunks as a PNG picture. The only importer of matplotlib."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import missing_extra
from ..maintenance.chunk_map import KINDS, ChunkMap
from ..stores.notebook import size_text
from .arguments import printable

COLOURS = dict(zip(KINDS, ("#2a9d5c", "#e4572e", "#3d6fb6", "#e9e9e6"), strict=True))
CELLS = 2000
"""How finely each bar is drawn."""
MAX_NAME = 28
ROW_HEIGHT = 0.34
MAX_HEIGHT = 300
"""Inches: of one bar with the gap below it, and of a picture."""


def draw_png(maps: list[ChunkMap], title: str, path: str) -> None:
    """Draw one bar for each chunk, in which colours mix where kinds of bytes do."""
    try:
        from matplotlib.colors import to_rgb  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
        from matplotlib.patches import Patch  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise missing_extra("a PNG needs matplotlib", "plot") from error
    height = min(1.6 + ROW_HEIGHT * max(len(maps), 1), MAX_HEIGHT)
    figure = Figure(figsize=(10, height), layout="constrained")
    figure.suptitle(_literal(title), fontsize="medium")
    axes: Any = figure.subplots()
    palette = np.array([to_rgb(colour) for colour in COLOURS.values()])
    for row, chunk in enumerate(maps):
        pixels = (chunk.shares(CELLS) @ palette)[np.newaxis]
        axes.imshow(np.clip(pixels, 0, 1), extent=(0, 100, row + 0.38, row - 0.38), aspect="auto")
    axes.set(xlim=(0, 100), ylim=(len(maps) - 0.5, -0.5), xlabel="percent of the file")
    axes.set_yticks(range(len(maps)), [_label(chunk) for chunk in maps])
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    handles = [Patch(color=colour, label=kind) for kind, colour in COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(KINDS), frameon=False)
    figure.savefig(path, dpi=120, format="png")


def _label(chunk: ChunkMap) -> str:
    name = chunk.store if len(chunk.store) <= MAX_NAME else f"{chunk.store[: MAX_NAME - 1]}…"
    return f"{_literal(name)}, chunk {chunk.chunk}, {size_text(chunk.file_size)}"


def _literal(text: str) -> str:
    return printable(text).replace("$", r"\$")  # which would begin a formula
