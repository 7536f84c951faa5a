"""Every place where structchunk changes a file, wrapped: to stop there, or to record what may be left."""

from __future__ import annotations

import errno
import functools
import os
import random
import stat
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from structchunk.chunks.chunk import Chunk
from structchunk.disk import files
from structchunk.disk.tail import Tail
from structchunk.index.leveldb import LevelDB

SECTOR = 512
PAGE = 4096
OPERATIONS = (
    *("create", "make_directory", "write", "reserve", "truncate", "clear"),
    *("start_flush", "flush", "flush_directory", "rename", "unlink", "link", "copy", "rewrite", "remove_tree"),
)
Notice: TypeAlias = Callable[[str, tuple[Any, ...], bool], object]


class Replacing:
    """Puts other things in the place of attributes of modules and classes, until it is left."""

    def __init__(self) -> None:
        self._saved: list[tuple[Any, str, Any]] = []

    def __exit__(self, *exc: object) -> None:
        for holder, name, value in reversed(self._saved):
            setattr(holder, name, value)
        self._saved = []

    def _replace(self, holder: Any, name: str, value: Any) -> None:
        self._saved.append((holder, name, holder.__dict__[name]))
        setattr(holder, name, value)


class Seam(Replacing):
    """While entered, calls ``notice(operation, arguments, done)`` before, halfway through, and after every change.

    ``done`` is true after it. Halfway is where a store to a mapping has copied half of its bytes.
    """

    def __init__(self, notice: Notice) -> None:
        super().__init__()
        self._notice = notice

    def __enter__(self) -> Seam:
        for name in OPERATIONS:
            self._replace(files, name, self._around(name, getattr(files, name)))
        self._replace(Chunk, "store", self._store(Chunk.store))
        self._replace(Chunk, "append_segment", self._around("append_segment", Chunk.append_segment))
        for name in ("rewrite", "mark", "publish"):
            self._replace(Tail, name, self._around(f"Tail.{name}", getattr(Tail, name)))
        for name in ("write", "close"):
            self._replace(LevelDB, name, self._around(f"LevelDB.{name}", getattr(LevelDB, name)))
        for name in ("create", "open"):
            made = self._around(f"LevelDB.{name}", LevelDB.__dict__[name].__func__)
            self._replace(LevelDB, name, classmethod(made))
        return self

    def _around(self, operation: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self._notice(operation, args, False)
            result = function(*args, **kwargs)
            self._notice(operation, args, True)
            return result

        return wrapped

    def _store(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(chunk: Chunk, offset: int, data: Any, size: int) -> None:
            self._notice("store", (chunk.path,), False)
            if size > 1:
                raw = data.tobytes() if isinstance(data, np.ndarray) else bytes(data)
                chunk.target[offset : offset + size // 2] = raw[: size // 2]
                self._notice("half a store", (chunk.path,), False)
            function(chunk, offset, data, size)
            self._notice("store", (chunk.path,), True)

        return wrapped


# ---------------------------------------------------------------------- what a power cut leaves

Entries: TypeAlias = dict[str, int]
"""Names of a directory, and the inodes that they lead to."""
DIRECTORY = 0
"""In place of the inode of a directory."""


class Event(NamedTuple):
    """The files of a database at one moment.

    ``entries`` has for each directory its versions since it was last flushed, ``data`` for each inode its contents
    since then; the first is on disk for sure, the last is the present one. ``logs`` says how many bytes of
    LevelDB's logs are on disk. ``label`` is for messages, ``mark`` the oracle's.
    """

    label: str
    mark: Any
    entries: dict[str, tuple[Entries, ...]]
    data: dict[int, tuple[bytes, ...]]
    logs: dict[int, int]


class Recorder(Seam):
    """Records an :class:`Event` at each change of a database's files; what is there at first is on disk.

    Parameters
    ----------
    root : str
    mark : callable
        Returns what to note with each event.
    """

    def __init__(self, root: str, mark: Callable[[], Any]) -> None:
        super().__init__(self._record)
        self.events: list[Event] = []
        self._root = root
        self._mark = mark
        self._entries: dict[str, tuple[Entries, ...]] = {}
        self._data: dict[int, tuple[bytes, ...]] = {}
        self._logs: dict[int, int] = {}
        self._scan()
        self._data = {inode: versions[-1:] for inode, versions in self._data.items()}
        self._logs = {inode: len(versions[-1]) for inode, versions in self._data.items()}
        self._entries = {path: versions[-1:] for path, versions in self._entries.items()}

    def note(self, label: str) -> None:
        """Record an event though no file has changed."""
        self.events.append(Event(label, self._mark(), dict(self._entries), dict(self._data), dict(self._logs)))

    def _record(self, operation: str, args: tuple[Any, ...], done: bool) -> None:
        if operation == "rename" and done and os.path.isdir(args[1]):
            self._move_entries(*(os.path.relpath(path, self._root) for path in args))
        self._scan()
        if done:
            self._note_flushed(operation, args)
        self.note(f"{'after' if done else 'before'} {operation} {self._relative(args)}")

    def _move_entries(self, old: str, new: str) -> None:
        """Note that a directory was renamed: what is in it is as much on disk as it was before."""
        for path in [path for path in self._entries if path == old or path.startswith(old + "/")]:
            self._entries[new + path[len(old) :]] = self._entries.pop(path)

    def _relative(self, args: tuple[Any, ...]) -> str:
        return os.path.relpath(args[0], self._root) if args and isinstance(args[0], str) else ""

    def _note_flushed(self, operation: str, args: tuple[Any, ...]) -> None:
        if operation == "flush":
            inode = os.stat(args[0]).st_ino
            self._data[inode] = self._data[inode][-1:]
            self._logs[inode] = len(self._data[inode][0])
        elif operation == "flush_directory":
            path = self._relative(args)
            if path in self._entries:
                self._entries[path] = self._entries[path][-1:]

    def note_synced_write(self, leveldb: LevelDB) -> None:
        """Note that LevelDB has flushed the log that it writes to, the one with the highest number."""
        names = self._entries[os.path.relpath(leveldb.path, self._root)][-1]
        newest = max((name for name in names if name.endswith(".log")), default=None)
        if newest is not None:
            self._logs[names[newest]] = len(self._data[names[newest]][-1])

    def _scan(self) -> None:
        while True:
            try:
                self._scan_once()
            except FileNotFoundError:
                continue  # LevelDB's own thread has removed a file just now
            return

    def _scan_once(self) -> None:
        pending = [""]
        seen = {}
        while pending:
            path = pending.pop()
            entries = {}
            for entry in _listing(os.path.join(self._root, path)):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    entries[entry.name] = DIRECTORY
                    pending.append(f"{path}/{entry.name}" if path else entry.name)
                elif entry.name not in ("lock", "LOCK", "LOG", "LOG.old"):
                    entries[entry.name] = status.st_ino
                    self._note_version(status.st_ino, _content(entry.path, status.st_size))
            seen[path or "."] = entries
        for path in list(self._entries):
            if path not in seen:
                del self._entries[path]
        for path, entries in seen.items():
            versions = self._entries.get(path, ({},))
            if versions[-1] != entries:
                self._entries[path] = (*versions, entries)
            elif path not in self._entries:
                self._entries[path] = versions

    def _note_version(self, inode: int, content: bytes) -> None:
        versions = self._data.get(inode, (b"",))
        if versions[-1] != content:
            self._data[inode] = (*versions, content)
        elif inode not in self._data:
            self._data[inode] = versions


class FailingRecorder(Recorder):
    """Records while flushes of chunks and superblock fail now and then, as Linux has them fail.

    What was to be written is shown as before, and taken for written: it reaches the disk only once it is changed,
    or, where the disk has zeros, as a file system may take the blocks for initialised, by ``files.rewrite``.
    """

    def __init__(self, root: str, mark: Callable[[], Any], rng: random.Random) -> None:
        self._lost: dict[int, dict[int, tuple[bytes, bytes]]] = {}
        super().__init__(root, mark)
        self.failures = 0
        self.is_well = False
        self._rng = rng

    def _record(self, operation: str, args: tuple[Any, ...], done: bool) -> None:
        if operation == "rewrite" and done:
            self._write_through(*args)
        super()._record(operation, args, done)
        fails = operation == "flush" and not done and not args[0].endswith(".log")
        if fails and not self.is_well and self._rng.random() < 0.15:
            self._fail(args[0])

    def _fail(self, path: str) -> None:
        """Lose pages of a file: all that were to be written, or some."""
        inode = os.stat(path).st_ino
        kept = self._data[inode][0].ljust(os.stat(path).st_size, b"\0")
        rate = self._rng.choice((0.5, 1))
        with open(path, "rb") as file:
            shown = file.read()
        lost = self._lost.setdefault(inode, {})
        for at in range(0, len(shown), PAGE):
            old, new = kept[at : at + PAGE], shown[at : at + PAGE]
            if old != new and self._rng.random() < rate:
                lost[at] = new, old
        self._data[inode] = (kept,)
        self._note_version(inode, shown)
        self._data[inode] = self._data[inode][-1:]
        self.failures += 1
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    def _note_version(self, inode: int, content: bytes) -> None:
        lost = self._lost.get(inode, {})
        on_disk = bytearray(content)
        for at, (shown, kept) in list(lost.items()):
            if any(kept) and content[at : at + PAGE] != shown:
                del lost[at]
            else:
                on_disk[at : at + PAGE] = kept
        super()._note_version(inode, bytes(on_disk))

    def _write_through(self, path: str, start: int, stop: int) -> None:
        inode = os.stat(path).st_ino
        with open(path, "rb") as file:
            shown = file.read()
        versions = [bytearray(version) for version in self._data[inode]]
        for at in range(start // PAGE * PAGE, stop, PAGE):
            self._lost.get(inode, {}).pop(at, None)
            for version in versions:
                version[at : at + PAGE] = shown[at : at + PAGE]
        self._data[inode] = tuple(map(bytes, versions))


def _content(path: str, size: int) -> bytes:
    """Return so many bytes of a file; of all calls this is made most often."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


def _listing(path: str) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return list(entries)


class SyncedWrites:
    """While entered, tells a recorder of LevelDB's synced writes, which only their ``sync`` argument shows."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __enter__(self) -> None:
        self._write = write = LevelDB.write
        recorder = self._recorder

        def wrapped(leveldb: LevelDB, puts: Any, deletes: Any = (), *, sync: bool = False) -> None:
            write(leveldb, puts, deletes, sync=sync)
            if sync:
                recorder.note_synced_write(leveldb)

        LevelDB.write = wrapped  # type: ignore[method-assign]

    def __exit__(self, *exc: object) -> None:
        LevelDB.write = self._write  # type: ignore[method-assign]


class Cut(NamedTuple):
    """Which of what was not flushed a power cut leaves: of sectors, of directory entries, of LevelDB's logs.

    ``sectors`` is old, new, mix, files (each file one of these), one_old or one_new, or the inodes of the files
    that are old, the others being new; ``entries`` old, new or mix, or the paths of the directories that are old;
    ``logs`` none, all, prefix, or hole (a stretch of zeros); ``index`` keep, lose or behead (without its CURRENT).
    """

    sectors: str | frozenset[int]
    entries: str | frozenset[str]
    logs: str
    index: str = "keep"

    def sectors_of(self, inode: int) -> str:
        """Return which sectors of a file are left."""
        return self.sectors if isinstance(self.sectors, str) else _age(inode in self.sectors)

    def entries_of(self, path: str) -> str:
        """Return which entries of a directory are left."""
        return self.entries if isinstance(self.entries, str) else _age(path in self.entries)


def _age(is_old: bool) -> str:
    return "old" if is_old else "new"


KILL = Cut("new", "new", "all")


def draw_cut(rng: random.Random) -> Cut:
    """Return a kind of power cut."""
    sectors = rng.choice(("old", "new", "mix", "mix", "files", "files", "one_old", "one_new"))
    entries = rng.choice(("old", "new", "new", "mix"))
    logs = rng.choice(("none", "all", "all", "prefix", "prefix", "hole"))
    index = rng.choices(("keep", "lose", "behead"), (90, 7, 3))[0]
    return Cut(sectors, entries, logs, index)


Image: TypeAlias = dict[str, bytes | None]
"""What files hold, by path; directories, None, come before what is in them."""


def build(event: Event, cut: Cut, rng: random.Random, target: str) -> None:
    """Write the image of a power cut to a new directory."""
    write_image(image_of(event, cut, rng), target)


def write_image(image: Image, target: str) -> None:
    """Write an image to a new directory."""
    os.mkdir(target)
    for path, content in image.items():
        if content is None:
            os.mkdir(os.path.join(target, path))
        else:
            with open(os.path.join(target, path), "xb") as file:
                file.write(content)


def image_of(event: Event, cut: Cut, rng: random.Random) -> Image:
    """Return the image of a power cut."""
    dirty = [inode for inode, versions in event.data.items() if len(versions) > 1]
    image: Image = {}
    _add_entries(image, event, cut, rng, "", {}, rng.choice(dirty) if dirty else -1)
    return image


def _add_entries(
    image: Image, event: Event, cut: Cut, rng: random.Random, path: str, kept: dict[int, bytes], special: int
) -> None:
    is_index = os.path.basename(path).startswith("index-")
    directory = path or "."
    mode = "new" if is_index else cut.entries_of(directory)
    start = path and path + "/"
    for name, inode in _surviving(event.entries[directory], mode, rng).items():
        inside = start + name
        if inode == DIRECTORY:
            lost = cut.index == "lose" and name.startswith("index-")
            if not lost and inside in event.entries:
                image[inside] = None
                _add_entries(image, event, cut, rng, inside, kept, special)
        elif not (is_index and cut.index == "behead" and name == "CURRENT"):
            if inode not in kept:
                if is_index:
                    kept[inode] = _index_file(event, cut, rng, name, inode)
                else:
                    mode_of_file = cut.sectors_of(inode)
                    kept[inode] = _sectors(event.data[inode], mode_of_file, rng, special=inode == special)
            image[inside] = kept[inode]


def _surviving(versions: tuple[Entries, ...], mode: str, rng: random.Random) -> Entries:
    if mode == "old":
        return versions[0]
    if mode == "new":
        return versions[-1]
    found = {}
    for name in sorted({name for version in versions for name in version}):
        inode = rng.choice(versions).get(name)
        if inode is not None:
            found[name] = inode
    return found


def _index_file(event: Event, cut: Cut, rng: random.Random, name: str, inode: int) -> bytes:
    """LevelDB flushes its tables and its manifest itself; a log may lack what was not flushed."""
    content = event.data[inode][-1]
    flushed = event.logs.get(inode, 0)
    if not name.endswith(".log") or cut.logs == "all" or flushed >= len(content):
        return content
    if cut.logs == "none":
        return content[:flushed]
    if cut.logs == "prefix":
        return content[: rng.randint(flushed, len(content))]
    start = rng.randint(flushed, len(content))
    stop = rng.randint(start, len(content))
    return content[:start] + bytes(stop - start) + content[stop:]


def _sectors(versions: tuple[bytes, ...], mode: str, rng: random.Random, *, special: bool) -> bytes:
    """Return a content in which each sector is that of one of the versions, and so is the size."""
    if mode == "files":
        mode = rng.choice(("old", "new", "new", "mix"))
    if mode == "old":
        return versions[0]
    if len(versions) == 1 or mode == "new" or (mode == "one_old" and not special):
        return versions[-1]
    if mode == "one_new" and not special:
        return versions[0]
    size = max(map(len, versions))
    count = -(-size // SECTOR)
    table = np.zeros((len(versions), count * SECTOR), np.uint8)
    for row, version in zip(table, versions, strict=True):
        row[: len(version)] = np.frombuffer(version, np.uint8)
    table = table.reshape(len(versions), count, SECTOR)
    chosen = _choose(table, mode, np.random.default_rng(rng.getrandbits(64)))
    return table[chosen, np.arange(count)].tobytes()[:size]


def _choose(table: Any, mode: str, rng: np.random.Generator) -> Any:
    """Return which version each sector has."""
    versions, count, _ = table.shape
    if mode == "mix":
        return rng.integers(0, versions, count)
    changed = np.flatnonzero((table[0] != table[-1]).any(axis=1))
    chosen = np.full(count, versions - 1 if mode == "one_old" else 0)
    if len(changed):
        chosen[rng.choice(changed)] = 0 if mode == "one_old" else versions - 1
    return chosen
