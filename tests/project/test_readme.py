"""Every README does what it shows, and names files that are there; the top one is read in five minutes."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import structchunk

PACKAGE = Path(structchunk.__path__[0])
ROOT = Path(__file__).parents[2]
FOUND = [*ROOT.glob("*.rst"), *ROOT.glob("[a-z]*/*.rst"), *PACKAGE.glob("*.rst")]
TEXTS = sorted({path.resolve() for path in FOUND})
IDS = [f"{path.parent.name}/{path.name}" for path in TEXTS]
SHOWN = [path for path in TEXTS if ">>> " in path.read_text(encoding="utf-8")]
MOST_LINES = 200
"""Of the top README: what five minutes hold."""
NAMED = re.compile(r"(?<![\w./-])((?:[\w-]+/)*[\w-]+\.(?:py|c|rst|png))\b|``((?:[\w-]+/)+)``")
MADE = {"bench-results/", "build/", "readers/", "map.png", "tables.rst"}
"""What is made where something is run."""


def exists(name: str, text: Path) -> bool:
    """Tell whether a file that a README names is there: beside it, or from the top, or from the package on."""
    return any((start / name).exists() for start in (text.parent, ROOT, PACKAGE.parent, PACKAGE))


def test_both_tours_are_run() -> None:
    assert {ROOT / "README.rst", ROOT / "examples" / "README.rst"} <= set(SHOWN)


@pytest.mark.parametrize("text", SHOWN, ids=[f"{path.parent.name}/{path.name}" for path in SHOWN])
def test_examples(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.testfile(str(text), module_relative=False, optionflags=flags, encoding="utf-8")
    assert tried
    assert not failed


@pytest.mark.parametrize("text", TEXTS, ids=IDS)
def test_files_that_are_named_are_there(text: Path) -> None:
    found = NAMED.findall(text.read_text(encoding="utf-8"))
    named = {file or folder for file, folder in found} - MADE
    assert not {name for name in named if not exists(name, text)}


def test_the_top_one_is_short() -> None:
    assert len((ROOT / "README.rst").read_text(encoding="utf-8").splitlines()) <= MOST_LINES
