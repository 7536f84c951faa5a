"""Calls made by several threads, whose results come in order. No stores here."""

from __future__ import annotations

import contextlib
import operator
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")

AHEAD = 2
"""Calls for each thread that are begun, or done, before their results are asked for."""
IDLE = 0.5
"""Seconds after which a thread without work looks whether there can be any more."""


class Call(Generic[T]):
    """One call. Who waits for it is woken by a lock, which an interrupt leaves as it is."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._error: BaseException | None = None
        self._done = threading.Lock()
        self._done.acquire()

    def run(self, make: Callable[[], T]) -> bool:
        """Make the call, and tell whether it returned."""
        try:
            self._value = make()
        except BaseException as error:
            self._error = error
        finally:
            self._done.release()
        return self._error is None

    def wait(self) -> T:
        """Return what the call returned, once it has, or raise what it raised."""
        self._done.acquire()
        error, self._error = self._error, None
        if error is None:
            return self._value
        try:
            raise error
        finally:
            del error  # else its traceback would hold this frame, which holds it


class Crew(Generic[T]):
    """Threads that make calls in the order in which they are given. They end with it, however it ends."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._calls: SimpleQueue[tuple[Call[T], Callable[[], T]] | None] = SimpleQueue()
        self._count = 0
        self._threads: list[threading.Thread] = []
        self.last = sys.maxsize
        """The last call that is to be begun, once one has failed: those before it are waited for."""

    def give(self, make: Callable[[], T]) -> Call[T]:
        """Have a call made by one of the threads."""
        self._count += 1
        call: Call[T] = Call(self._count)
        if len(self._threads) < self._workers:
            with contextlib.suppress(RuntimeError):  # no thread can be had: others do it
                self._start()
        if self._threads:
            self._calls.put((call, make))
        else:
            call.run(make)
        return call

    def _start(self) -> None:
        work = partial(_work, self._calls, weakref.ref(self))
        thread = threading.Thread(target=work, name=f"structchunk-worker-{len(self._threads)}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def end(self) -> None:
        """Begin no more calls, and wait for those that were begun."""
        self.last = -1
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():  # the garbage collector may call this from one of them
                thread.join()


def _work(calls: SimpleQueue[tuple[Call[T], Callable[[], T]] | None], crew_of: weakref.ref[Crew[T]]) -> None:
    while True:
        try:
            given = calls.get(timeout=IDLE)
        except Empty:
            if crew_of() is None:  # an interrupt came before it could say that there is no more
                return
            continue
        crew = crew_of()
        if given is None or crew is None:
            return
        call, make = given
        if call.number <= crew.last and not call.run(make):
            crew.last = min(crew.last, call.number)
        del given, call, make, crew  # while it waits for the next one it holds nothing


def in_order(calls: Iterable[Callable[[], T]], workers: int) -> Generator[T, None, None]:
    """Yield what calls return, in their order, while so many threads go ahead with the next ones.

    Where one raises, its turn is the last. Whether all are done, one has raised, the iterator is closed or an
    interrupt ends it: the calls in progress are waited for, and no thread stays.
    """
    if workers == 1:
        yield from (make() for make in calls)
        return
    crew: Crew[T] = Crew(workers)
    try:
        yield from _done_by(crew, calls, AHEAD * workers)
    finally:
        crew.end()


def _done_by(crew: Crew[T], calls: Iterable[Callable[[], T]], ahead: int) -> Generator[T, None, None]:
    """Yield what calls return, in their order, while so many are begun."""
    begun: deque[Call[T]] = deque()
    for make in calls:
        begun.append(crew.give(make))
        if len(begun) >= ahead:
            yield begun.popleft().wait()
    while begun:
        yield begun.popleft().wait()


def count_workers(workers: int | None) -> int:
    """Return how many threads are asked for: one for each core that this process may use, unless told."""
    if workers is None:
        has_affinity = hasattr(os, "sched_getaffinity")
        return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    count = operator.index(workers)
    if count < 1:
        raise ValueError(f"workers is {count}; it must be at least 1")
    return count
