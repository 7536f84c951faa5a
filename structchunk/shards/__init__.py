"""Many databases read as one: the manifest, the shards, their merged stores, and how shards are made.

Reads each database through its handle, as a user would. Nothing here knows chunks, the index or the engine.

Modules, from the bottom up: binding, manifest, shards, writing.
"""
