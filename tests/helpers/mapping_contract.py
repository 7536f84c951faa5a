"""One contract, run against every store: a mutable mapping in ascending order of key."""

from __future__ import annotations

import ctypes
import re
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

    @property
    def is_array(self) -> bool:
        """Whether records are arrays."""
        return self.name != "object"

    def open(self, handle: Any, name: str = "") -> Any:
        """Open or create the store on a database or transaction."""
        method = handle.array_store if self.is_array else handle.object_store
        return method(name or self.name, self.type)

    def result(self, number: int) -> Any:
        """Return the plain form of the record made of a number."""
        return self.plain(self.make(number))

    def contents(self, store: Any) -> dict[int, Any]:
        """Return all that a store has, in plain form."""
        return {key: self.plain(record) for key, record in store.items()}


ARRAYS = Kind("array", np.int64, lambda n: np.arange(n, n + n % 4), lambda record: record.tolist())
SHAPED = Kind(
    "shaped",
    np.dtype((np.int32, (2, 1))),
    lambda n: np.arange(n, n + n % 4 * 2).reshape(n % 4, 2, 1),
    lambda record: record.tolist(),
)
OBJECTS = Kind("object", Pair, lambda n: Pair(n / 2, n), lambda record: (record.x, record.n))
KINDS = (ARRAYS, SHAPED, OBJECTS)
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
    _check_append(store, kind, model)
    check_reading(store, kind, model)
    _check_update(store, kind, model)
    check_reading(store, kind, model)
    store.clear()
    check_reading(store, kind, {})
    with pytest.raises(sc.KeyNotFound, match="empty"):
        store.popitem()
    model = fill(store, kind)
    check_reading(store, kind, model)
    return model


def check_reading(store: Any, kind: Kind, model: Model) -> None:
    """Check all that only reads."""
    expected = {key: kind.result(model[key]) for key in sorted(model)}
    _check_points(store, kind, expected)
    _check_order(store, kind, expected)
    _check_ranges(store, kind, expected)
    _check_views_both_ways(store, kind, expected, None, None)
    _check_views_both_ways(store, kind, expected, 4, 2**63)
    _check_key_sets(store, set(expected))
    _check_bulk(store, kind, expected)
    _check_bad_keys_read(store)
    _check_is_no_array(store)


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
    assert (store.first_key, store.last_key) == ((keys[0], keys[-1]) if keys else (None, None))
    assert bool(store) == bool(keys)
    assert list(store) == list(store.keys()) == keys
    assert np.asarray(store.keys()).tolist() == keys
    assert {type(key) for key in store} <= {int}
    assert list(reversed(store)) == keys[::-1]
    assert kind.contents(store) == expected
    assert f"{len(keys)} records" in repr(store)
    assert repr(store.name) in repr(store)


