"""What happened since a commit: the segments of later ones, and whether all of them are still there.

Each commit is in the directories of the chunks that it touched, in as many parts as each part says. Parts go with
chunk files only:

- Compaction replaces chunks. What goes with them is said in the header of the one in their place: the last commit
  that changed anything there, and the commits after it that only moved records. Compaction itself changes nothing,
  so its own parts are passed over.
- A drop takes all chunks of a store. A note in the index says so, and which was the last commit before that changed
  anything there. The note goes with an index that is lost: then nothing says so but the parts that are missing from
  the commits that had touched the store, the drop being the last of them.

So what is there of a store that exists is known from its own chunks; and that nothing is missing of any, from the
parts of each commit being all there.

Chunk files are mapped here, and stay as they are whatever is unlinked later. Positions of before are kept with each
chunk, and the index has those of the checkpoint, so that what was there before costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from heapq import merge
from itertools import chain, groupby
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..chunks.chunk import Chunk
from ..chunks.directory import Raw, Records, later_than
from ..chunks.header import History
from ..chunks.heap import ATTRIBUTES, Heap
from ..chunks.segment import parse_segment
from ..errors import CorruptionError, HistoryLost, StoreNotFound
from ..index.drop_notes import Note
from ..runs.extent import Extent, RowArray
from ..runs.gather import Items
from ..runs.run import Run
from ..runs.streams import in_key_order
from ..types.schema import Schema, schema_from_descriptor
from .losses import NOTHING, gone_from, known_position
from .storage import Storage

_BLOCK = 1 << 16
"""So many segments are put in order of commit at a time, which takes some hundred bytes each."""
_WINDOW = 1 << 10
"""So many commits are looked at first for one that is not whole."""


class Source(NamedTuple):
    """A chunk in which there may be something new: mapped, with the part of its directory to look at."""

    chunk: Chunk
    raw: Raw
    known: int
    end: int


class HeldStore:
    """The chunks of a store in which something is new, held for as long as this lives, whatever is unlinked."""

    is_remote = False

    def __init__(self, heap: Heap, sources: Iterable[Source]) -> None:
        self.name = heap.name
        self.identity = heap.identity
        self.schema: Schema = heap.schema
        self.dtype = heap.dtype
        self.item_size = heap.item_size
        self._heap = heap
        self._chunks = {source.chunk.id: source.chunk for source in sources}
        self._items = {
            source.chunk.id: np.frombuffer(
                memoryview(source.raw), self.dtype, source.chunk.header.file_size // self.item_size
            )
            for source in sources
        }
        self.arrays: Mapping[int, Items] = {
            chunk: self._chunks[chunk].view(items) for chunk, items in self._items.items()
        }

    def array(self, extent: Extent) -> npt.NDArray[Any]:
        """Return an extent's items, read-only, without a copy."""
        start = extent[1] // self.item_size
        return self.arrays[extent[3]][start : start + extent[2]]

    def fetched(self, rows: RowArray) -> Mapping[int, npt.NDArray[Any]]:
        """Return the items of each chunk that rows name, of which those of the rows are there."""
        self._heap.fetch(rows, self._chunks)
        return self._items

    def hold(self) -> object:
        """Return this, which keeps its chunks."""
        return self

    def begin(self, runs: Sequence[Run]) -> None:
        """Begin to fetch the records of runs: it is left until they are read."""


@dataclass
class StoreLog:
    """What the chunks of a store say of the commits after one, up to another.

    ``gone`` is what went with chunks that were replaced.
    """

    heap: Heap
    since: int
    commit: int
    gone: History = NOTHING
    sources: list[Source] = field(default_factory=list)

    @cached_property
    def _found(self) -> list[Records]:
        return [
            later_than(source.raw, source.known, source.end, self.since, source.chunk.id) for source in self.sources
        ]

    @cached_property
    def records(self) -> list[Records]:
        """The segments of each source."""
        shown = [found.between(self.since, self.commit) for found in self._found]
        for source, records in zip(self.sources, shown, strict=True):
            source.chunk.passed = self.commit, records.low
        return shown

    def cut(self) -> Chunk | None:
        """Return a chunk whose directory ends before it should, if there is one."""
        ends = zip(self.sources, self._found, strict=True)
        return next((source.chunk for source, found in ends if found.low != source.end), None)

    @cached_property
    def created(self) -> int:
        """The commit that created the store; 0 if that is not after ``since``."""
        for source, records in zip(self.sources, self.records, strict=True):
            if source.chunk.id == self.heap.store and len(records.positions):
                is_first = int(records.positions[0]) == source.chunk.header.file_size
                return int(records.commits[0]) if is_first else 0
        return 0

    @cached_property
    def held(self) -> HeldStore:
        """Its chunks, as long as anyone needs them."""
        return HeldStore(self.heap, self.sources)

    def rows(self, source: int, position: int) -> Run:
        """Return the rows of one segment."""
        chunk, raw, _, _ = self.sources[source]
        header = chunk.header
        segment = parse_segment(memoryview(raw), position, chunk.id, header.data_offset, header.item_size)
        if segment is None:
            found, expected = "a damaged segment", "the segment of a commit"
            raise CorruptionError(chunk.path, offset=position, found=found, expected=expected)
        return segment.run


