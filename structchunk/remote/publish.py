"""Publishing a commit: what is new goes into objects, and then a manifest says what the publication is.

Everything but the manifest is under names that nobody knows until the manifest is there. If another publisher has
taken the number of the publication meanwhile, what was uploaded is removed, and it is begun anew, from what the
other has published.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import zlib
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from ..chunks.chunk import Chunk
from ..engine.storage import Storage
from ..maintenance.backup import Taken, take
from ..maintenance.chunk_copies import may_change
from . import claim
from .chunk_files import ChunkFiles, ChunkGone
from .comparison import Comparison, all_rows, compare, end_of, new_entries
from .layout import ZEROS
from .manifest import ROWS, Earlier, Manifest, Object, PublishedChunk, object_name
from .objects import Objects, open_objects
from .publications import Found, look, say_newest
from .row_levels import new_level
from .uploads import Report, choose_again, plan, upload

TRIES = 10
MOST_EARLIER = 256
"""How many earlier publications a manifest names."""


class Published(NamedTuple):
    """What publishing did.

    Attributes
    ----------
    commit : int
        The commit that can be read now.
    objects : int
        How many objects were uploaded for it, with the manifest; 0 if there was nothing new.
    bytes : int
        How many bytes they have.
    """

    commit: int
    objects: int
    bytes: int


def publish(storage: Storage, url: str, options: Mapping[str, Any] | None, report: Report) -> Published:
    """Publish the latest commit of a database; `Database.publish` has the parameters and what is raised."""
    objects = open_objects(url, options)
    for number in range(TRIES):
        found = look(objects, further=number > 0)
        with contextlib.ExitStack() as held, contextlib.suppress(ChunkGone):
            taken = take(storage, set(), _unchanged(storage, found.manifest), storage.paths, held)
            files = ChunkFiles(taken.places)
            publication = Publication(objects, found, taken, files)
            if done := publication.run(storage, report):
                return done
    raise OSError(errno.EBUSY, f"{objects.url}: {TRIES} times others came first; publish again")


def _unchanged(storage: Storage, newest: Manifest | None) -> dict[int, Chunk]:
    """Return chunks that were published and are not likely to be read again: they need not be opened."""
    chunks = {chunk: found for heap in list(storage.heaps.values()) for chunk, found in list(heap.chunks.items())}
    known = {} if newest is None else newest.chunks
    return {
        chunk: found for chunk, found in chunks.items() if chunk in known and not may_change(known[chunk].flags)
    }


class Publication:
    """One try to publish a commit, upon the newest publication.

    Parameters
    ----------
    objects : Objects
    found : Found
        What is published.
    taken : Taken
        The commit.
    files : ChunkFiles
        Its chunks.
    """

    def __init__(self, objects: Objects, found: Found, taken: Taken, files: ChunkFiles) -> None:
        self._objects = objects
        self._newest = newest = found.manifest
        self._said = found.said
        self._taken = taken
        self._files = files
        self._number = newest.number + 1 if newest else 1
        self._token = os.urandom(8).hex()
        self._first_object = self._next_object = newest.next_object if newest else 1
        self._made: list[Object] = []

    def run(self, storage: Storage, report: Report) -> Published | None:
        """Publish, and return what was done; None if another publisher came first."""
        compared = compare(self._taken, self._files, self._newest, self._objects.url)
        drafts = [chunk.draft for chunk in compared.chunks.values()]
        has_news = any(any(draft.missing()) for draft in drafts)
        commit = self._taken.snapshot.commit
        if self._newest is not None and self._newest.commit == commit and not has_news:
            if self._said != self._newest.number:
                say_newest(self._objects, self._newest.number)  # its publisher was killed
            return Published(commit, 0, 0)
        manifest = self._upload(storage, compared, report)
        if not manifest.exclusive:
            claim.warn(self._objects)
        # If this fails, the manifest may be there all the same: so nothing that it names is removed then.
        raw = manifest.pack()
        if claim.claim(self._objects, manifest, raw):
            return Published(commit, len(self._made) + 1, sum(made.size for made in self._made) + len(raw))
        self._clear()
        return None

    def _upload(self, storage: Storage, compared: Comparison, report: Report) -> Manifest:
        """Upload all but the manifest, and return that."""
        try:
            self._upload_blocks(compared, report)
            rows = self._upload_rows(compared)
            exclusive = self._newest.exclusive if self._newest else self._refuses_second()
            return self._manifest(storage, compared, rows, exclusive=exclusive)
        except (Exception, KeyboardInterrupt):
            with contextlib.suppress(OSError):
                self._clear()
            raise

    def _clear(self) -> None:
        """Remove what was uploaded: nobody knows of it."""
        self._objects.delete(self._name(number) for number in range(self._first_object, self._next_object))

    # ------------------------------------------------------------------ objects

    def _take_number(self) -> int:
        self._next_object += 1
        return self._next_object - 1

    def _name(self, number: int) -> str:
        return object_name(self._number, self._token, number)

    def _upload_blocks(self, compared: Comparison, report: Report) -> None:
        drafts = [chunk.draft for chunk in compared.chunks.values()]
        again = choose_again(drafts, self._known_objects().values())
        for draft in drafts:
            draft.note_moves(again)
        planned = plan(drafts)
        numbers = [self._take_number() for _ in planned]
        names = [(number, self._name(number)) for number in numbers]
        self._made += upload(self._objects, self._files, planned, names, report)

    def _upload_rows(self, compared: Comparison) -> tuple[int, ...]:
        """Upload the rows that are new, and return the ids of all objects with rows."""
        taken = self._taken
        entries = new_entries(taken, compared)
        if not entries and self._newest is not None and not compared.dropped:
            return self._newest.rows
        item_sizes = {store: heap.item_size for store, heap in taken.heaps.items()}
        everything = partial(all_rows, taken, taken.heaps)
        # The rows of a store that was dropped are not to be fetched by every reader from then on.
        upon = None if compared.dropped else self._newest
        entries = everything() if compared.dropped else entries
        stay, raw = new_level(self._objects, upon, entries, everything, item_sizes)
        number = self._take_number()
        self._objects.write(self._name(number), raw)
        self._made.append(Object(number, self._name(number), ROWS, len(raw), zlib.crc32(raw)))
        return (*stay, number)

    def _refuses_second(self) -> bool:
        return claim.refuses_second(self._objects, self._number, self._token)

    def _known_objects(self) -> dict[int, Object]:
        return {} if self._newest is None else self._newest.objects

    # ------------------------------------------------------------------ the manifest

    def _manifest(
        self, storage: Storage, compared: Comparison, rows: tuple[int, ...], *, exclusive: bool
    ) -> Manifest:
        taken, chunks = self._taken, self._chunks(compared)
        objects = self._known_objects() | {made.id: made for made in self._made}
        needed = {extent.object for chunk in chunks.values() for extent in chunk.extents} - {ZEROS} | set(rows)
        commit = taken.snapshot.commit
        return Manifest(
            database=taken.superblock.database,
            number=self._number,
            token=self._token,
            commit=commit,
            epoch=taken.superblock.epoch,
            next_chunk=self._next_chunk(),
            next_object=self._next_object,
            created=time.time_ns(),
            exclusive=exclusive,
            catalog=taken.catalog,
            notes=tuple(storage.index.notes(0, commit)),
            objects={number: objects[number] for number in sorted(needed)},
            rows=rows,
            chunks=chunks,
            earlier=self._earlier(),
        )

    def _next_chunk(self) -> int:
        """Return an id above that of any chunk there was; a reader knows no other ones than those that it has."""
        before = self._newest.next_chunk if self._newest else 1
        return max(before, self._taken.superblock.next_chunk, *(chunk + 1 for chunk in self._taken.places))

    def _earlier(self) -> tuple[Earlier, ...]:
        newest = self._newest
        if newest is None:
            return ()
        return (*newest.earlier, Earlier(newest.number, newest.commit, newest.token))[-MOST_EARLIER:]

    def _chunks(self, compared: Comparison) -> dict[int, PublishedChunk]:
        live = {chunk: count for store in self._taken.heaps for chunk, count in self._live(store).items()}
        chunks = {}
        for chunk, (draft, raw, flags) in sorted(compared.chunks.items()):
            end = end_of(self._files, chunk, draft.layout)
            chunks[chunk] = draft.finished(raw, live.get(chunk, (0, 0)), flags, end)
        return chunks

    def _live(self, store: int) -> dict[int, tuple[int, int]]:
        return {chunk: (count[0], count[1]) for chunk, count in self._taken.snapshot.live(store).items()}
