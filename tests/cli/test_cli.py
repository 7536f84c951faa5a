"""The command line: what it prints, its exit codes, and that whatever is wrong makes one line and no traceback."""

from __future__ import annotations

import ctypes
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from support import copy_tree

import structchunk as sc
from structchunk.cli.program import program

COMMANDS = [
    *("info", "ls", "head", "get", "map", "changes", "verify", "rebuild-index", "compact", "checkpoint"),
    *("export", "import", "publish", "published", "pull", "prune"),
]


class Point(sc.Object):
    _fields_ = [("x", ctypes.c_double), ("tag", ctypes.c_char * 4), ("pair", ctypes.c_int16 * 2)]


def run(*words: object) -> Result:
    return CliRunner().invoke(program, [str(word) for word in words], prog_name="structchunk")


def good(*words: object) -> str:
    result = run(*words)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def report(*words: object) -> Any:
    return json.loads(good(*words, "--json"))


def failed(*words: object, code: int = 1) -> str:
    """Run a command that must fail, and return what it says: one line, and nothing on standard output."""
    result = run(*words)
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.exception is None or isinstance(result.exception, SystemExit)
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("structchunk: ")
    return lines[0]


@pytest.fixture
def path(open_db: Callable[..., sc.Database]) -> str:
    """A closed database of two stores, checked again at the end."""
    with open_db(chunk_size=64 << 10, sync=False) as db:
        temps = db.array_store("temps", np.float64)
        temps.put_many(np.arange(100) * 10, np.arange(400.0).reshape(100, 4))
        temps.delete_range(100, 300)
        temps[5] = []
        points = db.object_store("points", Point)
        points.put(7, (0.5, b"ab", (1, -2)))
        points.put(2**64 - 1, (1.5, b"", (0, 0)))
        return db.path


# ---------------------------------------------------------------------- looking


def test_changes(path: str) -> None:
    assert good("changes", path, "--since", 0).splitlines() == [
        "1  temps  created: 0 put, 0 deleted",
        "2  temps  records: 100 put, 0 deleted",
        "3  temps  records: 0 put, 20 deleted",
        "4  temps  records: 1 put, 0 deleted",
        "5  points  created: 0 put, 0 deleted",
        "6  points  records: 1 put, 0 deleted",
        "7  points  records: 1 put, 0 deleted",
    ]
    assert good("changes", path, "points", "--since", 6) == "7  points  records: 1 put, 0 deleted\n"
    lines = good("changes", path, "--since", 3, "--json").splitlines()
    document = {"commit": 4, "store": "temps", "kind": "records", "keys": [5], "deleted": []}
    assert json.loads(lines[0]) == document
    assert good("changes", path, "--since", 7) == good("changes", path, "temps", "--since", 4) == ""


def test_changes_that_are_gone_are_one_line(path: str) -> None:
    good("compact", path, "temps")
    assert "up to commit 4 went when it was compacted" in failed("changes", path, "--since", 3)
    assert "this shows commit 8" in failed("changes", path, "--since", 9)
    assert "no store 'nothing'" in failed("changes", path, "nothing", "--since", 7)
    assert len(good("changes", path, "--since", 4).splitlines()) == 3


def test_a_drop_is_a_change(db: sc.Database) -> None:
    db.array_store("a", "f8")
    db.drop_store("a")
    assert (
        good("changes", db.path, "--since", 1) == good("changes", db.path, "a", "--since", 1) == "2  a  dropped\n"
    )
    assert "up to commit 1 are gone of a store that was dropped" in failed("changes", db.path, "--since", 0)


