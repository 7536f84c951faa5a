"""Publishing to a directory, for players: another one may go on at every request; and what is there.

What is published is put together from its objects alone, in the thread that asks for it: readers fetch it in
threads of their own, which no scheduler decides about.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from interleaving import Instead, Scheduler
from published import records_of
from recorded_files import Replacing

from structchunk.remote import objects
from structchunk.remote.objects import Objects, open_objects
from structchunk.remote.publications import find_newest

REQUESTS = (
    *("_put objects", "after _put objects", "drafted objects", "_put_new manifests", "drafted manifests"),
    *("after _put_new manifests", "_put newest", "drafted newest", "after _put newest", "_read newest"),
    *("_read manifests", "_read objects", "delete ", "after delete "),
)
"""Requests at which one is killed, or another goes on."""


class Requests(Replacing):
    """While entered, every request of players to a store of objects comes to their scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler

    def __enter__(self) -> Requests:
        for name in ("_put", "_put_new"):
            self._wrap(name, can_fail=True)
        for name in ("_read", "names", "size", "delete"):
            self._wrap(name)
        self._replace(Objects, "_draft", self._drafting(Objects._draft))
        self._replace(objects, "time", Instead(time, sleep=self._scheduler.sleep))
        self._replace(objects, "random", Instead(random, random=lambda: 0.5))
        return self

    def _wrap(self, name: str, *, can_fail: bool = False) -> None:
        point, request = self._scheduler.point, getattr(Objects, name)

        def wrapped(store: Objects, about: Any, *args: Any, **kwargs: Any) -> Any:
            label = f"{name} {_kind(about)}"
            point(label, can_fail=can_fail)
            result = request(store, about, *args, **kwargs)
            point(f"after {label}")
            return result

        self._replace(Objects, name, wrapped)

    def _drafting(self, draft: Callable[..., Any]) -> Callable[..., Any]:
        """Return what also comes to the scheduler between the write under another name and that of its own."""

        @contextlib.contextmanager
        def drafting(store: Objects, name: str, data: bytes) -> Iterator[str]:
            with draft(store, name, data) as path:
                self._scheduler.point(f"drafted {_kind(name)}", can_fail=True)
                yield path

        return drafting


def _kind(about: Any) -> str:
    return about.partition("/")[0] if isinstance(about, str) else ""


class Found(NamedTuple):
    """What is published: the commit, and the records of all stores."""

    commit: int
    stores: dict[str, dict[int, Any]]


def published_stores(url: str) -> Found | None:
    """Return all of the newest publication, each byte of which is right; None if there is none."""
    store = open_objects(url)
    manifest = find_newest(store)
    if manifest is None:
        return None
    records = records_of(store, manifest)
    stores = {
        name: {key: np.frombuffer(data, _type_of(name)) for key, data in rows.items()}
        for name, rows in records.items()
    }
    return Found(manifest.commit, stores)


def _type_of(name: str) -> str:
    """Return the type of a store's items."""
    return "<u8" if name == "count" or name.startswith("made") else "<u4"
