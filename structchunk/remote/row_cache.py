"""The objects of the index in the cache: whole files, whose CRC is checked whenever they are read."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterable

from ..disk import files
from ..errors import CorruptionError
from ..process.workers import Job
from .cached_chunk import explained
from .fetching import WORKERS
from .manifest import ADVICE, Manifest, Object
from .objects import Objects, again_if_damaged
from .rows import Entry, parse_entries


class RowCache:
    """The objects of the index of one database.

    Parameters
    ----------
    directory : str
    objects : Objects
    """

    def __init__(self, directory: str, objects: Objects) -> None:
        self._directory = directory
        self._objects = objects

    def entries(self, manifest: Manifest, ids: Iterable[int]) -> list[Entry]:
        """Return the rows of some objects of a publication; what is not there is fetched, side by side."""
        jobs = [_Read(self, manifest.objects[each]) for each in ids]
        for job in jobs:
            WORKERS.put(job)
        for job in jobs:
            WORKERS.wait(job)
        found = (parse_entries(job.data, self._objects.at(job.wanted.name)) for job in jobs)
        return [entry for entries in found for entry in entries]

    def read(self, wanted: Object) -> bytes:
        """Return an object."""
        path = self._path(wanted.name)
        with contextlib.suppress(FileNotFoundError):
            data = files.read(path, 0, wanted.size + 1)
            if _is(data, wanted):
                return data
        data = again_if_damaged(lambda: self._fetch(wanted))
        self._keep(path, data)
        return data

    def _fetch(self, wanted: Object) -> bytes:
        data = self._objects.read(wanted.name, wanted.size)
        if not _is(data, wanted):
            found = f"{len(data)} bytes of CRC {zlib.crc32(data):08x}"
            expected = f"{wanted.size} of {wanted.crc:08x}"
            raise CorruptionError(self._objects.at(wanted.name), found=found, expected=expected, advice=ADVICE)
        return data

    def _keep(self, path: str, data: bytes) -> None:
        draft = f"{path}.{os.urandom(4).hex()}.part"
        try:
            files.create(draft, 0)
            files.write(draft, 0, data)
            files.rename(draft, path)
        except OSError as error:
            files.unlink(draft)
            raise explained(error, path) from error

    def forget_others(self, manifest: Manifest) -> None:
        """Remove the objects that a publication does not need; others that do will fetch them again."""
        needed = {os.path.basename(manifest.objects[each].name) for each in manifest.rows}
        for name in set(os.listdir(self._directory)) - needed:
            files.unlink(os.path.join(self._directory, name))

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, os.path.basename(name))


class _Read(Job):
    """The reading of one object."""

    def __init__(self, cache: RowCache, wanted: Object) -> None:
        super().__init__(self._read)
        self._cache = cache
        self.wanted = wanted
        self.data = b""

    def _read(self) -> None:
        self.data = self._cache.read(self.wanted)


def _is(data: bytes, wanted: Object) -> bool:
    return len(data) == wanted.size and zlib.crc32(data) == wanted.crc
