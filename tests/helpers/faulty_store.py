"""A store of objects in memory, through fsspec, that does what real ones do at the worst: ``faulty://name/...``.

::

    store = FaultyStore.new()
    store.fail_every = 3
    db.publish(store.url)

``store.log`` has every request: what it was, of which object, and how many bytes.
"""

from __future__ import annotations

import errno
import itertools
import threading
import time
import uuid
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import fsspec
from fsspec.spec import AbstractFileSystem


class Killed(BaseException):
    """The process was killed at this request; none of it comes after."""


class Request(NamedTuple):
    """One request: "read", "write", "create", "list", "ask" or "remove", and the bytes that went or came."""

    what: str
    name: str
    size: int


class FaultyStore:
    """What is in the store, and how it fails.

    Attributes
    ----------
    fail_every : int
        Every so-manieth request fails, and has done nothing; 0: none does.
    lose_answer_every : int
        Of every so-manieth write the answer is lost: it is done, and fails all the same.
    cut_every : int
        Every so-manieth read brings half of the bytes.
    delay : float
        Seconds that each request takes.
    kill_at : int or None
        From this request on, counted from 0, the process is killed; the request itself may be done.
    kill_after : bool
        Whether the request at which it is killed is done.
    ignores_conditions : bool
        Whether it writes over an object even if it is asked not to.
    late : int
        The last so many objects that were written are not listed yet.
    refuses : bool
        Whether it refuses every request for good.
    before : callable or None
        Called with each request before it is done.
    """

    stores: ClassVar[dict[str, FaultyStore]] = {}
    _numbers = itertools.count()

    def __init__(self, name: str) -> None:
        self.name = name
        self.objects: dict[str, bytes] = {}
        self.log: list[Request] = []
        self.fail_every = self.lose_answer_every = self.cut_every = self.late = 0
        self.delay = 0.0
        self.kill_at: int | None = None
        self.kill_after = self.ignores_conditions = self.refuses = False
        self.before: Any = None
        self._lock = threading.RLock()

    @classmethod
    def new(cls) -> FaultyStore:
        """Return a store of its own."""
        name = f"store-{next(cls._numbers)}"
        cls.stores[name] = cls(name)
        return cls.stores[name]

    @property
    def url(self) -> str:
        """Where to publish to."""
        return f"faulty://{self.name}/data"

    def copy(self) -> FaultyStore:
        """Return a store with the same objects, and no faults."""
        made = FaultyStore.new()
        made.objects = {name.replace(self.name, made.name, 1): data for name, data in self.objects.items()}
        return made

    def count(self, *what: str) -> int:
        """Return how many requests of some kinds there were, of all kinds if none is named."""
        return sum(request.what in what or not what for request in self.log)

    def forget(self) -> None:
        """Forget what was requested so far."""
        self.log.clear()

    # ------------------------------------------------------------------ requests

    def request(
        self, what: str, name: str, secret: str | None, data: bytes = b"", part: slice = slice(None)
    ) -> Any:
        """Do a request, or fail."""
        if self.before is not None:
            self.before(what, name)
        time.sleep(self.delay)
        with self._lock:
            number = len(self.log)
            is_killed = self.kill_at is not None and number >= self.kill_at
            if is_killed and not (self.kill_after and number == self.kill_at):
                raise Killed
            self.log.append(Request(what, name, len(data)))
            self._fail(number, secret)
            answer = getattr(self, f"_{what}")(name, data)
            if what == "read":
                answer = answer[part]
                self.log[-1] = Request(what, name, len(answer))
            if is_killed:
                raise Killed
            if data and self.lose_answer_every and number % self.lose_answer_every == 0:
                raise TimeoutError(f"no answer from https://me:{secret}@host/{name}?signature={secret}")
            if what == "read" and self.cut_every and number % self.cut_every == 0:
                return answer[: len(answer) // 2]
            return answer

    def _fail(self, number: int, secret: str | None) -> None:
        if self.refuses:
            raise PermissionError(f"{secret} may not")
        if self.fail_every and number % self.fail_every == self.fail_every - 1:
            raise OSError(errno.EIO, f"try again, {secret}")

    def _read(self, name: str, data: bytes) -> bytes:
        try:
            return self.objects[name]
        except KeyError:
            raise FileNotFoundError(name) from None

    def _write(self, name: str, data: bytes) -> None:
        self.objects.pop(name, None)  # so that it is the last one
        self.objects[name] = data

    def _create(self, name: str, data: bytes) -> None:
        if name in self.objects and not self.ignores_conditions:
            raise FileExistsError(name)
        self._write(name, data)

    def _list(self, name: str, data: bytes) -> list[str]:
        listed = list(self.objects)[: len(self.objects) - self.late]
        below = [each.removeprefix(f"{name}/") for each in listed if each.startswith(f"{name}/")]
        found = [f"{name}/{each}" for each in dict.fromkeys(each.partition("/")[0] for each in below)]
        if not found:
            raise FileNotFoundError(name)
        return found

    def _ask(self, name: str, data: bytes) -> int:
        return len(self._read(name, data))

    def _remove(self, name: str, data: bytes) -> None:
        self._read(name, data)
        del self.objects[name]


class FaultyFileSystem(AbstractFileSystem):
    """The file system of all these stores. ``secret`` is what the messages of errors tell, as some packages do."""

    protocol = "faulty"
    cachable = False

    def __init__(self, secret: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.secret = secret

    def _request(self, what: str, path: str, data: bytes = b"", part: slice = slice(None)) -> Any:
        path = str(self._strip_protocol(path))
        return FaultyStore.stores[path.partition("/")[0]].request(what, path, self.secret, data, part)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        return bytes(self._request("read", path, part=slice(start, end)))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        self._request("create" if mode == "create" else "write", path, value)

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        names = self._request("list", path.rstrip("/"))
        return [{"name": name, "type": "file"} for name in names] if detail else names

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return {"name": path, "type": "file", "size": self._request("ask", path)}

    def rm_file(self, path: str) -> None:
        self._request("remove", path)


fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)


def url_of(kind: str, path: Path, store: FaultyStore) -> str:
    """Return a URL at which nothing is: of a store with faults, of memory, or of a directory that is to be made."""
    urls = {"faulty": store.url, "memory": f"memory://{uuid.uuid4()}/data", "file": f"file://{path}/published"}
    return urls[kind]
