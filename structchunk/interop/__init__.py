"""Arrow and pandas: batches and arrays as their objects, and their objects as arrays.

Each module needs an optional package and is imported where it is first used, never by ``import structchunk``. Knows
types and columns, not stores: whoever calls passes the batches.

Modules, from the bottom up: arrow_types, pandas, arrow_values, arrow, arrow_expressions,
key_filter, dataset.
"""
