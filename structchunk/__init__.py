"""structchunk: an embedded store for typed arrays and C structs."""

from .database import pickling as _pickling
from .database.database import Database
from .database.opening import open, rebuild_index
from .database.savepoint import Savepoint
from .database.snapshot import Snapshot
from .database.transaction import Transaction
from .errors import (
    ClosedError,
    CommitGone,
    CorruptionError,
    Error,
    FailedError,
    HistoryLost,
    KeyNotFound,
    LockedError,
    NotACopy,
    ReadOnlyError,
    SchemaError,
    StoreExists,
    StoreNotFound,
)
from .maintenance.compaction import CompactionReport
from .maintenance.stats import ChunkStats, StoreStats
from .maintenance.verify import Problem
from .remote.prune import Pruned, prune, published
from .remote.publish import Published
from .shards.shards import Shards, open_shards
from .stores.array_store import ArrayStore
from .stores.attributes import Attributes
from .stores.batch import Batch
from .stores.change import Change
from .stores.cursor import Cursor
from .stores.object_store import Array, Object, ObjectStore

__version__ = "0.1.0"

__all__ = [
    "Array",
    "ArrayStore",
    "Attributes",
    "Batch",
    "Change",
    "ChunkStats",
    "ClosedError",
    "CommitGone",
    "CompactionReport",
    "CorruptionError",
    "Cursor",
    "Database",
    "Error",
    "FailedError",
    "HistoryLost",
    "KeyNotFound",
    "LockedError",
    "NotACopy",
    "Object",
    "ObjectStore",
    "Problem",
    "Pruned",
    "Published",
    "ReadOnlyError",
    "Savepoint",
    "SchemaError",
    "Shards",
    "Snapshot",
    "StoreExists",
    "StoreNotFound",
    "StoreStats",
    "Transaction",
    "open",
    "open_shards",
    "prune",
    "published",
    "rebuild_index",
]


def __dir__() -> list[str]:
    return __all__


_pickling.register()
