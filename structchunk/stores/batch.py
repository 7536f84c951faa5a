"""Batch: a ragged block of records, as ``scan()`` and ``get_many()`` return them. Holds arrays; reads no store."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, NoReturn, overload

import numpy as np
import numpy.typing as npt

from ..runs.views import each_record
from .notebook import batch_html

if TYPE_CHECKING:
    import pyarrow as pa

PORTION = 1024
"""Keys that are made integers at a time by who goes through a batch."""


class Batch:
    """Records of one store: key ``i`` has ``values[offsets[i]:offsets[i + 1]]``.

    Attributes
    ----------
    keys : ndarray of uint64, shape (n,)
    offsets : ndarray of int64, shape (n + 1,)
        In items. The first one is 0.
    values : ndarray, shape (offsets[-1],)
        Of the shape ``(offsets[-1], *shape)`` if the items of the store have a shape. A view of the mapped file
        where the records lie back to back, else a copy.
    kind : str
        That of the store: ``"array"``, or ``"object"`` if every record is one item.
    in_place : bool
        Whether `values` is a view of records that may change in place: objects, arrays made by ``new()``.

    Notes
    -----
    The arrays of a store's batch are read-only, and valid for as long as the caller holds them, past ``close()``.
    Values of records that may change in place (objects, arrays made by ``new()``) follow such changes where they
    are a view: see `in_place`.
    """

    __slots__ = ("in_place", "keys", "kind", "offsets", "values")

    def __init__(
        self,
        keys: npt.NDArray[np.uint64],
        offsets: npt.NDArray[np.int64],
        values: npt.NDArray[Any],
        kind: str = "array",
        in_place: bool = False,
    ) -> None:
        self.kind = kind
        self.in_place = in_place
        self.keys = keys
        self.offsets = offsets
        self.values = values

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Items of each record, shape (n,)."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, position: int) -> npt.NDArray[Any]: ...
    @overload
    def __getitem__(self, position: slice | str) -> Batch: ...
    def __getitem__(self, position: int | slice | str) -> npt.NDArray[Any] | Batch:
        """Return the values of the record at a position (not a key), a batch of those in a slice, or of one field.

        Parameters
        ----------
        position : int, slice or str
            Negative positions count from the end. A slice has no step. Text is the name of a field of the values:
            ``batch["x"].reduce(np.add)``.

        Returns
        -------
        ndarray or Batch
            A view of this batch, but for the offsets of a slice that does not begin with the first record.
        """
        if isinstance(position, slice):
            return self._part(position)
        if isinstance(position, str):
            return self._field(position)
        if type(position) is not int:
            position = _as_position(position)
        count = len(self.keys)
        if not -count <= position < count:
            raise IndexError(f"position {position} in a batch of {count} records")
        position %= count
        return self.values[self.offsets[position] : self.offsets[position + 1]]

    def __iter__(self) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        return chain.from_iterable(map(self._pairs, range(0, len(self.keys), PORTION)))

    def _pairs(self, low: int) -> Iterable[tuple[int, npt.NDArray[Any]]]:
        keys = self.keys[low : low + PORTION]
        return zip(keys.tolist(), each_record(self.values, self.offsets[low : low + len(keys) + 1]), strict=True)

    # Iteration is over pairs, positions are of arrays, and `in` would compare either: ask `keys`.
    __contains__ = None
    __reversed__ = None

    def _part(self, positions: slice) -> Batch:
        low, high, step = positions.indices(len(self.keys))
        if step != 1:
            raise ValueError(f"a slice of a batch is of consecutive records, found one in steps of {step}")
        high = max(low, high)
        offsets = self.offsets[low : high + 1]
        first, last = offsets[0], offsets[-1]
        if first:
            offsets = offsets - first
            offsets.flags.writeable = self.offsets.flags.writeable
        return Batch(self.keys[low:high], offsets, self.values[first:last], self.kind, in_place=self.in_place)

    def _field(self, name: str) -> Batch:
        names = self.values.dtype.names
        if names is None:
            raise TypeError(f"a position is an integer or a slice: values of {self.values.dtype} have no fields")
        if name not in names:
            raise ValueError(f"the values of this batch have no field {name!r}; theirs are {', '.join(names)}")
        return Batch(self.keys, self.offsets, self.values[name], self.kind, in_place=self.in_place)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        """Refuse: NumPy would take a batch for a sequence of its pairs."""
        raise TypeError("a batch is not one array: take its values, keys, offsets or lengths")

    def __repr__(self) -> str:
        item = np.dtype((self.values.dtype, self.values.shape[1:]))
        return f"Batch({len(self)} records, {len(self.values)} items of {item})"

    def dense(self) -> npt.NDArray[Any]:
        """Return the values as one array with a row for each record, if all records have one length.

        Returns
        -------
        ndarray, shape (n, length)
            Of the shape ``(n, length, *shape)`` if the items have a shape. A view of `values`.

        Raises
        ------
        ValueError
            Two records have different lengths; the message names them.
        """
        count, lengths = len(self.keys), self.lengths
        others = np.flatnonzero(lengths != lengths[0]) if count else lengths
        if len(others):
            first, other = int(self.keys[0]), int(self.keys[others[0]])
            raise ValueError(
                f"records of unequal length are no block: that of key {first} has {lengths[0]} items, that of key "
                f"{other} has {lengths[others[0]]}; batch.values has them end to end, as batch.offsets says"
            )
        length = int(lengths[0]) if count else 0
        return self.values.reshape(count, length, *self.values.shape[1:])

    def _repr_html_(self) -> str:
        """Return the batch, with its first records, for a notebook."""
        return batch_html(self.keys, self.offsets, self.values, in_place=self.in_place)

    def reduce(self, ufunc: np.ufunc, dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any]:
        r"""Reduce every record to one number, or if items have a shape, to one array of that shape.

        Parameters
        ----------
        ufunc : numpy.ufunc
            A binary one: ``np.add``, ``np.maximum``, ...
        dtype : dtype, optional
            Type to calculate in, as in ``ufunc.reduce``.

        Returns
        -------
        ndarray, shape (n,) or (n, \*shape)
            An empty record gives the ufunc's identity. Of a field that is an array, the shape is the field's.

        Raises
        ------
        ValueError
            A record is empty, and the ufunc has no identity.
        TypeError
            It is not a binary ufunc, or not one for the type of the values: of values with fields reduce one field.
        """
        _check_reduces(ufunc)
        names = self.values.dtype.names
        try:
            return self._reduced(ufunc, dtype)
        except TypeError as error:
            if names is None:
                raise
            raise TypeError(
                f"{ufunc.__name__} takes no values with the fields {', '.join(names)}; take one of them: "
                f"batch[{names[0]!r}].reduce({ufunc.__name__})"
            ) from error

    def _reduced(self, ufunc: np.ufunc, dtype: npt.DTypeLike | None) -> npt.NDArray[Any]:
        starts, shape = self.offsets[:-1], self.values.shape[1:]
        filled = self.offsets[1:] > starts
        result: npt.NDArray[Any]
        if filled.all() and len(self.keys):
            result = ufunc.reduceat(self.values, starts, dtype=dtype)
            return result
        if not len(self.keys):
            result = ufunc.reduce(self.values.reshape(0, 1, *shape), axis=1, dtype=dtype)
            return result
        if ufunc.identity is None:
            empty = int(self.keys[np.flatnonzero(~filled)[0]])
            raise ValueError(f"{ufunc.__name__} has no identity, and the record of key {empty} is empty")
        nothing = ufunc.reduce(self.values[:0], dtype=dtype)
        result = np.full((len(self.keys), *shape), nothing)
        if filled.any():
            result[filled] = ufunc.reduceat(self.values, starts[filled], dtype=dtype)
        return result

    def to_arrow(self) -> pa.RecordBatch:
        """Return the batch as an Arrow record batch, with the columns ``key`` and ``value``.

        Returns
        -------
        pyarrow.RecordBatch
            ``value`` is a column of lists, or of structs if the records are objects. Keys, offsets and values
            are not copied, except the fields of structs, which Arrow has side by side, and values that may change
            in place, as Arrow data do not change.

        Raises
        ------
        SchemaError
            Arrow has no type for the values.
        ImportError
            pyarrow is missing, which the extra ``arrow`` brings.
        """
        from ..interop.arrow import record_batch  # noqa: PLC0415

        return record_batch(self)


def _as_position(position: object) -> int:
    try:
        return operator.index(position)  # type: ignore[arg-type]
    except TypeError:
        found = type(position).__name__
        raise TypeError(f"a position in a batch is an integer or a slice, found {found}") from None


def _check_reduces(ufunc: object) -> None:
    """Refuse what reduces no array: plain functions, and ufuncs of one argument or of several results."""
    arguments = getattr(ufunc, "nin", 0), getattr(ufunc, "nout", 0)
    if arguments != (2, 1) or getattr(ufunc, "signature", None) is not None:
        name = getattr(ufunc, "__name__", None) or repr(ufunc)
        raise TypeError(
            f"reduce() takes a binary NumPy ufunc, such as np.add for sums or np.maximum for maxima, found {name}; "
            "means are batch.reduce(np.add) / batch.lengths"
        )
