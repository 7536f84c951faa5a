"""Loops whose jump backward CPython 3.12 and later leave out of the exception table, found in the source.

Such a loop jumps back on a condition: ``while condition``; one whose body ends with an ``if`` or an ``assert``; a
comprehension with ``if``, except a generator, which is a function of its own. It matters inside of a ``with``, or
of a ``try`` that cleans up whatever is raised.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.GeneratorExp)


def uncovered_loops(node: ast.AST, *, is_inside: bool = False) -> Iterator[int]:
    """Yield the lines of such loops, where they matter."""
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            inside = (is_inside or (name == "body" and cleans_up(node))) and not isinstance(child, FUNCTIONS)
            if inside and jumps_back_on_a_condition(child):
                yield child.lineno  # type: ignore[attr-defined]
            yield from uncovered_loops(child, is_inside=inside)


def cleans_up(node: ast.AST) -> bool:
    """Tell whether something is done after the body of a statement, whatever is raised there."""
    if isinstance(node, ast.Try):
        return bool(node.finalbody) or any(catches_all(handler) for handler in node.handlers)
    return isinstance(node, ast.With | ast.AsyncWith)


def catches_all(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or (isinstance(handler.type, ast.Name) and handler.type.id == "BaseException")


def jumps_back_on_a_condition(node: ast.AST) -> bool:
    if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp):
        return any(generator.ifs for generator in node.generators)
    if isinstance(node, ast.While):
        return not isinstance(node.test, ast.Constant) or ends_with_a_condition(node.body)
    return isinstance(node, ast.For) and ends_with_a_condition(node.body)


def ends_with_a_condition(body: list[ast.stmt]) -> bool:
    last = body[-1]
    if isinstance(last, ast.If):
        return not last.orelse or ends_with_a_condition(last.body) or ends_with_a_condition(last.orelse)
    return isinstance(last, ast.Assert)
