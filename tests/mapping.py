"""One contract, run against every store: a mutable mapping in ascending order of key."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple

import numpy as np
import pytest

import structchunk as sc

EDGES = (0, 2**32, 2**63, 2**64 - 1)
NOT_INTEGERS = (True, np.True_, 1.0, np.float64(1), "1", b"1", None, (1,), 1j)
OUT_OF_RANGE = (-1, 2**64, np.int64(-1), -(2**70))
BAD_KEYS = [(key, TypeError) for key in NOT_INTEGERS] + [(key, ValueError) for key in OUT_OF_RANGE]


class Pair(sc.Object):
    _fields_ = [("x", ctypes.c_double), ("n", ctypes.c_int32)]


class Kind(NamedTuple):
    """How to open a store on a handle, what to put into it, and how to compare what comes out."""

    name: str
    type: Any
    make: Callable[[int], Any]
    plain: Callable[[Any], Any]

    def open(self, handle: Any, name: str = "") -> Any:
        """Open or create the store on a database or transaction."""
        method = handle.array_store if self.name == "array" else handle.object_store
        return method(name or self.name, self.type)

    def result(self, number: int) -> Any:
        """Return the plain form of the record made of a number."""
        return self.plain(self.make(number))

    def contents(self, store: Any) -> dict[int, Any]:
        """Return all that a store has, in plain form."""
        return {key: self.plain(record) for key, record in store.items()}


ARRAYS = Kind("array", np.int64, lambda n: np.arange(n, n + n % 4), lambda record: record.tolist())
OBJECTS = Kind("object", Pair, lambda n: Pair(n / 2, n), lambda record: (record.x, record.n))
KINDS = (ARRAYS, OBJECTS)
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)

Model = dict[int, int]
"""From key to the number that the record was made of."""


def fill(store: Any, kind: Kind) -> Model:
    """Put records under scattered keys, in no order, some of them twice."""
    keys = [*EDGES, 7, 3, 4, 2**63 - 1, 3, 1000, 2**64 - 2]
    for number, key in enumerate(keys):
        store[key] = kind.make(number)
    return dict(sorted({key: number for number, key in enumerate(keys)}.items()))


def check_mapping(store: Any, kind: Kind) -> Model:
    """Check the whole contract of an empty, writable store; return what is in it then."""
    assert isinstance(store, MutableMapping)
    check_reading(store, kind, {})
    model = fill(store, kind)
    check_reading(store, kind, model)
    check_bad_keys_written(store, kind)
    check_reading(store, kind, model)
    _check_removing(store, kind, model)
    check_reading(store, kind, model)
    _check_update(store, kind, model)
    check_reading(store, kind, model)
    store.clear()
    check_reading(store, kind, {})
    model = fill(store, kind)
    check_reading(store, kind, model)
    return model


def check_reading(store: Any, kind: Kind, model: Model) -> None:
    """Check all that only reads."""
    expected = {key: kind.result(model[key]) for key in sorted(model)}
    _check_points(store, kind, expected)
    _check_order(store, kind, expected)
    for reverse in (False, True):
        for start, stop in _ranges(list(expected)):
            _check_range(store, kind, expected, start, stop, reverse)
    _check_key_sets(store, set(expected))
    _check_bulk(store, kind, expected)
    _check_bad_keys_read(store)


def _check_points(store: Any, kind: Kind, expected: dict[int, Any]) -> None:
    for key, result in expected.items():
        assert key in store
        assert np.uint64(key) in store
        assert kind.plain(store[key]) == kind.plain(store[np.uint64(key)]) == result
        assert kind.plain(store.get(key)) == kind.plain(store.get(key, 5)) == result
    small = next((key for key in expected if key < 128), None)
    if small is not None:
        for integer in (np.int8, np.uint8, np.int16, np.int32, np.int64):
            assert kind.plain(store[integer(small)]) == expected[small]
    for key in _missing(expected):
        assert key not in store
        assert store.get(key) is None
        assert store.get(key, "default") == "default"
        with pytest.raises(sc.KeyNotFound, match=str(key)):
            store[key]
    assert issubclass(sc.KeyNotFound, KeyError)


def _missing(expected: dict[int, Any]) -> list[int]:
    near = {key + step for key in (*expected, 5, 2**40) for step in (-1, 1)}
    return [key for key in near if 0 <= key < 2**64 and key not in expected]


def _check_order(store: Any, kind: Kind, expected: dict[int, Any]) -> None:
    keys = list(expected)
    assert len(store) == len(keys)
    assert bool(store) == bool(keys)
    assert list(store) == list(store.keys()) == keys
    assert {type(key) for key in store} <= {int}
    assert list(reversed(store)) == keys[::-1]
    assert kind.contents(store) == expected
    assert f"{len(keys)} records" in repr(store)
    assert repr(store.name) in repr(store)


def _ranges(keys: list[int]) -> list[tuple[int | None, int | None]]:
    """Return pairs of bounds, on keys and next to them; some ranges are empty, and some go backwards."""
    middle = keys[len(keys) // 2] if keys else 9
    bounds: list[int | None] = [None, 4, 5, np.uint64(middle), 2**64 - 1, 2**64]
    return [(start, stop) for start in bounds for stop in bounds]


def _check_range(
    store: Any, kind: Kind, expected: dict[int, Any], start: int | None, stop: int | None, reverse: bool
) -> None:
    low, high = 0 if start is None else int(start), 2**64 if stop is None else int(stop)
    keys = [key for key in expected if low <= key < high][:: -1 if reverse else 1]
    values = [expected[key] for key in keys]
    views = [view(start, stop, reverse=reverse) for view in (store.keys, store.values, store.items)]
    for _ in range(2):  # a view can be walked any number of times
        assert list(views[0]) == keys
        assert list(map(kind.plain, views[1])) == values
        assert [(key, kind.plain(value)) for key, value in views[2]] == list(zip(keys, values, strict=True))
    assert list(reversed(views[0])) == keys[::-1]
    assert list(map(kind.plain, reversed(views[1]))) == values[::-1]
    assert [key for key, _ in reversed(views[2])] == keys[::-1]
    assert list(map(len, views)) == [len(keys)] * 3
    assert all(repr(view).startswith(f"<{len(keys)} ") for view in views)
    assert all((key in views[0]) == (key in keys) for key in (0, 3, 4, 6, 2**63, 2**64 - 1))
    for view in views[1:]:
        with pytest.raises(TypeError, match="compare them yourself"):
            assert 5 in view


def _check_key_sets(store: Any, keys: set[int]) -> None:
    some = {3, 4, 5, 2**64 - 1, 2**40}
    view = store.keys()
    assert view == keys
    assert view != keys | {2**41}
    assert (view & some, some & view) == (keys & some, keys & some)
    assert (view | some, some | view) == (keys | some, keys | some)
    assert (view - some, some - view) == (keys - some, some - keys)
    assert (view ^ some, some ^ view) == (keys ^ some, keys ^ some)
    assert view <= keys <= view
    assert (view < keys | {2**41}) and not view < keys
    assert view.isdisjoint({2**41, 2**42})
    assert store.keys(4, 2**63) == {key for key in keys if 4 <= key < 2**63}


def _check_bulk(store: Any, kind: Kind, expected: dict[int, Any]) -> None:
    """Check that bulk reads agree with single ones, by their bytes."""
    whole = [(key, value.tobytes()) for batch in store.scan() for key, value in batch]
    single = {key: bytes(memoryview(record)) for key, record in store.items()}
    assert [key for key, _ in whole] == list(expected)
    assert dict(whole) == single
    asked = [*expected, *list(expected)[:2], *reversed(expected)]
    found = store.get_many(asked)
    assert [(key, value.tobytes()) for key, value in found] == [(key, single[key]) for key in asked]
    cursor = store.cursor()
    assert [cursor.key for _ in expected if cursor.next()] == list(expected)


def _check_bad_keys_read(store: Any) -> None:
    for key, error in BAD_KEYS:
        attempts: list[Callable[[], Any]] = [
            lambda key=key: store[key],
            lambda key=key: store.get(key),
            lambda key=key: key in store,
            lambda key=key: store.keys().__contains__(key),
            lambda key=key: store.get_many([key]),
            lambda key=key: store.get_many([1, key]),
            lambda key=key: store.cursor().seek(key),
        ]
        if not _is_bound(key):
            views = (store.keys, store.values, store.items, store.scan)
            attempts += [lambda key=key, view=view: view(key) for view in views]
            attempts += [lambda key=key, view=view: view(None, key) for view in views]
        all_raise(attempts, error, "key")


def check_bad_keys_written(store: Any, kind: Kind) -> None:
    """Check that no way of writing takes a bad key, or changes anything then."""
    before = kind.contents(store)
    value = kind.make(2)
    for key, error in BAD_KEYS:
        attempts: list[Callable[[], Any]] = [
            lambda key=key: store.put(key, value),
            lambda key=key: store.__setitem__(key, value),
            lambda key=key: store.update([(key, value)]),
            lambda key=key: store.setdefault(key, value),
            lambda key=key: store.new(key, *([2] if kind is ARRAYS else [])),
            lambda key=key: store.delete(key),
            lambda key=key: store.__delitem__(key),
            lambda key=key: store.pop(key),
            lambda key=key: store.pop(key, None),
            lambda key=key: store.put_many([1, key], _two_rows(kind)),
        ]
        if not _is_bound(key):
            attempts += [lambda key=key: store.delete_range(key), lambda key=key: store.delete_range(0, key)]
        all_raise(attempts, error, "key")
    assert kind.contents(store) == before


def _two_rows(kind: Kind) -> Any:
    return np.zeros((2, 3), np.int64) if kind is ARRAYS else [Pair(), Pair()]


def _is_bound(key: Any) -> bool:
    return key is None or (type(key) is int and key == 2**64)


def _check_removing(store: Any, kind: Kind, model: Model) -> None:
    """Check all ways to take single records out, and setdefault; keep the model up to date."""
    assert kind.plain(store.pop(7)) == kind.result(model.pop(7))
    assert store.pop(7, "default") == "default"
    with pytest.raises(sc.KeyNotFound):
        store.pop(7)
    lowest, record = store.popitem()
    assert lowest == min(model) == 0
    assert kind.plain(record) == kind.result(model.pop(0))
    del store[np.int64(3)], model[3]
    with pytest.raises(sc.KeyNotFound, match="3"):
        del store[3]
    assert store.delete(4) is True
    assert store.delete(4) is False
    del model[4]
    assert kind.plain(store.setdefault(1000, kind.make(99))) == kind.result(model[1000])
    assert kind.plain(store.setdefault(1001, kind.make(99))) == kind.result(99)
    model[1001] = 99
    assert store.delete_range(1000, 1002) == 2
    assert store.delete_range(1000, 1002) == store.delete_range(5, 5) == store.delete_range(6, 5) == 0
    del model[1000], model[1001]


def _check_update(store: Any, kind: Kind, model: Model) -> None:
    store.update({5: kind.make(50), np.uint64(6): kind.make(60)})
    store.update([(8, kind.make(80)), (5, kind.make(51))])
    store.update()
    store.update({})
    store.update(zip([9], [kind.make(90)], strict=True))
    model.update({5: 51, 6: 60, 8: 80, 9: 90})
    with pytest.raises((TypeError, ValueError)):
        store.update({10: kind.make(1), 11: "text"})
    with pytest.raises(TypeError):
        store.update(name=kind.make(1))
    with pytest.raises((TypeError, ValueError)):
        store.update([(1, 2, 3)])
    with pytest.raises(TypeError):
        store.update(5)


def reads(store: Any) -> list[Callable[[], Any]]:
    """Return all ways to read a store that may have been closed; the views, sweeps and cursor begin now."""
    view, sweep, walk, cursor = store.keys(), store.scan(batch_size=1), iter(store.values()), store.cursor()
    cursor.first()
    return [
        lambda: store[1],
        lambda: store.get(1),
        lambda: 1 in store,
        lambda: len(store),
        lambda: list(store),
        lambda: list(store.items()),
        lambda: list(store.scan()),
        lambda: store.get_many([1]),
        lambda: store.cursor().seek(0),
        lambda: len(view),
        lambda: list(view),
        lambda: list(sweep),
        lambda: list(walk),
        lambda: cursor.value,
        cursor.next,
        cursor.last,
    ]


def writes(store: Any, kind: Kind) -> list[Callable[[], Any]]:
    """Return all ways to write a store, which has records under 0 and 3."""
    value = kind.make(3)
    return [
        lambda: store.put(1, value),
        lambda: store.__setitem__(1, value),
        lambda: store.new(1, *([2] if kind is ARRAYS else [])),
        lambda: store.put_many([1, 2], _two_rows(kind)),
        lambda: store.update({1: value}),
        lambda: store.setdefault(1, value),
        lambda: store.delete(3),
        lambda: store.__delitem__(3),
        lambda: store.pop(3),
        lambda: store.delete_range(0, 5),
        store.popitem,
        store.clear,
    ]


def uses(handle: Any, kind: Kind) -> list[Callable[[], Any]]:
    """Return all ways to use a kind's store, filled, that was got from a database, transaction or snapshot."""
    store = kind.open(handle)
    return reads(store) + writes(store, kind)


def all_raise(attempts: list[Callable[[], Any]], error: type[Exception], match: str) -> None:
    """Check that each attempt raises this very error."""
    for number, attempt in enumerate(attempts):
        with pytest.raises(error, match=match):
            pytest.fail(f"attempt {number} gave {attempt()!r}")


def check_refuses_writes(store: Any, kind: Kind, model: Model) -> None:
    """Check that a store which can only be read says so, and stays as it is."""
    all_raise(writes(store, kind), sc.ReadOnlyError, "mode|snapshot|shards")
    check_reading(store, kind, model)
