"""What plyvel and LevelDB do wrong, and what ours makes of it: calls while it closes, forks, damage, errors."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import count_descriptors, in_child, run_python

from structchunk.disk import files
from structchunk.errors import ClosedError, CorruptionError
from structchunk.index.leveldb import LevelDB, Pair, plyvel

PAIRS = [(b"k%03d" % n, b"value %d" % n) for n in range(100)]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "index")


@pytest.fixture
def leveldb(path: str) -> Iterator[LevelDB]:
    made = LevelDB.create(path)
    made.write(PAIRS)
    yield made
    made.close()


def make_table_files(path: str, count: int = 2000) -> list[str]:
    """Fill a new LevelDB until it has its pairs in table files, and return their paths."""
    leveldb = LevelDB.create(path)
    leveldb.write([(b"k%06d" % n, b"%0100d" % n) for n in range(count)])
    leveldb.close()  # its log is large, so closing writes a table
    return [os.path.join(path, name) for name in os.listdir(path) if name.endswith(".ldb")]


# ---------------------------------------------------------------------- reading and writing


def test_reads_what_was_written(leveldb: LevelDB) -> None:
    assert leveldb.get(b"k007") == b"value 7"
    assert leveldb.get(b"nothing") is None


@pytest.mark.parametrize(("low", "high"), [(0, 100), (10, 20), (20, 20), (98, 100)])
@pytest.mark.parametrize("count", [1, 5, 1000])
def test_ranges_in_both_directions(leveldb: LevelDB, low: int, high: int, count: int) -> None:
    start, stop = b"k%03d" % low, b"k%03d" % high
    assert leveldb.read(start, stop, count) == PAIRS[low:high][:count]
    assert leveldb.read_back(start, stop, count) == PAIRS[low:high][-count:]


def test_an_empty_one_has_no_pairs(path: str) -> None:
    empty = LevelDB.create(path)
    assert empty.read(b"", b"\xff", 9) == empty.read_back(b"", b"\xff", 9) == []
    empty.close()


def test_a_batch_deletes_before_it_puts(leveldb: LevelDB) -> None:
    leveldb.write([(b"k001", b"new")], deletes=[b"k001", b"k002"])
    assert leveldb.read(b"k001", b"k004", 9) == [(b"k001", b"new"), PAIRS[3]]


def test_a_snapshot_stays_as_it_was(leveldb: LevelDB) -> None:
    snapshot = leveldb.snapshot()
    leveldb.write([(b"k000", b"new"), (b"k0005", b"more")], deletes=[b"k001"])
    assert leveldb.get(b"k000", snapshot) == b"value 0"
    assert leveldb.read(b"k", b"l", 1000, snapshot) == leveldb.read_back(b"k", b"l", 1000, snapshot) == PAIRS
    assert leveldb.get(b"k000") == b"new"


def test_a_batch_that_raises_half_way_writes_nothing(leveldb: LevelDB) -> None:
    def pairs() -> Iterator[Pair]:
        yield b"k000", b"new"
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        leveldb.write(pairs(), deletes=[b"k001"])
    assert leveldb.read(b"k", b"l", 1000) == PAIRS


def test_survives_reopening(leveldb: LevelDB) -> None:
    leveldb.close()
    again = LevelDB.open(leveldb.path)
    assert again.read(b"k", b"l", 1000) == PAIRS
    again.close()


def test_flush_logs_flushes_every_log(leveldb: LevelDB, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(files, "flush", flushed.append)
    Path(leveldb.path, "000099.log").touch()
    leveldb.flush_logs()
    logs = [name for name in os.listdir(leveldb.path) if name.endswith(".log")]
    assert sorted(flushed) == sorted(os.path.join(leveldb.path, name) for name in logs)
    assert len(logs) > 1


def test_closing_leaves_no_long_log_to_replay(path: str) -> None:
    assert make_table_files(path)
    logs = [entry.stat().st_size for entry in os.scandir(path) if entry.name.endswith(".log")]
    assert sum(logs) < 1 << 16


# ---------------------------------------------------------------------- closing

CALLS: dict[str, Callable[[LevelDB], object]] = {
    "get": lambda leveldb: leveldb.get(b"k"),
    "read": lambda leveldb: leveldb.read(b"", b"z", 9),
    "read_back": lambda leveldb: leveldb.read_back(b"", b"z", 9),
    "write": lambda leveldb: leveldb.write([(b"k", b"v")]),
    "snapshot": lambda leveldb: leveldb.snapshot(),
    "flush_logs": lambda leveldb: leveldb.flush_logs(),
    "check_open": lambda leveldb: leveldb.check_open(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_refuses_after_close(leveldb: LevelDB, call: Callable[[LevelDB], object]) -> None:
    call(leveldb)
    leveldb.close()
    with pytest.raises(ClosedError, match="open it again"):
        call(leveldb)
    leveldb.close()


def test_refuses_a_snapshot_from_before_close(leveldb: LevelDB) -> None:
    snapshot = leveldb.snapshot()
    leveldb.close()
    with pytest.raises(ClosedError):
        leveldb.get(b"k000", snapshot)
    del snapshot


def test_close_gives_its_descriptors_back(tmp_path: Path) -> None:
    before = count_descriptors()
    for number in range(3):
        leveldb = LevelDB.create(str(tmp_path / str(number)))
        leveldb.write(PAIRS)
        leveldb.close()
    assert count_descriptors() == before


STRESS = """
import sys, threading
from structchunk.errors import ClosedError
from structchunk.index.leveldb import LevelDB

