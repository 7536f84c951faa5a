"""The manifest of a directory of shards: which databases they are, and which keys each of them has.

It is a JSON file::

    {"format": "structchunk shards", "version": 1, "crc": CRC-32 of the two below, as compact JSON with sorted keys,
     "stores": {name: descriptor},
     "shards": [{"path": "shard-00000.sc",
                 "stores": {name: {"first": 0, "last": 990, "records": 100, "size": 1600}}}]}

Paths are relative to the directory; or to a URL, if shards were published: then it is an object of the same name.
`first` and `last` are keys, `size` is bytes of live records; a shard does not name the stores of which it has no
record.
"""

from __future__ import annotations

import json
import os
import zlib
from typing import Any, NamedTuple

from ..disk import files
from ..errors import CorruptionError
from ..types.keys import MAX_KEY
from ..types.schema import Schema, schema_from_descriptor

NAME = "manifest.json"
FORMAT = "structchunk shards"
VERSION = 1
ADVICE = "restore it from a copy, or write the shards again"


class Holding(NamedTuple):
    """What a shard has of one store: at least one record."""

    first: int
    last: int
    records: int
    size: int


class Shard(NamedTuple):
    """One database: its path in the directory, and what it holds, by name of the store."""

    path: str
    stores: dict[str, Holding]


class Manifest(NamedTuple):
    """All shards, and the type of each store."""

    stores: dict[str, Schema]
    shards: tuple[Shard, ...]


def write_manifest(directory: str, manifest: Manifest) -> None:
    """Write a manifest, on disk: it is there whole, or as it was before."""
    files.replace(os.path.join(directory, NAME), pack_manifest(manifest), sync=True)
    files.flush_directory(directory)


def pack_manifest(manifest: Manifest) -> bytes:
    """Return what the file of a manifest has."""
    shards = [
        {"path": shard.path, "stores": {name: holding._asdict() for name, holding in shard.stores.items()}}
        for shard in manifest.shards
    ]
    body = {"stores": {name: schema.descriptor for name, schema in manifest.stores.items()}, "shards": shards}
    return json.dumps({"format": FORMAT, "version": VERSION, "crc": _crc(body), **body}, indent=1).encode()


def read_manifest(path: str) -> Manifest:
    """Return a manifest.

    Raises
    ------
    FileNotFoundError
        There is none.
    CorruptionError
        It is damaged, or of another version.
    """
    return parse_manifest(files.read(path, 0, os.stat(path).st_size), path)


def parse_manifest(text: bytes, path: str) -> Manifest:
    """Return the manifest that a file has; CorruptionError as `read_manifest`."""
    try:
        fields = json.loads(text)
        head = fields["format"], fields["version"], fields["crc"]
        body = {name: fields[name] for name in ("stores", "shards")}
        crc = _crc(body)
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise _damaged(path, f"no such fields ({type(error).__name__})", "those of a manifest, as JSON") from error
    if head != (FORMAT, VERSION, crc):
        expected = f"{FORMAT!r}, {VERSION} and the CRC of the rest"
        raise _damaged(path, f"format, version and CRC {head}", expected)
    try:
        manifest = Manifest(_stores(body["stores"], path), tuple(_shard(shard) for shard in body["shards"]))
        unknown = {name for shard in manifest.shards for name in shard.stores} - manifest.stores.keys()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(path, f"shards that cannot be ({error})", "shards with keys, records and size") from error
    if unknown:
        raise _damaged(path, f"shards with the stores {sorted(unknown)}", f"only {sorted(manifest.stores)}")
    return manifest


def _damaged(path: str, found: str, expected: str) -> CorruptionError:
    return CorruptionError(path, found=found, expected=expected, advice=ADVICE)


def _crc(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())


def _stores(descriptors: dict[str, Any], path: str) -> dict[str, Schema]:
    return {name: schema_from_descriptor(descriptor, path) for name, descriptor in descriptors.items()}


def _shard(fields: dict[str, Any]) -> Shard:
    path = fields["path"]
    if os.path.basename(path) != path or path in ("", ".", "..") or b"\0" in os.fsencode(path):
        raise ValueError(f"path {path!r} is not a name in the directory")
    return Shard(path, {name: _holding(holding) for name, holding in fields["stores"].items()})


def _holding(fields: dict[str, int]) -> Holding:
    holding = Holding(**fields)
    if not all(type(number) is int for number in holding):
        raise TypeError(f"{holding} has something else than integers")
    if not 0 <= holding.first <= holding.last <= MAX_KEY or holding.records < 1 or holding.size < 0:
        raise ValueError(f"{holding} has no such keys or records")
    return holding