def test_changes_are_followed(db: sc.Database) -> None:
    store = db.array_store("a", "f8")
    with start("changes", db.path, "--since", 0, "--follow", stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1  a  created: 0 put, 0 deleted\n"
        for commit in range(2, 6):
            store.put(commit, [1.0])
            assert process.stdout.readline() == f"{commit}  a  records: 1 put, 0 deleted\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_info(path: str) -> None:
    lines = good("info", path).splitlines()
    assert lines[0].startswith(f"{path}: 2 stores, ")
    assert lines[1].split() == ["store", "type", "records", "live", "garbage", "disk", "chunks"]
    assert lines[2].split()[:3] == ["points", "Point", "2"]
    assert lines[3].split()[:7] == ["temps", "float64[]", "81", "2.5", "KiB", "640", "B"]


@pytest.mark.parametrize("columns", [200, 44, 30, 20])
def test_info_shows_whole_names_however_narrow_the_terminal(
    columns: int, db: sc.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a", "temperature", "wind/speed/at/the/mast"]
    for name in names:
        db.array_store(name, [("direction", "f8")])[1] = [(1.0,)]
    monkeypatch.setattr("structchunk.cli.output.is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "dumb")
    said = click.unstyle(good("info", db.path))
    assert "…" not in said and max(map(len, said.splitlines())) <= columns
    words = said.split()
    assert all(name in "".join(words) for name in names)  # the longest goes on in the next line of the narrowest
    assert {"records", "live", "garbage", "disk", "chunks"} <= set(words)
    said = click.unstyle(good("info", db.path, names[0]))
    assert "…" not in said and {"direction", "float64", "directory"} <= set(said.split())


def test_types_of_text_are_named_by_their_length(db: sc.Database) -> None:
    for dtype in ("S5", "U3", "V7"):
        db.array_store(f"of {dtype}", dtype)
    lines = good("info", db.path).splitlines()
    assert [line.split()[2] for line in lines[2:]] == ["S5[]", "U3[]", "V7[]"]


def test_info_for_machines(path: str) -> None:
    found = report("info", path)
    points, temps = found["stores"]
    assert found["path"] == path
    assert (temps["records"], temps["live"], temps["garbage"]) == (81, 80 * 32, 20 * 32)
    assert temps["schema"] == {"kind": "array", "type": "<f8"}
    assert points["schema"]["type"]["class"] == "Point"
    assert [chunk["records"] for chunk in points["chunks"]] == [2]


def test_info_of_one_store(path: str) -> None:
    text = good("info", path, "points")
    assert "points: object store of Point, 16 bytes an item, 2 records" in text
    fields = text.split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in fields] == ["field", "x", "tag", "pair", "pair[]"]
    assert [store["name"] for store in report("info", path, "points")["stores"]] == ["points"]


def test_info_shows_attributes(db: sc.Database) -> None:
    db.array_store("temps", "f8").attrs.update(unit="K", place="Z\x1b[1mürich", of=[1, None])
    db.attrs["made"] = 2026
    said = good("info", db.path)
    assert [line.split() for line in said.splitlines()[-2:]] == [["attribute", "value"], ["made", "2026"]]
    said = good("info", db.path, "temps")
    assert said.splitlines()[-3].split() == ["unit", '"K"']
    assert "\x1b" not in said
    assert "ürich" in said
    assert said.splitlines()[-1].split(maxsplit=1) == ["of", "[1, null]"]
    found = report("info", db.path)
    assert found["attributes"] == {"made": 2026}
    assert found["stores"][0]["attributes"] == {"unit": "K", "place": "Z\x1b[1mürich", "of": [1, None]}
    assert good("ls", db.path) == "temps\n"


def test_ls(path: str) -> None:
    assert good("ls", path) == "points\ntemps\n"
    assert report("ls", path) == ["points", "temps"]


def test_head(path: str) -> None:
    assert good("head", path, "temps", "-n", 3).splitlines() == [
        "key  length  items",
        "  0       4  0.0, 1.0, 2.0, 3.0",
        "  5       0",
        " 10       4  4.0, 5.0, 6.0, 7.0",
    ]
    assert len(good("head", path, "temps").splitlines()) == 11
    assert [record["key"] for record in report("head", path, "temps", "-n", 2)] == [0, 5]
    assert good("head", path, "temps", "-n", 0).splitlines() == ["key  length  items"]


def test_head_of_objects(path: str) -> None:
    assert [line.split() for line in good("head", path, "points").splitlines()] == [
        ["key", "x", "tag", "pair"],
        ["7", "0.5", "ab", "[1,", "-2]"],
        ["18446744073709551615", "1.5", "[0,", "0]"],
    ]
    assert report("head", path, "points", "-n", 1) == [
        {"key": 7, "value": {"x": 0.5, "tag": "ab", "pair": [1, -2]}}
    ]


def test_get(path: str) -> None:
    assert good("get", path, "temps", 10) == "4.0\n5.0\n6.0\n7.0\n"
    assert good("get", path, "temps", "0xa") == good("get", path, "temps", 10)
    assert report("get", path, "temps", 10) == [4, 5, 6, 7]
    assert good("get", path, "temps", 5) == ""
    assert good("get", path, "points", 7).split() == ["x", "0.5", "tag", "ab", "pair", "[1,", "-2]"]
    assert report("get", path, "points", 2**64 - 1)["x"] == 1.5


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("f4", [0.1, np.nan, -np.inf], [0.1, "NaN", "-Infinity"]),
        ("f8", [0.1, np.inf], [0.1, "Infinity"]),
        ("c8", [1 - 2j], [[1.0, -2.0]]),
        ("?", [True, False], [True, False]),
        ("u8", [2**64 - 1], [2**64 - 1]),
        ("S4", [b"a\xff"], ["a\\xff"]),
        ("V2", [b"\x01\xff"], ["01ff"]),
        ("U3", ["aλ"], ["aλ"]),
        ("M8[s]", ["2020-01-01", "NaT"], ["2020-01-01T00:00:00", "NaT"]),
        ("m8[D]", [3], ["3 days"]),
        ([("a", "i2"), ("b", "f4", (2,))], [(1, (2, 3))], [{"a": 1, "b": [2.0, 3.0]}]),
    ],
)
def test_every_type_has_a_form_in_json(db: sc.Database, dtype: Any, values: list[Any], expected: list[Any]) -> None:
    db.array_store("store", np.dtype(dtype))[1] = np.array(values, dtype)
    db.close()
    assert report("get", db.path, "store", 1) == expected
    assert len(good("get", db.path, "store", 1).splitlines()) == len(values)
    assert good("head", db.path, "store")


