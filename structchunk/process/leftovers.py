"""What is left for the next call to do: by finalisers, which must not wait for locks, and by what was cut short."""

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
    """Do what finalisers have left. What fails is let be: there is nobody to tell."""
    with contextlib.suppress(IndexError):
        while True:
            call = _left.popleft()
            with contextlib.suppress(Exception):
                call()


forks.call_on_fork(_left.clear)