def read(leveldb, kind, start):
    start.wait()
    try:
        while True:
            snapshot = leveldb.snapshot() if kind % 2 else None
            leveldb.get(b"k050", snapshot)
            assert len(leveldb.read(b"k", b"l", 9, snapshot)) == 9
            assert len(leveldb.read_back(b"k", b"l", 9, snapshot)) == 9
            del snapshot
    except ClosedError:
        ended.append(kind)

sys.setswitchinterval(1e-6)
for number in range(int(sys.argv[2])):
    ended, start = [], threading.Barrier(9)
    leveldb = LevelDB.create(f"{sys.argv[1]}/{number}")
    leveldb.write([(b"k%03d" % n, b"v" * 50) for n in range(100)])
    threads = [threading.Thread(target=read, args=(leveldb, kind, start)) for kind in range(8)]
    for thread in threads:
        thread.start()
    start.wait()
    leveldb.get(b"k050")
    leveldb.close()
    for thread in threads:
        thread.join()
    assert sorted(ended) == list(range(8)), ended
print("done")
"""


def test_closing_while_eight_threads_read_does_not_crash(tmp_path: Path) -> None:
    done = run_python(STRESS, str(tmp_path), "200")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


# ---------------------------------------------------------------------- creating and opening


def test_create_refuses_what_is_there(leveldb: LevelDB) -> None:
    with pytest.raises(FileExistsError):
        LevelDB.create(leveldb.path)


def test_open_creates_nothing(path: str) -> None:
    with pytest.raises(CorruptionError, match="rebuild_index"):
        LevelDB.open(path)
    assert not os.path.exists(path)
    os.mkdir(path)
    with pytest.raises(CorruptionError, match="rebuild_index"):
        LevelDB.open(path)


def test_a_missing_current_is_damage_and_costs_no_table(path: str) -> None:
    tables = make_table_files(path)
    os.unlink(os.path.join(path, "CURRENT"))
    with pytest.raises(CorruptionError, match="rebuild_index"):
        LevelDB.open(path)
    assert all(map(os.path.exists, tables))


@pytest.mark.parametrize("name", ["CURRENT", "MANIFEST-000002", "LOCK", "000042.ldb"])
def test_open_refuses_links(leveldb: LevelDB, tmp_path: Path, name: str) -> None:
    leveldb.close()
    inside, outside = Path(leveldb.path, name), tmp_path / "outside"
    outside.write_bytes(inside.read_bytes() if inside.exists() else b"")
    inside.unlink(missing_ok=True)
    inside.symlink_to(outside)
    before = outside.read_bytes()
    with pytest.raises(CorruptionError, match="regular file"):
        LevelDB.open(leveldb.path)
    assert outside.read_bytes() == before


def test_open_refuses_pipes_and_a_linked_directory(leveldb: LevelDB, tmp_path: Path) -> None:
    leveldb.close()
    (tmp_path / "link").symlink_to(leveldb.path)
    with pytest.raises(CorruptionError, match="not a link"):
        LevelDB.open(str(tmp_path / "link"))
    os.mkfifo(os.path.join(leveldb.path, "pipe"))
    with pytest.raises(CorruptionError, match="regular file"):
        LevelDB.open(leveldb.path)


# ---------------------------------------------------------------------- damage and errors


def damage(table: str) -> None:
    """Flip one bit of a value in the middle of a table file."""
    with open(table, "r+b") as file:
        file.seek(os.path.getsize(table) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def reads_everything(leveldb: LevelDB) -> list[int]:
    return [len(leveldb.read(b"k", b"l", 1 << 30)), len(leveldb.read_back(b"k", b"l", 1 << 30))]


@pytest.mark.parametrize("direction", ["read", "read_back"])
def test_a_damaged_block_raises_instead_of_ending_a_range(path: str, direction: str) -> None:
    (table,) = make_table_files(path)
    damage(table)
    leveldb = LevelDB.open(path)
    with pytest.raises(CorruptionError, match="rebuild_index"):
        getattr(leveldb, direction)(b"k", b"l", 1 << 30)
    with pytest.raises(CorruptionError):
        for number in range(2000):
            leveldb.get(b"k%06d" % number)
    leveldb.close()


def varint(number: int) -> bytes:
    """Return a number as LevelDB writes it."""
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def with_footer(table: str, *numbers: int, magic: bool = True) -> None:
    """Write other places of blocks at the end of a table file."""
    places = b"".join(map(varint, numbers)).ljust(40, b"\0")
    with open(table, "r+b") as file:
        file.seek(-48, os.SEEK_END)
        file.write(places if magic else places + bytes(8))


@pytest.mark.parametrize("numbers", [(0, 9, 0, 2**40), (0, 2**63, 0, 9), (2**64 - 9, 9, 0, 9), (0, 9, 1 << 70, 9)])
def test_a_table_that_asks_for_more_than_there_is_is_damage(path: str, numbers: tuple[int, ...]) -> None:
    (table,) = make_table_files(path)
    with_footer(table, *numbers)
    with pytest.raises(CorruptionError, match=r"\.ldb.*rebuild_index"):
        LevelDB.open(path)


@pytest.mark.parametrize("how", ["no magic", "no number ends", "cut", "short", "empty"])
def test_a_table_that_does_not_end_as_one_is_damage(path: str, how: str) -> None:
    (table,) = make_table_files(path)
    if how == "no magic":
        with_footer(table, 0, 9, 0, 9, magic=False)
    elif how == "no number ends":
        with_footer(table, (1 << 280) - 1)
    else:
        os.truncate(table, {"cut": os.path.getsize(table) - 1, "short": 47, "empty": 0}[how])
    with pytest.raises(CorruptionError, match=r"\.ldb.*rebuild_index"):
        LevelDB.open(path)


def test_any_flipped_bit_of_a_footer_is_found(path: str, tmp_path: Path) -> None:
    (table,) = make_table_files(path)
    raw = Path(table).read_bytes()
    for bit in range(8 * 48):
        copy = shutil.copytree(path, tmp_path / "copy")
        damaged = bytearray(raw)
        damaged[len(raw) - 48 + bit // 8] ^= 1 << bit % 8
        (copy / Path(table).name).write_bytes(damaged)
        with contextlib.suppress(CorruptionError):
            opened = LevelDB.open(str(copy))
            try:
                assert len(opened.read(b"", b"\xff", 9999)) == 2000
            finally:
                opened.close()
        shutil.rmtree(copy)


def test_a_half_made_table_that_no_manifest_names_is_none(path: str) -> None:
    make_table_files(path)
    for name in ("000900.ldb", "000901.sst", "x.ldb"):
        Path(path, name).write_bytes(b"half")
    leveldb = LevelDB.open(path)
    assert len(leveldb.read(b"", b"\xff", 9999)) == 2000
    leveldb.close()


def test_a_missing_table_raises(path: str) -> None:
    (table,) = make_table_files(path)
    os.unlink(table)
    with pytest.raises(CorruptionError, match="rebuild_index"):
        LevelDB.open(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.EMFILE])
def test_errors_of_the_system_get_their_number_back(
    leveldb: LevelDB, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise plyvel.IOError(f"IO error: {leveldb.path}/000003.log: {os.strerror(number)}".encode().decode())

    monkeypatch.setattr("structchunk.index.leveldb._source", fail)
    with pytest.raises(OSError, match=r"000003\.log") as caught:
        leveldb.get(b"k000")
    assert (caught.value.errno, caught.value.filename) == (number, leveldb.path)
    assert not isinstance(caught.value, plyvel.Error)


def test_an_unknown_error_of_the_system_is_eio(leveldb: LevelDB, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise plyvel.IOError("IO error: something new")

    monkeypatch.setattr("structchunk.index.leveldb._source", fail)
    with pytest.raises(OSError, match="something new") as caught:
        leveldb.read(b"k", b"l", 9)
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("left", ["missing", "empty"])
def test_a_table_that_cannot_be_mapped_is_damage(path: str, left: str) -> None:
    """A file system may leave an empty table after a power cut; LevelDB calls that an error of the system."""
    (table,) = make_table_files(path)
    os.unlink(table)
    if left == "empty":
        open(table, "wb").close()
    with pytest.raises(CorruptionError, match="rebuild_index"):
        leveldb = LevelDB.open(path)
        try:
            leveldb.get(b"k000001")
        finally:
            leveldb.close()


LIMITED = """
import resource, signal, sys
from structchunk.index.leveldb import LevelDB
leveldb = LevelDB.create(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    leveldb.write([(b"k", bytes(1 << 17))])
except OSError as error:
    print(type(error).__name__, error.errno)
"""


def test_a_write_that_the_system_refuses_is_an_oserror(path: str) -> None:
    done = run_python(LIMITED, path)
    assert done.stdout == f"OSError {errno.EFBIG}\n", done.stderr


FEW_DESCRIPTORS = """
import os, resource, sys
from structchunk.index.leveldb import LevelDB
LevelDB.create(sys.argv[1]).close()
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), 4096))
try:
    LevelDB.open(sys.argv[1])
