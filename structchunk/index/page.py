"""Pages: the values under which LevelDB keeps rows of one store: packed rows, and how many they are. No I/O.

Rows of form ALL (see ``runs/packed.py``) are a page as they are. Those of other forms, which are *short* (there and
in ``near_keys.py``), are followed by ``u2 row count, u1 form``: so the size tells them apart. The last key is in
LevelDB's own key.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise, zip_longest
from typing import TypeGuard

import numpy as np

from ..runs.extent import ROW_SIZE, TOMBSTONE, Extent, is_sorted, rows_from_bytes
from ..runs.packed import ALL, FEWEST, Packed, find_packed, pack, shortest, unpack, unpack_alike
from ..runs.run import ArrayRun, ContiguousRun, Run, first_key, last_key, portions
from .near_keys import FEWEST_PAGES, FORMS, find_near, pack_near, unpack_near, unpack_one

TRAILER = struct.Struct("<HB")
assert TRAILER.size % ROW_SIZE


def pack_pages(runs: Iterable[Run], item_size: int, row_count: int) -> list[tuple[int, bytes]]:
    """Return consecutive runs as pages of up to `row_count` rows, each with its last key."""
    return [page for run in runs for page in _pages_of(run, item_size, row_count)]


def _pages_of(run: Run, item_size: int, row_count: int) -> list[tuple[int, bytes]]:
    """Return a run as pages: the keys of all that are full are made short at once, if that can be."""
    run = shortest(run, item_size) if isinstance(run, ArrayRun) else run
    full = len(run) // row_count * row_count
    near: list[Packed | None] = []
    if _has_single_keys(run) and full >= FEWEST_PAGES * row_count and row_count >= FEWEST:
        near = pack_near(run.part(0, full), row_count)
    pages = zip_longest(portions(run, row_count), near)
    return [(last_key(part), _page_of(packed or pack(part, item_size))) for part, packed in pages]


def _has_single_keys(run: Run) -> TypeGuard[ContiguousRun]:
    """Tell whether rows are regular but for their keys."""
    return isinstance(run, ContiguousRun) and run.length > 0 and not isinstance(run.spacing, range)


def _page_of(packed: Packed) -> bytes:
    form, count, body = packed
    return bytes(body) if form == ALL else bytes(body) + TRAILER.pack(count, form)


def is_short(page: bytes) -> bool:
    """Tell whether a page is one of packed rows of another form than ALL."""
    return len(page) % ROW_SIZE != 0


def count_rows(page: bytes) -> int:
    """Return how many rows a page has, or says that it has."""
    return int.from_bytes(page[-TRAILER.size :][:2], "little") if is_short(page) else len(page) // ROW_SIZE


def unpack_pages(pages: Sequence[tuple[int, bytes]], item_size: int, row_count: int) -> list[Run]:
    """Return the rows of consecutive pages, each given with its last key, of up to `row_count` rows.

    Raises
    ------
    ValueError
        Some is none, or its last key is another one. Where records lie is not checked.
    """
    runs: list[Run] = []
    for trailer, group in _by_trailer(pages):
        if trailer:
            runs += _unpack_all_short(list(group), item_size, row_count)
        else:
            runs.append(_unpack_rows(list(group), row_count))
    if any(last_key(before) >= first_key(after) for before, after in pairwise(runs)):
        raise ValueError("pages that overlap")
    return runs


def find_in_short(last: int, page: bytes, key: int, item_size: int, row_count: int) -> Extent | None:
    """Return the row of one key, or None, of a short page that is given with its last key.

    Raises
    ------
    ValueError
        It is none. The order of its keys is not checked, nor where the record lies.
    """
    packed = _packed(page, row_count)
    return (find_near if packed.form in FORMS else find_packed)(packed, last, key, item_size)


def _trailer(page: tuple[int, bytes]) -> bytes:
    """Return what tells the form of a short page, and how many rows it has; nothing of a page of another form."""
    return page[1][-TRAILER.size :] if is_short(page[1]) else b""


def _by_trailer(pages: Sequence[tuple[int, bytes]]) -> Iterable[tuple[bytes, Iterable[tuple[int, bytes]]]]:
    """Return consecutive pages in groups that have one trailer. Mostly it is one group, which is seen soon."""
    alike = {(len(page), page[-TRAILER.size :]) for _, page in pages}
    return [(_trailer(pages[0]), pages)] if len(alike) == 1 else groupby(pages, key=_trailer)


def _unpack_all_short(pages: list[tuple[int, bytes]], item_size: int, row_count: int) -> list[Run]:
    """Return the rows of consecutive short pages of one form, at once where each goes on from the one before."""
    form, count, _ = _packed(pages[0][1], row_count)
    unpack_all = unpack_near if form in FORMS else unpack_alike
    run = unpack_all(form, count, [page for _, page in pages], item_size, rest_size=TRAILER.size)
    if run is None:
        return [_unpack_short(last, page, item_size, row_count) for last, page in pages]
    lasts = run.spacing[count - 1 :: count]
    _check_lasts(lasts if isinstance(lasts, range) else lasts.tolist(), [last for last, _ in pages])
    return [run]


def _unpack_short(last: int, page: bytes, item_size: int, row_count: int) -> Run:
    packed = _packed(page, row_count)
    run = unpack_one(packed, item_size) if packed.form in FORMS else unpack(packed, item_size)
    _check_lasts([last_key(run)], [last])
    return run


def _packed(page: bytes, row_count: int) -> Packed:
    """Return what a short page has before its trailer."""
    if len(page) < TRAILER.size:
        raise ValueError(f"a page of {len(page)} bytes")
    count, form = TRAILER.unpack_from(page, len(page) - TRAILER.size)
    if form == ALL or not 1 <= count <= row_count:
        raise ValueError(f"a short page of {count} rows of form {form}")
    return Packed(form, count, memoryview(page)[: -TRAILER.size])


def _check_lasts(found: Sequence[int], expected: list[int]) -> None:
    if list(found) != expected:
        raise ValueError(f"short pages of keys up to {found}, which are not their own keys, {expected}")


def _unpack_rows(pages: list[tuple[int, bytes]], row_count: int) -> Run:
    for _, page in pages:
        if not 1 <= len(page) // ROW_SIZE <= row_count:
            raise ValueError(f"a page of {len(page)} bytes")
    rows = rows_from_bytes(b"".join([page for _, page in pages]) if len(pages) > 1 else pages[0][1])
    ends = np.cumsum([len(page) // ROW_SIZE for _, page in pages]) - 1
    if rows["key"][ends].tolist() != [last for last, _ in pages] or not is_sorted(rows["key"]):
        raise ValueError("a page whose keys are out of order")
    if (rows["flags"] & TOMBSTONE).any():
        raise ValueError("a tombstone in a page")
    return ArrayRun(rows)
