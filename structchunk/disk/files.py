"""The one seam to the file system: every create, write, flush, rename and unlink that is not LevelDB's own.

Callers say ``files.flush(path)``, by module, so that a test can record or fail each operation. Only regular
files and directories are ever opened; a symbolic link or special file in a database is damage.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from ..errors import CorruptionError

Identity = tuple[int, int]
ZEROS = bytes(1 << 20)
COPY_SIZE = 16 << 20
"""How many bytes are copied at a time."""
COMPARED_SIZE = 1 << 20
"""How many bytes are compared at a time."""
BLOCK_SIZE = 4096
"""Where bytes differ, all of a block is written."""
_CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)
_DIRECT = getattr(os, "O_DIRECT", 0)  # Linux has it
_DIRECT_SIZE = 4096
"""What is written with O_DIRECT begins and ends at multiples of this."""
SECTOR = 512
"""Or, on most disks, of this. No file system has smaller blocks."""
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW
_START_WRITE = 2  # SYNC_FILE_RANGE_WRITE: begin, and do not wait
START_FLUSH = "structchunk start_flush"
_sync_file_range: Any = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux alone has it


@contextlib.contextmanager
def opened(path: str, *, write: bool = False, flags: int = 0) -> Iterator[int]:
    """Open an existing regular file and yield its descriptor."""
    fd = _open(path, (os.O_RDWR if write else os.O_RDONLY) | flags)
    try:
        _check_regular(path, fd)
        yield fd
    finally:
        os.close(fd)


class Descriptor:
    """A file descriptor, closed by :meth:`close` or when no one holds it."""

    fd = -1  # also if its making is interrupted, and it goes

    def open(self, path: str, flags: int, mode: int = 0) -> None:
        """Open a file."""
        self.fd = os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self) -> None:
        """Close it, once: the number may be another file's after that."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class File(Descriptor):
    """A regular file, open for writing for as long as this object lives.

    Parameters
    ----------
    path : str
    flags : int
        Beside those that open an existing file.

    Attributes
    ----------
    fd : int
    identity : tuple of int
        What tells it from all others, whatever its path.
    """

    def __init__(self, path: str, flags: int = 0) -> None:
        super().__init__()
        self.fd = _open(path, os.O_RDWR | flags)
        self.identity = identity(_check_regular(path, self.fd))

    def write(self, offset: int, data: Any) -> None:
        """Write all of a buffer of bytes at `offset`."""
        _write(self.fd, offset, data)


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_NONBLOCK | _FLAGS, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _not_regular(path) from error
        raise


def _check_regular(path: str, fd: int) -> os.stat_result:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise _not_regular(path)
    return status


def _write(fd: int, offset: int, data: Any) -> None:
    """Write all of a buffer of bytes."""
    done = os.pwrite(fd, data, offset)
    if done == len(data):
        return
    view = memoryview(data)
    while done < len(view):
        offset, view = offset + done, view[done:]
        done = os.pwrite(fd, view, offset)


@contextlib.contextmanager
def advised(path: str, taken: str = "a database keeps up to 50 open") -> Iterator[None]:
    """Say what takes file descriptors, and what to do, if the body runs out of them."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        message = f"{os.strerror(error.errno)}: {taken}; raise the limit (ulimit -n)"
        raise OSError(error.errno, message, path) from error


def _not_regular(path: str) -> CorruptionError:
    return CorruptionError(
        path,
        found="a symbolic link, directory or special file",
        expected="a regular file",
        advice="put the file itself in its place",
    )


def identity(status: os.stat_result) -> Identity:
    """Return what tells a file from all others, whatever its path."""
    return status.st_dev, status.st_ino


def displaced(path: str, opened: Identity) -> str:
    """Say what is wrong if a path leads to another file than the one that was opened; "" if all is well.

    Locks and mappings go by file, and everything else goes by path: what is written then would go to another
    database.
    """
    try:
        status = os.lstat(path)
    except OSError as error:
        return f"{path} was there when it was opened, and is not any more ({error.strerror})"
    if identity(status) == opened:
        return ""
    return f"{path} is another file than the one that was opened: another database has taken its place"


def are_same(path: str, other: str) -> bool:
    """Tell whether two paths lead to one file, under two names for instance."""
    return identity(os.lstat(path)) == identity(os.lstat(other))


def check_directory(path: str) -> None:
    """Raise unless `path` is a directory itself, not a link to one."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise CorruptionError(
            path,
            found="something else",
            expected="a directory, not a link",
            advice="put the directory itself in its place",
        )


