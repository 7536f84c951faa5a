"""Every exception that structchunk raises on purpose, and what it says of a package that is not installed.

All derive from :class:`Error`; each also derives from the built-in exception that a Python user would
expect in its place, so that ``except KeyError`` works.
"""

from __future__ import annotations

__all__ = [
    "ClosedError",
    "CommitGone",
    "CorruptionError",
    "Error",
    "FailedError",
    "HistoryLost",
    "KeyNotFound",
    "LockedError",
    "MovedError",
    "NotACopy",
    "ReadOnlyError",
    "SchemaError",
    "StoreExists",
    "StoreNotFound",
    "missing_extra",
]


CLOSED = "the database is closed; open it again"


class Error(Exception):
    """Base of every error that structchunk raises on purpose."""

    # KeyError would print the repr of its message; ours are sentences.
    def __str__(self) -> str:
        return Exception.__str__(self)


class KeyNotFound(Error, KeyError):
    """No record has this key."""


class StoreNotFound(Error, KeyError):
    """The database has no store of this name."""


class StoreExists(Error):
    """A store of this name exists, and is of the other kind."""


class SchemaError(Error, TypeError):
    """A type cannot be stored, or is not the type that the store was created with."""


class ClosedError(Error, ValueError):
    """The handle, or the database that it belongs to, was closed (or belongs to the parent of a fork)."""


class CommitGone(Error, LookupError):
    """The commit that something was pickled at is not the latest any more, and no reader keeps it."""


class HistoryLost(Error, LookupError):
    """Changes that were asked for are not in the log any more: start from a snapshot, and follow from there.

    Attributes
    ----------
    upto : int
        The last commit of which changes are gone.
    """

    def __init__(self, what: str, upto: int) -> None:
        super().__init__(
            f"{what}; take a snapshot, start from what it holds, and ask for the changes since its last_commit"
        )
        self.upto = upto

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_lost, (self.args, self.upto)


class ReadOnlyError(Error):
    """A write through a handle that can only read."""


class LockedError(Error):
    """Another process, or another handle of this one, holds the database."""


class MovedError(Error, LookupError):
    """``compact()`` moved a record between finding and reading it: look it up again.

    Users see it only from an iterator of a transaction that goes on after what it reads was taken back, by an abort
    or a savepoint.
    """


class NotACopy(Error, ValueError):
    """What is to be brought forward is not an earlier copy of this database, or was written to since."""


class FailedError(Error):
    """An earlier commit failed half-way: reopen the database to find out how it ended."""


class CorruptionError(Error):
    """Bytes on disk are not what they must be.

    Parameters
    ----------
    path : str
        The file or directory.
    found, expected : str
        What is there, and what must be there.
    offset : int, optional
        Byte offset in the file, where one is known.
    advice : str, optional
        What to do about it.
    """

    def __init__(
        self, path: str, *, found: str, expected: str, offset: int | None = None, advice: str = ""
    ) -> None:
        self.path = path
        self.offset = offset
        self.found = found
        self.expected = expected
        self.advice = advice or "run verify() to see all of the damage"
        where = path if offset is None else f"{path} at byte {offset}"
        super().__init__(f"{where}: found {found}, expected {expected}; {self.advice}")

    def __reduce__(self) -> tuple[object, ...]:
        state = {"path": self.path, "offset": self.offset, "found": self.found}
        return _rebuild_corruption, ({**state, "expected": self.expected, "advice": self.advice},)


def missing_extra(need: str, extra: str) -> ImportError:
    """Return the error for a package that is not installed.

    Parameters
    ----------
    need : str
        What needs which package: "this needs pandas".
    extra : str
        The extra of this distribution that brings it.
    """
    # Not by the distribution's name: on the public package index it belongs to another project.
    return ImportError(f"{need}: in a checkout of structchunk, pip install '.[{extra}]'")


def _rebuild_lost(args: tuple[object, ...], upto: int) -> HistoryLost:
    error = HistoryLost("", upto)
    error.args = args
    return error


def _rebuild_corruption(state: dict[str, object]) -> CorruptionError:
    return CorruptionError(**state)  # type: ignore[arg-type]
