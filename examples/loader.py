"""Train from a store: a dataset that the workers of PyTorch's ``DataLoader``, or of any pool, read themselves.

Run ``python examples/loader.py``. It stores labelled signals, and fits weights to the batches that two worker
processes read in random order. With torch installed they are those of a ``DataLoader``, else of a plain pool of
``multiprocessing``.
"""

from __future__ import annotations

import ctypes
import importlib.util
import multiprocessing
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from checking import check
from printing import timed

import structchunk as sc

SIGNALS, LENGTH, BATCH, WORKERS = 20_000, 64, 500, 2
WEIGHTS = np.sin(np.arange(LENGTH) / 5.0)

Samples = tuple[np.ndarray, np.ndarray]


class Label(sc.Object):
    """What a signal means."""

    _fields_ = [("target", ctypes.c_double)]


class Signals:
    """Map-style dataset: sample ``i`` is the signal and the target of the i-th key.

    It holds stores of a database that is open for reading. They pickle as its path and its commit: a worker opens
    the database itself, and nothing but indices and the batches asked for goes between processes.
    """

    def __init__(self, db: sc.Database) -> None:
        self.signals: sc.ArrayStore = db["signals"]
        self.labels: sc.ObjectStore[Label] = db["labels"]
        self.keys = np.asarray(self.signals.keys())

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> tuple[np.ndarray, float]:
        key = self.keys[index]
        return self.signals[key], self.labels[key].target

    def __getitems__(self, indices: Sequence[int]) -> Samples:
        """Return a batch, as a DataLoader asks for it: (n, length) and (n,), in one look-up for each store."""
        keys = self.keys[np.asarray(indices)]
        signals = self.signals.get_many(keys).values.reshape(len(keys), LENGTH)
        return signals, self.labels.get_many(keys).values["target"].copy()


def store_signals(path: Path) -> Samples:
    rng = np.random.default_rng(1)
    keys = np.sort(rng.choice(2**40, SIGNALS, replace=False))
    signals = rng.standard_normal((SIGNALS, LENGTH)).astype(np.float32)
    targets = signals @ WEIGHTS + rng.normal(0, 0.1, SIGNALS)
    with sc.open(path, mode="x") as db, db.transaction() as txn:
        txn.array_store("signals", np.float32).put_many(keys, signals)
        txn.object_store("labels", Label).put_many(keys, targets.astype([("target", "f8")]))
    return signals, targets


# ---------------------------------------------------------------- batches from workers


def torch_batches(dataset: Signals) -> Iterator[Samples]:
    from torch.utils.data import DataLoader  # noqa: PLC0415

    # Workers by spawn: what a forked one inherits is its parent's database, which refuses to work there.
    loader = DataLoader(
        dataset,
        batch_size=BATCH,
        shuffle=True,
        num_workers=WORKERS,
        collate_fn=as_they_are,
        multiprocessing_context="spawn",
    )
    yield from loader


def as_they_are(samples: Samples) -> Samples:
    """Collate nothing: the dataset returns whole batches."""
    return samples


def pool_batches(dataset: Signals) -> Iterator[Samples]:
    order = np.random.default_rng(2).permutation(len(dataset))
    context = multiprocessing.get_context("spawn")
    with context.Pool(WORKERS, initializer=adopt, initargs=(dataset,)) as pool:
        yield from pool.imap(read, np.split(order, len(order) // BATCH))


def adopt(dataset: Signals) -> None:
    """Keep the dataset that this worker reads from."""
    read.dataset = dataset  # type: ignore[attr-defined]


def read(indices: np.ndarray) -> Samples:
    dataset: Signals = read.dataset  # type: ignore[attr-defined]
    return dataset.__getitems__(indices)  # type: ignore[arg-type]


# ---------------------------------------------------------------- what they are for


def fit(batches: Iterable[Samples]) -> np.ndarray:
    """Return the least-squares weights, from sums over batches."""
    square, product = np.zeros((LENGTH, LENGTH)), np.zeros(LENGTH)
    for signals, targets in batches:
        square += signals.astype(np.float64).T @ signals
        product += signals.T @ targets
    return np.linalg.solve(square, product)


def main() -> None:
    has_torch = importlib.util.find_spec("torch") is not None
    who, batches = ("DataLoader", torch_batches) if has_torch else ("pool (torch is not installed)", pool_batches)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "signals.sc"
        with timed(f"stored {SIGNALS:,} signals of {LENGTH} samples", SIGNALS, SIGNALS * LENGTH * 4):
            signals, targets = store_signals(path)
        with sc.open(path, mode="r") as db:
            dataset = Signals(db)
            with timed(
                f"fitted to batches of {BATCH} from {WORKERS} workers of a {who}", SIGNALS, SIGNALS * LENGTH * 4
            ):
                weights = fit(batches(dataset))
            one, target = dataset[12_345]
    expected = np.linalg.lstsq(signals.astype(np.float64), targets, rcond=None)[0]
    print(f"largest error of a weight: {abs(weights - WEIGHTS).max():.4f}")
    check("the weights are those of all signals at once", weights, expected, tolerance=1e-6)
    check("a single sample, read after the database was closed", one, signals[12_345])
    check("its target", target, targets[12_345])


if __name__ == "__main__":
    main()
