"""Damaged, missing, exchanged and planted files: reported or harmless, never silently different, nor a crash."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import pickle
import random
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from kill_workers import Killer
from live_copy import copy_live
from oracle import CHUNK_SIZE, contents, shrink

import structchunk as sc
from structchunk.chunks.chunk import Chunk
from structchunk.disk import files
from structchunk.maintenance import verify

NewRoot = Callable[[], str]
Damage = Callable[[str], object]
DTYPES = {"ints": "<i4", "bytes": "u1", "odd": np.dtype([("a", "u1"), ("b", "<u2")])}
GOOD = ("reported", "harmless", "rebuilt")

HINTS = ("lock", "reserve", "tail", "LOCK", "LOG", "LOG.old")
"""What nothing depends on."""


class Base(NamedTuple):
    """A sound, closed database; it at an earlier time; another one; and a file with what the first holds."""

    now: str
    before: str
    other: str
    expected: str


def fill(root: str, seed: int, rounds: int) -> None:
    """Create a database, or change one, without records that may change in place: no CRC covers them for ever."""
    rng = random.Random(seed)
    with sc.open(root, chunk_size=CHUNK_SIZE) as db:
        for name, dtype in DTYPES.items():
            store = db.array_store(name, dtype)
            for _ in range(rounds):
                lengths = [rng.randint(0, 20) for _ in range(40)]
                keys = rng.sample(range(10, 400), 40)
                store.put_many(
                    keys, np.frombuffer(rng.randbytes(sum(lengths) * store.dtype.itemsize), dtype), lengths
                )
            for key in rng.sample(sorted(store), 4):
                del store[key]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    directory = tmp_path_factory.mktemp("base")
    now, before, other = (str(directory / name) for name in ("now", "before", "other"))
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch.setattr, has_hundreds_of_rows=True)
        fill(now, 1, 3)
        shutil.copytree(now, before)
        fill(now, 2, 3)
        fill(now, 3, 1)
        fill(other, 1, 3)
        with sc.open(now) as db:
            held = contents(db)
    expected = directory / "expected"
    expected.write_bytes(pickle.dumps(held))
    return Base(now, before, other, str(expected))


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    with contextlib.closing(Killer()) as killer:
        yield killer


def examine(killer: Killer, root: str, expected: str) -> dict[str, Any]:
    """Return what becomes of a damaged database."""
    return killer.run(task="damaged", root=root, expected=expected, seconds=30, has_hundreds_of_rows=True)


@pytest.fixture
def check(base: Base, killer: Killer, new_root: NewRoot) -> Callable[[str, Damage], str]:
    """Return what applies damage to a copy of the base, checks what becomes of it, and returns the verdict."""

    def check_one(what: str, damage: Damage) -> str:
        root = shutil.copytree(base.now, new_root())
        damage(root)
        end = examine(killer, root, base.expected)
        assert end["status"] == 0, f"{what}: ended with {end['status']}"
        assert end["verdict"] in GOOD, f"{what}: {end['verdict']}"
        shutil.rmtree(root)
        return str(end["verdict"])

    return check_one


Check = Callable[[str, Damage], str]


def files_of(root: str) -> list[str]:
    """Return the relative paths of all files whose contents matter."""
    names = [Path(base, name).relative_to(root) for base, _, names in os.walk(root) for name in names]
    return sorted(str(name) for name in names if name.name not in HINTS)


def chunks_of(root: str) -> list[str]:
    """Return the relative paths of the chunk files."""
    return [name for name in files_of(root) if name.endswith(".chunk")]


# ---------------------------------------------------------------------- bytes


def interesting_offsets(root: str, name: str, rng: random.Random) -> list[int]:
    """Return where a file may be cut, or a bit flipped: the ends of all that it consists of, and anywhere."""
    size = os.path.getsize(os.path.join(root, name))
    found = {0, 1, 7, 8, size // 2, size - 1, size - 4, size - 64, *(rng.randrange(size) for _ in range(3))}
    if name.endswith(".chunk"):
        chunk = Chunk.open(os.path.join(root, name))
        segments = list(chunk.segments())
        found |= {12, 40, 48, 56, 80, 88, 96, 104, 110, 4095, chunk.header.data_offset}
        for segment in rng.sample(segments, min(3, len(segments))):
            found |= {segment.start, segment.end, segment.low, segment.low - 1, segment.low + 32, segment.low - 64}
            found.add(rng.randint(segment.start, segment.end))
            found.add(rng.randrange(segment.low, size))
    elif name == "superblock":
        found |= {16, 40, 60, 64, 4096, 4096 + 40, 4096 + 60, 8191}
    return sorted(at for at in found if 0 <= at < size)


def sites(root: str, rng: random.Random, count: float) -> list[tuple[str, int]]:
    """Return files and offsets, drawn from all interesting ones, of each file about as many."""
    names = [name for name in files_of(root) if os.path.getsize(os.path.join(root, name))]
    offsets = [interesting_offsets(root, name, rng) for name in names]
    drawn = [
        [(name, at) for at in rng.sample(found, len(found))] for name, found in zip(names, offsets, strict=True)
    ]
    in_turn = [site for sites in itertools.zip_longest(*drawn) for site in sites if site is not None]
    return sorted(in_turn[: round(count)])


@pytest.mark.timeout(0)
def test_truncated(base: Base, check: Check, seed: int, budget: float) -> None:
    verdicts: Counter[str] = Counter()
    for name, at in sites(base.now, random.Random(seed), 48 * budget):
        verdict = check(
            f"{name} cut at {at}", lambda root, name=name, at=at: os.truncate(os.path.join(root, name), at)
        )
        verdicts[verdict] += 1
    assert verdicts["reported"] > 10
    assert verdicts["rebuilt"] > 3


def flip(path: str, at: int, bit: int) -> None:
    """Flip one bit of a file."""
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


@pytest.mark.timeout(0)
def test_flipped_bit(base: Base, check: Check, seed: int, budget: float) -> None:
    rng = random.Random(seed)
    verdicts: Counter[str] = Counter()
    for name, at in sites(base.now, rng, 60 * budget):
        bit = rng.randrange(8)
        what = f"{name}, byte {at}, bit {bit}"
        verdict = check(what, lambda root, name=name, at=at, bit=bit: flip(os.path.join(root, name), at, bit))
        verdicts[verdict] += 1
    assert verdicts["reported"] > 10
    assert verdicts["rebuilt"] > 3


@pytest.mark.timeout(0)
def test_zeroed_sector(base: Base, check: Check, seed: int, budget: float) -> None:
    rng = random.Random(seed)

    def zero(path: str, at: int) -> None:
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(bytes(min(512, os.path.getsize(path) - at)))

    for name, at in sites(base.now, rng, 28 * budget):
        start = at // 512 * 512
        check(f"{name} zeroed at {start}", lambda root, name=name, at=start: zero(os.path.join(root, name), at))


# ---------------------------------------------------------------------- files


def test_missing_file(base: Base, check: Check) -> None:
    for name in files_of(base.now):
        verdict = check(f"no {name}", lambda root, name=name: os.unlink(os.path.join(root, name)))
        if os.path.getsize(os.path.join(base.now, name)):
            assert verdict == ("reported" if name.endswith(".chunk") else "rebuilt"), name


def test_missing_index(base: Base, check: Check) -> None:
    index = next(name.split("/")[0] for name in files_of(base.now) if name.startswith("index-"))
    assert check("no index", lambda root: shutil.rmtree(os.path.join(root, index))) == "rebuilt"


def replace(source: str, target: str, name: str) -> None:
    """Put a file or directory of one database in the place of another's."""
    there = os.path.join(target, name)
    if os.path.isdir(there):
        shutil.rmtree(there)
        shutil.copytree(os.path.join(source, name), there)
    else:
        shutil.copyfile(os.path.join(source, name), there)


