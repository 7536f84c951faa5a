"""The lock: one holder at a time, whatever path leads to the database, in this process and in others."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import count_descriptors, in_child

from structchunk.disk.lock import Lock, is_held
from structchunk.errors import CorruptionError, LockedError

HOLD = """
import sys
from structchunk.disk.lock import Lock
lock = Lock(sys.argv[1])
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "db").mkdir()
    return str(tmp_path / "db" / "lock")


@pytest.fixture
def lock(path: str) -> Iterator[Lock]:
    held = Lock(path)
    yield held
    held.release()


@pytest.fixture
def holder(path: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def other_paths(path: str) -> dict[str, str]:
    directory, name = os.path.split(path)
    parent, last = os.path.split(directory)
    os.symlink(directory, os.path.join(parent, "link"))
    os.link(path, os.path.join(directory, "hard"))
    return {
        "same": path,
        "relative": os.path.relpath(path),
        "dots": os.path.join(directory, "..", last, name),
        "slashes": f"{directory}//{name}",
        "link to the directory": os.path.join(parent, "link", name),
        "hard link": os.path.join(directory, "hard"),
    }


def test_no_second_one_in_this_process_by_any_path(lock: Lock, path: str) -> None:
    before = count_descriptors()
    for kind, other in other_paths(path).items():
        with pytest.raises(LockedError, match="this process has the database open"):
            Lock(other)
            pytest.fail(kind)
    assert count_descriptors() == before


def test_no_second_one_from_another_thread(lock: Lock, path: str) -> None:
    errors: list[Exception] = []

    def attempt() -> None:
        try:
            Lock(path)
        except LockedError as error:
            errors.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert len(errors) == 1


def test_the_file_names_its_holder(lock: Lock, path: str) -> None:
    assert Path(path).read_text() == f"{os.getpid()}\n".ljust(32)


def test_the_message_names_the_other_process(holder: subprocess.Popen[str], path: str) -> None:
    with pytest.raises(LockedError, match=f"process {holder.pid} has the database open"):
        Lock(path)
    assert Path(path).read_text() == f"{holder.pid}\n".ljust(32)


def test_a_killed_process_holds_nothing(holder: subprocess.Popen[str], path: str) -> None:
    holder.kill()
    holder.wait()
    Lock(path).release()


def test_a_failed_attempt_does_not_let_the_lock_go(lock: Lock, path: str) -> None:
    with pytest.raises(LockedError):
        Lock(path)
    with open(path, "rb"):
        pass  # closing another descriptor of the file would end a lock made with lockf()
    code = "import sys; from structchunk.disk.lock import Lock; Lock(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert f"LockedError: {path}: process {os.getpid()} has" in done.stderr


def test_released_it_can_be_had_again(path: str) -> None:
    before = count_descriptors()
    for _ in range(3):
        lock = Lock(path)
        lock.release()
        lock.release()
    assert count_descriptors() == before


def test_release_of_an_old_one_leaves_the_new_one_alone(path: str) -> None:
    old = Lock(path)
    old.release()
    new = Lock(path)
    old.release()
    with pytest.raises(LockedError):
        Lock(path)
    new.release()


def test_a_shorter_pid_replaces_a_longer_one(path: str) -> None:
    Path(path).write_text("12345678901234567890\n")
    lock = Lock(path)
    assert Path(path).read_text() == f"{os.getpid()}\n".ljust(32)
    lock.release()


def test_a_forked_child_is_told_who_has_it(lock: Lock, path: str) -> None:
    assert f"process {os.getpid()} has the database open" in in_child(lambda: Lock(path))


@pytest.mark.parametrize("method", ["release", "disown"])
def test_a_forked_child_cannot_let_it_go(lock: Lock, path: str, method: str) -> None:
    in_child(getattr(lock, method))
    assert f"process {os.getpid()} has" in in_child(lambda: Lock(path))
    with pytest.raises(LockedError):
        Lock(path)


def test_a_child_that_disowned_it_does_not_keep_it(path: str) -> None:
    lock = Lock(path)
    source, sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        lock.disown()
        os.read(source, 1)
        os._exit(0)
    try:
        os.write(sink, b"")
        lock.release()
        wait_for_lock(path).release()
    finally:
        os.write(sink, b"x")
        os.waitpid(pid, 0)
        os.close(source)
        os.close(sink)


def wait_for_lock(path: str) -> Lock:
    """Take a lock that a child is about to let go."""
    for _ in range(500):
        try:
            return Lock(path)
        except LockedError:
            threading.Event().wait(0.01)
    pytest.fail("the child kept the lock")


def test_links_and_pipes_are_refused(tmp_path: Path) -> None:
    before = count_descriptors()
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(CorruptionError, match="symbolic link"):
        Lock(str(tmp_path / "link"))
    assert target.read_text() == "precious"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CorruptionError, match="special file"):
        Lock(str(tmp_path / "pipe"))
    assert count_descriptors() == before


def test_a_fork_while_a_database_is_being_opened(path: str) -> None:
    """Nothing but the lock is known of it yet; the child's copy must not hold it when the parent is done."""
    lock = Lock(path)
    lock.announce(path + ".announced")
    before = count_descriptors()
    source, sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(sink)
        os.read(source, 1)
        os._exit(0)
    os.close(source)
    try:
        lock.release()
        Lock(path).release()
    finally:
        os.close(sink)
        os.waitpid(pid, 0)
    assert count_descriptors() == before - 2


def test_who_comes_again_stands_behind_those_who_wait(path: str) -> None:
    """Nobody gets the lock again and again while another one waits for it."""
    order: list[str] = []

    def take() -> None:
        lock = Lock(path, None)
        order.append("waited")
        lock.release()

    before = count_descriptors()
    for _ in range(10):
        lock = Lock(path)
        waiting = threading.Thread(target=take)
        waiting.start()
        deadline = time.monotonic() + 20
        while not is_held(os.path.dirname(path)):  # which the first of those who wait locks
            assert time.monotonic() < deadline
            time.sleep(0.001)
        lock.release()
        lock = Lock(path, None)
        order.append("came again")
        lock.release()
        waiting.join()
    assert count_descriptors() == before
    assert order == ["waited", "came again"] * 10
