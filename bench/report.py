"""Results as text and as JSON, with all that is needed to judge them."""

from __future__ import annotations

import importlib
import json
import os
import platform
import sqlite3
import statistics
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.runner import Contest, Results, Times
from bench.workloads import suite_of
from structchunk.index.leveldb import plyvel

Facts = Mapping[str, Mapping[str, str]]
Played = Iterable[tuple[Contest, Results]]


def machine() -> dict[str, str]:
    """Describe what this runs on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Version of every package that takes part."""
    return {package: _version(package) for package in sorted({"numpy", plyvel.__name__, *packages} - {"python"})}


def _version(package: str) -> str:
    if package == "sqlite3":
        return sqlite3.sqlite_version
    try:
        return version(package)
    except PackageNotFoundError:
        return f"not installed, imported from {importlib.import_module(package).__path__[0]}"


def ratios(times: Mapping[str, Times], reference: str) -> dict[str, float]:
    """Median over the rounds of each peer's time per operation by the reference's in the same round."""
    if reference not in times:
        return {}
    base = times[reference]
    return {
        name: statistics.median(
            (mine / peer.count) / (theirs / base.count)
            for mine, theirs in zip(peer.seconds, base.seconds, strict=True)
        )
        for name, peer in times.items()
    }


def heading(facts: Facts) -> str:
    """Format what is known before the run."""
    lines = (", ".join(f"{name} {value}" for name, value in known.items()) for known in facts.values())
    return "\n".join(f"{title}: {line}" for title, line in zip(facts, lines, strict=True))


# ---------------------------------------------------------------------- tables


def matrix(contest: Contest, results: Results) -> str:
    """Format one line for each workload: the reference's time, and how many times as long peers take."""
    reference, *others = contest.peers
    lines = [
        f"\n{contest.title}: time of {reference} per record, and how many times as long the others take\n",
        f"  {'':14}{reference:>11}{'spread':>8}" + "".join(f"{name:>{_width(name)}}" for name in others),
    ]
    for workload in suite_of(contest.data).workloads:
        times = results.times.get(workload.name, {})
        if reference in times:
            ratio = ratios(times, reference)
            cells = "".join(f"{_times(ratio.get(name)):>{_width(name)}}" for name in others)
            own = f"{duration(times[reference].each):>11}{_spread(times[reference]):>8}"
            lines.append(f"  {workload.name:14}{own}{cells}")
    return "\n".join([*lines, _disk(contest, results)])


def _disk(contest: Contest, results: Results) -> str:
    reference, *others = contest.peers
    own = results.disk[reference]
    cells = (f"{_times(results.disk[name] / own if name in results.disk else None)}" for name in others)
    filled = "".join(f"{cell:>{_width(name)}}" for cell, name in zip(cells, others, strict=True))
    return f"  {'disk':14}{own:>9,.0f} B{'':8}{filled}"


def _width(name: str) -> int:
    return max(len(name), 7) + 2


def _times(ratio: float | None) -> str:
    if ratio is None:
        return "n/a"
    return f"{ratio:.3g}x" if ratio < 1000 else f"{ratio:,.0f}x"


def _spread(times: Times) -> str:
    least, most = times.spread
    return f"±{50 * (most - least) / times.each:.0f}%"


def details(contest: Contest, results: Results) -> str:
    """Format a table for each workload, with every peer's times."""
    return "\n".join(_details(contest, results))


def _details(contest: Contest, results: Results) -> Iterator[str]:
    reference = next(iter(contest.peers))
    yield f"\n{contest.title}, {len(contest.data.keys):,} records"
    for workload in suite_of(contest.data).workloads:
        times = results.times.get(workload.name, {})
        if times:
            ratio = ratios(times, reference)
            yield f"\n{workload.name}: {workload.what}"
            yield f"  {'':16}{'operations':>11}{'median, each':>14}{'min':>10} .. {'max':<10}{'ratio':>9}"
            for name in contest.peers:
                yield _detail(name, times.get(name), ratio.get(name))


def _detail(name: str, times: Times | None, ratio: float | None) -> str:
    if times is None:
        return f"  {name:16}{'n/a':>11}"
    least, most = times.spread
    return (
        f"  {name:16}{times.count:>11,}{duration(times.each):>14}"
        f"{duration(least):>10} .. {duration(most):<10}{_times(ratio):>9}"
    )


def rst(contest: Contest, results: Results) -> str:
    """Format the matrix for a README."""
    reference, *others = contest.peers
    rows = [["", reference, *others]]
    for workload in contest.chosen(suite_of(contest.data).workloads):
        times = results.times.get(workload.name, {})
        if reference in times:
            ratio = ratios(times, reference)
            rows.append(
                [workload.name, duration(times[reference].each), *(_times(ratio.get(name)) for name in others)]
            )
    return f"{contest.title}\n\n{simple_table(rows)}\n"


def simple_table(rows: list[list[str]]) -> str:
    """Format rows, the first of which is the heading, as a simple table of reStructuredText."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = "  ".join("=" * max(width, 1) for width in widths)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def duration(seconds: float) -> str:
    """Format seconds with three digits and a unit that suits them."""
    for scale, unit in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


# ---------------------------------------------------------------------- files


def as_json(contest: Contest, results: Results) -> dict[str, Any]:
    """Return everything of one contest, for other programs to compare and draw."""
    reference = next(iter(contest.peers))
    workloads = {
        workload.name: {
            "what": workload.what,
            "peers": {
                name: {"count": peer.count, "seconds": peer.seconds, "each": peer.each, "ratio": ratio.get(name)}
                for name, peer in times.items()
            },
        }
        for workload in suite_of(contest.data).workloads
        if (times := results.times.get(workload.name))
        for ratio in [ratios(times, reference)]
    }
    return {"records": len(contest.data.keys), "workloads": workloads, "bytes_per_record": results.disk}


def save(folder: Path, facts: Mapping[str, Any], played: Played) -> None:
    """Write ``results.json``, ``details.txt`` and ``tables.rst``."""
    contests = {contest.title: as_json(contest, results) for contest, results in played}
    (folder / "results.json").write_text(json.dumps({**facts, "contests": contests}, indent=1) + "\n")
    (folder / "tables.rst").write_text("\n".join([rst(contest, results) for contest, results in played]))
    texts = [details(contest, results) for contest, results in played]
    (folder / "details.txt").write_text("\n".join([heading(facts), *texts]) + "\n")
