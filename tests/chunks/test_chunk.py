"""Chunk files, alone and under Storage: space, views, descriptors, and what is taken back."""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import UUID, count_descriptors, rows_of, run_python

import structchunk as sc
from structchunk.chunks.chunk import Chunk
from structchunk.chunks.header import Header
from structchunk.chunks.heap import Heap
from structchunk.chunks.segment import SEGMENT_SIZE, pack_record
from structchunk.disk import files
from structchunk.engine import drafts
from structchunk.errors import ClosedError, CorruptionError
from structchunk.runs.extent import ROW, ROW_SIZE, Extent
from structchunk.runs.packed import ALL, Packed
from structchunk.types.schema import schema_from_descriptor

ABOUT = {"name": "temps", "kind": "array", "schema": {"kind": "array", "type": "<f8"}}
SIZE = 1 << 20


def header_of(*, item_size: int = 8, size: int = SIZE) -> Header:
    return Header(UUID, 1, 1, item_size, size, 0, ABOUT)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "1.chunk")


@pytest.fixture
def chunk(path: str) -> Chunk:
    return Chunk.create(path, header_of())


@pytest.fixture
def reserved(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What is reserved from here on: first and last byte."""
    calls: list[tuple[int, int]] = []
    reserve = files.reserve

    def record(path: str, offset: int, size: int, file: files.File | None = None) -> None:
        reserve(path, offset, size, file)
        calls.append((offset, offset + size))

    monkeypatch.setattr(files, "reserve", record)
    return calls


def fill_disk(monkeypatch: pytest.MonkeyPatch, *, room: int = 0) -> None:
    """Let no more than `room` bytes be reserved at a time."""
    reserve = files.reserve

    def full(path: str, offset: int, size: int, file: files.File | None = None) -> None:
        if size > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        reserve(path, offset, size, file)

    monkeypatch.setattr(files, "reserve", full)


def append(chunk: Chunk, data: bytes, *, commit: int = 1, key: int = 1) -> Extent:
    """Commit one record by hand."""
    offset = chunk.free
    chunk.reserve(offset + len(data))
    chunk.store(offset, data, len(data))
    extent = (key, offset, len(data) // chunk.header.item_size, 1, 0)
    rows = ROW.pack(*extent)
    record = pack_record(1, commit, 1, 1, 0, offset, offset + len(data), 0, Packed(ALL, 1, rows))
    chunk.append_segment(rows, record, offset + len(data))
    return extent


def blocks(path: str) -> int:
    """Return how many bytes of disk a file takes."""
    return os.stat(path).st_blocks * 512


# ---------------------------------------------------------------------- space


def test_a_new_file_is_sparse_and_private(chunk: Chunk) -> None:
    assert os.path.getsize(chunk.path) == SIZE
    assert blocks(chunk.path) <= 8192
    assert os.stat(chunk.path).st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        Chunk.create(chunk.path, header_of())


def test_create_leaves_nothing_behind_on_a_full_disk(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch)
    with pytest.raises(OSError, match="No space"):
        Chunk.create(path, header_of())
    assert not os.path.exists(path)


def test_space_is_reserved_ahead_in_steps(chunk: Chunk, reserved: list[tuple[int, int]]) -> None:
    for _ in range(300):
        end = chunk.free + 1000
        chunk.reserve(end)
        assert chunk.reserved >= end
        chunk.free = end
    assert len(reserved) < 12
    assert [start for start, _ in reserved] == [4096, *(stop for _, stop in reserved[:-1])]
    assert all(stop - start >= min(start - 4096, 1 << 16) for start, stop in reserved)  # as much as there is
    assert all(edge % 4096 == 0 for span in reserved for edge in span)
    assert blocks(chunk.path) >= chunk.free


def test_nothing_is_reserved_past_the_directory_or_the_file(chunk: Chunk) -> None:
    chunk.reserve(chunk.directory - 2 * SEGMENT_SIZE)
    assert chunk.reserved == SIZE
    assert os.path.getsize(chunk.path) == SIZE


@pytest.mark.parametrize("free", [4096, 8192, 8200])
def test_an_empty_record_needs_no_room(chunk: Chunk, free: int) -> None:
    chunk.seek(free, free // 4096 * 4096 + 4000)  # data and directory meet in one page
    chunk.reserve(free)
    assert chunk.reserved == -(-free // 4096) * 4096


def test_with_little_space_left_only_what_is_needed_is_reserved(
    chunk: Chunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch, room=8192)
    chunk.reserve(4096 + 5000)
    assert chunk.reserved == 4096 + 8192


def test_a_full_disk_is_an_error_that_changes_nothing(chunk: Chunk, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch)
    before = (chunk.free, chunk.reserved, chunk.directory)
    for reserve in (lambda: chunk.reserve(5000), lambda: chunk.reserve_directory(5000)):
        with pytest.raises(OSError, match="No space") as caught:
            reserve()
        assert caught.value.errno == errno.ENOSPC
        assert (chunk.free, chunk.reserved, chunk.directory) == before


def test_the_directory_is_reserved_downwards(chunk: Chunk, reserved: list[tuple[int, int]]) -> None:
    chunk.reserve_directory(100 * ROW_SIZE)
    assert not reserved  # one page was, when the file was made
    chunk.reserve_directory(1000 * ROW_SIZE)
    low = SIZE - SEGMENT_SIZE - 1000 * ROW_SIZE
    assert reserved == [(low // 4096 * 4096, SIZE - 4096)]
    chunk.directory = reserved[0][0]
    chunk.reserve_directory(10 * ROW_SIZE)
    assert reserved[1][1] == reserved[0][0]
    low = chunk.directory - SEGMENT_SIZE - 10 * ROW_SIZE
    assert reserved[1][0] == (low - (SIZE - chunk.directory)) // 4096 * 4096  # as much again as there is


def test_the_directory_is_never_reserved_below_the_data(chunk: Chunk, reserved: list[tuple[int, int]]) -> None:
    chunk.free = SIZE - 20_000
    chunk.directory = SIZE - 10_000
    chunk.reserve_directory(200 * ROW_SIZE)
    assert reserved == [(SIZE - 20_000, SIZE - 10_000)]


@pytest.mark.parametrize("size", [1 << 10, 3 << 20])
@pytest.mark.parametrize("dtype", ["<f8", ">i2", "M8[s]", "S3", [("a", "u1"), ("b", "<f8")]])
def test_store(path: str, size: int, dtype: Any) -> None:
    kind = np.dtype(dtype)
    items = np.frombuffer(np.random.default_rng(1).bytes(size // kind.itemsize * kind.itemsize), kind)
    chunk = Chunk.create(path, header_of(item_size=kind.itemsize, size=4 << 20))
    chunk.reserve(chunk.free + items.nbytes)
    seen = chunk.items(kind)
    chunk.store(chunk.free, items, items.nbytes)
    first = chunk.free // kind.itemsize
    assert seen[first : first + len(items)].tobytes() == items.tobytes()
    assert files.read(path, chunk.free, items.nbytes) == items.tobytes()


# ---------------------------------------------------------------------- item sizes


@pytest.mark.parametrize("item_size", [1, 3, 7, 24, 100, 4095, 4097, 5000])
def test_the_whole_file_is_one_array(path: str, item_size: int) -> None:
    chunk = Chunk.create(path, header_of(item_size=item_size))
    assert chunk.free % item_size == 0
    assert 4096 <= chunk.free < 4096 + item_size
    extent = append(chunk, bytes(range(1, 1 + item_size % 200)) * item_size)
    start = extent[1] // item_size
    items = chunk.items(np.dtype(f"V{item_size}"))
    assert len(items) == SIZE // item_size
    assert items[start : start + extent[2]].tobytes() == files.read(path, extent[1], extent[2] * item_size)
    again = Chunk.open(path)
    assert [segment.run.rows.tolist() for segment in again.segments()] == [[extent]]


@given(st.integers(1, 200), st.lists(st.integers(0, 60), min_size=1, max_size=8))
def test_records_of_any_item_size_come_back(tmp_path_factory: Any, item_size: int, lengths: list[int]) -> None:
    with sc.open(tmp_path_factory.mktemp("db"), chunk_size=1 << 14, sync=False) as db:
        store = db.array_store("a", f"S{item_size}")
        rng = np.random.default_rng(item_size)
        sizes = [np.frombuffer(rng.bytes(length * item_size), f"S{item_size}") for length in lengths]
        for key, items in enumerate(sizes):
            store[key] = items
        for key, items in enumerate(sizes):
            assert store[key].tobytes() == items.tobytes()
        assert db.verify() == []


# ---------------------------------------------------------------------- views


def refusals(array: Any) -> list[Callable[[], object]]:
    """Every way to get at the bytes of an array for writing that Python offers."""
    chain = [array]
    while isinstance(chain[-1], np.ndarray):
        chain.append(chain[-1].base)
    arrays = [link for link in chain if isinstance(link, np.ndarray)]
    buffers = [link for link in chain if link is not None]

    def flags(link: Any) -> Callable[[], object]:
        return lambda: setattr(link.flags, "writeable", True)

    def setflags(link: Any) -> Callable[[], object]:
        return lambda: link.setflags(write=True)

    def ctypes_over(link: Any) -> Callable[[], object]:
        return lambda: (ctypes.c_char * 1).from_buffer(link)

    def writable(link: Any) -> Callable[[], object]:
        return lambda: memoryview(link).cast("B").__setitem__(0, 1)

    def again(link: Any) -> Callable[[], object]:
        return lambda: np.frombuffer(link, np.uint8).__setitem__(0, 1)

    def by_item(link: Any) -> Callable[[], object]:
        return lambda: link.__setitem__(slice(0, 1), b"x")

    made = [make(link) for link in arrays for make in (flags, setflags)]
    return made + [make(link) for link in buffers for make in (ctypes_over, writable, again, by_item)]


def test_a_read_only_array_cannot_be_made_writable(tmp_path: Path) -> None:
    with sc.open(tmp_path / "db") as db:
        store = db.array_store("a", "<f8")
        store[1] = [1.0, 2.0]
        array = store[1]
        ways = refusals(array)
        assert len(ways) >= 12
        for way in ways:
            with pytest.raises((ValueError, TypeError, BufferError)):
                way()
        assert not array.flags.writeable
        assert store[1].tolist() == [1.0, 2.0]


def test_the_same_ways_work_on_a_live_array(tmp_path: Path) -> None:
    """Or else the test above would prove nothing."""
    with sc.open(tmp_path / "db") as db:
        array = db.array_store("a", "<f8").new(1, 2)
        refused = 0
        for way in refusals(array):
            try:
                way()
            except (ValueError, TypeError, BufferError):
                refused += 1
        assert refused < len(refusals(array)) // 2


def test_views_outlive_chunk_and_file(chunk: Chunk) -> None:
    extent = append(chunk, bytes(range(80)))
    items = chunk.items(np.dtype(np.uint8))[extent[1] : extent[1] + 80]
    live = chunk.items(np.dtype(np.uint8), writable=True)[extent[1] : extent[1] + 80]
    os.unlink(chunk.path)
    del chunk
    gc.collect()
    live[0] = 99
    assert items.tolist() == [99, *range(1, 80)]


# ---------------------------------------------------------------------- descriptors


def test_descriptors_do_not_grow_with_reads(tmp_path: Path) -> None:
    with sc.open(tmp_path / "db", chunk_size=1 << 16, sync=False) as db:
        store = db.array_store("a", "<f8")
        keys = np.arange(2000)
        store.put_many(keys, np.zeros((2000, 20)))
        assert len(store.get_many(keys)) == 2000
        gc.collect()
        before, kept = count_descriptors(), []
        for _ in range(3):
            kept += [store[key] for key in range(2000)]
            kept += [store.get_many(keys), list(store.scan()), list(store.items())]
        assert count_descriptors() == before
    del kept, store, db


def test_close_gives_all_descriptors_back(tmp_path: Path) -> None:
    gc.collect()
    before = count_descriptors()
    for _ in range(3):
        with sc.open(tmp_path / "db", chunk_size=1 << 16) as db:
            store = db.array_store("a", "<f8")
            store.put_many(np.arange(500), np.zeros((500, 20)))
            store.new(1000, 3)[:] = 1
            list(store.scan())
        assert count_descriptors() == before  # though the handles are still there


FEW_DESCRIPTORS = """
import os, resource, sys
import numpy as np
import structchunk as sc
with sc.open(sys.argv[1], chunk_size=1 << 14, sync=False) as db:
    for number in range(40):
        db.array_store(f"s{number}", "<f8")[1] = [number]
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 25, limits[1]))
held: list[int] = []
with sc.open(sys.argv[1]) as db:  # opening maps nothing, so that many stores are no hindrance
    print(all(1 in db[f"s{number}"] for number in range(40)))  # LevelDB has opened what it reads
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:  # none is left: a mapping keeps none from Python 3.13 on, but its file has to be opened
        pass
    try:
        db["s0"][1]
    except OSError as error:
        print(error.errno, error)
    for descriptor in held:
        os.close(descriptor)
    print(db["s0"][1])
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
with sc.open(sys.argv[1]) as db:
    print([int(db[f"s{number}"][1][0]) for number in range(40)] == list(range(40)), db.verify())
