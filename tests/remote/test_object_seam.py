"""The seam to stores of objects: what is tried again, what errors say, what is counted, what is not installed."""

from __future__ import annotations

import builtins
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fsspec")

from faulty_store import FaultyStore, url_of
from fsspec.implementations.memory import MemoryFileSystem

from structchunk.remote import objects as objects_module
from structchunk.remote.address import is_url, shown
from structchunk.remote.objects import TRIES, Objects, open_objects, passes
from structchunk.remote.redaction import hidden_in, secrets_of, without

SECRET = "hush-hush-4711"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FaultyStore:
    monkeypatch.setattr(objects_module, "FIRST_DELAY", 0.0)
    return FaultyStore.new()


@pytest.fixture(params=["faulty", "memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path, store: FaultyStore) -> str:
    return url_of(request.param, tmp_path, store)


def test_each_request(url: str) -> None:
    objects = open_objects(url)
    assert objects.names("objects/") == []
    assert not objects.has("objects/a")
    objects.write("objects/a", b"0123456789")
    objects.write("objects/a", b"0123456789abc")
    assert objects.read("objects/a", 13) == b"0123456789abc"
    assert objects.read_range("objects/a", 2, 3) == b"234"
    assert objects.read_range("objects/a", 2, 0) == b""
    assert objects.size("objects/a") == 13
    assert objects.write_new("objects/b", b"1")
    assert objects.write_new("objects/b", b"1")  # it is there, whoever asked twice
    assert not objects.write_new("objects/b", b"2")
    assert objects.read("objects/b") == b"1"
    assert objects.names("objects/") == ["objects/a", "objects/b"]
    objects.delete(["objects/a", "objects/none"])
    assert not objects.has("objects/a")
    with pytest.raises(FileNotFoundError, match=f"cannot read {url}/objects/a") as caught:
        objects.read("objects/a")
    assert caught.value.errno == errno.ENOENT


def test_a_file_appears_whole(tmp_path: Path) -> None:
    """Nobody sees one grow, and nothing is left of one that could not be written."""
    objects = open_objects(f"file://{tmp_path}/published")
    objects.write_new("objects/a", b"1")
    objects.write_new("objects/a", b"2")
    objects.write("objects/b", b"1")
    assert sorted(path.name for path in (tmp_path / "published" / "objects").iterdir()) == ["a", "b"]


def test_what_is_counted(store: FaultyStore) -> None:
    objects = open_objects(store.url)
    objects.write("a", bytes(100))
    objects.read_range("a", 0, 10)
    objects.names("objects/")
    assert (objects.requests, objects.sent, objects.received) == (3, 100, 10)
    assert len(store.log) == 3


# ---------------------------------------------------------------------- what fails


def test_what_passes_is_tried_again(store: FaultyStore) -> None:
    objects = open_objects(store.url)
    store.fail_every = 2
    for number in range(5):
        objects.write(f"objects/{number}", b"x")
        assert objects.read(f"objects/{number}") == b"x"
    assert len(objects.names("objects/")) == 5


def test_a_read_that_is_cut_off_is_tried_again(store: FaultyStore) -> None:
    objects = open_objects(store.url)
    objects.write("a", b"0123456789")
    store.cut_every = 2
    for _ in range(4):
        assert objects.read("a", 10) == b"0123456789"
        assert objects.read_range("a", 2, 4) == b"2345"
    store.cut_every = 1
    with pytest.raises(ConnectionError, match=r"cannot read faulty://.*/a: .*5 bytes came instead of 10"):
        objects.read("a", 10)


def test_a_lost_answer_is_no_refusal(store: FaultyStore) -> None:
    """The object that is there is the one that was written, although the store refuses the second try."""
    objects = open_objects(store.url)
    store.lose_answer_every = 2
    assert objects.write_new("a", b"1")
    assert [request.what for request in store.log] == ["create", "create", "read"]
    assert not objects.write_new("a", b"2")


def test_how_often_it_is_tried(store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(objects_module, "FIRST_DELAY", 1.0)
    monkeypatch.setattr("time.sleep", pauses.append)
    store.fail_every = 1
    with pytest.raises(OSError, match="cannot list") as caught:
        open_objects(store.url).names("objects/")
    assert caught.value.errno == errno.EIO
    assert len(store.log) == TRIES
    waited = [pause for pause in pauses if pause]
    assert len(waited) == TRIES - 1
    assert all(0.5 * 2**number <= pause <= 1.5 * 2**number for number, pause in enumerate(waited))


def test_what_does_not_pass_is_told_at_once(store: FaultyStore) -> None:
    store.refuses = True
    objects = open_objects(store.url)
    with pytest.raises(PermissionError, match="cannot write"):
        objects.write("a", b"")
    assert len(store.log) == 1


class NoCredentialsError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EIO, ""), True),
        (OSError(errno.EBUSY, ""), True),
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (Exception("of a package"), True),
        (OSError(errno.ENOSPC, ""), False),
        (OSError(errno.EINVAL, ""), False),
        (FileNotFoundError(), False),
        (FileExistsError(), False),
        (PermissionError(), False),
        (NotImplementedError(), False),
        (NoCredentialsError(), False),
    ],
)
def test_what_passes(error: Exception, expected: bool) -> None:
    assert passes(error) == expected


