"""Which ranges of keys a filter of Arrow can be true in, and whether it is true for every key in them.

Of a filter ``(key >= 5) & (key < 9) & (x > 0)`` only the range 5 to 9 has to be read, and the filter applied there;
of one that names nothing but ``key`` often nothing is left to apply. What is not understood may be true anywhere.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .arrow_expressions import Call, Field, Literal, Node, parse, rewritten
from .arrow_types import pa

__all__ = ["KeyRanges", "key_ranges", "with_exact_keys"]

KEY_END = 2**64
_KEY = Field(("key",))

KeyRanges = list[tuple[int, int]]
"""Ranges from start up to stop, ascending, with keys that are in none between them."""

_ALL: KeyRanges = [(0, KEY_END)]


@dataclass(frozen=True)
class _Truth:
    """Where a condition may be true, where it is true for certain, and whether it is false, not null, elsewhere."""

    possible: KeyRanges
    certain: KeyRanges
    exact: bool


_ANYWHERE = _Truth(_ALL, [], False)


def key_ranges(filter: Any) -> tuple[KeyRanges, bool]:
    """Return the ranges of keys that a filter can be true in, and whether it is true for all keys in them."""
    truth = _truth(parse(filter))
    return truth.possible, truth.possible == truth.certain


def with_exact_keys(filter: Any) -> Any:
    """Return a filter with the integers that it compares keys with as uint64.

    Arrow would cast keys to int64 for the literal 5 of Python, and refuse those from ``2**63`` on.
    """
    return rewritten(filter, found) if (found := dict(_wide(parse(filter)))) else filter


def _truth(tree: Node) -> _Truth:
    if isinstance(tree, Literal):
        is_true = pa.types.is_boolean(tree.value.type) and tree.value.as_py() is True
        return _Truth(_ALL, _ALL, True) if is_true else _Truth([], [], tree.value.is_valid)
    if not isinstance(tree, Call):
        return _ANYWHERE
    if tree.name in _COMPARISONS:
        return _of_comparison(tree)
    rule = _RULES.get(tree.name)
    return rule(tree) if rule is not None else _ANYWHERE


def _exactly(ranges: KeyRanges) -> _Truth:
    return _Truth(ranges, ranges, True)


# ---------------------------------------------------------------- conditions on the key


_COMPARISONS: dict[str, Callable[[int], KeyRanges]] = {
    "equal": lambda number: [(number, number + 1)],
    "not_equal": lambda number: [(0, number), (number + 1, KEY_END)],
    "less": lambda number: [(0, number)],
    "less_equal": lambda number: [(0, number + 1)],
    "greater": lambda number: [(number + 1, KEY_END)],
    "greater_equal": lambda number: [(number, KEY_END)],
}
_SWAPPED = {"less": "greater", "less_equal": "greater_equal", "greater": "less", "greater_equal": "less_equal"}


def _compared(call: Call) -> Literal | None:
    """Return the integer that a comparison compares the key with."""
    if call.name not in _COMPARISONS or _KEY not in call.arguments:
        return None
    other = call.arguments[1] if call.arguments[0] == _KEY else call.arguments[0]
    is_number = isinstance(other, Literal) and pa.types.is_integer(other.value.type) and other.value.is_valid
    return other if isinstance(other, Literal) and is_number else None


def _of_comparison(call: Call) -> _Truth:
    literal = _compared(call)
    if literal is None:
        return _ANYWHERE
    name = call.name if call.arguments[0] == _KEY else _SWAPPED.get(call.name, call.name)
    return _exactly(_merged(_COMPARISONS[name](literal.value.as_py())))


def _set_of(call: Call) -> list[int] | None:
    """Return the integers among which ``is_in`` looks for the key."""
    if call.name != "is_in" or call.arguments != (_KEY,) or call.options is None:
        return None
    values = call.options["value_set"]
    is_integers = pa.types.is_list(values.type) and pa.types.is_integer(values.type.value_type)
    numbers: list[int | None] = values.as_py() if is_integers else [None]
    return None if None in numbers else [number for number in numbers if number is not None]


def _of_set(call: Call) -> _Truth:
    numbers = _set_of(call)
    return _ANYWHERE if numbers is None else _exactly(_merged((number, number + 1) for number in numbers))


def _of_null(call: Call) -> _Truth:
    """Every record has a key."""
    if call.arguments != (_KEY,):
        return _ANYWHERE
    return _exactly(_ALL if call.name == "is_valid" else [])


# ---------------------------------------------------------------- conditions on conditions


def _of_and(call: Call) -> _Truth:
    parts = list(map(_truth, call.arguments))
    possible = functools.reduce(_both, (part.possible for part in parts))
    certain = functools.reduce(_both, (part.certain for part in parts))
    return _Truth(possible, certain, all(part.exact for part in parts))


def _of_or(call: Call) -> _Truth:
    parts = list(map(_truth, call.arguments))
    possible = _merged(itertools.chain.from_iterable(part.possible for part in parts))
    certain = _merged(itertools.chain.from_iterable(part.certain for part in parts))
    return _Truth(possible, certain, all(part.exact for part in parts))


def _of_invert(call: Call) -> _Truth:
    (of,) = map(_truth, call.arguments)
    return _Truth(_others(of.certain), _others(of.possible) if of.exact else [], of.exact)


def _of_choice(call: Call) -> _Truth:
    """``if_else(condition, one, other)``, which DuckDB wraps around a set."""
    condition, one, other = map(_truth, call.arguments)
    rest = _others(condition.possible) if condition.exact else []
    return _Truth(
        _merged(_both(condition.possible, one.possible) + _both(_others(condition.certain), other.possible)),
        _merged(_both(condition.certain, one.certain) + _both(rest, other.certain)),
        exact=condition.exact and one.exact and other.exact,
    )


_RULES: dict[str, Callable[[Call], _Truth]] = {
    "is_in": _of_set,
    "is_valid": _of_null,
    "is_null": _of_null,
    "and_kleene": _of_and,
    "or_kleene": _of_or,
    "invert": _of_invert,
    "if_else": _of_choice,
}


# ---------------------------------------------------------------- sets of keys


def _merged(ranges: Iterable[tuple[int, int]]) -> KeyRanges:
    """Return ranges in order, without what is no key, and those that touch as one."""
    out: KeyRanges = []
    for start, stop in sorted((max(start, 0), min(stop, KEY_END)) for start, stop in ranges):
        if start >= stop:
            continue
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(stop, out[-1][1])
        else:
            out.append((start, stop))
    return out


def _both(one: KeyRanges, other: KeyRanges) -> KeyRanges:
    """Return the keys that are in both, ranges by ranges as in a merge of sorted lists."""
    out: KeyRanges = []
    first = second = 0
    while first < len(one) and second < len(other):
        start, stop = max(one[first][0], other[second][0]), min(one[first][1], other[second][1])
        if start < stop:
            out.append((start, stop))
        if one[first][1] <= other[second][1]:
            first += 1
        else:
            second += 1
    return out


def _others(ranges: KeyRanges) -> KeyRanges:
    bounds = [0, *(bound for pair in ranges for bound in pair), KEY_END]
    return [(start, stop) for start, stop in zip(bounds[::2], bounds[1::2], strict=True) if start < stop]


# ---------------------------------------------------------------- integers as uint64


def _wide(tree: Node) -> Iterable[tuple[int, Any]]:
    """Yield the columns of integers that keys are compared with, and what to put there."""
    if not isinstance(tree, Call):
        return
    literal, numbers = _compared(tree), _set_of(tree)
    if literal is not None and 0 <= literal.value.as_py() < KEY_END:
        yield literal.column, pa.scalar(literal.value.as_py(), pa.uint64())
    elif numbers is not None:
        yield tree.column, _with_keys(tree.options, [number for number in numbers if 0 <= number < KEY_END])
    for argument in tree.arguments:
        yield from _wide(argument)


def _with_keys(options: Any, keys: list[int]) -> Any:
    """Return the options of ``is_in`` with other values."""
    fields = [pa.field(field.name, field.type) for field in options.type]
    kinds = {field.name: field.type for field in fields} | {"value_set": pa.list_(pa.uint64())}
    return pa.scalar({**options.as_py(), "value_set": keys}, pa.struct(list(kinds.items())))
