"""The handles: databases, transactions and snapshots, and how they are opened, shared and pickled.

Where stores meet the engine: each handle binds stores to it, and ends what depends on it when it is closed.
Formats, protocols and algorithms belong in the folders below.

Modules, from the bottom up: attribute_records, feed, snapshot, savepoint, transaction, autocommit, writer_queue,
handle, database, published, pickling, shared, opening.
"""
