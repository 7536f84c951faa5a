"""Imports keep to the table of folders, and within a folder to the order that its docstring gives."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest
from support import run_python

import structchunk

PACKAGE = Path(structchunk.__path__[0])
FOLDERS: dict[str, set[str]] = {
    "runs": set(),
    "types": set(),
    "process": set(),
    "disk": {"process"},
    "interop": {"types"},
    "chunks": {"disk", "runs", "types"},
    "index": {"process", "disk", "runs", "types.keys"},
    "engine": {"chunks", "index", "process", "disk", "runs", "types"},
    "stores": {"process", "runs", "types", "interop"},
    "readers": {"engine", "chunks", "index", "process", "disk", "runs"},
    "maintenance": {"engine", "chunks", "index", "process", "disk", "runs"},
    "remote": {"readers", "maintenance", "engine", "chunks", "index", "process", "disk", "runs", "types"},
    "database": {
        "stores",
        "remote",
        "readers",
        "maintenance",
        "engine",
        "chunks",
        "index",
        "process",
        "disk",
        "runs",
        "types",
    },
    "shards": {"database", "stores", "remote", "maintenance", "disk", "runs", "types"},
    "dask": {"shards", "database", "stores", "types", "runs"},
    "__init__": {"shards", "database", "stores", "remote", "maintenance", "types"},
    "cli": {
        "__init__",
        "database.handle",
        "maintenance.chunk_map",
        "stores.collection",
        "stores.mapping",
        "stores.notebook",
        "types",
        "interop.arrow_values",
    },
    "__main__": {"cli"},
}
"""Which folders, or single modules of them, each folder may import, besides itself and errors: rows above it only.

A module goes where a folder's docstring has it; if its imports do not allow that, cut it in two.
"""
PACKAGES = ("structchunk", *(f"structchunk.{folder.name}" for folder in PACKAGE.iterdir() if folder.is_dir()))
ONLY_IMPORTER = {
    "plyvel": "index.leveldb",
    "plyvel_next": "index.leveldb",
    "mmap": "chunks.chunk_file, chunks.mapping, disk.tail",
    "dask": "dask",
    "fsspec": "remote.objects",
    "matplotlib": "cli.png",
}
MAX_LINES = 460
"""Lines that are not blank: what can be read in one sitting."""

FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
MODULES = sorted(FILES)
FACES = [name for name in MODULES if FILES[name].name == "__init__.py" and name != "__init__"]


def parse(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def from_imports(node: ast.ImportFrom, package: str) -> set[str]:
    """Return the dotted names that a ``from`` import names, those of this package from "structchunk" on."""
    parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    base = ".".join([*parents, *filter(None, [node.module])])
    if base in PACKAGES:
        return {f"{base}.{alias.name}" for alias in node.names}
    return {base}


def imports(tree: ast.Module, package: str = "structchunk") -> set[str]:
    """Return the dotted names of all that is imported anywhere in a module, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= from_imports(node, package)
    return found


def package_of(module: str) -> str:
    """Return the dotted name of the package that a module lies in."""
    inner = FILES[module].parent.relative_to(PACKAGE).parts
    return ".".join(["structchunk", *inner])


def siblings(found: Collection[str]) -> set[str]:
    """Return the modules of this package among what a module imports."""
    mine = {name.split(".", 1)[-1] for name in found if name.split(".")[0] == "structchunk"}
    return {"__init__" if name == "structchunk" else name for name in mine}


@functools.cache
def imports_of(module: str) -> frozenset[str]:
    """Return the dotted names of all that a module of the package imports."""
    return frozenset(imports(parse(module), package_of(module)))


def siblings_of(module: str) -> set[str]:
    """Return the modules of this package that a module of it imports."""
    return siblings(imports_of(module))


def folder_of(module: str) -> str:
    """Return the folder of a module, or the module itself if it lies in none."""
    return module.partition(".")[0]


def below(module: str) -> set[str]:
    """Return what a module imports of other folders, errors aside."""
    needed = siblings_of(module) - {"errors"}
    return {other for other in needed if folder_of(other) != folder_of(module)}


def modules_of(face: str) -> list[str]:
    """Return the modules of a folder, in the order in which its docstring names them."""
    docstring = ast.get_docstring(parse(face)) or ""
    return [f"{face}.{name}" for name in re.findall(r"\w+", docstring.rpartition("from the bottom up:")[2])]


def test_every_module_has_its_place() -> None:
    assert {folder_of(module) for module in MODULES} == {"errors", *FOLDERS}


def test_the_table_goes_up() -> None:
    above: set[str] = set()
    for folder, allowed in FOLDERS.items():
        assert {folder_of(name) for name in allowed} <= above
        above.add(folder)


@pytest.mark.parametrize("module", MODULES)
def test_imports_keep_to_the_table(module: str) -> None:
    allowed = FOLDERS.get(folder_of(module), set())
    assert not {name for name in below(module) if not {name, folder_of(name)} & allowed}


@pytest.mark.parametrize("face", FACES)
def test_folders_say_what_is_in_them(face: str) -> None:
    """Each names its modules in an order in which imports go down, and is nothing but this docstring."""
    assert len(parse(face).body) == 1
    named = modules_of(face)
    assert sorted(named) == [module for module in MODULES if module.startswith(f"{face}.")]
    for number, module in enumerate(named):
        assert not siblings_of(module) & set(named[number:])


