"""The stores that are compared: one small class each, and nothing that knows of another."""

from __future__ import annotations

import importlib

from bench.peers.base import AnyPeer, Peer, Settings, StructPeer, settle

__all__ = [
    "ARRAY_PEERS",
    "LIMITS",
    "NAMES",
    "STRUCT_PEERS",
    "AnyPeer",
    "Peer",
    "Settings",
    "StructPeer",
    "available",
    "settle",
]

# In the order of the report. Ratios are to the first one that can be imported.
ARRAY_PEERS = {
    "structchunk": "bench.peers.ours:StructChunk",
    "py-lmdb": "bench.peers.py_lmdb:Lmdb",
    "py-lmdb tuned": "bench.peers.py_lmdb:TunedLmdb",
    "plyvel": "bench.peers.py_plyvel:Plyvel",
    "SQLite": "bench.peers.sqlite:SqliteBlobs",
    "diskcache": "bench.peers.py_diskcache:DiskCache",
    "h5py": "bench.peers.hdf5:Hdf5Rows",
    "zarr": "bench.peers.py_zarr:Zarr",
    "DuckDB": "bench.peers.py_duckdb:DuckDBLists",
    "Lance": "bench.peers.py_lance:LanceLists",
    "Polars": "bench.peers.py_polars:PolarsLists",
    "Arrow IPC": "bench.peers.arrow_ipc:ArrowLists",
    "np.memmap": "bench.peers.np_memmap:MemMap",
}
STRUCT_PEERS = {
    "structchunk": "bench.peers.ours:StructChunkObjects",
    "py-lmdb": "bench.peers.py_lmdb:LmdbStructs",
    "py-lmdb tuned": "bench.peers.py_lmdb:TunedLmdbStructs",
    "plyvel": "bench.peers.py_plyvel:PlyvelStructs",
    "SQLite": "bench.peers.sqlite:SqliteColumns",
    "h5py": "bench.peers.hdf5:Hdf5Compound",
    "DuckDB": "bench.peers.py_duckdb:DuckDBColumns",
    "Lance": "bench.peers.py_lance:LanceColumns",
    "Polars": "bench.peers.py_polars:PolarsColumns",
    "Arrow IPC": "bench.peers.arrow_ipc:ArrowColumns",
    "np.memmap": "bench.peers.np_memmap:MemMapStructs",
    "ctypes": "bench.peers.plain_ctypes:PlainCtypes",
}
NAMES = list({**ARRAY_PEERS, **STRUCT_PEERS})
LIMITS = ("np.memmap", "ctypes")  # no stores: what the machine itself gives


def available(known: dict[str, str], names: list[str]) -> tuple[dict[str, type[AnyPeer]], dict[str, str]]:
    """Return the wanted peers that can be imported, and why others cannot."""
    peers: dict[str, type[AnyPeer]] = {}
    skipped: dict[str, str] = {}
    for name in [name for name in known if name in names]:
        module, _, cls = known[name].partition(":")
        try:
            peers[name] = getattr(importlib.import_module(module), cls)
        except ImportError as error:
            skipped[name] = str(error)
    return peers, skipped