@pytest.mark.parametrize("origin", ["before", "other"])
def test_file_of_another_time_or_database(base: Base, check: Check, origin: str) -> None:
    source = getattr(base, origin)
    for name in files_of(source):
        if os.path.exists(os.path.join(base.now, name)):
            check(f"{name} of {source}", lambda root, name=name: replace(source, root, name))


@pytest.mark.parametrize("origin", ["before", "other"])
def test_old_index_and_old_superblock(base: Base, check: Check, origin: str) -> None:
    source = getattr(base, origin)
    index = next(name.split("/")[0] for name in files_of(source) if name.startswith("index-"))

    def replace_both(root: str) -> None:
        replace(source, root, index)
        replace(source, root, "superblock")

    check("index", lambda root: replace(source, root, index))
    check("superblock", lambda root: replace(source, root, "superblock"))
    check("index and superblock", replace_both)


def test_swapped_chunks(base: Base, check: Check) -> None:
    names = chunks_of(base.now)

    def swap(root: str, first: str, second: str) -> None:
        paths = [os.path.join(root, name) for name in (first, second)]
        os.rename(paths[0], paths[0] + ".draft")
        os.rename(paths[1], paths[0])
        os.rename(paths[0] + ".draft", paths[1])

    for first, second in itertools.pairwise(names):
        verdict = check(f"{first}, {second}", lambda root, one=first, two=second: swap(root, one, two))
        assert verdict == "reported"


