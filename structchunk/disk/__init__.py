"""The seam to the file system: files and their names, the lock of a database, its superblock, its tail page.

Whatever creates, writes, flushes, renames or removes a file does it through ``files``, so that tests can fail or
record each such call; LevelDB's own files are the one exception. What chunk files and the index contain is decided
in the folders above.

Modules, from the bottom up: files, paths, lock, presence, reserve, superblock, tail.
"""