class Entry(NamedTuple):
    """What one commit changed in one store: consecutive rows, tombstones included."""

    commit: int
    log: StoreLog
    kind: str
    rows: list[Run]


# ---------------------------------------------------------------------- taking hold of it


def take(storage: Storage, since: int, heaps: Mapping[str, Heap] | None = None, commit: int | None = None) -> Logs:
    """Take hold of what the chunks say of the commits after one.

    Parameters
    ----------
    storage : Storage
    since : int
    heaps, commit : optional
        The stores as of an earlier commit, which a snapshot keeps; else the latest one.

    Raises
    ------
    ValueError
        There was no such commit.
    """
    with storage.committing():
        storage.index.leveldb.check_open()
        shown = storage.index.last if commit is None else commit
        if not 0 <= since <= shown:
            raise ValueError(
                f"since is commit {since}, but this shows commit {shown}: a reader may have to refresh(); or a "
                "power cut took commits that did not wait for the disk, then start from a snapshot"
            )
        chosen = storage.heaps if heaps is None else heaps
        heads = storage.index.heads if storage.index.checkpoint <= since else {}
        logs = [_take_store(heap, since, shown, heads) for heap in chosen.values()]
        notes = storage.index.notes(since, shown)
    known = {log.heap.store for log in logs}
    drops = [_drop(note, since, storage.paths.root) for note in notes if note.store not in known]
    return Logs({log.heap.name: log for log in sorted(logs, key=lambda log: log.heap.store)}, since, shown, drops)


def _drop(note: Note, since: int, path: str) -> StoreLog:
    """Return what is known of a store that was dropped: that, and how much went with it."""
    heap = Heap(note.store, note.about["name"], schema_from_descriptor(note.about["schema"], path))
    upto, *moved = note.about["history"]
    return StoreLog(heap, since, note.commit, History(upto, tuple(moved)))


def _take_store(heap: Heap, since: int, commit: int, heads: Mapping[int, tuple[int, int]]) -> StoreLog:
    retired = heap.retired_chunks()  # a snapshot of before may show them
    chunks = [chunk for chunk in [*list(heap.chunks.values()), *retired] if chunk.is_committed]
    gone, replaced = gone_from(chunks, commit)
    log = StoreLog(heap, since, commit, gone)
    for chunk in chunks:
        known = min(known_position(chunk, since), heads.get(chunk.id, (0, chunk.header.file_size))[1])
        if chunk.id not in replaced and known > chunk.directory:
            chunk.fetch(chunk.directory, known)
            log.sources.append(Source(chunk, chunk.source, known, chunk.directory))
    return log


# ---------------------------------------------------------------------- whether it is all there


@dataclass
class Logs:
    """What the chunks of all stores say of the commits after ``since``, up to ``commit``, and which are dropped."""

    stores: dict[str, StoreLog]
    since: int
    commit: int
    drops: list[StoreLog]

    def last_hole(self, upto: int) -> int:
        """Return the last commit up to one of which not all is there; 0 if there is none after ``since``."""
        if upto <= self.since:
            return 0
        stores = self.stores.values()
        records = [records for log in stores for records in log.records if len(records.commits)]
        told = [each for log in [*stores, *self.drops] for each in log.gone.moved]
        told += [log.commit for log in self.drops]
        commits = np.concatenate([np.empty(0, np.int64), *(each.commits for each in records)])
        parts = np.concatenate([np.empty(0, np.int64), *(each.parts for each in records)])
        known, where, counts = np.unique(commits, return_index=True, return_counts=True)
        whole = np.union1d(known[counts == parts[where]], np.array(told, np.int64))
        return _last_missing(whole[(whole > self.since) & (whole <= upto)], self.since, upto)

    def lost(self) -> int:
        """Return the last commit of which changes went with chunks that were replaced, or with a store."""
        return max((log.gone.upto for log in [*self.stores.values(), *self.drops]), default=0)

    def dropped(self, names: Sequence[str]) -> list[StoreLog]:
        """Return the stores of some names, or all, that were dropped, and had not changed since."""
        return [log for log in self.drops if log.gone.upto <= self.since and (not names or log.heap.name in names)]

    def chosen(self, names: Sequence[str]) -> list[StoreLog]:
        """Return the stores of some names, or all, of which all changes are there.

        Raises
        ------
        HistoryLost
            Some are gone.
        StoreNotFound
            There is no such store, and there was none since.
        """
        unknown = [name for name in names if name not in self.stores]
        chosen = [log for name, log in self.stores.items() if not names or name in names]
        compacted = max(chosen, key=lambda log: log.gone.upto, default=None)
        upto = compacted.gone.upto if compacted is not None else 0
        hole = self.last_hole(self.commit if unknown or not names else self._before_names(chosen))
        if compacted is not None and upto >= max(hole, self.since + 1):
            of_what = "attributes" if compacted.heap.name == ATTRIBUTES else f"store {compacted.heap.name!r}"
            what = f"of {of_what} up to commit {upto} went when it was compacted"
            raise HistoryLost(f"the changes {what}", upto)
        if hole:
            what = f"up to commit {hole} are gone of a store that was dropped"
            which = f", maybe one that had the name {(unknown or names)[0]!r}" if names else ""
            raise HistoryLost(f"changes {what}{which}", hole)
        if unknown := sorted({*unknown} - {log.heap.name for log in self.dropped(names)}):
            raise StoreNotFound(
                f"there is no store {unknown[0]!r}; there are {sorted(self.stores.keys() - {ATTRIBUTES})}"
            )
        self._check_not_cut(chosen)
        return chosen

    def _before_names(self, chosen: Iterable[StoreLog]) -> int:
        """Return up to which commit other stores may have had the names of some, since one before which is none."""
        return max(log.created for log in chosen) - 1 if self.since else 0

    def _check_not_cut(self, chosen: Iterable[StoreLog]) -> None:
        """Raise if a directory ends early, and something is missing; else a writer may have taken it back."""
        for chunk in filter(None, (log.cut() for log in chosen)):
            if self.last_hole(self.commit):
                found, expected = "a directory that ends early", f"all of commits {self.since + 1} to {self.commit}"
                raise CorruptionError(chunk.path, found=found, expected=expected)


