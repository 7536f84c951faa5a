"""Run the benchmarks: ``python -m bench``, or ``python -m bench --quick`` for a first impression."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from bench import report
from bench.data import make
from bench.peers import PEERS, Peer, find
from bench.runner import Contest
from bench.workloads import FILLS, READS

NAMES = [workload.name for workload in (*FILLS, *READS)]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--keys", type=int, help="number of records (1,000,000)")
    parser.add_argument("--width", type=int, default=16, help="float64 items of each (16)")
    parser.add_argument("--rounds", type=int, help="times that all is done (5)")
    parser.add_argument("--quick", action="store_true", help="100,000 records, 3 rounds")
    parser.add_argument("--seed", type=int, default=1, help="of keys and values (1)")
    parser.add_argument("--relaxed", action="store_true", help="commits need not be durable (fillsync's are)")
    parser.add_argument("--peers", type=_names(list(PEERS)), default=list(PEERS), help="comma-separated")
    parser.add_argument("--workloads", type=_names(NAMES), default=NAMES, help="comma-separated")
    parser.add_argument("--folder", type=Path, help="where databases are made (the system's temporary one)")
    options = parser.parse_args()
    options.keys = options.keys or (100_000 if options.quick else 1_000_000)
    options.rounds = options.rounds or (3 if options.quick else 5)
    return options


class _names:  # noqa: N801  # argparse prints the name of the type in its errors
    """A comma-separated choice from a list of names."""

    def __init__(self, known: list[str]) -> None:
        self.known = known

    def __call__(self, text: str) -> list[str]:
        names = text.split(",")
        if unknown := set(names) - set(self.known):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)} not among {', '.join(self.known)}")
        return names


def available(names: list[str]) -> tuple[dict[str, type[Peer]], dict[str, str]]:
    """Return the peers that can be imported, and why the others cannot."""
    peers: dict[str, type[Peer]] = {}
    skipped: dict[str, str] = {}
    for name in names:
        try:
            peers[name] = find(name)
        except ImportError as error:
            skipped[name] = str(error)
    return peers, skipped


def say(text: str) -> None:
    """Report progress, out of the way of the tables."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Run all and print the report."""
    options = arguments()
    peers, skipped = available(options.peers)
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}")
    if not peers:
        sys.exit("nothing to compare")
    facts = {
        "machine": report.machine(),
        "versions": report.versions(peers),
        "run": {
            "keys": f"{options.keys:,}",
            "width": f"{options.width:,} float64",
            "rounds": str(options.rounds),
            "seed": str(options.seed),
            "commits": "relaxed" if options.relaxed else "durable",
        },
    }
    print(report.heading(facts))
    with tempfile.TemporaryDirectory(prefix="structchunk-bench-", dir=options.folder) as folder:
        data = make(options.keys, options.width, options.seed)
        contest = Contest(peers, data, frozenset(options.workloads), Path(folder), not options.relaxed)
        results = contest.play(options.rounds, say)
    print(report.text(contest, results))
    print(f"\nall answers checked; numbers in {report.save({**facts, 'skipped': skipped}, contest, results)}")


if __name__ == "__main__":
    main()
