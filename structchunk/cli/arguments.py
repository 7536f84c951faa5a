"""Arguments and options that commands share, and text from a database made safe for a terminal."""

from __future__ import annotations

import click

from ..types.keys import MAX_KEY

path_argument = click.argument("path", type=click.Path())
store_argument = click.argument("store")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one line of JSON, sizes in bytes.")


def as_key(_ctx: click.Context, _param: click.Parameter, value: str) -> int:
    """Return a key as a number: decimal, or as Python writes other bases (0x10)."""
    try:
        number = int(value, 0)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not an integer.") from None
    if not 0 <= number <= MAX_KEY:
        raise click.BadParameter(f"keys are from 0 to {MAX_KEY}.")
    return number


def printable(text: str) -> str:
    """Return text without control characters, which a terminal would obey."""
    return text if text.isprintable() else repr(text)[1:-1]


def one_line(text: str) -> str:
    """Return a message as one printable line."""
    return printable(" ".join(text.split()))
