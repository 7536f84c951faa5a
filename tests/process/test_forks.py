"""What is registered is let go in a forked child: the newest first, whatever fails, and nothing that is gone."""

from __future__ import annotations

import gc

import pytest

from structchunk.process import forks


class Owned:
    """Notes its name when it is let go; may raise then."""

    def __init__(self, name: str, calls: list[str], *, fails: bool = False) -> None:
        self._name, self._calls, self._fails = name, calls, fails
        forks.on_fork(self)

    def disown(self) -> None:
        self._calls.append(self._name)
        if self._fails:
            raise RuntimeError(self._name)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave what the package itself has registered alone."""
    monkeypatch.setattr(forks, "_owners", type(forks._owners)())
    monkeypatch.setattr(forks, "_calls", [])


def test_the_newest_go_first_and_modules_last() -> None:
    calls: list[str] = []
    first = Owned("first", calls)
    forks.call_on_fork(lambda: calls.append("module"))
    second = Owned("second", calls)
    forks._disown_all()
    assert calls == ["second", "first", "module"]
    del first, second


def test_one_that_fails_keeps_no_other_from_it() -> None:
    calls: list[str] = []
    owned = [Owned("first", calls), Owned("second", calls, fails=True), Owned("third", calls)]
    with pytest.raises(RuntimeError, match="second"):
        forks._disown_all()
    assert calls == ["third", "second", "first"]
    del owned


def test_nothing_is_kept_alive() -> None:
    calls: list[str] = []
    Owned("gone", calls)
    gc.collect()
    forks._disown_all()
    assert calls == []
