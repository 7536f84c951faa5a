"""The commands that check, repair, compact and copy a database: verify, rebuild-index, compact, checkpoint."""

from __future__ import annotations

import os

import click

import structchunk as sc

from ..stores.notebook import size_text
from .arguments import json_option, one_line, path_argument
from .output import cell, counted, show, show_json, table
from .progress import progress_bar


@click.command()
@path_argument
@json_option
@click.pass_context
def verify(ctx: click.Context, path: str, as_json: bool) -> None:
    """Check files, checksums, and the index.

    Reads every header, directory and record, and compares the index with the chunks. Prints one problem a line,
    with where it is and what to do, and exits with 1 if there is any. Changes nothing.
    """
    with sc.open(path, "r") as db, progress_bar("verifying") as report:
        problems = db.verify(report)
        store_count = len(db)
    if as_json:
        show_json({"path": path, "problems": [problem._asdict() for problem in problems]})
    elif problems:
        click.echo("\n".join(one_line(str(problem)) for problem in problems))
    else:
        click.echo(f"no problems in {counted(store_count, 'store')}")
    ctx.exit(1 if problems else 0)


@click.command("rebuild-index")
@path_argument
@json_option
def rebuild_index(path: str, as_json: bool) -> None:
    """Make a lost index anew, from the chunks alone.

    Nobody may have the database open.
    """
    with progress_bar("rebuilding") as report:
        sc.rebuild_index(path, report)
    with sc.open(path, "r") as db:
        counts = {name: stats.records for name, stats in db.stats().items()}
    if as_json:
        show_json({"path": path, "records": counts})
    else:
        click.echo(
            f"rebuilt the index of {counted(len(counts), 'store')}, {counted(sum(counts.values()), 'record')}"
        )


@click.command()
@path_argument
@click.argument("stores", nargs=-1, metavar="[STORE]...")
@json_option
def compact(path: str, stores: tuple[str, ...], as_json: bool) -> None:
    """Rewrite stores, to give back the space of garbage.

    Live records are copied in order of key, so that a scan is one sweep. All stores, unless some are named. Takes
    disk space for a copy of each store while it lasts. Nobody else may have the database open for writing.
    """
    with sc.open(path, "r+") as db, progress_bar("compacting") as report:
        reports = db.compact(*stores, progress=report)
    if as_json:
        show_json([{**done._asdict(), "skipped": [chunk._asdict() for chunk in done.skipped]} for done in reports])
        return
    rows = table("store", "records", "disk before", "disk after", "chunks before", "chunks after", cut=("store",))
    for done in reports:
        sizes = size_text(done.bytes_before), size_text(done.bytes_after)
        chunks = str(done.chunks_before), str(done.chunks_after)
        rows.add_row(cell(done.name), f"{done.records:,}", *sizes, *chunks)
    show(rows)
    for done in reports:
        for skipped in done.skipped:
            show(cell(f"{done.name}: chunk {skipped.chunk} was left: {skipped.why}"))


@click.command()
@path_argument
@click.argument("dest", type=click.Path())
@click.option("--update", is_flag=True, help="If DEST is an earlier copy, bring it forward by what is new.")
@json_option
def checkpoint(path: str, dest: str, *, update: bool, as_json: bool) -> None:
    """Copy the database to DEST, whole and as of one commit.

    Works beside a program that writes. DEST must not exist, unless --update is given: an earlier copy, which nobody
    has written to since, is then brought forward, in a time by what has changed. What cannot change any more is
    linked instead of copied, where DEST is on the same file system.
    """
    is_there = os.path.lexists(dest)
    with sc.open(path, "r") as db, progress_bar("updating" if is_there else "copying"):
        db.checkpoint(dest, update=update)
    if as_json:
        show_json({"path": os.path.realpath(path), "dest": os.path.realpath(dest)})
    else:
        click.echo(f"{'brought forward' if is_there else 'copied to'} {one_line(os.fspath(dest))}")
