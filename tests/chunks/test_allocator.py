"""Where a transaction's records go: collected, written, exposed, and given up without a trace."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import OpenDB

import structchunk as sc
from structchunk.chunks import allocator, segment
from structchunk.disk import files


@pytest.fixture
def db(open_db: OpenDB) -> sc.Database:
    db = open_db(sync=False, chunk_size=16 << 10)
    db.array_store("a", "u1")[1] = [1] * 100
    return db


def path_of(db: sc.Database) -> str:
    heap = db._storage.heaps["a"]
    return heap.chunks[max(heap.chunks)].path


def data_of(db: sc.Database) -> bytes:
    heap = db._storage.heaps["a"]
    chunk = heap.chunks[max(heap.chunks)]
    return files.read(chunk.path, chunk.committed, 4000)


def test_small_records_are_written_at_the_commit(db: sc.Database) -> None:
    with db.transaction() as transaction:
        for key in range(10, 20):
            transaction["a"][key] = [key] * 10
        assert not any(data_of(db))
    assert [db["a"][key].tolist() for key in range(10, 20)] == [[key] * 10 for key in range(10, 20)]


def test_many_are_written_before(db: sc.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "SPILL_SIZE", 1000)
    transaction = db.transaction()
    transaction["a"].put_many(range(10, 40), np.full((30, 100), 7))
    assert data_of(db)[:1000] == bytes([7] * 1000)
    transaction.abort()
    db["a"][2] = [2]
    assert data_of(db) == bytes(4000), "what an aborted transaction stored is cleared by the next one"
    assert db["a"][2].tolist() == [2]


def test_what_was_shown_is_not_overwritten_after_an_abort(db: sc.Database) -> None:
    transaction = db.transaction()
    transaction["a"][2] = [2] * 50
    shown = transaction["a"][2]
    transaction.abort()
    db["a"].put_many([3, 4], np.full((2, 50), 9))
    assert shown.tolist() == [2] * 50
    assert db.verify() == []


def test_zeros_are_zeros_where_an_interrupted_call_has_written(db: sc.Database) -> None:
    with db.transaction() as transaction:
        transaction["a"][2] = [2] * 10
        room = transaction._stagings["a"].allocator._room(0)
        room.chunk.store(room.free, bytes([255]) * 600, 600)  # as a bulk write that was cut short
        assert not transaction["a"].new(3, 500).any()
    assert not db["a"][3].any()


def test_chunks_of_an_abort_are_removed_and_their_numbers_used_up(db: sc.Database) -> None:
    before = set(os.listdir(Path(path_of(db)).parent))
    last = db._storage.next_chunk
    transaction = db.transaction()
    transaction["a"][2] = np.ones(100_000, "u1")
    assert len(os.listdir(Path(path_of(db)).parent)) == len(before) + 1
    assert db.verify() == []
    transaction.abort()
    assert set(os.listdir(Path(path_of(db)).parent)) == before
    assert db._storage.next_chunk == last + 1


def test_a_record_whose_room_was_not_taken_is_replaced(db: sc.Database) -> None:
    """An interrupt may come between the bytes of a record and its room."""
    with db.transaction() as transaction:
        transaction["a"][2] = [2] * 10
        room = next(iter(transaction._stagings["a"].allocator.rooms.values()))
        room.pending[room.free] = b"lost" * 100
        transaction["a"][3] = [3] * 10
        room.pending[room.free] = b"lost"
    assert db["a"].get_many([2, 3]).values.tolist() == [2] * 10 + [3] * 10


def test_no_segment_has_more_rows_than_are_read(
    db: sc.Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in (allocator, segment):
        monkeypatch.setattr(module, "MOST_ROWS", 50)
    a = db["a"]
    a.put_many(range(1000, 1120), np.full((120, 3), 7))
    a.put_many(range(2000, 2120), np.zeros((120, 0)))
    with db.transaction() as transaction:
        for key in range(3000, 3120):
            transaction["a"][key] = [key % 7]
        transaction["a"].new(4000, 20_000)[:] = 4  # larger than a chunk
        transaction["a"].put_many(range(5000, 5060), np.ones((60, 1)))
    assert a.delete_many(range(1000, 1060)) == 60
    assert a.delete_range(2000, 2060) == 60
    expected = {key: value.tolist() for key, value in a.items()}
    assert len(expected) == 1 + 60 + 60 + 120 + 1 + 60
    db.sync()
    check_rows(db)
    db.compact()
    check_rows(db)
    assert {key: value.tolist() for key, value in a.items()} == expected
    db.close()
    sc.rebuild_index(tmp_path / "test.sc")
    with sc.open(tmp_path / "test.sc") as again:
        assert {key: value.tolist() for key, value in again["a"].items()} == expected


def check_rows(db: sc.Database) -> None:
    assert db.verify() == []
    chunks = db._storage.heaps["a"].chunks.values()
    counts = [len(part.run) for chunk in chunks for part in chunk.segments()]
    assert max(counts) <= 50


def test_a_chunk_that_is_full_is_followed_by_one_with_room_for_the_whole_record(db: sc.Database) -> None:
    """And not by an empty one before it."""
    db["a"][2] = [2] * 4000
    before = db._storage.next_chunk
    with db.transaction() as transaction:
        transaction["a"].append(2, np.full(100_000, 3, "u1"))
        room = transaction._stagings["a"].allocator._room(0)
        room.limit = room.free
    assert db["a"][2].tolist() == [2] * 4000 + [3] * 100_000
    assert db._storage.next_chunk == before + 1
