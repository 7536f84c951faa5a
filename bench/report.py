"""Results as text and as JSON, with all that is needed to judge them."""

from __future__ import annotations

import importlib
import json
import os
import platform
import statistics
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.peers import Peer
from bench.runner import Contest, Results
from bench.workloads import FILLS, READS

Facts = Mapping[str, Mapping[str, str]]

RESULTS = Path(__file__).parent / "results"


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


def versions(peers: dict[str, type[Peer]]) -> dict[str, str]:
    """Version of every package that takes part."""
    packages = sorted({"numpy", "plyvel", *(cls.package for cls in peers.values())})
    return {package: _version(package) for package in packages}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return f"not installed, imported from {importlib.import_module(package).__path__[0]}"


def ratios(times: dict[str, list[float]], reference: str) -> dict[str, float]:
    """Median over the rounds of each peer's time by the reference's in the same round."""
    base = times.get(reference, [])
    return {
        name: statistics.median(mine / theirs for mine, theirs in zip(seconds, base, strict=True))
        for name, seconds in times.items()
        if base
    }


def heading(facts: Facts) -> str:
    """Format what is known before the run."""
    lines = (", ".join(f"{name} {value}" for name, value in known.items()) for known in facts.values())
    return "\n".join(f"{title}: {line}" for title, line in zip(facts, lines, strict=True))


def text(contest: Contest, results: Results) -> str:
    """Format all tables."""
    parts = (_workload_tables, _disk, _matrix)
    return "\n".join(line for part in parts for line in part(contest, results))


def _workload_tables(contest: Contest, results: Results) -> Iterator[str]:
    reference = next(iter(contest.peers))
    for workload in (*FILLS, *READS):
        if times := results.seconds.get(workload.name):
            count = workload.count(contest.data)
            yield f"\n{workload.name}: {workload.what}" + (f" ({count:,})" if count > 1 else "")
            yield f"  {'':20}{'median':>10}{'min':>10} .. {'max':<10}{'each':>9}{'ratio':>9}"
            yield from _rows(contest, times, count, ratios(times, reference))


def _rows(contest: Contest, times: dict[str, list[float]], count: int, ratio: dict[str, float]) -> Iterator[str]:
    for name in contest.peers:
        if name in times:
            median, least, most = statistics.median(times[name]), min(times[name]), max(times[name])
            spread = f"{duration(median):>10}{duration(least):>10} .. {duration(most):<10}"
            yield f"  {name:20}{spread}{duration(median / count):>9}{_times(ratio.get(name)):>9}"


def _disk(contest: Contest, results: Results) -> Iterator[str]:
    yield f"\ndisk: blocks allocated after fillbatch ({contest.data.values.nbytes / 1e6:,.1f} MB of values)"
    for name in contest.peers:
        if name in results.disk:
            yield f"  {name:20}{results.disk[name] / 1e6:>10,.1f} MB"


def _matrix(contest: Contest, results: Results) -> Iterator[str]:
    reference, *others = contest.peers
    yield f"\ntimes of {reference}: above 1, the peer is slower\n"
    yield f"  {'':14}" + "".join(f"{name:>{_width(name)}}" for name in others)
    for workload in (*FILLS, *READS):
        if times := results.seconds.get(workload.name):
            ratio = ratios(times, reference)
            cells = "".join(f"{_times(ratio.get(name)):>{_width(name)}}" for name in others)
            yield f"  {workload.name:14}{cells}"


def _width(name: str) -> int:
    return max(len(name), 8) + 2


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:,.2f}x"


def duration(seconds: float) -> str:
    """Format seconds with three digits and a unit that suits them."""
    for scale, unit in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def save(facts: Facts, contest: Contest, results: Results) -> Path:
    """Write everything as JSON, for other programs to compare and draw."""
    RESULTS.mkdir(exist_ok=True)
    count, width = contest.data.values.shape
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}-{count}x{width}.json"
    reference = next(iter(contest.peers))
    workloads = {
        name: {"seconds": times, "ratio": ratios(times, reference)} for name, times in results.seconds.items()
    }
    path.write_text(json.dumps({**facts, "workloads": workloads, "disk": results.disk}, indent=1) + "\n")
    return path
