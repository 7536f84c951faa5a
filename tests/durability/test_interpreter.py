"""What the engine relies on in CPython: no interrupt can skip a ``with`` or ``finally``, so no lock stays held.

CPython 3.10 takes interrupts at the entry of every handler, too: one that is pending while an exception passes
through skips it. CPython 3.12 and later take one outside of every handler at some jumps backward: the compiler
turns a conditional jump backward (``while condition``, an ``if`` at the end of a loop's body, a comprehension with
``if``) into one over an unconditional one, and leaves the latter out of the exception table (`normalize_jumps` in
CPython's Python/flowgraph.c). Such loops go into functions of their own: a call is covered.
"""

from __future__ import annotations

import ast
import dis
import pkgutil
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import CodeType

import pytest
from interrupts import Interrupter
from loops import uncovered_loops

import structchunk


def codes_of(code: CodeType) -> Iterator[CodeType]:
    """Return a code object and all in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_of(constant)


def uncovered_jumps(code: CodeType) -> Iterator[int]:
    """Return the lines of loops whose jump backward is not covered by the handler that covers where it jumps to."""
    entries = dis._parse_exception_table(code)  # type: ignore[attr-defined]
    instructions = list(dis.get_instructions(code))

    def handlers(offset: int) -> Iterator[int]:
        while (target := next((e.target for e in entries if e.start <= offset < e.end), None)) is not None:
            yield target
            offset = target

    def cleans_up(handler: int) -> bool:
        here = [instruction for instruction in instructions if instruction.offset >= handler]
        first = next((i for i in here[1:] if not i.opname.startswith(("LOAD", "BUILD"))), here[0])
        is_for_some = first.opname == "CHECK_EXC_MATCH" and here[1].argval != "BaseException"
        return here[0].opname == "PUSH_EXC_INFO" and not is_for_some

    for instruction in instructions:
        line = instruction.positions.lineno if instruction.opname == "JUMP_BACKWARD" else None  # type: ignore[attr-defined]
        if line and not any(handlers(instruction.offset)) and any(map(cleans_up, handlers(instruction.argval))):
            yield line


MODULES = [module.name for module in pkgutil.walk_packages(structchunk.__path__, "structchunk.")]


def source_of(name: str) -> tuple[str, str]:
    """Return where a module is, and its text."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return spec.origin, Path(spec.origin).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_no_interrupt_can_skip_a_cleanup(name: str) -> None:
    """Every loop inside of what must be cleaned up after is covered, in this Python's bytecode."""
    path, text = source_of(name)
    top = compile(text, path, "exec")
    assert [f"{path}:{line}" for code in codes_of(top) for line in uncovered_jumps(code)] == []


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_no_interrupt_could_skip_a_cleanup_on_a_later_version(name: str) -> None:
    """The same by the source, whatever Python this is: so that it is found before a later one is asked."""
    path, text = source_of(name)
    assert [f"{path}:{line}" for line in uncovered_loops(ast.parse(text))] == []


AROUND = ["with lock:\n  {}", "try:\n  {}\n finally: go()", "try:\n  {}\n except BaseException: go()"]
LOOPS = {
    "while go(): pass": True,
    "while True: go()": False,
    "for x in xs:\n   if x: go()": True,
    "for x in xs:\n   if x: go()\n   else: go()": False,
    "for x in xs:\n   if x: go()\n   go()": False,
    "for x in xs:\n   assert x": True,
    "for x in xs: go()": False,
    "[x for x in xs if x]": True,
    "{x: 1 for x in xs}": False,
    "list(x for x in xs if x)": False,
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    "around", ["with lock:\n  {}", "try:\n  {}\n finally: go()", "try:\n  {}\n except BaseException: go()"]
)
def test_source_and_bytecode_say_the_same(loop: str, around: str) -> None:
    """Of each kind of loop the source tells what the bytecode does, where the compiler makes the mistake."""
    text = f"def f(lock, go, xs):\n {around.format(loop)}\n"
    top = compile(text, "f", "exec")
    found = bool(list(uncovered_loops(ast.parse(text))))
    assert found is LOOPS[loop]
    if sys.version_info >= (3, 12):
        assert any(True for code in codes_of(top) for _ in uncovered_jumps(code)) is found


def test_the_check_finds_one() -> None:
    """A conditional loop in a ``with`` is found where the compiler makes the mistake, and none elsewhere."""
    top = compile("def f(lock, go):\n with lock:\n  while go():\n   pass\n", "f", "exec")
    found = [line for code in codes_of(top) for line in uncovered_jumps(code)]
    jumps = {i.opname for code in codes_of(top) for i in dis.get_instructions(code)}
    assert found == ([3] if "JUMP_BACKWARD" in jumps else [])


def test_an_interrupt_beside_an_error_leaves_no_lock_held() -> None:
    """A signal that is pending while an error leaves a ``with`` does not skip its end."""
    lock = threading.RLock()

    def fail() -> None:
        with lock:
            {}["absent"]

    counting = Interrupter()
    for number in range(1, len(counting.watch(fail)) + 20):
        Interrupter().interrupt(fail, number)
        assert not lock._is_owned(), number  # type: ignore[attr-defined]