def test_mistakes_are_not_hidden(store: FaultyStore) -> None:
    def fail(what: str, name: str) -> None:
        raise ZeroDivisionError

    store.before = fail
    with pytest.raises(OSError, match="ZeroDivisionError"):
        open_objects(store.url).read("a")
    store.before = lambda: None
    with pytest.raises(TypeError):
        open_objects(store.url).read("a")


# ---------------------------------------------------------------------- messages


@pytest.mark.parametrize("fault", ["fail_every", "lose_answer_every", "refuses"])
def test_no_error_tells_a_secret(store: FaultyStore, fault: str) -> None:
    setattr(store, fault, 1)
    objects = open_objects(store.url, {"secret": SECRET})
    calls: list[Callable[[], object]] = [lambda: objects.write("a", b"1"), lambda: objects.write("b", b"1")]
    for call in calls:
        with pytest.raises(OSError, match=r"\*\*\*|host") as caught:
            call()
        assert SECRET not in repr(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/name", "s3://bucket/name"),
        ("https://me:secret@host/a?X-Signature=secret&b=1", "https://host/a"),
        ("cannot GET 'https://host/a?token=secret', status 500", "cannot GET 'https://host/a', status 500"),
        ("filecache::https://me@host/a#b", "filecache::https://host/a"),
        ("what? nothing # at all", "what? nothing # at all"),
    ],
)
def test_urls_are_shown_without_credentials(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_what_is_hidden_in_urls() -> None:
    """Packages tell what they took for the name of a bucket, without the rest of the URL."""
    secrets = secrets_of({"url": hidden_in("s3://me:se%2Fcret@bucket/name?token=a-token&b=1#x")})
    message = without(secrets, "no bucket me:se%2Fcret@bucket, se/cret or a-token, for b")
    assert message == "no bucket ***@bucket, *** or ***, for b"
    assert secrets_of({"url": hidden_in("s3://bucket/name")}) == []


def test_secrets() -> None:
    options = {
        "key": "AKIA-1",
        "client_kwargs": {"endpoint_url": "http://host", "headers": [("a", b"bearer-1")]},
        "anon": False,
        "short": "abc",
    }
    secrets = secrets_of(options)
    assert secrets == ["bearer-1", "AKIA-1"]
    assert without(secrets, "AKIA-1 at http://host with bearer-1") == "*** at http://host with ***"
    assert secrets_of(None) == []


@pytest.mark.parametrize("path", ["s3://a/b", "file:///a", "memory://a", "simplecache::s3://a", "abfs://a@b/c"])
def test_urls(path: str) -> None:
    assert is_url(path)


@pytest.mark.parametrize("path", ["a.sc", "/a/b", "a:b", "C:\\a", "", b"s3://a", Path("s3://a"), "./s3://a"])
def test_paths(path: Any) -> None:
    assert not is_url(path)


# ---------------------------------------------------------------------- what is not installed


def without_package(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    imported = builtins.__import__

    def fail(wanted: str, *rest: Any) -> Any:
        if wanted.partition(".")[0] == name:
            raise ImportError(f"no module named {name}")
        return imported(wanted, *rest)

    monkeypatch.setattr(builtins, "__import__", fail)


def test_without_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    without_package(monkeypatch, "fsspec")
    with pytest.raises(ImportError, match=r"s3://bucket needs fsspec: .*\[remote\]"):
        open_objects("s3://bucket")


def test_without_the_package_of_the_store() -> None:
    """What fsspec says names the package."""
    import fsspec

    fsspec.register_implementation(
        "nostore", "no_such_package.FileSystem", clobber=True, errtxt="Install nostorefs to reach it"
    )
    with pytest.raises(ImportError, match=r"nostore://a needs another package besides fsspec: .*nostorefs"):
        open_objects("nostore://a")


@pytest.mark.parametrize("path", ["plain", "/a/b", "./a.sc"])
def test_what_is_no_url(path: str) -> None:
    with pytest.raises(ValueError, match=f"'{path}' is no URL"):
        open_objects(path)


class WithoutRanges(MemoryFileSystem):
    """A server that knows no ranges, and sends all that there is."""

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        del start, end
        return bytes(super().cat_file(path, **options))


def test_a_server_without_ranges() -> None:
    files = WithoutRanges(skip_instance_cache=True)
    files.pipe_file("/whole/a", bytes(100))
    objects = Objects(files, "/whole", "memory://whole", [])
    assert len(objects.read("a", 100)) == 100
    with pytest.raises(OSError, match=r"memory://whole/a: .*sends whole objects"):
        objects.read_range("a", 10, 20)
    assert objects.requests == 2  # it is not asked again


def test_no_store_that_fsspec_knows() -> None:
    with pytest.raises(ValueError, match=r"fsspec cannot open nothing://host/a: .*nothing"):
        open_objects("nothing://me:secret@host/a?b")