def _last_missing(whole: npt.NDArray[np.int64], since: int, upto: int) -> int:
    """Return the last commit after one, up to another, that is not among ascending ones; 0 if there is none."""
    if len(whole) == upto - since:
        return 0
    differs = whole[::-1] != upto - np.arange(len(whole))
    return upto - (int(np.argmax(differs)) if differs.any() else len(whole))


def first_change(take_since: Callable[[int], Logs], known: tuple[int, int]) -> tuple[int, int]:
    """Return the first commit since which all changes are there, and the commit up to which that was looked at.

    Parameters
    ----------
    take_since : callable
        Takes hold of what happened since a commit.
    known : tuple of int
        What this returned before, or two zeros.
    """
    logs = take_since(known[1])
    commit, lost = logs.commit, max(known[0], logs.lost())
    since, window = commit, _WINDOW
    floor = max(known[1], lost)
    while since > floor:
        since, window = max(floor, commit - window), 4 * window
        logs = take_since(since)
        if hole := logs.last_hole(commit):
            return max(hole, lost), commit
    return lost, commit


# ---------------------------------------------------------------------- what it says


def entries(logs: Sequence[StoreLog], drops: Iterable[StoreLog]) -> Iterator[Entry]:
    """Yield what each commit changed in each store, in order of commit; first what it dropped."""
    dropped = (Entry(log.commit, log, "dropped", []) for log in drops)
    return merge(dropped, _changes(logs), key=attrgetter("commit"))


def _changes(logs: Sequence[StoreLog]) -> Iterator[Entry]:
    for (commit, number), parts in groupby(_in_order(logs), key=lambda part: part[:2]):
        log = logs[number]
        runs = [log.rows(source, position) for _, _, source, position in parts]
        rows = in_key_order(runs, log.heap.item_size)
        is_new = commit == log.created
        if rows or is_new:
            yield Entry(commit, log, "created" if is_new else "records", rows)


def _in_order(logs: Sequence[StoreLog]) -> Iterator[tuple[int, int, int, int]]:
    """Yield commit, number of the store, of the source, and position of all segments that changed anything."""
    found = [
        (records.commits[changed], number, source, records.positions[changed])
        for number, log in enumerate(logs)
        for source, records in enumerate(log.records)
        if (changed := ~records.moved).any()
    ]
    if not found:
        return iter(())
    counts = [len(commits) for commits, *_ in found]
    commits = np.concatenate([each[0] for each in found])
    numbers = np.repeat([each[1] for each in found], counts)
    sources = np.repeat([each[2] for each in found], counts)
    positions = np.concatenate([each[3] for each in found])
    order = np.lexsort((numbers, commits))
    blocks = (order[first : first + _BLOCK] for first in range(0, len(order), _BLOCK))
    return chain.from_iterable(
        zip(*(column[block].tolist() for column in (commits, numbers, sources, positions)), strict=True)
        for block in blocks
    )


def net_entries(logs: Sequence[StoreLog], drops: Iterable[StoreLog], commit: int) -> Iterator[Entry]:
    """Yield what all commits together changed in each store: of each key the last row."""
    yield from (Entry(commit, log, "dropped", []) for log in drops)
    for log in logs:
        runs = [log.rows(source, position) for _, _, source, position in _in_order([log])]
        rows = in_key_order(runs, log.heap.item_size)
        if rows or log.created:
            yield Entry(commit, log, "created" if log.created else "records", rows)