"""


def test_too_few_descriptors_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    done = run_python(FEW_DESCRIPTORS, str(tmp_path / "db"))
    assert done.returncode == 0, done.stderr
    opened, message, again, after = done.stdout.splitlines()
    assert opened == "True"
    assert message.startswith(f"{errno.EMFILE} ")
    assert "ulimit -n" in message
    assert ".chunk" in message
    assert again == "[0.]"
    assert after == "True []"


# ---------------------------------------------------------------------- opening


@pytest.mark.parametrize("size", [0, 8, 4095, SIZE - 1, SIZE + 1])
def test_a_file_of_another_size_is_refused(chunk: Chunk, size: int) -> None:
    os.truncate(chunk.path, size)
    with pytest.raises(CorruptionError) as caught:
        Chunk.open(chunk.path)
    assert caught.value.path == chunk.path
    with pytest.raises(CorruptionError, match=f"{size} bytes"):
        _ = chunk.source


def test_links_and_special_files_are_refused(chunk: Chunk, tmp_path: Path) -> None:
    os.symlink(chunk.path, tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name in ("link", "pipe", "directory"):
        with pytest.raises(CorruptionError, match="regular file"):
            Chunk.open(str(tmp_path / name))
        with pytest.raises(CorruptionError, match="regular file"):
            files.write(str(tmp_path / name), 0, b"x")


def test_a_header_of_many_pages_is_read_whole(path: str) -> None:
    header = Header(UUID, 1, 1, 8, SIZE, 0, {**ABOUT, "name": "x" * 10_000}, tuple(range(3000)))
    Chunk.create(path, header)
    assert Chunk.open(path).header == header
    assert header.header_size == 24_576


# ---------------------------------------------------------------------- segments, and taking back


def test_segments_are_found_again(chunk: Chunk) -> None:
    extents = [append(chunk, bytes([commit]) * 16, commit=commit) for commit in (1, 2, 3)]
    again = Chunk.open(chunk.path)
    assert (again.free, again.directory) == (4096, SIZE)
    found = list(again.segments())
    assert [segment.run.rows.tolist() for segment in found] == [[extent] for extent in extents]
    assert [segment.commit for segment in again.segments(found[0].low)] == [2, 3]
    assert (found[-1].end, found[-1].low) == (chunk.free, chunk.directory) == chunk.working_offsets()


def test_mend_ends_the_directory_and_corrects_the_header(chunk: Chunk) -> None:
    append(chunk, bytes(16))
    free, directory = chunk.free, chunk.directory
    append(chunk, b"x" * 16, commit=2)
    again = Chunk.open(chunk.path)
    again.seek(free, directory)
    assert again.mend() is True
    assert len(list(again.segments())) == 1
    assert again.working_offsets() == (free, directory)
    assert again.mend() is False


def test_mend_leaves_the_data_alone(chunk: Chunk) -> None:
    data = b"x" * (chunk.directory - chunk.free - 10)
    chunk.store(chunk.free, data, len(data))
    chunk.seek(chunk.free + len(data), chunk.directory)
    chunk.mend()
    assert files.read(chunk.path, 4096, len(data) + 10) == data + bytes(10)


def test_prepare_zeroes_the_hole(chunk: Chunk) -> None:
    append(chunk, b"a" * 4096)
    chunk.store(chunk.free, b"left behind", 11)
    again = Chunk.open(chunk.path)
    again.seek(chunk.free, chunk.directory)
    again.prepare()
    hole = chunk.directory - chunk.free
    assert files.read(chunk.path, chunk.free, hole) == bytes(hole)
    assert files.read(chunk.path, 4096, 4096) == b"a" * 4096
    assert len(list(again.segments())) == 1


@pytest.mark.parametrize("kept", [0, 40])
def test_prepare_zeroes_what_was_stored_and_not_committed(chunk: Chunk, kept: int) -> None:
    append(chunk, b"a" * 16)
    chunk.prepare()
    free = chunk.free
    chunk.store(free, b"b" * 100, 100)
    chunk.free += kept  # of that a view was handed out
    chunk.prepare()
    assert files.read(chunk.path, free, 100) == b"b" * kept + bytes(100 - kept)
    assert files.read(chunk.path, 4096, 16) == b"a" * 16
    assert chunk.committed == free


def test_what_another_process_may_have_stored_is_zeroed_on_disk_too(
    chunk: Chunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(chunk, b"a" * 16)
    chunk.prepare()
    flushed: list[str] = []
    monkeypatch.setattr(Chunk, "flush", lambda self: flushed.append(self.path))
    files.write(chunk.path, chunk.free, b"left behind")
    chunk.distrust()
    chunk.prepare()
    hole = chunk.directory - chunk.free
    assert files.read(chunk.path, chunk.free, hole) == bytes(hole)
    assert flushed == [chunk.path]


def test_clear_zeroes_what_is_written_and_keeps_holes(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    files.create(path, 64 << 20)
    assert files.clear(path, 0, 64 << 20) is False
    for offset in (5000, 3 << 20, 40 << 20):
        files.write(path, offset, b"x" * 10_000)
    before = blocks(path)
    assert files.clear(path, 5010, 41 << 20) is True
    assert files.read(path, 5000, 10_000) == b"x" * 10 + bytes(9990)
    assert not any(files.read(path, 1 << 20, 63 << 20))
    assert blocks(path) <= before
    with mmap.mmap(os.open(path, os.O_RDWR), 0) as mapping:
        mapping[20 << 20] = 1
        files.clear(path, 0, 64 << 20)
        assert mapping[20 << 20] == 0


# ---------------------------------------------------------------------- under Storage


def chunk_sizes(db: sc.Database) -> list[int]:
    directory = Path(db.path, "chunks")
    return [path.stat().st_size for path in sorted(directory.iterdir())]


def test_chunks_double_up_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "MAX_CHUNK_SIZE", 1 << 18)
    with sc.open(tmp_path / "db", chunk_size=1 << 16, sync=False) as db:
        store = db.array_store("a", "<f8")
        for key in range(250):
            store[key] = np.full(500, key)
        assert chunk_sizes(db) == [1 << 16, 1 << 17, *[1 << 18] * (len(chunk_sizes(db)) - 2)]
        assert len(chunk_sizes(db)) > 4
        assert all((store[key] == key).all() for key in range(250))
        assert db.verify() == []


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("extra", [-8, 0, 8])
def test_a_record_up_to_the_last_byte(tmp_path: Path, extra: int, *, many: bool) -> None:
    """The room that a first chunk has beside its directory, and one item more or less."""
    room = (1 << 16) - 4096 - SEGMENT_SIZE - 2 * SEGMENT_SIZE - ROW_SIZE
    length = (room + extra) // 8
    with sc.open(tmp_path / "db", chunk_size=1 << 16) as db:
        store = db.array_store("a", "<f8")
        if many:
            store.put_many([1], np.ones((1, length)))
        else:
            store[1] = np.ones(length)
        assert len(chunk_sizes(db)) == (2 if extra > 0 else 1)
        store[2] = []
        assert len(chunk_sizes(db)) == 2
        assert (store[1] == 1).all()
        assert db.verify() == []


@pytest.mark.parametrize("kind", ["put", "put_many", "new"])
def test_a_record_larger_than_a_chunk_gets_its_own(tmp_path: Path, kind: str) -> None:
    length = 100_000
    with sc.open(tmp_path / "db", chunk_size=1 << 14) as db:
        store = db.array_store("a", "<f8")
        if kind == "put":
            store[1] = np.arange(length)
        elif kind == "put_many":
            store.put_many([0, 1, 2], np.arange(length + 2), [1, length, 1])
        else:
            store.new(1, length)[:] = np.arange(length)
        sizes = chunk_sizes(db)
        assert 8 * length < max(sizes) < 8 * length + 3 * 4096
        assert all(size % 4096 == 0 for size in sizes)
        assert np.array_equal(store[1] - store[1][0], np.arange(length))
        assert db.verify() == []


def test_many_records_fill_chunk_after_chunk(tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).integers(0, 700, 800)
    values = np.arange(lengths.sum(), dtype="<u4")
    with sc.open(tmp_path / "db", chunk_size=1 << 14) as db:
        store = db.array_store("a", "<u4")
        store.put_many(np.arange(800), values, lengths)
        assert len(chunk_sizes(db)) > 4
        assert np.array_equal(np.concatenate([array for _, array in store.items()]), values)
        assert [len(array) for array in store.values()] == lengths.tolist()
        assert db.verify() == []


def test_tombstones_alone_roll_over_to_new_chunks(tmp_path: Path) -> None:
    with sc.open(tmp_path / "db", chunk_size=1 << 14) as db:
        store = db.array_store("a", "<u4")
        store.put_many(np.arange(3000), np.zeros((3000, 0), "<u4"))
        before = len(chunk_sizes(db))
        assert store.delete_range() == 3000
        assert len(chunk_sizes(db)) > before
        assert len(store) == 0
        assert db.verify() == []


def test_empty_records(tmp_path: Path) -> None:
    with sc.open(tmp_path / "db", chunk_size=1 << 14) as db:
        store = db.array_store("a", [("x", "<f8"), ("y", "V13")])
        store[0] = []
        store.put_many([1, 2], np.zeros((2, 0), store.dtype))
        assert len(store.new(3, 0)) == 0
    with sc.open(tmp_path / "db") as db:
        store = db["a"]
        assert [len(array) for array in store.values()] == [0] * 4
        assert [len(batch.values) for batch in store.scan()] == [0]
        assert db.verify() == []


def test_a_large_new_record_takes_no_disk(tmp_path: Path) -> None:
    with sc.open(tmp_path / "db") as db:
        array = db.array_store("a", "<f8").new(1, 10_000_000)
        array[5_000_000] = 1.0
        db.sync()
        taken = sum(blocks(str(path)) for path in Path(db.path, "chunks").iterdir())
        assert taken < 1 << 20
        assert array.sum() == 1.0


@pytest.fixture
def small(tmp_path: Path) -> Iterator[sc.Database]:
    with sc.open(tmp_path / "db", chunk_size=1 << 14) as db:
        db.array_store("a", "<f8")[1] = [1.0]
        yield db


WRITES: dict[str, Callable[[Any], object]] = {
    "put": lambda store: store.put(2, np.ones(5000)),
    "put_many": lambda store: store.put_many([2, 3], np.ones((2, 5000))),
    "new": lambda store: store.new(2, 1000),
    "new, oversize": lambda store: store.new(2, 100_000),
    "delete": lambda store: store.delete(1),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_full_disk_is_a_clean_abort(
    small: sc.Database, monkeypatch: pytest.MonkeyPatch, write: Callable[[Any], object]
) -> None:
    small.close()
    with sc.open(small.path) as db:
        store = db["a"]
        with monkeypatch.context() as patch:
            fill_disk(patch)
            with pytest.raises(OSError, match="No space") as caught:
                write(store)
            assert caught.value.errno == errno.ENOSPC
        assert dict(store.items()).keys() == {1}
        assert len(chunk_sizes(db)) == 1
        write(store)
        store[9] = [2.0]
        assert store[9].tolist() == [2.0]
        assert db.verify() == []
    with sc.open(small.path) as db:
        assert db["a"][9].tolist() == [2.0]
        assert db.verify() == []


def test_a_transaction_can_go_on_after_a_full_disk(small: sc.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with small.transaction() as txn:
        txn["a"][2] = [2.0]
        with monkeypatch.context() as patch:
            fill_disk(patch)
            with pytest.raises(OSError, match="No space"):
                txn["a"][3] = np.ones(50_000)
        txn["a"][4] = [4.0]
    assert {key: array.tolist() for key, array in small["a"].items()} == {1: [1.0], 2: [2.0], 4: [4.0]}
    assert small.verify() == []


@pytest.mark.parametrize("size", [1, 60, 1000])
def test_small_puts_on_a_full_disk_are_refused_at_once(
    small: sc.Database, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """And not when they are written: who has put a record has room for it on disk."""
    (chunk,) = small._storage.heaps["a"].chunks.values()
    stored, start = {1: [1.0]}, chunk.free
    txn = small.transaction()
    with monkeypatch.context() as patch:
        fill_disk(patch)
        with pytest.raises(OSError, match="No space"):
            for key in range(2, 10_000):
                txn["a"][key] = [2.0] * size
                stored[key] = [2.0] * size
                assert start + 8 * size * (len(stored) - 1) <= chunk.reserved
    txn.commit()
    assert {key: array.tolist() for key, array in small["a"].items()} == stored
    assert small.verify() == []


def test_a_chunk_file_that_is_gone_when_it_is_first_read_is_named(small: sc.Database) -> None:
    (chunk,) = small._storage.heaps["a"].chunks.values()
    small.close()
    with sc.open(small.path) as db:
        os.rename(chunk.path, f"{chunk.path}.gone")
        for read in (lambda: db["a"][1], lambda: list(db["a"].scan())):
            with pytest.raises((OSError, CorruptionError), match=os.path.basename(chunk.path)):
                read()
        os.rename(f"{chunk.path}.gone", chunk.path)
        assert db["a"][1].tolist() == [1.0]
        assert db.verify() == []


def test_a_chunk_whose_number_was_used_again_is_read_anew(tmp_path: Path) -> None:
    """By a reader, of which the file of before is mapped: no commit ever named that."""
    heap = Heap(1, "temps", schema_from_descriptor(ABOUT["schema"], str(tmp_path)))
    extents = []
    for number, size in enumerate([SIZE, SIZE // 2]):
        chunk = Chunk.create(str(tmp_path / f"{number}.chunk"), header_of(size=size))
        extents.append(append(chunk, np.array([number], "<f8").tobytes()))
        heap.adopt({1: chunk})
        assert heap.array(extents[-1]).tolist() == [number]
    assert extents[0] == extents[1]
    heap.adopt({1: Chunk.open(chunk.path)})
    assert heap.chunks == {1: chunk}
    heap.close()


@pytest.mark.parametrize("count", [1, 2])
def test_rows_that_lie_nowhere_are_refused_and_their_chunk_is_named(small: sc.Database, count: int) -> None:
    small["a"][2] = [2.0, 3.0]
    heap = small._storage.heaps["a"]
    (chunk,) = heap.chunks.values()
    good = chunk.header.data_offset, 1, chunk.id, 0
    heap.check(rows_of((key, *good) for key in range(count)))
    offsets = good[0] + 1, good[0] - 8, chunk.committed, 1 << 62
    for bad in (
        *((offset, *good[1:]) for offset in offsets),
        (good[0], 1 << 40, chunk.id, 0),
        (*good[:3], 1 << 20),
    ):
        with pytest.raises(CorruptionError, match=os.path.basename(chunk.path)):
            heap.check(rows_of([*((key, *good) for key in range(count - 1)), (9, *bad)]))
    with pytest.raises(CorruptionError):
        heap.check(rows_of((key, good[0], 1, 77, 0) for key in range(count)))


def test_reserving_without_fallocate_writes_zeros_over_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS: what is committed in the pages next to the reserved stretch stays as it is."""
    monkeypatch.delattr(os, "posix_fallocate")
    path = tmp_path / "a.sc"
    for first in range(0, 30, 10):
        with sc.open(path, chunk_size=1 << 15) as db:
            store = db.array_store("a", np.int32)
            for key in range(first, first + 10):
                store[key] = [key] * 7
    with sc.open(path) as db:
        assert {key: values.tolist() for key, values in db["a"].items()} == {key: [key] * 7 for key in range(30)}
        assert db.verify() == []


