"""Reading beside another process's writer, and writing in turn with others.

A private directory with a clone of the index and links to the chunks, how it follows the log from commit to commit,
and what is left there for other processes. Who only reads writes nothing into the database's own files.

Modules, from the bottom up: directory, kept, leveldb_clone, copies, copied_storage, read_storage,
shared_storage.
"""
