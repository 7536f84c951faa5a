"""The commands for databases in object storage: publish, published, pull, prune."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import click

import structchunk as sc

from ..database.handle import fetch_all
from ..stores.notebook import size_text
from .arguments import json_option, one_line, path_argument
from .output import counted, show_json
from .progress import progress_bar

url_argument = click.argument("url")


@click.command()
@path_argument
@url_argument
@json_option
def publish(path: str, url: str, *, as_json: bool) -> None:
    """Publish the database to URL, whole and as of one commit.

    Works beside a program that writes. URL is s3://bucket/name, gs://bucket/name, file:///directory or any that
    fsspec knows. Credentials and other options are taken from where the package for the store looks for them, or
    from variables such as FSSPEC_S3_ENDPOINT_URL. What was published there is brought forward by what is new.
    """
    with sc.open(path, "r") as db, progress_bar("publishing") as report, _warnings_in_a_line():
        done = db.publish(url, progress=report)
    if as_json:
        show_json({"path": os.path.realpath(path), **done._asdict()})
    elif done.objects:
        sizes = f"{counted(done.objects, 'object')}, {size_text(done.bytes)}"
        click.echo(f"published commit {done.commit}: {sizes}")
    else:
        click.echo(f"commit {done.commit} is published; nothing is new")


@click.command()
@url_argument
@json_option
def published(url: str, *, as_json: bool) -> None:
    """List the commits that are published at URL."""
    commits = sc.published(url)
    if as_json:
        show_json({"commits": commits})
    else:
        click.echo("\n".join(map(str, commits)) if commits else "nothing is published")


@click.command()
@url_argument
@click.argument("dest", type=click.Path())
@click.option("--commit", type=click.IntRange(min=0), help="Which commit; by default the newest that is published.")
@click.option("--cache", type=click.Path(), help="Directory of what was fetched, instead of the usual one.")
@click.option("--update", is_flag=True, help="If DEST is an earlier copy, bring it forward by what is new.")
@json_option
def pull(url: str, dest: str, *, commit: int | None, cache: str | None, update: bool, as_json: bool) -> None:
    """Copy a published database to DEST, to be read and written there.

    What is not in the cache yet is fetched. DEST must not exist, unless --update is given: an earlier copy, which
    nobody has written to since, is then brought forward. Takes disk space for both, cache and copy.

    Credentials and other options are taken as by publish.
    """
    is_there = os.path.lexists(dest)
    with sc.open(url, "r", commit=commit, cache=cache) as db:
        with progress_bar("fetching") as report:
            fetch_all(db, report)
        with progress_bar("updating" if is_there else "copying"):
            db.checkpoint(dest, update=update)
        shown, last = db.path, db.last_commit
    if as_json:
        show_json({"url": shown, "commit": last, "dest": os.path.realpath(dest)})
    else:
        click.echo(one_line(f"commit {last} of {shown} is in {os.fspath(dest)}"))


@click.command()
@url_argument
@click.option("--keep", type=click.IntRange(min=1), required=True, help="How many publications stay, at least 1.")
@json_option
def prune(url: str, keep: int, *, as_json: bool) -> None:
    """Remove all publications at URL but the newest ones, and what only they needed.

    Who reads from one that is removed gets errors for what was not fetched yet.
    """
    done = sc.prune(url, keep)
    if as_json:
        show_json(done._asdict())
    else:
        what = f"{counted(done.publications, 'publication')}, {counted(done.objects, 'object')}"
        click.echo(f"removed {what}; kept {counted(len(done.commits), 'commit')}")


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Print each warning as one line, without where in the program it was given."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        click.echo(f"structchunk: {one_line(str(warning.message))}", err=True)
