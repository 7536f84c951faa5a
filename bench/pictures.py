"""Results as pictures: bars that compare packages, lines that show growth."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from PIL import Image

from bench.growth import SHOWN, WHOLE, Cost, Growth, operations
from bench.growth import each as median_each
from bench.peers import LIMITS
from bench.published import CLIENT, WORKLOADS, Costs
from bench.report import duration
from bench.runner import Contest, Results
from bench.workloads import suite_of

OURS, OTHERS, LIMIT, INK = "#c8502d", "#7d93ab", "#c9ccd1", "#333333"
LINES = ("#c8502d", "#e8a33d", "#5b8c5a", "#2f6690", "#8d5a97", "#222222", "#3aa6a0", "#b5838d", "#7a7a7a")
COLUMNS = 4
SHADES = 200
UNTIMED = ("close",)
STYLE: Any = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": "#666666",
    "ytick.color": INK,
}


def bars(contest: Contest, results: Results, path: Path, caption: str) -> None:
    """Draw a panel for each workload: a bar for each peer, on a logarithmic axis."""
    workloads = [
        workload
        for workload in suite_of(contest.data).workloads
        if workload.name in results.times and workload.name not in UNTIMED
    ]
    names = list(contest.peers)
    rows = -(-(len(workloads) + 1) // COLUMNS)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            rows, COLUMNS, figsize=(12.5, 0.7 + rows * (0.85 + 0.165 * len(names))), sharey=True, squeeze=False
        )
        panels = iter(grid.flat)
        for workload, axes in zip(workloads, panels, strict=False):
            each = {name: times.each for name, times in results.times[workload.name].items()}
            _panel(axes, workload.name, workload.what, each, names, duration)
        _panel(next(panels), "disk", "bytes on disk for each record", results.disk, names, _size)
        for axes in panels:
            axes.set_visible(False)
        grid.flat[0].invert_yaxis()
        _frame(figure, f"{contest.title}: time per record; shorter is better, every scale is logarithmic", caption)
        _save(figure, path)


def _frame(figure: Any, title: str, caption: str) -> None:
    figure.suptitle(title, x=0.01, y=0.995, ha="left", fontsize=12)
    figure.text(0.01, 0.004, caption, fontsize=7.5, color="#777777")
    figure.tight_layout(rect=(0, 0.015, 1, 0.985), h_pad=1.6, w_pad=1.2)


def _panel(
    axes: Any, title: str, what: str, values: Mapping[str, float], names: list[str], text: Callable[[float], str]
) -> None:
    present = {name: value for name, value in values.items() if value > 0}
    least, most = min(present.values()), max(present.values())
    left, right = least / 2, max(most, least * 4)
    axes.set(xscale="log", xlim=(left, right * (right / left) ** 0.34))
    _head(axes, title, what)
    axes.set_yticks(range(len(names)), names)
    for row, name in enumerate(names):
        if name in present:
            colour = OURS if row == 0 else LIMIT if name in (*LIMITS, CLIENT) else OTHERS
            axes.barh(row, present[name] - left, left=left, height=0.74, color=colour)
            axes.text(present[name] * (right / left) ** 0.015, row, text(present[name]), va="center", fontsize=7.5)
        else:
            axes.text(left * (right / left) ** 0.015, row, "n/a", va="center", fontsize=7.5, color="#aaaaaa")
    axes.xaxis.set_major_locator(LogLocator(numticks=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelsize=7, length=2)
    axes.tick_params(axis="y", length=0)


def _head(axes: Any, title: str, what: str) -> None:
    lines = textwrap.wrap(what, 46)
    axes.set_title(title, pad=6 + 9 * len(lines))
    axes.text(0, 1.02, "\n".join(lines), transform=axes.transAxes, fontsize=7.5, color="#777777", va="bottom")


# ---------------------------------------------------------------------- published


def requests(costs: Costs, path: Path, caption: str) -> None:
    """Draw two panels for each workload: its time, and the bytes that came, a bar for each package."""
    names = list(costs)
    workloads = [workload for workload in WORKLOADS if workload != "open"]
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(2, len(workloads), figsize=(12.5, 4.4), sharey=True, squeeze=False)
        for (upper, lower), workload in zip(grid.T, workloads, strict=True):
            done = {name: of[workload] for name, of in costs.items() if workload in of}
            times = {name: statistics.median(cost.seconds) for name, cost in done.items()}
            sizes = {name: statistics.median(cost.bytes) for name, cost in done.items()}
            _panel(upper, f"{workload}: time", WORKLOADS[workload], times, names, duration)
            _panel(lower, f"{workload}: bytes", "that the server sent", sizes, names, _size)
        grid.flat[0].invert_yaxis()
        _frame(figure, "from object storage; shorter is better, every scale is logarithmic", caption)
        _save(figure, path)


# ---------------------------------------------------------------------- growth


def lines(growth: Growth, path: Path, caption: str) -> None:
    """Draw a panel for each step, its cost against the number of keys, and one for memory."""
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(2, 5, figsize=(19, 6.6))
        panels = iter(grid.flat)
        for step, axes in zip(SHOWN, panels, strict=False):
            _cost_line(axes, step, growth[step])
        _memory_lines(next(panels), growth)
        _frame(figure, "structchunk: cost against the number of keys, 1 float64 each; flat is good", caption)
        _save(figure, path)


def _cost_line(axes: Any, step: str, costs: Mapping[int, Cost]) -> None:
    sizes = list(costs)
    each = [median_each(step, size, costs[size]) for size in sizes]
    by_round = [[second / operations(step, size) for second in costs[size].seconds] for size in sizes]
    axes.fill_between(sizes, [min(one) for one in by_round], [max(one) for one in by_round], color=OURS, alpha=0.18)
    axes.plot(sizes, each, color=OURS, marker="o", markersize=4)
    for at in (0, -1):
        place = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center"}
        axes.annotate(duration(each[at]), (sizes[at], each[at]), fontsize=8, **place)
    low, high = min(map(min, by_round)), max(map(max, by_round))
    middle, half = (low * high) ** 0.5, max(5, 2 * high / low) ** 0.5
    axes.set(xscale="log", yscale="log", ylim=(middle / half, middle * half * 1.5), xlabel="keys")
    _head(axes, step, "time of one, in all" if step in WHOLE else "time per key")
    _log_grid(axes, duration)


def _memory_lines(axes: Any, growth: Growth) -> None:
    for step, colour in zip(SHOWN, LINES, strict=False):
        peaks = [max(cost.private) / 1e6 for cost in growth[step].values()]
        axes.plot(list(growth[step]), peaks, label=step, color=colour, marker="o", markersize=3)
    axes.set(xscale="log", yscale="log", xlabel="keys")
    axes.legend(fontsize=7, ncols=2, frameon=False)
    _head(axes, "memory", "peak of the process, without the mapped files")
    _log_grid(axes, lambda count: f"{count:g} MB")


def _log_grid(axes: Any, text: Callable[[float], str]) -> None:
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(which="major", color="#e5e5e5", linewidth=0.7)
    axes.tick_params(labelsize=7.5)
    axes.margins(x=0.1)


def _size(count: float) -> str:
    for scale, unit in ((1e6, "MB"), (1e3, "kB")):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.3g} B"


def _save(figure: Any, path: Path) -> None:
    drawn = BytesIO()
    figure.savefig(drawn, dpi=100, facecolor="white")
    plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(SHADES).save(path, optimize=True)  # a third of the bytes
