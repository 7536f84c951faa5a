"""What finalisers leave to be done: they may interrupt any call, whose locks they must not wait for."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable

_left: deque[Callable[[], object]] = deque()


def leave(call: Callable[[], object]) -> None:
    """Have the next ordinary call of this process do something; it takes no lock."""
    _left.append(call)


def clear() -> None:
    """Do what finalisers have left. What fails is let be: there is nobody to tell."""
    with contextlib.suppress(IndexError):
        while True:
            call = _left.popleft()
            with contextlib.suppress(Exception):
                call()


def disown() -> None:
    """Forget all of it in a forked child, where it is the parent's."""
    _left.clear()
