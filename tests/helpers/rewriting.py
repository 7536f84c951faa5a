"""Moments between the batches of LevelDB in which compaction puts the rows of a large store into the index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from structchunk.index.index import Index
from structchunk.index.stored_state import REWRITING


def at_each_batch(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> list[None]:
    """Call something before each batch but the first, not while it is called; return what grows with every call."""
    calls: list[None] = []
    is_called = False

    def write(self: Index, *args: Any, real: Any = Index._write_with, **kwargs: Any) -> None:
        nonlocal is_called
        if self.unfinished and self.leveldb.get(REWRITING) is not None and not is_called:
            is_called = True
            try:
                call()
            finally:
                is_called = False
            calls.append(None)
        real(self, *args, **kwargs)

    monkeypatch.setattr(Index, "_write_with", write)
    return calls


def fail_between_batches(monkeypatch: pytest.MonkeyPatch, error: BaseException | type[BaseException]) -> None:
    """Raise an error before the second batch."""

    def fail() -> None:
        raise error

    at_each_batch(monkeypatch, fail)
