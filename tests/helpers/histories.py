"""What transactions did and saw, and whether one order of them explains it: a checker, as Elle is, for lists.

Each transaction reads whole lists, each under a key, and appends elements to lists; no element is appended twice.
So what was read tells the order of all that was appended. From that follow the edges of a graph of transactions:
*ww*, one has appended just before another; *wr*, one has appended what another saw last; *rw*, one did not yet see
what another appended next. Each process does one after the other (*session*), and who began when another one was
done comes after it (*time*). Where these edges make a cycle no order explains it.

``aborted`` transactions must never be seen; ``unknown`` ones, whose process was killed, may have happened or not.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple, TypeAlias

Element: TypeAlias = int
Key: TypeAlias = Hashable
_AddEdge: TypeAlias = "Callable[[int | None, int | None, str], None]"
"""Adds an edge between two, unless one of them is none."""


class Read(NamedTuple):
    """A list, as it was read."""

    key: Key
    found: tuple[Element, ...]


class Append(NamedTuple):
    """What was appended to a list."""

    key: Key
    element: Element


class Transaction(NamedTuple):
    """What one transaction did, in order; or what one snapshot showed.

    ``outcome`` is ok, aborted or unknown. ``begun`` and ``ended`` are times, of one clock for all processes. What
    was not ``fresh`` may show an older state than that of when it began, but not older than the process has seen.
    """

    name: str
    process: str
    begun: float
    ended: float
    outcome: str
    operations: tuple[Read | Append, ...]
    is_fresh: bool = True


class Anomaly(NamedTuple):
    """What is wrong: of which kind, and where."""

    kind: str
    text: str


def find_anomalies(history: Iterable[Transaction]) -> list[Anomaly]:
    """Return all that is wrong with a history.

    Returns
    -------
    list of Anomaly
        Of these kinds: ``duplicate`` (an element is in a list twice), ``dirty read`` (of what was aborted),
        ``phantom`` (of what nobody appended), ``intermediate read`` (of a part of a transaction), ``internal`` (a
        transaction does not see itself, or sees another state later), ``fork`` (two lists, neither of which begins
        with the other), ``lost update`` (what was acknowledged is not in any list that was read later, or two
        transactions built on the same list), ``write cycle``, ``circular reads``, ``read skew``, ``write skew``,
        ``non-monotonic read``, ``stale read``.
    """
    checker = _Checker(list(history))
    checker.check_reads()
    checker.check_orders()
    if not checker.found:  # else the graph would say the same, less clearly
        checker.check_graph()
    return checker.found


class _Checker:
    def __init__(self, history: list[Transaction]) -> None:
        self.found: list[Anomaly] = []
        self._history = history
        self._by = {
            (done.key, done.element): at
            for at, transaction in enumerate(history)
            for done in transaction.operations
            if isinstance(done, Append)
        }
        self._orders: dict[Key, tuple[Element, ...]] = {}

    def _say(self, kind: str, text: str) -> None:
        self.found.append(Anomaly(kind, text))

    # ------------------------------------------------------------------ one transaction

    def check_reads(self) -> None:
        """Look at each list that was read by itself."""
        for at, transaction in enumerate(self._history):
            seen: dict[Key, tuple[Element, ...]] = {}
            for done in transaction.operations:
                if isinstance(done, Append):
                    if done.key in seen:
                        seen[done.key] = (*seen[done.key], done.element)
                    continue
                self._check_read(at, done)
                expected = seen.get(done.key)
                if expected is not None and expected != done.found:
                    self._say("internal", f"{transaction.name} saw {_short(done)}, and should {_tail(expected)}")
                seen[done.key] = done.found

    def _check_read(self, at: int, read: Read) -> None:
        name = self._history[at].name
        if len(set(read.found)) < len(read.found):
            self._say("duplicate", f"{name} saw {_short(read)}")
        for element in read.found:
            by = self._by.get((read.key, element))
            if by is None:
                self._say("phantom", f"{name} saw {element} under {read.key}, which nobody appended")
            elif self._history[by].outcome == "aborted" and by != at:
                self._say("dirty read", f"{name} saw {element} under {read.key}, of {self._history[by].name}")
        last = self._by.get((read.key, read.found[-1])) if read.found else None
        if last is not None and last != at:
            appended = _appended(self._history[last], read.key)
            if appended[-1] != read.found[-1]:
                self._say("intermediate read", f"{name} saw {_short(read)}, of {self._history[last].name}")

    # ------------------------------------------------------------------ one list

    def check_orders(self) -> None:
        """Find in which order each list was appended to."""
        reads: dict[Key, list[tuple[str, Read]]] = defaultdict(list)
        for transaction in self._history:
            if transaction.outcome == "aborted":
                continue
            appended: set[Key] = set()
            for done in transaction.operations:
                if isinstance(done, Append):
                    appended.add(done.key)
                elif done.key not in appended or transaction.outcome == "ok":
                    reads[done.key].append((transaction.name, done))
        for key, found in reads.items():
            longest = max((read for _, read in found), key=lambda read: len(read.found)).found
            self._orders[key] = longest
            for name, read in found:
                if read.found != longest[: len(read.found)]:
                    self._say("fork", f"{name} saw {_short(read)}, and somebody {_tail(longest)}")
        self._check_acknowledged(reads)

    def _check_acknowledged(self, reads: Mapping[Key, list[tuple[str, Read]]]) -> None:
        """What was acknowledged must be in the list, if that was read later."""
        latest: dict[Key, float] = defaultdict(lambda: float("-inf"))
        for transaction in self._history:
            if transaction.outcome == "ok" and transaction.is_fresh:
                for done in transaction.operations:
                    if isinstance(done, Read):
                        latest[done.key] = max(latest[done.key], transaction.begun)
        sets = {key: set(order) for key, order in self._orders.items()}
        for transaction in self._history:
            if transaction.outcome == "ok":
                for done in transaction.operations:
                    is_read = isinstance(done, Append) and latest[done.key] > transaction.ended
                    if is_read and done.element not in sets[done.key]:
                        self._say("lost update", f"{done.element} of {transaction.name} under {done.key} is lost")

    # ------------------------------------------------------------------ the graph

    def check_graph(self) -> None:
        """Find cycles."""
        edges = self._edges()
        for component in _components(edges):
            cycle = _shortest_cycle(edges, component)
            kinds = [edges[first][second] for first, second in _pairs(cycle)]
            names = [self._history[at].name if at < len(self._history) else "later" for at in cycle]
            path = " ".join(f"{name} -{kind}->" for name, kind in zip(names, kinds, strict=True))
            self._say(self._kind_of(cycle, kinds), f"{path} {names[0]}")

    def _kind_of(self, cycle: list[int], kinds: list[str]) -> str:
        if "time" in kinds:
            return "stale read"
        if "session" in kinds:
            return "non-monotonic read"
        reads = kinds.count("rw")
        if not reads:
            return "circular reads" if "wr" in kinds else "write cycle"
        if reads > 1:
            return "write skew"
        return "lost update" if "wr" not in kinds and len(cycle) == 2 else "read skew"

    def _edges(self) -> dict[int, dict[int, str]]:
        """Return for each transaction which ones come after it, and why; time goes by further nodes."""
        edges: dict[int, dict[int, str]] = defaultdict(dict)

        def add(first: int | None, second: int | None, kind: str) -> None:
            if first is not None and second is not None and first != second:
                edges[first].setdefault(second, kind)

        places = {key: {element: at for at, element in enumerate(order)} for key, order in self._orders.items()}
        for key, order in self._orders.items():
            for element, following in pairwise(order):
                add(self._by[key, element], self._by[key, following], "ww")
        for at, transaction in enumerate(self._history):
            if transaction.outcome == "ok":
                for read in _first_reads(transaction):
                    order = self._orders[read.key]
                    if read.found:
                        add(self._by[read.key, read.found[-1]], at, "wr")
                    following = places[read.key][read.found[-1]] + 1 if read.found else 0
                    if following < len(order):
                        add(at, self._by[read.key, order[following]], "rw")
        self._add_sessions(add)
        self._add_times(add)
        return edges

    def _happened(self) -> list[int]:
        """Return those that have happened for sure, by when they began."""
        seen = {self._by[key, element] for key, order in self._orders.items() for element in order}
        happened = [at for at, it in enumerate(self._history) if it.outcome == "ok" or at in seen]
        return sorted(happened, key=lambda at: self._history[at].begun)

    def _add_sessions(self, add: _AddEdge) -> None:
        last: dict[str, int] = {}
        for at in self._happened():
            process = self._history[at].process
            add(last.get(process), at, "session")
            last[process] = at

    def _add_times(self, add: _AddEdge) -> None:
        """Add a chain of nodes, one for each end of a transaction: who began later comes after it."""
        happened = self._happened()
        ends = sorted((self._history[at].ended, at) for at in happened if self._history[at].outcome == "ok")
        node = passed = len(self._history)
        waiting = deque(ends)
        for at in happened:
            while waiting and waiting[0][0] < self._history[at].begun:
                _, ended = waiting.popleft()
                add(passed if passed < node else None, node, "time")
                add(ended, node, "time")
                passed, node = node, node + 1
            if self._history[at].is_fresh and passed < node:
                add(passed, at, "time")


def _appended(transaction: Transaction, key: Key) -> list[Element]:
    return [done.element for done in transaction.operations if isinstance(done, Append) and done.key == key]


def _first_reads(transaction: Transaction) -> Iterator[Read]:
    """Yield what a transaction read of what others did: not what it has appended to before."""
    known = set()
    for done in transaction.operations:
        if isinstance(done, Read) and done.key not in known:
            yield done
        known.add(done.key)


def _short(read: Read) -> str:
    return f"{_tail(read.found)} under {read.key}"


def _tail(elements: tuple[Element, ...]) -> str:
    return f"{list(elements)}" if len(elements) < 7 else f"[... {len(elements) - 6} more, {list(elements[-6:])}]"


def _pairs(cycle: list[int]) -> list[tuple[int, int]]:
    return list(zip(cycle, [*cycle[1:], cycle[0]], strict=True))


def _components(edges: Mapping[int, Mapping[int, str]]) -> list[set[int]]:
    """Return the strongly connected components of more than one node: Tarjan's algorithm, without recursion."""
    numbers: dict[int, int] = {}
    lows: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found = []
    for root in list(edges):
        if root in numbers:
            continue
        work = [(root, iter(edges.get(root, ())))]
        numbers[root] = lows[root] = len(numbers)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, following = work[-1]
            for other in following:
                if other not in numbers:
                    numbers[other] = lows[other] = len(numbers)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(edges.get(other, ()))))
                    break
                if other in on_stack:
                    lows[node] = min(lows[node], numbers[other])
            else:
                work.pop()
                if work:
                    lows[work[-1][0]] = min(lows[work[-1][0]], lows[node])
                if lows[node] == numbers[node]:
                    component = set()
                    while node not in component:
                        component.add(stack.pop())
                    on_stack -= component
                    if len(component) > 1:
                        found.append(component)
    return found


def _shortest_cycle(edges: Mapping[int, Mapping[int, str]], component: set[int]) -> list[int]:
    """Return a cycle in a component: a shortest one, by edges of reads and writes alone if there is one."""
    for left_out in (("time", "session"), ("time",), ()):
        graph = {at: {to: kind for to, kind in edges[at].items() if kind not in left_out} for at in component}
        cycles = [cycle for start in sorted(component)[:200] if (cycle := _cycle_from(graph, component, start))]
        if cycles:
            return min(cycles, key=len)
    raise AssertionError("unreachable: it is strongly connected")


def _cycle_from(edges: Mapping[int, Mapping[int, str]], component: set[int], start: int) -> list[int]:
    """Return the shortest cycle through a node, or nothing."""
    before = {start: start}
    waiting = deque([start])
    while waiting:
        node = waiting.popleft()
        for other in edges.get(node, ()):
            if other == start:
                path = [node]
                while path[-1] != start:
                    path.append(before[path[-1]])
                return path[::-1]
            if other in component and other not in before:
                before[other] = node
                waiting.append(other)
    return []
