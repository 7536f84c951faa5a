"""What databases, stores and batches are in a notebook: HTML of figures and names. Reads nothing itself.

Text inherits the colour of the page, and nothing has a background but the bars, so that it can be read on light and
dark ones. All names are escaped; there is no script and no style sheet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..types.schema import Schema

__all__ = ["StoreFigures", "batch_html", "database_html", "note", "size_text", "store_html", "type_text"]

MAX_ROWS = 50
"""Stores, chunks or fields that are shown, at most."""
MAX_RECORDS = 5
MAX_ITEMS = 6
MAX_TEXT = 60

_COLORS = {"live": "#2a9d5c", "garbage": "#d1495b", "directory": "#3d7ebf", "free": "#8888884d"}
_CELL = "text-align:{};padding:0.1em 0.8em 0.1em 0;white-space:nowrap"
_BAR = "display:flex;width:16em;height:0.8em;border-radius:0.2em;overflow:hidden"


class ChunkFigures(Protocol):
    """What one chunk holds, in bytes."""

    @property
    def chunk(self) -> int:
        """Its id."""

    @property
    def live(self) -> int:
        """Size of the live records."""

    @property
    def garbage(self) -> int:
        """Size of what was replaced or deleted."""

    @property
    def directory(self) -> int:
        """Size of the directory."""

    @property
    def file_size(self) -> int:
        """Size of the file."""


class StoreFigures(Protocol):
    """What one store holds, in bytes."""

    @property
    def records(self) -> int:
        """How many records are live."""

    @property
    def live(self) -> int:
        """Size of these."""

    @property
    def garbage(self) -> int:
        """Size of what was replaced or deleted."""

    @property
    def disk_size(self) -> int:
        """What its files take on the disk."""

    @property
    def chunks(self) -> Sequence[ChunkFigures]:
        """Its chunk files."""


def size_text(size: int) -> str:
    """Return a size as people read it."""
    if size < 1024:
        return f"{size} B"
    power = min((size.bit_length() - 1) // 10, 6)
    return f"{size / 1024**power:.1f} {'KMGTPE'[power - 1]}iB"


def type_text(schema: Schema) -> str:
    """Name a type: as NumPy does, or a class by its name."""
    node = schema.descriptor
    label = node.get("class") or (isinstance(node["type"], dict) and node["type"].get("class"))
    dtype = schema.dtype.base
    plain_name = dtype.str[1:] if dtype.kind in "SUV" else dtype.name  # S5 and not bytes40, which counts bits
    name = label or ("struct" if dtype.names else plain_name)
    lengths = ", ".join([":", *map(str, schema.dtype.shape)]) if schema.dtype.shape else ""
    return f"{name}[{lengths}]" if schema.kind == "array" else str(name)


def note(what: str) -> str:
    """Return one line of text."""
    return f"<div>{escape(what)}</div>"


def database_html(
    path: str, mode: str, stores: Sequence[tuple[str, Schema, StoreFigures]], attributes: Mapping[str, Any]
) -> str:
    """Return a database: a line for each store, and the map of its chunks; and its attributes."""
    rows = [
        [
            *(name, type_text(schema), f"{held.records:,}"),
            *map(size_text, (held.live, held.garbage, held.disk_size)),
            f"{len(held.chunks):,}",
        ]
        for name, schema, held in stores
    ]
    bars = [_bar(*_totals(held)) for _, _, held in stores]
    total = size_text(sum(held.disk_size for _, _, held in stores))
    head = f"<b>Database</b> {escape(path)}, mode {escape(mode)}: {_counted(len(stores), 'store')}, {total} on disk"
    titles = ["store", "type", "records", "live", "garbage", "disk", "chunks", ""]
    table = _table(titles, rows, bars, text=(0, 1))
    return _div(head, table, _legend() if stores else "", _attributes(attributes))


def _attributes(attributes: Mapping[str, Any]) -> str:
    rows = [[_cut(name), _cut(json.dumps(value, ensure_ascii=False))] for name, value in attributes.items()]
    return _table(["attribute", "value"], rows, text=(0, 1)) if rows else ""


def store_html(
    kind: str, name: str, schema: Schema, count: int, held: StoreFigures | None, attributes: Mapping[str, Any]
) -> str:
    """Return a store: its type, its fields, its attributes, how much it holds, and the map of its chunks."""
    size = "" if held is None else f", {size_text(held.live)} live, {size_text(held.disk_size)} on disk"
    head = f"<b>{kind}</b> {escape(name)} of {escape(type_text(schema))}: {_counted(count, 'record')}{size}"
    fields = [[field, str(schema.dtype[field])] for field in schema.dtype.names or ()]
    parts = [head, _table(["field", "type"], fields, text=(0, 1)) if fields else "", _attributes(attributes)]
    if held is not None and held.chunks:
        rows = [[str(chunk.chunk), size_text(chunk.file_size)] for chunk in held.chunks]
        bars = [_bar(chunk.live, chunk.garbage, chunk.directory, chunk.file_size) for chunk in held.chunks]
        parts += [_table(["chunk", "file", ""], rows, bars), _legend()]
    return _div(*parts)


def batch_html(
    keys: npt.NDArray[np.uint64], offsets: npt.NDArray[np.int64], values: npt.NDArray[Any], *, in_place: bool
) -> str:
    """Return a batch: its first records."""
    shown = min(len(keys), MAX_RECORDS)
    bounds = offsets[: shown + 1].tolist()
    rows = [
        [str(key), f"{high - low:,}", _items(values[low:high])]
        for key, low, high in zip(keys[:shown].tolist(), bounds, bounds[1:], strict=False)
    ]
    what = f"{_counted(len(keys), 'record')}, {_counted(len(values), 'item')} of {_cut(str(values.dtype))}"
    live = ", which may change in place" if in_place else ""
    more = f"and {len(keys) - shown:,} more" if len(keys) > shown else ""
    head = f"<b>Batch</b> {escape(what)}, {size_text(values.nbytes)}{live}"
    return _div(head, _table(["key", "length", "items"], rows, text=(2,)), more)


def _items(items: npt.NDArray[Any]) -> str:
    text = ", ".join(_cut(str(item)) for item in items[:MAX_ITEMS])
    return f"{text}, ..." if len(items) > MAX_ITEMS else text


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


# ---------------------------------------------------------------- HTML


def _div(*parts: str) -> str:
    return f"<div>{''.join(f'<div>{part}</div>' for part in parts if part)}</div>"


def _table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], bars: Sequence[str] = (), text: Sequence[int] = ()
) -> str:
    """Return a table, numbers to the right and columns of text to the left, with a bar at the end of each row."""
    shown = rows[:MAX_ROWS]
    lines = [_line("th", map(escape, titles), text)]
    for number, row in enumerate(shown):
        lines.append(_line("td", [*map(escape, row), *bars[number : number + 1]], text))
    more = f"<div>and {len(rows) - len(shown):,} more</div>" if len(rows) > len(shown) else ""
    return f'<table style="border-collapse:collapse;margin:0.4em 0">{"".join(lines)}</table>{more}'


def _line(tag: str, cells: Iterable[str], text: Sequence[int]) -> str:
    """Return a row of a table, of cells that are HTML."""
    styled = (
        f'<{tag} style="{_CELL.format("left" if number in text else "right")}">{cell}</{tag}>'
        for number, cell in enumerate(cells)
    )
    return f"<tr>{''.join(styled)}</tr>"


def _totals(held: StoreFigures) -> tuple[int, int, int, int]:
    directory, files = (sum(getattr(chunk, name) for chunk in held.chunks) for name in ("directory", "file_size"))
    return held.live, held.garbage, directory, files


def _bar(live: int, garbage: int, directory: int, file_size: int) -> str:
    """Return a file as a bar: what is live, what is garbage, what is free, and the directory at its end."""
    sizes = {"live": live, "garbage": garbage, "free": max(file_size - live - garbage - directory, 0)}
    parts = ((kind, size) for kind, size in {**sizes, "directory": directory}.items() if size > 0)
    spans = (
        f'<span title="{kind}: {size_text(size)}" '
        f'style="width:{100 * size / max(file_size, 1):.2f}%;background:{_COLORS[kind]}"></span>'
        for kind, size in parts
    )
    return f'<div style="{_BAR}">{"".join(spans)}</div>'


def _legend() -> str:
    return "".join(_legend_parts())


def _legend_parts() -> Iterator[str]:
    box = "display:inline-block;width:0.8em;height:0.8em;border-radius:0.2em;margin:0 0.3em 0 0"
    for kind, color in _COLORS.items():
        mark = f'<span style="{box};background:{color}"></span>'
        yield f'<span style="font-size:85%;margin-right:1em">{mark}{kind}</span>'