def test_chunk_under_another_name(base: Base, check: Check) -> None:
    first, *_, last = chunks_of(base.now)
    beyond = os.path.join(os.path.dirname(last), "00000099.chunk")
    verdict = check("a copy", lambda root: shutil.copyfile(os.path.join(root, first), os.path.join(root, beyond)))
    assert verdict == "reported"


# ---------------------------------------------------------------------- things that are no files


def plant(root: str, name: str, kind: str) -> None:
    """Put something else in the place of a file."""
    path = os.path.join(root, name)
    moved = os.path.join(os.path.dirname(root), f"moved-{os.path.basename(root)}")
    if os.path.lexists(path):
        os.rename(path, moved)
    if kind == "link":
        os.symlink(moved, path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        os.mkdir(path)
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "socket"])
def test_special_file(base: Base, check: Check, kind: str) -> None:
    names = [*files_of(base.now), "lock"]
    for name in names:
        verdict = check(f"a {kind} for {name}", lambda root, name=name: plant(root, name, kind))
        assert verdict == ("rebuilt" if name.startswith("index-") else "reported"), f"a {kind} for {name}"
    for name in ("chunks", next(name.split("/")[0] for name in names if name.startswith("index-"))):
        verdict = check(f"a {kind} for {name}", lambda root, name=name: plant(root, name, kind))
        assert verdict != "harmless", f"a {kind} for {name}"


# ---------------------------------------------------------------------- chunk files never made to their end

SIZE = 4 * 4096
LONG_NAME = "é" * 1024  # so that its header takes two pages


def make_three(root: str) -> list[str]:
    """Make three stores with a chunk each, the last one of a header of two pages; return the paths of these."""
    with sc.open(root, chunk_size=SIZE) as db:
        for name in ("a", "b", LONG_NAME):
            db.array_store(name, "u8")[1] = [len(name)]
    directory = os.path.join(root, "chunks")
    return [os.path.join(directory, name) for name in sorted(os.listdir(directory))]


def lose_last(root: str, *, is_counted: bool) -> str:
    """Leave of a database the state before its last chunk, that file alone, and return its path."""
    path = make_three(root)[-1]
    kept = Path(path).read_bytes()
    with sc.open(root) as db:
        db.drop_store(LONG_NAME)
    assert not os.path.exists(path)
    number = 4 if is_counted else 5
    path = os.path.join(root, "chunks", f"{number:08d}.chunk")
    if is_counted:
        with sc.open(root) as db:  # the id that the next chunk had is used up
            db._storage.next_chunk += 1
            db["a"][2] = [2]
    Path(path).write_bytes(kept)
    return path


def spoil(path: str, how: str) -> None:
    """Make of a sound chunk file what creating it leaves if it is cut short, or what damage does to it."""
    raw = Path(path).read_bytes()
    header = 2 * 4096
    made = {
        "empty": b"",
        "blank": bytes(len(raw)),
        "only its header, with a sector missing": raw[:512]
        + bytes(512)
        + raw[1024:header]
        + bytes(len(raw) - header),
        "data, and no header": bytes(header) + raw[header:],
        "data, and a header with a sector missing": raw[:4096] + bytes(512) + raw[4608:],
        "flipped bit": raw[:20] + bytes([raw[20] ^ 1]) + raw[21:],
        "flipped bit in the header alone": raw[:20]
        + bytes([raw[20] ^ 1])
        + raw[21:header]
        + bytes(len(raw) - header),
        "cut": raw[: 3 * 4096],
        "cut to the header": raw[:header],
        "cut in the first page": raw[:300],
    }
    Path(path).write_bytes(made[how])


