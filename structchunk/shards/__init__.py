"""Many databases read as one: the manifest, the shards, their merged stores, and how shards are made.

Reads each database through its handle, as a user would. Nothing here knows chunks, the index or the engine; of what
is published, it knows how an object is read and written, which the manifest is.

Modules, from the bottom up: merged, heap, binding, manifest, places, shards, writing, sets.
"""
