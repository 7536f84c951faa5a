"""Filters and projections of Arrow as trees, which pyarrow shows only in the form that it pickles them in.

An expression is pickled as an Arrow file of one record batch. The metadata of its schema are the tree, one pair for
each step, in order; its columns are the literals and the options of calls, which the steps name by number::

    call: greater_equal, field_ref: key, literal: 0, end: greater_equal
    call: is_in, field_ref: key, options: 1, end: is_in
    nested_field_ref: 2, field_ref: points, field_ref: x

What cannot be read so is an ``Unknown``, of which nothing is concluded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from .arrow_types import pa

__all__ = ["Call", "Field", "Literal", "Node", "Unknown", "fields_of", "parse", "rewritten"]


@dataclass(frozen=True)
class Field:
    """A column, or what lies within one of structs."""

    path: tuple[str, ...]


@dataclass(frozen=True)
class Literal:
    """A constant: a scalar of pyarrow, in a column of the pickled form."""

    value: Any
    column: int


@dataclass(frozen=True)
class Call:
    """A function of other nodes; its options, if it has any, are a scalar of pyarrow too."""

    name: str
    arguments: tuple[Node, ...]
    options: Any = None
    column: int = -1


@dataclass(frozen=True)
class Unknown:
    """What could not be read."""


Node: TypeAlias = "Field | Literal | Call | Unknown"
_Step = tuple[bytes, bytes]
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)  # one of our own: others may declare theirs otherwise
)
_CHAINS = ("and_kleene", "or_kleene")


def parse(expression: Any) -> Node:
    """Return an expression of pyarrow as a tree."""
    try:
        batch, steps = _pickled(expression)
        return _tree(steps, batch)
    except (pa.ArrowException, ValueError, LookupError, StopIteration):
        return Unknown()  # fields by position cannot be pickled; another form is one of another pyarrow


def fields_of(tree: Node) -> Iterator[tuple[str, ...]] | None:
    """Return the paths of all fields that a tree refers to, or None if that is not known."""
    found = list(_leaves(tree))
    if any(isinstance(leaf, Unknown) for leaf in found):
        return None
    return (leaf.path for leaf in found if isinstance(leaf, Field))


def rewritten(expression: Any, scalars: dict[int, Any]) -> Any:
    """Return an expression with other literals or options in place of those of some columns."""
    batch, steps = _pickled(expression)
    arrays = [
        pa.array([scalars[number].as_py()], scalars[number].type) if number in scalars else column
        for number, column in enumerate(batch.columns)
    ]
    fields = [pa.field("", array.type) for array in arrays]
    schema = pa.schema(fields, metadata=pa.KeyValueMetadata(steps))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    restore, _ = expression.__reduce__()
    return restore(sink.getvalue())


def _pickled(expression: Any) -> tuple[pa.RecordBatch, list[_Step]]:
    _, (buffer,) = expression.__reduce__()
    reader = pa.ipc.open_file(buffer)
    return reader.get_batch(0), _steps(reader.schema)


def _steps(schema: pa.Schema) -> list[_Step]:
    """Return the metadata of a schema in order, repeated names too, as Arrow's C data interface has them."""
    capsule = schema.__arrow_c_schema__()
    exported = ctypes.cast(_pointer_of(capsule, b"arrow_schema"), ctypes.POINTER(ctypes.c_void_p))
    place = exported[2]  # after the format and the name
    if not place:
        return []
    texts = _texts(place)
    return list(zip(texts, texts, strict=True))


def _texts(place: int) -> Iterator[bytes]:
    """Yield the names and values at an address: a count of pairs, then each text after its length."""
    count = ctypes.c_int32.from_address(place).value
    for _ in range(2 * count):
        place += 4
        size = ctypes.c_int32.from_address(place).value
        yield ctypes.string_at(place + 4, size)
        place += size


def _tree(steps: Iterable[_Step], batch: pa.RecordBatch) -> Node:
    """Return what the steps make, without recursion: a long ``or`` is nested as deep as it is long."""
    open_calls: list[_OpenCall] = [_OpenCall("")]
    waiting = iter(steps)
    for kind, value in waiting:
        text = value.decode()
        if kind == b"call":
            open_calls.append(_OpenCall(text))
        elif kind == b"end":
            done = open_calls.pop().closed(text)
            open_calls[-1].arguments.append(done)
        elif kind == b"options":
            open_calls[-1].column, open_calls[-1].options = int(text), batch.column(int(text))[0]
        elif kind == b"literal":
            open_calls[-1].arguments.append(Literal(batch.column(int(text))[0], int(text)))
        else:
            open_calls[-1].arguments.append(_field(kind, text, waiting))
    (root,) = open_calls
    (tree,) = root.arguments
    return tree


class _OpenCall:
    """A call whose arguments are being read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.arguments: list[Node] = []
        self.options: Any = None
        self.column = -1

    def closed(self, name: str) -> Call:
        """Return the call, with the conditions of a chain of ``and`` or of ``or`` side by side."""
        if name != self.name:
            raise ValueError(f"found the end of {name}, expected that of {self.name}")
        first = self.arguments[0] if self.arguments else None
        if name in _CHAINS and isinstance(first, Call) and first.name == name:
            self.arguments[:1] = first.arguments
        return Call(name, tuple(self.arguments), self.options, self.column)


def _field(kind: bytes, text: str, waiting: Iterator[_Step]) -> Field:
    names = [(kind, text.encode())] if kind != b"nested_field_ref" else [next(waiting) for _ in range(int(text))]
    if any(kind != b"field_ref" for kind, _ in names):
        raise ValueError(f"found {kind!r}, expected a field, a literal or a call")
    return Field(tuple(name.decode() for _, name in names))


def _leaves(tree: Node) -> Iterator[Node]:
    if isinstance(tree, Call):
        for argument in tree.arguments:
            yield from _leaves(argument)
    else:
        yield tree
