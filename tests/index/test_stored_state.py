"""What the index says of the database as a whole, as LevelDB has it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from structchunk.index import stored_state
from structchunk.index.stored_state import CATALOG, CatalogWriter

entries = st.fixed_dictionaries({"store": st.integers(0, 5), "schema": st.text(max_size=3)})


@given(st.lists(st.dictionaries(st.text(max_size=2), entries, max_size=4), max_size=5))
def test_the_text_of_a_catalog_is_its_json_whatever_was_written_before(catalogs: list[dict[str, Any]]) -> None:
    writer = CatalogWriter()
    before: dict[str, Any] = {}
    for catalog in catalogs:
        for each in (catalog, before | catalog):
            assert writer.pair(each) == (CATALOG, json.dumps(each).encode())
        before = catalog


def test_an_entry_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []

    def dumps(value: Any) -> str:
        encoded.append(value)
        return json.dumps(value)

    writer, first, second = CatalogWriter(), {"store": 1}, {"store": 2}
    monkeypatch.setattr(stored_state, "json", SimpleNamespace(dumps=dumps))
    writer.pair({"a": first})
    writer.pair({"a": first, "b": second})
    writer.pair({"b": second})
    assert encoded == [{"a": first}, {"b": second}]
