"""Values that JSON holds exactly: what attributes may be, and their text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

__all__ = ["as_json", "from_text", "to_text"]

MAX_DEPTH = 64
"""So many lists and dicts may lie in one another: JSON is read and written by recursion."""
MAX_BITS = 8192
"""Python prints no integers of very many digits."""
_ADVICE = {
    "tuple": "JSON has lists only: list(value)",
    "ndarray": "value.tolist() is a list; large arrays belong in a store",
    "bytes": "value.decode() is text; binary data belongs in a store",
    "datetime": "value.isoformat() is text",
}


def as_json(value: Any, where: str, depth: int = 0) -> Any:
    """Return a value as what comes back when its JSON is read, which is equal to it.

    Parameters
    ----------
    value : object
        None, text, a bool, an integer, a finite float, a scalar of NumPy that is one of these; a list of such, or
        a dict of such with text for keys.
    where : str
        Begins the messages.
    depth : int
        In how many lists and dicts it lies.

    Raises
    ------
    TypeError
        JSON has no such type.
    ValueError
        JSON has no such value: NaN, an infinity, half of a surrogate pair; or it is nested very deeply, or a very
        large integer.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"{where}: nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        return {_as_key(key, where): as_json(each, f"{where}[{key!r}]", depth + 1) for key, each in value.items()}
    if isinstance(value, list):
        return [as_json(each, f"{where}[{number}]", depth + 1) for number, each in enumerate(value)]
    return _as_scalar(value, where)


def _as_key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{where}: found the key {key!r}; JSON has only text for keys: str({key!r})")
    return _as_text(key, where)


def _as_scalar(value: Any, where: str) -> Any:
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _as_text(value, where)
    if isinstance(value, int):
        if value.bit_length() > MAX_BITS:
            raise ValueError(f"{where}: found an integer of {value.bit_length()} bits; {MAX_BITS} is the most")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where}: found {value}; JSON has no NaN and no infinities: None, or text")
        return float(value)
    _refuse(value, where)


def _as_text(value: str, where: str) -> str:
    try:
        return value.encode().decode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: found {value!r}, which is no text that UTF-8 has") from error


def _refuse(value: object, where: str) -> NoReturn:
    advice = next((_ADVICE[kind.__name__] for kind in type(value).__mro__ if kind.__name__ in _ADVICE), "")
    expected = "None, text, a number, a bool, or a list or dict of these"
    raise TypeError(f"{where}: found {type(value).__name__}, expected {expected}{advice and f'; {advice}'}")


def to_text(values: Mapping[str, Any]) -> bytes:
    """Return what `as_json` made as UTF-8 text."""
    return json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def from_text(text: bytes) -> dict[str, Any]:
    """Return the JSON object that a text is.

    Raises
    ------
    ValueError
        It is none.
    """
    try:
        found = json.loads(text.decode(), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested very deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"it is a {type(found).__name__}")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it has {name}")
