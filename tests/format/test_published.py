"""Every structure that is published, to the byte as it is before gzip packs it: what is read back is the same.

That each is refused with each field damaged, ``remote/test_manifest.py`` shows.
"""

from __future__ import annotations

import base64
import copy
import gzip
import json

import numpy as np
import pytest
from support import UUID, rows_of
from test_format import ABOUT, HEADER, ROWS, SHORT_FORMS

import structchunk as sc
from structchunk.index.drop_notes import Note
from structchunk.remote.layout import Extent, Layout
from structchunk.remote.manifest import (
    Earlier,
    Manifest,
    Object,
    PublishedChunk,
    pack_newest,
    parse_manifest,
    parse_newest,
)
from structchunk.remote.rows import anew, entry_of, pack_entries, parse_entries
from structchunk.runs.run import ArrayRun

WHERE = "s3://bucket/name"
NOTE = Note(290, 4, {**ABOUT, "history": [17, 20]})
CATALOG = {"temps": {"store": 5, "kind": "array", "schema": ABOUT["schema"]}}
CHUNK = PublishedChunk(
    header=HEADER,
    header_bytes=HEADER.pack(),
    layout=Layout(4096, 65536, 4104, 12288, 65000),
    live=(3, 7776),
    flags=2,
    end=0xDEADBEEF,
    extents=(Extent(1, 1, 11, 16), Extent(2, 1, 0, 0), Extent(15, 1, 12, 4104)),
    crcs=np.array([1, 0x01020304, 0xFFFFFFFF], "<u4"),
)
MANIFEST = Manifest(
    database=UUID,
    number=7,
    token="00ff00ff00ff00ff",
    commit=300,
    epoch=2,
    next_chunk=17,
    next_object=14,
    created=1_700_000_000_123_456_789,
    exclusive=True,
    catalog=CATALOG,
    notes=(NOTE,),
    objects={
        11: Object(11, "objects/0000000006-ab-00000011", "data", 5000, 0xDEADBEEF),
        12: Object(12, "objects/0000000007-cd-00000012", "data", 6000, 1),
        13: Object(13, "objects/0000000007-cd-00000013", "rows", 90, 2),
    },
    rows=(13,),
    chunks={7: CHUNK},
    earlier=(Earlier(5, 280, "ef"), Earlier(6, 290, "ab")),
)
MANIFEST_GOLDEN = (
    '{"format":1,"database":"000102030405060708090a0b0c0d0e0f","number":7,"token":"00ff00ff00ff00ff",'
    '"commit":300,"epoch":2,"next_chunk":17,"next_object":14,"created":1700000000123456789,"exclusive":true,'
    '"catalog":{"temps":{"store":5,"kind":"array","schema":{"kind":"array","type":"<f8"}}},'
    '"notes":[[290,4,{"name":"temps","kind":"array","schema":{"kind":"array","type":"<f8"},"history":[17,20]}]],'
    '"objects":[[11,"objects/0000000006-ab-00000011","data",5000,3735928559],'
    '[12,"objects/0000000007-cd-00000012","data",6000,1],'
    '[13,"objects/0000000007-cd-00000013","rows",90,2]],'
    '"rows":[13],'
    '"chunks":[{"id":7,"store":5,"block":4096,"free":12288,"directory":65000,'
    f'"header":"{base64.b64encode(HEADER.pack()).decode()}",'
    '"live":[3,7776],"flags":2,"end":3735928559,"extents":[[1,1,11,16],[2,1,0,0],[15,1,12,4104]],'
    '"crcs":"AQAAAAQDAgH/////"}],'
    '"earlier":[[5,280,"ef"],[6,290,"ab"]]}'
)
DOCUMENT = json.loads(MANIFEST_GOLDEN)


def test_manifest() -> None:
    assert gzip.decompress(MANIFEST.pack()).decode() == MANIFEST_GOLDEN


def test_manifest_round_trip() -> None:
    parsed = parse_manifest(gzip.compress(MANIFEST_GOLDEN.encode()), WHERE)
    (chunk,) = parsed.chunks.values()
    assert parsed._replace(chunks={}) == MANIFEST._replace(chunks={})
    assert chunk._replace(crcs=CHUNK.crcs) == CHUNK
    assert chunk.crcs.tolist() == CHUNK.crcs.tolist()


@pytest.mark.parametrize(
    ("of_chunk", "key"),
    [*((False, key) for key in DOCUMENT), *((True, key) for key in DOCUMENT["chunks"][0])],
)
def test_a_manifest_with_a_renamed_key_is_refused(key: str, *, of_chunk: bool) -> None:
    about = copy.deepcopy(DOCUMENT)
    renamed = about["chunks"][0] if of_chunk else about
    renamed["renamed"] = renamed.pop(key)
    with pytest.raises(sc.CorruptionError, match=key):
        parse_manifest(gzip.compress(json.dumps(about).encode()), WHERE)


def test_newest() -> None:
    assert pack_newest(7) == b'{"number": 7}'
    assert parse_newest(b'{"number": 7}', WHERE) == 7


ROW_OBJECT_GOLDEN = bytes.fromhex(
    "5354525543544958"  # STRUCTIX
    "05000000 00010000 0000000000000000"  # store, form ALL and all that was before counts no more, row count
    "05000000 00000000 0200000000000000"
    "0100000000000000 0810000000000000 0300000000000000 07000000 00000000"
    "ffffffffffffffff 0000000000000000 0000000000000000 07000000 01000000"
    "06000000 01000000 0300000000000000"  # form KEYS
    "0810000000000000 0100000000000000 07000000 02000000"
    "0100000000000000 0200000000000000 ffffffffffffffff 0000000000000000 0000000000000000"
    "06000000 02000000 0300000000000000"  # form EVEN
    "0810000000000000 0100000000000000 07000000 00000000"
    "0500000000000000 0300000000000000 0000000000000000 0000000000000000 0000000000000000"
)


def test_rows() -> None:
    rows = {5: [(1, 4104, 3, 7, 0), (2**64 - 1, 0, 0, 7, 1)]}
    regular = [found for found, _ in SHORT_FORMS.values()]
    entries = [anew(5), entry_of(5, ArrayRun(rows_of(rows[5])), 24)]
    entries += [entry_of(6, ArrayRun(rows_of(found)), 24) for found in regular]
    assert rows_of(rows[5]).tobytes() == ROWS
    assert gzip.decompress(pack_entries(entries)) == ROW_OBJECT_GOLDEN
    parsed = parse_entries(gzip.compress(ROW_OBJECT_GOLDEN), WHERE)
    assert [(entry.store, entry.is_anew) for entry in parsed] == [(5, True), (5, False), (6, False), (6, False)]
    assert [entry.run(24, WHERE).rows.tolist() for entry in parsed] == [[], rows[5], *regular]
