"""The program: its commands, and how each way of ending becomes one line and an exit code."""

from __future__ import annotations

import io
import os
import sys
from typing import IO, Any

import click

import structchunk

from ..errors import Error
from .arguments import one_line
from .changes import changes
from .look import get, head, info, ls
from .maintain import checkpoint, compact, rebuild_index, verify
from .picture import map_
from .remote import prune, publish, published, pull
from .transfer import export, import_

INTERRUPTED = 128 + 2
BROKEN_PIPE = 128 + 13
"""As shells report what SIGINT and SIGPIPE ended."""


class Failure(click.ClickException):
    """What went wrong, in one line."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it to standard error."""
        click.echo(f"structchunk: {self.message}", file=file, err=file is None)


class Program(click.Group):
    """A group of commands that end without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they were added, not by name."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            _discard_output()
            ctx.exit(BROKEN_PIPE)
        except (Error, OSError, ValueError, ImportError, MemoryError) as error:
            raise Failure(one_line(_message(error))) from error


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _discard_output() -> None:
    """Let what is still buffered go nowhere: the interpreter flushes it at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(structchunk.__version__, prog_name="structchunk")
def program() -> None:
    """Look into structchunk databases, check, copy and convert them.

    PATH is the directory of a database, URL where one is published. Commands that only read work beside a program
    that writes, and take a URL in place of PATH.

    \b
    Exit codes:
      0    all is well
      1    there is a problem: with the database or a file, or what was
           asked for is not there
      2    the command line was not understood
      130  interrupted (Ctrl-C)
      141  whoever read the output went away
    """  # noqa: D301 - a sign to click: leave these lines as they are


for command in (info, ls, head, get, map_, changes, verify, rebuild_index, compact, checkpoint, export, import_):
    program.add_command(command)
for command in (publish, published, pull, prune):
    program.add_command(command)


def run() -> None:
    """Run the command line of this process."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # the pictures, in a terminal that has no Unicode
    program(prog_name="structchunk")
