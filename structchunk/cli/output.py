"""What commands print: tables for people, JSON for machines, and records for either."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from .arguments import printable

UNLIMITED = 1 << 20
"""Columns of what is no terminal: nothing is cut or wrapped there."""


def is_terminal() -> bool:
    """Tell whether people look at standard output as it is printed."""
    return sys.stdout.isatty()


def _console() -> Console:
    return Console(width=None if is_terminal() else UNLIMITED, highlight=False)


def show(*parts: RenderableType) -> None:
    """Print text and tables, without spaces at the ends of lines."""
    console = _console()
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def show_json(document: Any) -> None:
    """Print a JSON document, as one line."""
    click.echo(json.dumps(document, allow_nan=False))


def table(*columns: str, left: Iterable[str] = (), cut: Iterable[str] = ()) -> Table:
    """Return an empty table: numbers to the right, columns in `left` to the left, those in `cut` as room allows."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        made.add_column(
            Text(name), justify="left" if name in left or name in cut else "right", no_wrap=name not in cut
        )
    return made


def fits(rows: Table) -> bool:
    """Tell whether a table can be shown with nothing cut."""
    console = _console()
    return console.measure(rows, options=console.options.update(width=UNLIMITED)).maximum <= console.width


def whole(rows: Table) -> Table:
    """Return a table as it is if it fits, else with a line for each of its cells, of which none is cut."""
    return rows if fits(rows) else _listed(rows)


def _listed(rows: Table) -> Table:
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for number, row in enumerate(zip(*(column.cells for column in rows.columns), strict=True)):
        if number:
            made.add_row()
        for column, value in zip(rows.columns, row, strict=True):
            made.add_row(str(column.header), Text(str(value), overflow="fold"))
    return made


def cell(text: object) -> Text:
    """Return the text of a cell, in which nothing is markup; it stays on one line."""
    return Text(printable(str(text)), no_wrap=True, overflow="ellipsis")


def counted(count: int, thing: str) -> str:
    """Return a number of things in words."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


# ---------------------------------------------------------------------- records


def plain(items: npt.NDArray[Any]) -> list[Any]:
    """Return items as what JSON has.

    Structs become objects; complex numbers pairs; times ISO 8601; bytes text with escapes, or hexadecimal if of a
    void type; NaN and infinities the texts "NaN", "Infinity" and "-Infinity".
    """
    if items.ndim > 1:
        return [plain(row) for row in items]
    if items.dtype.names:
        columns = [plain(items[name]) for name in items.dtype.names]
        return [dict(zip(items.dtype.names, row, strict=True)) for row in zip(*columns, strict=True)]
    convert = _CONVERTED.get(items.dtype.kind, np.ndarray.tolist)
    converted: list[Any] = convert(items)
    return converted


def _pairs(items: npt.NDArray[Any]) -> list[Any]:
    return [plain(pair) for pair in np.stack([items.real, items.imag], axis=-1)]


def _numbers(items: npt.NDArray[Any]) -> list[Any]:
    # Through text, where that is shorter: 0.1 and not 0.10000000149011612.
    with np.errstate(invalid="ignore"):  # NumPy 1.24 warns of NaN made text
        values = items.tolist() if items.dtype.itemsize == 8 else map(float, items.astype("U").tolist())
    return [value if math.isfinite(value) else _UNLIKE_NUMBERS[str(value)] for value in values]


def _texts(items: npt.NDArray[Any]) -> list[Any]:
    return [value.decode(errors="backslashreplace") for value in items.tolist()]


def _times(items: npt.NDArray[Any]) -> list[Any]:
    return items.astype("U").tolist()  # type: ignore[no-any-return]


def _hexadecimal(items: npt.NDArray[Any]) -> list[Any]:
    return [value.hex() for value in items.tolist()]


_CONVERTED: dict[str, Callable[[npt.NDArray[Any]], list[Any]]] = {
    **{"c": _pairs, "f": _numbers, "S": _texts, "V": _hexadecimal, "m": _times, "M": _times}
}
_UNLIKE_NUMBERS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def text(value: Any) -> str:
    """Return a plain value as people read it, in one line."""
    if isinstance(value, dict):
        return " ".join(f"{printable(name)}={text(part)}" for name, part in value.items())
    if isinstance(value, list):
        return f"[{', '.join(map(text, value))}]"
    return printable(str(value))