UNFINISHED = ("empty", "blank", "only its header, with a sector missing")
NOT_COUNTED = ("data, and no header", "data, and a header with a sector missing")
DAMAGED = ("flipped bit", "flipped bit in the header alone", "cut", "cut to the header", "cut in the first page")


def check_stepped_over(root: str, path: str) -> None:
    """Fail unless a reader, a writer and a rebuild do with a database as if a file of it were not there."""
    copy = shutil.copytree(root, f"{root}.copy")
    with sc.open(root, "r") as reader:
        assert sorted(reader) == ["a", "b"]
        assert reader.verify() == []
    assert os.path.exists(path)
    with sc.open(root) as db, sc.open(root, "r") as reader:
        assert not os.path.exists(path)
        assert sorted(db) == sorted(reader) == ["a", "b"]
        db["b"][3] = [3]
        assert db.verify() == []
    for index in Path(copy).glob("index-*"):
        shutil.rmtree(index)
    sc.rebuild_index(copy)
    with sc.open(copy) as db:
        assert os.path.basename(path) not in os.listdir(db._storage.paths.chunks)
        assert db["a"][1].tolist() == [1]
        assert db.verify() == []


@pytest.mark.parametrize("is_counted", [True, False])
@pytest.mark.parametrize("how", UNFINISHED)
def test_a_chunk_file_that_was_not_made_to_its_end_is_stepped_over(
    how: str, new_root: NewRoot, *, is_counted: bool
) -> None:
    root = new_root()
    path = lose_last(root, is_counted=is_counted)
    spoil(path, how)
    check_stepped_over(root, path)


@pytest.mark.parametrize("how", NOT_COUNTED)
def test_what_a_power_cut_leaves_of_an_uncounted_chunk_is_stepped_over(how: str, new_root: NewRoot) -> None:
    root = new_root()
    path = lose_last(root, is_counted=False)
    spoil(path, how)
    check_stepped_over(root, path)


@pytest.mark.parametrize(
    ("how", "is_counted"),
    [*((how, True) for how in DAMAGED + NOT_COUNTED), *((how, False) for how in DAMAGED)],
)
def test_damage_is_told_from_a_file_that_was_not_made_to_its_end(
    how: str, new_root: NewRoot, *, is_counted: bool
) -> None:
    root = new_root()
    path = lose_last(root, is_counted=is_counted)
    spoil(path, how)
    for use in (sc.open, lambda root: sc.open(root, "r"), sc.rebuild_index):
        with pytest.raises(sc.CorruptionError) as caught:
            use(root)
        assert caught.value.path == path
    assert os.path.exists(path)


@pytest.mark.parametrize("how", ["empty", "blank"])
def test_a_chunk_that_held_commits_and_lost_them_is_missing(how: str, new_root: NewRoot) -> None:
    root = new_root()
    path = make_three(root)[1]
    spoil(path, how)
    with pytest.raises(sc.CorruptionError, match=r"00000002\.chunk"):
        sc.open(root)
    with pytest.raises(sc.CorruptionError, match=r"00000002\.chunk"):
        sc.open(root, "r")
    with pytest.raises(sc.CorruptionError, match=r"commits 3 to 4,.* missing from 00000002\.chunk"):
        sc.rebuild_index(root)
    assert os.path.exists(path)


