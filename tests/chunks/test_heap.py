"""The chunks of one store, those too that were replaced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import OpenDB


@pytest.mark.parametrize("is_held", [True, False])
def test_replaced_chunks_are_known_as_long_as_somebody_holds_them(open_db: OpenDB, *, is_held: bool) -> None:
    """A process that compacts again and again keeps nothing of those that nobody holds."""
    db: Any = open_db(chunk_size=16 << 10, sync=False)
    store = db.array_store("a", "i8")
    held = []
    for number in range(100):
        store.put(1, [number])
        store.put(2, [number])
        if is_held:
            held.append(db.snapshot())
        db.compact()
    heap = db._storage.heaps["a"]
    assert len(heap.retired_chunks()) == (100 if is_held else 0)
    assert is_held or len(heap._retired) < 50
    for number, snapshot in enumerate(held):
        assert snapshot["a"][1].tolist() == [number]
        snapshot.close()
    assert np.array_equal(store[1], [99])
