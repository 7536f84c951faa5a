"""What LevelDB has of a database as a whole: last commit, checkpoint, catalog, chunks. It keeps no state itself.

LevelDB keys, big-endian numbers (``store_keys.py`` has the two regions of a store)::

    M last          u8 last commit
    M checkpoint    16s database uuid, u4 format version, u4 next chunk id, u8 checkpoint, u8 its batch
    M catalog       JSON: {name: {"store": id, "kind": ..., "schema": ...}}
    M rewriting     u8 commit, while batches are written that have a part each of its rows; the last one ends it
    B batch u8      nothing: one row for each write batch after the checkpoint
    H chunk u4      u8 free offset, u8 directory offset, as of the checkpoint
    F chunk u4      in a copy: u8 directory offset, u8 flags that any row of the directory has, down to there
    C store u4 · chunk u4   u8 live records, u8 bytes of live records
    X commit u8 · store u4  JSON: what is kept of a store that this commit dropped (``drop_notes.py``)
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..errors import CorruptionError
from .counts import LiveCount
from .leveldb import REBUILD, LevelDB, Pair

VERSIONS = (1, 2)
"""Those that are read; what is written to has the last one. Since 2 there are pages as in ``near_keys.py``."""
LAST = b"Mlast"
CHECKPOINT = b"Mcheckpoint"
CATALOG = b"Mcatalog"
REWRITING = b"Mrewriting"
OF_STORES = ((b"C", b"E"), (CATALOG, CATALOG + b"\0"), (b"P", b"Q"), (b"X", b"Y"))
"""The ranges of keys that say what the stores hold; all others are about this very LevelDB."""
_U8 = struct.Struct("<Q")
_CHECKPOINT = struct.Struct("<16sIIQQ")
_BATCH_KEY = struct.Struct(">cQ")
_TWO_U8 = struct.Struct("<QQ")
_HEAD_KEY = struct.Struct(">cI")
_LIVE_KEY = struct.Struct(">cII")

Catalog = dict[str, dict[str, Any]]


class Checkpoint(NamedTuple):
    """The commit up to which everything is on disk, and the batch that says so."""

    database: bytes
    next_chunk: int
    commit: int
    batch: int


class Batch(NamedTuple):
    """Puts and deletes that go together."""

    puts: list[Pair]
    deletes: list[bytes]


def damaged(leveldb: LevelDB, found: str, expected: str) -> CorruptionError:
    """Return the error for damage in what is said of the database as a whole."""
    return CorruptionError(leveldb.path, found=found, expected=expected, advice=REBUILD)


# -------------------------------------------------------------------- the last commit and the checkpoint


def read_last(leveldb: LevelDB) -> int:
    """Return the number of the last commit."""
    last = leveldb.get(LAST)
    if last is None or len(last) != _U8.size:
        raise damaged(leveldb, "no last commit", "one")
    return int(_U8.unpack(last)[0])


def last_pair(commit: int) -> Pair:
    """Return what says that a commit is the last one."""
    return LAST, _U8.pack(commit)


def read_rewriting(leveldb: LevelDB) -> int:
    """Return the commit of which LevelDB may have a part of the rows, beside those of the last one; 0 for none."""
    packed = leveldb.get(REWRITING)
    if packed is None:
        return 0
    if len(packed) != _U8.size:
        raise damaged(leveldb, f"{len(packed)} bytes for a number", f"{_U8.size}")
    return int(_U8.unpack(packed)[0])


def rewriting_pair(commit: int) -> Pair:
    """Return what :func:`read_rewriting` is to return."""
    return REWRITING, _U8.pack(commit)


def read_checkpoint(leveldb: LevelDB) -> Checkpoint:
    """Return the checkpoint."""
    return _read_checkpoint(leveldb)[1]


def raise_version(leveldb: LevelDB) -> None:
    """See that an index that is going to be written to says the version that is written."""
    version, checkpoint = _read_checkpoint(leveldb)
    if version < VERSIONS[-1]:
        leveldb.write([checkpoint_pair(checkpoint)])


def _read_checkpoint(leveldb: LevelDB) -> tuple[int, Checkpoint]:
    packed = leveldb.get(CHECKPOINT)
    if packed is None or len(packed) != _CHECKPOINT.size:
        raise damaged(leveldb, "no checkpoint", "one")
    database, version, *rest = _CHECKPOINT.unpack(packed)
    if version not in VERSIONS:
        raise damaged(leveldb, f"format version {version}", f"one of the versions {VERSIONS}")
    return version, Checkpoint(database, *rest)


def checkpoint_pair(checkpoint: Checkpoint) -> Pair:
    """Return a checkpoint as LevelDB has it."""
    database, *rest = checkpoint
    return CHECKPOINT, _CHECKPOINT.pack(database, VERSIONS[-1], *rest)


def read_batches(leveldb: LevelDB) -> list[bytes]:
    """Return the keys of the batches since the checkpoint that are there."""
    return [key for key, _ in leveldb.read(b"B", b"C", 1 << 32)]


def batch_key(number: int) -> bytes:
    """Return the key that says that a batch is there."""
    return _BATCH_KEY.pack(b"B", number)


# -------------------------------------------------------------------- the catalog


def read_catalog(leveldb: LevelDB) -> Catalog:
    """Return the stores, by name."""
    text = leveldb.get(CATALOG) or b""
    try:
        catalog = json.loads(text)
        sound = all(
            isinstance(entry["store"], int) and isinstance(entry["kind"], str) and "schema" in entry
            for entry in catalog.values()
        )
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError) as error:
        raise damaged(leveldb, f"an unreadable catalog ({type(error).__name__})", "JSON") from error
    if not sound:
        raise damaged(leveldb, "a catalog entry without store, kind and schema", "all three")
    return dict(catalog)


class CatalogWriter:
    """Encodes catalogs, one after the other: an entry that the one before had, too, not again."""

    def __init__(self) -> None:
        self._encoded: dict[str, tuple[dict[str, Any], str]] = {}

    def pair(self, catalog: Catalog) -> Pair:
        """Return a catalog as LevelDB has it."""
        known = self._encoded
        # An entry is never changed, so that it tells by itself what its text is.
        encoded = {
            name: known[name]
            if name in known and known[name][0] is entry
            else (entry, json.dumps({name: entry})[1:-1])
            for name, entry in catalog.items()
        }
        self._encoded = encoded
        return CATALOG, f"{{{', '.join([text for _, text in encoded.values()])}}}".encode()


# -------------------------------------------------------------------- chunks


def read_heads(leveldb: LevelDB) -> dict[int, tuple[int, int]]:
    """Return free and directory offset of every chunk, as of the checkpoint."""
    return {chunk: head for (_, chunk), head in _read_rows(leveldb, b"H", _HEAD_KEY).items()}


def head_pairs(heads: Mapping[int, tuple[int, int]]) -> Iterator[Pair]:
    """Yield what says how far chunks reach."""
    return ((_HEAD_KEY.pack(b"H", chunk), _TWO_U8.pack(*head)) for chunk, head in heads.items())


def read_flags(leveldb: LevelDB) -> dict[int, tuple[int, int]]:
    """Return for chunks of a copy how far down their directories were looked at, and the flags found there."""
    return {chunk: known for (_, chunk), known in _read_rows(leveldb, b"F", _HEAD_KEY).items()}


def flag_pairs(flags: Mapping[int, tuple[int, int]]) -> Iterator[Pair]:
    """Yield what :func:`read_flags` is to return."""
    return ((_HEAD_KEY.pack(b"F", chunk), _TWO_U8.pack(*known)) for chunk, known in flags.items())


def flag_keys(gone: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """Yield the keys of the flags of chunks, each given with its store."""
    return (_HEAD_KEY.pack(b"F", chunk) for _, chunk in gone)


def read_live(leveldb: LevelDB, store: int, snapshot: Any = None) -> dict[int, LiveCount]:
    """Return what is live in each chunk of a store."""
    rows = _read_rows(leveldb, _LIVE_KEY.pack(b"C", store, 0)[:5], _LIVE_KEY, snapshot)
    return {chunk: LiveCount(*counts) for (_, _, chunk), counts in rows.items()}


def read_all_live(leveldb: LevelDB) -> dict[int, dict[int, LiveCount]]:
    """Return what is live in each chunk of all stores, which takes one call for any number of them."""
    live: dict[int, dict[int, LiveCount]] = {}
    for (_, store, chunk), counts in _read_rows(leveldb, b"C", _LIVE_KEY).items():
        live.setdefault(store, {})[chunk] = LiveCount(*counts)
    return live


def live_pairs(store: int, counts: Mapping[int, tuple[int, int]]) -> Iterator[Pair]:
    """Yield what says what is live in chunks of a store."""
    return ((live_key(store, chunk), _TWO_U8.pack(*count)) for chunk, count in counts.items())


def live_key(store: int, chunk: int) -> bytes:
    """Return the key of what is live in a chunk."""
    return _LIVE_KEY.pack(b"C", store, chunk)


def keys_of_gone(gone: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """Yield the keys of what is said of chunks, each given with its store, as of the checkpoint."""
    for store, chunk in gone:
        yield _HEAD_KEY.pack(b"H", chunk)
        yield live_key(store, chunk)


def _read_rows(
    leveldb: LevelDB, prefix: bytes, key_format: struct.Struct, snapshot: Any = None
) -> dict[tuple[Any, ...], tuple[int, int]]:
    pairs = leveldb.read(prefix, prefix + b"\xff" * 9, 1 << 32, snapshot)
    if any(len(key) != key_format.size or len(value) != _TWO_U8.size for key, value in pairs):
        raise damaged(leveldb, f"a row of another size in region {prefix[:1]!r}", f"{_TWO_U8.size} bytes")
    return {key_format.unpack(key): _TWO_U8.unpack(value) for key, value in pairs}
