"""Types, values and keys: what a store may hold, and how what callers hand in becomes that.

The stored schema and its grammar, the ctypes classes that users derive from, and conversions that keep every value
or raise. Arrays in, arrays out: nothing here does I/O or knows where a record lies.

Modules, from the bottom up: casts, foreign, objects, descriptor, times, items, keys, describe, schema, coerce,
convert, alteration, blocks, json_values.
"""