def test_nothing_in_a_database_reaches_the_terminal_as_a_command(db: sc.Database) -> None:
    name = "[red]a\x1b[31m\n$x$"
    db.array_store(name, "S8")[1] = np.array([b"\x1b[31m"])
    db.close()
    for words in (["info"], ["ls"], ["map"], ["verify"], ["compact"]):
        text = good(*words, db.path)
        assert "\x1b" not in text and text.count("\n") == len(text.splitlines())
    assert "[red]a\\x1b[31m\\n$x$" in good("ls", db.path)
    assert good("get", db.path, name, 1) == "\\x1b[31m\n"
    assert "\x1b" not in failed("get", db.path, name, 2)


# ---------------------------------------------------------------------- maintaining


def test_verify(path: str) -> None:
    assert good("verify", path) == "no problems in 2 stores\n"
    assert report("verify", path)["problems"] == []


def test_verify_tells_of_problems_by_its_exit_code(path: str, tmp_path: Path) -> None:
    damaged = copy(path, tmp_path)
    chunk = damaged / "chunks" / "00000001.chunk"
    with open(chunk, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff")
    result = run("verify", damaged)
    assert result.exit_code == 1 and result.stderr == ""
    assert result.stdout.startswith(f"{chunk}, bytes 4096 to ") and result.stdout.count("\n") == 1
    result = run("verify", damaged, "--json")
    assert result.exit_code == 1
    assert [sorted(problem) for problem in json.loads(result.stdout)["problems"]] == [["advice", "what", "where"]]


def test_rebuild_index(path: str) -> None:
    shutil.rmtree(Path(path) / "index-000001")
    assert "rebuild_index" in failed("info", path)
    assert good("rebuild-index", path) == "rebuilt the index of 2 stores, 83 records\n"
    assert report("rebuild-index", path)["records"] == {"points": 2, "temps": 81}


def test_compact(path: str) -> None:
    assert report("info", path, "temps")["stores"][0]["garbage"] > 0
    line = good("compact", path, "temps").splitlines()[1]
    assert line.split()[:2] == ["temps", "81"]
    assert report("info", path, "temps")["stores"][0]["garbage"] == 0
    assert [done["name"] for done in report("compact", path)] == ["points", "temps"]


def test_checkpoint(path: str, tmp_path: Path) -> None:
    dest = tmp_path / "copy.sc"
    assert good("checkpoint", path, dest) == f"copied to {dest}\n"
    assert good("get", dest, "temps", 10) == good("get", path, "temps", 10)
    assert good("verify", dest)
    assert "exists" in failed("checkpoint", path, dest)


def test_checkpoint_that_is_brought_forward(path: str, tmp_path: Path) -> None:
    dest = tmp_path / "copy.sc"
    assert good("checkpoint", path, dest, "--update") == f"copied to {dest}\n"
    with sc.open(path) as db:
        db["temps"].put(7777, [7.0])
    assert good("checkpoint", path, dest, "--update") == f"brought forward {dest}\n"
    assert good("get", dest, "temps", 7777) == "7.0\n"
    assert report("checkpoint", path, dest, "--update") == {"path": path, "dest": str(dest)}
    assert good("verify", dest)
    with sc.open(dest) as copy:
        copy["temps"].put(7777, [8.0])
    assert "was written to" in failed("checkpoint", path, dest, "--update")


# ---------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    "words", [["info"], ["ls"], ["head", "s"], ["get", "s", 1], ["map"], ["verify"], ["compact"], ["rebuild-index"]]
)
def test_a_missing_database_is_one_line(words: list[object], tmp_path: Path) -> None:
    missing = tmp_path / "missing.sc"
    assert str(missing) in failed(words[0], missing, *words[1:])
    assert not missing.exists()
    (tmp_path / "file").write_bytes(b"text")
    failed(words[0], tmp_path / "file", *words[1:])


