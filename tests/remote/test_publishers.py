"""Publishers that are killed at any request, that come at the same time, and stores that fail them."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import structchunk as sc

pytest.importorskip("fsspec")

from conftest import OpenDB
from faulty_store import FaultyStore, Killed
from published import check_published, newest, records_of, shown_by

from structchunk.remote import objects as objects_module
from structchunk.remote.manifest import NEWEST, OBJECTS
from structchunk.remote.publications import find_newest


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore.new()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects_module, "FIRST_DELAY", 0.0)


def fill(db: sc.Database, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with db.transaction() as txn:
        txn.array_store("temps", "f8").put_many(rng.integers(0, 1000, 100), rng.random((100, 2)))


def publish_and_compact(db: sc.Database, store: FaultyStore) -> None:
    """Publish twice, so that the next publication has all kinds of changes."""
    for seed in range(2):
        fill(db, seed)
        db.publish(store.url)
    db.compact()
    fill(db, 3)


# ---------------------------------------------------------------------- killed


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("kill_after", [False, True])
def test_killed_at_every_request(db: sc.Database, is_first: bool, kill_after: bool) -> None:
    """What readers see is whole, of before or of now; publishing goes on from it, and pruning removes the rest."""
    prepared = FaultyStore.new()
    if is_first:
        fill(db, 0)
    else:
        publish_and_compact(db, prepared)
    before = None if is_first else newest(prepared.url)
    old = records_of(*before) if before else {}
    rehearsal = prepared.copy()
    db.publish(rehearsal.url)
    new = shown_by(db)
    for kill_at in range(len(rehearsal.log)):
        store = prepared.copy()
        store.kill_at, store.kill_after = kill_at, kill_after
        with pytest.raises(Killed):
            db.publish(store.url)
        store.kill_at = None
        check_whole(store, old if before else None, new)
        db.publish(store.url)
        check_published(store.url, db)
        fill_and_prune(db, store)


def check_whole(store: FaultyStore, old: Any, new: Any) -> None:
    objects = objects_module.open_objects(store.url)
    manifest = find_newest(objects)
    assert (None if manifest is None else records_of(objects, manifest)) in (old, new)


def fill_and_prune(db: sc.Database, store: FaultyStore) -> None:
    """After pruning nothing is left but what the newest publication names."""
    sc.prune(store.url)
    objects, manifest = newest(store.url)
    names = {each.name for each in manifest.objects.values()}
    assert set(objects.names(OBJECTS)) == names
    check_published(store.url, db)
    assert len(store.objects) == len(names) + 2


@pytest.mark.parametrize("kill_after", [False, True])
def test_pruning_killed_at_every_request(db: sc.Database, kill_after: bool) -> None:
    prepared = FaultyStore.new()
    publish_and_compact(db, prepared)
    db.publish(prepared.url)
    rehearsal = prepared.copy()
    sc.prune(rehearsal.url)
    for kill_at in range(len(rehearsal.log)):
        store = prepared.copy()
        store.kill_at, store.kill_after = kill_at, kill_after
        with pytest.raises(Killed):
            sc.prune(store.url)
        store.kill_at = None
        check_published(store.url, db)
        for commit in sc.published(store.url):
            assert commit
        fill_and_prune(db, store)


def test_interrupted_uploads_are_removed(db: sc.Database, store: FaultyStore) -> None:
    fill(db, 0)

    def interrupt(what: str, name: str) -> None:
        if what == "create":
            store.before = None
            raise KeyboardInterrupt

    store.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        db.publish(store.url)
    assert store.objects == {}
    db.publish(store.url)
    check_published(store.url, db)


# ---------------------------------------------------------------------- failing stores


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("fault", ["fail_every", "lose_answer_every", "cut_every"])
@pytest.mark.parametrize("every", [2, 3])
def test_what_passes_is_tried_again(db: sc.Database, store: FaultyStore, fault: str, every: int) -> None:
    setattr(store, fault, every)
    for seed in range(4):
        fill(db, seed)
        db.publish(store.url)
        if fault == "cut_every":  # whoever does not know how much there is cannot tell
            store.cut_every = 0
        check_published(store.url, db)
        assert newest(store.url)[1].number == seed + 1
    sc.prune(store.url)
    check_published(store.url, db)


@pytest.mark.usefixtures("no_pauses")
def test_a_store_that_fails_for_good(db: sc.Database, store: FaultyStore) -> None:
    fill(db, 0)
    db.publish(store.url)
    fill(db, 1)
    store.fail_every = 1
    with pytest.raises(OSError, match=r"cannot read faulty://store-\d+/data/newest: OSError"):
        db.publish(store.url)
    store.fail_every = 0
    db.publish(store.url)
    check_published(store.url, db)


def test_what_is_damaged_is_refused(db: sc.Database, store: FaultyStore) -> None:
    fill(db, 0)
    db.publish(store.url)
    good = dict(store.objects)
    for name, data in good.items():
        if OBJECTS in name:
            continue
        for damaged in (data[:-1], b"", bytes(len(data)), data[:-8] + b"\xff" * 8):
            store.objects = {**good, name: damaged}
            fill(db, 1)
            with pytest.raises(sc.CorruptionError, match=r"faulty://.*(newest|manifests)"):
                db.publish(store.url)


def test_lists_that_are_late(db: sc.Database, store: FaultyStore) -> None:
    """Publishing never needs a list, and pruning removes less."""
    store.late = 3
    for seed in range(5):
        fill(db, seed)
        db.publish(store.url)
        check_published(store.url, db)
        sc.prune(store.url)
        check_published(store.url, db)


def test_a_lost_hint(db: sc.Database, store: FaultyStore) -> None:
    """Without the object that says which one is the newest, or with an old one, the newest one is found."""
    for seed in range(4):
        fill(db, seed)
        db.publish(store.url)
        hint = f"{store.name}/data/{NEWEST}"
        if seed == 1:
            old = store.objects[hint]
        if seed == 2:
            del store.objects[hint]
            check_published(store.url, db)
    store.objects[hint] = old
    check_published(store.url, db)
    fill(db, 5)
    db.publish(store.url)
    check_published(store.url, db)
    store.objects[hint] = b'{"number": 1000}'
    check_published(store.url, db)
    fill(db, 6)
    db.publish(store.url)
    check_published(store.url, db)


# ---------------------------------------------------------------------- at the same time


def at_manifest(store: FaultyStore, then: Callable[[], object]) -> None:
    """Let something happen just before the next manifest is written."""

    def before(what: str, name: str) -> None:
        if what == "create" and "manifests" in name:
            store.before = None
            then()

    store.before = before


def test_of_two_one_starts_again(open_db: OpenDB, store: FaultyStore) -> None:
    db = open_db(sync=False)
    fill(db, 0)
    db.publish(store.url)
    reader = open_db("r")
    fill(db, 1)
    reader.refresh()
    fill(db, 2)
    at_manifest(store, lambda: reader.publish(store.url))
    db.publish(store.url)
    manifest = check_published(store.url, db)
    assert manifest.number == 3
    assert sc.published(store.url) == [1, 2, 3]
    fill_and_prune(db, store)


def test_the_older_of_two_is_told(open_db: OpenDB, store: FaultyStore) -> None:
    db = open_db(sync=False)
    fill(db, 0)
    reader = open_db("r")
    fill(db, 1)
    at_manifest(store, lambda: db.publish(store.url))
    with pytest.raises(sc.NotACopy, match=r"refresh\(\)"):
        reader.publish(store.url)
    check_published(store.url, db)
    fill_and_prune(db, store)


def test_the_number_was_taken_and_pruned_meanwhile(open_db: OpenDB, store: FaultyStore) -> None:
    """Then it can be taken, and must not be: what the publication names may have gone."""
    db = open_db(sync=False)
    fill(db, 0)
    db.publish(store.url)
    db.compact()
    reader = open_db("r")
    fill(db, 1)

    def others() -> None:
        for seed in range(3):
            reader.refresh()
            reader.publish(store.url)
            fill(db, 2 + seed)
        sc.prune(store.url)

    at_manifest(store, others)
    db.publish(store.url)
    objects, manifest = newest(store.url)
    assert manifest.number == 5
    for number in (4, 5):
        records_of(objects, read_one(objects, number))
    assert len(sc.published(store.url)) == 2
    db.publish(store.url)
    check_published(store.url, db)
    fill_and_prune(db, store)


def read_one(objects: Any, number: int) -> Any:
    from structchunk.remote.publications import read_manifest

    return read_manifest(objects, number)


def test_threads_publish(open_db: OpenDB, store: FaultyStore) -> None:
    """Whoever returns has published its commit or a later one."""
    db = open_db(sync=False)
    store.delay = 0.0005
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for number in range(5):
                fill(db, 10 * seed + number)
                commit = db.last_commit
                done = publish_or_see_newer(db, store)
                assert done >= commit
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    db.publish(store.url)
    check_published(store.url, db)
    numbers = sorted(int(name.rpartition("/")[2][:10]) for name in store.objects if "manifests" in name)
    assert numbers == list(range(1, numbers[-1] + 1))
    fill_and_prune(db, store)


def publish_or_see_newer(db: sc.Database, store: FaultyStore) -> int:
    while True:
        try:
            return db.publish(store.url).commit
        except sc.NotACopy as error:  # another thread has fixed a later commit, and was quicker
            assert "refresh()" in str(error)


# ---------------------------------------------------------------------- conditions that are passed over


def test_a_store_that_ignores_conditions_is_told_of(db: sc.Database, store: FaultyStore) -> None:
    store.ignores_conditions = True
    for seed in range(3):
        fill(db, seed)
        with pytest.warns(UserWarning, match=r"faulty://.*let only one publish at a time") as caught:
            db.publish(store.url)
        assert caught[0].filename == __file__
        assert not check_published(store.url, db).exclusive
    fill_and_prune(db, store)


def test_of_two_one_starts_again_if_it_can_see_the_other(open_db: OpenDB, store: FaultyStore) -> None:
    store.ignores_conditions = True
    db = open_db(sync=False)
    reader = open_db("r")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fill(db, 0)
        db.publish(store.url)
        fill(db, 1)
        reader.refresh()
        fill(db, 2)
        at_manifest(store, lambda: reader.publish(store.url))
        db.publish(store.url)
    check_published(store.url, db)
