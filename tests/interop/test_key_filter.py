"""Key ranges of filters: nothing that fits is left out, and what is called certain fits."""

from __future__ import annotations

import functools
import itertools
import operator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pytest
from hypothesis import given
from hypothesis import strategies as st

from structchunk.interop.arrow_expressions import Unknown, fields_of, parse
from structchunk.interop.key_filter import key_ranges, with_exact_keys

END = 2**64
key, x = pc.field("key"), pc.field("x")
NULL = pa.scalar(None, pa.bool_())


def u8(number: int) -> pa.Scalar:
    return pa.scalar(number, pa.uint64())


RANGES: list[tuple[Any, Any]] = [
    (key == 5, [(5, 6)]),
    (key != 5, [(0, 5), (6, END)]),
    (key < 5, [(0, 5)]),
    (key <= u8(5), [(0, 6)]),
    (key > pa.scalar(5, pa.int8()), [(6, END)]),
    (key >= -1, [(0, END)]),
    (key <= -1, []),
    (key > u8(2**63), [(2**63 + 1, END)]),
    (key >= u8(END - 1), [(END - 1, END)]),
    (pc.scalar(5) < key, [(6, END)]),
    ((key >= 5) & (key < 9), [(5, 9)]),
    ((key < 5) | (key >= 9) | (key == 6), [(0, 5), (6, 7), (9, END)]),
    (~(key < 5), [(5, END)]),
    (~((key < 5) | (key > 9)), [(5, 10)]),
    (key.isin([9, 5, 6]), [(5, 7), (9, 10)]),
    (key.isin([-1]), []),
    (~key.isin(pa.array([0, 5], pa.uint64())), [(1, 5), (6, END)]),
    (key.is_null() | (key == 5), [(5, 6)]),
    (pc.if_else(key.is_valid(), key.isin([5, 7]), NULL), [(5, 6), (7, 8)]),
    (pc.scalar(False), []),
    (pc.scalar(NULL), []),
    (pc.scalar(True), [(0, END)]),
]
APPLIED: list[tuple[Any, Any]] = [
    ((key >= 5) & (key < 9) & (x > 3), [(5, 9)]),
    (((key < 5) | (x > 3)) & (key < 9), [(0, 9)]),
    (~((key < 5) & (x > 3)), [(0, END)]),
    (~((key < 5) | (x > 3)), [(5, END)]),
    ((key < 5) | (x > 3), [(0, END)]),
    (key >= 5.5, [(0, END)]),
    (key > pa.scalar(None, pa.uint64()), [(0, END)]),
    (~key.isin(pa.array([5, None], pa.uint64())), [(0, END)]),
    (key.cast(pa.int64()) < 5, [(0, END)]),
    (pc.divide(key, 2) == 2, [(0, END)]),
    (x.isin([5]) & (key == 5), [(5, 6)]),
    (pc.xor(key < 5, x > 3), [(0, END)]),
    (pc.field("key", "x") == 5, [(0, END)]),
    ((pc.field("points", "key") == 5) & (key < 5), [(0, 5)]),
    (pc.field(0) == 5, [(0, END)]),
    ((pc.field("name") == "call: end") & (key < 5), [(0, 5)]),
]


@pytest.mark.parametrize(("filter", "ranges"), RANGES, ids=lambda value: str(value)[:40])
def test_conditions_on_the_key_alone_are_ranges(filter: Any, ranges: Any) -> None:
    assert key_ranges(filter) == (ranges, True)


@pytest.mark.parametrize(("filter", "ranges"), APPLIED, ids=lambda value: str(value)[:40])
def test_the_rest_is_left_to_be_applied(filter: Any, ranges: Any) -> None:
    assert key_ranges(filter) == (ranges, False)


def test_a_long_chain_of_conditions() -> None:
    chain = functools.reduce(operator.or_, [key == number for number in range(0, 6000, 3)])
    assert key_ranges(chain) == ([(number, number + 1) for number in range(0, 6000, 3)], True)
    chain = functools.reduce(operator.and_, [key != number for number in range(0, 6000, 3)])
    assert key_ranges(chain)[0][:2] == [(1, 3), (4, 6)]


NUMBERS = st.integers(-1, 9)
COMPARE = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]
COLUMNS = st.sampled_from([key, x])
LEAVES = st.one_of(
    st.builds(lambda compare, *sides: compare(*sides), st.sampled_from(COMPARE), COLUMNS, NUMBERS),
    st.builds(
        lambda column, numbers: column.isin(pa.array(numbers, pa.int64())),
        COLUMNS,
        st.lists(NUMBERS | st.none(), max_size=4),
    ),
    st.builds(lambda column: column.is_null(), COLUMNS),
    st.builds(lambda column: column.is_valid(), COLUMNS),
    st.sampled_from([pc.scalar(NULL), pc.scalar(True), pc.scalar(False)]),
)
FILTERS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(operator.and_, inner, inner),
        st.builds(operator.or_, inner, inner),
        st.builds(operator.invert, inner),
        st.builds(pc.if_else, inner, inner, inner),
    ),
    max_leaves=8,
)
ROWS = list(itertools.product(range(9), [*range(-1, 10), None]))
TABLE = pa.table(
    {
        "key": pa.array([number for number, _ in ROWS], pa.uint64()),
        "x": pa.array([other for _, other in ROWS], pa.int64()),
    }
)


@given(FILTERS)
def test_ranges_agree_with_arrow(filter: Any) -> None:
    """What fits is in the ranges; if the filter need not be applied, all in the ranges fits."""
    fitting = {(row["key"], row["x"]) for row in pads.dataset(TABLE).to_table(filter=filter).to_pylist()}
    ranges, is_exact = key_ranges(filter)
    within = {row for row in ROWS if any(start <= row[0] < stop for start, stop in ranges)}
    assert fitting <= within
    assert not is_exact or fitting == within
    exact = pads.dataset(TABLE).to_table(filter=with_exact_keys(filter)).to_pylist()
    assert {(row["key"], row["x"]) for row in exact} == fitting


def test_keys_that_no_int64_holds_are_compared() -> None:
    """Arrow alone casts the keys to the type of the literal, and refuses large ones."""
    table = pads.dataset(pa.table({"key": pa.array([1, 5, 2**63 + 5], pa.uint64()), "x": [1, 5, 4]}))
    for filter, keys in [
        ((key >= 5) & (x > 3), [5, 2**63 + 5]),
        (key.isin([5, -1]) | (x == 4), [5, 2**63 + 5]),
        ((pc.scalar(2) > key) & (x > 0), [1]),
    ]:
        with pytest.raises(pa.ArrowInvalid):
            table.to_table(filter=filter)
        assert table.to_table(filter=with_exact_keys(filter)).column("key").to_pylist() == keys


def test_the_fields_of_an_expression() -> None:
    tree = parse((pc.field("points", "inner", "x") > 3) & key.isin([1]) | pc.field("temps").is_null())
    assert set(fields_of(tree) or ()) == {("points", "inner", "x"), ("key",), ("temps",)}
    assert isinstance(parse(pc.field(1)), Unknown)
    assert fields_of(parse(pc.field(1) > 3)) is None
