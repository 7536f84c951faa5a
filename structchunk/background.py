"""Background: long calls that go on in threads beside the caller, until it needs their answers. No stores here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

WORTH_SIZE = 4 << 20
"""A call that goes over fewer bytes is made at once: a thread would cost more than it saves."""
THREADS = 2


class Background:
    """As a context manager: at its end, all that was begun has ended.

    Notes
    -----
    Worth it for what lets go of the interpreter meanwhile, such as checksums.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def begin(self, call: Callable[[], T], size: int) -> Callable[[], T]:
        """Begin a call that goes over `size` bytes, and return what waits for its answer."""
        if size >= WORTH_SIZE:
            self._pool = self._pool or ThreadPoolExecutor(THREADS, "structchunk")
            with contextlib.suppress(RuntimeError):  # no thread can be had, or the interpreter is about to exit
                return self._pool.submit(call).result
        answer = call()
        return lambda: answer

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
