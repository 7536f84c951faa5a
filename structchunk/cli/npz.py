"""Stores as .npz files, which NumPy reads without this package.

Arrays ``keys``, ``offsets`` and ``values``, as in a batch, and ``schema``, the store's type as JSON text.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import numpy.typing as npt

import structchunk as sc

from ..types.schema import Schema, array_schema
from .progress import Report
from .source import STEP, Source, schema_from_text, schema_text

_Array = npt.NDArray[Any]
_format: Any = np.lib.format  # NumPy 2.2 has no types for its functions
ARRAYS = ("keys", "offsets", "values")
MAX_HEADER = 1 << 24
"""Characters of the type of an array; NumPy's own limit is too low for structs of some hundred fields."""


def export_npz(store: Any, schema: Schema, path: str, report: Report) -> None:
    """Write a store; takes memory for its keys and lengths."""
    counts = [(batch.keys, batch.lengths) for batch in store.scan(batch_size=STEP)]
    keys = np.concatenate([np.empty(0, np.uint64), *(keys for keys, _ in counts)])
    offsets = np.append(0, np.cumsum(np.concatenate([np.empty(0, np.int64), *(lengths for _, lengths in counts)])))
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in (("keys", keys), ("offsets", offsets), ("schema", np.array(schema_text(schema)))):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                _format.write_array(file, array, allow_pickle=False)
        with archive.open("values.npy", "w", force_zip64=True) as file:
            file.write(_header(store.dtype, int(offsets[-1])))
            done = 0
            for batch in store.scan(batch_size=STEP):
                file.write(batch.values.view(np.uint8).data)
                done += len(batch)
                report(done, len(keys))


def _header(dtype: np.dtype[Any], length: int) -> bytes:
    """Return what comes before the items in an .npy file of version 3, which any names of fields fit in."""
    about = {"descr": _format.dtype_to_descr(dtype.base), "fortran_order": False, "shape": (length, *dtype.shape)}
    text = repr(about).encode()
    magic: bytes = _format.magic(3, 0)
    text += b" " * (-(len(magic) + 4 + len(text) + 1) % 64) + b"\n"
    return magic + len(text).to_bytes(4, "little") + text


@contextlib.contextmanager
def open_npz(path: str) -> Iterator[Source]:
    """Read an .npz file into memory."""
    with open(path, "rb") as file:
        yield NpzSource(file, path)


class NpzSource:
    """The arrays of an .npz file."""

    def __init__(self, file: IO[bytes], path: str) -> None:
        arrays = _read(file, path)
        self.stated = schema_from_text(str(arrays["schema"]), path) if "schema" in arrays else None
        self._keys, self._offsets, self._values = (arrays[name] for name in ARRAYS)
        if not _fit(self._keys, self._offsets, self._values):
            shapes = ", ".join(f"{name} {arrays[name].dtype}{list(arrays[name].shape)}" for name in ARRAYS)
            expected = "1-D arrays, and offsets that rise from 0 to the length of values, one more than keys"
            raise ValueError(f"{path}: found {shapes}, expected {expected}")

    def guessed(self) -> Schema:
        """Return the type of an array store of such values."""
        return array_schema(self._values.dtype, self._values.shape[1:])

    def load(self, store: Any, report: Report) -> int:
        """Put all records into a store of a transaction, and return how many there were."""
        total = len(self._keys)
        lengths = np.diff(self._offsets)
        for start in range(0, total, STEP):
            part = slice(start, min(start + STEP, total))
            values = self._values[self._offsets[part.start] : self._offsets[part.stop]]
            if isinstance(store, sc.ObjectStore):
                store.put_many(self._keys[part], values)
            else:
                store.put_many(self._keys[part], values, lengths[part])
            report(part.stop, total)
        return total


def _read(file: IO[bytes], path: str) -> dict[str, _Array]:
    try:
        with np.load(file, allow_pickle=False, max_header_size=MAX_HEADER) as archive:
            names = [*ARRAYS, *({"schema"} & set(archive.files))]
            return {name: archive[name] for name in names}
    except Exception as error:  # zipfile and NumPy raise a dozen kinds over damaged bytes
        raise ValueError(f"{path} is not a sound .npz file with {', '.join(ARRAYS)}: {error}") from error


def _fit(keys: _Array, offsets: _Array, values: _Array) -> bool:
    if not keys.ndim == offsets.ndim == 1 <= values.ndim or len(offsets) != len(keys) + 1:
        return False
    if offsets.dtype.kind not in "iu" or offsets[0] != 0 or offsets[-1] != len(values):
        return False
    return bool((offsets[1:] >= offsets[:-1]).all())