def exists(path: str) -> bool:
    """Tell whether there is anything at a path; unlike ``os.path.lexists``, an I/O error raises."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def create(path: str, size: int) -> File:
    """Create a sparse file of `size` bytes, private to the user; it must not exist."""
    file = File(path, os.O_CREAT | os.O_EXCL)
    try:
        os.ftruncate(file.fd, size)
    except BaseException:
        os.unlink(path)
        raise
    return file


def make_directory(path: str) -> None:
    """Create a directory, private to the user."""
    os.mkdir(path, 0o700)


def read(path: str, offset: int, size: int) -> bytes:
    """Return up to `size` bytes from `offset`."""
    with opened(path) as fd:
        return os.pread(fd, size, offset)


def write(path: str, offset: int, data: Any, file: File | None = None) -> None:
    """Write all of a contiguous buffer at `offset`, to a file that may be open already."""
    if file is not None:
        return file.write(offset, data)
    with opened(path, write=True) as fd:
        _write(fd, offset, memoryview(data).cast("B"))


def reserve(path: str, offset: int, size: int, file: File | None = None) -> None:
    """Give blocks to a stretch that was never written, so that storing to its mapping cannot fail.

    Parameters
    ----------
    path : str
    offset, size : int
    file : File, optional
        The same file, if it is open.

    Raises
    ------
    OSError
        ENOSPC when the disk is full.
    """
    if file is not None:
        return _reserve(file.fd, offset, size)
    with opened(path, write=True) as fd:
        _reserve(fd, offset, size)


def _reserve(fd: int, offset: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, offset, size)
        return
    for start in range(offset, offset + size, len(ZEROS)):  # macOS
        os.pwrite(fd, ZEROS[: offset + size - start], start)


def truncate(path: str, size: int) -> None:
    """Give a file another size, and what is beyond it back to the disk. Not for what may be mapped."""
    with opened(path, write=True) as fd:
        os.ftruncate(fd, size)


def clear(path: str, start: int, stop: int) -> bool:
    """Zero every written byte in ``[start, stop)``, leaving holes as holes; tell whether any was there."""
    cleared = False
    with opened(path, write=True) as fd:
        for low, high in _written(fd, start, stop):
            for offset in range(low, high, len(ZEROS)):
                os.pwrite(fd, ZEROS[: high - offset], offset)
            cleared = True
    return cleared


def written(path: str, start: int, stop: int) -> list[tuple[int, int]]:
    """Return the stretches of ``[start, stop)`` that are not holes."""
    with opened(path) as fd:
        return list(_written(fd, start, stop))


def remove_tree(path: str) -> None:
    """Remove a file, or a directory and all that is in it; links are not followed.

    ``shutil.rmtree`` closes a descriptor twice if it is interrupted, which may be another file's by then.
    """
    if stat.S_ISDIR(os.lstat(path).st_mode):
        for name in os.listdir(path):
            remove_tree(os.path.join(path, name))
        os.rmdir(path)
    else:
        os.unlink(path)


def disk_size(path: str) -> int:
    """Return how many bytes of disk a file takes; 0 if it is gone."""
    try:
        return os.stat(path).st_blocks * 512  # the unit of st_blocks, whatever the file system's blocks are
    except FileNotFoundError:
        return 0


def free_size(path: str) -> int:
    """Return how many bytes the file system of a path has left."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def _written(fd: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches of the file that are not holes."""
    position = start
    while position < stop:
        try:
            low = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return
        if low >= stop:
            return
        position = min(os.lseek(fd, low, os.SEEK_HOLE), stop)
        yield low, position


def start_flush(path: str, offset: int, size: int) -> None:
    """Have the system begin to write a stretch of a file to disk, and do not wait for it.

    Notes
    -----
    It promises nothing: only :func:`flush` brings data to disk, and has less to wait for then. An error of the
    writing that was begun here is raised by the next :func:`flush`, if the file is mapped or open until then: the
    system may forget it together with a file that no one holds.
    """
    if _sync_file_range is not None:
        with contextlib.suppress(RuntimeError):  # there are threads enough, or the interpreter is ending
            threading.Thread(target=_start_write, args=(path, offset, size), name=START_FLUSH).start()


def _start_write(path: str, offset: int, size: int) -> None:
    """Begin to write. Runs in a thread: ``sync_file_range`` blocks while the device queue is full."""
    with contextlib.suppress(OSError), opened(path) as fd:
        _sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(size), _START_WRITE)


def flush(path: str) -> None:
    """Bring a file's data to disk."""
    with opened(path) as fd:
        getattr(os, "fdatasync", os.fsync)(fd)


