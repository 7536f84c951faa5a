"""Chunk files: the format of one file, and the files of one store.

Headers, segments, mapped data, and where in the files the records of a transaction go. Knows offsets and bytes, not
the index, commits of several stores, or what a key means.

Modules, from the bottom up: header, header_file, segment, directory, mapping, chunk_file, chunk, debris,
retired, arrays, heap, allocator.
"""
