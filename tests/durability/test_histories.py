"""What processes did and saw has one order that explains it: the checker of that, and such processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from histories import Append, Read, Transaction, find_anomalies
from history_run import history_of

ROOT = Path(__file__).parents[2]


def done(name: str, *operations: Read | Append, at: float = 0, upto: float = 0, **other: object) -> Transaction:
    """Return a transaction of a process of its own; without times it goes on beside all others."""
    process = str(other.get("process", name))
    ended = upto or (at or 100)
    return Transaction(
        name, process, at, ended, str(other.get("outcome", "ok")), operations, bool(other.get("is_fresh", True))
    )


def read(key: str, *found: int) -> Read:
    return Read(key, found)


def kinds(*history: Transaction) -> set[str]:
    return {anomaly.kind for anomaly in find_anomalies(history)}


# ---------------------------------------------------------------------- the checker


def test_a_serial_history_is_fine() -> None:
    history = [
        done("a", read("x"), Append("x", 1), read("x", 1), at=1, upto=2),
        done("b", read("x", 1), Append("x", 2), Append("y", 3), at=3, upto=4),
        done("c", read("x", 1, 2), read("y", 3), at=5, upto=6),
        done("d", Append("y", 4), at=5, upto=6, outcome="aborted"),
        done("e", Append("y", 5), at=5, upto=6, outcome="unknown"),
        done("f", Append("y", 6), at=5, upto=6, outcome="unknown"),
        done("g", read("y", 3, 6), at=7, upto=8),
        done("h", read("y", 3), at=9, upto=10, is_fresh=False),
    ]
    assert find_anomalies(history) == []


def test_what_goes_on_at_once_may_come_in_any_order() -> None:
    first, second = Append("x", 1), Append("x", 2)
    history = [
        done("a", first, at=1, upto=9),
        done("b", second, at=2, upto=3),
        done("c", read("x", 2), at=4, upto=5),
    ]
    assert find_anomalies([*history, done("d", read("x", 2, 1), at=10, upto=11)]) == []


def test_duplicate() -> None:
    assert "duplicate" in kinds(done("a", Append("x", 1)), done("b", read("x", 1, 1)))


def test_phantom() -> None:
    assert kinds(done("a", read("x", 7))) == {"phantom"}


def test_dirty_read() -> None:
    assert kinds(done("a", Append("x", 1), outcome="aborted"), done("b", read("x", 1))) == {"dirty read"}


def test_intermediate_read() -> None:
    assert "intermediate read" in kinds(done("a", Append("x", 1), Append("x", 2)), done("b", read("x", 1)))


@pytest.mark.parametrize("later", [read("x"), read("x", 2), read("x", 2, 1, 3)])
def test_a_transaction_that_does_not_see_itself(later: Read) -> None:
    history = [done("b", Append("x", 2)), done("c", Append("x", 3)), done("a", read("x", 2), Append("x", 1), later)]
    assert "internal" in kinds(*history)


def test_a_snapshot_that_changes() -> None:
    assert "internal" in kinds(done("a", Append("x", 1)), done("b", read("x"), read("x", 1)))


def test_fork() -> None:
    history = [done("a", Append("x", 1)), done("b", Append("x", 2))]
    assert kinds(*history, done("c", read("x", 1, 2)), done("d", read("x", 2))) == {"fork"}


def test_an_acknowledged_append_that_is_lost() -> None:
    history = [done("a", Append("x", 1), at=1, upto=2), done("b", Append("x", 2), at=3, upto=4)]
    assert kinds(*history, done("c", read("x", 2), at=5, upto=6)) == {"lost update"}


def test_two_that_build_on_the_same_list() -> None:
    history = [done("a", read("x"), Append("x", 1)), done("b", read("x"), Append("x", 2))]
    assert kinds(*history, done("c", read("x", 1, 2))) == {"lost update"}


def test_write_cycle() -> None:
    history = [done("a", Append("x", 1), Append("y", 1)), done("b", Append("x", 2), Append("y", 2))]
    assert kinds(*history, done("c", read("x", 1, 2)), done("d", read("y", 2, 1))) == {"write cycle"}


def test_circular_reads() -> None:
    history = [done("a", Append("x", 1), read("y", 2)), done("b", Append("y", 2), read("x", 1))]
    assert kinds(*history) == {"circular reads"}


def test_a_reader_that_sees_half_a_commit() -> None:
    history = [
        done("a", Append("x", 1), Append("y", 1)),
        done("b", read("x", 1), read("y")),
        done("c", read("y", 1)),
    ]
    assert kinds(*history) == {"read skew"}


def test_write_skew() -> None:
    history = [done("a", read("x"), Append("y", 1)), done("b", read("y"), Append("x", 2))]
    assert kinds(*history, done("c", read("x", 2), read("y", 1))) == {"write skew"}


def test_two_readers_that_disagree_on_the_order() -> None:
    history = [done("a", Append("x", 1)), done("b", Append("y", 2))]
    assert kinds(*history, done("c", read("x", 1), read("y")), done("d", read("x"), read("y", 2))) == {"write skew"}


def test_non_monotonic_read() -> None:
    late = [
        done("b", read("x", 1), at=3, upto=4, process="reader", is_fresh=False),
        done("c", read("x"), at=5, upto=6, process="reader", is_fresh=False),
    ]
    assert kinds(done("a", Append("x", 1), at=1, upto=9), *late) == {"non-monotonic read"}


def test_stale_read() -> None:
    stale = done("b", read("x"), at=3, upto=4)
    seen = done("c", read("x", 1), at=1.5, upto=9)
    assert kinds(done("a", Append("x", 1), at=1, upto=2), stale, seen) == {"stale read"}
    assert kinds(done("a", Append("x", 1), at=1, upto=2), stale._replace(is_fresh=False), seen) == set()


def test_writers_out_of_the_order_of_time() -> None:
    history = [done("a", Append("x", 1), at=1, upto=2), done("b", Append("x", 2), at=3, upto=4)]
    assert kinds(*history, done("c", read("x", 2, 1), at=5, upto=6)) == {"stale read"}


def test_what_an_unknown_one_appended_stays() -> None:
    history = [done("a", Append("x", 1), at=1, outcome="unknown"), done("b", read("x", 1), at=2, upto=3)]
    assert find_anomalies(history) == []
    assert kinds(*history, done("c", read("x"), at=4, upto=5)) == {"stale read"}


# ---------------------------------------------------------------------- processes


@pytest.mark.timeout(0)
def test_processes(seed: int, budget: float) -> None:
    command = [sys.executable, "tests/helpers/history_run.py", f"{4 * budget}", f"{seed}"]
    end = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120 + 5 * budget, check=False)
    print(end.stdout)
    assert end.returncode == 0, end.stdout + end.stderr


def test_a_line_that_a_kill_has_cut_short_is_none(tmp_path: Path) -> None:
    begun = json.dumps(["begin", 1, 0.5, [["a", 1, 7]], False]) + "\n"
    (tmp_path / "log-1").write_text(begun + json.dumps(["end", 1, 0.6, [None]]) + "\n" + begun[:30])
    (transaction,) = history_of(str(tmp_path))
    assert transaction.outcome == "ok"
