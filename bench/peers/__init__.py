"""The stores that are compared: one small class each, and nothing that knows of another."""

from __future__ import annotations

import importlib

from bench.peers.base import Peer, Settings

__all__ = ["PEERS", "Peer", "Settings", "find"]

# In the order of the report. Ratios are to the first one that can be imported.
PEERS = {
    "structchunk": "bench.peers.ours:StructChunk",
    "py-lmdb": "bench.peers.py_lmdb:Lmdb",
    "py-lmdb tuned": "bench.peers.py_lmdb:TunedLmdb",
    "np.memmap (limit)": "bench.peers.np_memmap:MemMap",
}


def find(name: str) -> type[Peer]:
    """Import the class of a peer; ImportError if what it needs is not installed."""
    module, _, cls = PEERS[name].partition(":")
    found: type[Peer] = getattr(importlib.import_module(module), cls)
    return found
