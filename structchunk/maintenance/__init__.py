"""Jobs over a whole database: compaction, verification, copies, statistics, the map of chunks.

Each is called with an open storage, and does its work through the engine's public face. What every commit or every
read needs does not belong here.

Modules, from the bottom up: chunk_copies, lineage, backup, update, chunk_map, stats, verify, moving,
compaction, altering.
"""
