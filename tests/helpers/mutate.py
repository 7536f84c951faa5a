"""Change one folder of the package, one small thing at a time, and show the changes that no test of it notices.

::

    python tests/helpers/mutate.py runs                                    # 50 of all mutants of structchunk/runs
    python tests/helpers/mutate.py index/page.py --count 1000              # all of one module
    python tests/helpers/mutate.py chunks tests/durability/test_damage.py  # by others, too

Each mutant is tested in a copy of the tree, by the module's own tests first, up to the first test that fails. One
for which none fails is printed as a diff: either it is equivalent to what it is made of, or a test is missing.
"""

from __future__ import annotations

import argparse
import ast
import copy
import difflib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
COMPARED: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
CALCULATED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}


class Mutant(NamedTuple):
    """A module's source with one thing changed."""

    path: Path  # relative to the root
    source: str

    def diff(self) -> str:
        before = (ROOT / self.path).read_text().splitlines(keepends=True)
        after = self.source.splitlines(keepends=True)
        return "".join(difflib.unified_diff(before, after, str(self.path), "mutant", n=1))


def with_field(node: ast.AST, name: str, value: object) -> ast.AST:
    """Return a node with another value of one field."""
    changed = copy.copy(node)
    setattr(changed, name, value)
    return changed


def changes_of_expression(node: ast.expr) -> Iterator[ast.AST]:
    match node:
        case ast.Compare():
            for at, op in enumerate(node.ops):
                for other in COMPARED[type(op)]:
                    yield with_field(node, "ops", [*node.ops[:at], other(), *node.ops[at + 1 :]])
        case ast.BinOp() if type(node.op) in CALCULATED:
            yield with_field(node, "op", CALCULATED[type(node.op)]())
        case ast.BoolOp():
            yield with_field(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And())
        case ast.UnaryOp():
            yield node.operand
        case ast.IfExp():
            yield with_field(node, "test", ast.UnaryOp(ast.Not(), node.test))
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int()):
            yield ast.Constant(node.value + 1)


def changes_of_statement(node: ast.stmt) -> Iterator[ast.AST]:
    match node:
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.AugAssign():
            yield with_field(node, "op", CALCULATED[type(node.op)]())
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.Raise():
            yield ast.Pass()
        case ast.Expr(value=ast.Call()) | ast.Delete() | ast.Break() | ast.Continue():
            yield ast.Pass()


def nodes_in(node: ast.AST) -> Iterator[ast.stmt | ast.expr]:
    """Yield the nodes that are worth changing: no annotation, no decorator, no message of an error."""
    if isinstance(node, ast.stmt | ast.expr):
        yield node
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list", "exc", "cause", "msg"} or isinstance(
            node, ast.JoinedStr
        ):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from nodes_in(child)


def replaced(source: bytes, node: ast.stmt | ast.expr, text: str) -> str:
    """Return a source with another text of one node."""
    lines = source.splitlines(keepends=True)
    assert node.end_lineno is not None and node.end_col_offset is not None
    before = b"".join([*lines[: node.lineno - 1], lines[node.lineno - 1][: node.col_offset]])
    after = b"".join([lines[node.end_lineno - 1][node.end_col_offset :], *lines[node.end_lineno :]])
    return (before + text.encode() + after).decode()


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Yield all mutants of one module."""
    source = (ROOT / path).read_bytes()
    for node in nodes_in(ast.parse(source)):
        if isinstance(node, ast.expr):
            texts = [f"({ast.unparse(changed)})" for changed in changes_of_expression(node)]
        else:
            texts = [ast.unparse(changed) for changed in changes_of_statement(node)]
        for text in texts:
            yield Mutant(path, replaced(source, node, text))


WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(["numpy", "plyvel", "pytest", "hypothesis.extra.numpy"])
"""Forks processes that have imported what most tests need, of the package nothing."""


def run_pytest(root: Path, tests: list[str], seed: int, compiles: bool) -> None:
    """Run tests in this process, a new one, up to the first that fails, and leave."""
    os.setsid()
    os.chdir(root)
    sys.path.insert(0, str(root))
    os.environ["PYTHONPATH"] = str(root)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "" if compiles else "1"
    sys.dont_write_bytecode = not compiles
    with open(os.devnull, "r+b") as nothing:
        for descriptor in range(3):
            os.dup2(nothing.fileno(), descriptor)
    import pytest

    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", f"--hypothesis-seed={seed}"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plugins that are imported already
    sys.exit(pytest.main([*options, f"--basetemp={root / 'temp'}", *tests]))


class Copy:
    """A copy of the tree, in which one mutant after the other is tested."""

    def __init__(self, root: Path, tests: list[str], seed: int) -> None:
        self._root = root
        self._tests = tests
        self._seed = seed
        for name in ("structchunk", "tests"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", root)

    def run(self, path: Path, timeout: float | None = None, *, first: bool = False) -> str:
        """Run the tests, those of one module first, and return what became of it."""
        own = f"tests/{path.parts[1]}/test_{path.stem}.py"
        tests = [own, *self._tests] if (self._root / own).exists() else self._tests
        process = WARM.Process(target=run_pytest, args=(self._root, tests, self._seed, first))
        process.start()
        process.join(timeout)
        assert process.pid is not None
        if process.exitcode is not None:
            return "killed" if process.exitcode else "survived"
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return "timed out"

    def test(self, mutant: Mutant, timeout: float) -> str:
        """Test one mutant, and put back what it changed."""
        shutil.rmtree((self._root / mutant.path).parent / "__pycache__", ignore_errors=True)
        (self._root / mutant.path).write_text(mutant.source)
        try:
            return self.run(mutant.path, timeout)
        finally:
            shutil.copy(ROOT / mutant.path, self._root / mutant.path)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="a folder of the package, or a module of one")
    parser.add_argument("tests", nargs="*", help="tests besides those of the folder's name")
    parser.add_argument("--count", type=int, default=50, help="test no more mutants than this")
    parser.add_argument("--seed", type=int, default=0, help="which ones they are")
    parser.add_argument("--jobs", type=int, default=2, help="how many are tested at once")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    target = ROOT / "structchunk" / arguments.target
    modules = sorted(target.glob("*.py")) if target.is_dir() else [target]
    mutants = [mutant for module in modules for mutant in mutants_of(module.relative_to(ROOT))]
    chosen = random.Random(arguments.seed).sample(mutants, min(arguments.count, len(mutants)))
    tests = [f"tests/{arguments.target.parts[0]}", *arguments.tests]
    results: Counter[str] = Counter()
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(prefix="mutate-", dir=memory if os.access(memory, os.W_OK) else None) as base:
        copies: SimpleQueue[Copy] = SimpleQueue()
        began = time.monotonic()
        for number in range(arguments.jobs):
            copies.put(one := Copy(Path(base, str(number)), tests, arguments.seed))
            if one.run(modules[0].relative_to(ROOT), first=True) != "survived":
                sys.exit("the tests fail without a mutant")
        timeout = 30 + 5 * (time.monotonic() - began)

        def test(mutant: Mutant) -> str:
            one = copies.get()
            try:
                return one.test(mutant, timeout)
            finally:
                copies.put(one)

        with ThreadPoolExecutor(arguments.jobs) as pool:
            for mutant, result in zip(chosen, pool.map(test, chosen), strict=True):
                results[result] += 1
                print(result, file=sys.stderr)
                if result == "survived":
                    print(mutant.diff(), flush=True)
    print(f"{len(mutants)} mutants, {len(chosen)} tested:", ", ".join(f"{n} {what}" for what, n in results.items()))


if __name__ == "__main__":
    main()
