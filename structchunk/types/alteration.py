"""Alteration: the records of one type as those of another, field by field, so that no value changes.

Whether that can be is decided by the types alone, never by what is stored: a number goes to a type that holds every
number of its own, text to a longer one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import SchemaError
from .casts import EXACT_UP_TO
from .convert import as_array
from .schema import Schema, array_schema, object_schema

__all__ = ["Alteration", "alteration", "asked_schema"]

_Array = npt.NDArray[Any]
_Copy = Callable[[_Array, _Array], None]


class Alteration:
    """How records become those of another type.

    Attributes
    ----------
    dtype : numpy.dtype
        Of the items that are made.
    keeps_zeros : bool
        Whether items that are all zeros stay so.
    """

    def __init__(self, dtype: np.dtype[Any], copy: _Copy, *, keeps_zeros: bool) -> None:
        self.dtype = dtype
        self.keeps_zeros = keeps_zeros
        self._copy = copy

    def convert(self, items: _Array) -> _Array:
        """Return items of the old type as as many of the new one; their padding is zeros."""
        out = np.zeros(len(items), self.dtype)
        self._copy(items, out)
        return out


def asked_schema(stored: Schema, new_type: object) -> Schema:
    """Return the schema of a type that a store is to have, whose kind stays."""
    return array_schema(new_type) if stored.kind == "array" else object_schema(new_type)


def alteration(
    name: str, stored: Schema, asked: Schema, fill: Mapping[str, Any] | None, drop: Iterable[str]
) -> Alteration:
    """Return how the records of a store become those of another type.

    Parameters
    ----------
    name : str
        The store's, for messages.
    stored, asked : Schema
        Of one kind.
    fill : mapping of str to object, optional
        What new fields hold, by path; else zeros.
    drop : iterable of str
        Paths of the fields that are to go.

    Raises
    ------
    SchemaError
        A value might change, or a field would go that is not in `drop`; names the fields.
    ValueError, TypeError
        `fill` or `drop` name what is no such field, or a value does not fit.
    """
    if isinstance(drop, str):
        raise TypeError(f"drop is a sequence of names: drop=({drop!r},)")
    plan = _Plan(dict(fill or {}), set(drop))
    copy = plan.copy(stored.dtype, asked.dtype, "")
    if plan.problems:
        raise SchemaError(f"store {name!r} cannot be altered: {'; '.join(plan.problems)}")
    plan.check_all_used()
    return Alteration(asked.dtype, copy, keeps_zeros=plan.keeps_zeros)


class _Plan:
    """What is found on the way through two types."""

    def __init__(self, fill: dict[str, Any], drop: set[str]) -> None:
        self._fill = fill
        self._drop = drop
        self._unused = set(fill), set(drop)
        self.problems: list[str] = []
        self.keeps_zeros = True

    def check_all_used(self) -> None:
        """Raise if something was to be filled or dropped that is not new, or not stored."""
        fill, drop = map(sorted, self._unused)
        if fill:
            raise ValueError(f"fill names {fill[0]!r}, which is no new field")
        if drop:
            raise ValueError(f"drop names {drop[0]!r}, which is no field that only the stored type has")

    def copy(self, old: np.dtype[Any], new: np.dtype[Any], path: str) -> _Copy:
        """Return what copies items of one type into those of another."""
        if old.shape != new.shape:
            self._refuse(path, f"stored of shape {old.shape}, asked for of shape {new.shape}: shapes stay")
        if old.base.names is not None and new.base.names is not None:
            return self._copy_fields(old.base, new.base, f"{path}[]" if path and old.shape else path)
        if not is_widening(old.base, new.base):
            self._refuse(path, f"stored {old.base}, asked for {new.base}, which does not hold all of its values")
        return _copy_values

    def _refuse(self, path: str, why: str) -> None:
        self.problems.append(f"{f'field {path!r}' if path else 'each item'}: {why}")

    def _copy_fields(self, old: np.dtype[Any], new: np.dtype[Any], path: str) -> _Copy:
        steps: list[_Copy] = []
        for name in new.names or ():
            inner = f"{path}.{name}" if path else name
            if name in (old.names or ()):
                steps.append(partial(_copy_field, name, self.copy(old[name], new[name], inner)))
            elif inner in self._fill:
                steps.append(partial(_fill_field, name, self._value(new[name], inner)))
        for name in set(old.names or ()) - set(new.names or ()):
            self._let_go(old[name], f"{path}.{name}" if path else name)
        return partial(_all_steps, steps)

    def _value(self, dtype: np.dtype[Any], path: str) -> _Array:
        """Return what a new field is to hold, as one item of its type."""
        self._unused[0].discard(path)
        try:
            value = as_array([self._fill[path]], dtype, ndim=1)
        except ValueError as error:
            raise ValueError(f"fill of field {path!r}: {error}") from error
        except TypeError as error:
            raise TypeError(f"fill of field {path!r}: {error}") from error
        self.keeps_zeros &= not any(value.tobytes())
        return value

    def _let_go(self, dtype: np.dtype[Any], path: str) -> None:
        if path not in self._drop:
            self._refuse(path, f"stored {dtype}, not asked for; to lose it, name it in drop=")
        self._unused[1].discard(path)


def _copy_values(source: _Array, out: _Array) -> None:
    out[...] = source


def _copy_field(name: str, copy: _Copy, source: _Array, out: _Array) -> None:
    copy(source[name], out[name])


def _fill_field(name: str, value: _Array, source: _Array, out: _Array) -> None:
    out[name] = value[0]


def _all_steps(steps: list[_Copy], source: _Array, out: _Array) -> None:
    for step in steps:
        step(source, out)


def is_widening(old: np.dtype[Any], new: np.dtype[Any]) -> bool:
    """Tell whether a type holds every value of another one, both without fields and shape."""
    if np.can_cast(old, new, "equiv"):  # but for the order of bytes
        return True
    return (old.kind, new.kind) in _WIDENINGS and _WIDENINGS[old.kind, new.kind](old, new)


def _always(old: np.dtype[Any], new: np.dtype[Any]) -> bool:
    return True


def _to_longer(old: np.dtype[Any], new: np.dtype[Any]) -> bool:
    return old.itemsize <= new.itemsize


def _to_longer_parts(old: np.dtype[Any], new: np.dtype[Any]) -> bool:
    return old.itemsize <= new.itemsize // 2


def _integer_to_integer(old: np.dtype[Any], new: np.dtype[Any]) -> bool:
    return bool(np.can_cast(old, new, "safe"))


def _integer_to_float(old: np.dtype[Any], new: np.dtype[Any]) -> bool:
    part = new.itemsize // 2 if new.kind == "c" else new.itemsize
    return max(-int(np.iinfo(old).min), int(np.iinfo(old).max)) <= EXACT_UP_TO[part]


_WIDENINGS: dict[tuple[str, str], Callable[[np.dtype[Any], np.dtype[Any]], bool]] = {
    **dict.fromkeys([("b", "i"), ("b", "u"), ("b", "f"), ("b", "c")], _always),
    **dict.fromkeys([("i", "i"), ("u", "u"), ("u", "i")], _integer_to_integer),
    **dict.fromkeys([(old, new) for old in "iu" for new in "fc"], _integer_to_float),
    **dict.fromkeys([("f", "f"), ("c", "c"), ("S", "S"), ("U", "U")], _to_longer),
    ("f", "c"): _to_longer_parts,
}
