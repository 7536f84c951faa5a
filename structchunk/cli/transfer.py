"""The commands that move a store out to one file and back in: export, import."""

from __future__ import annotations

import click

import structchunk as sc

from ..stores.collection import AnyStore, check_store_name, open_store
from ..stores.mapping import schema_of
from .arguments import json_option, one_line, path_argument, store_argument
from .formats import export_file, format_of
from .output import counted, show_json
from .progress import Report, progress_bar
from .source import Source


@click.command()
@path_argument
@store_argument
@click.argument("file", type=click.Path(dir_okay=False))
@json_option
def export(path: str, store: str, file: str, as_json: bool) -> None:
    """Write a store to a .arrow, .parquet or .npz file.

    FILE is replaced if it exists, at the end and all at once. It carries the store's type, so that import makes the
    same store of it again.

    \b
    .arrow    Arrow IPC: a column "key", and one of the store's name,
              a list of items or a struct; needs pyarrow
    .parquet  the same columns; needs pyarrow
    .npz      arrays "keys", "offsets" and "values": record i is
              values[offsets[i]:offsets[i + 1]]; takes memory for 40
              bytes a record
    """  # noqa: D301 - a sign to click: leave these lines as they are
    with sc.open(path, "r") as db, progress_bar("exporting") as report:
        export_file(db[store], schema_of(db[store]), file, report)
        count = len(db[store])
    _tell(count, "exported to", file, store, as_json=as_json)


@click.command("import")
@path_argument
@click.argument("file", type=click.Path(exists=False, dir_okay=False))
@store_argument
@json_option
def import_(path: str, file: str, store: str, as_json: bool) -> None:
    """Read a file of export's kinds into a store.

    All of it, or nothing. Database and store are created if they do not exist, the store with the type that FILE
    says. Into a store that exists, records are added, and replace those of equal keys; its type must be the same.
    Files of other programs will do if they have the same columns or arrays.

    An .npz file is read into memory as a whole.
    """
    kind = format_of(file)
    with kind.open(file) as source, sc.open(path, "a") as db, progress_bar("importing") as report:
        count = _import(db, source, store, report)
    _tell(count, "imported from", file, store, as_json=as_json)


def _import(db: sc.Database, source: Source, name: str, report: Report) -> int:
    with db.transaction() as transaction:
        store = _open(transaction, name, source)
        try:
            return source.load(store, report)
        except TypeError as error:  # of what the file holds: keys that are no integers, and the like
            raise ValueError(str(error)) from error


def _open(transaction: sc.Transaction, name: str, source: Source) -> AnyStore:
    """Return the store for what a file holds; create it if there is none, or check that it can hold it."""
    if source.stated is None and check_store_name(name) in transaction:
        return transaction[name]
    return open_store(transaction, name, source.stated or source.guessed())


def _tell(count: int, done: str, file: str, store: str, *, as_json: bool) -> None:
    if as_json:
        show_json({"store": store, "file": file, "records": count})
    else:
        click.echo(one_line(f"{counted(count, 'record')} of {store} {done} {file}"))
