"""Batch: a ragged block of records, as ``scan()`` and ``get_many()`` return them. Holds arrays; reads no store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa


class Batch:
    """Records of one store: key ``i`` has ``values[offsets[i]:offsets[i + 1]]``.

    Attributes
    ----------
    keys : ndarray of uint64, shape (n,)
    offsets : ndarray of int64, shape (n + 1,)
        In items. The first one is 0.
    values : ndarray, shape (offsets[-1],)
        A view of the mapped file where the records lie back to back, else a copy.
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

    def __getitem__(self, position: int) -> npt.NDArray[Any]:
        """Return the values of the record at a position (not a key); negative ones count from the end."""
        count = len(self.keys)
        if not -count <= position < count:
            raise IndexError(f"position {position} in a batch of {count} records")
        position %= count
        return self.values[self.offsets[position] : self.offsets[position + 1]]

    def __iter__(self) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        bounds = self.offsets.tolist()
        values = self.values
        for key, low, high in zip(self.keys.tolist(), bounds, bounds[1:], strict=False):
            yield key, values[low:high]

    def __repr__(self) -> str:
        return f"Batch({len(self)} records, {len(self.values)} items of {self.values.dtype})"

    def reduce(self, ufunc: np.ufunc, dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any]:
        """Reduce every record to one number.

        Parameters
        ----------
        ufunc : numpy.ufunc
            A binary one: ``np.add``, ``np.maximum``, ...
        dtype : dtype, optional
            Type to calculate in, as in ``ufunc.reduce``.

        Returns
        -------
        ndarray, shape (n,)
            An empty record gives the ufunc's identity.

        Raises
        ------
        ValueError
            A record is empty, and the ufunc has no identity.
        """
        starts = self.offsets[:-1]
        filled = self.offsets[1:] > starts
        result: npt.NDArray[Any]
        if filled.all() and len(self.keys):
            result = ufunc.reduceat(self.values, starts, dtype=dtype)
            return result
        if not len(self.keys):
            result = ufunc.reduce(self.values.reshape(0, 1), axis=1, dtype=dtype)
            return result
        if ufunc.identity is None:
            empty = int(self.keys[np.flatnonzero(~filled)[0]])
            raise ValueError(f"{ufunc.__name__} has no identity, and the record of key {empty} is empty")
        nothing = ufunc.reduce(self.values[:0], dtype=dtype)
        result = np.full(len(self.keys), nothing)
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
            pyarrow is missing: ``pip install 'structchunk[arrow]'``.
        """
        from .arrow import record_batch  # noqa: PLC0415

        return record_batch(self)
