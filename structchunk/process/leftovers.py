"""Work that is left to the next call: by finalisers, which must not wait for locks, and by interrupted calls."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable

from . import forks

_left: deque[Callable[[], object]] = deque()


def leave(call: Callable[[], object]) -> None:
    """Have the next ordinary call of this process do something; it takes no lock."""
    _left.append(call)


def finish(call: Callable[[], object]) -> None:
    """Do something now, or have the next call do it if this is cut short."""
    try:
        call()
    except BaseException:
        leave(call)
        raise


def clear() -> None:
    """Do what was left. Errors are ignored, for it was another call that they belong to."""
    with contextlib.suppress(IndexError):
        while True:
            call = _left.popleft()
            with contextlib.suppress(Exception):
                call()


forks.call_on_fork(_left.clear)