def _ranges(keys: list[int]) -> list[tuple[int | None, int | None]]:
    """Return pairs of bounds, on keys and next to them; one range is empty, and some go backwards."""
    middle = np.uint64(keys[len(keys) // 2] if keys else 9)
    starts: tuple[int | None, ...] = (None, 4, 5, middle, 2**64 - 1)
    stops: tuple[int | None, ...] = (4, 5, middle, 2**64 - 1, 2**64)
    ascending = [(start, stop) for at, start in enumerate(starts) for stop in (*stops[at:], None)]
    return [*ascending, (5, 5), (5, 4), (2**64, middle), (2**64, None)]


def _within(expected: dict[int, Any], start: int | None, stop: int | None) -> dict[int, Any]:
    low, high = 0 if start is None else int(start), 2**64 if stop is None else int(stop)
    return {key: result for key, result in expected.items() if low <= key < high}


def _check_ranges(store: Any, kind: Kind, expected: dict[int, Any]) -> None:
    single = dict(_bytes_of(store, list(expected)))
    for start, stop in _ranges(list(expected)):
        part = _within(expected, start, stop)
        views = [view(start, stop) for view in (store.keys, store.values, store.items)]
        _check_walk(views, kind, part)
        assert list(map(len, views)) == [len(part)] * 3
        assert all((key in views[0]) == (key in part) for key in (0, 3, 4, 6, 2**63, 2**64 - 1))
        backwards = [view(start, stop, reverse=True) for view in (store.keys, store.values, store.items)]
        _check_walk(backwards, kind, dict(reversed(part.items())))
        batch = store.read(start, stop)
        assert batch.keys.tolist() == list(part)
        assert [(key, value.tobytes()) for key, value in batch] == [(key, single[key]) for key in part]


def _check_walk(views: list[Any], kind: Kind, expected: dict[int, Any]) -> None:
    """Check what views of keys, records and pairs yield; what is expected is in their order."""
    assert list(views[0]) == np.asarray(views[0]).tolist() == list(expected)
    assert list(map(kind.plain, views[1])) == list(expected.values())
    assert [(key, kind.plain(value)) for key, value in views[2]] == list(expected.items())


def _check_views_both_ways(
    store: Any, kind: Kind, expected: dict[int, Any], start: int | None, stop: int | None
) -> None:
    """Check what is the same of every range, and costs too much for each."""
    part = _within(expected, start, stop)
    for reverse in (False, True):
        views = [view(start, stop, reverse=reverse) for view in (store.keys, store.values, store.items)]
        pairs = list(part.items())[:: -1 if reverse else 1]
        for _ in range(2):  # a view can be walked any number of times
            _check_walk(views, kind, dict(pairs))
        assert list(reversed(views[0])) == [key for key, _ in pairs[::-1]]
        assert list(map(kind.plain, reversed(views[1]))) == [result for _, result in pairs[::-1]]
        assert [(key, kind.plain(value)) for key, value in reversed(views[2])] == pairs[::-1]
        assert list(map(len, views)) == [len(part)] * 3
        assert all(repr(view).startswith(f"<{len(part)} ") for view in views)
        assert all(key not in views[0] for key in (*NOT_INTEGERS, *OUT_OF_RANGE))
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
    assert view.isdisjoint({2**41, 2**42, -1, "text"})
    assert view & {*some, -1, "text", 3.5} == keys & some
    assert view != {*keys, -1}
    assert store.keys(4, 2**63) == {key for key in keys if 4 <= key < 2**63}


def _check_bulk(store: Any, kind: Kind, expected: dict[int, Any]) -> None:
    """Check that bulk reads agree with single ones, by their bytes."""
    whole = [(key, value.tobytes()) for batch in store.scan() for key, value in batch]
    single = dict(_bytes_of(store, list(store)))
    assert [key for key, _ in whole] == list(expected)
    assert dict(whole) == single
    asked = [*expected, *list(expected)[:2], *reversed(expected)]
    found = store.get_many(asked)
    assert [(key, value.tobytes()) for key, value in found] == [(key, single[key]) for key in asked]
    _check_slices(found)
    for keys in (asked, np.array(asked, object), np.array(asked, np.uint64)):
        assert np.array_equal(store.get_many(keys).keys, found.keys)
    maybe = [*_missing(expected), *asked, *_missing(expected)]
    _check_missing(store, kind, maybe, single)
    there = store.contains_many(maybe)
    assert there.dtype == np.bool_
    assert there.tolist() == [key in expected for key in maybe]
    assert store.contains_many([]).shape == (0,)
    assert store.contains_many(store.keys()).tolist() == [True] * len(expected)
    cursor = store.cursor()
    assert [cursor.key for _ in expected if cursor.next()] == list(expected)


def _check_missing(store: Any, kind: Kind, asked: list[int], single: dict[int, bytes]) -> None:
    """Check what becomes of keys that have no record."""
    with pytest.raises(sc.KeyNotFound, match=f"no record {asked[0]} "):
        store.get_many(asked, missing="raise")
    skipped = store.get_many(asked, missing="skip")
    assert [(key, value.tobytes()) for key, value in skipped] == [
        (key, single[key]) for key in asked if key in single
    ]
    if kind.is_array:
        every = store.get_many(asked, missing="empty")
        assert [(key, value.tobytes()) for key, value in every] == [(key, single.get(key, b"")) for key in asked]
        assert not any(array.flags.writeable for array in (every.keys, every.offsets, every.values))
        assert (every.offsets.dtype, every.values.dtype) == (np.int64, store.dtype.base)
        assert every.values.shape[1:] == store.dtype.shape
    else:
        with pytest.raises(ValueError, match="missing='skip'"):
            store.get_many(asked, missing="empty")
    with pytest.raises(ValueError, match="'raise', 'skip' or 'empty', found None"):
        store.get_many(asked, missing=None)


def _bytes_of(store: Any, keys: list[int]) -> list[tuple[int, bytes]]:
    return [(key, bytes(memoryview(store[key]))) for key in keys]


def _check_slices(batch: sc.Batch) -> None:
    """Check that slices of a batch are those of the list of its pairs, over the same memory."""
    pairs = [(key, value.tobytes()) for key, value in batch]
    for low in (None, 0, 1, -2, len(pairs), 10**6):
        for high in (None, 0, 2, -1, 10**6):
            part = batch[low:high]
            assert [(key, value.tobytes()) for key, value in part] == pairs[low:high]
            assert (len(part), part.kind) == (len(pairs[low:high]), batch.kind)
            assert part.offsets[0] == 0
            assert part.values.base is batch.values or part.values.base is batch.values.base
            assert not any(array.flags.writeable for array in (part.keys, part.offsets, part.values))


def _check_is_no_array(store: Any) -> None:
    """Check that NumPy does not take a store, or its records, for the sequence of its keys."""
    for attempt in (np.asarray, np.array, np.mean, np.sum, np.sort, np.sqrt):
        with pytest.raises(
            TypeError, match=r"np\.asarray\(store\.keys\(\)\).*store\.read\(\)\.values.*store\.scan\(\)"
        ):
            attempt(store)
    for array in (np.arange(3), np.array(["a"]), np.array([], object)):
        assert (store == array, array == store, store != array, array != store) == (False, False, True, True)
    assert store == store  # noqa: PLR0124
    for records in (store.values(), store.items()):
        with pytest.raises(TypeError, match="read"):
            np.asarray(records)
    for key in (slice(10, 20), slice(None, 5)):
        for attempt in (store.__getitem__, store.get):
            with pytest.raises(
                TypeError, match=rf"scan\({key.start}, {key.stop}\) reads .* delete_range\({key.start}, "
            ):
                attempt(key)
    with pytest.raises(TypeError, match="get_many"):
        store[[1, 2]]
    with pytest.raises(TypeError, match=r"read\(\)"):
        store[...]


def _check_bad_keys_read(store: Any) -> None:
    for key, error in BAD_KEYS:
        assert key not in store
        _check_not_contained(store, key, error)
        assert key not in store.keys()  # noqa: SIM118
        attempts: list[Callable[[], Any]] = [
            lambda key=key: store[key],
            lambda key=key: store.get(key),
            lambda key=key: store.get_many([key]),
            lambda key=key: store.get_many([1, key]),
            lambda key=key: store.get_many([1, key], missing="skip"),
            lambda key=key: store.get_many(np.array([1, key, 2], object)),
            lambda key=key: store.cursor().seek(key),
        ]
        if not _is_bound(key):
            views = (store.keys, store.values, store.items, store.scan)
            attempts += [lambda key=key, view=view: view(key) for view in views]
            attempts += [lambda key=key, view=view: view(None, key) for view in views]
        all_raise(attempts, error, "key")


def _check_not_contained(store: Any, key: Any, error: type[Exception]) -> None:
    """Check that an integer that can be no key is not in the store among others, and that nothing else is taken."""
    for keys in ([1, key], np.array([1, key], object)):
        if error is ValueError:
            assert store.contains_many(keys).tolist() == [1 in store, False]
        else:
            all_raise([lambda keys=keys: store.contains_many(keys)], error, "key")


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
            lambda key=key: store.new(key, *([2] if kind.is_array else [])),
            lambda key=key: store.delete(key),
            lambda key=key: store.__delitem__(key),
            lambda key=key: store.pop(key),
            lambda key=key: store.pop(key, None),
            lambda key=key: store.put_many([1, key], _two_rows(kind)),
            *([lambda key=key: store.append(key, value)] if kind is ARRAYS else []),
            lambda key=key: store.delete_many([0, key]),
            lambda key=key: store.delete_many(np.array([0, key, 3], object)),
        ]
        if not _is_bound(key):
            attempts += [lambda key=key: store.delete_range(key), lambda key=key: store.delete_range(0, key)]
        all_raise(attempts, error, "key")
    assert kind.contents(store) == before


def _two_rows(kind: Kind) -> Any:
    return np.zeros((2, 3), kind.type) if kind.is_array else [Pair(), Pair()]


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
    if kind.is_array:  # what comes back is what is stored, of the store's type
        given = kind.plain(kind.make(7))
        made = store.setdefault(1002, given)
        assert (made.dtype, made.tolist()) == (store.dtype.base, given)
    else:
        made = store.setdefault(1002, {"x": 1, "n": 2})
        assert isinstance(made, store.cls)
        assert made == store[1002] == Pair(1, 2)
    assert store.delete_many([5, 1002, 1002, 2**63 + 5]) == 1
    assert store.delete_many(np.array([1002, 5])) == store.delete_many([]) == 0
    many = [*range(5000, 5400), 2**63 + 8]
    store.update({key: kind.make(2) for key in many})
    assert store.delete_many(many[::-2]) == 201
    assert [key for key in many if key in store] == many[1::2]
    assert store.delete_many(store.keys(5000, 5400)) == 200
    assert store.delete_range(1000, 1002) == 2
    assert store.delete_range(1000, 1002) == store.delete_range(5, 5) == store.delete_range(6, 5) == 0
    del model[1000], model[1001]


def _check_append(store: Any, kind: Kind, model: Model) -> None:
    """Check that records get longer, and views of before stay as they are; an object does not."""
    if kind is OBJECTS:
        with pytest.raises(TypeError, match=r"put_many\(\)"):
            store.append(3, [Pair()])
        return
    if kind is not ARRAYS:
        return
    for key in (min(model), 2**64 - 1, 77):
        before = store.get(key)
        held = [] if before is None else before.tolist()
        found = list(held)
        for values in ([], [5], np.arange(3), [6], range(2)):
            store.append(np.uint64(key), values)
            found.extend(values)
            assert store[key].tolist() == found
            assert not store[key].flags.writeable
        assert before is None or before.tolist() == held
        store[key] = kind.make(model.get(key, 0))
    model[77] = 0
    for values, error in ((1.5, ValueError), (["text"], ValueError), ([[1, 2]], ValueError), ([0.5], ValueError)):
        with pytest.raises((error, TypeError)):
            store.append(3, values)


def _check_update(store: Any, kind: Kind, model: Model) -> None:
    store.update({5: kind.make(50), np.uint64(6): kind.make(60)})
    store.update([(8, kind.make(80)), (5, kind.make(51))])
    store.update()
    store.update({})
    store.update(zip([9], [kind.make(90)], strict=True))
    if kind.is_array:
        store.update(store.read())  # pairs, of which `keys` is no method
    model.update({5: 51, 6: 60, 8: 80, 9: 90})
    with pytest.raises((TypeError, ValueError)):
        store.update({10: kind.make(1), 11: "text"})
    with pytest.raises(TypeError):
        store.update(name=kind.make(1))
    with pytest.raises(TypeError, match="bool"):
        store.update([(1, kind.make(1)), (True, kind.make(2))])
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
        lambda: store.get_many([1], missing="skip"),
        lambda: store.contains_many([1]),
        lambda: store.first_key,
        lambda: store.last_key,
        store.read,
        lambda: np.asarray(store.keys()),
        lambda: np.asarray(view),
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
        lambda: store.new(1, *([2] if kind.is_array else [])),
        lambda: store.put_many([1, 2], _two_rows(kind)),
        *([lambda: store.append(1, value), lambda: store.append(3, value)] if kind is ARRAYS else []),
        lambda: store.update({1: value}),
        lambda: store.setdefault(1, value),
        lambda: store.delete(3),
        lambda: store.__delitem__(3),
        lambda: store.pop(3),
        lambda: store.delete_range(0, 5),
        lambda: store.delete_many([3, 0]),
        lambda: store.delete_many([]),
        store.popitem,
        store.clear,
    ]


def uses(handle: Any, kind: Kind) -> list[Callable[[], Any]]:
    """Return all ways to use a kind's store, filled, that was got from a database, transaction or snapshot."""
    store = kind.open(handle)
    return reads(store) + writes(store, kind)


def all_raise(attempts: list[Callable[[], Any]], error: type[Exception], match: str) -> None:
    """Check that each attempt raises this very error: there are so many that pytest.raises takes a while."""
    for number, attempt in enumerate(attempts):
        try:
            given = attempt()
        except error as caught:
            assert re.search(match, str(caught)), f"attempt {number}: {caught}"
        else:
            pytest.fail(f"attempt {number} gave {given!r}")


def check_refuses_writes(store: Any, kind: Kind, model: Model) -> None:
    """Check that a store which can only be read says so, and stays as it is."""
    all_raise(writes(store, kind), sc.ReadOnlyError, "mode|snapshot|shards")
    check_reading(store, kind, model)