@pytest.mark.parametrize("name", ["superblock", "chunks/00000001.chunk", "index-000001/CURRENT"])
@pytest.mark.parametrize("words", [["info"], ["get", "temps", 10], ["map"], ["compact"], ["verify"]])
def test_a_damaged_database_is_one_line(words: list[object], name: str, path: str, tmp_path: Path) -> None:
    damaged = copy(path, tmp_path)
    (damaged / name).write_bytes(b"\xff" * 100)
    assert str(damaged) in failed(words[0], damaged, *words[1:])


def test_a_lost_superblock_is_made_anew(path: str, tmp_path: Path) -> None:
    damaged = copy(path, tmp_path)
    (damaged / "superblock").unlink()
    for words in (["info"], ["ls"], ["verify"], ["compact"]):
        assert "no superblock" in (line := failed(words[0], damaged)) and "rebuild_index" in line
    good("rebuild-index", damaged)
    good("verify", damaged)
    shutil.rmtree(damaged / "chunks")
    for command in ("info", "compact", "rebuild-index"):
        assert "the directory of chunks" in failed(command, damaged)


def test_the_system_s_errors_are_said_as_it_says_them(path: str, tmp_path: Path) -> None:
    missing = tmp_path / "none" / "copy.npz"
    assert failed("export", path, "temps", missing) == f"structchunk: {missing}.part: No such file or directory"
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "structchunk", "ls", path]
        done = subprocess.run(words, check=False, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "structchunk: No space left on device\n")


