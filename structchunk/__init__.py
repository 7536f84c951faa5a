"""structchunk: an embedded store for typed arrays and C structs."""

from . import pickling as _pickling
from .array_store import ArrayStore
from .batch import Batch
from .compaction import CompactionReport
from .cursor import Cursor
from .database import Database
from .errors import (
    ClosedError,
    CommitGone,
    CorruptionError,
    Error,
    FailedError,
    KeyNotFound,
    LockedError,
    ReadOnlyError,
    SchemaError,
    StoreExists,
    StoreNotFound,
)
from .object_store import Array, Object, ObjectStore
from .opening import open, rebuild_index
from .shards import Shards, open_shards
from .snapshot import Snapshot
from .stats import ChunkStats, StoreStats
from .transaction import Transaction
from .verify import Problem

__version__ = "0.1.0"

__all__ = [
    "Array",
    "ArrayStore",
    "Batch",
    "ChunkStats",
    "ClosedError",
    "CommitGone",
    "CompactionReport",
    "CorruptionError",
    "Cursor",
    "Database",
    "Error",
    "FailedError",
    "KeyNotFound",
    "LockedError",
    "Object",
    "ObjectStore",
    "Problem",
    "ReadOnlyError",
    "SchemaError",
    "Shards",
    "Snapshot",
    "StoreExists",
    "StoreNotFound",
    "StoreStats",
    "Transaction",
    "open",
    "open_shards",
    "rebuild_index",
]

_pickling.register()
