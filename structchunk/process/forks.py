"""Forks: what a child of ``fork()`` has copies of and must let go, as it is the parent's.

Whoever holds such a thing registers it, and none calls another: one that is still being opened, or that nothing but
the garbage collector knows, is let go as well. The newest are first, as each may rest on those made before it;
what modules keep comes after all objects.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable
from typing import Protocol
from weakref import WeakValueDictionary


class Owner(Protocol):
    """Holds what is its process's own: a lock, a descriptor, a handle."""

    def disown(self) -> None:
        """Let go of it in a forked child, without touching what is the parent's; no other thread is there."""


_owners: WeakValueDictionary[int, Owner] = WeakValueDictionary()
_numbers = itertools.count()
_calls: list[Callable[[], object]] = []


def on_fork(owner: Owner) -> None:
    """Have an object let go in a forked child, if it lives until then."""
    _owners[next(_numbers)] = owner


def call_on_fork(call: Callable[[], object]) -> None:
    """Have a module forget in a forked child what it keeps; for as long as the process lives."""
    _calls.append(call)


def _disown_all() -> None:
    """Call all, whatever one of them raises."""
    with contextlib.ExitStack() as stack:  # which begins with the last one
        for call in _calls:
            stack.callback(call)
        for owner in list(_owners.values()):
            stack.callback(owner.disown)


os.register_at_fork(after_in_child=_disown_all)
