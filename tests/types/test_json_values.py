"""What attributes may be: what JSON gives back equal; all else is refused."""

from __future__ import annotations

import datetime
import enum
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from structchunk.types.json_values import MAX_DEPTH, as_json, from_text, to_text


class Colour(enum.IntEnum):
    red = 3


text = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=20)


@given(st.dictionaries(text, values))
def test_what_is_taken_comes_back(value: dict[str, Any]) -> None:
    plain = as_json(value, "it")
    found = from_text(to_text(plain))
    assert found == plain == value
    assert repr(found) == repr(plain)
    assert list(found) == list(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.1), float(np.float32(0.1))),
        (np.float64(0.1), 0.1),
        (np.int64(-5), -5),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (Colour.red, 3),
        (10**400, 10**400),
        (-0.0, -0.0),
        (OrderedDict(a=[1]), {"a": [1]}),
        ("\0\u2028\U0001f600", "\0\u2028\U0001f600"),
    ],
)
def test_what_is_equal_is_taken(value: Any, expected: Any) -> None:
    plain = as_json(value, "it")
    assert plain == value
    assert from_text(to_text({"v": plain})) == {"v": expected}
    assert type(plain) in (float, int, bool, str, dict)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (float("nan"), ValueError, "it: found nan"),
        ([1, {"a": float("inf")}], ValueError, r"it\[1\]\['a'\]: found inf"),
        (np.float32("nan"), ValueError, "NaN"),
        ((1, 2), TypeError, r"it: found tuple.*list\(value\)"),
        (namedtuple("Pair", "a b")(1, 2), TypeError, r"found Pair.*list\(value\)"),
        ({"a": (1,)}, TypeError, r"it\['a'\]: found tuple"),
        (b"ab", TypeError, "found bytes.*decode"),
        (np.arange(3), TypeError, "found ndarray.*tolist"),
        (np.bytes_(b"ab"), TypeError, "found bytes_"),
        (np.datetime64(1, "s"), TypeError, "found datetime64"),
        (np.timedelta64(1, "s"), TypeError, "found timedelta64"),
        (np.longdouble(1), TypeError, "found longdouble|found float128"),
        (1j, TypeError, "found complex"),
        ({1, 2}, TypeError, "found set"),
        (datetime.datetime(2026, 1, 1), TypeError, "found datetime.*isoformat"),
        ({1: 2}, TypeError, r"found the key 1; JSON has only text for keys: str\(1\)"),
        ({None: 2}, TypeError, "found the key None"),
        ("\ud800", ValueError, "UTF-8"),
        ({"\ud800": 1}, ValueError, "UTF-8"),
        (1 << 10_000, ValueError, "an integer of 10001 bits"),
        (object(), TypeError, "found object"),
    ],
)
def test_what_would_change_is_refused(value: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        as_json(value, "it")


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_depth() -> None:
    assert from_text(to_text({"v": as_json(nested(MAX_DEPTH - 1), "it")}))
    with pytest.raises(ValueError, match="deep"):
        as_json(nested(MAX_DEPTH + 1), "it")
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="deep"):
        as_json(circle, "it")


@pytest.mark.parametrize("text", [b"", b"[1]", b"1", b"{", b"\xff", b'{"a": NaN}', b"[" * 100_000])
def test_what_is_no_object_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        from_text(text)
