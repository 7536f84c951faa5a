"""The tail page: the live end of the log, for those who follow it. A hint, by which nothing on disk is decided.

Who has the database open for writing keeps one page of 4096 bytes in the file ``tail``, and everybody else maps it.
Little-endian::

    0    8s  magic "STRUCTTL"
    8    u4  format version = 1
    12   u4  index generation: the number of the index directory
    16   16s database uuid
    32   u8  epoch of the next commit
    40   u8  base: the commit that the epoch begins behind, the last one that recovery found whole
    48   u8  published: the last commit that is whole and, if it asked for that, on disk
    56   u8  durable: all up to this commit is on disk
    64   u8  committing: the commit that is being appended, 0 if none
    72   u8  number of all (commit, chunk) pairs that were put into the ring
    80   u4  next chunk: no chunk has this id, or a higher one
    84   u4  named: of chunks from this id on the names may not be on disk
    88   u4  CRC-32 of bytes 0 to 88
    92       ring: 333 pairs of u8 commit, u4 chunk: each chunk that a commit appended to, but for one that the pair
             before has. Pair n is at n % 333

A commit writes its pairs, and then the first 92 bytes, in which the CRC tells a write that is seen half-way. The
ring has no checksum: it says where to look, and who looks there sees whether each commit is whole. If one is not,
or the ring has lost some pairs by now, one must look at all chunks.

A follower never goes beyond ``published``: a later commit may yet fail. ``generation``, ``database``, ``epoch`` and
``base`` are one lineage; in another one commits of the same number may be others. Whoever recovers the database
rewrites the page in place, for those who have it mapped. After a power cut it may promise what is lost, so that it
counts only while somebody has the database open for writing, or had when the follower began. A file that is
missing, of another size, or of a version that is not known is as good as none.

Each handle that may write holds a shared lock on the file for as long as it is open, by which others can tell
whether anyone is alive. One that has the database open for writing alone has ``committing`` set all the time.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import sys
import time
import zlib
from collections.abc import Collection
from typing import Any, NamedTuple, TypeAlias

from ..errors import CorruptionError
from ..process import forks
from . import files

MAGIC = b"STRUCTTL"
VERSION = 1
SIZE = 4096
HEAD = struct.Struct("<8sII16sQQQQQQII")
CRC = struct.Struct("<I")
HEAD_SIZE = 92
PAIR = struct.Struct("<QI")
RING = (SIZE - HEAD_SIZE) // PAIR.size
"""How many pairs the ring has."""
_TRIES = 100
"""How often a page is read that is being written."""
_LOOK = 0.001
"""Seconds after which it is seen again whether the file has its place."""
_MAPPING: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
_LOCK = struct.Struct("hhqqi4x")
"""struct flock: type, from where, start, length, pid."""
_SET_LOCK: int | None = getattr(fcntl, "F_OFD_SETLK", None)
_GET_LOCK: int | None = getattr(fcntl, "F_OFD_GETLK", None)
"""Locks of an open file, which no other closing of the file lets go; only Linux has them."""
assert HEAD.size + CRC.size == HEAD_SIZE

Lineage: TypeAlias = "tuple[int, bytes, int, int]"


class Head(NamedTuple):
    """The first bytes of the page."""

    generation: int
    database: bytes
    epoch: int
    base: int
    published: int
    durable: int
    committing: int
    pairs: int
    next_chunk: int
    named: int

    @property
    def lineage(self) -> Lineage:
        """What is the same for as long as a commit's number tells what is in it."""
        return self[:4]

    def pack(self) -> bytes:
        """Return the bytes."""
        head = HEAD.pack(MAGIC, VERSION, *self)
        return head + CRC.pack(zlib.crc32(head))


def parse_head(raw: bytes) -> Head | None:
    """Return what the first bytes of a page say; None if they are not such, or are being written."""
    if len(raw) != HEAD_SIZE or CRC.unpack_from(raw, HEAD.size)[0] != zlib.crc32(raw[: HEAD.size]):
        return None
    magic, version, *fields = HEAD.unpack_from(raw)
    return Head(*fields) if (magic, version) == (MAGIC, VERSION) else None


# ---------------------------------------------------------------------- writing


class Tail:
    """The page, open for writing.

    Notes
    -----
    It is written by ``pwrite``, which reports a full disk or a failing one; a store to a mapping would end the
    process there.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = _open_or_make(path)
        self.head: Head | None = None
        self._newest = 0
        forks.on_fork(self)

    def rewrite(self, head: Head) -> None:
        """Write all of the page, with an empty ring."""
        head = head._replace(pairs=0)
        self._file.write(0, head.pack().ljust(SIZE, b"\0"))
        self.head, self._newest = head, 0

    def read(self) -> Head | None:
        """Return what the page says now; the caller keeps others from writing it."""
        page = os.pread(self._file.fd, SIZE, 0)
        self.head = parse_head(page[:HEAD_SIZE])
        self._newest = _newest_chunk(page, self.head.pairs) if self.head is not None and len(page) == SIZE else 0
        return self.head

    def publish(
        self, commit: int, chunks: Collection[int], next_chunk: int, *, is_durable: bool, committing: int
    ) -> None:
        """Say that a commit, which appended to some chunks, is there to be followed.

        Parameters
        ----------
        commit : int
        chunks : collection of int
        next_chunk : int
        is_durable : bool
            Whether all is on disk.
        committing : int
            The commit that may be appended from now on; 0 if none may.

        Raises
        ------
        OSError
            The page could not be written.
        """
        assert self.head is not None  # it was read, or rewritten
        generation, database, epoch, base, _, durable, _, count, _, named = self.head
        if is_durable:
            durable, named = commit, next_chunk
        newest = self._newest
        for chunk in chunks:
            if chunk != newest:
                self._file.write(HEAD_SIZE + count % RING * PAIR.size, PAIR.pack(commit, chunk))
                count, newest = count + 1, chunk
        head = Head(generation, database, epoch, base, commit, durable, committing, count, next_chunk, named)
        self._file.write(0, head.pack())
        self.head, self._newest = head, newest

    def mark(self, committing: int) -> None:
        """Say which commit may be appended from now on; 0 if none may.

        Raises
        ------
        OSError
            The page could not be written.
        """
        assert self.head is not None  # it was read, or rewritten
        head = self.head._replace(committing=committing)
        self._file.write(0, head.pack())
        self.head = head

    # ------------------------------------------------------------------ who is alive

    def hold(self) -> None:
        """Be alive, for those who ask, until this is closed or the process ends."""
        if _SET_LOCK is not None:
            fcntl.fcntl(self._file.fd, _SET_LOCK, _LOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))

    def is_alone(self) -> bool:
        """Tell whether nobody else is alive, or that cannot be known."""
        return not _is_locked(self._file.fd)

    def is_in_place(self) -> bool:
        """Tell whether the file still has its path."""
        return not files.displaced(self._path, self._file.identity)

    def close(self) -> None:
        """Let the file go. Idempotent."""
        self._file.close()

    def disown(self) -> None:
        """Close a forked child's copy, which else would seem alive when the parent is not."""
        self._file.close()


