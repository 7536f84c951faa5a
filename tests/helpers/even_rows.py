"""Rows that nearly always lie back to back, under nearly even keys: those that are kept in a short form."""

from __future__ import annotations

from hypothesis import strategies as st
from support import rows_of

from structchunk.runs.extent import KEY_END, Extent, RowArray

SIZE = 8

gaps = st.one_of(st.integers(1, 3), st.just(2**63))
lengths = st.one_of(st.just(2), st.integers(0, 3))


@st.composite
def even_rows(draw: st.DrawFn) -> RowArray:
    """Draw rows that nearly always lie back to back, in nearly evenly spaced keys."""
    even, uniform = draw(st.booleans()), draw(st.booleans())
    key, offset, chunk, flags = draw(st.integers(0, 5)), 4096, 1, 0
    step, length = draw(gaps), draw(lengths)
    rows: list[Extent] = []
    for _ in range(draw(st.integers(0, 9))):
        rows.append((key, offset, length, chunk, flags))
        offset += length * SIZE
        key += step if even else draw(gaps)
        length = length if uniform else draw(lengths)
        if draw(st.integers(0, 30)) == 0:
            offset += SIZE
        if draw(st.integers(0, 30)) == 0:
            chunk += 1
        if draw(st.integers(0, 30)) == 0:
            flags = 2
        if key >= KEY_END:
            break
    return rows_of(rows)
