"""Rows and runs: where records lie, and the algebra of sorted rows.

Functions and small classes on NumPy arrays, and the bytes that rows are packed into. Nothing here does I/O, takes a
lock, or knows a dtype, a file or a store; of the package only its errors are imported.

Modules, from the bottom up: extent, run, key_ranges, packed.
"""
