"""What notebooks show: figures and names, as HTML that is escaped, whole and without a script."""

from __future__ import annotations

import ctypes
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from conftest import OpenDB

import structchunk as sc
from structchunk.stores import mapping

EVIL = "<script>alert('\"&')</script>"
Point = sc.Object.of(x=ctypes.c_double, name=ctypes.c_char * 8)


class Page(HTMLParser):
    """The text and tags of a page, which must all be closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        assert {name for name, _ in attrs} <= {"style", "title"}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def text_of(shown: Any) -> str:
    page = Page(shown._repr_html_())
    assert page.tags <= {"div", "b", "table", "tr", "th", "td", "span"}
    return re.sub(r"\s+", " ", page.text).strip()


def test_a_database(open_db: OpenDB) -> None:
    db = open_db(name=EVIL.replace("/", ""))
    assert text_of(db).endswith("mode a: 0 stores, 0 B on disk store type records live garbage disk chunks")
    db.array_store(EVIL, "f8").put_many(range(1000), np.ones((1000, 2)))
    db.object_store("points", Point).put(1, (1.5, b"<b>"))
    shown = text_of(db)
    assert f"{EVIL} float64[] 1,000 15.6 KiB 0 B" in shown
    assert "points Object 1 16 B 0 B" in shown
    assert shown.endswith("live garbage directory free")
    db.close()
    assert "closed" in text_of(db)


def test_many_stores_are_cut(db: sc.Database) -> None:
    with db.transaction() as txn:
        for number in range(60):
            txn.array_store(f"store {number:02}", "f8")
    shown = text_of(db)
    assert "store 49" in shown
    assert "store 50" not in shown
    assert "and 10 more" in shown


def test_stores(db: sc.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    temps, points = db.array_store("temps", "S8"), db.object_store(EVIL, Point)
    temps.put_many([1, 2, 3], [[b"<i>"]] * 3)
    temps.delete(2)
    points.put(1, (1.5, b"a"))
    for read in ("keys", "values", "items"):  # no record is read
        monkeypatch.delattr(mapping.RecordMapping, read)
    assert text_of(temps).startswith("ArrayStore temps of S8[]: 2 records, 16 B live,")
    assert 'title="garbage: 8 B"' in temps._repr_html_()
    shown = text_of(points)
    assert shown.startswith(f"ObjectStore {EVIL} of Object: 1 record, 16 B live")
    assert re.search(r"field type x float64 name \|S8 chunk file 2 [0-9.]+ [KM]iB live garbage", shown)
    with db.snapshot() as snapshot, db.transaction() as txn:
        del txn[temps][1]
        assert text_of(snapshot[temps]) == "ArrayStore temps of S8[]: 2 records"
        assert text_of(txn[temps]) == "ArrayStore temps of S8[]: 1 record"
    db.close()
    assert text_of(temps) == "<ArrayStore 'temps' of |S8, closed>"


def test_batches(db: sc.Database) -> None:
    words = db.array_store("words", "U100")
    words.put_many(range(7), [["<b>", "x" * 90, *"abcdef"]] * 7)
    shown = text_of(words.read())
    assert shown.startswith("Batch 7 records, 56 items of <U100, 21.9 KiB key length items 0 8 <b>, xxx")
    assert f"{'x' * 60}..., a, b, c, d, ..." in shown
    assert shown.endswith("and 2 more")
    points = db.object_store("points", Point)
    points.put(5, (1.5, b"<b>"))
    assert text_of(points.read()).endswith("which may change in place key length items 5 1 (1.5, b'<b>')")
    assert text_of(points.read(6)).endswith("0 B key length items")
    assert "more" not in text_of(words.read()[2:3])
