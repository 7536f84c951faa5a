"""How the examples print: tables, times and rates, and lines of several processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


def table(title: str, header: str, rows: Iterable[Iterable[Any]]) -> None:
    cells = [header.split(","), *([cell(value) for value in row] for row in rows)]
    widths = [max(map(len, texts)) for texts in zip(*cells, strict=True)]
    print(f"\n{title}")
    for line in cells:
        print("  " + "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def say(who: str, what: str) -> None:
    """Print a line in one piece, whichever process it is from."""
    sys.stdout.write(f"  {who:<8}  {what}\n")
    sys.stdout.flush()


def cell(value: Any) -> str:
    if isinstance(value, (bytes, str)):
        return value if isinstance(value, str) else value.decode()
    return f"{value:,.1f}" if isinstance(value, (float, np.floating)) else f"{value:,}"


@contextmanager
def timed(what: str, rows: int = 0, nbytes: int = 0) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    rates = f"{rows / seconds / 1e6:,.1f} million rows/s, {nbytes / seconds / 1e6:,.0f} MB/s"
    print(f"{what} in {seconds * 1e3:,.1f} ms" + (f": {rates}" if rows else ""))
