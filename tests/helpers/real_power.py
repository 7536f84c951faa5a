"""Work on a real file system whose disk is recorded, and check what power cuts leave of it.

    unshare -m --propagation private python tests/helpers/real_power.py KIND SEED STEPS IMAGES [flush]

KIND is ext4 or xfs. With ``flush`` the database's own flushes do nothing, which must be noticed. Prints counts.
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

from oracle import CHUNK_SIZE, Mark, Oracle, Planner, do, shrink, survive
from recorded_disk import FLUSH, Cuts, Disk

import structchunk as sc
from structchunk.disk import files

WRITE_AND_WAIT = 7
"""SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE and _WAIT_AFTER: data reaches the disk, and no metadata."""


def work(disk: Disk, rng: random.Random, steps: int) -> list[tuple[int, Mark]]:
    """Work on a new database; return what may be found after a power cut, from each place of the disk's log on."""
    root = os.path.join(disk.path, "test.sc")
    oracle = Oracle()
    planner = Planner(rng.random(), oracle)
    marks = [(0, oracle.mark())]
    db = sc.open(root, "x", chunk_size=CHUNK_SIZE)
    try:
        for _ in range(steps):
            step = planner.next()
            oracle.begin(step)
            marks.append((disk.position(), oracle.mark()))
            db = do(db, step)
            oracle.acknowledge(step)
            marks.append((disk.position(), oracle.mark()))
            if rng.random() < 0.4:
                write_back(root, rng)
    finally:
        db.close()
    return marks


def write_back(root: str, rng: random.Random) -> None:
    """Have the system write some file, as it may at any time."""
    path = rng.choice([path for path in sorted(Path(root).rglob("*")) if path.is_file()])
    with open(path, "rb") as file:
        ctypes.CDLL(None).sync_file_range(file.fileno(), ctypes.c_int64(0), ctypes.c_int64(0), WRITE_AND_WAIT)


def check(disk: Disk, marks: list[tuple[int, Mark]], rng: random.Random, images: int) -> Counter[str]:
    """Cut the power at places of the disk's log, and let the database survive what is left."""
    counts: Counter[str] = Counter()
    records = list(disk.records())
    counts["records"] = len(records)
    counts["flushes"] = sum(record.offset == FLUSH for _, record in records)
    before_flushes = [place for (place, _), (_, record) in pairwise(records) if record.offset == FLUSH]
    places = [
        *rng.choices(before_flushes, k=images // 2),
        *rng.choices([place for place, _ in records], k=images - images // 2),
    ]
    cuts = Cuts(disk)
    for place in sorted(places):
        mark = [mark for position, mark in marks if position <= place][-1]
        counts["cached writes"] += cuts.advance(place)
        counts["images"] += 1
        with cuts.image(rng) as where:
            oracle = Oracle.fork(mark)
            counts["rebuilt"] += survive(os.path.join(where, "test.sc"), oracle, oracle.powered, place)
    return counts


def main(kind: str, seed: str, steps: str, images: str, without: str = "") -> None:
    shrink()
    rng = random.Random(f"{kind} {seed}")
    base = tempfile.mkdtemp(dir="/dev/shm")
    try:
        disk = Disk(base, kind)
        flush = files.flush
        if without:
            files.flush = lambda path: None
        with disk:
            marks = work(disk, rng, int(steps))
        files.flush = flush
        print(kind, dict(check(disk, marks, rng, int(images))))
    finally:
        shutil.rmtree(base)


if __name__ == "__main__":
    main(*sys.argv[1:])