except OSError as error:
    print(type(error).__name__, error.errno)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))
LevelDB.open(sys.argv[1]).close()
"""


def test_too_few_descriptors_are_not_taken_for_damage(path: str) -> None:
    done = run_python(FEW_DESCRIPTORS, path)
    assert (done.returncode, done.stdout) == (0, f"OSError {errno.EMFILE}\n"), done.stderr


# ---------------------------------------------------------------------- fork


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_forked_child_is_refused(leveldb: LevelDB, call: Callable[[LevelDB], object]) -> None:
    assert in_child(lambda: call(leveldb)).startswith("ClosedError: this database was opened before fork()")
    leveldb.write([(b"k000", b"after")])
    assert leveldb.get(b"k000") == b"after"


def test_a_forked_child_can_let_everything_go(leveldb: LevelDB) -> None:
    kept = [leveldb, leveldb.snapshot()]

    def let_go() -> str:
        leveldb.close()
        kept.clear()
        return "gone"

    assert in_child(let_go) == "'gone'"
    assert leveldb.get(b"k000", kept[1]) == b"value 0"


def test_a_forked_child_never_destroys_what_it_inherited(leveldb: LevelDB) -> None:
    """Destroying LevelDB waits for its background thread, which a child does not have."""
    snapshot = leveldb.snapshot()
    leveldb._gate.discard(snapshot.inner)
    inherited = [leveldb._gate._handle, snapshot.inner]

    def count_references() -> list[int]:
        leveldb._gate._discarded.clear()
        return [sys.getrefcount(thing) for thing in inherited]

    before = [sys.getrefcount(thing) for thing in inherited]
    assert in_child(count_references) == repr(before)


def test_a_forked_child_neither_creates_nor_opens(leveldb: LevelDB, tmp_path: Path) -> None:
    leveldb.close()
    for make in (lambda: LevelDB.open(leveldb.path), lambda: LevelDB.create(str(tmp_path / "other"))):
        assert "'spawn' or 'forkserver'" in in_child(make)
    assert not (tmp_path / "other").exists()
