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
    """One call, which the first thread that begins it makes.

    Who waits for it is woken by a lock, which an interrupt leaves as it is.
    """

    def __init__(self, number: int, function: Callable[[], T]) -> None:
        self.number = number
        self.error: BaseException | None = None
        self._function = [function]
        self._value: list[T] = []
        self._done = threading.Lock()
        self._done.acquire()

    def begin(self) -> Callable[[], T] | None:
        """Return what is to be called, to the first thread that asks for it."""
        try:
            return self._function.pop()
        except IndexError:
            return None

    def run(self, function: Callable[[], T]) -> None:
        """Make the call."""
        try:
            self._value.append(function())
        except BaseException as error:
            self.error = error
        finally:
            self._done.release()

    def is_done(self) -> bool:
        """Tell whether the call has returned, or raised."""
        return not self._done.locked()

    def wait(self) -> T:
        """Return what the call returned, once it has, or raise what it raised; it keeps neither."""
        self._done.acquire()
        error, self.error = self.error, None
        if error is None:
            return self._value.pop()
        try:
            raise error
        finally:
            del error  # else its traceback would hold this frame, which holds it


class Crew(Generic[T]):
    """Threads that make calls in the order in which they are given. They end with it, however it ends."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._calls: SimpleQueue[Call[T] | None] = SimpleQueue()
        self._count = 0
        self._threads: list[threading.Thread] = []
        self._last = sys.maxsize  # that is to be begun, once one has failed: those before it are waited for
        self._has_ended = False

    def give(self, function: Callable[[], T]) -> Call[T]:
        """Have a call made by one of the threads, or by who waits for it."""
        self._count += 1
        call: Call[T] = Call(self._count, function)
        if len(self._threads) < self._workers:
            with contextlib.suppress(RuntimeError):  # no thread can be had: others do it
                self._start()
        if self._threads:
            self._calls.put(call)
        return call

    def run(self, call: Call[T]) -> bool:
        """Make a call, unless another thread has begun it or one before it has failed; tell whether it was made."""
        function = None if self._has_ended or call.number > self._last else call.begin()
        if function is None:
            return False
        call.run(function)
        if call.error is not None:
            self._last = min(self._last, call.number)
        return True

    def _start(self) -> None:
        work = partial(_work, self._calls, weakref.ref(self))
        thread = threading.Thread(target=work, name=f"structchunk-worker-{len(self._threads)}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def end(self) -> None:
        """Begin no more calls, and wait for those that were begun."""
        self._has_ended = True
        self._calls.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():  # the garbage collector may call this from one of them
                thread.join()


def _work(calls: SimpleQueue[Call[T] | None], crew_of: weakref.ref[Crew[T]]) -> None:
    while True:
        try:
            call = calls.get(timeout=IDLE)
        except Empty:
            if crew_of() is None:  # an interrupt came before it could say that there is no more
                return
            continue
        crew = crew_of()
        if call is None or crew is None:
            calls.put(None)  # for the next thread, of which the crew may not know: an interrupt came as it began
            return
        crew.run(call)
        del call, crew  # while it waits for the next one it holds nothing


def in_order(calls: Iterable[Callable[[], T]], workers: int) -> Generator[T, None, None]:
    """Yield what calls return, in their order, while so many threads go ahead with the next ones.

    Who asks for a result is one of these threads: until that is there it makes other calls, and a KeyboardInterrupt
    in one of those comes at once. What else a call raises comes in its turn, which is the last. Whether all are
    done, one has raised, the iterator is closed or an interrupt ends it: the calls in progress are waited for, and
    no thread stays.
    """
    if workers == 1:
        yield from (function() for function in calls)
        return
    crew: Crew[T] = Crew(workers - 1)
    try:
        yield from _done_by(crew, calls, AHEAD * workers)
    finally:
        crew.end()


def _done_by(crew: Crew[T], calls: Iterable[Callable[[], T]], ahead: int) -> Generator[T, None, None]:
    """Yield what calls return, in their order, while so many are begun."""
    begun: deque[Call[T]] = deque()
    for function in calls:
        begun.append(crew.give(function))
        if len(begun) >= ahead:
            yield _first_of(begun, crew)
    while begun:
        yield _first_of(begun, crew)


def _first_of(begun: deque[Call[T]], crew: Crew[T]) -> T:
    """Remove the first of some calls, and return what it returned; make others while it is not done."""
    while not begun[0].is_done():
        made = next(filter(crew.run, begun), None)
        if made is None:
            break
        if isinstance(made.error, KeyboardInterrupt):
            return made.wait()  # which raises it
    return begun.popleft().wait()


def count_workers(workers: int | None) -> int:
    """Return how many threads are asked for: one for each core that this process may use, unless told."""
    if workers is None:
        has_affinity = hasattr(os, "sched_getaffinity")
        return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    count = operator.index(workers)
    if count < 1:
        raise ValueError(f"workers is {count}; it must be at least 1")
    return count
