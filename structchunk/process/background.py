"""Background: long calls that go on in threads beside the caller, until it needs their answers. No stores here."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

T = TypeVar("T")

WORTH_SIZE = 4 << 20
"""A call that goes over fewer bytes is made at once: a thread would cost more than it saves."""
THREADS = 2
"""How many calls go on at a time."""


class Answer(Generic[T]):
    """What a call in a thread of its own gives. The thread ends with the call, whoever still waits for it."""

    def __init__(self, call: Callable[[], T], slots: threading.Semaphore, number: int) -> None:
        self._call = call
        self._slots = slots
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=f"structchunk-{number}", daemon=True)

    def _run(self) -> None:
        try:
            with self._slots:
                self._value = self._call()
        except BaseException as error:
            self._error = error

    def wait(self) -> T:
        """Return the answer, once it is there, or raise what the call has raised."""
        self.thread.join()
        if self._error is not None:
            raise self._error
        return self._value


class Background:
    """As a context manager: at its end, all that was begun has ended.

    Parameters
    ----------
    threads : int
        How many calls go on at a time.

    Notes
    -----
    Worth it for what lets go of the interpreter meanwhile, such as checksums.
    """

    def __init__(self, threads: int = THREADS) -> None:
        self._slots = threading.Semaphore(threads)
        self._threads: list[threading.Thread] = []

    def begin(self, call: Callable[[], T], size: int) -> Callable[[], T]:
        """Begin a call that goes over `size` bytes, and return what waits for its answer."""
        if size >= WORTH_SIZE:
            begun = Answer(call, self._slots, len(self._threads))
            with contextlib.suppress(RuntimeError):  # no thread can be had, or the interpreter is about to exit
                begun.thread.start()
                self._threads.append(begun.thread)
                return begun.wait
        answer = call()
        return lambda: answer

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *exc: object) -> None:
        for thread in self._threads:
            thread.join()


def in_parallel(calls: Sequence[Callable[[], object]], threads: int) -> None:
    """Make calls that wait for something, in so many threads; raise what one has raised, once all have ended."""
    with Background(threads) as background:
        shares = [partial(_in_turn, calls[first::threads]) for first in range(threads)]
        for wait in [background.begin(share, WORTH_SIZE) for share in shares]:
            wait()


def _in_turn(calls: Sequence[Callable[[], object]]) -> None:
    for call in calls:
        call()
