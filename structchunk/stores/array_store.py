"""ArrayStore: a store whose records are 1-D arrays of items of one type, which may be arrays of a shape."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, TypeVar, overload

import numpy.typing as npt
from numpy import ndarray

from ..errors import MovedError
from ..runs.extent import MUTABLE, Extent
from ..runs.run import Run
from ..runs.views import each_of_run, may_change
from ..types.blocks import as_block
from ..types.convert import as_items
from ..types.keys import MAX_KEY, as_key, as_keys
from .binding import Binding, array_in_place
from .store import Store

Array = npt.NDArray[Any]
D = TypeVar("D")


class ArrayStore(Store[Array]):
    """A store whose records are 1-D arrays of one dtype; ``(length, *shape)`` if its items have a shape.

    Notes
    -----
    ``dtype`` is the type of an item: where it has a shape, ``dtype.base`` is that of the arrays, ``dtype.shape``
    that of an item, and ``np.empty(n, dtype)`` an array of n items.

    What ``put`` stored comes back read-only, without a copy; what ``new`` made comes back writable where the
    store can be written. An array stays valid for as long as the caller holds it: past the transaction, past
    ``close()``, past the record's deletion.
    """

    def __init__(self, binding: Binding) -> None:
        super().__init__(binding)
        self._dtype = self._heap.schema.dtype
        self._item_size = self._heap.item_size
        self._arrays = self._heap.arrays
        self._writer = binding.writer
        self._find_record = binding.finder_of_records(ndarray)

    def _record(self, extent: Extent) -> Array:
        if extent[4] & MUTABLE:
            live = self._binding.live_array(extent)
            if live is not None:
                return live
        start = extent[1] // self._item_size
        return self._arrays[extent[3]][start : start + extent[2]]

    def _records(self, run: Run, *, reverse: bool) -> Iterable[Array]:
        if may_change(run):
            return super()._records(run, reverse=reverse)
        return each_of_run(self._heap, run, reverse=reverse)

    def __getitem__(self, key: int) -> Array:
        """Return the array of a key: the same as in any store, written out because it is the hottest path."""
        try:
            found = self._find_record(key if type(key) is int else as_key(key))
            if type(found) is ndarray:
                return found
            if found is None:
                return super().__getitem__(key)
            _, offset, length, chunk, flags = found
            if flags & MUTABLE:
                return self._record(found)
            start = offset // self._item_size
            return self._arrays[chunk][start : start + length]
        except MovedError:
            return self[key]

    @overload
    def get(self, key: int, default: None = None) -> Array | None: ...
    @overload
    def get(self, key: int, default: D) -> Array | D: ...
    def get(self, key: int, default: Any = None) -> Any:
        """Return the array of a key, or the default if it has none: written out likewise."""
        try:
            found = self._find_record(key if type(key) is int else as_key(key))
            if found is None:
                return default
            return found if type(found) is ndarray else self._record(found)
        except MovedError:
            return self.get(key, default)

    def _items(self, value: Any) -> Array:
        return as_items(value, self._heap.schema.dtype)

    def put(self, key: int, values: npt.ArrayLike) -> None:
        """Store one array, replacing what the key had.

        Parameters
        ----------
        key : int
        values : array_like, shape (length,) or ``(length, *shape)``
            Must convert to the store's dtype without changing a value; floats may be rounded. Times may be
            ``datetime`` objects or text of ISO 8601; those with a time zone are stored as they are in UTC.

        Raises
        ------
        ValueError, TypeError
            The values do not fit; nothing was changed.
        ReadOnlyError
            The store cannot be written through this handle.
        OSError
            ENOSPC when the disk is full; nothing was changed.

        Notes
        -----
        Outside a transaction this is a commit, durable on return unless the database was opened with
        ``sync=False``.
        """
        # What as_items() begins with, written out: this is the hottest path of writing. Strides are the writer's.
        if type(values) is ndarray and values.ndim == 1 and values.dtype == self._dtype:
            items: Array = values
        else:
            items = as_items(values, self._dtype)
        number = key if type(key) is int and 0 <= key <= MAX_KEY else as_key(key)
        writer = self._writer
        if writer is not None:
            writer.put(number, items)
            return
        with self._binding.writing() as own:
            own.put(number, items)

    __setitem__ = put

    def append(self, key: int, values: npt.ArrayLike) -> None:
        """Make an array longer by some values; make it if the key has none.

        Parameters
        ----------
        key : int
        values : array_like, shape (length,) or ``(length, *shape)``
            As for :meth:`put`.

        Raises
        ------
        ValueError, TypeError, ReadOnlyError
            As for :meth:`put`; nothing was changed.
        OSError
            ENOSPC when the disk is full, raised here or, in a transaction, by what reads or commits what was added.

        Notes
        -----
        Outside a transaction this is a commit. The array that was stored last of all arrays of the store is made
        longer where it lies, which takes time and disk by the values alone; another one is written anew, and is the
        last one then. A transaction writes an array anew once at most, however often it appends to it: so arrays
        that grow side by side should grow in transactions of many values. What is added is kept in memory, up to
        64 MiB in a store, until it is read or the transaction commits.

        Arrays that were got before stay as they are, and so do snapshots and readers. An array of ``new()`` is
        taken as it is now; the longer one is read-only, as from ``put``.
        """
        items = as_items(values, self._dtype)
        number = key if type(key) is int and 0 <= key <= MAX_KEY else as_key(key)
        writer = self._writer
        if writer is not None:
            writer.append(number, items)
            return
        with self._binding.writing() as own:
            own.append(number, items)

    def put_many(
        self,
        keys: npt.ArrayLike,
        values: npt.ArrayLike,
        lengths: npt.ArrayLike | None = None,
    ) -> None:
        """Store many arrays at once, in one transaction; of equal keys the last one stays.

        Parameters
        ----------
        keys : array_like of int, shape (n,)
            In any order; ascending order makes later scans contiguous.
        values : array_like
            Shape (n, length), or ``(n, length, *shape)`` if items have a shape; or a sequence of arrays of any
            lengths, or a column of lists of pyarrow, Polars, pandas or Awkward Array; or all items end to end,
            shape (sum(lengths),) or ``(sum(lengths), *shape)``, with `lengths`.
        lengths : array_like of int, shape (n,), optional
            Items of each record.

        Raises
        ------
        ValueError, TypeError
            Shapes or values do not fit, or there are nulls; nothing was changed. Of arrays and lists the message
            names the position and the key of the first one.
        """
        numbers = as_keys(keys)
        items, counts = as_block(values, lengths, self._dtype, numbers)
        if len(counts) != len(numbers):
            raise ValueError(f"{len(numbers)} keys for {len(counts)} records; give one key per record")
        with self._binding.writing() as writer:
            writer.put_many(numbers, items, counts)

    def new(self, key: int, length: int) -> Array:
        """Make a zeroed array that can be changed in place, and return it.

        Parameters
        ----------
        key : int
            Replaces what the key had.
        length : int
            Items. A large array is sparse: it takes disk only where it is written.

        Returns
        -------
        ndarray, shape (length,) or ``(length, *shape)``
            Writable, over the mapped file.

        Notes
        -----
        A store into the array is a plain store to memory: visible to all readers at once, not part of any
        transaction, durable after ``db.sync()``. Writing to a sparse array on a full disk kills the process
        with SIGBUS, as for any sparse mapping.
        """
        number, count = as_key(key), operator.index(length)
        if count < 0:
            raise ValueError(f"length is {count}; it must be at least 0")
        if count > (1 << 62) // self._item_size:
            raise ValueError(f"length is {count}: no file holds so many items of {self._item_size} bytes")
        with self._binding.writing() as writer:
            extent = writer.put_zeros(number, count)
            # Before the commit: from then on compact() may move it.
            return array_in_place(self._binding, writer, extent)
