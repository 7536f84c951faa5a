"""ObjectStore: a store whose records are instances of one ctypes type, live over the mapped file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, NoReturn, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ..errors import Error, KeyNotFound, MovedError
from ..runs.extent import KEY_END, MUTABLE, ZERO, Extent
from ..runs.gather import gather_values
from ..runs.run import Run
from ..types.convert import as_new, as_record, as_records
from ..types.keys import as_bound, as_key, as_keys
from ..types.objects import Array, Object
from ..types.schema import check_same, object_schema
from .binding import Binding, Writer, array_in_place, live_object, maker_of_copies, until_found
from .store import Store

__all__ = ["Array", "Object", "ObjectStore"]

T = TypeVar("T")
C = TypeVar("C")


class ObjectStore(Store[T], Generic[T]):
    """A store whose records are instances of one ctypes type.

    Notes
    -----
    ``store[key]`` is a *live* object: its fields are the bytes of the file. Setting one is a plain store to
    memory: visible to all readers at once, not part of any transaction, durable after ``db.sync()``. For a
    transactional change use ``put`` or ``edit``. From a snapshot, or a database open for reading, objects are
    private copies. A live object stays valid for as long as the caller holds it.
    """

    _put_flags = MUTABLE

    def __init__(self, binding: Binding, cls: type[T]) -> None:
        super().__init__(binding)
        self._cls = cls
        self._make = binding.maker_of_objects(cls)
        self._find_record = binding.finder_of_records(cls)

    @property
    def cls(self) -> type[T]:
        """The type of the objects."""
        return self._cls

    def of_class(self, cls: type[C]) -> ObjectStore[C]:
        """Return the same store with its objects as instances of another class.

        Raises
        ------
        SchemaError
            The class is laid out in another way than what is stored.
        """
        check_same(self.name, self._heap.schema, object_schema(cls))
        return ObjectStore(self._binding, cls)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._cls is self._heap.schema.ctype:
            return super().__reduce__()
        return _of_class, (self._binding.home(), self.name, self._cls)

    # ------------------------------------------------------------------ one object

    def __getitem__(self, key: int) -> T:
        """Return the object of a key: the same as in any store, written out because it is a hot path."""
        found = self._find_record(key if type(key) is int else as_key(key))
        if type(found) is self._cls:
            return found
        make = self._make
        if found is None or make is None:
            return super().__getitem__(key)
        try:
            made: T = make(found)  # cast() would be one call more
        except MovedError:
            return self[key]
        return made

    def _records(self, run: Run, *, reverse: bool) -> Iterable[T]:
        if self._make is None:
            return super()._records(run, reverse=reverse)
        rows = run.rows.tolist()
        return map(self._make, reversed(rows) if reverse else rows)

    def _record(self, extent: Extent) -> T:
        if self._make is not None:
            return cast(T, self._make(extent))
        writer = self._binding.writer
        if writer is not None:
            writer.check_usable()
            edited = writer.edits.get(extent[0])
            if edited is not None:
                return cast(T, edited.object)
            if writer.staged(extent[0]) is not None and not extent[4] & ZERO:
                return self._edit(writer, extent)
        return cast(T, live_object(self._binding, self._cls, extent))

    def _edit(self, writer: Writer, extent: Extent) -> T:
        private = cast(T, maker_of_copies(self._heap, self._cls)(extent))
        writer.add_edit(extent[0], private)
        return private

    def _items(self, value: Any) -> npt.NDArray[Any]:
        return as_record(value, self._heap.schema)

    def new(self, key: int, **fields: Any) -> T:
        """Make an object, all zeros but for the given fields, and return it.

        Parameters
        ----------
        key : int
            Replaces what the key had.
        **fields
            Values of fields, each as in a dict that ``put`` takes; the rest is zero.

        Returns
        -------
        object
            Live: its bytes are in the file.

        Raises
        ------
        TypeError, ValueError
            A field is unknown, or a value does not fit; nothing was changed.
        """
        number = as_key(key)
        record = as_new(fields, self._cls, self.dtype)
        with self._binding.writing() as writer:
            extent = writer.put_zeros(number, 1)
            live = array_in_place(self._binding, writer, extent)
            if fields:
                live[0] = record[0]
        return cast(T, self._cls.from_buffer(live.view(np.uint8)))  # type: ignore[attr-defined]

    def put(self, key: int, value: Any) -> None:
        """Store a copy of one object, replacing what the key had.

        Parameters
        ----------
        key : int
        value : object
            An instance of the store's type, or of one with the same layout; a structured scalar; a dict of
            fields; a tuple.

        Raises
        ------
        TypeError, ValueError
            The value does not fit; nothing was changed.
        """
        record = as_record(value, self._heap.schema)
        number = as_key(key)
        with self._binding.writing() as writer:
            writer.put(number, record, MUTABLE)

    def append(self, key: int, values: Any) -> NoReturn:
        """Refuse: a record is one object.

        Raises
        ------
        TypeError
            Always. ``put_many`` stores more objects, under keys of their own; an array store of the same type has
            records of many, which grow.
        """
        raise TypeError(
            f"a record of object store {self.name!r} is one object, and cannot be made longer: put_many() stores "
            "more, under keys of their own; an array_store() of the same type has records that grow"
        )

    def put_many(self, keys: npt.ArrayLike, records: Any) -> None:
        """Store many objects at once, in one transaction; of equal keys the last one stays.

        Parameters
        ----------
        keys : array_like of int, shape (n,)
        records : structured array, shape (n,), sequence or columns
            As ``records()`` returns them, or a sequence of what ``put`` takes. Or a column of `n` values for each
            field: a dict of arrays, a data frame of pandas or Polars, an Arrow table. What is within a field may
            have columns of its own, named as :meth:`to_pandas` names them, so that
            ``put_many(frame.index, frame)`` stores what it returned.

        Raises
        ------
        TypeError, ValueError
            A value does not fit, a column is missing, is one too many, or has another length; nothing was changed.
        """
        numbers = as_keys(keys)
        rows = as_records(records, self._heap.schema)
        if len(rows) != len(numbers):
            raise ValueError(f"{len(numbers)} keys for {len(rows)} records; give one key per record")
        with self._binding.writing() as writer:
            writer.put_many(numbers, rows, np.ones(len(rows), np.int64), MUTABLE)

    def edit(self, key: int) -> T:
        """Return a private copy of an object, which replaces the record when the transaction commits.

        Raises
        ------
        Error
            Outside a transaction.
        KeyNotFound
            There is no such record.
        """
        number = as_key(key)
        writer = self._binding.writer
        if writer is None:
            raise Error("edit() needs a transaction: with db.transaction() as txn: txn[name].edit(key)")
        writer.check_usable()
        edited = writer.edits.get(number)
        if edited is not None:
            return cast(T, edited.object)
        extent = writer.find(number)
        if extent is None:
            raise KeyNotFound(f"store {self.name!r} has no record {key}")
        return self._edit(writer, extent)

    # ------------------------------------------------------------------ many objects

    def records(self, start: int | None = None, stop: int | None = None) -> npt.NDArray[Any]:
        """Return the objects with keys in ``[start, stop)`` as one structured array, in order of key.

        Returns
        -------
        ndarray, shape (n,)
            Read-only; a view of the file where the records lie back to back, else a copy. An array type has
            the one field ``items``.
        """
        low, high = as_bound(start, 0), as_bound(stop, KEY_END)
        return until_found(lambda: gather_values(self._heap, list(self._binding.runs(low, high))))


def _of_class(home: Any, name: str, cls: type[Any]) -> Any:
    return home[name].of_class(cls)
