"""How the examples check themselves: against the same figure, worked out by other means."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def check(what: str, found: Any, expected: Any, tolerance: float = 0.0) -> None:
    """Print what was checked; end the program with an error if two figures, or arrays of them, differ."""
    try:
        if tolerance:
            np.testing.assert_allclose(found, expected, rtol=tolerance)
        else:
            np.testing.assert_array_equal(found, expected)
    except AssertionError as error:
        sys.exit(f"WRONG: {what}{error}")
    print(f"  checked: {what}")