def distrust(path: str) -> None:
    """Have whoever writes next recover the database, unless the page that has a path is written anew before.

    For who is about to recover it, and may begin another epoch: those who are alive, and find the page of before,
    would append in the old one, whose commits count for nothing.

    Raises
    ------
    OSError
        The page could not be written.
    """
    try:
        file = files.File(path)
    except (FileNotFoundError, CorruptionError):
        return
    try:
        head = parse_head(os.pread(file.fd, HEAD_SIZE, 0))
        if head is not None and not head.committing:
            file.write(0, head._replace(committing=head.published + 1).pack())
    finally:
        file.close()


def _newest_chunk(page: bytes, pairs: int) -> int:
    """Return the chunk of the last pair of a page; 0 if there is none."""
    if not pairs:
        return 0
    _, chunk = PAIR.unpack_from(page, HEAD_SIZE + (pairs - 1) % RING * PAIR.size)
    return int(chunk)


def _is_locked(fd: int) -> bool:
    """Tell whether a lock is held on an open file by way of another opening of it."""
    if _GET_LOCK is None:
        return False
    found = fcntl.fcntl(fd, _GET_LOCK, _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    return bool(_LOCK.unpack(found)[0] != fcntl.F_UNLCK)


def is_alive(path: str) -> bool:
    """Tell whether somebody who may write a database is alive; False also where that cannot be known."""
    try:
        with files.opened(path) as fd:
            return _is_locked(fd)
    except (OSError, CorruptionError):
        return False


def _open_or_make(path: str) -> files.File:
    """Open the file, for those who have it mapped, or put a new one in the place of what cannot be it."""
    try:
        file = files.File(path)
        if os.fstat(file.fd).st_size == SIZE:
            return file
    except (FileNotFoundError, CorruptionError):
        pass
    files.replace(path, bytes(SIZE), sync=False)
    return files.File(path)


# ---------------------------------------------------------------------- reading


class TailView:
    """The page as others see it, mapped.

    Raises
    ------
    OSError, CorruptionError
        There is no such file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        # On an overlay file system a mapping of the lower layer's file would never show what is written later.
        with files.opened(path, write=os.access(path, os.W_OK)) as fd:
            status = os.fstat(fd)
            if status.st_size != SIZE:
                raise CorruptionError(path, found=f"a file of {status.st_size} bytes", expected=f"{SIZE} bytes")
            self._identity = files.identity(status)
            self._page = mmap.mmap(fd, SIZE, access=mmap.ACCESS_READ, **_MAPPING)
        self._looked = 0.0

    def raw(self) -> bytes:
        """Return the first bytes of the page, which change with every commit."""
        return self._page[:HEAD_SIZE]

    def read(self) -> tuple[bytes, Head | None]:
        """Return the first bytes, and what they say; None if they are no such page, however often it is tried."""
        for _ in range(_TRIES):
            raw = self.raw()
            head = parse_head(raw)
            if head is not None:
                return raw, head
        return raw, None

    def chunks(self, head: Head, last: int) -> set[int] | None:
        """Return the chunks that the commits after `last` appended to, and one more; None if that is not known."""
        chunks: set[int] = set()
        for number in range(head.pairs - 1, max(-1, head.pairs - 1 - RING), -1):
            commit, chunk = PAIR.unpack_from(self._page, HEAD_SIZE + number % RING * PAIR.size)
            if commit > head.published:
                return None  # it was overwritten meanwhile
            chunks.add(chunk)  # that of the first pair which is too old, too: later commits may have gone on there
            if commit <= last:
                return chunks
        return chunks if head.pairs <= RING and last >= head.base else None

    def is_in_place(self) -> bool:
        """Tell whether the file still had its path, not longer than a millisecond ago."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return True
        if files.displaced(self._path, self._identity):
            return False
        self._looked = now
        return True


def open_tail(path: str) -> TailView | None:
    """Map the page that has a path; None if there is none."""
    try:
        return TailView(path)
    except (OSError, CorruptionError):
        return None


def begin_tail(path: str, head: Head) -> Tail | None:
    """Write the page anew, and hold it; None if the disk refuses: then there is none, rather than an old one."""
    try:
        tail = Tail(path)
        tail.hold()
        tail.rewrite(head)
    except OSError:
        with contextlib.suppress(OSError):
            files.unlink(path)
        return None
    return tail
