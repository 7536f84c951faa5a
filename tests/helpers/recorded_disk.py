"""A disk that records what a real file system writes to it, and when it asks for a flush.

The disk is a file of a file system of its own, which this serves to the kernel by the protocol of /dev/fuse. A loop
device on it is given to ext4 or XFS: their writes arrive here, and so do their flushes. What a disk with a volatile
cache has after a power cut is all before the last flush, and any of the blocks written since.

Only root can do that, in a mount namespace of its own, which takes everything with it when it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import stat
import struct
import subprocess
import traceback
from collections.abc import Iterator
from typing import NamedTuple

SECTOR = 512
PAGE = 4096
"""What a disk writes whole. Of less ext4 may lose its superblock, which has two sectors and one checksum."""
FLUSH = -1
"""In place of the offset of a write."""
SIZES = {"ext4": 64 << 20, "xfs": 300 << 20}
"""Of disks, by file system: XFS makes none that is smaller."""
MAKE = {"ext4": ("mkfs.ext4", "-q"), "xfs": ("mkfs.xfs", "-q")}

_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_INIT_OUT = struct.Struct("<IIIIHHIIHHII24x")
_ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
_ATTRIBUTES_OUT = struct.Struct("<QII")
_ENTRY_OUT = struct.Struct("<QQQQII")
_OPEN_OUT = struct.Struct("<QII")
_READ_IN = struct.Struct("<QQI")
_RECORD = struct.Struct("<qq")
LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS = 1, 2, 3, 4, 14, 15, 16, 17
RELEASE, FSYNC, FLUSH_FILE, INIT, OPENDIR, RELEASEDIR, INTERRUPT, BATCH_FORGET = 18, 20, 25, 26, 27, 29, 36, 42
_WRITE_IN = 40
_ROOT, _DISK = 1, 2
_MOST = 1 << 20


class Record(NamedTuple):
    """A write, or a flush, whose offset is ``FLUSH``."""

    offset: int
    data: bytes


class Server:
    """Serves one file, and logs what is written to it."""

    def __init__(self, device: int, disk: str, log: str) -> None:
        self._device = device
        self._disk = os.open(disk, os.O_RDWR)
        self._size = os.fstat(self._disk).st_size
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND)

    def run(self) -> None:
        """Answer the kernel until the file system is unmounted."""
        while True:
            try:
                request = os.read(self._device, _MOST)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                raise
            _, operation, unique, node, *_ = _IN.unpack_from(request)
            if operation in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            answer = self._answer(operation, node, request[_IN.size :])
            if isinstance(answer, int):
                os.write(self._device, _OUT.pack(_OUT.size, -answer, unique))
            else:
                os.write(self._device, _OUT.pack(_OUT.size + len(answer), 0, unique) + answer)

    def _answer(self, operation: int, node: int, body: bytes) -> bytes | int:
        if operation == INIT:
            return _INIT_OUT.pack(7, 31, 0, 1 << 5, 12, 10, 128 << 10, 1, 0, 0, 0, 0)
        if operation == LOOKUP:
            known = body == b"disk\0"
            return _ENTRY_OUT.pack(_DISK, 0, 9, 9, 0, 0) + self._attributes(_DISK) if known else errno.ENOENT
        if operation in (GETATTR, SETATTR):
            return _ATTRIBUTES_OUT.pack(9, 0, 0) + self._attributes(node)
        if operation in (OPEN, OPENDIR):
            return _OPEN_OUT.pack(0, 0, 0)
        if operation == READ:
            _, offset, size = _READ_IN.unpack_from(body)
            return os.pread(self._disk, size, offset)
        if operation == WRITE:
            return self._write(*_READ_IN.unpack_from(body)[1:], body[_WRITE_IN:])
        if operation == FSYNC:
            os.write(self._log, _RECORD.pack(FLUSH, 0))
            return b""
        if operation == STATFS:
            return bytes(80)
        return b"" if operation in (RELEASE, RELEASEDIR, FLUSH_FILE) else errno.ENOSYS

    def _write(self, offset: int, size: int, data: bytes) -> bytes:
        os.pwrite(self._disk, data[:size], offset)
        os.writev(self._log, [_RECORD.pack(offset, size), data[:size]])
        return struct.pack("<II", size, 0)

    def _attributes(self, node: int) -> bytes:
        mode, size = (stat.S_IFREG | 0o600, self._size) if node == _DISK else (stat.S_IFDIR | 0o700, 0)
        return _ATTRIBUTES.pack(node, size, size // SECTOR, *(0,) * 6, mode, 1, 0, 0, 0, PAGE, 0)


def mount(source: str, path: str, kind: str, options: str) -> None:
    """Mount a file system by the system call alone, which needs no program for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), path.encode(), kind.encode(), 0, options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def run(*command: str) -> None:
    """Run a program."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{command}: {done.stderr}")


class Disk:
    """A disk with a file system in ``base``, mounted at ``path`` while it is entered, whose writes are logged."""

    def __init__(self, base: str, kind: str) -> None:
        self.kind = kind
        self.base = base
        self.path = os.path.join(base, "mounted")
        self.fresh = os.path.join(base, "fresh")
        self._served, self._log = (os.path.join(base, name) for name in ("served", "log"))
        for path in (self.path, self._served):
            os.mkdir(path)
        with open(self.fresh, "xb") as file:
            file.truncate(SIZES[kind])
        run(*MAKE[kind], self.fresh)
        self._server = 0

    def __enter__(self) -> Disk:
        run("cp", "--sparse=always", self.fresh, f"{self.base}/now")
        open(self._log, "xb").close()
        device = os.open("/dev/fuse", os.O_RDWR)
        mount("disk", self._served, "fuse", f"fd={device},rootmode=40000,user_id=0,group_id=0")
        self._server = os.fork()
        if not self._server:
            try:
                Server(device, f"{self.base}/now", self._log).run()
            except BaseException:
                traceback.print_exc()
            os._exit(0)
        os.close(device)
        run("mount", "-t", self.kind, "-o", "loop", f"{self._served}/disk", self.path)
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            run("umount", self.path)
        finally:
            run("umount", "-l", self._served)
            os.waitpid(self._server, 0)

    def position(self) -> int:
        """Return how long the log is: all that it has now has reached the disk, or its cache."""
        return os.stat(self._log).st_size

    def records(self) -> Iterator[tuple[int, Record]]:
        """Yield what was written, with the length of the log after it."""
        at = 0
        with open(self._log, "rb") as log:
            while head := log.read(_RECORD.size):
                offset, size = _RECORD.unpack(head)
                at += _RECORD.size + size
                yield at, Record(offset, log.read(size))


class Cuts:
    """What a power cut may leave of a disk, at ever later places of its log."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._durable = os.path.join(disk.base, "durable")
        run("cp", "--sparse=always", disk.fresh, self._durable)
        self._records = disk.records()
        self._cached: list[Record] = []

    def advance(self, position: int) -> int:
        """Go on to a place of the log, and return how many writes the disk has not flushed there."""
        at = 0
        while at < position:
            found = next(self._records, None)
            if found is None:
                break
            at, record = found
            if record.offset == FLUSH:
                apply(self._durable, self._cached)
                self._cached = []
            else:
                self._cached.append(record)
        return len(self._cached)

    @contextlib.contextmanager
    def image(self, rng: random.Random) -> Iterator[str]:
        """Mount what a power cut leaves here, and yield where."""
        path, where = os.path.join(self._disk.base, "image"), os.path.join(self._disk.base, "after")
        run("cp", "--sparse=always", self._durable, path)
        apply(path, surviving(self._cached, rng))
        os.makedirs(where, exist_ok=True)
        run("mount", "-t", self._disk.kind, "-o", "loop", path, where)
        try:
            yield where
        finally:
            run("umount", where)
            os.unlink(path)


def apply(path: str, records: list[Record]) -> None:
    """Write to a disk."""
    with open(path, "r+b") as file:
        for record in records:
            file.seek(record.offset)
            file.write(record.data)


def surviving(cached: list[Record], rng: random.Random) -> list[Record]:
    """Return which writes a disk has not lost: all, none, the first ones, or any blocks."""
    how = rng.choice(("all", "none", "prefix", "writes", "blocks"))
    if how in ("all", "none"):
        return cached if how == "all" else []
    if how == "prefix":
        return cached[: rng.randint(0, len(cached))]
    if how == "writes":
        return [record for record in cached if rng.random() < 0.5]
    return [
        Record(record.offset + at, record.data[at : at + PAGE])
        for record in cached
        for at in range(0, len(record.data), PAGE)
        if rng.random() < 0.5
    ]
