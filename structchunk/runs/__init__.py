"""Rows and runs: where records lie, the algebra of sorted rows, and the records of rows one after the other.

Functions and small classes on NumPy arrays, and the bytes that rows are packed into. Nothing here does I/O, takes a
lock, or knows a schema, a file or a store; of the package only its errors are imported.

Modules, from the bottom up: extent, run, streams, compact, short_keys, interleaved, gather, views, key_ranges,
packed.
"""
