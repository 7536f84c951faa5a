"""Reading beside another process's writer.

A private directory with a clone of the index and links to the chunks, how it follows the writer from commit to
commit, and what is left there for other processes. Writes nothing into the database's own files.

Modules, from the bottom up: directory, kept, leveldb_clone, copies, read_storage.
"""
