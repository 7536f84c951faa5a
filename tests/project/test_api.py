"""What users find on handles and stores is the API, and nothing that only the package uses."""

from __future__ import annotations

import ast
import ctypes
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import structchunk as sc
from structchunk.shards.writing import finish, make_shard, new_directory
from structchunk.types.schema import array_schema

COLLECTION = "array_store dataset object_store scan to_arrow"
DATABASE = f"""
    {COLLECTION} alter_store attrs changes checkpoint close closed compact drop_store first_change last_commit mode
    path publish refresh snapshot stats sync transaction verify wait
"""
STORE = """
    append attrs clear contains_many cursor dataset delete delete_many delete_range dtype first_key from_arrow get
    get_many items keys last_key map_batches name new pop popitem put put_many read scan setdefault to_arrow
    to_pandas update values
"""
API = {
    "Database": DATABASE,
    "SharedDatabase": DATABASE,
    "SharedReader": DATABASE,
    "Transaction": f"{COLLECTION} abort attrs commit savepoint",
    "Savepoint": "rollback",
    "Snapshot": f"{COLLECTION} attrs changes close first_change last_commit split",
    "Shards": f"{COLLECTION} close names path split verify",
    "ArrayStore": STORE,
    "ObjectStore": f"{STORE} cls edit of_class records",
    "Cursor": "first key last next prev seek valid value",
    "Batch": "dense in_place keys kind lengths offsets reduce to_arrow values",
}
"""The public names of each class, as the contract has them."""
PACKAGE = Path(sc.__path__[0])
OTHERS = {"_asdict", "_replace", "_fields", "_is_owned", "_SimpleCData", "_fields_", "_length_", "_type_"}
"""Underscored names that are the API of the standard library."""


class Point(sc.Object):
    _fields_ = [("x", ctypes.c_double)]


@pytest.fixture
def handles(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """One of each class, by its name."""
    path = tmp_path / "a.sc"
    with sc.open(path) as db:
        temps, points = db.array_store("temps", "f8"), db.object_store("points", Point)
        temps[1] = [1.0]
        with new_directory(tmp_path / "shards") as directory:
            shard = make_shard(directory, 0, lambda made: made.array_store("temps", "f8").put(1, [1.0]))
            finish(directory, {"temps": array_schema(np.float64)}, [shard])
        with (
            db.transaction() as txn,
            db.snapshot() as snap,
            sc.open_shards(directory) as shards,
            sc.open(path, "r") as reader,
            pickle.loads(pickle.dumps(reader)) as unpickled,
            sc.open(tmp_path / "b.sc", shared=True) as shared,
        ):
            made = [db, shared, unpickled, txn, txn.savepoint(), snap, shards]
            made += [temps, points, temps.cursor(), temps.read()]
            yield {type(handle).__name__: handle for handle in made}
        assert db.verify() == []


def test_each_handle_shows_the_api(handles: dict[str, Any]) -> None:
    shown = {
        name: [attribute for attribute in dir(handle) if not attribute.startswith("_")]
        for name, handle in handles.items()
    }
    assert shown == {name: sorted(names.split()) for name, names in API.items()}


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_own(node: ast.Attribute) -> bool:
    """Tell whether an attribute is one of the object itself, or of its class."""
    return ast.unparse(node.value) in ("self", "cls", "super()")


def defined(tree: ast.Module) -> set[str]:
    """Return what a module defines, attributes of its objects included."""
    named = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    stored = [node for node in ast.walk(tree) if isinstance(getattr(node, "ctx", None), ast.Store)]
    named |= {node.id for node in stored if isinstance(node, ast.Name)}
    return named | {node.attr for node in stored if isinstance(node, ast.Attribute) and is_own(node)}


def foreign(tree: ast.Module, own: set[str]) -> list[str]:
    """Return the underscored attributes that a module uses of objects that are not its own."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and not is_own(node)]
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in found
        if node.attr.startswith("_") and not node.attr.startswith("__") and node.attr not in own | OTHERS
    ]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_underscored_names_stay_in_their_module(path: Path) -> None:
    """What several modules need of an object is a function of the module that owns it."""
    tree = tree_of(path)
    assert not foreign(tree, defined(tree))


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("cli/*.py")), ids=lambda path: path.name)
def test_the_command_line_uses_no_underscored_name(path: Path) -> None:
    assert not foreign(tree_of(path), set())
