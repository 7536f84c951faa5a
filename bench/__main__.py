"""Run the benchmarks: ``python -m bench``, or ``python -m bench --quick`` for a first impression.

Compares structchunk with what else could be used, over small, medium and large arrays and over structs; or
shows with ``--growth`` how costs grow with the number of keys, or with ``--published`` what reading from object
storage takes. Writes tables, JSON and pictures.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from bench import growth, published, report
from bench.data import Arrays, Structs, make_arrays, make_structs
from bench.peers import ARRAY_PEERS, NAMES, STRUCT_PEERS, available
from bench.runner import Contest, Results
from bench.workloads import ARRAYS, STRUCTS, suite_of

WORKLOADS = list(dict.fromkeys(workload.name for workload in (*ARRAYS.workloads, *STRUCTS.workloads)))
WIDTHS = {"small": 16, "medium": 1_000, "large": 100_000}
LEAST_KEYS = 20


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--keys", type=int, help="records of 16 items (1,000,000); of wider ones, half as many bytes"
    )
    parser.add_argument(
        "--width", type=_numbers, help="float64 items of an array, comma-separated (16,1000,100000)"
    )
    parser.add_argument("--rounds", type=int, help="times that all is done (3)")
    parser.add_argument("--quick", action="store_true", help="40,000 records, 1 round; with --growth to 1,000,000")
    parser.add_argument("--seed", type=int, default=1, help="of keys and values (1)")
    parser.add_argument("--relaxed", action="store_true", help="commits need not be durable (fillsync's are)")
    parser.add_argument("--peers", type=_Names(NAMES), default=NAMES, help="comma-separated")
    parser.add_argument("--workloads", type=_Names(WORKLOADS), default=WORKLOADS, help="comma-separated")
    parser.add_argument("--folder", type=Path, help="where databases are made (the system's temporary one)")
    parser.add_argument(
        "--output", type=Path, default=Path("bench-results"), help="where results go (bench-results)"
    )
    parser.add_argument(
        "--growth",
        type=int,
        nargs="?",
        const=growth.MOST,
        metavar="MOST",
        help="from 10,000 to 10,000,000 keys, or as many as 100,000,000, structchunk alone",
    )
    parser.add_argument("--published", action="store_true", help="from a server of object storage on this machine")
    options = parser.parse_args()
    options.keys = options.keys or (40_000 if options.quick else 1_000_000)
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


class _Names:
    """A comma-separated choice from a list of names."""

    def __init__(self, known: list[str]) -> None:
        self.known = known

    def __call__(self, text: str) -> list[str]:
        names = text.split(",")
        if unknown := set(names) - set(self.known):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)} not among {', '.join(self.known)}")
        return names


def say(text: str) -> None:
    """Report progress, out of the way of the tables."""
    print(text, file=sys.stderr, flush=True)


def data_sets(options: argparse.Namespace) -> Iterator[tuple[str, Arrays | Structs]]:
    """Make the data of one contest after the other."""
    names = {width: name for name, width in WIDTHS.items()}
    for width in options.width or WIDTHS.values():
        share = 1 if width <= WIDTHS["small"] else 2
        count = max(LEAST_KEYS, options.keys * WIDTHS["small"] // width // share)
        title = f"{names.get(width, 'other')} arrays, {count:,} x {width:,} float64"
        yield title, make_arrays(count, width, options.seed)
    yield f"structs, {options.keys:,} x 32 bytes", make_structs(options.keys, options.seed)


def compare(options: argparse.Namespace) -> None:
    """Run all contests, print the matrices and write the rest."""
    known = {Arrays: available(ARRAY_PEERS, options.peers), Structs: available(STRUCT_PEERS, options.peers)}
    skipped = {**known[Arrays][1], **known[Structs][1]}
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}")
    classes = [cls for peers, _ in known.values() for cls in peers.values()]
    facts = {
        "machine": report.machine(),
        "versions": report.versions(cls.package for cls in classes),
        "run": {
            "rounds": str(options.rounds),
            "seed": str(options.seed),
            "commits": "relaxed" if options.relaxed else "durable",
        },
    }
    print(report.heading(facts))
    played: list[tuple[Contest, Results]] = []
    wanted = frozenset(options.workloads)
    for title, data in data_sets(options):
        peers = known[type(data)][0]
        if peers and not wanted.isdisjoint(workload.name for workload in suite_of(data).workloads):
            with tempfile.TemporaryDirectory(prefix="structchunk-bench-", dir=options.folder) as folder:
                contest = Contest(title, peers, data, wanted, Path(folder), not options.relaxed)
                played.append((contest, contest.play(options.rounds, say)))
            print(report.matrix(*played[-1]), flush=True)
    write(options.output, {**facts, "skipped": skipped}, played)


def grow(options: argparse.Namespace) -> None:
    """Run the growth benchmark, print its table and write the rest."""
    facts = {
        "machine": report.machine(),
        "versions": report.versions(["structchunk"]),
        "run": {"rounds": str(options.rounds), "commits": "durable"},
    }
    print(report.heading(facts))
    sizes = growth.QUICK_SIZES if options.quick else growth.SIZES
    sizes = tuple(size for size in sizes if size <= options.growth)
    costs = growth.measure(sizes, options.rounds, options.folder, say)
    print(growth.table(costs))
    options.output.mkdir(parents=True, exist_ok=True)
    growth.save(options.output, facts, costs)
    if pictures := drawing():
        pictures.lines(costs, options.output / "growth.png", caption(facts))


def read_published(options: argparse.Namespace) -> None:
    """Run the benchmark of what is published, print its table and write the rest."""
    data = make_arrays(options.keys, WIDTHS["small"], options.seed)
    names = list(published.PEERS)
    try:
        costs, skipped = published.measure(data, names, options.rounds, options.folder, say)
    except ImportError as error:
        sys.exit(f"{error}: pip install '.[bench]'")
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}")
    packages = [peer.package for name, peer in published.PEERS.items() if name in costs]
    facts = {
        "machine": report.machine(),
        "versions": report.versions(["s3fs", *packages]),
        "run": {"rounds": str(options.rounds), "records": f"{options.keys:,} x 16 float64"},
    }
    print(report.heading(facts))
    print(published.table(costs))
    options.output.mkdir(parents=True, exist_ok=True)
    published.save(options.output, facts, costs)
    if pictures := drawing():
        pictures.requests(costs, options.output / "published.png", caption(facts))


def drawing() -> ModuleType | None:
    """Return the module that draws, or say why there will be no pictures."""
    try:
        return importlib.import_module("bench.pictures")
    except ImportError as error:
        print(f"\nno pictures: {error}; pip install '.[bench]'")
        return None


def write(folder: Path, facts: dict[str, dict[str, str]], played: list[tuple[Contest, Results]]) -> None:
    """Write the files and say where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    report.save(folder, facts, played)
    if pictures := drawing():
        for contest, results in played:
            pictures.bars(contest, results, folder / f"{contest.title.split()[0].strip(',')}.png", caption(facts))
    print(f"\nall answers checked; details, JSON and pictures in {folder}/")


def caption(facts: dict[str, dict[str, str]]) -> str:
    """Say in one line where the figures come from."""
    machine, run = facts["machine"], facts["run"]
    what = f"{run['records']}, server on the same machine" if "records" in run else f"{run['commits']} commits"
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['python']}; "
        f"median of rounds: {run['rounds']}; {what}"
    )


def main() -> None:
    """Do what the command line says."""
    options = arguments()
    if options.growth:
        grow(options)
    elif options.published:
        read_published(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
