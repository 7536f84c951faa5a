"""What users hold of a store: the stores themselves, batches, cursors, views of ranges, joins.

Mappings from key to record over a binding, which reads and writes for them. Knows no file, index or engine: a store
works the same on a database, a transaction, a snapshot or shards.

Modules, from the bottom up: attributes, notebook, ahead, batch, cursor, range_views, batches, change, binding,
mapping, join, store, array_store, object_store, collection.
"""
