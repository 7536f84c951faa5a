"""Attributes: a mutable mapping of names to JSON values, of a database or of one store."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ..errors import CorruptionError, Error, KeyNotFound
from ..types.json_values import as_json, from_text, to_text

_NOTHING: Any = object()


class AttributeRecord(Protocol):
    """Where attributes are kept: one record of text, empty if there are none."""

    @property
    def where(self) -> str:
        """The path of the database."""

    def text(self) -> bytes:
        """Return the text."""

    def transaction(self) -> AbstractContextManager[Any]:
        """Return the transaction that a change belongs to, one of its own outside of any."""

    def text_in(self, transaction: Any) -> bytes:
        """Return the text as that transaction sees it."""

    def put_in(self, transaction: Any, text: bytes) -> None:
        """Replace the text."""


class Attributes(MutableMapping[str, Any]):
    """Named JSON values of a database, or of one store, in the order in which they were first set.

    Values are None, text, bools, integers, finite floats, and lists and dicts of these. What is set is what comes
    back, equal; what JSON would change is refused: NaN, tuples, bytes, keys that are no text. Scalars of NumPy are
    set as the numbers that they are.

    Notes
    -----
    They read and write through what they were got from, as stores do: each change is a commit of its own, durable
    as the database's others are, or part of the transaction; a snapshot shows those of its commit, and cannot
    change them. All attributes of a store are one record, so they are for what fits a page: each change writes it
    anew.

    What is got is a copy: ``attrs["list"].append(5)`` changes nothing that is stored; set it again. Any number of
    threads may use one; ``pop`` and ``setdefault`` are one step.
    """

    def __init__(self, record: AttributeRecord) -> None:
        self._record = record

    def __repr__(self) -> str:
        try:
            return f"<Attributes {self._read()!r}>"
        except Error as error:
            return f"<Attributes, {error}>"

    # ------------------------------------------------------------------ reading

    def _read(self) -> dict[str, Any]:
        return self._parsed(self._record.text())

    def _parsed(self, text: bytes) -> dict[str, Any]:
        try:
            return from_text(text) if text else {}
        except ValueError as error:
            found = f"attributes that cannot be read ({error})"
            raise CorruptionError(self._record.where, found=found, expected="a JSON object") from error

    def __getitem__(self, name: str) -> Any:
        values = self._read()
        if name not in values:
            raise KeyNotFound(f"there is no attribute {name!r}; there are {list(values)}")
        return values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __contains__(self, name: object) -> bool:
        return name in self._read()

    def keys(self) -> KeysView[str]:
        """Return the names, as of now."""
        return self._read().keys()

    def values(self) -> ValuesView[Any]:
        """Return the values, as of now."""
        return self._read().values()

    def items(self) -> ItemsView[str, Any]:
        """Return the pairs of name and value, as of now."""
        return self._read().items()

    # ------------------------------------------------------------------ changing

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def update(self, other: Any = (), /, **kwargs: Any) -> None:
        """Set many attributes as one change, as ``dict.update`` does.

        Raises
        ------
        TypeError, ValueError
            JSON has no such value, or a name is no text; nothing was changed.
        ReadOnlyError
            They were got from a snapshot, or the database is open for reading.
        """
        new = _as_attributes(dict(other, **kwargs))
        with self._record.transaction() as transaction:
            self._put(transaction, self._parsed(self._record.text_in(transaction)) | new)

    def __delitem__(self, name: str) -> None:
        self.pop(name)

    def pop(self, name: str, default: Any = _NOTHING) -> Any:
        """Delete an attribute and return its value, or the default if there is none.

        Raises
        ------
        KeyNotFound
            There is none, and no default was given.
        ReadOnlyError
            As for :meth:`update`.
        """
        with self._record.transaction() as transaction:
            values = self._parsed(self._record.text_in(transaction))
            if name in values:
                found = values.pop(name)
                self._put(transaction, values)
                return found
        if default is _NOTHING:
            raise KeyNotFound(f"there is no attribute {name!r}; there are {list(values)}")
        return default

    def popitem(self) -> tuple[str, Any]:
        """Delete the attribute that was added last, and return its name and value; raise KeyNotFound if none is."""
        with self._record.transaction() as transaction:
            values = self._parsed(self._record.text_in(transaction))
            if values:
                found = values.popitem()
                self._put(transaction, values)
                return found
        raise KeyNotFound("there are no attributes")

    def setdefault(self, name: str, default: Any = None) -> Any:
        """Return the value of an attribute; if there is none, set the default first."""
        new = _as_attributes({name: default})
        with self._record.transaction() as transaction:
            values = self._parsed(self._record.text_in(transaction))
            if name not in values:
                values |= new
                self._put(transaction, values)
        return values[name]

    def clear(self) -> None:
        """Delete all attributes, as one change."""
        with self._record.transaction() as transaction:
            self._put(transaction, {})

    def _put(self, transaction: Any, values: Mapping[str, Any]) -> None:
        self._record.put_in(transaction, to_text(values) if values else b"")


def _as_attributes(values: Mapping[str, Any]) -> dict[str, Any]:
    for name in values:
        if not isinstance(name, str):
            raise TypeError(f"an attribute's name is text, found {type(name).__name__}")
    return {name: as_json({name: value}, "attribute")[name] for name, value in values.items()}
