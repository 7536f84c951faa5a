"""Imports follow the layers: every module imports only from modules below it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import structchunk

PACKAGE = Path(structchunk.__path__[0])
LAYERS = [
    "__main__",
    "cli.program",
    "cli.look",
    "cli.maintain",
    "cli.picture",
    "cli.png",
    "cli.transfer",
    "cli.formats",
    "cli.columns",
    "cli.npz",
    "cli.source",
    "cli.output",
    "cli.arguments",
    "cli.progress",
    "cli",
    "__init__",
    "dask",
    "sharding",
    "shards",
    "manifest",
    "merged",
    "pickling",
    "opening",
    "shared",
    "database",
    "writer_queue",
    "chunk_map",
    "latest",
    "transaction",
    "snapshot",
    "aligned",
    "stores",
    "array_store",
    "object_store",
    "store",
    "mapping",
    "binding",
    "compaction",
    "verify",
    "reading",
    "hotcopy",
    "stats",
    "recovery",
    "completeness",
    "log",
    "storage",
    "provision",
    "commit",
    "lending",
    "staging",
    "gather",
    "allocator",
    "heap",
    "index",
    "table",
    "clock",
    "accounting",
    "delta",
    "block",
    "clone",
    "kept",
    "leveldb",
    "growth",
    "leveldb_files",
    "superblock",
    "readers",
    "lock",
    "presence",
    "reserve",
    "paths",
    "debris",
    "chunk",
    "segment",
    "header",
    "files",
    "background",
    "leftovers",
    "mutex",
    "cursor",
    "ranges",
    "partition",
    "batch",
    "frames",
    "arrow",
    "arrow_values",
    "arrow_types",
    "convert",
    "sources",
    "items",
    "exact",
    "keys",
    "foreign",
    "page",
    "packed",
    "piece",
    "extent",
    "schema",
    "describe",
    "descriptor",
    "objects",
    "errors",
]
"""All modules, from the top down. A new one goes where its imports allow it; if they allow no place, split it."""
PACKAGES = ("structchunk", "structchunk.cli")
ONLY_IMPORTER = {
    "plyvel": "leveldb",
    "plyvel_next": "leveldb",
    "mmap": "chunk",
    "dask": "dask",
    "matplotlib": "cli.png",
}
MAX_LINES = 460
"""Lines that are not blank: what can be read in one sitting."""

FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
MODULES = sorted(FILES)


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


def siblings(tree: ast.Module, package: str = "structchunk") -> set[str]:
    """Return the modules of this package that a module imports."""
    mine = {name.split(".", 1)[-1] for name in imports(tree, package) if name.split(".")[0] == "structchunk"}
    return {"__init__" if name == "structchunk" else name for name in mine}


def test_every_module_has_its_place() -> None:
    assert sorted(LAYERS) == MODULES
    folders = [path.name for path in PACKAGE.rglob("*") if path.is_dir() and path.name != "__pycache__"]
    assert folders == ["cli"]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    below = LAYERS[LAYERS.index(module) + 1 :]
    assert siblings(parse(module), package_of(module)) <= set(below)


def test_no_cycle() -> None:
    """Independent of the list: take away modules that import none of those left, until none are left."""
    left = {module: siblings(parse(module), package_of(module)) for module in MODULES}
    while left:
        bottom = {module for module, needed in left.items() if not needed & left.keys()}
        assert bottom, f"these import each other in a circle: {sorted(left)}"
        left = {module: needed for module, needed in left.items() if module not in bottom}


@pytest.mark.parametrize(("package", "importer"), ONLY_IMPORTER.items())
def test_only_one_module_imports(package: str, importer: str) -> None:
    importers = [module for module in MODULES if package in {name.split(".")[0] for name in imports(parse(module))}]
    assert importers == [importer]


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


@pytest.mark.parametrize("module", ["extent", "header", "segment", "keys", "batch", "paths", "errors"])
def test_pure_modules_do_no_io(module: str) -> None:
    assert not imports(parse(module)) & {"io", "mmap", "plyvel", "pathlib", "shutil", "structchunk.files"}


def test_all_that_is_public_is_there() -> None:
    assert sorted(structchunk.__all__) == structchunk.__all__
    for name in structchunk.__all__:
        assert getattr(structchunk, name).__doc__


def test_importing_the_package_brings_in_nothing_but_what_it_needs() -> None:
    code = "import sys, structchunk; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    extras = {"pandas", "pyarrow", "duckdb", "polars", "click", "rich", "matplotlib", "dask", "distributed"}
    assert not (extras | {"pytest", "hypothesis", "lmdb", "asyncio"}) & set(done.stdout.split())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from . import files", {"files"}),
        ("from .chunk import Chunk", {"chunk"}),
        ("from structchunk.chunk import Chunk", {"chunk"}),
        ("import structchunk.chunk", {"chunk"}),
        ("import structchunk", {"__init__"}),
        ("def f():\n    from .index import Index", {"index"}),
        ("from .cli.output import show", {"cli.output"}),
        ("from .cli import output", {"cli.output"}),
        ("import os, mmap\nfrom collections import abc", set()),
    ],
)
def test_the_walk_sees_every_kind_of_import(source: str, expected: set[str]) -> None:
    assert siblings(ast.parse(source)) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from ..chunk import Chunk", {"chunk"}),
        ("from .. import chunk", {"chunk"}),
        ("from .output import show", {"cli.output"}),
        ("from . import output", {"cli.output"}),
    ],
)
def test_the_walk_sees_relative_imports_of_an_inner_package(source: str, expected: set[str]) -> None:
    assert siblings(ast.parse(source), "structchunk.cli") == expected
