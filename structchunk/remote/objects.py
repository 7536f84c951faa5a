"""The seam to stores of objects: every request that is made of one, through fsspec, which nothing else imports.

What passes is tried again, a little later each time. What does not is an ``OSError`` that says what was asked of
which URL, without credentials: the errors of the stores' own packages, which may have them, are not chained to it.
Requests and bytes are counted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from ..errors import CorruptionError, missing_extra
from .address import is_url, shown
from .redaction import hidden_in, secrets_of, without

T = TypeVar("T")

TRIES = 6
FIRST_DELAY = 0.05
"""Seconds before the second try; doubled before each that follows."""
_WITH_DIRECTORIES = frozenset({"file", "local", "sftp", "ssh", "smb", "ftp", "hdfs", "webhdfs"})
_FINAL = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
)
_FINAL_NUMBERS = frozenset(
    {
        errno.EINVAL,
        errno.ENOSPC,
        errno.EROFS,
        errno.ENAMETOOLONG,
        errno.EMSGSIZE,
        errno.ENOSYS,
        errno.EOPNOTSUPP,
        errno.EDQUOT,
    }
)
_OURS = (ValueError, TypeError, AttributeError, LookupError, AssertionError, MemoryError, ImportError)


class Objects:
    """The objects below one URL.

    Attributes
    ----------
    url : str
        As messages show it.
    requests, sent, received : int
        How many requests were made, failed ones too, and the bytes of objects that went there and came from there.

    Notes
    -----
    Any number of threads may use it.
    """

    def __init__(self, filesystem: Any, root: str, url: str, secrets: list[str]) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self.url = shown(url).rstrip("/")
        self._secrets = secrets
        self._lock = threading.Lock()
        self.requests = self.sent = self.received = 0
        protocols = filesystem.protocol
        self._protocols = {protocols} if isinstance(protocols, str) else set(protocols)

    def at(self, name: str) -> str:
        """Return the URL of an object, for messages."""
        return f"{self.url}/{name}"

    # ------------------------------------------------------------------ reading

    def read(self, name: str, size: int | None = None) -> bytes:
        """Return a whole object, of `size` bytes if that is known.

        Raises
        ------
        FileNotFoundError
            There is none.
        OSError
            It cannot be read, or is of another size.
        """
        # From 0 on, else s3fs asks for the size first, by a request of its own.
        return self._read(name, size, start=0)

    def read_range(self, name: str, start: int, size: int) -> bytes:
        """Return `size` bytes of an object, which must have them, by one request.

        Raises
        ------
        FileNotFoundError, OSError
            As :meth:`read` does.
        """
        return self._read(name, size, start=start, end=start + size) if size else b""

    def _read(self, name: str, size: int | None, **part: int) -> bytes:
        def fetch() -> bytes:
            data = bytes(self._filesystem.cat_file(self._path(name), **part))
            self._count(received=len(data))
            if size is not None and len(data) > size and "end" in part:
                advice = "the server sends whole objects where parts are asked for; only one that does not will do"
                raise OSError(errno.EOPNOTSUPP, f"{len(data)} bytes came instead of {size}: {advice}")
            if size is not None and len(data) != size:
                raise ConnectionError(f"{len(data)} bytes came instead of {size}")
            return data

        return self._try("read", name, fetch)

    def has(self, name: str) -> bool:
        """Tell whether there is an object."""
        try:
            self.size(name)
        except FileNotFoundError:
            return False
        return True

    def size(self, name: str) -> int:
        """Return the size of an object in bytes.

        Raises
        ------
        FileNotFoundError
            There is none.
        """
        self._forget(name)
        return int(self._try("ask for", name, lambda: self._filesystem.info(self._path(name))["size"]))

    def names(self, directory: str) -> list[str]:
        """Return the names of the objects in a directory, ``"objects/"`` for one, ascending."""
        self._forget(directory)
        try:
            paths = self._try("list", directory, lambda: self._filesystem.ls(self._path(directory), detail=False))
        except FileNotFoundError:
            return []
        return sorted(directory + path.rstrip("/").rpartition("/")[2] for path in paths)

    # ------------------------------------------------------------------ writing

    def write(self, name: str, data: bytes) -> None:
        """Write a whole object, over one that is there: whoever reads it sees the one or the other."""
        self._try("write", name, lambda: self._put(name, data))

    def write_new(self, name: str, data: bytes) -> bool:
        """Write a whole object if there is none of the name, and tell whether this very one is there now.

        The store may not answer after it has written it, and refuse the second try: so one that is refused is read.
        """
        try:
            self._try("write", name, lambda: self._put_new(name, data))
        except FileExistsError:
            return self.read(name) == data
        return True

    def _put(self, name: str, data: bytes) -> None:
        self._count(sent=len(data))
        if not self._has_directories():
            self._filesystem.pipe_file(self._path(name), data)
            return
        with self._draft(name, data) as draft:
            self._filesystem.mv(draft, self._path(name))

    def _put_new(self, name: str, data: bytes) -> None:
        self._count(sent=len(data))
        if self._protocols & {"file", "local"}:
            with self._draft(name, data) as draft:
                self._filesystem.link(draft, self._path(name))  # fails if there is one
            return
        if self._has_directories():
            self._filesystem.makedirs(self._path(os.path.dirname(name)), exist_ok=True)
        try:
            self._filesystem.pipe_file(self._path(name), data, mode="create")
        except OSError as error:
            if _is_refusal(error):
                raise FileExistsError(self.at(name)) from None
            raise

    @contextlib.contextmanager
    def _draft(self, name: str, data: bytes) -> Any:
        """Write under another name, for where others see a file grow; remove what is left of it."""
        path = self._path(name)
        draft = f"{path}.part-{os.urandom(4).hex()}"
        self._filesystem.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            self._filesystem.pipe_file(draft, data)
            yield draft
        finally:
            with contextlib.suppress(OSError):
                self._filesystem.rm_file(draft)

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there are removed already."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._try("remove", name, partial(self._filesystem.rm_file, self._path(name)))

    # ------------------------------------------------------------------ requests

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _has_directories(self) -> bool:
        return not self._protocols.isdisjoint(_WITH_DIRECTORIES)

    def _forget(self, name: str) -> None:
        """Make the file system ask the store the next time, whatever it has listed before."""
        self._filesystem.invalidate_cache(self._path(name.rstrip("/").rpartition("/")[0]))
        self._filesystem.invalidate_cache(self._path(name.rstrip("/")))

    def _count(self, *, requests: int = 0, sent: int = 0, received: int = 0) -> None:
        with self._lock:
            self.requests += requests
            self.sent += sent
            self.received += received

    def _try(self, what: str, name: str, request: Callable[[], T]) -> T:
        """Make a request until it succeeds, or fails for good."""
        for number in range(TRIES):
            self._count(requests=1)
            try:
                return request()
            except Exception as error:
                if isinstance(error, _OURS):
                    raise
                failure = self._failure(what, name, error)
                if not passes(error):
                    raise failure from None
            if number < TRIES - 1:
                time.sleep(FIRST_DELAY * (1 << number) * (0.5 + random.random()))
        raise failure

    def _failure(self, what: str, name: str, error: Exception) -> OSError:
        """Return the error for a request that failed: of the same kind, if that is one of the system's."""
        kind = next((kind for kind in _NUMBERS if isinstance(error, kind)), OSError)
        number = getattr(error, "errno", None) or _NUMBERS.get(kind, errno.EIO)
        text = without(self._secrets, f"{type(error).__name__}: {error}")
        return kind(number, f"cannot {what} {self.at(name)}: {text}")