def test_an_interrupted_creation_leaves_nothing(new_root: NewRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    root = new_root()
    create = files.create

    def interrupted(path: str, size: int) -> None:
        create(path, size)
        raise KeyboardInterrupt

    with sc.open(root) as db:
        db.array_store("a", "u8")[1] = [1]
        with monkeypatch.context() as patch:
            patch.setattr(files, "create", interrupted)
            with pytest.raises(KeyboardInterrupt):
                db.array_store("b", "u8")
        db["a"][2] = [2]
        assert len(os.listdir(db._storage.paths.chunks)) == 1
    with sc.open(root) as db:
        assert {key: record.tolist() for key, record in db["a"].items()} == {1: [1], 2: [2]}
        assert db.verify() == []


@pytest.mark.parametrize("name", ["000000001.chunk", "0000000\u0661.chunk", "0000000\uff11.chunk"])
def test_a_name_that_is_none_of_a_chunk(name: str, new_root: NewRoot) -> None:
    root = new_root()
    first, *_ = make_three(root)
    shutil.copyfile(first, os.path.join(root, "chunks", name))
    sc.rebuild_index(root)
    with sc.open(root) as db, sc.open(root, "r") as reader:
        assert db["a"][1].tolist() == reader["a"][1].tolist() == [1]
        assert [problem.what for problem in db.verify()] == ["a file that no store knows"]
        os.unlink(os.path.join(root, "chunks", name))
        assert db.verify() == []


# ---------------------------------------------------------------------- anything, with the index or without

MUTATIONS: dict[str, Callable[[str, random.Random], object]] = {}


def mutation(change: Callable[[str, random.Random], object]) -> Callable[[str, random.Random], object]:
    """Note what changes a file."""
    MUTATIONS[change.__name__] = change
    return change


@mutation
def cut(path: str, rng: random.Random) -> None:
    os.truncate(path, rng.choice((0, 4096, rng.randrange(os.path.getsize(path) + 1))))


@mutation
def lengthen(path: str, rng: random.Random) -> None:
    os.truncate(path, os.path.getsize(path) + rng.choice((1, 4096, 1 << 20)))


@mutation
def zero(path: str, rng: random.Random) -> None:
    size = os.path.getsize(path)
    unit = rng.choice((64, 512, 4096, size + 1))
    start = rng.randrange(size + 1) // unit * unit
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(bytes(min(unit, size - start)))


@mutation
def flip_bits(path: str, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 3))):
        if os.path.getsize(path):
            flip(path, rng.randrange(os.path.getsize(path)), rng.randrange(8))


@mutation
def shuffle(path: str, rng: random.Random) -> None:
    """Exchange two stretches of a file."""
    raw = bytearray(Path(path).read_bytes())
    unit = rng.choice((32, 512, 4096))
    starts = range(0, len(raw) - unit, unit)
    if len(starts) > 1:
        one, two = rng.sample(starts, 2)
        raw[one : one + unit], raw[two : two + unit] = raw[two : two + unit], raw[one : one + unit]
    Path(path).write_bytes(raw)


@mutation
def remove_file(path: str, rng: random.Random) -> None:
    os.unlink(path)


@mutation
def duplicate(path: str, rng: random.Random) -> None:
    """Give a copy of a file the name of another one, which is there or not."""
    number = rng.choice((1, 2, 3, 5, 8, 90, 2**32 - 1))
    suffix = os.path.splitext(path)[1]
    width = 8 if suffix == ".chunk" else 6
    target = os.path.join(os.path.dirname(path), f"{number:0{width}d}{suffix}")
    if target != path:
        shutil.copyfile(path, target)


class History(NamedTuple):
    """A database after compaction and drops, and as it was at earlier times; and a file with what it holds."""

    root: str
    earlier: list[str]
    expected: str


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    directory = tmp_path_factory.mktemp("history")
    root = str(directory / "now")
    earlier = []
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch.setattr, has_hundreds_of_rows=True)
        for number in range(6):
            fill(root, number, 2)
            with sc.open(root, chunk_size=CHUNK_SIZE) as db:
                db.array_store(f"store {number}", "u2")[1] = [number]
                with db.transaction() as transaction:
                    for name in (*DTYPES, f"store {number}"):
                        transaction[name].put(5, np.zeros(number, transaction[name].dtype))
                if number == 2:
                    db.drop_store("store 1")
                if number == 3:
                    db.compact("ints", "odd")
            earlier.append(shutil.copytree(root, directory / str(number)))
        with sc.open(root) as db:
            held = contents(db)
    expected = directory / "expected"
    expected.write_bytes(pickle.dumps(held))
    return History(root, [str(path) for path in earlier[:-1]], str(expected))


def put_older(history: History, root: str, name: str, rng: random.Random) -> bool:
    """Put an earlier copy of a file in its place, and tell whether there is one."""
    source = os.path.join(rng.choice(history.earlier), name)
    if os.path.exists(source):
        shutil.copyfile(source, os.path.join(root, name))
    return os.path.exists(source)


