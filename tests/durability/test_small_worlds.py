"""Every short sequence of operations, and every moment at which it may be cut short."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from oracle import shrink
from recorded_files import Recorder
from small_worlds import ALPHABET, COPY, DATABASE, OTHER_COPY, Checker, World, make_base, sequences

import structchunk as sc
from structchunk.chunks.chunk import Chunk
from structchunk.engine import checkpoint
from structchunk.engine.storage import Storage
from structchunk.index.leveldb import LevelDB
from structchunk.maintenance import update

NewRoot = Callable[[], str]


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch.setattr)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with a copy."""
    root = str(tmp_path_factory.mktemp("worlds") / "base")
    make_base(root)
    return root


@pytest.mark.timeout(0)
@pytest.mark.parametrize("last", ALPHABET)
def test_small_worlds(base: str, new_root: NewRoot, seed: int, budget: float, last: str) -> None:
    """A crash in the last operation leaves a whole commit that is allowed, sound, and can be written on."""
    short, longest = ([names for names in sequences(length) if names[-1] == last] for length in (2, 3))
    drawn = random.Random(f"{seed} {last}").sample(longest, min(len(longest), max(1, round(budget))))
    checker = Checker(new_root)
    for names in [(last,), *short, *drawn]:
        checker.check(World(base, new_root()).run(names), f"{names} {seed}")
    print(f"{len(short)} of two and {len(drawn)} of three that end with {last}: {dict(checker.counts)}")
    assert checker.counts["databases"] > 0


# ---------------------------------------------------------------------- what is wrong is found

SYNCED = "synced write of LevelDB"


def is_chunk_of(name: str, operation: str, path: str) -> bool:
    return operation == "flush" and path.startswith(name) and path.endswith(".chunk")


def put_superblock_first(storage: Storage, grown: list[Chunk], real: Any = Storage._write_checkpoint) -> None:
    """Make a checkpoint of which the superblock tells before the index has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write_index", lambda *args: None)
        real(storage, grown)
    checkpoint.write_index(storage.index, grown, storage.gone, storage.next_chunk)


def unlink_first(storage: Storage, grown: list[Chunk], real: Any = Storage._write_checkpoint) -> None:
    """Unlink what a checkpoint lets go before it is made."""
    storage._unlink_gone()
    real(storage, grown)


def flush_one(storage: Storage, real: Any = Storage._flush) -> None:
    """Flush one of several chunks."""
    storage.dirty = dict([*storage.dirty.items()][:1])
    real(storage)


LOST: dict[str, tuple[Callable[[str, str], bool], tuple[str, ...]]] = {
    "of a chunk": (functools.partial(is_chunk_of, DATABASE), ("put",)),
    "of a copy's chunk": (functools.partial(is_chunk_of, OTHER_COPY), ("copy",)),
    "of an updated copy's chunk": (functools.partial(is_chunk_of, COPY), ("put", "update")),
    "of the superblock": (lambda operation, path: path == f"{DATABASE}/superblock", ("put",)),
    "of a copy's superblock": (lambda operation, path: path == f"{COPY}/superblock", ("put", "update")),
    "of the chunks' directory": (lambda operation, path: path == f"{DATABASE}/chunks", ("compact",)),
    "of a copy's chunks' directory": (lambda operation, path: path == f"{COPY}/chunks", ("compact", "update")),
    "of a copy's name": (lambda operation, path: (operation, path) == ("flush_directory", "."), ("copy",)),
    "of the index": (lambda operation, path: operation == SYNCED, ("compact",)),
}
"""Flushes, and a sequence in which it must be noticed that they are left out."""
REPLACED: dict[str, tuple[Any, str, Any, tuple[str, ...]]] = {
    "the superblock before the index": (Storage, "_write_checkpoint", put_superblock_first, ("compact",)),
    "unlinking before the checkpoint": (Storage, "_write_checkpoint", unlink_first, ("compact",)),
    "a flush of one chunk of two": (Storage, "_flush", flush_one, ("two stores",)),
    "an update in the epoch of the copy": (update, "_begin", lambda *args: None, ("put", "update")),
}
"""What is put in the place of functions, and a sequence in which that must be noticed."""


@pytest.mark.parametrize("flush", LOST)
def test_a_flush_that_is_left_out_is_noticed(base: str, new_root: NewRoot, flush: str) -> None:
    is_lost, names = LOST[flush]

    class Deaf(Recorder):
        """Takes a flush for none."""

        def _note_flushed(self, operation: str, args: tuple[Any, ...]) -> None:
            if not is_lost(operation, self._relative(args)):
                super()._note_flushed(operation, args)

        def note_synced_write(self, leveldb: LevelDB) -> None:
            if not is_lost(SYNCED, ""):
                super().note_synced_write(leveldb)

    events = World(base, new_root(), Deaf).run(names)
    with pytest.raises((AssertionError, sc.CorruptionError)):
        Checker(new_root).check(events, names)


@pytest.mark.parametrize("mutant", REPLACED)
def test_a_wrong_order_is_noticed(
    base: str, new_root: NewRoot, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    holder, name, replacement, names = REPLACED[mutant]
    with monkeypatch.context() as patch:
        patch.setattr(holder, name, replacement)
        events = World(base, new_root()).run(names)
    with pytest.raises((AssertionError, sc.CorruptionError)):
        Checker(new_root).check(events, names)
