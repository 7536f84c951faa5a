"""Reference cycles that hold what must be closed, and objects of the user's that call the store when they go."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from operations import Scene, sets
from oracle import CHUNK_SIZE, Point

import structchunk as sc

LAST_KEY = 950
"""What a finaliser stores."""


class Ring:
    """A cycle, which only the garbage collector frees."""

    def __init__(self, *held: Any) -> None:
        self._held = held
        self._ring = self


class Last:
    """Does something when it goes, in a cycle."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self._ring = self

    def __del__(self) -> None:
        self._act()


def readings(scene: Scene) -> None:
    """Leave a snapshot, and range reads in their middle."""
    if scene.db is not None:
        snapshot = scene.db.snapshot()
        scan = snapshot["floats"].scan(batch_size=5)
        items = iter(scene.db["floats"].items())
        cursor = scene.db["points"].cursor()
        Ring(snapshot, next(scan), scan, next(items), items, cursor.first(), cursor)


def a_reader(scene: Scene) -> None:
    """Leave a database that is open for reading, with a range read in its middle."""
    if os.path.exists(os.path.join(scene.root, "superblock")):
        reader = scene.open("r")
        snapshot = reader.snapshot()
        items = iter(snapshot["floats"].items())
        Ring(reader, snapshot, next(items), items)


def other_path(scene: Scene) -> str:
    """Return where another database is."""
    return f"{scene.root}-other"


def a_writer(scene: Scene) -> None:
    """Leave another database, open for writing, with a transaction that has not ended."""
    other = sc.open(other_path(scene), chunk_size=CHUNK_SIZE, sync=False)
    other.array_store("kept", "u1")[1] = [1]
    transaction = other.transaction()
    transaction["kept"].put_many([2, 3], [[2] * 9000, [3] * 9000])
    transaction.array_store("dropped", "f8")
    Ring(other, transaction)


def check_writer(scene: Scene) -> None:
    """Raise unless the other database is as it was before its transaction."""
    with sc.open(other_path(scene), "r+") as other:
        assert list(other) == ["kept"]
        assert list(other["kept"]) == [1]
        assert other.verify() == []


def a_writer_kept_by_an_error(scene: Scene) -> None:
    """Leave another database and its transaction in the frames of an error."""
    try:
        _raise_in_transaction(scene)
    except ZeroDivisionError as error:
        Ring(error)


def _raise_in_transaction(scene: Scene) -> None:
    other = sc.open(other_path(scene), chunk_size=CHUNK_SIZE, sync=False)
    other.array_store("kept", "u1")[1] = [1]
    transaction = other.transaction()
    transaction["kept"].put(2, [1 // 0])


def reading_last(scene: Scene) -> None:
    """Leave an object that reads when it goes."""
    if scene.db is not None:
        db = scene.db

        def read() -> None:
            db["points"].get(3)
            len(db["floats"])
            list(db["bytes"].items())
            db["floats"].get_many([1, 2])

        Last(read)


def writing_last(scene: Scene) -> None:
    """Leave an object that stores when it goes."""
    if scene.db is not None:
        db = scene.db

        def write() -> None:
            db["points"].put(LAST_KEY, Point(6, 6))
            scene.meanwhile.append(sets("points", LAST_KEY, bytes(Point(6, 6))))

        Last(write)


def syncing_last(scene: Scene) -> None:
    """Leave an object that asks for a checkpoint, and another thread, when it goes."""
    if scene.db is not None:
        db = scene.db

        def bring() -> None:
            threading.Thread(target=db.verify, daemon=True).start()
            db.sync()

        Last(bring)


def closing_last(scene: Scene) -> None:
    """Leave an object that closes the database when it goes."""
    if scene.db is not None:
        Last(scene.db.close)


GARBAGE: dict[str, Callable[[Scene], None]] = {
    made.__name__: made
    for made in (
        *(readings, a_reader, a_writer, a_writer_kept_by_an_error),
        *(reading_last, writing_last, syncing_last, closing_last),
    )
}