_NUMBERS: dict[type[OSError], int] = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    PermissionError: errno.EACCES,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
    TimeoutError: errno.ETIMEDOUT,
    ConnectionError: errno.ECONNRESET,
}


def again_if_damaged(read: Callable[[], T]) -> T:
    """Return what a call makes of bytes that it reads, made again if they were damaged: on their way, maybe."""
    try:
        return read()
    except CorruptionError:
        return read()


def passes(error: Exception) -> bool:
    """Tell whether a request that failed so may succeed when it is made again."""
    if isinstance(error, _FINAL) or "Credential" in type(error).__name__ or "Validation" in type(error).__name__:
        return False
    return getattr(error, "errno", None) not in _FINAL_NUMBERS


def _is_refusal(error: OSError) -> bool:
    """Tell whether a store has refused to write over an object; not all packages say so by FileExistsError."""
    response = getattr(error.__cause__, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, Mapping) else None
    return isinstance(error, FileExistsError) or code in ("PreconditionFailed", "412")


def open_objects(url: str, options: Mapping[str, Any] | None = None) -> Objects:
    """Return the objects below a URL, of which nothing is read yet.

    Parameters
    ----------
    url : str
        Anything that fsspec takes: ``s3://bucket/name``.
    options : mapping, optional
        What fsspec is to give to the package for the store: ``storage_options``.

    Raises
    ------
    ImportError
        fsspec, or the package for the store, is not installed; the message says which.
    ValueError
        It is no URL, or none that fsspec knows.
    """
    try:
        from fsspec.config import conf  # noqa: PLC0415
        from fsspec.core import url_to_fs  # noqa: PLC0415
    except ImportError as error:
        raise missing_extra(f"{shown(url)} needs fsspec", "remote") from error
    if not is_url(url):
        raise ValueError(f"{os.fspath(url)!r} is no URL; that of a directory here is file:///its/path")
    secrets = secrets_of({"given": options, "configured": conf, "url": hidden_in(url)})
    try:
        filesystem, root = url_to_fs(url, **(options or {}))
    except ImportError as error:
        text = without(secrets, str(error))
        raise ImportError(f"{shown(url)} needs another package besides fsspec: {text}") from None
    except Exception as error:
        text = without(secrets, f"{type(error).__name__}: {error}")
        raise ValueError(f"fsspec cannot open {shown(url)}: {text}") from None
    return Objects(filesystem, root, url, secrets)
