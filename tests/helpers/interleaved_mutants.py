"""Rules of the protocol, each left out: what a sweep of schedules must find.

Each is a pair of what is replaced and by what; ``left_out(name)`` is a context in which that is so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from structchunk.chunks.chunk import Chunk
from structchunk.disk import files, lock, tail
from structchunk.engine import commit_log, follow, storage
from structchunk.index import leveldb
from structchunk.index.index import Index
from structchunk.readers import copies, directory, leveldb_clone
from structchunk.readers.read_storage import ReadStorage
from structchunk.readers.shared_storage import SharedStorage
from structchunk.remote import claim
from structchunk.remote.manifest import NEWEST
from structchunk.remote.objects import Objects

Replaced = tuple[Any, str, Any]


def _lock_without_lock() -> list[Replaced]:
    """The writer's lock is not asked for."""

    def acquire(self: lock.Lock, path: str) -> None:
        pass

    return [(lock.Lock, "_acquire", acquire)]


def _no_mark() -> list[Replaced]:
    """The page does not say that a commit is being appended."""
    mark = tail.Tail.mark
    return [(tail.Tail, "mark", lambda self, committing: mark(self, 0))]


def _mark_ignored() -> list[Replaced]:
    """Who finds on the page that the last one did not come to its end goes on."""

    def sound_head(self: SharedStorage) -> tail.Head | None:
        head = find(self)
        return head or (self._tail.read() if self._tail is not None and not self._must_recover else None)

    find = SharedStorage._sound_head
    return [(SharedStorage, "_sound_head", sound_head)]


def _torn_page_read() -> list[Replaced]:
    """The checksum of the page is not looked at."""

    def parse(raw: bytes) -> tail.Head | None:
        fields = tail.HEAD.unpack_from(raw)
        return tail.Head(*fields[2:]) if fields[:2] == (tail.MAGIC, tail.VERSION) else None

    return [(tail, "parse_head", parse)]


def _lineage_ignored() -> list[Replaced]:
    """Who finds another lineage on the page follows it."""
    follow_on = ReadStorage._follow

    def follow_any(self: ReadStorage, view: tail.TailView, head: tail.Head) -> bool:
        self.lineage = head.lineage
        return follow_on(self, view, head)

    return [(ReadStorage, "_follow", follow_any)]


def _parts_ignored() -> list[Replaced]:
    """A commit is followed that has not all its parts in the chunks that were looked at."""
    return [(follow, "has_all_parts", bool)]


def _ring_taken_for_all() -> list[Replaced]:
    """What the ring has is taken for all, though it has lost some."""
    chunks = tail.TailView.chunks

    def known(self: tail.TailView, head: tail.Head, last: int) -> set[int] | None:
        return chunks(self, head._replace(base=0), last) if head.pairs <= tail.RING else {self_newest(self, head)}

    def self_newest(self: tail.TailView, head: tail.Head) -> int:
        return tail._newest_chunk(self._page[:], head.pairs)

    return [(tail.TailView, "chunks", known), (follow, "has_all_parts", lambda parts: True)]


def _published_first() -> list[Replaced]:
    """A commit is published before its segments are written."""
    write = storage.Storage._write_commit

    def publish_first(self: storage.Storage, ready: Any, *, sync: bool) -> None:
        page = self._tail
        if page is not None and page.head is not None:
            chunks = [part.room.chunk.id for part in ready.parts]
            page.publish(
                self.index.last + 1, chunks, self.next_chunk, is_durable=False, committing=page.head.committing
            )
        write(self, ready, sync=sync)

    return [(storage.Storage, "_write_commit", publish_first)]


def _never_published() -> list[Replaced]:
    """A commit of a process that shares the database is published when its turn ends, after it was acknowledged."""
    publish = SharedStorage._publish

    def later(self: SharedStorage, chunks: Any = (), *, is_durable: bool) -> None:
        if is_durable:
            publish(self, chunks, is_durable=True)

    return [(SharedStorage, "_publish", later)]


def _followed_too_far() -> list[Replaced]:
    """Who follows goes beyond what is published."""
    read = follow.Follower._read

    def far(self: follow.Follower, head: tail.Head, last: int, ids: Any) -> Any:
        further = head._replace(published=head.published + 1)
        return read(self, further, last, self._list_chunks()) or read(self, head, last, ids)

    return [(follow.Follower, "_read", far)]


def _not_followed() -> list[Replaced]:
    """Who takes a turn does not follow the log first."""

    def enter(self: SharedStorage) -> None:
        head = self._sound_head() or self._recovered_head()
        self.lineage, self._is_marked = head.lineage, True
        self._page.mark(head.published + 1)

    return [(SharedStorage, "_enter", enter)]


def _clone_not_checked() -> list[Replaced]:
    """It is not seen whether what was cloned is one state."""
    return [(leveldb_clone, "_find_missing", lambda *_: None)]


def _superblock_not_looked_at() -> list[Replaced]:
    """A clone that was made beside a recovery, or a checkpoint, is not made again."""
    read = copies.Copies.superblock

    def first(self: copies.Copies) -> Any:
        if not hasattr(self, "first"):
            self.first = read(self)  # type: ignore[attr-defined]
        return self.first  # type: ignore[attr-defined]

    return [(copies.Copies, "superblock", first)]


def _chunks_before_index() -> list[Replaced]:
    """Chunks are linked before the index is cloned, which then may name others."""
    clone, link = copies.clone_leveldb, copies.Copies._link_chunks
    late: list[Any] = []

    def clone_late(*args: Any, **options: Any) -> None:
        late.append((args, options))

    def link_first(self: copies.Copies, *args: Any) -> None:
        link(self, *args)
        while late:
            args, options = late.pop()
            clone(*args, **options)

    return [(copies, "clone_leveldb", clone_late), (copies.Copies, "_link_chunks", link_first)]


