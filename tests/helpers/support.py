"""Helpers that several test modules share: rows against dictionaries, and a database's files by hand."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from structchunk.runs.extent import EXTENT_DTYPE, TOMBSTONE, Extent, RowArray, empty_rows

UUID = bytes(range(16))
"""The database uuid of files that tests make by hand."""
Model = dict[int, Extent]

EDGE_KEYS = (0, 1, 2**32, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1)
keys = st.one_of(st.integers(0, 40), st.sampled_from(EDGE_KEYS), st.integers(0, 2**64 - 1))


alive_tails = st.tuples(st.integers(512, 600).map(lambda n: 8 * n), st.integers(0, 9), st.just(1), st.just(0))
dead_tails = st.just((0, 0, 1, TOMBSTONE))
single_rows = st.tuples(keys, st.one_of(alive_tails, alive_tails, dead_tails)).map(lambda row: (row[0], *row[1]))


def row_lists(max_size: int = 30) -> st.SearchStrategy[list[Extent]]:
    """Draw rows in no order, keys repeating."""
    return st.lists(single_rows, max_size=max_size)


def models(max_size: int = 30) -> st.SearchStrategy[Model]:
    """Draw sorted rows as a dictionary from key to row."""
    return row_lists(max_size).map(lambda rows: {row[0]: row for row in rows})


def rows_of(rows: Iterable[Extent]) -> RowArray:
    """Return rows, in their order, as an array."""
    made = list(rows)
    return np.array(made, EXTENT_DTYPE) if made else empty_rows()


def rows_of_model(model: Model) -> RowArray:
    """Return a dictionary's rows, sorted by key."""
    return rows_of(model[key] for key in sorted(model))


def model_of(rows: RowArray) -> Model:
    """Return rows as a dictionary, having checked that their keys ascend, none of them twice."""
    model = {row[0]: row for row in rows.tolist()}
    assert list(model) == sorted(model)
    assert len(model) == len(rows)
    return model


def alive(model: Model) -> Model:
    """Return the rows that are not tombstones."""
    return {key: row for key, row in model.items() if not row[4] & TOMBSTONE}


def between(model: Model, start: int, stop: int) -> Model:
    """Return the rows with ``start <= key < stop``."""
    return {key: row for key, row in model.items() if start <= key < stop}


def label(value: object) -> str:
    """Name a parameter of a test, without its address: processes that share the tests must find the same ones."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def count_descriptors() -> int:
    """Return how many file descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def copy_file(source: str, target: str) -> str:
    """Copy a file but not its holes: chunk files are 64 MiB of those, unless a test makes them small."""
    with open(source, "rb") as reading, open(target, "wb") as writing:
        at, size = 0, os.fstat(reading.fileno()).st_size
        os.truncate(writing.fileno(), size)
        while at < size:
            try:
                start = os.lseek(reading.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: the rest is a hole
                break
            at = os.lseek(reading.fileno(), start, os.SEEK_HOLE)
            os.pwrite(writing.fileno(), os.pread(reading.fileno(), at - start, start), start)
    return target


def files_below(root: str | Path, suffix: str = "") -> Iterator[os.stat_result]:
    """Yield the status of each file but those that go meanwhile: LevelDB's thread removes some."""
    for path in Path(root).rglob(f"*{suffix}"):
        with suppress(FileNotFoundError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                yield status


def bytes_of_files(root: str | Path, *, without: str = "") -> dict[str, bytes]:
    """Return what the files of a directory have, but those whose paths in it match a pattern."""
    paths = {str(path.relative_to(root)): path for path in Path(root).rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in paths.items() if not fnmatch(name, without)}


def copy_tree(source: str | Path, target: str | Path, *, over: bool = False) -> str:
    """Copy a directory, or what it has `over` what another one has, and return where."""
    return str(shutil.copytree(source, target, copy_function=copy_file, dirs_exist_ok=over))


def run_python(code: str, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, warnings being errors."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def in_child(work: Callable[[], object], timeout: int = 20) -> str:
    """Run a function in a forked child; return the repr of its result, or its error's name and message."""
    source, sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(timeout)  # a child that hangs is killed
        try:
            said = repr(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(sink, said.encode()[:60000])
        os._exit(0)
    os.close(sink)
    with open(source, "rb") as pipe:
        said = pipe.read().decode()
    assert os.waitpid(pid, 0)[1] == 0, f"the child died: {said!r}"
    return said