def test_no_cycle() -> None:
    """Independent of the list: take away modules that import none of those left, until none are left."""
    left = {module: siblings_of(module) for module in MODULES}
    while left:
        bottom = {module for module, needed in left.items() if not needed & left.keys()}
        assert bottom, f"these import each other in a circle: {sorted(left)}"
        left = {module: needed for module, needed in left.items() if module not in bottom}


@pytest.mark.parametrize(("package", "expected"), ONLY_IMPORTER.items())
def test_only_one_module_imports(package: str, expected: str) -> None:
    importers = [module for module in MODULES if package in {name.split(".")[0] for name in imports_of(module)}]
    assert importers == expected.split(", ")


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_imported_by_wildcard_or_by_name(module: str) -> None:
    tree = parse(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert [alias.name for alias in node.names] != ["*"]
        if isinstance(node, (ast.Name, ast.Attribute)):
            assert (node.id if isinstance(node, ast.Name) else node.attr) not in ("__import__", "import_module")


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_short(module: str) -> None:
    lines = FILES[module].read_text(encoding="utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) <= MAX_LINES


@pytest.mark.parametrize("module", MODULES)
def test_modules_say_what_they_are(module: str) -> None:
    assert ast.get_docstring(parse(module))


@pytest.mark.parametrize(
    "module",
    ["runs.extent", "chunks.header", "chunks.segment", "types.keys", "stores.batch", "disk.paths", "errors"],
)
def test_pure_modules_do_no_io(module: str) -> None:
    assert not imports_of(module) & {
        "io",
        "mmap",
        "plyvel",
        "pathlib",
        "shutil",
        "structchunk.disk.files",
    }


def test_all_that_is_public_is_there() -> None:
    assert sorted(structchunk.__all__) == structchunk.__all__
    for name in structchunk.__all__:
        assert getattr(structchunk, name).__doc__


def loaded_by(code: str) -> set[str]:
    """Return the modules that a new Python has loaded after some code, without those within packages."""
    code = f"{code}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_brings_in_nothing_but_what_it_needs() -> None:
    """Of other packages nothing but plyvel and NumPy; of the standard library what opening a database needs."""
    extras = {
        "pandas",
        "pyarrow",
        "duckdb",
        "polars",
        "click",
        "rich",
        "matplotlib",
        "dask",
        "distributed",
        "fsspec",
    }
    tests = {"pytest", "hypothesis", "lmdb"}
    network = {"asyncio", "concurrent", "email", "http", "multiprocessing", "socket", "ssl", "urllib"}
    heavy = {"bz2", "decimal", "fractions", "hashlib", "hmac", "logging", "lzma", "secrets", "shutil"}
    rare = {"argparse", "csv", "sqlite3", "tempfile", "unittest", "uuid", "xml", "zipfile"}
    unwanted = extras | tests | network | heavy | rare
    plyvel = "plyvel_next" if sys.version_info >= (3, 13) else "plyvel"
    needed = loaded_by(f"import numpy, numpy.typing, {plyvel}")
    assert (loaded_by("import structchunk") - needed) & unwanted == set()


WORK = """
import sys, numpy as np, structchunk as sc
before = "numpy.ma" in sys.modules
with sc.open(sys.argv[1], chunk_size=16384, sync=False) as db:
    a = db.array_store("a", "f8")
    a[1] = [1.0]
    a.put_many(np.arange(9000), np.ones((9000, 1)))
    a.put_many([5, 4], [[1, 2], [3]])
    del a[7]
    print(len(a.get_many([1, 2])), sum(map(len, a.scan())), len(db.verify()))
assert before or "numpy.ma" not in sys.modules
"""


def test_masked_arrays_are_not_brought_in(tmp_path: Path) -> None:
    """NumPy 2 imports them when it is first asked for one, or for unique values, in the time of many commits."""
    done = run_python(WORK, str(tmp_path / "test.sc"))
    assert (done.returncode, done.stdout) == (0, "2 8999 0\n"), done


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from .disk import files", {"disk.files"}),
        ("from .chunks.chunk import Chunk", {"chunks.chunk"}),
        ("from structchunk.chunks.chunk import Chunk", {"chunks.chunk"}),
        ("import structchunk.chunks.chunk", {"chunks.chunk"}),
        ("import structchunk", {"__init__"}),
        ("def f():\n    from .index.index import Index", {"index.index"}),
        ("from .cli.output import show", {"cli.output"}),
        ("from .cli import output", {"cli.output"}),
        ("import os, mmap\nfrom collections import abc", set()),
    ],
)
def test_the_walk_sees_every_kind_of_import(source: str, expected: set[str]) -> None:
    assert siblings(imports(ast.parse(source))) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from ..chunks.chunk import Chunk", {"chunks.chunk"}),
        ("from ..chunks import chunk", {"chunks.chunk"}),
        ("from .. import errors", {"errors"}),
        ("from .output import show", {"cli.output"}),
        ("from . import output", {"cli.output"}),
    ],
)
def test_the_walk_sees_relative_imports_of_an_inner_package(source: str, expected: set[str]) -> None:
    assert siblings(imports(ast.parse(source), "structchunk.cli")) == expected