def _unlinked_before_checkpoint() -> list[Replaced]:
    """Chunks that compaction replaced are unlinked before a checkpoint."""
    retire = storage.Storage._retire

    def unlink(self: storage.Storage, staging: Any) -> None:
        retire(self, staging)
        for old in staging.replaced:
            files.unlink(self.paths.chunk(old.chunk.id))

    return [(storage.Storage, "_retire", unlink)]


def _same_epoch() -> list[Replaced]:
    """Recovery does not begin another epoch."""
    write = storage.checkpoint.write_superblock

    def old_epoch(*args: Any, new_epoch: bool) -> Any:
        return write(*args, new_epoch=False)

    return [(storage.checkpoint, "write_superblock", old_epoch)]


def _not_locked_while_read() -> list[Replaced]:
    """A reader's directory is not locked, so that others take it for a dead one's."""
    make = directory._make

    def unlocked(parent: str, prefix: str) -> Any:
        path, held = make(parent, prefix)
        directory.fcntl.flock(held.fd, directory.fcntl.LOCK_UN)
        return path, held

    return [(directory, "_make", unlocked)]


def _abort_not_cleared() -> list[Replaced]:
    """What an abort stored is not zeroed before others write."""
    return [(SharedStorage, "_write_gaps", lambda self, chunks: None)]


def _index_not_brought_up() -> list[Replaced]:
    """A commit does not come into the index of who made it."""
    apply = Index.apply

    def half(self: Index, commit: int, prepared: Any) -> None:
        if len(prepared.changes) > 1:
            some = dict(list(prepared.changes.items())[:-1])
            prepared = prepared._replace(changes=some)
        apply(self, commit, prepared)

    return [(Index, "apply", half)]


def _crash_not_looked_for() -> list[Replaced]:
    """A clone is taken as it stands, though no writer is there that is past recovery."""
    return [(copies, "is_held", lambda path: True)]


def _snapshots_ignored() -> list[Replaced]:
    """Who reads a snapshot gets what is there now."""
    return [(leveldb, "_source", lambda handle, snapshot: handle)]


def _number_used_again() -> list[Replaced]:
    """A link to a chunk that was never committed is taken for one to the chunk that has its number by now."""
    return [(copies, "_is_other_file", lambda source, target: False)]


def _half_a_commit_recovered() -> list[Replaced]:
    """Recovery counts a commit that has not all its parts."""
    return [(commit_log, "has_all_parts", bool)]


def _rest_not_zeroed() -> list[Replaced]:
    """Recovery leaves in the chunks what a killed process had begun to append, and no other epoch begins."""
    return [(Chunk, "mend", lambda self: False), *_same_epoch()]


def _recovery_not_noticed() -> list[Replaced]:
    """After a turn that failed, the next one of the same handle does not recover."""

    def forgive(self: SharedStorage) -> None:
        self.drafts, self.exposed, self.failure = {}, {}, ""
        self._must_recover = False
        self._page.mark(0)

    return [(SharedStorage, "_forgive", forgive)]


def _let_go_too_soon() -> list[Replaced]:
    """The lock is let go before what a turn has left is cleared away."""
    leave = SharedStorage._leave

    def let_go(self: SharedStorage) -> None:
        assert self._turn is not None
        self._turn.release()
        leave(self)

    return [(SharedStorage, "_leave", let_go)]


def _named_before_it_is_there() -> list[Replaced]:
    """A manifest is written before the objects that it names."""
    write, claim_number = Objects.write, claim.claim

    def write_late(self: Objects, name: str, data: bytes) -> None:
        if name == NEWEST:
            write(self, name, data)
        else:
            vars(self).setdefault("late", []).append((name, data))

    def claim_first(objects: Objects, *args: Any) -> bool:
        is_mine = claim_number(objects, *args)
        for name, data in vars(objects).pop("late", []):
            write(objects, name, data)
        return is_mine

    return [(Objects, "write", write_late), (claim, "claim", claim_first)]


def _manifest_written_over() -> list[Replaced]:
    """Of two publishers the later one writes over the manifest of the other."""

    def put(self: Objects, name: str, data: bytes) -> None:
        self._put(name, data)

    return [(Objects, "_put_new", put), (claim, "refuses_second", lambda *_: True)]


MUTANTS: dict[str, Callable[[], list[Replaced]]] = {
    name.removeprefix("_"): mutant
    for name, mutant in list(globals().items())
    if name.startswith("_") and callable(mutant) and getattr(mutant, "__module__", "") == __name__
}


EQUIVALENT = {"followed_too_far", "parts_ignored", "published_first", "torn_page_read"}
"""Those that only a power cut could show, or that another rule makes up for."""
SELDOM = {"clone_not_checked", "let_go_too_soon", "lineage_ignored", "number_used_again", "recovery_not_noticed"}
"""Those that take hundreds of schedules, or thousands; some need a single change of player."""
PUBLISHING = {"manifest_written_over", "named_before_it_is_there"}
"""Those that only publishers have."""


@contextlib.contextmanager
def left_out(name: str) -> Iterator[None]:
    """Leave a rule out."""
    replaced = MUTANTS[name]()
    saved = [(holder, what, holder.__dict__[what]) for holder, what, _ in replaced]
    for holder, what, value in replaced:
        setattr(holder, what, value)
    try:
        yield
    finally:
        for holder, what, value in reversed(saved):
            setattr(holder, what, value)
