"""Attributes of databases and stores: where they go along, and where they do not show."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

import structchunk as sc
from structchunk.chunks.heap import ATTRIBUTES
from structchunk.database.attribute_records import read_text

VALUES: dict[str, Any] = {"unit": "K", "of": [1, 2.5, None, True], "by": {"name": "Ä\0", "n": 2**70}, "": ""}


def check_attributes(attrs: Any) -> None:
    """Check all that a mapping of attributes does; it is empty at first, and in the end."""
    assert isinstance(attrs, MutableMapping)
    assert isinstance(attrs, sc.Attributes)
    assert (len(attrs), list(attrs), dict(attrs), bool(attrs), attrs == {}) == (0, [], {}, False, True)
    for name in ("a", "", 5):
        with pytest.raises(sc.KeyNotFound, match="no attribute"):
            attrs[name]
        with pytest.raises(KeyError):
            del attrs[name]
        assert name not in attrs
    attrs["b"] = 1
    attrs["a"] = [1, {"x": None}]
    attrs.update({"c": 2.5}, d="d")
    attrs.update([("e", True)])
    attrs["b"] = 2
    model = {"b": 2, "a": [1, {"x": None}], "c": 2.5, "d": "d", "e": True}
    assert list(attrs.items()) == list(model.items())
    assert (list(attrs), list(attrs.values()), list(attrs.keys())) == (
        list(model),
        list(model.values()),
        list(model),
    )
    assert attrs == model
    assert repr(attrs) == f"<Attributes {model}>"
    attrs["a"].append(5)
    assert attrs["a"] == [1, {"x": None}]
    check_refusals(attrs, model)
    assert (attrs.get("b"), attrs.get("z"), attrs.get("z", 3)) == (2, None, 3)
    assert (attrs.setdefault("b", 7), attrs.setdefault("f", [7])) == (2, [7])
    assert (attrs.pop("f"), attrs.pop("f", 8), attrs.popitem()) == ([7], 8, ("e", True))
    del attrs["a"]
    assert attrs == {"b": 2, "c": 2.5, "d": "d"}
    attrs.clear()
    attrs.clear()
    with pytest.raises(sc.KeyNotFound, match="no attributes"):
        attrs.popitem()
    assert dict(attrs) == {}


def check_refusals(attrs: Any, model: dict[str, Any]) -> None:
    for value in (float("nan"), (1,), b"x", {1: 2}, object(), "\ud800"):
        for change in (
            lambda value=value: attrs.update(x=1, y=value),
            lambda value=value: attrs.__setitem__("x", value),
            lambda value=value: attrs.setdefault("x", value),
        ):
            with pytest.raises((TypeError, ValueError), match=r"attribute\['"):
                change()
    for name in (1, b"x", None):
        with pytest.raises(TypeError, match="an attribute's name is text"):
            attrs[name] = 1
    assert attrs == model


def test_of_a_database(db: sc.Database) -> None:
    check_attributes(db.attrs)
    before = db.last_commit
    db.attrs["a"] = 1
    assert db.last_commit == before + 1


def test_of_stores(db: sc.Database) -> None:
    store, other = db.array_store("temps", "f8"), db.array_store("other", "f8")
    check_attributes(store.attrs)
    store.attrs["a"] = 1
    other.attrs["a"] = 2
    db.attrs["a"] = 3
    assert [store.attrs["a"], other.attrs["a"], db.attrs["a"]] == [1, 2, 3]


def test_of_a_transaction(db: sc.Database) -> None:
    store = db.array_store("temps", "f8")
    with db.transaction() as txn:
        check_attributes(txn.attrs)
        check_attributes(txn["temps"].attrs)
        made = txn.array_store("made", "f8")
        check_attributes(made.attrs)
        made.attrs["a"] = 1
        txn["temps"].attrs.update(VALUES)
        txn.attrs["a"] = 2
        assert dict(db.attrs) == dict(store.attrs) == {}
    assert (dict(db["made"].attrs), dict(store.attrs), dict(db.attrs)) == ({"a": 1}, VALUES, {"a": 2})
    with pytest.raises(sc.ClosedError):
        made.attrs["a"]
    with pytest.raises(sc.ClosedError):
        made.attrs["a"] = 1
    with pytest.raises(sc.ClosedError):
        dict(txn.attrs)


def test_aborted(db: sc.Database) -> None:
    """With the store that has them, and without."""
    store = db.array_store("temps", "f8")
    for kept in ({}, {"a": 1}):
        with pytest.raises(RuntimeError), db.transaction() as txn:
            txn.attrs["b"] = 1
            txn["temps"].attrs["a"] = 2
            assert txn["temps"].attrs["a"] == 2
            raise RuntimeError
        assert (dict(store.attrs), dict(db.attrs)) == (kept, {})
        store.attrs["a"] = 1


def test_of_snapshots_and_readers(db: sc.Database) -> None:
    db.array_store("temps", "f8").attrs["a"] = 1
    with db.snapshot() as snapshot, sc.open(db.path, "r") as reader:
        db["temps"].attrs["a"] = 2
        db.attrs["b"] = 3
        db.compact()
        assert (dict(snapshot.attrs), dict(snapshot["temps"].attrs)) == ({}, {"a": 1})
        theirs = reader["temps"].attrs
        assert dict(theirs) == {"a": 1}
        reader.refresh()
        assert (dict(theirs), dict(reader.attrs)) == ({"a": 2}, {"b": 3})
        for attrs in (snapshot.attrs, snapshot["temps"].attrs, reader.attrs, theirs):
            for change in (lambda attrs=attrs: attrs.update(a=1), attrs.clear, lambda attrs=attrs: attrs.pop("a")):
                with pytest.raises(sc.ReadOnlyError):
                    change()
        unpickled = pickle.loads(pickle.dumps(reader["temps"]))
        assert dict(unpickled.attrs) == {"a": 2}
    with pytest.raises(sc.ClosedError):
        dict(snapshot.attrs)


def test_closed(db: sc.Database) -> None:
    attrs = db.attrs
    db.close()
    assert "closed" in repr(attrs)
    for use in (lambda: dict(attrs), lambda: attrs.update(a=1)):
        with pytest.raises(sc.ClosedError):
            use()


def test_of_a_dropped_store(db: sc.Database) -> None:
    store = db.array_store("temps", "f8")
    store.attrs["a"] = 1
    db.drop_store("temps")
    for use in (lambda: dict(store.attrs), lambda: store.attrs.update(a=1)):
        with pytest.raises(sc.StoreNotFound):
            use()
    assert dict(db.array_store("temps", "f8").attrs) == {}
    internal = db._storage.heaps[ATTRIBUTES]
    assert db._storage.index.record_count(internal.store) == 0


def test_an_altered_store_keeps_them(db: sc.Database) -> None:
    db.array_store("temps", "f4").attrs.update(VALUES)
    db.alter_store("temps", "f8")
    assert dict(db["temps"].attrs) == VALUES
    sc_path = db.path
    db.close()
    sc.rebuild_index(sc_path)
    with sc.open(sc_path) as again:
        assert dict(again["temps"].attrs) == VALUES


def test_they_survive(db: sc.Database, tmp_path: Path) -> None:
    """Reopening, a lost index, copies, copies brought forward, compaction."""
    db.array_store("temps", "f8").attrs.update(VALUES)
    db.attrs.update(VALUES)
    db.checkpoint(tmp_path / "copy.sc")
    db.attrs["more"] = 1
    db.checkpoint(tmp_path / "copy.sc", update=True)
    db.compact()
    path = db.path
    db.close()
    sc.rebuild_index(path)
    for root in (path, tmp_path / "copy.sc"):
        with sc.open(root, "r+") as again:
            assert (dict(again["temps"].attrs), dict(again.attrs)) == (VALUES, {**VALUES, "more": 1})
            assert again.verify() == []


def test_shared_handles(tmp_path: Path) -> None:
    path = tmp_path / "a.sc"
    with sc.open(path, shared=True) as one, sc.open(path, shared=True) as other:
        check_attributes(one.attrs)
        one.attrs["a"] = 1
        other.attrs["b"] = 2
        other.array_store("temps", "f8").attrs["c"] = 3
        assert (dict(one.attrs), dict(one["temps"].attrs)) == ({"a": 1, "b": 2}, {"c": 3})
        assert one.verify() == []


def test_of_many_threads(db: sc.Database) -> None:
    """No change of one is lost with that of another."""

    def work(number: int) -> None:
        for count in range(5):
            db.attrs[f"{number} {count}"] = count

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(db.attrs) == 20


# ---------------------------------------------------------------------- where they do not show


def test_nothing_shows_where_they_are(db: sc.Database) -> None:
    db.array_store("temps", "f8")[1] = [1]
    since = db.last_commit
    db.attrs["a"] = 1
    with db.transaction() as txn:
        assert (list(txn), "" in txn) == (["temps"], False)
        txn.attrs["b"] = 1
    with db.snapshot() as snapshot:
        for handle in (db, snapshot):
            assert (list(handle), "" in handle) == (["temps"], False)
            with pytest.raises(sc.StoreNotFound):
                handle[""]
        assert "1 stores" in repr(snapshot)
    assert (len(db), list(db.stats())) == (1, ["temps"])
    assert [report.name for report in db.compact()] == ["temps"]
    assert list(db.changes(since, "temps")) == []
    for use in (
        lambda: db.drop_store(""),
        lambda: db.array_store("", "u1"),
        lambda: db.compact(""),
        lambda: db.changes(0, ""),
        lambda: list(db.scan("")),
    ):
        with pytest.raises((sc.StoreNotFound, ValueError)):
            use()


def test_in_a_transaction_that_makes_them(db: sc.Database) -> None:
    with db.transaction() as txn:
        txn.attrs["a"] = 1
        assert (list(txn), "" in txn) == ([], False)
        with pytest.raises(sc.StoreNotFound):
            txn[""]


def test_the_feed_passes_over_them(db: sc.Database) -> None:
    db.array_store("temps", "f8")[1] = [1]
    db.attrs["a"] = 1
    with db.transaction() as txn:
        txn["temps"][2] = [1]
        txn.attrs["a"] = 2
    assert [(change.store, change.kind) for change in db.changes(0)] == [
        ("temps", "created"),
        *[("temps", "records")] * 2,
    ]
    last = db.last_commit
    db.compact()
    assert list(db.changes(db.last_commit)) == list(db.changes(last)) == []
    with pytest.raises(sc.HistoryLost):
        db.changes(0)


def test_compacted_attributes_are_lost_to_the_feed(db: sc.Database) -> None:
    """Of a commit of which a part is gone nobody knows whether a record was changed in it."""
    for value in range(3):
        db.attrs["a"] = value
    db.array_store("temps", "f8")[1] = [1]
    db.attrs["b"] = 1
    db.compact()
    with pytest.raises(sc.HistoryLost, match="of attributes up to commit 6"):
        db.changes(5)
    assert not list(db.changes(6))


def test_who_has_none_pays_nothing(db: sc.Database) -> None:
    db.array_store("temps", "f8")[1] = [1]
    assert (dict(db.attrs), dict(db["temps"].attrs)) == ({}, {})
    db.attrs.clear()
    db.attrs.pop("a", None)
    with db.transaction() as txn:
        txn.attrs.clear()
    assert ATTRIBUTES not in db._storage.heaps
    assert len(list(Path(db.path, "chunks").iterdir())) == 1


def test_the_record_is_json(db: sc.Database) -> None:
    """As whoever reads the chunk file finds it: by the id of the store, 0 for the database."""
    db.array_store("temps", "f8").attrs["a"] = "Ä"
    db.attrs["b"] = [1]
    heap = db._storage.heaps[ATTRIBUTES]
    index = db._storage.index.store_index(heap.store)
    texts = [read_text(heap, lambda key=key: index.find(key)) for key in (db._storage.heaps["temps"].store, 0)]
    assert texts == ['{"a":"Ä"}'.encode(), b'{"b":[1]}']
    (chunk,) = heap.chunks.values()
    assert chunk.header.about == {"name": "", "kind": "array", "schema": {"kind": "array", "type": "|u1"}}


def test_what_is_damaged_is_said(db: sc.Database) -> None:
    db.attrs["a"] = 1
    with db.transaction() as txn:
        txn._put_attribute_text(0, b"[1]")
    with pytest.raises(sc.CorruptionError, match="attributes that cannot be read"):
        db.attrs["a"]
    assert "cannot be read" in repr(db.attrs)
    assert "cannot be read" in db._repr_html_()
    with db.transaction() as txn:
        txn._put_attribute_text(0, json.dumps({}).encode())


def test_notebooks(db: sc.Database) -> None:
    db.array_store("temps", "f8").attrs["<unit>"] = "<b>"
    db.attrs["<from>"] = ["<i>"]
    assert "&lt;from&gt;" in db._repr_html_()
    assert "&lt;i&gt;" in db._repr_html_()
    assert "&lt;unit&gt;" in db["temps"]._repr_html_()
    assert '<b>"' not in db["temps"]._repr_html_()
