"""Clone of a LevelDB directory that another process may be writing: a private one that opens as of one moment.

The clone's LevelDB must never write to a file of the original, and the original's must not take away a file that
the clone needs. So tables, which never change, are linked, but under the name ``.sst``, which LevelDB reads and
never writes: it opens the ``.ldb`` of a number that it uses anew with O_TRUNC, and through a link that would be
the original's. Logs and the manifest, which grow, are copied. LOCK is never opened: closing it would let the
writer's lock go if the writer is in this process.

The manifest's bytes are read first, then the logs, then the tables are linked that it names, and only then it is
seen whether that makes a whole: the log from which the manifest replays, no listed one after it missing, and all
its tables. If not, LevelDB has changed its files meanwhile, and it is tried again; links that were made are kept
for that. No other table is taken: until a manifest names it, it may be half-written, or left by a crash, and its
number be used again. Waiting for a time in which the manifest does not change could take for ever beside a busy
writer. A manifest grows with every table since its LevelDB was opened: what was read of it is not read again, so
that the next try is quicker than whatever changes meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable

from ..disk import files
from ..errors import CorruptionError
from ..index.leveldb import REBUILD
from ..index.leveldb_files import TABLE_SUFFIXES, ManifestReader, Version

_CURRENT = re.compile(rb"MANIFEST-[0-9]+\n")
Take = Callable[[str, str], object]


def clone_leveldb(source: str, target: str, *, link: bool = True) -> None:
    """Make a private copy of a LevelDB directory, as of one moment, whatever its owner does meanwhile.

    Parameters
    ----------
    source : str
        The directory; nothing in it is changed.
    target : str
        Is created.
    link : bool
        Link the tables; else copy them.

    Raises
    ------
    CorruptionError
        A file is missing or damaged.
    OSError
        EPERM, EXDEV and the like, where files cannot be linked.
    """
    files.make_directory(target)
    take = link_file if link else copy_file
    before, begun, reader = b"", b"", ManifestReader()
    while True:
        current, manifest = _read_manifest(source)
        if current != begun:
            begun, reader = current, ManifestReader()
        names = os.listdir(source)
        logs = _read_logs(source, names)
        version = _read_on(source, reader, manifest)
        _take_tables(source, target, version.tables, take)
        missing = _find_missing(version, names, logs, target)
        if missing is None:
            break
        if manifest == before:  # what a version names goes only once the manifest has the next one
            raise _damaged(source, f"no file {missing}", "it, as the manifest names it")
        before = manifest
    _complete(target, version, logs, current, manifest)


def _read_manifest(source: str) -> tuple[bytes, bytes]:
    """Return the contents of CURRENT, and of the manifest that it names."""
    before = b""
    while True:
        try:
            current = files.read(os.path.join(source, "CURRENT"), 0, 1 << 10)
        except FileNotFoundError as error:
            raise _damaged(source, "no file CURRENT", "one") from error
        if not _CURRENT.fullmatch(current):
            raise _damaged(source, f"{current[:40]!r} in CURRENT", "the name of a manifest")
        try:
            return current, _read(os.path.join(source, os.fsdecode(current.strip())))
        except FileNotFoundError as error:
            if current == before:
                raise _damaged(source, f"no file {current.strip().decode()}", "it, as CURRENT names it") from error
        before = current


def _read_logs(source: str, names: list[str]) -> dict[int, bytes]:
    """Return the contents of the logs that are there, the older first: a later one is never ahead of them."""
    logs = {}
    for number in _numbers(names, ".log"):
        with contextlib.suppress(FileNotFoundError):
            logs[number] = _read(_path(source, number, ".log"))
    return logs


def _take_tables(source: str, target: str, tables: set[int], take: Take) -> None:
    """Take the tables that are not there yet; they may go at any time."""
    for number in tables.difference(_numbers(os.listdir(target), ".sst")):
        for suffix in TABLE_SUFFIXES:
            with contextlib.suppress(FileNotFoundError):
                take(_path(source, number, suffix), _path(target, number, ".sst"))
                break


def _find_missing(version: Version, names: list[str], logs: dict[int, bytes], target: str) -> str | None:
    """Return the name of a file that a version needs and that was not taken, or None."""
    needed = {number for number in _numbers(names, ".log") if number >= version.log} | {version.log}
    if gone := needed - logs.keys():
        return f"{min(gone):06d}.log"
    if gone := version.tables - set(_numbers(os.listdir(target), ".sst")):
        return f"{min(gone):06d}.ldb"
    return None


def _complete(target: str, version: Version, logs: dict[int, bytes], current: bytes, manifest: bytes) -> None:
    """Remove the tables that are not needed; write logs and manifest, and CURRENT last."""
    for number in _numbers(os.listdir(target), ".sst"):
        if number not in version.tables:
            files.unlink(_path(target, number, ".sst"))
    for number, log in logs.items():
        if number >= version.log:
            _write(_path(target, number, ".log"), log)
    _write(os.path.join(target, os.fsdecode(current.strip())), manifest)
    _write(os.path.join(target, "CURRENT"), current)


def link_file(source: str, target: str) -> None:
    """Give a file a second name; a symbolic link is not followed."""
    os.link(source, target, follow_symlinks=False)


def copy_file(source: str, target: str) -> None:
    """Copy a regular file."""
    import shutil  # noqa: PLC0415

    draft = f"{target}.part"  # the source may go, and the copy fail, half-way
    with files.opened(source) as fd, open(fd, "rb", closefd=False) as reading, open(draft, "wb") as writing:
        shutil.copyfileobj(reading, writing, 1 << 20)
    files.rename(draft, target)


def state_of(source: str) -> frozenset[tuple[str, int]]:
    """Return something that changes with every change of a LevelDB: the sizes of what it appends to."""
    state = set()
    for name in os.listdir(source):
        if name.endswith(".log") or name.startswith("MANIFEST-"):
            with contextlib.suppress(FileNotFoundError):
                state.add((name, os.stat(os.path.join(source, name)).st_size))
    return frozenset(state)


def _numbers(names: list[str], suffix: str) -> list[int]:
    found = (name.removesuffix(suffix) for name in names if name.endswith(suffix))
    return sorted(int(stem) for stem in found if stem.isascii() and stem.isdigit())


def _path(directory: str, number: int, suffix: str) -> str:
    return os.path.join(directory, f"{number:06d}{suffix}")


def _read(path: str) -> bytes:
    with files.opened(path) as fd, open(fd, "rb", closefd=False) as file:
        return file.read()


def _write(path: str, data: bytes) -> None:
    files.create(path, 0)
    files.write(path, 0, data)


def _damaged(source: str, found: str, expected: str) -> CorruptionError:
    return CorruptionError(source, found=found, expected=expected, advice=REBUILD)


def _read_on(source: str, reader: ManifestReader, manifest: bytes) -> Version:
    try:
        return reader.read_on(manifest)
    except (IndexError, ValueError) as error:
        raise _damaged(source, f"an unreadable manifest ({error})", "one that LevelDB wrote") from error
