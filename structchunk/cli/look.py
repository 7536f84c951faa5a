"""The commands that show what is in a database: info, ls, head, get."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import click
import numpy as np
import numpy.typing as npt

import structchunk as sc

from ..stores.mapping import schema_of
from ..stores.notebook import size_text, type_text
from ..types.schema import Schema, readable
from .arguments import as_key, json_option, path_argument, printable, store_argument
from .output import cell, counted, fits, plain, show, show_json, table, text, whole

SHOWN_ITEMS = 8
"""How many items of an array `head` shows."""
STEP = 1 << 14
"""How many items `get` prints at a time."""


@click.command()
@path_argument
@click.argument("store", required=False)
@json_option
def info(path: str, store: str | None, as_json: bool) -> None:
    """Show stores with types, counts and sizes, and attributes.

    With STORE, show that one's fields, chunks and attributes.

    Garbage is what was replaced or deleted: compact gives it back. Disk is what the chunk files take,
    blocks reserved ahead included.
    """
    with sc.open(path, "r") as db:
        if store is not None:
            db[store]  # raises if there is none
        names = list(db) if store is None else [store]
        stats = db.stats()
        attributes = {name: dict(db[name].attrs.items()) for name in names}
        stores = [(stats[name], schema_of(db[name])) for name in names]
        if as_json:
            documents = [_document(*pair, attributes[pair[0].name]) for pair in stores]
            show_json({"path": db.path, "attributes": dict(db.attrs.items()), "stores": documents})
        elif store is None:
            _show_stores(db, stores)
            _show_attributes(db.attrs)
        else:
            _show_store(*stores[0])
            _show_attributes(attributes[store])


def _show_attributes(attributes: Mapping[str, Any]) -> None:
    rows = table("attribute", "value", left=("attribute", "value"))
    for name, value in attributes.items():
        rows.add_row(cell(name), cell(json.dumps(value, ensure_ascii=False)))
    if attributes:
        show("", whole(rows))


def _document(stats: sc.StoreStats, schema: Schema, attributes: dict[str, Any]) -> dict[str, Any]:
    figures = {name: getattr(stats, name) for name in ("records", "live", "garbage", "disk_size")}
    chunks = [chunk._asdict() for chunk in stats.chunks]
    about = {"name": stats.name, "schema": schema.descriptor, "attributes": attributes}
    return {**about, **figures, "chunks": chunks}


def _show_stores(db: sc.Database, stores: list[tuple[sc.StoreStats, Schema]]) -> None:
    left = ("store", "type")
    rows = table(*left, "records", "live", "garbage", "disk", "chunks", left=left)
    for stats, schema in stores:
        sizes = map(size_text, (stats.live, stats.garbage, stats.disk_size))
        rows.add_row(
            cell(stats.name), cell(type_text(schema)), f"{stats.records:,}", *sizes, str(len(stats.chunks))
        )
    total = size_text(sum(stats.disk_size for stats, _ in stores))
    head = cell(f"{db.path}: {counted(len(stores), 'store')}, {total} on disk")
    show(head, *([whole(rows)] if stores else []))


def _show_store(stats: sc.StoreStats, schema: Schema) -> None:
    fields = table("field", "type", left=("field", "type"))
    for path, what in readable(schema).items():
        if path:
            fields.add_row(cell(path), cell(what))
    kind = f"{schema.kind} store of {type_text(schema)}, {schema.item_size} bytes an item"
    show(cell(f"{stats.name}: {kind}, {counted(stats.records, 'record')}"))
    if fields.row_count:
        show("", whole(fields))
    show("", whole(_chunk_table(stats.chunks)))


def _chunk_table(chunks: tuple[sc.ChunkStats, ...]) -> Any:
    rows = table("chunk", "records", "live", "garbage", "free", "directory", "disk")
    for chunk in chunks:
        sizes = (chunk.live, chunk.garbage, chunk.free, chunk.directory, chunk.disk_size)
        rows.add_row(str(chunk.chunk), f"{chunk.records:,}", *map(size_text, sizes))
    return rows


@click.command()
@path_argument
@json_option
def ls(path: str, as_json: bool) -> None:
    """List the names of the stores, one a line."""
    with sc.open(path, "r") as db:
        names = list(db)
    if as_json:
        show_json(names)
    else:
        click.echo("".join(f"{printable(name)}\n" for name in names), nl=False)


@click.command()
@path_argument
@store_argument
@click.option("-n", "count", type=click.IntRange(min=0), default=10, show_default=True, help="How many records.")
@json_option
def head(path: str, store: str, count: int, as_json: bool) -> None:
    """Show the first records of a store.

    In order of key. Of long arrays only the first items are shown; with --json, all.
    """
    with sc.open(path, "r") as db:
        records = list(islice(_records(db[store], count), count))
        schema = schema_of(db[store])
        if as_json:
            show_json([{"key": key, "value": _value(items, schema)} for key, items in records])
        elif schema.kind == "object":
            _show_objects(records, schema.dtype.names or ())
        else:
            _show_arrays(records)


def _records(store: Any, count: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    for batch in store.scan(batch_size=max(count, 1)):
        yield from batch


def _value(items: npt.NDArray[Any], schema: Schema) -> Any:
    """Return a record as JSON has it: an array of items, or one object."""
    return plain(items)[0] if schema.kind == "object" else plain(items)


def _show_objects(records: list[tuple[int, npt.NDArray[Any]]], names: tuple[str, ...]) -> None:
    columns = [printable(name) for name in names]
    rows = table("key", *columns, left=columns)
    for key, items in records:
        rows.add_row(str(key), *(cell(text(value)) for value in plain(items)[0].values()))
    if not fits(rows):
        rows = table("key", "fields", cut=("fields",))
        for key, items in records:
            rows.add_row(str(key), cell(text(plain(items)[0])))
    show(rows)


def _show_arrays(records: list[tuple[int, npt.NDArray[Any]]]) -> None:
    rows = table("key", "length", "items", cut=("items",))
    for key, items in records:
        values = ", ".join(map(text, plain(items[:SHOWN_ITEMS])))
        more = ", …" if len(items) > SHOWN_ITEMS else ""
        rows.add_row(str(key), f"{len(items):,}", cell(values + more))
    show(rows)


@click.command()
@path_argument
@store_argument
@click.argument("key", callback=as_key)
@json_option
def get(path: str, store: str, key: int, as_json: bool) -> None:
    """Show one record, all of it.

    An array is printed one item a line, an object one field a line.
    """
    with sc.open(path, "r") as db:
        if key not in db[store]:
            raise sc.KeyNotFound(f"store {store!r} has no record {key}")
        items = db[store].get_many(np.array([key], np.uint64)).values
        schema = schema_of(db[store])
        if as_json:
            show_json(_value(items, schema))
        elif schema.kind == "object":
            rows = table("field", "value", left=("field", "value"))
            rows.show_header = False
            for name, value in plain(items)[0].items():
                rows.add_row(cell(name), cell(text(value)))
            show(rows)
        else:
            for start in range(0, len(items), STEP):
                click.echo("\n".join(map(text, plain(items[start : start + STEP]))))
