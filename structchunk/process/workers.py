"""Workers: calls that threads make one after another, and that others wait for. For calls that wait for a network.

A signal handler, or an interrupt, may cut short whoever puts a job in or waits for one, at any instant: the job is
made all the same, and who waits for it next finds it, or puts it in again. Threads end when there is nothing to do,
and never keep the interpreter from ending.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from . import forks

IDLE = 5.0
"""Seconds after which a thread ends that had nothing to do."""
_LOOK = 0.5
"""Seconds after which who waits looks whether there is still a thread to wait for."""


class Job:
    """A call that is made once, by a thread of its own kind, whoever waits for it.

    Attributes
    ----------
    is_done : bool
    """

    def __init__(self, call: Callable[[], object]) -> None:
        self._call: Callable[[], object] | None = call
        self._claim = threading.Lock()
        self._latch = threading.Lock()
        self._latch.acquire()
        self._error: BaseException | None = None
        self.is_done = False
        self.is_queued = False

    def run(self) -> None:
        """Make the call, unless it is made already. Not for the main thread, which may be interrupted."""
        call = self._call
        if call is None or not self._claim.acquire(blocking=False):
            return
        try:
            call()
        except BaseException as error:
            self._error = error
        self._call = None
        self.is_done = True
        self._latch.release()

    def pause(self, seconds: float) -> None:
        """Wait until the call is made, or some time."""
        if self._latch.acquire(timeout=seconds):
            self._latch.release()  # if an interrupt comes before this, others find that it is done

    def check(self) -> None:
        """Raise what the call has raised."""
        if self._error is not None:
            raise self._error


_NOTHING = Job(lambda: None)


class Workers:
    """Threads that make calls, in the order in which they are put in.

    Parameters
    ----------
    most : int
        How many calls go on at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._queue: SimpleQueue[Job] = SimpleQueue()
        self._lock = threading.Lock()
        self._count = 0
        forks.on_fork(self)

    def put(self, job: Job) -> None:
        """Have a call made."""
        self._queue.put(job)
        job.is_queued = True
        self._hire()

    def wait(self, job: Job) -> None:
        """Wait until a call is made, and raise what it has raised."""
        while not job.is_done:
            if not job.is_queued:  # whoever meant to put it in was interrupted
                self.put(job)
            if not self._hire():
                job.run()
            job.pause(_LOOK)
        job.check()

    def _hire(self) -> bool:
        """Begin another thread if there is more to do; return whether there is any."""
        with self._lock:
            if self._count < self._most and not self._queue.empty():
                try:
                    _thread.start_new_thread(self._work, ())
                except RuntimeError:  # no thread can be had, or the interpreter is about to exit
                    return self._count > 0
                self._count += 1
        return True

    def _work(self) -> None:
        while True:
            try:
                job = self._queue.get(timeout=IDLE)
            except Empty:
                with self._lock:  # who puts one in sees that this thread is there, or that it has gone
                    if self._queue.empty():
                        self._count -= 1
                        if self._count:
                            # Before Python 3.13 one whose time is up just when another one has taken what woke it
                            # waits for ever, or until the next is put in.
                            self._queue.put(_NOTHING)
                        return
            else:
                job.run()

    def disown(self) -> None:
        """Begin anew in a forked child, where no thread is."""
        self._queue, self._lock, self._count = SimpleQueue(), threading.Lock(), 0