@pytest.mark.timeout(0)
def test_any_change_of_a_file(
    history: History, killer: Killer, new_root: NewRoot, seed: int, budget: float
) -> None:
    """It is reported, or everything is there, in bounded time and memory."""
    verdicts: Counter[str] = Counter()
    for turn in range(round(60 * budget)):
        rng = random.Random(f"{seed} {turn}")
        root = shutil.copytree(history.root, new_root())
        name = rng.choice([*chunks_of(root), *files_of(root)])
        what = rng.choice([*MUTATIONS, "put_older", "put_older"])
        if what != "put_older":
            MUTATIONS[what](os.path.join(root, name), rng)
        elif not put_older(history, root, name, rng):
            what = "nothing"
        lose = rng.random() < 0.5
        if lose:
            for index in Path(root).glob("index-*"):
                shutil.rmtree(index)
        end = examine(killer, root, history.expected)
        said = f"{seed} {turn}: {what} of {name}{' and no index' * lose}: {end}"
        assert end["status"] == 0, said
        assert end["verdict"] in GOOD, said
        verdicts[end["verdict"]] += 1
        shutil.rmtree(root)
    assert set(verdicts) == set(GOOD)


def test_records_over_one_another_are_read_once(new_root: NewRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of segments may say that the same bytes are theirs."""
    with sc.open(new_root()) as db:
        db.array_store("a", "u1")[1] = [1] * 1000
        (heap,) = db._storage.heaps.values()
        (place,) = db._storage.places(heap, 2)
        *_, segment = place.chunk.segments()
        read = []
        monkeypatch.setattr(verify, "data_crc", lambda *args: read.append(args) or segment.data_crc)
        monkeypatch.setattr(type(place.chunk), "segments", lambda _: iter([segment] * 100))
        problems = db.verify()
        assert sum("after commit" in problem.what for problem in problems) == 99
        assert len(read) == 1


class Cell(sc.Object):
    _fields_ = [("n", ctypes.c_int64)]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("can_change", [True, False])
def test_the_crc_of_what_a_checkpoint_has(*, count: int, can_change: bool, new_root: NewRoot) -> None:
    """Other bytes of a record are told from a change in place, whether a commit has more records or not."""
    with sc.open(new_root(), chunk_size=SIZE) as db:
        store: Any = db.object_store("a", Cell) if can_change else db.array_store("a", "i8")
        store.put_many(range(count), np.zeros(count if can_change else (count, 1), store.dtype))
        db.sync()
        (chunk,) = db._storage.heaps["a"].chunks.values()
        with open(chunk.path, "r+b") as file:
            file.seek(chunk.header.data_offset)
            file.write(b"\1")
        found = [problem.what.split(" of ")[0] for problem in db.verify()]
        assert found == ([] if can_change else ["records"])
        db.drop_store("a")


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_damage_is_no_crash_that_lost_what_the_index_has(mode: str, new_root: NewRoot) -> None:
    """Directories lead to the heads of the checkpoint, also where the index is to be made anew from them."""
    root, image = new_root(), new_root()
    with sc.open(root, chunk_size=SIZE, sync=False) as db:
        for name in "ab":
            db.array_store(name, "u8").put_many(range(20), [[1]] * 20)
        db.sync()
        db["a"][20] = [1]
        db["b"][20] = [1]
        copy_live(root, image)
    path = os.path.join(image, "chunks", "00000002.chunk")
    with open(path, "r+b") as file:
        file.seek(SIZE - 4096)
        file.write(bytes(4096))
    with pytest.raises(sc.CorruptionError, match="ends with commit 0") as caught:
        sc.open(image, mode)
    assert caught.value.path == path


def test_any_byte_in_current(base: Base, new_root: NewRoot) -> None:
    for at, byte in itertools.product(range(16), (0, 10, 47, 176, 255)):
        root = shutil.copytree(base.now, new_root())
        (current,) = Path(root).glob("index-*/CURRENT")
        raw = bytearray(current.read_bytes())
        is_changed, raw[at] = raw[at] != byte, byte
        current.write_bytes(raw)
        with pytest.raises(sc.CorruptionError) if is_changed else contextlib.nullcontext():
            sc.open(root, "r").close()
        shutil.rmtree(root)
