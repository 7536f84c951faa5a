"""StagedRows: the rows of one transaction, however they came."""

from __future__ import annotations

import pytest

from structchunk.engine.staged_rows import StagedRows
from structchunk.runs.run import ContiguousRun

COUNT = 4


@pytest.mark.parametrize(("reverse", "expected"), [(False, [0, 1, 2, 3]), (True, [5, 6, 7, 8])])
def test_an_end_of_appended_runs(expected: list[int], *, reverse: bool) -> None:
    """No more rows than asked for, whatever runs they are in; and all that there are up to where they end."""
    rows = StagedRows(8)
    rows.append([ContiguousRun(range(key, key + 3), range(key, key + 4), 1, 0, 8) for key in (0, 3, 6)])
    found, start, stop = rows.end(0, 100, COUNT, reverse=reverse)
    assert found["key"].tolist() == expected
    assert (start, stop) == ((5, 100) if reverse else (0, 4))