def test_what_is_not_there_is_one_line(path: str) -> None:
    assert "no store 'nothing'" in failed("head", path, "nothing")
    assert "no store 'nothing'" in failed("info", path, "nothing")
    assert "no store 'nothing'" in failed("map", path, "nothing")
    assert "no store 'nothing'" in failed("compact", path, "nothing")
    assert failed("get", path, "temps", 11) == "structchunk: store 'temps' has no record 11"


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["info"],
        ["get", "db.sc", "temps", "ten"],
        ["get", "db.sc", "temps", str(2**64)],
        ["head", "db.sc", "temps", "-n", "-1"],
        ["changes", "db.sc"],
        ["changes", "db.sc", "--since", "-1"],
        ["export", "db.sc", "temps", "temps.txt"],
        ["import", "db.sc", "temps", "temps"],
    ],
)
def test_what_is_not_understood_is_a_usage_error(words: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with sc.open("db.sc") as db:
        db.array_store("temps", np.float64)
    result = run(*words)
    assert result.exit_code == 2 and result.stdout == ""
    assert "Usage: structchunk" in result.stderr and "Error: " in result.stderr


def test_a_locked_database_is_one_line(db: sc.Database) -> None:
    assert "open" in failed("compact", db.path)


@pytest.mark.parametrize("words", [[], *([command] for command in COMMANDS)])
def test_every_command_has_help(words: list[str]) -> None:
    for option in ("--help", "-h"):
        text = good(*words, option)
        assert text.startswith("Usage: structchunk")
        assert max(map(len, text.splitlines())) <= 80
        assert "\b" not in text
    assert sorted(program.list_commands(click.Context(program))) == sorted(COMMANDS)
    assert words == [] or "--json" in text


def test_commands_that_read_work_beside_a_writer(db: sc.Database, tmp_path: Path) -> None:
    store = db.array_store("temps", np.float64)
    store.put_many(np.arange(100), np.ones((100, 3)))
    with db.transaction() as transaction:
        transaction["temps"].put(1, [2.0])
        assert report("info", db.path)["stores"][0]["records"] == 100
        assert good("ls", db.path) == "temps\n"
        assert good("head", db.path, "temps", "-n", 1).endswith("1.0, 1.0, 1.0\n")
        assert good("get", db.path, "temps", 1) == "1.0\n" * 3
        assert good("map", db.path)
        assert good("verify", db.path) == "no problems in 1 store\n"
        assert report("export", db.path, "temps", tmp_path / "temps.npz")["records"] == 100
        assert report("checkpoint", db.path, tmp_path / "copy.sc")
        assert "open" in failed("compact", db.path)
        assert "open" in failed("rebuild-index", db.path)
    assert good("get", db.path, "temps", 1) == "2.0\n"


# ---------------------------------------------------------------------- real processes


def start(*words: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "structchunk", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def test_a_process_prints_and_exits(path: str) -> None:
    with start("ls", path, stderr=subprocess.PIPE) as process:
        assert process.communicate() == ("points\ntemps\n", "")
    assert process.returncode == 0
    with start("ls", f"{path}/nothing", stderr=subprocess.PIPE) as process:
        out, err = process.communicate()
    assert (process.returncode, out, err.count("\n")) == (1, "", 1)


def test_a_closed_pipe_is_quiet(db: sc.Database) -> None:
    db.array_store("long", np.int64)[1] = np.arange(1_000_000)
    db.close()
    with start("get", db.path, "long", 1, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_an_interrupt_is_quiet(db: sc.Database) -> None:
    db.array_store("long", np.int64)[1] = np.arange(1_000_000)
    db.close()
    with start("get", db.path, "long", 1, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()  # it has begun, and stops when the pipe is full
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.stderr.read().strip() == ""
    assert process.returncode == 130


def test_progress_is_shown_on_a_terminal_only(path: str) -> None:
    assert run("verify", path).stderr == ""
    assert b"verifying" in on_terminal("verify", path)


def on_terminal(*words: object) -> bytes:
    """Return what a command writes to standard error, if that is a terminal."""
    master, slave = pty.openpty()
    with start(*words, stderr=slave, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(slave)
        seen = b""
        try:
            while part := os.read(master, 1 << 16):
                seen += part
        except OSError:  # the other end was closed
            pass
        process.communicate()
    os.close(master)
    assert process.returncode == 0
    return seen


@pytest.mark.parametrize("package", ["click", "rich"])
def test_without_its_packages_it_says_which_extra_has_them(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from structchunk.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    hint = "in a checkout of structchunk, pip install '.[cli]'"
    assert done.stderr == f"structchunk: the command line needs {package}: {hint}\n"


def copy(path: str, tmp_path: Path) -> Path:
    return Path(copy_tree(path, tmp_path / "copy.sc"))
