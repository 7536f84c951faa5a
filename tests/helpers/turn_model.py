"""The protocol of writers that take turns, and of those who follow them, as a small explicit-state model.

Each commit appends one part to each of two chunks. Any step may be the last one of its process, and at any moment
the power may fail: what was not flushed is there then or not, or there without its data, and so is the tail page.
After a flush that failed, what was to be flushed may be gone. ``Rules`` are those of the protocol; each can be
dropped.

Checked are: what was acknowledged is there, whole, and once; nobody sees what is lost though the power did not
fail; no number is published twice in an epoch; who follows comes to what is published.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias


class Broken(Exception):
    """The protocol does not keep what it promises."""


class Rules(NamedTuple):
    """The rules of the protocol.

    Attributes
    ----------
    mark
        ``committing`` is set before anything is appended, and who finds it set recovers.
    alone
        Who has not seen the page in a turn yet, and finds nobody alive, recovers.
    epoch
        Recovery begins the next epoch.
    checkpoint
        Recovery brings all to disk before it writes the page.
    flush_all
        A durable commit flushes all commits that are not durable, not just itself.
    flush_first
        It is published after that.
    published
        Nobody follows beyond ``published``.
    all_parts
        A commit counts only with all its parts.
    lineage
        Who finds another lineage on the page takes a clone.
    reader_alone
        Who begins to follow while nobody is alive does not rely on the page.
    """

    mark: bool = True
    alone: bool = True
    epoch: bool = True
    checkpoint: bool = True
    flush_all: bool = True
    flush_first: bool = True
    published: bool = True
    all_parts: bool = True
    lineage: bool = True
    reader_alone: bool = True


class Part(NamedTuple):
    """What a commit has appended to one chunk: ``what`` tells commits apart, whatever their number."""

    epoch: int
    what: int
    is_sound: bool = True


class Page(NamedTuple):
    """The tail page."""

    epoch: int
    base: int
    published: int
    durable: int
    committing: int


class Writer(NamedTuple):
    """A process that takes turns: what it does next, and whether it is alive for those who ask."""

    step: str = "idle"
    is_alive: bool = False
    number: int = 0
    what: int = 0
    sync: bool = False


class Reader(NamedTuple):
    """A process that follows: the lineage that it follows, and what it has seen."""

    lineage: tuple[int, int] | None = None
    seen: tuple[int, ...] = ()


Parts: TypeAlias = "tuple[Part | None, Part | None]"
Log: TypeAlias = tuple[Parts, ...]
NOTHING: Parts = (None, None)


class State(NamedTuple):
    """Everything. ``cache`` is what processes see, ``disk`` what survives a power cut for sure.

    ``acknowledged`` has for each number the commit that must be there, ``used`` what was published in which epoch.
    ``kills``, ``cuts``, ``failures`` and ``commits`` say how many more there may be.
    """

    cache: Log
    disk: Log
    page: Page | None
    old_page: Page | None
    epoch: int
    checkpoint: int
    holder: int
    writers: tuple[Writer, ...]
    reader: Reader
    acknowledged: tuple[tuple[int, bool], ...]
    used: frozenset[tuple[int, int, int]]
    next_what: int
    commits: int
    kills: int
    cuts: int
    failures: int


def first_state(*, writers: int, commits: int, kills: int, cuts: int, failures: int) -> State:
    """Return an empty database that nobody has open."""
    empty: Log = (NOTHING,) * (commits + 1)
    return State(
        empty,
        empty,
        Page(1, 0, 0, 0, 0),
        None,
        1,
        0,
        -1,
        (Writer(),) * writers,
        Reader(),
        (),
        frozenset(),
        1,
        commits,
        kills,
        cuts,
        failures,
    )


# ---------------------------------------------------------------------- the log


def last_good(state: State, rules: Rules, *, upto: int | None = None) -> int:
    """Return the last commit that is whole, and all before it too, after the checkpoint."""
    good = state.checkpoint
    while good < len(state.cache) and good != upto and _is_good(state.cache[good], state.epoch, rules):
        good += 1
    return good


def _is_good(parts: Parts, epoch: int, rules: Rules) -> bool:
    found = [part for part in parts if part is not None]
    if rules.all_parts and len(found) < len(parts):
        return False
    return bool(found) and all(part.epoch == epoch and part.is_sound for part in found)


def contents(log: Log, last: int) -> tuple[int, ...]:
    """Return which commits a log has."""
    found = []
    for parts in log[:last]:
        whats = {None if part is None else part.what for part in parts}
        if len(whats) > 1:
            raise Broken("half a commit")
        if any(part is not None and not part.is_sound for part in parts):
            raise Broken("a commit without its data")
        found.append(whats.pop() or 0)
    return tuple(found)


def _put(log: Log, number: int, chunk: int, part: Part | None) -> Log:
    parts = list(log[number - 1])
    parts[chunk] = part
    return (*log[: number - 1], (parts[0], parts[1]), *log[number:])


# ---------------------------------------------------------------------- steps


def steps(state: State, rules: Rules) -> Iterator[State]:
    """Yield all that may be next."""
    for number, writer in enumerate(state.writers):
        yield from _write(state, rules, number, writer)
        if state.kills and (writer.is_alive or writer.step != "idle"):
            yield _ended(state, number)._replace(kills=state.kills - 1)
    yield _read(state, rules)
    if state.cuts:
        yield from _cut_power(state)


def _set(state: State, number: int, writer: Writer) -> State:
    return state._replace(writers=(*state.writers[:number], writer, *state.writers[number + 1 :]))


def _write_page(state: State, page: Page) -> State:
    return state._replace(page=page, old_page=state.page)


def _ended(state: State, number: int) -> State:
    """Return what is when a writer has gone; another process may come in its place."""
    holder = -1 if state.holder == number else state.holder
    return _set(state, number, Writer())._replace(holder=holder)


def _write(state: State, rules: Rules, number: int, writer: Writer) -> Iterator[State]:
    if writer.step == "idle":
        if state.holder < 0:
            yield _set(state, number, writer._replace(step="look"))._replace(holder=number)
    else:
        yield from STEPS[writer.step](state, rules, number, writer)


def _look(state: State, rules: Rules, number: int, writer: Writer) -> Iterator[State]:
    page = state.page
    others = any(other.is_alive for at, other in enumerate(state.writers) if at != number)
    is_known = writer.is_alive or others or not rules.alone
    if page is None or not is_known or (rules.mark and page.committing):
        yield _set(state, number, writer._replace(step="recover"))
    else:
        yield _set(state, number, writer._replace(step="begin", is_alive=True))


def _recover(state: State, rules: Rules, number: int, writer: Writer) -> Iterator[State]:
    good = last_good(state, rules)
    found = contents(state.cache, good)
    for at, (what, _) in enumerate(state.acknowledged):
        if at >= good or found[at] != what:
            raise Broken("an acknowledged commit is lost")
    if state.reader.seen != found[: len(state.reader.seen)]:
        raise Broken("a commit is lost that somebody has seen")
    cache = state.cache
    if good < len(cache):
        cache = (*cache[:good], NOTHING, *cache[good + 1 :])
    state = state._replace(cache=cache, epoch=state.epoch + rules.epoch)
    if rules.checkpoint:
        state = state._replace(disk=cache, checkpoint=good)
    yield _set(state, number, writer._replace(step="rewrite", number=good))


def _rewrite(state: State, rules: Rules, number: int, writer: Writer) -> Iterator[State]:
    good = writer.number
    state = _write_page(state, Page(state.epoch, good, good, good, 0))
    yield _set(state, number, writer._replace(step="begin", is_alive=True))


def _begin(state: State, rules: Rules, number: int, writer: Writer) -> Iterator[State]:
    """Follow to what is published; mark the page. Or do nothing in this turn."""
    assert state.page is not None
    yield _set(state, number, writer._replace(step="idle"))._replace(holder=-1)
    if not state.commits:
        return
    mine = state.page.published + 1
    marked = _write_page(state, state.page._replace(committing=mine)) if rules.mark else state
    marked = marked._replace(next_what=state.next_what + 1, commits=state.commits - 1)
    for sync in (False, True):
        yield _set(marked, number, writer._replace(step="append", number=mine, what=state.next_what, sync=sync))


def _append(state: State, rules: Rules, number: int, writer: Writer) -> Iterator[State]:
    part = Part(state.page.epoch if state.page else 0, writer.what)
    state = state._replace(cache=_put(state.cache, writer.number, 0, part))
    yield _set(state, number, writer._replace(step="append more"))


def _append_more(state: State, rules: Rules, number: int, writer: Writer) -> Iterator[State]:
    part = Part(state.page.epoch if state.page else 0, writer.what)
    state = state._replace(cache=_put(state.cache, writer.number, 1, part))
    following = "flush" if writer.sync and rules.flush_first else "publish"
    yield _set(state, number, writer._replace(step=following))


def _flush(state: State, rules: Rules, number: int, writer: Writer) -> Iterator[State]:
    assert state.page is not None
    first = state.page.durable if rules.flush_all else writer.number - 1
    disk = (*state.disk[:first], *state.cache[first : writer.number], *state.disk[writer.number :])
    following = "publish" if rules.flush_first else "acknowledge"
    yield _set(state._replace(disk=disk), number, writer._replace(step=following))
    if state.failures:
        failed = _set(state, number, writer._replace(step="idle"))._replace(holder=-1, failures=state.failures - 1)
        for lost in ((), (0,), (1,), (0, 1)):
            cache = failed.cache
            for chunk in lost:
                cache = _put(cache, writer.number, chunk, None)
            yield failed._replace(cache=cache)


def _publish(state: State, rules: Rules, number: int, writer: Writer) -> Iterator[State]:
    assert state.page is not None
    mine, epoch = writer.number, state.page.epoch
    if any(used[:2] == (epoch, mine) and used[2] != writer.what for used in state.used):
        raise Broken("a number is used twice in one epoch")
    durable = mine if writer.sync and rules.flush_first else state.page.durable
    committing = 0 if rules.flush_first or not writer.sync else mine
    page = state.page._replace(published=mine, durable=durable, committing=committing)
    state = _write_page(state, page)._replace(used=state.used | {(epoch, mine, writer.what)})
    following = "acknowledge" if rules.flush_first or not writer.sync else "flush"
    yield _set(state, number, writer._replace(step=following))


def _acknowledge(state: State, rules: Rules, number: int, writer: Writer) -> Iterator[State]:
    assert state.page is not None
    if len(state.acknowledged) > writer.number - 1:
        raise Broken("an acknowledged commit is replaced")
    # One that was published and not acknowledged when its process ended stays for good.
    between = contents(state.cache, writer.number - 1)[len(state.acknowledged) :]
    acknowledged = (
        *state.acknowledged,
        *((what, False) for what in between),
        (writer.what, writer.sync),
    )
    state = _write_page(state, state.page._replace(committing=0))._replace(acknowledged=acknowledged)
    yield _set(state, number, writer._replace(step="idle"))._replace(holder=-1)


STEPS = {
    "look": _look,
    "recover": _recover,
    "rewrite": _rewrite,
    "begin": _begin,
    "append": _append,
    "append more": _append_more,
    "flush": _flush,
    "publish": _publish,
    "acknowledge": _acknowledge,
}


# ---------------------------------------------------------------------- who follows, and power cuts


def _read(state: State, rules: Rules) -> State:
    """Follow the log, or take a clone, which reads the log since the checkpoint."""
    page, reader = state.page, state.reader
    is_alive = any(writer.is_alive for writer in state.writers) or not rules.reader_alone
    lineage = None if page is None else (page.epoch, page.base)
    if page is not None and reader.lineage is not None and (lineage == reader.lineage or not rules.lineage):
        upto = page.published if rules.published else len(state.cache)
        last = len(reader.seen)
        while last < upto and _can_follow(state.cache[last], page.epoch, rules):
            last += 1
        if last < page.published:
            raise Broken("who follows does not come to what is published")
        seen = contents(state.cache, last)
        if seen[: len(reader.seen)] != reader.seen:
            raise Broken("what somebody has seen was replaced")
        return state._replace(reader=reader._replace(seen=seen))
    upto = None
    if page is not None and is_alive:
        upto = max(page.published, state.checkpoint)
    good = last_good(state, rules, upto=upto)
    mine = lineage if is_alive else None
    if not rules.reader_alone and page is not None:
        good = max(good, min(page.published, len(state.cache)))
    return state._replace(reader=Reader(mine, contents(state.cache, good)))


def _can_follow(parts: Parts, epoch: int, rules: Rules) -> bool:
    found = [part for part in parts if part is not None]
    return bool(found) and (len(found) == len(parts) or not rules.all_parts) and found[0].epoch == epoch


def _cut_power(state: State) -> Iterator[State]:
    """Yield what a power cut may leave: all processes have ended."""
    lost = [
        (number, chunk)
        for number, (mine, sure) in enumerate(zip(state.cache, state.disk, strict=True), 1)
        for chunk in (0, 1)
        if mine[chunk] != sure[chunk]
    ]
    floor = max((at for at, (_, sync) in enumerate(state.acknowledged, 1) if sync), default=0)
    floor = max(floor, min(state.checkpoint, len(state.acknowledged)))
    for kept in itertools.product(("old", "new", "hollow"), repeat=len(lost)):
        cache = state.cache
        for (number, chunk), how in zip(lost, kept, strict=True):
            part = state.cache[number - 1][chunk]
            if how == "old":
                cache = _put(cache, number, chunk, state.disk[number - 1][chunk])
            elif how == "hollow" and part is not None:
                cache = _put(cache, number, chunk, part._replace(is_sound=False))
        for page in {state.page, state.old_page, None}:
            yield state._replace(
                cache=cache,
                disk=cache,
                page=page,
                old_page=None,
                holder=-1,
                writers=(Writer(),) * len(state.writers),
                reader=Reader(),
                acknowledged=state.acknowledged[:floor],
                cuts=state.cuts - 1,
            )


# ---------------------------------------------------------------------- exploring


def explore(first: State, rules: Rules, most: int) -> int:
    """Go through all states that can be reached, and return how many; stop at the first promise that is broken."""
    seen = {first}
    fresh = [first]
    while fresh:
        state = fresh.pop()
        for following in steps(state, rules):
            if following not in seen:
                seen.add(following)
                fresh.append(following)
        if len(seen) > most:
            raise AssertionError(f"more than {most} states")
    return len(seen)


def walk(first: State, rules: Rules, rng: random.Random, length: int) -> None:
    """Take steps at random; stop at the first promise that is broken."""
    state = first
    for _ in range(length):
        following: Iterable[State] = [after for after in steps(state, rules) if after != state]
        if not following:
            return
        # A power cut leaves so many states that else there would be nothing but cuts.
        cut, other = [], []
        for after in following:
            (cut if after.cuts < state.cuts else other).append(after)
        state = rng.choice(cut if cut and (rng.random() < 0.05 or not other) else other)