def flush_directory(path: str) -> None:
    """Bring the entries of a directory to disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def copy(source: int, path: str, start: int, stop: int) -> None:
    """Write what an open file has in ``[start, stop)`` to the same place of another; holes stay holes."""
    for low, high in _written(source, start, stop):
        for offset in range(low, high, COPY_SIZE):
            write(path, offset, os.pread(source, min(COPY_SIZE, high - offset), offset))


def copy_changes(source: int, path: str, start: int, stop: int) -> bool:
    """Write the blocks of ``[start, stop)`` in which a file differs from an open one; tell whether any did."""
    has_changed = False
    with opened(path) as fd:
        for low, high in sorted({*_written(source, start, stop), *_written(fd, start, stop)}):
            for at in range(low // BLOCK_SIZE * BLOCK_SIZE, high, COMPARED_SIZE):
                first, end = max(at, start), min(at + COMPARED_SIZE, high)
                new, old = (os.pread(file, end - first, first) for file in (source, fd))
                for block, upto in _differences(new, old, first - at):
                    write(path, first + block, new[block:upto])
                    has_changed = True
    return has_changed


def _differences(new: bytes, old: bytes, skipped: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches of blocks that differ; of the first block, so many bytes are left out."""
    if new == old:
        return
    ends = [0, *range(BLOCK_SIZE - skipped, len(new), BLOCK_SIZE), len(new)]
    first = None
    for block, upto in pairwise(ends):
        if new[block:upto] != old[block:upto]:
            first = block if first is None else first
        elif first is not None:
            yield first, block
            first = None
    if first is not None:
        yield first, len(new)


def rewrite(path: str, start: int, stop: int, *, unit: int = _DIRECT_SIZE) -> None:
    """Write every page that has data in ``[start, stop)`` again, as it is; holes stay holes.

    At both ends, units of fewer bytes than a page may be what is written. Whether it succeeds or fails, what is
    read there afterwards is what the disk was given.

    Notes
    -----
    After a flush that failed, the page cache still has what was to be written, but as clean pages: the next flush
    writes nothing. Writing it once more is not enough either: ext4 counts the blocks as initialised, so that they
    may read as zeros later. Hence this writes with O_DIRECT, which drops the pages. No one may change them
    meanwhile.
    """
    buffer = _aligned_buffer(min(COPY_SIZE, _round_up(stop - start, _DIRECT_SIZE) + _DIRECT_SIZE))
    errors = []
    with opened(path) as fd:
        for low, high in _written(fd, start, stop):
            first, end = low // unit * unit, _round_up(high, unit)
            aligned = range(_round_up(first, _DIRECT_SIZE), end, len(buffer))
            for offset, upto in pairwise(sorted({first, *aligned, end})):
                view = buffer[: upto - offset]
                try:
                    _write_direct(path, offset, view[: os.preadv(fd, [view], offset)])
                except OSError as error:
                    errors.append(error)
    if errors:
        raise errors[0]


def _round_up(offset: int, unit: int) -> int:
    return -(-offset // unit) * unit


def _aligned_buffer(size: int) -> memoryview:
    """Return a zeroed buffer that is aligned as O_DIRECT requires."""
    raw = bytearray(size + _DIRECT_SIZE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(raw)) % _DIRECT_SIZE
    return memoryview(raw)[start : start + size]


def _write_direct(path: str, offset: int, view: memoryview) -> None:
    """Write with O_DIRECT, past the page cache; where the file system has no such thing, through it."""
    done = 0
    try:
        with opened(path, write=True, flags=_DIRECT) as fd:
            done = os.pwrite(fd, view, offset)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    if done < len(view):
        write(path, offset + done, view[done:])


def rename(source: str, target: str) -> None:
    """Give a file or directory another name; a file replaces what has it."""
    os.rename(source, target)


def replace(path: str, data: bytes, *, sync: bool) -> None:
    """Make a file of some bytes, or put one in the place of what is there: it has all of them, or is as it was.

    Parameters
    ----------
    path : str
    data : bytes
    sync : bool
        Bring the bytes to disk before the file gets its name. The name itself needs :func:`flush_directory`.
    """
    draft = f"{path}.new"
    unlink(draft)  # one that was cut short: the disk was full, for instance
    create(draft, 0)
    write(draft, 0, data)
    if sync:
        flush(draft)
    rename(draft, path)


def link(source: str, target: str) -> bool:
    """Give a file a second name; return False where it cannot have one, as on another file system."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        return False
    return True


def unlink(path: str) -> None:
    """Remove a name of a file, if it is there; mappings and other names keep the bytes."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