def test_a_chunk_that_is_mapped_and_unlinked_while_it_is_looked_at(
    chunk: Chunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(path: str, offset: int, size: int) -> bytes:
        chunk.map_source()
        os.unlink(path)
        raise FileNotFoundError(path)

    monkeypatch.setattr(files, "read", lose)
    assert chunk.working_offsets() == (chunk.header.data_offset, chunk.header.file_size)


def test_a_closed_chunk_is_not_mapped_again(chunk: Chunk) -> None:
    items = chunk.items(np.dtype("u1"))
    chunk.close()
    with pytest.raises(ClosedError):
        chunk.items(np.dtype("u1"))
    assert len(items) == chunk.header.file_size


WRITING = {
    "reserve": lambda chunk: chunk.reserve(chunk.header.data_offset + 1),
    "reserve the directory": lambda chunk: chunk.reserve_directory(5000),
    "place": lambda chunk: chunk.place(chunk.header.data_offset, b"a", 1),
    "clear": lambda chunk: (chunk.store(chunk.free, b"a", 1), chunk.clear(chunk.header.data_offset)),
}


@pytest.mark.parametrize("write", WRITING.values(), ids=WRITING)
def test_a_chunk_that_is_closed_and_unlinked_meanwhile(
    chunk: Chunk, write: Callable[[Chunk], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler may close the database in the middle of writing to a chunk of its open transaction."""

    def closing(function: Callable[..., Any]) -> Callable[..., Any]:
        def close_and_go_on(path: str, *args: Any) -> Any:
            if os.path.exists(path):
                chunk.close()
                os.unlink(path)
            return function(path, *args)

        return close_and_go_on

    for name in ("reserve", "clear"):
        monkeypatch.setattr(files, name, closing(getattr(files, name)))
    with pytest.raises(ClosedError):
        write(chunk)


@pytest.mark.skipif(not sys.platform.startswith("linux") and sys.version_info < (3, 13), reason="one each")
def test_a_mapping_takes_no_descriptor(chunk: Chunk) -> None:
    before = count_descriptors()
    assert chunk.source
    assert chunk.target
    assert count_descriptors() == before
