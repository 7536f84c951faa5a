"""CPython 3.12 and later take an interrupt outside of every handler at some jumps backward: none may matter here.

The compiler turns a conditional jump backward (``while condition``, an ``if`` at the end of a loop's body, a
comprehension with ``if``) into one over an unconditional one, and leaves the latter out of the exception table
(`normalize_jumps` in CPython's Python/flowgraph.c). An interrupt that is taken there skips the ``with``,
``finally`` and ``except BaseException`` around the loop: a lock would stay held. Such loops go into functions of
their own: a call is covered.
"""

from __future__ import annotations

import dis
import pkgutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import CodeType

import pytest

import structchunk


def codes_of(code: CodeType) -> Iterator[CodeType]:
    """Return a code object and all in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_of(constant)


def uncovered_jumps(code: CodeType) -> Iterator[int]:
    """Return the lines of loops whose jump backward is not covered by the handler that covers where it jumps to."""
    entries = getattr(dis, "_parse_exception_table", lambda code: [])(code)
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


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_no_interrupt_can_skip_a_cleanup(name: str) -> None:
    """Every loop inside of what must be cleaned up after is covered, in this Python's bytecode."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    top = compile(Path(spec.origin).read_text(encoding="utf-8"), spec.origin, "exec")
    assert [f"{spec.origin}:{line}" for code in codes_of(top) for line in uncovered_jumps(code)] == []


@pytest.mark.skipif(not hasattr(dis, "_parse_exception_table"), reason="this Python has no exception tables")
def test_the_check_finds_one() -> None:
    """A conditional loop in a ``with`` is found where the compiler makes the mistake, and none elsewhere."""
    top = compile("def f(lock, go):\n with lock:\n  while go():\n   pass\n", "f", "exec")
    found = [line for code in codes_of(top) for line in uncovered_jumps(code)]
    jumps = {i.opname for code in codes_of(top) for i in dis.get_instructions(code)}
    assert found == ([3] if "JUMP_BACKWARD" in jumps else [])
