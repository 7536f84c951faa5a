"""The command that says what was changed since a commit, and goes on to say so: changes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click

import structchunk as sc

from .arguments import path_argument, printable


@click.command()
@path_argument
@click.argument("stores", nargs=-1, metavar="[STORE]...")
@click.option("--since", type=click.IntRange(min=0), required=True, help="The commit before; 0 before the first.")
@click.option("--follow", is_flag=True, help="Go on with later commits, until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print each as a line of JSON, with all keys.")
def changes(path: str, stores: tuple[str, ...], since: int, follow: bool, as_json: bool) -> None:
    """Show what each commit changed, one store a line.

    In order of commit: its number, the store, whether it was created or dropped, and how many records were put and
    deleted.
    All stores, unless some are named. Compaction changes nothing, but what went with it cannot be shown any more.
    """
    with sc.open(path, "r") as db:
        for change in _changes(db, stores, since, follow=follow):
            click.echo(_json(change) if as_json else _line(change))


def _changes(db: sc.Database, stores: tuple[str, ...], since: int, *, follow: bool) -> Iterator[sc.Change]:
    while True:
        upto = db.last_commit
        yield from db.changes(since, *stores)
        if not follow:
            return
        since = upto
        db.wait()


def _line(change: sc.Change) -> str:
    what = f"{change.commit}  {printable(change.store)}  {change.kind}"
    return (
        what if change.kind == "dropped" else f"{what}: {len(change.keys):,} put, {len(change.deleted):,} deleted"
    )


def _json(change: sc.Change) -> str:
    document = {
        "commit": change.commit,
        "store": change.store,
        "kind": change.kind,
        "keys": change.keys.tolist(),
        "deleted": change.deleted.tolist(),
    }
    return json.dumps(document)
